-- Bad input to the appending functions: the argument named, nothing changed.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; h text; s text; c text; f text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT, c = PG_EXCEPTION_CONTEXT;
    f := substring(c FROM E'^([^\n]*(?:of events|of appends|of the arrays)[^\n]*)');
    RETURN concat_ws(E'\n  ', s || ': ' || left(m, 200), 'detail: ' || nullif(d, ''), 'hint: ' || nullif(h, ''), 'context: ' || f);
END $$;
\t on
\pset format unaligned
SELECT es_create_store();
SELECT es_append('bad-1', -2, 'Good', '{}') IS NOT NULL;
SELECT last_value AS before FROM event_store.position_seq \gset
SELECT count(*) AS streams_before FROM event_store.heads \gset

-- streams
SELECT pg_temp.try($$SELECT es_append(NULL, 0, 'T', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('', 0, 'T', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('-1', 0, 'T', '{}')$$);
SELECT pg_temp.try($$SELECT es_append(repeat('x', 513), 0, 'T', '{}')$$);
SELECT pg_temp.try($$SELECT es_append(repeat('ü', 257), 0, 'T', '{}')$$);
SELECT pg_temp.try($$SELECT es_append(NULL::text, 0, '{"type": "T"}'::jsonb)$$);
SELECT pg_temp.try($$SELECT es_append(repeat('x', 10000000), 0, 'T', '{}')$$);
-- types
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, NULL, '{}')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '', '{}')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, repeat('x', 513), '{}')$$);
-- the rest of the first form
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, 'T', '{}', '[]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, 'T', '{}', '1')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, 'T', '{}', schema_version => 0)$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, 'T', '{}', occurred_at => 'infinity')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, 'T', '{}', occurred_at => '-infinity')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, 'T', '{}', idempotency_key => '')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, 'T', '{}', idempotency_key => repeat('k', 513))$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, 'T', '{"a": "\u0000"}')$$);
-- forgotten data
SELECT pg_temp.try($$SELECT es_append('bad-1', 0, 'Opened')$$);
-- events
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, NULL)$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, NULL::jsonb)$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '{}')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '1')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, 'null')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '"x"')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T"}, 1]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T"}, [{"type": "T"}]]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T"}, null]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T"}, {"data": {}}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": 1}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": null}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": ""}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T", "metadata": [1]}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T", "metadata": "x"}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T"}, {"type": "T", "id": "nonsense"}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T", "id": 5}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T", "occurred_at": "yesterdayish"}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T", "occurred_at": {}}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T", "occurred_at": "infinity"}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T", "schema_version": 1.5}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T", "schema_version": "1"}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T", "schema_version": 0}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T", "schema_version": 2147483648}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T", "schema_version": 1e400}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T", "occured_at": "2024-01-01"}]')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '{"events": [], "idempotency_key": "k"}')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '{"events": 5}')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '{"events": null}')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '{"events": [{"type": "T"}], "idempotency_key": 5}')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '{"events": [{"type": "T"}], "stream": "x"}')$$);
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, '[{"type": "T", "id": "01890a5d-ac96-774b-bcce-b302099a8057"}, {"type": "T"}, {"type": "T", "id": "01890a5d-ac96-774b-bcce-b302099a8057"}]')$$);
-- es_append_multi
SELECT pg_temp.try($$SELECT es_append_multi(NULL)$$);
SELECT pg_temp.try($$SELECT es_append_multi('{}')$$);
SELECT pg_temp.try($$SELECT es_append_multi('1')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[1]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"events": [{"type": "T"}]}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": 1, "events": [{"type": "T"}]}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "", "expected_version": "any", "events": [{"type": "T"}]}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "bad-1", "expected_version": "0", "events": [{"type": "T"}]}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "bad-1", "expected_version": 1.5}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "bad-1", "expected_version": 9223372036854775808}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "bad-1", "expected_version": -1}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "bad-1"}, {"stream": "bad-2", "expected_version": "any", "events": [{"type": "T"}, {"type": 7}]}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "bad-1", "expected_version": "any", "events": 1}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "bad-1", "version": 1}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "bad-1", "idempotency_key": "k"}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "bad-1", "expected_version": "any", "events": {"type": "T"}}, {"stream": "bad-1", "expected_version": 2, "events": {"type": "T"}}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "bad-1", "expected_version": "any", "events": {"type": "T"}, "idempotency_key": "k"}, {"stream": "bad-2", "expected_version": "any", "events": {"type": "T"}}]')$$);
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "bad-2", "expected_version": 0, "events": {"type": "T"}}, {"stream": "bad-1", "expected_version": 5}]')$$);
-- es_append_batch
SELECT pg_temp.try($$SELECT es_append_batch(NULL, '{T}', ARRAY['{}']::jsonb[])$$);
SELECT pg_temp.try($$SELECT es_append_batch('{}', '{}', '{}')$$);
SELECT pg_temp.try($$SELECT es_append_batch('{bad-1,bad-2}', '{T}', ARRAY['{}','{}']::jsonb[])$$);
SELECT pg_temp.try($$SELECT es_append_batch('{bad-1}', '{T}', ARRAY['{}','{}']::jsonb[])$$);
SELECT pg_temp.try($$SELECT es_append_batch('{bad-1}', '{T}', ARRAY['{}']::jsonb[], metadata => '{}')$$);
SELECT pg_temp.try($$SELECT es_append_batch('{{bad-1},{bad-2}}', '{T,T}', ARRAY['{}','{}']::jsonb[])$$);
SELECT pg_temp.try($$SELECT es_append_batch('{bad-1,bad-1}', '{T,NULL}', ARRAY['{}','{}']::jsonb[])$$);
SELECT pg_temp.try($$SELECT es_append_batch('{bad-1,NULL}', '{T,T}', ARRAY['{}','{}']::jsonb[])$$);
SELECT pg_temp.try($$SELECT es_append_batch('{bad-1,""}', '{T,T}', ARRAY['{}','{}']::jsonb[])$$);
SELECT pg_temp.try($$SELECT es_append_batch('{bad-1,bad-1}', '{T,""}', ARRAY['{}','{}']::jsonb[])$$);
SELECT pg_temp.try($$SELECT es_append_batch('{bad-1,bad-1}', '{T,T}', ARRAY['{}','{}']::jsonb[], ARRAY['{}','[]']::jsonb[])$$);
SELECT pg_temp.try($$SELECT es_append_batch('{bad-1,bad-1}', '{T,T}', ARRAY['{}','{}']::jsonb[], schema_versions => '{1,0}')$$);
SELECT pg_temp.try($$SELECT es_append_batch('{bad-1,bad-1}', '{T,T}', ARRAY['{}','{}']::jsonb[], expected_versions => '{-1,0}')$$);
SELECT pg_temp.try($$SELECT es_append_batch('{bad-1,bad-1}', '{T,T}', ARRAY['{}','{}']::jsonb[], expected_versions => '{7,0}')$$);
SELECT pg_temp.try($$SELECT es_append_batch('{bad-1,bad-1}', '{T,T}', ARRAY['{}','{}']::jsonb[], occurred_at => '{2024-01-01,infinity}')$$);
SELECT pg_temp.try($$SELECT es_append_batch('{bad-1,bad-1}', '{T,T}', ARRAY['{}','{}']::jsonb[], event_ids => array_fill('01890a5d-ac96-774b-bcce-b302099a8057'::uuid, ARRAY[2]))$$);
SELECT pg_temp.try($$SELECT es_append_batch('{bad-1}', '{T}', ARRAY['{}']::jsonb[], idempotency_key => '')$$);
-- too many categories
SET event_store.max_categories = 1;
SELECT pg_temp.try($$SELECT es_append('brandnew-1', 0, 'T', '{}')$$) LIKE '54000: too many categories: "brandnew" would be number%';
SELECT version > 0 FROM es_append('bad-1', -2, 'Good', '{}');
RESET event_store.max_categories;
-- too many event types
SET event_store.max_event_types = 1;
SELECT pg_temp.try($$SELECT es_append('bad-1', -2, 'BrandNew', '{}')$$) LIKE '54000: too many event types: "BrandNew" would be number%';
RESET event_store.max_event_types;
-- settings
SELECT pg_temp.try($$SET event_store.partition_size = 0$$);
SELECT pg_temp.try($$SET event_store.mark_wait = -1$$) LIKE '22023: -1%';
SELECT pg_temp.try($$SET event_store.nonsense = 1$$);

