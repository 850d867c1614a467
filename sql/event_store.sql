/* event_store: the code. What holds data is made by es_create_store(). */

\echo Use "CREATE EXTENSION event_store" to load this file. \quit

-- ---------------------------------------------------------------- types

CREATE TYPE es_recorded_event AS (
    "position"      bigint,
    stream          text,
    category        text,
    version         bigint,
    event_type      text,
    schema_version  integer,
    event_id        uuid,
    data            jsonb,
    metadata        jsonb,
    occurred_at     timestamptz,
    recorded_at     timestamptz
);
COMMENT ON TYPE es_recorded_event IS 'an event as the read functions return it; NULL data means that it was erased';

-- ---------------------------------------------------------------- the store

CREATE FUNCTION es_create_store(node integer DEFAULT 0, trace boolean DEFAULT false, by_category boolean DEFAULT false,
    owner text DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'es_create_store' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_create_store(integer, boolean, boolean, text) IS
'makes schema event_store with its tables, sequence and views, or puts back what is missing of triggers, import and grants; node (0 to 32767) is the number in the high 15 bits of every position; trace adds the index that es_trace uses; owner is the role that the store is to belong to';

CREATE FUNCTION es_upgrade_store() RETURNS integer
AS 'MODULE_PATHNAME', 'es_upgrade_store' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_upgrade_store() IS 'brings the store to the layout this version of the library works with; returns the layout version';

CREATE FUNCTION es_grant(role text, "right" text) RETURNS void
AS 'MODULE_PATHNAME', 'es_grant' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION es_grant(text, text) IS 'gives a role one of the rights append, read, consume, import, define, operate, erase, read_personal, monitor';

CREATE FUNCTION es_revoke(role text, "right" text) RETURNS void
AS 'MODULE_PATHNAME', 'es_revoke' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION es_revoke(text, text) IS 'takes back what es_grant gave';

CREATE FUNCTION es_refuse_change() RETURNS trigger
AS 'MODULE_PATHNAME', 'es_refuse_change' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_refuse_change() IS 'trigger on the store''s tables: raises YE005';

-- ---------------------------------------------------------------- append

-- What expected_version says, to read well.
CREATE FUNCTION es_expect_any() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN -2;
COMMENT ON FUNCTION es_expect_any() IS 'as expected_version: the stream may be at any version, or not exist';

CREATE FUNCTION es_expect_none() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN 0;
COMMENT ON FUNCTION es_expect_none() IS 'as expected_version: the stream must not exist';

CREATE FUNCTION es_expect_exists() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN -4;
COMMENT ON FUNCTION es_expect_exists() IS 'as expected_version: the stream must exist, at any version';

CREATE FUNCTION es_append(
    stream text, expected_version bigint, event_type text, data jsonb,
    metadata jsonb DEFAULT NULL, event_id uuid DEFAULT NULL, occurred_at timestamptz DEFAULT NULL,
    schema_version integer DEFAULT NULL, idempotency_key text DEFAULT NULL,
    OUT version bigint, OUT "position" bigint, OUT recorded_at timestamptz, OUT replayed boolean)
AS 'MODULE_PATHNAME', 'es_append' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100;
COMMENT ON FUNCTION es_append(text, bigint, text, jsonb, jsonb, uuid, timestamptz, integer, text) IS
'appends one event to a stream; expected_version: es_expect_any() (-2), es_expect_none() (0: it must not exist), es_expect_exists() (-4) or the exact version (else YE001)';

CREATE FUNCTION es_append(
    stream text, expected_version bigint, events jsonb,
    OUT version bigint, OUT "position" bigint, OUT recorded_at timestamptz, OUT replayed boolean)
AS 'MODULE_PATHNAME', 'es_append_events' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100;
COMMENT ON FUNCTION es_append(text, bigint, jsonb) IS
'appends several events to a stream: an object or array of {"type", "data", "metadata", "id", "occurred_at", "schema_version"}, or {"events": [...], "idempotency_key": "..."}; returns the last one''s place';

-- An untyped literal or parameter resolves to this one; it parses the JSON itself so that a
-- forgotten argument can be answered with a hint instead of the json parser's complaint.
CREATE FUNCTION es_append(
    stream text, expected_version bigint, events text,
    OUT version bigint, OUT "position" bigint, OUT recorded_at timestamptz, OUT replayed boolean)
AS 'MODULE_PATHNAME', 'es_append_text' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100;
COMMENT ON FUNCTION es_append(text, bigint, text) IS
'the same as es_append(text, bigint, jsonb) for callers that send the JSON as text or untyped';

CREATE FUNCTION es_append_multi(appends jsonb)
RETURNS TABLE (stream text, version bigint, "position" bigint, recorded_at timestamptz, replayed boolean)
AS 'MODULE_PATHNAME', 'es_append_multi' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100 ROWS 10;
COMMENT ON FUNCTION es_append_multi(jsonb) IS
'appends to several streams, all or nothing: [{"stream", "expected_version": a number, "any", "none" or "exists", "events", "idempotency_key"}]; an element without events only checks and locks its stream''s version; one row an element, in its order';

CREATE FUNCTION es_append_batch(
    streams text[], event_types text[], data jsonb[], metadata jsonb[] DEFAULT NULL, event_ids uuid[] DEFAULT NULL,
    occurred_at timestamptz[] DEFAULT NULL, expected_versions bigint[] DEFAULT NULL,
    schema_versions integer[] DEFAULT NULL, idempotency_key text DEFAULT NULL,
    OUT events bigint, OUT first_position bigint, OUT last_position bigint, OUT replayed boolean)
AS 'MODULE_PATHNAME', 'es_append_batch' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_append_batch(text[], text[], jsonb[], jsonb[], uuid[], timestamptz[], bigint[], integer[], text) IS
'appends events given as parallel arrays to any number of streams; expected_versions[i] counts at the first event of its stream; without expected_versions any version';

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

CREATE FUNCTION es_lock_stream(stream text) RETURNS bigint
AS 'MODULE_PATHNAME', 'es_lock_stream' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100;
COMMENT ON FUNCTION es_lock_stream(text) IS
'waits until nobody else appends to a stream, and keeps it as it is until the transaction ends; returns its version, 0 when it does not exist';

CREATE FUNCTION es_lock_streams(streams text[]) RETURNS TABLE (stream text, version bigint)
AS 'MODULE_PATHNAME', 'es_lock_streams' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100 ROWS 10;
COMMENT ON FUNCTION es_lock_streams(text[]) IS
'the same for several streams, in one order for all who lock: one row a stream, sorted by name';

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

CREATE FUNCTION es_find_append(stream text, idempotency_key text,
    OUT version bigint, OUT "position" bigint, OUT recorded_at timestamptz, OUT replayed boolean) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'es_find_append' LANGUAGE C STABLE STRICT PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION es_find_append(text, text) IS 'what the append with this idempotency key returned, or no row';

-- ---------------------------------------------------------------- import

CREATE FUNCTION es_import_handler() RETURNS fdw_handler
AS 'MODULE_PATHNAME', 'es_import_handler' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION es_import_handler() IS 'what stands behind event_store.import';

CREATE FOREIGN DATA WRAPPER event_store_import HANDLER es_import_handler NO VALIDATOR;
COMMENT ON FOREIGN DATA WRAPPER event_store_import IS 'turns rows written to event_store.import into appends';

CREATE SERVER event_store_import FOREIGN DATA WRAPPER event_store_import;
COMMENT ON SERVER event_store_import IS 'the store of this database';

-- ---------------------------------------------------------------- read

CREATE FUNCTION es_read(stream text, from_version bigint DEFAULT NULL, max_count bigint DEFAULT NULL,
    backward boolean DEFAULT false, upcast boolean DEFAULT true, event_types text[] DEFAULT NULL) RETURNS SETOF es_recorded_event
AS 'MODULE_PATHNAME', 'es_read' LANGUAGE C STABLE PARALLEL UNSAFE ROWS 100;
COMMENT ON FUNCTION es_read(text, bigint, bigint, boolean, boolean, text[]) IS
'the events of a stream in version order, or from the last one back; from_version NULL: from the first (backward: the last); max_count NULL: all; upcast false: as they are stored; event_types NULL: of every type';

CREATE FUNCTION es_read_category(category text, after_position bigint DEFAULT 0, max_count bigint DEFAULT 1000,
    event_types text[] DEFAULT NULL, backward boolean DEFAULT false) RETURNS SETOF es_recorded_event
AS 'MODULE_PATHNAME', 'es_read_category' LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1000;
COMMENT ON FUNCTION es_read_category(text, bigint, bigint, text[], boolean) IS
'the events of a category in position order, after a position and up to the high-water mark; max_count NULL: all; backward: the newest first, from the mark (0) or from what comes before a position';

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

CREATE FUNCTION es_stream_version(stream text) RETURNS bigint
AS 'MODULE_PATHNAME', 'es_stream_version' LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_stream_version(text) IS 'the version of a stream''s last event, 0 when it has none';

CREATE FUNCTION es_position_at(recorded_at timestamptz) RETURNS bigint
AS 'MODULE_PATHNAME', 'es_position_at' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_position_at(timestamptz) IS
'the greatest position up to the high-water mark of an event recorded at or before a time, 0 when there is none';

CREATE FUNCTION es_trace(correlation_id text) RETURNS SETOF es_recorded_event
AS 'MODULE_PATHNAME', 'es_trace' LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100;
COMMENT ON FUNCTION es_trace(text) IS
'the events whose metadata carries this correlation_id, in position order; fast where es_create_store(trace => true) made the index';

-- ---------------------------------------------------------------- state

CREATE FUNCTION es_register_aggregate(category text, fold text DEFAULT NULL, rules jsonb DEFAULT NULL,
    initial_state jsonb DEFAULT '{}', snapshot_every integer DEFAULT 100, keep_snapshots integer DEFAULT 4,
    keep_snapshots_for interval DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'es_register_aggregate' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_register_aggregate(text, text, jsonb, jsonb, integer, integer, interval) IS
'says how the events of a category are folded into a state: by a SQL expression over state, event_type, data, metadata, version, position, occurred_at, recorded_at, stream, schema_version, or by a rules document; replaces what was registered';

CREATE FUNCTION es_unregister_aggregate(category text) RETURNS void
AS 'MODULE_PATHNAME', 'es_unregister_aggregate' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_unregister_aggregate(text) IS 'takes back es_register_aggregate';

CREATE FUNCTION es_load(stream text,
    OUT state jsonb, OUT version bigint, OUT "position" bigint, OUT recorded_at timestamptz)
AS 'MODULE_PATHNAME', 'es_load' LANGUAGE C STABLE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_load(text) IS
'the current state of a stream, with the transaction''s own appends; its version is what es_append expects next; without events the initial state and version 0';

CREATE FUNCTION es_load_for_update(stream text,
    OUT state jsonb, OUT version bigint, OUT "position" bigint, OUT recorded_at timestamptz)
AS 'MODULE_PATHNAME', 'es_load_for_update' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_load_for_update(text) IS
'locks a stream as es_lock_stream does, and then loads its state: until the transaction ends nobody else appends to it';

CREATE FUNCTION es_load_version(stream text, version bigint,
    OUT state jsonb, OUT version bigint, OUT "position" bigint, OUT recorded_at timestamptz)
AS 'MODULE_PATHNAME', 'es_load_version' LANGUAGE C STABLE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_load_version(text, bigint) IS 'the state of a stream as of one of its versions';

CREATE FUNCTION es_load_at(stream text, as_of timestamptz,
    OUT state jsonb, OUT version bigint, OUT "position" bigint, OUT recorded_at timestamptz)
AS 'MODULE_PATHNAME', 'es_load_at' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_load_at(text, timestamptz) IS
'the state of a stream by the events recorded up to a time: final, or refused with YE004';

CREATE FUNCTION es_load_valid_at(stream text, valid_at timestamptz, known_at timestamptz DEFAULT NULL,
    OUT state jsonb, OUT version bigint, OUT "position" bigint, OUT recorded_at timestamptz)
AS 'MODULE_PATHNAME', 'es_load_valid_at' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_load_valid_at(text, timestamptz, timestamptz) IS
'the state of a stream by the events that had occurred by a time, as known now or as recorded up to known_at, folded in order of occurred_at';

CREATE FUNCTION es_load_category(category text, as_of timestamptz DEFAULT NULL)
RETURNS TABLE (stream text, state jsonb, version bigint)
AS 'MODULE_PATHNAME', 'es_load_category' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000 ROWS 1000;
COMMENT ON FUNCTION es_load_category(text, timestamptz) IS 'the state of every stream of a category, now or as of a time';

CREATE FUNCTION es_history(stream text, from_version bigint DEFAULT 1, max_count bigint DEFAULT NULL)
RETURNS TABLE (version bigint, event_type text, occurred_at timestamptz, recorded_at timestamptz, state jsonb)
AS 'MODULE_PATHNAME', 'es_history' LANGUAGE C STABLE PARALLEL UNSAFE COST 1000 ROWS 100;
COMMENT ON FUNCTION es_history(text, bigint, bigint) IS 'the state of a stream after each of its events';

CREATE FUNCTION es_snapshot(stream text) RETURNS bigint
AS 'MODULE_PATHNAME', 'es_snapshot' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_snapshot(text) IS 'stores the current state of a stream, so that later loads replay less; returns its version';

CREATE FUNCTION es_drop_snapshots(category text) RETURNS bigint
AS 'MODULE_PATHNAME', 'es_drop_snapshots' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_drop_snapshots(text) IS 'drops the snapshots of a category''s streams; no answer changes; returns how many';

CREATE FUNCTION es_put_snapshot(stream text, version bigint, state jsonb, fingerprint text) RETURNS void
AS 'MODULE_PATHNAME', 'es_put_snapshot' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_put_snapshot(text, bigint, jsonb, text) IS
'keeps a state that the application folded itself; the fingerprint names the code that made it';

CREATE FUNCTION es_get_snapshot(stream text, fingerprint text,
    OUT state jsonb, OUT version bigint, OUT "position" bigint, OUT recorded_at timestamptz) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'es_get_snapshot' LANGUAGE C STABLE PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION es_get_snapshot(text, text) IS 'the newest state put with this fingerprint, or no row';

CREATE FUNCTION es_replayed_events() RETURNS bigint
AS 'MODULE_PATHNAME', 'es_replayed_events' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_replayed_events() IS 'how many events the loads of this session have folded';

-- ---------------------------------------------------------------- schema evolution

CREATE FUNCTION es_register_event_type(event_type text, schema_version integer DEFAULT 1, check_expr text DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'es_register_event_type' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_register_event_type(text, integer, text) IS
'an appended event of this type and schema version must satisfy check_expr, a SQL condition over data, metadata, event_type, occurred_at (else YE009)';

CREATE FUNCTION es_unregister_event_type(event_type text, schema_version integer DEFAULT 1) RETURNS void
AS 'MODULE_PATHNAME', 'es_unregister_event_type' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_unregister_event_type(text, integer) IS 'takes back es_register_event_type';

CREATE FUNCTION es_register_upcaster(event_type text, from_version integer, transform text, to_type text DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'es_register_upcaster' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_register_upcaster(text, integer, text, text) IS
'events of this type and schema version are read with the data that transform yields, a SQL expression over data, metadata, event_type, occurred_at, as the next schema version, of to_type where given; NULL drops the event from what is read';

CREATE FUNCTION es_unregister_upcaster(event_type text, from_version integer) RETURNS void
AS 'MODULE_PATHNAME', 'es_unregister_upcaster' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_unregister_upcaster(text, integer) IS 'takes back es_register_upcaster';

CREATE FUNCTION es_test_upcasters(of_type text DEFAULT NULL)
RETURNS TABLE (event_type text, schema_version integer, events bigint, failures bigint, first_failure bigint, error text)
AS 'MODULE_PATHNAME', 'es_test_upcasters' LANGUAGE C STABLE PARALLEL UNSAFE COST 100000 ROWS 10;
COMMENT ON FUNCTION es_test_upcasters(text) IS
'runs the upcasters over the stored events, changing nothing: by type and schema version how many there are, how many fail, the position and error of the first';

-- ---------------------------------------------------------------- subscriptions

CREATE FUNCTION es_create_subscription(name text, categories text[] DEFAULT NULL, event_types text[] DEFAULT NULL,
    from_position bigint DEFAULT 0) RETURNS void
AS 'MODULE_PATHNAME', 'es_create_subscription' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_create_subscription(text, text[], text[], bigint) IS
'makes a named cursor over the log after a position, for consumers outside that call es_fetch; does nothing when there is one of the same definition';

CREATE FUNCTION es_drop_subscription(name text) RETURNS void
AS 'MODULE_PATHNAME', 'es_drop_subscription' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_drop_subscription(text) IS 'removes a subscription, with what it knows of its consumers';

CREATE FUNCTION es_fetch(subscription text, consumer text DEFAULT NULL, max_count integer DEFAULT 100,
    lease interval DEFAULT '30 s', wait interval DEFAULT '0') RETURNS SETOF es_recorded_event
AS 'MODULE_PATHNAME', 'es_fetch' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000 ROWS 100;
COMMENT ON FUNCTION es_fetch(text, text, integer, interval, interval) IS
'the oldest events that this consumer has not acknowledged, in position order; assigns it their streams until the lease ends or it acknowledges them; waits for one at most so long';

CREATE FUNCTION es_ack(subscription text, up_to_position bigint, consumer text DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'es_ack' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_ack(text, bigint, text) IS
'says that the events up to a position that the consumer''s last es_fetch returned are done (YE010 when its lease was lost)';

CREATE FUNCTION es_nack(subscription text, up_to_position bigint, reason text, consumer text DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'es_nack' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_nack(text, bigint, text, text) IS
'quarantines the streams of the events up to a position that the consumer''s last es_fetch returned and that are not acknowledged; other streams go on';

CREATE FUNCTION es_rename_subscription(old_name text, new_name text) RETURNS void
AS 'MODULE_PATHNAME', 'es_rename_subscription' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_rename_subscription(text, text) IS
'gives a subscription another name; it keeps its position, what is in flight and its quarantine';

-- ---------------------------------------------------------------- the mark

CREATE FUNCTION es_high_water_mark() RETURNS bigint
AS 'MODULE_PATHNAME', 'es_high_water_mark' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_high_water_mark() IS
'the position up to which everything that will ever exist is visible to the next statement; not for use in the WHERE clause of a query on the log';

CREATE FUNCTION es_publish_mark() RETURNS bigint
AS 'MODULE_PATHNAME', 'es_publish_mark' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_publish_mark() IS
'publishes the high-water mark in the row that views, standbys and higher isolation levels read; returns it';

-- ---------------------------------------------------------------- epochs

CREATE FUNCTION es_epoch() RETURNS bigint
AS 'MODULE_PATHNAME', 'es_epoch' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100;
COMMENT ON FUNCTION es_epoch() IS
'the number of the history that this store goes on with; another one after a failover or a restore; to be kept with a cursor';

CREATE FUNCTION es_check_cursor(INOUT epoch bigint, INOUT "position" bigint, OUT rewind boolean)
AS 'MODULE_PATHNAME', 'es_check_cursor' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100;
COMMENT ON FUNCTION es_check_cursor(bigint, bigint) IS
'the cursor to go on with: the same position, or, with rewind, the one up to which what was read in that epoch is certain to be here';

CREATE FUNCTION es_begin_epoch(above bigint DEFAULT NULL) RETURNS bigint
AS 'MODULE_PATHNAME', 'es_begin_epoch' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_begin_epoch(bigint) IS
'begins a new epoch by hand, for a copy of a server that cannot know that it is one; positions go on far ahead, by the clock or above the position that is given';

-- ---------------------------------------------------------------- projections

CREATE FUNCTION es_create_projection(name text, handler text, categories text[] DEFAULT NULL, event_types text[] DEFAULT NULL,
    tables regclass[] DEFAULT NULL, mode text DEFAULT 'async', batch_size integer DEFAULT 1000,
    from_position bigint DEFAULT 0, side_effects boolean DEFAULT false) RETURNS void
AS 'MODULE_PATHNAME', 'es_create_projection' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_create_projection(text, text, text[], text[], regclass[], text, integer, bigint, boolean) IS
'has SQL statements applied to every event once: they see a batch of events as relation new_events; tables: what they write to (named unqualified in the handler), for rebuilds; mode async (by background workers) or inline (inside of each append); side_effects: may append, is never rebuilt';

CREATE FUNCTION es_drop_projection(name text) RETURNS void
AS 'MODULE_PATHNAME', 'es_drop_projection' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_drop_projection(text) IS 'forgets a projection; its tables stay as they are';

CREATE FUNCTION es_set_projection_mode(name text, mode text) RETURNS void
AS 'MODULE_PATHNAME', 'es_set_projection_mode' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_set_projection_mode(text, text) IS
'makes a projection inline or async, with no event missed or applied twice; appends wait until the transaction ends';

CREATE FUNCTION es_rebuild_projection(name text, handler text DEFAULT NULL, categories text[] DEFAULT NULL,
    event_types text[] DEFAULT NULL, fast boolean DEFAULT false) RETURNS void
AS 'MODULE_PATHNAME', 'es_rebuild_projection' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_rebuild_projection(text, text, text[], text[], boolean) IS
'begins to build a projection anew beside its tables, with a new handler or filter where given (NULL: what it has); when it has caught up one transaction applies the differences; fast: truncates and fills the tables instead';

CREATE FUNCTION es_cancel_rebuild(name text) RETURNS boolean
AS 'MODULE_PATHNAME', 'es_cancel_rebuild' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_cancel_rebuild(text) IS 'gives up a rebuild; the projection stays as it is; returns whether there was one';

CREATE FUNCTION es_run_projection(name text, max_batches integer DEFAULT NULL) RETURNS bigint
AS 'MODULE_PATHNAME', 'es_run_projection' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100000;
COMMENT ON FUNCTION es_run_projection(text, integer) IS
'runs a projection, and a rebuild of it, in the open transaction as far as there are events, or as many batches; returns the number of events applied';

CREATE FUNCTION es_wait_for_projection(name text, up_to_position bigint, timeout interval DEFAULT '10 s', stream text DEFAULT NULL) RETURNS boolean
AS 'MODULE_PATHNAME', 'es_wait_for_projection' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100000;
COMMENT ON FUNCTION es_wait_for_projection(text, bigint, interval, text) IS
'waits until a projection has passed a position; false when time is up; an error when it does not run, or has parked that stream';

-- ---------------------------------------------------------------- projections and subscriptions

CREATE FUNCTION es_pause(name text, until timestamptz DEFAULT NULL, reason text DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'es_pause' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_pause(text, timestamptz, text) IS
'stops a projection where it is, or what es_fetch gives of a subscription, until a time or until es_resume; the reason is kept in its status and in the journal';

CREATE FUNCTION es_resume(name text) RETURNS void
AS 'MODULE_PATHNAME', 'es_resume' LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION es_resume(text) IS
'has a paused subscription, a paused or failed projection, or its failed rebuild, go on where it is';

CREATE FUNCTION es_retry_quarantined(name text, stream text DEFAULT NULL) RETURNS bigint
AS 'MODULE_PATHNAME', 'es_retry_quarantined' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100000;
COMMENT ON FUNCTION es_retry_quarantined(text, text) IS
'tries again, in order, what a projection or subscription has in quarantine, of one stream and those tied to it, or of all; returns how many events the projection has applied, or how many streams the subscription delivers again (YE008: nothing of this stream is in quarantine)';

CREATE FUNCTION es_skip_quarantined(name text, stream text, up_to_version bigint, reason text) RETURNS bigint
AS 'MODULE_PATHNAME', 'es_skip_quarantined' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_skip_quarantined(text, text, bigint, text) IS
'gives up the events of a stream in quarantine up to a version: the projection or subscription never gets them; those behind them stay in quarantine until es_retry_quarantined; returns how many events; the reason goes into the journal';

-- ---------------------------------------------------------------- workers

CREATE FUNCTION es_start_worker() RETURNS boolean
AS 'MODULE_PATHNAME', 'es_start_worker' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100000;
COMMENT ON FUNCTION es_start_worker() IS
'starts the background worker of this database, where the server does not do it by itself or es_stop_worker was called; false when it was running';

CREATE FUNCTION es_stop_worker() RETURNS boolean
AS 'MODULE_PATHNAME', 'es_stop_worker' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100000;
COMMENT ON FUNCTION es_stop_worker() IS
'stops the background workers of this database until es_start_worker is called or the server restarts; false when there were none';

CREATE FUNCTION es_workers() RETURNS TABLE (kind text, number integer, pid integer, started_at timestamptz)
AS 'MODULE_PATHNAME', 'es_workers' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 4;
COMMENT ON FUNCTION es_workers() IS 'the background processes: the launcher, and the coordinator and workers of this database';

-- ---------------------------------------------------------------- proof

CREATE FUNCTION es_check(snapshots text DEFAULT 'sample')
RETURNS TABLE (kind text, stream text, "position" bigint, detail text)
AS 'MODULE_PATHNAME', 'es_check' LANGUAGE C STABLE PARALLEL UNSAFE COST 1000000 ROWS 10;
COMMENT ON FUNCTION es_check(text) IS
'checks every invariant of the store: one row for each finding, none when it is sound; snapshots: whether all, a sample or none of the stored states are compared with a replay';

-- ---------------------------------------------------------------- tamper evidence

CREATE FUNCTION es_seal_log(max_seals integer DEFAULT NULL) RETURNS bigint
AS 'MODULE_PATHNAME', 'es_seal_log' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100000;
COMMENT ON FUNCTION es_seal_log(integer) IS
'closes ranges of the log up to the high-water mark, as the background worker does, with digests by which es_verify_log sees whether an event was changed, removed or added since; returns how many ranges';

CREATE FUNCTION es_log_root(OUT "position" bigint, OUT root bytea, OUT sealed_at timestamptz)
AS 'MODULE_PATHNAME', 'es_log_root' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000;
COMMENT ON FUNCTION es_log_root() IS
'the digest of the whole log up to a position, for keeping where nobody who can write to this database can write; NULLs when nothing is sealed';

CREATE FUNCTION es_verify_stream(stream text)
RETURNS TABLE (kind text, stream text, version bigint, "position" bigint, detail text)
AS 'MODULE_PATHNAME', 'es_verify_stream' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100000 ROWS 1;
COMMENT ON FUNCTION es_verify_stream(text) IS
'compares the stored events of a stream with the digest in its head row, and where they differ with the seals; one row a finding, none when it is sound';

CREATE FUNCTION es_verify_log(from_position bigint DEFAULT 0, to_position bigint DEFAULT NULL,
    root_position bigint DEFAULT NULL, root bytea DEFAULT NULL)
RETURNS TABLE (kind text, stream text, version bigint, "position" bigint, detail text)
AS 'MODULE_PATHNAME', 'es_verify_log' LANGUAGE C VOLATILE PARALLEL UNSAFE COST 1000000 ROWS 1;
COMMENT ON FUNCTION es_verify_log(bigint, bigint, bigint, bytea) IS
'compares the log after a position and up to another with its seals, and the streams that end there with their head rows; with what es_log_root once returned, also the seals with that; one row a finding, none when it is sound';

-- ---------------------------------------------------------------- rights

-- Whoever may execute these can write or read events, so nobody may by default; es_grant gives rights.
-- (es_refuse_change only raises an error; an owner of a store who is no superuser needs it.)
REVOKE ALL ON FUNCTION es_create_store(integer, boolean, boolean, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_upgrade_store() FROM PUBLIC;
REVOKE ALL ON FUNCTION es_grant(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_revoke(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_expect_any() FROM PUBLIC;
REVOKE ALL ON FUNCTION es_expect_none() FROM PUBLIC;
REVOKE ALL ON FUNCTION es_expect_exists() FROM PUBLIC;
REVOKE ALL ON FUNCTION es_append(text, bigint, text, jsonb, jsonb, uuid, timestamptz, integer, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_append(text, bigint, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_append(text, bigint, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_append_multi(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_append_batch(text[], text[], jsonb[], jsonb[], uuid[], timestamptz[], bigint[], integer[], text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_try_append(text, bigint, text, jsonb, jsonb, uuid, timestamptz, integer, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_try_append(text, bigint, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_try_append_multi(jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_lock_stream(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_lock_streams(text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_append_text(text, bigint, text, text, text, text, text, integer, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_append_text(text, bigint, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_append_multi_text(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_append_batch_text(text[], text[], text[], text[], text[], text[], bigint[], integer[], text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_find_append(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_import_handler() FROM PUBLIC;
REVOKE ALL ON FUNCTION es_read(text, bigint, bigint, boolean, boolean, text[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_read_category(text, bigint, bigint, text[], boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_read_all(bigint, bigint, text[], text[], boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_list_streams(text, text, text, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_stream_version(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_position_at(timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_trace(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_high_water_mark() FROM PUBLIC;
REVOKE ALL ON FUNCTION es_publish_mark() FROM PUBLIC;
REVOKE ALL ON FUNCTION es_epoch() FROM PUBLIC;
REVOKE ALL ON FUNCTION es_check_cursor(bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_begin_epoch(bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_register_aggregate(text, text, jsonb, jsonb, integer, integer, interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_unregister_aggregate(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_load(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_load_for_update(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_load_version(text, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_load_at(text, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_load_valid_at(text, timestamptz, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_load_category(text, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_history(text, bigint, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_snapshot(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_drop_snapshots(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_put_snapshot(text, bigint, jsonb, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_get_snapshot(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_replayed_events() FROM PUBLIC;
REVOKE ALL ON FUNCTION es_register_event_type(text, integer, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_unregister_event_type(text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_register_upcaster(text, integer, text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_unregister_upcaster(text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_test_upcasters(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_create_projection(text, text, text[], text[], regclass[], text, integer, bigint, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_pause(text, timestamptz, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_resume(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_drop_projection(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_set_projection_mode(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_rebuild_projection(text, text, text[], text[], boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_cancel_rebuild(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_run_projection(text, integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_wait_for_projection(text, bigint, interval, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_retry_quarantined(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_skip_quarantined(text, text, bigint, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_start_worker() FROM PUBLIC;
REVOKE ALL ON FUNCTION es_stop_worker() FROM PUBLIC;
REVOKE ALL ON FUNCTION es_workers() FROM PUBLIC;
REVOKE ALL ON FUNCTION es_create_subscription(text, text[], text[], bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_drop_subscription(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_fetch(text, text, integer, interval, interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_ack(text, bigint, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_nack(text, bigint, text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_rename_subscription(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_check(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_seal_log(integer) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_log_root() FROM PUBLIC;
REVOKE ALL ON FUNCTION es_verify_stream(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION es_verify_log(bigint, bigint, bigint, bytea) FROM PUBLIC;
