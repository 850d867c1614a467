-- Schema evolution: upcasters and checks.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; h text; s text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
    -- 19 has a detail of its own here, earlier versions a hint.
    IF current_setting('server_version_num')::int >= 190000 AND m LIKE 'function % does not exist' THEN
        d := regexp_replace(d, '^There is no function of that name\.$', '');
        h := 'No function matches the given name and argument types. You might need to add explicit type casts.';
    END IF;
    RETURN concat_ws(E'\n  ', s || ': ' || m, 'detail: ' || nullif(regexp_replace(d, 'position \d+', 'position N'), ''), 'hint: ' || nullif(h, ''));
END $$;
\t on
\pset format unaligned
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
SELECT es_create_store();
SELECT es_register_aggregate('cart', $$state || jsonb_build_object('items', coalesce(state -> 'items', '[]') || (data -> 'item'), 'types', coalesce(state -> 'types', '[]') || to_jsonb(event_type || schema_version))$$);
SELECT version FROM es_append('cart-1', 0, '[{"type": "ItemAdded", "data": {"sku": "a"}}, {"type": "Debug"}, {"type": "ItemAdded", "data": {"sku": "b", "qty": 2}, "schema_version": 2}, {"type": "LineAdded", "data": {"item": {"sku": "c", "qty": 3}}, "schema_version": 3}]');

-- a chain with a rename, and a type that is dropped
SELECT es_register_upcaster('ItemAdded', 1, $$data || '{"qty": 1}'$$);
SELECT es_register_upcaster('ItemAdded', 2, $$jsonb_build_object('item', data)$$, 'LineAdded');
SELECT es_register_upcaster('Debug', 1, 'NULL');
SELECT version, event_type, schema_version, data FROM es_read('cart-1');
SELECT version, event_type, schema_version, data FROM es_read('cart-1', upcast => false);
SELECT version, event_type, schema_version FROM es_read('cart-1', backward => true, max_count => 3);
SELECT state, version FROM es_load('cart-1');
SELECT version, event_type FROM es_history('cart-1');
SELECT version, event_type, data FROM event_store.events WHERE stream = 'cart-1' ORDER BY 1;
-- filters match the type after upcasting, also one that is stored nowhere
SELECT version FROM es_read_all(0, NULL, '{LineAdded}');
SELECT version FROM es_read_all(0, NULL, '{ItemAdded}');
SELECT version FROM es_read_all(0, 1, '{LineAdded}');
SELECT version FROM es_read_category('cart', 0, NULL, '{LineAdded}');
SELECT es_register_upcaster('LineAdded', 3, 'data', 'NeverStored');
SELECT version, event_type, schema_version FROM es_read_all(0, NULL, '{NeverStored}');
SELECT es_unregister_upcaster('LineAdded', 3);
-- the version of a load counts what is dropped
SELECT version FROM es_append('cart-1', 4, 'Debug', '{}', schema_version => 1);
SELECT version FROM es_load('cart-1');
SELECT version FROM es_append('cart-2', 0, 'Debug', '{}', schema_version => 1);
SELECT state, version FROM es_load('cart-2');

-- registered before the first event of its type, in a session that has read the definitions
SELECT es_register_aggregate('late', 'state || data');
SELECT es_register_upcaster('LateType', 1, $$data || '{"up": true}'$$);
SELECT state FROM es_load('late-1');
SELECT version FROM es_append('late-1', 0, 'LateType', '{"up": false}', '{"correlation_id": "late"}', schema_version => 1);
SELECT state FROM es_load('late-1');
SELECT data, schema_version FROM es_trace('late');
-- as of a time what is dropped counts when it was recorded
SELECT es_register_aggregate('mix', $$state || jsonb_build_object('n', version)$$);
SELECT count(*) FROM generate_series(1, 5) i, LATERAL es_append('mix-1', -2, CASE WHEN i IN (1, 4) THEN 'A' ELSE 'Debug' END, to_jsonb(i), schema_version => 1) a;
SELECT count(*) FROM es_append('mix-2', 0, 'Debug', '{}', schema_version => 1);
SELECT es_publish_mark() > 0, es_publish_mark() > 0;
SELECT e.version, l.version, l.position = e.position, l.recorded_at = e.recorded_at, l.state FROM event_store.events e, LATERAL es_load_at('mix-1', e.recorded_at) l WHERE e.stream = 'mix-1' ORDER BY 1;
SELECT stream, version FROM es_load_category('mix', (SELECT recorded_at FROM es_load_version('mix-1', 3)));
SELECT es_snapshot('mix-1');
SELECT version, state FROM es_load_at('mix-1', (SELECT recorded_at FROM es_load_version('mix-1', 4)));
SELECT state, version, recorded_at IS NOT NULL FROM es_load('mix-2');

