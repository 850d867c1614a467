# Background workers: who starts them, who stops them, and whom they get out of the way of. What they do is in
# 051_coordinator.pl.
#
# On every version: the server has its part in it.
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
restart_after_crash = on
log_statement = none
max_worker_processes = 12
max_prepared_transactions = 5
]);
$node->start;

# A coordinator, in any database; its pid, or ''.
sub coordinator
{
	my ($in, $on) = @_;
	return ($on // $node)->safe_psql('postgres',
		qq[SELECT pid FROM pg_stat_activity WHERE backend_type = 'event_store coordinator' AND datname = '$in']);
}

sub running
{
	my ($in, $on) = @_;
	$on //= $node;
	return $on->poll_query_until('postgres', qq[SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'event_store coordinator' AND datname = '$in' AND state IS NOT NULL]);
}

sub gone
{
	my ($in, $on) = @_;
	$on //= $node;
	return $on->poll_query_until('postgres', qq[SELECT count(*) = 0 FROM pg_stat_activity
		WHERE backend_type = 'event_store coordinator' AND datname = '$in']);
}

# Whether an append is published without anybody's help: the test of whether somebody works there.
my $appended = 0;

sub published
{
	my ($in, $on) = @_;
	$on //= $node;
	$appended++;
	my $position = $on->safe_psql($in, qq[SELECT position FROM es_append('test-$appended', 0, 'Tried', '{}'::jsonb)]);
	return $on->poll_query_until($in, qq[SELECT mark >= $position FROM event_store.mark]);
}

