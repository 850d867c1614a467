/*
 * log/scan.c
 *	  The one routine that reads events: those of a stream in order of version, or those of the log in order of
 *	  position, forward or backward. Filters by type and category are applied before anything else of a row is read.
 *
 * A scan reads one partition after the other, and only those that can have events it wants. It reads a partition by
 * one of its two unique indexes. But when it wants a few categories, and the partition has an index by category, it
 * reads each category from that index and merges them in order of position. Then the events of other categories cost
 * nothing.
 *
 * A scan never skips events because a partition is not attached. The versions of a stream are dense, so a missing one
 * is noticed. A scan by position checks its range before it begins. Both notice when a partition that was chosen has been
 * detached or dropped until they come to it (log/partition_gap.c).
 *
 * Memory is constant: one slot, one open partition, and the session's cache of stream names, which is bounded.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "log/log.h"
#include "log/partition.h"
#include "log/stream_name.h"
#include "log/stream_place.h"

/* If more categories than this are wanted, it is cheaper to read all events than to merge. */
#define MAX_MERGED			32

/* Where a scan is in an index of the open partition. */
typedef struct EsScanCursor
{
	IndexScanDesc scan;
	TupleTableSlot *slot;		/* the current row */
	int64		position;		/* of the current row, when several cursors are merged; 0: the cursor is at its end */
} EsScanCursor;

/*
 * Makes a scan, in the current memory context and resource owner. The scan takes over the snapshot, which is
 * registered.
 */
EsScan *
es_scan_create(Snapshot snapshot)
{
	EsScan	   *scan = palloc0(sizeof(EsScan));

	scan->snapshot = snapshot;
	scan->limit = ES_NO_LIMIT;
	scan->context = CurrentMemoryContext;
	scan->partition = -1;
	return scan;
}

/* Chooses the partitions that overlap positions from..to, in the list as it is. */
static void
choose_partitions(EsScan *scan, int64 from, int64 to)
{
	const EsPartitionList *list = es_partition_list();
	int			first = 0;
	int			end = list->count;

	/* The first one that ends behind from. */
	while (first < end)
	{
		int			mid = (first + end) / 2;

		if (list->partitions[mid].to > from)
			end = mid;
		else
			first = mid + 1;
	}
	for (end = first; end < list->count && list->partitions[end].from <= to; end++)
		;
	scan->partition_count = end - first;
	scan->partitions = palloc(sizeof(EsPartition) * Max(scan->partition_count, 1));
	memcpy(scan->partitions, &list->partitions[first], sizeof(EsPartition) * scan->partition_count);
	scan->partition = scan->backward ? scan->partition_count : -1;
}

/*
 * Has a scan by stream begin with the partition that has the first version that it wants, where that is neither the first
 * nor the last of those that may have events of the stream.
 */
static void
choose_start(EsScan *scan, const EsHead *head)
{
	int64		version = scan->backward ? scan->to : scan->from;
	int			place;

	if (scan->partition_count < 2 || scan->left == 0 || version == (scan->backward ? head->version : 1))
		return;
	if (version == head->version && head->last_position >= scan->partitions[scan->partition_count - 1].from)
		place = scan->partition_count - 1;
	else
		place = es_stream_place(scan, version);
	scan->partition = scan->backward ? place + 1 : place - 1;
}

/*
 * Makes the scan read versions from..to of a stream, forward or as scan->backward says. The caller has limited them
 * to the versions that the head has. Where the caller knows a position behind which all of them are, `after` is that; else 0.
 * Partitions before it are not opened.
 */
