-- The tables that refuse changes: those that are named, and the partitions of the log, attached or not. With each:
-- whether its triggers are as guard.sql makes them, and whether it is partitioned.
--
-- tables: the names of the store's tables. extension_schema: the schema's oid.

SELECT t.name, bool_and(g.oid IS NOT NULL AND g.tgenabled = 'A' AND g.tgtype = w.type
        AND g.tgqual IS NULL AND g.tgattr[0] IS NULL AND f.oid IS NOT NULL) AS as_made,
    t.kind = 'p' AS partitioned
FROM (
    SELECT c.oid, c.relname::text AS name, c.relkind AS kind
    FROM pg_class c
    WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'p')
        AND (c.relname = ANY (:tables::text[]) OR c.relname ~ '^log_[0-9]+$'
            OR c.oid IN (SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = 'event_store.log'::regclass))) t
JOIN (VALUES ('es_immutable', 62), ('es_immutable_row', 29)) w (name, type) ON t.kind = 'r' OR w.type = 62
LEFT JOIN pg_trigger g ON g.tgrelid = t.oid AND g.tgname = w.name
LEFT JOIN pg_proc f ON f.oid = g.tgfoid AND f.proname = 'es_refuse_change' AND f.pronamespace = :extension_schema
GROUP BY t.name, t.kind
ORDER BY t.name;
