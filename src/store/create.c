/*
 * store/create.c
 *	  Making the store: schema event_store and what is in it.
 *
 * None of it is a member of the extension: DROP EXTENSION never takes an event with it and pg_dump
 * sees ordinary tables. What depends on the library (the immutability triggers, the import table) is
 * put back by the next es_create_store().
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"

PG_FUNCTION_INFO_V1(es_create_store);
PG_FUNCTION_INFO_V1(es_upgrade_store);

/* In order of creation. The columns are those of store/location.h. */
static const char *const tables[] = {
	"CREATE TABLE event_store.store ("
	" layout integer NOT NULL, node integer NOT NULL, id uuid NOT NULL,"
	" created_at timestamptz NOT NULL, one boolean PRIMARY KEY DEFAULT true CHECK (one))",
	"COMMENT ON TABLE event_store.store IS 'one row: what this store is'",

	"CREATE TABLE event_store.mark ("
	" mark bigint NOT NULL, stable_until timestamptz NOT NULL, floor timestamptz NOT NULL,"
	" one boolean NOT NULL DEFAULT true UNIQUE CHECK (one)) WITH (fillfactor = 20)",
	"COMMENT ON TABLE event_store.mark IS 'one row: the published high-water mark; whoever sees a version of it sees every event up to it'",

	"CREATE TABLE event_store.epochs ("
	" epoch bigint PRIMARY KEY, began_at timestamptz NOT NULL, mark bigint NOT NULL, last_position bigint NOT NULL,"
	" start_position bigint NOT NULL, system_identifier bigint NOT NULL, timeline bigint NOT NULL,"
	" database bigint NOT NULL)",
	"COMMENT ON TABLE event_store.epochs IS"
	" 'one row for each server, timeline and database that positions were drawn in: es_check_cursor'",
	"COMMENT ON COLUMN event_store.epochs.mark IS 'the epoch before is certain up to this position'",
	"COMMENT ON COLUMN event_store.epochs.last_position IS 'the newest position when it began'",
	"COMMENT ON COLUMN event_store.epochs.start_position IS 'its positions are above this one'",

	"CREATE TABLE event_store.categories ("
	" id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text COLLATE \"C\" NOT NULL UNIQUE)",
	"COMMENT ON TABLE event_store.categories IS 'names of categories by the small ids in the log'",

	"CREATE TABLE event_store.event_types ("
	" id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text COLLATE \"C\" NOT NULL UNIQUE)",
	"COMMENT ON TABLE event_store.event_types IS 'names of event types by the small ids in the log'",

	/* No index on a column that an append changes: head updates stay HOT. */
	"CREATE TABLE event_store.heads ("
	" id bigint PRIMARY KEY, first_position bigint NOT NULL, created_at timestamptz NOT NULL,"
	" category integer NOT NULL, version bigint NOT NULL, last_position bigint NOT NULL,"
	" recorded_at timestamptz NOT NULL, digest bytea NOT NULL,"
	" name text COLLATE \"C\" NOT NULL UNIQUE) WITH (fillfactor = 90)",
	"COMMENT ON TABLE event_store.heads IS 'one row a stream: its lock and its truth'",

	"CREATE TABLE event_store.log ("
	" position bigint NOT NULL, stream bigint NOT NULL, version bigint NOT NULL,"
	" occurred_at timestamptz NOT NULL, recorded_at timestamptz NOT NULL, category integer NOT NULL,"
	" event_type integer NOT NULL, schema_version integer NOT NULL, rest integer NOT NULL,"
	" event_id uuid NOT NULL, salt uuid, data jsonb, metadata jsonb,"
	" PRIMARY KEY (position) INCLUDE (category, event_type)) PARTITION BY RANGE (position)",
	"COMMENT ON TABLE event_store.log IS 'the events; read the views event_store.events and event_store.feed'",
	"COMMENT ON COLUMN event_store.log.rest IS 'distance to the last position of the same call'",
	"COMMENT ON COLUMN event_store.log.salt IS 'of the digest of data and metadata; erased together with them'",

	"CREATE TABLE event_store.append_keys ("
	" stream bigint NOT NULL, key text COLLATE \"C\" NOT NULL, request bytea NOT NULL,"
	" version bigint NOT NULL, first_position bigint NOT NULL, last_position bigint NOT NULL,"
	" recorded_at timestamptz NOT NULL, PRIMARY KEY (stream, key))",
	"COMMENT ON TABLE event_store.append_keys IS 'idempotency keys of streams and what their appends returned'",

	"CREATE TABLE event_store.batch_keys ("
	" key text COLLATE \"C\" PRIMARY KEY, request bytea NOT NULL, events bigint NOT NULL,"
	" first_position bigint NOT NULL, last_position bigint NOT NULL, recorded_at timestamptz NOT NULL)",
	"COMMENT ON TABLE event_store.batch_keys IS 'idempotency keys of batches and what they returned'",

	"CREATE TABLE event_store.grants ("
	" role text NOT NULL, \"right\" text NOT NULL, PRIMARY KEY (role, \"right\"))",
	"COMMENT ON TABLE event_store.grants IS 'what es_grant gave, for es_create_store to put back'",

	"CREATE TABLE event_store.aggregates ("
	" category text COLLATE \"C\" PRIMARY KEY, fold text, rules jsonb, initial_state jsonb NOT NULL,"
	" snapshot_every integer NOT NULL CHECK (snapshot_every > 0), role text NOT NULL, search_path text NOT NULL,"
	" CHECK (num_nonnulls(fold, rules) = 1))",
	"COMMENT ON TABLE event_store.aggregates IS 'how events of a category are folded into state: es_register_aggregate'",

	"CREATE TABLE event_store.upcasters ("
	" event_type text COLLATE \"C\" NOT NULL, from_version integer NOT NULL, transform text NOT NULL,"
	" to_type text COLLATE \"C\" NOT NULL, role text NOT NULL, search_path text NOT NULL,"
	" PRIMARY KEY (event_type, from_version))",
	"COMMENT ON TABLE event_store.upcasters IS 'how old shapes of events are read: es_register_upcaster'",

	"CREATE TABLE event_store.event_checks ("
	" event_type text COLLATE \"C\" NOT NULL, schema_version integer NOT NULL, check_expr text,"
	" role text NOT NULL, search_path text NOT NULL, PRIMARY KEY (event_type, schema_version))",
	"COMMENT ON TABLE event_store.event_checks IS 'what an appended event must satisfy: es_register_event_type'",

	"CREATE TABLE event_store.snapshots ("
	" stream bigint NOT NULL, fingerprint bytea NOT NULL, version bigint NOT NULL, position bigint NOT NULL,"
	" recorded_at timestamptz NOT NULL, state jsonb NOT NULL, hash bytea NOT NULL,"
	" PRIMARY KEY (stream, fingerprint, version))",
	"COMMENT ON TABLE event_store.snapshots IS 'states at a version, for faster loads; may be emptied at any time'",

	"CREATE TABLE event_store.projections ("
	" name text COLLATE \"C\" PRIMARY KEY, handler text NOT NULL, categories text[], event_types text[], tables text[],"
	" mode text NOT NULL CHECK (mode IN ('async', 'inline')), batch_size integer NOT NULL CHECK (batch_size > 0),"
	" from_position bigint NOT NULL, side_effects boolean NOT NULL, role text NOT NULL, search_path text NOT NULL,"
	" state text NOT NULL CHECK (state IN ('running', 'paused', 'failed')), stale boolean NOT NULL)",
	"COMMENT ON TABLE event_store.projections IS 'how tables are kept up to date from events: es_create_projection'",

	/* A batch updates one row: no index on what it changes. */
	"CREATE TABLE event_store.checkpoints ("
	" projection text COLLATE \"C\" NOT NULL, rebuild boolean NOT NULL, position bigint NOT NULL,"
	" scan_from bigint NOT NULL, events bigint NOT NULL DEFAULT 0, rate float8 NOT NULL DEFAULT 0,"
	" last_active timestamptz, failures integer NOT NULL DEFAULT 0, quarantined integer NOT NULL DEFAULT 0,"
	" attempts integer NOT NULL DEFAULT 0, retry_at timestamptz, error text, error_code text, error_position bigint,"
	" PRIMARY KEY (projection, rebuild)) WITH (fillfactor = 20)",
	"COMMENT ON TABLE event_store.checkpoints IS 'up to where each projection, and each rebuild of one, has come; changed together with its tables'",
	"COMMENT ON COLUMN event_store.checkpoints.scan_from IS 'the lowest position that was not delivered yet; smaller than position where calls overlapped'",

	"CREATE TABLE event_store.rebuilds ("
	" projection text COLLATE \"C\" PRIMARY KEY, handler text NOT NULL, categories text[], event_types text[],"
	" fast boolean NOT NULL, role text NOT NULL, search_path text NOT NULL, schema text NOT NULL,"
	" state text NOT NULL CHECK (state IN ('running', 'failed')), started_at timestamptz NOT NULL,"
	" stale boolean NOT NULL DEFAULT false)",
	"COMMENT ON TABLE event_store.rebuilds IS 'rebuilds that are under way or have failed'",

	"CREATE TABLE event_store.quarantine ("
	" projection text COLLATE \"C\" NOT NULL, rebuild boolean NOT NULL, stream bigint NOT NULL,"
	" together bigint NOT NULL, position bigint NOT NULL, events bigint NOT NULL, error text, error_code text,"
	" error_position bigint, attempts integer NOT NULL, since timestamptz NOT NULL,"
	" PRIMARY KEY (projection, rebuild, stream))",
	"COMMENT ON TABLE event_store.quarantine IS 'streams whose events a projection has parked, from a position on'",
	"COMMENT ON COLUMN event_store.quarantine.together IS 'streams that calls tie together have the same number here'",

	"CREATE TABLE event_store.counters (name text COLLATE \"C\" PRIMARY KEY, value bigint NOT NULL)",
	"COMMENT ON TABLE event_store.counters IS 'what the status view counts'",
	"INSERT INTO event_store.counters VALUES ('snapshots_taken', 0), ('snapshots_damaged', 0), ('snapshots_outdated', 0),"
	" ('sessions_ended', 0)",

	"CREATE TABLE event_store.subscriptions ("
	" id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text COLLATE \"C\" NOT NULL UNIQUE,"
	" categories text[], event_types text[], from_position bigint NOT NULL, position bigint NOT NULL,"
	" created_at timestamptz NOT NULL) WITH (fillfactor = 20)",
	"COMMENT ON TABLE event_store.subscriptions IS 'cursors of consumers outside: es_create_subscription'",
	"COMMENT ON COLUMN event_store.subscriptions.position IS"
	" 'every event up to it that matches was acknowledged, or its stream has a row in subscription_streams'",

	/* Consumers assign and release streams all the time; versions and positions change in place. */
	"CREATE TABLE event_store.subscription_streams ("
	" subscription integer NOT NULL, stream bigint NOT NULL, version bigint NOT NULL, position bigint NOT NULL,"
	" attempts integer NOT NULL, consumer text COLLATE \"C\", since timestamptz, reason text,"
	" PRIMARY KEY (subscription, stream), CHECK (consumer IS NULL OR reason IS NULL))"
	" WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)",
	"CREATE INDEX subscription_streams_consumer ON event_store.subscription_streams (subscription, consumer)"
	" WHERE reason IS NULL",
	"COMMENT ON TABLE event_store.subscription_streams IS"
	" 'streams with events that a subscription has met and nobody has acknowledged: held by a consumer, free or quarantined'",
	"COMMENT ON COLUMN event_store.subscription_streams.version IS 'of the first event that is not acknowledged'",

	"CREATE TABLE event_store.subscription_consumers ("
	" subscription integer NOT NULL, consumer text COLLATE \"C\" NOT NULL, lease_until timestamptz NOT NULL,"
	" returned bigint NOT NULL, covered bigint NOT NULL, lost boolean NOT NULL, fetched_at timestamptz NOT NULL,"
	" acked_at timestamptz, PRIMARY KEY (subscription, consumer)) WITH (fillfactor = 20)",
	"COMMENT ON TABLE event_store.subscription_consumers IS 'leases of consumers, and what their last fetch returned'",
	"COMMENT ON COLUMN event_store.subscription_consumers.covered IS"
	" 'the last fetch returned everything of this consumer''s streams up to this position'",

	"CREATE TABLE event_store.seals ("
	" after_position bigint NOT NULL, to_position bigint PRIMARY KEY, events bigint NOT NULL, tree bytea NOT NULL,"
	" root bytea NOT NULL, sealed_at timestamptz NOT NULL, manifest bytea NOT NULL)",
	/* Digests do not compress. */
	"ALTER TABLE event_store.seals ALTER COLUMN manifest SET STORAGE EXTERNAL",
	"COMMENT ON TABLE event_store.seals IS 'closed ranges of the log, with digests that tell whether it was changed: es_verify_log'",
	"COMMENT ON COLUMN event_store.seals.tree IS 'root of the Merkle tree of the range''s events in order of position'",
	"COMMENT ON COLUMN event_store.seals.root IS 'digest of this seal and the root before it: stands for the whole log up to here'",
	"COMMENT ON COLUMN event_store.seals.manifest IS 'place and four bytes of the digest of each event, to name one that was changed'",

	"CREATE TABLE event_store.erased ("
	" position bigint PRIMARY KEY, digest bytea NOT NULL)",
	"COMMENT ON TABLE event_store.erased IS 'salted digests, of data and metadata together, of events that were erased, kept so that they still verify'",

	"CREATE SEQUENCE event_store.stream_seq",
	"COMMENT ON SEQUENCE event_store.stream_seq IS 'ids of streams'",

	"CREATE VIEW event_store.events AS"
	" SELECT l.position, h.name AS stream, c.name AS category, l.version, t.name AS event_type,"
	" l.schema_version, l.event_id, l.data, l.metadata, l.occurred_at, l.recorded_at"
	" FROM event_store.log l JOIN event_store.heads h ON h.id = l.stream"
	" JOIN event_store.categories c ON c.id = l.category"
	" JOIN event_store.event_types t ON t.id = l.event_type",
	"COMMENT ON VIEW event_store.events IS 'every committed event, as stored'",

	"CREATE VIEW event_store.feed AS"
	" SELECT e.* FROM event_store.events e WHERE e.position <= (SELECT m.mark FROM event_store.mark m)",
	"COMMENT ON VIEW event_store.feed IS 'the events up to the published high-water mark: a cursor on position never skips one'",

	"CREATE VIEW event_store.streams AS"
	" SELECT h.name AS stream, c.name AS category, h.version, h.first_position, h.last_position,"
	" h.created_at, h.recorded_at FROM event_store.heads h"
	" JOIN event_store.categories c ON c.id = h.category WHERE h.version > 0",
	"COMMENT ON VIEW event_store.streams IS 'one row a stream: version, first and last position, when its first and last event were recorded'",

	"CREATE VIEW event_store.partitions AS"
	" SELECT p.name, p.bounds[1]::bigint AS from_position, p.bounds[2]::bigint AS to_position,"
	" p.estimated_events, p.bytes FROM ("
	"SELECT c.relname::text AS name,"
	" regexp_match(pg_get_expr(c.relpartbound, c.oid), '\\(''?(\\d+)''?\\) TO \\(''?(\\d+)''?\\)') AS bounds,"
	" greatest(c.reltuples, 0)::bigint AS estimated_events, pg_total_relation_size(c.oid) AS bytes"
	" FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid"
	" WHERE i.inhparent = 'event_store.log'::regclass) p ORDER BY 2",
	"CREATE VIEW event_store.projection_quarantine AS"
	" SELECT q.projection AS name, h.name AS stream, q.position, q.events, q.error, q.error_code, q.error_position,"
	" q.attempts, q.since, q.together, q.rebuild FROM event_store.quarantine q JOIN event_store.heads h ON h.id = q.stream",
	"COMMENT ON VIEW event_store.projection_quarantine IS 'streams whose events a projection has parked, from a position on; the error is that of the call that failed, NULL for a stream that only came behind one'",

	"COMMENT ON VIEW event_store.partitions IS 'the attached partitions of the log; a position p is in the one with from_position <= p < to_position'",

	"CREATE VIEW event_store.subscription_quarantine AS"
	" SELECT b.name AS subscription, h.name AS stream, s.position, s.version, s.reason, s.attempts, s.since"
	" FROM event_store.subscription_streams s JOIN event_store.subscriptions b ON b.id = s.subscription"
	" JOIN event_store.heads h ON h.id = s.stream WHERE s.reason IS NOT NULL",
	"COMMENT ON VIEW event_store.subscription_quarantine IS"
	" 'one row for each stream that es_nack stopped; position and version are those of its first event not acknowledged'",
};

