-- What es_check() finds by queries: each returns kind, stream, position and detail of its findings. They run one after
-- the other in one snapshot, as the owner of the store, with pg_catalog first in search_path.
--
-- newest: the newest position that was allocated; read after the snapshot was taken, so that nothing may be above it.
-- subscriber: 1 where the rows come by replication, which sets no sequences, else 0; then `newest` is the last position there can be.
-- before_first, first_position, last_position: of this node; an event is above the first of them.
-- gaps: the ranges of positions that are in no attached partition. What points into one, or would lie in it, is no
-- finding. partitions, partition_from, partition_to: the attached partitions, and the positions from <= p < to of each.
-- extension_schema, tables, digest_length: the schema's oid, the names of the store's tables, bytes of a digest.
-- system: the identifier of this server.

-- ---------------------------------------------------------------- the mark and the sequences

SELECT 'mark', NULL, NULL, format('event_store.mark has %s rows', count(*))
FROM event_store.mark
HAVING count(*) <> 1;

SELECT 'mark', NULL, m.mark,
    CASE WHEN m.mark > :newest THEN format('the published mark is above the newest position, %s', :newest)
        WHEN m.mark < :before_first THEN 'the published mark is below the first position'
        ELSE format('stable_until is %s, later than floor, %s', m.stable_until, m.floor) END
FROM event_store.mark m
WHERE m.mark > :newest OR m.mark < :before_first OR m.stable_until > m.floor;

SELECT 'time', h.name, l.position,
    format('it was recorded at %s, where everything up to %s is said to be below the mark, %s',
        l.recorded_at, m.stable_until, m.mark)
FROM event_store.mark m
JOIN event_store.log l ON l.position > m.mark
LEFT JOIN event_store.heads h ON h.id = l.stream
WHERE l.recorded_at <= m.stable_until;

SELECT 'sequence', NULL, NULL,
    'event_store.position_seq is not as it was made: it must be of type bigint, increment by 1, cache 1, not cycle, and have the bounds of the node'
FROM pg_sequence s
WHERE s.seqrelid = 'event_store.position_seq'::regclass
    AND (s.seqtypid <> 'bigint'::regtype OR s.seqincrement <> 1 OR s.seqcache <> 1 OR s.seqcycle
        OR s.seqmin <> :first_position OR s.seqmax <> :last_position);

SELECT 'sequence', h.name, NULL,
    format('event_store.stream_seq is at %s: it would give the id %s again', s.last_value, h.id)
FROM event_store.stream_seq s,
    LATERAL (SELECT h.name, h.id FROM event_store.heads h ORDER BY h.id DESC LIMIT 1) h
WHERE :subscriber = 0 AND (h.id > s.last_value OR h.id = s.last_value AND NOT s.is_called);

-- ---------------------------------------------------------------- the log

SELECT 'position', NULL, l.position, format('%s events have this position', count(*))
FROM event_store.log l
GROUP BY l.position
HAVING count(*) > 1;

SELECT 'name', h.name, NULL,
    CASE WHEN c.id IS NULL THEN format('category %s has no name', h.category)
        ELSE format('the head row has category %L', c.name) END
FROM event_store.heads h
LEFT JOIN event_store.categories c ON c.id = h.category
WHERE c.name IS DISTINCT FROM split_part(h.name, '-', 1);

-- It joins most of the log: it must not be planned for a few rows, where there are no statistics yet. (What the planner is told
-- not to do costs so much in its eyes that it would have the query compiled, if es_check() had not switched that off.)
SET LOCAL enable_nestloop = off;

SELECT 'call', (SELECT h.name FROM event_store.heads h WHERE h.id = l.stream), l.position,
    CASE WHEN l.rest < 0 THEN format('rest is %s', l.rest)
        ELSE format('rest is %s, but the last event of its call is not at position %s', l.rest, l.position + l.rest) END
FROM event_store.log l
LEFT JOIN event_store.log e ON e.position = l.position + l.rest
WHERE l.rest <> 0
    AND (l.rest < 0 OR e.rest IS DISTINCT FROM 0 OR e.recorded_at <> l.recorded_at)
    AND NOT :gaps::int8multirange @> l.position + l.rest;

SET LOCAL enable_nestloop = on;

-- ---------------------------------------------------------------- idempotency keys

