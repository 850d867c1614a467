# A store that version 0.1.0 has made, as pg_dump wrote it, is worked with by this library: test/data/README.md.
use strict;
use warnings;

use Cwd qw(abs_path);
use Everything;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'store';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
$node->safe_psql('postgres', 'CREATE ROLE es_app');
$node->safe_psql('postgres', "CREATE DATABASE $db TEMPLATE template0");

my $source = $ENV{ES_SRC} // abs_path(dirname(__FILE__) . '/../..');
my $dump = $node->basedir . '/store.sql';
PostgreSQL::Test::Utils::system_or_bail('sh', '-c', "gzip -dc '$source/test/data/store-0.1.0.sql.gz' >'$dump'");
$node->command_ok([ 'psql', '-X', '-q', '-o', '/dev/null', '-v', 'ON_ERROR_STOP=1', '-h', $node->host, '-p', $node->port, '-f', $dump, $db ],
	'the dump is restored');

$node->safe_psql($db, 'SELECT es_create_store()');
is($node->safe_psql($db, 'SELECT es_upgrade_store()'), 1, 'es_upgrade_store() has nothing to do yet');
is($node->safe_psql($db, q[SELECT es_create_store(node => 3)]), '', 'it has the node number that it had');
is($node->safe_psql($db, q[SELECT * FROM es_check('all')]), '', 'es_check() finds nothing');
is($node->safe_psql($db, 'SELECT * FROM es_verify_log()'), '', '... and es_verify_log() neither');
is($node->safe_psql($db, q[SELECT state, version FROM es_load('account-1')]), '{"balance": 2042}|39', 'a state is what it was');
is($node->safe_psql($db, q[SELECT data->>'currency' FROM es_read('account-1', max_count => 1)]), 'EUR', 'an old event is upcast');

is(last_line($node, $db, q[SELECT version FROM es_append('account-1', 39, 'Paid', '{"amount": 8}')]), 40, 'appends go on');
is(last_line($node, $db, q[SELECT replayed FROM es_append('account-1', 0, 'Opened', '{"amount": 0}', '{"by": "test"}',
	idempotency_key => 'open 1')]), 't', 'a retry is known by its key');
is(last_line($node, $db, q[SELECT es_run_projection('payments')]), 2, 'a projection goes on');
is($node->safe_psql($db, 'SELECT count(*), sum(amount) FROM payments'), '112|6120', '... where it was');
is(last_line($node, $db, q[SELECT count(*) FROM es_fetch('mail', 'one', 5)]), 5, 'a subscription goes on');
$node->safe_psql($db, 'SELECT es_publish_mark(); SELECT es_seal_log()');
is($node->safe_psql($db, 'SELECT * FROM es_verify_log()'), '', 'the log is sealed, and verifies');
is($node->safe_psql($db, q[SELECT * FROM es_check('all')]), '', 'es_check() finds nothing at the end');

# A store that is made now is the same as one that was made then.
my @dumps;
$node->safe_psql('postgres', 'CREATE DATABASE new TEMPLATE template0');
$node->safe_psql('new', 'CREATE EXTENSION event_store; SELECT es_create_store(node => 3, by_category => true)');
for my $name ($db, 'new')
{
	my ($out, $err) = run_command([ 'pg_dump', '--no-sync', '--no-privileges', '-s', '-n', 'event_store', '-T', 'event_store.log_*',
			'-h', $node->host, '-p', $node->port, $name ]);
	$out =~ s/^\\(?:un)?restrict .*\n//mg;
	# Indexes of partitions are named after them.
	$out =~ s/^.*\blog_\d+.*\n//mg;
	$out =~ s/^(?:--.*)?\n//mg;
	push @dumps, join "\n", sort split /\n/, $out;
}
ok($dumps[0] eq $dumps[1], 'a new store has the schema that a store of 0.1.0 has') or diag(do {
		my %old = map { $_ => 1 } split /\n/, $dumps[0];
		join "\n", grep { !delete $old{$_} } split(/\n/, $dumps[1]), map { "- $_" } keys %old;
	});

$node->stop;
done_testing();
