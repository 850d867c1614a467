# What runs out: locks, connections, memory for sorting, and time. A call then works, or is refused with core's SQLSTATE and
# changes nothing; the server, the store and the workers go on afterwards.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Quiet;
use Test::More;
use Time::HiRes qw(time);

my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q[
shared_preload_libraries = 'event_store'
autovacuum = off
autovacuum_max_workers = 1
max_connections = 12
superuser_reserved_connections = 4
max_locks_per_transaction = 10
max_worker_processes = 6
max_wal_senders = 0
jit = off
event_store.partition_size = 100
event_store.poll_interval = 100ms
event_store.seal_interval = 0
]);
$node->start;

sub ask { return $node->safe_psql($db, $_[0]) }
sub poll { return $node->poll_query_until($db, $_[0]) }

# Runs a statement; returns its SQLSTATE, 00000 without an error.
sub sqlstate
{
	my ($sql) = @_;
	my ($rc, $out, $err) = $node->psql($db, "\\set VERBOSITY sqlstate\n$sql");

	return $err =~ /(?:ERROR|FATAL):\s+(\w{5})/ ? $1 : $rc == 0 ? '00000' : $err;
}

# (The view has a plan for each partition.)
my $caught_up = q[SELECT m.mark = q.last_value AND c.position >= m.mark FROM event_store.mark m, event_store.position_seq q, event_store.checkpoints c WHERE c.projection = 'counting' AND NOT c.rebuild];

# ---- locks: 200 partitions, and a table of locks that does not hold two for each

# (No worker reads them all meanwhile, or takes the locks of the others: nothing is sealed or rebuilt.)
ask(q[CREATE ROLE client LOGIN; CREATE EXTENSION event_store; SELECT es_create_store();
	CREATE TABLE counted (position bigint PRIMARY KEY);
	SELECT es_create_projection('counting', 'INSERT INTO counted SELECT position FROM new_events', tables => '{counted}');
	SELECT es_register_aggregate('wide', fold => 'to_jsonb(coalesce(state::int, 0) + 1)', initial_state => '0', snapshot_every => 1000000000)]);
my $batch = q[SELECT count(*) FROM es_append_batch((SELECT array_agg('wide-' || g %% %d) FROM generate_series(1, %d) g), array_fill('Known'::text, '{%2$d}'), array_fill('{}'::jsonb, '{%2$d}'))];
# (A larger call gets a larger partition.)
ask(sprintf 'DO $$ BEGIN FOR i IN 1 .. 250 LOOP PERFORM * FROM (%s) x; COMMIT; END LOOP; END $$', sprintf $batch, 50, 90);
cmp_ok(ask('SELECT count(*) FROM event_store.partitions'), '>=', 200, 'in many partitions');

my %seen;
for my $call (
	'SELECT count(*) FROM event_store.events',
	'SELECT count(*) FROM es_read_all(0, NULL)',
	q[SELECT count(*) FROM es_read_category('wide', 0, NULL)],
	q[SELECT count(*) FROM (SELECT es_read_all(0, NULL)) x],
	q[SELECT count(*) FROM es_read('wide-1')],
	q[SELECT es_load('wide-1')],
	q[SELECT count(*) FROM es_load_category('wide')],
	q[SELECT count(*) FROM es_history('wide-1')],
	q[SELECT es_position_at('2000-01-01')],
	q[SELECT count(*) FROM es_trace('none')],
	q[SELECT count(*) FROM es_test_upcasters()],
	q[SELECT count(*) FROM es_check('all')],
	'SELECT es_seal_log()',
	'SELECT count(*) FROM es_verify_log()',
	q[SELECT es_rebuild_projection('counting'); SELECT es_cancel_rebuild('counting')],
	q[SELECT es_create_subscription('wide'); SELECT count(*) FROM es_fetch('wide', max_count => 10000)],
	sprintf($batch, 20_000, 20_000),
	sprintf(q[SET event_store.partition_size = 100; BEGIN; ] . $batch . '; ROLLBACK', 5000, 40_000),
	q[INSERT INTO event_store.import (stream, event_type) SELECT 'import-' || g, 'Known' FROM generate_series(1, 20000) g],
	'SELECT es_create_store()',
	'SELECT es_upgrade_store()')
{
	my $got = sqlstate($call);
	$seen{$got}++;
	note("$got: $call");
	like($got, qr/^(00000|53200|42P06)$/, "with few locks: $call");
	is(sqlstate(q[SELECT es_append('small-1', -2, 'Known', '{}'::jsonb); SELECT * FROM es_read('small-1')]), '00000', 'and the next one works');
}
cmp_ok($seen{53200}, '>', 0, 'some of them did not find enough');

