-- Making the store: refusals, idempotence, what it holds, dropping and re-creating the extension.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; h text; s text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
    RETURN s || ': ' || m || E'\n  detail: ' || d || E'\n  hint: ' || h;
END $$;
\t on
\pset format unaligned

-- before there is one, every function says so
SELECT pg_temp.try($$SELECT es_append('a-1', 0, 'Opened', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('a-1', 0, '[{"type": "Opened"}]'::jsonb)$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "a-1"}]')$$);
SELECT pg_temp.try($$SELECT es_append_batch('{a-1}', '{Opened}', ARRAY['{}']::jsonb[])$$);
SELECT pg_temp.try($$SELECT es_read('a-1')$$);
SELECT pg_temp.try($$SELECT es_read_all()$$);
SELECT pg_temp.try($$SELECT es_stream_version('a-1')$$);
SELECT pg_temp.try($$SELECT es_high_water_mark()$$);
SELECT pg_temp.try($$SELECT es_publish_mark()$$);
SELECT pg_temp.try($$SELECT es_find_append('a-1', 'k')$$);
SELECT pg_temp.try($$SELECT es_trace('c')$$);
SELECT pg_temp.try($$SELECT es_position_at(now())$$);
SELECT pg_temp.try($$SELECT es_grant('postgres', 'read')$$);
SELECT pg_temp.try($$SELECT es_upgrade_store()$$);

-- a foreign schema of that name is left alone
CREATE SCHEMA event_store;
CREATE TABLE event_store.mine (i int);
SELECT pg_temp.try($$SELECT es_create_store()$$);
DROP TABLE event_store.mine;

-- bad node numbers
SELECT pg_temp.try($$SELECT es_create_store(node => -1)$$);
SELECT pg_temp.try($$SELECT es_create_store(node => 32768)$$);

-- an empty one is taken; a rolled back store leaves nothing
BEGIN;
SELECT es_create_store();
SELECT version FROM es_append('a-1', 0, 'Opened', '{}');
ROLLBACK;
SELECT pg_temp.try($$SELECT es_append('a-1', 0, 'Opened', '{}')$$);
SELECT es_create_store();
SELECT es_create_store();
SELECT es_upgrade_store();

-- another node number than it has
SELECT pg_temp.try($$SELECT es_create_store(node => 7)$$);

-- what is there, and nothing of it a member of the extension
SELECT c.relkind, c.relname FROM pg_class c
WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S', 'f') ORDER BY 1, 2;
SELECT count(*) FROM pg_depend d WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
    AND d.classid = 'pg_class'::regclass AND d.objid IN (SELECT oid FROM pg_class WHERE relnamespace = 'event_store'::regnamespace);
-- no column, default, check or index of the store uses a member of the extension
SELECT count(*) FROM pg_depend d JOIN pg_depend m ON m.classid = d.refclassid AND m.objid = d.refobjid AND m.deptype = 'e'
    JOIN pg_extension x ON x.oid = m.refobjid AND x.extname = 'event_store'
WHERE d.classid IN ('pg_class'::regclass, 'pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_rewrite'::regclass)
    AND d.objid <> 'event_store.import'::regclass
    AND d.objid IN (SELECT oid FROM pg_class WHERE relnamespace = 'event_store'::regnamespace
        UNION SELECT oid FROM pg_constraint WHERE connamespace = 'event_store'::regnamespace
        UNION SELECT a.oid FROM pg_attrdef a JOIN pg_class c ON c.oid = a.adrelid AND c.relnamespace = 'event_store'::regnamespace
        UNION SELECT r.oid FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class AND c.relnamespace = 'event_store'::regnamespace);
-- every function of the extension: none for PUBLIC but the one that only refuses
SELECT p.proname FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
    JOIN pg_extension x ON x.oid = d.refobjid AND x.extname = 'event_store'
WHERE has_function_privilege('public', p.oid, 'EXECUTE');
-- and each is commented
SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
    JOIN pg_extension x ON x.oid = d.refobjid AND x.extname = 'event_store'
WHERE obj_description(p.oid, 'pg_proc') IS NULL;

-- dropping the extension keeps every event
SELECT version FROM es_append('kept-1', 0, 'Opened', '{"a": 1}');
SELECT pg_temp.try($$DROP EXTENSION event_store$$) LIKE '2BP01:%';
SET client_min_messages = warning;
DROP EXTENSION event_store CASCADE;
RESET client_min_messages;
SELECT stream, version, data FROM event_store.events;
SELECT pg_temp.try($$INSERT INTO event_store.import VALUES ('kept-1', 'X')$$);
CREATE EXTENSION event_store;
SELECT pg_temp.try($$INSERT INTO event_store.import VALUES ('kept-1', 'X')$$);
SELECT version FROM es_append('kept-1', 1, 'Changed', '{}');
SELECT es_create_store();
INSERT INTO event_store.import VALUES ('kept-1', 'Imported');
SELECT es_stream_version('kept-1');
SELECT pg_temp.try($$DELETE FROM event_store.log$$);

-- a damaged store says what is missing
BEGIN;
DROP VIEW event_store.feed;
SELECT pg_temp.try($$SELECT es_create_store()$$);
ROLLBACK;
BEGIN;
DROP TABLE event_store.append_keys;
SELECT pg_temp.try($$SELECT es_append('kept-1', 3, 'Changed', '{}')$$);
SELECT pg_temp.try($$SELECT es_upgrade_store()$$);
ROLLBACK;

-- a store of another layout is left alone
BEGIN;
ALTER TABLE event_store.store DISABLE TRIGGER USER;
UPDATE event_store.store SET layout = 99;
SELECT pg_temp.try($$SELECT es_append('kept-1', 3, 'Changed', '{}')$$);
ROLLBACK;

-- dropped and made again in one session: no stale caches
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
SELECT pg_temp.try($$SELECT es_append('kept-1', 3, 'Changed', '{}')$$);
SELECT es_create_store(node => 3, trace => true);
SELECT version, position >> 48 AS node, position & 281474976710655 AS count FROM es_append('kept-1', 0, 'Opened', '{}');
SELECT position >> 48 AS node, stream FROM es_read_all();
SELECT es_high_water_mark() >> 48 AS node;
SELECT es_create_store();
SELECT indexname FROM pg_indexes WHERE schemaname = 'event_store' AND indexname LIKE '%correlation%';
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
SELECT es_create_store();