void
es_scan_stream_after(EsScan *scan, const text *name, const EsHead *head, int64 from, int64 to, int64 after)
{
	bool		known = after >= head->first_position && after < head->last_position;

	scan->by_stream = true;
	scan->stream = head->id;
	scan->from = from;
	scan->to = to;
	scan->left = from <= to ? to - from + 1 : 0;
	scan->stream_name = cstring_to_text_with_len(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
	scan->stream_first = known ? after + 1 : head->first_position;
	scan->stream_last = head->last_position;
	scan->last_position = scan->backward ? head->last_position + 1 : scan->stream_first - 1;
	if (!scan->raw)
		(void) es_partition_list_upto(head->last_position, true);
	choose_partitions(scan, scan->stream_first, head->last_position);
	if (!scan->raw && !known)
		choose_start(scan, head);
}

/* The same, without a position. */
void
es_scan_stream(EsScan *scan, const text *name, const EsHead *head, int64 from, int64 to)
{
	es_scan_stream_after(scan, name, head, from, to, 0);
}

/*
 * Makes the scan read positions after < p <= upto. If a part of this range is in no attached partition, raises an
 * error that names that part; a backward scan does so when it has come there.
 */
void
es_scan_positions(EsScan *scan, int64 after, int64 upto)
{
	EsPartitionGap gap;

	if (after >= upto)
		return;					/* the scan has no partitions, so it finds no rows */
	scan->from = Max(after, ES_NODE_START(es_store()->node)) + 1;
	scan->to = upto;
	(void) es_partition_list_upto(upto, false);
	if (scan->from <= upto && es_partition_gap_in(scan->from, upto, scan->backward, &gap))
	{
		if (!scan->backward || gap.to >= upto)
			es_raise_gap(&gap, NULL, true);
		scan->gap = MemoryContextAlloc(scan->context, sizeof(gap));
		*scan->gap = gap;
		scan->from = gap.to + 1;
	}
	choose_partitions(scan, scan->from, upto);
}

static void
close_partition(EsScan *scan)
{
	if (scan->rel == NULL)
		return;
	for (int i = 0; i < scan->cursor_count; i++)
	{
		index_endscan(scan->cursors[i].scan);
		ExecDropSingleTupleTableSlot(scan->cursors[i].slot);
	}
	pfree(scan->cursors);
	index_close(scan->index, NoLock);
	table_close(scan->rel, NoLock);
	scan->rel = NULL;
}

/* Chooses the index of the open partition to read it by, and how many cursors that needs. */
static Oid
choose_index(EsScan *scan)
{
	if (!scan->by_stream && scan->filter_categories &&
		bms_num_members(scan->categories) <= MAX_MERGED)
	{
		Oid			by_category = es_partition_category_index(scan->rel);

		if (OidIsValid(by_category))
		{
			scan->cursor_count = bms_num_members(scan->categories);
			return by_category;
		}
	}
	scan->cursor_count = 1;
	return es_partition_index(scan->rel, scan->by_stream);
}

/*
 * Begins to read scan->from to scan->to by the index. The range is of the index's first column, or with has_first of
 * its second one; then the first one must be equal to `first`.
 */
static void
open_cursor(EsScan *scan, EsScanCursor *cursor, bool has_first, RegProcedure equal, Datum first)
{
	ScanKeyData keys[3];
	int			nkeys = 0;
	int			column = has_first ? 2 : 1;

	if (has_first)
		ScanKeyInit(&keys[nkeys++], 1, BTEqualStrategyNumber, equal, first);
	ScanKeyInit(&keys[nkeys++], column, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(scan->from));
	ScanKeyInit(&keys[nkeys++], column, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(scan->to));
	cursor->slot = table_slot_create(scan->rel, NULL);
	cursor->scan = es_index_beginscan(scan->rel, scan->index, scan->snapshot, nkeys);
	cursor->scan->xs_want_itup = scan->index_category != 0 || scan->index_type != 0;
	index_rescan(cursor->scan, keys, nkeys, NULL, 0);
}

/* Whether events of a type may be wanted: the type itself is, or upcasters may make it one that is. */
static bool
type_passes(EsScan *scan, int32 type)
{
	return bms_is_member(type, scan->types) ||
		(scan->transform != NULL && scan->transform->may_become(scan->transform, type, scan->type_names));
}

static int32
index_column(IndexScanDesc scan, int column)
{
	bool		isnull;

	return DatumGetInt32(index_getattr(scan->xs_itup, column, scan->xs_itupdesc, &isnull));
}

/*
 * Like index_getnext_slot(), but passes over events whose category or type, as the index has them, are not wanted. To
 * visit the row would cost ten times as much. Whether that row is visible does not matter, as it is not returned.
 */
static bool
next_that_passes(EsScan *scan, EsScanCursor *cursor, ScanDirection direction)
{
	IndexScanDesc index = cursor->scan;

	for (;;)
	{
		if (!index->xs_heap_continue)
		{
			CHECK_FOR_INTERRUPTS();
			if (index_getnext_tid(index, direction) == NULL)
				return false;
			if (scan->index_type != 0 && !type_passes(scan, index_column(index, scan->index_type)))
				continue;
			if (scan->index_category != 0 &&
				!bms_is_member(index_column(index, scan->index_category), scan->categories))
				continue;
		}
		if (index_fetch_heap(index, cursor->slot))
			return true;
	}
}

/*
 * Goes to the cursor's next row; false at the end. What the index scan allocates meanwhile may be used until it ends.
 */
static bool
advance_cursor(EsScan *scan, EsScanCursor *cursor)
{
	MemoryContext old = MemoryContextSwitchTo(scan->context);
	ScanDirection direction = scan->backward ? BackwardScanDirection : ForwardScanDirection;
	bool		found = cursor->scan->xs_want_itup ? next_that_passes(scan, cursor, direction) :
		index_getnext_slot(cursor->scan, direction, cursor->slot);

	MemoryContextSwitchTo(old);
	return found;
}

/* The same when several cursors are merged: notes at what position the cursor is now, or 0 at its end. */
static void
advance_merged(EsScan *scan, EsScanCursor *cursor)
{
	cursor->position = advance_cursor(scan, cursor) ?
		DatumGetInt64(es_row_column(cursor->slot, Anum_log_position)) : 0;
}

/*
 * The number of the index's column that has a column of the log; 0 when the index has none. An index that a DBA has
 * made may have fewer columns than ours.
 */
static int
column_in_index(EsScan *scan, AttrNumber column)
{
	Form_pg_index form = scan->index->rd_index;

	for (int i = 0; i < form->indnatts; i++)
		if (form->indkey.values[i] == column)
			return i + 1;
	return 0;
}

/*
 * Opens and locks a partition that the scan has chosen. It may have been detached or dropped since; then what it had
 * cannot be read any more.
 */
static Relation
open_partition(EsScan *scan, const EsPartition *partition)
{
	Relation	rel = try_table_open(partition->relid, AccessShareLock);
	EsPartitionGap gap;

	if (rel != NULL && es_partition_is_attached(partition))
		return rel;
	if (es_partition_gap_in(partition->from, partition->to - 1, false, &gap))
		es_raise_gap(&gap, NULL, !scan->by_stream);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the partition for positions %lld to %lld was replaced during the read",
					(long long) partition->from, (long long) partition->to - 1),
			 errhint("Read again.")));
}

