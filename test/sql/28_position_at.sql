-- es_position_at() looks where events of that time can be, not at the whole log: seals say behind which positions all events are
-- later. Counted in locks, which are the same on any machine.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
SET event_store.partition_size = 100;
BEGIN;
SELECT es_create_store();
SELECT count(*) FROM (SELECT es_append('tick-' || i % 7, -2, 'Ticked', '{}') FROM generate_series(1, 150) i) s;
COMMIT;
CREATE FUNCTION locks(at timestamptz) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    PERFORM es_position_at(at);
    RETURN (SELECT count(*) FROM pg_locks
        WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation::regclass::text LIKE 'event\_store.log\_%' AND
            relation <> 'event_store.log_partitions'::regclass);
END $$;
-- how many events es_position_at() answers wrongly for the time of
CREATE FUNCTION wrong() RETURNS bigint LANGUAGE sql AS
$$SELECT count(*) FROM event_store.log l WHERE es_position_at(l.recorded_at) <> (SELECT max(m.position) FROM event_store.log m WHERE m.recorded_at <= l.recorded_at)$$;
-- each round ends with a seal: the mark, the time up to where it is settled, and the seal
CREATE PROCEDURE round(events int) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM es_append('tick-' || i % 7, -2, 'Ticked', '{}') FROM generate_series(1, events) i;
    COMMIT;
    PERFORM es_publish_mark();
    COMMIT;
    PERFORM es_publish_mark();
    COMMIT;
    PERFORM es_seal_log();
    COMMIT;
END $$;
CALL round(100);
CALL round(100);
-- one event is stamped an hour ahead, in the middle of the others
SELECT last_value AS floor FROM event_store.floor_seq \gset
SELECT setval('event_store.floor_seq', :floor + 3600000000) > 0;
SELECT version FROM es_append('hurry-1', 0, 'Ticked', '{}');
SELECT setval('event_store.floor_seq', :floor) > 0;
CALL round(200);
CALL round(250);
SELECT count(*) FROM (SELECT es_append('tick-' || i % 7, -2, 'Ticked', '{}') FROM generate_series(1, 30) i) s;
SELECT count(recorded_after) >= 4 FROM event_store.seals;
SELECT es_position_at('-infinity'), es_position_at((SELECT min(recorded_at) FROM event_store.log) - interval '1 us'),
    es_position_at('infinity') = es_high_water_mark();
SELECT wrong();
-- one partition: its table and an index
SELECT recorded_at AS t FROM event_store.log WHERE position = 240 \gset
SELECT locks(:'t'), es_position_at(:'t');
SELECT recorded_at AS t FROM event_store.log WHERE position = 340 \gset
SELECT locks(:'t'), es_position_at(:'t');
SELECT recorded_at AS t FROM event_store.log WHERE position = 820 \gset
SELECT locks(:'t'), es_position_at(:'t');
-- before the first seal, and before the first event
SELECT recorded_at AS t FROM event_store.log WHERE position = 130 \gset
SELECT locks(:'t'), es_position_at(:'t');
SELECT locks('-infinity'), es_position_at('-infinity');

-- what is not sealed, or sealed by an earlier version, is read; never a wrong answer
BEGIN;
ALTER TABLE event_store.seals DISABLE TRIGGER USER;
UPDATE event_store.seals SET recorded_after = NULL WHERE to_position > 400;
SELECT wrong();
DELETE FROM event_store.seals;
SELECT wrong();
ROLLBACK;
-- a seal that ends before the mark says nothing about the time of what is behind it
SET event_store.seal_size = 64;
CALL round(200);
SELECT count(recorded_after) BETWEEN 1 AND 2 AND count(*) >= 3 FROM event_store.seals WHERE after_position >= 800;
SELECT wrong();
RESET event_store.seal_size;
SELECT * FROM es_check();
DROP FUNCTION locks, wrong;
DROP PROCEDURE round;
DROP SCHEMA event_store CASCADE;
