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

-- a bare UUID as the name of a new stream: each would be of a category of its own
SELECT pg_temp.try($$SELECT es_append('5f0c6b1e-9df2-4d55-a7c2-0d6b7f4d3c11', 0, 'T', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('5F0C6B1E-9DF2-4D55-A7C2-0D6B7F4D3C11', -2, '{"type": "T"}')$$);
SELECT pg_temp.try($$SELECT es_append('5f0c6b1e9df24d55a7c20d6b7f4d3c11', -2, 'T', '{}')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "no-1", "expected_version": 0, "events": {"type": "T"}}, {"stream": "5f0c6b1e-9df2-4d55-a7c2-0d6b7f4d3c11", "expected_version": 0, "events": {"type": "T"}}]')$$);
SELECT pg_temp.try($$SELECT es_append_batch('{5f0c6b1e-9df2-4d55-a7c2-0d6b7f4d3c11}', '{T}', '{"{}"}')$$);
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type) VALUES ('5f0c6b1e-9df2-4d55-a7c2-0d6b7f4d3c11', 'T')$$);
-- one that is no UUID, one behind a category, a question, and on demand
SELECT version FROM es_append('5f0c6b1e-9df2-4d55-a7c2-0d6b7f4d3c1x', 0, 'T', '{}');
SELECT version FROM es_append('uuid-5f0c6b1e-9df2-4d55-a7c2-0d6b7f4d3c11', 0, 'T', '{}');
SELECT version FROM es_append_multi('[{"stream": "5f0c6b1e-9df2-4d55-a7c2-0d6b7f4d3c11", "expected_version": "none"}]');
SET event_store.bare_uuid_streams = on;
SELECT version FROM es_append('5f0c6b1e-9df2-4d55-a7c2-0d6b7f4d3c11', 0, 'T', '{}');
RESET event_store.bare_uuid_streams;
-- a stream that is there goes on
SELECT version FROM es_append('5f0c6b1e-9df2-4d55-a7c2-0d6b7f4d3c11', 1, 'T', '{}');

-- names that are the library's own
SELECT pg_temp.try($$SELECT es_append('$store-privacy', 0, 'T', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('no-1', 0, '$erased', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('no-1', 0, '[{"type": "T"}, {"type": "$erased"}]')$$);
SELECT pg_temp.try($$SELECT es_append('no-1', 0, 'T', '{}', metadata => '{"user_id": 7, "$by": {"session_user": "ceo"}}')$$);
SELECT pg_temp.try($$SELECT es_append('no-1', 0, '[{"type": "T"}, {"type": "T", "metadata": {"$": 1}}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "$no-1"}]')$$);
SELECT pg_temp.try($$SELECT es_append_batch('{no-1,$no-1}', '{T,T}', '{"{}","{}"}')$$);
SELECT pg_temp.try($$SELECT es_append_batch('{no-1,no-1}', '{T,T}', '{"{}","{}"}', metadata => ARRAY[NULL, '{"$x": 1}']::jsonb[])$$);
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type) VALUES ('no-1', 'T'), ('$no-1', 'T')$$);
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type) VALUES ('no-1', 'T'), ('no-1', '$T')$$);
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type, metadata) VALUES ('no-1', 'T', '{"$x": 1}')$$);
SET event_store.metadata = '{"user_id": "ann", "$by": "ceo"}';
SELECT pg_temp.try($$SELECT es_append('no-1', 0, 'T', '{}')$$);
RESET event_store.metadata;
-- inside of a name it is nothing special, nor in a value, an inner key or the data
SELECT version FROM es_append('pay$-1', 0, 'In$', '{"$ref": 1}', metadata => '{"a$": "$x", "inner": {"$x": 1}, "": 2}');

