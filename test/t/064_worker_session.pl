# Whom stored text runs as in background workers, and that nothing of one role's text is left for the next one.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
# One worker: each projection runs in the same session as the others.
$node->append_conf('postgresql.conf', q[
shared_preload_libraries = 'event_store'
event_store.poll_interval = 50ms
event_store.max_workers = 1
log_min_messages = log
]);
$node->start;

sub q1 { return $node->safe_psql($db, $_[0]) }

sub caught_up
{
	my ($name) = @_;
	return q1("SELECT es_wait_for_projection('$name', (SELECT max(position) FROM event_store.events), '1min')") eq 't';
}

# The store's owner and who registers cannot log in.
q1(q[
CREATE ROLE owner_r NOLOGIN;
CREATE ROLE op_r NOLOGIN;
CREATE ROLE other_r NOLOGIN;
GRANT op_r, other_r TO owner_r;
CREATE EXTENSION event_store;
SELECT es_create_store(owner => 'owner_r');
SELECT es_grant(r, 'operate'), es_grant(r, 'define'), es_grant(r, 'read') FROM unnest('{op_r,other_r}'::text[]) r;
GRANT CREATE ON SCHEMA public TO op_r, other_r;
ALTER DATABASE postgres SET timezone = 'Asia/Tokyo';
]);

# What a SECURITY DEFINER function that asks for session_user answers.
q1(q[
CREATE FUNCTION public.admin_only() RETURNS text SECURITY DEFINER LANGUAGE plpgsql AS $$
BEGIN
	IF session_user <> 'postgres' AND session_user <> (SELECT rolname FROM pg_roles WHERE oid = 10) THEN RETURN 'refused'; END IF;
	RETURN 'secret';
END $$;
CREATE FUNCTION public.whoami() RETURNS text STABLE LANGUAGE plpgsql AS $$BEGIN RETURN current_user || '/' || session_user; END$$;
]);

sub project
{
	my ($role, $name, $handler, $tables) = @_;
	return q1("SET ROLE $role; SELECT es_create_projection('$name', \$h\$$handler\$h\$, '{c}'" .
			($tables ? ", tables => '{$tables}'" : '') . ')');
}

q1(q[SET ROLE op_r; CREATE TABLE who (n int GENERATED ALWAYS AS IDENTITY, p bigint, who text, admin text)]);
q1(q[SET ROLE other_r; CREATE TABLE other_who (p bigint, who text)]);
project('op_r', 'a', 'INSERT INTO who (p, who, admin) SELECT position, whoami(), admin_only() FROM new_events');
project('other_r', 'b', 'INSERT INTO other_who SELECT position, whoami() FROM new_events');
q1(q[SELECT es_append('c-1', 0, 'T', '{}')]);
ok(caught_up('a') && caught_up('b'), 'a store whose owner cannot log in has its projections run');
is(q1('SELECT DISTINCT who, admin FROM who'), 'op_r/op_r|refused', 'a handler runs with its role as session user');
is(q1('SELECT DISTINCT who FROM other_who'), 'other_r/other_r', 'the next one with its own');

# After an error, which rolls a subtransaction back.
project('op_r', 'bad', q[SELECT 1 / (CASE WHEN event_type = 'Bad' THEN 0 ELSE 1 END) FROM new_events]);
q1(q[SELECT es_append('c-2', 0, 'Bad', '{}'); SELECT es_append('c-3', 0, 'T', '{}')]);
ok(caught_up('bad') && caught_up('a') && caught_up('b'), 'a handler fails and the others go on');
is(q1(q[SELECT count(*) FROM event_store.quarantine WHERE name = 'bad']), '1', 'one call was quarantined');
is(q1('SELECT string_agg(DISTINCT who, $$ $$) FROM (SELECT who FROM who UNION ALL SELECT who FROM other_who) x'),
	'op_r/op_r other_r/other_r', 'and each runs as itself');

# Triggers of the live tables, when a rebuild ends.
q1(q[
SET ROLE op_r;
CREATE TABLE live (p bigint PRIMARY KEY);
CREATE TABLE fired (who text);
CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.fired VALUES (public.whoami()); RETURN NULL; END$$;
CREATE TRIGGER t AFTER INSERT ON live FOR EACH STATEMENT EXECUTE FUNCTION fire();
]);
project('op_r', 'built', 'INSERT INTO live SELECT position FROM new_events ON CONFLICT DO NOTHING', 'live');
ok(caught_up('built'), 'it has caught up');
q1('TRUNCATE live, fired');
q1(q[SET ROLE op_r; SELECT es_rebuild_projection('built')]);
ok($node->poll_query_until($db, 'SELECT count(*) = 0 FROM event_store.rebuilds'), 'a worker has rebuilt it');
is(q1('SELECT DISTINCT who FROM fired'), 'op_r/op_r', 'triggers of its tables ran with the role as session user');
is(q1('SELECT count(*) = (SELECT count(*) FROM event_store.events) FROM live'), 't', 'and the table is right');

