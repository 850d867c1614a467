# The dispatcher: what an event costs that few projections want or none; positions that are in shared memory alone, and when they
# are stored; projections that are slow, beside others.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Quiet;
use Test::More;

my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
# What is counted is what the workers do: nobody publishes more often than needed, and nothing else runs.
$node->append_conf('postgresql.conf', q[
shared_preload_libraries = 'event_store'
event_store.poll_interval = 60s
event_store.seal_interval = 0
event_store.max_workers = 2
max_worker_processes = 16
autovacuum = off
log_min_messages = log
]);
$node->start;
$node->safe_psql($db, 'CREATE EXTENSION event_store; SELECT es_create_store()');

sub q1 { return $node->safe_psql($db, $_[0]) }

sub status { return q1("SELECT $_[1] FROM event_store.projection_status WHERE name = '$_[0]'") }

sub row { return q1("SELECT position FROM event_store.checkpoints WHERE projection = '$_[0]' AND NOT rebuild") }

sub append { return q1("SELECT position FROM es_append('$_[0]', -2, '$_[1]', '{}')") }

# Whether a projection passes an event without its checkpoint being stored at once. (Once in ten seconds it is.)
sub moves_in_memory
{
	my ($name, $type) = @_;

	for (1 .. 10)
	{
		my $position = append('a-1', $type);
		passed($name, $position) or return 0;
		return 1 if row($name) < $position && status($name, "position >= $position") eq 't';
	}
	return 0;
}

# Until a projection has applied, or passed by, everything up to a position.
sub passed { return q1("SELECT es_wait_for_projection('$_[0]', $_[1], '3min')") eq 't' }

# ---- 50 projections, each for an event type of its own

q1('CREATE TABLE seen (name text, position bigint, PRIMARY KEY (name, position))');
q1(qq[SELECT es_create_projection('p$_', \$\$INSERT INTO seen SELECT 'p$_', position FROM new_events\$\$, event_types => '{T$_}')])
  for 1 .. 50;
my $first = append('a-1', 'T0');
ok(passed("p$_", $first), "p$_ has passed an event that nobody wants") for 1, 50;
passed("p$_", $first) for 2 .. 49;

# What the workers write is counted by the LSN, between two points at which all is quiet.
my $commits = q[SELECT sum(xact_commit) FROM pg_stat_database WHERE datname = 'postgres'];

sub wal_of
{
	my ($type, $n) = @_;
	my $before = q1('SELECT pg_current_wal_insert_lsn()');
	my $position;

	$position = append('a-1', $type) for 1 .. $n;
	passed("p$_", $position) or return -1 for 1 .. 50;
	return q1("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '$before')") / $n;
}

q1('CHECKPOINT');
wal_of('T0', 5);    # full pages
my $rows = q1('SELECT sum(position) FROM event_store.checkpoints');
my $wal = wal_of('T0', 20);
cmp_ok($wal, '>', 0, 'all have passed');
cmp_ok($wal, '<', 4000, "an event that nobody wants is no WAL of projections ($wal bytes, the append included)");
is(q1('SELECT count(*) FROM seen'), '0', 'it was applied by nobody');

my $wanted = append('a-1', 'T7');
ok(passed('p7', $wanted), 'an event that one of 50 wants');
is(q1('SELECT string_agg(name, $$,$$) FROM seen'), 'p7', 'is applied by that one');
is(row('p7'), $wanted, 'and its checkpoint is stored with it');
ok(passed('p8', $wanted), 'another one has passed it');
is(status('p8', "position >= $wanted"), 't', 'the status shows so');
ok(moves_in_memory('p8', 'T0'), 'before its checkpoint is stored');

# ---- stored at a clean stop, and after a time

q1('SELECT es_stop_worker()');
my $known = status('p8', 'position');
ok($node->poll_query_until($db, "SELECT min(position) >= $wanted FROM event_store.checkpoints"), 'a stop stores the checkpoints');
q1('SELECT es_start_worker()');
my $late = append('a-1', 'T0');
ok(passed('p9', $late), 'after a start');
ok(moves_in_memory('p9', 'T0'), 'it is not stored at once');
ok($node->poll_query_until($db, "SELECT min(position) >= $late FROM event_store.checkpoints"), 'but some seconds later');

# ---- a crash has the older position, and nothing is lost or doubled

my $before_crash = append('a-1', 'T0');
passed('p10', $before_crash);
$node->stop('immediate');
$node->start;
$wanted = append('a-1', 'T10');
ok(passed('p10', $wanted), 'after a crash');
is(q1(q[SELECT string_agg(position::text, ',') FROM seen WHERE name = 'p10']), $wanted, 'each event once');

# ---- definitions that change

# A type that upcasters lead to a wanted one is wanted from then on; what was passed by before is stale as ever.
q1(q[SELECT es_register_upcaster('Old', 1, 'data', to_type => 'T11')]);
$wanted = q1(q[SELECT position FROM es_append('a-1', -2, 'Old', '{}', schema_version => 1)]);
ok(passed('p11', $wanted), 'an event of a type that becomes a wanted one');
is(q1(q[SELECT count(*) FROM seen WHERE name = 'p11']), '1', 'is applied');

