-- Reading: by stream, category, position; filters, limits, directions; row by row and whole.
\t on
\pset format unaligned
SELECT es_create_store();
SELECT es_high_water_mark() AS start \gset
SELECT events FROM es_append_batch(
    (SELECT array_agg(CASE WHEN i % 3 = 0 THEN 'rb-' ELSE 'ra-' END || i % 5 ORDER BY i) FROM generate_series(1, 60) i),
    (SELECT array_agg('Read' || i % 4 ORDER BY i) FROM generate_series(1, 60) i),
    (SELECT array_agg(to_jsonb(i) ORDER BY i) FROM generate_series(1, 60) i));
SELECT position - :start AS p60 FROM es_read_all(:start, NULL) ORDER BY position DESC LIMIT 1;

-- by stream
SELECT array_agg(data ORDER BY version) FROM es_read('ra-1');
SELECT array_agg(version) FROM es_read('ra-1');
SELECT array_agg(version) FROM es_read('ra-1', 3);
SELECT array_agg(version) FROM es_read('ra-1', 3, 2);
SELECT array_agg(version) FROM es_read('ra-1', backward => true);
SELECT array_agg(version) FROM es_read('ra-1', backward => true, max_count => 2);
SELECT array_agg(version) FROM es_read('ra-1', 3, backward => true);
SELECT array_agg(version) FROM es_read('ra-1', 3, 2, true);
SELECT array_agg(version) FROM es_read('ra-1', 99);
SELECT array_agg(version) FROM es_read('ra-1', 99, NULL, true);
SELECT array_agg(version) FROM es_read('ra-1', 1, 0);

-- by position, filters inside
SELECT count(*), bool_and(position > before) FROM (SELECT position, lag(position, 1, 0::bigint) OVER () AS before FROM es_read_all(:start, NULL)) e;
SELECT array_agg(data) FROM es_read_all(:start, 5);
SELECT array_agg(data) FROM es_read_all(:start, 5, event_types => '{Read1,Read2}');
SELECT array_agg(data) FROM es_read_all(:start, 5, event_types => '{Read1,nonsense}', categories => '{rb}');
SELECT count(*) FROM es_read_all(:start, NULL, categories => '{ra}'), es_high_water_mark();
SELECT array_agg(data) FROM es_read_category('rb', :start, 4);
SELECT array_agg(data) FROM es_read_category('rb', :start, NULL, '{Read0}');
SELECT array_agg(DISTINCT category) FROM es_read_category('rb', :start, NULL);
-- pages of a cursor see each event once
DO $$
DECLARE
    cursor_at bigint := 0; last bigint; n int := 0; got int; want int;
BEGIN
    LOOP
        SELECT max(position), count(*) INTO last, got FROM es_read_all(cursor_at, 7);
        EXIT WHEN got = 0;
        n := n + got;
        cursor_at := last;
    END LOOP;
    SELECT count(*) INTO want FROM event_store.events;
    RAISE NOTICE 'all seen once: %', n = want;
END $$;

-- in a select list rows come one at a time: a limit stops the scan, a cursor can be left early
SELECT (e).data FROM (SELECT es_read_all(:start, NULL) AS e) s LIMIT 3;
SELECT count(*) FROM (SELECT es_read_all(:start, NULL) AS e, es_read('ra-1') AS f) s;
BEGIN;
DECLARE c CURSOR FOR SELECT (e).data FROM (SELECT es_read_all(:start, NULL) AS e) s;
FETCH 2 FROM c;
SAVEPOINT s;
FETCH 2 FROM c;
SELECT version > 0 FROM es_append('ra-1', -2, 'Meanwhile', '{}');
ROLLBACK TO s;
FETCH 1 FROM c;
CLOSE c;
DECLARE d CURSOR FOR SELECT (e).data FROM (SELECT es_read_all(:start, NULL) AS e) s;
FETCH 1 FROM d;
COMMIT;
SELECT count(*) FROM generate_series(1, 3) i, LATERAL es_read('ra-' || i);

