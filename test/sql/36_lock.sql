-- Locking streams: es_lock_stream, es_lock_streams, es_load_for_update. Who waits for whom is in isolation/specs/lock-*.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
SELECT es_create_store();
SELECT version FROM es_append('acct-b', 0, 'Opened', '{"eur": 1}');
SELECT version FROM es_append('acct-b', 1, 'Opened', '{"eur": 2}');
SELECT version FROM es_append('acct-a', 0, 'Opened', '{"eur": 3}');
SELECT es_register_aggregate('acct', 'state || data');
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(E'\n  ', SQLSTATE || ': ' || message, nullif(detail, ''));
END $$;
-- the lock by which the coordinator finds whoever holds streams (base/base.h)
CREATE VIEW holding AS
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND objsubid = 237 AND mode = 'RowExclusiveLock';

-- versions, sorted bytewise, each stream once; one that does not exist is at 0
SELECT es_lock_stream('acct-b'), es_lock_stream('acct-none');
SELECT * FROM es_lock_streams('{acct-none,acct-b,acct-a,acct-B,acct-b,acct-a}');
SELECT * FROM es_lock_streams(streams => ARRAY['acct-z', 'acct-Z']);
SELECT count(*) FROM es_lock_streams('{}');
PREPARE untyped AS SELECT * FROM es_lock_streams($1);
EXECUTE untyped('{acct-b}');
SELECT * FROM es_load_for_update('acct-none');
SELECT state, version, position, recorded_at IS NOT NULL FROM es_load_for_update(stream => 'acct-b');

-- wrong arguments
SELECT try('SELECT es_lock_stream(NULL)');
SELECT try('SELECT es_lock_streams(NULL)');
SELECT try($$SELECT es_lock_streams('{a-1,NULL}')$$);
SELECT try($$SELECT es_lock_streams('{{a-1},{a-2}}')$$);
SELECT try($$SELECT es_lock_streams('{a-1,""}')$$);
SELECT try($$SELECT es_lock_stream('-1')$$);
SELECT try($$SELECT es_lock_stream(repeat('x', 513))$$);
SELECT try($$SELECT es_load_for_update(NULL)$$);
SELECT try($$SELECT es_load_for_update('unknown-1')$$);
BEGIN TRANSACTION READ ONLY;
SELECT try($$SELECT es_lock_stream('acct-b')$$);
SELECT try($$SELECT es_load_for_update('acct-b')$$);
COMMIT;
-- not within a fold
CREATE FUNCTION locking(jsonb) RETURNS jsonb IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM es_lock_stream('acct-a'); RETURN $1; END $$;
SELECT es_register_aggregate('sly', 'locking(state)');
SELECT version FROM es_append('sly-1', 0, 'Opened', '{}');
SELECT split_part(try($$SELECT es_load('sly-1')$$), E'\n', 1);

-- nothing is written: no head, no name of a category
BEGIN;
SELECT pg_stat_get_xact_tuples_inserted('event_store.heads'::regclass) AS inserted \gset
SELECT version FROM es_lock_streams('{other-1,other-2}');
SELECT pg_stat_get_xact_tuples_inserted('event_store.heads'::regclass) - :inserted, pg_current_xact_id_if_assigned() IS NULL;
COMMIT;
SELECT count(*) FROM event_store.categories WHERE name = 'other';
-- lock, load, append: the transaction sees its own appends
BEGIN;
SELECT state, version FROM es_load_for_update('acct-new');
SELECT version FROM es_append('acct-new', 0, 'Opened', '{"eur": 4}');
SELECT state, version FROM es_load_for_update('acct-new');
SELECT version FROM es_append('acct-new', 1, 'Opened', '{"eur": 5}');
SELECT es_lock_stream('acct-new');
COMMIT;
SELECT state, version FROM es_load('acct-new');
-- the same above READ COMMITTED
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT state, version FROM es_load_for_update('acct-new');
SELECT version FROM es_append('acct-new', 2, 'Opened', '{"eur": 6}');
SELECT state, version FROM es_load_for_update('acct-new');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT state, version FROM es_load_for_update('acct-new'), es_lock_streams('{acct-a}') l(s, v);
SELECT version FROM es_append('acct-new', 3, 'Opened', '{"eur": 7}');
COMMIT;