/* How many positions there are after one and up to another, without those that epochs have jumped over. */
#define DISTANCE(from, to) \
	"greatest(" to " - " from " - (SELECT coalesce(sum(greatest(least(x.start_position, " to ")" \
	" - greatest(x.last_position, " from "), 0)), 0)::bigint FROM event_store.epochs x), 0)"

/* What must be there for a store to be whole. */
static const struct
{
	const char *name;
	const char *kind;
}			required[] = {
	{"store", "table"},
	{"mark", "table"},
	{"epochs", "table"},
	{"categories", "table"},
	{"event_types", "table"},
	{"heads", "table"},
	{"log", "table"},
	{"append_keys", "table"},
	{"batch_keys", "table"},
	{"grants", "table"},
	{"aggregates", "table"},
	{"upcasters", "table"},
	{"event_checks", "table"},
	{"snapshots", "table"},
	{"projections", "table"},
	{"checkpoints", "table"},
	{"rebuilds", "table"},
	{"quarantine", "table"},
	{"counters", "table"},
	{"subscriptions", "table"},
	{"subscription_streams", "table"},
	{"subscription_consumers", "table"},
	{"seals", "table"},
	{"erased", "table"},
	{"position_seq", "sequence"},
	{"stream_seq", "sequence"},
	{"events", "view"},
	{"feed", "view"},
	{"streams", "view"},
	{"partitions", "view"},
	{"projection_status", "view"},
	{"projection_quarantine", "view"},
	{"rebuild_progress", "view"},
	{"status", "view"},
	{"subscription_status", "view"},
	{"subscription_quarantine", "view"},
};

