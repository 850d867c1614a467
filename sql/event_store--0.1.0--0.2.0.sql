/* event_store: from version 0.1.0 to 0.2.0. Then: SELECT es_upgrade_store(). */

\echo Use "ALTER EXTENSION event_store UPDATE" to load this file. \quit

-- What sql/event_store.sql has more, or has otherwise, than version 0.1.0 had; t/093_from_0_1.pl compares the two. A function
-- whose arguments or result change is dropped and made again: es_upgrade_store() gives its rights again.

-- ---------------------------------------------------------------- es_create_store

-- Who could execute it can do so afterwards. (It belongs to no right, so es_upgrade_store() would not give it back.)
SELECT pg_catalog.set_config('es_update.acl', coalesce(p.proacl::text, ''), true)
FROM pg_catalog.pg_proc p
WHERE p.oid = 'es_create_store(integer, boolean, boolean)'::pg_catalog.regprocedure;

DROP FUNCTION es_create_store(integer, boolean, boolean);
CREATE FUNCTION es_create_store(node integer DEFAULT 0, trace boolean DEFAULT false, by_category boolean DEFAULT false,
    owner text DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'es_create_store' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_create_store(integer, boolean, boolean, text) IS
'makes schema event_store with its tables, sequence and views, or puts back what is missing of triggers, import and grants; node (0 to 32767) is the number in the high 15 bits of every position; trace adds the index that es_trace uses; owner is the role that the store is to belong to';
REVOKE ALL ON FUNCTION es_create_store(integer, boolean, boolean, text) FROM PUBLIC;

DO $$
DECLARE
    a record;
BEGIN
    FOR a IN
        SELECT x.grantee, r.rolname, x.is_grantable
        FROM pg_catalog.aclexplode(nullif(pg_catalog.current_setting('es_update.acl'), '')::pg_catalog.aclitem[]) x
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = x.grantee
        WHERE x.grantee = 0 OR r.oid IS NOT NULL AND x.grantee <> x.grantor
    LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION @extschema@.es_create_store(integer, boolean, boolean, text) TO %s%s',
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(a.rolname) END,
            CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
END $$;

-- ---------------------------------------------------------------- es_register_aggregate

DROP FUNCTION es_register_aggregate(text, text, jsonb, jsonb, integer);
CREATE FUNCTION es_register_aggregate(category text, fold text DEFAULT NULL, rules jsonb DEFAULT NULL,
    initial_state jsonb DEFAULT '{}', snapshot_every integer DEFAULT 100, keep_snapshots integer DEFAULT 4,
    keep_snapshots_for interval DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'es_register_aggregate' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_register_aggregate(text, text, jsonb, jsonb, integer, integer, interval) IS
'says how the events of a category are folded into a state: by a SQL expression over state, event_type, data, metadata, version, position, occurred_at, recorded_at, stream, schema_version, or by a rules document; replaces what was registered';
REVOKE ALL ON FUNCTION es_register_aggregate(text, text, jsonb, jsonb, integer, integer, interval) FROM PUBLIC;

-- ---------------------------------------------------------------- read

DROP FUNCTION es_read(text, bigint, bigint, boolean, boolean);
CREATE FUNCTION es_read(stream text, from_version bigint DEFAULT NULL, max_count bigint DEFAULT NULL,
    backward boolean DEFAULT false, upcast boolean DEFAULT true, event_types text[] DEFAULT NULL) RETURNS SETOF es_recorded_event
AS 'MODULE_PATHNAME', 'es_read' LANGUAGE C STABLE PARALLEL UNSAFE ROWS 100;
COMMENT ON FUNCTION es_read(text, bigint, bigint, boolean, boolean, text[]) IS
'the events of a stream in version order, or from the last one back; from_version NULL: from the first (backward: the last); max_count NULL: all; upcast false: as they are stored; event_types NULL: of every type';

DROP FUNCTION es_read_category(text, bigint, bigint, text[]);
CREATE FUNCTION es_read_category(category text, after_position bigint DEFAULT 0, max_count bigint DEFAULT 1000,
    event_types text[] DEFAULT NULL, backward boolean DEFAULT false) RETURNS SETOF es_recorded_event
AS 'MODULE_PATHNAME', 'es_read_category' LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1000;
COMMENT ON FUNCTION es_read_category(text, bigint, bigint, text[], boolean) IS
'the events of a category in position order, after a position and up to the high-water mark; max_count NULL: all; backward: the newest first, from the mark (0) or from what comes before a position';

DROP FUNCTION es_read_all(bigint, bigint, text[], text[]);
CREATE FUNCTION es_read_all(after_position bigint DEFAULT 0, max_count bigint DEFAULT 1000,
    event_types text[] DEFAULT NULL, categories text[] DEFAULT NULL, backward boolean DEFAULT false) RETURNS SETOF es_recorded_event
AS 'MODULE_PATHNAME', 'es_read_all' LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1000;
COMMENT ON FUNCTION es_read_all(bigint, bigint, text[], text[], boolean) IS
'all events in position order, after a position and up to the high-water mark: a cursor on the last position seen never skips one; max_count NULL: all; backward: as es_read_category';

CREATE FUNCTION es_list_streams(category text DEFAULT NULL, prefix text DEFAULT NULL, after text DEFAULT NULL, max_count bigint DEFAULT 1000)
RETURNS TABLE (stream text, version bigint, "position" bigint, created_at timestamptz, recorded_at timestamptz, closed boolean)
AS 'MODULE_PATHNAME', 'es_list_streams' LANGUAGE C STABLE PARALLEL UNSAFE ROWS 1000;
COMMENT ON FUNCTION es_list_streams(text, text, text, bigint) IS
'streams in order of name, bytewise: of a category, whose names begin with a prefix, after a name (NULL: all); max_count NULL: all';

REVOKE ALL ON FUNCTION es_read(text, bigint, bigint, boolean, boolean, text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_read_category(text, bigint, bigint, text[], boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_read_all(bigint, bigint, text[], text[], boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_list_streams(text, text, text, bigint) FROM PUBLIC;

-- ---------------------------------------------------------------- trying to append

CREATE FUNCTION es_try_append(
    stream text, expected_version bigint, event_type text, data jsonb,
    metadata jsonb DEFAULT NULL, event_id uuid DEFAULT NULL, occurred_at timestamptz DEFAULT NULL,
    schema_version integer DEFAULT NULL, idempotency_key text DEFAULT NULL,
    OUT version bigint, OUT "position" bigint, OUT recorded_at timestamptz, OUT replayed boolean, OUT outcome text)
AS 'MODULE_PATHNAME', 'es_try_append' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100;
COMMENT ON FUNCTION es_try_append(text, bigint, text, jsonb, jsonb, uuid, timestamptz, integer, text) IS
'es_append for callers to whom an error costs too much: a wrong expected version is the outcome conflict, with the stream''s version, position and time; otherwise appended or replayed';

CREATE FUNCTION es_try_append(
    stream text, expected_version bigint, events jsonb,
    OUT version bigint, OUT "position" bigint, OUT recorded_at timestamptz, OUT replayed boolean, OUT outcome text)
AS 'MODULE_PATHNAME', 'es_try_append_events' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100;
COMMENT ON FUNCTION es_try_append(text, bigint, jsonb) IS
'the same for several events, given as for es_append';

CREATE FUNCTION es_try_append_multi(appends jsonb)
RETURNS TABLE (stream text, version bigint, "position" bigint, recorded_at timestamptz, replayed boolean, outcome text)
AS 'MODULE_PATHNAME', 'es_try_append_multi' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100 ROWS 10;
COMMENT ON FUNCTION es_try_append_multi(jsonb) IS
'the same for es_append_multi: when a version is wrong nothing is appended, the elements that do not fit have the outcome conflict, the others NULL';

REVOKE ALL ON FUNCTION es_try_append(text, bigint, text, jsonb, jsonb, uuid, timestamptz, integer, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_try_append(text, bigint, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_try_append_multi(jsonb) FROM PUBLIC;

-- ---------------------------------------------------------------- locking streams

CREATE FUNCTION es_lock_stream(stream text) RETURNS bigint
AS 'MODULE_PATHNAME', 'es_lock_stream' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100;
COMMENT ON FUNCTION es_lock_stream(text) IS
'waits until nobody else appends to a stream, and keeps it as it is until the transaction ends; returns its version, 0 when it does not exist';

CREATE FUNCTION es_lock_streams(streams text[]) RETURNS TABLE (stream text, version bigint)
AS 'MODULE_PATHNAME', 'es_lock_streams' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100 ROWS 10;
COMMENT ON FUNCTION es_lock_streams(text[]) IS
'the same for several streams, in one order for all who lock: one row a stream, sorted by name';

CREATE FUNCTION es_load_for_update(stream text,
    OUT state jsonb, OUT version bigint, OUT "position" bigint, OUT recorded_at timestamptz)
AS 'MODULE_PATHNAME', 'es_load_for_update' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_load_for_update(text) IS
'locks a stream as es_lock_stream does, and then loads its state: until the transaction ends nobody else appends to it';

REVOKE ALL ON FUNCTION es_lock_stream(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_lock_streams(text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_load_for_update(text) FROM PUBLIC;

-- ---------------------------------------------------------------- append

CREATE FUNCTION es_expect_any() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN -2;
COMMENT ON FUNCTION es_expect_any() IS 'as expected_version: the stream may be at any version, or not exist';

CREATE FUNCTION es_expect_none() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN 0;
COMMENT ON FUNCTION es_expect_none() IS 'as expected_version: the stream must not exist';

CREATE FUNCTION es_expect_exists() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN -4;
COMMENT ON FUNCTION es_expect_exists() IS 'as expected_version: the stream must exist, at any version';

REVOKE ALL ON FUNCTION es_expect_any() FROM PUBLIC;
REVOKE ALL ON FUNCTION es_expect_none() FROM PUBLIC;
REVOKE ALL ON FUNCTION es_expect_exists() FROM PUBLIC;

COMMENT ON FUNCTION es_append(text, bigint, text, jsonb, jsonb, uuid, timestamptz, integer, text) IS
'appends one event to a stream; expected_version: es_expect_any() (-2), es_expect_none() (0: it must not exist), es_expect_exists() (-4) or the exact version (else YE001)';
COMMENT ON FUNCTION es_append_multi(jsonb) IS
'appends to several streams, all or nothing: [{"stream", "expected_version": a number, "any", "none" or "exists", "events", "idempotency_key"}]; an element without events only checks and locks its stream''s version; one row an element, in its order';
COMMENT ON FUNCTION es_append_batch(text[], text[], jsonb[], jsonb[], uuid[], timestamptz[], bigint[], integer[], text) IS
'appends events given as parallel arrays to any number of streams; expected_versions[i] counts at the first event of its stream; without expected_versions any version';

-- For drivers that say that their parameters are text. No overloads of the others: with these an untyped parameter would be text,
-- too, or the call not unique.
CREATE FUNCTION es_append_text(
    stream text, expected_version bigint, event_type text, data text,
    metadata text DEFAULT NULL, event_id text DEFAULT NULL, occurred_at text DEFAULT NULL,
    schema_version integer DEFAULT NULL, idempotency_key text DEFAULT NULL,
    OUT version bigint, OUT "position" bigint, OUT recorded_at timestamptz, OUT replayed boolean)
AS 'MODULE_PATHNAME', 'es_append_one_text' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100;
COMMENT ON FUNCTION es_append_text(text, bigint, text, text, text, text, text, integer, text) IS
'the same as es_append, for drivers that send JSON, ids and times as text';

CREATE FUNCTION es_append_text(
    stream text, expected_version bigint, events text,
    OUT version bigint, OUT "position" bigint, OUT recorded_at timestamptz, OUT replayed boolean)
AS 'MODULE_PATHNAME', 'es_append_text' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100;
COMMENT ON FUNCTION es_append_text(text, bigint, text) IS
'the same as es_append with several events, for drivers that send JSON as text';

CREATE FUNCTION es_append_multi_text(appends text)
RETURNS TABLE (stream text, version bigint, "position" bigint, recorded_at timestamptz, replayed boolean)
AS 'MODULE_PATHNAME', 'es_append_multi_text' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100 ROWS 10;
COMMENT ON FUNCTION es_append_multi_text(text) IS
'the same as es_append_multi, for drivers that send JSON as text';

CREATE FUNCTION es_append_batch_text(
    streams text[], event_types text[], data text[], metadata text[] DEFAULT NULL, event_ids text[] DEFAULT NULL,
    occurred_at text[] DEFAULT NULL, expected_versions bigint[] DEFAULT NULL,
    schema_versions integer[] DEFAULT NULL, idempotency_key text DEFAULT NULL,
    OUT events bigint, OUT first_position bigint, OUT last_position bigint, OUT replayed boolean)
AS 'MODULE_PATHNAME', 'es_append_batch_text' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_append_batch_text(text[], text[], text[], text[], text[], text[], bigint[], integer[], text) IS
'the same as es_append_batch, for drivers that send JSON, ids and times as text';

REVOKE ALL ON FUNCTION es_append_text(text, bigint, text, text, text, text, text, integer, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_append_text(text, bigint, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_append_multi_text(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_append_batch_text(text[], text[], text[], text[], text[], text[], bigint[], integer[], text) FROM PUBLIC;

-- ---------------------------------------------------------------- rights

COMMENT ON FUNCTION es_grant(text, text) IS 'gives a role one of the rights append, read, consume, import, define, operate, erase, read_personal, monitor';

-- ---------------------------------------------------------------- projections and subscriptions

DROP FUNCTION es_pause_projection(text);
DROP FUNCTION es_resume_projection(text);
DROP FUNCTION es_retry_quarantined_subscription(text, text);

CREATE FUNCTION es_rename_subscription(old_name text, new_name text) RETURNS void
AS 'MODULE_PATHNAME', 'es_rename_subscription' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_rename_subscription(text, text) IS
'gives a subscription another name; it keeps its position, what is in flight and its quarantine';
REVOKE ALL ON FUNCTION es_rename_subscription(text, text) FROM PUBLIC;

CREATE FUNCTION es_pause(name text, until timestamptz DEFAULT NULL, reason text DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'es_pause' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_pause(text, timestamptz, text) IS
'stops a projection where it is, or what es_fetch gives of a subscription, until a time or until es_resume; the reason is kept in its status and in the journal';
REVOKE ALL ON FUNCTION es_pause(text, timestamptz, text) FROM PUBLIC;

CREATE FUNCTION es_resume(name text) RETURNS void
AS 'MODULE_PATHNAME', 'es_resume' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_resume(text) IS
'has a paused subscription, a paused or failed projection, or its failed rebuild, go on where it is';
REVOKE ALL ON FUNCTION es_resume(text) FROM PUBLIC;

COMMENT ON FUNCTION es_retry_quarantined(text, text) IS
'tries again, in order, what a projection or subscription has in quarantine, of one stream and those tied to it, or of all; returns how many events the projection has applied, or how many streams the subscription delivers again (YE008: nothing of this stream is in quarantine)';

CREATE FUNCTION es_skip_quarantined(name text, stream text, up_to_version bigint, reason text) RETURNS bigint
AS 'MODULE_PATHNAME', 'es_skip_quarantined' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_skip_quarantined(text, text, bigint, text) IS
'gives up the events of a stream in quarantine up to a version: the projection or subscription never gets them; those behind them stay in quarantine until es_retry_quarantined; returns how many events; the reason goes into the journal';
REVOKE ALL ON FUNCTION es_skip_quarantined(text, text, bigint, text) FROM PUBLIC;
