/*
 * store/location.c
 *	  Finding the store: the cache of its OIDs and its layout version.
 *
 * The cache holds no locks and no pointers into catalogs. Any relcache invalidation of one of the
 * store's tables, and any change of a schema, empties it; es_upgrade_store() alters the tables it
 * migrates, so a session never goes on with an old layout.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/base.h"
#include "store/store.h"

static EsStore store;
static bool store_valid = false;
static bool store_reading = false;	/* an invalidation meanwhile means: read again */
static uint64 store_generation = 0;

static bool
is_ours(Oid relid)
{
	return relid == store.log || relid == store.heads || relid == store.heads_pkey ||
		relid == store.heads_name || relid == store.categories || relid == store.event_types ||
		relid == store.keys || relid == store.keys_pkey || relid == store.batch_keys ||
		relid == store.mark || relid == store.epochs || relid == store.grants || relid == store.aggregates ||
		relid == store.upcasters || relid == store.event_checks || relid == store.projections || relid == store.snapshots ||
		relid == store.snapshots_pkey || relid == store.subscription_streams ||
		relid == store.subscription_streams_pkey || relid == store.seals || relid == store.seals_pkey ||
		relid == store.erased || relid == store.erased_pkey || relid == store.position_seq || relid == store.stream_seq ||
		relid == store.row_type;
}

/* A new partition invalidates its parent too: rare enough for re-reading a dozen OIDs. */
static void
relcache_callback(Datum arg, Oid relid)
{
	if (store_reading || (store_valid && (relid == InvalidOid || is_ours(relid))))
		store_valid = store_reading = false;
}

static void
namespace_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	store_valid = store_reading = false;
}

/* Registers the callbacks; called once, when the library is loaded. */
void
es_store_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, namespace_callback, (Datum) 0);
}

void
es_store_forget(void)
{
	store_valid = false;
}

/*
 * What the C code relies on. The tables belong to the store's owner, who can alter them; reading a
 * changed one by these columns could crash the server or worse, so it is refused instead.
 */
typedef struct EsColumnDef
{
	const char *name;
	Oid			type;
	bool		nullable;
} EsColumnDef;

#define MAX_COLUMNS		13

