-- The store's owner is not the superuser: what it may do, and what it cannot make the library do.
CREATE FUNCTION public.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; s text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(E'\n  detail: ', s || ': ' || m, nullif(d, ''));
END $$;
\t on
\pset format unaligned
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
DROP ROLE IF EXISTS es_test_owner;
DROP ROLE IF EXISTS es_test_app;
DROP ROLE IF EXISTS es_test_mallory;
RESET client_min_messages;
CREATE ROLE es_test_owner;
CREATE ROLE es_test_app;
CREATE ROLE es_test_mallory;
SELECT current_database() AS db \gset
GRANT CREATE ON DATABASE :"db" TO es_test_owner, es_test_mallory;

-- a schema that somebody else made first is not taken, empty or not
SET ROLE es_test_mallory;
CREATE SCHEMA event_store;
RESET ROLE;
SELECT try('SELECT es_create_store()');
SET ROLE es_test_mallory;
CREATE FUNCTION event_store.evil() RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'evil ran as %', current_user; RETURN 'x'; END$$;
CREATE TABLE event_store.store (layout int NOT NULL, node int NOT NULL, id uuid NOT NULL, created_at timestamptz NOT NULL, one boolean NOT NULL);
INSERT INTO event_store.store VALUES (2, 0, gen_random_uuid(), now(), true);
CREATE VIEW event_store.grants AS SELECT event_store.evil() AS role, 'read' AS "right";
CREATE VIEW event_store.heads AS SELECT event_store.evil() AS id;
DO $$ DECLARE t text; BEGIN FOREACH t IN ARRAY '{mark,categories,event_types,log,append_keys,batch_keys,events,feed,streams,partitions}'::text[] LOOP EXECUTE format('CREATE VIEW event_store.%I AS SELECT event_store.evil() AS id', t); END LOOP; END $$;
CREATE SEQUENCE event_store.position_seq;
CREATE SEQUENCE event_store.stream_seq;
RESET ROLE;
SELECT try('SELECT es_create_store()');
SELECT try($$SELECT es_append('a-1', 0, 'A', '{}')$$);
SELECT try($$SELECT es_grant('es_test_app', 'read')$$);
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;

-- a superuser makes it for an owner who may do nothing, by one statement; others only for whom they may act as
REVOKE CREATE ON DATABASE :"db" FROM es_test_owner;
GRANT EXECUTE ON FUNCTION es_create_store(integer, boolean, boolean, text) TO es_test_mallory;
SET ROLE es_test_mallory;
SELECT split_part(try($$SELECT es_create_store(owner => 'es_test_nobody')$$), E'\n', 1);
SELECT try($$SELECT es_create_store(owner => 'es_test_owner')$$);
CREATE SCHEMA event_store;
RESET ROLE;
SELECT try($$SELECT es_create_store(owner => 'es_test_owner')$$);
DROP SCHEMA event_store;
SELECT es_create_store(owner => 'es_test_owner');
SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'event_store';
SELECT DISTINCT relowner::regrole FROM pg_class WHERE relnamespace = 'event_store'::regnamespace;
SELECT es_create_store(), es_create_store(owner => 'es_test_owner');
BEGIN;
SET LOCAL client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
SELECT es_create_store(owner => 'es_test_nobody');
SELECT nspowner::regrole, rolcanlogin FROM pg_namespace JOIN pg_roles r ON r.oid = nspowner WHERE nspname = 'event_store';
ROLLBACK;
SELECT try($$SELECT es_create_store(owner => 'es_test_mallory')$$);
SELECT es_grant('es_test_app', 'append');
SET ROLE es_test_app;
SELECT version FROM es_append('own-1', 0, 'A', '{}');
RESET ROLE;
SELECT es_revoke('es_test_app', 'append');
-- a superuser's projection would run as superuser: its owner may not do that
SELECT try($$SELECT es_create_projection('p', 'SELECT FROM new_events')$$);
-- one of another role does, and is rebuilt
GRANT es_test_app TO es_test_owner;
GRANT CREATE ON SCHEMA public TO es_test_app;
SELECT es_grant('es_test_app', 'define'), es_grant('es_test_app', 'operate');
SET ROLE es_test_app;
CREATE TABLE public.es_test_seen (position bigint PRIMARY KEY);
SELECT es_create_projection('p', 'INSERT INTO es_test_seen SELECT position FROM new_events', tables => '{es_test_seen}');
SELECT es_run_projection('p'), es_rebuild_projection('p');
SELECT es_run_projection('p');
SELECT * FROM es_test_seen;
RESET ROLE;
SELECT es_revoke('es_test_app', 'define'), es_revoke('es_test_app', 'operate');
REVOKE es_test_app FROM es_test_owner;
REVOKE CREATE ON SCHEMA public FROM es_test_app;
DROP TABLE es_test_seen;
SELECT es_check();
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
REVOKE ALL ON FOREIGN SERVER event_store_import FROM es_test_owner;
REVOKE CREATE ON DATABASE :"db" FROM es_test_owner;
REVOKE ALL ON FUNCTION es_create_store(integer, boolean, boolean, text) FROM es_test_mallory;
GRANT CREATE ON DATABASE :"db" TO es_test_owner;

