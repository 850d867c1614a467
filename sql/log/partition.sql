-- A partition of the log, before it is attached: its guard (store/guard.sql) comes between.
--
-- partition, stream_index: the names.

-- Rows never change: the first vacuum of a page may freeze it, and none has to come back for that.
CREATE TABLE event_store.:partition (LIKE event_store.log INCLUDING ALL)
    WITH (autovacuum_freeze_min_age = 0, toast.autovacuum_freeze_min_age = 0);

CREATE UNIQUE INDEX :stream_index ON event_store.:partition (stream, version);
