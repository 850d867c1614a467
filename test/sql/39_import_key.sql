-- An import that is run again: event_store.import_key.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
CREATE FUNCTION pg_temp.try(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE s text; m text; d text; h text;
BEGIN
    EXECUTE sql;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n  ', s || ': ' || m, 'detail: ' || nullif(d, ''), 'hint: ' || nullif(h, ''));
END $$;
\t on
\pset format unaligned
SELECT es_create_store();
CREATE TABLE source (n int, stream text, event_type text, data jsonb, metadata jsonb, occurred_at text, event_id uuid, schema_version int);
INSERT INTO source VALUES (1, 'k-1', 'A', '{"n": 1}', '{"m": 1}', '2020-01-01T00:00:00Z', '01890a5d-ac96-774b-bcce-b302099a8057', 2), (2, 'k-2', 'B', '{}', NULL, NULL, NULL, NULL), (3, 'k-1', 'B', 'null', NULL, NULL, NULL, NULL);
CREATE FUNCTION run() RETURNS void LANGUAGE sql AS 'INSERT INTO event_store.import SELECT stream, event_type, data, metadata, occurred_at, event_id, schema_version FROM source ORDER BY n';

-- the same rows: nothing, in this transaction and in another
BEGIN;
SET LOCAL event_store.import_key = 'file-1';
SELECT run(), run();
COMMIT;
SET event_store.import_key = 'file-1';
SELECT run();
SELECT stream, version, event_type, data, metadata, schema_version FROM event_store.events ORDER BY position;
-- other rows: any column, their order, one less, one more
CREATE FUNCTION pg_temp.changed(change text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text;
BEGIN
    EXECUTE change;
    answer := pg_temp.try('SELECT run()');
    RAISE EXCEPTION USING ERRCODE = 'P0001', MESSAGE = answer;
EXCEPTION WHEN raise_exception THEN
    RETURN split_part(SQLERRM, E'\n', 1) || '  ' || change;
END $$;
SELECT pg_temp.changed(c) FROM unnest(ARRAY[$$UPDATE source SET stream = 'k-3' WHERE n = 2$$, $$UPDATE source SET event_type = 'C' WHERE n = 2$$, $$UPDATE source SET data = '{"n": 2}' WHERE n = 2$$,
    $$UPDATE source SET metadata = '{}' WHERE n = 2$$, $$UPDATE source SET occurred_at = '2020-01-01T00:00:01Z' WHERE n = 1$$, $$UPDATE source SET event_id = NULL WHERE n = 1$$,
    $$UPDATE source SET schema_version = 1 WHERE n = 2$$, $$UPDATE source SET n = 0 WHERE n = 2$$, $$DELETE FROM source WHERE n = 3$$, $$INSERT INTO source VALUES (4, 'k-1', 'B', '{}')$$, $$SELECT 1$$]) c;
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type) VALUES ('k-1', 'A')$$);
-- the keys are those of batches
SELECT pg_temp.try($$SELECT es_append_batch('{k-1}', '{A}', '{"{}"}', idempotency_key => 'file-1')$$);
SELECT key FROM event_store.batch_keys ORDER BY 1;
-- no rows, and a row that is refused, keep no key; one that is too long is refused
SET event_store.import_key = 'file-2';
INSERT INTO event_store.import (stream, event_type) SELECT 'k-1', 'A' WHERE false;
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type) VALUES ('k-1', 'A'), ('k-1', '')$$);
SELECT count(*) FROM event_store.batch_keys;
SELECT set_config('event_store.import_key', repeat('k', 513), false) IS NOT NULL;
SELECT pg_temp.try('SELECT run()');
-- several chunks, and more new streams than a transaction may hold the names of
SET event_store.import_key = 'file-3';
INSERT INTO event_store.import (stream, event_type, data) SELECT 'many-' || i % 300, 'Bulk' || i % 3, to_jsonb(i) FROM generate_series(1, 12000) i;
INSERT INTO event_store.import (stream, event_type, data) SELECT 'many-' || i % 300, 'Bulk' || i % 3, to_jsonb(i) FROM generate_series(1, 12000) i;
RESET event_store.import_key;
INSERT INTO event_store.import (stream, event_type, data) SELECT 'many-' || i % 450, 'Bulk' || i % 3, to_jsonb(i + 12000) FROM generate_series(1, 6000) i;
SELECT count(*), count(DISTINCT stream), max(version) FROM event_store.events WHERE category = 'many';
SELECT bool_and(data = to_jsonb(n)) FROM (SELECT data, row_number() OVER (ORDER BY position) AS n FROM event_store.events WHERE category = 'many') e;
-- again and again in one transaction
BEGIN;
INSERT INTO event_store.import (stream, event_type) SELECT 'more-' || i, 'T' FROM generate_series(1, 5001) i;
INSERT INTO event_store.import (stream, event_type) SELECT 'most-' || i, 'T' FROM generate_series(1, 100) i;
SELECT version FROM es_append('last-1', 0, 'T', '{}');
COMMIT;
SELECT count(*) FROM es_check('all');
SELECT count(*) FROM es_verify_log();
DROP FUNCTION run();
DROP TABLE source;
