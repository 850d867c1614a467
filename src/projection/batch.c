/*
 * projection/batch.c
 *	  Batches of events for a projection. A batch never splits a call of an append.
 *
 * What one call appended is delivered in one batch. An event's *delivery key* is the last position of its call
 * (position + rest): all events of a call have the same key, and no two calls have the same one. A cursor is a pair:
 * everything with a key up to `position` (C) was delivered, and `scan_from` (D) is the lowest position that was not.
 * The batch (C, E] has the events whose key is in this range, in order of position.
 *
 * Calls that run at the same time have positions in between each other's. One that reaches beyond E waits for a later
 * batch, which therefore begins to scan at D, before C. E is moved up so that no call reaches beyond it, as long as the
 * batch does not grow past `max`. But a batch always has at least one call.
 *
 * The order of a stream is kept: a later writer of a stream allocates its positions after the earlier call has ended,
 * so its positions and its key are all greater.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "log/log.h"
#include "state/state.h"
#include "projection/definition.h"

/*
 * So many positions does one batch scan at most. Where hardly any event passes the filter, a batch must end all the
 * same, and move the cursor: so that this part of the log is not scanned again after an interruption.
 */
#define SCAN_AT_MOST	INT64CONST(1000000)

static const struct
{
	const char *name;
	Oid			type;
}			columns_of_event[ES_EVENT_COLUMNS] = {
	{"position", INT8OID}, {"stream", TEXTOID}, {"category", TEXTOID}, {"version", INT8OID},
	{"event_type", TEXTOID}, {"schema_version", INT4OID}, {"event_id", UUIDOID}, {"data", JSONBOID},
	{"metadata", JSONBOID}, {"occurred_at", TIMESTAMPTZOID}, {"recorded_at", TIMESTAMPTZOID},
};

/* The bit of the column of new_events that has this name; 0 where there is none. */
uint32
es_event_column(const char *name)
{
	for (int i = 0; i < ES_EVENT_COLUMNS; i++)
		if (strcmp(columns_of_event[i].name, name) == 0)
			return UINT32_C(1) << i;
	return 0;
}

static TupleDesc
event_desc(void)
{
	TupleDesc	desc = CreateTemplateTupleDesc(ES_EVENT_COLUMNS);

	for (int i = 0; i < ES_EVENT_COLUMNS; i++)
		TupleDescInitEntry(desc, i + 1, columns_of_event[i].name, columns_of_event[i].type, -1, 0);
	es_tuple_desc_finalize(desc);
	return desc;
}

static EsBatch *
begin_batch(uint32 columns)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_store batch", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EsBatch    *batch = palloc0(sizeof(EsBatch));

	batch->context = context;
	batch->space = 64;
	batch->events = palloc(sizeof(EsBatchEvent) * batch->space);
	batch->desc = event_desc();
	batch->columns = columns;
	batch->rows = tuplestore_begin_heap(false, false, work_mem);
	MemoryContextSwitchTo(old);
	return batch;
}

void
es_batch_free(EsBatch *batch)
{
	tuplestore_end(batch->rows);
	MemoryContextDelete(batch->context);
}

/* A batch without events, for a handler that is only tried. */
EsBatch *
es_batch_empty(void)
{
	return begin_batch(ES_ALL_COLUMNS);
}

/*
 * A scan with the filter; it takes over the registered snapshot. *possible is false where no event can pass. The upcasters
 * are those that are committed now, also in an old snapshot: what they make stays, and is for others.
 */
static EsScan *
begin_scan(EsBatch *batch, const EsFilter *filter, Snapshot snapshot, bool *possible)
{
	EsScan	   *scan = es_scan_create(snapshot);
	EsDefinitions *defs = es_definitions_latest();
	EsFilterIds ids;

	es_upcaster_set(defs, filter->types, filter->all_types, batch->upcasters);
	es_filter_resolve(filter, es_upcast_begin(defs), &ids);
	es_filter_scan(&ids, scan);
	*possible = !ids.nothing;
	return scan;
}

static void
add_event(EsBatch *batch, EsScan *scan, TupleTableSlot *slot, int64 position, int64 key)
{
	Datum		values[ES_EVENT_COLUMNS];
	bool		nulls[ES_EVENT_COLUMNS];
	EsBatchEvent *event;

	if (batch->count == batch->space)
	{
		batch->space *= 2;
		batch->events = repalloc_huge(batch->events, sizeof(EsBatchEvent) * batch->space);
	}
	event = &batch->events[batch->count++];
	event->position = position;
	event->key = key;
	event->stream = DatumGetInt64(es_row_column(slot, Anum_log_stream));
	event->left_out = false;
	event->failure = scan->failure;
	es_scan_event(scan, slot, batch->columns, values, nulls);
	tuplestore_putvalues(batch->rows, batch->desc, values, nulls);
	batch->last_recorded_at = DatumGetTimestampTz(es_row_column(slot, Anum_log_recorded_at));
}

