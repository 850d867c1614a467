-- Errors that take a store that was damaged or altered, or an owner or role that is not what it was. Nothing of it stays.
CREATE FUNCTION public.try(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE code text; message text; detail text; hint text;
BEGIN
    EXECUTE statement;
    RETURN NEXT 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN NEXT code || ': ' || message;
    IF detail <> '' THEN RETURN NEXT '  detail: ' || detail; END IF;
    IF hint <> '' THEN RETURN NEXT '  hint: ' || hint; END IF;
END $$;
SET client_min_messages = warning;
\t on
\pset format unaligned
DO $$ BEGIN
    WHILE EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()) LOOP
        PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
    END LOOP;
END $$;
DROP SCHEMA IF EXISTS event_store CASCADE;
DROP ROLE IF EXISTS es_test_rare;
SELECT es_create_store();
SELECT version FROM es_append('rare-1', 0, 'Known', '{"n": 1}'::jsonb, idempotency_key => 'k');
SELECT version FROM es_append('rare-2', 0, 'Known', '{"n": 2}'::jsonb);
SELECT es_seal_log();

-- a head is gone, or a key is not what it was
BEGIN;
ALTER TABLE event_store.heads DISABLE TRIGGER ALL;
DELETE FROM event_store.heads WHERE name = 'rare-2';
SELECT regexp_replace(try('SELECT count(*) FROM es_read_all()'), 'id \d+', 'id N');
ROLLBACK;
BEGIN;
ALTER TABLE event_store.append_keys DISABLE TRIGGER ALL;
UPDATE event_store.append_keys SET request = '\x00';
SELECT try($$SELECT es_append('rare-1', 0, 'Known', '{"n": 1}'::jsonb, idempotency_key => 'k')$$);
ROLLBACK;

-- rows that a schema without its data does not have (a change of a schema makes the session look again)
BEGIN;
ALTER TABLE event_store.epochs DISABLE TRIGGER ALL;
DELETE FROM event_store.epochs;
SET TRANSACTION READ ONLY;
SELECT try('SELECT es_epoch()');
ROLLBACK;
BEGIN;
ALTER TABLE event_store.mark DISABLE TRIGGER ALL;
DELETE FROM event_store.mark;
SELECT try($$SELECT es_publish_mark()$$);
ROLLBACK;
BEGIN;
ALTER TABLE event_store.store DISABLE TRIGGER ALL;
DELETE FROM event_store.store;
CREATE SCHEMA rare;
SELECT try($$SELECT es_append('rare-1', -2, 'Known', '{}'::jsonb)$$);
ROLLBACK;

-- the last seal was changed
SELECT version FROM es_append('rare-2', 1, 'Known', '{"n": 3}'::jsonb);
BEGIN;
ALTER TABLE event_store.seals DISABLE TRIGGER ALL;
UPDATE event_store.seals SET root = '\x00';
SELECT try('SELECT es_seal_log()');
ROLLBACK;

-- partitions that are no ranges of positions
BEGIN;
CREATE TABLE event_store.other PARTITION OF event_store.log DEFAULT;
SELECT try($$SELECT es_append('rare-1', -2, 'Known', '{}'::jsonb)$$);
ROLLBACK;
BEGIN;
CREATE TABLE event_store.other PARTITION OF event_store.log FOR VALUES FROM (MINVALUE) TO (-1000);
SELECT try($$SELECT es_append('rare-1', -2, 'Known', '{}'::jsonb)$$);
ROLLBACK;

-- the sequence was set back behind the beginning of an epoch
SELECT es_begin_epoch() > 0;
SELECT version FROM es_append('rare-1', 1, 'Known', '{}'::jsonb);
SELECT version FROM es_append('rare-1', 2, 'Known', '{}'::jsonb);
SELECT last_value AS last, is_called AS called FROM event_store.position_seq \gset
SELECT setval('event_store.position_seq', 5);
SELECT regexp_replace(try($$SELECT es_append('rare-1', -2, 'Known', '{}'::jsonb)$$), '\d{6,}', 'N', 'g');
SELECT setval('event_store.position_seq', :last, :'called') > 5;