-- an owner who is no superuser
GRANT EXECUTE ON FUNCTION es_create_store(integer, boolean, boolean, text), es_grant(text, text) TO es_test_owner;
SET ROLE es_test_owner;
SELECT try('SELECT es_create_store()');
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER event_store_import TO es_test_owner;
SET ROLE es_test_owner;
SELECT try('SELECT es_create_store()');
-- ... in a database on which it has no privilege, not even PUBLIC's
RESET ROLE;
REVOKE ALL ON DATABASE :"db" FROM PUBLIC, es_test_owner;
SET ROLE es_test_owner;
SELECT try('SELECT es_create_store()');
RESET ROLE;
GRANT CONNECT, TEMPORARY ON DATABASE :"db" TO PUBLIC;
GRANT CREATE ON DATABASE :"db" TO es_test_owner;
SET ROLE es_test_owner;
-- cannot give EXECUTE on functions that are not its own, and is told so
SET client_min_messages = error;
SELECT try($$SELECT es_grant('es_test_app', 'append')$$) LIKE '42501:%';
RESET client_min_messages;
SELECT count(*) FROM event_store.grants;
RESET ROLE;
-- the superuser can, and nothing of the owner's runs with its rights
SET ROLE es_test_owner;
CREATE FUNCTION event_store.spy() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE 'trigger on % ran as %', tg_table_name, current_user; RETURN NEW; END$$;
CREATE TRIGGER spy BEFORE INSERT ON event_store.grants FOR EACH ROW EXECUTE FUNCTION event_store.spy();
CREATE TRIGGER spy BEFORE INSERT ON event_store.categories FOR EACH ROW EXECUTE FUNCTION event_store.spy();
CREATE TRIGGER spy BEFORE UPDATE ON event_store.mark FOR EACH ROW EXECUTE FUNCTION event_store.spy();
RESET ROLE;
SELECT try($$SELECT es_grant('es_test_app', 'append')$$);
SELECT try($$SELECT es_grant('es_test_app', 'import')$$);
SELECT try($$SELECT es_append('new-1', 0, 'A', '{}')$$);
SELECT try($$SELECT es_publish_mark()$$);
SELECT try($$SELECT es_create_store()$$);
SET ROLE es_test_app;
SELECT version FROM es_append('new-1', 1, 'B', '{}');
INSERT INTO event_store.import (stream, event_type) VALUES ('new-1', 'C');
RESET ROLE;
-- partitions made by an application's append belong to the owner
SET event_store.partition_size = 100;
SET ROLE es_test_app;
SELECT events FROM es_append_batch(array_fill('new-1'::text, '{300}'), array_fill('T'::text, '{300}'), array_fill('{}'::jsonb, '{300}'));
RESET ROLE;
SELECT DISTINCT relowner::regrole FROM pg_class WHERE relnamespace = 'event_store'::regnamespace AND relkind IN ('r', 'p', 'v', 'S', 'i', 'f');
RESET event_store.partition_size;
-- stored text runs as who registered it only while the store's owner may act as that role
GRANT EXECUTE ON FUNCTION es_register_aggregate(text, text, jsonb, jsonb, integer, integer, interval), es_load(text) TO es_test_app;
SET ROLE es_test_app;
SELECT try($$SELECT es_register_aggregate('new', 'state || data')$$);
RESET ROLE;
GRANT es_test_app TO es_test_owner;
SET ROLE es_test_app;
SELECT try($$SELECT es_register_aggregate('new', 'state || data')$$), try($$SELECT es_load('new-1')$$);
RESET ROLE;
REVOKE es_test_app FROM es_test_owner;
SELECT try($$SELECT es_load('new-1')$$);
-- mallory is nobody here
SET ROLE es_test_mallory;
SELECT try('SELECT es_create_store()'), try($$SELECT es_grant('es_test_mallory', 'append')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION es_create_store(integer, boolean, boolean, text), es_grant(text, text) TO es_test_mallory;
SET ROLE es_test_mallory;
SELECT try('SELECT es_create_store()'), try($$SELECT es_grant('es_test_mallory', 'append')$$);
RESET ROLE;

-- what the owner writes into the tables of roles and rights gives nobody more than the owner has
SET ROLE es_test_owner;
ALTER TABLE event_store.grants DISABLE TRIGGER USER;
ALTER TABLE event_store.aggregates DISABLE TRIGGER USER;
INSERT INTO event_store.grants SELECT 'es_test_mallory', 'read', 'es_test_mallory'::regrole, system_identifier FROM pg_control_system();
INSERT INTO event_store.aggregates (category, fold, initial_state, snapshot_every, role, search_path, role_oid, role_system)
    SELECT 'stolen', 'state', '{}', 100, 'es_test_owner', 'pg_temp', 10, system_identifier FROM pg_control_system();
INSERT INTO event_store.aggregates (category, fold, initial_state, snapshot_every, role, search_path)
    SELECT 'named', 'state', '{}', 100, rolname, 'pg_temp' FROM pg_roles WHERE oid = 10;
RESET ROLE;
SELECT left(try($$SELECT es_load('stolen-1')$$), 40), try($$SELECT es_load('named-1')$$) ~ 'is a role of another server';
\set VERBOSITY terse
SELECT es_create_store();
\set VERBOSITY default
SELECT try($$SELECT es_load('named-1')$$) ~ 'is a role of another server';
SELECT has_function_privilege('es_test_mallory', 'es_read_all(bigint,bigint,text[],text[],boolean)', 'EXECUTE') AS functions,
    has_table_privilege('es_test_mallory', 'event_store.events', 'SELECT') AS views;
-- a right that was given before needs no warning
SET ROLE es_test_owner;
ALTER TABLE event_store.grants DISABLE TRIGGER USER;
ALTER TABLE event_store.aggregates DISABLE TRIGGER USER;
DELETE FROM event_store.grants;
DELETE FROM event_store.aggregates WHERE category IN ('stolen', 'named');
RESET ROLE;
SELECT es_grant('es_test_app', 'append');
SELECT es_create_store();

-- a table that was altered is refused: it is read below SQL
CREATE FUNCTION pg_temp.tampered(ddl text, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text;
BEGIN
    EXECUTE ddl;
    answer := public.try(statement);
    RAISE EXCEPTION USING ERRCODE = 'P0002', MESSAGE = answer;
EXCEPTION WHEN no_data_found THEN
    RETURN SQLERRM;
END $$;
SELECT pg_temp.tampered(ddl, $$SELECT es_append('new-1', -2, 'A', '{}', idempotency_key => 'k')$$) FROM unnest(ARRAY[
    'ALTER TABLE event_store.heads ADD COLUMN note text',
    'ALTER TABLE event_store.heads ALTER digest TYPE bigint USING 1',
    'ALTER TABLE event_store.heads DROP COLUMN digest',
    'ALTER TABLE event_store.heads RENAME COLUMN digest TO hash',
    'ALTER TABLE event_store.append_keys ADD COLUMN note text',
    'ALTER TABLE event_store.log ADD COLUMN note text',
    'ALTER TABLE event_store.append_keys ALTER version TYPE text',
    'ALTER TABLE event_store.mark ALTER floor DROP NOT NULL',
    'ALTER TABLE event_store.heads DROP CONSTRAINT heads_name_key',
    'ALTER TABLE event_store.heads DROP CONSTRAINT heads_name_key; CREATE UNIQUE INDEX heads_name_key ON event_store.heads (version, id)',
    'ALTER TABLE event_store.heads DROP CONSTRAINT heads_name_key; CREATE INDEX heads_name_key ON event_store.heads (name)',
    'ALTER TABLE event_store.heads DROP CONSTRAINT heads_name_key; CREATE UNIQUE INDEX heads_name_key ON event_store.heads (name COLLATE "POSIX")',
    'ALTER TABLE event_store.event_types OWNER TO es_test_mallory',
    'ALTER TABLE event_store.mark RENAME TO other; CREATE VIEW event_store.mark AS SELECT * FROM event_store.other']) ddl;
-- a column added and dropped again is no better
SELECT pg_temp.tampered('ALTER TABLE event_store.heads ADD COLUMN note text; ALTER TABLE event_store.heads DROP COLUMN note', $$SELECT es_append('new-5', 0, 'A', '{}')$$);
-- and nothing of it has stayed
SELECT version > 0 FROM es_append('new-1', -2, 'A', '{}', idempotency_key => 'k');

SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
REVOKE CREATE ON DATABASE :"db" FROM es_test_owner, es_test_mallory;
DROP OWNED BY es_test_owner, es_test_app, es_test_mallory;
DROP ROLE es_test_owner, es_test_app, es_test_mallory;
DROP FUNCTION public.try(text);
RESET client_min_messages;
SELECT es_create_store();