-- snapshots are of the fold with its upcasters
SELECT es_snapshot('cart-1');
SELECT es_register_upcaster('ItemAdded', 1, $$data || '{"qty": 10}'$$);
SELECT state -> 'items' -> 0 FROM es_load('cart-1');

-- dry run
SELECT * FROM es_test_upcasters() ORDER BY 1, 2;
SELECT es_register_upcaster('ItemAdded', 1, $$data || jsonb_build_object('qty', 1 / (length(data ->> 'sku') - 1))$$);
SELECT event_type, schema_version, events, failures, first_failure IS NOT NULL, error FROM es_test_upcasters() ORDER BY 1, 2;
SELECT event_type, schema_version, failures FROM es_test_upcasters('Debug');
SELECT count(*) FROM es_test_upcasters('nosuch');
SELECT pg_temp.try($$SELECT es_read('cart-1')$$);
SELECT pg_temp.try($$SELECT es_load('cart-1')$$);
SELECT pg_temp.try($$SELECT es_read_all()$$);
SELECT count(*) FROM es_read('cart-1', upcast => false);
SELECT es_register_upcaster('ItemAdded', 1, $$data || '{"qty": 1}'$$);

-- refusals
SELECT pg_temp.try($$SELECT es_register_upcaster('X', 0, 'data')$$), pg_temp.try($$SELECT es_register_upcaster('X', 1, NULL)$$), pg_temp.try($$SELECT es_register_upcaster('X', 1, 'version')$$), pg_temp.try($$SELECT es_register_upcaster('', 1, 'data')$$), pg_temp.try($$SELECT es_unregister_upcaster('X', 1)$$);
SELECT pg_temp.try($$SELECT es_register_upcaster('X', 2147483647, 'data')$$);

-- one that cannot be compiled any more stops only the streams that need it
CREATE FUNCTION passing(jsonb) RETURNS jsonb IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
SELECT es_register_aggregate('whole', 'state || data'), es_register_upcaster('Broken', 1, 'passing(data)');
SELECT version FROM es_append('whole-1', 0, 'Whole', '{"a": 1}');
SELECT version FROM es_append('whole-2', 0, 'Broken', '{"a": 1}', schema_version => 1);
SELECT state, version FROM es_load('whole-2');
DROP FUNCTION passing(jsonb);
SELECT state, version FROM es_load('whole-1');
SELECT pg_temp.try($$SELECT es_load('whole-2')$$);
SELECT pg_temp.try($$SELECT es_read('whole-2')$$);
SELECT es_unregister_upcaster('Broken', 1), es_unregister_aggregate('whole');

