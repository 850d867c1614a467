-- The tables that refuse UPDATE, DELETE and TRUNCATE by SQL: those named here, and the attached partitions of the log.
-- With each: whether it has the trigger that refuses, and whether that fires for everybody, replication included.

SELECT t.name, g.oid IS NOT NULL AS has_trigger, coalesce(g.tgenabled = 'A', false) AS always
FROM (
    SELECT i.name, i.number, to_regclass('event_store.' || i.name)::oid AS table_id
    FROM unnest(ARRAY['store', 'epochs', 'categories', 'event_types', 'heads', 'log', 'log_partitions', 'append_keys', 'batch_keys',
                      'seals', 'erased']) WITH ORDINALITY i (name, number)
    UNION ALL
    SELECT c.relname::text, 1000 + row_number() OVER (ORDER BY c.relname), c.oid
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'event_store.log'::regclass) t
LEFT JOIN pg_trigger g ON g.tgrelid = t.table_id AND g.tgname = 'es_immutable'
ORDER BY t.number;
