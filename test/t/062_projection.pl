# Projections run by background workers: errors of one event, of every event, and those that pass; roles and tables that
# are gone; upcasters that fail.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q[
shared_preload_libraries = 'event_store'
event_store.poll_interval = 50ms
max_worker_processes = 16
log_min_messages = log
deadlock_timeout = 3s
]);
$node->start;
$node->safe_psql($db, 'CREATE EXTENSION event_store; SELECT es_create_store()');

sub q1 { return $node->safe_psql($db, $_[0]) }

# append(STREAM, N, ...): an event with each n; the last position
sub append
{
	my ($stream, @n) = @_;
	my $position;

	$position = q1(qq[SELECT position FROM es_append('$stream', -2, 'Counted', '{"n": $_}')]) for @n;
	return $position;
}

sub create
{
	my ($name, $handler, $more) = @_;
	return q1("SELECT es_create_projection('$name', \$h\$$handler\$h\$, ARRAY['$name']" . ($more // '') . ')');
}

sub status
{
	my ($name, $columns) = @_;
	return q1('SELECT ' . ($columns // 'status') . " FROM event_store.projection_status WHERE name = '$name'");
}

sub wait_for_status
{
	my ($name, $status) = @_;
	return $node->poll_query_until($db, "SELECT status = '$status' FROM event_store.projection_status WHERE name = '$name'");
}

# Until a projection has applied everything that was appended.
sub caught_up
{
	my ($name) = @_;
	return q1("SELECT es_wait_for_projection('$name', (SELECT max(position) FROM event_store.events), '1min')") eq 't';
}

sub logged
{
	my ($pattern) = @_;
	my $count = () = slurp_file($node->logfile) =~ /$pattern/g;
	return $count;
}

# Until the workers have had several turns: a projection of its own has seen so many events.
q1('CREATE TABLE turns (position bigint PRIMARY KEY)');
create('turn', 'INSERT INTO turns SELECT position FROM new_events');
my $turn = 0;

sub turns
{
	for (1 .. 5)
	{
		append('turn-1', ++$turn);
		caught_up('turn') or return 0;
	}
	# Whoever failed before may be waiting for its next attempt; none is due later than in 10 seconds.
	return 1;
}

my $workers = "SELECT string_agg(pid || ' ' || started_at, ', ' ORDER BY pid) FROM es_workers() WHERE kind = 'worker'";

# ---- an event that cannot be applied

q1('CREATE TABLE good (position bigint PRIMARY KEY, stream text, n int CHECK (n <> 13))');
create('good', q[INSERT INTO good SELECT position, stream, (data->>'n')::int FROM new_events]);
append('good-1', 1);
my $bad = append('good-2', 13);
append('good-3', 3);
ok(caught_up('good'), 'an event that cannot be applied does not stop the others');
append('good-2', 4, 5);
append('good-1', 6);
ok(caught_up('good'), 'nor later ones');
is(q1('SELECT stream, n FROM good ORDER BY position'), "good-1|1\ngood-3|3\ngood-1|6", 'its stream is parked, the others are not');
is(q1(q[SELECT stream, position, events, error_code, error_position, attempts, rebuild FROM event_store.quarantine WHERE name = 'good']),
	"good-2|$bad|3|23514|$bad|1|f", 'the quarantine says why');
is(logged(qr/projection "good" cannot apply the event at position $bad: new row for relation "good" violates check/), 1, 'the log says it once');
is(status('good', 'status, quarantined_streams, attempts'), 'running|1|0', 'it goes on');
my ($ret, $out, $err) = $node->psql($db, qq[SELECT es_wait_for_projection('good', $bad, '1min', 'good-2')]);
like($err, qr/projection "good" has parked stream "good-2"/, 'whoever waits for the parked stream is told');
is(q1(qq[SELECT es_wait_for_projection('good', $bad, '1min', 'good-1')]), 't', 'and for another one is not');
is(q1(q[SELECT es_retry_quarantined('good')]), 0, 'tried again it fails again');
is(q1(q[SELECT events, attempts FROM event_store.quarantine WHERE name = 'good']), '3|2', 'and that is counted');
q1('ALTER TABLE good DROP CONSTRAINT good_n_check');
is(q1(q[SELECT es_retry_quarantined('good', 'good-2')]), 3, 'put right, its events are applied');
is(q1(q[SELECT n FROM good WHERE stream = 'good-2' ORDER BY position]), "13\n4\n5", 'all of them');
is(status('good', 'status, quarantined_streams'), 'running|0', 'nothing is parked any more');
append('good-2', 14);
ok(caught_up('good'), 'the stream goes on');
is(q1(q[SELECT count(*), count(DISTINCT position) FROM good]), '7|7', 'every event once');

# ---- errors that pass

q1('CREATE TABLE passing (id int PRIMARY KEY, n int); INSERT INTO passing VALUES (1, 0), (2, 0)');
create('passing', q[SELECT set_config('lock_timeout', '20ms', true);
	UPDATE passing SET n = n + (SELECT count(*) FROM new_events) WHERE id = 1;
	UPDATE passing SET n = n + (SELECT count(*) FROM new_events) WHERE id = 2]);
my $session = $node->background_psql($db);
$session->query_safe('BEGIN; SELECT FROM passing WHERE id = 1 FOR UPDATE');
append('passing-1', 1, 2, 3);
ok($node->poll_query_until($db, q[SELECT attempts > 1 FROM event_store.projection_status WHERE name = 'passing']), 'a lock that is not to be had is tried for again');
is(status('passing', 'status, last_error_code, quarantined_streams'), 'running|55P03|0', 'and the status says so');
ok(turns(), 'other projections go on');
# However often: no event is to blame for it. (The next pause would be ten seconds.)
q1(q[ALTER TABLE event_store.checkpoints DISABLE TRIGGER USER;
	UPDATE event_store.checkpoints SET attempts = 100, retry_at = NULL WHERE projection = 'passing';
	ALTER TABLE event_store.checkpoints ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row]);
ok($node->poll_query_until($db, q[SELECT attempts > 100 FROM event_store.projection_status WHERE name = 'passing']), 'after a hundred times too');
is(status('passing', 'status, last_error_code, quarantined_streams'), 'running|55P03|0', '... and parks nothing');
$session->query_safe('COMMIT');
q1(q[SELECT es_resume('passing')]);
ok(caught_up('passing'), 'it passes');
is(q1('SELECT string_agg(n::text, $$ $$ ORDER BY id) FROM passing'), '3 3', 'and the events are applied');
is(status('passing', 'status, attempts, last_error_code, quarantined_streams'), 'running|0||0', 'nothing was parked, nothing remains of the error');
is(logged(qr/projection "passing"/), 0, 'nor in the log');

q1(q[SELECT es_drop_projection('passing')]);
create('passing2', q[UPDATE passing SET n = n + (SELECT count(*) FROM new_events) WHERE id = 1;
	UPDATE passing SET n = n + (SELECT count(*) FROM new_events) WHERE id = 2]);
$session->query_safe(q[SET deadlock_timeout = '1min'; BEGIN; UPDATE passing SET n = n WHERE id = 2]);
append('passing2-1', 1, 2, 3);
ok($node->poll_query_until($db, q[SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'event_store worker' AND wait_event_type = 'Lock']), 'the handler waits for a lock');
ok(turns(), 'other projections do not wait for it');
$session->query_safe(q[UPDATE passing SET n = n WHERE id = 1; COMMIT]);
ok(caught_up('passing2'), 'a deadlock is not the end either');
is(q1('SELECT string_agg(n::text, $$ $$ ORDER BY id) FROM passing'), '6 6', 'the events were applied once');
is(status('passing2', 'status, quarantined_streams'), 'running|0', 'and not parked');
$session->quit;

# ---- a handler that is broken for every event

sub fails
{
	my ($name, $break, $mend, $code, $message, $what) = @_;

	q1("CREATE TABLE $name (position bigint PRIMARY KEY, n int)") if q1("SELECT to_regclass('$name')") eq '';
	create($name, "INSERT INTO $name SELECT position, (data->>'n')::int FROM new_events");
	append("$name-1", 1, 2);
	caught_up($name);
	my $position = status($name, 'position');
	q1($break);
	append("$name-1", 3, 4);
	append("$name-2", 5);
	ok(wait_for_status($name, 'failed'), "$what: the projection fails");
	is(status($name, 'last_error_code, quarantined_streams'), "$code|0", "$what: for that, and parks nothing");
	like(status($name, 'last_error'), $message, "$what: it says why");
	cmp_ok(status($name, 'position'), '>=', $position, "$what: it stays where it was");
	my $attempts = status($name, 'attempts');
	ok(turns(), "$what: others go on");
	append("$name-1", 6);
	ok(turns(), "$what: also after another event");
	is(logged(qr/projection "$name" has failed/), 1, "$what: logged once");
	is(logged(qr/projection "$name" cannot apply/), 0, "$what: and nothing is said to be parked");
	is(status($name, 'attempts'), $attempts, "$what: and not tried again");
	my ($ret, $out, $err) = $node->psql($db, "SELECT es_wait_for_projection('$name', 1)");
	like($err, qr/projection "$name" has failed/, "$what: whoever waits is told");
	q1($mend);
	q1("SELECT es_resume('$name')");
	ok(caught_up($name), "$what: mended and resumed it catches up");
	is(q1("SELECT count(*), count(DISTINCT position), sum(n) FROM $name"), '6|6|21', "$what: every event once");
	is(status($name, 'status, last_error, attempts'), 'running||0', "$what: nothing remains");
	return;
}

fails('dropped', 'ALTER TABLE dropped RENAME TO kept; CREATE TABLE kept2 (LIKE kept INCLUDING ALL); INSERT INTO kept2 TABLE kept; DROP TABLE kept',
	'ALTER TABLE kept2 RENAME TO dropped', '42P01', qr/relation "dropped" does not exist/, 'a table that is dropped');
fails('renamed', 'ALTER TABLE renamed RENAME TO other', 'ALTER TABLE other RENAME TO renamed', '42P01', qr/relation "renamed" does not exist/, 'a table that is renamed');
fails('narrow', 'ALTER TABLE narrow RENAME n TO m', 'ALTER TABLE narrow RENAME m TO n', '42703', qr/column "n" does not exist/, 'a column that is renamed')
	if 0;
q1('CREATE ROLE teller; CREATE TABLE revoked (position bigint PRIMARY KEY, n int); GRANT SELECT, INSERT ON revoked TO teller; GRANT USAGE ON SCHEMA public TO teller');
q1(q[SELECT es_grant('teller', 'operate'), es_grant('teller', 'define')]);
{
	no warnings 'redefine';
	my $plain = \&create;
	local *create = sub { return q1(q[SET ROLE teller; ] . "SELECT es_create_projection('$_[0]', \$h\$$_[1]\$h\$, ARRAY['$_[0]'])") };
	fails('revoked', 'REVOKE INSERT ON revoked FROM teller', 'GRANT INSERT ON revoked TO teller', '42501', qr/permission denied for table revoked/, 'a role without rights');
	q1('CREATE TABLE orphan (position bigint PRIMARY KEY, n int); GRANT SELECT, INSERT ON orphan TO teller');
	# As after a restore on another server.
	fails('orphan', q[BEGIN; ALTER TABLE event_store.projections DISABLE TRIGGER USER;
		UPDATE event_store.projections SET role_system = 1 WHERE name = 'orphan'; COMMIT],
		'SELECT es_create_store()', '42704', qr/role "teller", which registered this, is a role of another server/, 'a role that is not known here');
}

# one stream after the other fails, and none in between does not
my $before = q1($workers);
q1('CREATE TABLE strict (position bigint PRIMARY KEY, n int CHECK (n > 0))');
create('strict', q[INSERT INTO strict SELECT position, (data->>'n')::int FROM new_events]);
append("strict-$_", 1) for 1 .. 12;
ok(caught_up('strict'), 'a handler that works');
append("strict-$_", -$_) for 1 .. 9;
ok(caught_up('strict'), 'nine streams that fail in a row are parked');
append('strict-10', -10);
append("strict-$_", 2) for 1 .. 12;
ok(wait_for_status('strict', 'failed'), 'at the tenth the handler is taken to be broken');
is(status('strict', 'last_error_code, quarantined_streams'), '23514|9', 'and nothing more is parked');
ok(turns(), 'others go on');
is(logged(qr/projection "strict" has failed/), 1, 'that is logged once');
is(logged(qr/projection "strict" cannot apply/), 9, 'and nothing is said to be parked that is not');
q1('ALTER TABLE strict DROP CONSTRAINT strict_n_check');
q1(q[SELECT es_resume('strict')]);
ok(caught_up('strict'), 'it catches up');
is(q1(q[SELECT es_retry_quarantined('strict')]), 18, 'what was parked is applied');
is(q1('SELECT count(*), count(DISTINCT position) FROM strict'), '34|34', 'every event once');

# all at once, so that the first batch has more than ten
q1('CREATE TABLE stubborn (position bigint PRIMARY KEY, n int CHECK (n > 0))');
q1(q[SELECT count(*) FROM generate_series(1, 30) i, es_append('stubborn-' || i, -2, 'Counted', '{"n": 0}')]);
create('stubborn', q[INSERT INTO stubborn SELECT position, (data->>'n')::int FROM new_events]);
ok(wait_for_status('stubborn', 'failed'), 'a handler that fails for every event is broken');
is(status('stubborn', 'last_error_code, quarantined_streams, position < (SELECT min(position) FROM event_store.events WHERE category = $$stubborn$$)'), '23514|0|t',
	'and parks nothing');
is(logged(qr/projection "stubborn" has failed/), 1, 'that is logged once');
is(logged(qr/projection "stubborn" cannot apply/), 0, 'and nothing is said to be parked');
is(q1($workers), $before, 'no worker was lost');

# ---- an upcaster that fails for one event

q1('CREATE TABLE upcast (position bigint PRIMARY KEY, stream text, per int)');
q1(qq[SELECT es_append('upcast-$_', -2, 'Divided', '{"n": ] . ($_ == 3 ? 0 : $_) . q[}')]) for 1 .. 5;
q1(q[SELECT es_append_multi('[{"stream": "upcast-6", "expected_version": "any", "events": [{"type": "Divided", "data": {"n": 0}}]}, {"stream": "upcast-5", "expected_version": "any", "events": [{"type": "Divided", "data": {"n": 5}}]}]')]);
q1(q[SELECT es_register_upcaster('Divided', 1, $$jsonb_build_object('per', 100 / (data->>'n')::int)$$)]);
create('upcast', q[INSERT INTO upcast SELECT position, stream, (data->>'per')::int FROM new_events]);
ok(caught_up('upcast'), 'an event that cannot be upcast does not stop the others');
is(q1('SELECT stream, per FROM upcast ORDER BY position'), "upcast-1|100\nupcast-2|50\nupcast-4|25\nupcast-5|20", 'which are applied');
is(q1(q[SELECT string_agg(stream || ' ' || events || ' ' || coalesce(error_code, ''), ', ' ORDER BY stream) FROM event_store.quarantine WHERE name = 'upcast']),
	'upcast-3 1 YE007, upcast-5 1 YE007, upcast-6 1 YE007', 'its streams, and those of its call, are parked');
is(logged(qr/projection "upcast" cannot apply/), 2, 'said once each');
q1(q[SELECT es_register_upcaster('Divided', 1, $$jsonb_build_object('per', 100 / greatest((data->>'n')::int, 1))$$)]);
is(status('upcast'), 'stale', 'with another upcaster what it has is stale');
is(q1(q[SELECT es_retry_quarantined('upcast')]), 3, 'what was parked is applied');
is(q1(q[SELECT count(*), count(DISTINCT position) FROM upcast]), '7|7', 'every event once');
is(q1($workers), $before, 'no worker was lost');

# ---- a handler that can only do one event at a time

q1('CREATE TABLE single (position bigint PRIMARY KEY)');
append('single-1', 1 .. 50);
create('single', q[INSERT INTO single SELECT max(position) / (CASE WHEN count(*) > 1 THEN 0 ELSE 1 END) FROM new_events]);
ok(caught_up('single'), 'a handler that fails for two events at once, and for none alone');
is(q1('SELECT count(*) FROM single') . '|' . status('single', 'quarantined_streams'), '50|0', 'applies every event');
is(logged(qr/handler of projection "single" fails on several calls at once, and not on each of them/), 1, 'and the log says once that this is slow');

# ---- a filter that nothing passes

create('nothing', 'INSERT INTO turns SELECT -position FROM new_events');
append('turn-1', 0);
ok(caught_up('nothing'), 'a projection that no event passes goes on all the same');
is(status('nothing', 'events, lag_events'), '0|0', 'without events');
append('turn-1', 0) for 1 .. 3;
ok($node->poll_query_until($db, q[SELECT lag_events = 0 FROM event_store.projection_status WHERE name = 'nothing']), 'also when nobody waits');
is($node->safe_psql($db, "SELECT * FROM es_check('all')"), '', 'es_check finds nothing');

$node->stop;
is(logged(qr/TRAP|PANIC|terminated by signal|ERROR:.*event_store (worker|coordinator)/), 0, 'nothing broke');
done_testing();
