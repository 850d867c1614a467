/*
 * log/partition.c
 *	  The partitions of the log, each for a range of positions: the list of them, and their indexes.
 *
 * log/partition_maker.c makes them.
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
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "log/partition.h"

static EsPartitionList list = {NULL, 0, 0, 0};
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

/*
 * Reads the list from the catalogs. Each change of the parent table makes a new generation of the store.
 *
 * The cached partition descriptor of the parent is not used. In a session that has just connected, PostgreSQL may
 * cache a descriptor that became stale while it was being built, by a concurrent ATTACH, and keep it. Here the
 * generation is noted before the catalogs are read, so a change that comes in between leads to another read.
 */
static void
read_list(const EsStore *store)
{
	uint64		generation;
	Relation	log = table_open(store->log, AccessShareLock);
	Relation	pg_class;
	List	   *children;
	ListCell   *lc;
	EsPartition *partitions;
	int			count = 0;

	generation = es_store()->generation;	/* again: invalidation messages may have come with the lock */
	children = find_inheritance_children(RelationGetRelid(log), NoLock);
	partitions = palloc(sizeof(EsPartition) * Max(list_length(children), 1));
	pg_class = table_open(RelationRelationId, AccessShareLock);
	foreach(lc, children)
		count += read_partition(pg_class, lfirst_oid(lc), &partitions[count]);
	table_close(pg_class, AccessShareLock);
	table_close(log, NoLock);
	list_free(children);
	qsort(partitions, count, sizeof(EsPartition), compare_partitions);

	if (list.partitions != NULL)
		pfree(list.partitions);
	list.partitions = NULL;
	list.count = 0;
	list.partitions = MemoryContextAlloc(TopMemoryContext, sizeof(EsPartition) * Max(count, 1));
	memcpy(list.partitions, partitions, sizeof(EsPartition) * count);
	pfree(partitions);
	list.count = count;
	list_generation = generation;
	list.serial++;
	list.last = 0;
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
		read_list(store);
	return &list;
}

/*
 * Copies the list of partitions, ordered by position, into the current memory context. Returns how many they are. If
 * serial is not NULL, stores the number of the list there.
 */
int
es_partitions_copy(EsPartition **partitions, uint64 *serial)
{
	(void) es_partition_list();
	if (serial != NULL)
		*serial = list.serial;
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
 * Finds the gaps: ranges of positions, from the beginning of the log up to `last`, that are in none of the partitions.
 * Returns how many; *gaps is allocated in the current memory context.
 */
int
es_partition_gaps(const EsPartition *partitions, int count, int64 last, EsPartitionGap **gaps)
{
	int64		next = ES_NODE_START(es_store()->node);
	int			found = 0;

	*gaps = palloc(sizeof(EsPartitionGap) * (count + 1));
	for (int i = 0; i < count; i++)
	{
		if (partitions[i].from > next)
			(*gaps)[found++] = (EsPartitionGap) {next, partitions[i].from - 1};
		next = Max(next, partitions[i].to);
	}
	if (last >= next)
		(*gaps)[found++] = (EsPartitionGap) {next, last};
	return found;
}

/* Whether one of the positions from..to is in a gap. */
bool
es_in_partition_gap(const EsPartitionGap *gaps, int count, int64 from, int64 to)
{
	for (int i = 0; i < count; i++)
		if (gaps[i].from <= to && gaps[i].to >= from)
			return true;
	return false;
}

/*
 * Checks that the newest partition was not detached, for a read up to a position. A partition that is detached from
 * the end leaves no gap. But there still is a table with the name that the next partition would have. Then this
 * raises an error, because the read must not just end before it.
 *
 * Returns false when the list is not the one any more that es_partitions_copy() has returned with this serial,
 * because a partition was attached since. Then the caller chooses its partitions again.
 */
bool
es_check_newest_attached(int64 upto, uint64 serial)
{
	int64		from;
	Oid			relid;
	EsPartition		partition;
	Relation	pg_class;
	bool		attached;

	(void) es_partition_list();
	if (list.serial != serial)
		return false;
	from = es_partition_list_end(&list);
	if (upto < from)
		return true;
	relid = get_relname_relid(psprintf("log_%lld", (long long) from), get_namespace_oid(ES_SCHEMA, false));
	if (!OidIsValid(relid))
		return true;

	/*
	 * The table may be a partition that was made just now: its maker has committed, but its invalidation messages
	 * have not come yet. The catalog knows.
	 */
	pg_class = table_open(RelationRelationId, AccessShareLock);
	attached = read_partition(pg_class, relid, &partition);
	table_close(pg_class, AccessShareLock);
	if (attached)
	{
		list_generation = 0;
		return false;
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("events at positions %lld to %lld are not attached", (long long) from, (long long) upto),
			 errdetail("They are in \"event_store.log_%lld\", which is no partition of event_store.log.", (long long) from),
			 errhint("Attach it again: only older partitions can be detached while the log goes on.")));
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
			RelationGetIndexPredicate(index) == NIL)
			found = RelationGetRelid(index);
		index_close(index, NoLock);
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

/* Raises an error: a read needs positions from..to, but no attached partition has them. */
void
es_raise_not_attached(int64 from, int64 to)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("events at positions %lld to %lld are not attached", (long long) from, (long long) to),
			 errdetail("No partition of event_store.log covers this range."),
			 errhint("Attach the partition that was detached, or read from position %lld on.", (long long) to)));
}
