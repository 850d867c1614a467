-- Partitions: made ahead, made by large calls, read across, detached.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; h text; s text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n  ', s || ': ' || m, 'detail: ' || nullif(d, ''), 'hint: ' || nullif(h, ''));
END $$;
\t on
\pset format unaligned
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
SET event_store.partition_size = 100;
SELECT es_create_store();
SELECT name, from_position, to_position FROM event_store.partitions;
-- the next is made when the newest is 80 % full
SELECT count(*) FROM generate_series(1, 79) i, LATERAL es_append('part-' || i % 3, -2, 'T', to_jsonb(i));
SELECT count(*) FROM event_store.partitions;
SELECT position FROM es_append('part-1', -2, 'T', '{}');
SELECT name, from_position, to_position FROM event_store.partitions;
-- a change of the size counts for what is made next
SET event_store.partition_size = 200;
SELECT count(*) FROM generate_series(1, 110) i, LATERAL es_append('part-' || i % 3, -2, 'T', '{}');
SELECT name, from_position, to_position FROM event_store.partitions;
-- a call larger than that makes one that fits
SELECT events, first_position, last_position FROM es_append_batch(array_fill('part-0'::text, '{1000}'), array_fill('T'::text, '{1000}'), array_fill('{}'::jsonb, '{1000}'));
SELECT name, from_position, to_position FROM event_store.partitions;
-- rolled back with its transaction, made again
BEGIN;
SELECT last_position FROM es_append_batch(array_fill('part-9'::text, '{400}'), array_fill('T'::text, '{400}'), array_fill('{}'::jsonb, '{400}'));
SELECT count(*) FROM event_store.partitions;
ROLLBACK;
SELECT count(*) FROM event_store.partitions;
SELECT position FROM es_append('part-9', 0, 'T', '{}');
SELECT count(*) FROM event_store.partitions;
-- each is complete: two unique indexes, the trigger always enabled, frozen by its first vacuum
SELECT bool_and((SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid) = 2), bool_and('autovacuum_freeze_min_age=0' = ANY (c.reloptions))
    FROM pg_class c WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'event_store.log'::regclass);
SELECT bool_and((SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique) = 2), bool_and((SELECT tgenabled = 'A' FROM pg_trigger t WHERE t.tgrelid = c.oid AND tgname = 'es_immutable')), bool_and(c.relowner = (SELECT relowner FROM pg_class WHERE oid = 'event_store.log'::regclass))
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'event_store.log'::regclass;

