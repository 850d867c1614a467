# event_store.idle_append_timeout: the coordinator ends the session of who has appended, or holds streams, and then does
# nothing in the open transaction. Nobody else's.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Quiet;
use Test::More;

my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q[
shared_preload_libraries = 'event_store'
autovacuum = off
max_worker_processes = 12
max_prepared_transactions = 5
event_store.poll_interval = 100ms
event_store.idle_append_timeout = 0
]);
$node->start;
$node->safe_psql($db, 'CREATE EXTENSION event_store; SELECT es_create_store()');

sub ask { return $node->safe_psql($db, $_[0]) }
sub poll { return $node->poll_query_until($db, $_[0]) }

sub lines
{
	my ($what) = @_;
	my @found = slurp_file($node->logfile) =~ /$what/g;
	return scalar @found;
}

my %sessions;

# A session with this application_name, in a transaction, after these statements.
sub session
{
	my ($name, $statements) = @_;

	$sessions{$name} = $node->background_psql($db, on_error_stop => 0);
	$sessions{$name}->query("SET application_name = '$name'; BEGIN; $statements");
	return;
}

sub alive
{
	return ask(q[SELECT coalesce(string_agg(application_name, ' ' ORDER BY application_name), '') FROM pg_stat_activity
		WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()]);
}

# So long that with a timeout of 200 ms each of these would have been ended.
my $for_long = q[SELECT bool_and(clock_timestamp() - state_change > '3 s') FROM pg_stat_activity
	WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()];

ok(poll(q[SELECT coordinator_pid IS NOT NULL FROM event_store.status]), 'a coordinator runs');
ask(q[SELECT es_append('seen-1', 0, 'Known', '{}'::jsonb)]);
ok(poll('SELECT mark = newest_position FROM event_store.status'), 'the mark is at the end');

session('forgotten', q[SELECT es_append('forgotten-1', 0, 'Known', '{}'::jsonb)]);
session('failed', q[SELECT es_append('failed-1', 0, 'Known', '{}'::jsonb); SAVEPOINT s; SELECT 1 / 0]);
session('reader', q[SELECT count(*) FROM es_read_all()]);
session('writer', 'CREATE TABLE other ()');
session('worker', q[SELECT es_append('worker-1', 0, 'Known', '{}'::jsonb)]);
$sessions{worker}->query_until(qr/begun/, "\\echo begun\nSELECT pg_sleep(1000);\n");
ask(q[BEGIN; SELECT es_append('prepared-1', 0, 'Known', '{}'::jsonb); PREPARE TRANSACTION 'left behind']);
ask(q[SELECT es_append('seen-1', 1, 'Known', '{}'::jsonb)]);
ok(poll(q[SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'worker' AND state = 'active']), 'one is at work');
is(ask(q[SELECT string_agg(state, ', ' ORDER BY application_name) FROM pg_stat_activity WHERE application_name IN ('failed', 'forgotten', 'reader', 'writer')]),
	'idle in transaction (aborted), idle in transaction, idle in transaction, idle in transaction', 'the others do nothing');

ok(poll($for_long), 'for long');
is(alive(), 'failed forgotten reader worker writer', 'without the setting nobody is ended');
is(ask('SELECT newest_position - mark, sessions_ended FROM event_store.status'), '5|0', 'and the mark is held back');

my ($holder, $since) = split /\|/, ask(q[SELECT pid, state_change FROM pg_stat_activity WHERE application_name = 'forgotten']);
ask(q[ALTER SYSTEM SET event_store.idle_append_timeout = '200ms']);
$node->reload;
ok(poll(q[SELECT sessions_ended = 2 FROM event_store.status]), 'with it two sessions are ended');
is(alive(), 'reader worker writer', 'those that have appended and are idle');
is(lines(qr/ended the session of process $holder, which was idle in a transaction that has appended/), 1, 'the log says who');
is(lines(qr/application "forgotten": idle since \Q$since\E, in this transaction since /), 1, 'and since when');
my $now = ask('SELECT now()');
ok(poll("SELECT query_start > '$now'::timestamptz + '1 s' FROM pg_stat_activity WHERE backend_type = 'event_store coordinator'"),
	'the coordinator goes on looking');
