-- The views for applications and operators.
--
-- Distances between positions leave out what epochs have jumped over; the expression stands in three views, because
-- a function of the extension would tie them to it: DROP EXTENSION would take them.
--
-- process_lock: the fourth field of the advisory locks that background processes hold (base/lock.h). last_position: the end of
-- this node's positions.

CREATE OR REPLACE VIEW event_store.events AS
SELECT l.position, h.name AS stream, c.name AS category, l.version, t.name AS event_type, l.schema_version,
    l.event_id, l.data, l.metadata, l.occurred_at, l.recorded_at
FROM event_store.log l
JOIN event_store.heads h ON h.id = l.stream
JOIN event_store.categories c ON c.id = l.category
JOIN event_store.event_types t ON t.id = l.event_type;
COMMENT ON VIEW event_store.events IS 'every committed event, as stored';

CREATE OR REPLACE VIEW event_store.feed AS
SELECT e.* FROM event_store.events e WHERE e.position <= (SELECT m.mark FROM event_store.mark m);
COMMENT ON VIEW event_store.feed IS
'the events up to the published high-water mark: a cursor on position never skips one';

CREATE OR REPLACE VIEW event_store.streams AS
SELECT h.name AS stream, c.name AS category, h.version, h.first_position, h.last_position, h.created_at, h.recorded_at
FROM event_store.heads h
JOIN event_store.categories c ON c.id = h.category
WHERE h.version > 0;
COMMENT ON VIEW event_store.streams IS
'one row a stream: version, first and last position, when its first and last event were recorded';

CREATE OR REPLACE VIEW event_store.partitions AS
SELECT p.name, p.bounds[1]::bigint AS from_position, p.bounds[2]::bigint AS to_position, p.estimated_events, p.bytes
FROM (
    SELECT c.relname::text AS name,
        regexp_match(pg_get_expr(c.relpartbound, c.oid), '\(''?(\d+)''?\) TO \(''?(\d+)''?\)') AS bounds,
        greatest(c.reltuples, 0)::bigint AS estimated_events, pg_total_relation_size(c.oid) AS bytes
    FROM pg_catalog.pg_inherits i
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'event_store.log'::regclass) p
ORDER BY 2;
COMMENT ON VIEW event_store.partitions IS
'the attached partitions of the log; a position p is in the one with from_position <= p < to_position';

-- ---------------------------------------------------------------- projections