/* Tables that refuse UPDATE, DELETE and TRUNCATE by SQL; the leaves of the log are added to them. */
const char *const es_immutable[] = {
	"store", "epochs", "categories", "event_types", "heads", "log", "append_keys", "batch_keys", "seals", "erased",
};
const int	es_immutable_count = lengthof(es_immutable);

static const EsStoreHooks *hooks = NULL;

void
es_store_set_hooks(const EsStoreHooks *its)
{
	hooks = its;
}

static char *
single_string(const char *query)
{
	char	   *value;

	if (es_sql_run(query) == 0)
		return NULL;
	value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	return value;
}

/* Refuses a schema event_store in which somebody else keeps something. */
static void
check_foreign_schema(void)
{
	char	   *strangers = single_string(
		"SELECT string_agg(what, ', ') FROM (SELECT pg_describe_object(d.classid, d.objid, 0) AS what"
		" FROM pg_depend d WHERE d.refclassid = 'pg_namespace'::regclass"
		" AND d.refobjid = 'event_store'::regnamespace AND d.deptype = 'n'"
		" AND NOT EXISTS (SELECT FROM pg_depend e JOIN pg_extension x ON x.oid = e.refobjid"
		"  WHERE e.classid = d.classid AND e.objid = d.objid"
		"  AND e.refclassid = 'pg_extension'::regclass AND e.deptype = 'e' AND x.extname = 'event_store')"
		" ORDER BY 1 LIMIT 5) s");

	if (strangers != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_SCHEMA),
				 errmsg("schema \"%s\" holds objects that are not an event store", ES_SCHEMA),
				 errdetail("It has %s.", strangers),
				 errhint("Rename the schema, or drop what is in it.")));
}

