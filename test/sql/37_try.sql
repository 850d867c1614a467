-- es_try_append, es_try_append_multi: a wrong expected version is a result. Races are in isolation/specs/try.spec.
\pset format unaligned
\pset tuples_only on
\pset null NULL
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
SELECT es_create_store();
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
CREATE VIEW written AS
SELECT pg_stat_get_xact_tuples_inserted('event_store.heads'::regclass) AS inserted,
    pg_current_xact_id_if_assigned() IS NOT NULL AS has_id,
    (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory') AS locks;

-- one event
SELECT version, position, recorded_at IS NOT NULL, replayed, outcome FROM es_try_append('seat-1', 0, 'Booked', '{"by": 1}');
SELECT version, position, recorded_at = (SELECT recorded_at FROM es_read('seat-1')), replayed, outcome FROM es_try_append('seat-1', 0, 'Booked', '{"by": 2}');
SELECT version, position, outcome FROM es_try_append('seat-1', 5, 'Booked', '{"by": 2}');
SELECT version, position, outcome FROM es_try_append('seat-1', -2, 'Booked', '{"by": 2}');
SELECT version, position, recorded_at, replayed, outcome FROM es_try_append('seat-none', 5, 'Booked', '{}');
SELECT version, position, recorded_at, replayed, outcome FROM es_try_append('seat-none', -4, 'Booked', '{}');
SELECT version, outcome FROM es_try_append(stream => 'seat-1', expected_version => 2, event_type => 'Booked', data => '{}', idempotency_key => 'k1');
-- several events
SELECT version, position, outcome FROM es_try_append('seat-1', 3, '[{"type": "Booked"}, {"type": "Paid"}]');
SELECT version, position, outcome FROM es_try_append('seat-1', 3, '[{"type": "Booked"}, {"type": "Paid"}]');
PREPARE untyped AS SELECT version, outcome FROM es_try_append($1, $2, $3);
EXECUTE untyped('seat-1', 4, '{"type": "Booked"}');
SELECT array_agg(parameter_types::text) FROM pg_prepared_statements WHERE name = 'untyped';
PREPARE untyped4 AS SELECT version, outcome FROM es_try_append($1, $2, $3, $4);
EXECUTE untyped4('seat-1', 4, 'Booked', '{}');
SELECT array_agg(parameter_types::text) FROM pg_prepared_statements WHERE name = 'untyped4';
-- a retry: by key, also when the stream has gone on; by event ids
SELECT version, replayed, outcome FROM es_try_append('seat-1', 2, 'Booked', '{}', idempotency_key => 'k1');
SELECT version, replayed, outcome FROM es_try_append('seat-1', -2, 'Booked', '{}', idempotency_key => 'k1');
SELECT version, replayed, outcome FROM es_try_append('seat-1', 2, 'Booked', '{}', idempotency_key => 'k2');
SELECT try($$SELECT es_try_append('seat-1', 2, 'Other', '{}', idempotency_key => 'k1')$$);
SELECT version, replayed, outcome FROM es_try_append('seat-2', 0, 'Booked', '{}', event_id => '00000000-0000-4000-8000-000000000001');
SELECT version, replayed, outcome FROM es_try_append('seat-2', 0, 'Booked', '{}', event_id => '00000000-0000-4000-8000-000000000001');
SELECT version, replayed, outcome FROM es_try_append('seat-2', 0, 'Booked', '{}', event_id => '00000000-0000-4000-8000-000000000002');
SELECT version, outcome FROM es_try_append('seat-2', 0, '{"events": [{"type": "Booked"}], "idempotency_key": "k3"}');

-- several streams: one row an element, in its order
SELECT stream, version, position, replayed, outcome FROM es_try_append_multi('[
    {"stream": "row-b", "expected_version": 0, "events": [{"type": "Booked"}]},
    {"stream": "row-a", "expected_version": 0, "events": [{"type": "Booked"}], "idempotency_key": "k"},
    {"stream": "seat-2", "expected_version": 1}]'::jsonb - 1);
SELECT stream, version, position, replayed, outcome FROM es_try_append_multi('[
    {"stream": "row-c", "expected_version": 0, "events": [{"type": "Booked"}]},
    {"stream": "row-b", "expected_version": 0, "events": [{"type": "Booked"}]},
    {"stream": "seat-2", "expected_version": 1},
    {"stream": "seat-1", "expected_version": 1, "events": [{"type": "Booked"}]},
    {"stream": "row-z", "expected_version": -4}]');
SELECT stream, version, replayed, outcome FROM es_try_append_multi('[
    {"stream": "row-c", "expected_version": 0, "events": [{"type": "Booked"}], "idempotency_key": "m"},
    {"stream": "row-d", "expected_version": 0, "events": [{"type": "Booked"}], "idempotency_key": "m"}]');
SELECT stream, version, replayed, outcome FROM es_try_append_multi('[
    {"stream": "row-c", "expected_version": 0, "events": [{"type": "Booked"}], "idempotency_key": "m"},
    {"stream": "row-d", "expected_version": 0, "events": [{"type": "Booked"}], "idempotency_key": "m"}]');
SELECT stream, version, replayed, outcome FROM es_try_append_multi('[
    {"stream": "row-c", "expected_version": 0, "events": [{"type": "Booked"}], "idempotency_key": "n"},
    {"stream": "row-e", "expected_version": 0, "events": [{"type": "Booked"}], "idempotency_key": "n"}]');
SELECT es_stream_version('row-e'), es_stream_version('row-c');

-- a conflict leaves nothing, takes nothing, and the transaction goes on
BEGIN;
SELECT inserted AS i FROM written \gset
SELECT version, outcome FROM es_try_append('seat-1', 0, 'Booked', '{}');
SELECT version, outcome FROM es_try_append('seat-1', 0, 'Booked', '{}', idempotency_key => 'k2');
SELECT version, outcome FROM es_try_append('seat-1', 0, 'Booked', '{}', event_id => '00000000-0000-4000-8000-000000000003');
SELECT version, replayed, outcome FROM es_try_append('seat-1', 2, 'Booked', '{}', idempotency_key => 'k1');
SELECT count(*), count(DISTINCT a.version), min(a.outcome) FROM generate_series(1, 200) i, es_try_append('absent-' || i, 7, 'Booked', '{}') a;
SELECT inserted - :i AS inserted, has_id, locks FROM written;
SELECT version, outcome FROM es_try_append('seat-1', 5, 'Booked', '{}');
COMMIT;
SELECT es_stream_version('seat-1');
SELECT count(*) FROM event_store.categories WHERE name = 'absent';
-- no name of a type either
SELECT version, outcome FROM es_try_append('seat-1', 1, 'NeverSeen', '{}');
SELECT count(*) FROM event_store.event_types WHERE name = 'NeverSeen';
-- also when it makes more streams than it may hold names: their heads are taken back
BEGIN;
SELECT count(*), count(outcome), max(outcome) FROM es_try_append_multi((SELECT jsonb_agg(jsonb_build_object('stream', 'bulk-' || i, 'expected_version', 0, 'events', '[{"type": "Booked"}]'::jsonb)) FROM generate_series(1, 200) i)
    || '[{"stream": "seat-1", "expected_version": 1}]');
SELECT count(*), min(outcome), max(outcome) FROM es_try_append_multi((SELECT jsonb_agg(jsonb_build_object('stream', 'bulk-' || i, 'expected_version', 0, 'events', '[{"type": "Booked"}]'::jsonb)) FROM generate_series(1, 100) i));
COMMIT;
SELECT count(*), max(version) FROM event_store.streams WHERE stream LIKE 'bulk-%';
SELECT count(*) FROM event_store.heads WHERE version = 0;

-- in PL/pgSQL, without a block with EXCEPTION
DO $$
DECLARE
    tried record;
    expected bigint = 0;
BEGIN
    LOOP
        SELECT * INTO tried FROM es_try_append('loop-1', expected, '[{"type": "A"}, {"type": "B"}]');
        EXIT WHEN tried.outcome = 'appended' AND tried.version > 4;
        expected = CASE tried.outcome WHEN 'conflict' THEN tried.version ELSE 0 END;
    END LOOP;
    RAISE WARNING 'at version %', tried.version;
END $$;
-- what is no wrong version is an error, as in es_append
SELECT try($$SELECT es_try_append(NULL, 0, 'A', '{}')$$);
SELECT try($$SELECT es_try_append('seat-1', -1, 'A', '{}')$$);
SELECT try($$SELECT es_try_append('seat-1', 0, '', '{}')$$);
SELECT try($$SELECT es_try_append('seat-1', 0, NULL::jsonb)$$);
SELECT try($$SELECT es_try_append_multi(NULL)$$);
SELECT try($$SELECT es_try_append('seat-1', 6, 'A', '[1]', '[1]')$$);
SELECT es_register_event_type('Checked', 1, $$data ? 'n'$$);
SELECT try($$SELECT es_try_append('seat-1', 6, 'Checked', '{}')$$);
SELECT version, outcome FROM es_try_append('seat-1', 1, 'Checked', '{}');
BEGIN TRANSACTION READ ONLY;
SELECT try($$SELECT es_try_append('seat-1', 0, 'A', '{}')$$);
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT version, outcome FROM es_try_append('seat-1', 0, 'A', '{}');
SELECT version, outcome FROM es_try_append('seat-1', 6, 'Booked', '{}');
COMMIT;
SELECT * FROM es_check();
DROP VIEW written;
DROP FUNCTION try;
DROP SCHEMA event_store CASCADE;