-- over many dead entries: what the index remembers of them must live as long as the scan
SELECT count(*) FROM generate_series(1, 100) i, LATERAL es_append('dead-1', -2, 'Alive', to_jsonb(i));
BEGIN;
SELECT count(*) FROM generate_series(1, 300) i, LATERAL es_append('dead-1', -2, 'Dead', to_jsonb(i));
ROLLBACK;
SELECT count(*) FROM generate_series(1, 100) i, LATERAL es_append('dead-1', -2, 'Alive', to_jsonb(i));
BEGIN;
SELECT count(*) FROM generate_series(1, 300) i, LATERAL es_append('dead-1', -2, 'Dead', to_jsonb(i));
ROLLBACK;
SELECT count(*) FROM generate_series(1, 100) i, LATERAL es_append('dead-1', -2, 'Alive', to_jsonb(i));
BEGIN;
SELECT count(*) FROM generate_series(1, 300) i, LATERAL es_append('dead-1', -2, 'Dead', to_jsonb(i));
ROLLBACK;
SELECT count(*) FROM es_read('dead-1');
SELECT count(*) FROM es_read('dead-1', backward => true);
SELECT count(*) FROM es_read_all(0, NULL, '{Alive}');
SELECT count(*) FROM (SELECT es_read('dead-1')) s;
SELECT count(*) FROM (SELECT es_read('dead-1', backward => true)) s;
SELECT count(*) FROM (SELECT es_read_all(0, NULL, '{Alive}')) s;
SELECT count(*) FROM es_read('dead-1');

-- a read only transaction, and what an appending one sees of itself
BEGIN READ ONLY;
SELECT count(*) FROM es_read_all(:start, NULL);
SELECT count(*) > 0 FROM es_read('ra-1');
COMMIT;
BEGIN;
SELECT version AS v FROM es_append('ra-1', -2, 'Own', '{}') \gset
SELECT es_stream_version('ra-1') = :v, (SELECT max(version) = :v FROM es_read('ra-1'));
-- its positions are not settled
SELECT count(*) FROM es_read_all(:start, NULL, '{Own}');
SELECT es_high_water_mark() < (SELECT max(position) FROM event_store.events);
COMMIT;
SELECT count(*) FROM es_read_all(:start, NULL, '{Own}');
SELECT es_high_water_mark() = (SELECT max(position) FROM event_store.events);

-- nor once they are prepared: the session must not take its own lock for nobody's
BEGIN;
SELECT version > 0 FROM es_append('ra-1', -2, 'Prepared', '{}');
SELECT holder_pid = pg_backend_pid(), holder_gid IS NULL, partitions >= 1 FROM event_store.status;
SELECT es_high_water_mark() < (SELECT max(position) FROM event_store.events);
PREPARE TRANSACTION 'es_test_mark';
SET event_store.mark_wait = 0;
SELECT holder_gid, holder_pid IS NULL, holder_since < now(), newest_position - mark > 0 FROM event_store.status;
SELECT version > 0 FROM es_append('rb-1', -2, 'After', '{}');
SELECT count(*) FROM es_read_all(:start, NULL, '{Prepared,After}');
SELECT es_publish_mark() < (SELECT max(position) FROM event_store.events);
COMMIT PREPARED 'es_test_mark';
RESET event_store.mark_wait;
SELECT count(*) FROM es_read_all(:start, NULL, '{Prepared,After}');

-- the mark that is published, and the views
SELECT es_publish_mark() = es_high_water_mark();
SELECT count(*) = (SELECT count(*) FROM event_store.events) FROM event_store.feed;
BEGIN;
SELECT version > 0 FROM es_append('ra-1', -2, 'Unpublished', '{}');
COMMIT;
SELECT (SELECT count(*) FROM event_store.events) - (SELECT count(*) FROM event_store.feed) AS not_published;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM es_read_all(:start, NULL, '{Unpublished}');
COMMIT;
SELECT es_publish_mark() > 0;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM es_read_all(:start, NULL, '{Unpublished}');
COMMIT;
SELECT mark = es_high_water_mark(), stable_until < clock_timestamp(), floor >= stable_until FROM event_store.mark;
-- stable_until follows the floor by one round
SELECT floor AS f FROM event_store.mark \gset
SELECT es_publish_mark() > 0;
SELECT stable_until = :'f' FROM event_store.mark;
-- a stamp is later than the floor, whatever the clock says
BEGIN;
SELECT last_value AS floor FROM event_store.floor_seq \gset
SELECT setval('event_store.floor_seq', :floor + 3600000000) > :floor;
SELECT recorded_at > clock_timestamp() + interval '50 minutes' FROM es_append('ra-1', -2, 'Late', '{}');
SELECT setval('event_store.floor_seq', :floor) = :floor;
ROLLBACK;

-- position of a time
SELECT recorded_at AS r, position AS p FROM es_append('ra-1', -2, 'Stamped', '{}') \gset
SELECT es_position_at(:'r') = :p, es_position_at(:'r'::timestamptz - interval '1 us') < :p, es_position_at('infinity') = es_high_water_mark();