/*
 * Refuses to make a store in somebody else's schema: its owner could drop the tables, or put others
 * of the same names there.
 */
static void
check_schema_owner(void)
{
	Oid			nsp = get_namespace_oid(ES_SCHEMA, true);
	HeapTuple	tuple;
	Oid			owner;

	if (!OidIsValid(nsp))
		return;
	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(nsp));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema %u", nsp);
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	if (owner != GetUserId())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("schema \"%s\" belongs to another role", ES_SCHEMA),
				 errdetail("Its owner is \"%s\".", GetUserNameFromId(owner, true)),
				 errhint("Drop or rename the schema, or act as its owner.")));
}

/* Refuses a store of which something is missing. */
void
es_check_whole(void)
{
	Oid			nsp = get_namespace_oid(ES_SCHEMA, false);

	for (int i = 0; i < lengthof(required); i++)
		if (!OidIsValid(get_relname_relid(required[i].name, nsp)))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the event store is incomplete: %s \"%s.%s\" does not exist",
							required[i].kind, ES_SCHEMA, required[i].name),
					 errhint("Restore it from a backup; or, if there are no events to keep, drop the schema and run SELECT es_create_store().")));
}

static void
make_tables(int node, bool has_schema)
{
	if (!has_schema)
		es_sql_run("CREATE SCHEMA event_store");
	for (int i = 0; i < lengthof(tables); i++)
		es_sql_run(tables[i]);

	/* CACHE 1 matters: positions cached by a session would be drawn before its locks are taken. */
	es_sql_runf("CREATE SEQUENCE event_store.position_seq AS bigint MINVALUE %lld MAXVALUE %lld CACHE 1",
				(long long) (ES_NODE_START(node) + 1), (long long) (ES_NODE_END(node) - 1));
	es_sql_run("COMMENT ON SEQUENCE event_store.position_seq IS "
			   "'global positions; the lock that nextval takes on it is how readers know whom to wait for: nobody else may use it'");

	/* The holder of the mark is who has held the sequence's lock longest; our processes hold advisory locks. */
	es_sql_runf("CREATE VIEW event_store.status AS SELECT m.mark, m.stable_until,"
				" CASE WHEN q.is_called THEN q.last_value ELSE q.last_value - 1 END AS newest_position,"
				" h.pid AS holder_pid, h.gid AS holder_gid, h.since AS holder_since, h.query AS holder_query,"
				" (SELECT count(*) FROM event_store.partitions) AS partitions,"
				" (SELECT value FROM event_store.counters WHERE name = 'snapshots_taken') AS snapshots_taken,"
				" (SELECT value FROM event_store.counters WHERE name = 'snapshots_damaged') AS snapshots_damaged,"
				" (SELECT value FROM event_store.counters WHERE name = 'snapshots_outdated') AS snapshots_outdated,"
				" (SELECT value FROM event_store.counters WHERE name = 'sessions_ended') AS sessions_ended,"
				" w.coordinator_pid, w.workers"
				" FROM event_store.mark m CROSS JOIN event_store.position_seq q LEFT JOIN LATERAL ("
				"SELECT l.pid, p.gid, coalesce(a.xact_start, p.prepared) AS since, a.query FROM pg_locks l"
				" LEFT JOIN pg_stat_activity a ON a.pid = l.pid"
				" LEFT JOIN pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'"
				" AND x.virtualtransaction = l.virtualtransaction"
				" LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid"
				" WHERE l.locktype = 'relation' AND l.relation = 'event_store.position_seq'::regclass"
				" AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())"
				" AND l.mode = 'RowExclusiveLock' ORDER BY 3 LIMIT 1) h ON true"
				" CROSS JOIN (SELECT min(l.pid) FILTER (WHERE l.objid = 0) AS coordinator_pid,"
				" count(*) FILTER (WHERE l.objid <> 0) AS workers FROM pg_locks l"
				" WHERE l.locktype = 'advisory' AND l.objsubid = %d AND l.granted"
				" AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())) w",
				ES_LOCK_PROCESS);
	es_sql_run("COMMENT ON VIEW event_store.status IS 'one row: the published mark, the newest position, who holds the mark back, what became of snapshots, the background processes'");

	/* The planner must be told that there is one mark: it would take the query for a costly one, and compile it. */
	/* Lag in time is the age of the first event that was not delivered: one probe of an index. */
	es_sql_run("CREATE VIEW event_store.projection_status AS SELECT p.name,"
			   " CASE WHEN p.state <> 'running' THEN p.state WHEN b.state = 'running' THEN 'rebuilding'"
			   " WHEN p.stale THEN 'stale' ELSE 'running' END AS status, p.mode,"
			   " CASE p.mode WHEN 'inline' THEN m.mark ELSE c.position END AS position, m.mark,"
			   " CASE p.mode WHEN 'inline' THEN 0 ELSE " DISTANCE("c.position", "m.mark") " END AS lag_events,"
			   " CASE p.mode WHEN 'inline' THEN 0 ELSE coalesce(extract(epoch FROM clock_timestamp() - n.recorded_at), 0) END"
			   "::double precision AS lag_seconds,"
			   " c.events, round((CASE WHEN c.last_active < clock_timestamp() - interval '5 minutes' THEN 0" /* exp() would underflow */
			   " ELSE c.rate * exp(-greatest(extract(epoch FROM clock_timestamp() - c.last_active)::double precision, 0) / 10) END)"
			   "::numeric, 1) AS events_per_second, c.quarantined AS quarantined_streams, c.attempts, c.error AS last_error,"
			   " c.error_code AS last_error_code, c.error_position AS last_error_position, c.last_active,"
			   " b.state AS rebuild FROM event_store.projections p"
			   " JOIN event_store.checkpoints c ON c.projection = p.name AND NOT c.rebuild"
			   " CROSS JOIN (SELECT mark FROM event_store.mark LIMIT 1) m LEFT JOIN event_store.rebuilds b ON b.projection = p.name"
			   " LEFT JOIN LATERAL (SELECT l.recorded_at FROM event_store.log l"
			   " WHERE p.mode = 'async' AND l.position > c.position AND l.position <= m.mark ORDER BY l.position LIMIT 1) n ON true");
	es_sql_run("COMMENT ON VIEW event_store.projection_status IS 'one row a projection: what it does, how far it is behind, why it failed'");
	es_sql_run("CREATE VIEW event_store.rebuild_progress AS SELECT b.projection AS name, b.state, b.started_at,"
			   " c.position, m.mark AS of_position, c.events,"
			   " round((c.events / extract(epoch FROM nullif(c.last_active - b.started_at, '0')))::numeric, 0) AS events_per_second,"
			   " round((100.0 * d.done / greatest(d.all_of_them, 1))::numeric, 1) AS percent,"
			   " CASE WHEN c.events > 0 AND d.done > 0 AND c.last_active > b.started_at"
			   " THEN (c.last_active - b.started_at) * ((d.all_of_them - d.done)::double precision / d.done) END AS time_left,"
			   " c.quarantined AS quarantined_streams, c.error AS last_error, c.error_code AS last_error_code"
			   " FROM event_store.rebuilds b JOIN event_store.projections p ON p.name = b.projection"
			   " JOIN event_store.checkpoints c ON c.projection = b.projection AND c.rebuild"
			   " CROSS JOIN (SELECT mark FROM event_store.mark LIMIT 1) m"
			   " CROSS JOIN LATERAL (SELECT " DISTANCE("p.from_position", "c.position") " AS done,"
			   " " DISTANCE("p.from_position", "m.mark") " AS all_of_them) d");
	es_sql_run("COMMENT ON VIEW event_store.rebuild_progress IS 'one row a rebuild that is under way or has failed: how far it is, how long it will take'");

	es_sql_run("CREATE VIEW event_store.subscription_status AS SELECT b.name, b.categories, b.event_types, b.position, m.mark,"
			   " " DISTANCE("b.position", "(CASE WHEN q.is_called THEN q.last_value ELSE q.last_value - 1 END)") " AS lag_events,"
			   " s.in_flight AS streams_in_flight, s.quarantined AS quarantined_streams, s.oldest AS oldest_unacked,"
			   " c.leases, c.last_fetch, c.last_ack, c.consumers, b.created_at"
			   " FROM event_store.subscriptions b CROSS JOIN event_store.mark m CROSS JOIN event_store.position_seq q"
			   " CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE s.reason IS NULL) AS in_flight,"
			   " count(s.reason) AS quarantined, min(s.position) FILTER (WHERE s.reason IS NULL) AS oldest"
			   " FROM event_store.subscription_streams s WHERE s.subscription = b.id) s"
			   " CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE NOT c.lost AND c.lease_until > clock_timestamp()) AS leases,"
			   " max(c.fetched_at) AS last_fetch, max(c.acked_at) AS last_ack,"
			   " jsonb_agg(jsonb_build_object('consumer', c.consumer, 'lease_until', c.lease_until, 'lost', c.lost,"
			   " 'last_fetch', c.fetched_at, 'last_ack', c.acked_at, 'streams',"
			   " (SELECT count(*) FROM event_store.subscription_streams h WHERE h.subscription = b.id"
			   " AND h.consumer = c.consumer AND h.reason IS NULL)) ORDER BY c.consumer) AS consumers"
			   " FROM event_store.subscription_consumers c WHERE c.subscription = b.id) c");
	es_sql_run("COMMENT ON VIEW event_store.subscription_status IS"
			   " 'one row for each subscription: how far it has come, what is in flight, who consumes'");

	es_sql_runf("INSERT INTO event_store.store (layout, node, id, created_at)"
				" VALUES (%d, %d, gen_random_uuid(), clock_timestamp())", ES_LAYOUT, node);
	es_sql_runf("INSERT INTO event_store.mark (mark, stable_until, floor) VALUES (%lld, '-infinity', '-infinity')",
				(long long) ES_NODE_START(node));
	CommandCounterIncrement();
	es_store_forget();
	hooks->made();
}

