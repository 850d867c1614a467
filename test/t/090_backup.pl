# Dumps in every form, base backups, the extension dropped and made again, and updates of it: a store with everything in
# it comes out the same, and goes on where it was.
#
# On every version: the server has its part in it.
use strict;
use warnings;

use Cwd qw(abs_path);
use Everything;
use File::Basename;
use Mutant;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'store';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', "max_worker_processes = 16\nautovacuum = off\n");
$node->start;
$node->safe_psql('postgres', "CREATE DATABASE $db");
make_everything($node, $db);

my $contents = contents($node, $db);
my $dir = $node->basedir;
my @to = ('-h', $node->host, '-p', $node->port);
my $count = 0;

# Runs a program, which must succeed without a word.
sub run_ok
{
	my ($what, @command) = @_;
	my ($out, $err) = ('', '');
	my $ok = IPC::Run::run(\@command, '>', \$out, '2>', \$err);

	ok($ok && $err eq '', $what) or diag("@command\n$err");
	return;
}

sub make_database
{
	my $name = 'copy' . ++$count;
	$node->safe_psql('postgres', "CREATE DATABASE $name TEMPLATE template0");
	return $name;
}

# Compares, and goes on.
sub check
{
	my ($what, $copy) = @_;
	is(contents($node, $copy), $contents, "$what: every row is the same");
	goes_on($node, $copy, $what);
	return;
}

# ---- what is there to be carried

is($node->safe_psql($db, 'SELECT count(*) > 2 FROM event_store.partitions'), 't', 'there are several partitions');
like($contents, qr/event_store\.$_\|[1-9]/, "there are rows in $_")
	for qw(log_0 heads append_keys batch_keys grants aggregates upcasters event_checks snapshots projections checkpoints
	quarantined_streams subscriptions subscription_streams subscription_consumers epochs);
is(last_line($node, $db, q[SELECT count(*) FROM event_store.projection_status WHERE lag_events > 0 AND mode = 'async']), 1,
	'a projection is behind');
my $old_epoch = last_line($node, $db, 'SELECT es_epoch()');
my $old_last = last_line($node, $db, 'SELECT newest_position FROM event_store.status');

# ---- whole

run_ok('pg_dump, plain', 'pg_dump', '--no-sync', @to, '-f', "$dir/plain.sql", $db);
run_ok('pg_dump, custom', 'pg_dump', '--no-sync', @to, '-Fc', '-f', "$dir/custom", $db);
run_ok('pg_dump, directory, parallel', 'pg_dump', '--no-sync', @to, '-Fd', '-j2', '-f', "$dir/directory", $db);

my $plain = make_database();
run_ok('psql', 'psql', '-X', '-q', '-o', '/dev/null', '-v', 'ON_ERROR_STOP=1', @to, '-f', "$dir/plain.sql", $plain);
check('plain', $plain);

my $custom = make_database();
run_ok('pg_restore', 'pg_restore', '--single-transaction', @to, '-d', $custom, "$dir/custom");
check('custom', $custom);

my $parallel = make_database();
run_ok('pg_restore -j2', 'pg_restore', '-j2', @to, '-d', $parallel, "$dir/directory");

# A cursor of the original: what came behind the published mark of the dump is not certain to be here.
is(last_line($node, $parallel, "SELECT rewind FROM es_check_cursor($old_epoch, $old_last)"), 'f',
	'a cursor at the mark of the dump goes on in the copy');
is(last_line($node, $parallel, "SELECT position, rewind FROM es_check_cursor($old_epoch, $old_last + 1)"), "$old_last|t",
	'one beyond it has to go back');