-- The planner must be told that there is one mark (LIMIT 1): it would take the query for a costly one, and compile it.
-- Lag is against what is committed, not against the mark: where no coordinator publishes, the mark stands still.
-- Lag in time is the age of the first event that was not delivered: one probe of an index.
-- Where a projection was not active for minutes its rate is 0: exp() would underflow.
-- Stale is what was made with other upcasters than there are now for its types (es_upcaster_set() in state/definition.c).
-- What the workers know in shared memory is in a setting, which can be read without depending on the extension. It counts for the
-- row of the projection that it was found with (es_row_version() in log/lookup.c). A checkpoint is held by who has locked its row.
CREATE OR REPLACE VIEW event_store.projection_status AS
WITH RECURSIVE leads(id, name) AS (
    SELECT u.id, u.event_type FROM event_store.upcasters u
    UNION
    SELECT l.id, u.to_type FROM leads l JOIN event_store.upcasters u ON u.event_type = l.name
)
SELECT p.name,
    CASE WHEN p.state = 'failed' OR p.state = 'paused' AND coalesce(p.paused_until > clock_timestamp(), true) THEN p.state
        WHEN b.state = 'running' THEN 'rebuilding'
        WHEN y.stale THEN 'stale'
        ELSE 'running' END AS status,
    p.mode,
    CASE p.mode WHEN 'inline' THEN m.mark ELSE k.position END AS position,
    m.mark,
    CASE p.mode WHEN 'inline' THEN 0
        ELSE greatest(m.newest - k.position - (
            SELECT coalesce(sum(greatest(least(x.start_position, m.newest) - greatest(x.last_position, k.position), 0)), 0)::bigint
            FROM event_store.epochs x), 0) END AS lag_events,
    CASE p.mode WHEN 'inline' THEN 0
        ELSE coalesce(extract(epoch FROM clock_timestamp() - n.recorded_at), 0) END::double precision AS lag_seconds,
    c.events,
    round((CASE WHEN c.last_active < clock_timestamp() - interval '5 minutes' THEN 0
        ELSE c.rate * exp(-greatest(extract(epoch FROM clock_timestamp() - c.last_active)::double precision, 0) / 10)
        END)::numeric, 1) AS events_per_second,
    c.quarantined AS quarantined_streams,
    c.attempts,
    c.error AS last_error,
    c.error_code AS last_error_code,
    c.error_position AS last_error_position,
    c.last_active,
    b.state AS rebuild,
    w.coordinator_pid,
    CASE WHEN b.state = 'running' THEN 'rebuilding' WHEN p.state = 'paused' AND coalesce(p.paused_until > clock_timestamp(), true) THEN 'paused'
        ELSE 'running' END AS state,
    CASE WHEN p.state = 'failed' OR b.state = 'failed' THEN 'failed'
        WHEN p.mode = 'async' AND p.state = 'running' AND (h.slots ->> 'no_slot')::boolean THEN 'no_slot'
        WHEN c.attempts > 0 OR c.suspect THEN 'waiting'
        WHEN y.stale THEN 'stale'
        ELSE 'ok' END AS health,
    (s.slot ->> 'pid')::integer AS pid,
    to_timestamp((s.slot ->> 'since')::double precision) AS active_since,
    nullif(coalesce(pg_blocking_pids((s.slot ->> 'pid')::integer), '{}') || ARRAY(
        SELECT coalesce(l.pid, 0)
        FROM pg_locks l
        WHERE l.locktype = 'transactionid' AND l.transactionid = c.xmax AND l.granted
            AND l.pid IS DISTINCT FROM (s.slot ->> 'pid')::integer), '{}') AS blocked_by,
    y.stale,
    p.paused_until,
    p.pause_reason
FROM event_store.projections p
JOIN event_store.checkpoints c ON c.projection = p.name AND NOT c.rebuild
CROSS JOIN LATERAL (
    SELECT sha256(coalesce(string_agg(uuid_send(u.id), '' ORDER BY u.id), '')) AS digest
    FROM event_store.upcasters u
    WHERE p.event_types IS NULL OR u.id IN (SELECT l.id FROM leads l WHERE l.name = ANY (p.event_types))) u
CROSS JOIN LATERAL (SELECT p.stale OR NOT p.side_effects AND coalesce(c.upcasters <> u.digest, false) AS stale) y
CROSS JOIN (
    SELECT k.mark, coalesce((SELECT l.position FROM event_store.log l ORDER BY l.position DESC LIMIT 1), k.mark) AS newest
    FROM event_store.mark k
    LIMIT 1) m
CROSS JOIN (
    SELECT min(l.pid) AS coordinator_pid
    FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.objsubid = :process_lock AND l.objid = 0 AND l.granted
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())) w
CROSS JOIN (SELECT nullif(current_setting('event_store.hand_out', true), '')::jsonb AS slots OFFSET 0) h
CROSS JOIN LATERAL (SELECT h.slots -> hashtextextended(p.name, 0)::text AS slot) s
CROSS JOIN LATERAL (
    SELECT greatest(c.position, CASE WHEN (s.slot ->> 'row')::bigint = p.xmin::text::bigint << 32
        | (((p.ctid::text::point)[0]::bigint << 11 | (p.ctid::text::point)[1]::bigint) & 4294967295)
        THEN (s.slot ->> 'position')::bigint END) AS position) k
LEFT JOIN event_store.rebuilds b ON b.projection = p.name
LEFT JOIN LATERAL (
    SELECT l.recorded_at FROM event_store.log l
    WHERE p.mode = 'async' AND l.position > k.position
    ORDER BY l.position
    LIMIT 1) n ON true;
