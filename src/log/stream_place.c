/*
 * log/stream_place.c
 *	  In which partition a version of a stream is.
 *
 * Versions and positions of a stream grow together, so its partitions can be searched as a sorted list is: the newest
 * first, because late versions are wanted most, then in growing steps, then by halves. A partition that has no event of
 * the stream says nothing; then those before it are tried one by one.
 *
 * The answer is where a scan should begin. It only saves work: the scan itself notices what is missing.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "log/partition.h"
#include "log/stream_place.h"

/* What a partition says about where a version is. */
typedef enum Answer
{
	HERE,
	BEFORE,						/* it has later versions only */
	AFTER,						/* it has earlier versions only */
	NONE,						/* it has no event of the stream */
	GONE						/* it is not attached any more */
} Answer;

/* Looks for a row of the stream in a partition: the first from a version on, or the last before it. */
static bool
find_version(EsScan *scan, Relation rel, Relation index, TupleTableSlot *slot, int64 version, bool before)
{
	ScanKeyData keys[2];
	IndexScanDesc rows = es_index_beginscan(rel, index, scan->snapshot, 2);
	bool		found;

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(scan->stream));
	if (before)
		ScanKeyInit(&keys[1], 2, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(version));
	else
		ScanKeyInit(&keys[1], 2, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(version));
	index_rescan(rows, keys, 2, NULL, 0);
	found = index_getnext_slot(rows, before ? BackwardScanDirection : ForwardScanDirection, slot);
	index_endscan(rows);
	return found;
}

/* Asks a partition where a version is. Its locks are given back: what it says is only a hint. */
static Answer
ask(EsScan *scan, const EsPartition *partition, int64 version)
{
	Relation	rel = try_table_open(partition->relid, AccessShareLock);
	Answer		answer;
	Relation	index;
	TupleTableSlot *slot;

	if (rel == NULL)
		return GONE;
	if (!es_partition_is_attached(partition))
	{
		table_close(rel, AccessShareLock);
		return GONE;
	}
	es_store_check_partition(rel);
	index = index_open(es_partition_index(rel, true), AccessShareLock);
	slot = table_slot_create(rel, NULL);
	if (find_version(scan, rel, index, slot, version, false))
		answer = DatumGetInt64(es_row_column(slot, Anum_log_version)) == version ? HERE : BEFORE;
	else
		answer = find_version(scan, rel, index, slot, version, true) ? AFTER : NONE;
	ExecDropSingleTupleTableSlot(slot);
	UnlockRelation(index, AccessShareLock); /* that of es_partition_index() */
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
	return answer;
}

/*
 * Which of the partitions of a scan by stream has a version, by its number among them. Where none has it, one from which on a
 * scan sees that.
 */
int
es_stream_place(EsScan *scan, int64 version)
{
	int			low = 0;
	int			high = scan->partition_count - 1;
	int			step = 0;		/* 0: by halves */
	bool		growing = true; /* the steps grow, until an earlier version is found */
	int			at = high;

	while (low < high)
	{
		int			asked = at;
		Answer		answer;

		CHECK_FOR_INTERRUPTS();
		while ((answer = ask(scan, &scan->partitions[at], version)) == NONE && at > low)
			at--;
		switch (answer)
		{
			case HERE:
				return at;
			case BEFORE:
				high = Max(at - 1, low);
				break;
			case AFTER:
			case NONE:
				/* Nothing between `at` and the one that was asked first has an event of the stream. */
				low = Min(asked + 1, high);
				growing = false;
				break;
			case GONE:
				return 0;
		}
		step = growing ? Max(step * 2, 1) : 0;
		at = growing ? Max(low, high + 1 - step) : (low + high) / 2;
	}
	return low;
}