static const struct TableDef
{
	const char *name;
	int			columns;
	EsColumnDef	column[MAX_COLUMNS];
}			table_defs[] =
{
	{"store", 5, {{"layout", INT4OID}, {"node", INT4OID}, {"id", UUIDOID}, {"created_at", TIMESTAMPTZOID},
	{"one", BOOLOID}}},
	{"mark", 4, {{"mark", INT8OID}, {"stable_until", TIMESTAMPTZOID}, {"floor", TIMESTAMPTZOID}, {"one", BOOLOID}}},
	{"epochs", 8, {{"epoch", INT8OID}, {"began_at", TIMESTAMPTZOID}, {"mark", INT8OID}, {"last_position", INT8OID},
	{"start_position", INT8OID}, {"system_identifier", INT8OID}, {"timeline", INT8OID}, {"database", INT8OID}}},
	{"categories", 2, {{"id", INT4OID}, {"name", TEXTOID}}},
	{"event_types", 2, {{"id", INT4OID}, {"name", TEXTOID}}},
	{"heads", Natts_head, {{"id", INT8OID}, {"first_position", INT8OID}, {"created_at", TIMESTAMPTZOID},
	{"category", INT4OID}, {"version", INT8OID}, {"last_position", INT8OID}, {"recorded_at", TIMESTAMPTZOID},
	{"digest", BYTEAOID}, {"name", TEXTOID}}},
	{"log", Natts_log, {{"position", INT8OID}, {"stream", INT8OID}, {"version", INT8OID},
	{"occurred_at", TIMESTAMPTZOID}, {"recorded_at", TIMESTAMPTZOID}, {"category", INT4OID},
	{"event_type", INT4OID}, {"schema_version", INT4OID}, {"rest", INT4OID}, {"event_id", UUIDOID},
	{"salt", UUIDOID, true}, {"data", JSONBOID, true}, {"metadata", JSONBOID, true}}},
	{"append_keys", 7, {{"stream", INT8OID}, {"key", TEXTOID}, {"request", BYTEAOID}, {"version", INT8OID},
	{"first_position", INT8OID}, {"last_position", INT8OID}, {"recorded_at", TIMESTAMPTZOID}}},
	{"batch_keys", 6, {{"key", TEXTOID}, {"request", BYTEAOID}, {"events", INT8OID}, {"first_position", INT8OID},
	{"last_position", INT8OID}, {"recorded_at", TIMESTAMPTZOID}}},
	{"grants", 2, {{"role", TEXTOID}, {"right", TEXTOID}}},
	{"aggregates", 7, {{"category", TEXTOID}, {"fold", TEXTOID, true}, {"rules", JSONBOID, true},
	{"initial_state", JSONBOID}, {"snapshot_every", INT4OID}, {"role", TEXTOID}, {"search_path", TEXTOID}}},
	{"upcasters", 6, {{"event_type", TEXTOID}, {"from_version", INT4OID}, {"transform", TEXTOID},
	{"to_type", TEXTOID}, {"role", TEXTOID}, {"search_path", TEXTOID}}},
	{"event_checks", 5, {{"event_type", TEXTOID}, {"schema_version", INT4OID}, {"check_expr", TEXTOID, true},
	{"role", TEXTOID}, {"search_path", TEXTOID}}},
	{"projections", 13, {{"name", TEXTOID}, {"handler", TEXTOID}, {"categories", TEXTARRAYOID, true},
	{"event_types", TEXTARRAYOID, true}, {"tables", TEXTARRAYOID, true}, {"mode", TEXTOID}, {"batch_size", INT4OID},
	{"from_position", INT8OID}, {"side_effects", BOOLOID}, {"role", TEXTOID}, {"search_path", TEXTOID},
	{"state", TEXTOID}, {"stale", BOOLOID}}},
	{"counters", 2, {{"name", TEXTOID}, {"value", INT8OID}}},
	{"snapshots", 7, {{"stream", INT8OID}, {"fingerprint", BYTEAOID}, {"version", INT8OID}, {"position", INT8OID},
	{"recorded_at", TIMESTAMPTZOID}, {"state", JSONBOID}, {"hash", BYTEAOID}}},
	{"subscription_streams", Natts_substream, {{"subscription", INT4OID}, {"stream", INT8OID}, {"version", INT8OID},
	{"position", INT8OID}, {"attempts", INT4OID}, {"consumer", TEXTOID, true}, {"since", TIMESTAMPTZOID, true},
	{"reason", TEXTOID, true}}},
	{"seals", Natts_seal, {{"after_position", INT8OID}, {"to_position", INT8OID}, {"events", INT8OID},
	{"tree", BYTEAOID}, {"root", BYTEAOID}, {"sealed_at", TIMESTAMPTZOID}, {"manifest", BYTEAOID}}},
	{"erased", Natts_erased, {{"position", INT8OID}, {"digest", BYTEAOID}}},
};

static void
changed(const char *what, const char *name, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s \"%s.%s\" has been changed", what, ES_SCHEMA, name),
			 errdetail("%s", detail),
			 errhint("Undo the change; the library reads these tables below SQL.")));
}

/* Raises an error unless an open table has the columns of one of the definitions. */
static void
check_columns(Relation rel, const struct TableDef *def)
{
	TupleDesc	desc = RelationGetDescr(rel);

	if (desc->natts != def->columns)
		changed("table", RelationGetRelationName(rel),
				psprintf("It has %d columns, counting dropped ones, instead of %d.", desc->natts, def->columns));
	for (int i = 0; i < def->columns; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		const EsColumnDef *column = &def->column[i];

		if (att->attisdropped || att->atttypid != column->type || att->attgenerated != '\0' ||
			strcmp(NameStr(att->attname), column->name) != 0 ||
			(!column->nullable && !att->attnotnull))
			changed("table", RelationGetRelationName(rel),
					psprintf("Column %d is not \"%s\" as it was made.", i + 1, column->name));
	}
}

/* Writes below SQL fire no triggers: refused where there are any but those that refuse changes. */
static void
check_triggers(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (!trigger->tgisinternal && strcmp(trigger->tgname, "es_immutable") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("table \"%s.%s\" has a trigger \"%s\"", ES_SCHEMA,
							RelationGetRelationName(rel), trigger->tgname),
					 errdetail("Appends write below SQL and would not fire it."),
					 errhint("Drop the trigger; read the log by position instead.")));
	}
}

/* The same for a leaf of the log; the caller has opened it. */
void
es_store_check_partition(Relation partition)
{
	for (int i = 0; i < lengthof(table_defs); i++)
		if (strcmp(table_defs[i].name, "log") == 0)
			check_columns(partition, &table_defs[i]);
	check_triggers(partition);
}

