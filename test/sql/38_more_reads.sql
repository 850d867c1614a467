-- es_read with event types, es_read_category and es_read_all backward, es_list_streams.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
SET event_store.partition_size = 100;
SELECT es_create_store(by_category => true);
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ': ' || SQLERRM;
END $$;
-- positions 1 to 300: streams a-0 to a-4 and b-0 to b-4, two types
SELECT count(*) FROM generate_series(1, 300) i, es_append(CASE WHEN i % 3 = 0 THEN 'b-' ELSE 'a-' END || i % 5, -2, CASE WHEN i % 2 = 0 THEN 'Even' ELSE 'Odd' END, jsonb_build_object('i', i));
SELECT es_publish_mark();

-- by type in a stream
SELECT array_agg(version) FROM es_read('a-1', event_types => '{Even}', max_count => 5);
SELECT array_agg(version) FROM es_read('a-1', 10, 3, event_types => '{Odd}');
SELECT array_agg(version) FROM es_read('a-1', NULL, 3, true, event_types => '{Odd}');
SELECT array_agg(version) FROM es_read('a-1', 10, 3, true, event_types => '{Odd,Never}');
SELECT count(*) FROM es_read('a-1');
SELECT count(*) FROM es_read('a-1', event_types => '{Never}');
SELECT count(*) FROM es_read('a-1', event_types => '{}');
SELECT try($$SELECT es_read('a-1', event_types => '{NULL}')$$);
SELECT try($$SELECT es_read('a-1', event_types => '{{a},{b}}')$$);
-- types are those after upcasting
SELECT es_register_upcaster('Odd', 1, 'data', 'Uneven');
SELECT array_agg(version), min(event_type) FROM es_read('a-1', event_types => '{Uneven}', max_count => 5);
SELECT count(*) FROM es_read('a-1', event_types => '{Odd}');
SELECT array_agg(version), min(event_type) FROM es_read('a-1', event_types => '{Odd}', max_count => 5, upcast => false);
SELECT es_unregister_upcaster('Odd', 1);

-- backward: the cursor is the last position seen
SELECT array_agg(position) FROM es_read_all(max_count => 4, backward => true);
SELECT array_agg(position) FROM es_read_all(297, 4, backward => true);
SELECT array_agg(position) FROM es_read_all(3, 4, backward => true);
SELECT count(*) FROM es_read_all(1, backward => true);
SELECT array_agg(position) FROM es_read_all(100000, 2, backward => true);
SELECT array_agg(position) FROM es_read_all(0, 4, '{Even}', '{b}', true);
SELECT array_agg(position) FROM es_read_category('b', max_count => 4, backward => true);
SELECT array_agg(position) FROM es_read_category('b', 150, 4, '{Odd}', true);
SELECT count(*), min(position), max(position) FROM es_read_category('b', max_count => NULL, backward => true);
SELECT (SELECT array_agg(position ORDER BY position) FROM es_read_all(max_count => NULL, backward => true)) = (SELECT array_agg(position) FROM es_read_all(max_count => NULL));
SELECT (SELECT array_agg(position) FROM es_read_all(0, NULL, categories => '{a,b}', backward => true)) = (SELECT array_agg(i::bigint) FROM generate_series(300, 1, -1) i);
SELECT try($$SELECT es_read_all(backward => NULL)$$);
SELECT try($$SELECT es_read_category('b', backward => NULL)$$);
SELECT try($$SELECT es_read_all(-1, backward => true)$$);
-- also where another partition has none of it
SELECT count(*) FROM es_append('rare-1', 0, 'Odd', '{}');
SELECT count(*) FROM generate_series(1, 99) i, es_append('a-1', -2, 'Odd', '{}');
SELECT position FROM es_read_category('rare', backward => true);

-- a hole is an error for whoever comes to it
SELECT from_position, to_position FROM event_store.partitions WHERE from_position <= 150 AND to_position > 150;
SELECT format('ALTER TABLE event_store.log DETACH PARTITION event_store.%I', name) FROM event_store.partitions WHERE from_position <= 150 AND to_position > 150 \gexec
SELECT array_agg(position) FROM es_read_all(max_count => 4, backward => true);
SELECT array_agg(position) FROM es_read_all(203, 3, backward => true);
SELECT try($$SELECT count(*) FROM es_read_all(203, 4, backward => true)$$);
SELECT try($$SELECT count(*) FROM es_read_all(150, 4, backward => true)$$);
SELECT array_agg(position) FROM es_read_all(100, 3, backward => true);
SELECT try($$SELECT count(*) FROM es_read_all(max_count => NULL, backward => true)$$);
SELECT try($$SELECT count(*) FROM es_read_category('b', max_count => NULL, backward => true)$$);

-- streams
SELECT string_agg(stream, ' ') FROM es_list_streams();
SELECT stream, version, position, created_at <= recorded_at, closed FROM es_list_streams(category => 'b', max_count => 2);
SELECT string_agg(stream, ' ') FROM es_list_streams('b', after => 'b-1');
SELECT string_agg(stream, ' ') FROM es_list_streams(after => 'a-3', max_count => 3);
SELECT string_agg(stream, ' ') FROM es_list_streams(prefix => 'a-');
SELECT string_agg(stream, ' ') FROM es_list_streams(prefix => 'a-', after => 'a-2', max_count => NULL);
SELECT string_agg(stream, ' ') FROM es_list_streams('b', prefix => 'b-4');
SELECT count(*) FROM es_list_streams('b', prefix => 'a');
SELECT count(*) FROM es_list_streams('none');
SELECT count(*) FROM es_list_streams(prefix => '', max_count => NULL);
SELECT count(*) FROM es_list_streams(max_count => 0);
SELECT try($$SELECT es_list_streams(max_count => -1)$$);
-- a category is what comes before the first hyphen
SELECT count(*) FROM unnest('{b!x-1,b,bb-1,b.-1}'::text[]) s, es_append(s, 0, 'Odd', '{}');
SELECT string_agg(stream, ' ') FROM es_list_streams('b');
SELECT string_agg(stream, ' ') FROM es_list_streams(prefix => 'b', max_count => NULL);
PREPARE untyped AS SELECT count(*) FROM es_list_streams($1, $2, $3, $4);
EXECUTE untyped('b', NULL, NULL, 3);
PREPARE untyped_read AS SELECT count(*) FROM es_read($1, $2, $3, $4, $5, $6);
EXECUTE untyped_read('b-1', NULL, NULL, false, true, NULL);
DROP FUNCTION try;
DROP SCHEMA event_store CASCADE;
