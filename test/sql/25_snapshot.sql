-- Snapshots that must not be believed: of another history of the stream, or damaged. They are not used, whoever asks; they are
-- named in the status, counted once, and replaced. And how many are kept.
\t on
\pset format unaligned
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
RESET client_min_messages;
SET event_store.partition_size = 100;
SELECT es_create_store();
CREATE FUNCTION pg_temp.tamper(statement text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE t name;
BEGIN
    ALTER TABLE event_store.snapshots DISABLE TRIGGER USER;
    EXECUTE statement;
    FOR t IN SELECT tgname FROM pg_trigger WHERE tgrelid = 'event_store.snapshots'::regclass LOOP
        EXECUTE format('ALTER TABLE event_store.snapshots ENABLE ALWAYS TRIGGER %I', t);
    END LOOP;
END $$;
-- what a background worker does comes at some time
CREATE FUNCTION pg_temp.await(condition text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE met boolean;
BEGIN
    FOR i IN 1 .. 3000 LOOP
        EXECUTE 'SELECT ' || condition INTO met;
        EXIT WHEN met;
        PERFORM pg_sleep(0.02);
    END LOOP;
    RETURN met;
END $$;
-- in a transaction that is rolled back there is no worker to help
CREATE FUNCTION pg_temp.loads(s text, version bigint) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE r text;
BEGIN
    FOR r IN SELECT unnest(ARRAY[
        format('SELECT ''es_load'', version, state FROM es_load(%L)', s),
        format('SELECT ''es_load_version'', version, state FROM es_load_version(%L, %s)', s, version),
        format('SELECT ''es_load_at'', version, state FROM es_load_at(%L, (SELECT recorded_at FROM es_read(%L, %s, 1)))', s, s, version),
        format('SELECT ''es_history'', version, state FROM es_history(%L, %s, 1)', s, version),
        format('SELECT ''es_load_category'', version, state FROM es_load_category(%L) WHERE stream = %L', split_part(s, '-', 1), s),
        format('SELECT ''es_get_snapshot'', version, state FROM es_get_snapshot(%L, ''app'')', s)]) LOOP
        RETURN QUERY EXECUTE 'SELECT x::text FROM (' || r || ') x';
    END LOOP;
END $$;

-- ---------------------------------------------------------------- another history
-- the same stream in two stores: what is added to it differs, positions and versions do not
SELECT es_register_aggregate('a', rules => '{"In": {"add": {"n": "x"}}}', snapshot_every => 1000);
SELECT es_register_aggregate('c', rules => '{"In": {"add": {"n": "x"}}}', snapshot_every => 1000);
SELECT last_position FROM es_append_batch(array_fill('a-1'::text, '{20}'), array_fill('In'::text, '{20}'), array_fill('{"x": 1}'::jsonb, '{20}'));
SELECT last_position FROM es_append_batch(array_fill('c-1'::text, '{20}'), array_fill('In'::text, '{20}'), array_fill('{"x": 1}'::jsonb, '{20}'));
SELECT es_snapshot(s), es_put_snapshot(s, 20, '{"mine": 20}', 'app') FROM unnest('{a-1,c-1}'::text[]) s;
CREATE TABLE saved AS SELECT * FROM event_store.snapshots;
SELECT s.stream, s.version, s.state, s.digest = h.digest AS has_digest FROM saved s JOIN event_store.heads h ON h.id = s.stream ORDER BY 1, s.fingerprint;
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
SELECT es_create_store();
SELECT es_register_aggregate('a', rules => '{"In": {"add": {"n": "x"}}}', snapshot_every => 1000);
SELECT es_register_aggregate('c', rules => '{"In": {"add": {"n": "x"}}}', snapshot_every => 1000);
SELECT last_position FROM es_append_batch(array_fill('a-1'::text, '{20}'), array_fill('In'::text, '{20}'), array_fill('{"x": 100}'::jsonb, '{20}'));
SELECT last_position FROM es_append_batch(array_fill('c-1'::text, '{20}'), array_fill('In'::text, '{20}'), array_fill('{"x": 100}'::jsonb, '{20}'));
SELECT es_publish_mark() > 0, es_publish_mark() > 0;
-- replaced, and counted once
SELECT FROM pg_temp.tamper('INSERT INTO event_store.snapshots SELECT * FROM saved WHERE stream = 1');
SELECT state FROM es_load('a-1');
SELECT pg_temp.await($$(SELECT version FROM es_load('a-1')) = 20 AND (SELECT snapshots_damaged = 1 AND damaged_snapshot_of = 'a-1' FROM event_store.status)$$);
SELECT version, state FROM event_store.snapshots WHERE get_byte(fingerprint, 0) = ascii('F');
SELECT es_replayed_events() AS before \gset
SELECT state FROM es_load('a-1');
SELECT es_replayed_events() - :before AS folded;
SELECT version FROM es_get_snapshot('a-1', 'app');
SELECT es_put_snapshot('a-1', 19, '{"mine": 19}', 'app');
SELECT version, state FROM es_get_snapshot('a-1', 'app');
SELECT snapshots_damaged, damaged_snapshot_of FROM event_store.status;
SELECT count(*) FROM es_check('all');

-- ---------------------------------------------------------------- damaged
SELECT last_position FROM es_append_batch(array_fill('a-2'::text, '{20}'), array_fill('In'::text, '{20}'), array_fill('{"x": 1}'::jsonb, '{20}'));
SELECT es_snapshot('a-2');
SELECT last_position FROM es_append_batch(array_fill('a-2'::text, '{5}'), array_fill('In'::text, '{5}'), array_fill('{"x": 1}'::jsonb, '{5}'));
SELECT es_snapshot('a-2');
-- the one before the newest, met by a load as of a version: replaced where it was
SELECT FROM pg_temp.tamper($$UPDATE event_store.snapshots SET state = '{"n": 999}' WHERE version = 20 AND stream = (SELECT id FROM event_store.heads WHERE name = 'a-2')$$);
SELECT state FROM es_load('a-2');
SELECT state FROM es_load_version('a-2', 21);
-- (a session asks at most once a second, so it may have to load again)
SELECT pg_temp.await($$(SELECT version FROM es_load_version('a-2', 21)) = 21 AND (SELECT snapshots_damaged = 3 AND damaged_snapshot_of = 'a-2' FROM event_store.status)$$);
SELECT version, state FROM event_store.snapshots WHERE stream = (SELECT id FROM event_store.heads WHERE name = 'a-2') ORDER BY 1;
-- all of them, replaced by hand
SELECT FROM pg_temp.tamper($$UPDATE event_store.snapshots SET recorded_at = '2000-01-01' WHERE stream = (SELECT id FROM event_store.heads WHERE name = 'a-2')$$);
SELECT es_snapshot('a-2');
SELECT snapshots_damaged, damaged_snapshot_of FROM event_store.status;
SELECT version, state FROM event_store.snapshots WHERE stream = (SELECT id FROM event_store.heads WHERE name = 'a-2') ORDER BY 1;
SELECT count(*) FROM es_check('all');

-- ---------------------------------------------------------------- the event is in a partition that is away
SELECT last_position FROM es_append_batch(array_fill('b-1'::text, '{60}'), array_fill('In'::text, '{60}'), array_fill('{}'::jsonb, '{60}'));
SELECT version FROM es_append('a-1', 20, 'In', '{"x": 100}');
SELECT es_put_snapshot('a-1', 20, '{"mine": 20}', 'before the head');
SELECT es_snapshot('a-1');
SELECT FROM pg_temp.tamper($$DELETE FROM event_store.snapshots WHERE version = 21$$);
SELECT es_drop_snapshots('b');
SELECT version, position FROM es_read('a-1', 20);
BEGIN;
ALTER TABLE event_store.log DETACH PARTITION event_store.log_0;
-- what comes after the snapshot leads from it to the head
SELECT version, state FROM es_load('a-1');
-- where the digest is not known, nothing can be said
SELECT count(*) FROM es_get_snapshot('a-1', 'before the head');
-- of another history
SELECT FROM pg_temp.tamper('DELETE FROM event_store.snapshots; INSERT INTO event_store.snapshots SELECT * FROM saved');
SELECT version, state FROM es_load('a-1');
ROLLBACK;

-- ---------------------------------------------------------------- how many are kept
CREATE FUNCTION pg_temp.kept(settings text) RETURNS bigint[] LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format($f$SELECT es_register_aggregate('k', rules => '{"In": {"count": "n"}}', snapshot_every => 1%s)$f$, settings);
    PERFORM es_drop_snapshots('k');
    FOR i IN 1 .. 40 LOOP
        PERFORM es_append('k-1', -2, 'In', '{}'), es_snapshot('k-1');
    END LOOP;
    RETURN (SELECT array_agg(s.version ORDER BY s.version DESC) FROM event_store.snapshots s JOIN event_store.heads h ON h.id = s.stream WHERE h.name = 'k-1');
END $$;
SELECT pg_temp.kept('');
SELECT pg_temp.kept(', keep_snapshots => 1');
SELECT pg_temp.kept(', keep_snapshots => 8, keep_snapshots_for => ''1 day''');
SELECT pg_temp.kept(', keep_snapshots => 2, keep_snapshots_for => ''0''');
SELECT category, snapshot_every, keep_snapshots, keep_snapshots_for FROM event_store.aggregates ORDER BY 1;
SELECT es_register_aggregate('k', rules => '{}', keep_snapshots => 0);
SELECT es_register_aggregate('k', rules => '{}', keep_snapshots => NULL);
SELECT es_register_aggregate('k', rules => '{}', keep_snapshots_for => '-1 day');
SELECT es_register_aggregate('k', rules => '{}', keep_snapshots_for => '178000000 years');

-- ---------------------------------------------------------------- whoever asks
-- (at the end: the workers that these loads start see nothing of this transaction)
BEGIN;
SELECT FROM pg_temp.tamper('DELETE FROM event_store.snapshots; INSERT INTO event_store.snapshots SELECT * FROM saved WHERE stream = 2');
-- at the version of the head
SELECT pg_temp.loads('c-1', 20);
SELECT kind, stream, position, detail FROM es_check('all') WHERE kind = 'snapshot';
-- before it
SELECT version FROM es_append('c-1', 20, 'In', '{"x": 100}');
SELECT pg_temp.loads('c-1', 20);
-- and in a position that this store has not
SELECT FROM pg_temp.tamper('UPDATE event_store.snapshots SET position = 19');
SELECT pg_temp.loads('c-1', 20);
ROLLBACK;
SELECT pg_temp.await($$NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'event_store snapshot taker')$$);

-- ---------------------------------------------------------------- where little tells the histories apart
-- versions, positions and times are the same: only the digest of the head tells. (The floor makes the time.)
DROP TABLE saved;
CREATE PROCEDURE pg_temp.anew() LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL client_min_messages = warning;
    DROP SCHEMA event_store CASCADE;
    PERFORM es_create_store();
    PERFORM setval('event_store.floor_seq', 1000000000000000);
    PERFORM es_register_aggregate('d', rules => '{"In": {"add": {"n": "x"}}}', snapshot_every => 1000);
END $$;
CALL pg_temp.anew();
SELECT last_position FROM es_append_batch(array_fill('d-1'::text, '{20}'), array_fill('In'::text, '{20}'), array_fill('{"x": 1}'::jsonb, '{20}'));
SELECT last_position FROM es_append_batch(array_fill('d-2'::text, '{20}'), array_fill('In'::text, '{20}'), array_fill('{"x": 1}'::jsonb, '{20}'));
SELECT es_snapshot('d-1'), es_put_snapshot('d-2', 10, '{"mine": 10}', 'app');
CREATE TABLE saved AS SELECT * FROM event_store.snapshots;
SELECT stream, version, position, state, digest IS NOT NULL AS has_digest FROM saved ORDER BY 1;
SELECT recorded_at AS then FROM es_read('d-1', 20) \gset
CALL pg_temp.anew();
SELECT last_position FROM es_append_batch(array_fill('d-1'::text, '{20}'), array_fill('In'::text, '{20}'), array_fill('{"x": 100}'::jsonb, '{20}'));
SELECT position, recorded_at = :'then' AS same_time FROM es_read('d-1', 20);
-- of the other stream, which has no digest with its snapshot, only the time tells
SELECT setval('event_store.floor_seq', 1000000007000000) > 0;
SELECT last_position FROM es_append_batch(array_fill('d-2'::text, '{10}'), array_fill('In'::text, '{10}'), array_fill('{"x": 100}'::jsonb, '{10}'));
BEGIN;
SELECT FROM pg_temp.tamper('INSERT INTO event_store.snapshots SELECT * FROM saved');
SELECT version, state FROM es_load('d-1');
SELECT version, position FROM es_read('d-2', 10);
SELECT count(*) FROM es_get_snapshot('d-2', 'app');
ROLLBACK;
SELECT pg_temp.await($$NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'event_store snapshot taker')$$);
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
RESET event_store.partition_size;
SELECT es_create_store();
DROP TABLE saved;
