# The queries of es_check() are planned without JIT: it would compile for each partition, and take many times as long as they do.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
$node->safe_psql($db, q[
	CREATE EXTENSION event_store;
	SELECT es_create_store();
	SELECT es_register_aggregate('a', fold => 'state || data');
	SELECT count(*) FROM generate_series(1, 50) i, es_append('a-' || i % 3, -2, 'T', '{"a": 1}');
	SELECT es_snapshot('a-1')]);

my ($rc) = $node->psql($db, q[LOAD 'auto_explain']);
plan skip_all => 'no auto_explain' if $rc != 0;

# auto_explain writes the plans of the queries inside, and the settings that are not what they are by default. The session asks
# for JIT at any cost.
my $from = -s $node->logfile;
is($node->safe_psql($db, q[
	LOAD 'auto_explain';
	SET auto_explain.log_min_duration = 0;
	SET auto_explain.log_nested_statements = on;
	SET auto_explain.log_settings = on;
	SET jit_above_cost = 0;
	SET jit = on;
	SELECT * FROM es_check('all')]), '', 'es_check() finds nothing');
my $off = $node->safe_psql($db, q[SELECT boot_val FROM pg_settings WHERE name = 'jit']) eq 'off';
my (%queries, @with);
for my $plan (split /^(?=\S+ \S+ \S+ \[\d+\].*?LOG: )/m, slurp_file($node->logfile, $from))
{
	next unless $plan =~ /duration: .* plan:\n\s*Query Text:\s*(?:\\t|\s)*SELECT '(\w+)'/;
	$queries{$1}++;
	push @with, $plan if $off ? $plan =~ /Settings:.*jit = 'on'/ : $plan !~ /Settings:.*jit = 'off'/;
}
cmp_ok(scalar keys %queries, '>=', 10, 'its queries are seen: ' . join(' ', sort keys %queries));
is(join("\n", @with), '', 'none of them is planned with JIT');
is($node->safe_psql($db, q[SET jit = on; SELECT count(*) FROM es_check('none'); SHOW jit]), "0\non", 'the setting is as before when it has ended');

$node->stop;
done_testing();
