-- Projections: handlers over new_events, batches of whole calls, quarantine, rebuilds, inline mode, side effects.
SET client_min_messages = warning;
SET timezone = 'UTC';
\t on
\a
-- Loads of the tests before may have asked for snapshots: a worker that takes one has locked what is dropped here.
DO $$ BEGIN
    WHILE EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()) LOOP
        PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
    END LOOP;
END $$;
DROP SCHEMA IF EXISTS event_store CASCADE;
SELECT es_create_store();
CREATE SCHEMA read_model;
SET search_path = read_model, public;

CREATE FUNCTION try(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE code text; message text; detail text; hint text;
BEGIN
    EXECUTE statement;
    RETURN NEXT 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN NEXT code || ': ' || message;
    IF detail <> '' THEN RETURN NEXT '  detail: ' || detail; END IF;
    IF hint <> '' THEN RETURN NEXT '  hint: ' || hint; END IF;
END $$;

-- ---------------------------------------------------------------- what a handler sees, and once only

CREATE TABLE revenue (country text PRIMARY KEY, orders bigint NOT NULL, eur numeric NOT NULL);
CREATE TABLE seen (batch bigint, position bigint, stream text, version bigint, event_type text, data jsonb);
CREATE SEQUENCE batch_number;

SELECT es_create_projection('revenue', $$
    INSERT INTO revenue AS r SELECT data->>'country', count(*), sum((data->>'eur')::numeric) FROM new_events GROUP BY 1
    ON CONFLICT (country) DO UPDATE SET orders = r.orders + EXCLUDED.orders, eur = r.eur + EXCLUDED.eur$$,
    categories => '{order}', event_types => '{Placed}', tables => '{revenue}');
SELECT es_create_projection('seen', $$
    INSERT INTO seen SELECT (SELECT nextval('batch_number')), position, stream, version, event_type, data FROM new_events$$,
    tables => '{seen}', batch_size => 3);
-- the same again does nothing; another one is an error
SELECT es_create_projection('seen', $$
    INSERT INTO seen SELECT (SELECT nextval('batch_number')), position, stream, version, event_type, data FROM new_events$$,
    tables => '{seen}', batch_size => 3);
SELECT try($$SELECT es_create_projection('seen', 'SELECT 1', tables => '{seen}')$$);

SELECT count(es_append('order-' || i, 0, CASE WHEN i % 5 = 0 THEN 'Noted' ELSE 'Placed' END,
    jsonb_build_object('country', 'C' || i % 2, 'eur', i))) FROM generate_series(1, 10) i;
SELECT version FROM es_append('customer-1', 0, 'Placed', '{"country": "C0", "eur": 1000}');
SELECT es_run_projection('revenue'), es_run_projection('revenue');
SELECT * FROM revenue ORDER BY 1;
SELECT es_run_projection('seen', max_batches => 1), es_run_projection('seen', 2), es_run_projection('seen');
SELECT batch - min(batch) OVER () + 1 AS batch, count(*), min(stream), max(stream) FROM seen GROUP BY batch ORDER BY 1;
-- all columns of an event, as es_read_all has them
SELECT es_create_projection('columns', $$SELECT position, stream, category, version, event_type, schema_version, event_id,
    data, metadata, occurred_at, recorded_at FROM new_events$$);
SELECT es_run_projection('columns');
SELECT es_drop_projection('columns');

-- ---------------------------------------------------------------- a call stays whole

TRUNCATE seen;
SELECT version FROM es_append('order-20', 0, '[{"type": "A"}, {"type": "B"}, {"type": "C"}, {"type": "D"}, {"type": "E"}]');
SELECT max(version) FROM es_append_multi('[{"stream": "order-21", "expected_version": "any", "events": [{"type": "A"}, {"type": "B"}]}, {"stream": "order-22", "expected_version": "any", "events": [{"type": "A"}]}]');
SELECT version FROM es_append('order-23', 0, 'A', '{}');
SELECT es_run_projection('seen');
SELECT count(*), string_agg(DISTINCT stream, ' ') FROM seen GROUP BY batch ORDER BY batch;
-- the events of the caller's own transaction are left for later
BEGIN;
SELECT version FROM es_append('order-24', 0, 'A', '{}');
SELECT es_run_projection('seen');
COMMIT;
SELECT es_run_projection('seen');

-- ---------------------------------------------------------------- an event that fails

TRUNCATE seen, revenue;
SELECT es_drop_projection('revenue');
SELECT es_create_projection('revenue', $$
    INSERT INTO revenue AS r SELECT data->>'country', count(*), sum((data->>'eur')::numeric) FROM new_events GROUP BY 1
    ON CONFLICT (country) DO UPDATE SET orders = r.orders + EXCLUDED.orders, eur = r.eur + EXCLUDED.eur$$,
    categories => '{order}', event_types => '{Placed}', tables => '{revenue}', from_position => max(position)) FROM event_store.events;
SELECT count(es_append('order-3' || i, 0, 'Placed', '{"country": "A", "eur": 1}')) FROM generate_series(0, 5) i;
SELECT version FROM es_append('order-40', 0, 'Placed', '{"country": "A", "eur": "many"}');
SELECT version FROM es_append('order-40', 1, 'Placed', '{"country": "A", "eur": 100}');
SELECT version FROM es_append('order-41', 0, 'Placed', '{"country": "A", "eur": 1}');
SET client_min_messages = error;
SELECT es_run_projection('revenue');
SELECT * FROM revenue;
SELECT name, stream, events, error, error_code, attempts, rebuild FROM event_store.quarantine;
SELECT status, quarantined_streams, last_error FROM event_store.projection_status WHERE name = 'revenue';
-- what comes behind it in the stream is parked too, and what a call ties to it; everything else goes on
SELECT max(version) FROM es_append_multi('[{"stream": "order-40", "expected_version": "any", "events": [{"type": "Placed", "data": {"country": "A", "eur": 1000}}]},
    {"stream": "order-30", "expected_version": "any", "events": [{"type": "Placed", "data": {"country": "A", "eur": 1000}}]}]');
SELECT version FROM es_append('order-30', -2, 'Placed', '{"country": "A", "eur": 10000}');
SELECT version FROM es_append('order-31', -2, 'Placed', '{"country": "A", "eur": 1}');
SELECT es_run_projection('revenue');
SELECT * FROM revenue;
SELECT stream, events, error IS NULL AS behind, together = min(together) OVER () AS together FROM event_store.quarantine ORDER BY 1;
SELECT es_wait_for_projection('revenue', (SELECT max(position) FROM event_store.events), stream => 'order-31');
SELECT try($$SELECT es_wait_for_projection('revenue', (SELECT max(position) FROM event_store.events), stream => 'order-40')$$);
-- again: it fails again, in order
SELECT es_retry_quarantined('revenue', 'order-30');
SELECT stream, attempts, events FROM event_store.quarantine ORDER BY 1;
SELECT * FROM revenue;
SELECT try($$SELECT es_retry_quarantined('revenue', 'order-31')$$);
-- with an upcaster that mends it
SELECT es_register_upcaster('Placed', 1, $$CASE WHEN data->>'eur' = 'many' THEN data || '{"eur": 7}' ELSE data END$$);
SELECT status FROM event_store.projection_status ORDER BY name;
SELECT es_retry_quarantined('revenue');
SELECT * FROM revenue;
SELECT count(*) FROM event_store.quarantine;
SELECT es_retry_quarantined('revenue');

-- an upcaster that fails parks its own events only
SELECT es_register_upcaster('Shifted', 1, $$jsonb_build_object('country', 'B', 'eur', 100 / (data->>'n')::int)$$, 'Placed');
SELECT version FROM es_append('order-50', 0, 'Shifted', '{"n": 1}', schema_version => 1);
SELECT version FROM es_append('order-51', 0, 'Shifted', '{"n": 0}', schema_version => 1);
SELECT version FROM es_append('order-52', 0, 'Shifted', '{"n": 2}', schema_version => 1);
SELECT es_run_projection('revenue');
SELECT * FROM revenue ORDER BY 1;
SELECT stream, error, error_code FROM event_store.quarantine;
SELECT es_unregister_upcaster('Shifted', 1);
SELECT es_unregister_upcaster('Placed', 1);

-- a handler that works on single events only still works
CREATE TABLE latest (stream text PRIMARY KEY, data jsonb);
SELECT es_create_projection('latest', $$
    INSERT INTO latest SELECT stream, data FROM new_events ON CONFLICT (stream) DO UPDATE SET data = EXCLUDED.data$$,
    tables => '{latest}', event_types => '{Set}');
SELECT count(es_append('thing-' || i % 3, -2, 'Set', to_jsonb(i))) FROM generate_series(1, 12) i;
SELECT es_run_projection('latest');
SELECT * FROM latest ORDER BY 1;
SELECT count(*) FROM event_store.quarantine WHERE name = 'latest';

-- ---------------------------------------------------------------- a handler that is broken

CREATE TABLE gone (stream text);
SELECT es_create_projection('gone', 'INSERT INTO gone SELECT stream FROM new_events', tables => '{gone}');
DROP TABLE gone;
SET client_min_messages = warning;
SELECT es_run_projection('gone');
SELECT status, position, last_error, last_error_code FROM event_store.projection_status WHERE name = 'gone';
SELECT try($$SELECT es_run_projection('gone')$$);
SELECT try($$SELECT es_wait_for_projection('gone', 1)$$);
CREATE TABLE gone (stream text);
SELECT es_resume('gone');
SELECT es_run_projection('gone') = (SELECT count(*) FROM event_store.events);
SELECT es_drop_projection('gone');
-- one that fails for one stream after the other is taken to be broken: nothing is parked
SELECT es_create_projection('broken', $$SELECT 1 / 0 FROM new_events$$);
SET client_min_messages = error;
SELECT es_run_projection('broken');
SELECT status, position, last_error FROM event_store.projection_status WHERE name = 'broken';
SELECT count(*) FROM event_store.quarantine WHERE name = 'broken';
SELECT es_drop_projection('broken');
SET client_min_messages = warning;

-- nothing is left behind by the trial without events that a new handler is put to
CREATE TABLE counted (n int);
SELECT es_create_projection('counted', 'INSERT INTO counted SELECT count(*) FROM new_events', tables => '{counted}');
SELECT es_rebuild_projection('counted');
SELECT es_run_projection('counted') > 0;
SELECT count(*) FILTER (WHERE n = 0) FROM counted;
SELECT es_drop_projection('counted');

-- ---------------------------------------------------------------- pause and resume

SELECT es_pause('seen');
SELECT status FROM event_store.projection_status WHERE name = 'seen';
SELECT try($$SELECT es_run_projection('seen')$$);
SELECT try($$SELECT es_wait_for_projection('seen', 1)$$);
SELECT es_resume('seen');
SELECT es_run_projection('seen') > 0;

-- ---------------------------------------------------------------- rebuilds

CREATE VIEW revenue_view AS SELECT sum(eur) FROM revenue;
SELECT 'revenue'::regclass::oid AS before \gset
SELECT es_rebuild_projection('revenue');
SELECT status, rebuild FROM event_store.projection_status WHERE name = 'revenue';
SELECT name, state, events, percent FROM event_store.rebuild_progress;
SELECT es_cancel_rebuild('revenue'), es_cancel_rebuild('revenue');
SELECT count(*) FROM event_store.rebuild_progress;
-- with another handler and filter: what is deployed
SELECT es_rebuild_projection('revenue', $$
    INSERT INTO revenue AS r SELECT 'all of ' || category, count(*), sum(coalesce(nullif(data->>'eur', 'many'), '0')::numeric) FROM new_events GROUP BY 1
    ON CONFLICT (country) DO UPDATE SET orders = r.orders + EXCLUDED.orders, eur = r.eur + EXCLUDED.eur$$, '{order,customer}');
SELECT * FROM revenue ORDER BY 1;
SELECT es_run_projection('revenue') > 0;
SELECT * FROM revenue ORDER BY 1;
SELECT count(*) FROM event_store.quarantine WHERE name = 'revenue';
SELECT * FROM revenue_view;
SELECT 'revenue'::regclass::oid = :before AS same_table, count(*) FILTER (WHERE nspname LIKE '%rebuild%') AS schemas FROM pg_namespace;
SELECT status, lag_events FROM event_store.projection_status WHERE name = 'revenue';
-- and goes on with it
SELECT version FROM es_append('customer-1', -2, 'Placed', '{"country": "C0", "eur": 1}');
SELECT es_run_projection('revenue');
SELECT * FROM revenue ORDER BY 1;
-- fast
SELECT es_rebuild_projection('revenue', fast => true);
SELECT es_run_projection('revenue') > 0;
SELECT * FROM revenue ORDER BY 1;

-- two tables with a foreign key, an identity, a generated column; one without a key; names in capitals
CREATE TABLE "Customer" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "Name" text UNIQUE, len int GENERATED ALWAYS AS (length("Name")) STORED);
CREATE TABLE visit (customer text REFERENCES "Customer" ("Name"), n int);
SELECT es_create_projection('Visits', $$
    INSERT INTO "Customer" ("Name") SELECT DISTINCT data->>'who' FROM new_events ON CONFLICT DO NOTHING;
    INSERT INTO visit SELECT data->>'who', (data->>'n')::int FROM new_events$$,
    event_types => '{Visited}', tables => '{"\"Customer\"", visit}');
