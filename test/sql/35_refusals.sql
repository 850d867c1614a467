-- What a mistyped field, a forgotten argument or a driver sends by mistake is refused, and the hint says what to write instead.
\set VERBOSITY terse
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
CREATE FUNCTION pg_temp.try(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE s text; m text; d text; h text; f text;
BEGIN
    EXECUTE sql;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT, f = PG_EXCEPTION_CONTEXT;
    f := split_part(f, E'\nSQL', 1);
    RETURN concat_ws(E'\n  ', s || ': ' || m, 'detail: ' || nullif(d, ''), 'hint: ' || nullif(h, ''),
        CASE WHEN f NOT LIKE 'SQL%' AND f NOT LIKE 'PL/%' THEN 'context: ' || f END);
END $$;
\t on
\pset format unaligned
SELECT es_create_store();

-- an expected version must be said: NULL is what drivers make of a mistyped field
SELECT pg_temp.try($$SELECT es_append('no-1', NULL, 'T', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('no-1', NULL, '[{"type": "T"}]'::jsonb)$$);
SELECT pg_temp.try($$SELECT es_append('no-1', NULL, '[{"type": "T"}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "no-1"}, {"stream": "no-2", "events": {"type": "T"}}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "no-1", "expected_version": null, "events": {"type": "T"}}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "no-1", "expected_version": null}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "no-1", "expected_version": "Any", "events": {"type": "T"}}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "no-1", "expected_version": "", "events": {"type": "T"}}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "no-1", "expected_version": "12", "events": {"type": "T"}}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "no-1", "expected_version": true, "events": {"type": "T"}}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "no-1", "expected_version": -3, "events": {"type": "T"}}]')$$);
SELECT pg_temp.try($$SELECT es_append_batch('{no-1,no-1}', '{A,B}', '{"{}","{}"}', expected_versions => '{0,NULL}')$$);
-- the constants, and the words of JSON
SELECT es_expect_any(), es_expect_none(), es_expect_exists();
SELECT version FROM es_append('yes-1', es_expect_none(), 'T', '{}');
SELECT version FROM es_append('yes-1', es_expect_exists(), 'T', '{}');
SELECT version FROM es_append('yes-1', es_expect_any(), '{"type": "T"}');
SELECT pg_temp.try($$SELECT es_append('yes-1', es_expect_none(), 'T', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('no-1', es_expect_exists(), 'T', '{}')$$);
SELECT stream, version FROM es_append_multi('[{"stream": "yes-1", "expected_version": "exists", "events": {"type": "T"}},
    {"stream": "yes-2", "expected_version": "none", "events": {"type": "T"}}, {"stream": "yes-3", "expected_version": "any", "events": {"type": "T"}}]');
SELECT stream, version FROM es_append_multi('[{"stream": "yes-1"}, {"stream": "yes-2", "expected_version": "exists"}, {"stream": "no-1", "expected_version": "none"}]');
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "yes-1", "expected_version": "none", "events": {"type": "T"}}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "no-1", "expected_version": "exists", "events": {"type": "T"}}]')$$);
SELECT events FROM es_append_batch('{yes-1,yes-4}', '{A,B}', '{"{}","{}"}', expected_versions => ARRAY[es_expect_exists(), es_expect_none()]);
SELECT events FROM es_append_batch('{yes-1,yes-4}', '{A,B}', '{"{}","{}"}', expected_versions => NULL);
SELECT bool_and(provolatile = 'i' AND proparallel = 's') FROM pg_proc WHERE proname LIKE 'es\_expect\_%';

-- data: an empty payload is said, too; JSON null is a value
SELECT pg_temp.try($$SELECT es_append('no-1', 0, 'T', NULL)$$);
SELECT pg_temp.try($$SELECT es_append(stream => 'no-1', expected_version => 0, event_type => 'T', data => NULL)$$);
SELECT pg_temp.try($$SELECT es_append_batch('{no-1,no-1}', '{A,B}', NULL)$$);
SELECT pg_temp.try($$SELECT es_append_batch('{no-1,no-1}', '{A,B}', ARRAY['{}', NULL]::jsonb[])$$);
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type, data) VALUES ('no-1', 'T', '{}'), ('no-1', 'T', NULL)$$);
SELECT version FROM es_append('data-1', 0, 'T', 'null');
SELECT version FROM es_append('data-1', 1, '[{"type": "T", "data": null}, {"type": "T"}, {"type": "T", "data": {}}]');
SELECT events FROM es_append_batch('{data-1}', '{T}', '{"null"}');
INSERT INTO event_store.import (stream, event_type, data) VALUES ('data-1', 'T', 'null');
INSERT INTO event_store.import (stream, event_type) VALUES ('data-1', 'T');
SELECT version, data, data IS NULL AS erased FROM es_read('data-1');
SELECT es_register_aggregate('data', 'jsonb_build_object(''n'', coalesce((state ->> ''n'')::int, 0) + 1, ''last'', data)');
SELECT state FROM es_load('data-1');
SELECT es_register_aggregate('data', rules => '{"T": {"count": "n"}}');
SELECT state FROM es_load('data-1');

SELECT count(*) FROM event_store.heads WHERE name LIKE 'no-%';
SELECT count(*) FROM es_check('all');
SELECT count(*) FROM es_verify_log();