COMMENT ON VIEW event_store.projection_status IS
'one row a projection: what it does, how far it is behind, why it failed, and who sees to it';

CREATE OR REPLACE VIEW event_store.rebuild_progress AS
SELECT b.projection AS name, b.state, b.started_at, c.position, m.mark AS of_position, c.events,
    round((c.events / extract(epoch FROM nullif(c.last_active - b.started_at, '0')))::numeric, 0) AS events_per_second,
    round((100.0 * d.done / greatest(d.all_of_them, 1))::numeric, 1) AS percent,
    CASE WHEN c.events > 0 AND d.done > 0 AND c.last_active > b.started_at
        THEN (c.last_active - b.started_at) * ((d.all_of_them - d.done)::double precision / d.done) END AS time_left,
    c.quarantined AS quarantined_streams,
    c.error AS last_error,
    c.error_code AS last_error_code
FROM event_store.rebuilds b
JOIN event_store.projections p ON p.name = b.projection
JOIN event_store.checkpoints c ON c.projection = b.projection AND c.rebuild
CROSS JOIN (SELECT mark FROM event_store.mark LIMIT 1) m
CROSS JOIN LATERAL (
    SELECT
        greatest(c.position - p.from_position - (
            SELECT coalesce(sum(greatest(least(x.start_position, c.position) - greatest(x.last_position, p.from_position), 0)), 0)::bigint
            FROM event_store.epochs x), 0) AS done,
        greatest(m.mark - p.from_position - (
            SELECT coalesce(sum(greatest(least(x.start_position, m.mark) - greatest(x.last_position, p.from_position), 0)), 0)::bigint
            FROM event_store.epochs x), 0) AS all_of_them) d;
COMMENT ON VIEW event_store.rebuild_progress IS
'one row a rebuild that is under way or has failed: how far it is, how long it will take';

-- ---------------------------------------------------------------- the store

-- The transaction that holds the mark back is the one that has held the sequence's lock longest.
CREATE OR REPLACE VIEW event_store.status AS
SELECT m.mark, m.stable_until,
    CASE WHEN q.is_called THEN q.last_value ELSE q.last_value - 1 END AS newest_position,
    h.pid AS holder_pid, h.gid AS holder_gid, h.since AS holder_since, h.query AS holder_query,
    (SELECT count(*) FROM event_store.partitions) AS partitions,
    (SELECT value FROM event_store.counters WHERE name = 'snapshots_taken') AS snapshots_taken,
    (SELECT value FROM event_store.counters WHERE name = 'snapshots_damaged') AS snapshots_damaged,
    (SELECT value FROM event_store.counters WHERE name = 'snapshots_outdated') AS snapshots_outdated,
    (SELECT value FROM event_store.counters WHERE name = 'sessions_ended') AS sessions_ended,
    w.coordinator_pid, w.workers,
    (SELECT h.name FROM event_store.counters c JOIN event_store.heads h ON h.id = c.value
        WHERE c.name = 'damaged_stream') AS damaged_snapshot_of,
    CASE WHEN w.coordinator_pid IS NOT NULL THEN (
        SELECT jsonb_agg(jsonb_build_object('duty', d.name, 'since', d.since, 'error_code', d.error_code, 'error', d.error)
            ORDER BY d.since)
        FROM event_store.duties d) END AS failing_duties,
    :last_position - CASE WHEN q.is_called THEN q.last_value ELSE q.last_value - 1 END AS positions_left,
    (SELECT count(*) FROM event_store.categories) AS categories,
    (SELECT count(*) FROM event_store.event_types) AS event_types
FROM event_store.mark m
CROSS JOIN event_store.position_seq q
LEFT JOIN LATERAL (
    SELECT l.pid, p.gid, coalesce(a.xact_start, p.prepared) AS since, a.query
    FROM pg_locks l
    LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    LEFT JOIN pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'
        AND x.virtualtransaction = l.virtualtransaction
    LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
    WHERE l.locktype = 'relation' AND l.relation = 'event_store.position_seq'::regclass
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
        AND l.mode = 'RowExclusiveLock'
    ORDER BY 3
    LIMIT 1) h ON true
