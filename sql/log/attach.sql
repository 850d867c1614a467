-- Makes a table that log/partition.sql has made a partition of the log.
--
-- partition: its name. from, to: the positions that it is for, from <= p < to. only: the name again, to note no others: in an old
-- snapshot one would conflict with what was noted since (40001). Else ''.

ALTER TABLE event_store.log ATTACH PARTITION event_store.:partition FOR VALUES FROM (:from) TO (:to);

-- Notes it, and those that a DBA has attached since the last one was made. A dropped partition stays noted.
INSERT INTO event_store.log_partitions (from_position, to_position, name)
SELECT p.bounds[1]::bigint, p.bounds[2]::bigint, p.name
FROM (
    SELECT c.relname::text AS name,
        regexp_match(pg_get_expr(c.relpartbound, c.oid), '\(''?(\d+)''?\) TO \(''?(\d+)''?\)') AS bounds
    FROM pg_inherits i
    JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'event_store.log'::regclass) p
WHERE p.bounds IS NOT NULL AND (:only = '' OR p.name = :only)
ON CONFLICT DO NOTHING;
