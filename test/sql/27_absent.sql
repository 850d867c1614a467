-- Streams that do not exist: what is refused or only checks writes nothing, and the head of a new stream is written once.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
SELECT es_create_store();
SELECT version FROM es_append('acct-0', 0, 'Opened', '{}');
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(E'\n  ', SQLSTATE || ': ' || message, nullif(detail, ''));
END $$;
-- what has been written into heads: counted from the beginning of a transaction
CREATE VIEW written AS
SELECT pg_stat_get_xact_tuples_inserted('event_store.heads'::regclass) AS inserted,
    pg_stat_get_xact_tuples_updated('event_store.heads'::regclass) AS updated,
    pg_current_xact_id_if_assigned() IS NOT NULL AS has_id;
SELECT last_value AS streams FROM event_store.stream_seq \gset

-- refused: no row, no transaction id, no stream id
BEGIN;
SELECT inserted AS i, updated AS u FROM written \gset
SELECT try($$SELECT es_append('acct-1', 5, 'Opened', '{}')$$);
SELECT try($$SELECT es_append('acct-1', -4, 'Opened', '{}')$$);
SELECT try($$SELECT es_append_multi('[{"stream": "acct-2", "expected_version": 0, "events": [{"type": "Opened"}]}, {"stream": "acct-3", "expected_version": 1, "events": [{"type": "Opened"}]}]')$$);
SELECT inserted - :i AS inserted, updated - :u AS updated, has_id FROM written;
COMMIT;
-- only checked: neither, nor the name of a category
BEGIN;
SELECT inserted AS i, updated AS u FROM written \gset
SELECT stream, version, position FROM es_append_multi('[{"stream": "acct-1", "expected_version": 0}, {"stream": "other-1", "expected_version": 0}]');
SELECT inserted - :i AS inserted, updated - :u AS updated, has_id FROM written;
COMMIT;
SELECT count(*) FROM event_store.categories WHERE name = 'other';
SELECT last_value - :streams FROM event_store.stream_seq;
SELECT count(*) FROM event_store.streams WHERE stream <> 'acct-0';

-- a new stream: one row, with its final values; more appends update it
BEGIN;
SELECT inserted AS i, updated AS u FROM written \gset
SELECT version FROM es_append('acct-1', 0, 'Opened', '{}');
SELECT inserted - :i AS inserted, updated - :u AS updated, has_id FROM written;
SELECT version FROM es_append('acct-1', 1, 'Opened', '{}');
SELECT inserted - :i AS inserted, updated - :u AS updated, has_id FROM written;
COMMIT;
-- checked, and then made in the same transaction
BEGIN;
SELECT inserted AS i, updated AS u FROM written \gset
SELECT version FROM es_append_multi('[{"stream": "acct-2", "expected_version": 0}]');
SELECT version FROM es_append('acct-2', 0, 'Opened', '[{"type": "Opened"}, {"type": "Opened"}]'::jsonb);
SELECT inserted - :i AS inserted, updated - :u AS updated, has_id FROM written;
COMMIT;
-- checked in the call that makes another one
SELECT stream, version FROM es_append_multi('[{"stream": "acct-3", "expected_version": 0, "events": [{"type": "Opened"}]}, {"stream": "acct-4", "expected_version": 0}]');
-- made, rolled back to a savepoint, and made again
BEGIN;
SELECT inserted AS i, updated AS u FROM written \gset
SAVEPOINT s;
SELECT version FROM es_append('acct-4', 0, 'Opened', '{}');
ROLLBACK TO s;
SELECT version FROM es_append('acct-4', 0, 'Opened', '{}');
COMMIT;
SELECT stream, version FROM event_store.streams ORDER BY stream;

-- 64 names are held; a call that makes more streams makes the heads of some at once
BEGIN;
SELECT inserted AS i, updated AS u FROM written \gset
SELECT sum(version) FROM es_append_multi((SELECT jsonb_agg(jsonb_build_object('stream', 'acct-a' || i, 'expected_version', 0,
    'events', '[{"type": "Opened"}]'::jsonb)) FROM generate_series(1, 64) i));
SELECT inserted - :i AS inserted, updated - :u AS updated, has_id FROM written;
COMMIT;
BEGIN;
SELECT inserted AS i, updated AS u FROM written \gset
SELECT sum(version) FROM es_append_multi((SELECT jsonb_agg(jsonb_build_object('stream', 'acct-b' || i, 'expected_version', 0,
    'events', '[{"type": "Opened"}]'::jsonb)) FROM generate_series(1, 100) i));
SELECT inserted - :i AS inserted, updated - :u AS updated, has_id FROM written;
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND objsubid = 234;
COMMIT;
-- only checked: 64 in a transaction
SELECT count(*) FROM es_append_multi((SELECT jsonb_agg(jsonb_build_object('stream', 'acct-c' || i, 'expected_version', 0)) FROM generate_series(1, 64) i));
SELECT try($$SELECT es_append_multi((SELECT jsonb_agg(jsonb_build_object('stream', 'acct-c' || i, 'expected_version', 0)) FROM generate_series(1, 65) i))$$);
BEGIN;
SELECT inserted AS i, updated AS u FROM written \gset
SELECT count(*) FROM es_append_multi((SELECT jsonb_agg(jsonb_build_object('stream', 'acct-c' || i, 'expected_version', 0)) FROM generate_series(1, 64) i));
SELECT try($$SELECT es_append_multi('[{"stream": "acct-d1", "expected_version": 0}]')$$);
-- appends go on, and so does one to a stream that was checked
SELECT version FROM es_append('acct-d1', 0, 'Opened', '{}');
SELECT version FROM es_append('acct-c1', 0, 'Opened', '{}');
SELECT inserted - :i AS inserted, updated - :u AS updated, has_id FROM written;
COMMIT;
-- names that a rollback to a savepoint has given back do not count
BEGIN;
SELECT inserted AS i, updated AS u FROM written \gset
SELECT count(try(format($$SELECT es_append('acct-e%s', 5, 'Opened', '{}')$$, i))) FROM generate_series(1, 200) i;
SELECT count(*) FROM es_append_multi((SELECT jsonb_agg(jsonb_build_object('stream', 'acct-e' || i, 'expected_version', 0)) FROM generate_series(1, 64) i));
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND objsubid = 234;
COMMIT;
-- all is as it should be
SELECT count(*) FROM event_store.streams WHERE stream LIKE 'acct-b%';
SELECT count(*) FROM event_store.streams WHERE version = 0;
SELECT * FROM es_check();
DROP VIEW written;
DROP FUNCTION try;
DROP SCHEMA event_store CASCADE;
