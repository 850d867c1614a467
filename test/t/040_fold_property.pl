# Every load equals the plain fold from the first event.
#
# Random histories are appended, while snapshots are taken, dropped and damaged, folds and upcasters are
# registered anew, and transactions and savepoints with all of it are rolled back. After each step every load, at every
# version and time, is compared with a model: a loop in PL/pgSQL over event_store.events that has the upcasters
# written out by hand and uses none of our functions. Sessions live long, so that what they cache is compared too.
#
# At the end the model is made wrong in five ways, and each must be seen.
#
# ES_SEED repeats a run; ES_LONG=1 makes it longer.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Quiet;
use Test::More;
use Time::HiRes qw(time);

my $seed = $ENV{ES_SEED} || int(rand(1_000_000)) + 1;
my ($histories, $rounds) = ($ENV{ES_LONG} ? 60 : 6, 25);
srand($seed);
note("seed $seed");

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "autovacuum = off\njit = off\nmax_prepared_transactions = 5");
$node->start;
my $db = 'postgres';
$node->safe_psql($db, 'CREATE EXTENSION event_store; SELECT es_create_store()');

# ---- the model

$node->safe_psql($db, <<'SQL');
CREATE SCHEMA model;
CREATE TABLE model.aggregates (category text PRIMARY KEY, kind text NOT NULL);
CREATE TABLE model.factor AS SELECT 0 AS factor;    -- in the function of folds of kind 'function'
CREATE TABLE model.upcasters (name text PRIMARY KEY);

-- The newest shape of an event; data NULL: it is dropped.
CREATE FUNCTION model.upcast(active text[], metadata jsonb, INOUT type text, INOUT version int, INOUT data jsonb)
LANGUAGE plpgsql AS $$
BEGIN
	IF type LIKE 'Rare%' AND version = 1 AND type = ANY (active) THEN
		version := 2; data := jsonb_build_object('amount', data->'amount', 'from', type); type := 'Deposited';
	END IF;
	IF type = 'PaidIn' AND version = 1 AND 'PaidIn' = ANY (active) THEN
		version := 2; data := jsonb_build_object('amount', data->'sum'); type := 'Deposited';
	END IF;
	IF type = 'Deposited' AND version = 1 AND 'Deposited1' = ANY (active) THEN
		version := 2; data := jsonb_build_object('amount', (data->>'amount')::numeric * 100);
	END IF;
	IF type = 'Deposited' AND version = 2 AND 'Deposited2' = ANY (active) THEN
		version := 3; data := jsonb_build_object('amount', (data->>'amount')::numeric + 0.010);
	END IF;
	IF type = 'Debug' AND version = 1 AND 'Debug' = ANY (active) THEN
		data := NULL; RETURN;
	END IF;
	IF type = 'Withdrawn' AND version = 1 AND 'Withdrawn' = ANY (active) THEN
		IF data ? 'void' THEN data := NULL; RETURN; END IF;
		version := 2;
	END IF;
	IF type = 'Label' AND version = 1 AND 'Label' = ANY (active) THEN
		version := 2; data := jsonb_build_object('tag', data->'label'); type := 'Tagged';
	END IF;
	IF type = 'Tagged' AND version = 2 AND 'Tagged' = ANY (active) THEN
		version := 3; data := jsonb_build_object('tag', upper(data->>'tag') || coalesce(metadata->>'user', ''));
	END IF;
END $$;

-- One row for each event of a stream in the order of the fold: how it looks, and the state after it. With valid_at in
-- order of occurred_at. wrong is a mistake to make.
CREATE FUNCTION model.fold(of_stream text, valid_at timestamptz, known_at timestamptz, wrong text)
RETURNS TABLE (n int, stream text, version bigint, "position" bigint, recorded_at timestamptz, occurred_at timestamptz,
	event_type text, kept boolean, state jsonb)
