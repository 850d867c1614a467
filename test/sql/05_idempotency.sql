-- Idempotent retries: by key, by event ids; other requests under a used key.
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

-- the first result, also when the expected version no longer fits
SELECT version, replayed, position AS p1, recorded_at AS r1 FROM es_append('idem-1', 0, 'Opened', '{"a": 1, "b": 2}', '{"correlation_id": "first"}', idempotency_key => 'k1') \gset
SELECT version FROM es_append('idem-1', 1, 'Changed', '{}');
SELECT version, replayed, position = :p1, recorded_at = :'r1' FROM es_append('idem-1', 0, 'Opened', '{"b": 2, "a": 1}', '{"correlation_id": "second"}', occurred_at => now(), idempotency_key => 'k1');
SELECT version, replayed, position = :p1 FROM es_append('idem-1', -2, 'Opened', '{"a": 1, "b": 2}', idempotency_key => 'k1');
SELECT version, replayed, position = :p1, recorded_at = :'r1' FROM es_find_append('idem-1', 'k1');
SELECT count(*) FROM es_find_append('idem-1', 'k2');
SELECT count(*) FROM es_find_append('idem-none', 'k1');
-- another request: data, type, schema version, number of events
SELECT pg_temp.try($$SELECT es_append('idem-1', -2, 'Opened', '{"a": 1}', idempotency_key => 'k1')$$);
SELECT pg_temp.try($$SELECT es_append('idem-1', -2, 'Reopened', '{"a": 1, "b": 2}', idempotency_key => 'k1')$$);
SELECT pg_temp.try($$SELECT es_append('idem-1', -2, 'Opened', '{"a": 1, "b": 2}', schema_version => 2, idempotency_key => 'k1')$$);
SELECT pg_temp.try($$SELECT es_append('idem-1', -2, '{"events": [{"type": "Opened", "data": {"a": 1, "b": 2}}, {"type": "X"}], "idempotency_key": "k1"}')$$);
-- a key belongs to its stream
SELECT version, replayed FROM es_append('idem-2', 0, 'Opened', '{}', idempotency_key => 'k1');
-- several events in an envelope
SELECT version, replayed FROM es_append('idem-2', 1, '{"events": [{"type": "A"}, {"type": "B"}], "idempotency_key": "k2"}');
SELECT version, replayed FROM es_append('idem-2', 1, '{"events": [{"type": "A", "metadata": {"try": 2}}, {"type": "B"}], "idempotency_key": "k2"}');
SELECT es_stream_version('idem-1'), es_stream_version('idem-2');
-- a key of a rolled back append is free
BEGIN;
SELECT version FROM es_append('idem-3', 0, 'A', '{}', idempotency_key => 'k');
SAVEPOINT s;
SELECT version, replayed FROM es_append('idem-3', 0, 'A', '{}', idempotency_key => 'k');
SELECT version, replayed FROM es_append('idem-3', 1, 'B', '{}', idempotency_key => 'k-b');
ROLLBACK TO s;
SELECT version, replayed FROM es_append('idem-3', 1, 'Other', '{}', idempotency_key => 'k-b');
ROLLBACK;
SELECT version, replayed FROM es_append('idem-3', 0, 'Other', '{}', idempotency_key => 'k');

-- event ids, types and data sent again with the exact version they first had
SELECT version, replayed, position AS p2 FROM es_append('ids-1', 0, '[{"type": "A", "id": "00000000-0000-7000-8000-000000000001", "data": {"x": 1}}, {"type": "B", "id": "00000000-0000-7000-8000-000000000002"}]') \gset
SELECT version FROM es_append('ids-1', 2, 'C', '{}');
SELECT version, replayed, position = :p2 FROM es_append('ids-1', 0, '[{"type": "A", "id": "00000000-0000-7000-8000-000000000001", "data": {"x": 1}, "metadata": {"retry": true}}, {"type": "B", "id": "00000000-0000-7000-8000-000000000002"}]');
SELECT version, replayed FROM es_append('ids-1', 1, 'B', '{}', event_id => '00000000-0000-7000-8000-000000000002');
SELECT pg_temp.try($$SELECT es_append('ids-1', 1, 'B', '{"other": 1}', event_id => '00000000-0000-7000-8000-000000000002')$$);
SELECT pg_temp.try($$SELECT es_append('ids-1', 1, 'Z', '{}', event_id => '00000000-0000-7000-8000-000000000002')$$);
SELECT pg_temp.try($$SELECT es_append('ids-1', 0, 'B', '{}', event_id => '00000000-0000-7000-8000-000000000002')$$);
SELECT pg_temp.try($$SELECT es_append('ids-1', 0, '[{"type": "A", "id": "00000000-0000-7000-8000-000000000001", "data": {"x": 1}}, {"type": "B"}]')$$);
SELECT pg_temp.try($$SELECT es_append('ids-1', 2, '[{"type": "C", "id": "00000000-0000-7000-8000-000000000003"}, {"type": "D", "id": "00000000-0000-7000-8000-000000000004"}]')$$);
-- without an exact version ids are not compared, and are not unique
SELECT version, replayed FROM es_append('ids-1', -2, 'B', '{}', event_id => '00000000-0000-7000-8000-000000000002');