sub lines
{
	my ($what, $from, $on) = @_;
	my $log = slurp_file(($on // $node)->logfile, $from // 0);
	my @found = $log =~ /$what/g;
	return scalar @found;
}

sub log_size { return -s ($_[0] // $node)->logfile }

# How long a statement takes, and whether it succeeds.
sub timed
{
	my ($in, $sql) = @_;
	my $start = time;
	my ($rc, undef, $err) = $node->psql($in, $sql);
	return ($rc == 0, time - $start, $err);
}

# ---- started by the launcher when a store is made

is(coordinator($db), '', 'there is none where there is no extension');
$node->safe_psql($db, 'BEGIN; CREATE EXTENSION event_store; SELECT es_create_store(); ROLLBACK');
$node->safe_psql($db, 'CREATE EXTENSION event_store');
$node->safe_psql($db, 'SELECT es_create_store()');
ok(running($db), 'a coordinator comes when the store is committed');
ok(published($db), 'and publishes');
is($node->safe_psql($db, q[SELECT string_agg(kind, ' ' ORDER BY kind) FROM es_workers()]), 'coordinator launcher', 'es_workers() lists them');
is($node->safe_psql($db, q[SELECT coordinator_pid FROM event_store.status]), coordinator($db), 'the view status has its pid');
is($node->safe_psql($db, q[SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'event_store launcher']), 1, 'one launcher');
ok(!$node->psql($db, 'SELECT es_start_worker()') && $node->safe_psql($db, 'SELECT es_start_worker()') eq 'f', 'es_start_worker() says that it was running');

# ---- stopped, until it is started

is($node->safe_psql($db, 'SELECT es_stop_worker()'), 't', 'es_stop_worker() stops it');
is(coordinator($db), '', 'it is gone when that returns');
is($node->safe_psql($db, 'SELECT es_stop_worker()'), 'f', 'once more: there was none');
$node->safe_psql($db, q[SELECT es_create_store()]);    # wakes the launcher
is($node->safe_psql($db, 'SELECT count(*) FROM es_workers()'), 1, 'the launcher leaves it alone');
is($node->safe_psql($db, 'SELECT es_start_worker()'), 't', 'es_start_worker() starts it');
ok(published($db), 'and it works');
is($node->safe_psql($db, 'SELECT es_start_worker()'), 'f', 'once more: it was running');

# ---- ended by others

for my $who ('coordinator', 'launcher')
{
	my $old = $node->safe_psql($db, "SELECT pid FROM es_workers() WHERE kind = '$who'");
	$node->safe_psql($db, "SELECT pg_terminate_backend($old)");
	ok($node->poll_query_until($db, "SELECT count(*) = 1 FROM es_workers() WHERE kind = '$who' AND pid <> $old"), "a terminated $who comes back");
	ok(published($db), "and the mark goes on");
}
$node->safe_psql($db, "SELECT pg_cancel_backend(pid) FROM es_workers()");
ok(published($db), "a query cancel does no harm");
is($node->safe_psql($db, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'event_store coordinator'"), 1, 'there is one coordinator');

for my $who ('coordinator', 'launcher')
{
	my $from = log_size();
	my $old = $node->safe_psql($db, "SELECT pid FROM es_workers() WHERE kind = '$who'");
	kill 'KILL', $old;
	$node->wait_for_log(qr/database system is ready to accept connections/, $from);
	ok(running($db), "after kill -9 of the $who the server restarts, and a coordinator comes");
	ok(published($db), "and publishes");
}

# ---- several databases

$node->safe_psql('postgres', "CREATE DATABASE $_") for 'one', 'two', 'empty';
$node->safe_psql($_, 'CREATE EXTENSION event_store; SELECT es_create_store()') for 'one', 'two';
ok(running($_) && published($_), "database $_ has a coordinator of its own") for 'one', 'two';

# ---- es_start_worker() in the transaction that makes the store

$node->safe_psql('postgres', 'CREATE DATABASE third');
$node->safe_psql('third', 'BEGIN; CREATE EXTENSION event_store; SELECT es_create_store(); SELECT es_start_worker(); ROLLBACK');
ok(gone('third'), 'one whose store was rolled back goes away');
is($node->safe_psql('third', 'BEGIN; CREATE EXTENSION event_store; SELECT es_create_store(); SELECT es_start_worker(), es_start_worker(); COMMIT'),
	"\nt|f", 'and can be started again');
ok(published('third'), 'it works when that is committed');
$node->safe_psql('postgres', 'DROP DATABASE third');

# ---- who wants a database for himself

# Work that goes on elsewhere: all processes have to pass a barrier in DROP DATABASE.
my $busy = $node->background_psql('two', on_error_stop => 0);
$busy->query_until(qr/begun/, q[\echo begun
DO $$ BEGIN FOR i IN 1 .. 1000000 LOOP PERFORM es_append('busy-1', -2, 'Worked', '{}'::jsonb); COMMIT; END LOOP; END $$;
]);

my ($ok, $took, $err) = timed('postgres', 'DROP DATABASE one');
ok($ok, 'DROP DATABASE succeeds where a coordinator runs') or diag($err);
cmp_ok($took, '<', 5, sprintf 'soon (%.2f s)', $took);
ok($node->poll_query_until('postgres', q[SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'event_store coordinator' AND datname = 'two']),
	'the other is still there');

($ok, $took, $err) = timed('template1', 'CREATE DATABASE copied TEMPLATE postgres');
ok($ok, 'CREATE DATABASE ... TEMPLATE succeeds where a coordinator runs') or diag($err);
cmp_ok($took, '<', 5, sprintf 'soon (%.2f s)', $took);
ok(running($db) && published($db), 'the coordinator of the source comes back');
ok(running('copied') && published('copied'), 'the copy has its own');

($ok, $took, $err) = timed('postgres', 'ALTER DATABASE copied RENAME TO renamed');
ok($ok, 'RENAME succeeds') or diag($err);
cmp_ok($took, '<', 5, sprintf 'soon (%.2f s)', $took);
ok(running('renamed') && published('renamed'), 'a coordinator comes back under the new name');

my $space = PostgreSQL::Test::Utils::tempdir;
($ok, $took, $err) = timed('postgres', "CREATE TABLESPACE other LOCATION '$space'");
($ok, $took, $err) = timed('postgres', 'ALTER DATABASE renamed SET TABLESPACE other');
ok($ok, 'SET TABLESPACE succeeds') or diag($err);
cmp_ok($took, '<', 5, sprintf 'soon (%.2f s)', $took);
ok(running('renamed') && published('renamed'), 'a coordinator comes back');

# A DROP that fails, because somebody is connected.
my $guest = $node->background_psql('renamed');
$guest->query_safe('SELECT 1');
($ok, $took, $err) = timed('postgres', 'DROP DATABASE renamed');
ok(!$ok, 'DROP DATABASE fails where a client is connected');
like($err, qr/There is 1 other session/, 'which is the only one');
ok(running('renamed') && published('renamed'), 'a coordinator comes back');
$guest->quit;
$node->safe_psql('postgres', q[SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'two' AND backend_type = 'client backend']);
eval { $busy->quit };
$node->safe_psql('postgres', 'DROP DATABASE renamed');
$node->safe_psql('postgres', 'DROP TABLESPACE other');
# One line is PostgreSQL's own way: a database may be dropped between the launcher's decision to start a coordinator and the
# moment when that process connects. What must not be is that somebody tries again and again.
my %tried;
$tried{$_}++ for slurp_file($node->logfile) =~ /FATAL:  .*?(?:database (?:\d+|"[^"]*") does not exist)/g;
is(join("\n", grep { $tried{$_} > 1 } sort keys %tried), '', 'nobody tries more than once to connect to a database that is gone');

# ---- DROP EXTENSION

$node->safe_psql('two', 'BEGIN; DROP EXTENSION event_store CASCADE; ROLLBACK');
ok(published('two'), 'work goes on after a DROP EXTENSION that was rolled back');
my $dropper = $node->background_psql('two');
$dropper->query_safe('SET client_min_messages = warning; BEGIN; DROP EXTENSION event_store CASCADE');
my $pid = coordinator('two');
isnt($pid, '', 'the coordinator waits while a DROP EXTENSION is open');
$dropper->query_safe('COMMIT');
$dropper->quit;
ok(gone('two'), 'and goes when it is committed');
$node->safe_psql('two', 'CREATE EXTENSION event_store; SELECT es_create_store()');
ok(running('two') && published('two'), 'and comes when the extension is there again');
$pid = coordinator('two');
$node->safe_psql('two', 'BEGIN; DROP EXTENSION event_store CASCADE; CREATE EXTENSION event_store; SELECT es_create_store(); COMMIT');
ok($node->poll_query_until('postgres', qq[SELECT count(*) = 1 FROM pg_stat_activity
	WHERE backend_type = 'event_store coordinator' AND datname = 'two' AND pid <> $pid]), 'dropped and created at once: a new one takes over');
ok(published('two'), 'and publishes');
$node->safe_psql('two', 'DROP SCHEMA event_store CASCADE');
ok(gone('two'), 'no store, no coordinator');
$node->safe_psql('two', 'SELECT es_create_store()');
ok(running('two') && published('two'), 'a new store has one again');

$pid = coordinator('two');
$node->safe_psql('two', 'BEGIN; DROP SCHEMA event_store CASCADE; SELECT es_create_store(); COMMIT');
ok($node->poll_query_until('postgres', qq[SELECT count(*) = 1 FROM pg_stat_activity
	WHERE backend_type = 'event_store coordinator' AND datname = 'two' AND pid <> $pid]), 'the store dropped and made at once: a new one takes over');
ok(published('two'), 'and publishes');

# ---- who may

$node->safe_psql('two', q[CREATE ROLE operator; CREATE ROLE nobody; SELECT es_grant('operator', 'operate')]);
is($node->safe_psql('two', q[SET ROLE operator; SELECT es_start_worker(), coordinator_pid IS NOT NULL FROM event_store.status]), 'f|t',
	'an operator starts workers and sees them');
for my $call ('es_start_worker()', 'es_stop_worker()', 'es_workers()')
{
	my (undef, undef, $refused) = $node->psql('two', "SET ROLE nobody;\n\\set VERBOSITY sqlstate\nSELECT $call");
	like($refused, qr/42501/, "others may not call $call");
}

# ---- an update of the extension

SKIP:
{
	my ($share) = run_command([ 'pg_config', '--sharedir' ]);
	chomp $share;
	my $script = "$share/extension/event_store--0.2.0--0.2.1-test.sql";
	skip 'the installation cannot be written to', 2 unless -w "$share/extension";
	append_to_file($script, "COMMENT ON EXTENSION event_store IS 'updated';\n");
	$pid = coordinator('two');
	$node->safe_psql('two', q[ALTER EXTENSION event_store UPDATE TO '0.2.1-test']);
	unlink $script;
	ok($node->poll_query_until('postgres', qq[SELECT count(*) = 1 FROM pg_stat_activity
		WHERE backend_type = 'event_store coordinator' AND datname = 'two' AND pid <> $pid]), 'after ALTER EXTENSION UPDATE a new one takes over');
	ok(published('two'), 'and publishes');
}

# ---- promotion

$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;
$node->wait_for_catchup($standby);
is(coordinator($db, $standby), '', 'none on a standby');
is($standby->safe_psql($db, q[SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'event_store%']), 0, 'and no launcher');
isnt($standby->psql($db, 'SELECT es_start_worker()'), 0, 'es_start_worker() is refused there');
$standby->promote;
ok(running($db, $standby) && published($db, $standby), 'after promotion it publishes');

# ---- shutdown

for my $mode ('fast', 'smart', 'immediate')
{
	my $start = time;
	$standby->stop($mode);
	cmp_ok(time - $start, '<', 20, "shutdown: $mode");
	$standby->start;
	ok(running($db, $standby), 'a coordinator comes after the restart');
}
$standby->stop;

# ---- no free slot

$node->append_conf('postgresql.conf', "max_worker_processes = 2\nmax_logical_replication_workers = 0\n");
my $from = log_size();
$node->restart;
$node->wait_for_log(qr/launcher found no free slot/, $from);
my ($lucky, $other) = coordinator('two') ne '' ? ('two', $db) : ($db, 'two');
ok(running($lucky), 'one database has the last slot');
my ($rc, undef, $said) = $node->psql($other, "\\set VERBOSITY verbose\nSELECT es_start_worker()");
like($said, qr/53400.*no free slot.*max_worker_processes/s, 'es_start_worker() says that there is no slot');
is(lines(qr/launcher found no free slot/, $from), 1, 'the log says it once');
$node->safe_psql($lucky, 'SELECT es_stop_worker()');
ok(running($other) && published($other), 'the other has it when it becomes free');
is(lines(qr/launcher found a free slot/, $from), 1, 'and the log says so');
$node->safe_psql('postgres', "CREATE DATABASE none$_") for 1 .. 6;
$node->append_conf('postgresql.conf', "max_worker_processes = 4\n");
# The server with two slots may look into the new databases, and find no slot, until it has gone.
$node->stop;
$from = log_size();
$node->start;
ok(running($_), "$_ has its coordinator") for $db, 'two';
# A probe that was made after all of them were: it is the last.
$node->safe_psql('none6', 'CREATE EXTENSION event_store; SELECT es_create_store()');
ok(running('none6'), 'a third one, too');
is(lines(qr/no free slot/, $from), 0, 'databases without a store are looked into one after the other');
$node->stop;

# ---- no slot for the launcher itself

$node->append_conf('postgresql.conf', "max_worker_processes = 0\n");
$node->start;
($rc, undef, $said) = $node->psql($db, "\\set VERBOSITY verbose\nSELECT es_start_worker()");
like($said, qr/53400.*no free slot.*max_worker_processes/s, 'without a launcher es_start_worker() says that there is no slot');
$node->stop;

# ---- without preload there are no workers, and everything can be done in the foreground

my $plain = PostgreSQL::Test::Cluster->new('plain');
$plain->init;
$plain->append_conf('postgresql.conf', "autovacuum = off\n");
$plain->start;
$plain->safe_psql($db, 'CREATE EXTENSION event_store');
$plain->safe_psql($db, 'SELECT es_create_store()');
($rc, undef, $said) = $plain->psql($db, "\\set VERBOSITY verbose\nSELECT es_start_worker()");
like($said, qr/ERROR:  55000: could not start the event store's worker/, 'es_start_worker() is refused');
like($said, qr/HINT:  Set shared_preload_libraries = 'event_store' and restart the server/, 'with a hint');
is($plain->safe_psql($db, 'SELECT es_stop_worker()'), 'f', 'es_stop_worker(): there was none');
is($plain->safe_psql($db, 'SELECT count(*) FROM es_workers()'), 0, 'es_workers() has none');
is($plain->safe_psql($db, 'SELECT coordinator_pid IS NULL AND workers = 0 FROM event_store.status'), 't', 'nor has the view status');

$plain->safe_psql($db, q[
	CREATE TABLE counted (stream text PRIMARY KEY, n bigint);
	SELECT es_create_projection('counting', 'INSERT INTO counted SELECT stream, count(*) FROM new_events GROUP BY stream
		ON CONFLICT (stream) DO UPDATE SET n = counted.n + EXCLUDED.n', tables => '{counted}');
	SELECT es_register_aggregate('test', fold => 'state || data');
	SELECT es_create_subscription('sub')]);
my $position = $plain->safe_psql($db, q[SELECT position FROM es_append('test-1', 0, 'Tried', '{"a": 1}'::jsonb)]);
is($plain->safe_psql($db, "SELECT mark < $position FROM event_store.mark"), 't', 'nobody publishes the mark');
is($plain->safe_psql($db, 'SELECT es_publish_mark()'), $position, 'es_publish_mark() does');
is($plain->safe_psql($db, q[SELECT es_run_projection('counting')]), 1, 'es_run_projection() runs a projection');
is($plain->safe_psql($db, q[SELECT n FROM counted]), 1, 'with its effect');
is($plain->safe_psql($db, q[SELECT es_snapshot('test-1')]), 1, 'es_snapshot() takes a snapshot');
is($plain->safe_psql($db, q[SELECT es_seal_log()]), 1, 'es_seal_log() seals');
is($plain->safe_psql($db, qq[SELECT es_wait_for_projection('counting', $position, '0')]), 't', 'nothing to wait for');

# Sessions that wait for others look every few milliseconds.
is($plain->safe_psql($db, q[SELECT position FROM es_fetch('sub')]), $position, 'es_fetch() has the event');
$plain->safe_psql($db, "SELECT es_ack('sub', $position)");
$position++;
for my $wait ([ q[SELECT position FROM es_fetch('sub', wait => '3 min')], q[SELECT es_append('test-1', 1, 'Tried', '{"a": 2}'::jsonb)], $position ],
	[ "SELECT es_wait_for_projection('counting', $position, '3 min')", q[SELECT es_run_projection('counting')], 't' ])
{
	my ($call, $news, $answer) = @$wait;
	my $waiter = $plain->background_psql($db);
	$waiter->query_until(qr/sent/, "\\echo sent\n$call;\n");
	ok($plain->poll_query_until($db, q[SELECT count(*) = 1 FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()
		AND backend_type = 'client backend']), "$call waits");
	$plain->safe_psql($db, $news);
	like($waiter->query_safe('SELECT 1'), qr/^$answer$/m, 'and ends when what it waits for is there');
	$waiter->quit;
}
is($plain->safe_psql($db, q[SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'event_store (launcher|coordinator|worker)']), 0,
	'no process of ours stays');
is($plain->safe_psql($db, q[SELECT * FROM es_check('all')]), '', 'es_check finds nothing');
$plain->stop;

for my $server ($node, $standby, $plain)
{
	unlike(slurp_file($server->logfile), qr/TRAP:|PANIC:|terminated by signal (?!9)/, 'no crash in the log of ' . $server->name);
}
done_testing();
