# Early lock release: an append gives its locks back before its commit is durable, and is acknowledged after; nothing that
# was acknowledged, or that a function of ours has reported, is lost in a crash, although plain SQL has seen rows that are.
#
# The server runs with a library that delays each write of WAL by as much as a file says (test/shim). A process that is
# killed meanwhile has not written.
use strict;
use warnings;

use File::Basename;
use Cwd qw(abs_path);
use Crash;
use Mutant;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Quiet;
use Test::More;
use Time::HiRes qw(time usleep);

my $source = $ENV{ES_SRC} // abs_path(dirname(__FILE__) . '/../..');
my $dir = PostgreSQL::Test::Utils::tempdir();
my $shim = "$dir/slowsync.so";
my $delay_file = "$dir/delay";
my $rounds = $ENV{ES_LONG} ? 60 : 5;
# Long enough that two programs start meanwhile, on a busy machine too.
my $while_asked = 2_000_000;

system('gcc', '-shared', '-fPIC', '-O2', '-o', $shim, "$source/test/shim/slowsync.c", '-ldl') == 0
  or BAIL_OUT('the shim does not build');

sub delay
{
	my ($us) = @_;
	open my $file, '>', "$delay_file.new" or die;
	print $file $us;
	close $file;
	rename "$delay_file.new", $delay_file or die;
}

sub slurp_lines
{
	my ($name) = @_;
	open my $file, '<', $name or return ();
	my $text = do { local $/; <$file> } // '';
	# A line without its end may be half of one.
	my @lines = split /\n/, $text, -1;
	pop @lines;
	return @lines;
}

delay(0);
my $node = PostgreSQL::Test::Cluster->new('slow');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', q[
# Enough buffers that nobody has to flush WAL to get one.
shared_buffers = 128MB
max_connections = 50
fsync = on
autovacuum = off
event_store.early_lock_release = on
shared_preload_libraries = 'event_store'
max_prepared_transactions = 10
restart_after_crash = off
]);