-- the sequence was set back into a gap within an epoch: an event there would be acknowledged, and readers have passed it
BEGIN;
SELECT position AS gap FROM es_append('rare-3', 0, 'Known', '{}'::jsonb) \gset
SELECT version FROM es_append('rare-3', 1, 'Known', '{}'::jsonb);
ROLLBACK;
SELECT version FROM es_append('rare-4', 0, 'Known', '{}'::jsonb);
SELECT es_high_water_mark() = (SELECT max(position) FROM event_store.events);
SELECT setval('event_store.position_seq', :gap, false) > 5;
SELECT regexp_replace(try($$SELECT es_append('rare-5', -2, 'Known', '{}'::jsonb)$$), '\d{6,}', 'N', 'g');
SELECT es_begin_epoch() > 0;
SELECT version FROM es_append('rare-5', -2, 'Known', '{}'::jsonb);
-- the same where no mark has come that far: the order of a stream's events is that of their positions
BEGIN;
SELECT position AS gap FROM es_append('rare-5', 1, 'Known', '{}'::jsonb) \gset
SELECT setval('event_store.position_seq', :gap + 10) > 5;
SELECT version FROM es_append('rare-5', 2, 'Known', '{}'::jsonb);
SELECT setval('event_store.position_seq', :gap + 1) > 5;
SELECT regexp_replace(try($$SELECT es_append('rare-5', 3, 'Known', '{}'::jsonb)$$), '\d{6,}', 'N', 'g');
ROLLBACK;
SELECT es_begin_epoch() > 0;
-- one that gives positions that it has given before
BEGIN;
ALTER SEQUENCE event_store.position_seq CACHE 10;
SELECT try($$SELECT es_append('rare-5', -2, 'Known', '{}'::jsonb)$$);
ROLLBACK;
BEGIN;
ALTER SEQUENCE event_store.position_seq INCREMENT -1 CYCLE;
SELECT try($$SELECT es_append('rare-5', -2, 'Known', '{}'::jsonb)$$);
ROLLBACK;
SELECT version FROM es_append('rare-5', 1, 'Known', '{}'::jsonb);

-- the role that registered a fold was dropped, and made again
CREATE ROLE es_test_rare SUPERUSER;
SET ROLE es_test_rare;
SELECT es_register_aggregate('rare', fold => 'state || data');
RESET ROLE;
SELECT state FROM es_load('rare-2');
DROP OWNED BY es_test_rare;
DROP ROLE es_test_rare;
CREATE ROLE es_test_rare;
SELECT try($$SELECT es_load('rare-2')$$);
SELECT es_unregister_aggregate('rare');

-- who may run a function but not give it away
SELECT current_database() AS db \gset
DROP SCHEMA event_store CASCADE;
GRANT CREATE ON DATABASE :"db" TO es_test_rare;
GRANT USAGE ON FOREIGN SERVER event_store_import TO es_test_rare;
DO $$ DECLARE f text; BEGIN FOR f IN SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    JOIN pg_extension e ON e.oid = d.refobjid WHERE e.extname = 'event_store' LOOP EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO es_test_rare', f); END LOOP; END $$;
CREATE ROLE es_test_rare_app;
SET ROLE es_test_rare;
SELECT es_create_store();
SET client_min_messages = error;
SELECT try($$SELECT es_grant('es_test_rare_app', 'append')$$);
SELECT count(*) FROM event_store.grants;
RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
DROP OWNED BY es_test_rare;
DROP ROLE es_test_rare;
DROP ROLE es_test_rare_app;

-- projections: commands during a rebuild, a mode that cannot be changed, a position of our own
SELECT es_create_store();
CREATE TABLE rare (n bigint PRIMARY KEY);
CREATE FUNCTION ddl() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN COMMENT ON TABLE rare IS 'changed'; RETURN true; END $$;
SELECT es_create_projection('rare', 'INSERT INTO rare SELECT position FROM new_events WHERE event_type = ''Wanted''', tables => '{rare}');
SELECT try($$SELECT es_rebuild_projection('rare', 'INSERT INTO rare SELECT position FROM new_events WHERE ddl()')$$);
SELECT version FROM es_append('rare-1', 0, 'Wanted', '{}'::jsonb);
SELECT try($$SELECT es_run_projection('rare')$$);
SELECT status, rebuild FROM event_store.projection_status;
SELECT es_cancel_rebuild('rare');
SELECT es_pause('rare');
SELECT try($$SELECT es_set_projection_mode('rare', 'inline')$$);
SELECT es_resume('rare');
BEGIN;
SELECT position AS mine FROM es_append('rare-1', 1, 'Wanted', '{}'::jsonb) \gset
SELECT regexp_replace(try(format($$SELECT es_wait_for_projection('rare', %s)$$, :mine)), 'position \d+', 'position N');
ROLLBACK;
-- one whose handler fails for everything cannot become inline: it has failed before it has caught up
SELECT es_create_projection('broken', 'INSERT INTO rare SELECT 1 / (position - position) FROM new_events', categories => '{broken}');
SELECT count(es_append('broken-' || g, 0, 'Wanted', '{}'::jsonb)) FROM generate_series(1, 100) g;
SELECT try($$SELECT es_set_projection_mode('broken', 'inline')$$);
SELECT es_drop_projection('broken');
SELECT es_drop_projection('rare');

SELECT * FROM es_check('all');
DROP TABLE rare;
DROP FUNCTION ddl();
DROP FUNCTION public.try(text);
