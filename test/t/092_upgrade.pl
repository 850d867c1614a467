# pg_upgrade of a store with everything in it. ES_OLD_BINDIR names the programs of an older server that has the
# extension; .ci/run puts one of PostgreSQL 15 beside that of 17. Its libraries are looked for in ../lib, too.
#
# On every version: the server has its part in it.
use strict;
use warnings;

use Everything;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $old_bindir = $ENV{ES_OLD_BINDIR} // '';
plan skip_all => 'ES_OLD_BINDIR is not set' if $old_bindir eq '';

my $db = 'store';
my @same = (extra => [ '--locale=C', '--encoding=UTF8', '--data-checksums' ]);
my $old = PostgreSQL::Test::Cluster->new('old', install_path => dirname($old_bindir));
$old->init(@same);
$old->append_conf('postgresql.conf', "max_worker_processes = 16\n");
$old->start;
$old->safe_psql('postgres', "CREATE DATABASE $db");
make_everything($old, $db);
my $contents = contents($old, $db);
my $epoch = last_line($old, $db, 'SELECT es_epoch()');
my $mark = last_line($old, $db, 'SELECT mark FROM event_store.mark');
my $old_version = $old->safe_psql($db, 'SHOW server_version');
my $old_options = $old->safe_psql($db, q[SELECT DISTINCT split_part(o, '=', 1) FROM pg_attribute, unnest(attoptions) o
	WHERE o !~ '^n_distinct']);
note($old_version);
$old->stop;

my $new = PostgreSQL::Test::Cluster->new('new');
$new->init(@same);

# A minor release of the old server may keep something in its catalogs that an elder one of the new server cannot read.
my @options = split /\n/, $old_options;
if (@options)
{
	$new->start;
	for (@options)
	{
		my (undef, undef, $err) = $new->psql('postgres', "CREATE TEMP TABLE t (a int); ALTER TABLE t ALTER a SET ($_ = 1)");
		plan skip_all => "the new server is too old for PostgreSQL $old_version: it does not know the column option $_"
			if $err =~ /unrecognized parameter/;
	}
	$new->stop;
}

# Background processes keep away from both servers while they are upgraded.
$_->append_conf('postgresql.conf', "max_worker_processes = 16\nshared_preload_libraries = 'event_store'\n") for $old, $new;
chomp(my $new_bindir = `dirname "\$(which pg_upgrade)"`);
my ($out, $err) = ('', '');
my $ok;
{
	local $ENV{LD_LIBRARY_PATH} = join ':', dirname($old_bindir) . '/lib', $ENV{LD_LIBRARY_PATH} // ();
	chdir $new->basedir or die;
	$ok = IPC::Run::run([ 'pg_upgrade', '-d', $old->data_dir, '-D', $new->data_dir, '-b', $old_bindir, '-B', $new_bindir,
			'-s', $new->host, '-p', $old->port, '-P', $new->port ], '>', \$out, '2>', \$err);
}
ok($ok, 'pg_upgrade') or diag($out, $err, map { my $log = slurp_file($_); ($log =~ /(?:error|ERROR):.*\n(?:.*\n){0,3}/g) } glob $new->data_dir . '/pg_upgrade_output.d/*/log/pg_upgrade_dump_[0-9]*.log');
BAIL_OUT('nothing to look at') unless $ok;
unlike(slurp_file($_), qr/event_store (launcher|coordinator)/, 'no background process in ' . basename($_))
	for glob $new->data_dir . '/pg_upgrade_output.d/*/log/pg_upgrade_server.log';

$new->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$new->start;
note($new->safe_psql($db, 'SELECT version()'));
is(contents($new, $db), $contents, 'every row is the same');
is(last_line($new, $db, "SELECT position, rewind FROM es_check_cursor($epoch, $mark)"), "$mark|f", 'a cursor at the mark goes on');
goes_on($new, $db, 'upgraded');

$new->append_conf('postgresql.conf', "shared_preload_libraries = 'event_store'\n");
$new->restart;
my $position = last_line($new, $db, q[SELECT position FROM es_append('account-2', -2, 'Paid', '{"amount": 1}')]);
ok($new->poll_query_until($db, "SELECT position >= $position FROM event_store.projection_status WHERE name = 'balances'"),
	'background workers go on');

$new->stop;
done_testing();
