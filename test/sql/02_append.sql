-- es_append: expected versions, forms, defaults.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; h text; s text; c text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
    RETURN s || ': ' || m || E'\n  detail: ' || d || E'\n  hint: ' || h;
END $$;
\t on
\pset format unaligned
SELECT es_create_store();
SELECT count(*) AS events_before FROM event_store.events \gset

-- expected versions
SELECT version, replayed FROM es_append('account-1', 0, 'Opened', '{"owner": "ann"}');
SELECT version, replayed FROM es_append('account-1', 1, 'Deposited', '{"amount": 10}');
SELECT version, replayed FROM es_append('account-1', -2, 'Deposited', '{"amount": 20}');
SELECT version, replayed FROM es_append('account-1', -2, 'Deposited', '{"amount": 30}');
SELECT version, replayed FROM es_append('account-1', -4, 'Deposited', '{"amount": 40}');
SELECT pg_temp.try($$SELECT es_append('account-1', 0, 'Opened', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('account-1', 4, 'Deposited', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('account-1', 6, 'Deposited', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('account-1', 9223372036854775807, 'Deposited', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('account-2', -4, 'Deposited', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('account-2', 1, 'Deposited', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('account-1', -1, 'Deposited', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('account-1', -3, 'Deposited', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('account-1', -5, 'Deposited', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('account-1', -9223372036854775808, 'Deposited', '{}')$$);

-- a refused append burns no position and leaves nothing
SELECT position AS p1 FROM es_append('account-1', -2, 'Deposited', '{}') \gset
SELECT pg_temp.try($$SELECT es_append('account-1', 0, 'Opened', '{}')$$) LIKE 'YE001%';
SELECT pg_temp.try($$SELECT es_append('account-9', 5, 'Opened', '{}')$$) LIKE 'YE001%';
SELECT position = :p1 + 1 AS next_position FROM es_append('account-1', -2, 'Deposited', '{}');
SELECT es_stream_version('account-1'), es_stream_version('account-2'), es_stream_version('account-9');

-- several events in one call
SELECT version, replayed FROM es_append('order-1', 0, '[{"type": "OrderPlaced", "data": {"total": 10}}, {"type": "PaymentReceived"}]');
SELECT version, replayed FROM es_append('order-1', 2, '{"type": "OrderShipped", "data": null, "metadata": null, "id": null, "occurred_at": null, "schema_version": null}');
SELECT version, replayed FROM es_append('order-1', 3, '{"events": [{"type": "Refunded", "id": "01890a5d-ac96-774b-bcce-b302099a8057", "occurred_at": "2024-02-29T12:00:00Z", "schema_version": 3, "metadata": {"user_id": "u1"}}]}');
SELECT version, replayed FROM es_append('order-1', 4, '[{"type": "Closed"}]'::jsonb);
SELECT version, event_type, schema_version, data, metadata,
    CASE WHEN event_id = '01890a5d-ac96-774b-bcce-b302099a8057' THEN 'given' END AS id,
    CASE WHEN occurred_at = recorded_at THEN 'when recorded' ELSE (occurred_at AT TIME ZONE 'UTC')::text END AS occurred
FROM es_read('order-1');

-- all arguments of the first form, by name and by place
SELECT version FROM es_append('order-2', 0, 'OrderPlaced', '{"total": 1}', '{"correlation_id": "c-1"}',
    '01890a5d-ac96-774b-bcce-b302099a8058', '2024-01-01 00:00+00', 2, 'key-1');
SELECT version FROM es_append(stream => 'order-2', expected_version => 1, event_type => 'OrderShipped', data => '{}',
    schema_version => 5, occurred_at => '1999-12-31 23:59:59.999999+00');
SELECT version, event_type, schema_version, metadata, occurred_at AT TIME ZONE 'UTC' FROM es_read('order-2');

-- without a category part, with odd characters, and a stream that is its category
SELECT version FROM es_append('settings', 0, 'Set', '[1, 2]');
SELECT version FROM es_append('a b-ü 漢字-"x"', 0, 'It''s ☃', '"text"');
SELECT stream, category, event_type, data FROM es_read('a b-ü 漢字-"x"');
SELECT stream, category, event_type, data FROM es_read('settings');

-- ids are version 7 UUIDs that grow; recorded_at grows within a stream
SELECT count(*) FROM es_append_batch(array_fill('many-1'::text, ARRAY[500]), array_fill('T'::text, ARRAY[500]), array_fill('{}'::jsonb, ARRAY[500]));
SELECT version FROM es_append('many-1', 500, 'T', '{}');
SELECT bool_and(substr(event_id::text, 15, 1) = '7' AND substr(event_id::text, 20, 1) IN ('8', '9', 'a', 'b')),
    count(DISTINCT event_id), bool_and(grows) FROM (SELECT *, event_id > lag(event_id, 1, '00000000-0000-0000-0000-000000000000') OVER (ORDER BY version) AS grows FROM es_read('many-1')) e;
SELECT bool_and(recorded_at >= before AND position > p) FROM (
    SELECT recorded_at, position, lag(recorded_at, 1, '-infinity') OVER w AS before, lag(position, 1, 0::bigint) OVER w AS p FROM es_read('many-1') WINDOW w AS (ORDER BY version)) e;

-- several appends in one statement, and in one transaction with savepoints
SELECT version FROM generate_series(1, 3) i, LATERAL es_append('loop-1', i - 1, 'T', to_jsonb(i));
BEGIN;
SELECT version FROM es_append('tx-1', 0, 'A', '{}');
SAVEPOINT s;
SELECT version FROM es_append('tx-1', 1, 'Rolled', '{}');
SELECT version FROM es_append('txnew-1', 0, 'RolledNewType', '{}');
ROLLBACK TO s;
SELECT es_stream_version('tx-1'), es_stream_version('txnew-1');
SELECT version FROM es_append('tx-1', 1, 'B', '{}');
SELECT version FROM es_append('txnew-1', 0, 'RolledNewType', '{}');
COMMIT;
SELECT version, event_type FROM es_read('tx-1');
SELECT version, event_type, category FROM es_read('txnew-1');

-- caught in a block, the transaction goes on
DO $$
BEGIN
    BEGIN
        PERFORM es_append('tx-1', 0, 'Never', '{}');
    EXCEPTION WHEN SQLSTATE 'YE001' THEN
        RAISE NOTICE 'conflict caught';
    END;
    PERFORM es_append('tx-1', 2, 'C', '{}');
END $$;
SELECT es_stream_version('tx-1');

-- the metadata setting lies under an append's own
BEGIN;
SET LOCAL event_store.metadata = '{"tenant_id": "t1", "user_id": "setting"}';
SELECT version FROM es_append('meta-1', 0, 'A', '{}');
SELECT version FROM es_append('meta-1', 1, 'B', '{}', '{"user_id": "own"}');
SELECT version FROM es_append('meta-1', 2, '[{"type": "C", "metadata": {"x": 1}}]');
COMMIT;
SELECT version FROM es_append('meta-1', 3, 'D', '{}');
SELECT version, metadata FROM es_read('meta-1');
SET event_store.metadata = '[1]';
SELECT pg_temp.try($$SELECT es_append('meta-1', 4, 'E', '{}')$$);
SET event_store.metadata = '{';
SELECT pg_temp.try($$SELECT es_append('meta-1', 4, 'E', '{}')$$);
RESET event_store.metadata;

-- read only transactions
BEGIN READ ONLY;
SELECT es_append('meta-1', 4, 'E', '{}');
ROLLBACK;
BEGIN READ ONLY;
SELECT es_publish_mark();
ROLLBACK;
SELECT es_stream_version('meta-1');

-- what is stored: dense versions, whole calls, heads that agree
SELECT bool_and(l.version = l.n) FROM (SELECT version, row_number() OVER (PARTITION BY stream ORDER BY position) AS n FROM event_store.log) l;
SELECT count(*) FROM event_store.streams s WHERE (s.version, s.first_position, s.last_position, s.created_at, s.recorded_at) IS DISTINCT FROM
    (SELECT (max(e.version), min(e.position), max(e.position), min(e.recorded_at), max(e.recorded_at)) FROM event_store.events e WHERE e.stream = s.stream);
SELECT l.version, l.rest FROM event_store.log l JOIN event_store.heads h ON h.id = l.stream WHERE h.name = 'order-1' ORDER BY 1;
SELECT count(*) FROM event_store.log WHERE salt IS NULL;
SELECT count(*), count(DISTINCT digest), bool_and(length(digest) = 32) FROM event_store.heads WHERE version > 0 HAVING count(*) <> count(DISTINCT digest);