-- 64 streams that do not exist
SELECT count(*) FROM es_lock_streams((SELECT array_agg('acct-c' || i) FROM generate_series(1, 64) i));
SELECT try($$SELECT count(*) FROM es_lock_streams((SELECT array_agg('acct-c' || i) FROM generate_series(1, 65) i))$$);
BEGIN;
SELECT count(*) FROM es_lock_streams((SELECT array_agg('acct-c' || i) FROM generate_series(1, 64) i));
SELECT try($$SELECT es_lock_stream('acct-d1')$$);
SELECT try($$SELECT es_load_for_update('acct-d1')$$);
SELECT es_lock_stream('acct-a');
SELECT version FROM es_load_for_update('acct-b');
-- what was appended to is a row, and no lock on a name
SELECT version FROM es_append('acct-c1', 0, 'Opened', '{}');
ROLLBACK;
-- those that a savepoint gave back do not count
BEGIN;
SAVEPOINT s;
SELECT count(*) FROM es_lock_streams((SELECT array_agg('acct-c' || i) FROM generate_series(1, 64) i));
ROLLBACK TO s;
SELECT count(*) FROM es_lock_streams((SELECT array_agg('acct-d' || i) FROM generate_series(1, 64) i));
COMMIT;
-- many that exist
SELECT count(*) FROM es_append_batch((SELECT array_agg('many-' || i) FROM generate_series(1, 1000) i), array_fill('T'::text, '{1000}'), array_fill('{}'::jsonb, '{1000}'));
SELECT count(*), sum(version), min(stream), max(stream) FROM es_lock_streams((SELECT array_agg('many-' || i) FROM generate_series(1, 1000) i));

-- who holds streams has the lock that the coordinator looks for; a savepoint that gives the streams back takes it back
BEGIN;
TABLE holding;
SAVEPOINT s;
SELECT es_lock_stream('acct-a');
TABLE holding;
ROLLBACK TO s;
TABLE holding;
SELECT version FROM es_load_for_update('acct-none');
TABLE holding;
COMMIT;
BEGIN;
SELECT version FROM es_append_multi('[{"stream": "acct-a", "expected_version": 1}]');
TABLE holding;
COMMIT;
BEGIN;
SELECT version FROM es_append('acct-a', 1, 'Opened', '{}');
TABLE holding;
ROLLBACK;
TABLE holding;

-- rights
CREATE ROLE es_test_append;
CREATE ROLE es_test_read;
CREATE ROLE es_test_both;
SELECT es_grant('es_test_append', 'append'), es_grant('es_test_both', 'append'), es_grant('es_test_both', 'read'), es_grant('es_test_read', 'read');
SET ROLE es_test_append;
SELECT es_lock_stream('acct-a');
SELECT * FROM es_lock_streams('{acct-a}');
SELECT try($$SELECT es_load_for_update('acct-a')$$);
SET ROLE es_test_read;
SELECT try($$SELECT es_lock_stream('acct-a')$$);
SELECT try($$SELECT es_lock_streams('{acct-a}')$$);
SELECT try($$SELECT es_load_for_update('acct-a')$$);
SET ROLE es_test_both;
SELECT version FROM es_load_for_update('acct-a');
RESET ROLE;
SELECT es_revoke('es_test_append', 'append'), es_revoke('es_test_both', 'append'), es_revoke('es_test_both', 'read'), es_revoke('es_test_read', 'read');
DROP OWNED BY es_test_append, es_test_read, es_test_both;
DROP ROLE es_test_append, es_test_read, es_test_both;

-- one at a time, and appended to; and one name again and again
DO $$ BEGIN
    FOR i IN 1 .. 100 LOOP
        PERFORM es_lock_stream('each-' || i);
        PERFORM es_append('each-' || i, 0, 'T', '{}');
        PERFORM es_lock_stream('each-none');
    END LOOP;
END $$;
SELECT count(*) FROM es_list_streams('each');

SELECT * FROM es_check();
DROP VIEW holding;
DROP FUNCTION try;
DROP SCHEMA event_store CASCADE;
DROP FUNCTION locking;
