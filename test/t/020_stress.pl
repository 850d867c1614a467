# The stress test (test/stress) on the library, and on its mutants, which it must catch.
#
# ES_LONG=1 gives it minutes, ES_STRESS_SECONDS any other time.
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename;
use Mutant;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $source = $ENV{ES_SRC} // abs_path(dirname(__FILE__) . '/../..');
my $seconds = $ENV{ES_STRESS_SECONDS} // ($ENV{ES_LONG} ? 150 : 8);
my $pg_config = find_pg_config();
my $build = PostgreSQL::Test::Utils::tempdir();

make('-s', '-f', "$source/test/stress/Makefile", "OUT=$build", "PG_CONFIG=$pg_config")
	or BAIL_OUT('cannot build the stress test');

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "max_prepared_transactions = 30\nmax_connections = 60\nmax_wal_size = 2GB");
$node->start;

my (%checks, @findings);

# Runs the program in a new database, with another library if one is given: (passed, what it said).
sub stress
{
	my ($db, $library, @options) = @_;
	my $out = '';

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION event_store');
	# A mark that does not wait says of a time that it is over, and then an append that was stamped before it comes.
	my $but = '';
	if (defined $library)
	{
		use_library($node, $db, $library);
		$but = " WHERE kind <> 'time'";
	}
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGDATABASE} = $db;
	my $checks = 0;
	my $run = IPC::Run::start([ "$build/stress", '-s', $ENV{ES_STRESS_SEED} // 1 + int(rand(1e9)), @options ], '>', \$out, '2>&1');
	# While they are at it, whatever es_check finds is wrong. (In the beginning there is no store yet.)
	while ($run->pumpable)
	{
		my ($rc, $found) = $node->psql($db, "SELECT * FROM es_check('none')$but");

		$checks++ if $rc == 0;
		push @findings, "$db, meanwhile: $found" if $rc == 0 && $found ne '';
		eval { $run->pump_nb };
		usleep(200_000);
	}
	my $passed = $run->finish;
	my $status = $?;
	my $found = $node->safe_psql($db, "SELECT * FROM es_check('all')$but");
	push @findings, "$db: $found" if $found ne '';
	note("es_check was called $checks times meanwhile");
	$checks{$db} = $checks;
	note($out);
	# What a failure left behind says why, and must not keep the database from being dropped.
	my $left = $node->safe_psql($db, 'SELECT gid, prepared FROM pg_prepared_xacts WHERE database = current_database()');
	if ($left ne '')
	{
		$out .= "stress: prepared transactions are left:\n$left\n"
		  . $node->safe_psql($db, 'SELECT mark, newest_position, holder_pid, holder_gid, holder_since FROM event_store.status');
		$passed = 0;
		$node->safe_psql($db, "ROLLBACK PREPARED '" . (split /\|/)[0] . "'") for split /\n/, $left;
	}
	$node->safe_psql('postgres', "DROP DATABASE $db WITH (FORCE)");
	$out .= "stress: killed by signal " . ($status & 127) . "\n" if $status & 127;
	return ($passed, $out);
}

my ($passed, $said) = stress('ordinary', undef, '-t', $seconds);
ok($passed, 'readers miss nothing of what writers do in every way there is') or diag($said);

# No two calls deadlock, in whatever order they name their streams.
($passed, $said) = stress('single', undef, '-1', '-t', $ENV{ES_LONG} ? $seconds / 3 : 6);
ok($passed, 'the same with one call a transaction, and no deadlock') or diag($said);

# The patches in test/mutants, and what the stress test must say of each.
my %mutants = (
	'01-mark-does-not-wait' => qr/^WRONG: reader all missed \d+ events/m,
	'02-snapshot-before-mark' => qr/^WRONG: reader all missed \d+ events/m,
);

for my $mutant (sort keys %mutants)
{
	my $library = build_mutant($mutant);

	($passed, $said) = stress('mutant' . substr($mutant, 0, 2), $library, '-t', 3);
	ok(!$passed, "mutant $mutant is caught") or diag($said);
	like($said, $mutants{$mutant}, "mutant $mutant is caught for what it does");
}

# A mutant misses what is there; what is stored is sound with it, too, but for the times of the mark.
is(join("\n", @findings), '', 'es_check finds nothing, in the end or while writers are at work');
cmp_ok($checks{ordinary}, '>=', 3, 'and it has looked');

$node->stop;
done_testing();
