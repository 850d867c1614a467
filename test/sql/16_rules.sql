-- Rules documents: what they do (state by state), what is refused, what fails while folding.
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
SELECT es_create_store();

-- 2. Every operation, on one stream: the state after each event.
SELECT es_register_aggregate('op', rules => '{
  "Set":      {"set": {"a": "x", "b.c": {"value": [1, {"k": null}]}, "d": {"field": "y", "default": 7}, "e": "y"}},
  "Swap":     {"set": {"a": "$state.d", "d": "$state.a"}},
  "Add":      {"add": {"n": "x"}, "subtract": {"m": "x"}, "min": {"lo": "x"}, "max": {"hi": "x"}, "count": "times"},
  "Count":    {"count": {"times": 10, "by.{who}": 1}},
  "Append":   {"append": {"list": "x"}},
  "Remove":   {"remove": {"list": "x", "by": "who"}},
  "RemoveBy": {"remove": {"list": {"key": "id", "equals": "x"}}},
  "Merge":    {"merge": {"b": "x"}},
  "MergeAll": {"merge": {"": "x"}},
  "Unset":    {"unset": ["a", "b.nothing.here", "e"]},
  "Reset":    {"set": {"": {"value": {"fresh": true}}}},
  "About":    {"set": {"event": {"value": {}}, "data": "", "meta": "$metadata.user", "of": "$event.stream", "type": "$event.type",
                       "v": "$event.version", "sv": "$event.schema_version", "at": "$event.occurred_at", "id": "$event.id"}},
  "Quiet":    [],
  "*":        {"count": "others"}
}', initial_state => '{"times": 0}');
SELECT version > 0 AS ok FROM es_append('op-1', 0, '[
  {"type": "Set", "data": {"x": "one"}}, {"type": "Swap"},
  {"type": "Add", "data": {"x": 12.50}}, {"type": "Add", "data": {"x": 0.25}}, {"type": "Add", "data": {"x": -3}},
  {"type": "Count", "data": {"who": "a.b"}}, {"type": "Count", "data": {"who": 5}},
  {"type": "Append", "data": {"x": 1.0}}, {"type": "Append", "data": {"x": {"id": 7}}}, {"type": "Append"}, {"type": "Append", "data": {"x": 1}},
  {"type": "Remove", "data": {"x": 1.00, "who": "a.b"}}, {"type": "RemoveBy", "data": {"x": 7}}, {"type": "RemoveBy"},
  {"type": "Merge", "data": {"x": {"c": null, "new": {"deep": {"gone": null, "kept": 1}}}}}, {"type": "Merge"},
  {"type": "Unset"}, {"type": "Quiet"}, {"type": "Surprise"},
  {"type": "MergeAll", "data": {"x": {"list": null, "by": null, "b": "scalar"}}},
  {"type": "Reset"},
  {"type": "About", "data": {"x": 1}, "metadata": {"user": "ada"}, "id": "01234567-89ab-cdef-0123-456789abcdef",
   "occurred_at": "2010-12-01 08:26:00.5+00", "schema_version": 3}]');
SELECT version, event_type, state FROM es_history('op-1') ORDER BY version;

-- Times do not depend on the session.
BEGIN;
SET LOCAL TimeZone = 'Asia/Kathmandu';
SET LOCAL DateStyle = 'German';
SELECT state->'at' AS at FROM es_load('op-1');
COMMIT;

-- 3. Conditions.
SELECT es_register_aggregate('cond', rules => '{
  "E": [{"when": {"field": "x", "is": 1}, "count": "is"},
        {"when": {"field": "x", "is": null}, "count": "is_null"},
        {"when": {"field": "x", "not": 1}, "count": "not"},
        {"when": {"field": "x", "in": [1, "a", {"k": [1]}]}, "count": "in"},
        {"when": {"field": "x", "exists": true}, "count": "exists"},
        {"when": {"field": "x", "exists": false}, "count": "absent"},
        {"when": [{"field": "n", "at_least": 1}, {"field": "n", "below": 5.5}], "count": "between"},
        {"when": [{"field": "n", "above": 1}, {"field": "n", "at_most": 5.5}], "count": "between2"},
        {"when": {"field": {"field": "n", "default": 9}, "above": 8}, "count": "default"},
        {"when": {"field": "$state.exists", "is": 2}, "count": "state"},
        {"when": {"field": "$event.version", "at_most": 2}, "count": "first_two"}]}');
