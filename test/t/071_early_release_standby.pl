# Early lock release and a synchronous standby: what a function of ours reports is there too, whatever way it was committed.
#
# Mostly with the standby stopped: then nobody's commit gets further than this machine, for as long as the test wants.
#
# On every version: the server has its part in it.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Quiet;
use Test::More;
use Time::HiRes qw(time usleep);

my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', q[
autovacuum = off
shared_preload_libraries = 'event_store'
event_store.early_lock_release = on
]);
$node->start;
$node->safe_psql($db, q[CREATE EXTENSION event_store; SELECT es_create_store(); SELECT es_stop_worker(); CREATE TABLE staging (a int);
	SELECT es_append('plain-1', 0, 'X', '{}')]);

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->safe_psql($db, q[ALTER SYSTEM SET synchronous_standby_names = 'standby'; SELECT pg_reload_conf()]);
$node->poll_query_until($db, "SELECT sync_state = 'sync' FROM pg_stat_replication") or die;

my $local = 'SET synchronous_commit = local';

sub session
{
	my ($name) = @_;
	my $session = $node->background_psql($db, on_error_stop => 0);
	$session->query_safe("SET application_name = '$name'");
	return $session;
}

sub begin { my ($session, $sql) = @_; $session->query_until(qr/sent/, "\\echo sent\n$sql\n") }

