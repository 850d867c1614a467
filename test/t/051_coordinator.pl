# What the coordinator does for a store: publishing, notifications, partitions, keys, snapshots; what must not hold
# it up; that an idle one writes nothing, and that it does not grow. Who starts and stops it is in 050_workers.pl.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Quiet;
use Test::More;
use Time::HiRes qw(time);

my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q[
shared_preload_libraries = 'event_store'
autovacuum = off
log_statement = none
wal_level = replica
max_wal_senders = 2
max_worker_processes = 12
max_prepared_transactions = 5
event_store.poll_interval = 100ms
synchronous_commit = local
]);
$node->start;
$node->safe_psql($db, 'CREATE EXTENSION event_store; SELECT es_create_store()');

sub ask { return $node->safe_psql($db, $_[0]) }
sub poll { return $node->poll_query_until($db, $_[0]) }

sub lines
{
	my ($what, $from) = @_;
	my @found = slurp_file($node->logfile, $from // 0) =~ /$what/g;
	return scalar @found;
}

sub log_size { return -s $node->logfile }

my $streams = 0;

sub append
{
	my ($category) = @_;
	$streams++;
	return ask(sprintf q[SELECT position FROM es_append('%s-%d', 0, 'Tried', '{}'::jsonb)], $category // 'test', $streams);
}

ok(poll(q[SELECT coordinator_pid IS NOT NULL FROM event_store.status]), 'a coordinator runs');

# ---- the mark

my $position = append();
ok(poll("SELECT mark = $position FROM event_store.mark"), 'the mark is published after an append');
ok(poll("SELECT m.stable_until >= e.recorded_at FROM event_store.mark m, event_store.events e WHERE e.position = $position"),
	'then stable_until passes the event');

my $writer = $node->background_psql($db);
$writer->query_safe(q[BEGIN; SELECT es_append('open-1', 0, 'Tried', '{}'::jsonb)]);
$position = append();
my $waiting = ask(q[SELECT mark FROM event_store.mark]);
cmp_ok($waiting, '<', $position - 1, 'an open append holds the mark back');
$writer->query_safe('ROLLBACK');
ok(poll("SELECT mark = $position FROM event_store.mark"), 'its rollback lets it go on');

$writer->query_safe(q[BEGIN; SELECT es_append('open-1', 0, 'Tried', '{}'::jsonb); PREPARE TRANSACTION 'two']);
$position = append();
cmp_ok(ask(q[SELECT mark FROM event_store.mark]), '<', $position - 1, 'a prepared append holds the mark back');
ask(q[COMMIT PREPARED 'two']);
ok(poll("SELECT mark = $position FROM event_store.mark"), 'COMMIT PREPARED lets it go on, though it tells nobody');

# ---- an idle server writes nothing

ask('CHECKPOINT');
sub rested
{
	# The coordinator has looked ten times, and nothing was written.
	my ($before) = @_;
	my $seen = 0;
	my $last = '';
	my $deadline = time + 60;
	while ($seen < 10 && time < $deadline)
	{
		my $now = ask(q[SELECT query_start FROM pg_stat_activity WHERE backend_type = 'event_store coordinator']);
		$seen++ if $now ne $last;
		$last = $now;
	}
	return $seen == 10;
}
ok(poll(q[SELECT stable_until >= floor - interval '1 min' AND mark = (SELECT newest_position FROM event_store.status) FROM event_store.mark]), 'at rest');
rested();
my $quiet = 0;
for (1 .. 5)
{
	my $before = ask('SELECT pg_current_wal_insert_lsn()');
	ok(rested(), 'the coordinator goes on looking') if $_ == 1;
	rested();
	$quiet = $before eq ask('SELECT pg_current_wal_insert_lsn()');
	last if $quiet;    # the server itself writes now and then after a checkpoint
}
ok($quiet, 'an idle server writes no WAL');

# ---- as of now

ask(q[SELECT es_register_aggregate('state', fold => 'state || data', snapshot_every => 10)]);
ask(q[SELECT es_append('state-1', 0, 'Set', '{"a": 1}'::jsonb)]);
rested();
for my $load (q[es_load_at('state-1', now)], q[es_load_category('state', now)])
{
	# With a wait that outlasts a busy disk; how long it takes is looked at below.
	is(ask(qq[SET event_store.as_of_wait = '30s'; DO \$\$ DECLARE now timestamptz; BEGIN now := clock_timestamp(); PERFORM state FROM $load; END \$\$; SELECT 1]), 1,
		"$load is final on an idle server");
}
# On an idle server stable_until stays behind the floor. A load of all streams as of a time between the two has the
# coordinator publish, as one as of a later time has.
for my $load (q[es_load_at('state-1', now)], q[es_load_category('state', now)])
{
	ask(q[SET event_store.as_of_wait = '30s'; DO $$ BEGIN PERFORM es_load_category('state', clock_timestamp()); END $$]);
	ok(poll(q[SELECT floor > stable_until FROM event_store.mark]), 'the floor is ahead');
	rested();
	is(ask(qq[SET event_store.as_of_wait = '30s'; DO \$\$ DECLARE now timestamptz; BEGIN SELECT floor INTO now FROM event_store.mark;
		PERFORM state FROM $load; END \$\$; SELECT 1]), 1, "$load is final as of the floor");
}
# Above READ COMMITTED the snapshot cannot change. There a load is refused at once, and has the coordinator publish for the next try.
for my $load (q[es_load_at('state-1', now)], q[es_load_category('state', now)])
{
	rested();
	my $now = ask(q[SELECT clock_timestamp()]);
	(my $as_of = $load) =~ s/now/'$now'/;
	my $try = sub { my ($rc, $out) = $node->psql($db, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM $as_of; COMMIT"); return $rc == 0 };
	my $final = 0;
	my $until = time + 60;
	select(undef, undef, undef, 0.05) until ($final = $try->()) || time > $until;
	ok($final, "$load becomes final for REPEATABLE READ");
}
my $took = ask(q[SET event_store.as_of_wait = '30s'; DO $$ DECLARE t timestamptz; n timestamptz; worst interval := '0'; BEGIN
		FOR i IN 1 .. 20 LOOP
			t := clock_timestamp(); PERFORM pg_sleep(0.03); n := clock_timestamp();
			PERFORM state FROM es_load_at('state-1', n - interval '1 us');
			worst := greatest(worst, clock_timestamp() - n);
		END LOOP;
		PERFORM set_config('test.worst', extract(milliseconds FROM worst)::text, false); END $$;
	SELECT current_setting('test.worst')]);
note("slowest of 20 es_load_at(now): $took ms");
cmp_ok($took, '<', 15_000, 'it does not wait for as_of_wait');

# ---- notifications

my $listener = $node->background_psql($db);
$listener->query_safe('LISTEN event_store');
# All notifications that arrive until a mark is there.
sub heard
{
	my ($until) = @_;
	my $said = '';
	my $deadline = time + 60;
	while ($said !~ /payload "$until"/ && time < $deadline)
	{
		$said .= $listener->query('SELECT 1');
	}
	return $said;
}
rested();
$position = append();
my $said = heard($position);
is(scalar(() = $said =~ /Asynchronous notification/g), 1, 'one notification for an append');
like($said, qr/notification "event_store" with payload "$position"/, 'which says the mark');
append() for 1 .. 9;
$position = append();
$said = heard($position);
my @payloads = $said =~ /payload "(\d+)"/g;
cmp_ok(scalar @payloads, '<=', 10, 'several are coalesced');
is_deeply(\@payloads, [ sort { $a <=> $b } @payloads ], 'in order');
my %seen;
is(scalar(grep { $seen{$_}++ } @payloads), 0, 'none twice');
rested();
is(scalar(() = $listener->query('SELECT 1') =~ /Asynchronous/g), 0, 'none while nothing happens');

# NOTIFY wakes it: with a poll of a minute, a prepared append is published at once.
$node->append_conf('postgresql.conf', "event_store.poll_interval = 60s\n");
$node->reload;
ok(poll(q[SELECT count(*) = 1 FROM pg_settings WHERE name = 'event_store.poll_interval' AND setting = '60000']), 'a poll of a minute');
append();    # wakes it, so that it reads the setting
ok(poll(q[SELECT mark = (SELECT newest_position FROM event_store.status) FROM event_store.mark]), 'published');
rested() for 1 .. 2;
$writer->query_safe(q[BEGIN; SELECT es_append('open-2', 0, 'Tried', '{}'::jsonb); PREPARE TRANSACTION 'two']);
$position = append();
ask(q[COMMIT PREPARED 'two']);
my $start = time;
ask('NOTIFY event_store');
ok(poll("SELECT mark = $position FROM event_store.mark"), 'NOTIFY event_store wakes the coordinator');
cmp_ok(time - $start, '<', 20, 'at once');
$node->append_conf('postgresql.conf', "event_store.poll_interval = 100ms\n");
$node->reload;

# ---- somebody holds the lock of notifications

$node->append_conf('postgresql.conf', "synchronous_standby_names = 'missing'\n");
$node->reload;
ok(poll(q[SELECT setting = 'missing' FROM pg_settings WHERE name = 'synchronous_standby_names']), 'a standby is missing');
append();    # the checkpointer tells whether anybody is to wait
my $from = log_size();
my $stuck = $node->background_psql($db, on_error_stop => 0);
$stuck->query_until(qr/begun/, "SET synchronous_commit = on;\n\\echo begun\nBEGIN; CREATE TABLE written (); NOTIFY other; COMMIT;\n");
ok(poll(q[SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep']), 'a session is stuck in its commit');
$position = append();
ok(poll("SELECT mark = $position FROM event_store.mark"), 'appends are published all the same');
$node->wait_for_log(qr/could not send a notification/, $from);
$position = append();
ok(poll("SELECT mark = $position FROM event_store.mark"), 'and go on being');
rested() for 1 .. 2;
is(lines(qr/could not send a notification/, $from), 1, 'the log says once that nobody is told');
ask(q[SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep']);
like(heard($position), qr/payload "$position"/, 'they are when the lock is free');
is(lines(qr/could send a notification again/, $from), 1, 'and the log says so');
eval { $stuck->quit };

# What was not sent yet waits for as long as somebody drops the extension; it does not keep the coordinator busy.
$stuck = $node->background_psql($db, on_error_stop => 0);
$stuck->query_until(qr/begun/, "SET synchronous_commit = on;\n\\echo begun\nBEGIN; CREATE TABLE written_too (); NOTIFY other; COMMIT;\n");
ok(poll(q[SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep']), 'a session is stuck in its commit again');
$from = log_size();
$position = append();
$node->wait_for_log(qr/could not send a notification/, $from);
my $dropper = $node->background_psql($db);
$dropper->query_safe(q[SET client_min_messages = warning; BEGIN; LOCK TABLE event_store.store; DROP EXTENSION event_store CASCADE]);
ask(q[SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep']);
sub rolled_back { return ask(q[SELECT pg_stat_clear_snapshot() IS NULL, xact_rollback FROM pg_stat_database WHERE datname = current_database()]) =~ s/.*\|//r }
rolled_back();
my $rolled_back = rolled_back();
$start = time;
select(undef, undef, undef, 0.2) while time < $start + 3;
cmp_ok(rolled_back() - $rolled_back, '<', 1000 * (time - $start), 'it tries now and then meanwhile');
$dropper->query_safe('ROLLBACK');
$dropper->quit;
like(heard($position), qr/payload "$position"/, 'and sends it afterwards');
eval { $stuck->quit };
$node->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
$node->reload;

# ---- somebody holds the row of the mark

$from = log_size();
my $holder = $node->background_psql($db);
$holder->query_safe('BEGIN; SELECT es_publish_mark()');
$position = append();
$node->wait_for_log(qr/could not publish the high-water mark/, $from);
append();
$holder->query_safe('COMMIT');
ok(poll("SELECT mark > $position FROM event_store.mark"), 'after a lock on the row the mark goes on');
is(lines(qr/could not publish/, $from), 1, 'said once');

# ---- partitions ahead

is(ask(q[SELECT count(*) FROM event_store.partitions]), 3, 'two empty partitions are kept ahead');
ask(q[ALTER SYSTEM SET event_store.partition_size = 100]);
$node->reload;
ask(q[DROP SCHEMA event_store CASCADE]);
ask(q[SET event_store.partition_size = 100; SELECT es_create_store()]);
ok(poll(q[SELECT count(*) = 3 FROM event_store.partitions]), 'also after the store was made anew');
ask(q[SELECT es_append_batch(array_fill('test-1'::text, '{150}'), array_fill('Tried'::text, '{150}'), array_fill('{}'::jsonb, '{150}'))]);
ok(poll(q[SELECT count(*) = 2 FROM event_store.partitions WHERE from_position > 150]), 'and as the log grows');
# A lock that a new leaf needs: nothing else waits for it.
$from = log_size();
$holder->query_safe('BEGIN; LOCK TABLE event_store.log IN SHARE UPDATE EXCLUSIVE MODE');
ask(q[SELECT es_append_batch(array_fill('test-1'::text, '{100}'), array_fill('Tried'::text, '{100}'), array_fill('{}'::jsonb, '{100}'))]);
$position = append();
ok(poll("SELECT mark = $position FROM event_store.mark"), 'a lock on the log does not hold up the mark');
$node->wait_for_log(qr/could not make a partition of the event log ahead/, $from);
ok(poll(q[SELECT failing_duties->0->>'duty' = 'make a partition of the event log ahead' AND failing_duties->0->>'error_code' = '55P03'
		AND failing_duties->0->>'error' LIKE '%lock timeout%' AND failing_duties->0->'since' IS NOT NULL FROM event_store.status]),
	'the status says which duty fails, and why');
$holder->query_safe('COMMIT');
ok(poll(q[SELECT count(*) = 2 FROM event_store.partitions WHERE from_position > (SELECT mark FROM event_store.mark)]), 'when it is gone they are made');
is(lines(qr/could not make a partition/, $from), 1, 'said once');
ok(poll(q[SELECT failing_duties IS NULL FROM event_store.status]), 'and the status has nothing to say any more');
# One that a coordinator leaves behind is not the next one's.
$holder->query_safe('BEGIN; LOCK TABLE event_store.log IN SHARE UPDATE EXCLUSIVE MODE');
ask(q[SELECT es_append_batch(array_fill('test-1'::text, '{100}'), array_fill('Tried'::text, '{100}'), array_fill('{}'::jsonb, '{100}'))]);
ok(poll(q[SELECT failing_duties IS NOT NULL FROM event_store.status]), 'it fails again');
ask('SELECT es_stop_worker()');
is(ask(q[SELECT failing_duties IS NULL AND coordinator_pid IS NULL FROM event_store.status]), 't', 'without a coordinator none fails');
$holder->query_safe('COMMIT');
ask('SELECT es_start_worker()');
ok(poll(q[SELECT count(*) = 0 FROM event_store.duties]), 'the next one begins with none');
ask(q[ALTER SYSTEM RESET event_store.partition_size]);
$node->reload;

# ---- idempotency keys

ask(q[SELECT es_append('key-' || i, 0, 'Tried', '{}', idempotency_key => 'k') FROM generate_series(1, 3000) i]);
ask(q[SELECT es_append_batch('{keyed-1}', '{Tried}', '{"{}"}', idempotency_key => 'b')]);
is(ask(q[SELECT (SELECT count(*) FROM event_store.append_keys) + (SELECT count(*) FROM event_store.batch_keys)]), 3001, 'keys are kept');
ask(q[ALTER SYSTEM SET event_store.idempotency_retention = '1s']);
$node->reload;
ok(poll(q[SELECT (SELECT count(*) FROM event_store.append_keys) + (SELECT count(*) FROM event_store.batch_keys) = 0]), 'expired keys are purged');
ask(q[ALTER SYSTEM SET event_store.idempotency_retention = '1h']);
$node->reload;
ask(q[SELECT es_append('key-' || i, 1, 'Tried', '{}', idempotency_key => 'k2') FROM generate_series(1, 10) i]);
rested() for 1 .. 3;
is(ask(q[SELECT count(*) FROM event_store.append_keys]), 10, 'others are not');
ask(q[ALTER SYSTEM RESET event_store.idempotency_retention]);
$node->reload;

# ---- snapshots that are due

ask(q[SELECT es_register_aggregate('snap', fold => 'state || data', snapshot_every => 10)]);
ask(q[SELECT es_append('snap-' || s, -2, 'Set', jsonb_build_object('n', i)) FROM generate_series(1, 5) s, generate_series(1, 9) i]);
rested();
is(ask(q[SELECT count(*) FROM event_store.snapshots]), 0, 'no snapshot is due');
ask(q[SELECT es_append('snap-' || s, -2, 'Set', '{"n": 10}') FROM generate_series(1, 3) s]);
ok(poll(q[SELECT count(*) = 3 AND bool_and(version = 10) FROM event_store.snapshots]), 'snapshots that are due are taken');
is(ask(q[SELECT snapshots_taken FROM event_store.status]), 3, 'and counted');
ask(q[SELECT es_register_aggregate('broken', fold => 'jsonb_build_object(''n'', 1 / (data->>''n'')::int)', snapshot_every => 2)]);
$from = log_size();
ask(q[SELECT es_append('broken-1', -2, 'Set', '{"n": 0}') FROM generate_series(1, 4) s]);
ask(q[SELECT es_append('snap-4', -2, 'Set', '{"n": 10}')]);
ok(poll(q[SELECT count(*) = 4 FROM event_store.snapshots]), 'one that fails does not stop the others');
is(lines(qr/could not take a snapshot of stream "broken-1"/, $from), 1, 'it is logged once');

# ---- pool workers

SKIP:
{
	skip 'there are no projections', 8 if ask(q[SELECT count(*) FROM pg_proc WHERE proname = 'es_create_projection']) eq '0';
	ask(q[CREATE TABLE counted (stream text PRIMARY KEY, n bigint)]);
	ask(q[SELECT es_create_projection('counting', 'INSERT INTO counted SELECT stream, count(*) FROM new_events GROUP BY stream
		ON CONFLICT (stream) DO UPDATE SET n = counted.n + EXCLUDED.n', tables => '{counted}')]);
	ok(poll(q[SELECT workers = 1 FROM event_store.status]), 'a pool worker runs where there is a projection');
	ok(poll(q[SELECT (SELECT sum(n) FROM counted) = (SELECT count(*) FROM event_store.events)]), 'it is at work');
	my $busy = $node->background_psql($db, on_error_stop => 0);
	$busy->query_until(qr/begun/, q[\echo begun
SET client_min_messages = error; DO $$ BEGIN FOR i IN 1 .. 1000000 LOOP PERFORM es_append('busy-1', -2, 'Worked', '{}'::jsonb); COMMIT; END LOOP; END $$;
]);
	my $old = ask(q[SELECT pid FROM es_workers() WHERE kind = 'worker']);
	ask("SELECT pg_terminate_backend($old)");
	ok(poll("SELECT count(*) = 1 FROM es_workers() WHERE kind = 'worker' AND pid <> $old"), 'a terminated one is replaced');
	ask('CREATE DATABASE bystander');
	$start = time;
	ask('DROP DATABASE bystander');
	cmp_ok(time - $start, '<', 5, 'DROP DATABASE of another database while workers are busy');
	$start = time;
	# Each is let in between two appends; a victim of a deadlock would end the test.
	ask(q[SET client_min_messages = warning; SET lock_timeout = '20s'; BEGIN; DROP EXTENSION event_store CASCADE; ROLLBACK]) for 1 .. 5;
	cmp_ok(time - $start, '<', 20, 'DROP EXTENSION gets its locks while workers and an appender are busy');
	is(ask(q[SELECT coordinator_pid IS NOT NULL FROM event_store.projection_status]), 't', 'the status of projections says that somebody sees to them');
	$start = time;
	is(ask('SELECT es_stop_worker()'), 't', 'es_stop_worker() stops them');
	is(ask(q[SELECT coordinator_pid IS NULL AND workers = 0 FROM event_store.status]), 't', 'all of them');
	append();
	ok(poll(q[SELECT coordinator_pid IS NULL AND lag_events > 0 AND lag_seconds > 0 FROM event_store.projection_status]),
		'with nobody to publish there is a lag, and the status says that nobody sees to it');
	ask('SELECT es_start_worker()');
	ok(poll(q[SELECT workers = 1 FROM event_store.status]), 'and they come back');
	ask(q[SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%busy-1%' AND pid <> pg_backend_pid()]);
	eval { $busy->quit };
	ok(poll(q[SELECT (SELECT sum(n) FROM counted) = (SELECT count(*) FROM event_store.events)]), 'nothing was lost');
	ask(q[SELECT es_drop_projection('counting')]);
	ok(poll(q[SELECT workers = 0 FROM event_store.status]), 'without a projection there is none');
}

# ---- memory

sub memory
{
	my $offset = log_size();
	ask(q[SELECT pg_log_backend_memory_contexts(coordinator_pid) FROM event_store.status]);
	$node->wait_for_log(qr/Grand total: \d+ bytes/, $offset);
	my ($bytes) = slurp_file($node->logfile, $offset) =~ /Grand total: (\d+) bytes/;
	return $bytes;
}
ask(q[ALTER SYSTEM SET event_store.mark_interval = '1ms']);
$node->reload;
my $appender = q[DO $$ BEGIN FOR i IN 1 .. %d LOOP PERFORM es_append('memory-1', -2, 'Tried', '{}'::jsonb); COMMIT;
	IF i %% 10 = 0 THEN PERFORM pg_sleep(0.002); END IF; END LOOP; END $$];
my $rounds = q[SELECT pg_stat_force_next_flush() IS NULL, n_tup_upd FROM pg_stat_user_tables WHERE relname = 'mark'];
ask(sprintf $appender, 5000);
my $bytes = memory();
my ($before) = ask($rounds) =~ /(\d+)$/;
my $after = $before;
my $deadline = time + 120;
while ($after < $before + 10_000 && time < $deadline)
{
	ask(sprintf $appender, 10_000);
	($after) = ask($rounds) =~ /(\d+)$/;
}
my $grown = memory() - $bytes;
cmp_ok($after - $before, '>=', 10_000, sprintf '%d rounds were published', $after - $before);
cmp_ok($grown, '<', 100_000, "the coordinator has grown by $grown of $bytes bytes");
is($node->safe_psql($db, "SELECT * FROM es_check('all')"), '', 'es_check finds nothing');

$start = time;
$node->stop('fast');
cmp_ok(time - $start, '<', 20, 'fast shutdown');
unlike(slurp_file($node->logfile), qr/TRAP:|PANIC:|terminated by signal|WARNING: .*leak/, 'no crash and no leak in the log');
done_testing();
