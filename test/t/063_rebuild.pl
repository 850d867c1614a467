# Rebuilds of projections by background workers: errors, crashes in the middle, appends that go on, tables of all kinds;
# projections on a standby and in a dump.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 1);
$node->append_conf('postgresql.conf', q[
shared_preload_libraries = 'event_store'
event_store.poll_interval = 50ms
event_store.max_batch = 500
max_worker_processes = 16
log_min_messages = log
deadlock_timeout = 3s
restart_after_crash = on
]);
$node->start;
$node->safe_psql($db, 'CREATE EXTENSION event_store; SELECT es_create_store()');

sub q1 { return $node->safe_psql($db, $_[0]) }

# append(STREAM, N, ...): an event with each n
sub append
{
	my ($stream, @n) = @_;

	q1(qq[SELECT position FROM es_append('$stream', -2, 'Counted', '{"n": $_}')]) for @n;
	return;
}

sub create
{
	my ($name, $handler, $tables) = @_;
	return q1("SELECT es_create_projection('$name', \$h\$$handler\$h\$, ARRAY['$name'], tables => "
			. ($tables // "ARRAY['$name'::regclass]") . ')');
}

sub rebuild
{
	my ($name, $handler, $more) = @_;
	return q1("SELECT es_rebuild_projection('$name'" . (defined $handler ? ", \$h\$$handler\$h\$" : '') . ($more // '') . ')');
}

sub status
{
	my ($name, $columns) = @_;
	return q1('SELECT ' . ($columns // 'status') . " FROM event_store.projection_status WHERE name = '$name'");
}

sub wait_for_status
{
	my ($name, $condition) = @_;
	return $node->poll_query_until($db, "SELECT $condition FROM event_store.projection_status WHERE name = '$name'");
}

sub rebuilt
{
	my ($name) = @_;
	return wait_for_status($name, "status = 'running' AND rebuild IS NULL") &&
		q1(q[SELECT count(*) FROM event_store.rebuilds]) == 0 &&
		q1(q[SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'event\_store\_rebuild%']) == 0;
}

sub caught_up
{
	my ($name, $on) = @_;
	return ($on // $node)->safe_psql($db, "SELECT es_wait_for_projection('$name', (SELECT max(position) FROM event_store.events), '1min')") eq 't';
}

sub logged
{
	my ($pattern) = @_;
	my $count = () = slurp_file($node->logfile) =~ /$pattern/g;
	return $count;
}

q1('CREATE TABLE turn (position bigint PRIMARY KEY)');
create('turn', 'INSERT INTO turn SELECT position FROM new_events');

# Until the workers have had several turns.
sub turns
{
	for (1 .. 5)
	{
		append('turn-1', 1);
		caught_up('turn') or return 0;
	}
	return 1;
}

sub lost { return logged(qr/terminating background worker|exited with exit code [^0]/) }

# ---- what a handler may not do

q1('CREATE TABLE one (stream text PRIMARY KEY, n bigint); CREATE TABLE elsewhere (n int)');
q1('CREATE FUNCTION sly(text) RETURNS text LANGUAGE plpgsql SET search_path = public AS $$ BEGIN INSERT INTO elsewhere VALUES (1); RETURN $1; END $$');
my $count = q[INSERT INTO one AS o SELECT stream, count(*) FROM new_events GROUP BY 1 ON CONFLICT (stream) DO UPDATE SET n = o.n + EXCLUDED.n];
create('one', $count);
append('one-1', 1, 2);
append('one-2', 3);
ok(caught_up('one'), 'a projection');
my ($ret, $out, $err) = $node->psql($db, "SELECT es_rebuild_projection('one', 'INSERT INTO public.one SELECT stream, 1 FROM new_events')");
like($err, qr/must not write to table "public.one".*Only the tables listed with the projection are redirected.*Name them unqualified/s, 'a handler that names its table with a schema is refused, with the reason');
($ret, $out, $err) = $node->psql($db, "SELECT es_rebuild_projection('one', 'INSERT INTO one SELECT stream, 1 FROM new_events; INSERT INTO elsewhere SELECT 1 FROM new_events')");
like($err, qr/must not write to table "public.elsewhere"/, 'one that writes to a table that is not listed too');
is(q1('SELECT count(*) FROM event_store.rebuilds'), 0, 'and nothing has begun');
# Only seen when there is an event to call the function for.
rebuild('one', 'INSERT INTO one SELECT sly(stream), count(*) FROM new_events GROUP BY 1');
ok(wait_for_status('one', "rebuild = 'failed'"), 'a function that writes elsewhere makes the rebuild fail');
is(q1('SELECT count(*) FROM elsewhere'), 0, 'and has not written');
is(status('one'), 'running', 'the live projection goes on');
is(q1(q[SELECT stream, n FROM one ORDER BY 1]), "one-1|2\none-2|1", 'with what it has');
ok(turns(), 'others go on');
is(logged(qr/rebuild of projection "one" has failed: a handler must not write/), 1, 'it is logged once');
my $attempts = q1('SELECT attempts FROM event_store.checkpoints WHERE rebuild');
append('one-2', 4);
ok(turns() && caught_up('one'), 'and not tried again');
is(q1('SELECT attempts FROM event_store.checkpoints WHERE rebuild'), $attempts, 'not once');
is(q1(q[SELECT es_cancel_rebuild('one')]), 't', 'cancelled');
is(q1(q[SELECT es_cancel_rebuild('one')]), 'f', 'once');
ok(rebuilt('one'), 'nothing is left of it');
is(lost(), 0, 'no worker was lost');

# ---- a rebuild whose schema somebody has dropped

append('one-3', 1);
q1('ALTER SYSTEM SET event_store.max_workers = 0');
$node->reload;
ok($node->poll_query_until($db, q[SELECT count(*) = 0 FROM es_workers() WHERE kind = 'worker']), 'no workers');
rebuild('one');
q1(q[DO $$ BEGIN EXECUTE (SELECT format('DROP SCHEMA %I CASCADE', schema) FROM event_store.rebuilds); END $$]);
q1('ALTER SYSTEM RESET event_store.max_workers');
$node->reload;
ok(wait_for_status('one', "rebuild = 'failed'"), 'without its schema a rebuild fails');
ok(turns() && caught_up('one'), 'and everything else goes on');
is(lost(), 0, 'no worker was lost');
rebuild('one');
ok(rebuilt('one'), 'begun anew it comes to its end');
is(q1(q[SELECT stream, n FROM one ORDER BY 1]), "one-1|2\none-2|2\none-3|1", 'with the right result');

# ---- an error that passes

my $session = $node->background_psql($db);
$session->query_safe(q[SET deadlock_timeout = '1min'; BEGIN; SELECT FROM one WHERE stream = 'one-1' FOR UPDATE]);
rebuild('one', $count =~ s/count\(\*\)/10 * count(*)/r);
ok($node->poll_query_until($db, q[SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'event_store worker' AND wait_event_type = 'Lock']), 'the end of a rebuild waits for a row');
ok(turns(), 'others go on');
$session->query_safe(q[SELECT FROM event_store.checkpoints WHERE projection = 'one' FOR UPDATE; COMMIT]);
ok(rebuilt('one'), 'a deadlock does not make it fail');
is(q1(q[SELECT stream, n FROM one ORDER BY 1]), "one-1|20\none-2|20\none-3|10", 'it is done a moment later');
is(logged(qr/rebuild of projection "one" has failed: deadlock/), 0, 'and not worth a word');
$session->quit;

# ---- appends go on

q1('CREATE TABLE busy (stream text PRIMARY KEY, n bigint, factor int)');
create('busy', q[INSERT INTO busy AS b SELECT stream, count(*), 1 FROM new_events GROUP BY 1 ON CONFLICT (stream) DO UPDATE SET n = b.n + EXCLUDED.n]);
q1(q[SELECT count(*) FROM generate_series(1, 30) i, es_append_batch(array_fill('busy-' || i % 5, ARRAY[1000]), array_fill('Counted'::text, ARRAY[1000]), array_fill('{}'::jsonb, ARRAY[1000]))]);
my $said = '';
my $writer = IPC::Run::start([ 'psql', '-X', '-q', '-d', $node->connstr($db), '-c',
	q[DO $$ BEGIN FOR i IN 1..3000 LOOP PERFORM es_append('busy-' || i % 5, -2, 'Counted', '{}'); COMMIT; END LOOP; END $$] ], '>', \$said, '2>&1');
my $seen = 0;
rebuild('busy', q[SELECT pg_sleep(0.01); INSERT INTO busy AS b SELECT stream, count(*), 2 FROM new_events GROUP BY 1 ON CONFLICT (stream) DO UPDATE SET n = b.n + EXCLUDED.n]);
my ($mixed, $looks) = (0, 0);
while (q1('SELECT count(*) FROM event_store.rebuilds') > 0)
{
	$looks++;
	$mixed++ if q1('SELECT count(DISTINCT factor) FROM busy') > 1;
}
$writer->finish;
is($said, '', 'appends went on');
is($mixed, 0, "readers saw the one or the other, never both");
note("$looks looks");
ok(caught_up('busy') && rebuilt('busy'), 'a rebuild with a new handler, while appends go on');
is(q1(q[SELECT sum(n), min(factor), max(factor), count(*) FROM busy]), '33000|2|2|5', 'every event once');

# ---- crashes in the middle

my $slow = q[SELECT pg_sleep(0.1); INSERT INTO busy AS b SELECT stream, count(*), 3 FROM new_events GROUP BY 1 ON CONFLICT (stream) DO UPDATE SET n = b.n + EXCLUDED.n];

sub crash
{
	my ($how, $what) = @_;
	my $start = q1('SELECT min(position) - 1 FROM event_store.events WHERE category = $$busy$$');
	my $progress = 'SELECT position FROM event_store.checkpoints WHERE rebuild';

	ok($node->poll_query_until($db, "SELECT position > $start + 1000 FROM event_store.checkpoints WHERE rebuild"), "$what: it has begun");
	# What was committed before this is durable.
	my $position = q1($progress);
	q1('CREATE TABLE IF NOT EXISTS flushed (n int); INSERT INTO flushed VALUES (1)');
	my $started = q1('SELECT pg_postmaster_start_time()');
	$how->();
	my $now = q1("SELECT coalesce((SELECT position FROM event_store.checkpoints WHERE rebuild), -1)");
	ok($now >= $position, "$what: goes on where it was ($position, now $now)");
	is(q1('SELECT min(factor) FROM busy'), 2, "$what: the live table is as it was");
	ok(rebuilt('busy'), "$what: it comes to its end");
	is(q1(q[SELECT sum(n), min(factor), max(factor), count(*) FROM busy]), '33000|3|3|5', "$what: every event once");
	return;
}

sub ready { return $node->poll_query_until('template1', 'SELECT true') }

rebuild('busy', $slow);
crash(sub { $node->stop('immediate'); $node->start }, 'an immediate shutdown');
rebuild('busy', $slow =~ s/, 3 FROM/, 2 FROM/r =~ s/0\.1/0/r);
ok(rebuilt('busy'), 'back');
rebuild('busy', $slow);
crash(sub {
	my $pid = q1(q[SELECT pid FROM pg_stat_activity WHERE backend_type = 'event_store worker' AND query LIKE 'rebuild of%' OR backend_type = 'event_store worker' ORDER BY query LIKE 'rebuild of%' DESC LIMIT 1]);
	kill 'KILL', $pid;
	$node->wait_for_log(qr/event_store worker.*was terminated by signal 9|terminated by signal 9/);
	ready();
}, 'a worker that is killed');
rebuild('busy', $slow =~ s/, 3 FROM/, 2 FROM/r =~ s/0\.1/0/r);
ok(rebuilt('busy'), 'back');
rebuild('busy', $slow =~ s/0\.1/2/r);    # the cancellation must come before its end, on a busy machine too
ok($node->poll_query_until($db, q[SELECT position > 3000 FROM event_store.checkpoints WHERE rebuild]), 'one that is in the middle');
is(q1(q[SELECT es_cancel_rebuild('busy')]), 't', 'is cancelled');
ok(rebuilt('busy') && q1('SELECT min(factor) FROM busy') == 2, 'and leaves nothing behind');

# ---- tables of all kinds

q1(q[
CREATE SCHEMA "My Schema";
CREATE TABLE "My Schema"."Kinds" ("Id" bigint GENERATED ALWAYS AS IDENTITY, "Stream" text PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED, gone int, extra text DEFAULT 'x');
ALTER TABLE "My Schema"."Kinds" DROP COLUMN gone;
CREATE TABLE "My Schema"."Child" (id int GENERATED BY DEFAULT AS IDENTITY, "Parent" text NOT NULL REFERENCES "My Schema"."Kinds", n int, PRIMARY KEY (id));
CREATE TABLE "My Schema".heap (stream text, n int);
CREATE VIEW "My Schema".view AS SELECT k."Stream", k.twice, c.n FROM "My Schema"."Kinds" k JOIN "My Schema"."Child" c ON c."Parent" = k."Stream";
]);
my $kinds = q[INSERT INTO "Kinds" ("Stream", n) SELECT stream, sum((data->>'n')::int) FROM new_events GROUP BY 1 ON CONFLICT ("Stream") DO UPDATE SET n = "Kinds".n + EXCLUDED.n;
	INSERT INTO "Child" ("Parent", n) SELECT stream, (data->>'n')::int FROM new_events ORDER BY position;
	INSERT INTO heap SELECT stream, (data->>'n')::int FROM new_events];
q1(qq[SET search_path = "My Schema", public; SELECT es_create_projection('kinds', \$h\$$kinds\$h\$, ARRAY['kinds'], tables => ARRAY['"Kinds"', '"Child"', 'heap']::regclass[])]);
append("kinds-$_", $_, 10 * $_) for 1 .. 4;
ok(caught_up('kinds'), 'tables with a foreign key, identity and generated columns, without a primary key, with mixed case');
my $contents = q[SELECT (SELECT string_agg(format('%s %s %s %s', "Stream", n, twice, extra), ', ' ORDER BY "Stream") FROM "My Schema"."Kinds") || ' / ' ||
	(SELECT string_agg("Parent" || ' ' || n, ', ' ORDER BY id) FROM "My Schema"."Child") || ' / ' || (SELECT string_agg(stream || ' ' || n, ', ' ORDER BY stream, n) FROM "My Schema".heap) || ' / ' ||
	(SELECT count(*) FROM "My Schema".view)];
my $oids = q1(q[SELECT string_agg(oid::text, ' ' ORDER BY oid) FROM pg_class WHERE relnamespace = '"My Schema"'::regnamespace]);
for my $fast ('false', 'true')
{
	my $expected = q1($contents);

	q1(q[DELETE FROM "My Schema"."Child" WHERE "Parent" = 'kinds-3'; DELETE FROM "My Schema"."Kinds" WHERE "Stream" = 'kinds-3';
		UPDATE "My Schema"."Kinds" SET n = 0 WHERE "Stream" = 'kinds-2'; INSERT INTO "My Schema"."Kinds" ("Stream", n) VALUES ('wrong', 1);
		INSERT INTO "My Schema"."Child" ("Parent", n) VALUES ('wrong', 1); UPDATE "My Schema".heap SET n = 7]);
	rebuild('kinds', undef, ", fast => $fast");
	ok(rebuilt('kinds'), "rebuilt (fast $fast)");
	is(q1($contents), $expected, 'they are as they should be');
	is(q1(q[SELECT string_agg(oid::text, ' ' ORDER BY oid) FROM pg_class WHERE relnamespace = '"My Schema"'::regnamespace]), $oids, 'and the same tables');
	append('kinds-1', 0);
	ok(caught_up('kinds'), 'identity columns go on');
	is(status('kinds', 'status, quarantined_streams'), 'running|0', 'without an error');
}
my $handler = $kinds =~ s/FROM new_events/FROM new_events WHERE (data->>'n')::int > 0/gr;
q1(qq[SET search_path = "My Schema", public; SELECT es_rebuild_projection('kinds', \$h\$$handler\$h\$)]);
ok(rebuilt('kinds'), 'with a new handler');
is(q1(q[SELECT count(*), min(n) FROM "My Schema"."Child"]), '8|1', 'they are as that one makes them');

# values that change places under another unique index than the primary key's
q1('CREATE TABLE swap (stream text PRIMARY KEY, rank int UNIQUE)');
create('swap', q[INSERT INTO swap SELECT stream, (data->>'n')::int FROM new_events]);
append('swap-1', 1);
append('swap-2', 2);
ok(caught_up('swap'), 'a table with a second unique index');
rebuild('swap', q[INSERT INTO swap SELECT stream, 3 - (data->>'n')::int FROM new_events]);
ok(rebuilt('swap'), 'rebuilt, values change places') or q1(q[SELECT es_cancel_rebuild('swap')]);
is(q1('SELECT stream, rank FROM swap ORDER BY 1'), "swap-1|2\nswap-2|1", 'and they have');

# ---- a standby

$node->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'backup', has_streaming => 1);
$standby->start;
append('one-1', 1);
my $last = q1('SELECT max(position) FROM event_store.events');
is($standby->safe_psql($db, "SELECT es_wait_for_projection('one', $last, '1min')"), 't', 'on a standby one can wait for a projection');
is($standby->safe_psql($db, q[SELECT n FROM one WHERE stream = 'one-1']), 30, 'and then read it');
is($standby->safe_psql($db, q[SELECT es_wait_for_projection('one', 1000000, '20ms')]), 'f', 'time can be up there');
is($standby->safe_psql($db, q[SELECT status, mode, quarantined_streams FROM event_store.projection_status WHERE name = 'one']), 'running|async|0', 'views can be read');
is($standby->safe_psql($db, 'SELECT count(*) FROM event_store.quarantine'), 0, 'all of them');
is($standby->safe_psql($db, 'SELECT count(*) FROM event_store.rebuild_progress'), 0, 'there are');
($ret, $out, $err) = $standby->psql($db, q[SELECT es_run_projection('one')]);
like($err, qr/cannot execute es_run_projection\(\) (in a read-only transaction|during recovery)/, 'it is not run there');
$standby->promote;
$standby->safe_psql($db, q[SELECT position FROM es_append('one-1', -2, 'Counted', '{"n": 1}')]);
ok(caught_up('one', $standby), 'promoted it runs projections');
is($standby->safe_psql($db, q[SELECT n FROM one WHERE stream = 'one-1']), 40, 'from where they were');
$standby->stop;

# ---- dump and restore, with something left to do

q1(q[SELECT es_pause('one')]);
append('one-1', 1, 2);
append('one-4', 1);
my $dump = $node->basedir . '/store.sql';
$node->command_ok([ 'pg_dump', '--no-sync', '-f', $dump, $node->connstr($db) ], 'a dump');
q1('CREATE DATABASE restored');
ok(IPC::Run::run([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('restored'), '-f', $dump ], '>', \$out, '2>', \$err), 'it is restored')
	or diag($err);
my $checkpoint = q[SELECT * FROM event_store.checkpoints WHERE projection = 'one'];
is($node->safe_psql('restored', $checkpoint), q1($checkpoint), 'with checkpoints');
is($node->safe_psql('restored', 'TABLE event_store.projections ORDER BY 1'), q1('TABLE event_store.projections ORDER BY 1'), 'and definitions');
$node->safe_psql('restored', q[SELECT es_create_store()]);
$node->safe_psql('restored', q[SELECT es_resume('one')]);
is($node->safe_psql('restored', q[SELECT es_wait_for_projection('one', (SELECT max(position) FROM event_store.events), '1min')]), 't', 'the projection goes on there');
is($node->safe_psql('restored', q[SELECT stream, n FROM one ORDER BY 1]), "one-1|50\none-2|20\none-3|10\none-4|10", 'without counting twice');
is($node->safe_psql('restored', 'SELECT sum(n) FROM busy'), 33000, 'the others too');
is($node->safe_psql($_, "SELECT * FROM es_check('all')"), '', "es_check finds nothing in $_") for $db, 'restored';

$node->stop;
is(logged(qr/TRAP|PANIC|terminated by signal (?!9)/), 0, 'nothing broke');
done_testing();
