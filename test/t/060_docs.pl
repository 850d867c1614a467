# The statements of a page of documentation, in its order, against a new store with a worker: the outputs are those that
# the page shows. In the page a block of sql is what is run; an untagged block behind it is what comes out. A line "..."
# stands for any lines. Empty results of functions that return nothing are not shown.
#
# After a change of a page: its text with the outputs of today is written to TESTDATADIR.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = $ENV{ES_TOP};

# The page in pieces: [0, text], [1, sql, output or undef].
sub pieces
{
	my ($page) = @_;
	my @pieces;

	for my $part (split /^(```sql\n.*?^```\n(?:```\n.*?^```\n)?)/ms, $page)
	{
		if ($part =~ /\A```sql\n(.*?)^```\n(?:```\n(.*?)^```\n)?\z/ms)
		{
			push @pieces, [ 1, $1, $2 ];
		}
		else
		{
			push @pieces, [ 0, $part ];
		}
	}
	return @pieces;
}

# What psql said, as a page shows it.
sub shown
{
	my ($said) = @_;

	$said =~ s/^(?:LOCATION|(?:SCHEMA|TABLE|COLUMN|DATATYPE|CONSTRAINT) NAME):.*\n//mg;
	$said =~ s/[ \t]+$//mg;
	# Functions that return nothing.
	$said =~ s/^ es_\w+\n-+\n\n\n//mg;
	$said =~ s/\n+\z/\n/;
	$said =~ s/\A\n+//;
	return $said;
}

# The expected output as a pattern.
sub pattern
{
	my ($output) = @_;
	my @lines = map { $_ eq '...' ? '(?:.*\n)*?' : quotemeta($_) . '\n' } split /\n/, $output;
	my $all = join('', @lines);
	return qr/\A$all\z/;
}

for my $name ('projections')
{
	my $path = "$top/docs/$name.md";
	my @pieces = pieces(slurp_file($path));
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init;
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'event_store'\ntimezone = 'UTC'\n");
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION event_store; SELECT es_create_store()');

	my $script = "\\set VERBOSITY verbose\n\\pset footer off\n";
	# A reader takes longer than the workers; what they have not done yet would be left to the next piece.
	my $settle = q[\o /dev/null
SELECT es_wait_for_projection(name, es_high_water_mark(), '5 s') FROM event_store.projections, event_store.status
	WHERE state = 'running' AND mode = 'async' AND workers > 0;
\o
];
	$script .= "\\echo === $_\n$pieces[$_][1]$settle" for grep { $pieces[$_][0] } 0 .. $#pieces;
	my $said = '';
	IPC::Run::run([ 'psql', '-X', '-q', '-d', $node->connstr('postgres') ], '<', \$script, '>&', \$said,
		IPC::Run::timeout(300));
	my %said = $said =~ /^=== (\d+)\n(.*?)(?=^=== \d+\n|\z)/msg;

	my $today = '';
	for my $i (0 .. $#pieces)
	{
		my ($run, $sql, $output) = @{ $pieces[$i] };
		if (!$run) { $today .= $sql; next }
		my $now = shown($said{$i} // '');
		my ($first) = $sql =~ /\A(.*)/;
		like($now, pattern($output // ''), "$name.md: $first");
		$today .= "```sql\n$sql```\n" . (defined $output ? "```\n$now```\n" : '');
	}
	my $written = "$ENV{TESTDATADIR}/$name.md";
	mkdir $ENV{TESTDATADIR};
	open(my $file, '>', $written) or die "$written: $!";
	print $file $today;
	close $file;
	$node->stop;
}

done_testing();