SELECT 'key', h.name, k.last_position, format('idempotency key %L does not point at the events of an append', k.key)
FROM event_store.append_keys k
LEFT JOIN event_store.heads h ON h.id = k.stream
LEFT JOIN event_store.log l ON l.position = k.last_position
LEFT JOIN event_store.log f ON f.position = k.first_position
WHERE h.id IS NULL
    OR (l.stream, l.version, l.recorded_at) IS DISTINCT FROM (k.stream, k.version, k.recorded_at)
        AND NOT :gaps::int8multirange @> k.last_position
    OR (f.stream, f.recorded_at) IS DISTINCT FROM (k.stream, k.recorded_at)
        AND NOT :gaps::int8multirange @> k.first_position;

SELECT 'key', NULL, k.last_position,
    format('idempotency key %L does not point at the %s events of a batch', k.key, k.events)
FROM event_store.batch_keys k
WHERE NOT EXISTS (
        SELECT FROM unnest(:gaps::int8multirange) gap
        WHERE k.first_position < upper(gap) AND k.last_position >= lower(gap))
    AND (
        SELECT (count(*), min(l.position), max(l.position), min(l.recorded_at), max(l.recorded_at))
            IS DISTINCT FROM (k.events, k.first_position, k.last_position, k.recorded_at, k.recorded_at)
        FROM event_store.log l
        WHERE l.position BETWEEN k.first_position AND k.last_position AND l.position + l.rest = k.last_position);

-- ---------------------------------------------------------------- tables and their triggers

SELECT 'trigger', NULL, NULL,
    CASE WHEN g.oid IS NULL THEN format('table %s has no trigger %s', c.oid::regclass, w.name)
        WHEN g.tgenabled <> 'A' THEN format('trigger %s of table %s is not ENABLE ALWAYS', w.name, c.oid::regclass)
        ELSE format('trigger %s of table %s is not as it was made', w.name, c.oid::regclass) END
FROM pg_class c
JOIN (VALUES ('es_immutable', 62), ('es_immutable_row', 29)) w (name, type) ON c.relkind = 'r' OR w.type = 62
LEFT JOIN pg_trigger g ON g.tgrelid = c.oid AND g.tgname = w.name
WHERE (c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'p')
            AND (c.relname = ANY (:tables::text[]) OR c.relname ~ '^log_[0-9]+$')
        OR c.oid IN (SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = 'event_store.log'::regclass))
    AND (g.oid IS NULL OR g.tgenabled <> 'A' OR g.tgtype <> w.type OR g.tgqual IS NOT NULL OR g.tgattr[0] IS NOT NULL
        OR g.tgfoid IS DISTINCT FROM (
            SELECT p.oid FROM pg_proc p
            WHERE p.proname = 'es_refuse_change' AND p.pronamespace = :extension_schema))
ORDER BY c.relname, w.name;

SELECT 'table', NULL, NULL, format('table %s is unlogged: a crash empties it', c.oid::regclass)
FROM pg_class c
WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'p')
    AND c.relpersistence <> 'p'
ORDER BY c.relname;

SELECT 'table', NULL, NULL, format('table %s has no replica identity: where it is published, its changes cannot be applied', c.oid::regclass)
FROM pg_class c
WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'p')
    AND (c.relname = ANY (:tables::text[]) OR c.relname ~ '^log_[0-9]+$')
    AND (c.relreplident = 'n'
        OR c.relreplident = 'd' AND c.relname !~ '^log'    -- what is said of a partition that lacks its key
            AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)
        OR c.relreplident = 'i' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident))
ORDER BY c.relname;

SELECT 'table', NULL, NULL, format('table %s has row-level security or rules', c.oid::regclass)
FROM pg_class c
WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'p')
    AND (c.relrowsecurity OR c.relforcerowsecurity OR EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid))
ORDER BY c.relname;

-- ---------------------------------------------------------------- snapshots

SELECT 'snapshot', h.name, s.position,
    CASE WHEN h.id IS NULL THEN format('stream id %s of a snapshot does not exist', s.stream)
        ELSE format('the snapshot of version %s is not at the position and time of that event', s.version) END
FROM event_store.snapshots s
LEFT JOIN event_store.heads h ON h.id = s.stream
LEFT JOIN event_store.log l ON l.position = s.position
WHERE (l.stream, l.version, l.recorded_at) IS DISTINCT FROM (s.stream, s.version, s.recorded_at)
    AND NOT :gaps::int8multirange @> s.position;