SELECT version > 0 AS ok FROM es_append('cond-1', 0, '[
  {"type": "E"}, {"type": "E", "data": {"x": null, "n": null}}, {"type": "E", "data": {"x": 1.0, "n": 1}},
  {"type": "E", "data": {"x": {"k": [1.0]}, "n": 5.5}}, {"type": "E", "data": {"x": "a", "n": 3}}]');
SELECT state FROM es_load('cond-1');

-- 4. Keys from the event, escaped keys, maps with many members; a condition may look into one.
SELECT es_register_aggregate('map', rules => '{
  "Put":  [{"when": {"field": "$state.items.{key}", "exists": true}, "count": "replaced"},
           {"set": {"items.{key}.v": "v", "a\\.b.\\$c": "key", "of.{$event.type}.{$metadata.who}": "v"}}],
  "Drop": {"unset": "items.{key}"}}');
SELECT count(*) AS calls FROM (SELECT es_append('map-1', -2, 'Put', jsonb_build_object('key', 'k' || i % 300, 'v', i), '{"who": "x"}') FROM generate_series(1, 1000) i) s;
SELECT count(*) AS calls FROM (SELECT es_append('map-1', -2, 'Drop', jsonb_build_object('key', 'k' || i)) FROM generate_series(0, 299) i WHERE i % 3 > 0) s;
SELECT (SELECT count(*) FROM jsonb_object_keys(state->'items')) AS items, state->'items'->'k3' AS k3, state - 'items' AS rest FROM es_load('map-1');

-- 5. Numbers: exact, whatever the size; 12.50 stays 12.50.
SELECT es_register_aggregate('sum', rules => '{"N": {"add": {"sum": "n"}, "subtract": {"neg": "n"}, "min": {"lo": "n"}, "max": {"hi": "n"}}}');
SELECT version > 0 AS ok FROM es_append('sum-1', 0, (SELECT jsonb_agg(jsonb_build_object('type', 'N', 'data', jsonb_build_object('n', n)) ORDER BY i)
  FROM unnest('{9223372036854775807,1,-9223372036854775808,0.000000000000000001,12.50,1e25,-1e25,0.00,922337203685477580.7}'::numeric[]) WITH ORDINALITY u(n, i)));
SELECT l.state = jsonb_build_object('sum', sum(n), 'neg', -sum(n), 'lo', min(n), 'hi', max(n)) AS equal, l.state
  FROM es_load('sum-1') l, unnest('{9223372036854775807,1,-9223372036854775808,0.000000000000000001,12.50,1e25,-1e25,0.00,922337203685477580.7}'::numeric[]) n GROUP BY l.state;

-- 6. The same fold as rules and as an SQL expression gives the same states.
SELECT es_register_aggregate('acct', rules => '{"D": {"add": {"balance": "amount"}, "count": "n"}, "W": {"subtract": {"balance": "amount"}}}', initial_state => '{"balance": 0, "n": 0}');
SELECT count(*) AS calls FROM (SELECT es_append('acct-' || i % 5, -2, CASE WHEN i % 3 = 0 THEN 'W' ELSE 'D' END, jsonb_build_object('amount', i * 0.25)) FROM generate_series(1, 500) i) s;
CREATE TEMP TABLE by_rules AS SELECT * FROM es_load_category('acct');
SELECT es_register_aggregate('acct', $$CASE event_type
  WHEN 'D' THEN state || jsonb_build_object('balance', (state->>'balance')::numeric + (data->>'amount')::numeric, 'n', (state->>'n')::int + 1)
  ELSE state || jsonb_build_object('balance', (state->>'balance')::numeric - (data->>'amount')::numeric) END$$, initial_state => '{"balance": 0, "n": 0}');
SELECT count(*) AS streams, bool_and(r.state::text = e.state::text AND r.version = e.version) AS equal FROM by_rules r JOIN es_load_category('acct') e USING (stream);

