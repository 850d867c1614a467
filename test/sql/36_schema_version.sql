-- A schema version that is left out: refused where version 1 is an old one, or one of several.
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

-- a type that nobody has registered, one with one version, one with an upcaster from a later version
SELECT version FROM es_append('a-1', 0, 'Free', '{}', idempotency_key => 'first');
SELECT es_register_event_type('One'), es_register_event_type('Other', 1, 'true'), es_register_upcaster('Late', 2, 'data');
SELECT version FROM es_append('a-1', 1, '[{"type": "Free"}, {"type": "One"}, {"type": "Other"}, {"type": "Late"}]');

-- an upcaster from version 1
SELECT es_register_upcaster('Free', 1, 'data'), es_register_upcaster('Free', 2, 'data', to_type => 'Renamed');
SELECT pg_temp.try($$SELECT es_append('a-1', 5, 'Free', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('a-1', 5, '[{"type": "One"}, {"type": "Free", "schema_version": 2}, {"type": "Free", "schema_version": null}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "a-1", "expected_version": 5, "events": [{"type": "One"}, {"type": "Free"}]}]')$$);
SELECT pg_temp.try($$SELECT es_append_batch('{a-1,a-2}', '{One,Free}', '{"{}","{}"}', schema_versions => '{NULL,NULL}')$$);
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type, schema_version) VALUES ('a-1', 'Free', 1), ('a-1', 'Free', NULL)$$);
SELECT version FROM es_append('a-1', 5, 'Free', '{}', schema_version => 1);
SELECT version FROM es_append('a-1', 6, '[{"type": "Free", "schema_version": 2}, {"type": "Renamed"}]');
SELECT events FROM es_append_batch('{a-1,a-1}', '{One,Free}', '{"{}","{}"}', schema_versions => '{NULL,2}');
-- a retry of what was accepted before is replayed, and not refused
SELECT version, replayed FROM es_append('a-1', 0, 'Free', '{}', idempotency_key => 'first');

-- several registered versions; one that is unregistered does not count
SELECT es_register_event_type('One', 2, 'true'), es_register_event_type('Other', 3), es_register_event_type('Other', 12);
SELECT pg_temp.try($$SELECT es_append('a-1', -2, 'One', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('a-1', -2, 'Other', '{}')$$);
SELECT es_unregister_event_type('One', 1);
SELECT version FROM es_append('a-1', -2, 'One', '{}');

-- old writers
SET event_store.assume_schema_version_1 = on;
SELECT version FROM es_append('a-1', -2, 'Free', '{}');
SELECT version, schema_version FROM es_read('a-1', 12, upcast => false);
RESET event_store.assume_schema_version_1;
SELECT pg_temp.try($$SELECT es_append('a-1', -2, 'Free', '{}')$$) LIKE '22004%';
SELECT es_unregister_upcaster('Free', 1);
SELECT version FROM es_append('a-1', -2, 'Free', '{}');