SELECT 'snapshot', h.name, s.position,
    format('the snapshot of version %s is of another history: the stream has another digest there', s.version)
FROM event_store.snapshots s
JOIN event_store.heads h ON h.id = s.stream
WHERE (s.version, s.position, s.recorded_at) = (h.version, h.last_position, h.recorded_at) AND s.digest <> h.digest
    AND octet_length(h.digest) = :digest_length;

-- ---------------------------------------------------------------- seals

SELECT 'seal', NULL, s.to_position,
    format('the seal of positions %s to %s has %s events, but the log has %s there', s.after_position + 1, s.to_position,
        s.events, l.events)
FROM event_store.seals s
CROSS JOIN LATERAL (
    SELECT count(*) AS events FROM event_store.log l
    WHERE l.position > s.after_position AND l.position <= s.to_position) l
WHERE l.events <> s.events
    AND NOT :gaps::int8multirange && int8range(least(s.after_position, s.to_position), s.to_position, '(]');

-- ---------------------------------------------------------------- projections

SELECT 'projection', NULL, NULL::bigint, format('projection %L has no checkpoint', p.name)
FROM event_store.projections p
WHERE NOT EXISTS (SELECT FROM event_store.checkpoints c WHERE c.projection = p.name AND NOT c.rebuild)
UNION ALL
SELECT 'projection', NULL, NULL, format('the rebuild of projection %L has no checkpoint', b.projection)
FROM event_store.rebuilds b
WHERE NOT EXISTS (SELECT FROM event_store.checkpoints c WHERE c.projection = b.projection AND c.rebuild)
UNION ALL
SELECT 'projection', NULL, NULL, format('the rebuild of projection %L is of no projection', b.projection)
FROM event_store.rebuilds b
WHERE NOT EXISTS (SELECT FROM event_store.projections p WHERE p.name = b.projection)
UNION ALL
SELECT 'projection', NULL, c.position, format('a checkpoint is of no projection or rebuild: %L', c.projection)
FROM event_store.checkpoints c
WHERE CASE WHEN c.rebuild THEN NOT EXISTS (SELECT FROM event_store.rebuilds b WHERE b.projection = c.projection)
    ELSE NOT EXISTS (SELECT FROM event_store.projections p WHERE p.name = c.projection) END;

SELECT 'projection', NULL, c.position,
    CASE WHEN c.position < p.from_position
            THEN format('the checkpoint of projection %L is before its beginning, %s', p.name, p.from_position)
        WHEN c.scan_from > c.position + 1 THEN format('projection %L would go on at position %s', p.name, c.scan_from)
        ELSE format('the checkpoint of projection %L is above the newest position, %s', p.name, :newest) END
FROM event_store.projections p
JOIN event_store.checkpoints c ON c.projection = p.name
WHERE c.position > greatest(p.from_position, :newest) OR c.position < p.from_position OR c.scan_from > c.position + 1;

SELECT 'projection', NULL, c.position,
    format('projection %L has %s parked streams, but its checkpoint says %s', c.projection, q.n, c.quarantined)
FROM event_store.checkpoints c
CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM event_store.quarantined_streams q
    WHERE q.projection = c.projection AND q.rebuild = c.rebuild) q
WHERE q.n <> c.quarantined;

-- What it was given, what it has parked, and what the log has, of the events that it wants. A wrong number means that a part
-- of the log was not there when it came by. With upcasters the names in the log are not those that it asks for.
WITH bound AS (
    SELECT array_agg(DISTINCT b.position ORDER BY b.position) AS positions
    FROM event_store.checkpoints c, LATERAL (VALUES (c.position), (c.counted_after)) b (position)
    WHERE NOT c.rebuild AND NOT EXISTS (SELECT FROM event_store.upcasters)
),
counted AS MATERIALIZED (
    SELECT l.category, l.event_type, width_bucket(l.position - 1, b.positions) AS bucket,
        width_bucket(l.position + l.rest - 1, b.positions) AS call_bucket, count(*) AS events
    FROM event_store.log l, bound b
    WHERE b.positions IS NOT NULL
    GROUP BY 1, 2, 3, 4
)
SELECT 'projection', NULL, c.position,
    format('projection %L was given %s events after position %s, and the log has %s for it up to its checkpoint', p.name,
        c.events - c.counted_events + q.events, c.counted_after, l.events)
