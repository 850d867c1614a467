/*
 * log/partition.c
 *	  The partitions of the log, each for a range of positions: the list of them, and their indexes.
 *
 * log/partition_maker.c makes them. log/partition_gap.c knows the ranges of positions that are in none of them.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "log/partition.h"

static EsPartitionList list;
static uint64 list_generation = 0;	/* generation of the store when the list was read; 0: read it again */

static int
compare_partitions(const void *a, const void *b)
{
	const EsPartition *left = a;
	const EsPartition *right = b;

	return (left->from > right->from) - (left->from < right->from);
}

/* A bound of a partition, as a position. */
static int64
bound(List *datums)
{
	PartitionRangeDatum *datum = linitial_node(PartitionRangeDatum, datums);

	if (datum->kind != PARTITION_RANGE_DATUM_VALUE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a partition of the event log is bounded by MINVALUE or MAXVALUE")));
	return DatumGetInt64(castNode(Const, datum->value)->constvalue);
}

/* Reads a partition's bounds from the catalog. False when it is no partition any more. */
static bool
read_partition(Relation pg_class, Oid relid, EsPartition *partition)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&key, Anum_pg_class_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(pg_class, ClassOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		stored = heap_getattr(tuple, Anum_pg_class_relpartbound, RelationGetDescr(pg_class), &isnull);

		if (!isnull)
		{
			PartitionBoundSpec *spec = castNode(PartitionBoundSpec, stringToNode(TextDatumGetCString(stored)));

			if (spec->strategy != PARTITION_STRATEGY_RANGE || spec->is_default)
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("the event log has a default partition"),
						 errhint("Detach it: the log must consist of ranges of positions.")));
			partition->relid = relid;
			partition->from = bound(spec->lowerdatums);
			partition->to = bound(spec->upperdatums);
			found = true;
		}
	}
	systable_endscan(scan);
	return found;
}