static bool
exists(const char *fmt, const char *arg)
{
	char	   *query = psprintf(fmt, arg);
	bool		found = es_sql_run(query) > 0;

	pfree(query);
	return found;
}

/* Gives a table its immutability trigger, or makes it ENABLE ALWAYS again. */
static void
guard_table(const char *table, const char *code)
{
	if (!exists("SELECT FROM pg_trigger WHERE tgname = 'es_immutable' AND tgrelid = 'event_store.%s'::regclass", table))
		es_sql_runf("CREATE TRIGGER es_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON event_store.%s "
					"FOR EACH STATEMENT EXECUTE FUNCTION %s.es_refuse_change()", table, code);
	if (!exists("SELECT FROM pg_trigger WHERE tgname = 'es_immutable' AND tgenabled = 'A' "
				"AND tgrelid = 'event_store.%s'::regclass", table))
		es_sql_runf("ALTER TABLE event_store.%s ENABLE ALWAYS TRIGGER es_immutable", table);
}

/* Makes or puts back what depends on the library. */
static void
make_dependents(bool trace, bool by_category)
{
	const char *code = quote_identifier(get_namespace_name(es_extension_schema()));
	uint64		partitions;
	SPITupleTable *partition_table;

	for (int i = 0; i < es_immutable_count; i++)
		guard_table(es_immutable[i], code);

	partitions = es_sql_run("SELECT quote_ident(c.relname) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
						" WHERE i.inhparent = 'event_store.log'::regclass ORDER BY 1");
	partition_table = SPI_tuptable;
	for (uint64 i = 0; i < partitions; i++)
		guard_table(SPI_getvalue(partition_table->vals[i], partition_table->tupdesc, 1), code);

	if (!exists("SELECT FROM pg_class WHERE relnamespace = 'event_store'::regnamespace AND relname = '%s'", "import"))
	{
		es_sql_run("CREATE FOREIGN TABLE event_store.import ("
				   " stream text, event_type text, data jsonb, metadata jsonb, occurred_at timestamptz,"
				   " event_id uuid, schema_version integer) SERVER event_store_import");
		es_sql_run("COMMENT ON FOREIGN TABLE event_store.import IS 'COPY or INSERT into it appends events'");
	}
	if (trace)
		es_sql_run("CREATE INDEX IF NOT EXISTS log_correlation_id ON event_store.log"
				   " ((metadata ->> 'correlation_id'), position)"
				   " WHERE (metadata ->> 'correlation_id') IS NOT NULL");
	/* Not by default: it takes a tenth of the rate of single appends. log/scan.c looks whether a leaf has it. */
	if (by_category)
		es_sql_run("CREATE INDEX IF NOT EXISTS log_category_position ON event_store.log (category, position)");
}

