-- es_append_multi and es_append_batch.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; s text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL;
    RETURN s || ': ' || m || E'\n  detail: ' || d;
END $$;
\t on
\pset format unaligned
SELECT es_create_store();

-- one stamp and one call across the streams; a result row an element, in its order
SELECT stream, version, position IS NOT NULL AS has_position, replayed FROM es_append_multi('[
    {"stream": "wallet-b", "expected_version": 0, "events": [{"type": "Opened"}, {"type": "Credited", "data": {"amount": 5}}]},
    {"stream": "wallet-a", "expected_version": 0, "events": {"type": "Opened"}},
    {"stream": "wallet-c"}]');
SELECT count(DISTINCT l.recorded_at), count(DISTINCT l.position + l.rest), count(*) FROM event_store.log l JOIN event_store.heads h ON h.id = l.stream WHERE h.name LIKE 'wallet-%';
-- checks alone, in order and against the truth
SELECT stream, version, position IS NOT NULL AS has_position FROM es_append_multi('[{"stream": "wallet-b", "expected_version": 2}, {"stream": "wallet-a", "expected_version": -4}, {"stream": "wallet-z", "expected_version": 0}]');
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "wallet-b", "expected_version": 1}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "wallet-z", "expected_version": -4}]')$$);
-- every element that does not fit is named, of many the first ten
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "wallet-b", "expected_version": 1}, {"stream": "wallet-c"}, {"stream": "wallet-a", "expected_version": 1}, {"stream": "wallet-z", "expected_version": "exists"}, {"stream": "wallet-y", "expected_version": 3, "events": {"type": "T"}}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi((SELECT jsonb_agg(jsonb_build_object('stream', 'wallet-n' || i, 'expected_version', 3)) FROM generate_series(1, 12) i))$$);
SELECT pg_temp.try($$SELECT es_append_batch('{wallet-a,wallet-b,wallet-c}', '{T,T,T}', '{"{}","{}","{}"}', expected_versions => '{0,0,0}')$$);
-- all or nothing: the second element's check fails the first's events
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "wallet-a", "expected_version": "any", "events": {"type": "Debited"}}, {"stream": "wallet-b", "expected_version": 7, "events": {"type": "Credited"}}]')$$);
SELECT es_stream_version('wallet-a'), es_stream_version('wallet-b'), es_stream_version('wallet-z');
-- one stream twice: the expectation counts at the first
SELECT stream, version FROM es_append_multi('[{"stream": "wallet-a", "expected_version": 1, "events": {"type": "Debited"}}, {"stream": "wallet-b", "expected_version": "any", "events": {"type": "Credited"}}, {"stream": "wallet-a", "expected_version": "any", "events": {"type": "Closed"}}]');
SELECT version, event_type FROM es_read('wallet-a');
-- a stream that was only checked is not listed
SELECT stream FROM event_store.streams WHERE stream LIKE 'wallet-%' ORDER BY 1;

SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "wallet-a", "expected_version": "any", "events": {"type": "A"}, "idempotency_key": "k"}, {"stream": "wallet-a", "expected_version": "any", "events": {"type": "A"}, "idempotency_key": "k"}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "wallet-a", "expected_version": "any", "events": {}}]')$$);
SELECT stream, version FROM es_append_multi('[{"stream": "wallet-a", "expected_version": "any", "events": []}]');
-- batches: order kept within a stream
SELECT events, last_position - first_position + 1 AS positions, replayed FROM es_append_batch(
    ARRAY['bat-1', 'bat-2', 'bat-1', 'bat-3', 'bat-1'], ARRAY['A', 'B', 'C', 'D', 'E'],
    ARRAY['{"n": 1}', '{}', '{"n": 3}', 'null', '{"n": 5}']::jsonb[],
    metadata => ARRAY[NULL, '{"m": 1}', NULL, NULL, NULL]::jsonb[],
    occurred_at => ARRAY['2020-01-01 00:00+00', NULL, NULL, NULL, NULL]::timestamptz[],
    schema_versions => ARRAY[NULL, 2, NULL, NULL, NULL]::int[],
    event_ids => ARRAY[NULL, '01890a5d-ac96-774b-bcce-b302099a8057', NULL, NULL, NULL]::uuid[]);
SELECT stream, version, event_type, data, metadata, schema_version, occurred_at = recorded_at AS occurred_when_recorded
FROM event_store.events WHERE stream LIKE 'bat-%' ORDER BY position;
-- arrays that are left out may be NULL
SELECT events FROM es_append_batch('{bat-1}', '{F}', '{"{}"}', NULL, NULL, NULL, NULL, NULL, NULL);
-- expected versions count at the first event of a stream
SELECT events FROM es_append_batch('{bat-1,bat-4,bat-1,bat-4}', '{G,G,H,H}', '{"{}","{}","{}","{}"}', expected_versions => '{4,0,99,99}');
SELECT pg_temp.try($$SELECT es_append_batch('{bat-1,bat-4}', '{I,I}', '{"{}","{}"}', expected_versions => '{6,1}')$$);
SELECT es_stream_version('bat-1'), es_stream_version('bat-4');
-- untyped literals, as a driver sends them
SELECT events FROM es_append_batch('{bat-5}', '{A}', '{"{}"}');

-- many streams and many events in one call
SELECT events FROM es_append_batch((SELECT array_agg('swarm-' || i) FROM generate_series(1, 20000) i),
    (SELECT array_agg('T' || i % 3) FROM generate_series(1, 20000) i), array_fill('{}'::jsonb, '{20000}'));
SELECT events FROM es_append_batch((SELECT array_agg('swarm-' || i) FROM generate_series(20000, 1, -1) i),
    (SELECT array_agg('T' || i % 3) FROM generate_series(1, 20000) i), array_fill('{}'::jsonb, '{20000}'));
SELECT count(*), min(version), max(version) FROM event_store.streams WHERE stream LIKE 'swarm-%';
SELECT count(*), count(DISTINCT position + rest) FROM event_store.log l JOIN event_store.heads h ON h.id = l.stream WHERE h.name LIKE 'swarm-%';
-- many new categories and types at once
SELECT events FROM es_append_batch((SELECT array_agg('cat' || i || '-1') FROM generate_series(300, 1, -1) i),
    (SELECT array_agg('Type' || i) FROM generate_series(1, 300) i), array_fill('{}'::jsonb, '{300}'));
SELECT count(*), count(DISTINCT category) FROM event_store.streams WHERE stream ~ '^cat\d+-1$';