static Oid
relation_owner(Oid relid, char *kind)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	*kind = ((Form_pg_class) GETSTRUCT(tuple))->relkind;
	ReleaseSysCache(tuple);
	return owner;
}

static Oid
schema_owner(Oid nsp)
{
	HeapTuple	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(nsp));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema %u", nsp);
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

/* A relation of the store, which is of this kind and belongs to the owner of the schema. */
static Oid
find_relation(Oid nsp, const char *name, char kind)
{
	Oid			relid = get_relname_relid(name, nsp);
	char		actual;

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the event store is incomplete: relation \"%s.%s\" does not exist", ES_SCHEMA, name),
				 errhint("Restore it from a backup; or, if there are no events to keep, drop the schema and run SELECT es_create_store().")));
	if (relation_owner(relid, &actual) != schema_owner(nsp))
		changed("relation", name, "It does not belong to the owner of the schema: a store has one owner.");
	if (actual != kind)
		changed("relation", name, "It is not of the kind that it was made as.");
	return relid;
}

static Oid
find_table(Oid nsp, const char *name)
{
	for (int i = 0; i < lengthof(table_defs); i++)
	{
		Oid			relid;
		Relation	rel;

		if (strcmp(table_defs[i].name, name) != 0)
			continue;
		relid = find_relation(nsp, name, strcmp(name, "log") == 0 ? RELKIND_PARTITIONED_TABLE : RELKIND_RELATION);
		rel = relation_open(relid, AccessShareLock);
		check_columns(rel, &table_defs[i]);
		if (strcmp(name, "log") == 0 || strcmp(name, "heads") == 0 ||
			strcmp(name, "append_keys") == 0 || strcmp(name, "batch_keys") == 0)
			check_triggers(rel);
		/* The cache is invalidated by any change: a lock kept would only cost a fast-path slot. */
		relation_close(rel, AccessShareLock);
		return relid;
	}
	elog(ERROR, "no definition of table \"%s\"", name);
}

/* A unique btree index on exactly these columns; strings compared bytewise. */
static Oid
find_index(Oid nsp, const char *name, Oid table, int first, int second)
{
	Oid			relid = find_relation(nsp, name, RELKIND_INDEX);
	Relation	index = relation_open(relid, AccessShareLock);
	Form_pg_index form = index->rd_index;
	int			natts = second == 0 ? 1 : 2;

	if (form->indrelid != table || index->rd_rel->relam != BTREE_AM_OID || !form->indisunique ||
		!form->indisvalid || !form->indimmediate || form->indnatts != natts ||
		form->indkey.values[0] != first || (second != 0 && form->indkey.values[1] != second) ||
		RelationGetIndexPredicate(index) != NIL)
		changed("index", name, "It is not the unique index that it was made as.");
	for (int i = 0; i < natts; i++)
		if (TupleDescAttr(RelationGetDescr(index), i)->atttypid == TEXTOID &&
			index->rd_indcollation[i] != C_COLLATION_OID)
			changed("index", name, "It does not compare bytewise.");
	relation_close(index, AccessShareLock);
	return relid;
}

/* Reads the one row of event_store.store: layout, node, id. */
static void
read_store_row(Oid relid, EsStore *into)
{
	Relation	rel = relation_open(relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	HeapTuple	tuple = systable_getnext(scan);
	bool		isnull;
	int			layout;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the event store is incomplete: \"%s.store\" has no row", ES_SCHEMA),
				 errhint("Was only the schema restored? Restore the data too.")));
	layout = DatumGetInt32(heap_getattr(tuple, 1, desc, &isnull));
	if (layout != ES_LAYOUT)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the event store has layout %d, but the library works with layout %d", layout, ES_LAYOUT),
				 layout < ES_LAYOUT ?
				 errhint("Run SELECT es_upgrade_store().") :
				 errhint("Install the version of the extension that made this store, or a later one.")));
	into->node = DatumGetInt32(heap_getattr(tuple, 2, desc, &isnull));
	into->id = *DatumGetUUIDP(heap_getattr(tuple, 3, desc, &isnull));

	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	relation_close(rel, AccessShareLock);
}

/* Whether this database has a store (of any layout, whole or not). */
bool
es_store_exists(void)
{
	Oid			nsp;

	if (store_valid)
		return true;
	nsp = get_namespace_oid(ES_SCHEMA, true);
	return OidIsValid(nsp) && OidIsValid(get_relname_relid("store", nsp));
}