my $near = $node->background_psql($db, on_error_stop => 0);
$near->query('SELECT 1');

# Somebody takes all that are left, and keeps them.
my $hog = $node->background_psql($db, on_error_stop => 0);
$hog->query('SELECT count(pg_advisory_lock(g)) FROM generate_series(1, 1000000) g');
my $full = 0;
for my $call (q[SELECT es_append('small-1', -2, 'Known', '{}'::jsonb)], q[SELECT es_append('more-1', -2, 'New', '{}'::jsonb)], 'SELECT count(*) FROM es_read_all(0, NULL)',
	q[SELECT es_load('wide-2')], 'SELECT es_publish_mark()', 'SELECT es_start_worker()', sprintf($batch, 200, 300))
{
	my $got = $near->query("$call;\n\\echo :SQLSTATE") =~ s/.*\n//sr;
	like($got, qr/^(00000|53200)$/, "without a lock left: $call");
	$full++ if $got eq '53200';
}
cmp_ok($full, '>', 0, 'there is none left');
$hog->quit;
$near->quit;
is(sqlstate(q[SELECT es_append('small-1', -2, 'Known', '{}'::jsonb)]), '00000', 'when they are given back appends go on');
ok(poll($caught_up), 'and the workers');

# ---- connections

my @clients;
my $said = '';
while (@clients < 20)
{
	my $client = eval { $node->background_psql($db, extra_params => [ '-U', 'client' ]) };
	last if !$client || !eval { $client->query_safe('SELECT 1') };
	push @clients, $client;
}
cmp_ok(scalar @clients, '<', 12, 'connections run out');
(undef, undef, $said) = $node->psql($db, 'SELECT 1', extra_params => [ '-U', 'client' ]);
like($said, qr/reserved|too many/, 'the next client is refused by the server');
ask(q[SELECT es_append('small-1', -2, 'Known', '{}'::jsonb)]);
ok(poll($caught_up), 'the workers have connections of their own');
ok(ask(q[SELECT pg_terminate_backend(coordinator_pid) FROM event_store.status]), 'one that is terminated');
ok(poll(q[SELECT coordinator_pid IS NOT NULL FROM event_store.status]), 'also finds its place again');
ask(q[SELECT es_append('small-1', -2, 'Known', '{}'::jsonb)]);
ok(poll($caught_up), 'and works');
$_->quit for @clients;
is(sqlstate(q[SELECT es_append('small-1', -2, 'Known', '{}'::jsonb)]), '00000', 'when they are gone appends go on');

# ---- slots of background workers: the launcher's, and one for each of two databases

$node->append_conf('postgresql.conf', "max_locks_per_transaction = 200\nmax_connections = 40\nmax_logical_replication_workers = 0\nmax_worker_processes = 3\nevent_store.max_workers = 0\nevent_store.partition_size = 10000000");
ask('CREATE DATABASE second');
$node->restart;
$node->safe_psql('second', 'CREATE EXTENSION event_store; SELECT es_create_store()');
ok(poll(q[SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'event_store coordinator']), 'two coordinators');
my $from = -s $node->logfile;
$node->append_conf('postgresql.conf', 'event_store.max_workers = 2');
$node->reload;
ask(q[SELECT es_append('small-1', -2, 'Known', '{}'::jsonb)]);
$node->wait_for_log(qr/event_store coordinator found no free slot for a background worker/, $from);
ok(1, 'the log says that there is no slot for a worker');
ok(poll('SELECT mark = newest_position FROM event_store.status'), 'the mark goes on');
$node->safe_psql($db, 'DROP DATABASE second');
$node->wait_for_log(qr/event_store coordinator could start workers again/, $from);
ok(poll($caught_up), 'when there is one, projections go on');

# ---- with enough of everything, the store is whole

$node->append_conf('postgresql.conf', "max_worker_processes = 12");
$node->restart;
ok(poll($caught_up) && ask('SELECT (SELECT count(*) FROM counted) = (SELECT count(*) FROM event_store.log)') eq 't', 'the projection has every event once');
is(ask(q[SELECT * FROM es_check('all'); SELECT count(*) FROM es_verify_log()]), '0', 'es_check and es_verify_log find nothing');
is(ask(q[SELECT (SELECT count(*) FROM es_read_all(0, NULL)) = (SELECT count(*) FROM event_store.log)]), 't', 'all events are read');

# ---- work_mem: the same answers