-- reads across
SELECT count(*), min(version), max(version), bool_and(version = n) FROM (SELECT version, row_number() OVER () AS n FROM es_read('part-0')) e;
SELECT array_agg(version) FROM (SELECT version FROM es_read('part-0', 1030, backward => true, max_count => 4)) e;
SELECT count(*) FROM es_read_all(0, NULL);
SELECT count(*) FROM es_read_all(150, 700);
-- a stream's read touches only the partitions it lives in
SELECT version FROM es_append('lone-1', 0, 'T', '{}');
CREATE FUNCTION pg_temp.locked(statement text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE n bigint;
BEGIN
    EXECUTE statement;
    SELECT count(*) INTO n FROM pg_locks l JOIN pg_inherits i ON i.inhrelid = l.relation WHERE l.pid = pg_backend_pid() AND i.inhparent = 'event_store.log'::regclass;
    RETURN n;
END $$;
SELECT pg_temp.locked($$SELECT count(*) FROM es_read('lone-1')$$);
SELECT pg_temp.locked($$SELECT count(*) FROM es_read('part-0')$$) > 2;
-- appends to an existing stream touch only the newest
BEGIN;
SELECT version FROM es_append('lone-1', 1, 'T', '{}');
SELECT count(*) FROM pg_locks l JOIN pg_inherits i ON i.inhrelid = l.relation WHERE l.pid = pg_backend_pid() AND i.inhparent = 'event_store.log'::regclass;
-- and all of an append's relation locks are fast-path ones: it shares no lock partition with others
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'relation' AND NOT fastpath AND relation <> 'pg_locks'::regclass
    AND relation IN (SELECT oid FROM pg_class WHERE relnamespace = 'event_store'::regnamespace);
COMMIT;

-- a read over a detached range is an error that names it, never a shorter answer
BEGIN;
ALTER TABLE event_store.log DETACH PARTITION event_store.log_100;
SELECT pg_temp.try($$SELECT count(*) FROM es_read_all(0, NULL)$$);
SELECT pg_temp.try($$SELECT count(*) FROM es_read_all(150, NULL)$$);
SELECT pg_temp.try($$SELECT count(*) FROM es_read_category('part', 99)$$);
SELECT pg_temp.try($$SELECT count(*) FROM es_read('part-0')$$);
SELECT pg_temp.try($$SELECT count(*) FROM es_read('part-0', backward => true)$$);
SELECT count(*) > 0 FROM es_read_all(199, NULL);
SELECT version FROM es_read('lone-1');
SELECT count(*) FROM es_read('part-0', backward => true, max_count => 3);
ROLLBACK;
BEGIN;
ALTER TABLE event_store.log DETACH PARTITION event_store.log_0;
SELECT pg_temp.try($$SELECT count(*) FROM es_read_all(0, NULL)$$);
SELECT pg_temp.try($$SELECT count(*) FROM es_read('part-0')$$);
SELECT count(*) > 0 FROM es_read_all(99, NULL);
SELECT version > 0 FROM es_append('part-0', -2, 'T', '{}');
ROLLBACK;
-- the newest one: nothing is read as if it had never been, and nothing is written over it
BEGIN;
SELECT name AS newest FROM event_store.partitions ORDER BY from_position DESC LIMIT 1 \gset
SELECT version > 0 FROM es_append('part-0', -2, 'T', '{}');
DO $$ DECLARE n text; p bigint; BEGIN FOR n, p IN SELECT name, from_position FROM event_store.partitions WHERE to_position > (SELECT last_value FROM event_store.position_seq) LOOP EXECUTE format('ALTER TABLE event_store.log DETACH PARTITION event_store.%I', n); END LOOP; END $$;
SELECT pg_temp.try($$SELECT count(*) FROM es_read_all(0, NULL)$$) LIKE '55000: events at positions % are not attached%';
SELECT pg_temp.try($$SELECT es_append('part-0', -2, 'T', '{}')$$) LIKE '55000: partition "event_store.log_%" of the event log is not attached%';
ROLLBACK;
-- in a loop over the log itself
SET event_store.partition_size = 1000;
DO $$
DECLARE r record; n int := 0;
BEGIN
    FOR r IN SELECT position FROM event_store.log ORDER BY position LIMIT 50 LOOP
        PERFORM es_append('part-1', -2, 'T', '{}');
        n := n + 1;
    END LOOP;
    RAISE NOTICE '% appended', n;
END $$;
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
RESET event_store.partition_size;
SELECT es_create_store();
-- a maker does not hold others up: the partition is there before its transaction ends
SET event_store.partition_size = 100;
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
SELECT es_create_store();
SELECT last_position FROM es_append_batch(array_fill('full-1'::text, '{79}'), array_fill('T'::text, '{79}'), array_fill('{}'::jsonb, '{79}'));
BEGIN;
SELECT position FROM es_append('full-1', -2, 'T', '{}');
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory';
ROLLBACK;
SELECT name FROM event_store.partitions;
-- nor while the transaction itself has a lock on the log that a worker would wait for
BEGIN;
ANALYZE event_store.log;
SELECT position FROM es_append('full-1', -2, 'T', '{}');
SELECT count(*) FROM event_store.partitions;
ROLLBACK;
-- while a query of the same session reads the log
BEGIN;
DECLARE c CURSOR FOR SELECT position FROM event_store.feed;
FETCH 1 FROM c;
SELECT last_position FROM es_append_batch(array_fill('full-1'::text, '{300}'), array_fill('T'::text, '{300}'), array_fill('{}'::jsonb, '{300}'));
COMMIT;
-- a store made by the same transaction has to do it itself
BEGIN;
SET LOCAL client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
SELECT es_create_store();
SELECT last_position FROM es_append_batch(array_fill('full-1'::text, '{300}'), array_fill('T'::text, '{300}'), array_fill('{}'::jsonb, '{300}'));
SELECT name FROM event_store.partitions;
ROLLBACK;
RESET event_store.partition_size;
SELECT count(*) FROM es_read('full-1');
-- the last position of the last node
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
SELECT es_create_store(node => 32767);
SELECT setval('event_store.position_seq', 9223372036854775804) > 0;
SELECT position FROM es_append('end-1', 0, 'T', '{}');
SELECT pg_temp.try($$SELECT es_append('end-1', 1, '[{"type": "T"}, {"type": "T"}]'::jsonb)$$);
SELECT pg_temp.try($$SELECT es_append('end-1', 1, 'T', '{}')$$);
SELECT from_position, to_position FROM event_store.partitions ORDER BY 1 DESC LIMIT 1;
SELECT version FROM es_read_all(9223372036854775804);
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
SELECT es_create_store();
