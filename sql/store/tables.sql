-- The store's tables, in order of creation. Each has a primary key: where all tables are published, one without could not
-- be updated.
--
-- The C code reads some of them below SQL, by the numbers of their columns: src/store/store.h says which. There a column
-- that is added, moved or altered must be changed too, and the number of the layout with it.

CREATE TABLE event_store.store (
    layout      integer NOT NULL,
    node        integer NOT NULL,
    id          uuid NOT NULL,
    created_at  timestamptz NOT NULL,
    one         boolean PRIMARY KEY DEFAULT true CHECK (one)
);
COMMENT ON TABLE event_store.store IS 'one row: what this store is';

CREATE TABLE event_store.mark (
    mark          bigint NOT NULL,
    stable_until  timestamptz NOT NULL,
    floor         timestamptz NOT NULL,
    one           boolean PRIMARY KEY DEFAULT true CHECK (one)
) WITH (fillfactor = 20);
COMMENT ON TABLE event_store.mark IS
'one row: the published high-water mark; whoever sees a version of it sees every event up to it';

CREATE TABLE event_store.epochs (
    epoch              bigint PRIMARY KEY,
    began_at           timestamptz NOT NULL,
    mark               bigint NOT NULL,
    last_position      bigint NOT NULL,
    start_position     bigint NOT NULL,
    system_identifier  bigint NOT NULL,
    timeline           bigint NOT NULL,
    database           bigint NOT NULL
);
COMMENT ON TABLE event_store.epochs IS
'one row for each server, timeline and database that positions were drawn in: es_check_cursor';
COMMENT ON COLUMN event_store.epochs.mark IS 'the epoch before is certain up to this position';
COMMENT ON COLUMN event_store.epochs.last_position IS 'the newest position when it began';
COMMENT ON COLUMN event_store.epochs.start_position IS 'its positions are above this one';

-- ---------------------------------------------------------------- events

CREATE TABLE event_store.categories (
    id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name  text COLLATE "C" NOT NULL UNIQUE
);
COMMENT ON TABLE event_store.categories IS 'names of categories by the small ids in the log';

CREATE TABLE event_store.event_types (
    id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name  text COLLATE "C" NOT NULL UNIQUE
);
COMMENT ON TABLE event_store.event_types IS 'names of event types by the small ids in the log';

-- No index on a column that an append changes: head updates stay HOT.
CREATE TABLE event_store.heads (
    id              bigint PRIMARY KEY,
    first_position  bigint NOT NULL,
    created_at      timestamptz NOT NULL,
    category        integer NOT NULL,
    version         bigint NOT NULL,
    last_position   bigint NOT NULL,
    recorded_at     timestamptz NOT NULL,
    digest          bytea NOT NULL,
    name            text COLLATE "C" NOT NULL UNIQUE
) WITH (fillfactor = 90);
COMMENT ON TABLE event_store.heads IS 'one row a stream: its lock and its truth';

-- Partitions have more than this: log/partition.sql.
CREATE TABLE event_store.log (
    position        bigint NOT NULL,
    stream          bigint NOT NULL,
    version         bigint NOT NULL,
    occurred_at     timestamptz NOT NULL,
    recorded_at     timestamptz NOT NULL,
    category        integer NOT NULL,
    event_type      integer NOT NULL,
    schema_version  integer NOT NULL,
    rest            integer NOT NULL,
    event_id        uuid NOT NULL,
    salt            uuid,
    data            jsonb,
    metadata        jsonb,
    PRIMARY KEY (position) INCLUDE (category, event_type)
) PARTITION BY RANGE (position);
COMMENT ON TABLE event_store.log IS 'the events; read the views event_store.events and event_store.feed';
COMMENT ON COLUMN event_store.log.rest IS 'distance to the last position of the same call';
COMMENT ON COLUMN event_store.log.salt IS 'of the digest of data and metadata; erased together with them';

CREATE TABLE event_store.log_partitions (
    from_position  bigint NOT NULL,
    to_position    bigint NOT NULL,
    name           text COLLATE "C" NOT NULL,
    PRIMARY KEY (from_position, to_position)
);
COMMENT ON TABLE event_store.log_partitions IS
'every partition that the log has had: a read over one that is not attached is refused';

CREATE TABLE event_store.append_keys (
    stream          bigint NOT NULL,
    key             text COLLATE "C" NOT NULL,
    request         bytea NOT NULL,
    version         bigint NOT NULL,
    first_position  bigint NOT NULL,
    last_position   bigint NOT NULL,
    recorded_at     timestamptz NOT NULL,
    PRIMARY KEY (stream, key)
);
COMMENT ON TABLE event_store.append_keys IS 'idempotency keys of streams and what their appends returned';

