-- The snapshots that es_check() compares with a replay, in an order in which each replay can go on where the one before
-- it has ended.
--
-- sample: how many of them, taken at random.

SELECT s.stream, s.fingerprint, s.version, s.position, s.recorded_at, s.state, s.hash, h.name,
    s.digest
FROM (
    SELECT stream, fingerprint, version FROM event_store.snapshots
    ORDER BY random()
    LIMIT :sample) k
JOIN event_store.snapshots s USING (stream, fingerprint, version)
JOIN event_store.heads h ON h.id = s.stream
ORDER BY s.stream, s.fingerprint, s.version;