FROM event_store.projections p
JOIN event_store.checkpoints c ON c.projection = p.name AND NOT c.rebuild
JOIN event_store.projection_status s ON s.name = p.name
CROSS JOIN bound b
CROSS JOIN LATERAL (
    SELECT coalesce(sum(q.events), 0) AS events FROM event_store.quarantined_streams q
    WHERE q.projection = p.name AND NOT q.rebuild) q
CROSS JOIN LATERAL (
    SELECT coalesce(sum(n.events), 0) AS events
    FROM counted n
    JOIN event_store.categories k ON k.id = n.category
    JOIN event_store.event_types t ON t.id = n.event_type
    WHERE n.bucket >= array_position(b.positions, c.counted_after)
        AND n.call_bucket < array_position(b.positions, c.position)
        AND (p.categories IS NULL OR k.name = ANY (p.categories))
        AND (p.event_types IS NULL OR t.name = ANY (p.event_types))) l
WHERE b.positions IS NOT NULL AND p.mode = 'async' AND NOT s.stale AND c.counted_after < c.position
    AND c.events - c.counted_events + q.events <> l.events
    AND NOT :gaps::int8multirange && int8range(c.counted_after, c.position, '(]');

SELECT 'projection', h.name, q.position,
    CASE WHEN c.projection IS NULL THEN format('the stream is parked by no projection: %L', q.projection)
        WHEN h.id IS NULL
            THEN format('projection %L has parked stream id %s, which does not exist', q.projection, q.stream)
        WHEN q.position > c.position
            THEN format('projection %L has parked the stream beyond its checkpoint, %s', q.projection, c.position)
        WHEN q.events < 1 THEN format('projection %L has parked the stream, but no event', q.projection)
        WHEN l.stream IS DISTINCT FROM q.stream
            THEN format('projection %L has parked the stream at a position where it has no event', q.projection)
        ELSE format('projection %L has parked the stream for no error', q.projection) END
FROM event_store.quarantined_streams q
LEFT JOIN event_store.heads h ON h.id = q.stream
LEFT JOIN event_store.checkpoints c ON c.projection = q.projection AND c.rebuild = q.rebuild
LEFT JOIN event_store.log l ON l.position = q.position
WHERE c.projection IS NULL OR h.id IS NULL OR q.position > c.position OR q.events < 1
    OR l.stream IS DISTINCT FROM q.stream AND NOT :gaps::int8multirange @> q.position
    OR NOT EXISTS (
        SELECT FROM event_store.quarantined_streams e
        WHERE e.projection = q.projection AND e.rebuild = q.rebuild AND e.together = q.together
            AND e.error IS NOT NULL);

-- ---------------------------------------------------------------- subscriptions

SELECT 'subscription', NULL, b.position,
    CASE WHEN b.position < b.from_position
            THEN format('subscription %L is before its beginning, %s', b.name, b.from_position)
        ELSE format('subscription %L is above the newest position, %s', b.name, :newest) END
FROM event_store.subscriptions b
WHERE b.position > greatest(b.from_position, :newest) OR b.position < b.from_position;

SELECT 'subscription', h.name, s.position,
    CASE WHEN b.id IS NULL THEN format('the stream is in flight for no subscription: id %s', s.subscription)
        WHEN h.id IS NULL
            THEN format('subscription %L has stream id %s in flight, which does not exist', b.name, s.stream)
        WHEN s.position > b.position
            THEN format('subscription %L has the stream in flight beyond its position, %s', b.name, b.position)
        WHEN s.consumer IS NOT NULL AND c.consumer IS NULL
            THEN format('subscription %L has given the stream to consumer %L, who has no lease', b.name, s.consumer)
        ELSE format('subscription %L has the stream in flight at version %s, which is not at this position', b.name, s.version)
        END
FROM event_store.subscription_streams s
LEFT JOIN event_store.heads h ON h.id = s.stream
LEFT JOIN event_store.subscriptions b ON b.id = s.subscription
LEFT JOIN event_store.subscription_consumers c
    ON c.subscription = s.subscription AND c.consumer = s.consumer AND NOT c.lost
LEFT JOIN event_store.log l ON l.position = s.position
WHERE b.id IS NULL OR h.id IS NULL OR s.position > b.position OR s.consumer IS NOT NULL AND c.consumer IS NULL
    OR (l.stream, l.version) IS DISTINCT FROM (s.stream, s.version) AND NOT :gaps::int8multirange @> s.position;