CREATE TABLE event_store.batch_keys (
    key             text COLLATE "C" PRIMARY KEY,
    request         bytea NOT NULL,
    events          bigint NOT NULL,
    first_position  bigint NOT NULL,
    last_position   bigint NOT NULL,
    recorded_at     timestamptz NOT NULL
);
COMMENT ON TABLE event_store.batch_keys IS 'idempotency keys of batches and what they returned';

CREATE TABLE event_store.grants (
    role         text COLLATE "C" NOT NULL,
    "right"      text COLLATE "C" NOT NULL,
    role_oid     oid NOT NULL DEFAULT 0,
    role_system  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (role, "right", role_oid, role_system)
);
COMMENT ON TABLE event_store.grants IS 'what es_grant gave, for es_create_store to put back';

-- ---------------------------------------------------------------- state

-- Roles: by OID, with the name and the system identifier of the server where that was taken. 0: not known yet.

CREATE TABLE event_store.aggregates (
    category        text COLLATE "C" PRIMARY KEY,
    fold            text,
    rules           jsonb,
    initial_state   jsonb NOT NULL,
    snapshot_every  integer NOT NULL CHECK (snapshot_every > 0),
    role            text NOT NULL,
    search_path     text NOT NULL,
    keep_snapshots  integer NOT NULL DEFAULT 4 CHECK (keep_snapshots > 0),
    keep_snapshots_for  interval,
    role_oid        oid NOT NULL DEFAULT 0,
    role_system     bigint NOT NULL DEFAULT 0,
    CHECK (num_nonnulls(fold, rules) = 1)
);
COMMENT ON TABLE event_store.aggregates IS 'how events of a category are folded into state: es_register_aggregate';

CREATE TABLE event_store.upcasters (
    event_type    text COLLATE "C" NOT NULL,
    from_version  integer NOT NULL,
    transform     text NOT NULL,
    to_type       text COLLATE "C" NOT NULL,
    role          text NOT NULL,
    search_path   text NOT NULL,
    role_oid      oid NOT NULL DEFAULT 0,
    role_system   bigint NOT NULL DEFAULT 0,
    id            uuid NOT NULL DEFAULT gen_random_uuid(),
    PRIMARY KEY (event_type, from_version)
);
COMMENT ON TABLE event_store.upcasters IS 'how old shapes of events are read: es_register_upcaster';
COMMENT ON COLUMN event_store.upcasters.id IS 'of this registration: what replaces it has another one';

CREATE TABLE event_store.event_checks (
    event_type      text COLLATE "C" NOT NULL,
    schema_version  integer NOT NULL,
    check_expr      text,
    role            text NOT NULL,
    search_path     text NOT NULL,
    role_oid        oid NOT NULL DEFAULT 0,
    role_system     bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (event_type, schema_version)
);
COMMENT ON TABLE event_store.event_checks IS 'what an appended event must satisfy: es_register_event_type';

CREATE TABLE event_store.snapshots (
    stream       bigint NOT NULL,
    fingerprint  bytea NOT NULL,
    version      bigint NOT NULL,
    position     bigint NOT NULL,
    recorded_at  timestamptz NOT NULL,
    state        jsonb NOT NULL,
    hash         bytea NOT NULL,
    digest       bytea,
    PRIMARY KEY (stream, fingerprint, version)
);
COMMENT ON COLUMN event_store.snapshots.digest IS
'of the stream up to the event of this version, as its head had it; NULL: not known';
COMMENT ON TABLE event_store.snapshots IS 'states at a version, for faster loads; may be emptied at any time';

-- ---------------------------------------------------------------- projections

CREATE TABLE event_store.projections (
    name           text COLLATE "C" PRIMARY KEY,
    handler        text NOT NULL,
    categories     text[],
    event_types    text[],
    tables         text[],
    mode           text NOT NULL CHECK (mode IN ('async', 'inline')),
    batch_size     integer NOT NULL CHECK (batch_size > 0),
    from_position  bigint NOT NULL,
    side_effects   boolean NOT NULL,
    role           text NOT NULL,
    search_path    text NOT NULL,
    state          text NOT NULL CHECK (state IN ('running', 'paused', 'failed')),
    stale          boolean NOT NULL,
    role_oid       oid NOT NULL DEFAULT 0,
    role_system    bigint NOT NULL DEFAULT 0,
    paused_until   timestamptz,
    pause_reason   text
);
COMMENT ON TABLE event_store.projections IS 'how tables are kept up to date from events: es_create_projection';
COMMENT ON COLUMN event_store.projections.paused_until IS 'NULL, where it is paused: until es_resume';

