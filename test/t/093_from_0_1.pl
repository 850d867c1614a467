# A store that version 0.1.0 has made, as pg_dump wrote it, is worked with by this library: test/data/README.md.
#
# On every version: the server has its part in it.
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

for my $call (q[SELECT es_create_store()], q[SELECT es_append('account-1', 39, 'Paid', '{"amount": 8}')])
{
	my (undef, undef, $error) = $node->psql($db, $call);
	like($error, qr/has layout 1, but the library works with layout 2\nHINT:  Run SELECT es_upgrade_store\(\)/, "before the upgrade it is refused: $call");
}
# In 0.2 projections and subscriptions share their names.
$node->safe_psql($db, q[UPDATE event_store.projections SET name = 'mail'; UPDATE event_store.checkpoints SET projection = 'mail']);
my (undef, undef, $refused) = $node->psql($db, 'SELECT es_upgrade_store()');
like($refused, qr/have the same name\nDETAIL:  These names are used twice: 'mail'.*\nHINT:  .*es_rename_subscription/, 'two of one name are refused');
$node->safe_psql($db, q[SELECT es_rename_subscription('mail', 'post'); UPDATE event_store.projections SET name = 'payments'; UPDATE event_store.checkpoints SET projection = 'payments';
	SELECT es_rename_subscription('post', 'mail')]);
is($node->safe_psql($db, 'SELECT es_upgrade_store()'), 2, 'es_upgrade_store()');
is($node->safe_psql($db, 'SELECT es_upgrade_store()'), 2, '... has nothing to do once more');
$node->safe_psql($db, 'SELECT es_create_store()');
is($node->safe_psql($db, q[SELECT es_create_store(node => 3)]), '', 'it has the node number that it had');
is($node->safe_psql($db, q[SELECT * FROM es_check('all')]), '', 'es_check() finds nothing');
is($node->safe_psql($db, 'SELECT * FROM es_verify_log()'), '', '... and es_verify_log() neither');
is($node->safe_psql($db, 'SELECT from_position, to_position, name FROM event_store.log_partitions ORDER BY 1'),
	$node->safe_psql($db, 'SELECT from_position, to_position, name FROM event_store.partitions ORDER BY 1'), 'its partitions are noted');
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

# The extension of 0.1.0, updated, has what a new one has. Rights are compared without who gave them.
my $members = q[SELECT pg_describe_object(d.classid, d.objid, 0), obj_description(d.objid, d.classid::regclass::name), p.prosrc, p.provolatile, p.proparallel,
		p.proisstrict, p.procost, p.prorows, p.prosecdef, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), p.proacl IS NULL, t.attributes
	FROM pg_depend d LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
	LEFT JOIN LATERAL (SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) AS attributes FROM pg_type y
		JOIN pg_attribute a ON a.attrelid = y.typrelid WHERE d.classid = 'pg_type'::regclass AND y.oid = d.objid AND y.typrelid <> 0) t ON true
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' ORDER BY 1];
$node->safe_psql('postgres', "CREATE DATABASE $_ TEMPLATE template0") for qw(old updated new);
$node->safe_psql('new', 'CREATE EXTENSION event_store');
$node->safe_psql('updated', q[CREATE EXTENSION event_store VERSION '0.1.0';
	GRANT EXECUTE ON FUNCTION es_create_store(integer, boolean, boolean) TO es_app WITH GRANT OPTION;
	ALTER EXTENSION event_store UPDATE]);
my %listing = map { $_ => $node->safe_psql($_, $members) } qw(new updated);
is($listing{updated}, $listing{new}, 'an updated extension has what a new one has');
is($node->safe_psql('updated', q[SELECT has_function_privilege('es_app', 'es_create_store(integer, boolean, boolean, text)', 'EXECUTE WITH GRANT OPTION'),
		has_function_privilege('public', 'es_create_store(integer, boolean, boolean, text)', 'EXECUTE')]), 't|f',
	'... and who could execute a function that was made again still can');

# The store waits for the extension.
(my $with_old = slurp_file($dump)) =~ s/^(CREATE EXTENSION .*event_store .*);$/$1 VERSION '0.1.0';/m;
append_to_file("$dump.old", $with_old);
$node->command_ok([ 'psql', '-X', '-q', '-o', '/dev/null', '-v', 'ON_ERROR_STOP=1', '-h', $node->host, '-p', $node->port, '-f', "$dump.old", 'old' ],
	'the dump is restored with the extension of 0.1.0');
is($node->safe_psql('old', q[SELECT extversion FROM pg_extension WHERE extname = 'event_store']), '0.1.0', 'it is of that version');
my (undef, undef, $error) = $node->psql('old', 'SELECT es_upgrade_store()');
like($error, qr/the extension "event_store" has to be updated before its store.*Its version is 0\.1\.0.*ALTER EXTENSION event_store UPDATE/s, 'the extension comes first');
# As if the projection had parked a stream. (With upcasters its events are not counted.)
$node->safe_psql('old', q[DELETE FROM event_store.upcasters;
	INSERT INTO event_store.quarantine (projection, rebuild, stream, together, position, events, error, error_code, error_position, attempts, since)
	SELECT 'payments', false, 1, 1, min(l.position), count(*), 'parked', 'P0001', min(l.position), 1, now() FROM event_store.log l, event_store.checkpoints c, event_store.event_types t
	WHERE l.stream = 1 AND l.position <= c.position AND t.id = l.event_type AND t.name = 'Paid';
	UPDATE event_store.checkpoints c SET events = c.events - q.events, quarantined = 1 FROM event_store.quarantine q;
	DELETE FROM payments WHERE stream = 'account-1']);
is(last_line($node, 'old', 'ALTER EXTENSION event_store UPDATE; SELECT es_upgrade_store()'), 2, 'then the store');
is($node->safe_psql('old', q[SELECT * FROM es_check('all')]), '', 'es_check() finds nothing');
is(last_line($node, 'old', q[SELECT version FROM es_append('account-2', 37, 'Paid', '{"amount": 8}')]), 38, 'it goes on');
is(last_line($node, 'old', q[SELECT es_run_projection('payments')]), 1, '... and so does its projection');
is($node->safe_psql('old', q[SELECT * FROM es_check('all')]), '', 'what it had parked before the upgrade is counted');
is(last_line($node, 'old', q[SELECT es_retry_quarantined('payments')]), 38, 'what was parked can be applied');
is($node->safe_psql('old', q[SELECT * FROM es_check('all')]), '', '... and is counted');

# A store that is made now is the same as one that was made then.
my @dumps;
$node->safe_psql('new', 'SELECT es_create_store(node => 3, by_category => true)');
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