is(alive(), 'reader worker writer', 'who is at work, or has not appended, is left alone');
is(lines(qr/prepared transaction "left behind" holds the high-water mark back/), 1, 'of a prepared transaction it is said once');
is(ask(q[SELECT count(*) FROM pg_prepared_xacts]), 1, 'and it is left alone');

ask(q[ROLLBACK PREPARED 'left behind']);
ask(q[SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'worker']);
ok(poll(q[SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'worker' AND state = 'active']), 'work is over: the transaction has failed');
ok(poll(q[SELECT mark = newest_position FROM event_store.status]), 'the mark goes on');
is(ask(q[SELECT sessions_ended FROM event_store.status]), 2, 'a failed transaction holds nothing and is left alone');
is(ask(q[SELECT string_agg(DISTINCT stream, ' ') FROM es_read_all()]), 'seen-1', 'nothing of those appends is there');
is(ask(q[SELECT version FROM es_append('forgotten-1', 0, 'Known', '{}'::jsonb)]), 1, 'their streams are free');
is($node->safe_psql($db, "SELECT * FROM es_check('all')"), '', 'es_check finds nothing');

# Who holds streams and has not appended, so that the mark is not behind.
is(ask('SELECT newest_position - mark FROM event_store.status'), 0, 'nothing holds the mark back');
session('locked', q[SELECT es_lock_stream('seen-1'), es_lock_stream('unseen-1')]);
ok(poll(q[SELECT sessions_ended = 3 FROM event_store.status]), 'the session that holds streams is ended');
is(lines(qr/which was idle in a transaction that holds streams/), 1, 'the log says why');
is(ask(q[SELECT count(*) FROM es_lock_streams('{seen-1,unseen-1}')]), 2, 'its streams are free');
session('given back', q[SAVEPOINT s; SELECT es_lock_stream('seen-1'); ROLLBACK TO s]);
ask(q[BEGIN; SELECT es_lock_stream('prepared-1'); PREPARE TRANSACTION 'holds']);
$now = ask('SELECT now()');
ok(poll("SELECT query_start > '$now'::timestamptz + '1 s' FROM pg_stat_activity WHERE backend_type = 'event_store coordinator'"),
	'the coordinator looks');
like(alive(), qr/given back/, 'who has given them back is left alone');
ok($node->poll_query_until('postgres', q[SELECT true]) && lines(qr/prepared transaction "holds" holds streams/) == 1, 'a prepared transaction is logged once');
ask(q[ROLLBACK PREPARED 'holds']);

# ---- the sequence is set back into a gap that readers have passed, under a session that has looked before
$sessions{old} = $node->background_psql($db, on_error_stop => 0);
$sessions{old}->query(q[SELECT es_append('old-1', 0, 'Known', '{}'::jsonb)]);
my $gap = ask(q[BEGIN; SELECT position FROM es_append('gap-1', 0, 'Known', '{}'::jsonb); ROLLBACK]);
ask(q[SELECT es_append('seen-1', 2, 'Known', '{}'::jsonb)]);
cmp_ok(ask('SELECT es_high_water_mark()'), '>', $gap, 'the mark has passed a gap');
ask("SELECT setval('event_store.position_seq', $gap, false)");
$sessions{old}->query(q[SELECT es_append('old-1', 1, 'Known', '{}'::jsonb)]);
is(lines(qr/sequence "event_store.position_seq" was set back/), 1, 'nobody may append there, where no reader would find it');
is(ask(q[SELECT count(*) FROM es_read('old-1')]), 1, '... and nothing was');
ask('SELECT es_begin_epoch()');
is($sessions{old}->query(q[SELECT version FROM es_append('old-1', 1, 'Known', '{}'::jsonb)]), 2, 'in a new epoch it goes on');
is($node->safe_psql($db, "SELECT * FROM es_check('all')"), '', 'es_check finds nothing');

eval { $_->quit } for values %sessions;
$node->stop;
unlike(slurp_file($node->logfile), qr/TRAP:|PANIC:|terminated by signal|WARNING: /, 'no crash and no warning in the log');
done_testing();
