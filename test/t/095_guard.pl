# The triggers of the store's tables, where it is not a session that writes: restores, and logical replication.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 'logical');
$node->append_conf('postgresql.conf', "wal_level = logical\nmax_worker_processes = 20\nmax_logical_replication_workers = 8\n");
$node->start;
my @to = ('-h', $node->host, '-p', $node->port);
my $dir = $node->basedir;

sub ask { return $node->safe_psql(@_) }

# The contents of tables, which both sides have.
sub rows
{
	my ($db, @tables) = @_;
	return join "\n", map { "$_: " . ask($db, "SELECT md5(string_agg(t::text, '|' ORDER BY t::text)), count(*) FROM event_store.$_ t") } @tables;
}

ask('postgres', "CREATE DATABASE $_") for qw(store made copy subscriber evil);
ask('store', q[
	CREATE EXTENSION event_store;
	SELECT es_create_store();
	CREATE TABLE total (n bigint);
	INSERT INTO total VALUES (0);
	SELECT es_create_projection('total', 'UPDATE total SET n = n + (SELECT count(*) FROM new_events)');
	SELECT es_register_aggregate('order', 'state || data');
	SELECT es_append('order-1', 0, '{"events": [{"type": "Placed", "data": {"a": 1}}, {"type": "Paid", "data": {"b": 2}}], "idempotency_key": "k"}');
	SELECT es_snapshot('order-1');
	SELECT es_create_subscription('mail');
	SELECT count(*) FROM es_fetch('mail');
	SELECT es_run_projection('total');
	SELECT es_publish_mark();]);

# ---- restores

my ($out, $err) = ('', '');
ok(IPC::Run::run([ 'pg_dump', '--no-sync', '-Fc', @to, '-f', "$dir/dump", 'store' ]), 'pg_dump');
ok(IPC::Run::run([ 'pg_restore', @to, '-d', 'copy', "$dir/dump" ], '2>', \$err) && $err eq '', 'pg_restore of all of it passes') or diag($err);
is(ask('copy', q[SELECT count(*) FROM es_check('all')]), 0, '... and es_check() finds nothing');

ask('made', 'CREATE EXTENSION event_store; SELECT es_create_store()');
my @tables = split /\n/, ask('made', q[SELECT relname FROM pg_class WHERE relnamespace = 'event_store'::regnamespace AND relkind IN ('r', 'p') ORDER BY 1]);
my $before = rows('made', @tables);
$err = '';
ok(!IPC::Run::run([ 'pg_restore', '--data-only', '-n', 'event_store', @to, '-d', 'made', "$dir/dump" ], '2>', \$err), 'pg_restore --data-only into a store is refused');
like($err, qr/table "log_0" of the event store is changed by functions only\nDETAIL:  INSERT on "log_0" is refused\.\nHINT:  .*restore all of it, schema and data, where there is no event store yet/,
	'... and says what to do');
is(rows('made', @tables), $before, '... and nothing was written');
is(ask('made', q[SELECT count(*) FROM es_check('all')]), 0, '... which es_check() says, too');

# ---- a subscriber: what the publisher sends passes, and of the log no more than appends and erasures