SELECT count(es_append('visit-' || i, 0, 'Visited', jsonb_build_object('who', chr(65 + i % 3), 'n', i))) FROM generate_series(1, 7) i;
SELECT es_run_projection('Visits');
DELETE FROM visit WHERE n > 3;
UPDATE visit SET n = n + 100;
DELETE FROM "Customer" WHERE "Name" = 'A' AND NOT EXISTS (SELECT FROM visit WHERE customer = 'A');
SELECT es_rebuild_projection('Visits');
SELECT es_run_projection('Visits');
SELECT "Name", len FROM "Customer" ORDER BY 1;
SELECT * FROM visit ORDER BY n;
SELECT version FROM es_append('visit-8', 0, 'Visited', '{"who": "Zed", "n": 8}');
SELECT es_run_projection('Visits');
SELECT count(DISTINCT id), count(*) FROM "Customer";

-- values that change places under another unique index; not where that would take others' rows along
CREATE TABLE ranked (stream text PRIMARY KEY, rank int UNIQUE);
CREATE TABLE prize (stream text REFERENCES ranked ON DELETE CASCADE);
SELECT es_create_projection('ranked', $$INSERT INTO ranked SELECT stream, (data->>'r')::int FROM new_events$$, event_types => '{Ranked}', tables => '{ranked}');
SELECT count(es_append('rank-' || i, 0, 'Ranked', jsonb_build_object('r', i))) FROM generate_series(1, 3) i;
SELECT es_run_projection('ranked');
INSERT INTO prize SELECT stream FROM ranked;
SELECT es_rebuild_projection('ranked', $$INSERT INTO ranked SELECT stream, 4 - (data->>'r')::int FROM new_events$$);
SET client_min_messages = error;
SELECT es_run_projection('ranked');
SET client_min_messages = warning;
SELECT state, last_error FROM event_store.rebuild_progress;
SELECT count(*) FROM prize;
DROP TABLE prize;
SELECT es_resume('ranked');
SELECT es_run_projection('ranked');
SELECT * FROM ranked ORDER BY 1;