-- correlated events
SELECT count(*) FROM es_append_multi('[{"stream": "ra-1", "expected_version": "any", "events": {"type": "Traced", "metadata": {"correlation_id": "x-1"}}}, {"stream": "rb-1", "expected_version": "any", "events": [{"type": "Traced", "metadata": {"correlation_id": "x-2"}}, {"type": "Traced2", "metadata": {"correlation_id": "x-1"}}]}]');
SELECT stream, event_type FROM es_trace('x-1');
SELECT count(*) FROM es_trace('none');
SELECT es_create_store(trace => true);
SELECT stream, event_type FROM es_trace('x-1');
SELECT (es_trace('x-2')).event_type;

-- erased data reads as NULL
BEGIN;
ALTER TABLE event_store.log_0 DISABLE TRIGGER USER;
UPDATE event_store.log_0 SET data = NULL, salt = NULL WHERE metadata ->> 'correlation_id' = 'x-2';
SELECT event_type, data IS NULL AS erased FROM es_read('rb-1', backward => true, max_count => 2);
ROLLBACK;

-- by category: without an index the log is read and filtered, with it there is nothing else on the way
SELECT events FROM es_append_batch((SELECT array_agg('mc' || i * 7 % 40 || '-' || i % 3 ORDER BY i) FROM generate_series(1, 900) i),
    (SELECT array_agg('Merged' || i % 2 ORDER BY i) FROM generate_series(1, 900) i), array_fill('{}'::jsonb, '{900}'));
-- the same as the view says, of so many categories, after so many events, by type and not, at most so many
CREATE FUNCTION public.merged(categories int) RETURNS text LANGUAGE sql AS $$
    WITH wanted AS (SELECT array_agg('mc' || i) AS c FROM generate_series(0, categories - 1) i),
        runs AS (SELECT a AS after, t AS type, m AS max FROM unnest(ARRAY[NULL, 300, 895, 900]) a, unnest(ARRAY[NULL, 'Merged1']) t, unnest(ARRAY[NULL, 1, 77]) m),
        starts AS (SELECT r.*, coalesce((SELECT min(position) + after - 1 FROM event_store.events WHERE category LIKE 'mc%'), 0) AS from FROM runs r),
        answers AS (
            SELECT ARRAY(SELECT position || stream FROM es_read_all("from", max, CASE WHEN type IS NOT NULL THEN ARRAY[type] END, wanted.c) WITH ORDINALITY ORDER BY ordinality) AS ours,
                ARRAY(SELECT position || stream FROM event_store.events WHERE position > "from" AND category = ANY (wanted.c) AND event_type = coalesce(type, event_type) ORDER BY position LIMIT max) AS theirs
            FROM starts, wanted)
    SELECT count(*) FILTER (WHERE ours = theirs) || ' of ' || count(*) || ', ' || sum(cardinality(theirs)) || ' events' FROM answers
$$;
SELECT merged(1), merged(2), merged(32), merged(33);
-- rows are visited of wanted events only: the index by position has category and type
CREATE FUNCTION public.visits(after bigint, types text[], categories text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before bigint := pg_stat_get_xact_tuples_fetched('event_store.log_0_pkey'::regclass);
    got bigint := (SELECT count(*) FROM es_read_all(after, 10000, types, categories));
BEGIN
    RETURN got || ' events, ' || pg_stat_get_xact_tuples_fetched('event_store.log_0_pkey'::regclass) - before || ' rows';
END $$;
SELECT min(position) - 1 AS mc FROM event_store.events WHERE category LIKE 'mc%' \gset
SELECT visits(:mc, NULL, NULL), visits(:mc, NULL, '{mc7}'), visits(:mc, '{Merged1}', NULL), visits(:mc, '{Merged1}', '{mc7,mc8}'), visits(:mc, '{unknown}', '{mc7}');
SELECT es_create_store(by_category => true);
SELECT merged(1), merged(2), merged(32), merged(33);
CREATE FUNCTION public.scans(categories int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    before bigint := pg_stat_get_xact_numscans('event_store.log_0_category_position_idx'::regclass);
BEGIN
    PERFORM FROM es_read_all(0, 10, NULL, (SELECT array_agg('mc' || i) FROM generate_series(1, categories) i));
    RETURN pg_stat_get_xact_numscans('event_store.log_0_category_position_idx'::regclass) - before;
END $$;
-- of more than so many categories the log is read as a whole
SELECT scans(1), scans(2), scans(32), scans(33);
-- and where somebody has dropped it, which is not made again unless it is asked for
BEGIN;
DROP INDEX event_store.log_category_position;
SELECT merged(1), merged(2), merged(32), merged(33);
SELECT es_create_store();
SELECT to_regclass('event_store.log_category_position') IS NULL;
ROLLBACK;
