-- Privileges: nothing by default, es_grant and es_revoke, hostile schemas.
CREATE FUNCTION public.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; s text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT;
    RETURN s || ': ' || m;
END $$;
\t on
\pset format unaligned
SELECT es_create_store();
SET client_min_messages = warning;
DROP ROLE IF EXISTS es_test_app;
DROP ROLE IF EXISTS es_test_report;
DROP ROLE IF EXISTS es_test_none;
RESET client_min_messages;
CREATE ROLE es_test_app;
CREATE ROLE es_test_report;
CREATE ROLE es_test_none;
SELECT version FROM es_append('priv-1', 0, 'Opened', '{"secret": 1}');

-- a role without rights
SET ROLE es_test_none;
SELECT try($$SELECT es_append('priv-1', -2, 'X', '{}')$$);
SELECT try($$SELECT es_append('priv-1', -2, '[{"type": "X"}]'::jsonb)$$);
SELECT try($$SELECT es_append('priv-1', -2, '[{"type": "X"}]')$$);
SELECT try($$SELECT es_append_multi('[{"stream": "priv-1"}]')$$);
SELECT try($$SELECT es_append_batch('{priv-1}', '{X}', '{"{}"}')$$);
SELECT try($$SELECT es_read('priv-1')$$);
SELECT try($$SELECT es_read_all()$$);
SELECT try($$SELECT es_read_category('priv')$$);
SELECT try($$SELECT es_trace('x')$$);
SELECT try($$SELECT es_stream_version('priv-1')$$);
SELECT try($$SELECT es_find_append('priv-1', 'k')$$);
SELECT try($$SELECT es_high_water_mark()$$);
SELECT try($$SELECT es_publish_mark()$$);
SELECT try($$SELECT es_position_at(now())$$);
SELECT try($$SELECT es_create_store()$$);
SELECT try($$SELECT es_upgrade_store()$$);
SELECT try($$SELECT es_grant('es_test_none', 'read')$$);
SELECT try($$SELECT es_revoke('es_test_app', 'read')$$);
SELECT try($$SELECT * FROM event_store.events$$);
SELECT try($$SELECT * FROM event_store.log$$);
SELECT try($$INSERT INTO event_store.import VALUES ('priv-1', 'X')$$);
SELECT try($$CREATE FOREIGN TABLE pg_temp.f (stream text) SERVER event_store_import$$);
SELECT try($$SELECT nextval('event_store.position_seq')$$);
SELECT try($$SET event_store.partition_size = 1000$$);
RESET ROLE;

-- append: EXECUTE is all it takes, and no more than that
SELECT es_grant('es_test_app', 'append');
SET ROLE es_test_app;
SELECT version FROM es_append('priv-1', 1, 'Changed', '{}');
SELECT version FROM es_append('privnew-1', 0, 'BrandNewType', '{}', idempotency_key => 'k');
SELECT stream, version FROM es_append_multi('[{"stream": "priv-1", "expected_version": "any", "events": {"type": "Changed"}}]');
SELECT events FROM es_append_batch('{priv-1}', '{Changed}', '{"{}"}');
SELECT es_stream_version('priv-1');
SELECT try($$SELECT es_read('priv-1')$$);
SELECT try($$SELECT * FROM event_store.events$$);
SELECT try($$INSERT INTO event_store.import VALUES ('priv-1', 'X')$$);
SELECT try($$INSERT INTO event_store.log SELECT * FROM event_store.log$$);
RESET ROLE;

-- read
SELECT es_grant('es_test_report', 'read');
SET ROLE es_test_report;
SELECT count(*) FROM es_read('priv-1');
SELECT count(*) FROM es_read_category('priv');
SELECT count(*) FROM event_store.events WHERE stream = 'priv-1';
SELECT count(*) FROM event_store.streams WHERE stream = 'priv-1';
SELECT try($$SELECT * FROM event_store.feed LIMIT 1$$), try($$SELECT es_high_water_mark()$$), try($$SELECT es_trace('x')$$), try($$SELECT es_position_at(now())$$);
SELECT try($$SELECT es_append('priv-1', -2, 'X', '{}')$$);
SELECT try($$SELECT * FROM event_store.log$$);
SELECT try($$SELECT * FROM event_store.heads$$);
SELECT try($$SELECT es_publish_mark()$$);
RESET ROLE;

-- import and operate
SELECT es_grant('es_test_app', 'import');
SET ROLE es_test_app;
INSERT INTO event_store.import (stream, event_type) VALUES ('priv-1', 'Imported');
SELECT try($$SELECT es_publish_mark()$$);
RESET ROLE;
SELECT es_grant('es_test_report', 'operate');
SET ROLE es_test_report;
SELECT es_publish_mark() > 0;
SELECT count(*) > 0 FROM event_store.partitions;
RESET ROLE;

