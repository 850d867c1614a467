-- What the owner of a store has added to its tables, such as an expression of an index, runs with the owner's rights, not with those of
-- whoever appends: a superuser may append in a store that is somebody else's.
\t on
\pset format unaligned
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
DROP ROLE IF EXISTS es_test_own;
CREATE ROLE es_test_own;
SELECT es_create_store(owner => 'es_test_own');
CREATE SCHEMA es_own AUTHORIZATION es_test_own;
SET ROLE es_test_own;
CREATE FUNCTION es_own.f(p text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    IF current_user <> 'es_test_own' THEN
        RAISE 'this runs as %', current_user;
    END IF;
    RETURN p;
END $$;
CREATE INDEX ON event_store.log (es_own.f(position::text));
CREATE INDEX ON event_store.heads (es_own.f(name));
CREATE INDEX ON event_store.heads (category) WHERE es_own.f(version::text) <> '';
CREATE INDEX ON event_store.append_keys (es_own.f(key));
CREATE INDEX ON event_store.categories (es_own.f(name));
ALTER FUNCTION es_own.f(text) VOLATILE;
-- what is constant is computed when an index is opened, or only looked at
CREATE FUNCTION es_own.constant(p text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    IF current_user <> 'es_test_own' THEN
        RAISE 'a constant is computed as %', current_user;
    END IF;
    RETURN p;
END $$;
CREATE UNIQUE INDEX ON event_store.log_0 (stream, version) WHERE es_own.constant('x') <> '';
CREATE INDEX ON event_store.log (event_type) WHERE es_own.constant('x') <> '';
CREATE INDEX ON event_store.heads (version) WHERE es_own.constant('x') <> '';
CREATE INDEX ON event_store.append_keys (version) WHERE es_own.constant('x') <> '';
CREATE INDEX ON event_store.mark (mark) WHERE es_own.constant('x') <> '';
RESET ROLE;
SELECT version FROM es_append('own-1', 0, 'T', '{}');
SELECT version FROM es_append('own-1', 1, 'T', '{}', idempotency_key => 'k');
SELECT events FROM es_append_batch('{own-1,own-2}', '{T,T}', '{"{}","{}"}');
SELECT es_publish_mark() > 0, count(*) FROM es_read('own-1');
SELECT current_user <> 'es_test_own';
-- an error of it leaves no other role behind
SET ROLE es_test_own;
CREATE OR REPLACE FUNCTION es_own.f(p text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END $$;
RESET ROLE;
DO $$ BEGIN PERFORM es_append('own-1', -2, 'T', '{}'); EXCEPTION WHEN raise_exception THEN NULL; END $$;
SELECT current_user <> 'es_test_own';
DROP SCHEMA event_store CASCADE;
DROP SCHEMA es_own CASCADE;
DROP OWNED BY es_test_own;
DROP ROLE es_test_own;