-- data that was made JSON twice
SELECT pg_temp.try($$SELECT es_append('no-1', 0, 'T', to_jsonb('{"a": 1}'::text))$$);
SELECT pg_temp.try($$SELECT es_append('no-1', 0, 'T', to_jsonb(E' \n[1, {"a": null}]\t'::text))$$);
SELECT pg_temp.try($$SELECT es_append('no-1', 0, '[{"type": "T", "data": {"a": 1}}, {"type": "T", "data": "{\"a\": 1}"}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "no-1", "expected_version": 0, "events": [{"type": "T", "data": "[]"}]}]')$$);
SELECT pg_temp.try($$SELECT es_append_batch('{no-1}', '{T}', ARRAY[to_jsonb('{}'::text)])$$);
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type, data) VALUES ('no-1', 'T', to_jsonb('{"a": 1}'::text))$$);
SELECT pg_temp.try($$SELECT es_append('no-1', 0, to_jsonb('[{"type": "T"}]'::text))$$);
SELECT pg_temp.try($$SELECT es_append_multi(to_jsonb('[{"stream": "no-1"}]'::text))$$);
-- strings that only look like it, or are JSON but no object or array
SELECT version FROM es_append('str-1', 0, '[{"type": "T", "data": "{x}"}, {"type": "T", "data": "[1, 2"}, {"type": "T", "data": "{\"a\": 1} {}"}, {"type": "T", "data": "7"},
    {"type": "T", "data": "null"}, {"type": "T", "data": ""}, {"type": "T", "data": "  "}, {"type": "T", "data": "{"}, {"type": "T", "data": "[}"}, {"type": "T", "data": {"text": "{}"}}]');

-- when an event occurred: one time, whatever the session's settings are
SET timezone = 'America/New_York';
SET datestyle = 'SQL, DMY';
SELECT pg_temp.try(format($$SELECT es_append('no-1', 0, '[{"type": "T", "occurred_at": "%s"}]')$$, t))
FROM unnest('{2026-01-02T10:00:00,2026-01-02 10:00,2026-01-02,01/02/2026,now,tomorrow,infinity,"",2026-01-02T10:00:00 Europe/Paris,2026-01-02T10:00:00 UTC,20260102T100000Z,2026-01-02T10Z,2026-01-02T10:00:00Zulu,2026-01-02T10:00:00+1,2026-11-31T10:00:00Z,2026-02-30T10:00:00Z}'::text[]) t;
SELECT pg_temp.try($$SELECT es_append('no-1', 0, '[{"type": "T", "occurred_at": 1767348000}]')$$);
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type, occurred_at) VALUES ('no-1', 'T', '2026-01-02T10:00:00Z'), ('no-1', 'T', '2026-01-02T10:00:00')$$);
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type, occurred_at) SELECT 'no-1', 'T', timestamp '2026-01-02 10:00:00'$$);
SELECT version FROM es_append('time-1', 0, (SELECT jsonb_agg(jsonb_build_object('type', 'T', 'occurred_at', t) ORDER BY n) FROM
    unnest('{2026-01-02T10:00:00Z,2026-01-02t10:00:00z,2026-01-02 10:00:00+00,2026-01-02T10:00Z,2026-01-02T11:30:00+01:30,2026-01-02T11:30:00.000000+0130,2026-01-02T09:00:00-01}'::text[]) WITH ORDINALITY u (t, n)));
SELECT DISTINCT extract(epoch FROM occurred_at) FROM es_read('time-1');
SET datestyle = 'ISO, DMY';
INSERT INTO event_store.import (stream, event_type, occurred_at) SELECT 'time-2', 'T', t
FROM unnest('{2026-01-02 10:00+00,1700-01-01 00:00+00,0044-03-15 12:00+00 BC,12026-01-02 10:00:00.123456+00}'::timestamptz[]) t;
SET timezone = 'UTC';
SELECT version, occurred_at FROM es_read('time-2');
RESET timezone;
RESET datestyle;
-- it defaults to the clock, not to a stamp that was pushed into the future by another's wrong clock
BEGIN;
ALTER TABLE event_store.heads DISABLE TRIGGER USER;
UPDATE event_store.heads SET recorded_at = clock_timestamp() + interval '1 hour' WHERE name = 'time-1';
SELECT recorded_at > clock_timestamp() + interval '59 min' AS pushed FROM es_append('time-1', 7, 'T', '{}');
SELECT occurred_at < clock_timestamp() AS by_the_clock FROM es_read('time-1', 8);
ROLLBACK;

-- an import has no conflicts
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type) VALUES ('no-1', 'T') ON CONFLICT DO NOTHING$$);
SELECT pg_temp.try($$EXPLAIN INSERT INTO event_store.import (stream, event_type) VALUES ('no-1', 'T') ON CONFLICT DO NOTHING$$);
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type) VALUES ('no-1', 'T') ON CONFLICT (stream) DO NOTHING$$);

SELECT count(*) FROM event_store.heads WHERE name LIKE 'no-%';
SELECT count(*) FROM es_check('all');
SELECT count(*) FROM es_verify_log();