-- what cannot be rebuilt
SELECT es_create_projection('unlisted', 'INSERT INTO seen (stream) SELECT stream FROM new_events');
SELECT try($$SELECT es_rebuild_projection('unlisted')$$);
SELECT es_drop_projection('unlisted');
CREATE TABLE read_model.qualified (stream text);
SELECT es_create_projection('qualified', 'INSERT INTO read_model.qualified (stream) SELECT stream FROM new_events', tables => '{read_model.qualified}');
SELECT try($$SELECT es_rebuild_projection('qualified')$$);
SELECT es_drop_projection('qualified');
CREATE FUNCTION write_elsewhere(s text) RETURNS text LANGUAGE plpgsql SET search_path = read_model AS
    $$ BEGIN INSERT INTO seen (stream) VALUES (s); RETURN s; END $$;
CREATE TABLE elsewhere (LIKE latest INCLUDING ALL);
SELECT es_create_projection('elsewhere', 'INSERT INTO elsewhere SELECT write_elsewhere(stream) FROM new_events ON CONFLICT DO NOTHING',
    tables => '{elsewhere}', event_types => '{Set}');
SELECT es_rebuild_projection('elsewhere');
SET client_min_messages = error;
SELECT es_run_projection('elsewhere');
SET client_min_messages = warning;
SELECT state, last_error FROM event_store.rebuild_progress;
SELECT es_drop_projection('elsewhere');
SELECT try($$SELECT es_rebuild_projection('revenue', 'INSERT INTO nowhere SELECT 1')$$);

