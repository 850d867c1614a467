-- Settings that change what text means are pinned for what is registered, and "$user" is the schema that it was.
\t on
\pset format unaligned
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
SELECT es_create_store();
CREATE FUNCTION es_test_whole(n integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$BEGIN ASSERT n > 0, 'not above 0'; RETURN n; END $$;
SELECT es_register_aggregate('set', $$state || jsonb_build_object('at', (data ->> 'at')::timestamptz, 'n', es_test_whole((data ->> 'n')::integer))$$);
SELECT es_register_upcaster('Old', 1, $$data || jsonb_build_object('at', (data ->> 'at')::timestamptz)$$);
SELECT es_register_event_type('Checked', 1, $$(data ->> 'at')::timestamptz = '2026-01-01 10:00:00+00'$$);
CREATE TABLE es_test_set (position bigint PRIMARY KEY, at timestamptz);
SELECT es_create_projection('es_test_set', $$INSERT INTO es_test_set SELECT position, (data ->> 'at')::timestamptz FROM new_events$$, tables => '{es_test_set}');
SELECT version FROM es_append('set-1', 0, 'New', '{"at": "2026-01-01 12:00 IST", "n": 1}');
SELECT version FROM es_append('set-1', 1, 'Old', '{"at": "2026-01-01 12:00 IST", "n": 1}', schema_version => 1);

SET timezone_abbreviations = 'India';
SELECT (es_load('set-1')).state;
SELECT data FROM es_read('set-1', 2);
SELECT version FROM es_append('set-1', 2, 'Checked', '{"at": "2026-01-01 12:00 IST", "n": 1}');
SELECT es_publish_mark() > 0, es_run_projection('es_test_set');
SELECT DISTINCT at AT TIME ZONE 'UTC' FROM es_test_set;
SHOW timezone_abbreviations;
RESET timezone_abbreviations;

SET plpgsql.check_asserts = off;
SELECT version FROM es_append('set-2', 0, 'New', '{"n": 0}');
\set VERBOSITY terse
SELECT es_load('set-2');
\set VERBOSITY default
SHOW plpgsql.check_asserts;
RESET plpgsql.check_asserts;

-- the schema of the role's name, if there is one
SET search_path = "$user", public;
SELECT es_register_aggregate('named', 'state');
SELECT search_path FROM event_store.aggregates WHERE category = 'named';
CREATE ROLE "es_test User";
CREATE SCHEMA AUTHORIZATION "es_test User";
SELECT es_grant('es_test User', 'define');
SET ROLE "es_test User";
SELECT es_register_aggregate('named', 'state');
RESET ROLE;
SELECT search_path FROM event_store.aggregates WHERE category = 'named';
RESET search_path;

DROP SCHEMA event_store CASCADE;
DROP TABLE es_test_set;
DROP FUNCTION es_test_whole(integer);
DROP OWNED BY "es_test User";
DROP ROLE "es_test User";
RESET client_min_messages;
SELECT es_create_store();
