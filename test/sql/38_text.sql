-- Appends for drivers that send JSON, ids and times as text; and who wrote an event, as the server knows it.
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
CREATE FUNCTION pg_temp.try(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE s text; m text; d text; h text; f text;
BEGIN
    EXECUTE sql;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT, f = PG_EXCEPTION_CONTEXT;
    RETURN concat_ws(E'\n  ', s || ': ' || m, 'hint: ' || nullif(h, ''), substring(f FROM 'argument [a-z_]+'), substring(f FROM 'index \d+ of the arrays'));
END $$;
\t on
\pset format unaligned
SELECT es_create_store();

SELECT version, replayed FROM es_append_text('a-1'::varchar, 0, 'T'::varchar, '{"a": 1}'::varchar);
SELECT version, replayed FROM es_append_text('a-1', 1, 'T'::text, '{"a": 2}'::text, '{"user_id": "ann"}'::text, '01890a5d-ac96-774b-bcce-b302099a8057'::text,
    '2026-01-02T10:00:00+01:00'::text, 3, 'key'::text);
SELECT version, replayed FROM es_append_text('a-1', 1, 'T', '{"a": 2}', schema_version => 3, idempotency_key => 'key');
SELECT version FROM es_append_text('a-1', 2, '[{"type": "T"}, {"type": "T", "data": {"a": 4}}]'::text);
SELECT stream, version FROM es_append_multi_text('[{"stream": "a-1", "expected_version": 4, "events": {"type": "T"}}, {"stream": "a-2", "expected_version": "none", "events": {"type": "T"}}]'::varchar);
SELECT events FROM es_append_batch_text('{a-1,a-3}'::text[], '{T,T}'::text[], ARRAY['{"a": 6}', 'null']::text[], ARRAY[NULL, '{"m": 1}']::text[],
    ARRAY['01890a5d-ac96-774b-bcce-b302099a8058', NULL]::text[], ARRAY['2026-01-02T10:00:00Z', NULL]::text[], '{5,0}', '{NULL,2}', 'batch');
SELECT stream, version, data, metadata, CASE WHEN event_id::text LIKE '01890a5d-ac96-774b-bcce-b302099a%' THEN event_id END, schema_version,
    CASE WHEN occurred_at < '2026-02-01' THEN occurred_at AT TIME ZONE 'UTC' END FROM event_store.events ORDER BY position;

-- wrong ones
SELECT pg_temp.try($$SELECT es_append_text('a-1', 6, 'T', '{"a": 1')$$);
SELECT pg_temp.try($$SELECT es_append_text('a-1', 6, 'T', NULL)$$);
SELECT pg_temp.try($$SELECT es_append_text('a-1', NULL, 'T', '{}')$$);
SELECT pg_temp.try($$SELECT es_append_text('a-1', 6, 'T', '{}', '{')$$);
SELECT pg_temp.try($$SELECT es_append_text('a-1', 6, 'T', '{}', '[]')$$);
SELECT pg_temp.try($$SELECT es_append_text('a-1', 6, 'T', '{}', event_id => 'x')$$);
SELECT pg_temp.try($$SELECT es_append_text('a-1', 6, 'T', '{}', occurred_at => '2026-01-02T10:00:00')$$);
SELECT pg_temp.try($$SELECT es_append_text('a-1', 6, 'T', '"{\"a\": 1}"')$$);
SELECT pg_temp.try($$SELECT es_append_text('a-1', 6, 'T')$$);
SELECT pg_temp.try($$SELECT es_append_multi_text(NULL)$$);
SELECT pg_temp.try($$SELECT es_append_multi_text('[{')$$);
SELECT pg_temp.try($$SELECT es_append_batch_text('{a-1,a-1}', '{T,T}', ARRAY['{}', NULL])$$);
SELECT pg_temp.try($$SELECT es_append_batch_text('{a-1,a-1}', '{T,T}', ARRAY['{}', '{'])$$);
SELECT pg_temp.try($$SELECT es_append_batch_text('{a-1}', '{T}', '{"{}"}', event_ids => '{x}')$$);
SELECT pg_temp.try($$SELECT es_append_batch_text('{a-1}', '{T}', '{"{}"}', occurred_at => '{now}')$$);

-- what drivers that ask the server for the types of their parameters are told
PREPARE one AS SELECT es_append($1, $2, $3, $4);
PREPARE all_of_one AS SELECT es_append($1, $2, $3, $4, $5, $6, $7, $8, $9);
PREPARE named AS SELECT es_append(stream => $1, expected_version => $2, event_type => $3, data => $4, metadata => $5);
PREPARE events AS SELECT es_append($1, $2, $3);
PREPARE multi AS SELECT es_append_multi($1);
PREPARE batch AS SELECT es_append_batch($1, $2, $3, $4);
PREPARE one_text AS SELECT es_append_text($1, $2, $3, $4);
PREPARE events_text AS SELECT es_append_text($1, $2, $3);
SELECT name, parameter_types FROM pg_prepared_statements WHERE statement LIKE '%es\_append%' ORDER BY prepare_time;
DEALLOCATE ALL;

-- who wrote an event, as the server knows it
SELECT pg_temp.try($$SET event_store.stamp = 'session_user, password'$$);
SELECT pg_temp.try($$SET event_store.stamp = ','$$);
CREATE ROLE es_test_stamped;
SELECT es_grant('es_test_stamped', 'append'), es_grant('es_test_stamped', 'import'), es_grant('es_test_stamped', 'read');
SET event_store.stamp = 'session_user, application_name, client_addr';
SET application_name = 'a "test"';
SET ROLE es_test_stamped;
SELECT pg_temp.try($$SET event_store.stamp = ''$$);
SELECT version FROM es_append('by-1', 0, 'T', '{}');
SELECT version FROM es_append('by-1', 1, 'T', '{}', metadata => '{"user_id": "ceo"}');
SELECT pg_temp.try($$SELECT es_append('by-1', 2, 'T', '{}', metadata => '{"$by": {"session_user": "ceo"}}')$$);
BEGIN;
SET LOCAL event_store.metadata = '{"user_id": "ann", "reason": "why"}';
SELECT version FROM es_append('by-1', 2, '[{"type": "T"}, {"type": "T", "metadata": {"user_id": "bob"}}]');
INSERT INTO event_store.import (stream, event_type) VALUES ('by-1', 'T');
COMMIT;
RESET ROLE;
SET event_store.stamp = 'session_user';
SELECT version FROM es_append('by-1', 5, 'T', '{}', idempotency_key => 'k');
SET event_store.stamp = '';
-- a retry is one, whoever the server says it comes from
SELECT version, replayed FROM es_append('by-1', 5, 'T', '{}', idempotency_key => 'k');
SELECT version FROM es_append('by-1', 6, 'T', '{}');
SELECT version, metadata - '$by' AS others, metadata -> '$by' ->> 'session_user' = session_user AS me, metadata -> '$by' ->> 'application_name' AS app,
    (metadata -> '$by' ->> 'client_addr') IS NOT DISTINCT FROM host(inet_client_addr()) AS address, (SELECT string_agg(k, ' ') FROM jsonb_object_keys(metadata -> '$by') k) AS keys
FROM es_read('by-1');
SELECT count(*) FROM es_check('all');
-- constants, in more than one row
SELECT (es_append_text('row-' || g, 0, 'T', '{"a": 1}', '{"b": 2}', NULL, '2026-01-02T10:00:00Z')).version FROM generate_series(1, 3) g;
SELECT data, metadata - '$by' AS metadata, occurred_at = '2026-01-02T10:00:00Z' AS at FROM es_read_category('row');
RESET application_name;
SELECT es_revoke('es_test_stamped', 'append'), es_revoke('es_test_stamped', 'import'), es_revoke('es_test_stamped', 'read');
DROP OWNED BY es_test_stamped;
DROP ROLE es_test_stamped;
