-- How fast a new projection catches up: sums by 1,000 and by 100,000 keys, by ours with batches of two sizes, each in a
-- transaction, and by a loop over the same events in the server (batch 0), which is what a subscriber does: an upsert for
-- each event, its checkpoint with every 1,000 in one transaction. The loop reads pages by es_read_category().
CREATE EXTENSION event_store;
SELECT es_create_store();
\set ON_ERROR_STOP 1
SET client_min_messages = warning;
CREATE TABLE caught (keys int, batch int, events numeric, seconds float8);
CREATE PROCEDURE by_loop(keys int) LANGUAGE plpgsql AS $$
DECLARE
    e record; n bigint := 0; start timestamptz := clock_timestamp(); last bigint := 0; upto bigint := es_high_water_mark(); got int;
BEGIN
    LOOP
        got := 0;
        FOR e IN SELECT position, data FROM es_read_category('sale', last, 1000) WHERE position <= upto LOOP
            IF keys = 1000 THEN
                INSERT INTO few AS t VALUES (e.data->>'few', 1, (e.data->>'amount')::numeric)
                ON CONFLICT (key) DO UPDATE SET n = t.n + 1, amount = t.amount + EXCLUDED.amount;
            ELSE
                INSERT INTO many AS t VALUES (e.data->>'many', 1, (e.data->>'amount')::numeric)
                ON CONFLICT (key) DO UPDATE SET n = t.n + 1, amount = t.amount + EXCLUDED.amount;
            END IF;
            last := e.position; got := got + 1;
        END LOOP;
        EXIT WHEN got = 0;
        n := n + got;
        UPDATE loop_checkpoint SET position = last;
        COMMIT;
    END LOOP;
    INSERT INTO caught VALUES (keys, 0, n, extract(epoch FROM clock_timestamp() - start));
END $$;
CREATE PROCEDURE by_projection(keys int, batch int) LANGUAGE plpgsql AS $$
DECLARE
    start timestamptz; n bigint; t text := CASE keys WHEN 1000 THEN 'few' ELSE 'many' END;
BEGIN
    PERFORM es_create_projection('catchup', format($h$
        INSERT INTO %1$s AS t SELECT data->>'%1$s', count(*), sum((data->>'amount')::numeric) FROM new_events GROUP BY 1
        ON CONFLICT (key) DO UPDATE SET n = t.n + EXCLUDED.n, amount = t.amount + EXCLUDED.amount$h$, t),
        categories => '{sale}', tables => ARRAY[t], batch_size => batch);
    COMMIT;
    start := clock_timestamp();
    LOOP
        n := es_run_projection('catchup', 1);
        COMMIT;
        EXIT WHEN n = 0;
    END LOOP;
    INSERT INTO caught SELECT keys, batch, sum(f.n), extract(epoch FROM clock_timestamp() - start)
        FROM (SELECT few.n FROM few WHERE keys = 1000 UNION ALL SELECT many.n FROM many WHERE keys <> 1000) f;
    PERFORM es_drop_projection('catchup');
END $$;
CREATE TABLE few (key text PRIMARY KEY, n bigint NOT NULL, amount numeric NOT NULL) WITH (fillfactor = 50);
CREATE TABLE many (LIKE few INCLUDING ALL) WITH (fillfactor = 50);
CREATE TABLE loop_checkpoint (position bigint);
INSERT INTO loop_checkpoint VALUES (0);
DO $$ BEGIN FOR b IN 0..49 LOOP
    PERFORM es_append_batch(array_agg('sale-' || (b * 10000 + i) % 20000), array_agg('Sold'::text),
        array_agg(jsonb_build_object('few', 'key-' || (b * 10000 + i) % 1009 % 1000, 'many', 'key-' || (b * 10000 + i)::bigint * 7919 % 100000,
            'amount', i % 977 / 100.0, 'note', 'as it was sold')))
    FROM generate_series(1, 10000) i; COMMIT; END LOOP; END $$;
VACUUM ANALYZE;
