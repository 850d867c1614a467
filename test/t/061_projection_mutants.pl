# The isolation tests of projections on the library, and on its mutants, which they must catch.
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename;
use Mutant;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = $ENV{ES_SRC} // abs_path(dirname(__FILE__) . '/../..');
my $tester = dirname($ENV{PG_REGRESS}) . '/../isolation/pg_isolation_regress';

plan skip_all => 'no pg_isolation_regress' unless -x $tester;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "max_prepared_transactions = 5\n");
$node->start;

# Runs a spec in a new database, with another library if one is given: (passed, the difference).
sub isolation
{
	my ($spec, $name, $library) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir();
	my $out = '';
	my $help = `$tester --help`;

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION event_store');
	use_library($node, $name, $library) if defined $library;
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	my $passed = IPC::Run::run(
		[   $tester, "--inputdir=$source/test/isolation", "--outputdir=$dir",
			$help =~ /expecteddir/ ? "--expecteddir=$source/test/isolation" : (),
			'--bindir=' . dirname(`which psql`), '--use-existing', "--dbname=$name", $spec ],
		'>', \$out, '2>&1');
	my $diff = -f "$dir/regression.diffs" ? slurp_file("$dir/regression.diffs") : '';
	return ($passed, $passed ? '' : "$out\n$diff");
}

# The patches in test/mutants: the tests that see each, and what these must say.
my %mutants = (
	'03-calls-are-split' => { 'projection' => qr/^\+\d+\|account-a1\/1 *\n/m },	# half of a transfer
	'04-projections-pass-the-mark' => {
		'projection-mark' => qr/^-account-1\| +1\n account-2\| +1\n/m,	# an event that is skipped
		'seal' => qr/^\+added\|account-1\|/m,	# an event that comes into a sealed range
	},
	# a state as of a time is given out as final while somebody may be making the stream
	'08-as-of-overlooks-names' => { 'absent-stream' => qr/^-YE004 *\n\+ok *\n/m },
	# an append fails because its expired key was purged meanwhile
	'09-purged-key-is-an-error' => { 'expired-key' => qr/^\+ERROR:  a row of "append_keys" cannot be deleted/m });

for my $mutant (sort keys %mutants)
{
	my $library = build_mutant($mutant);

	for my $spec (sort keys %{ $mutants{$mutant} })
	{
		my $name = substr($mutant, 0, 2) . '_' . ($spec =~ tr/-/_/r);
		my ($passed, $said) = isolation($spec, "ordinary$name");

		ok($passed, "isolation test $spec") or diag($said);
		($passed, $said) = isolation($spec, "mutant$name", $library);
		ok(!$passed, "mutant $mutant is caught") or diag($said);
		like($said, $mutants{$mutant}{$spec}, "mutant $mutant is caught for what it does");
	}
}

$node->stop;
done_testing();