/*
 * The store of this database. Raises 55000, with a hint, when there is none, when it is not whole
 * or when its layout is not ours. The result stays good until the next cache invalidation: look at
 * it again after anything that takes a lock, do not keep the pointer across calls.
 */
const EsStore *
es_store(void)
{
	EsStore		found;
	Oid			nsp;
	int			tries = 0;

	if (likely(store_valid))
		return &store;

	if (!es_store_exists())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this database has no event store"),
				 errhint("Run SELECT es_create_store().")));

	do
	{
		store_reading = true;
		memset(&found, 0, sizeof(found));
		nsp = get_namespace_oid(ES_SCHEMA, false);
		read_store_row(find_table(nsp, "store"), &found);
		found.owner = schema_owner(nsp);
		found.log = find_table(nsp, "log");
		found.heads = find_table(nsp, "heads");
		found.heads_pkey = find_index(nsp, "heads_pkey", found.heads, Anum_head_id, 0);
		found.heads_name = find_index(nsp, "heads_name_key", found.heads, Anum_head_name, 0);
		found.categories = find_table(nsp, "categories");
		found.categories_pkey = find_index(nsp, "categories_pkey", found.categories, 1, 0);
		found.categories_name = find_index(nsp, "categories_name_key", found.categories, 2, 0);
		found.event_types = find_table(nsp, "event_types");
		found.event_types_pkey = find_index(nsp, "event_types_pkey", found.event_types, 1, 0);
		found.event_types_name = find_index(nsp, "event_types_name_key", found.event_types, 2, 0);
		found.keys = find_table(nsp, "append_keys");
		found.keys_pkey = find_index(nsp, "append_keys_pkey", found.keys, 1, 2);
		found.batch_keys = find_table(nsp, "batch_keys");
		found.batch_keys_pkey = find_index(nsp, "batch_keys_pkey", found.batch_keys, 1, 0);
		found.grants = find_table(nsp, "grants");
		found.mark = find_table(nsp, "mark");
		found.epochs = find_table(nsp, "epochs");
		found.aggregates = find_table(nsp, "aggregates");
		found.upcasters = find_table(nsp, "upcasters");
		found.event_checks = find_table(nsp, "event_checks");
		found.projections = find_table(nsp, "projections");
		found.snapshots = find_table(nsp, "snapshots");
		(void) find_table(nsp, "counters");
		found.snapshots_pkey = find_relation(nsp, "snapshots_pkey", RELKIND_INDEX);
		found.subscription_streams = find_table(nsp, "subscription_streams");
		found.subscription_streams_pkey = find_index(nsp, "subscription_streams_pkey", found.subscription_streams,
													 Anum_substream_subscription, Anum_substream_stream);
		found.seals = find_table(nsp, "seals");
		found.seals_pkey = find_index(nsp, "seals_pkey", found.seals, Anum_seal_to_position, 0);
		found.erased = find_table(nsp, "erased");
		found.erased_pkey = find_index(nsp, "erased_pkey", found.erased, Anum_erased_position, 0);
		found.position_seq = find_relation(nsp, "position_seq", RELKIND_SEQUENCE);
		found.stream_seq = find_relation(nsp, "stream_seq", RELKIND_SEQUENCE);
		found.row_type = get_relname_relid("es_recorded_event", es_extension_schema());
	} while (!store_reading && ++tries < 10);	/* debug_discard_caches would go on for ever */

	store_reading = false;
	found.generation = ++store_generation;
	store = found;
	store_valid = true;
	return &store;
}

/*
 * The same for the beginning of a call from SQL: an open transaction may not have heard yet that the
 * store was dropped and made again.
 *
 * And it keeps DROP EXTENSION away until the transaction's end. That locks the store's tables one after the other,
 * the newest first, to drop their triggers, while calls lock some of them in their own order: one side would be the
 * victim of a deadlock. But before all tables DROP EXTENSION locks what belongs to the extension, among it the relation
 * behind a composite type. So calls lock that one first of all; it is a relation so that it costs no more than
 * a table that is read.
 */
const EsStore *
es_store_now(void)
{
	AcceptInvalidationMessages();
	if (!OidIsValid(es_store()->row_type))
		elog(ERROR, "the type es_recorded_event of the extension event_store does not exist");
	LockRelationOid(store.row_type, AccessShareLock);
	return es_store();
}