-- A batch updates one row: no index on what it changes.
CREATE TABLE event_store.checkpoints (
    projection      text COLLATE "C" NOT NULL,
    rebuild         boolean NOT NULL,
    position        bigint NOT NULL,
    scan_from       bigint NOT NULL,
    events          bigint NOT NULL DEFAULT 0,
    rate            float8 NOT NULL DEFAULT 0,
    last_active     timestamptz,
    failures        integer NOT NULL DEFAULT 0,
    quarantined     integer NOT NULL DEFAULT 0,
    attempts        integer NOT NULL DEFAULT 0,
    retry_at        timestamptz,
    error           text,
    error_code      text,
    error_position  bigint,
    counted_after   bigint NOT NULL DEFAULT 0,
    counted_events  bigint NOT NULL DEFAULT 0,
    begun           timestamptz,
    suspect         boolean NOT NULL DEFAULT false,
    crashes         integer NOT NULL DEFAULT 0,
    crashed_at      timestamptz,
    upcasters       bytea,
    PRIMARY KEY (projection, rebuild)
) WITH (fillfactor = 20);
COMMENT ON TABLE event_store.checkpoints IS
'up to where each projection, and each rebuild of one, has come; changed together with its tables';
COMMENT ON COLUMN event_store.checkpoints.scan_from IS
'the lowest position that was not delivered yet; smaller than position where calls overlapped';
COMMENT ON COLUMN event_store.checkpoints.counted_after IS
'since this position every event that matches has counted in events, or in the quarantine: es_check';
COMMENT ON COLUMN event_store.checkpoints.counted_events IS 'what events was at that position';
COMMENT ON COLUMN event_store.checkpoints.begun IS
'an attempt at a batch that has not ended was committed then; NULL: none, or it was not the first since a worker began';
COMMENT ON COLUMN event_store.checkpoints.suspect IS 'the server crashed during an attempt: it is run alone, in single events, until it has caught up';
COMMENT ON COLUMN event_store.checkpoints.crashes IS 'crashes of the server while it was run alone, the last one at crashed_at';
COMMENT ON COLUMN event_store.checkpoints.upcasters IS
'digest of the upcasters that the events were read with; empty: of several sets of them; NULL: no event was passed yet';