-- ---------------------------------------------------------------- inline

CREATE TABLE stock (sku text PRIMARY KEY, n int NOT NULL CHECK (n >= 0));
SELECT version FROM es_append('stock-a', 0, 'Received', '{"sku": "a", "n": 3}');
SELECT es_create_projection('stock', $$
    INSERT INTO stock SELECT DISTINCT data->>'sku', 0 FROM new_events ON CONFLICT DO NOTHING;
    UPDATE stock s SET n = s.n + d.n FROM (SELECT data->>'sku' AS sku, sum((data->>'n')::int) AS n FROM new_events GROUP BY 1) d
    WHERE s.sku = d.sku$$, categories => '{stock}', tables => '{stock}', mode => 'inline');
SELECT * FROM stock;
SELECT version FROM es_append('stock-a', 1, 'Received', '{"sku": "a", "n": 2}');
SELECT * FROM stock;
-- an error refuses the append
SELECT try($$SELECT es_append('stock-a', 2, 'Taken', '{"sku": "a", "n": -6}')$$);
SELECT * FROM stock;
SELECT es_stream_version('stock-a');
-- together with the append, or not at all
BEGIN;
SELECT version FROM es_append('stock-a', 2, 'Taken', '{"sku": "a", "n": -1}');
SELECT * FROM stock;
ROLLBACK;
SELECT * FROM stock;
SELECT events, replayed FROM es_append_batch('{stock-a,stock-b,order-a,stock-a}', '{R,R,R,R}', ARRAY['{"sku":"a","n":1}','{"sku":"b","n":2}','{"sku":"c","n":4}','{"sku":"a","n":1}']::jsonb[]);
SELECT * FROM stock ORDER BY 1;
SELECT es_wait_for_projection('stock', 1000000), es_run_projection('stock');
SELECT status, mode, lag_events FROM event_store.projection_status WHERE name = 'stock';
SELECT try($$SELECT es_pause('stock')$$);
-- to async and back
SELECT es_set_projection_mode('stock', 'async');
SELECT version FROM es_append('stock-a', -2, 'Received', '{"sku": "a", "n": 10}');
SELECT * FROM stock ORDER BY 1;
SELECT es_set_projection_mode('stock', 'inline');
SELECT * FROM stock ORDER BY 1;
SELECT version FROM es_append('stock-a', -2, 'Received', '{"sku": "a", "n": 100}');
SELECT * FROM stock ORDER BY 1;
SELECT es_rebuild_projection('stock');
SELECT es_run_projection('stock');
SELECT * FROM stock ORDER BY 1;
BEGIN;
SELECT version FROM es_append('stock-a', -2, 'Received', '{"sku": "a", "n": 1}');
SELECT try($$SELECT es_set_projection_mode('stock', 'async')$$);
ROLLBACK;

-- ---------------------------------------------------------------- a handler may not append; a process manager may

