# What drivers send: the functions called through libpq with untyped parameters, by two drivers of Node
# and by psql. The drivers' part needs npm and its registry (or NODE_PATH with the packages pg and
# postgres) and is skipped where they cannot be had.
use strict;
use warnings;

use Cwd;
use File::Basename;
use Npm;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $sources = dirname(Cwd::abs_path(__FILE__)) . '/../drivers';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION event_store; SELECT es_create_store()');

# Runs a program that prints TAP and repeats its lines as ours.
sub run_tap
{
	my ($name, @command) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err);
	my $tests = 0;
	my @lines = split /\n/, $out;
	for my $i (0 .. $#lines)
	{
		next if $lines[$i] !~ /^(not )?ok \d+ - (.*)/;
		my ($not, $what) = ($1, $2);
		$tests++;
		ok(!$not, $what) or diag(join "\n", grep { /^#/ } @lines[ $i + 1 .. ($i + 12 > $#lines ? $#lines : $i + 12) ]);
	}
	ok($out =~ /^1\.\.$tests$/m, "$name: all $tests tests ran") or diag($out, $err);
	return;
}

# ---- psql: literals are untyped, too

is($node->safe_psql('postgres', q[
		SELECT version FROM es_append('psql-1', 0, 'Opened', '{"n": 1}');
		SELECT version FROM es_append('psql-1', 1, '[{"type": "Changed"}, {"type": "Closed"}]');
		SELECT version FROM es_append('psql-1', 3, '{"type": "Changed"}'::jsonb);
		SELECT version FROM es_append('psql-2', -2, event_type => 'Opened', data => '{}');
		SELECT count(*) FROM es_append_multi('[{"stream": "psql-1", "expected_version": 4}]');
		SELECT events FROM es_append_batch('{psql-3,psql-4}', '{A,B}', '{"{}","{}"}')]),
	"1\n3\n4\n1\n1\n2", 'psql: literals');
my (undef, undef, $err) = $node->psql('postgres', q[SELECT es_append('psql-1', 4, 'Opened')]);
like($err, qr/HINT:.*es_append\(stream, expected_version, event_type, data\)/, 'psql: a forgotten argument is answered with a hint');

# ---- libpq

SKIP:
{
	my $program = PostgreSQL::Test::Utils::tempdir() . '/libpq';
	my ($include, $lib, $out);
	for my $option ([ \$include, '--includedir' ], [ \$lib, '--libdir' ])
	{
		chomp(${ $option->[0] } = `pg_config $option->[1]`);
	}
	# The server's programs may be a copy that has no headers beside it.
	my @flags = -f "$include/libpq-fe.h" ? ("-I$include", "-L$lib") : ('-I/usr/include/postgresql');
	IPC::Run::run([ 'gcc', '-Wall', '-Wextra', '-Werror', @flags, '-o', $program, "$sources/libpq.c", '-lpq' ], '>&', \$out)
		or skip "libpq.c cannot be built here: $out", 1;
	run_tap('libpq', $program, $node->connstr('postgres'));
}

# ---- Node

SKIP:
{
	my $missing = Npm::need('pg@8', 'postgres@3');

	skip $missing, 1 if $missing;
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGDATABASE} = 'postgres';
	local $ENV{PGUSER} = $node->safe_psql('postgres', 'SELECT current_user');
	run_tap('Node', 'node', "$sources/drivers.js");
}

$node->stop;
done_testing();