/* Opens the next partition in the order of the scan; false when there is none. */
static bool
open_next_partition(EsScan *scan)
{
	MemoryContext old;
	Oid			index;

	close_partition(scan);
	scan->partition += scan->backward ? -1 : 1;
	if (scan->partition < 0 || scan->partition >= scan->partition_count)
		return false;

	old = MemoryContextSwitchTo(scan->context);
	scan->rel = open_partition(scan, &scan->partitions[scan->partition]);
	es_store_check_partition(scan->rel);
	index = choose_index(scan);
	scan->index = index_open(index, AccessShareLock);
	scan->index_category = scan->filter_categories ? column_in_index(scan, Anum_log_category) : 0;
	scan->index_type = scan->filter_types ? column_in_index(scan, Anum_log_event_type) : 0;
	scan->cursors = palloc0(scan->cursor_count * sizeof(EsScanCursor));
	scan->cursor = -1;
	if (scan->by_stream)
		open_cursor(scan, &scan->cursors[0], true, F_INT8EQ, Int64GetDatum(scan->stream));
	else if (scan->index->rd_index->indnkeyatts == 1)
		open_cursor(scan, &scan->cursors[0], false, InvalidOid, (Datum) 0);
	else
		for (int i = 0, category = -1; (category = bms_next_member(scan->categories, category)) >= 0; i++)
			open_cursor(scan, &scan->cursors[i], true, F_INT4EQ, Int32GetDatum(category));
	MemoryContextSwitchTo(old);
	return true;
}

