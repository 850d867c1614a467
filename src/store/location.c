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
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/base.h"
#include "store/shape.h"
#include "store/store.h"

static EsStore store;
static bool store_valid = false;
static bool store_reading = false;	/* an invalidation meanwhile means: read again */
static uint64 store_generation = 0;

/*
 * How often something may have changed that the caches of other files have read, and how often it had when the store was
 * read last.
 */
static uint64 changes = 1;
static uint64 changes_seen = 0;

/* The same for what is told of projections alone, and for where the tables are: es_projections_generation(). */
static uint64 projection_changes = 1;

/*
 * The relations of the store, in the order in which they are looked for: all tables, and the indexes and sequences that C
 * uses. Tables must be as they were made: they belong to the store's owner, who can alter them, and reading a changed one
 * could crash the server or worse. Indexes that are read below SQL must be unique, and on the columns that are given.
 */
typedef struct StoreRelation
{
	const char *name;
	size_t		field;			/* in EsStore */
	char		kind;			/* as in pg_class.relkind */
	bool		written;		/* below SQL, and not by us alone: triggers are refused */
	size_t		table;			/* of an index */
	int			key[ES_MAX_KEY];	/* its columns; 0 after the last one */
} StoreRelation;

#define FIELD(field)	offsetof(EsStore, field)
#define TABLE(name)	{#name, FIELD(name), RELKIND_RELATION}
#define WRITTEN(name, field, kind)	{name, FIELD(field), kind, true}
#define SEQUENCE(name)	{#name, FIELD(name), RELKIND_SEQUENCE}
#define INDEX(name, field, table, ...) \
	{name, FIELD(field), RELKIND_INDEX, false, FIELD(table), {__VA_ARGS__}}

static const StoreRelation relations[] = {
	TABLE(store),
	WRITTEN("log", log, RELKIND_PARTITIONED_TABLE),
	TABLE(log_partitions),
	WRITTEN("heads", heads, RELKIND_RELATION),
	INDEX("heads_pkey", heads_pkey, heads, Anum_head_id),
	INDEX("heads_name_key", heads_name, heads, Anum_head_name),
	TABLE(categories),
	INDEX("categories_pkey", categories_pkey, categories, Anum_name_id),
	INDEX("categories_name_key", categories_name, categories, Anum_name_name),
	TABLE(event_types),
	INDEX("event_types_pkey", event_types_pkey, event_types, Anum_name_id),
	INDEX("event_types_name_key", event_types_name, event_types, Anum_name_name),
	WRITTEN("append_keys", keys, RELKIND_RELATION),
	INDEX("append_keys_pkey", keys_pkey, keys, Anum_append_key_stream, Anum_append_key_key),
	WRITTEN("batch_keys", batch_keys, RELKIND_RELATION),
	INDEX("batch_keys_pkey", batch_keys_pkey, batch_keys, Anum_batch_key_key),
	TABLE(grants),
	TABLE(mark),
	TABLE(epochs),
	TABLE(aggregates),
	TABLE(upcasters),
	TABLE(event_checks),
	TABLE(projections),
	TABLE(checkpoints),
	TABLE(rebuilds),
	TABLE(quarantined_streams),
	TABLE(counters),
	TABLE(duties),
	TABLE(journal),
	TABLE(snapshots),
	INDEX("snapshots_pkey", snapshots_pkey, snapshots, Anum_snapshot_stream, Anum_snapshot_fingerprint,
		  Anum_snapshot_version),
	TABLE(subscriptions),
	TABLE(subscription_streams),
	INDEX("subscription_streams_pkey", subscription_streams_pkey, subscription_streams, Anum_substream_subscription,
		  Anum_substream_stream),
	TABLE(subscription_consumers),
	TABLE(seals),
	INDEX("seals_pkey", seals_pkey, seals, Anum_seal_to_position),
	TABLE(erased),
	INDEX("erased_pkey", erased_pkey, erased, Anum_erased_position),
	SEQUENCE(position_seq),
	SEQUENCE(stream_seq),
	SEQUENCE(floor_seq),
};

