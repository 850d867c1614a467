# A handler that kills its server process: its projection is run alone, and in the end stopped; the others go on, and nothing is lost.
#
# On every version: what happens after a crash is the server's.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q[
shared_preload_libraries = 'event_store'
restart_after_crash = on
event_store.poll_interval = 100ms
event_store.crash_delay = 1s
max_worker_processes = 16
log_min_messages = log
]);
$node->start;
$node->safe_psql($db, 'CREATE EXTENSION event_store; SELECT es_create_store()');

sub q1 { return $node->safe_psql($db, $_[0]) }

# The server may be coming back from a crash: asked until it answers.
sub until_true { return $node->poll_query_until($db, $_[0]) }

sub logged
{
	my ($pattern) = @_;
	my $count = () = slurp_file($node->logfile) =~ /$pattern/g;
	return $count;
}

sub append { return q1("SELECT position FROM es_append('$_[0]', es_expect_any(), '$_[1]', '{}')") }

q1(q[
CREATE FUNCTION kill_itself(t text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF t = 'Crash' THEN
		EXECUTE format('COPY (SELECT 1) TO PROGRAM ''kill -9 %s''', pg_backend_pid());
		PERFORM pg_sleep(600);
	END IF;
END $$;
CREATE TABLE healthy (position bigint PRIMARY KEY);
CREATE TABLE sick (position bigint PRIMARY KEY);
SELECT es_create_projection('healthy', 'INSERT INTO healthy SELECT position FROM new_events');
SELECT es_create_projection('sick', 'SELECT kill_itself(event_type) FROM new_events; INSERT INTO sick SELECT position FROM new_events', '{s}');
]);
my $good = append('s-1', 'Good');
ok(until_true(qq[SELECT es_wait_for_projection('sick', $good, '1min') AND es_wait_for_projection('healthy', $good, '1min')]), 'both work');
is(q1('SELECT count(begun) FROM event_store.checkpoints'), '0', 'no attempt is open');

# ---- what is no crash

# A worker that is terminated in its first batch.
q1('SELECT es_stop_worker(); SELECT es_start_worker()');
q1(q[
CREATE TABLE stuck (position bigint PRIMARY KEY);
SELECT es_create_projection('stuck', 'SELECT pg_advisory_xact_lock(9), set_config(''lock_timeout'', ''0'', true); INSERT INTO stuck SELECT position FROM new_events', '{t}')]);
my $t = append('t-1', 'T');
ok(until_true(qq[SELECT es_wait_for_projection('stuck', $t, '1min')]), 'a third one');

# ---- a crash

# A good event before the one that crashes, in the same batch or not: it is applied.
my $before = append('s-2', 'Good');
# The crash may come before psql has its answer.
$node->psql($db, q[SELECT es_append('s-3', es_expect_any(), 'Crash', '{}')]);
ok(until_true(q[SELECT health = 'failed' FROM event_store.projection_status WHERE name = 'sick']), 'a projection that crashes the server has failed in the end');
is(q1(q[SELECT status, last_error_code, quarantined_streams FROM event_store.projection_status WHERE name = 'sick']), 'failed|57P02|0', 'and the status says why');
my $crashes = logged(qr/terminated by signal 9/);
cmp_ok($crashes, '>=', 3, "it was tried several times ($crashes)");
cmp_ok($crashes, '<=', 5, 'but not for ever');
# A worker that had run it before does not say so once more.
cmp_ok(logged(qr/the server crashed while projection "sick" was run/), '>=', $crashes - 1, 'each crash but perhaps the first was known to be during its run');
is(logged(qr/the server crashed while projection "(healthy|stuck)" was run/) <= 1, 1, 'and was not put down to another one');
is(q1("SELECT count(*) FROM sick WHERE position IN ($good, $before)"), '2', 'what came before is applied');

my $after = append('s-4', 'Good');
ok(until_true(qq[SELECT es_wait_for_projection('healthy', $after, '1min')]), 'everything else goes on');
is(q1('SELECT count(*) = count(DISTINCT position) AND count(*) = (SELECT count(*) FROM event_store.events) FROM healthy'), 't', 'with each event once');
is(logged(qr/terminated by signal 9/), $crashes, 'and without a further crash');

# ---- put right

q1(q[CREATE OR REPLACE FUNCTION kill_itself(t text) RETURNS void LANGUAGE plpgsql AS $$BEGIN END$$]);
q1(q[SELECT es_resume('sick')]);
ok(until_true(qq[SELECT es_wait_for_projection('sick', $after, '1min')]), 'with another function it goes on');
is(q1('SELECT count(*) FROM sick'), '4', 'with each event once');
ok(until_true(q[SELECT health = 'ok' FROM event_store.projection_status WHERE name = 'sick']), 'and is well');
is(q1('SELECT count(*) FROM event_store.checkpoints WHERE suspect OR crashes > 0'), '0', 'nothing is held against it');
is(q1('SELECT count(*) FROM es_check()'), '0', 'the store is as it should be');

$node->stop;
done_testing();