/*
 * The next row of the open partition, from the cursor that is at the lowest position (backward: the highest); NULL at the
 * end of the partition.
 */
static TupleTableSlot *
next_row(EsScan *scan)
{
	if (scan->cursor_count == 1)
		return advance_cursor(scan, &scan->cursors[0]) ? scan->cursors[0].slot : NULL;

	if (scan->cursor >= 0)
		advance_merged(scan, &scan->cursors[scan->cursor]);
	else
		for (int i = 0; i < scan->cursor_count; i++)
			advance_merged(scan, &scan->cursors[i]);
	scan->cursor = -1;
	for (int i = 0; i < scan->cursor_count; i++)
		if (scan->cursors[i].position != 0 &&
			(scan->cursor < 0 || (scan->cursors[i].position < scan->cursors[scan->cursor].position) != scan->backward))
			scan->cursor = i;
	return scan->cursor < 0 ? NULL : scan->cursors[scan->cursor].slot;
}

/* The version of a stream that must come next. */
static int64
next_version(const EsScan *scan)
{
	return scan->backward ? scan->from + (scan->left - 1) : scan->to - (scan->left - 1);
}

/*
 * Raises an error: the next version of the stream is not there. It would be at one of the positions from..to. With last,
 * the gap that is closest to `to` has it, else the one closest to `from`.
 */
ES_NORETURN static void
raise_missing(EsScan *scan, int64 from, int64 to, bool last)
{
	long long	version = next_version(scan);
	char	   *stream = text_to_cstring(scan->stream_name);
	EsPartitionGap gap;

	if (from <= to && es_partition_gap_in(from, to, last, &gap))
		es_raise_gap(&gap, psprintf("Version %lld of stream \"%s\" is needed.", version, stream), false);
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("version %lld of stream \"%s\" is missing", version, stream),
			 errdetail("It should be at one of the positions %lld to %lld, and all partitions for these are attached.",
					   (long long) from, (long long) to),
			 errhint("SELECT * FROM es_verify_stream('%s') tells what else is wrong.", stream)));
}

/*
 * Whether the row has the version that must come next. If not, a part of the stream is not attached, or lost. Only when
 * none of the missing versions can be at a position up to until_position does that not matter to the scan.
 */
static bool
is_dense(EsScan *scan, int64 version, int64 position)
{
	EsPartitionGap gap;

	if (version == next_version(scan))
		return true;
	if (scan->backward)
		raise_missing(scan, position + 1, scan->last_position - 1, false);
	if (scan->until_position == 0 || position <= scan->until_position ||
		es_partition_gap_in(scan->last_position + 1, scan->until_position, true, &gap))
		raise_missing(scan, scan->last_position + 1, position - 1, true);
	return false;
}

/* At the end of all partitions: raises an error when versions are missing that the scan needs. */
static void
check_end(EsScan *scan)
{
	EsPartitionGap gap;

	if (!scan->by_stream || scan->left == 0 || scan->raw)
		return;
	if (scan->backward)
		raise_missing(scan, scan->stream_first, scan->last_position - 1, true);
	if (scan->until_position == 0 || scan->stream_last <= scan->until_position ||
		es_partition_gap_in(scan->last_position + 1, scan->until_position, false, &gap))
		raise_missing(scan, scan->last_position + 1, scan->stream_last, false);
}

/*
 * Checks a row of a stream before anything else is done with it: first that no version before it is missing. False when
 * the scan ends before it.
 */
static bool
check_row(EsScan *scan, TupleTableSlot *slot)
{
	int64		version = DatumGetInt64(es_row_column(slot, Anum_log_version));
	int64		position = DatumGetInt64(es_row_column(slot, Anum_log_position));
	TimestampTz recorded_at = DatumGetTimestampTz(es_row_column(slot, Anum_log_recorded_at));

	if ((!scan->raw && !is_dense(scan, version, position)) ||
		(scan->has_until && recorded_at > scan->until) ||
		(scan->until_position != 0 && position > scan->until_position))
	{
		scan->limit = 0;
		return false;
	}
	if (!scan->raw)
	{
		scan->left--;
		scan->last_position = position;
	}
	scan->passed_version = version;
	scan->passed_position = scan->last_position;
	scan->passed_recorded_at = recorded_at;
	return true;
}

