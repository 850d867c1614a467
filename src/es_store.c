/*
 * es_store.c
 *	  Finding the store: the cache of its OIDs and its layout version.
 *
 * The cache holds no locks and no pointers into catalogs. Any relcache invalidation of one of the
 * store's tables, and any change of a schema, empties it; es_upgrade_store() alters the tables it
 * migrates, so a session never goes on with an old layout.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "es_compat.h"
#include "es_store.h"

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
		relid == store.mark || relid == store.position_seq || relid == store.stream_seq;
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

static Oid
find_relation(Oid nsp, const char *name)
{
	Oid			relid = get_relname_relid(name, nsp);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the event store is incomplete: relation \"%s.%s\" does not exist", ES_SCHEMA, name),
				 errhint("Restore the relation from a backup; SELECT es_create_store() lists what else is missing.")));
	return relid;
}

/* Reads the one row of event_store.store: layout, node, id. */
static void
read_store_row(Oid relid, EsStore *into)
{
	Relation	rel = table_open(relid, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	bool		isnull;
	int			layout;

	if (!table_scan_getnextslot(scan, ForwardScanDirection, slot))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the event store is incomplete: \"%s.store\" has no row", ES_SCHEMA),
				 errhint("Was only the schema restored? Restore the data too.")));
	layout = DatumGetInt32(slot_getattr(slot, 1, &isnull));
	if (layout != ES_LAYOUT)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the event store has layout %d, but the library works with layout %d", layout, ES_LAYOUT),
				 layout < ES_LAYOUT ?
				 errhint("Run SELECT es_upgrade_store().") :
				 errhint("Install the version of the extension that made this store, or a later one.")));
	into->node = DatumGetInt32(slot_getattr(slot, 2, &isnull));
	into->id = *DatumGetUUIDP(slot_getattr(slot, 3, &isnull));

	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
}

static Oid
relation_owner(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
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
		read_store_row(find_relation(nsp, "store"), &found);
		found.log = find_relation(nsp, "log");
		found.heads = find_relation(nsp, "heads");
		found.heads_pkey = find_relation(nsp, "heads_pkey");
		found.heads_name = find_relation(nsp, "heads_name_key");
		found.categories = find_relation(nsp, "categories");
		found.categories_pkey = find_relation(nsp, "categories_pkey");
		found.categories_name = find_relation(nsp, "categories_name_key");
		found.event_types = find_relation(nsp, "event_types");
		found.event_types_pkey = find_relation(nsp, "event_types_pkey");
		found.event_types_name = find_relation(nsp, "event_types_name_key");
		found.keys = find_relation(nsp, "append_keys");
		found.keys_pkey = find_relation(nsp, "append_keys_pkey");
		found.batch_keys = find_relation(nsp, "batch_keys");
		found.batch_keys_pkey = find_relation(nsp, "batch_keys_pkey");
		found.mark = find_relation(nsp, "mark");
		found.position_seq = find_relation(nsp, "position_seq");
		found.stream_seq = find_relation(nsp, "stream_seq");
		found.owner = relation_owner(found.log);
	} while (!store_reading && ++tries < 10);	/* debug_discard_caches would go on for ever */

	store_reading = false;
	found.generation = ++store_generation;
	store = found;
	store_valid = true;
	return &store;
}
