-- Partitions that are detached, dropped, moved or replaced: whoever needs an event of one gets an error that names it, and its
-- bounds. Nothing is shorter than it should be, and nothing goes on behind what it has not seen.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; h text; s text; r text;
BEGIN
    EXECUTE statement INTO r;
    RETURN 'ok: ' || coalesce(r, '-');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n  ', s || ': ' || m, 'detail: ' || nullif(d, ''), 'hint: ' || nullif(h, ''));
END $$;
-- what each reader says, without the detail
CREATE FUNCTION pg_temp.readers() RETURNS TABLE (reader text, says text) LANGUAGE plpgsql AS $$
BEGIN
    FOR reader IN SELECT unnest(ARRAY[
        $q$SELECT count(*) FROM es_read_all(0, NULL)$q$,
        $q$SELECT count(*) FROM es_read_all(0, 5)$q$,
        $q$SELECT count(*) FROM es_read_all(0, NULL, '{Never}')$q$,
        $q$SELECT count(*) FROM es_read_category('a', 0, NULL)$q$,
        $q$SELECT count(*) FROM es_read_category('a', 150, NULL)$q$,
        $q$SELECT count(*) FROM es_read('a-1')$q$,
        $q$SELECT count(*) FROM es_read('a-1', backward => true)$q$,
        $q$SELECT state FROM es_load('a-1')$q$,
        $q$SELECT state FROM es_load_version('a-1', 3)$q$,
        $q$SELECT count(*) FROM es_load_category('a')$q$,
        $q$SELECT count(*) FROM es_history('a-1')$q$,
        $q$SELECT count(*) FROM es_trace('none')$q$,
        $q$SELECT state FROM es_load_at('a-1', (SELECT recorded_at FROM times WHERE name = 'log_100'))$q$,
        $q$SELECT state FROM es_load_valid_at('a-1', 'infinity')$q$,
        $q$SELECT es_position_at((SELECT recorded_at FROM times WHERE name = 'log_100'))$q$,
        $q$SELECT es_run_projection('p')$q$,
        $q$SELECT es_seal_log()$q$,
        $q$SELECT count(*) FROM es_fetch('mails', 'anna', 1000)$q$]) LOOP
        says := split_part(pg_temp.try(reader), E'\n', 1);
        RETURN NEXT;
    END LOOP;
END $$;
CREATE FUNCTION pg_temp.found() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', 'es_check', kind, stream, '@' || position, detail) FROM es_check('all')
    UNION ALL
    SELECT concat_ws(' ', 'es_verify_log', kind, stream, '@' || position, detail) FROM es_verify_log() $$;
\t on
\pset format unaligned
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
RESET client_min_messages;
SET event_store.partition_size = 100;
SELECT es_create_store();
CREATE TABLE times (name text, recorded_at timestamptz);
CREATE TABLE t (position bigint PRIMARY KEY);
SELECT es_register_aggregate('a', rules => '{"T": {"count": "n"}}');
SELECT es_create_projection('p', 'INSERT INTO t SELECT position FROM new_events', tables => '{t}');
SELECT es_create_subscription('mails');
-- a-1 has two events in each of log_0, log_100 and log_200; log_100 has the mark's predecessor, and log_300 is ahead
SELECT count(*) FROM (SELECT es_append('b-' || i, -2, 'T', '{}') FROM generate_series(1, 90) i) s;
SELECT count(*) FROM (SELECT es_append('a-1', -2, 'T', '{}') FROM generate_series(1, 2)) s;
INSERT INTO times SELECT 'log_0', max(recorded_at) FROM event_store.events;
SELECT count(*) FROM (SELECT es_append('b-' || i, -2, 'T', '{}') FROM generate_series(1, 20) i) s;
SELECT count(*) FROM (SELECT es_append('a-1', -2, 'T', '{}') FROM generate_series(1, 2)) s;
INSERT INTO times SELECT 'log_100', max(recorded_at) FROM event_store.events;
SELECT count(*) FROM (SELECT es_append('b-' || i, -2, 'T', '{}') FROM generate_series(1, 90) i) s;
SELECT count(*) FROM (SELECT es_append('a-1', -2, 'T', '{}') FROM generate_series(1, 2)) s;
SELECT es_publish_mark() > 0;
SELECT position, version FROM es_read('a-1');
SELECT name, from_position, to_position FROM event_store.partitions;
SELECT name, from_position, to_position FROM event_store.log_partitions ORDER BY 2;

