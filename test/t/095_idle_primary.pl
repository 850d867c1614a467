# A standby of a primary on which nothing happens: with event_store.heartbeat its loads as of a time become final.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', q[
shared_preload_libraries = 'event_store'
autovacuum = off
event_store.poll_interval = 100ms
]);
$node->start;
$node->safe_psql($db, q[CREATE EXTENSION event_store; SELECT es_create_store();
	SELECT es_register_aggregate('idle', fold => 'state || data');
	SELECT es_append('idle-1', 0, 'Set', '{"n": 1}')]);
$node->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'base', has_streaming => 1);
$standby->start;

ok($node->poll_query_until($db, q[SELECT m.stable_until > e.recorded_at AND m.mark = e.position FROM event_store.mark m, event_store.events e]), 'the primary is at rest');
my $rest = $node->safe_psql($db, 'SELECT stable_until FROM event_store.mark');
my $now = $node->safe_psql($db, 'SELECT clock_timestamp()');
$node->wait_for_catchup($standby);
for my $load ("es_load_at('idle-1', '$now')", "es_load_category('idle', '$now')")
{
	my (undef, undef, $error) = $standby->psql($db, "SET event_store.as_of_wait = 0; SELECT * FROM $load");
	like($error, qr/is not final yet/, "without a heartbeat nothing tells the standby that it is final: $load");
}
is($node->safe_psql($db, 'SELECT stable_until FROM event_store.mark'), $rest, 'nothing is written');

$node->append_conf('postgresql.conf', "event_store.heartbeat = 1s\n");
$node->reload;
ok($node->poll_query_until($db, "SELECT stable_until > '$now' FROM event_store.mark"), 'with one the times are published');
$node->wait_for_catchup($standby);
for my $load ("es_load_at('idle-1', '$now')", "es_load_category('idle', '$now')")
{
	is($standby->safe_psql($db, "SET event_store.as_of_wait = 0; SELECT version FROM $load"), 1, "and the standby answers: $load");
}
for my $load ("es_load_at('idle-1', now)", "es_load_category('idle', now)")
{
	is($standby->safe_psql($db, "SET event_store.as_of_wait = '60s'; DO \$\$ DECLARE now timestamptz := clock_timestamp(); BEGIN PERFORM * FROM $load; END \$\$; SELECT 1"),
		1, "it waits for the next one: $load");
}
ok($node->poll_query_until($db, "SELECT mark = 1 FROM event_store.mark"), 'the mark stays');

$node->append_conf('postgresql.conf', "event_store.heartbeat = 0\n");
$node->reload;
# The coordinator goes to rest: it looks, and does not write any more.
my $still = 0;
for (1 .. 100)
{
	my $before = $node->safe_psql($db, 'SELECT floor FROM event_store.mark');
	my $seen = $node->safe_psql($db, q[SELECT query_start FROM pg_stat_activity WHERE backend_type = 'event_store coordinator']);
	$node->poll_query_until($db, "SELECT query_start > '$seen'::timestamptz + interval '2 s' FROM pg_stat_activity WHERE backend_type = 'event_store coordinator'");
	$still = $before eq $node->safe_psql($db, 'SELECT floor FROM event_store.mark');
	last if $still;
}
ok($still, 'without it nothing is written again');
$standby->stop;
$node->stop;
unlike(slurp_file($node->logfile), qr/TRAP:|PANIC:|terminated by signal|WARNING: /, 'nothing to warn of in the log');
done_testing();