-- 7. Refused at registration: one complaint each.
CREATE FUNCTION pg_temp.refused(rules jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE d text; h text;
BEGIN
  PERFORM es_register_aggregate('refused', rules => rules);
  RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
  RETURN concat_ws(E'\n    ', SQLSTATE || ' ' || SQLERRM, nullif(d, ''), nullif(h, ''));
END $$;
\pset format unaligned
\pset tuples_only on
SELECT r || E'\n    ' || pg_temp.refused(r::jsonb) FROM (VALUES
  ('5'),
  ('[]'),
  ('{}'),
  ('"x"'),
  ('null'),
  ('{"":{"count":"a"}}'),
  ('{"A":5}'),
  ('{"A":{}}'),
  ('{"A":[]}'),
  ('{"A":[{}]}'),
  ('{"A":[{"count":"a"},{"when":{"field":"x","is":1}}]}'),
  ('{"A":{"incr":{"a":"b"}}}'),
  ('{"A":{"set":"a"}}'),
  ('{"A":{"set":{}}}'),
  ('{"A":{"set":{"a":5}}}'),
  ('{"A":{"set":{"a":null}}}'),
  ('{"A":{"set":{"a":["x"]}}}'),
  ('{"A":{"set":{"a":{}}}}'),
  ('{"A":{"set":{"a":{"value":1,"field":"x"}}}}'),
  ('{"A":{"set":{"a":{"value":1,"default":2}}}}'),
  ('{"A":{"set":{"a":{"default":2}}}}'),
  ('{"A":{"set":{"a":{"field":5}}}}'),
  ('{"A":{"set":{"a":{"vlaue":5}}}}'),
  ('{"A":{"set":{"a..b":"x"}}}'),
  ('{"A":{"set":{".a":"x"}}}'),
  ('{"A":{"set":{"a.":"x"}}}'),
  ('{"A":{"set":{"a\\b":"x"}}}'),
  ('{"A":{"set":{"a\\":"x"}}}'),
  ('{"A":{"set":{"a{b}":"x"}}}'),
  ('{"A":{"set":{"{b":"x"}}}'),
  ('{"A":{"set":{"{}":"x"}}}'),
  ('{"A":{"set":{"{b}c":"x"}}}'),
  ('{"A":{"set":{"a}":"x"}}}'),
  ('{"A":{"set":{"{a.{b}.c}.d":"x.{y}"}}}'),
  ('{"A":{"set":{"{{a}}":"x"}}}'),
  ('{"A":{"set":{"$state.a":"x"}}}'),
  ('{"A":{"set":{"\\$a":"x"}}}'),
  ('{"A":{"set":{"a":"$foo"}}}'),
  ('{"A":{"set":{"a":"$event"}}}'),
  ('{"A":{"set":{"a":"$event.foo"}}}'),
  ('{"A":{"set":{"a":"$event.type.x"}}}'),
  ('{"A":{"set":{"a":"$state."}}}'),
  ('{"A":{"set":{"a":"$"}}}'),
  ('{"A":{"set":{"a":"x."}}}'),
  ('{"A":{"add":{"":"x"}}}'),
  ('{"A":{"unset":""}}'),
  ('{"A":{"unset":[]}}'),
  ('{"A":{"unset":{"a":1}}}'),
  ('{"A":{"unset":["a",5]}}'),
  ('{"A":{"unset":["a","a"]}}'),
  ('{"A":{"count":["a","a.b"]}}'),
  ('{"A":{"count":{"a":"x"}}}'),
  ('{"A":{"count":5}}'),
  ('{"A":{"count":{"a":2.5}}}'),
  ('{"A":{"set":{"{x}.a":"x","{x}":"y"}}}'),
  ('{"A":{"add":{"a":{"value":"5"}}}}'),
  ('{"A":{"add":{"a":{"field":"x","default":null}}}}'),
  ('{"A":{"add":{"a":"$event.type"}}}'),
  ('{"A":{"add":{"a":"$event.version"}}}'),
  ('{"A":{"min":{"a":"$event.occurred_at"}}}'),
  ('{"A":{"max":{"a":{"value":[]}}}}'),
  ('{"A":{"remove":{"a":{"key":"k"}}}}'),
  ('{"A":{"remove":{"a":{"key":"","equals":"x"}}}}'),
  ('{"A":{"remove":{"a":{"key":"{b}","equals":"x"}}}}'),
  ('{"A":{"remove":{"a":{"key":"b","equals":"x","value":1}}}}'),
  ('{"A":{"remove":{"a":{"key":"b","equals":5}}}}'),
  ('{"A":{"when":5,"count":"a"}}'),
  ('{"A":{"when":[],"count":"a"}}'),
  ('{"A":{"when":{},"count":"a"}}'),
  ('{"A":{"when":{"field":"x"},"count":"a"}}'),
  ('{"A":{"when":{"is":1},"count":"a"}}'),
  ('{"A":{"when":{"field":"x","is":1,"in":[1]},"count":"a"}}'),
  ('{"A":{"when":{"field":"x","in":[]},"count":"a"}}'),
  ('{"A":{"when":{"field":"x","in":1},"count":"a"}}'),
  ('{"A":{"when":{"field":"x","above":"1"},"count":"a"}}'),
  ('{"A":{"when":{"field":"x","exists":1},"count":"a"}}'),
  ('{"A":{"when":{"field":{"value":1},"is":1},"count":"a"}}'),
  ('{"A":{"when":{"field":{"field":"x","default":1},"exists":true},"count":"a"}}'),
  ('{"A":{"when":{"field":"x","equals":1},"count":"a"}}'),
  ('{"A":{"when":{"field":"$event.type","above":1},"count":"a"}}'),
  ('{"A":{"when":[{"field":"x","is":1},7],"count":"a"}}'),
  ('{"A":{"when":{"field":{"field":"x","default":"s"},"below":1},"count":"a"}}')) v(r);
\pset tuples_only off
\pset format aligned

-- 8. Fails while folding: YE006, the session goes on; no message shows a value of the event.
CREATE FUNCTION pg_temp.fails(rules jsonb, initial jsonb, data jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE h text;
BEGIN
  PERFORM es_register_aggregate('fails', rules => rules, initial_state => initial);
  PERFORM es_append('fails-1', -2, 'A', data);
  PERFORM es_load('fails-1');
  RAISE EXCEPTION 'it did not fail';
EXCEPTION WHEN OTHERS THEN
  GET STACKED DIAGNOSTICS h = PG_EXCEPTION_HINT;
  RETURN concat_ws(E'\n', SQLSTATE || ' ' || SQLERRM, nullif(h, ''));
END $$;
SELECT pg_temp.fails(r::jsonb, i::jsonb, d::jsonb) FROM (VALUES
  ('{"A": {"add": {"a": "x"}}}', '{}', '{}'),
  ('{"A": {"add": {"a": "x"}}}', '{}', '{"x": null}'),
  ('{"A": {"add": {"a": "x"}}}', '{}', '{"x": "12.50"}'),
  ('{"A": {"add": {"a": "x"}}}', '{"a": "12"}', '{"x": 1}'),
  ('{"A": {"add": {"a.b.c": "x"}}}', '{"a": {"b": []}}', '{"x": 1}'),
  ('{"A": {"add": {"a.b.c": "x"}}}', '[]', '{"x": 1}'),
  ('{"A": {"add": {"a.{y}.c": "x"}}}', '{}', '{"x": 1}'),
  ('{"A": {"add": {"a.{y}.c": "x"}}}', '{}', '{"x": 1, "y": true}'),
  ('{"A": {"unset": "a.b.c"}}', '{"a": {"b": 5}}', '{}'),
  ('{"A": {"min": {"a": "x"}}}', '{"a": "q"}', '{"x": 1}'),
  ('{"A": {"remove": {"a": "y"}}}', '{"a": {"q": 1}}', '{"y": true}'),
  ('{"A": {"remove": {"a": {"key": "k", "equals": "y"}}}}', '{"a": {"q": 1}}', '{"y": true}'),
  ('{"A": {"append": {"a": "y"}}}', '{"a": {"q": 1}}', '{"y": true}'),
  ('{"A": {"when": {"field": "y", "above": 5}, "append": {"a": "y"}}}', '{}', '{"y": true}')) v(r, i, d);

-- 9. Nested ever deeper: a clean error, and the session goes on.
SELECT es_register_aggregate('deep', rules => '{"A": {"set": {"a": "$state"}}}');
SELECT events FROM es_append_batch(array_fill('deep-1'::text, '{5000}'), array_fill('A'::text, '{5000}'), array_fill('{}'::jsonb, '{5000}'));
SET max_stack_depth = '300kB';
DO $$
BEGIN
  PERFORM es_load('deep-1');
EXCEPTION WHEN OTHERS THEN
  RAISE NOTICE '%', SQLSTATE;
END $$;
RESET max_stack_depth;
SELECT es_register_aggregate('deep', rules => '{"A": {"count": "n"}}');
SELECT state FROM es_load('deep-1');