CREATE FUNCTION note(s text) RETURNS void LANGUAGE sql AS $$ SELECT es_append('note-' || s, -2, 'Noted', '{}') $$;
SELECT es_create_projection('appends', 'SELECT note(stream) FROM new_events', categories => '{order}');
SET client_min_messages = error;
SELECT es_run_projection('appends');
SET client_min_messages = warning;
SELECT status, last_error FROM event_store.projection_status WHERE name = 'appends';
SELECT es_drop_projection('appends');
SELECT try($$SELECT es_create_projection('stock2', 'SELECT 1', mode => 'inline', side_effects => true)$$);
-- one that begins later than now, within a call: after the second of its three events
CREATE TABLE begun (version bigint);
SELECT es_create_projection('later', 'INSERT INTO begun SELECT version FROM new_events', mode => 'inline', from_position => last_value + 3)
FROM event_store.position_seq;
SELECT version FROM es_append('begin-1', 0, 'Begun', '{}');
SELECT version FROM es_append('begin-1', 1, '[{"type": "Begun"}, {"type": "Begun"}, {"type": "Begun"}]');
SELECT es_set_projection_mode('later', 'async');
SELECT version FROM es_append('begin-1', 4, 'Begun', '{}');
SELECT es_run_projection('later');
SELECT array_agg(version ORDER BY version) FROM begun;
SELECT es_drop_projection('later');
SELECT es_create_projection('later', 'INSERT INTO begun SELECT version FROM new_events', mode => 'inline', from_position => 1000000);
SELECT es_set_projection_mode('later', 'async');
SELECT position, scan_from FROM event_store.checkpoints WHERE projection = 'later';
SELECT es_drop_projection('later');
DROP TABLE begun;
SELECT * FROM es_check();

