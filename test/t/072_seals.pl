# Seals by the background worker: never of what is not settled, one sealer at a time, over crashes, restarts and long
# absences; verification beside writers, on a standby and after a restore. What tampering is found is in sql/21_tamper.sql.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Quiet;
use Test::More;
use Time::HiRes qw(time);

my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', q[
shared_preload_libraries = 'event_store'
autovacuum = off
max_worker_processes = 12
restart_after_crash = on
event_store.poll_interval = 50ms
event_store.seal_interval = 1s
event_store.seal_size = 50
]);
$node->start;
$node->safe_psql($db, 'CREATE EXTENSION event_store; SELECT es_create_store()');

sub ask { return $node->safe_psql($db, $_[0]) }
sub poll { return $node->poll_query_until($db, $_[0]) }
sub findings { return ask(q[SELECT string_agg(concat_ws(' ', kind, stream, version, position, detail), E'\n') FROM es_verify_log()]) }
sub log_size { return -s $node->logfile }

sub setting
{
	my ($name, $value) = @_;
	ask("ALTER SYSTEM SET $name = '$value'");
	$node->reload;
}

# append(EVENTS): so many, in calls of ten to two streams; the last position
sub append
{
	my ($count, $category) = @_;
	return ask(sprintf q[SELECT max(last_position) FROM generate_series(1, %d) i, LATERAL es_append_batch(
		(SELECT array_agg('%s-' || (i * 2 + e %% 2)) FROM generate_series(1, 10) e), array_fill('Happened'::text, '{10}'),
		array_fill(jsonb_build_object('i', i), '{10}')) b], $count / 10, $category // 'test');
}

my $all_sealed = q[SELECT position = (SELECT newest_position FROM event_store.status) FROM es_log_root()];

# The seals have every event up to their end, once.
my $contiguous = q[SELECT count(*) FILTER (WHERE after_position <> before) = 0 AND sum(events) =
	(SELECT count(*) FROM event_store.log WHERE position <= (SELECT max(to_position) FROM event_store.seals))
	FROM (SELECT *, coalesce(lag(to_position) OVER (ORDER BY to_position), 0) AS before FROM event_store.seals) s];

# ---- by itself

my $from = log_size();
append(120);
ok(poll($all_sealed), 'the worker seals what was appended');
is(ask('SELECT max(events) <= 50 AND count(*) >= 3 FROM event_store.seals'), 't', 'in seals of the size that is set');
is(ask($contiguous), 't', 'without gaps');
is(findings(), '', 'and they verify');
my $root = ask(q[SELECT position || ' ' || encode(root, 'hex') FROM es_log_root()]);
my ($root_position, $root_hex) = split / /, $root;
$node->wait_for_log(qr/event_store sealed the log of database \d+ up to position $root_position, root $root_hex/, $from);
pass('the root is in the server log');

# ---- not what is open

my $early = $node->background_psql($db);
$early->query_safe(q[BEGIN; SELECT es_append('late-1', 0, 'Opened', '{}'::jsonb)]);
my $open = ask('SELECT newest_position FROM event_store.status');
append(60);
ask('SELECT es_seal_log()');
is(ask("SELECT position < $open FROM es_log_root()"), 't', 'an open append and what is behind it is not sealed');
is(findings(), '', 'what is not sealed verifies too');
$early->query_safe('COMMIT');
ask('SELECT es_seal_log()');
is(ask($all_sealed), 't', 'after its commit it is');
is(findings(), '', 'the late commit is no finding');
$early->query_safe(q[BEGIN; SELECT es_append('late-1', 1, 'Closed', '{}'::jsonb); SELECT es_seal_log()]);
is($early->query_safe(q[SELECT position FROM es_log_root()]), ask('SELECT position FROM es_log_root()'), "nor what a transaction appended itself");
$early->query_safe('ROLLBACK');

# ---- one at a time

append(20);
$from = log_size();
$early->query_safe('BEGIN; SELECT es_seal_log()');
my $to = append(20);
my $second = $node->background_psql($db);
$second->query_until(qr/sent/, "\\echo sent\nSELECT es_seal_log();\n");
ok(poll(q[SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 232 AND NOT granted]), 'another sealer waits');
# The worker does not: it comes and goes, again and again.
# It lives for some milliseconds each time.
$node->safe_psql($db, q[CREATE FUNCTION sealers_seen() RETURNS integer LANGUAGE plpgsql AS $$
	DECLARE seen integer[] := '{}'; start timestamptz := clock_timestamp();
	BEGIN
		WHILE coalesce(cardinality(seen), 0) < 2 AND clock_timestamp() < start + interval '60 s' LOOP
			PERFORM pg_stat_clear_snapshot(), pg_sleep(0.001);
			seen := ARRAY(SELECT pid FROM pg_stat_activity WHERE backend_type = 'event_store sealer' UNION SELECT unnest(seen));
		END LOOP;
		RETURN cardinality(seen);
	END $$]);
cmp_ok(ask('SELECT sealers_seen()'), '>=', 2, 'the worker does not wait');
$early->query_safe('ROLLBACK');
ok(poll($all_sealed), 'a sealer that was rolled back leaves it to the next');
$second->quit;
$early->quit;
is(ask($contiguous), 't', 'without gaps');
is(findings(), '', 'the seals verify');
unlike(slurp_file($node->logfile, $from), qr/ERROR|FATAL/, 'nobody failed');

# ---- beside writers

my $script = $node->basedir . '/append.sql';
append_to_file($script, q[
\set s random(1, 20)
SELECT es_append('busy-' || :s, -2, 'Happened', '{"n": 1}'::jsonb);
]);
my $seconds = $ENV{ES_LONG} ? 120 : 5;
my $writers = IPC::Run::start([ 'pgbench', '-n', '-c', '4', '-T', $seconds, '-f', $script, '-p', $node->port, '-h', $node->host, $db ],
	'>', \my $out, '2>', \my $err);
my ($looks, $bad, $seals) = (0, '', 0);
while ($writers->pumpable)
{
	$writers->pump_nb;
	$seals += ask('SELECT es_seal_log()');
	$bad .= findings();
	$looks++;
	$bad .= ask(qq[SELECT string_agg(f::text, ' ') FROM es_verify_stream('busy-' || (1 + $looks % 20)) f WHERE kind <> 'head' OR version IS NOT NULL]);
	$bad .= ask(qq[SELECT string_agg(f::text, ' ') FROM es_verify_log(0, NULL, $root_position, '\\x$root_hex') f]);
}
$writers->finish;
is($writers->result(0), 0, 'the writers wrote') or diag($err);
cmp_ok($looks, '>', 2, "it was looked $looks times meanwhile");
cmp_ok($seals, '>', 2, "and sealed $seals times");
is($bad, '', 'concurrent appends never make a finding');
ask('SELECT es_seal_log()');
is(ask($contiguous), 't', 'no gaps');

# ---- crashes

ask('SELECT es_stop_worker()');
setting('event_store.seal_size', 2);
append(3000);
is(ask("SELECT position < (SELECT newest_position FROM event_store.status) - 2000 FROM es_log_root()"), 't', 'nothing is sealed without a worker');
my $lagging = ask('SELECT position FROM es_log_root()');
ask('SELECT es_start_worker()');
ok(poll("SELECT position > $lagging FROM es_log_root()"), 'it catches up');
my $mark = append(10);
ok(poll("SELECT mark >= $mark FROM event_store.mark"), 'the mark is published meanwhile');
is(ask("SELECT position < $mark FROM es_log_root()"), 't', 'long before everything is sealed');
for my $round (1 .. 2)
{
	ok(poll(q[SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'event_store sealer' AND query_start IS NOT NULL]), 'a sealer is at work') if $round == 1;
	my $pid = ask(q[SELECT pid FROM pg_stat_activity WHERE backend_type = 'event_store sealer']);
	last if $pid eq '';
	$from = log_size();
	if ($round == 1)
	{
		kill 'KILL', $pid;
		$node->wait_for_log(qr/database system is ready to accept connections/, $from);
		$node->poll_query_until($db, 'SELECT true');
	}
	else
	{
		$node->stop('immediate');
		$node->start;
	}
	is(ask($contiguous), 't', 'after a crash there is no gap');
	is(findings(), '', 'and no finding');
}
setting('event_store.seal_size', 500);
ok(poll($all_sealed), 'in the end all is sealed');
is(ask($contiguous), 't', 'without gaps');
is(ask("SELECT count(*) FROM es_verify_log(0, NULL, $root_position, '\\x$root_hex')"), 0, 'the old root is still that of its position');

# ---- a standby

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
append(30);
ok(poll($all_sealed), 'sealed');
$root = ask('SELECT position, root FROM es_log_root()');
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql($db, 'SELECT position, root FROM es_log_root()'), $root, 'a standby has the same root');
is($standby->safe_psql($db, 'SELECT count(*) FROM es_verify_log()'), 0, 'es_verify_log() works there');
is($standby->safe_psql($db, q[SELECT count(*) FROM es_verify_stream('late-1')]), 0, 'es_verify_stream() does');
my ($rc, undef, $refused) = $standby->psql($db, 'SELECT es_seal_log()');
like($refused, qr/cannot execute es_seal_log\(\) (in a read-only transaction|during recovery)/, 'es_seal_log() does not');
ask(q[ALTER TABLE event_store.log_0 DISABLE TRIGGER USER; ALTER TABLE event_store.log DISABLE TRIGGER USER;
	UPDATE event_store.log SET data = '{"i": 0}' WHERE position = 5;
	ALTER TABLE event_store.log_0 ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row; ALTER TABLE event_store.log ENABLE ALWAYS TRIGGER es_immutable]);
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
is($standby->safe_psql($db, q[SELECT string_agg(kind || ' ' || coalesce(position::text, ''), ', ') FROM es_verify_log()]), 'changed 5, digest ',
	'a standby finds what was changed on the primary');