Datum
es_create_store(PG_FUNCTION_ARGS)
{
	int			node = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT32(0);
	bool		trace = PG_ARGISNULL(1) ? false : PG_GETARG_BOOL(1);
	bool		by_category = PG_ARGISNULL(2) ? false : PG_GETARG_BOOL(2);
	bool		has_schema;
	EsSql		sql;

	if (node < 0 || node > ES_MAX_NODE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument node must be between 0 and %d", ES_MAX_NODE),
				 errdetail("It is %d.", node)));

	es_rights_lock();
	has_schema = OidIsValid(get_namespace_oid(ES_SCHEMA, true));
	if (!es_store_exists())
	{
		check_schema_owner();
		es_sql_begin(&sql, InvalidOid);
		if (has_schema)
			check_foreign_schema();
		make_tables(node, has_schema);
		es_sql_end(&sql);
	}
	else
	{
		es_check_whole();
		if (node != 0 && es_store()->node != node)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("this database has an event store with another node number"),
					 errdetail("Its node number is %d, not %d.", es_store()->node, node)));
		es_check_store_owner();
	}

	/* Nothing that the store's owner may have put there runs with the caller's rights. */
	es_sql_begin(&sql, es_store()->owner);
	make_dependents(trace, by_category);
	es_sql_end(&sql);
	es_grants_restore();
	hooks->visited();
	PG_RETURN_VOID();
}

/*
 * Layout 1 is the first, so there is no step yet: this checks that the store is whole and of a
 * layout that the library knows.
 */
Datum
es_upgrade_store(PG_FUNCTION_ARGS)
{
	if (!es_store_exists())
		(void) es_store();		/* says so, with the hint */
	es_check_whole();
	(void) es_store();
	PG_RETURN_INT32(ES_LAYOUT);
}
