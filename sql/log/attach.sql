-- Makes a table that log/partition.sql has made a partition of the log.
--
-- partition: its name. from, to: the positions that it is for, from <= p < to.

ALTER TABLE event_store.log ATTACH PARTITION event_store.:partition FOR VALUES FROM (:from) TO (:to);