SELECT 'subscription', NULL, greatest(c.returned, c.covered),
    CASE WHEN b.id IS NULL THEN format('consumer %L is of no subscription: id %s', c.consumer, c.subscription)
        ELSE format('consumer %L of subscription %L was given events beyond its position, %s', c.consumer, b.name, b.position)
        END
FROM event_store.subscription_consumers c
LEFT JOIN event_store.subscriptions b ON b.id = c.subscription
WHERE b.id IS NULL OR greatest(c.returned, c.covered) > b.position;

-- ---------------------------------------------------------------- streams

-- Each stream as its head row has it and as its events have it, in order of ids and versions; each event once. What there
-- is to say of an event is asked in the middle part, and put into words in the last one, which has few rows.
SET LOCAL enable_nestloop = off;

WITH event AS (
    SELECT l.stream, l.version, l.position, l.recorded_at, l.category, l.event_type, l.tableoid AS partition,
        lag(l.version) OVER stream AS before_version,
        lag(l.position) OVER stream AS before_position,
        lag(l.recorded_at) OVER stream AS before_recorded_at,
        lead(l.version) OVER stream IS NULL AS is_last
    FROM event_store.log l
    WINDOW stream AS (PARTITION BY l.stream ORDER BY l.version, l.position)
),
asked AS (
    SELECT coalesce(h.id, e.stream) AS id, h.name, e.version, e.position, e.recorded_at, e.category, e.event_type,
        e.partition, e.before_version, e.before_position,
        h.version AS head_version, h.first_position AS head_first, h.last_position AS head_last,
        h.category AS head_category, octet_length(h.digest) AS head_digest,
        h.id IS NULL AND e.before_version IS NULL AS no_head,
        e.version < coalesce(e.before_version + 1, 1) AS version_again,
        e.version > coalesce(e.before_version + 1, 1) AND NOT EXISTS (
            SELECT FROM unnest(:gaps::int8multirange) gap
            WHERE lower(gap) <= e.position AND upper(gap) > coalesce(e.before_position, 0)) AS version_missing,
        e.position <= e.before_position AS position_back,
        e.stream IS NOT NULL AND (p.relid IS NULL OR e.position < p.from_position OR e.position >= p.to_position)
            AS partition_wrong,
        e.position > :newest AS position_again,
        e.recorded_at < e.before_recorded_at AS time_back,
        e.stream IS NOT NULL AND t.id IS NULL AS type_nameless,
        e.category <> h.category AS category_other,
        e.version = 1 AND e.before_version IS NULL AND e.position <> h.first_position AS head_first_other,
        e.version = 1 AND e.before_version IS NULL AND e.recorded_at <> h.created_at AS head_created_other,
        coalesce(e.is_last, true) AND octet_length(h.digest) <> :digest_length AS head_digest_wrong,
        e.is_last AND e.version > h.version AS head_version_less,
        coalesce(e.is_last, true) AND coalesce(e.version, 0) < h.version AND NOT EXISTS (
            SELECT FROM unnest(:gaps::int8multirange) gap
            WHERE lower(gap) <= h.last_position AND upper(gap) > coalesce(e.position + 1, h.first_position))
            AS head_version_more,
        e.stream IS NULL AND h.version <= 0 AND (h.first_position <> 0 OR h.last_position <> 0) AS head_positions,
        e.is_last AND e.version = h.version AND e.position <> h.last_position AS head_last_other,
        e.is_last AND e.version = h.version AND e.recorded_at <> h.recorded_at AS head_recorded_other
    FROM event e
    FULL JOIN event_store.heads h ON h.id = e.stream
    LEFT JOIN event_store.event_types t ON t.id = e.event_type
    LEFT JOIN unnest(:partitions::oid[], :partition_from::bigint[], :partition_to::bigint[])
        p (relid, from_position, to_position) ON p.relid = e.partition
),
found AS MATERIALIZED (
    SELECT * FROM asked
    WHERE no_head OR version_again OR version_missing OR position_back OR partition_wrong OR position_again OR time_back
        OR type_nameless OR category_other OR head_first_other OR head_created_other OR head_digest_wrong
        OR head_version_less OR head_version_more OR head_positions OR head_last_other OR head_recorded_other
)
SELECT w.kind, s.name, w.position, w.detail
FROM found s
CROSS JOIN LATERAL (VALUES
    (1, s.no_head, 'head', s.position, format('stream id %s has events, but no head row', s.id)),
    (2, s.version_again, 'version', s.position, format('version %s is there %s', s.version,
        CASE WHEN s.before_version IS NULL THEN 'although the first one is 1' ELSE 'twice' END)),
    (3, s.version_missing, 'version', s.position,
        CASE s.version - coalesce(s.before_version, 0) WHEN 2 THEN format('version %s is missing', s.version - 1)
            ELSE format('versions %s to %s are missing', coalesce(s.before_version, 0) + 1, s.version - 1) END),
    (4, s.position_back, 'position', s.position,
        format('version %s is at position %s, which is not after position %s of version %s',
            s.version, s.position, s.before_position, s.before_version)),
    (5, s.partition_wrong, 'position', s.position, format('the event is in partition "%s", which is not for its position',
        (SELECT c.relname FROM pg_class c WHERE c.oid = s.partition))),
    (6, s.position_again, 'position', s.position,
        format('the sequence of positions is at %s: it would draw this one again', :newest)),
    (7, s.time_back, 'time', s.position,
        format('version %s was recorded at %s, before the version before it', s.version, s.recorded_at)),
    (8, s.type_nameless, 'name', s.position,
        format('event type %s of version %s has no name', s.event_type, s.version)),
    (9, s.category_other, 'name', s.position,
        format('category %s of version %s is not the stream''s, %s', s.category, s.version, s.head_category)),
    (10, s.head_first_other, 'head', s.position, format('the head row has first position %s', s.head_first)),
    (11, s.head_created_other, 'head', s.position,
        'the head row was created at another time than its first event was recorded'),
    (12, s.head_digest_wrong, 'head', s.head_last, format('the head row has a digest of %s bytes', s.head_digest)),
    (13, s.head_version_less, 'head', s.position,
        format('the head row has version %s, but there is version %s', s.head_version, s.version)),
    (14, s.head_version_more, 'head', s.head_last,
        format('the head row has version %s, but the last event has version %s', s.head_version, coalesce(s.version, 0))),
    (15, s.head_positions, 'head', s.head_last, 'the head row has positions, but no version'),
    (16, s.head_last_other, 'head', s.position, format('the head row has last position %s', s.head_last)),
    (17, s.head_recorded_other, 'head', s.position,
        'the head row has another time than its last event was recorded')
) w (number, found, kind, position, detail)
WHERE w.found
ORDER BY s.id, s.version, s.position, w.number;

