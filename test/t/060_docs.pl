# The statements of README.md and of every page in docs/, in their order, against a new store: what comes out is what the
# page shows. One server for all, a database for each page.
#
# In a page a block of sql is run by psql, in one session; a block of js or python by node or python, all blocks of the page
# as one program behind its SQL. An untagged block behind it is what comes out. A line "..." stands for any lines. Empty
# results of functions that return nothing are not shown. Times with microseconds and UUIDs are other ones each time. Blocks
# of other languages are not run; the test says how many there are.
#
# A page that begins with CREATE EXTENSION makes its store itself. The background workers run, but for pages that have the
# comment of $alone. A page of js that makes no pool of connections finds one by the name pool.
#
# After a change of a page: its text with the outputs of today is written to TESTDATADIR. ES_PAGES='tour append' runs these only.
use strict;
use warnings;

use Npm;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $top = $ENV{ES_TOP};
my $alone = '<!-- test: without workers -->';

# The page in pieces: [undef, text], [language, code, output or undef].
sub pieces
{
	my ($page) = @_;
	my @pieces;

	for my $part (split /^(```\w+\n.*?^```\n(?:```\n.*?^```\n)?)/ms, $page)
	{
		if ($part =~ /\A```(\w+)\n(.*?)^```\n(?:```\n(.*?)^```\n)?\z/ms)
		{
			push @pieces, [ $1, $2, $3 ];
		}
		else
		{
			push @pieces, [ undef, $part ];
		}
	}
	return @pieces;
}

# What a program said, as a page shows it.
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

# Times and ids are other ones in each run, and so is the width of their columns.
sub timeless
{
	my ($text) = @_;
	my $n = 0;

	$n += $text =~ s/\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\.\d+(?:[+]\d\d(?::\d\d)?|Z)?/TIME/g;
	$n += $text =~ s/\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/UUID/g;
	if ($n)
	{
		$text =~ s/ +/ /g;
		$text =~ s/-{2,}/-/g;
		$text =~ s/ $//mg;
	}
	return $text;
}

# The expected output as a pattern.
sub pattern
{
	my ($output) = @_;
	my @lines = map { $_ eq '...' ? '(?:.*\n)*?' : quotemeta($_) . '\n' } split /\n/, $output;
	my $all = join('', @lines);
	return qr/\A$all\z/;
}

