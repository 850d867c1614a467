# A store with everything in it, for tests of what carries stores from place to place: making one, comparing two, and
# showing that a copy goes on where the original was.
package Everything;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(make_everything contents goes_on last_line);

# The last line of what a script answers.
sub last_line
{
	my ($node, $db, $sql) = @_;
	my @lines = split /\n/, $node->safe_psql($db, $sql);
	return $lines[-1] // '';
}

# Events over several partitions, streams, names, both kinds of keys, definitions of every kind, snapshots, projections
# (behind, with a parked stream, inline), subscriptions in flight and quarantined, rights. Roles are those of the server.
sub make_everything
{
	my ($node, $db) = @_;

	$node->safe_psql('postgres', q[
		DO $$ BEGIN
			CREATE ROLE es_app LOGIN;
			CREATE ROLE es_reader LOGIN;
		EXCEPTION WHEN duplicate_object THEN NULL; END $$]);
	$node->safe_psql($db, q[
		SET event_store.partition_size = 1000;
		CREATE EXTENSION event_store;
		SELECT es_create_store(trace => true);
		SELECT es_grant('es_app', 'append'), es_grant('es_app', 'import'), es_grant('es_reader', 'read'), es_grant('es_reader', 'consume');

		SELECT es_register_event_type('Paid', check_expr => $$(data->>'amount')::numeric > 0$$);
		SELECT es_register_aggregate('account', initial_state => '{"balance": 0}', snapshot_every => 10,
			fold => $$state || jsonb_build_object('balance', (state->>'balance')::numeric + (data->>'amount')::numeric)$$);
		SELECT es_register_aggregate('thing', rules => '{"Seen": {"add": {"sum": "n"}}}');
		SELECT es_register_upcaster('Credited', 1, $$data || '{"currency": "EUR"}'$$);

		CREATE TABLE balances (account text PRIMARY KEY, balance numeric NOT NULL, events bigint NOT NULL);
		CREATE TABLE payments (n bigint NOT NULL);
		INSERT INTO payments VALUES (0);
		CREATE TABLE seen (stream text, version bigint, PRIMARY KEY (stream, version));
		SELECT es_create_projection('balances', $$
			INSERT INTO balances SELECT stream, sum((data->>'amount')::numeric), count(*) FROM new_events GROUP BY stream
			ON CONFLICT (account) DO UPDATE SET balance = balances.balance + excluded.balance,
				events = balances.events + excluded.events$$, ARRAY['account'], batch_size => 100);
		SELECT es_create_projection('payments', $$UPDATE payments SET n = n + (SELECT count(*) FROM new_events)$$,
			ARRAY['account'], ARRAY['Paid'], mode => 'inline');
		SELECT es_create_projection('seen', $$
			INSERT INTO seen SELECT stream, version FROM new_events WHERE 1 / (data->>'n')::int > -2$$, ARRAY['thing']);

		SELECT count(*) FROM generate_series(1, 2500) i, LATERAL es_append('account-' || i % 25, -2,
			CASE i % 3 WHEN 0 THEN 'Paid' ELSE 'Credited' END, jsonb_build_object('amount', i), jsonb_build_object('n', i), schema_version => 1);
		SELECT count(*) FROM generate_series(1, 10) i, LATERAL es_append('thing-' || i % 3, -2, 'Seen',
			jsonb_build_object('n', i % 5));
		SELECT count(es_snapshot('account-' || i)) FROM generate_series(0, 5) i;
		SELECT es_append('keyed-1', 0, 'Keyed', '{"k": 1}', idempotency_key => 'key 1');
		SELECT es_append_batch('{keyed-2,keyed-3}', '{Keyed,Keyed}', '{"{\"k\": 2}","{\"k\": 3}"}', idempotency_key => 'batch 1');
		SELECT es_create_subscription('mail', ARRAY['account']), es_create_subscription('stopped', ARRAY['thing']);]);
	# Behind, in the middle of things.
	$node->safe_psql($db, q[SELECT es_run_projection('balances', 7)]);
	$node->safe_psql($db, q[SELECT es_run_projection('seen')]);
	$node->safe_psql($db, q[
		CREATE TABLE done (position bigint PRIMARY KEY);
		INSERT INTO done SELECT position FROM es_fetch('mail', 'a', 40) ORDER BY 1 LIMIT 20;
		SELECT es_ack('mail', (SELECT max(position) FROM done), 'a')]);
	$node->safe_psql($db, q[
		SELECT es_nack('stopped', (SELECT min(position) FROM es_fetch('stopped')), 'no good')]);
	$node->safe_psql($db, 'SELECT es_publish_mark()');
	return;
}

