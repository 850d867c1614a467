# State in the large and from one server to the next: a stream of a million events, of which loads replay a few
# however far back they go; the memory of a full replay; cancelling one; a standby, crashes, dump and restore.
#
# What is asserted is counted. Times are printed.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Quiet;
use Test::More;
use Time::HiRes qw(time usleep);

my $total = 1_000_000;
my $every = 1_000;
my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init(allows_streaming => 1);
# Few buffers: shared memory that a session touches counts as its own.
$node->append_conf('postgresql.conf', q[
shared_buffers = 16MB
autovacuum = off
jit = off
max_wal_size = 4GB
wal_level = replica
]);
$node->start;
$node->safe_psql($db, 'CREATE EXTENSION event_store; SELECT es_create_store()');

# The last line of an answer.
sub last_of
{
	my ($answer) = @_;
	my @lines = split /\n/, $answer // '';
	return $lines[-1];
}

sub ask { my ($session, $sql) = @_; return last_of($session->query_safe("$sql;")) }

# ---- a million events

my $sql_fold = q[jsonb_build_object('balance', coalesce((state->'balance')::numeric, 0) + (data->'amount')::numeric,
	'count', coalesce((state->'count')::int, 0) + 1, 'last', data->'key')];
my $rules = q[{"Moved": {"add": {"balance": "amount"}, "count": "count", "set": {"last": "key"}}}];
my $register_sql = "SELECT es_register_aggregate('big', fold => \$f\$$sql_fold\$f\$, snapshot_every => $every)";
my $register_rules = "SELECT es_register_aggregate('big', rules => '$rules', snapshot_every => $every)";

# The state after n events, by arithmetic: amounts are 1.5 * (i mod 10), keys k<i mod 100>.
sub state_at
{
	my ($n) = @_;
	return '{}' if $n == 0;
	my $r = $n % 10;
	my $balance = 1.5 * (int($n / 10) * 45 + $r * ($r + 1) / 2);
	return sprintf '{"last": "k%d", "count": %d, "balance": %.1f}', $n % 100, $n, $balance;
}

# The last $count events, in calls of $size, with a snapshot after each when asked.
sub append
{
	my ($from, $to, $size, $snapshot) = @_;
	$snapshot = $snapshot ? q[PERFORM es_snapshot('big-1');] : '';
	$node->safe_psql($db, qq[DO \$\$ BEGIN
		FOR c IN 0 .. (($to - $from) / $size) LOOP
			PERFORM es_append_batch(array_agg('big-1'::text), array_agg('Moved'::text), array_agg(jsonb_build_object('amount', 1.5 * (i % 10), 'key', 'k' || i % 100) ORDER BY i))
				FROM generate_series($from + c * $size, least($from + (c + 1) * $size - 1, $to)) i;
			$snapshot
			COMMIT;
		END LOOP;
	END \$\$]);
	return;
}

$node->safe_psql($db, $register_sql);
my $start = time;
append(1, $total, $every, 1);
note(sprintf '%d events in calls of %d with a snapshot after each: %.1f s', $total, $every, time - $start);
my $kept = $node->safe_psql($db, 'SELECT count(*) FROM event_store.snapshots');
cmp_ok($kept, '<', $total / $every / 10, "of 1000 snapshots $kept are kept");

# As far from the newest snapshot as it gets before somebody asks for one.
append($total + 1, $total + $every - 1, $every, 0);
my $now = $total + $every - 1;
my $session = $node->background_psql($db);

# ---- a load replays a bounded number of events

sub replayed { return ask($session, 'SELECT es_replayed_events()') }
is(ask($session, q[SELECT state, version FROM es_load('big-1')]), state_at($now) . "|$now", 'the state is right');
$session->query_safe(q[
	CREATE TEMP TABLE loads (n int, ms float8, replayed bigint);
	DO $$
	DECLARE t timestamptz; r bigint;
	BEGIN
		FOR i IN 1 .. 200 LOOP
			r := es_replayed_events();
			t := clock_timestamp();
			PERFORM es_load('big-1');
			INSERT INTO loads VALUES (i, extract(epoch FROM clock_timestamp() - t) * 1000, es_replayed_events() - r);
		END LOOP;
	END $$;]);
note('load of a million events from a snapshot 999 events back: '
	. ask($session, q[SELECT format('p50 %s ms, p99 %s ms', round(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric, 2), round(percentile_cont(0.99) WITHIN GROUP (ORDER BY ms)::numeric, 2)) FROM loads]));