# Runs the blocks of one language as one program; what each of them said.
sub run_blocks
{
	my ($pieces, $language, $begin, $mark, $end, @command) = @_;
	my $program = $begin;
	my $said = '';

	$program .= sprintf($mark, $_) . $pieces->[$_][1] for grep { ($pieces->[$_][0] // '') eq $language } 0 .. $#$pieces;
	$program .= $end;
	my $file = PostgreSQL::Test::Utils::tempdir() . "/page.$language";
	open(my $out, '>', $file) or die "$file: $!";
	print $out $program;
	close $out;
	IPC::Run::run([ @command, $file ], '<', \undef, '>&', \$said, IPC::Run::timeout(120));
	return $said =~ /^=== (\d+)\n(.*?)(?=^=== \d+\n|\z)/msg;
}

my $node = PostgreSQL::Test::Cluster->new('docs');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'event_store'\ntimezone = 'UTC'\nmax_worker_processes = 20\n");
$node->start;
# Pages have es_create_store() make it, which tells so only once in a server.
$node->safe_psql('postgres', 'CREATE ROLE es_owner NOLOGIN');

my $no_node = Npm::need('pg@8', 'postgres@3');
my ($python) = grep { system("$_ -c 'import psycopg' >/dev/null 2>&1") == 0 } 'python3', '/usr/bin/python3';
my %languages = (
	js => [
		$no_node,
		"(async () => {\nconst { inspect } = require('node:util'); inspect.defaultOptions.breakLength = 110;\n",
		"console.log('=== %d');\n",
		"})().then(() => process.exit(0), (error) => { console.log(error); process.exit(1); });\n",
		'node' ],
	python => [ $python ? undef : 'no psycopg (Debian: python3-psycopg)', '', "print('=== %d', flush=True)\n", '', $python, '-u' ]);

# One page: its text with the outputs of today.
sub run_page
{
	my ($name, $page) = @_;
	my @pieces = pieces($page);
	my $database = lc $name =~ s{\W}{_}gr;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION event_store; SELECT es_create_store()')
		if $page !~ /^CREATE EXTENSION event_store;/m;
	$node->safe_psql($database, 'SELECT es_stop_worker()') if $page =~ /^\Q$alone\E$/m;

	my $script = "\\set VERBOSITY verbose\n\\pset footer off\n";
	# A reader takes longer than the workers; what they have not done yet would be left to the next piece.
	my $settle = $page !~ /es_create_projection/ ? '' : q[\o /dev/null
SELECT es_wait_for_projection(name, es_high_water_mark(), '5 s') FROM event_store.projections, event_store.status
	WHERE state = 'running' AND mode = 'async' AND workers > 0;
\o
];
	# Nor has the coordinator published, where a piece has begun an epoch: positions are far ahead of the mark.
	$settle .= q[DO $wait$ BEGIN
	FOR i IN 1..100 LOOP
		EXIT WHEN (SELECT coordinator_pid IS NULL OR mark >= newest_position FROM event_store.status);
		PERFORM pg_sleep(0.05);
	END LOOP;
END $wait$;
] if $page =~ /event_store_alerts/;
	$script .= "\\echo === $_\n$pieces[$_][1]$settle" for grep { ($pieces[$_][0] // '') eq 'sql' } 0 .. $#pieces;
	my $said = '';
	IPC::Run::run([ 'psql', '-X', '-q', '-d', $node->connstr($database) ], '<', \$script, '>&', \$said, IPC::Run::timeout(300));
	my %said = $said =~ /^=== (\d+)\n(.*?)(?=^=== \d+\n|\z)/msg;

	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGDATABASE} = $database;
	local $ENV{PGUSER} = $node->safe_psql('postgres', 'SELECT current_user');
	for my $language (sort keys %languages)
	{
		my ($missing, @how) = @{ $languages{$language} };
		my @code = map { ($_->[0] // '') eq $language ? $_->[1] : () } @pieces;
		next if $missing || !@code;
		$how[0] .= "const { Pool } = require('pg'); const pool = new Pool();\n" if $language eq 'js' && !grep { /\bpool = / } @code;
		%said = (%said, run_blocks(\@pieces, $language, @how));
	}

	my $today = '';
	my %not_run;
	for my $i (0 .. $#pieces)
	{
		my ($language, $code, $output) = @{ $pieces[$i] };
		if (!defined $language) { $today .= $code; next }
		my ($first) = $code =~ /\A(.*)/;
		my $now = $output;
		if ($language eq 'sql' || $languages{$language} && !$languages{$language}[0])
		{
			$now = shown($said{$i} // "this was not reached\n");
			ok(timeless($now) =~ pattern(timeless($output // '')), "$name: $first")
				or diag("---- the page shows\n", $output // '', "---- it is\n", $now, '----');
		}
		elsif ($languages{$language})
		{
		  SKIP: { skip "$name: $first: $languages{$language}[0]", 1 }
		}
		else { $not_run{$language}++ }
		$today .= "```$language\n$code```\n" . (defined $output || $now ? "```\n$now```\n" : '');
	}
	note("$name: $not_run{$_} block(s) of $_ not run") for sort keys %not_run;
	$node->safe_psql($database, 'SELECT es_stop_worker()');
	return $today;
}

mkdir $ENV{TESTDATADIR};
for my $path ("$top/README.md", sort glob "$top/docs/*.md")
{
	my ($name) = $path =~ m{([^/]+)\.md\z};
	next if $ENV{ES_PAGES} && " $ENV{ES_PAGES} " !~ / \Q$name\E /;
	my $today = run_page($name, slurp_file($path));
	my $written = "$ENV{TESTDATADIR}/$name.md";
	open(my $file, '>', $written) or die "$written: $!";
	print $file $today;
	close $file;
}

$node->stop;
done_testing();
