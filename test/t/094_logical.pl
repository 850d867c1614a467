# Logical replication of a store: publications of all tables, a subscriber on which nothing starts, writes or publishes by
# itself, rebuilds on the publisher, and the upgrade to another server by it, as docs/operations.md describes it.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'postgres';
my $conf = q[
shared_preload_libraries = 'event_store'
wal_level = logical
max_worker_processes = 20
max_wal_senders = 10
max_replication_slots = 10
max_logical_replication_workers = 8
max_sync_workers_per_subscription = 4
wal_retrieve_retry_interval = 100ms
autovacuum = off
restart_after_crash = on
log_statement = none
event_store.poll_interval = 100ms
];
my $publisher = PostgreSQL::Test::Cluster->new('publisher');
$publisher->init;
$publisher->append_conf('postgresql.conf', $conf);
$publisher->start;
my $subscriber = PostgreSQL::Test::Cluster->new('subscriber');
$subscriber->init;
$subscriber->append_conf('postgresql.conf', $conf);
$subscriber->start;

sub on
{
	my ($node, $sql) = @_;
	my @lines = split /\n/, $node->safe_psql($db, $sql);
	return $lines[-1] // '';
}
sub pub { return on($publisher, $_[0]) }
sub sub_ { return on($subscriber, $_[0]) }
sub refused
{
	my ($node, $sql, $error, $what) = @_;
	my ($rc, $out, $err) = $node->psql($db, $sql);
	like($err, $error, $what // "refused: $sql");
	return;
}
sub append
{
	my ($node, $stream, $count) = @_;
	return on($node, "SELECT max(position) FROM generate_series(1, " . ($count // 1) . ") i, LATERAL es_append('$stream', -2, 'Counted', jsonb_build_object('n', i))");
}
# The subscriber has what the publisher has committed up to now.
sub caught_up
{
	my $lsn = pub('SELECT pg_current_wal_lsn()');
	return $publisher->poll_query_until($db, "SELECT count(*) = 1 AND bool_and(replay_lsn >= '$lsn') FROM pg_stat_replication WHERE application_name = 'copy'");
}
sub applied { return $subscriber->poll_query_until($db, "SELECT count(*) = 0 FROM pg_subscription_rel WHERE srsubstate <> 'r'") }

pub(q[CREATE EXTENSION event_store; SELECT es_create_store();
	CREATE TABLE counted (stream text PRIMARY KEY, n bigint NOT NULL);
	SELECT es_register_aggregate('c', initial_state => '{"n": 0}', fold => $$state || jsonb_build_object('n', version)$$, snapshot_every => 5);
	SELECT es_create_projection('counted', 'INSERT INTO counted AS c SELECT stream, count(*) FROM new_events GROUP BY 1
		ON CONFLICT (stream) DO UPDATE SET n = c.n + EXCLUDED.n', tables => '{counted}');
	SELECT es_create_subscription('mail');
	CREATE PUBLICATION everything FOR ALL TABLES WITH (publish_via_partition_root)]);
append($publisher, 'c-1', 20);
my $position = append($publisher, 'c-2');
ok($publisher->poll_query_until($db, "SELECT mark = $position FROM event_store.mark"), 'the mark goes on where all tables are published');
ok($publisher->poll_query_until($db, "SELECT position = $position FROM event_store.projection_status"), '... and projections');

# ---- a subscriber

my $schema = $publisher->basedir . '/schema.sql';
$publisher->command_ok([ 'pg_dump', '--schema-only', '--no-publications', '-d', $publisher->connstr($db), '-f', $schema ], 'the schema is dumped');
$subscriber->command_ok([ 'psql', '-X', '-q', '-o', '/dev/null', '-v', 'ON_ERROR_STOP=1', '-d', $subscriber->connstr($db), '-f', $schema ], '... and restored');
my $from = $publisher->connstr . " dbname=$db";
sub_(qq[CREATE SUBSCRIPTION copy CONNECTION '$from' PUBLICATION everything]);
ok(applied(), 'the tables are copied');
ok(caught_up(), 'the subscriber follows');
is(sub_(q[SELECT string_agg(DISTINCT n::text || ':' || stream, ' ') FROM counted]), '1:c-2 20:c-1', 'with the tables of projections');
# What another server has registered runs here only when somebody with the right says so.
refused($subscriber, q[SELECT es_load('c-1')], qr/role ".*", which registered this, is a role of another server/);
sub_('SELECT es_create_store()');
is(sub_(q[SELECT state, version FROM es_load('c-1')]), '{"n": 20}|20', 'loads answer');
is(sub_(q[SELECT count(*) FROM es_read_all()]), 21, 'reads by position answer, up to the mark that came');

my $log = -s $subscriber->logfile;
$subscriber->restart;    # the launcher looks at every database
ok(caught_up(), 'after a restart it follows');
# The launcher has looked into the database, and its coordinator has left.
$subscriber->wait_for_log(qr/database system is ready to accept connections/, $log);
ok($subscriber->poll_query_until($db, q[SELECT count(*) = 1 FROM es_workers() WHERE kind = 'launcher']), 'the launcher runs');
refused($subscriber, 'SELECT es_start_worker()', qr/could not start the event store's worker\nDETAIL:  The tables of this event store are filled by a subscription/);
is(sub_(q[SELECT coordinator_pid IS NULL AND workers = 0 FROM event_store.status]), 't', 'no coordinator, no worker');
for my $call (q[SELECT es_append('c-1', 20, 'Counted', '{}')], 'SELECT es_publish_mark()', 'SELECT es_begin_epoch()', 'SELECT es_seal_log()',
	q[SELECT es_run_projection('counted')], q[SELECT es_fetch('mail')], q[SELECT es_snapshot('c-1')], q[SELECT es_register_aggregate('d', fold => 'state')],
	q[SELECT es_rebuild_projection('counted')], q[SELECT es_create_subscription('other')])
{
	refused($subscriber, $call, qr/cannot execute .* on a logical subscriber\nDETAIL:  The tables of this event store are filled/);
}
$position = append($publisher, 'c-1', 20);
append($publisher, 'new-1');
$position = append($publisher, 'c-3');
ok($publisher->poll_query_until($db, "SELECT position = $position FROM event_store.projection_status"), 'the publisher goes on');
ok($publisher->poll_query_until($db, "SELECT mark = $position FROM event_store.mark"), '... and publishes');
caught_up();
is(sub_('SELECT es_create_store()'), '', 'es_create_store() on the subscriber puts back what is missing');
is(sub_('SELECT count(*) FROM event_store.epochs'), 1, '... and begins no epoch');
is(sub_('SELECT es_epoch() = (SELECT max(epoch) FROM event_store.epochs)'), 't', 'the epoch is the publisher\'s');
is(sub_('SELECT es_high_water_mark()'), $position, 'the mark is the publisher\'s');
is(sub_('SELECT count(*), max(position) FROM es_read_all()'), "43|$position", 'new events arrive');
is(sub_(q[SELECT version FROM es_load_at('c-1', (SELECT stable_until FROM event_store.mark))]) =~ /^\d+$/, 1, 'a load as of a settled time answers');
refused($subscriber, q[SET event_store.as_of_wait = 0; SELECT es_load_at('c-1', (SELECT floor FROM event_store.mark))], qr/is not final yet/, 'one as of a later time does not guess');
is(sub_(q[SELECT * FROM es_check('all')]), '', 'es_check finds nothing on the subscriber');
is(sub_('SELECT * FROM es_verify_log()'), '', 'nor does es_verify_log');

# ---- a rebuild on the publisher

pub(q[SELECT es_rebuild_projection('counted')]);
ok($publisher->poll_query_until($db, 'SELECT count(*) = 0 FROM event_store.rebuilds'), 'a rebuild on the publisher');
pub(q[SELECT es_rebuild_projection('counted', $$INSERT INTO counted AS c SELECT stream, 2 * count(*) FROM new_events GROUP BY 1
	ON CONFLICT (stream) DO UPDATE SET n = c.n + EXCLUDED.n$$)]);
ok($publisher->poll_query_until($db, 'SELECT count(*) = 0 FROM event_store.rebuilds'), 'another one, with another result');
append($publisher, 'c-4');
ok($publisher->poll_query_until($db, q[SELECT count(*) = 1 FROM counted WHERE stream = 'c-4']), 'applied');
ok(caught_up(), 'the subscriber goes on after them');
is(sub_(q[SELECT n FROM counted WHERE stream = 'c-1']), 80, 'with what they have made');

# A crash in the middle of one: its tables, unlogged, are emptied, and it begins anew.
pub(q[SELECT es_append_batch(array_fill('big-1'::text, '{30000}'), array_fill('Counted'::text, '{30000}'), array_fill('{}'::jsonb, '{30000}'))]);
ok($publisher->poll_query_until($db, q[SELECT n = 60000 FROM counted WHERE stream = 'big-1']), 'many events');
pub(q[SELECT es_stop_worker(); SELECT es_rebuild_projection('counted'); SELECT es_run_projection('counted', 1)]);
cmp_ok(pub('SELECT position FROM event_store.checkpoints WHERE rebuild'), '>', 1000, 'a rebuild is in the middle');
$publisher->stop('immediate');
$publisher->start;
ok($publisher->poll_query_until($db, 'SELECT count(*) = 0 FROM event_store.rebuilds'), 'after a crash it comes to its end');
like(slurp_file($publisher->logfile), qr/rebuild of projection "counted" begins anew/, 'from its beginning');
is(pub(q[SELECT string_agg(stream || ':' || n, ' ' ORDER BY stream) FROM counted]), 'big-1:60000 c-1:80 c-2:2 c-3:2 c-4:2 new-1:2', 'every event once');

# ---- more events than the partitions that were there when the schema was dumped have room for

my ($end) = sub_('SELECT max(to_position) FROM event_store.partitions') =~ /(\d+)/;
sub_(qq[CREATE TABLE event_store.log_$end (LIKE event_store.log INCLUDING ALL);
	CREATE UNIQUE INDEX log_${end}_stream_version ON event_store.log_$end (stream, version);
	ALTER TABLE event_store.log ATTACH PARTITION event_store.log_$end FOR VALUES FROM ($end) TO (@{[ $end + 1_000_000_000 ]});
	SELECT es_create_store()]);
is(sub_(q[SELECT * FROM es_check('all')]), '', 'a partition that is attached to the subscriber is like the others');

# ---- the subscriber takes over

pub(q[ALTER SYSTEM SET default_transaction_read_only = on; SELECT pg_reload_conf()]);
ok($publisher->poll_query_until($db, q[SHOW default_transaction_read_only], 'on'), 'applications cannot write any more');
ok($publisher->poll_query_until($db, q[SELECT mark = newest_position AND NOT EXISTS (SELECT FROM event_store.projection_status WHERE lag_events > 0) FROM event_store.status]),
	'the publisher has come to rest');
ok(caught_up(), 'and the subscriber has all of it');
my $before = pub(q[SELECT count(*), max(position) FROM es_read_all(0, 1000000)]);
is(sub_(q[SELECT count(*), max(position) FROM es_read_all(0, 1000000)]), $before, 'the same events');
my $epoch = sub_('SELECT es_epoch()');
sub_('DROP SUBSCRIPTION copy');
sub_('SELECT es_create_store()');
ok($subscriber->poll_query_until($db, 'SELECT coordinator_pid IS NOT NULL FROM event_store.status'), 'a coordinator runs where the subscription was dropped');
cmp_ok(sub_('SELECT es_epoch()'), '>', $epoch, 'a new epoch');
my ($mark) = $before =~ /(\d+)$/;
is(sub_("SELECT rewind FROM es_check_cursor($epoch, $mark)"), 'f', 'a cursor from the publisher goes on');
cmp_ok(append($subscriber, 'c-1', 2), '>', $mark, 'appends go on, at higher positions');
is(sub_(q[SELECT es_stream_version('c-1')]), 42, 'of a stream that is there');
append($subscriber, 'c-9');
append($subscriber, 'other-1');
is(sub_(q[SELECT version FROM es_append('other-1', 1, 'Renamed', '{}')]), 2, 'of new streams, categories and event types');
is(sub_(q[SELECT es_create_subscription('fresh'); SELECT count(*) FROM es_fetch('fresh', max_count => 10)]), 10, 'new subscriptions');
ok($subscriber->poll_query_until($db, q[SELECT n = 84 FROM counted WHERE stream = 'c-1']), 'projections go on where they were');
is(sub_(q[SELECT * FROM es_check('all')]), '', 'es_check finds nothing');
is(sub_('SELECT * FROM es_verify_log()'), '', 'nor does es_verify_log');

$subscriber->stop;
$publisher->stop;
for my $node ($publisher, $subscriber)
{
	my $log = slurp_file($node->logfile);

	# A worker of 15.18 that applies rows to a partition with triggers for rows leaks; that of 15.20 does not.
	$log =~ s/^.*relcache reference leak: relation "log_0" not closed.*$//mg if $node->pg_version < '15.20';
	unlike($log, qr/TRAP:|PANIC:|terminated by signal|WARNING: .*leak/, 'no crash and no leak in the log of ' . $node->name);
}
done_testing();
