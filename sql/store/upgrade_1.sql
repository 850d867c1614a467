-- Brings a store from layout 1 (version 0.1) to layout 2 (version 0.2): what the tables, indexes and sequences of a new store
-- have that those of 0.1 have not. No table is rewritten. Tables and sequences that are new have been made before it, by what
-- makes those of a new store. The views (CREATE OR REPLACE), the triggers that refuse changes, the
-- import table and the grants come after it, from the files that a new store is made by. A view that loses or renames a column
-- is dropped here.

INSERT INTO event_store.log_partitions (from_position, to_position, name)
SELECT p.from_position, p.to_position, p.name FROM event_store.partitions p WHERE p.from_position IS NOT NULL;

-- Events after the newest attached partition: theirs was detached, and who made it gave it this name.
INSERT INTO event_store.log_partitions (from_position, to_position, name)
SELECT p.end_position, h.last_position + 1, 'log_' || p.end_position
FROM (SELECT max(to_position) AS end_position FROM event_store.log_partitions) p,
    (SELECT max(last_position) AS last_position FROM event_store.heads) h
WHERE h.last_position >= p.end_position;

-- Projections and subscriptions share their names, and their quarantine in one view.
DO $$
DECLARE
    twice text;
BEGIN
    SELECT string_agg(quote_literal(p.name), ', ' ORDER BY p.name) INTO twice
    FROM event_store.projections p
    JOIN event_store.subscriptions b ON b.name = p.name;
    IF twice IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
            MESSAGE = 'a projection and a subscription have the same name',
            DETAIL = format('These names are used twice: %s. In version 0.2 projections and subscriptions share their names.', twice),
            HINT = 'Give the subscription another name first: SELECT es_rename_subscription(old, new).';
    END IF;
END $$;
DROP VIEW event_store.projection_quarantine, event_store.subscription_quarantine;
ALTER TABLE event_store.quarantine RENAME TO quarantined_streams;
ALTER TABLE event_store.quarantined_streams RENAME CONSTRAINT quarantine_pkey TO quarantined_streams_pkey;
-- From PostgreSQL 18 on NOT NULL has a name too.
DO $$
DECLARE
    old name;
BEGIN
    FOR old IN
        SELECT c.conname FROM pg_constraint c WHERE c.conrelid = 'event_store.quarantined_streams'::regclass AND c.contype = 'n'
    LOOP
        EXECUTE format('ALTER TABLE event_store.quarantined_streams RENAME CONSTRAINT %I TO %I', old,
            regexp_replace(old, '^quarantine_', 'quarantined_streams_'));
    END LOOP;
END $$;
ALTER TABLE event_store.subscriptions ADD COLUMN paused boolean NOT NULL DEFAULT false, ADD COLUMN paused_until timestamptz,
    ADD COLUMN pause_reason text;
COMMENT ON TABLE event_store.quarantined_streams IS 'streams whose events a projection has in quarantine, from a position on';
COMMENT ON COLUMN event_store.subscriptions.paused_until IS 'NULL, where it is paused: until es_resume';

ALTER TABLE event_store.checkpoints ADD COLUMN counted_after bigint NOT NULL DEFAULT 0,
    ADD COLUMN counted_events bigint NOT NULL DEFAULT 0,
    ADD COLUMN begun timestamptz, ADD COLUMN suspect boolean NOT NULL DEFAULT false,
    ADD COLUMN crashes integer NOT NULL DEFAULT 0, ADD COLUMN crashed_at timestamptz;
