# The queries of es_check() are dear in the planner's eyes where there are many partitions, and cheap in fact: they are not
# compiled, however the session has JIT. Seen by auto_explain.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
$node->safe_psql($db, q[CREATE EXTENSION event_store; SELECT es_create_store(); SELECT es_append('a-1', 0, 'T', '{}')]);

# What the server says of the plans of a statement, and of those within it.
sub plans
{
	my ($statement) = @_;
	my (undef, undef, $said) = $node->psql($db, qq[LOAD 'auto_explain';
		SET auto_explain.log_min_duration = 0;
		SET auto_explain.log_nested_statements = on;
		SET auto_explain.log_analyze = on;
		SET jit = on;
		SET jit_above_cost = 0;
		SET client_min_messages = log;
		$statement]);

	return $said;
}

plan skip_all => 'this server has no JIT, or no auto_explain' if plans('SELECT count(*) FROM event_store.log') !~ /JIT:/;

my $said = plans('DO $$ BEGIN PERFORM * FROM es_check(); END $$');
my $queries = () = $said =~ /Query Text/g;
my $compiled = () = $said =~ /JIT:/g;
cmp_ok($queries, '>', 10, "es_check() has run $queries queries");
cmp_ok($compiled, '<=', 1, "of which none was compiled, but the one that calls it");
$node->stop;
done_testing();
