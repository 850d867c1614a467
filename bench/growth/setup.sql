-- The store of the growth benchmark: what is loaded at each size is made first, and stays as it is.
\set ON_ERROR_STOP 1
CREATE EXTENSION event_store;
SELECT es_create_store();
CREATE ROLE app LOGIN;
SELECT es_grant('app', 'append');
CREATE ROLE importer LOGIN;
SELECT es_grant('importer', 'import');
SELECT es_register_aggregate(category, rules => '{"Counted": {"add": {"total": "amount"}}}', initial_state => '{"total": 0}', snapshot_every => 1000000)
    FROM unnest(ARRAY['replayed', 'snapshot']) category;
SELECT es_append_batch(array_agg('replayed-' || i ORDER BY v, i), array_agg('Counted'::text),
        array_agg(jsonb_build_object('amount', i + v, 'note', md5(i::text || v)) ORDER BY v, i)) IS NOT NULL
    FROM generate_series(1, 500) i, generate_series(1, 100) v;
SELECT es_append_batch(array_agg('snapshot-' || i ORDER BY v, i), array_agg('Counted'::text),
        array_agg(jsonb_build_object('amount', i + v, 'note', md5(i::text || v)) ORDER BY v, i)) IS NOT NULL
    FROM generate_series(1, 100) i, generate_series(1, 1000) v;
SELECT count(es_snapshot('snapshot-' || i)) FROM generate_series(1, 100) i;