/* Reads event_store.log_partitions, in no order. Returns how many rows it has. */
static int
read_noted(EsPartitionGap **noted)
{
	EsLookup	rows;
	Snapshot	snapshot;
	int			room = 64;
	int			count = 0;

	*noted = palloc(sizeof(EsPartitionGap) * room);
	es_lookup_open_table(&rows, es_store()->log_partitions, AccessShareLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	es_lookup_begin(&rows, snapshot, false, 0, NULL);
	while (es_lookup_next(&rows))
	{
		EsPartitionGap *row;

		if (count == room)
			*noted = repalloc(*noted, sizeof(EsPartitionGap) * (room *= 2));
		row = &(*noted)[count++];
		row->from = DatumGetInt64(es_row_column(rows.slot, Anum_partition_from_position));
		row->to = DatumGetInt64(es_row_column(rows.slot, Anum_partition_to_position)) - 1;
		namestrcpy(&row->partition, TextDatumGetCString(es_row_column(rows.slot, Anum_partition_name)));
	}
	es_lookup_close(&rows, ES_KEEP_NO_LOCK);
	UnregisterSnapshot(snapshot);
	return count;
}

/*
 * Reads the attached partitions from the catalogs. Returns how many.
 *
 * One of which DETACH CONCURRENTLY has only done its first half is as good as detached: PostgreSQL routes no row into it
 * either, and with the second half its events would be away.
 */
static int
read_attached(EsPartition **partitions)
{
	Relation	log = table_open(es_store()->log, AccessShareLock);
	List	   *children = find_inheritance_children(RelationGetRelid(log), NoLock);
	Relation	pg_class = table_open(RelationRelationId, AccessShareLock);
	ListCell   *lc;
	int			count = 0;

	*partitions = palloc(sizeof(EsPartition) * Max(list_length(children), 1));
	foreach(lc, children)
		if (!PartitionHasPendingDetach(lfirst_oid(lc)))
			count += read_partition(pg_class, lfirst_oid(lc), &(*partitions)[count]);
	table_close(pg_class, AccessShareLock);
	table_close(log, NoLock);
	list_free(children);
	qsort(*partitions, count, sizeof(EsPartition), compare_partitions);
	return count;
}

/* Copies an array to where it stays. */
static void *
keep(const void *array, Size size)
{
	void	   *copy = MemoryContextAlloc(TopMemoryContext, Max(size, 1));

	memcpy(copy, array, size);
	return copy;
}

/*
 * Reads the list. Each change of the parent table makes a new generation of the store.
 *
 * The cached partition descriptor of the parent is not used. In a session that has just connected, PostgreSQL may
 * cache a descriptor that became stale while it was being built, by a concurrent ATTACH, and keep it. Here the
 * generation is noted before the catalogs are read, so a change that comes in between leads to another read.
 *
 * What was noted is read before what is attached. So a partition that is made in between is attached and not noted, which
 * does no harm; the other way round it would be a gap.
 */
static void
read_list(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_store partitions", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EsPartitionList found = {0};
	uint64		generation;
	EsPartitionGap *noted;
	int			noted_count = read_noted(&noted);

	generation = es_store()->generation;	/* again: invalidation messages may have come with a lock */
	/* A snapshot of the catalogs that was taken before a partition was committed would show a gap where it is noted. */
	InvalidateCatalogSnapshot();
	found.count = read_attached(&found.partitions);
	es_partition_gaps_find(&found, noted, noted_count);

	if (list.partitions != NULL)
	{
		pfree(list.partitions);
		pfree(list.gaps);
	}
	memset(&list, 0, sizeof(list));
	found.partitions = keep(found.partitions, sizeof(EsPartition) * found.count);
	found.gaps = keep(found.gaps, sizeof(EsPartitionGap) * found.gap_count);
	list = found;
	list_generation = generation;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * The current list of partitions. The struct stays where it is, but what it points to is only good until the next
 * call.
 */
EsPartitionList *
es_partition_list(void)
{
	const EsStore *store = es_store();

	if (unlikely(list_generation != store->generation || list.partitions == NULL))
		read_list();
	return &list;
}

/*
 * The list for a read up to a position. This session may not have heard yet of a partition that was just made: its maker
 * has committed, but the invalidation messages have not come. The catalogs know. With exists, there is an event at that
 * position, so where the list ends before it, the list is old. Without, one may be there; then the name that the next
 * partition has tells.
 */
EsPartitionList *
es_partition_list_upto(int64 upto, bool exists)
{
	(void) es_partition_list();
	if (unlikely(upto >= list.end))
	{
		/* Who made it has sent them before its events could be written; and the name may be known as one that is not there. */
		AcceptInvalidationMessages();
		if (exists || es_partition_exists(psprintf("log_%lld", (long long) es_partition_list()->end)))
			list_generation = 0;
	}
	return es_partition_list();
}

/* Has the list read again, where a gap may be in a partition that was attached just now. */
void
es_partition_list_forget(void)
{
	list_generation = 0;
}

/* Whether there is a table of this name, be it attached or not. */
bool
es_partition_exists(const char *name)
{
	return OidIsValid(get_relname_relid(name, get_namespace_oid(ES_SCHEMA, false)));
}

/*
 * Whether a partition of a list is attached as it was. The caller has locked it, so it stays so. It may have been detached
 * before that, and then somebody may have changed or emptied it.
 */
bool
es_partition_is_attached(const EsPartition *partition)
{
	const EsPartition *now;

	(void) es_partition_list();
	now = es_partition_among(list.partitions, list.count, partition->from);
	return now != NULL && now->relid == partition->relid && now->from == partition->from && now->to == partition->to;
}

/*
 * Copies the list of partitions, ordered by position, into the current memory context. Returns how many they are.
 */
int
es_partitions_copy(EsPartition **partitions)
{
	(void) es_partition_list();
	*partitions = palloc(sizeof(EsPartition) * Max(list.count, 1));
	memcpy(*partitions, list.partitions, sizeof(EsPartition) * list.count);
	return list.count;
}

/*
 * Finds the partition of a position in a list that is ordered by position. It is the last one that begins at the
 * position or before it. NULL when that one ends before the position.
 */
const EsPartition *
es_partition_among(const EsPartition *partitions, int count, int64 position)
{
	int			low = 0;
	int			high = count;

	while (low < high)
	{
		int			mid = (low + high) / 2;

		if (partitions[mid].from <= position)
			low = mid + 1;
		else
			high = mid;
	}
	return low > 0 && position < partitions[low - 1].to ? &partitions[low - 1] : NULL;
}

/*
 * Finds a valid btree index of a partition whose key columns are just these, with unique a unique one. InvalidOid
 * when there is none.
 */
static Oid
find_partition_index(Relation partition, bool unique, int natts, const AttrNumber *columns)
{
	List	   *indexes = RelationGetIndexList(partition);
	ListCell   *lc;
	Oid			found = InvalidOid;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index->rd_index->indisvalid && (index->rd_index->indisunique || !unique) &&
			index->rd_rel->relam == BTREE_AM_OID && index->rd_index->indnkeyatts == natts &&
			memcmp(index->rd_index->indkey.values, columns, natts * sizeof(AttrNumber)) == 0 &&
			!es_index_has_code(index))
			found = RelationGetRelid(index);
		/* The lock on the one that is found stays until the caller has opened it, and longer. */
		index_close(index, OidIsValid(found) ? NoLock : AccessShareLock);
		if (OidIsValid(found))
			break;
	}
	list_free(indexes);
	return found;
}

/* The unique index of a partition by position, or with by_stream, by stream and version. */
Oid
es_partition_index(Relation partition, bool by_stream)
{
	static const AttrNumber position[] = {Anum_log_position};
	static const AttrNumber version[] = {Anum_log_stream, Anum_log_version};
	Oid			found = by_stream ? find_partition_index(partition, true, 2, version) :
		find_partition_index(partition, true, 1, position);

	if (!OidIsValid(found))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition \"%s\" of the event log lacks a unique index", RelationGetRelationName(partition)),
				 errdetail("It would be on %s.", by_stream ? "stream and version" : "position")));
	return found;
}

/* The index of a partition by category and position. InvalidOid when a DBA has dropped it. */
Oid
es_partition_category_index(Relation partition)
{
	static const AttrNumber columns[] = {Anum_log_category, Anum_log_position};

	return find_partition_index(partition, false, 2, columns);
}
