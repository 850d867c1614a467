-- Projections: what handlers and tables can do to them that they should not.
\set VERBOSITY terse
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DO $$ BEGIN PERFORM es_create_store(); END $$;
RESET client_min_messages;

-- The status view does not fail for a projection that has been idle for long.
CREATE TABLE hostile_idle (k text);
SELECT es_create_projection('hostile_idle', 'INSERT INTO hostile_idle SELECT stream FROM new_events', categories => '{hostile_idle}');
BEGIN;
ALTER TABLE event_store.checkpoints DISABLE TRIGGER USER;
UPDATE event_store.checkpoints SET last_active = now() - interval '3 hours', rate = 5 WHERE projection = 'hostile_idle';
SELECT name, events_per_second FROM event_store.projection_status WHERE name = 'hostile_idle';
UPDATE event_store.checkpoints SET last_active = now() + interval '3 hours' WHERE projection = 'hostile_idle';
SELECT name, events_per_second FROM event_store.projection_status WHERE name = 'hostile_idle';
ROLLBACK;
SELECT es_drop_projection('hostile_idle');

-- SELECT INTO, also where UNION hides it.
SELECT es_create_projection('hostile_into', 'SELECT position INTO hostile_new FROM new_events');
SELECT es_create_projection('hostile_into', 'SELECT position INTO hostile_new FROM new_events UNION SELECT 2 UNION ALL SELECT 3');