-- ---------------------------------------------------------------- roles

SELECT 'role', NULL, NULL,
    CASE WHEN d.role_system <> :system THEN format('%s is of role %I of another server: SELECT es_create_store()', d.what, d.role)
        WHEN r.oid IS NULL THEN format('%s is of role %I, which does not exist any more', d.what, d.role)
        ELSE format('%s is of role %I, which is now %I: SELECT es_create_store()', d.what, d.role, r.rolname) END
FROM (
    SELECT 1 AS number, format('the aggregate of category %L', a.category) AS what, a.role, a.role_oid, a.role_system
    FROM event_store.aggregates a
    UNION ALL
    SELECT 2, format('the upcaster of %L from version %s', u.event_type, u.from_version), u.role, u.role_oid, u.role_system
    FROM event_store.upcasters u
    UNION ALL
    SELECT 3, format('the check of %L version %s', c.event_type, c.schema_version), c.role, c.role_oid, c.role_system
    FROM event_store.event_checks c
    WHERE c.check_expr IS NOT NULL
    UNION ALL
    SELECT 4, format('projection %L', p.name), p.role, p.role_oid, p.role_system
    FROM event_store.projections p
    UNION ALL
    SELECT 5, format('the rebuild of projection %L', b.projection), b.role, b.role_oid, b.role_system
    FROM event_store.rebuilds b
    UNION ALL
    SELECT 6, format('right %L', g."right"), g.role, g.role_oid, g.role_system
    FROM event_store.grants g) d
LEFT JOIN pg_roles r ON r.oid = d.role_oid AND d.role_system = :system
WHERE r.oid IS NULL OR r.rolname <> d.role
ORDER BY d.number, d.what COLLATE "C";