sub waits_for_standby
{
	my ($name) = @_;
	return $node->poll_query_until($db,
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = '$name' AND wait_event = 'SyncRep'");
}

# What a question is answered within two seconds, or the end of its error.
sub answer
{
	my ($sql) = @_;
	my ($stdout, $stderr);
	$node->psql($db, "SET statement_timeout = '2s';\n$sql", stdout => \$stdout, stderr => \$stderr);
	return 'waits' if $stderr =~ /statement timeout/;
	return $stderr ne '' ? $stderr : $stdout;
}

# ---- with the standby there

is($node->safe_psql($db, "SELECT version FROM es_append('plain-1', 1, 'X', '{}')"), '2', 'an append is acknowledged');
is($node->safe_psql($db, "SET synchronous_commit = remote_apply; SELECT version FROM es_append('apply-1', 0, 'X', '{}')"), '1', 'remote_apply too');
is($standby->safe_psql($db, "SELECT es_stream_version('apply-1')"), '1', '... when it is applied');
# A standby that has flushed but not applied keeps nobody from reading.
$standby->safe_psql($db, 'SELECT pg_wal_replay_pause()');
$standby->poll_query_until($db, "SELECT pg_get_wal_replay_pause_state() = 'paused'") or die;
is(answer("SELECT version FROM es_append('apply-1', 1, 'X', '{}')"), '2', 'an append is not applied');
is(answer("SET synchronous_commit = remote_apply; SELECT count(*) FROM es_read('apply-1')"), '2', '... but safe, and reported');
is(answer("SET synchronous_commit = remote_apply; SELECT count(*) FROM es_read_all(0, NULL)"), '4', '... by all functions');
$standby->safe_psql($db, 'SELECT pg_wal_replay_resume()');

# ---- without it

$standby->stop;
my %session = map { $_ => session($_) } qw(a b c);
sub all_answered
{
	my (@who) = @_;
	$node->safe_psql($db, "$local; ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf()");
	$session{$_}->query_safe('SELECT 1') for @who;
	$node->safe_psql($db, "$local; ALTER SYSTEM SET synchronous_standby_names = 'standby'; SELECT pg_reload_conf()");
	$node->poll_query_until($db, "SELECT current_setting('synchronous_standby_names') = 'standby'") or die;
	# The checkpointer has heard of it, too.
	begin($session{$who[0]}, "SELECT pg_logical_emit_message(true, 'x', 'y');");
	waits_for_standby($who[0]) or die;
	$node->safe_psql($db, "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = '$who[0]'");
	$session{$who[0]}->query('SELECT 1');
	$session{$who[0]}->{stderr} = '';
}

is(answer("SELECT es_stream_version('plain-1')"), '2', 'what the standby has is reported');

# A row that is frozen meanwhile.
begin($session{a}, "SELECT es_append('frozen-1', 0, 'X', '{}');");
ok(waits_for_standby('a'), 'an append waits');
is($node->safe_psql($db, "SELECT version FROM event_store.streams WHERE stream = 'frozen-1'"), '1', '... and is visible');
is(answer("SELECT es_stream_version('frozen-1')"), 'waits', 'who asks for it waits too');
$node->safe_psql($db, "$local; VACUUM (FREEZE) event_store.heads");
is(answer("SELECT es_stream_version('frozen-1')"), 'waits', '... and when its row has been frozen');
all_answered('a');

# A transaction that has written over what it would report.
begin($session{a}, "SELECT es_append('over-1', 0, 'X', '{}');");
ok(waits_for_standby('a'), 'an append waits');
is(answer("$local; BEGIN; SELECT version FROM es_append('over-1', -2, 'X', '{}'); ROLLBACK"), '2', 'another follows');
is(answer("BEGIN; SELECT es_append('over-1', -2, 'X', '{}'); SELECT count(*) FROM es_read('over-1'); ROLLBACK"), 'waits',
	'... and does not read the first one to its client');
is(answer("BEGIN; SAVEPOINT s; SELECT es_append('over-1', -2, 'X', '{}'); RELEASE s; SELECT count(*) FROM es_read('over-1'); ROLLBACK"),
	'waits', '... nor from a subtransaction');
all_answered('a');

# remote_apply keeps its locks.
begin($session{a}, "SET synchronous_commit = remote_apply; SELECT es_append('apply-2', 0, 'X', '{}'); RESET synchronous_commit;");
ok(waits_for_standby('a'), 'an append with remote_apply waits');
is($node->safe_psql($db, "SELECT count(*) FROM event_store.streams WHERE stream = 'apply-2'"), '0', '... and is not visible');
all_answered('a');

# Commits that are flushed before they are visible leave no trace of where they end.
for my $also ('TRUNCATE staging', 'SELECT es_publish_mark()')
{
	my $stream = $also =~ /TRUNCATE/ ? 'files-1' : 'forced-1';

	begin($session{a}, "BEGIN; $also; SELECT es_append('$stream', 0, 'X', '{}'); COMMIT;");
	ok(waits_for_standby('a'), "an append with $also waits");
	like(answer("SELECT es_stream_version('$stream')"), qr/^(0|waits)$/, '... and nobody is told of it');
	all_answered('a');
	is(answer("$local; SELECT es_stream_version('$stream')"), '1', '... before it is there');
}

# The published mark, as an old snapshot has it.
begin($session{a}, "SELECT es_append('mark-1', 0, 'X', '{}');");
ok(waits_for_standby('a'), 'an append waits');
$node->safe_psql($db, "$local; SELECT es_publish_mark()");
is(answer("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM es_read_all(0, NULL) WHERE stream = 'mark-1'; COMMIT"), 'waits',
	'the published mark does not speak of it to a REPEATABLE READ transaction');
all_answered('a');

# A stream that is only looked at, in a call that writes another.
begin($session{a}, "SELECT es_append('look-1', 0, 'X', '{}');");
ok(waits_for_standby('a'), 'an append waits');
begin($session{b}, q[SELECT count(*) FROM es_append_multi('[{"stream": "look-2", "expected_version": "any", "events": [{"type": "X", "data": {}}]}, {"stream": "look-1", "expected_version": 1}]');]);
ok(waits_for_standby('b'), '... and one that rests on it');
is(answer("$local; SELECT version FROM es_append('look-2', -2, 'X', '{}')"), '2', '... without a lock');
is(answer("$local; SELECT version FROM es_append('look-1', -2, 'X', '{}')"), '2', '... on either stream');
all_answered('a', 'b');

# An error that waits can be cancelled, and is rolled back.
begin($session{a}, "SELECT es_append('error-1', 0, 'X', '{}');");
ok(waits_for_standby('a'), 'an append waits');
is(answer("SELECT es_append('error-1', 0, 'X', '{}')"), 'waits', '... and the error that speaks of it');
is(answer("$local; SELECT version FROM es_append('error-1', -2, 'X', '{}')"), '2', '... until it is cancelled');
all_answered('a');

# The server's end.
begin($session{a}, "SELECT es_append('end-1', 0, 'X', '{}');");
ok(waits_for_standby('a'), 'an append waits');
begin($session{b}, "SELECT es_stream_version('end-1');");
ok(waits_for_standby('b'), '... and a reader');
my $pid = $node->safe_psql($db, "SELECT pid FROM pg_stat_activity WHERE application_name = 'b'");
open my $pid_file, '<', $node->data_dir . '/postmaster.pid' or die;
chomp(my $postmaster = <$pid_file>);
kill 'KILL', $postmaster;
my $deadline = time + 60;
usleep(20_000) while kill(0, $pid) and time < $deadline;
ok(!kill(0, $pid), 'a reader that waits goes when the postmaster is gone');
kill 'KILL', $pid;
usleep(20_000) while kill 0, $postmaster;
$node->{_pid} = undef;
eval { $_->{run}->kill_kill } for values %session;

done_testing();
