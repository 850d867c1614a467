-- The owner of a store, who is no superuser, alters its tables. C takes their values as what they were made as, so a table that
-- is not as it was made is refused (55000) by every function, whichever table it is.
\t on
\pset format unaligned
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
DROP ROLE IF EXISTS es_test_own;
CREATE ROLE es_test_own;
SELECT es_create_store(owner => 'es_test_own');
GRANT USAGE, CREATE ON SCHEMA public TO es_test_own;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO es_test_own;
SET ROLE es_test_own;

-- something in each table
SELECT es_register_aggregate('alt', 'state || data', snapshot_every => 1);
SELECT es_register_event_type('T', 2, 'data IS NOT NULL');
SELECT es_register_upcaster('T', 1, 'data');
CREATE TABLE es_test_alt (position bigint PRIMARY KEY);
SELECT es_create_projection('alt_p', 'INSERT INTO es_test_alt SELECT position FROM new_events', tables => '{es_test_alt}');
SELECT es_create_subscription('alt_s');
SELECT version FROM es_append('alt-1', 0, 'T', '{"a": 1}', schema_version => 2, idempotency_key => 'k');
SELECT es_publish_mark() > 0, es_snapshot('alt-1') IS NOT NULL, es_seal_log() > 0;
SELECT es_rebuild_projection('alt_p');
SELECT count(*) FROM es_fetch('alt_s', 'c');

-- one call for each thing that C reads; what it answers
CREATE FUNCTION public.es_test_calls() RETURNS SETOF text LANGUAGE sql IMMUTABLE AS $$ SELECT unnest(ARRAY[
    $a$SELECT es_append('alt-1', -2, 'T', '{}', schema_version => 2, idempotency_key => 'k2')$a$,
    $a$SELECT es_append_batch('{alt-2}', '{T}', '{"{}"}', schema_versions => '{2}', idempotency_key => 'b')$a$,
    $a$INSERT INTO event_store.import (stream, event_type, schema_version) VALUES ('alt-1', 'T', 2)$a$,
    $a$SELECT count(*) FROM es_read('alt-1')$a$,
    $a$SELECT count(*) FROM es_read_all(0)$a$,
    $a$SELECT es_load('alt-1')$a$,
    $a$SELECT es_position_at(clock_timestamp())$a$,
    $a$SELECT es_run_projection('alt_p')$a$,
    $a$SELECT es_cancel_rebuild('alt_p')$a$,
    $a$SELECT es_pause('alt_p')$a$,
    $a$SELECT count(*) FROM es_fetch('alt_s', 'c')$a$,
    $a$SELECT es_ack('alt_s', 1, 'c')$a$,
    $a$SELECT es_nack('alt_s', 1, 'no', 'c')$a$,
    $a$SELECT es_drop_subscription('alt_s')$a$,
    $a$SELECT es_register_upcaster('T', 1, 'data || data')$a$,
    $a$SELECT es_snapshot('alt-1')$a$,
    $a$SELECT es_publish_mark()$a$,
    $a$SELECT es_seal_log()$a$,
    $a$SELECT count(*) FROM es_verify_log()$a$,
    $a$SELECT count(*) FROM es_check()$a$,
    $a$SELECT es_epoch()$a$]) $$;

-- what a statement answers: 'ok', or the state and, where it is ours, what was changed
CREATE FUNCTION public.es_test_try(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    RETURN CASE WHEN SQLSTATE = '55000' AND SQLERRM ~ '( has been changed$|^the event store is incomplete|^this database has no event store)' THEN 'refused' ELSE SQLSTATE || ': ' || SQLERRM END;
END $$;

-- what functions answer after an alteration, which is undone
CREATE FUNCTION public.es_test_altered(ddl text, calls integer DEFAULT NULL) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    answers text[] := '{}';
    call text;
BEGIN
    EXECUTE ddl;
    FOR call IN SELECT c FROM public.es_test_calls() c LIMIT calls LOOP
        answers := answers || public.es_test_try(call);
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = 'P0002', MESSAGE = answers::text;
EXCEPTION
    WHEN no_data_found THEN
        RETURN QUERY SELECT unnest(SQLERRM::text[]);
    WHEN OTHERS THEN
        RETURN NEXT 'not altered: ' || SQLSTATE;
END $$;

-- as it is, everything works
SELECT DISTINCT a FROM es_test_altered('SELECT') a ORDER BY 1;

-- views would be in the way
SELECT 'DROP VIEW ' || string_agg(oid::regclass::text, ', ') || ' CASCADE' AS drop_views
FROM pg_class WHERE relnamespace = 'event_store'::regnamespace AND relkind = 'v' \gset
:drop_views;
-- ... and so would checks of columns
SELECT string_agg(format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname), '; ') AS drop_checks
FROM pg_constraint WHERE connamespace = 'event_store'::regnamespace AND contype = 'c' \gset
:drop_checks;

