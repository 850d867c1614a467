/*
 * log/partition.c
 *	  The partitions of the log, by range of position: the list of them, and their indexes.
 *
 * How they are made is in log/partition_maker.c.
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
static uint64 list_generation = 0;	/* of the store; 0: to be read again */

static int
compare_partitions(const void *a, const void *b)
{
	const EsPartition *left = a;
	const EsPartition *right = b;

	return (left->from > right->from) - (left->from < right->from);
}

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

/* Reads a partition's bounds from the catalog; false when it is just going away. */
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
 * Reads the list; a change of the parent makes a new store generation.
 *
 * Not from the parent's cached partition descriptor: in a session that has just connected, core may
 * store one that was overtaken by a concurrent ATTACH while it was being built, and keep it. Here the
 * generation is noted before the catalogs are read, so whatever comes in between leads to another read.
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

	generation = es_store()->generation;	/* the lock may have brought news */
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

/* The list of partitions as it is now. It stays where it is, but what it points to is good until the next call only. */
EsPartitionList *
es_partition_list(void)
{
	const EsStore *store = es_store();

	if (unlikely(list_generation != store->generation || list.partitions == NULL))
		read_list(store);
	return &list;
}

/*
 * A copy of the list of partitions, ordered by position, in the caller's context; and its serial number, where it is
 * asked for.
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
 * The partition of a position, in a list by position: the last one that begins at or before it, if that reaches it;
 * else NULL.
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

/* What is in none of the partitions, from the beginning of the log up to a position; in the current memory context. */
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

/* Whether a part of the positions from..to is in a gap. */
bool
es_in_partition_gap(const EsPartitionGap *gaps, int count, int64 from, int64 to)
{
	for (int i = 0; i < count; i++)
		if (gaps[i].from <= to && gaps[i].to >= from)
			return true;
	return false;
}

/*
 * Raises an error when there is a table for the positions after the newest partition that is no partition: then that
 * one was detached, and a read that wants them must not just end before. False: the partitions are others than those
 * that es_partitions_copy() gave with this serial number, because one has been attached since; choose again.
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

	/* Who makes a partition commits first and tells about it then: the catalog may know what no invalidation has said. */
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

/* The valid index of a partition over just these columns, InvalidOid when there is none; a unique one, or any. */
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

/* The index of a partition that finds an event by its position, or by its stream and version. */
Oid
es_partition_index(Relation partition, bool by_stream)
{
	static const AttrNumber position[] = {Anum_log_position};
	static const AttrNumber version[] = {Anum_log_stream, Anum_log_version};
	Oid			found = by_stream ? find_partition_index(partition, true, 2, version) : find_partition_index(partition, true, 1, position);

	if (!OidIsValid(found))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition \"%s\" of the event log lacks a unique index", RelationGetRelationName(partition)),
				 errdetail("It would be on %s.", by_stream ? "stream and version" : "position")));
	return found;
}

/* The one by category and position, which a DBA may have dropped: then InvalidOid. */
Oid
es_partition_category_index(Relation partition)
{
	static const AttrNumber columns[] = {Anum_log_category, Anum_log_position};

	return find_partition_index(partition, false, 2, columns);
}

/* A read needs positions from..to, but no attached partition covers them. */
void
es_range_missing(int64 from, int64 to)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("events at positions %lld to %lld are not attached", (long long) from, (long long) to),
			 errdetail("No partition of event_store.log covers this range."),
			 errhint("Attach the partition that was detached, or read from position %lld on.", (long long) to)));
}
