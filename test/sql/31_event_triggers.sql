-- Event triggers of a DBA: what the store does by itself goes on, however they fail. A trigger of pg_repack's has a hint of its own.
\set VERBOSITY terse
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
SET event_store.partition_size = 100;
SELECT es_create_store();
CREATE TABLE triggered (stream text PRIMARY KEY, n int);
SELECT es_create_projection('triggered', $$INSERT INTO triggered AS t SELECT stream, count(*) FROM new_events GROUP BY 1
	ON CONFLICT (stream) DO UPDATE SET n = t.n + EXCLUDED.n$$, tables => '{triggered}');

CREATE FUNCTION refuse_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no DDL in production: %', tg_tag; END $$;
CREATE EVENT TRIGGER at_start ON ddl_command_start EXECUTE FUNCTION refuse_ddl();
CREATE EVENT TRIGGER at_end ON ddl_command_end EXECUTE FUNCTION refuse_ddl();
CREATE EVENT TRIGGER at_drop ON sql_drop EXECUTE FUNCTION refuse_ddl();
CREATE EVENT TRIGGER at_rewrite ON table_rewrite EXECUTE FUNCTION refuse_ddl();
CREATE TABLE refused ();
ALTER EVENT TRIGGER at_end ENABLE ALWAYS;
ALTER EVENT TRIGGER at_drop ENABLE ALWAYS;
ALTER EVENT TRIGGER at_start DISABLE;
CREATE TABLE refused ();
ALTER EVENT TRIGGER at_start ENABLE ALWAYS;

-- partitions, made by a worker, and in the append's own transaction
SELECT max(version) FROM generate_series(1, 250) i, LATERAL es_append('trig-1', -2, 'T', to_jsonb(i));
SELECT events FROM es_append_batch(array_fill('trig-2'::text, '{500}'), array_fill('T'::text, '{500}'), array_fill('{}'::jsonb, '{500}'));
BEGIN;
LOCK TABLE event_store.log IN SHARE UPDATE EXCLUSIVE MODE;
SELECT events FROM es_append_batch(array_fill('trig-3'::text, '{500}'), array_fill('T'::text, '{500}'), array_fill('{}'::jsonb, '{500}'));
COMMIT;
SELECT bool_and(g.tgenabled = 'A') FROM event_store.partitions p
JOIN pg_trigger g ON g.tgrelid = to_regclass('event_store.' || p.name) AND NOT g.tgisinternal;

-- a rebuild: its tables are made, made unlogged, and dropped
SELECT es_run_projection('triggered');
SELECT es_rebuild_projection('triggered');
ALTER EVENT TRIGGER at_end DISABLE;
ALTER EVENT TRIGGER at_start DISABLE;
SET client_min_messages = error;
CREATE PUBLICATION everything FOR ALL TABLES;
SET client_min_messages = warning;
ALTER EVENT TRIGGER at_end ENABLE ALWAYS;
ALTER EVENT TRIGGER at_start ENABLE ALWAYS;
SELECT es_run_projection('triggered');
SELECT rebuild, last_error FROM event_store.projection_status;
SELECT count(*) FROM pg_namespace WHERE nspname ~ '^event_store_rebuild_';
SELECT es_rebuild_projection('triggered');
SELECT es_cancel_rebuild('triggered');

-- what a user does with the store they do hear of
SELECT es_create_store(by_category => true);

DROP EVENT TRIGGER at_start;
DROP EVENT TRIGGER at_end;
DROP EVENT TRIGGER at_drop;
DROP EVENT TRIGGER at_rewrite;
DROP PUBLICATION everything;
DROP FUNCTION refuse_ddl();
SELECT es_drop_projection('triggered');
DROP TABLE triggered;
SELECT * FROM es_check('all');

-- pg_repack
\set VERBOSITY default
CREATE FUNCTION repack_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER repack_trigger AFTER INSERT OR DELETE OR UPDATE ON event_store.heads FOR EACH ROW EXECUTE FUNCTION repack_trigger();
SELECT es_append('trig-1', -2, 'T', '{}');
DROP TRIGGER repack_trigger ON event_store.heads;
DROP FUNCTION repack_trigger();
SELECT version FROM es_append('trig-1', -2, 'T', '{}');