COMMENT ON COLUMN event_store.checkpoints.begun IS
'an attempt at a batch that has not ended was committed then; NULL: none, or it was not the first since a worker began';
COMMENT ON COLUMN event_store.checkpoints.suspect IS 'the server crashed during an attempt: it is run alone, in single events, until it has caught up';
COMMENT ON COLUMN event_store.checkpoints.crashes IS 'crashes of the server while it was run alone, the last one at crashed_at';
COMMENT ON COLUMN event_store.checkpoints.counted_after IS
'since this position every event that matches has counted in events, or in the quarantine: es_check';
COMMENT ON COLUMN event_store.checkpoints.counted_events IS 'what events was at that position';
-- What was parked counts when it is applied, and so do calls that reach beyond the position: they were not delivered yet.
UPDATE event_store.checkpoints c SET counted_after = c.position, counted_events = c.events
    + (SELECT coalesce(sum(q.events), 0) FROM event_store.quarantined_streams q WHERE q.projection = c.projection AND NOT q.rebuild)
    + (SELECT count(*)
        FROM event_store.projections p
        JOIN event_store.log l ON l.position BETWEEN c.scan_from AND c.position AND l.position + l.rest > c.position
        JOIN event_store.categories k ON k.id = l.category
        JOIN event_store.event_types t ON t.id = l.event_type
        WHERE p.name = c.projection AND (p.categories IS NULL OR k.name = ANY (p.categories))
            AND (p.event_types IS NULL OR t.name = ANY (p.event_types)))
WHERE NOT c.rebuild;
-- A rebuild has counted from its beginning on.
UPDATE event_store.checkpoints c SET counted_after = p.from_position
FROM event_store.projections p WHERE p.name = c.projection AND c.rebuild;

-- The mark had no primary key, and its updates failed where all tables were published. Its unique key may have been made the
-- replica identity by hand.
ALTER TABLE event_store.mark DROP CONSTRAINT mark_one_key;
ALTER TABLE event_store.mark ADD PRIMARY KEY (one);
ALTER TABLE event_store.mark REPLICA IDENTITY DEFAULT;