$standby->stop;

# ---- a copy

ask('CREATE DATABASE copy');
my $dump = $node->basedir . '/dump';
$node->command_ok([ 'pg_dump', '-Fc', '-f', $dump, $db ], 'pg_dump');
$node->command_ok([ 'pg_restore', '-d', 'copy', $dump ], 'pg_restore');
is($node->safe_psql('copy', q[SELECT string_agg(kind || ' ' || coalesce(position::text, ''), ', ') FROM es_verify_log()]), 'changed 5, digest ',
	'a restored dump says what the original says');
is($node->safe_psql('copy', "SELECT count(*) FROM es_verify_log(100, NULL, $root_position, '\\x$root_hex') WHERE kind <> 'digest'"), 0, 'and has its roots');

# ---- off; away

setting('event_store.seal_interval', 0);
$mark = append(10);
ok(poll("SELECT mark >= $mark FROM event_store.mark"), 'with seal_interval = 0');
is(ask(q[SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'event_store sealer']), 0, 'no sealer is started');
is(ask("SELECT position < $mark FROM es_log_root()"), 't', 'and nothing sealed');
setting('event_store.seal_size', 1);
append(2000);
setting('event_store.seal_interval', 1);
ok(poll(q[SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'event_store sealer']), 'a sealer is at work');
is(ask(q[SET statement_timeout = '30s'; SET client_min_messages = error; DROP EXTENSION event_store CASCADE; SELECT 1]), 1, 'DROP EXTENSION does not wait for all of it');
ok(poll(q[SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'event_store sealer']), 'it goes');
ask('CREATE EXTENSION event_store; SELECT es_create_store()');
setting('event_store.seal_size', 10000);
ok(poll($all_sealed), 'and another one comes');
is(ask($contiguous), 't', 'without gaps');

$node->stop;
done_testing();