-- nothing of all that changed anything: one good append, one position
SELECT last_value - :before AS positions_drawn FROM event_store.position_seq;
SELECT count(*) - :streams_before AS new_heads FROM event_store.heads;

-- reading
SELECT pg_temp.try($$SELECT es_read(NULL)$$);
SELECT pg_temp.try($$SELECT es_read('bad-1', 0)$$);
SELECT pg_temp.try($$SELECT es_read('bad-1', -1)$$);
SELECT pg_temp.try($$SELECT es_read('bad-1', 1, -1)$$);
SELECT pg_temp.try($$SELECT es_read('bad-1', 1, 1, NULL)$$);
SELECT pg_temp.try($$SELECT es_read_all(NULL)$$);
SELECT pg_temp.try($$SELECT es_read_all(-1)$$);
SELECT pg_temp.try($$SELECT es_read_all(0, -1)$$);
SELECT pg_temp.try($$SELECT es_read_all(0, 1, ARRAY[ARRAY['a'], ARRAY['b']])$$);
SELECT pg_temp.try($$SELECT es_read_all(0, 1, ARRAY['a', NULL])$$);
SELECT pg_temp.try($$SELECT es_read_all(0, 1, NULL, ARRAY[NULL]::text[])$$);
SELECT pg_temp.try($$SELECT es_read_category(NULL)$$);
SELECT pg_temp.try($$SELECT es_read_category('bad-1')$$);
SELECT pg_temp.try($$SELECT es_stream_version(NULL)$$);
SELECT pg_temp.try($$SELECT es_position_at(NULL)$$);
SELECT pg_temp.try($$SELECT es_trace(NULL)$$);
SELECT pg_temp.try($$SELECT es_grant('nobody_at_all', 'read')$$);
SELECT pg_temp.try($$SELECT es_grant(current_user, 'write')$$);
SELECT count(*) FROM es_read('no-such-stream');
SELECT count(*) FROM es_read('bad-1', 9223372036854775807);
SELECT count(*) > 0 FROM es_read('bad-1', 9223372036854775807, NULL, true);
SELECT count(*) FROM es_read_all(9223372036854775807);
SELECT count(*) FROM es_read_all(0, 0);
SELECT count(*) FROM es_read_all(0, 10, '{}');
SELECT count(*) FROM es_read_all(0, 10, '{no such type}');
SELECT count(*) FROM es_read_category('nosuchcategory');
SELECT count(*) FROM es_read_category('');
SELECT es_position_at('-infinity') = 0, es_position_at('infinity') = es_high_water_mark();