# Every row of every table of the store and of the users', and the sequences, one line each.
sub contents
{
	my ($node, $db, $but) = @_;

	my $each = $node->safe_psql($db, q[
		SELECT format('SELECT %L, count(*), md5(string_agg(t::text, E''\n'' ORDER BY t::text)) FROM ONLY %s t',
			c.oid::regclass, c.oid::regclass)
		FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace IN ('event_store'::regnamespace, 'public'::regnamespace)
		ORDER BY c.oid::regclass::text]);
	return $node->safe_psql($db, join(';', grep { !defined $but || !/\.$but'/ } split /\n(?=SELECT)/, $each) . q[;
		SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'event_store' ORDER BY 1]);
}

# Shows that a copy goes on where the original was; changes it.
sub goes_on
{
	my ($node, $db, $what) = @_;
	my $q = sub { last_line($node, $db, $_[0]) };

	# What the manual says is to be run.
	$q->('SELECT es_create_store()');
	is($q->(q[SELECT count(*) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
			WHERE c.relnamespace = 'event_store'::regnamespace AND t.tgname ~ '^es_immutable' AND t.tgenabled <> 'A']),
		0, "$what: the triggers fire always");
	is($q->(q[SELECT count(*) > 40 FROM pg_trigger WHERE tgname ~ '^es_immutable' AND tgenabled = 'A']), 't', '... all of them');
	my (undef, undef, $refused) = $node->psql($db,
		"\\set VERBOSITY sqlstate\nSET session_replication_role = replica; DELETE FROM event_store.log WHERE position = 1");
	like($refused, qr/YE005/, '... and refuse changes');

	my ($version) = split /\|/, $q->(q[SELECT version FROM es_load('account-1')]);
	is($q->(q[SELECT state->>'balance' FROM es_load('account-1')]),
		$q->(q[SELECT sum((data->>'amount')::numeric) FROM es_read('account-1')]), "$what: a state is what its events are");
	is($q->(q[SELECT count(*) FROM es_read('account-1') WHERE data ? 'currency']),
		$q->(q[SELECT count(*) FROM event_store.events WHERE stream = 'account-1' AND event_type = 'Credited']), '... upcast');
	is($q->(q[SELECT replayed FROM es_append('keyed-1', 0, 'Keyed', '{"k": 1}', idempotency_key => 'key 1')]), 't',
		"$what: keys are known");
	is($q->(q[SELECT bool_and(replayed) FROM es_append_batch('{keyed-2,keyed-3}', '{Keyed,Keyed}', '{"{\"k\": 2}","{\"k\": 3}"}',
			idempotency_key => 'batch 1')]), 't', '... of batches too');

	my ($new, $position) = split /\|/, $q->(qq[SET ROLE es_app; SELECT version, position FROM es_append('account-1', $version, 'Paid',
		'{"amount": 5}')]);
	is($new, $version + 1, "$what: a role with the right appends the next version");
	cmp_ok($position, '>', $q->('SELECT last_position + 1000000000 FROM event_store.epochs ORDER BY epoch DESC LIMIT 1'),
		'... far above every old position');
	is($q->('SELECT last_position > 2000 FROM event_store.epochs ORDER BY epoch DESC LIMIT 1'), 't', '... in an epoch of its own');
	$node->safe_psql($db, q[SET ROLE es_app; COPY event_store.import (stream, event_type, data) FROM STDIN;
account-new	Paid	{"amount": 7}
\.
]);
	my (undef, undef, $error) = $node->psql($db, q[\set VERBOSITY sqlstate
		SELECT es_append('account-1', -2, 'Paid', '{"amount": 0}')]);
	like($error, qr/YE009/, '... and events are checked');

	# No event twice, none missed.
	$q->(q[SELECT es_run_projection('balances')]);
	is($q->(q[SELECT count(*) FROM balances b FULL JOIN (SELECT stream, sum((data->>'amount')::numeric) AS balance, count(*) AS events
			FROM event_store.events WHERE category = 'account' GROUP BY 1) e ON e.stream = b.account
			WHERE (b.balance, b.events) IS DISTINCT FROM (e.balance, e.events)]), 0, "$what: a projection goes on where it was");
	is($q->('SELECT n FROM payments'), $q->(q[SELECT count(*) FROM event_store.events WHERE event_type = 'Paid']), '... an inline one, too');
	is($q->(q[SELECT lag_events FROM event_store.projection_status WHERE name = 'balances']), 0, '... and is not behind');
	is($q->(q[SELECT string_agg(stream || ' ' || events, ', ' ORDER BY stream) FROM event_store.quarantine]),
		'thing-1 1, thing-2 2', "$what: what was parked is parked");
	is($q->(q[SELECT stream FROM event_store.quarantine]), 'thing-1', "$what: what was refused is refused");
	my $rounds = 0;
	while (++$rounds < 20)
	{
		last if $q->(q[WITH f AS (INSERT INTO done SELECT position FROM es_fetch('mail', 'a', 500) RETURNING position)
			SELECT count(*) FROM f]) == 0;
		$q->(q[SELECT es_ack('mail', (SELECT max(position) FROM done), 'a')]);
	}
	is($q->(q[SELECT count(*) FROM done FULL JOIN (SELECT position FROM event_store.events WHERE category = 'account') e USING (position)
			WHERE done.position IS NULL OR e.position IS NULL]), 0, "$what: a subscription delivers the rest, once");
	is($q->(q[SET ROLE es_reader; SELECT count(*) FROM es_read_all(0, NULL)]), $q->('SELECT count(*) FROM event_store.events'),
		"$what: a role with the right reads all");
	is($q->(q[SELECT count(*) FROM (SELECT version, row_number() OVER (PARTITION BY stream ORDER BY position) AS n
			FROM event_store.events) e WHERE version <> n]), 0, "$what: versions are dense and in the order of positions");
	return;
}

1;