LANGUAGE plpgsql SET TimeZone = 'UTC' AS $$
DECLARE
	e record;
	u record;
	a model.aggregates;
	factor int := (SELECT x.factor FROM model.factor x);
	active text[] := ARRAY(SELECT x.name FROM model.upcasters x);
	balance numeric; deposits int; biggest numeric; last bigint; overdrafts int; others int; owner jsonb; opened text;
	tags text[]; has_tags boolean := false; tagged_by jsonb; notes jsonb; note record;
	total bigint; seen jsonb; amount numeric;
BEGIN
	SELECT * INTO a FROM model.aggregates WHERE category = split_part(of_stream, '-', 1);
	n := 0;
	state := '{}';
	FOR e IN SELECT * FROM event_store.events v WHERE v.stream = of_stream
		AND (valid_at IS NULL OR v.occurred_at <= valid_at) AND (known_at IS NULL OR v.recorded_at <= known_at)
		ORDER BY CASE WHEN valid_at IS NOT NULL AND wrong <> 'order' THEN v.occurred_at END, v.version
	LOOP
		u := model.upcast(active, e.metadata, e.event_type, e.schema_version, e.data);
		IF wrong = 'upcast' THEN
			u.data := e.data; u.type := e.event_type;
		END IF;
		n := n + 1;
		stream := of_stream; version := e.version; "position" := e.position; recorded_at := e.recorded_at; occurred_at := e.occurred_at;
		event_type := u.type;
		kept := u.data IS NOT NULL OR wrong = 'drop';
		IF wrong = 'lost' AND e.version = 3 THEN
			NULL;
		ELSIF kept AND a.kind = 'account' THEN
			CASE event_type
				WHEN 'Opened' THEN
					owner := u.data->'owner';
					opened := to_char(e.occurred_at, 'YYYY-MM-DD"T"HH24:MI:SS') || '+00:00';
				WHEN 'Deposited' THEN
					amount := u.data->>'amount';
					balance := coalesce(balance, 0) + amount;
					deposits := coalesce(deposits, 0) + 1;
					last := e.version;
					IF biggest IS NULL OR amount > biggest THEN biggest := amount; END IF;
				WHEN 'Withdrawn' THEN
					balance := coalesce(balance, 0) - (u.data->>'amount')::numeric;
					IF balance < 0 THEN overdrafts := coalesce(overdrafts, 0) + 1; END IF;
				WHEN 'Tagged' THEN
					tags := coalesce(tags, '{}') || (u.data->>'tag'); has_tags := true;
					tagged_by := coalesce(e.metadata->'user', '"nobody"');
				WHEN 'Untagged' THEN
					tags := array_remove(tags, u.data->>'tag');
				WHEN 'Noted' THEN
					notes := coalesce(notes, '{}');
					FOR note IN SELECT * FROM jsonb_each(u.data->'patch') LOOP
						notes := CASE WHEN note.value = 'null' THEN notes - note.key ELSE notes - note.key || jsonb_build_object(note.key, note.value) END;
					END LOOP;
				WHEN 'Cleared' THEN
					tags := NULL; has_tags := false; notes := NULL;
				ELSE
					others := coalesce(others, 0) + 1;
			END CASE;
			state := jsonb_strip_nulls(jsonb_build_object('balance', balance, 'deposits', deposits, 'biggest', biggest, 'last', last,
				'overdrafts', overdrafts, 'others', others, 'owner', owner, 'opened', opened, 'tags', CASE WHEN has_tags THEN to_jsonb(tags) END,
				'by', tagged_by, 'notes', notes));
		ELSIF kept AND a.kind = 'tally' THEN
			total := coalesce(total, 0) + 1;
			seen := coalesce(seen, '[]') || to_jsonb(event_type || ' ' || u.version);
			state := jsonb_build_object('n', total, 'seen', seen);
		ELSIF kept AND a.kind = 'function' THEN
			total := coalesce(total, 0) * 3 % 1000003 + factor * e.version;
			state := jsonb_build_object('total', total);
		END IF;
		RETURN NEXT;
	END LOOP;