is(ask($session, 'SELECT max(replayed), min(replayed) FROM loads'), ($every - 1) . '|' . ($every - 1), '200 loads: each replays what came after the snapshot');

# One snapshot is kept for every 16 * snapshot_every versions.
my $bound = 17 * $every;
srand(41);
my @versions = (0, 1, $every - 1, $every, $every + 1, 16 * $every - 1, 16 * $every, $bound, $total - 1, $total, $now, map { int(rand $total) } 1 .. 60);
my ($worst, $wrong) = (0, 0);
my $before = replayed();
for my $version (@versions)
{
	$wrong++ if ask($session, qq[SELECT state = '] . state_at($version) . qq[' AND version = $version FROM es_load_version('big-1', $version)]) ne 't';
	my $after = replayed();
	$worst = $after - $before if $after - $before > $worst;
	$before = $after;
}
is($wrong, 0, scalar(@versions) . ' loads as of versions are right');
cmp_ok($worst, '<=', $bound, "each replays a bounded number of events: at most $worst");

$node->safe_psql($db, 'SELECT es_publish_mark()') for 1 .. 2;
($worst, $wrong) = (0, 0);
$before = replayed();
for my $version (grep { $_ > 0 } @versions[ 0 .. 30 ])
{
	# All events of a call have one time.
	my $last = $version <= $total ? $every * int(($version + $every - 1) / $every) : $now;
	$wrong++ if ask($session, qq[SELECT l.state = '] . state_at($last) . qq[' AND l.version = $last FROM es_read('big-1', $version, 1) e, es_load_at('big-1', e.recorded_at) l]) ne 't';
	my $after = replayed();
	$worst = $after - $before if $after - $before > $worst;
	$before = $after;
}
is($wrong, 0, 'loads as of times are right');
cmp_ok($worst, '<=', $bound, "and replay at most $worst");

# A load that goes far asks for a snapshot, which comes by itself.
append($now + 1, $now + 2 * $every, $every, 0);
$now += 2 * $every;
$before = replayed();
is(ask($session, q[SELECT version FROM es_load('big-1')]), $now, 'a load far from the last snapshot');
cmp_ok(replayed() - $before, '>', 2 * $every, 'replays more than twice snapshot_every');
ok($node->poll_query_until($db, "SELECT max(s.version) = $now FROM event_store.snapshots s"), 'and has a snapshot taken');
$before = replayed();
is(ask($session, q[SELECT version FROM es_load('big-1')]), $now, 'from which the next one');
is(replayed() - $before, 0, 'replays nothing');
$session->quit;

# ---- a full replay: memory, cancel

sub memory
{
	my ($pid, $what) = @_;
	return slurp_file("/proc/$pid/status") =~ /^$what:\s+(\d+) kB/m ? $1 / 1024 : undef;
}