/* Where the OID of one of the relations is kept. */
static Oid *
relation_field(EsStore *in, const StoreRelation *relation)
{
	return (Oid *) ((char *) in + relation->field);
}

/* Which of the relations one is; NULL: none of them. */
static const StoreRelation *
which_relation(Oid relid)
{
	for (int i = 0; i < lengthof(relations); i++)
		if (*relation_field(&store, &relations[i]) == relid)
			return &relations[i];
	return NULL;
}

static bool
is_ours(Oid relid)
{
	return which_relation(relid) != NULL || relid == store.row_type;
}

/*
 * Whether other files have caches of what a relation, which is ours, tells: the partitions of the log, epochs, what is
 * registered. Of the others only the OIDs are kept, and that their columns and triggers are right. These are the ones
 * that VACUUM and ANALYZE invalidate all the time, because their rows change.
 */
static bool
is_cached_elsewhere(Oid relid)
{
	return relid == store.log || relid == store.log_partitions || relid == store.epochs || relid == store.aggregates ||
		relid == store.upcasters || relid == store.event_checks || relid == store.projections || relid == store.grants ||
		relid == store.row_type;
}

/* A new partition invalidates its parent too: rare enough for re-reading a dozen OIDs. */
static void
relcache_callback(Datum arg, Oid relid)
{
	if (relid == InvalidOid || is_cached_elsewhere(relid))
		changes++;
	if (relid == InvalidOid || relid == store.projections)
		projection_changes++;
	if (store_reading || (store_valid && (relid == InvalidOid || is_ours(relid))))
		store_valid = store_reading = false;
}

static void
namespace_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	changes++;
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
	changes++;
	projection_changes++;
	store_valid = false;
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

/* Refuses a relation of the store that does not belong to the owner of the schema. */
void
es_store_check_relation_owner(Oid relid, const char *name)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	bool		same;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", relid);
	same = ((Form_pg_class) GETSTRUCT(tuple))->relowner ==
		schema_owner(((Form_pg_class) GETSTRUCT(tuple))->relnamespace);
	ReleaseSysCache(tuple);
	if (!same)
		es_shape_changed("relation", name, "It does not belong to the owner of the schema: a store has one owner.");
}

/* A relation of the store, which is of this kind and belongs to the owner of the schema. */
static Oid
find_relation(Oid nsp, const char *name, char kind)
{
	Oid			relid = get_relname_relid(name, nsp);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the event store is incomplete: relation \"%s.%s\" does not exist", ES_SCHEMA, name),
				 errhint("Restore it from a backup; or, if there are no events to keep, drop the schema and run SELECT es_create_store().")));
	es_store_check_relation_owner(relid, name);
	if (get_rel_relkind(relid) != kind)
		es_shape_changed("relation", name, "It is not of the kind that it was made as.");
	return relid;
}

/* Finds one of the relations, and puts its OID into its field. */
static void
find(Oid nsp, const StoreRelation *relation, EsStore *into)
{
	Oid			relid = find_relation(nsp, relation->name, relation->kind);
	Relation	rel;

	*relation_field(into, relation) = relid;
	if (relation->kind == RELKIND_SEQUENCE)
		return;
	rel = relation_open(relid, AccessShareLock);
	if (relation->kind == RELKIND_INDEX)
		es_shape_check_index(rel, *(const Oid *) ((const char *) into + relation->table), relation->key);
	else
		es_shape_check_table(rel, relation->name, relation->written);
	/* The cache is invalidated by any change: a lock kept would only cost a fast-path slot. */
	relation_close(rel, AccessShareLock);
}

