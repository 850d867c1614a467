-- A read of a stream opens the partitions that it needs, however many the stream is in. Counted in locks and in pages, which
-- are the same on any machine.
\set ON_ERROR_STOP on
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
SET event_store.partition_size = 100;
-- whoever makes the store makes its partitions too, and needs no worker for each
BEGIN;
SELECT es_create_store();
-- 'wide-1' has one event in each of 61 partitions, 'gap-1' three, far apart; all of 'late-1' is in the last one
SELECT sum(version) FROM (SELECT (es_append('wide-1', i, 'Added', '{"n": 1}')).version,
    CASE WHEN i IN (10, 45) THEN es_append('gap-1', -2, 'Added', '{"n": 1}') END,
    es_append_batch(array_fill('fill-1'::text, ARRAY[CASE WHEN i IN (10, 45) THEN 98 ELSE 99 END]),
        array_fill('Filled'::text, ARRAY[CASE WHEN i IN (10, 45) THEN 98 ELSE 99 END]), array_fill('{}'::jsonb, ARRAY[CASE WHEN i IN (10, 45) THEN 98 ELSE 99 END]))
    FROM generate_series(0, 59) i) s;
COMMIT;
SELECT count(es_append('late-1', i, 'Added', '{"n": 1}')) FROM generate_series(0, 58) i;
SELECT es_register_aggregate('wide', 'jsonb_build_object(''n'', (state->>''n'')::int + 1)', initial_state => '{"n": 0}'),
    es_register_aggregate('late', 'jsonb_build_object(''n'', (state->>''n'')::int + 1)', initial_state => '{"n": 0}'),
    es_register_aggregate('gap', 'jsonb_build_object(''n'', (state->>''n'')::int + 1)', initial_state => '{"n": 0}');
SELECT es_snapshot('wide-1'), es_snapshot('late-1');
SELECT version FROM es_append('wide-1', 60, 'Added', '{"n": 1}');
SELECT version FROM es_append('gap-1', 2, 'Added', '{"n": 1}');
SELECT version FROM es_append('late-1', 59, 'Added', '{"n": 1}');
SELECT count(DISTINCT position / 100) FROM es_read('wide-1');

-- how many partitions and their indexes are locked after a statement, in a transaction of its own, and what it returned
CREATE FUNCTION locks(statement text, OUT result text, OUT relations bigint) LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement INTO result;
    SELECT count(*) INTO relations FROM pg_locks
    WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation::regclass::text LIKE 'event\_store.log\_%' AND
        relation <> 'event_store.log_partitions'::regclass;
END $$;
-- how many pages it visits
CREATE FUNCTION pages(statement text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    plan jsonb;
BEGIN
    EXECUTE statement;
    EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ' || statement INTO plan;
    RETURN (plan->0->'Plan'->>'Shared Hit Blocks')::bigint + (plan->0->'Plan'->>'Shared Read Blocks')::bigint;
END $$;

-- with a snapshot, the one partition after it
SELECT * FROM locks($$SELECT state FROM es_load('late-1')$$);
SELECT * FROM locks($$SELECT state FROM es_load('wide-1')$$);
SELECT * FROM locks($$SELECT state FROM es_load_version('wide-1', 61)$$);
SELECT * FROM locks($$SELECT count(*) FROM es_history('wide-1', 61)$$);
-- a version of the past ends at its partition
SELECT * FROM locks($$SELECT state FROM es_load_version('gap-1', 1)$$);
SELECT * FROM locks($$SELECT state FROM es_load_version('wide-1', 3)$$);
-- reads find their partition, from either end and in the middle
SELECT * FROM locks($$SELECT string_agg(version::text, ' ') FROM es_read('wide-1', 61)$$);
SELECT * FROM locks($$SELECT string_agg(version::text, ' ') FROM es_read('wide-1', 59)$$);
SELECT * FROM locks($$SELECT string_agg(version::text, ' ') FROM es_read('wide-1', 31, 1)$$);
SELECT * FROM locks($$SELECT string_agg(version::text, ' ') FROM es_read('wide-1', 31, 2, true)$$);
SELECT * FROM locks($$SELECT string_agg(version::text, ' ') FROM es_read('wide-1', 1, 2)$$);
SELECT * FROM locks($$SELECT string_agg(version::text, ' ') FROM es_read('wide-1', 2, 2, true)$$);
SELECT * FROM locks($$SELECT string_agg(version::text, ' ') FROM es_read('gap-1', 2, 1)$$);
SELECT * FROM locks($$SELECT string_agg(version::text, ' ') FROM es_read('gap-1', 2, 1, true)$$);
SELECT * FROM locks($$SELECT string_agg(version::text, ' ') FROM es_read('gap-1', 3)$$);
-- every version is found, whatever partitions have none of the stream
SELECT count(*) FROM generate_series(1, 61) v, LATERAL es_read('wide-1', v, 1) r WHERE r.version = v;
SELECT count(*) FROM generate_series(1, 61) v, LATERAL es_read('wide-1', v, 1, true) r WHERE r.version = v;
SELECT string_agg(r.version || ' ' || r.position / 100, ', ') FROM generate_series(1, 3) v, LATERAL es_read('gap-1', v, 1) r;
-- a retry by event ids
SELECT version, replayed FROM es_append('late-1', 60, '[{"type": "Added", "id": "00000000-0000-4000-8000-000000000001"}]');
SELECT * FROM locks($$SELECT version FROM es_append('wide-1', 61, '[{"type": "Added", "id": "00000000-0000-4000-8000-000000000002"}]')$$);
SELECT * FROM locks($$SELECT version FROM es_append('wide-1', 61, '[{"type": "Added", "id": "00000000-0000-4000-8000-000000000002"}]')$$);

-- pages: 61 partitions against one
SELECT pages($$SELECT state FROM es_load('wide-1')$$) <= 1.5 * pages($$SELECT state FROM es_load('late-1')$$);
SELECT pages($$SELECT count(*) FROM es_read('wide-1', 62)$$) <= 1.5 * pages($$SELECT count(*) FROM es_read('late-1', 60)$$);
SELECT pages($$SELECT count(*) FROM es_read('wide-1', 62, 1, true)$$) <= 1.5 * pages($$SELECT count(*) FROM es_read('late-1', 60, 1, true)$$);
SELECT count(*) FROM es_check();
DROP FUNCTION locks, pages;
DROP SCHEMA event_store CASCADE;