-- several streams: all replay or none
SELECT stream, version, replayed FROM es_append_multi('[{"stream": "im-1", "expected_version": "any", "events": {"type": "A"}, "idempotency_key": "m"}, {"stream": "im-2", "expected_version": 0, "events": [{"type": "B"}, {"type": "C"}], "idempotency_key": "m"}, {"stream": "im-3"}]');
SELECT version FROM es_append('im-3', 0, 'X', '{}');
SELECT stream, version, replayed FROM es_append_multi('[{"stream": "im-1", "expected_version": "any", "events": {"type": "A"}, "idempotency_key": "m"}, {"stream": "im-2", "expected_version": 0, "events": [{"type": "B"}, {"type": "C"}], "idempotency_key": "m"}, {"stream": "im-3"}]');
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "im-1", "expected_version": "any", "events": {"type": "A"}, "idempotency_key": "m"}, {"stream": "im-2", "expected_version": "any", "events": {"type": "D"}, "idempotency_key": "new"}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "im-1", "expected_version": "any", "events": {"type": "A"}, "idempotency_key": "m"}, {"stream": "im-9", "expected_version": "any", "events": {"type": "D"}, "idempotency_key": "new"}]')$$);
SELECT es_stream_version('im-1'), es_stream_version('im-2'), es_stream_version('im-9');
-- also when a stream whose version was only checked has gone on; what is new is still refused
SELECT stream, version, replayed FROM es_append_multi('[{"stream": "im-1", "expected_version": "any", "events": {"type": "A"}, "idempotency_key": "n"}, {"stream": "im-3", "expected_version": 1}]');
SELECT version FROM es_append('im-3', 1, 'Y', '{}');
SELECT stream, version, replayed FROM es_append_multi('[{"stream": "im-1", "expected_version": "any", "events": {"type": "A"}, "idempotency_key": "n"}, {"stream": "im-3", "expected_version": 1}]');
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "im-1", "expected_version": "any", "events": {"type": "B"}, "idempotency_key": "n"}, {"stream": "im-3", "expected_version": 1}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "im-1", "expected_version": "any", "events": {"type": "A"}, "idempotency_key": "o"}, {"stream": "im-3", "expected_version": 1}]')$$);

-- batches have keys of their own
SELECT events, replayed, first_position AS f, last_position AS l FROM es_append_batch('{ib-1,ib-2,ib-1}', '{A,B,C}', '{"{}","{}","{}"}', idempotency_key => 'b1') \gset
SELECT events, replayed, first_position = :f, last_position = :l FROM es_append_batch('{ib-1,ib-2,ib-1}', '{A,B,C}', '{"{}","{}","{}"}', metadata => ARRAY['{"retry": 1}', NULL, NULL]::jsonb[], idempotency_key => 'b1');
SELECT pg_temp.try($$SELECT es_append_batch('{ib-1,ib-1,ib-2}', '{A,B,C}', '{"{}","{}","{}"}', idempotency_key => 'b1')$$);
SELECT pg_temp.try($$SELECT es_append_batch('{ib-1,ib-2,ib-1}', '{A,B,D}', '{"{}","{}","{}"}', idempotency_key => 'b1')$$);
-- and retry by ids too
SELECT events, replayed FROM es_append_batch('{ic-1,ic-2,ic-1}', '{A,B,C}', '{"{}","{}","{}"}', expected_versions => '{0,0,0}',
    event_ids => '{00000000-0000-7000-8000-00000000000a,00000000-0000-7000-8000-00000000000b,00000000-0000-7000-8000-00000000000c}');
SELECT events, replayed, last_position - first_position FROM es_append_batch('{ic-1,ic-2,ic-1}', '{A,B,C}', '{"{}","{}","{}"}', expected_versions => '{0,0,0}',
    event_ids => '{00000000-0000-7000-8000-00000000000a,00000000-0000-7000-8000-00000000000b,00000000-0000-7000-8000-00000000000c}');
SELECT es_stream_version('ib-1'), es_stream_version('ib-2'), es_stream_version('ic-1'), es_stream_version('ic-2');

-- keys are kept for ever unless told otherwise
SHOW event_store.idempotency_retention;
BEGIN;
ALTER TABLE event_store.append_keys DISABLE TRIGGER USER;
UPDATE event_store.append_keys SET recorded_at = recorded_at - interval '2 days' WHERE key = 'k1';
SELECT replayed FROM es_append('idem-2', -2, 'Opened', '{}', idempotency_key => 'k1');
SET LOCAL event_store.idempotency_retention = '1d';
SELECT count(*) FROM es_find_append('idem-2', 'k1');
SELECT version, replayed FROM es_append('idem-2', -2, 'Anew', '{}', idempotency_key => 'k1');
SELECT version, replayed FROM es_append('idem-2', -2, 'Anew', '{}', idempotency_key => 'k1');
ROLLBACK;