is(last_line($node, $parallel, 'SELECT count(*) FROM event_store.epochs'), 2, '... because this is another epoch');
is(last_line($node, $parallel, "SELECT (es_check_cursor(epoch, start_position)).rewind FROM event_store.epochs
		ORDER BY epochs.epoch DESC LIMIT 1"), 'f', '... whose cursors are good');
is(last_line($node, $db, "SELECT rewind FROM es_check_cursor($old_epoch, $old_last)"), 'f', 'the original has its old one');
is(last_line($node, $db, 'SELECT count(*) FROM event_store.epochs'), 1, '... only');
my $foreign = last_line($node, $plain, 'SELECT es_epoch()');
is(last_line($node, $db, "SELECT epoch, rewind FROM es_check_cursor($foreign, $old_last + 10000000000)"), "$old_epoch|t",
	'the original sends back a cursor of a copy');

# ---- a copy within the server

my $copied = 'copy' . ++$count;
$node->safe_psql('postgres', "CREATE DATABASE $copied TEMPLATE $db");
check('template', $copied);

# ---- in parts

my $sections = make_database();
run_ok("pg_restore --section=$_", 'pg_restore', "--section=$_", @to, '-d', $sections, "$dir/custom") for qw(pre-data data post-data);
check('sections', $sections);

my $apart = make_database();
run_ok('pg_dump --schema-only', 'pg_dump', '--no-sync', '-s', @to, '-Fc', '-f', "$dir/schema", $db);
run_ok('pg_dump --data-only', 'pg_dump', '--no-sync', '-a', @to, '-Fc', '-f', "$dir/data", $db);
run_ok('pg_restore of the schema', 'pg_restore', @to, '-d', $apart, "$dir/schema");
my (undef, undef, $error) = $node->psql($apart, "\\set VERBOSITY verbose\nSELECT es_append('a-1', 0, 'A', '{}')");
like($error, qr/55000: the event store is incomplete: .* has no row\n.*HINT:  Was only the schema restored\? Restore the data too/s,
	'a store of which only the schema was restored says so');
run_ok('pg_restore of the data', 'pg_restore', '--disable-triggers', @to, '-d', $apart, "$dir/data");
is($node->safe_psql($apart, q[SELECT count(*) > 5 FROM pg_trigger WHERE tgname = 'es_immutable' AND tgenabled = 'O']), 't',
	'--disable-triggers leaves them as ordinary ones');
check('schema and data', $apart);

# Single tables: what is missing is named.
my $tables = make_database();
$node->safe_psql($tables, 'CREATE EXTENSION event_store; CREATE SCHEMA event_store');
run_ok("pg_restore -t $_", 'pg_restore', '-n', 'event_store', '-t', $_, @to, '-d', $tables, "$dir/custom") for qw(store log heads log_0);
(undef, undef, $error) = $node->psql($tables, "\\set VERBOSITY verbose\nSELECT es_create_store()");
like($error, qr/55000: the event store is incomplete: table "event_store.mark" does not exist/, 'a store of which tables are missing says so');
is(last_line($node, $tables, 'SELECT count(*) FROM event_store.log_0'), 999, '... and has what was restored');

# One of them is brought back from a backup: events that somebody took out, by the way that there is.
my $repaired = make_database();
run_ok('pg_restore', 'pg_restore', @to, '-d', $repaired, "$dir/custom");
$node->safe_psql($repaired, 'ALTER TABLE event_store.log DETACH PARTITION event_store.log_1000; DROP TABLE event_store.log_1000');
(undef, undef, $error) = $node->psql($repaired, "\\set VERBOSITY verbose\nSELECT count(*) FROM es_read_all(0, NULL)");
like($error, qr/55000: events at positions 1000 to 1999 are not attached/, 'a partition is gone');
run_ok('pg_restore of a partition', 'pg_restore', '-n', 'event_store', '-t', 'log_1000', @to, '-d', $repaired, "$dir/custom");
$node->safe_psql($repaired, q[
	ALTER TABLE event_store.log_1000 ADD PRIMARY KEY (position) INCLUDE (category, event_type);
	CREATE UNIQUE INDEX ON event_store.log_1000 (stream, version);
	ALTER TABLE event_store.log ATTACH PARTITION event_store.log_1000 FOR VALUES FROM (1000) TO (2000)]);
check('one partition', $repaired);

# Without what can be made again.
my $small = make_database();
run_ok('pg_dump without snapshots', 'pg_dump', '--no-sync', @to, '--exclude-table-data=event_store.snapshots', '-f', "$dir/small.sql", $db);
run_ok('psql', 'psql', '-X', '-q', '-o', '/dev/null', '-v', 'ON_ERROR_STOP=1', @to, '-f', "$dir/small.sql", $small);
is(contents($node, $small, 'snapshots'), contents($node, $db, 'snapshots'), 'without snapshots: every other row is the same');
goes_on($node, $small, 'without snapshots');

# ---- a sequence that was set back, by whatever restored it

$node->safe_psql($small, q[SELECT es_append('account-1', -2, 'Paid', '{"amount": 1}'); SELECT setval('event_store.position_seq', 3)]);
my $highest = last_line($node, $small, 'SELECT max(position) FROM event_store.events');
cmp_ok(last_line($node, $small, q[SELECT position FROM es_append('account-1', -2, 'Paid', '{"amount": 1}')]), '>', $highest,
	'positions never go back with their sequence');
(undef, undef, $error) = $node->psql($small, q[\set VERBOSITY verbose
	SELECT 1 FROM es_append('account-1', -2, 'Paid', '{"amount": 1}');
	SELECT setval('event_store.position_seq', 3);
	SELECT es_append('account-1', -2, 'Paid', '{"amount": 1}')]);
like($error, qr/55000: sequence "event_store.position_seq" was set back/, '... nor under an open session');

# ---- pg_basebackup

$node->backup('base');
my $clone = PostgreSQL::Test::Cluster->new('clone');
$clone->init_from_backup($node, 'base');
$clone->start;
is(contents($clone, $db), $contents, 'pg_basebackup: every row is the same');
# It is on the same timeline of the same server: only somebody who knows can say that it is another one.
is(last_line($clone, $db, 'SELECT es_epoch()'), $old_epoch, '... and nothing tells that it is a copy');
is(last_line($clone, $db, "SELECT position, rewind FROM es_check_cursor($old_epoch, $old_last + 100)"), "$old_last|t",
	'... but to a cursor from beyond its end');
$clone->safe_psql($db, 'SELECT es_begin_epoch()');
goes_on($clone, $db, 'pg_basebackup');
$clone->stop;

# ---- the extension goes and comes back

my $reborn = make_database();
run_ok('pg_restore', 'pg_restore', @to, '-d', $reborn, "$dir/custom");
(undef, undef, $error) = $node->psql($reborn, 'DROP EXTENSION event_store');
like($error, qr/other objects depend on it/, 'DROP EXTENSION is refused');
$node->safe_psql($reborn, 'SET client_min_messages = warning; DROP EXTENSION event_store CASCADE');
is(contents($node, $reborn), $contents, 'DROP EXTENSION CASCADE: every row is there');
$node->safe_psql($reborn, 'CREATE EXTENSION event_store');
check('extension dropped', $reborn);

# ---- ALTER EXTENSION UPDATE

# The next version: a function more, in SQL and in the library. Other tests do not see it: the control file is as it was.
my $source = $ENV{ES_SRC} // abs_path(dirname(__FILE__) . '/../..');
my $build = PostgreSQL::Test::Utils::tempdir() . '/next';
mkdir $build or die;
PostgreSQL::Test::Utils::system_or_bail('cp', '-Rp', "$source/$_", "$build/") for qw(Makefile event_store.control src sql);
append_to_file("$build/src/es_next.c", q[
#include "postgres.h"
#include "fmgr.h"
PG_FUNCTION_INFO_V1(es_next);
Datum es_next(PG_FUNCTION_ARGS) { PG_RETURN_INT32(42); }
]);
ok(make('-s', '-C', $build, 'PG_CONFIG=' . find_pg_config(), 'with_llvm=no', '-j2',
		$ENV{ES_COVERAGE} ? 'SHLIB_LINK=--coverage' : (), 'event_store.so'), 'the next version is built');
chomp(my $sharedir = `pg_config --sharedir`);
my ($version) = slurp_file("$source/event_store.control") =~ /default_version = '(.*)'/;
my @steps = map { "$sharedir/extension/event_store--$version--$version$_.sql" } qw(early next);
END { unlink @steps }
SKIP:
{
	my $next = "CREATE FUNCTION es_next() RETURNS integer AS '%s', 'es_next' LANGUAGE C;\n";

	skip 'the directory of extensions cannot be written to', 1 unless -w dirname($steps[0]);
	append_to_file($steps[0], sprintf($next, 'MODULE_PATHNAME'));
	append_to_file($steps[1], sprintf($next, "$build/event_store.so"));

	# The SQL before the library: refused as a whole, and everything goes on.
	my $updated = make_database();
	run_ok('pg_restore', 'pg_restore', @to, '-d', $updated, "$dir/custom");
	(undef, undef, $error) = $node->psql($updated, qq[ALTER EXTENSION event_store UPDATE TO '${version}early']);
	like($error, qr/could not find function "es_next"/, 'an update before the new library is there is refused');
	is($node->safe_psql($updated, q[SELECT extversion FROM pg_extension WHERE extname = 'event_store']), $version, '... as a whole');

	# The library first, beside a session that has the old one; then the SQL.
	my $session = $node->background_psql($updated);
	$session->query_safe('BEGIN');
	$session->query_safe(q[SELECT es_append('thing-old', 0, 'Seen', '{"n": 1}')]);
	use_library($node, $updated, "$build/event_store.so");
	is(last_line($node, $updated, q[SELECT replayed FROM es_append('keyed-1', 0, 'Keyed', '{"k": 1}', idempotency_key => 'key 1')]), 't',
		'the new library works with the old SQL');
	is(last_line($node, $updated, q[SET event_store.mark_wait = 0; SELECT count(*) FROM es_read_all(0, NULL) WHERE stream = 'thing-new';
			SELECT es_append('thing-new', 0, 'Seen', '{"n": 1}');
			SELECT count(*) FROM es_read_all(0, NULL) WHERE stream = 'thing-new']), 0, '... and waits for appends by the old one');
	$session->query_safe('COMMIT');
	$session->quit;
	$node->safe_psql($updated, qq[ALTER EXTENSION event_store UPDATE TO '${version}next']);
	is(last_line($node, $updated, 'SELECT es_next()'), 42, 'the extension is updated');
	is(last_line($node, $updated, 'SELECT es_upgrade_store()'), 2, 'es_upgrade_store() has nothing to do');
	goes_on($node, $updated, 'updated');
}

$node->stop;
done_testing();