ask(q[SELECT es_register_aggregate('long', fold => 'jsonb_build_object(''n'', coalesce((state->>''n'')::bigint, 0) + (data->>''n'')::bigint)', snapshot_every => 1000000000);
	SELECT es_register_aggregate('short', rules => '{"Known": {"append": {"list": "n"}}}');
	INSERT INTO event_store.import (stream, event_type, data, occurred_at) SELECT CASE g % 2 WHEN 0 THEN 'long-1' ELSE 'short-' || g % 9999 END, 'Known',
		jsonb_build_object('n', g), '2020-01-01'::timestamptz + (g::bigint * 7919 % 300007) * interval '1 s' FROM generate_series(1, 300000) g;
	CREATE TABLE sums (stream text PRIMARY KEY, n bigint);
	SELECT es_create_projection('sums', 'INSERT INTO sums SELECT stream, sum((data->>''n'')::bigint) FROM new_events GROUP BY stream
		ON CONFLICT (stream) DO UPDATE SET n = sums.n + EXCLUDED.n', categories => '{long,short}', tables => '{sums}')]);
ok(poll($caught_up), 'after an import of 300,000');
my $last = ask('SELECT newest_position FROM event_store.status');
is(ask("SELECT es_wait_for_projection('sums', $last, '3min')"), 't', 'two projections have caught up');
for my $call (
	'SELECT count(*), sum(position), md5(string_agg(stream, NULL ORDER BY position)) FROM es_read_all(0, NULL)',
	q[SELECT count(*), sum(version), sum(hashtext(data::text)) FROM es_read_category('short', 0, NULL)],
	q[SELECT count(*), sum(version) FROM es_read('long-1')],
	q[SELECT count(*), sum(version), sum(hashtext(state::text)) FROM es_load_category('short')],
	q[SELECT state, version FROM es_load_valid_at('long-1', '2020-01-03')],
	q[SELECT count(*), sum(version), md5(string_agg(state::text, NULL)) FROM es_history('long-1', 140000)],
	'SELECT count(*) FROM es_verify_log()',
	q[SELECT count(*) FROM es_check('all')],
	sprintf('BEGIN; ' . $batch . '; ROLLBACK', 50_000, 100_000))
{
	is(ask("SET work_mem = '64kB'; $call"), ask("SET work_mem = '64MB'; $call"), "with little work_mem: $call");
}
my $sums = ask('SELECT count(*), sum(n), sum(hashtext(stream || n)) FROM sums');
ask(q[ALTER SYSTEM SET work_mem = '64kB']);
$node->reload;
ask(q[SELECT es_rebuild_projection('sums')]);
ok(poll(q[SELECT count(*) = 0 FROM event_store.rebuild_progress]), 'a rebuild with little work_mem');
is(ask('SELECT count(*), sum(n), sum(hashtext(stream || n)) FROM sums'), $sums, 'makes the same tables');
ask('ALTER SYSTEM RESET work_mem');
$node->reload;

# ---- statement_timeout: whatever takes long, or waits, ends with it

my $open = $node->background_psql($db);
$open->query_safe(q[BEGIN; SELECT es_append('open-1', 0, 'Known', '{}'::jsonb)]);
my $beyond = ask('SELECT newest_position FROM event_store.status');
ask(q[SELECT es_create_subscription('empty', categories => '{nothing}')]);
ask(q[CREATE TABLE slow (n bigint); SELECT es_create_projection('slow', 'INSERT INTO slow SELECT count(*) FROM new_events, generate_series(1, 10000)', batch_size => 10000, tables => '{slow}');
	SELECT es_stop_worker()]);

# Ends within a second after its time; nothing of it stays.
sub timed_out
{
	my ($setting, $sqlstate, $call, $name) = @_;
	my $start = time;
	is(sqlstate("SET $setting = '50ms'; $call"), $sqlstate, "$setting: " . ($name // $call));
	my $took = time - $start;
	cmp_ok($took, '<', 2, sprintf 'after %.1f s', $took);
	is(ask(q[SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND state = 'active' AND pid <> pg_backend_pid()]), 0, 'nothing goes on');
	return;
}

for my $call (
	"SELECT es_wait_for_projection('sums', $beyond, '10min')",
	q[SELECT count(*) FROM es_fetch('empty', wait => '1 min')],
	q[SELECT es_run_projection('slow')],
	q[SELECT es_load('long-1')],
	q[SELECT es_load_version('long-1', 149000)],
	q[SELECT es_load_valid_at('long-1', '2030-01-01')],
	q[SELECT count(*) FROM es_history('long-1')],
	q[SELECT count(*) FROM generate_series(1, 100), LATERAL es_load_category('short')],
	q[SELECT count(*) FROM generate_series(1, 100), LATERAL es_trace('none' || generate_series)],
	q[SELECT count(*) FROM es_check('all')],
	q[SELECT count(*) FROM es_verify_log()],
	q[SELECT count(*) FROM es_verify_stream('long-1')],
	q[SET event_store.mark_wait = '1min'; SELECT es_seal_log()],
	q[SET event_store.as_of_wait = '1min'; SELECT es_load_at('long-1', clock_timestamp())],
	q[SET event_store.as_of_wait = '1min'; SELECT count(*) FROM es_load_category('short', clock_timestamp())],
	q[SELECT es_set_projection_mode('sums', 'inline')])
{
	timed_out('statement_timeout', '57014', $call);
}
ask(q[SELECT es_register_upcaster('Known', 1, 'data')]);
timed_out('statement_timeout', '57014', 'SELECT * FROM es_test_upcasters()');
ask(q[SELECT es_unregister_upcaster('Known', 1)]);
# es_rebuild_projection only begins one; es_run_projection goes on with it.
timed_out('statement_timeout', '57014', q[SELECT es_rebuild_projection('slow'); SELECT es_run_projection('slow')]);

$open->query_safe('ROLLBACK');
$open->quit;

# ---- lock_timeout: whatever waits for a lock ends with it

for my $pair (
	[ 'LOCK TABLE event_store.projections IN ACCESS EXCLUSIVE MODE', q[SELECT es_upgrade_store()] ],
	[ 'LOCK TABLE event_store.grants IN ACCESS EXCLUSIVE MODE', q[SELECT es_grant('client', 'read')] ],
	[ q[SELECT es_grant('client', 'read')], q[SELECT es_revoke('client', 'read')] ],
	[ 'LOCK TABLE event_store.aggregates IN ACCESS EXCLUSIVE MODE', q[SELECT es_register_aggregate('other', fold => 'state')] ],
	[ 'LOCK TABLE event_store.upcasters IN ACCESS EXCLUSIVE MODE', q[SELECT es_register_upcaster('Known', 1, 'data')] ],
	[ 'LOCK TABLE event_store.event_checks IN ACCESS EXCLUSIVE MODE', q[SELECT es_register_event_type('Known', 1, 'true')] ],
	[ 'LOCK TABLE event_store.snapshots IN ACCESS EXCLUSIVE MODE', q[SELECT es_snapshot('short-1')] ],
	[ q[SELECT FROM event_store.checkpoints FOR UPDATE], q[SELECT es_pause('sums')] ],
	[ q[SELECT FROM event_store.checkpoints FOR UPDATE], q[SELECT es_drop_projection('sums')] ],
	[ q[SELECT FROM event_store.checkpoints FOR UPDATE], q[SELECT es_rebuild_projection('sums')] ],
	[ q[SELECT FROM event_store.checkpoints FOR UPDATE], q[SELECT es_run_projection('sums')] ],
	[ q[SELECT FROM event_store.checkpoints FOR UPDATE], q[SELECT es_set_projection_mode('sums', 'inline')] ],
	[ q[SELECT es_append('open-1', 0, 'Known', '{}'::jsonb)], q[SELECT es_set_projection_mode('sums', 'inline')] ],
	[ q[SELECT count(*) FROM es_fetch('wide')], q[SELECT count(*) FROM es_fetch('wide', 'other')] ],
	[ q[SELECT count(*) FROM es_fetch('wide')], q[SELECT es_drop_subscription('wide')] ],
	[ q[SELECT es_seal_log()], q[SELECT es_seal_log()] ],
	[ q[LOCK TABLE event_store.epochs IN EXCLUSIVE MODE], q[SELECT es_begin_epoch()] ],
	[ 'LOCK TABLE event_store.log IN ACCESS EXCLUSIVE MODE', q[SELECT count(*) FROM es_verify_log()] ],
	[ 'LOCK TABLE event_store.log IN ACCESS EXCLUSIVE MODE', q[SELECT count(*) FROM es_check()] ])
{
	my ($held, $call) = @$pair;
	my $holder = $node->background_psql($db);
	$holder->query_safe("BEGIN; $held");
	timed_out('lock_timeout', '55P03', $call, "$call behind $held");
	$holder->query_safe('ROLLBACK');
	$holder->quit;
}
is(ask(q[SELECT count(*) FROM pg_locks l WHERE l.pid <> pg_backend_pid() AND l.pid IN (SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend')]), 0, 'no lock is left');
is(ask(q[SELECT es_drop_projection('slow') IS NOT NULL; SELECT * FROM es_check('all')]), 't', 'es_check finds nothing');

$node->stop;
unlike(slurp_file($node->logfile), qr/was terminated by signal|PANIC:|TRAP:|ERROR: .* internal error|WARNING: .*(leak|not closed|left non-empty|you don't own a lock)/,
	'the server log has no crash and no leak');
done_testing();