-- checks: at append, also inside batches, naming the element
SELECT es_register_event_type('Priced', 1, $$jsonb_typeof(data -> 'price') = 'number' AND (data ->> 'price')::numeric > 0$$);
SELECT es_register_event_type('Priced', 2);
SELECT version FROM es_append('shop-1', 0, 'Priced', '{"price": 1}', schema_version => 1);
SELECT pg_temp.try($$SELECT es_append('shop-1', 1, 'Priced', '{"price": 0}', schema_version => 1)$$);
SELECT pg_temp.try($$SELECT es_append('shop-1', 1, 'Priced', '{}', schema_version => 1)$$);
SELECT pg_temp.try($$SELECT es_append('shop-1', 1, '[{"type": "Other"}, {"type": "Priced", "data": {"price": "x"}, "schema_version": 1}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "shop-1", "expected_version": "any", "events": {"type": "Other"}}, {"stream": "shop-2", "expected_version": "any", "events": [{"type": "Priced", "data": {"price": -1}, "schema_version": 1}]}]')$$);
SELECT pg_temp.try($$SELECT es_append_batch('{shop-1,shop-1}', '{Other,Priced}', ARRAY['{}', '{"price": -1}']::jsonb[], schema_versions => '{1,1}')$$);
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type, data, schema_version) VALUES ('shop-1', 'Priced', '{"price": 1}', 1), ('shop-1', 'Priced', '{"price": -1}', 1)$$);
SELECT es_register_event_type('Divided', 1, $$1 / (data ->> 'by')::int > 0$$);
SELECT pg_temp.try($$SELECT es_append('shop-1', 1, 'Divided', '{"by": 0}')$$);
SELECT version FROM es_append('shop-1', 1, 'Priced', '{"price": 0}', schema_version => 2);
SELECT es_unregister_event_type('Priced');
SELECT version FROM es_append('shop-1', 2, 'Priced', '{"price": 0}');
SELECT pg_temp.try($$SELECT es_unregister_event_type('Priced')$$), pg_temp.try($$SELECT es_register_event_type('Priced', 1, 'data')$$);
SELECT es_stream_version('shop-1'), es_stream_version('shop-2');

-- a check or a fold that appends, behind a wrong IMMUTABLE: neither the inner nor the outer event
CREATE FUNCTION appending(data jsonb) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
$$BEGIN IF NOT data ? 'inner' THEN PERFORM es_append('nested-1', -2, 'Nested', '{"inner": 1}'); END IF; RETURN true; END$$;
SELECT es_register_event_type('Nested', 1, 'appending(data)');
SELECT pg_temp.try($$SELECT es_append('nested-1', -2, 'Nested', '{}')$$);
SELECT es_register_aggregate('nested', $$CASE WHEN appending(data) THEN state END$$);
SELECT version FROM es_append('nested-1', -2, 'Plain', '{}');
SELECT pg_temp.try($$SELECT es_load('nested-1')$$);
-- one that is caught leaves the session able to append
CREATE OR REPLACE FUNCTION appending(data jsonb) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS
$$BEGIN PERFORM es_append('nested-1', -2, 'Nested', '{"inner": 1}'); RETURN true; EXCEPTION WHEN feature_not_supported THEN RETURN true; END$$;
SELECT version FROM es_append('nested-1', -2, 'Nested', '{}');
SELECT version, count(*) FROM es_read('nested-1') GROUP BY 1 ORDER BY 1;
SELECT es_unregister_event_type('Nested'), es_unregister_aggregate('nested');
DROP FUNCTION appending(jsonb);
-- what cannot be compiled leaves nothing in the session's memory
CREATE FUNCTION fading(jsonb) RETURNS jsonb IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
SELECT es_register_aggregate('faded', 'fading(state)');
DROP FUNCTION fading(jsonb);
SELECT pg_temp.try($$SELECT es_load('faded-1')$$);
CREATE FUNCTION pg_temp.definitions() RETURNS bigint LANGUAGE sql AS
$$SELECT sum(used_bytes) FROM pg_backend_memory_contexts WHERE name LIKE 'event\_store definition%'$$;
SELECT pg_temp.definitions() AS before \gset
DO $$BEGIN FOR i IN 1 .. 300 LOOP BEGIN PERFORM es_load('faded-1'); EXCEPTION WHEN undefined_function THEN NULL; END; END LOOP; END$$;
SELECT pg_temp.definitions() - :before AS grown;
SELECT es_unregister_aggregate('faded');

-- dump and restore keep definitions: they are plain rows
SELECT category, role = current_user AS mine FROM event_store.aggregates;
SELECT event_type, from_version, to_type FROM event_store.upcasters ORDER BY 1, 2;
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
SELECT es_create_store();