# Folds and upcasters, in a snapshot worker.
q1(q[SET ROLE op_r; SELECT es_register_aggregate('s', $$state || data || jsonb_build_object('f', public.whoami())$$, snapshot_every => 2)]);
q1(q[SET ROLE other_r; SELECT es_register_upcaster('Old', 1, $$data || jsonb_build_object('u', public.whoami())$$)]);
q1(q[SELECT es_append('s-1', 0, '[{"type": "Old", "schema_version": 1}, {"type": "Old", "schema_version": 1}, {"type": "Old", "schema_version": 1}, {"type": "Old", "schema_version": 1}]'::jsonb)]);
ok($node->poll_query_until($db, 'SELECT count(*) > 0 FROM event_store.snapshots'), 'a worker has taken a snapshot');
is(q1('SELECT DISTINCT state FROM event_store.snapshots'), '{"f": "op_r/op_r", "u": "other_r/other_r"}',
	'each text ran with its own role as session user');

# Text of one role inside of another's: a load in a handler. The session user stays that of the outer one.
q1(q[SET ROLE op_r; CREATE TABLE nested (before text, inside text, after text)]);
q1(q[SELECT es_append('s-2', 0, '[{"type": "Old", "schema_version": 1}]'::jsonb)]);
project('op_r', 'b_nested', q[INSERT INTO nested SELECT whoami(), (SELECT state->>'u' FROM es_load('s-2')), whoami() FROM (SELECT 1 FROM new_events LIMIT 1) x]);
ok(caught_up('b_nested'), 'a handler has loaded a state');
is(q1('SELECT DISTINCT before, inside, after FROM nested'), 'op_r/op_r|other_r/op_r|op_r/op_r', 'the upcaster of another role ran with its rights, and the session user of the handler');

# What a handler leaves in its session.
q1(q[
SET ROLE op_r;
CREATE SEQUENCE seen;
CREATE TABLE settings (n int, zone text);
CREATE FUNCTION leave() RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_lock(42), nextval('public.seen'), set_config('search_path', 'nowhere', false), set_config('my.own', 'left', false);
	EXECUTE 'RESET timezone';
	INSERT INTO public.settings VALUES (1, current_setting('timezone'));
	EXECUTE 'SET timezone = ''Asia/Tokyo''';
	RETURN 1;
END $$;
]);
q1(q[
SET ROLE other_r;
CREATE TABLE found (last text, own text, zone text, path text);
CREATE FUNCTION find() RETURNS int LANGUAGE plpgsql AS $$
DECLARE l text;
BEGIN
	BEGIN l := lastval(); EXCEPTION WHEN object_not_in_prerequisite_state THEN l := 'none'; END;
	INSERT INTO public.found VALUES (l, coalesce(nullif(current_setting('my.own', true), ''), 'none'), current_setting('timezone'),
		current_setting('search_path'));
	RETURN 1;
END $$;
]);
project('op_r', 'c_leaves', 'SELECT leave() FROM (SELECT 1 FROM new_events LIMIT 1) x');
ok(caught_up('c_leaves'), 'a handler has left things behind');
my $leader = q1(q[SELECT pid FROM pg_stat_activity WHERE backend_type = 'event_store worker']);
project('other_r', 'd_finds', 'SELECT find() FROM (SELECT 1 FROM new_events LIMIT 1) x');
ok(caught_up('d_finds'), 'the next one has looked for them');
is(q1('SELECT DISTINCT zone FROM settings'), 'UTC', 'RESET in a handler gives what is pinned');
is(q1('SELECT DISTINCT last, own, zone, path FROM found'), 'none|none|UTC|public, pg_temp', 'nothing of it is found');
is(q1(q[SELECT pid FROM pg_stat_activity WHERE backend_type = 'event_store worker']), $leader, 'in the same session');
# The lock is given back after the commit that the wait has seen.
ok($node->poll_query_until($db, q[SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = 42]),
	'an advisory lock of a handler is given back');
is(q1('SELECT workers FROM event_store.status'), '1', 'the lock that shows the worker is kept');

# Deferred constraints are checked at once.
q1(q[
SET ROLE op_r;
CREATE TABLE parent (id bigint PRIMARY KEY);
CREATE TABLE child (id bigint PRIMARY KEY REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
]);
project('op_r', 'e_child', q[INSERT INTO parent SELECT position FROM new_events; INSERT INTO child SELECT position FROM new_events]);
project('op_r', 'f_orphan', q[INSERT INTO child SELECT -position FROM new_events]);
ok(caught_up('e_child'), 'a table with a deferred constraint');
is(q1('SELECT count(*) = (SELECT count(*) FROM event_store.events e JOIN event_store.streams s USING (stream) WHERE e.category = $$c$$) FROM child'),
	't', 'can be written to by a worker');
ok($node->poll_query_until($db, q[SELECT quarantined_streams > 0 OR status = 'failed' FROM event_store.projection_status WHERE name = 'f_orphan']),
	'and is checked');
unlike(slurp_file($node->logfile), qr/still another role/, 'no worker has stayed somebody else');

$node->stop;
done_testing();
