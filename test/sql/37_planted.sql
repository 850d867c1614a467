-- Whoever may create schemas plants one where the library wants to make its own, and an operator has no rights on a projection's
-- tables.
\t on
\pset format unaligned
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
DROP ROLE IF EXISTS es_test_own, es_test_op, es_test_mallory;
CREATE ROLE es_test_own;
CREATE ROLE es_test_op;
CREATE ROLE es_test_mallory;
SELECT current_database() AS db \gset
GRANT CREATE ON DATABASE :"db" TO es_test_mallory;
CREATE FUNCTION public.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; h text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', SQLSTATE || ': ' || m, d, h);
END $$;

-- the schema of a rebuild cannot be foreseen: this was its name
CREATE SCHEMA es_planted;
CREATE TABLE es_planted.seen (position bigint PRIMARY KEY);
SELECT es_create_store(owner => 'es_test_own');
SELECT es_grant('es_test_op', 'operate');
GRANT es_test_own TO CURRENT_USER;
GRANT USAGE ON SCHEMA es_planted TO es_test_own;
ALTER TABLE es_planted.seen OWNER TO es_test_own;
SELECT es_grant('es_test_own', 'define');
SET ROLE es_test_own;
SET search_path = es_planted, public;
SELECT es_create_projection('planted', 'INSERT INTO seen SELECT position FROM new_events', tables => '{seen}');
RESET search_path;
RESET ROLE;
SET ROLE es_test_mallory;
SELECT format('CREATE SCHEMA event_store_rebuild_%s', lpad(to_hex(hashtext('planted')), 8, '0')) AS plant \gset
:plant;
RESET ROLE;
-- ... and an operator needs no right on the tables' schema
SET ROLE es_test_op;
SELECT try($$SELECT es_rebuild_projection('planted')$$);
SELECT try($$SELECT es_cancel_rebuild('planted')$$);
RESET ROLE;

-- a store that somebody has made by hand is not taken for ours
DROP SCHEMA event_store CASCADE;
REVOKE ALL ON FOREIGN SERVER event_store_import FROM es_test_own;
SELECT es_create_store(owner => 'es_test_mallory');
DROP FOREIGN TABLE event_store.import;
SELECT try('SELECT es_create_store()');
SELECT to_regclass('event_store.import') IS NULL;
-- the owner itself may, and whoever names it
SELECT try($$SELECT es_create_store(owner => 'es_test_own')$$);
SELECT try($$SELECT es_create_store(owner => 'es_test_mallory')$$);
SELECT try('SELECT es_create_store()');
-- an object of another role is refused
ALTER VIEW event_store.status OWNER TO es_test_own;
SELECT try('SELECT es_create_store()');

DROP SCHEMA event_store CASCADE;
DROP SCHEMA es_planted CASCADE;
DROP OWNED BY es_test_own, es_test_op, es_test_mallory CASCADE;
DROP ROLE es_test_own, es_test_op, es_test_mallory;
DROP FUNCTION public.try(text);
RESET client_min_messages;
SELECT es_create_store();
