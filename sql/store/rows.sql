-- The rows that a store begins with. The first epoch and the first partition follow from C.
--
-- layout, node: what the store is. before_first: the position before the node's first one.

INSERT INTO event_store.store (layout, node, id, created_at)
    VALUES (:layout, :node, gen_random_uuid(), clock_timestamp());

INSERT INTO event_store.mark (mark, stable_until, floor)
    VALUES (:before_first, '-infinity', '-infinity');

INSERT INTO event_store.counters (name, value)
    VALUES ('snapshots_taken', 0), ('snapshots_damaged', 0), ('damaged_stream', 0), ('snapshots_outdated', 0), ('sessions_ended', 0);