sub start
{
	my ($node) = @_;

	local $ENV{LD_PRELOAD} = $shim;
	local $ENV{SLOWWRITE_FILE} = $delay_file;
	$node->start;
}
start($node);
my $db = 'postgres';
$node->safe_psql($db, q[CREATE EXTENSION event_store; SELECT es_create_store();
	CREATE TABLE totals (stream text PRIMARY KEY, n bigint);
	SELECT es_create_projection('totals', 'INSERT INTO totals AS t SELECT stream, count(*) FROM new_events GROUP BY 1
		ON CONFLICT (stream) DO UPDATE SET n = t.n + EXCLUDED.n', categories => '{hot}')]);

# ---- one by one: who waits for what; nobody else writes WAL

$node->safe_psql($db, 'SELECT es_stop_worker()');

sub state_of
{
	my ($name) = @_;
	return $node->safe_psql($db, "SELECT coalesce(wait_event_type, 'none') FROM pg_stat_activity WHERE application_name = '$name' AND state = 'active'");
}

sub session
{
	my ($name) = @_;
	my $session = $node->background_psql($db, on_error_stop => 0);
	$session->query_safe("SET application_name = '$name'");
	return $session;
}

sub fails { my ($session, $sql) = @_; $session->query($sql); my $error = $session->{stderr}; $session->{stderr} = ''; return $error }

my %session = map { $_ => session($_) } qw(a b c d);
$session{a}->query_safe("SELECT es_append('one-1', 0, 'First', '{}')");
sub visible { return $node->safe_psql($db, "SELECT version FROM event_store.streams WHERE stream = 'one-1'") }

# A's commit takes three seconds. The row is seen, B gets the stream's lock and commits too, nobody is told yet.
my $long = 3_000_000;
delay($long);
my $started = time;
$session{a}->query_until(qr/sent/, "\\echo sent\nSELECT 'acknowledged ' || version FROM es_append('one-1', 1, 'Second', '{}');\n");
ok($node->poll_query_until($db, "SELECT version = 2 FROM event_store.streams WHERE stream = 'one-1'"), 'a row is visible to plain SQL');
cmp_ok(time - $started, '<', 2.5, '... before it is durable');
$session{b}->query_until(qr/sent/, "\\echo sent\nSELECT 'acknowledged ' || version FROM es_append('one-1', -2, 'Third', '{}');\n");
ok($node->poll_query_until($db, "SELECT version = 3 FROM event_store.streams WHERE stream = 'one-1'"), 'the next append of the stream does not wait for the flush');
cmp_ok(time - $started, '<', 2.5, '... of the one before');
isnt(state_of($_), '', "session $_ has not been answered") for qw(a b);

# Whoever asks a function of ours is answered when what it reports is durable.
my %question = (
	es_stream_version => "SELECT es_stream_version('one-1')",
	es_read => "SELECT max(version) FROM es_read('one-1')",
	es_read_all => "SELECT count(*) FROM es_read_all(0, NULL) WHERE stream = 'one-1'",
	conflict => "SELECT es_append('one-1', 1, 'Late', '{}')",
	es_find_append => "SELECT count(*) FROM es_find_append('one-1', 'none')",
);
for my $what (sort keys %question)
{
	# Everything inserted so far is durable; then one more append, of which the question must wait for the flush.
	delay(0);
	$node->safe_psql($db, "SELECT es_append('other-1', -2, 'X', '{}')");
	my $upto = $node->safe_psql($db, "SELECT pg_current_wal_flush_lsn()");
	delay($while_asked);
	my $before = visible();
	$session{c}->query_until(qr/sent/, "\\echo sent\nSELECT es_append('one-1', -2, 'More', '{}');\n");
	$node->poll_query_until($db, "SELECT version > $before FROM event_store.streams WHERE stream = 'one-1'") or die;
	my $durable = $node->safe_psql($db, "SELECT pg_current_wal_flush_lsn() > '$upto'");
	my ($stdout, $stderr);
	$node->psql($db, "$question{$what}", stdout => \$stdout, stderr => \$stderr);
	my $flushed = $node->safe_psql($db, "SELECT pg_current_wal_flush_lsn() > '$upto'");
	is("$durable $flushed", 'f t', "$what: not before the flush");
	delay(0);
	$session{c}->query_safe('SELECT 1');
}
delay(0);
like($session{a}->query_safe('SELECT 1'), qr/acknowledged 2/, 'A is acknowledged');
like($session{b}->query_safe('SELECT 1'), qr/acknowledged 3/, 'B is acknowledged');

# ---- what must not be changed by it

is($session{a}->query_safe("SHOW synchronous_commit"), 'on', 'the setting is as it was');
$session{a}->query_safe("SELECT es_append('two-1', 0, 'X', '{}')");
is($session{a}->query_safe("SHOW synchronous_commit"), 'on', '... after an append');
like(fails($session{a}, "SELECT es_append('two-1', 0, 'X', '{}')"), qr/wrong expected version/, 'an append is refused');
is($session{a}->query_safe("SHOW synchronous_commit"), 'on', '... after an error');
# An error in a deferred trigger: after everything else, before the commit.
$session{a}->query_safe(q[CREATE TABLE late (a int, CONSTRAINT c UNIQUE (a) DEFERRABLE INITIALLY DEFERRED); INSERT INTO late VALUES (1)]);
like(fails($session{a}, q[BEGIN; SELECT es_append('two-1', -2, 'X', '{}'); INSERT INTO late VALUES (1); COMMIT;]), qr/duplicate key/, 'an error at the very end');
is($session{a}->query_safe(q[SELECT es_stream_version('two-1')]), '1', 'an error at commit rolls the append back');
# One that comes later still, in the midst of the commit.
$session{a}->query_safe(q[CREATE TABLE skew (who text, n int); INSERT INTO skew VALUES ('a', 1), ('b', 1)]);
$session{$_}->query_safe('BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT sum(n) FROM skew') for qw(a b);
$session{b}->query_safe(q[UPDATE skew SET n = 0 WHERE who = 'b']);
$session{a}->query_safe(q[UPDATE skew SET n = 0 WHERE who = 'a']);
$session{a}->query_safe(q[SELECT es_append('two-2', -2, 'X', '{}')]);
$session{b}->query_safe(q[COMMIT]);
like(fails($session{a}, 'COMMIT'), qr/during commit attempt/, 'a serialization failure at commit');
is($session{a}->query_safe("SHOW synchronous_commit"), 'on', '... and the setting is as it was');
# A session that has chosen asynchronous commit is not made to wait.
delay($long);
$started = time;
is($session{b}->query_safe("SET synchronous_commit = off; SELECT version FROM es_append('three-1', 0, 'X', '{}')"), '1', 'asynchronous commit is acknowledged');
cmp_ok(time - $started, '<', 2.5, '... at once');
$session{b}->query_safe('RESET synchronous_commit');
# A transaction of several commands, a savepoint that is rolled back, and a transaction that ends in a procedure.
delay(0);
$session{b}->query_safe(q[BEGIN; SAVEPOINT s; SELECT es_append('four-1', 0, 'X', '{}'); ROLLBACK TO s; COMMIT]);
is($session{b}->query_safe(q[SELECT es_stream_version('four-1')]), '0', 'a rolled back savepoint');
$session{b}->query_safe(q[DO $$ BEGIN PERFORM es_append('four-1', 0, 'X', '{}'); COMMIT; PERFORM es_append('four-1', 1, 'X', '{}'); END $$]);
is($session{b}->query_safe(q[SELECT es_stream_version('four-1')]), '2', 'commits in a block');
$session{b}->query_safe(q[BEGIN; SELECT es_append('five-1', 0, 'X', '{}'); PREPARE TRANSACTION 'p']);
is($session{b}->query_safe(q[SHOW synchronous_commit]), 'on', 'PREPARE');
$session{b}->query_safe(q[COMMIT PREPARED 'p']);
is($session{b}->query_safe(q[SELECT es_stream_version('five-1')]), '1', 'COMMIT PREPARED');
# A session that does not hear that the setting was changed: it is in the midst of a statement.
$session{b}->query_safe('SELECT pg_advisory_lock(1)');
$session{a}->query_until(qr/sent/, "\\echo sent\nDO \$\$ BEGIN PERFORM pg_advisory_lock(1); COMMIT; PERFORM es_append('late-1', 0, 'X', '{}'); END \$\$;\n");
$node->poll_query_until($db, "SELECT wait_event = 'advisory' FROM pg_stat_activity WHERE application_name = 'a'") or die;
$node->safe_psql($db, 'ALTER SYSTEM SET event_store.early_lock_release = off');
$node->safe_psql($db, 'SELECT pg_reload_conf()');
$node->poll_query_until($db, "SELECT current_setting('event_store.early_lock_release') = 'off'") or die;
$node->safe_psql($db, "SELECT es_append('other-1', -2, 'X', '{}')");
my $flushed = $node->safe_psql($db, 'SELECT pg_current_wal_flush_lsn()');
delay($while_asked);
$session{b}->query_safe('SELECT pg_advisory_unlock(1)');
$node->poll_query_until($db, "SELECT count(*) = 1 FROM event_store.streams WHERE stream = 'late-1'") or die;
is($node->safe_psql($db, "SELECT pg_current_wal_flush_lsn() > '$flushed'"), 'f', 'it releases its locks early');
is($node->safe_psql($db, "SELECT es_stream_version('late-1')"), '1', '... and who asks waits');
is($node->safe_psql($db, "SELECT pg_current_wal_flush_lsn() > '$flushed'"), 't', '... although the setting is off there');
delay(0);
$session{a}->query_safe('SELECT pg_advisory_unlock(1)');
$node->safe_psql($db, 'ALTER SYSTEM RESET event_store.early_lock_release');
$node->safe_psql($db, 'SELECT pg_reload_conf()');
$node->poll_query_until($db, "SELECT current_setting('event_store.early_lock_release') = 'on'") or die;
# Through two crashes of a client while it waits.
delay($long);
$session{d}->query_until(qr/sent/, "\\echo sent\nSELECT es_append('six-1', 0, 'X', '{}');\n");
$node->poll_query_until($db, "SELECT count(*) = 1 FROM event_store.streams WHERE stream = 'six-1'") or die;
$node->safe_psql($db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'd'");
delay(0);
ok($node->poll_query_until($db, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'd'"), 'a session that is terminated while it waits ends');
is($node->safe_psql($db, "SELECT es_stream_version('six-1')"), '1', '... and its append is there');
eval { $session{d}->quit };

# ---- a synchronous standby that is not there: nobody is answered, nobody holds a lock

$node->safe_psql($db, q[ALTER SYSTEM SET synchronous_standby_names = 'missing']);
$node->safe_psql($db, 'SELECT pg_reload_conf()');
$node->poll_query_until($db, "SELECT current_setting('synchronous_standby_names') = 'missing'") or die;
usleep(300_000);
$session{a}->query_until(qr/sent/, "\\echo sent\nSELECT 'acknowledged ' || version FROM es_append('seven-1', 0, 'X', '{}');\n");
ok($node->poll_query_until($db, "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE application_name = 'a'"), 'an append waits for the standby');
$session{b}->query_until(qr/sent/, "\\echo sent\nSELECT 'acknowledged ' || version FROM es_append('seven-1', -2, 'X', '{}');\n");
ok($node->poll_query_until($db, "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE application_name = 'b'"), '... and the next one for the standby, not for the lock');
$session{c}->query_until(qr/sent/, "\\echo sent\nSELECT 'seen ' || es_stream_version('seven-1');\n");
ok($node->poll_query_until($db, "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE application_name = 'c'"), '... and who asks for the version');
$node->safe_psql($db, q[SET synchronous_commit = local; ALTER SYSTEM RESET synchronous_standby_names]);
$node->safe_psql($db, 'SELECT pg_reload_conf()');
like($session{a}->query_safe('SELECT 1'), qr/acknowledged 1/, 'then all are answered');
like($session{b}->query_safe('SELECT 1'), qr/acknowledged 2/, '...');
like($session{c}->query_safe('SELECT 1'), qr/seen 2/, '...');
$_->quit for @session{qw(a b c)};

# ---- crashes: all processes killed at once, at any time

sub spawn
{
	my ($code) = @_;
	my $pid = fork // die;
	return $pid if $pid;
	setpgrp(0, 0);
	open STDERR, '>', '/dev/null';
	$code->();
	require POSIX;
	POSIX::_exit(0);
}

# Kills everything, and starts the server again.
sub crash
{
	my ($node, @clients) = @_;

	kill_server($node);
	kill 'KILL', map { -$_ } @clients;
	waitpid $_, 0 for @clients;
	delay(0);
	start($node);
	return;
}

# One crash in the middle of eight writers and three readers. Adds to: acknowledged, reported, seen by plain SQL and lost;
# and to the lists of what was acknowledged, or reported, and is not there. A write takes $longer times as long as usual:
# what is not durable is to be seen for longer.
sub crash_round
{
	my ($node, $round, $sum, $longer) = @_;
	my $connstr = $node->connstr($db);
	my $from = $node->safe_psql($db, 'SELECT es_high_water_mark()');
	my @clients;

	delay((20_000 + int(rand(60_000))) * ($longer // 1));
	unlink glob "$dir/*.out";
	for my $writer (1 .. 8)
	{
		open my $script, '>', "$dir/writer$writer.sql" or die;
		for my $n (1 .. 3000)
		{
			my $stream = 'hot-' . ($n % 3);
			print $script "SELECT '$round-$writer-$n:' || version FROM es_append('$stream', -2, 'W', '{\"id\": \"$round-$writer-$n\"}');\n";
		}
		close $script;
		push @clients, spawn(sub { exec "psql -XAtq -d '$connstr' -f $dir/writer$writer.sql >$dir/ack$writer.out" });
	}
	my %question = (
		plain => "SELECT data->>'id' FROM event_store.events ORDER BY position DESC LIMIT 200",
		feed => "SELECT data->>'id' FROM es_read_all($from, NULL)",
		stream => "SELECT data->>'id' FROM es_read('hot-1', NULL, 50, true)");
	for my $file (keys %question)
	{
		push @clients, spawn(sub {
			while (1) { system(qq[psql -XAtq -d '$connstr' -c "$question{$file}" >>$dir/$file.out]) == 0 or last }
		});
	}

	# Not before all of them are at work.
	my $deadline = time + 60;
	usleep(20_000) until time > $deadline
	  or (slurp_lines("$dir/feed.out") > 20 and slurp_lines("$dir/plain.out") > 200 and slurp_lines("$dir/stream.out") > 20);
	usleep(100_000 + int(rand(400_000)));
	crash($node, @clients);
	$sum->{crashes}++;

	my %there = map { my ($id, $version) = split /:/; $id => $version }
	  split /\n/, $node->safe_psql($db, "SELECT (data->>'id') || ':' || version FROM event_store.events WHERE category = 'hot'");
	for my $line (map { slurp_lines("$dir/ack$_.out") } 1 .. 8)
	{
		my ($id, $version) = split /:/, $line;
		$sum->{acknowledged}++;
		push @{ $sum->{bad_ack} }, $line unless defined $there{$id} and $there{$id} == $version;
	}
	for my $id (grep { $_ ne '' } map { slurp_lines("$dir/$_.out") } qw(feed stream))
	{
		$sum->{reported}++;
		push @{ $sum->{bad_report} }, $id unless exists $there{$id};
	}
	my %seen = map { $_ => 1 } slurp_lines("$dir/plain.out");
	$sum->{lost} += grep { $_ ne '' and not exists $there{$_} } keys %seen;
	return;
}

$node->safe_psql($db, 'SELECT es_start_worker()');
my %sum = (crashes => 0, acknowledged => 0, reported => 0, lost => 0, bad_ack => [], bad_report => []);

# At least so many; and until a crash came in between, as it mostly does at once.
crash_round($node, $_, \%sum) for 1 .. $rounds;
crash_round($node, $sum{crashes} + 1, \%sum, 4) while $sum{lost} == 0 && $sum{crashes} < 8 * $rounds;
diag("$sum{crashes} crashes, $sum{acknowledged} acknowledged, $sum{reported} reported, $sum{lost} rows seen by plain SQL and lost");
cmp_ok($sum{crashes}, '>=', $rounds, 'the server crashed');
cmp_ok($sum{acknowledged}, '>', 5 * $sum{crashes}, 'appends were acknowledged');
is("@{ $sum{bad_ack} }", '', 'no acknowledged append is lost');
is("@{ $sum{bad_report} }", '', 'nothing that a function reported is lost');
cmp_ok($sum{lost}, '>', 0, 'plain SQL saw rows that were lost: the crashes came in between');
ok($node->safe_psql($db, "SELECT es_wait_for_projection('totals', es_high_water_mark(), '60 s')") eq 't', 'the projection goes on');
is($node->safe_psql($db, "SELECT count(*) FROM totals FULL JOIN (SELECT stream, version FROM event_store.streams WHERE category = 'hot') s USING (stream) WHERE n IS DISTINCT FROM version"),
	'0', '... and is equal to the log');
is($node->safe_psql($db, "SELECT count(*) FROM (SELECT version - row_number() OVER (PARTITION BY stream ORDER BY version) AS gap FROM event_store.events) g WHERE gap <> 0"),
	'0', 'versions are dense');
$node->stop;

# ---- the mutants: a library that answers too early, and one that reports too early

for my $mutant ('05-answer-before-flush', '06-report-before-flush')
{
	my $library = build_mutant($mutant);
	my $sick = PostgreSQL::Test::Cluster->new('mutant' . substr($mutant, 0, 2));
	my %found = (crashes => 0, acknowledged => 0, reported => 0, lost => 0, bad_ack => [], bad_report => []);

	$sick->init;
	$sick->append_conf('postgresql.conf', qq[
fsync = on
autovacuum = off
restart_after_crash = off
event_store.early_lock_release = on
dynamic_library_path = '@{[ dirname($library) ]}:\$libdir'
# For background processes there is no slot: of the library's only those that answer clients are here.
max_worker_processes = 0
]);
	start($sick);
	$sick->safe_psql($db, 'CREATE EXTENSION event_store');
	use_library($sick, $db, $library);
	$sick->safe_psql($db, 'SELECT es_create_store()');
	# Without shared memory no lock is released early: while the append waits for its flush, nobody sees its row.
	my $append = $sick->background_psql($db);
	delay($while_asked);
	$append->query_until(qr/sent/, "\\echo sent\nSELECT es_append('plain-1', 0, 'X', '{}');\n");
	$sick->poll_query_until($db, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event ILIKE 'wal%' AND query LIKE '%plain-1%' AND pid <> pg_backend_pid()") or die;
	is($sick->safe_psql($db, "SELECT count(*) FROM event_store.streams WHERE stream = 'plain-1'"), '0', 'not preloaded: a row is not visible before it is durable');
	delay(0);
	$append->quit;
	# It is preloaded only now: CREATE EXTENSION loads the ordinary one.
	$sick->stop;
	$sick->append_conf('postgresql.conf', "shared_preload_libraries = 'event_store'");
	start($sick);
	my $bad = $mutant =~ /answer/ ? $found{bad_ack} : $found{bad_report};
	for my $round (1 .. 40)
	{
		last if @$bad;
		crash_round($sick, $round, \%found, 4);
	}
	cmp_ok(scalar @$bad, '>', 0, "mutant $mutant is caught, after $found{crashes} crashes");
	$sick->stop('immediate');
}

done_testing();