CREATE TABLE event_store.rebuilds (
    projection   text COLLATE "C" PRIMARY KEY,
    handler      text NOT NULL,
    categories   text[],
    event_types  text[],
    fast         boolean NOT NULL,
    role         text NOT NULL,
    search_path  text NOT NULL,
    schema       text NOT NULL,
    state        text NOT NULL CHECK (state IN ('running', 'failed')),
    started_at   timestamptz NOT NULL,
    stale        boolean NOT NULL DEFAULT false,    -- of version 0.1: a dropped column would count
    role_oid     oid NOT NULL DEFAULT 0,
    role_system  bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE event_store.rebuilds IS 'rebuilds that are under way or have failed';

CREATE TABLE event_store.quarantined_streams (
    projection      text COLLATE "C" NOT NULL,
    rebuild         boolean NOT NULL,
    stream          bigint NOT NULL,
    together        bigint NOT NULL,
    position        bigint NOT NULL,
    events          bigint NOT NULL,
    error           text,
    error_code      text,
    error_position  bigint,
    attempts        integer NOT NULL,
    since           timestamptz NOT NULL,
    PRIMARY KEY (projection, rebuild, stream)
);
COMMENT ON TABLE event_store.quarantined_streams IS 'streams whose events a projection has in quarantine, from a position on';
COMMENT ON COLUMN event_store.quarantined_streams.together IS 'streams that calls tie together have the same number here';

CREATE TABLE event_store.counters (
    name   text COLLATE "C" PRIMARY KEY,
    value  bigint NOT NULL
);
COMMENT ON TABLE event_store.counters IS 'what the status view counts';

CREATE TABLE event_store.duties (
    name        text COLLATE "C" PRIMARY KEY,
    since       timestamptz NOT NULL,
    error_code  text NOT NULL,
    error       text NOT NULL
);
COMMENT ON TABLE event_store.duties IS 'what the coordinator cannot do, as long as it fails';

CREATE TABLE event_store.journal (
    at         timestamptz NOT NULL,
    id         uuid NOT NULL,
    by_role    text NOT NULL,
    acting_as  text NOT NULL,
    action     text NOT NULL,
    object     text NOT NULL,
    before     jsonb,
    after      jsonb,
    reason     text,
    PRIMARY KEY (at, id)
);
COMMENT ON TABLE event_store.journal IS
'what the store was told to do: rights, definitions, commands; by whom, and how it was before. Never data of events';

-- ---------------------------------------------------------------- subscriptions

CREATE TABLE event_store.subscriptions (
    id             integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name           text COLLATE "C" NOT NULL UNIQUE,
    categories     text[],
    event_types    text[],
    from_position  bigint NOT NULL,
    position       bigint NOT NULL,
    created_at     timestamptz NOT NULL,
    paused         boolean NOT NULL DEFAULT false,
    paused_until   timestamptz,
    pause_reason   text
) WITH (fillfactor = 20);
COMMENT ON TABLE event_store.subscriptions IS 'cursors of consumers outside: es_create_subscription';
COMMENT ON COLUMN event_store.subscriptions.paused_until IS 'NULL, where it is paused: until es_resume';
COMMENT ON COLUMN event_store.subscriptions.position IS
'every event up to it that matches was acknowledged, or its stream has a row in subscription_streams';

-- Consumers assign and release streams all the time; versions and positions change in place.
CREATE TABLE event_store.subscription_streams (
    subscription  integer NOT NULL,
    stream        bigint NOT NULL,
    version       bigint NOT NULL,
    position      bigint NOT NULL,
    attempts      integer NOT NULL,
    consumer      text COLLATE "C",
    since         timestamptz,
    reason        text,
    PRIMARY KEY (subscription, stream),
    CHECK (consumer IS NULL OR reason IS NULL)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX subscription_streams_consumer ON event_store.subscription_streams (subscription, consumer)
    WHERE reason IS NULL;
COMMENT ON TABLE event_store.subscription_streams IS
'streams with events that a subscription has met and nobody has acknowledged: held by a consumer, free or quarantined';
COMMENT ON COLUMN event_store.subscription_streams.version IS 'of the first event that is not acknowledged';

CREATE TABLE event_store.subscription_consumers (
    subscription  integer NOT NULL,
    consumer      text COLLATE "C" NOT NULL,
    lease_until   timestamptz NOT NULL,
    returned      bigint NOT NULL,
    covered       bigint NOT NULL,
    lost          boolean NOT NULL,
    fetched_at    timestamptz NOT NULL,
    acked_at      timestamptz,
    PRIMARY KEY (subscription, consumer)
) WITH (fillfactor = 20);
COMMENT ON TABLE event_store.subscription_consumers IS 'leases of consumers, and what their last fetch returned';
COMMENT ON COLUMN event_store.subscription_consumers.covered IS
'the last fetch returned everything of this consumer''s streams up to this position';

-- ---------------------------------------------------------------- proof

CREATE TABLE event_store.seals (
    after_position  bigint NOT NULL,
    to_position     bigint PRIMARY KEY,
    events          bigint NOT NULL,
    tree            bytea NOT NULL,
    root            bytea NOT NULL,
    sealed_at       timestamptz NOT NULL,
    manifest        bytea NOT NULL,
    recorded_after  timestamptz
);
CREATE INDEX seals_recorded_after ON event_store.seals (recorded_after);
-- Digests do not compress.
ALTER TABLE event_store.seals ALTER COLUMN manifest SET STORAGE EXTERNAL;
COMMENT ON TABLE event_store.seals IS
'closed ranges of the log, with digests that tell whether it was changed: es_verify_log';
COMMENT ON COLUMN event_store.seals.tree IS 'root of the Merkle tree of the range''s events in order of position';
COMMENT ON COLUMN event_store.seals.root IS
'digest of this seal and the root before it: stands for the whole log up to here';
COMMENT ON COLUMN event_store.seals.recorded_after IS
'every event behind this seal was recorded later than this; NULL: not known';
COMMENT ON COLUMN event_store.seals.manifest IS
'place and four bytes of the digest of each event, to name one that was changed';

CREATE TABLE event_store.erased (
    position  bigint PRIMARY KEY,
    digest    bytea NOT NULL
);
COMMENT ON TABLE event_store.erased IS
'salted digests, of data and metadata together, of events that were erased, kept so that they still verify';
