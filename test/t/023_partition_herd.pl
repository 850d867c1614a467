# Many sessions that need the next partition at once have one worker make it, where no coordinator keeps partitions ahead.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $clients = 16;
my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
# Each start of a background worker is a line of the server's log.
$node->append_conf('postgresql.conf', "max_connections = 40\nlog_min_messages = debug1\nmax_worker_processes = 30\nevent_store.partition_size = 500\n");
$node->start;
$node->safe_psql($db, 'CREATE EXTENSION event_store; SELECT es_create_store()');

my $script = $node->basedir . '/append.sql';
append_to_file($script, "SELECT es_append('hot-' || :client_id, -2, 'Happened', '{}'::jsonb);\n");
$node->command_ok([ 'pgbench', '-n', '-c', $clients, '-j', 2, '-t', 500, '-f', $script, $db ], "$clients clients append");

my $partitions = $node->safe_psql($db, 'SELECT count(*) FROM event_store.partitions');
my $log = slurp_file($node->logfile);
my $workers = () = $log =~ /starting background worker process "event_store partition maker"/g;
cmp_ok($partitions, '>=', 16, "the log has $partitions partitions");
# One for each; one that was started in vain now and then would do no harm.
cmp_ok($workers, '<=', 1.5 * $partitions, "which $workers workers have made");
unlike($log, qr/ERROR:.*lock timeout/, 'none of them has waited for another one in vain');
is($node->safe_psql($db, 'SELECT count(*) FROM es_check()'), '0', 'es_check finds nothing');
$node->stop;

done_testing();