/* Whether a row passes the filters, by what is stored. */
static bool
passes(EsScan *scan, TupleTableSlot *slot)
{
	if (scan->filter_types && !type_passes(scan, DatumGetInt32(es_row_column(slot, Anum_log_event_type))))
		return false;
	if (scan->filter_categories &&
		!bms_is_member(DatumGetInt32(es_row_column(slot, Anum_log_category)), scan->categories))
		return false;
	return true;
}

/* Whether the filter by type has this name. */
static bool
is_wanted(EsScan *scan, const text *type)
{
	return es_has_name(scan->type_names, VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type));
}

/* Fills in *shape from the current row, as it is stored, for an upcaster to change. */
void
es_scan_shape(EsScan *scan, TupleTableSlot *slot, EsShape *shape)
{
	slot_getallattrs(slot);
	shape->type_id = DatumGetInt32(slot->tts_values[Anum_log_event_type - 1]);
	shape->type = es_name_of(ES_EVENT_TYPE, shape->type_id);
	shape->schema_version = DatumGetInt32(slot->tts_values[Anum_log_schema_version - 1]);
	shape->data = slot->tts_values[Anum_log_data - 1];
	shape->data_null = slot->tts_isnull[Anum_log_data - 1];
	shape->metadata = slot->tts_values[Anum_log_metadata - 1];
	shape->metadata_null = slot->tts_isnull[Anum_log_metadata - 1];
	shape->occurred_at = DatumGetTimestampTz(slot->tts_values[Anum_log_occurred_at - 1]);
	shape->stream = es_scan_stream_name(scan, DatumGetInt64(slot->tts_values[Anum_log_stream - 1]));
	shape->version = DatumGetInt64(slot->tts_values[Anum_log_version - 1]);
	shape->position = DatumGetInt64(slot->tts_values[Anum_log_position - 1]);
}

typedef struct UpcastAttempt
{
	EsScan	   *scan;
	bool		kept;
} UpcastAttempt;

static void
try_upcast(void *arg)
{
	UpcastAttempt *attempt = arg;

	attempt->kept = es_transform_apply(attempt->scan->transform, &attempt->scan->shape);
}

/*
 * Upcasts the current event in a subtransaction. If that fails, the event is returned as it is stored, and
 * scan->failure has the error. False when upcasters drop the event.
 */
static bool
upcast_and_catch(EsScan *scan)
{
	UpcastAttempt attempt = {scan, true};
	MemoryContext old = MemoryContextSwitchTo(scan->context);

	scan->failure = es_catch(try_upcast, &attempt);
	MemoryContextSwitchTo(old);
	if (scan->failure != NULL)
	{
		scan->transform->failed(scan->transform);
		scan->changed = false;
	}
	return attempt.kept;
}

/* Upcasts the current event. False when upcasters drop it, or when it then has a type that is not wanted. */
static bool
upcast(EsScan *scan, TupleTableSlot *slot)
{
	EsShape    *shape = &scan->shape;

	scan->changed = false;
	scan->failure = NULL;
	if (scan->transform == NULL)
		return true;
	if (es_transform_applies(scan->transform, DatumGetInt32(es_row_column(slot, Anum_log_event_type)),
						  DatumGetInt32(es_row_column(slot, Anum_log_schema_version))))
	{
		es_scan_shape(scan, slot, shape);
		scan->changed = true;
		if (scan->catch_failures)
		{
			if (!upcast_and_catch(scan))
				return false;
			if (scan->failure != NULL)
				return true;
		}
		else if (!es_transform_apply(scan->transform, shape))
			return false;
	}
	return !scan->filter_types || is_wanted(scan, es_scan_type(scan, slot));
}

/* The type of the current event, after upcasting. It is good until the next event. */
text *
es_scan_type(EsScan *scan, TupleTableSlot *slot)
{
	if (scan->changed)
		return scan->shape.type;
	return es_name_of(ES_EVENT_TYPE, DatumGetInt32(es_row_column(slot, Anum_log_event_type)));
}