CREATE TABLE public.es_test_answers (kind text, tab text, answer text);
SET client_min_messages = error;
DO $$
DECLARE
    a record;
    t text;
    k text;
BEGIN
    FOR a IN SELECT c.relname, quote_ident(attname) AS attname, atttypid::regtype::text AS type, attidentity <> '' AS identity
            FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
            WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname !~ '^log_[0-9]'
                AND attnum > 0 ORDER BY c.relname, attnum LOOP
        t := 'ALTER TABLE event_store.' || a.relname || ' ';
        IF NOT a.identity THEN
            INSERT INTO es_test_answers SELECT 'type', a.relname, es_test_altered(t || format('ALTER %1$s DROP DEFAULT, ALTER %1$s TYPE %2$s USING %3$s',
                a.attname, CASE a.type WHEN 'bigint' THEN 'text' ELSE 'bigint' END,
                CASE a.type WHEN 'bigint' THEN a.attname || '::text' ELSE 'hashtext(' || a.attname || '::text)' END));
        END IF;
        FOREACH k IN ARRAY '{rename,nullable,drop,identity}'::text[] LOOP
            INSERT INTO es_test_answers SELECT k, a.relname, es_test_altered(t || CASE k
                WHEN 'rename' THEN format('RENAME %s TO other', a.attname)
                WHEN 'nullable' THEN format('ALTER %s DROP NOT NULL', a.attname)
                WHEN 'identity' THEN format('ALTER %s DROP DEFAULT, ALTER %1$s ADD GENERATED ALWAYS AS IDENTITY', a.attname)
                ELSE format('DROP %s', a.attname) END, 2);
        END LOOP;
    END LOOP;
    FOR a IN SELECT c.relname FROM pg_class c
            WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname !~ '^log_[0-9]' LOOP
        t := 'ALTER TABLE event_store.' || a.relname || ' ';
        INSERT INTO es_test_answers SELECT 'add', a.relname, es_test_altered(t || 'ADD more text', 2);
        INSERT INTO es_test_answers SELECT 'generated', a.relname, es_test_altered(t || 'ADD more text GENERATED ALWAYS AS (''x'') STORED', 2);
        INSERT INTO es_test_answers SELECT 'gone', a.relname, es_test_altered(t || 'RENAME TO other', 2);
        INSERT INTO es_test_answers SELECT 'view', a.relname, es_test_altered(t || 'RENAME TO other;'
            || ' CREATE VIEW event_store.' || a.relname || ' AS SELECT * FROM event_store.other', 2);
        INSERT INTO es_test_answers SELECT 'owner', a.relname, es_test_altered('RESET ROLE; ' || t || 'OWNER TO CURRENT_USER', 2);
    END LOOP;
    FOR a IN SELECT indexrelid::regclass AS index, c.relname, contype IS NOT NULL AS constrained, conname
            FROM pg_index JOIN pg_class c ON c.oid = indrelid LEFT JOIN pg_constraint ON conindid = indexrelid AND contype IN ('p', 'u')
            WHERE c.relnamespace = 'event_store'::regnamespace LOOP
        INSERT INTO es_test_answers SELECT 'index', a.relname, es_test_altered(CASE WHEN a.constrained
            THEN format('ALTER TABLE event_store.%I DROP CONSTRAINT %I', a.relname, a.conname)
            ELSE format('DROP INDEX %s', a.index) END);
    END LOOP;
END $$;
RESET client_min_messages;
SELECT DISTINCT kind, answer FROM es_test_answers WHERE kind <> 'index' ORDER BY 1, 2;
-- without an index something else may be said, or all be well
SELECT DISTINCT answer FROM es_test_answers WHERE kind = 'index' ORDER BY 1;
-- each table was met, and is as it was; es_check() misses the views
SELECT count(DISTINCT tab) = (SELECT count(*) FROM pg_class WHERE relnamespace = 'event_store'::regnamespace AND relkind IN ('r', 'p') AND relname !~ '^log_[0-9]')
FROM es_test_answers WHERE answer = 'refused' AND kind = 'type';
SELECT DISTINCT a FROM es_test_altered('SELECT') a ORDER BY 1;

RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
SELECT 'DROP SCHEMA ' || string_agg(nspname, ', ') || ' CASCADE' AS drop_shadows FROM pg_namespace WHERE nspname ~ '^event_store_rebuild_' \gset
:drop_shadows;
DROP TABLE es_test_alt, es_test_answers;
DROP FUNCTION es_test_calls(), es_test_try(text), es_test_altered(text, integer);
DROP OWNED BY es_test_own CASCADE;
DROP ROLE es_test_own;
RESET client_min_messages;
SELECT es_create_store();
