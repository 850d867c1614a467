-- What sessions remember is read anew when it may have changed, and not each time VACUUM or ANALYZE has been at a table whose
-- rows change all the time. Counted in scans of the list of partitions.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
SELECT es_create_store();
-- (the least of three: a coordinator may make a partition meanwhile)
CREATE FUNCTION scans_of_list(statement text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    before bigint;
    least bigint;
BEGIN
    PERFORM es_append('cached-1', -2, 'Happened', '{}');
    FOR i IN 1..3 LOOP
        before := pg_stat_get_xact_numscans('event_store.log_partitions'::regclass);
        EXECUTE statement;
        PERFORM es_append('cached-1', -2, 'Happened', '{}');
        least := least(least, pg_stat_get_xact_numscans('event_store.log_partitions'::regclass) - before);
    END LOOP;
    RETURN least;
END $$;
SELECT t, scans_of_list(format('ALTER TABLE event_store.%I SET (autovacuum_vacuum_threshold = 50)', t)) AS scans
FROM unnest('{mark,heads,categories,event_types,append_keys,batch_keys,snapshots,seals,subscription_streams,erased}'::text[]) t;
SELECT t, scans_of_list(format('ALTER TABLE event_store.%I SET (autovacuum_vacuum_threshold = 50)', t)) > 0 AS read_anew
FROM unnest('{epochs,aggregates,upcasters,event_checks,projections,log_partitions}'::text[]) t;
SELECT scans_of_list('SELECT 1');
-- a change of one of them is noticed all the same
BEGIN;
ALTER TABLE event_store.heads ADD COLUMN more int;
SELECT es_append('cached-1', -2, 'Happened', '{}');
ROLLBACK;
SELECT version > 0 FROM es_append('cached-1', -2, 'Happened', '{}');
DROP FUNCTION scans_of_list;
DROP SCHEMA event_store CASCADE;