-- one in the middle
BEGIN;
ALTER TABLE event_store.log DETACH PARTITION event_store.log_100;
SELECT * FROM pg_temp.readers();
SELECT pg_temp.try($$SELECT count(*) FROM es_read_all(0, NULL)$$);
SELECT pg_temp.try($$SELECT state FROM es_load('a-1')$$);
SELECT pg_temp.found();
ROLLBACK;
-- the last one that has events, with one ahead of it: nothing is behind it but an empty partition
SELECT position FROM es_append_batch(array_fill('c-1'::text, '{80}'), array_fill('T'::text, '{80}'), array_fill('{}'::jsonb, '{80}')), LATERAL (SELECT last_position AS position) l;
SELECT name, from_position, to_position FROM event_store.partitions;
BEGIN;
ALTER TABLE event_store.log DETACH PARTITION event_store.log_200;
SELECT * FROM pg_temp.readers();
SELECT pg_temp.try($$SELECT position FROM es_append('a-1', -2, 'T', '{}')$$);
SELECT pg_temp.found();
ROLLBACK;
-- the projection, the subscription and the sealer have not gone past it
SELECT position, events FROM event_store.checkpoints;
SELECT position FROM event_store.subscriptions;
SELECT count(*) FROM event_store.seals;
-- one that was made ahead and has no event is made again
SELECT name FROM event_store.partitions;
DROP TABLE event_store.log_300;
SELECT count(*) FROM es_read_all(0, NULL);
SELECT pg_temp.found();
SELECT version FROM es_append('c-1', 80, 'T', '{}');
SELECT name, from_position, to_position FROM event_store.log_partitions ORDER BY 2;
SELECT name, from_position, to_position FROM event_store.partitions;
-- the newest ones: detached, moved to another schema, dropped
BEGIN;
ALTER TABLE event_store.log DETACH PARTITION event_store.log_200;
ALTER TABLE event_store.log DETACH PARTITION event_store.log_300;
SELECT * FROM pg_temp.readers();
SELECT pg_temp.found();
SELECT pg_temp.try($$SELECT position FROM es_append('a-1', -2, 'T', '{}')$$);
CREATE SCHEMA archive;
ALTER TABLE event_store.log_200 SET SCHEMA archive;
DROP TABLE event_store.log_300;
SELECT * FROM pg_temp.readers();
SELECT pg_temp.try($$SELECT count(*) FROM es_read_all(0, NULL)$$);
SELECT pg_temp.found();
-- nothing is written over it
SELECT pg_temp.try($$SELECT position FROM es_append('a-1', -2, 'T', '{}')$$);
-- it can be given up
SELECT es_begin_epoch(above => 9999) > 0;
SELECT version FROM es_append('a-2', 0, 'T', '{}');
SELECT position FROM es_append('a-2', 1, 'T', '{}');
SELECT pg_temp.try($$SELECT count(*) FROM es_read_all(0, NULL)$$);
SELECT version FROM es_read_all(299);
ROLLBACK;
-- one that is attached is read, wherever it is and whatever its name
BEGIN;
CREATE SCHEMA archive;
ALTER TABLE event_store.log_100 SET SCHEMA archive;
ALTER TABLE archive.log_100 RENAME TO old;
SELECT count(*) FROM es_read_all(0, NULL);
SELECT state, version FROM es_load('a-1');
SELECT pg_temp.found();
ALTER TABLE event_store.log DETACH PARTITION archive.old;
SELECT pg_temp.try($$SELECT count(*) FROM es_read_all(0, NULL)$$);
ALTER TABLE event_store.log ATTACH PARTITION archive.old FOR VALUES FROM (100) TO (200);
SELECT count(*) FROM es_read_all(0, NULL);
ROLLBACK;
-- in two pieces, of which one is away
BEGIN;
ALTER TABLE event_store.log DETACH PARTITION event_store.log_100;
CREATE TABLE event_store.half (LIKE event_store.log INCLUDING ALL);
CREATE UNIQUE INDEX ON event_store.half (stream, version);
INSERT INTO event_store.half SELECT * FROM event_store.log_100 WHERE position < 150;
ALTER TABLE event_store.log ATTACH PARTITION event_store.half FOR VALUES FROM (100) TO (150);
SELECT pg_temp.try($$SELECT count(*) FROM es_read_all(0, NULL)$$);
SELECT state, version FROM es_load('a-1');
ROLLBACK;
-- not a range of positions
BEGIN;
CREATE TABLE event_store.log_default PARTITION OF event_store.log DEFAULT;
SELECT pg_temp.try($$SELECT count(*) FROM es_read_all(0, NULL)$$);
SELECT pg_temp.try($$SELECT position FROM es_append('a-1', -2, 'T', '{}')$$);
ROLLBACK;
BEGIN;
CREATE TABLE event_store.log_max PARTITION OF event_store.log FOR VALUES FROM (1000) TO (MAXVALUE);
SELECT pg_temp.try($$SELECT count(*) FROM es_read_all(0, NULL)$$);
ROLLBACK;
-- not a table with rows
BEGIN;
ALTER TABLE event_store.log DETACH PARTITION event_store.log_100;
CREATE TABLE event_store.again (LIKE event_store.log INCLUDING ALL) PARTITION BY RANGE (position);
CREATE UNIQUE INDEX ON event_store.again (stream, version, position);
ALTER TABLE event_store.again ATTACH PARTITION event_store.log_100 FOR VALUES FROM (100) TO (200);
ALTER TABLE event_store.log ATTACH PARTITION event_store.again FOR VALUES FROM (100) TO (200);
SELECT pg_temp.try($$SELECT count(*) FROM es_read_all(0, NULL)$$);
SELECT pg_temp.try($$SELECT state FROM es_load('a-1')$$);
SELECT detail FROM es_check('none') WHERE kind = 'partition';
ROLLBACK;