for my $fold ([ 'SQL fold', $register_sql ], [ 'rules', $register_rules ])
{
	my ($name, $register) = @$fold;
	$node->safe_psql($db, "$register; SELECT es_drop_snapshots('big')");
	$session = $node->background_psql($db, on_error_stop => 0);
	my $pid = ask($session, 'SELECT pg_backend_pid()');
	ask($session, q[SELECT state FROM es_load_version('big-1', 20)]);    # what a session needs once
	my $limits = -r "/proc/$pid/status" ? memory($pid, 'VmHWM') : undef;

	# Before the worker has taken one.
	my $seconds = time;
	my $answer = ask($session, q[BEGIN; SELECT es_replayed_events(); SELECT state, version FROM es_load('big-1')]);
	$seconds = time - $seconds;
	is($answer, state_at($now) . "|$now", "$name: the state of the full replay");
	note(sprintf '%s: %d events in %.2f s', $name, $now, $seconds);
	SKIP:
	{
		skip 'no /proc here', 1 unless defined $limits;
		my $growth = memory($pid, 'VmHWM') - $limits;
		cmp_ok($growth, '<', 64, sprintf '%s: it takes %.1f MB of memory, %d of them buffers', $name, $growth, memory($pid, 'RssShmem') // 0);
	}
	ask($session, 'COMMIT');
	cmp_ok(ask($session, 'SELECT es_replayed_events()'), '>=', $now, "$name: all events were folded");

	# As often as it takes to be cancelled; without snapshots every one is a full replay.
	$session->query_until(qr/begun/, qq[\\set VERBOSITY verbose\n\\echo begun\nSELECT count(es_load_version('big-1', $now - i)) FROM generate_series(0, 10000) i;\n\\echo ended\n]);
	$node->poll_query_until($db, "SELECT state = 'active' AND query LIKE '%generate_series%' FROM pg_stat_activity WHERE pid = $pid") or die 'no load';
	usleep(200_000);
	my $cancelled = time;
	is($node->safe_psql($db, "SELECT pg_cancel_backend($pid)"), 't', "$name: a load is cancelled");
	my $out = $session->query_until(qr/ended/, '');
	note(sprintf '%s: after %.0f ms', $name, 1000 * (time - $cancelled));
	like($session->{stderr}, qr/57014: canceling statement due to user request/, "$name: with the right error");
	$session->{stderr} = '';
	is(ask($session, qq[SELECT state, version FROM es_load_version('big-1', 12345)]), state_at(12345) . '|12345', "$name: the session goes on");
	$session->quit;
}

# ---- valid time: events that occurred in another order than they were recorded are fetched one by one

SKIP:
{
	my $events = 100_000;
	$node->safe_psql($db, qq[
		SELECT es_register_aggregate('late', fold => \$\$jsonb_build_object('sum', coalesce((state->>'sum')::bigint, 0) * 3 % 1000003 + (data->>'i')::int)\$\$, snapshot_every => $total);
		SELECT es_register_upcaster('Late', 1, \$\$data || '{"upcast": true}'\$\$);
		SELECT es_append_batch(array_agg('late-1'::text), array_agg('Late'::text), array_agg(jsonb_build_object('i', i)), schema_versions => array_agg(1),
			occurred_at => array_agg('2024-01-01 00:00+00'::timestamptz + (i * 7919 % 100003) * interval '1 s')) FROM generate_series(1, $events) i]);
	$session = $node->background_psql($db);
	my $pid = ask($session, 'SELECT pg_backend_pid()');
	ask($session, q[SELECT es_load_valid_at('late-1', '2024-01-01 00:10+00')]);
	skip 'no /proc here', 2 unless -r "/proc/$pid/status";
	my $before = memory($pid, 'VmHWM');
	my $seconds = time;
	my $answer = ask($session, q[SELECT state, version FROM es_load_valid_at('late-1', 'infinity')]);
	$seconds = time - $seconds;
	my $growth = memory($pid, 'VmHWM') - $before;
	cmp_ok($growth, '<', 64, sprintf 'valid time: %d events in no order take %.1f MB and %.2f s', $events, $growth, $seconds);
	is($answer, last_of($node->safe_psql($db, q[
			CREATE FUNCTION step(bigint, bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS 'SELECT $1 * 3 % 1000003 + $2';
			CREATE AGGREGATE folded(bigint) (sfunc = step, stype = bigint, initcond = 0);
			SELECT jsonb_build_object('sum', folded((data->>'i')::bigint ORDER BY occurred_at, version)), max(version) FROM event_store.events WHERE stream = 'late-1'])),
		'valid time: folded in the right order');
	$session->quit;
}

# ---- crash and standby

$node->safe_psql($db, q[
	SELECT es_register_aggregate('acct', fold => $$state || jsonb_build_object('n', coalesce((state->>'n')::int, 0) + 1) || data$$);
	CREATE FUNCTION price(state jsonb, data jsonb) RETURNS jsonb IMMUTABLE LANGUAGE sql AS $$SELECT state || data$$;
	SELECT es_register_aggregate('price', fold => 'price(state, data)');
	SELECT es_register_upcaster('Noted', 1, $$data || '{"upcast": true}'$$);
	SELECT es_append('acct-1', 0, '[{"type": "Noted", "data": {"a": 1}, "schema_version": 1}, {"type": "Noted", "data": {"b": 2}, "schema_version": 1}]'::jsonb);
	SELECT es_append('price-1', 0, 'Priced', '{"price": 10}'::jsonb);
	SELECT es_snapshot('acct-1')]);
$node->safe_psql($db, 'SELECT es_publish_mark()') for 1 .. 2;
my $then = $node->safe_psql($db, 'SELECT stable_until FROM event_store.mark');
my $at = qq[SELECT s, (es_load_at(s, '$then')).* FROM unnest('{big-1,acct-1,price-1,none}'::text[]) s WHERE s <> 'none']
	. qq[ UNION ALL SELECT stream, state, version, NULL, NULL FROM es_load_category('acct', '$then')]
	. qq[ UNION ALL SELECT 'valid', state, version, position, recorded_at FROM es_load_valid_at('acct-1', 'infinity', '$then')];
my $final = $node->safe_psql($db, $at);
like($final, qr/^acct-1\|\{"a": 1, "b": 2, "n": 2, "upcast": true\}\|2\|/m, 'as of a time');
$node->safe_psql($db, q[SELECT es_append('acct-1', 2, 'Noted', '{"c": 3}'::jsonb, schema_version => 1)]);
is($node->safe_psql($db, $at), $final, 'an append does not change it');
$node->stop('immediate');
$node->start;
is($node->safe_psql($db, $at), $final, 'nor does a crash');
my ($rc, undef, $error) = $node->psql($db, "\\set VERBOSITY verbose\nSET event_store.as_of_wait = 0; SELECT es_load_at('acct-1', clock_timestamp() - interval '1 us')");
like($error, qr/YE004/, 'what nobody has published is not final');

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is($standby->safe_psql($db, $at), $final, 'a standby says the same');
my $load = q[SELECT s, l.* FROM unnest('{big-1,acct-1,price-1,acct-none}'::text[]) s, es_load(s) l];
is($standby->safe_psql($db, $load), $node->safe_psql($db, $load), 'and loads as the primary does, however far it replays');
is($standby->safe_psql($db, q[SELECT string_agg(state::text, ' ' ORDER BY version) FROM es_history('acct-1')]),
	$node->safe_psql($db, q[SELECT string_agg(state::text, ' ' ORDER BY version) FROM es_history('acct-1')]), 'and tells the history');

# What the primary changes, an open session of the standby follows.
$session = $standby->background_psql($db);
ask($session, $load);
my $late = $node->safe_psql($db, q[SELECT recorded_at FROM es_append('acct-1', 3, 'Fresh', '{"d": 4}'::jsonb)]);
$node->safe_psql($db, q[
	SELECT es_register_upcaster('Fresh', 1, $$data || '{"fresh": true}'$$);
	CREATE OR REPLACE FUNCTION price(state jsonb, data jsonb) RETURNS jsonb IMMUTABLE LANGUAGE sql AS $$SELECT state || data || '{"currency": "EUR"}'$$]);
$node->wait_for_catchup($standby);
is(ask($session, q[SELECT (es_load('acct-1')).state]), '{"a": 1, "b": 2, "c": 3, "d": 4, "n": 4, "fresh": true, "upcast": true}', 'an open session of the standby has new events and upcasters');
is(ask($session, q[SELECT (es_load('price-1')).state]), '{"price": 10, "currency": "EUR"}', 'and changed functions');
for my $sql ("SELECT es_load_at('acct-1', '$late')", "SELECT es_load_category('acct', '$late')", "SELECT es_load_valid_at('acct-1', 'infinity', '$late')")
{
	(undef, undef, $error) = $standby->psql($db, "\\set VERBOSITY verbose\nSET event_store.as_of_wait = '20ms'; $sql");
	like($error, qr/YE004/, "not published, so not final on the standby: $sql");
}
$node->safe_psql($db, 'SELECT es_publish_mark()') for 1 .. 2;
$node->wait_for_catchup($standby);
is($standby->safe_psql($db, "SELECT (es_load_at('acct-1', '$late')).version"), 4, 'published, it is');
is($standby->safe_psql($db, $at), $node->safe_psql($db, $at), 'the earlier time still has its answer');
for my $sql (q[SELECT es_snapshot('acct-1')], q[SELECT es_drop_snapshots('acct')], q[SELECT es_put_snapshot('acct-1', 1, '{}', 'app')],
	q[SELECT es_register_aggregate('acct', 'state')], q[SELECT es_register_upcaster('X', 1, 'data')])
{
	(undef, undef, $error) = $standby->psql($db, "\\set VERBOSITY verbose\n$sql");
	like($error, qr/25006/, "refused on a standby: $sql");
}
$session->quit;
$final = $standby->safe_psql($db, $at);
$standby->restart;
is($standby->safe_psql($db, $at), $final, 'a restart of the standby changes nothing');
$node->stop('immediate');
$standby->promote;
is($standby->safe_psql($db, $at), $final, 'nor does its promotion');
is($standby->safe_psql($db, q[SELECT es_snapshot('acct-1')]), 4, 'now it takes snapshots');
is($standby->safe_psql($db, q[SELECT version FROM es_append('acct-1', (es_load('acct-1')).version, 'Noted', '{}'::jsonb, schema_version => 1)]), 5, 'and appends');
$standby->stop;

# ---- dump and restore

$node->start;
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';
$node->safe_psql($db, 'CREATE DATABASE original');
$node->safe_psql('original', q[
	CREATE EXTENSION event_store;
	SELECT es_create_store();
	CREATE SCHEMA app;
	CREATE FUNCTION app.account(state jsonb, type text, data jsonb) RETURNS jsonb IMMUTABLE LANGUAGE plpgsql AS $$
		BEGIN RETURN state || jsonb_build_object('balance', coalesce((state->>'balance')::numeric, 0) + (data->>'amount')::numeric, 'last', type); END $$;
	SET search_path = app, public;
	SELECT es_register_aggregate('acct', fold => 'account(state, event_type, data)', initial_state => '{"currency": "EUR"}', snapshot_every => 7);
	SELECT es_register_aggregate('ruled', rules => '{"Paid": {"add": {"balance": "amount"}}}', snapshot_every => 7);
	SELECT es_register_upcaster('Paid', 1, $$jsonb_build_object('amount', (data->>'cents')::numeric / 100)$$);
	SELECT es_register_upcaster('Deposited', 1, 'data', 'Paid');
	SELECT es_register_upcaster('Debug', 1, 'NULL');
	SELECT es_register_event_type('Paid', 1, $$(data->>'cents')::int > 0$$);
	SELECT es_append_batch(array_agg(c || '-' || i % 3), array_agg(CASE i % 5 WHEN 0 THEN 'Debug' ELSE 'Paid' END), array_agg(jsonb_build_object('cents', i)), schema_versions => array_agg(1))
		FROM generate_series(1, 200) i, unnest('{acct,ruled}'::text[]) c;
	SELECT es_snapshot(stream) FROM event_store.streams;
	SELECT es_append(c || '-1', -2, 'Deposited', '{"amount": 3.50}'::jsonb, schema_version => 1) FROM unnest('{acct,ruled}'::text[]) c;
	SELECT es_put_snapshot('acct-1', 3, '{"mine": true}', 'app 1')]);
$node->safe_psql('original', 'SELECT es_publish_mark()') for 1 .. 2;
my $answers = q[
	SELECT s.stream, l.* FROM event_store.streams s, es_load(s.stream) l ORDER BY 1;
	SELECT h.* FROM event_store.streams s, es_history(s.stream) h ORDER BY s.stream, h.version;
	SELECT stream, state, version FROM es_load_category('ruled', (SELECT min(recorded_at) FROM event_store.events)) ORDER BY 1;
	SELECT s.stream, l.* FROM event_store.streams s, event_store.mark m, es_load_at(s.stream, m.stable_until) l ORDER BY 1;
	SELECT * FROM es_get_snapshot('acct-1', 'app 1');
	SELECT * FROM es_test_upcasters() ORDER BY 1, 2];
my $original = $node->safe_psql('original', $answers);
$node->command_ok([ 'pg_dump', '-Fc', '-f', "$dump.all", $node->connstr('original') ], 'pg_dump');
$node->command_ok([ 'pg_dump', '-Fc', '--exclude-table-data=event_store.snapshots', '-f', "$dump.none", $node->connstr('original') ], 'pg_dump without snapshots');
for my $which ('all', 'none')
{
	$node->safe_psql($db, "CREATE DATABASE restored_$which");
	$node->command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr("restored_$which"), "$dump.$which" ], "restore: $which");
	$node->safe_psql("restored_$which", 'SELECT es_create_store()');
	my $expected = $which eq 'all' ? $original : $original =~ s/^\{"mine": true\}.*\n//mr;
	is($node->safe_psql("restored_$which", $answers), $expected, "$which: the same answers");
	my $folded = last_of($node->safe_psql("restored_$which", q[SELECT es_load('acct-1'); SELECT es_load('ruled-1'); SELECT es_replayed_events()]));
	if ($which eq 'all')
	{
		is($folded, 2, 'all: from the snapshots that were restored');
	}
	else
	{
		cmp_ok($folded, '>', 90, 'none: by replaying');
	}
	(undef, undef, $error) = $node->psql("restored_$which", "\\set VERBOSITY verbose\nSELECT es_append('acct-1', -2, 'Paid', '{\"cents\": 0}'::jsonb, schema_version => 1)");
	like($error, qr/YE009/, "$which: events are checked");
	is($node->safe_psql("restored_$which", q[SELECT es_snapshot('acct-1') = es_stream_version('acct-1')]), 't', "$which: snapshots can be taken");
}

$node->stop;
done_testing();