/* The next event, in a slot that is good until the next call. NULL at the end. */
TupleTableSlot *
es_scan_next(EsScan *scan)
{
	TupleTableSlot *slot;

	if (scan->limit == 0)
		return NULL;
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (scan->by_stream && scan->left == 0 && !scan->raw)
			return NULL;		/* no other partition need be opened to know that */
		slot = scan->rel == NULL ? NULL : next_row(scan);
		if (slot == NULL)
		{
			if (open_next_partition(scan))
				continue;
			check_end(scan);
			if (scan->gap != NULL)
				es_raise_gap(scan->gap, NULL, true);
			return NULL;
		}
		if (scan->by_stream && !check_row(scan, slot))
			return NULL;
		if (!passes(scan, slot) || !upcast(scan, slot))
			continue;
		if (scan->limit != ES_NO_LIMIT)
			scan->limit--;
		return slot;
	}
}

/* The name of the stream of a row of this scan. It is good until the next es_scan_next() of any scan. */
text *
es_scan_stream_name(EsScan *scan, int64 stream)
{
	return scan->by_stream ? scan->stream_name : es_stream_name(stream, scan->snapshot);
}

/*
 * Makes an es_recorded_event of the current row. Pointers in it are good until the next row. Only the columns whose
 * bit is set in `columns` are filled in, the others are NULL: to find a name costs a lookup, and data and metadata
 * are most of a row.
 */
void
es_scan_event(EsScan *scan, TupleTableSlot *slot, uint32 columns, Datum *values, bool *nulls)
{
#define WANTED(number) ((columns & (1 << (number))) != 0)
	slot_getallattrs(slot);
	for (int i = 0; i < ES_EVENT_COLUMNS; i++)
		nulls[i] = !WANTED(i);
	values[0] = slot->tts_values[Anum_log_position - 1];
	if (WANTED(1))
		values[1] = PointerGetDatum(es_scan_stream_name(scan, DatumGetInt64(slot->tts_values[Anum_log_stream - 1])));
	if (WANTED(2))
		values[2] = PointerGetDatum(es_name_of(ES_CATEGORY, DatumGetInt32(slot->tts_values[Anum_log_category - 1])));
	values[3] = slot->tts_values[Anum_log_version - 1];
	if (WANTED(4))
		values[4] = PointerGetDatum(es_scan_type(scan, slot));
	values[5] = Int32GetDatum(es_scan_schema_version(scan, slot));
	values[6] = slot->tts_values[Anum_log_event_id - 1];
	if (WANTED(7))
		values[7] = es_scan_data(scan, slot, &nulls[7]);
	if (WANTED(8))
	{
		values[8] = slot->tts_values[Anum_log_metadata - 1];
		nulls[8] = slot->tts_isnull[Anum_log_metadata - 1];
	}
	values[9] = slot->tts_values[Anum_log_occurred_at - 1];
	values[10] = slot->tts_values[Anum_log_recorded_at - 1];
#undef WANTED
}

/* Releases everything but the locks on partitions and indexes, which stay to the end of the transaction. */
void
es_scan_end(EsScan *scan)
{
	close_partition(scan);
	if (scan->transform != NULL && !scan->transform_shared)
		es_transform_end(scan->transform);
	UnregisterSnapshot(scan->snapshot);
}

/*
 * Where a scan of positions after < p <= upto should end if it is to read about `step` positions. That is after +
 * step, but goes on as long as there are no events: an epoch can jump over a great many positions, and it costs
 * nothing to pass them.
 */
int64
es_scan_step(Snapshot snapshot, int64 after, int64 step, int64 upto)
{
	EsScan	   *scan;
	TupleTableSlot *slot;

	if (upto <= after || upto - after <= step)
		return upto;
	scan = es_scan_create(RegisterSnapshot(snapshot));
	es_scan_positions(scan, after + step, upto);
	slot = es_scan_next(scan);
	if (slot != NULL)
		upto = DatumGetInt64(es_row_column(slot, Anum_log_position)) - 1;
	es_scan_end(scan);
	return upto;
}