-- An order saga. What it does next stands in a table; what it decides are events.
CREATE TABLE saga (order_id text PRIMARY KEY, sku text, n int, state text, pay_by timestamptz);
CREATE FUNCTION order_saga(order_id text, event_type text, data jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE s saga;
BEGIN
    SELECT * INTO s FROM saga WHERE saga.order_id = order_saga.order_id FOR UPDATE;
    IF event_type = 'Ordered' THEN
        INSERT INTO saga VALUES (order_id, data->>'sku', (data->>'n')::int, 'reserved', (data->>'pay_by')::timestamptz);
        PERFORM es_append('stock-' || (data->>'sku'), -2, 'Reserved', jsonb_build_object('sku', data->>'sku', 'n', -(data->>'n')::int, 'order', order_id));
    ELSIF event_type = 'Paid' AND s.state = 'reserved' THEN
        UPDATE saga SET state = 'paid' WHERE saga.order_id = s.order_id;
        PERFORM es_append(order_id, -2, 'Confirmed', '{}');
    ELSIF event_type IN ('PaymentFailed', 'PaymentOverdue') AND s.state = 'reserved' THEN
        UPDATE saga SET state = 'released' WHERE saga.order_id = s.order_id;
        PERFORM es_append('stock-' || s.sku, -2, 'Released', jsonb_build_object('sku', s.sku, 'n', s.n, 'order', order_id));
    END IF;
END $$;
SELECT es_create_projection('order saga', $$SELECT order_saga(stream, event_type, data) FROM new_events ORDER BY position$$,
    categories => '{sale}', event_types => '{Ordered,Paid,PaymentFailed,PaymentOverdue}', side_effects => true);
SELECT version FROM es_append('stock-desk', 0, 'Received', '{"sku": "desk", "n": 5}');
SELECT version FROM es_append('sale-1', 0, 'Ordered', '{"sku": "desk", "n": 1, "pay_by": "2026-01-01"}');
SELECT version FROM es_append('sale-2', 0, 'Ordered', '{"sku": "desk", "n": 2, "pay_by": "2026-01-01"}');
SELECT version FROM es_append('sale-3', 0, 'Ordered', '{"sku": "desk", "n": 1, "pay_by": "2026-01-01"}');
SELECT version FROM es_append('sale-1', 1, 'Paid', '{}');
SELECT version FROM es_append('sale-2', 1, 'PaymentFailed', '{"why": "card"}');
SELECT es_run_projection('order saga');
SELECT order_id, state FROM saga ORDER BY 1;
SELECT n FROM stock WHERE sku = 'desk';
-- a timer (cron, say) turns a deadline that has passed into an event, once: the expected version sees to that
SELECT version FROM saga, es_append(order_id, es_stream_version(order_id), 'PaymentOverdue', '{}') WHERE state = 'reserved' AND pay_by < now();
SELECT es_run_projection('order saga'), es_run_projection('order saga');
SELECT order_id, state FROM saga ORDER BY 1;
SELECT n FROM stock WHERE sku = 'desk';
SELECT stream, event_type, data FROM event_store.events WHERE event_type IN ('Reserved', 'Released', 'Confirmed') ORDER BY position;
SELECT try($$SELECT es_rebuild_projection('order saga')$$);
SELECT try($$SELECT es_set_projection_mode('order saga', 'inline')$$);

-- ---------------------------------------------------------------- bad input

SELECT try(format($f$SELECT es_create_projection(%s)$f$, args)) FROM (VALUES
    ($$NULL, 'SELECT 1'$$), ($$'', 'SELECT 1'$$), ($$repeat('x', 513), 'SELECT 1'$$), ($$'p', NULL$$), ($$'p', ''$$),
    ($$'p', 'SELEC 1'$$), ($$'p', 'COMMIT'$$), ($$'p', 'SELECT 1; DROP TABLE seen'$$), ($$'p', 'SELECT 1 INTO x'$$),
    ($$'p', 'SELECT nothing FROM new_events'$$), ($$'p', 'SELECT 1', categories => '{}'$$),
    ($$'p', 'SELECT 1', categories => '{a,NULL}'$$), ($$'p', 'SELECT 1', categories => '{a-b}'$$),
    ($$'p', 'SELECT 1', categories => '{{a},{b}}'$$), ($$'p', 'SELECT 1', event_types => '{""}'$$),
    ($$'p', 'SELECT 1', tables => '{}'$$), ($$'p', 'SELECT 1', tables => '{seen,seen}'$$), ($$'p', 'SELECT 1', tables => '{NULL}'$$),
    ($$'p', 'SELECT 1', tables => '{revenue_view}'$$), ($$'p', 'SELECT 1', tables => '{event_store.mark}'$$),
    ($$'p', 'SELECT 1', tables => '{pg_class}'$$), ($$'p', 'SELECT 1', tables => ARRAY[0::oid]::regclass[]$$),
    ($$'p', 'SELECT 1', mode => 'sync'$$), ($$'p', 'SELECT 1', mode => NULL$$), ($$'p', 'SELECT 1', batch_size => 0$$),
    ($$'p', 'SELECT 1', batch_size => NULL$$), ($$'p', 'SELECT 1', from_position => -1$$), ($$'p', 'SELECT 1', from_position => NULL$$),
    ($$'p', 'SELECT 1', from_position => 9223372036854775807$$), ($$'p', 'SELECT 1', side_effects => NULL$$)) a(args);
CREATE TEMP TABLE temporary (a int);
CREATE UNLOGGED TABLE not_logged (a int);
SELECT try($$SELECT es_create_projection('p', 'SELECT 1', tables => '{temporary}')$$);
SELECT try($$SELECT es_create_projection('p', 'SELECT 1', tables => '{not_logged}')$$);
SELECT try(format('SELECT %s', call)) FROM (VALUES
    ($$es_pause('none')$$), ($$es_resume('none')$$), ($$es_drop_projection('none')$$), ($$es_drop_projection(NULL)$$),
    ($$es_set_projection_mode('none', 'inline')$$), ($$es_set_projection_mode('seen', 'x')$$), ($$es_set_projection_mode('seen', NULL)$$),
    ($$es_rebuild_projection('none')$$), ($$es_rebuild_projection('seen', fast => NULL)$$), ($$es_rebuild_projection('seen', 'COMMIT')$$),
    ($$es_rebuild_projection('seen', NULL, '{}')$$), ($$es_cancel_rebuild('none')$$),
    ($$es_run_projection('none')$$), ($$es_run_projection(NULL)$$), ($$es_run_projection('seen', 0)$$), ($$es_run_projection('seen', -1)$$),
    ($$es_wait_for_projection('none', 1)$$), ($$es_wait_for_projection(NULL, 1)$$), ($$es_wait_for_projection('seen', NULL)$$),
    ($$es_wait_for_projection('seen', 1, NULL)$$), ($$es_wait_for_projection('seen', 1, '-1 s')$$),
    ($$es_retry_quarantined('none')$$), ($$es_retry_quarantined(NULL)$$), ($$es_retry_quarantined('seen', 'none')$$)) a(call);
SELECT es_wait_for_projection('seen', 9223372036854775807, '0'), es_wait_for_projection('seen', 9223372036854775807, '20 ms');
SELECT es_wait_for_projection('seen', 0, '100000000 years'), es_wait_for_projection('seen', -5);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT try($$SELECT es_wait_for_projection('seen', 1)$$);
COMMIT;
BEGIN READ ONLY;
SELECT try($$SELECT es_run_projection('seen')$$);
SELECT try($$SELECT es_create_projection('p', 'SELECT 1')$$);
ROLLBACK;

-- ---------------------------------------------------------------- rights

CREATE ROLE es_projector;
GRANT USAGE ON SCHEMA read_model TO es_projector;
SET ROLE es_projector;
SELECT try($$SELECT es_create_projection('mine', 'SELECT 1')$$);
RESET ROLE;
SELECT es_grant('es_projector', 'operate'), es_grant('es_projector', 'define');
SET ROLE es_projector;
SET search_path = read_model, public;
SELECT try($$SELECT es_create_projection('mine', 'INSERT INTO latest SELECT stream FROM new_events ON CONFLICT DO NOTHING')$$);
RESET ROLE;
CREATE TABLE mine (LIKE latest INCLUDING ALL);
GRANT INSERT, SELECT ON mine TO es_projector;
SET ROLE es_projector;
SELECT try($$SELECT es_create_projection('mine', 'INSERT INTO stock SELECT stream, 1 FROM new_events')$$);
SELECT es_create_projection('mine', 'INSERT INTO mine SELECT current_user || stream FROM new_events ON CONFLICT DO NOTHING', event_types => '{Set}', tables => '{mine}');
RESET ROLE;
-- run by anybody, it acts as whoever created it
SELECT es_run_projection('mine');
SELECT stream FROM mine ORDER BY 1;
REVOKE INSERT ON mine FROM es_projector;
SELECT version FROM es_append('thing-1', -2, 'Set', '1');
SET client_min_messages = error;
SELECT es_run_projection('mine');
SELECT status, last_error FROM event_store.projection_status WHERE name = 'mine';
-- who may operate and not define rebuilds what is there
SELECT es_revoke('es_projector', 'define');
SET ROLE es_projector;
SELECT try($$SELECT es_rebuild_projection('mine', handler => 'SELECT FROM new_events')$$), try($$SELECT es_rebuild_projection('mine', event_types => '{A}')$$);
SELECT try($$SELECT es_rebuild_projection('mine')$$);
RESET ROLE;
SELECT es_revoke('es_projector', 'operate');
SELECT es_drop_projection('mine');
DROP OWNED BY es_projector;
DROP ROLE es_projector;

-- ---------------------------------------------------------------- a stream that is parked behind another, and then found to fail earlier

CREATE TABLE tied (line bigserial, stream text, version bigint, n int);
SELECT es_create_projection('tied', 'INSERT INTO tied (stream, version, n) SELECT stream, version, (data->>''n'')::int FROM new_events ORDER BY position',
    categories => '{tie}', tables => '{tied}');
SELECT version FROM es_append('tie-1', 0, 'N', '{"n": "bad"}');
SELECT version FROM es_append('tie-2', 0, 'N', '{"n": "bad"}');
SELECT version FROM es_append('tie-2', 1, 'N', '{"n": 2}');
SELECT version FROM es_append_multi('[{"stream": "tie-1", "expected_version": "any", "events": {"type": "N", "data": {"n": 3}}}, {"stream": "tie-2", "expected_version": "any", "events": {"type": "N", "data": {"n": 3}}}]');
SELECT version FROM es_append('tie-3', 0, 'N', '{"n": 4}');
SELECT es_run_projection('tied');
-- all of tie-2, although the call behind tie-1 was parked first
SELECT stream, version FROM tied ORDER BY line;
SELECT stream, events, error_code, position = error_position AS from_there, together = min(together) OVER () AS together FROM event_store.quarantine WHERE name = 'tied' ORDER BY 1;
SELECT es_register_upcaster('N', 1, $$CASE WHEN data->>'n' = 'bad' THEN '{"n": 1}' ELSE data END$$);
SELECT es_retry_quarantined('tied', 'tie-2');
SELECT stream, version, n FROM tied ORDER BY line;
SELECT es_unregister_upcaster('N', 1);
SELECT es_drop_projection('tied');
-- ---------------------------------------------------------------- columns

SET datestyle = ISO;
-- a batch has the columns that the handler can see, in whatever way it does; known from its first batch on
CREATE TABLE shown (form int, row text);
CREATE TABLE wanted (stream text, data jsonb);
CREATE FUNCTION describe(anyelement) RETURNS text LANGUAGE sql STABLE AS $$ SELECT to_jsonb($1)::text $$;
CREATE TABLE forms (form int GENERATED ALWAYS AS IDENTITY, query text);
INSERT INTO forms (query) VALUES ('SELECT to_jsonb(e)::text FROM %s e'), ('SELECT describe(e) FROM %s e'), ('SELECT to_jsonb(%1$s)::text FROM %1$s'), ('SELECT e::text FROM %s AS e'), ('SELECT (e).data::text FROM %s e'),
    ('SELECT e.describe FROM %1$s e'), ('SELECT (SELECT e::text) FROM %s e, wanted w WHERE w.stream = e.stream'), ('SELECT r::text FROM (SELECT * FROM %s) r'),
    ('WITH e AS (TABLE %s) SELECT e::text FROM e'), ('SELECT to_jsonb(r)::text FROM (SELECT e.* FROM %s e) r'), ('SELECT k::text || i FROM %s AS e (p, s, c, v, t, w, i, k)'),
    ('SELECT k::text FROM (%s e JOIN wanted w ON w.stream = e.stream) AS j (p, s, c, v, t, x, i, k)'), ('SELECT to_jsonb(j)::text FROM (%s e CROSS JOIN (SELECT 1 AS one) o) j'),
    ('SELECT version::text FROM %s NATURAL JOIN wanted'), ('SELECT version::text FROM %s e JOIN wanted w USING (stream, data)'), ('SELECT data::text FROM %s data'),
    ('SELECT to_jsonb(data)::text FROM %s data'), ('SELECT (SELECT w.data FROM wanted w WHERE w.stream = e.stream)::text FROM %s e'), ('SELECT (SELECT max(data::text) FROM wanted w WHERE w.stream = %1$s.stream) FROM %1$s'),
    ('SELECT count(*)::text FROM %s'), ('SELECT max(category) || max(event_type) FROM %s'), ('SELECT (metadata->>''a'') || schema_version || event_id FROM %s'), ('SELECT (occurred_at, recorded_at)::text FROM %s'),
    ('SELECT string_agg(event_type, '','' ORDER BY version) FROM %s GROUP BY stream'), ('SELECT x.name || x.version FROM %1$s e, LATERAL (SELECT e.stream AS name, e.version) x'),
    ('SELECT data::text FROM %s ORDER BY metadata'), ('SELECT rank() OVER (PARTITION BY stream ORDER BY position) || event_type FROM %s'), ('SELECT m.event_type FROM %s e, jsonb_to_recordset(e.data) AS m (event_type text)'),
    ('SELECT one.data::text || two.stream FROM %1$s one JOIN %1$s two USING (position)'), ('SELECT category FROM %s GROUP BY ROLLUP (category)'), ('SELECT event_type FROM %1$s INTERSECT SELECT stream FROM %1$s UNION SELECT data::text FROM %1$s');
INSERT INTO wanted VALUES ('form-1', '[{"event_type": "inside"}]'), ('form-2', '[{"n": 2}]');
SELECT es_create_projection('form-' || form, format('INSERT INTO shown SELECT ' || form || ', (' || query || ' LIMIT 1)', 'new_events'), categories => '{form}', batch_size => 1) FROM forms;
SELECT version FROM es_append('form-3', 0, 'First', '[]');
SELECT sum(es_run_projection('form-' || form)) FROM forms;
TRUNCATE shown;
SELECT version FROM es_append('form-1', 0, 'Shown', '[{"event_type": "inside"}]', '{"a": 1}');
SELECT sum(es_run_projection('form-' || form)) FROM forms;
SELECT version FROM es_append('form-2', 0, 'Shown', '[{"n": 2}]', '{"a": 2}');
SELECT sum(es_run_projection('form-' || form)) FROM forms;
-- the same queries over the events as they are read
CREATE VIEW form_1 AS SELECT * FROM es_read('form-1');
CREATE VIEW form_2 AS SELECT * FROM es_read('form-2');
CREATE TABLE expected (LIKE shown);
SELECT t, count(*) FROM forms, (VALUES ('form_1'), ('form_2')) f (name), try(format('INSERT INTO expected SELECT ' || form || ', (' || query || ' LIMIT 1)', f.name)) t GROUP BY 1;
SELECT count(*), count(row), count(DISTINCT form) FROM shown;
SELECT 'missing', * FROM (TABLE expected EXCEPT ALL TABLE shown) x UNION ALL SELECT 'wrong', * FROM (TABLE shown EXCEPT ALL TABLE expected) x ORDER BY 2, 1;
SELECT count(es_drop_projection('form-' || form)) FROM forms;
DROP VIEW form_1, form_2;
DROP TABLE shown, wanted, forms, expected;
-- and in statements of every kind
CREATE TABLE kinds (k text PRIMARY KEY, n bigint, d jsonb);
SELECT es_create_projection('kind-1', $$MERGE INTO kinds USING (SELECT stream, count(*) AS n FROM new_events GROUP BY 1) e ON kinds.k = e.stream
    WHEN MATCHED AND e.n > 0 THEN UPDATE SET n = kinds.n + e.n WHEN NOT MATCHED THEN INSERT VALUES (e.stream, e.n)$$, categories => '{kind}');
SELECT es_create_projection('kind-2', $$WITH i AS (INSERT INTO kinds SELECT 'with ' || stream || position, 1, data FROM new_events RETURNING k, d)
    UPDATE kinds SET n = n + 1 FROM i WHERE kinds.k = i.k RETURNING kinds.*;
    DELETE FROM kinds USING new_events e WHERE kinds.k = 'with ' || e.event_type RETURNING e.data, kinds.k; NOTIFY es_test$$, categories => '{kind}');
SELECT es_create_projection('kind-3', $$INSERT INTO kinds SELECT 'deep ' || v, count(*) FROM (
    WITH RECURSIVE r AS (SELECT version AS v, data, 1 AS d FROM new_events UNION ALL SELECT v, data, d + 1 FROM r WHERE d < 3) SEARCH DEPTH FIRST BY d SET o CYCLE v, d SET c USING p
    SELECT v FROM r WHERE data ? 'a' GROUP BY GROUPING SETS ((v), (d), (v, d))) q WHERE v IS NOT NULL GROUP BY v
    ON CONFLICT (k) WHERE true DO UPDATE SET n = EXCLUDED.n + kinds.n WHERE kinds.n > 0$$, categories => '{kind}');
SELECT es_create_projection('kind-4', $$INSERT INTO kinds SELECT 'window ' || version, sum(schema_version) OVER w, metadata FROM new_events WHERE data @? '$.a'
    WINDOW w AS (PARTITION BY stream ORDER BY position ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) ORDER BY 1 LIMIT (SELECT max(version) FROM new_events)$$, categories => '{kind}');
SELECT count(es_append('kind-1', -2, 'T', '{"a": 1}', '{"b": 2}')) FROM generate_series(1, 2) i;
SELECT sum(es_run_projection('kind-' || i)) FROM generate_series(1, 4) i;
SELECT count(es_append('kind-1', -2, 'T', '{"a": 1}', '{"b": 3}')) FROM generate_series(1, 2) i;
SELECT sum(es_run_projection('kind-' || i)) FROM generate_series(1, 4) i;
SELECT regexp_replace(k, 'kind-1\d+', 'kind-1 and position') AS k, n, d FROM kinds ORDER BY kinds.k;
SELECT count(es_drop_projection('kind-' || i)) FROM generate_series(1, 4) i;
DROP TABLE kinds;

DROP SCHEMA read_model CASCADE;
DROP SCHEMA event_store CASCADE;
SELECT es_create_store();