# Dropped and made anew under its name, from the beginning.
q1(q[SELECT es_drop_projection('p12')]);
q1(q[SELECT es_create_projection('p12', $$INSERT INTO seen SELECT 'p12', position FROM new_events$$, event_types => '{T0}')]);
ok(passed('p12', $wanted), 'a projection of the same name');
is(q1(q[SELECT count(*) FROM seen WHERE name = 'p12']), q1(q[SELECT count(*) FROM event_store.events WHERE event_type = 'T0']),
	'begins at the beginning');

# A call that is behind an open one: its part up to the mark is found again.
my $open = $node->background_psql($db);
$open->query_safe(q[BEGIN; SELECT es_append('open-1', 0, 'T0', '{}')]);
my $behind = append('a-1', 'T13');
my $other = append('a-1', 'T0');
$open->query_safe('COMMIT');
$open->quit;
ok(passed('p13', $other), 'an append behind an open one');
is(q1(q[SELECT count(*) FROM seen WHERE name = 'p13']), '1', 'is applied once');

# ---- a third projection beside two that wait

q1('CREATE TABLE locked_1 (position bigint); CREATE TABLE locked_2 (position bigint)');
q1(qq[SELECT es_create_projection('locked_$_', \$\$SELECT pg_advisory_xact_lock(77); INSERT INTO locked_$_ SELECT position FROM new_events\$\$,
	event_types => '{L}')]) for 1, 2;
my $l = append('l-1', 'L');
ok(passed("locked_$_", $l), 'a handler that takes a lock') for 1, 2;
my $holder = $node->background_psql($db);
$holder->query_safe('SELECT pg_advisory_lock(77)');
$l = append('l-1', 'L');
# Once both have met the lock, only one of them has a worker at a time: the other one is for the healthy.
ok($node->poll_query_until($db, q[SELECT bool_and(attempts > 0) FROM event_store.projection_status WHERE name LIKE 'locked_%']),
	'two projections wait for a lock');
is(status('locked_1', 'health'), 'waiting', 'the status says so');
is(status('locked_1', 'last_error_code'), '55P03', 'and why');
ok($node->poll_query_until($db, q[SELECT count(*) > 0 FROM event_store.projection_status
	WHERE name LIKE 'locked_%' AND blocked_by && (SELECT array_agg(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND granted)]),
	'and whom they wait for');
for my $i (1 .. 5)
{
	my $position = append('a-1', 'T14');
	ok(passed('p14', $position), "a third one goes on, $i");
	is(q1(q[SELECT count(*) FROM event_store.projection_status WHERE name LIKE 'locked_%' AND health = 'waiting']), '2', 'and the two still wait');
}
$holder->query_safe('SELECT pg_advisory_unlock(77)');
$holder->quit;
ok(passed("locked_$_", $l), 'they go on when the lock is given back') for 1, 2;
is(q1('SELECT count(*) FROM locked_1') . q1('SELECT count(*) FROM locked_2'), '22', 'each event once');

# ---- a third projection beside two whose handlers do not end

# They wait without a lock, so nothing ends them but the test. Once a batch of each has taken more than a second, they share one of the
# two workers; else the third one would never get any.
q1(q[CREATE FUNCTION hold(key int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	WHILE NOT pg_try_advisory_xact_lock_shared(key) LOOP PERFORM pg_sleep(0.05); END LOOP;
END $$]);
q1(qq[SELECT es_create_projection('held_$_', 'SELECT hold(78), count(*) FROM new_events', event_types => '{H$_,H}')]) for 1, 2;
for my $i (1, 2)
{
	$holder = $node->background_psql($db);
	$holder->query_safe('SELECT pg_advisory_lock(78)');
	my $position = append('h-1', "H$i");
	ok($node->poll_query_until($db, "SELECT clock_timestamp() - active_since > interval '1.5 s' FROM event_store.projection_status WHERE name = 'held_$i'"),
		"held_$i has been at work for more than a second");
	$holder->quit;
	ok(passed("held_$i", $position), 'and ends');
}
$holder = $node->background_psql($db);
$holder->query_safe('SELECT pg_advisory_lock(78)');
my $held = append('h-1', 'H');
ok($node->poll_query_until($db, q[SELECT count(pid) = 1 FROM event_store.projection_status WHERE name LIKE 'held_%']), 'one of them is at work again');
for my $i (1 .. 3)
{
	my $position = append('a-1', 'T16');
	ok(passed('p16', $position), "a third one goes on, $i");
	is(q1(q[SELECT count(pid) FROM event_store.projection_status WHERE name LIKE 'held_%']), '1', 'and only one of them has a worker');
}
$holder->quit;
ok(passed("held_$_", $held), 'both end when they can') for 1, 2;

# ---- a checkpoint that somebody holds

$holder = $node->background_psql($db);
$holder->query_safe(q[BEGIN; SELECT es_pause('p15')]);
my $pid = $holder->query_safe('SELECT pg_backend_pid()');
is(status('p15', 'blocked_by'), "{$pid}", 'the status shows who holds a checkpoint');
$holder->query_safe('ROLLBACK');
$holder->quit;
is(status('p15', 'blocked_by IS NULL'), 't', 'and that nobody does');

is(q1('SELECT count(*) FROM es_check()'), '0', 'the store is as it should be');
$node->stop;
done_testing();