-- A handler does not run, change or wait for projections, not even one with side effects.
CREATE TABLE hostile_seen (what text, p bigint);
CREATE FUNCTION hostile_call(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF what = 'run' THEN PERFORM es_run_projection('hostile_side');
	ELSIF what = 'drop' THEN PERFORM es_drop_projection('hostile_side');
	ELSIF what = 'pause' THEN PERFORM es_pause('hostile_side');
	ELSIF what = 'create' THEN PERFORM es_create_projection('hostile_other', 'SELECT FROM new_events');
	ELSIF what = 'retry' THEN PERFORM es_retry_quarantined('hostile_side');
	ELSIF what = 'wait' THEN PERFORM es_wait_for_projection('hostile_side', 1);
	END IF;
	INSERT INTO hostile_seen VALUES ('called', 0);
EXCEPTION WHEN feature_not_supported THEN
	INSERT INTO hostile_seen VALUES (sqlerrm, 0);
END $$;
SELECT count(es_append('hostile_side-1', -2, what, '{}'))
FROM unnest('{run,drop,pause,create,retry,wait}'::text[]) WITH ORDINALITY AS u(what, n);
DO $$ BEGIN PERFORM es_publish_mark(); END $$;
BEGIN;		-- no worker comes first
SELECT es_create_projection('hostile_side', 'SELECT hostile_call(event_type) FROM new_events ORDER BY position',
	categories => '{hostile_side}', side_effects => true);
SELECT es_run_projection('hostile_side');
SELECT what FROM hostile_seen ORDER BY what COLLATE "C";
SELECT es_drop_projection('hostile_side');
COMMIT;

-- Events that cannot be upcast, in between of others, are parked, however many: the handler is not broken.
CREATE TABLE hostile_upcast (t text, p bigint);
SELECT es_register_upcaster('HostileOld', 1, $$jsonb_build_object('n', (data->>'n')::int)$$);
DO $$ BEGIN
	PERFORM es_append('hostile_up-' || i, -2, CASE WHEN i % 5 = 0 THEN 'HostileOld' ELSE 'HostileNew' END, '{"n": "x"}', schema_version => 1)
	FROM generate_series(1, 100) i;
	PERFORM es_publish_mark();
END $$;
BEGIN;
SET LOCAL client_min_messages = error;
SELECT es_create_projection('hostile_up', 'INSERT INTO hostile_upcast SELECT event_type, position FROM new_events', categories => '{hostile_up}');
SELECT es_run_projection('hostile_up');
SELECT status, events, quarantined_streams FROM event_store.projection_status WHERE name = 'hostile_up';
SELECT t, count(*) FROM hostile_upcast GROUP BY 1;
-- Not inline, while streams are parked.
SAVEPOINT s;
SELECT es_set_projection_mode('hostile_up', 'inline');
ROLLBACK TO s;
SELECT es_drop_projection('hostile_up');
SELECT es_unregister_upcaster('HostileOld', 1);
COMMIT;

-- What fails for good is not reported as parked on the way.
BEGIN;
SELECT es_create_projection('hostile_broken', 'INSERT INTO hostile_upcast SELECT event_type, 1 / (position - position) FROM new_events', categories => '{hostile_up}');
SELECT es_run_projection('hostile_broken');
SELECT status, quarantined_streams FROM event_store.projection_status WHERE name = 'hostile_broken';
ROLLBACK;

-- A rebuild whose handler fails says so.
CREATE TABLE hostile_tot (k text PRIMARY KEY, n bigint);
BEGIN;
SELECT es_create_projection('hostile_tot', 'INSERT INTO hostile_tot SELECT stream, count(*) FROM new_events GROUP BY 1', categories => '{hostile_up}', tables => '{hostile_tot}');
SELECT es_run_projection('hostile_tot');
SELECT es_rebuild_projection('hostile_tot', 'INSERT INTO hostile_tot SELECT stream, 1 / (position - position) FROM new_events');
SELECT es_run_projection('hostile_tot');
SELECT state, last_error FROM event_store.rebuild_progress WHERE name = 'hostile_tot';
SELECT count(*) FROM hostile_tot;
-- So does one whose schema is gone; the live table is not written to.
SELECT es_rebuild_projection('hostile_tot', 'INSERT INTO hostile_tot SELECT stream || 2, 1 FROM new_events');
SET LOCAL client_min_messages = error;
DO $$ BEGIN EXECUTE format('DROP SCHEMA %I CASCADE', (SELECT schema FROM event_store.rebuilds WHERE projection = 'hostile_tot')); END $$;
SELECT es_run_projection('hostile_tot');
SELECT state FROM event_store.rebuild_progress WHERE name = 'hostile_tot';
SELECT count(*) FROM hostile_tot;
RESET client_min_messages;
-- An upcaster that changes during a rebuild leaves the projection stale.
SELECT es_rebuild_projection('hostile_tot');
ALTER TABLE event_store.checkpoints DISABLE TRIGGER USER;
UPDATE event_store.checkpoints SET upcasters = sha256('') WHERE projection = 'hostile_tot' AND rebuild;
ALTER TABLE event_store.checkpoints ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row;
SELECT es_register_upcaster('HostileOld', 1, 'data');
SELECT es_run_projection('hostile_tot');
SELECT status FROM event_store.projection_status WHERE name = 'hostile_tot';
ROLLBACK;

-- A rebuild of a table with a key of a type of its own, a dropped column, columns named like the aliases, an identity, and
-- a trigger that finds its table by search_path.
CREATE SCHEMA hostile;
CREATE TYPE hostile.my;
SET client_min_messages = warning;
CREATE FUNCTION hostile.my_in(cstring) RETURNS hostile.my LANGUAGE internal IMMUTABLE STRICT AS 'int4in';
CREATE FUNCTION hostile.my_out(hostile.my) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'int4out';
RESET client_min_messages;
CREATE TYPE hostile.my (INPUT = hostile.my_in, OUTPUT = hostile.my_out, LIKE = int4);
CREATE FUNCTION hostile.my_eq(hostile.my, hostile.my) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'int4eq';
CREATE FUNCTION hostile.my_lt(hostile.my, hostile.my) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'int4lt';
CREATE FUNCTION hostile.my_le(hostile.my, hostile.my) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'int4le';
CREATE FUNCTION hostile.my_gt(hostile.my, hostile.my) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'int4gt';
CREATE FUNCTION hostile.my_ge(hostile.my, hostile.my) RETURNS bool LANGUAGE internal IMMUTABLE STRICT AS 'int4ge';
CREATE FUNCTION hostile.my_cmp(hostile.my, hostile.my) RETURNS int LANGUAGE internal IMMUTABLE STRICT AS 'btint4cmp';
CREATE OPERATOR hostile.= (LEFTARG = hostile.my, RIGHTARG = hostile.my, FUNCTION = hostile.my_eq, COMMUTATOR = OPERATOR(hostile.=), MERGES);
CREATE OPERATOR hostile.< (LEFTARG = hostile.my, RIGHTARG = hostile.my, FUNCTION = hostile.my_lt);
CREATE OPERATOR hostile.<= (LEFTARG = hostile.my, RIGHTARG = hostile.my, FUNCTION = hostile.my_le);
CREATE OPERATOR hostile.> (LEFTARG = hostile.my, RIGHTARG = hostile.my, FUNCTION = hostile.my_gt);
CREATE OPERATOR hostile.>= (LEFTARG = hostile.my, RIGHTARG = hostile.my, FUNCTION = hostile.my_ge);
CREATE OPERATOR CLASS hostile.my_ops DEFAULT FOR TYPE hostile.my USING btree AS OPERATOR 1 hostile.<, OPERATOR 2 hostile.<=,
	OPERATOR 3 hostile.=, OPERATOR 4 hostile.>=, OPERATOR 5 hostile.>, FUNCTION 1 hostile.my_cmp(hostile.my, hostile.my);
CREATE TABLE hostile_own (k hostile.my, d numeric, l text, s jsonb, gone int, id bigint GENERATED ALWAYS AS IDENTITY, PRIMARY KEY (k, d));
ALTER TABLE hostile_own DROP COLUMN gone;
CREATE TABLE hostile_audit (what text);
CREATE FUNCTION hostile_audit() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO hostile_audit VALUES (tg_op); RETURN NULL; END$$;
CREATE TRIGGER t AFTER INSERT OR UPDATE OR DELETE ON hostile_own FOR EACH ROW EXECUTE FUNCTION hostile_audit();
DO $$ BEGIN
	PERFORM es_append('hostile_own-1', -2, 'T', '{}') FROM generate_series(1, 3) i;
	PERFORM es_publish_mark();
END $$;
BEGIN;
SELECT es_create_projection('hostile_own', $$INSERT INTO hostile_own (k, d, l) SELECT (version::text)::hostile.my, 1.0, 'x' FROM new_events$$, categories => '{hostile_own}', tables => '{hostile_own}');
SELECT es_run_projection('hostile_own');
TRUNCATE hostile_audit;
SELECT es_rebuild_projection('hostile_own', $$INSERT INTO hostile_own (k, d, l) SELECT (version::text)::hostile.my, CASE version WHEN 2 THEN 1.00 ELSE 1.0 END, 'x' FROM new_events WHERE version > 1$$);
SELECT es_run_projection('hostile_own');
SELECT k, d, l FROM hostile_own ORDER BY k;
SELECT what FROM hostile_audit ORDER BY 1;	-- the row that is right was not touched
SELECT es_drop_projection('hostile_own');
COMMIT;

-- The appender's temporary table is not taken for the handler's, which is gone.
CREATE TABLE hostile_gone (p bigint);
CREATE TABLE hostile_stolen (who text);
SELECT es_create_projection('hostile_gone', 'INSERT INTO hostile_gone SELECT position FROM new_events', categories => '{hostile_gone}', mode => 'inline');
SELECT version FROM es_append('hostile_gone-1', 0, 'T', '{}');
DROP TABLE hostile_gone;
CREATE TEMP TABLE hostile_gone (p bigint);
CREATE FUNCTION pg_temp.steal() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.hostile_stolen VALUES (current_user); RETURN new; END$$;
CREATE TRIGGER t BEFORE INSERT ON hostile_gone FOR EACH ROW EXECUTE FUNCTION pg_temp.steal();
SELECT version FROM es_append('hostile_gone-1', 1, 'T', '{}');
SELECT count(*) FROM hostile_stolen;
SELECT es_drop_projection('hostile_gone');
-- Nor in a new handler.
SELECT es_create_projection('hostile_temp', 'INSERT INTO hostile_gone SELECT position FROM new_events');

DROP TABLE hostile_gone, hostile_stolen, hostile_idle, hostile_seen, hostile_upcast, hostile_tot, hostile_own, hostile_audit;
DROP FUNCTION hostile_call(text), hostile_audit();
SET client_min_messages = warning;
DROP SCHEMA hostile CASCADE;