SELECT setval('event_store.floor_seq', greatest(1, (extract(epoch FROM floor - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint))
FROM event_store.mark WHERE isfinite(floor);

-- A snapshot without a digest is compared with its event by position and time.
ALTER TABLE event_store.snapshots ADD COLUMN digest bytea;
COMMENT ON COLUMN event_store.snapshots.digest IS
'of the stream up to the event of this version, as its head had it; NULL: not known';
ALTER TABLE event_store.aggregates ADD COLUMN keep_snapshots integer NOT NULL DEFAULT 4 CHECK (keep_snapshots > 0),
    ADD COLUMN keep_snapshots_for interval;
INSERT INTO event_store.counters (name, value) VALUES ('damaged_stream', 0);

-- Roles by OID: es_upgrade_store() then looks for them by name, as es_create_store() does on another server.
ALTER TABLE event_store.aggregates ADD COLUMN role_oid oid NOT NULL DEFAULT 0, ADD COLUMN role_system bigint NOT NULL DEFAULT 0;
ALTER TABLE event_store.upcasters ADD COLUMN role_oid oid NOT NULL DEFAULT 0, ADD COLUMN role_system bigint NOT NULL DEFAULT 0;
ALTER TABLE event_store.event_checks ADD COLUMN role_oid oid NOT NULL DEFAULT 0, ADD COLUMN role_system bigint NOT NULL DEFAULT 0;
ALTER TABLE event_store.projections ADD COLUMN role_oid oid NOT NULL DEFAULT 0, ADD COLUMN role_system bigint NOT NULL DEFAULT 0,
    ADD COLUMN paused_until timestamptz, ADD COLUMN pause_reason text;
COMMENT ON COLUMN event_store.projections.paused_until IS 'NULL, where it is paused: until es_resume';
ALTER TABLE event_store.rebuilds ADD COLUMN role_oid oid NOT NULL DEFAULT 0, ADD COLUMN role_system bigint NOT NULL DEFAULT 0;
ALTER TABLE event_store.grants
    ADD COLUMN role_oid oid NOT NULL DEFAULT 0, ADD COLUMN role_system bigint NOT NULL DEFAULT 0,
    DROP CONSTRAINT grants_pkey,
    ALTER COLUMN role TYPE text COLLATE "C", ALTER COLUMN "right" TYPE text COLLATE "C",
    ADD CONSTRAINT grants_pkey PRIMARY KEY (role, "right", role_oid, role_system);

-- "$user" stands for the schema that it stood for, as in what is registered from now on.
UPDATE event_store.aggregates SET search_path = regexp_replace(search_path, '^"\$user", ',
    CASE WHEN to_regnamespace(quote_ident(role)) IS NULL THEN '' ELSE quote_ident(role) || ', ' END);
UPDATE event_store.upcasters SET search_path = regexp_replace(search_path, '^"\$user", ',
    CASE WHEN to_regnamespace(quote_ident(role)) IS NULL THEN '' ELSE quote_ident(role) || ', ' END);
UPDATE event_store.event_checks SET search_path = regexp_replace(search_path, '^"\$user", ',
    CASE WHEN to_regnamespace(quote_ident(role)) IS NULL THEN '' ELSE quote_ident(role) || ', ' END);
UPDATE event_store.projections SET search_path = regexp_replace(search_path, '^"\$user", ',
    CASE WHEN to_regnamespace(quote_ident(role)) IS NULL THEN '' ELSE quote_ident(role) || ', ' END);
UPDATE event_store.rebuilds SET search_path = regexp_replace(search_path, '^"\$user", ',
    CASE WHEN to_regnamespace(quote_ident(role)) IS NULL THEN '' ELSE quote_ident(role) || ', ' END);

-- Rights that were split: whoever had one has both parts.
INSERT INTO event_store.grants (role, "right")
SELECT g.role, n."new" FROM event_store.grants g
JOIN (VALUES ('read', 'consume'), ('operate', 'define')) n ("old", "new") ON n."old" = g."right"
ON CONFLICT DO NOTHING;

ALTER TABLE event_store.seals ADD COLUMN recorded_after timestamptz;
CREATE INDEX seals_recorded_after ON event_store.seals (recorded_after);
COMMENT ON COLUMN event_store.seals.recorded_after IS
'every event behind this seal was recorded later than this; NULL: not known';

-- Projections that have passed events have done so with the upcasters of now, or were marked.
ALTER TABLE event_store.upcasters ADD COLUMN id uuid;
ALTER TABLE event_store.upcasters ALTER COLUMN id SET DEFAULT gen_random_uuid();
UPDATE event_store.upcasters SET id = DEFAULT;
ALTER TABLE event_store.upcasters ALTER COLUMN id SET NOT NULL;
COMMENT ON COLUMN event_store.upcasters.id IS 'of this registration: what replaces it has another one';
ALTER TABLE event_store.checkpoints ADD COLUMN upcasters bytea;
COMMENT ON COLUMN event_store.checkpoints.upcasters IS
'digest of the upcasters that the events were read with; empty: of several sets of them; NULL: no event was passed yet';
WITH RECURSIVE leads(id, name) AS (
    SELECT u.id, u.event_type FROM event_store.upcasters u
    UNION
    SELECT l.id, u.to_type FROM leads l JOIN event_store.upcasters u ON u.event_type = l.name
)
UPDATE event_store.checkpoints c SET upcasters = CASE WHEN p.stale THEN '' ELSE (
        SELECT sha256(coalesce(string_agg(uuid_send(u.id), '' ORDER BY u.id), ''))
        FROM event_store.upcasters u
        WHERE p.event_types IS NULL OR u.id IN (SELECT l.id FROM leads l WHERE l.name = ANY (p.event_types))) END
FROM (
    SELECT name, false AS rebuild, event_types, false AS stale, from_position, mode FROM event_store.projections
    UNION ALL
    SELECT b.projection, true, b.event_types, b.stale, p.from_position, 'async'
    FROM event_store.rebuilds b JOIN event_store.projections p ON p.name = b.projection) p
WHERE c.projection = p.name AND c.rebuild = p.rebuild AND (c.position > p.from_position OR p.mode = 'inline');

-- What a new store's import has otherwise: es_upgrade_store() makes it, and gives its rights again.
DROP FOREIGN TABLE IF EXISTS event_store.import;

UPDATE event_store.store SET layout = 2;