CROSS JOIN (
    SELECT min(l.pid) FILTER (WHERE l.objid = 0) AS coordinator_pid,
        count(*) FILTER (WHERE l.objid <> 0) AS workers
    FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.objsubid = :process_lock AND l.granted
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())) w;
COMMENT ON VIEW event_store.status IS
'one row: the published mark, the newest position, who holds the mark back, what became of snapshots, the background processes and what they cannot do, what is used of what there is a limit of';

-- ---------------------------------------------------------------- subscriptions

CREATE OR REPLACE VIEW event_store.subscription_status AS
SELECT b.name, b.categories, b.event_types, b.position, m.mark,
    greatest((CASE WHEN q.is_called THEN q.last_value ELSE q.last_value - 1 END) - b.position - (
        SELECT coalesce(sum(greatest(least(x.start_position, (CASE WHEN q.is_called THEN q.last_value ELSE q.last_value - 1 END))
            - greatest(x.last_position, b.position), 0)), 0)::bigint
        FROM event_store.epochs x), 0) AS lag_events,
    s.in_flight AS streams_in_flight, s.quarantined AS quarantined_streams, s.oldest AS oldest_unacked,
    c.leases, c.last_fetch, c.last_ack, c.consumers, b.created_at,
    CASE WHEN b.paused AND coalesce(b.paused_until > clock_timestamp(), true) THEN 'paused' ELSE 'running' END AS status,
    b.paused_until, b.pause_reason
FROM event_store.subscriptions b
CROSS JOIN event_store.mark m
CROSS JOIN event_store.position_seq q
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE s.reason IS NULL) AS in_flight, count(s.reason) AS quarantined,
        min(s.position) FILTER (WHERE s.reason IS NULL) AS oldest
    FROM event_store.subscription_streams s
    WHERE s.subscription = b.id) s
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE NOT c.lost AND c.lease_until > clock_timestamp()) AS leases,
        max(c.fetched_at) AS last_fetch, max(c.acked_at) AS last_ack,
        jsonb_agg(jsonb_build_object('consumer', c.consumer, 'lease_until', c.lease_until, 'lost', c.lost,
            'last_fetch', c.fetched_at, 'last_ack', c.acked_at, 'streams', (
                SELECT count(*) FROM event_store.subscription_streams h
                WHERE h.subscription = b.id AND h.consumer = c.consumer AND h.reason IS NULL))
            ORDER BY c.consumer) AS consumers
    FROM event_store.subscription_consumers c
    WHERE c.subscription = b.id) c;
COMMENT ON VIEW event_store.subscription_status IS
'one row for each subscription: how far it has come, what is in flight, who consumes';

-- ---------------------------------------------------------------- what both have

CREATE OR REPLACE VIEW event_store.quarantine AS
SELECT q.projection AS name, 'projection' AS kind, h.name AS stream, q.position,
    (SELECT l.version FROM event_store.log l WHERE l.position = q.position) AS version,
    q.events, q.error, q.error_code, q.error_position, q.attempts, q.since, q.together, q.rebuild
FROM event_store.quarantined_streams q
JOIN event_store.heads h ON h.id = q.stream
UNION ALL
SELECT b.name, 'subscription', h.name, s.position, s.version, NULL, s.reason, NULL, s.position, s.attempts, s.since, NULL, false
FROM event_store.subscription_streams s
JOIN event_store.subscriptions b ON b.id = s.subscription
JOIN event_store.heads h ON h.id = s.stream
WHERE s.reason IS NOT NULL;
COMMENT ON VIEW event_store.quarantine IS
'streams whose events a projection or subscription has set aside, from a position on: the error is that of the call that a projection could not apply (NULL for a stream that only came behind one), or what es_nack was told';