END $$;

-- What the model says of every stream at every version, made anew before each comparison.
CREATE UNLOGGED TABLE model.states AS SELECT * FROM model.fold('', NULL, NULL, '');
CREATE INDEX ON model.states (stream, version);
CREATE UNLOGGED TABLE model.answers (what text, got text, expected text);

CREATE FUNCTION model.show(state jsonb, version bigint, "position" bigint, recorded_at timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE AS $$SELECT concat_ws('|', state::text, version, position, extract(epoch FROM recorded_at)::text)$$;

-- The expected answer of a load: the newest state, with the place of the newest event.
CREATE FUNCTION model.at(of_stream text, up_to bigint) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT coalesce((SELECT model.show(state, version, position, recorded_at) FROM model.states WHERE stream = of_stream AND version <= up_to
		ORDER BY version DESC LIMIT 1), '{}|0|0') $$;
CREATE FUNCTION model.at_time(of_stream text, up_to timestamptz, less boolean) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT model.at(of_stream, (SELECT count(*) FROM model.states WHERE stream = of_stream AND (recorded_at < up_to OR (recorded_at = up_to AND NOT less)))) $$;
CREATE FUNCTION model.valid(of_stream text, valid_at timestamptz, known_at timestamptz, wrong text) RETURNS text LANGUAGE sql AS $$
	WITH f AS MATERIALIZED (SELECT * FROM model.fold(of_stream, valid_at, known_at, wrong))
	SELECT coalesce((SELECT model.show((SELECT state FROM f ORDER BY n DESC LIMIT 1), version, position, recorded_at)
		FROM f ORDER BY version DESC LIMIT 1), '{}|0|0') $$;

CREATE FUNCTION model.fill(wrong text) RETURNS void LANGUAGE sql AS $$
	DELETE FROM model.states;
	DELETE FROM model.answers;
	INSERT INTO model.states SELECT f.* FROM event_store.streams s, LATERAL model.fold(s.stream, NULL, NULL, wrong) f;
	$$;

-- Loads of what this session sees.
CREATE FUNCTION model.compare_now() RETURNS void LANGUAGE sql AS $$
	INSERT INTO model.answers SELECT 'es_load of ' || s.stream, model.show(l.state, l.version, l.position, l.recorded_at), model.at(s.stream, 1000000)
		FROM (SELECT stream FROM event_store.streams UNION ALL VALUES ('acct-none')) s, LATERAL es_load(s.stream) l;
	INSERT INTO model.answers SELECT 'es_load_version of ' || s.stream || ' at ' || v, model.show(l.state, l.version, l.position, l.recorded_at), model.at(s.stream, v)
		FROM event_store.streams s, generate_series(0, s.version) v, LATERAL es_load_version(s.stream, v) l;
	INSERT INTO model.answers SELECT 'es_load_category of ' || a.category, (SELECT string_agg(concat_ws('|', l.stream, l.state, l.version), ' ' ORDER BY l.stream) FROM es_load_category(a.category) l),
		(SELECT string_agg(concat_ws('|', s.stream, s.state, s.version), ' ' ORDER BY s.stream) FROM (
			SELECT DISTINCT ON (stream) * FROM model.states WHERE split_part(stream, '-', 1) = a.category ORDER BY stream, version DESC) s)
		FROM model.aggregates a;
	INSERT INTO model.answers SELECT 'es_history of ' || s.stream || ' from ' || f || ' count ' || c,
			(SELECT string_agg(concat_ws('|', h.version, h.event_type, h.occurred_at, h.recorded_at, h.state), ' ' ORDER BY h.n)
				FROM es_history(s.stream, f, c) WITH ORDINALITY AS h(version, event_type, occurred_at, recorded_at, state, n)),
			(SELECT string_agg(concat_ws('|', m.version, m.event_type, m.occurred_at, m.recorded_at, m.state), ' ' ORDER BY m.version)
				FROM (SELECT * FROM model.states m WHERE m.stream = s.stream AND m.version >= f AND m.kept ORDER BY m.version LIMIT c) m)
		FROM event_store.streams s, LATERAL (VALUES (1, NULL), (1 + s.version / 2, NULL), (1 + s.version / 3, 3), (s.version + 1, 1)) c(f, c);
	$$;

-- Loads as of a time; the mark has been published twice.
CREATE FUNCTION model.compare_times(wrong text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO model.answers SELECT 'es_load_at of ' || s.stream || ' at ' || t, model.show(l.state, l.version, l.position, l.recorded_at), model.at_time(s.stream, t, wrong = 'time')
		FROM event_store.streams s, (SELECT DISTINCT t FROM model.states, LATERAL (VALUES (recorded_at), (recorded_at - interval '1 us'), ('-infinity')) x(t)) t, LATERAL es_load_at(s.stream, t) l
		WHERE hashtext(s.stream || t || (SELECT count(*) FROM model.states)) % 4 = 0;
	INSERT INTO model.answers SELECT 'es_load_valid_at of ' || s.stream || ' at ' || v || coalesce(' known at ' || k, ''),
			model.show(l.state, l.version, l.position, l.recorded_at), model.valid(s.stream, v, k, wrong)
		FROM event_store.streams s, generate_series(1, 5) i,
			LATERAL (SELECT coalesce((SELECT recorded_at FROM model.states WHERE i > 2 AND s.stream IS NOT NULL ORDER BY random() LIMIT 1), NULL) AS k,
				CASE WHEN i = 1 THEN 'infinity' ELSE '2024-01-01 00:00+00'::timestamptz + (random() * 60)::int * interval '1 hour' END AS v OFFSET 0) c,
			LATERAL es_load_valid_at(s.stream, v, k) l;
	INSERT INTO model.answers SELECT 'es_load_category of ' || a.category || ' at ' || t, (SELECT string_agg(concat_ws('|', l.stream, l.state, l.version), ' ' ORDER BY l.stream) FROM es_load_category(a.category, t) l),
		(SELECT string_agg(concat_ws('|', s.stream, s.state, s.version), ' ' ORDER BY s.stream) FROM (
			SELECT DISTINCT ON (stream) * FROM model.states WHERE split_part(stream, '-', 1) = a.category AND recorded_at <= t ORDER BY stream, version DESC) s)
		FROM model.aggregates a, (SELECT recorded_at AS t FROM model.states ORDER BY random() LIMIT 4) t;
	$$;

CREATE FUNCTION model.verdict() RETURNS text LANGUAGE sql AS $$
	SELECT concat(count(*), ' compared, ', count(*) FILTER (WHERE got IS DISTINCT FROM expected), ' wrong') FROM model.answers $$;
SQL

# ---- what is registered

my %upcasters = (
	PaidIn => [ "'PaidIn', 1", q[jsonb_build_object('amount', data->'sum')], 'Deposited' ],
	Deposited1 => [ "'Deposited', 1", q[jsonb_build_object('amount', (data->>'amount')::numeric * 100)] ],
	Deposited2 => [ "'Deposited', 2", q[jsonb_build_object('amount', (data->>'amount')::numeric + 0.010)] ],
	Debug => [ "'Debug', 1", 'NULL' ],
	Withdrawn => [ "'Withdrawn', 1", q[CASE WHEN data ? 'void' THEN NULL ELSE data END] ],
	Label => [ "'Label', 1", q[jsonb_build_object('tag', data->'label')], 'Tagged' ],
	Tagged => [ "'Tagged', 2", q[jsonb_build_object('tag', upper(data->>'tag') || coalesce(metadata->>'user', ''))] ],
);

my $account_fold = q[state || CASE event_type
	WHEN 'Opened' THEN jsonb_build_object('owner', data->'owner', 'opened', occurred_at)
	WHEN 'Deposited' THEN jsonb_build_object('balance', coalesce((state->'balance')::numeric, 0) + (data->'amount')::numeric,
		'deposits', coalesce((state->'deposits')::int, 0) + 1, 'last', version,
		'biggest', CASE WHEN (data->'amount')::numeric <= (state->'biggest')::numeric THEN state->'biggest' ELSE data->'amount' END)
	WHEN 'Withdrawn' THEN jsonb_build_object('balance', coalesce((state->'balance')::numeric, 0) - (data->'amount')::numeric) ||
		CASE WHEN coalesce((state->'balance')::numeric, 0) < (data->'amount')::numeric
			THEN jsonb_build_object('overdrafts', coalesce((state->'overdrafts')::int, 0) + 1) ELSE '{}' END
	WHEN 'Tagged' THEN jsonb_build_object('tags', coalesce(state->'tags', '[]') || (data->'tag'), 'by', coalesce(metadata->'user', '"nobody"'))
	WHEN 'Untagged' THEN CASE WHEN state ? 'tags' THEN jsonb_build_object('tags', (state->'tags') - (data->>'tag')) ELSE '{}' END
	WHEN 'Noted' THEN jsonb_build_object('notes', jsonb_strip_nulls(coalesce(state->'notes', '{}') || (data->'patch')))
	WHEN 'Cleared' THEN '{"tags": null, "notes": null}'
	ELSE jsonb_build_object('others', coalesce((state->'others')::int, 0) + 1) END];
my %folds = (
	account => [
		[ fold => "jsonb_strip_nulls($account_fold)" ],
		[ rules => q[{
			"Opened": {"set": {"owner": "owner", "opened": "$event.occurred_at"}},
			"Deposited": {"add": {"balance": "amount"}, "count": "deposits", "set": {"last": "$event.version"}, "max": {"biggest": "amount"}},
			"Withdrawn": [{"subtract": {"balance": "amount"}}, {"when": {"field": "$state.balance", "below": 0}, "count": "overdrafts"}],
			"Tagged": {"append": {"tags": "tag"}, "set": {"by": {"field": "$metadata.user", "default": "nobody"}}},
			"Untagged": {"remove": {"tags": "tag"}},
			"Noted": {"merge": {"notes": "patch"}},
			"Cleared": {"unset": ["notes", "tags"]},
			"*": {"count": "others"}}] ] ],
	tally => [
		[ fold => q[jsonb_build_object('n', coalesce((state->>'n')::int, 0) + 1, 'seen', coalesce(state->'seen', '[]') || to_jsonb(event_type || ' ' || schema_version))] ],
		[ fold => q[model.tally(state, event_type, schema_version)] ] ],
	function => [ [ fold => 'model.apply(state, version)' ] ]);

$node->safe_psql($db, q[CREATE FUNCTION model.tally(state jsonb, t text, v int) RETURNS jsonb IMMUTABLE LANGUAGE sql AS
	$$SELECT jsonb_build_object('n', coalesce((state->>'n')::int, 0) + 1, 'seen', coalesce(state->'seen', '[]') || to_jsonb(t || ' ' || v))$$]);

my @categories = ('acct', 'ledger');
my @streams = ('acct-1', 'acct-2', 'acct', 'ledger-a', 'ledger-b', 'ledger-c-d');
my $factor = 1;
my $rare = 0;

sub one { return $_[ rand @_ ] }

sub apply_function
{
	return qq[CREATE OR REPLACE FUNCTION model.apply(state jsonb, v bigint) RETURNS jsonb IMMUTABLE LANGUAGE plpgsql AS
		\$\$BEGIN RETURN jsonb_build_object('total', coalesce((state->>'total')::bigint, 0) * 3 % 1000003 + $factor * v); END\$\$;
		UPDATE model.factor SET factor = $factor];
}

sub register_aggregate
{
	my ($category, $kind) = @_;
	my ($argument, $definition) = @{ one(@{ $folds{$kind} }) };
	my $every = one(1, 2, 3, 5, 100);
	return qq[SELECT es_register_aggregate('$category', $argument => \$f\$$definition\$f\$, snapshot_every => $every);
		INSERT INTO model.aggregates VALUES ('$category', '$kind') ON CONFLICT (category) DO UPDATE SET kind = EXCLUDED.kind];
}

sub register_upcaster
{
	my ($name, $of, $transform, $to) = @_;
	$to = defined $to ? "'$to'" : 'NULL';
	return qq[SELECT es_register_upcaster($of, \$u\$$transform\$u\$, $to); INSERT INTO model.upcasters VALUES ('$name') ON CONFLICT DO NOTHING];
}

sub unregister_upcaster
{
	my ($name) = @_;
	my $of = $upcasters{$name}[0];
	return qq[SELECT es_unregister_upcaster(of, version) FROM (VALUES ($of)) u(of, version) WHERE EXISTS (SELECT FROM model.upcasters WHERE name = '$name');
		DELETE FROM model.upcasters WHERE name = '$name'];
}

sub amount { return one(int(rand 100), sprintf('%.2f', rand 50), sprintf('%.3f', rand 9), '10.0', '10', '10.00') }

# A random event as JSON.
sub event
{
	my @tags = ('red', 'green', 'blue');
	my ($type, $data, $versions) = @{ one(
		[ 'Opened', qq[{"owner": "] . one(@tags) . '"}', [1] ],
		[ 'Deposited', '{"amount": ' . amount() . '}', [ 1, 1, 2, 3 ] ],
		[ 'Deposited', '{"amount": ' . amount() . '}', [ 1, 1, 2, 3 ] ],
		[ 'PaidIn', '{"sum": ' . amount() . '}', [ 1, 1, 2 ] ],
		[ 'Withdrawn', '{"amount": ' . amount() . one('', ', "void": true') . '}', [ 1, 2 ] ],
		[ 'Tagged', '{"tag": "' . one(@tags) . '"}', [ 1, 2, 2, 3 ] ],
		[ 'Untagged', '{"tag": "' . one(@tags) . '"}', [1] ],
		[ 'Label', '{"label": "' . one(@tags) . '"}', [ 1, 1, 2 ] ],
		[ 'Noted', '{"patch": {"' . one(@tags) . '": ' . one('null', '1', '"x"') . '}}', [1] ],
		[ 'Cleared', '{}', [1] ],
		[ 'Debug', '{}', [ 1, 1, 1, 2 ] ],
		[ 'Debug', '{}', [1] ],
		[ 'Rare' . int(rand($rare + 2)), '{"amount": ' . amount() . '}', [1] ],
		[ 'Other', '{}', [1] ]) };
	my $occurred = sprintf '2024-01-%02dT%02d:00:00Z', 1 + rand 2, rand 24;
	my $user = one('', '', ', "metadata": {"user": "' . one('ann', 'bob') . '"}');
	return qq[{"type": "$type", "data": $data, "schema_version": ] . one(@$versions) . qq[, "occurred_at": "$occurred"$user}];
}

# A random thing to do, as SQL.
my @things = (
	(sub {
		my $events = join ', ', map { event() } 1 .. 1 + rand 4;
		my $stream = one(@streams);
		return "SELECT es_append('$stream', -2, '[$events]'::jsonb)";
	}) x 9,
	sub {
		my @elements = map { qq({"stream": "$_", "expected_version": "any", "events": [) . join(', ', map { event() } 1 .. 1 + rand 2) . ']}' } grep { rand() < 0.4 } @streams;
		return @elements ? "SELECT es_append_multi('[" . join(', ', @elements) . "]')" : '';
	},
	(sub { return "SELECT es_snapshot('" . one(@streams) . "')" }) x 4,
	sub { return q[SELECT es_snapshot(stream) FROM event_store.streams] },
	sub { return "SELECT es_drop_snapshots('" . one(@categories) . "')" },
	sub { return q[UPDATE event_store.snapshots SET state = state || '{"balance": 12345, "total": 7, "n": 9}' WHERE random() < 0.5] },
	sub { return q[UPDATE event_store.snapshots SET state = '[]' WHERE random() < 0.3] },
	sub { return q[UPDATE event_store.snapshots SET hash = '\x00' WHERE random() < 0.3] },
	sub { return q[DELETE FROM event_store.snapshots WHERE random() < 0.3] },
	sub { return register_aggregate(one(@categories), 'account') },
	sub { return register_aggregate(one(@categories), one('account', 'tally', 'function')) },
	sub { $factor++; return apply_function() },
	(sub { my $name = one(sort keys %upcasters); return register_upcaster($name, @{ $upcasters{$name} }) }) x 3,
	sub { return unregister_upcaster(one(sort keys %upcasters)) },
	# A type that no session has seen, mostly before its first event.
	sub { my $type = 'Rare' . ++$rare; return register_upcaster($type, "'$type', 1", qq[jsonb_build_object('amount', data->'amount', 'from', event_type)], 'Deposited') },
);

sub things { return join ";\n", grep { $_ ne '' } map { one(@things)->() } 1 .. 1 + rand $_[0] }

# ---- sessions

my @sessions;

# The last line of what a session answers.
sub ask
{
	my ($session, $sql) = @_;
	my @lines = split /\n/, $session->query_safe("$sql;");
	return $lines[-1];
}

my ($compared, $failed, @log) = (0, 0);

# Compares all that the model and the store say in a session.
sub compare
{
	my ($session, $when, $times) = @_;
	ask($session, q[SELECT model.fill('')]);
	ask($session, 'SELECT model.compare_now()');
	ask($session, q[SELECT model.compare_times('')]) if $times;
	my ($n, $wrong) = ask($session, 'SELECT model.verdict()') =~ /(\d+) compared, (\d+) wrong/;
	$compared += $n;
	if ($wrong)
	{
		$failed += $wrong;
		fail("$when: $wrong of $n");
		diag($session->query_safe('SELECT format(E\'%s\n  is       %s\n  expected %s\', what, got, expected) FROM model.answers WHERE got IS DISTINCT FROM expected LIMIT 5;'));
		diag($session->query_safe('SELECT * FROM model.aggregates; SELECT * FROM model.upcasters;'));
		diag("seed $seed; what was done last:\n" . join("\n", @log[ ($#log > 5 ? $#log - 5 : 0) .. $#log ]));
	}
	return;
}

sub publish { return $node->safe_psql($db, 'SELECT es_publish_mark(); SELECT es_publish_mark()') }

my $settings = q[SET client_min_messages = error; SET event_store.as_of_wait = 0; SET search_path = public];
my $start = time;
my $events = 0;

# A random history in a new store.
sub history
{
	my ($history) = @_;

	($factor, $rare, @log) = (1, 0);
	$node->safe_psql($db, q[SET client_min_messages = error; DROP SCHEMA event_store CASCADE; SELECT es_create_store();
		ALTER TABLE event_store.snapshots DISABLE TRIGGER USER; DELETE FROM model.upcasters; ]
			. join ';', apply_function(), map { register_aggregate($_, 'account') } @categories);
	for (1 .. 3)
	{
		push @sessions, $node->background_psql($db, on_error_stop => 1);
		ask($sessions[-1], $settings);
	}
	# They differ in what folds must not depend on.
	ask($sessions[1], q[SET TimeZone = 'Asia/Kathmandu'; SET DateStyle = 'SQL, DMY'; SET extra_float_digits = -3]);
	ask($sessions[2], q[SET search_path = model, public]);

	for my $round (1 .. $rounds)
	{
		my $session = one(@sessions);
		my $when = "history $history, round $round";
		my $way = rand();
		my $things = things(5);
		if ($way < 0.6)
		{
			push @log, $things;
			ask($session, $things);
		}
		else
		{
			# Together with what is rolled back, and compared in between: loads see their own transaction.
			my $back = things(5);
			my $kind = $way < 0.7 ? 'ROLLBACK' : $way < 0.8 ? 'COMMIT' : 'SAVEPOINT';
			push @log, "BEGIN; $things", $kind eq 'SAVEPOINT' ? "SAVEPOINT s; $back; ROLLBACK TO s; COMMIT" : $kind;
			ask($session, "BEGIN; $things");
			compare($session, "$when, inside a transaction", 0);
			if ($kind eq 'SAVEPOINT')
			{
				ask($session, "SAVEPOINT s; $back");
				compare($session, "$when, inside a savepoint", 0);
				ask($session, 'ROLLBACK TO s');
				compare($session, "$when, after the savepoint was rolled back", 0);
				$kind = 'COMMIT';
			}
			ask($session, $kind);
		}
		publish();
		my @others = grep { $_ != $session } @sessions;
		compare($session, "$when, in the same session", 1);
		$session = one(@others);
		my $repeatable = rand() < 0.3;
		ask($session, 'BEGIN ISOLATION LEVEL REPEATABLE READ') if $repeatable;
		compare($session, "$when, in another session" . ($repeatable ? ' in REPEATABLE READ' : ''), 1);
		ask($session, 'COMMIT') if $repeatable;
		last if $failed;
	}
	$events += $node->safe_psql($db, 'SELECT count(*) FROM event_store.events');
	return;
}

for my $history (1 .. $histories)
{
	$_->quit for @sessions;
	@sessions = ();
	history($history);
	last if $failed;
}
is($failed, 0, sprintf('seed %d: %d answers in %d histories of %d rounds, %d events, are those of the plain fold', $seed, $compared, $histories, $rounds, $events));
note(sprintf('%.1f s; %d snapshots at the end', time - $start, $node->safe_psql($db, 'SELECT count(*) FROM event_store.snapshots')));

# ---- the comparison can fail

# A history that has all of it, whatever the random ones had.
my $session = $sessions[0];
$node->safe_psql($db, join ';', (map { register_aggregate($_, 'account') } @categories), map { register_upcaster($_, @{ $upcasters{$_} }) } sort keys %upcasters);
$node->safe_psql($db, q[SELECT es_append('acct-all', 0, '[
	{"type": "Deposited", "data": {"amount": 1}, "schema_version": 1, "occurred_at": "2024-01-01T05:00:00Z"}, {"type": "Debug", "schema_version": 1, "occurred_at": "2024-01-01T04:00:00Z"},
	{"type": "Tagged", "data": {"tag": "red"}, "occurred_at": "2024-01-01T03:00:00Z"}, {"type": "Tagged", "data": {"tag": "blue"}, "occurred_at": "2024-01-01T02:00:00Z"}]')]);
publish();
compare($session, 'with all upcasters', 1);
for my $wrong ('lost', 'upcast', 'drop', 'order', 'time')
{
	ask($session, "SELECT model.fill('$wrong')");
	ask($session, 'SELECT model.compare_now()');
	ask($session, "SELECT model.compare_times('$wrong')");
	my $verdict = ask($session, 'SELECT model.verdict()');
	like($verdict, qr/, [1-9]\d* wrong/, "a model with a mistake ($wrong) differs: $verdict");
}

# Snapshots do take part: with them the same answers cost less.
sub cost
{
	my $before = ask($session, 'SELECT es_replayed_events()');
	ask($session, q[SELECT model.fill('')]);
	ask($session, 'SELECT model.compare_now()');
	return ask($session, 'SELECT es_replayed_events()') - $before;
}
ask($session, "SELECT es_drop_snapshots('$_')") for @categories;
my $without = cost();
ask($session, 'SELECT es_snapshot(stream) FROM event_store.streams');
my $with = cost();
cmp_ok($with, '<', $without, "with snapshots $with events are folded, $without without");
is(ask($session, 'SELECT model.verdict()') =~ s/\d+ compared, //r, '0 wrong', 'to the same answers');

$_->quit for @sessions;
$node->stop;
done_testing();