-- revoking one right leaves what another gives
SELECT es_revoke('es_test_report', 'operate');
SET ROLE es_test_report;
SELECT try($$SELECT es_publish_mark()$$), try($$SELECT es_high_water_mark()$$), try($$SELECT * FROM event_store.streams LIMIT 1$$), try($$SELECT * FROM event_store.partitions LIMIT 1$$);
RESET ROLE;
SELECT es_revoke('es_test_app', 'append');
SET ROLE es_test_app;
SELECT try($$SELECT es_append('priv-1', -2, 'X', '{}')$$), try($$INSERT INTO event_store.import (stream, event_type) VALUES ('priv-1', 'Imported')$$);
RESET ROLE;
SELECT role, "right" FROM event_store.grants ORDER BY 1, 2;

-- rights survive the extension
SELECT es_grant('es_test_app', 'append');
SET client_min_messages = warning;
DROP EXTENSION event_store CASCADE;
RESET client_min_messages;
CREATE EXTENSION event_store;
SET ROLE es_test_app;
SELECT try($$SELECT es_append('priv-1', -2, 'X', '{}')$$);
RESET ROLE;
SELECT es_create_store();
SET ROLE es_test_app;
SELECT try($$SELECT es_append('priv-1', -2, 'X', '{}')$$), try($$INSERT INTO event_store.import (stream, event_type) VALUES ('priv-1', 'Imported')$$);
RESET ROLE;

-- a hostile schema first in the path: look-alikes of everything we might name
CREATE SCHEMA hostile;
GRANT ALL ON SCHEMA hostile TO PUBLIC;
CREATE FUNCTION hostile.boom() RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'hostile code ran as %', current_user; END$$;
CREATE FUNCTION hostile.greatest(bigint, bigint) RETURNS bigint LANGUAGE sql AS 'SELECT hostile.boom()::bigint';
CREATE FUNCTION hostile.count() RETURNS bigint LANGUAGE sql AS 'SELECT hostile.boom()::bigint';
CREATE FUNCTION hostile.eq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT hostile.boom()::boolean';
CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.eq);
CREATE FUNCTION hostile.eq8(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT hostile.boom()::boolean';
CREATE OPERATOR hostile.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = hostile.eq8);
CREATE FUNCTION hostile.arrow(jsonb, text) RETURNS text LANGUAGE sql AS 'SELECT hostile.boom()';
CREATE OPERATOR hostile.->> (LEFTARG = jsonb, RIGHTARG = text, FUNCTION = hostile.arrow);
CREATE FUNCTION hostile.es_refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION hostile.regexp_match(text, text) RETURNS text[] LANGUAGE sql AS 'SELECT ARRAY[hostile.boom()]';
CREATE TABLE hostile.pg_class (oid oid, relname name);
CREATE TABLE hostile.categories (id int, name text);
CREATE TABLE hostile.log (i int);
CREATE DOMAIN hostile.text AS pg_catalog.text CHECK (hostile.boom() IS NULL);
SELECT es_grant('es_test_app', 'read');
SET ROLE es_test_app;
SET search_path = hostile, public, pg_catalog;
SELECT version > 0 FROM es_append('hostilecat-1', 0, 'HostileType', '{"a": 1}', '{"correlation_id": "h"}', idempotency_key => 'hk');
SELECT replayed FROM es_append('hostilecat-1', 0, 'HostileType', '{"a": 1}', idempotency_key => 'hk');
SELECT events FROM es_append_batch('{hostilecat-2}', '{HostileType2}', '{"{}"}');
SELECT (e).stream FROM (SELECT es_trace('h') AS e) s;
SELECT (e).stream FROM (SELECT es_read('hostilecat-1') AS e) s;
SELECT pg_catalog.count(*) FROM es_read_category('hostilecat');
RESET ROLE;
SELECT es_publish_mark() OPERATOR(pg_catalog.>) 0;
SELECT es_create_store();
SELECT es_grant('es_test_app', 'operate');
SELECT es_revoke('es_test_app', 'operate');
SET event_store.partition_size = 100;
SELECT events FROM es_append_batch(pg_catalog.array_fill('hostilecat-3'::pg_catalog.text, '{200}'), pg_catalog.array_fill('T'::pg_catalog.text, '{200}'), pg_catalog.array_fill('{}'::pg_catalog.jsonb, '{200}'));
RESET event_store.partition_size;
RESET search_path;
SELECT tgfoid::regproc, count(*) > 0 FROM pg_trigger WHERE tgname = 'es_immutable' GROUP BY 1;

-- clean up
SET client_min_messages = warning;
DROP SCHEMA hostile CASCADE;
DROP OWNED BY es_test_app, es_test_report, es_test_none;
DROP ROLE es_test_app, es_test_report, es_test_none;
ALTER TABLE event_store.grants DISABLE TRIGGER USER;
DELETE FROM event_store.grants;
ALTER TABLE event_store.grants ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row;
DROP FUNCTION public.try(text);
