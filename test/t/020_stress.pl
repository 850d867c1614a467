# The stress test (test/stress) on the library, and on its mutants, which it must catch.
#
# ES_LONG=1 gives it minutes, ES_STRESS_SECONDS any other time.
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = $ENV{ES_SRC} // abs_path(dirname(__FILE__) . '/../..');
my $seconds = $ENV{ES_STRESS_SECONDS} // ($ENV{ES_LONG} ? 150 : 8);
my $pg_config = find_pg_config();
my $build = PostgreSQL::Test::Utils::tempdir();
local $ENV{MAKEFLAGS} = '';

# The first in the path may be a copy, which "make check" makes to install into; the headers are with
# the original.
sub find_pg_config
{
	my $version = `pg_config --version`;

	for (grep { defined } $ENV{PG_CONFIG}, (map { "$_/pg_config" } split /:/, $ENV{PATH}), glob '/usr/lib/postgresql/*/bin/pg_config')
	{
		chomp(my ($this, $includedir, $pgxs) = map { scalar `$_ 2>/dev/null` } "$_ --version", "$_ --includedir", "$_ --pgxs");
		return $_ if "$this\n" eq $version && -f "$includedir/libpq-fe.h" && -f $pgxs;
	}
	BAIL_OUT('no pg_config with headers');
}

sub make
{
	my (@command) = @_;
	my ($out, $err) = ('', '');

	return 1 if IPC::Run::run([ 'make', @command ], '>', \$out, '2>', \$err);
	diag($out, $err);
	return 0;
}

make('-s', '-f', "$source/test/stress/Makefile", "OUT=$build", "PG_CONFIG=$pg_config")
	or BAIL_OUT('cannot build the stress test');

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "max_prepared_transactions = 30\nmax_connections = 60\nmax_wal_size = 2GB");
$node->start;

# Runs the program in a new database, with another library if one is given: (passed, what it said).
sub stress
{
	my ($db, $library, @options) = @_;
	my $out = '';

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION event_store');
	if (defined $library)
	{
		# Before any session of this database loads the ordinary one.
		my $others = $node->safe_psql($db, qq[
			UPDATE pg_proc SET probin = '$library' WHERE oid IN
				(SELECT objid FROM pg_depend d JOIN pg_extension e ON d.refobjid = e.oid
				 WHERE e.extname = 'event_store' AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e') AND probin IS NOT NULL;
			SELECT count(*) FROM pg_proc WHERE probin LIKE '%event_store%' AND probin <> '$library']);
		is($others, 0, "$db: every function is the mutant's");
	}
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGDATABASE} = $db;
	my $passed = IPC::Run::run([ "$build/stress", '-s', $ENV{ES_STRESS_SEED} // 1 + int(rand(1e9)), @options ], '>', \$out, '2>&1');
	$node->safe_psql('postgres', "DROP DATABASE $db WITH (FORCE)");
	$out .= "stress: killed by signal " . ($? & 127) . "\n" if $? & 127;
	note($out);
	return ($passed, $out);
}

my ($passed, $said) = stress('ordinary', undef, '-t', $seconds);
ok($passed, 'readers miss nothing of what writers do in every way there is') or diag($said);

# No two calls deadlock, in whatever order they name their streams.
($passed, $said) = stress('single', undef, '-1', '-t', $ENV{ES_LONG} ? $seconds / 3 : 3);
ok($passed, 'the same with one call a transaction, and no deadlock') or diag($said);

# The number is that of ES_MUTANT in src, the pattern what the stress test must say of it.
my %mutants = (
	1 => qr/^WRONG: reader all missed \d+ events/m,
	2 => qr/^WRONG: reader all missed \d+ events/m,
);

for my $mutant (sort keys %mutants)
{
	my $dir = "$build/mutant$mutant";

	mkdir $dir or die "$dir: $!";
	for (qw(Makefile event_store.control src sql))
	{
		PostgreSQL::Test::Utils::system_or_bail('cp', '-R', "$source/$_", "$dir/");
	}
	unlink glob "$dir/src/*.o $dir/src/*.bc $dir/event_store.so";
	ok(make('-s', '-C', $dir, "PG_CONFIG=$pg_config", 'with_llvm=no', "ES_MUTANT=$mutant", '-j2', 'event_store.so'),
		"mutant $mutant is built");
	($passed, $said) = stress("mutant$mutant", "$dir/event_store.so", '-t', 3);
	ok(!$passed, "mutant $mutant is caught") or diag($said);
	like($said, $mutants{$mutant}, "mutant $mutant is caught for what it does");
}

$node->stop;
done_testing();