ok(IPC::Run::run([ 'sh', '-c', "pg_dump -s -h '$to[1]' -p $to[3] store | psql -X -q -v ON_ERROR_STOP=1 -o /dev/null -h '$to[1]' -p $to[3] subscriber" ]), 'the schema is copied');
@tables = grep { $_ ne 'log' } @tables;
ask('store', 'ALTER TABLE event_store.mark REPLICA IDENTITY FULL; CREATE PUBLICATION es FOR TABLES IN SCHEMA event_store');
# A slot that the subscription does not have to make: both are on one server.
ask('store', q[SELECT pg_create_logical_replication_slot('es', 'pgoutput')]);
ask('subscriber', 'CREATE SUBSCRIPTION es CONNECTION ' . "'" . $node->connstr('store') =~ s/'/''/gr . "'" . ' PUBLICATION es WITH (create_slot = false)');
ok($node->poll_query_until('subscriber', q[SELECT count(*) > 0 AND bool_and(srsubstate = 'r') FROM pg_subscription_rel]), 'the tables are copied');
is(rows('subscriber', @tables), rows('store', @tables), '... all of them');

# Inserts, updates and deletes of each kind.
ask('store', q[
	SELECT es_append('order-1', 2, 'Sent', '{"c": 3}');
	SELECT es_append('order-2', 0, 'Placed', '{"a": 1}');
	SELECT es_publish_mark();
	SELECT es_run_projection('total');
	SELECT es_ack('mail', 2);
	SELECT es_drop_snapshots('order');
	SELECT es_register_aggregate('order', 'state');
	SELECT es_unregister_aggregate('order')]);
# As an erasure does it.
ask('store', q[
	ALTER TABLE event_store.log_0 DISABLE TRIGGER USER;
	UPDATE event_store.log_0 SET data = NULL, metadata = NULL, salt = NULL WHERE position = 1;
	ALTER TABLE event_store.log_0 ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row]);
$node->wait_for_catchup('es');
is(rows('subscriber', @tables), rows('store', @tables), 'what the publisher changes arrives');
is(ask('subscriber', 'SELECT data IS NULL FROM event_store.log WHERE position = 1'), 't', '... an erasure too');

my ($rc, undef, $refused) = $node->psql('subscriber', "UPDATE event_store.heads SET version = 7");
like($refused, qr/table "heads" of the event store is changed by functions only/, 'a session may write nothing there');

my $offset = -s $node->logfile;
ask('store', q[
	ALTER TABLE event_store.log_0 DISABLE TRIGGER USER;
	UPDATE event_store.log_0 SET occurred_at = '2001-01-01' WHERE position = 1]);
$node->wait_for_log(qr/ERROR:  events are immutable\n.*DETAIL:  UPDATE on "log_0" is refused/, $offset);
pass('an event that the publisher has changed does not arrive');
is(ask('subscriber', q[SELECT count(*) FROM event_store.log WHERE occurred_at = '2001-01-01']), 0, '... but stays as it is');
ask('subscriber', 'ALTER SUBSCRIPTION es DISABLE; ALTER SUBSCRIPTION es SET (slot_name = NONE); DROP SUBSCRIPTION es');
ok($node->poll_query_until('store', q[SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'es']), 'the worker ends');
ask('store', q[SELECT pg_drop_replication_slot('es')]);

# ---- a subscription of somebody who may write to all tables

ask('evil', q[
	CREATE SCHEMA event_store;
	CREATE TABLE event_store.projections (name text PRIMARY KEY, handler text, mode text, batch_size int, from_position bigint, side_effects boolean,
		role text, search_path text, state text, stale boolean);
	CREATE PUBLICATION evil FOR TABLE event_store.projections;
	SELECT pg_create_logical_replication_slot('evil', 'pgoutput')]);
ask('made', q[CREATE ROLE thief LOGIN SUPERUSER]);
my $options = 'create_slot = false, copy_data = false, enabled = false';
$options .= ', run_as_owner = true, password_required = false' if $node->pg_version >= 16;
$node->safe_psql('made', 'CREATE SUBSCRIPTION evil CONNECTION ' . "'" . $node->connstr('evil') =~ s/'/''/gr . "'" . " PUBLICATION evil WITH ($options)",
	extra_params => [ '-U', 'thief' ]);
ask('made', q[ALTER ROLE thief NOSUPERUSER; GRANT pg_write_all_data, pg_read_all_data TO thief; ALTER SUBSCRIPTION evil ENABLE]);
$offset = -s $node->logfile;
ask('evil', q[INSERT INTO event_store.projections VALUES ('evil', 'UPDATE pg_authid SET rolsuper = true', 'async', 1, 0, true, current_user, 'pg_temp', 'running', false)]);
$node->wait_for_log(qr/ERROR:  table "projections" of the event store is changed by functions only\n.*DETAIL:  INSERT on "projections" is refused/, $offset);
is(ask('made', 'SELECT count(*) FROM event_store.projections'), 0, 'what it sends does not pass');
ask('made', 'ALTER SUBSCRIPTION evil DISABLE; ALTER SUBSCRIPTION evil SET (slot_name = NONE); DROP SUBSCRIPTION evil');

$node->stop;
done_testing();