static int
compare_keys(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return (left > right) - (left < right);
}

/* Leaves out calls that reach beyond `upto`, notes where the next batch begins, and lists the calls. */
static void
finish_batch(EsBatch *batch, int64 upto)
{
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	int64		count = 0;

	batch->next.position = upto;
	batch->next.scan_from = upto + 1;
	batch->calls = MemoryContextAllocHuge(batch->context, sizeof(int64) * Max(batch->count, 1));
	for (int64 i = 0; i < batch->count; i++)
	{
		EsBatchEvent *event = &batch->events[i];

		if (event->key > upto)
		{
			event->left_out = true;
			batch->next.scan_from = Min(batch->next.scan_from, event->position);
		}
		else if (count == 0 || batch->calls[count - 1] != event->key)
			batch->calls[count++] = event->key;
	}
	qsort(batch->calls, count, sizeof(int64), compare_keys);
	for (int64 i = 0; i < count; i++)
		if (batch->call_count == 0 || batch->calls[batch->call_count - 1] != batch->calls[i])
			batch->calls[batch->call_count++] = batch->calls[i];
	MemoryContextSwitchTo(old);
}

/* The number, in the batch, of the call with a key. */
int64
es_batch_call(const EsBatch *batch, int64 key)
{
	int64		low = 0;
	int64		high = batch->call_count;

	while (low < high)
	{
		int64		mid = (low + high) / 2;

		if (batch->calls[mid] < key)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* Lists the events of each call. Only needed where calls are handled one by one. */
void
es_batch_members(EsBatch *batch)
{
	int64	   *next;

	if (batch->members != NULL)
		return;
	batch->members = MemoryContextAllocHuge(batch->context, sizeof(int64) * Max(batch->count, 1));
	batch->starts = MemoryContextAllocHuge(batch->context, sizeof(int64) * (batch->call_count + 1));
	memset(batch->starts, 0, sizeof(int64) * (batch->call_count + 1));
	for (int64 i = 0; i < batch->count; i++)
		if (!batch->events[i].left_out)
			batch->starts[es_batch_call(batch, batch->events[i].key) + 1]++;
	for (int64 call = 0; call < batch->call_count; call++)
		batch->starts[call + 1] += batch->starts[call];
	next = MemoryContextAllocHuge(batch->context, sizeof(int64) * (batch->call_count + 1));
	memcpy(next, batch->starts, sizeof(int64) * (batch->call_count + 1));
	for (int64 i = 0; i < batch->count; i++)
		if (!batch->events[i].left_out)
			batch->members[next[es_batch_call(batch, batch->events[i].key)]++] = i;
	pfree(next);
}

/*
 * Reads the next batch after a cursor: events up to `upto`, which is a mark, and this is its snapshot. The batch has
 * about `limit` events that pass the filter, and up to `max` where that is needed to keep calls whole. Only the given
 * columns are filled in. A batch without events only moves the cursor. With catch_failures, events that cannot be
 * upcast are in the batch, with their errors; else the first of them raises its error.
 */
EsBatch *
es_batch_read(const EsFilter *filter, uint32 columns, Snapshot snapshot, const EsCursor *from, int64 upto,
			  int64 limit, int64 max, bool catch_failures)
{
	EsBatch    *batch = begin_batch(columns);
	EsScan	   *scan;
	TupleTableSlot *slot = NULL;
	MemoryContext per_row;
	MemoryContext old;
	int			settings;
	bool		possible;
	int64		end = 0;		/* the greatest key so far: behind it, all calls met have ended */
	int64		soonest = PG_INT64_MAX; /* the least: behind it, at least one call has ended */
	int64		begin = Max(from->position, ES_NODE_START(es_store()->node));
	int64		mark = upto;

	old = MemoryContextSwitchTo(batch->context);
	upto = es_scan_step(snapshot, begin, SCAN_AT_MOST, mark);
	batch->more = upto < mark;
	settings = es_settings_open(NULL);	/* once, not for each event */
	scan = begin_scan(batch, filter, RegisterSnapshot(snapshot), &possible);
	scan->catch_failures = catch_failures;
	if (possible)
		es_scan_positions(scan, Min(from->scan_from - 1, upto), upto);
	per_row = AllocSetContextCreate(batch->context, "event_store row", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(per_row);
	while (possible && (slot = es_scan_next(scan)) != NULL)
	{
		int64		position = DatumGetInt64(es_row_column(slot, Anum_log_position));
		int64		key = position + DatumGetInt32(es_row_column(slot, Anum_log_rest));

		if (batch->count >= limit && position > end)
			break;				/* it is full, and every call in it has ended before this event */
		if (batch->count >= max && position > soonest)
			break;				/* it is too full, and at least one call in it has ended */
		if (key <= from->position || key > upto)
		{
			/* Its call was delivered, or is not complete up to the mark: then it must be found again. */
			if (key > upto)
				batch->next.scan_from = batch->next.scan_from == 0 ? position : batch->next.scan_from;
			continue;
		}
		end = Max(end, key);
		soonest = Min(soonest, key);
		add_event(batch, scan, slot, position, key);
		MemoryContextReset(per_row);
	}
	if (slot != NULL)
	{
		int64		position = DatumGetInt64(es_row_column(slot, Anum_log_position));
		int64		waiting = batch->next.scan_from;

		batch->more = true;
		finish_batch(batch, position - 1);
		if (waiting != 0)
			batch->next.scan_from = Min(batch->next.scan_from, waiting);
	}
	else
	{
		int64		waiting = batch->next.scan_from;

		finish_batch(batch, Max(upto, from->position));
		if (waiting != 0)
			batch->next.scan_from = Min(batch->next.scan_from, waiting);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(per_row);
	es_settings_close(settings);
	es_scan_end(scan);
	return batch;
}

/* Reads the events of one call, which the open transaction has just written, that pass the filter. */
EsBatch *
es_batch_of_call(const EsFilter *filter, uint32 columns, Snapshot snapshot, int64 first, int64 last)
{
	EsBatch    *batch = begin_batch(columns);
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	bool		possible;
	EsScan	   *scan = begin_scan(batch, filter, RegisterSnapshot(snapshot), &possible);
	TupleTableSlot *slot;

	if (possible)
	{
		es_scan_positions(scan, first - 1, last);
		while ((slot = es_scan_next(scan)) != NULL)
		{
			int64		position = DatumGetInt64(es_row_column(slot, Anum_log_position));

			if (position + DatumGetInt32(es_row_column(slot, Anum_log_rest)) == last)
				add_event(batch, scan, slot, position, last);
		}
	}
	es_scan_end(scan);
	finish_batch(batch, last);
	MemoryContextSwitchTo(old);
	return batch;
}

typedef struct StreamFrom
{
	int64		stream;
	int64		position;
} StreamFrom;

/*
 * Reads the events of some streams, each from its own position on, that have keys up to `upto`: what a projection has
 * quarantined. The streams must be all streams of a group. Then every call is whole: all streams of a call are in one
 * group (projection/quarantine.c).
 */
EsBatch *
es_batch_of_streams(const EsFilter *filter, uint32 columns, Snapshot snapshot, int64 *streams, int64 *positions,
					int count, int64 upto, bool catch_failures)
{
	EsBatch    *batch = begin_batch(columns);
	MemoryContext old = MemoryContextSwitchTo(batch->context);
	HASHCTL		ctl;
	HTAB	   *wanted;
	int64		from = PG_INT64_MAX;
	bool		possible;
	EsScan	   *scan;
	TupleTableSlot *slot;
	int			settings;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(StreamFrom);
	ctl.hcxt = batch->context;
	wanted = hash_create("event_store quarantined streams", Max(count, 16), &ctl,
						 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < count; i++)
	{
		StreamFrom *entry = hash_search(wanted, &streams[i], HASH_ENTER, NULL);

		entry->position = positions[i];
		from = Min(from, positions[i]);
	}

	settings = es_settings_open(NULL);
	scan = begin_scan(batch, filter, RegisterSnapshot(snapshot), &possible);
	scan->catch_failures = catch_failures;
	if (possible && count > 0)
	{
		es_scan_positions(scan, from - 1, upto);
		while ((slot = es_scan_next(scan)) != NULL)
		{
			int64		position = DatumGetInt64(es_row_column(slot, Anum_log_position));
			int64		key = position + DatumGetInt32(es_row_column(slot, Anum_log_rest));
			int64		stream = DatumGetInt64(es_row_column(slot, Anum_log_stream));
			StreamFrom *entry = hash_search(wanted, &stream, HASH_FIND, NULL);

			if (entry != NULL && position >= entry->position && key <= upto)
				add_event(batch, scan, slot, position, key);
		}
	}
	es_settings_close(settings);
	es_scan_end(scan);
	finish_batch(batch, upto);
	MemoryContextSwitchTo(old);
	return batch;
}