-- under an open cursor: detached, emptied, dropped
BEGIN;
DECLARE c CURSOR FOR SELECT (es_read_all(0, NULL)).position;
FETCH 1 FROM c;
ALTER TABLE event_store.log DETACH PARTITION event_store.log_100;
SELECT pg_temp.try('MOVE 250 FROM c');
ROLLBACK;
BEGIN;
DECLARE c CURSOR FOR SELECT (es_read('a-1')).version;
FETCH 1 FROM c;
ALTER TABLE event_store.log DETACH PARTITION event_store.log_100;
DROP TABLE event_store.log_100;
SELECT pg_temp.try('MOVE 250 FROM c');
ROLLBACK;
BEGIN;
DECLARE c CURSOR FOR SELECT (es_read_all(0, NULL)).position;
FETCH 1 FROM c;
ALTER TABLE event_store.log DETACH PARTITION event_store.log_100;
DROP TABLE event_store.log_100;
CREATE TABLE event_store.log_100 (LIKE event_store.log INCLUDING ALL);
CREATE UNIQUE INDEX ON event_store.log_100 (stream, version);
ALTER TABLE event_store.log ATTACH PARTITION event_store.log_100 FOR VALUES FROM (100) TO (200);
SELECT pg_temp.try('MOVE 250 FROM c');
ROLLBACK;

-- all of it is there again
SELECT es_run_projection('p'), (SELECT count(*) FROM t);
SELECT es_seal_log();
SELECT count(*) FROM es_fetch('mails', 'anna', 1000);
SELECT * FROM pg_temp.readers();
SELECT pg_temp.found();
-- a rebuild over a detached partition fails, and goes on when it is attached
ALTER TABLE event_store.log DETACH PARTITION event_store.log_100;
SELECT es_rebuild_projection('p');
SELECT pg_temp.try($$SELECT es_run_projection('p')$$);
ALTER TABLE event_store.log ATTACH PARTITION event_store.log_100 FOR VALUES FROM (100) TO (200);
SELECT es_resume('p');
SELECT es_run_projection('p') > 0;
SELECT state FROM event_store.rebuilds;
SELECT count(*) FROM t;
SELECT pg_temp.found();
-- es_check compares seals, and what projections were given, with the log: those that went on without log_100 are found
SELECT es_create_projection('typed', 'SELECT count(*) FROM new_events', categories => '{a,b}', event_types => '{T}');
SELECT es_run_projection('typed');
SELECT es_set_projection_mode('typed', 'inline');
SELECT version FROM es_append('a-1', 6, 'T', '{}');
SELECT es_set_projection_mode('typed', 'async');
SELECT version FROM es_append('a-1', 7, 'T', '{}');
SELECT es_run_projection('typed');
SELECT es_run_projection('p');
SELECT pg_temp.found();
BEGIN;
ALTER TABLE event_store.seals DISABLE TRIGGER USER;
ALTER TABLE event_store.checkpoints DISABLE TRIGGER USER;
UPDATE event_store.seals SET events = events - 100;
UPDATE event_store.checkpoints SET events = events - 100 WHERE projection = 'p';
UPDATE event_store.checkpoints SET events = events + 1 WHERE projection = 'typed';
SELECT kind, position, detail FROM es_check('none') WHERE kind IN ('seal', 'projection');
ROLLBACK;
-- one that comes back with fewer events than it had: who loads the stream is told, and who compares with the seals, or with what
-- projections were given
BEGIN;
ALTER TABLE event_store.log DETACH PARTITION event_store.log_100;
ALTER TABLE event_store.log_100 DISABLE TRIGGER USER;
DELETE FROM event_store.log_100 WHERE version = 3 AND stream = (SELECT id FROM event_store.heads WHERE name = 'a-1');
ALTER TABLE event_store.log ATTACH PARTITION event_store.log_100 FOR VALUES FROM (100) TO (200);
SELECT kind, stream, position, detail FROM es_check('none');
SELECT kind, stream, version, position, detail FROM es_verify_log();
SELECT pg_temp.try($$SELECT state FROM es_load('a-1')$$);
SELECT pg_temp.try($$SELECT count(*) FROM es_read('a-1')$$);
ROLLBACK;
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
RESET event_store.partition_size;
SELECT es_create_store();
DROP TABLE t, times;