/* Reads the one row of event_store.store: node and id; returns the layout. */
static int
read_store_row(EsStore *into)
{
	Relation	rel = relation_open(into->store, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;
	pg_uuid_t  *id;
	int			layout;

	/* Now that it cannot be altered. */
	es_shape_check_table(rel, "store", false);
	scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	tuple = systable_getnext(scan);
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the event store is incomplete: \"%s.store\" has no row", ES_SCHEMA),
				 errhint("Was only the schema restored? Restore the data too.")));
	layout = DatumGetInt32(heap_getattr(tuple, Anum_store_layout, desc, &isnull));
	into->node = DatumGetInt32(heap_getattr(tuple, Anum_store_node, desc, &isnull));
	id = DatumGetUUIDP(heap_getattr(tuple, Anum_store_id, desc, &isnull));
	if (id == NULL)
		elog(ERROR, "the store has no id");	/* the column is NOT NULL */
	into->id = *id;

	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	relation_close(rel, AccessShareLock);
	return layout;
}

static void
check_layout(int layout)
{
	if (layout != ES_LAYOUT)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the event store has layout %d, but the library works with layout %d", layout, ES_LAYOUT),
				 layout < ES_LAYOUT ?
				 errhint("Run SELECT es_upgrade_store().") :
				 errhint("Install the version of the extension that made this store, or a later one.")));
}

/* The layout of the store of this database, which there is, and who owns it; also where the layout is not ours. */
int
es_store_layout(Oid *owner)
{
	EsStore		found = {0};
	Oid			nsp = get_namespace_oid(ES_SCHEMA, false);

	find(nsp, &relations[0], &found);
	*owner = schema_owner(nsp);
	return read_store_row(&found);
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
	uint64		seen;
	bool		moved;
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
		seen = changes;
		store_reading = true;
		memset(&found, 0, sizeof(found));
		nsp = get_namespace_oid(ES_SCHEMA, false);
		found.owner = schema_owner(nsp);
		es_check_not_distributed(nsp);
		for (int i = 0; i < lengthof(relations); i++)
		{
			find(nsp, &relations[i], &found);
			/* What another layout has is not looked at. */
			if (i == 0)
				check_layout(read_store_row(&found));
		}
		found.row_type = get_relname_relid("es_recorded_event", es_extension_schema());
	} while (!store_reading && ++tries < 10);	/* debug_discard_caches would go on for ever */

	store_reading = false;
	/* What was read is what it was, and nothing else has changed: other files may keep what they know. */
	found.generation = store.generation;
	/* NOLINTNEXTLINE(bugprone-suspicious-memory-comparison): both were zeroed, also between the fields */
	moved = memcmp(&found, &store, sizeof(EsStore)) != 0;
	if (moved)
		projection_changes++;
	if (moved || seen != changes_seen)
		found.generation = ++store_generation;
	changes_seen = seen;
	memcpy(&store, &found, sizeof(EsStore));
	store_valid = true;
	return &store;
}

/*
 * Differs after every change of projections and rebuilds, and where the tables are others: a key for what is known of them. A
 * new partition or schema, which makes a new generation of the store, changes nothing of that.
 */
uint64
es_projections_generation(void)
{
	(void) es_store();
	return projection_changes;
}

/*
 * es_store() for the beginning of a call from SQL: an open transaction may not have heard yet that the
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
	es_store_check_copied();
	return es_store();
}

/*
 * Opens and locks a table of the store, by its OID, and has it as it was made. Whoever has altered it held the strongest
 * lock on it, so what is found here stays until our lock is given back. Looking at the store before the lock is not
 * enough: its owner can alter a table while others wait for it.
 */
Relation
es_store_open(Oid table, LOCKMODE lockmode)
{
	const StoreRelation *relation = which_relation(table);
	Relation	rel = relation_open(table, lockmode);

	Assert(relation != NULL);
	(void) es_store();
	/* Altered, and another one put into its place. */
	if (relation == NULL || *relation_field(&store, relation) != table)
		es_shape_changed("table", relation == NULL ? RelationGetRelationName(rel) : relation->name,
						 "Another table has taken its place meanwhile.");
	return rel;
}
