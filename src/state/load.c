/*
 * state/load.c
 *	  The SQL functions that load state: the fold of a stream's events, from the newest usable
 *	  snapshot on.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"
#include "state/as_of.h"
#include "state/snapshot_request.h"

PG_FUNCTION_INFO_V1(es_load);
PG_FUNCTION_INFO_V1(es_load_for_update);
PG_FUNCTION_INFO_V1(es_load_version);
PG_FUNCTION_INFO_V1(es_load_at);
PG_FUNCTION_INFO_V1(es_load_valid_at);
PG_FUNCTION_INFO_V1(es_load_category);
PG_FUNCTION_INFO_V1(es_history);
PG_FUNCTION_INFO_V1(es_snapshot);
PG_FUNCTION_INFO_V1(es_replayed_events);

/* A load that replays more than this many times snapshot_every events asks for a snapshot. */
#define ES_REQUEST_AFTER	2

/* How many events the loads of this session have folded: tests of snapshots look at it. */
static int64 replayed_events = 0;

/* ---------------------------------------------------------------- arguments and results */

static text *
stream_argument(FunctionCallInfo fcinfo)
{
	check_stack_depth();		/* a fold may call a load */
	if (PG_ARGISNULL(0))
		es_null_argument("stream");
	(void) es_store_now();
	return PG_GETARG_TEXT_PP(0);
}

static TimestampTz
time_argument(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		es_null_argument(name);
	return PG_GETARG_TIMESTAMPTZ(n);
}

static const EsAggregate *
aggregate_of(EsDefinitions *defs, const text *stream)
{
	return es_aggregate(defs, VARDATA_ANY(stream), es_category_length(stream));
}

/* (state, version, position, recorded_at) */
static Datum
state_result(FunctionCallInfo fcinfo, EsFold *fold)
{
	Datum		values[4];
	bool		nulls[4] = {false};

	values[0] = JsonbPGetDatum(es_fold_state(fold));
	values[1] = Int64GetDatum(fold->version);
	values[2] = Int64GetDatum(fold->position);
	values[3] = TimestampTzGetDatum(fold->recorded_at);
	nulls[3] = fold->version == 0;
	return HeapTupleGetDatum(heap_form_tuple(es_result_type(fcinfo), values, nulls));
}

/* ---------------------------------------------------------------- one stream */

/* Pins the settings for a loop over events, once, where there is SQL to run for them. */
static int
open_settings(const EsFold *fold, const EsScan *scan)
{
	if (fold->aggregate->fold == NULL && scan->transform == NULL)
		return 0;
	return es_settings_open(fold->aggregate->fold == NULL ? NULL : fold->aggregate->fold->search_path);
}

/*
 * Folds the events of a scan. An event that an upcaster drops counts in the version all the same, because the version
 * that a load returns is the one that es_append expects next.
 */
static void
fold_scan(EsFold *fold, EsScan *scan)
{
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "event_store fold",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(scratch);
	TupleTableSlot *slot;
	int			since_reset = 0;
	int			settings = open_settings(fold, scan);

	while ((slot = es_scan_next(scan)) != NULL)
	{
		es_fold_step(fold, scan, slot);
		/* Payloads that were detoasted are all that is left behind. */
		if (++since_reset == 16)
		{
			MemoryContextReset(scratch);
			since_reset = 0;
		}
	}
	es_settings_close(settings);
	if (scan->passed_version > 0)
	{
		fold->version = scan->passed_version;
		fold->position = scan->passed_position;
		fold->recorded_at = scan->passed_recorded_at;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(scratch);
}

/*
 * Brings a fold to the state of a stream as a database snapshot shows it: at the highest version that is not above a
 * given one, and that was recorded by a given time. Returns the version of a stored snapshot that should be replaced, because
 * it would have been used and cannot be; 0: there is none.
 */
static int64
load(EsFold *fold, EsDefinitions *defs, const text *stream, const EsHead *head, int64 max_version,
	 const TimestampTz *as_of, Snapshot snapshot)
{
	int64		last = Min(head->version, max_version);
	EsSnapshot	base;
	EsScan	   *scan;

	if (es_snapshot_find(stream, head, fold->aggregate->fingerprint, last, as_of, snapshot, &base))
		es_fold_begin(fold, stream, base.state, base.version, base.position, base.recorded_at);
	else
	{
		es_fold_begin(fold, stream, fold->aggregate->initial, 0, 0, 0);
		if (last == head->version && as_of == NULL && es_snapshot_of_other_fold(head->id, snapshot))
			es_snapshot_note_outdated();
	}
	if (fold->version < last)
	{
		scan = es_fold_scan(fold, defs, snapshot);
		if (as_of != NULL)
		{
			scan->has_until = true;
			scan->until = *as_of;
		}
		es_scan_stream_after(scan, stream, head, fold->version + 1, last, fold->position);
		fold_scan(fold, scan);
		es_scan_end(scan);
	}
	replayed_events += fold->folded;
	return base.unusable;
}

/*
 * A load that met a snapshot that cannot be used asks for another one in its place. A current load that replayed much
 * more than snapshot_every asks for a snapshot. (Not one as of an earlier time: the snapshot would be of now and not help it.)
 */
static void
request_snapshot(const EsFold *fold, const EsHead *head, int64 max_version, const TimestampTz *as_of, int64 unusable)
{
	if (unusable != 0 || (as_of == NULL && max_version == PG_INT64_MAX &&
						  fold->folded >= (int64) fold->aggregate->snapshot_every * ES_REQUEST_AFTER))
		es_snapshot_request(head->id, unusable);
}

static Datum
load_stream(FunctionCallInfo fcinfo, const text *stream, int64 max_version, const TimestampTz *as_of,
			Snapshot snapshot)
{
	EsDefinitions *defs = es_definitions();
	EsFold	   *fold = es_fold_create(aggregate_of(defs, stream));
	EsHead		head;
	Datum		result;

	if (es_stream_find(stream, snapshot, &head) && head.version > 0)
	{
		int64		unusable = load(fold, defs, stream, &head, max_version, as_of, snapshot);

		request_snapshot(fold, &head, max_version, as_of, unusable);
	}
	else
		es_fold_begin(fold, stream, fold->aggregate->initial, 0, 0, 0);
	result = state_result(fcinfo, fold);
	es_fold_end(fold);
	return result;
}

Datum
es_load(PG_FUNCTION_ARGS)
{
	return load_stream(fcinfo, stream_argument(fcinfo), PG_INT64_MAX, NULL, GetActiveSnapshot());
}

/*
 * Locks the stream, and then looks at what is committed of it: the statement's snapshot is older than the lock. Above READ
 * COMMITTED the transaction's snapshot shows all of it, or the lock would have been refused.
 */
Datum
es_load_for_update(PG_FUNCTION_ARGS)
{
	text	   *stream = stream_argument(fcinfo);
	Snapshot	snapshot;
	EsHead		head;
	Datum		result;

	es_lock_prepare(false);
	es_check_may_load("es_load_for_update()");
	(void) es_stream_hold(stream, &head);
	snapshot = RegisterSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetLatestSnapshot());
	result = load_stream(fcinfo, stream, PG_INT64_MAX, NULL, snapshot);
	UnregisterSnapshot(snapshot);
	return result;
}

Datum
es_load_version(PG_FUNCTION_ARGS)
{
	text	   *stream = stream_argument(fcinfo);
	EsHead		head;
	int64		version;

	if (PG_ARGISNULL(1))
		es_null_argument("version");
	version = PG_GETARG_INT64(1);
	if (!es_stream_find(stream, GetActiveSnapshot(), &head))
		head.version = 0;
	if (version < 0 || version > head.version)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream \"%s\" has no version %lld", text_to_cstring(stream), (long long) version),
				 errdetail("It is at version %lld.", (long long) head.version)));
	return load_stream(fcinfo, stream, version, NULL, GetActiveSnapshot());
}

Datum
es_load_at(PG_FUNCTION_ARGS)
{
	text	   *stream = stream_argument(fcinfo);
	TimestampTz as_of = time_argument(fcinfo, 1, "as_of");
	Snapshot	snapshot = es_asof_snapshot(as_of, stream);
	Datum		result = load_stream(fcinfo, stream, PG_INT64_MAX, &as_of, snapshot);

	UnregisterSnapshot(snapshot);
	return result;
}

/* ---------------------------------------------------------------- valid time */

typedef struct ValidEvent
{
	TimestampTz occurred_at;
	int64		version;
} ValidEvent;

static int
compare_valid(const void *a, const void *b)
{
	const ValidEvent *left = a;
	const ValidEvent *right = b;

	if (left->occurred_at != right->occurred_at)
		return left->occurred_at < right->occurred_at ? -1 : 1;
	return (left->version > right->version) - (left->version < right->version);
}

/*
 * Folds in order of (occurred_at, version). A first pass notes when each event occurred; where that is
 * the order of versions, as it mostly is, a second pass folds as usual, else the events are fetched in
 * that order.
 */
static void
fold_valid(EsFold *fold, EsDefinitions *defs, const text *stream, const EsHead *head,
		   TimestampTz valid_at, const TimestampTz *known_at, Snapshot snapshot)
{
	EsScan	   *scan = es_scan_create(RegisterSnapshot(snapshot));
	MemoryContext per_run;
	TupleTableSlot *slot;
	ValidEvent *events = NULL;
	int64		count = 0;
	int64		space = 0;
	bool		in_order = true;
	int64		version = 0;
	int64		position = 0;
	TimestampTz recorded_at = 0;

	es_scan_stream(scan, stream, head, 1, head->version);
	while ((slot = es_scan_next(scan)) != NULL)
	{
		TimestampTz occurred_at = DatumGetTimestampTz(es_row_column(slot, Anum_log_occurred_at));

		if (known_at != NULL && DatumGetTimestampTz(es_row_column(slot, Anum_log_recorded_at)) > *known_at)
			break;
		if (occurred_at > valid_at)
			continue;
		if (count == space)
		{
			space = space == 0 ? 256 : space * 2;
			events = events == NULL ? MemoryContextAllocHuge(CurrentMemoryContext, sizeof(ValidEvent) * space) :
				repalloc_huge(events, sizeof(ValidEvent) * space);
		}
		if (count > 0 && occurred_at < events[count - 1].occurred_at)
			in_order = false;
		version = DatumGetInt64(es_row_column(slot, Anum_log_version));
		position = DatumGetInt64(es_row_column(slot, Anum_log_position));
		recorded_at = DatumGetTimestampTz(es_row_column(slot, Anum_log_recorded_at));
		events[count].occurred_at = occurred_at;
		events[count++].version = version;
	}
	es_scan_end(scan);
	if (!in_order)
		qsort(events, count, sizeof(ValidEvent), compare_valid);

	/*
	 * Neighbouring versions that follow each other here are read with one scan; there may be as many scans as events.
	 */
	per_run = AllocSetContextCreate(CurrentMemoryContext, "event_store run", ALLOCSET_DEFAULT_SIZES);
	for (int64 i = 0; i < count;)
	{
		MemoryContext old = MemoryContextSwitchTo(per_run);
		int64		run = 1;

		while (i + run < count && events[i + run].version == events[i].version + run)
			run++;
		scan = es_fold_scan(fold, defs, snapshot);
		es_scan_stream(scan, stream, head, events[i].version, events[i + run - 1].version);
		fold_scan(fold, scan);
		es_scan_end(scan);
		MemoryContextSwitchTo(old);
		MemoryContextReset(per_run);
		i += run;
	}
	MemoryContextDelete(per_run);
	/* The last one in order of recording, not of the fold. */
	fold->version = version;
	fold->position = position;
	fold->recorded_at = recorded_at;
	replayed_events += fold->folded;
}

Datum
es_load_valid_at(PG_FUNCTION_ARGS)
{
	text	   *stream = stream_argument(fcinfo);
	TimestampTz valid_at = time_argument(fcinfo, 1, "valid_at");
	TimestampTz known_at = PG_ARGISNULL(2) ? 0 : PG_GETARG_TIMESTAMPTZ(2);
	Snapshot	snapshot = PG_ARGISNULL(2) ? RegisterSnapshot(GetActiveSnapshot()) :
		es_asof_snapshot(known_at, stream);
	EsDefinitions *defs = es_definitions();
	EsFold	   *fold = es_fold_create(aggregate_of(defs, stream));
	EsHead		head;
	Datum		result;

	es_fold_begin(fold, stream, fold->aggregate->initial, 0, 0, 0);
	if (es_stream_find(stream, snapshot, &head) && head.version > 0)
		fold_valid(fold, defs, stream, &head, valid_at, PG_ARGISNULL(2) ? NULL : &known_at, snapshot);
	result = state_result(fcinfo, fold);
	es_fold_end(fold);
	UnregisterSnapshot(snapshot);
	return result;
}

/* ---------------------------------------------------------------- a category */

/* Every stream of a category, in order of name. */
Datum
es_load_category(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *category;
	bool		has_time = !PG_ARGISNULL(1);
	TimestampTz as_of = has_time ? PG_GETARG_TIMESTAMPTZ(1) : 0;
	Snapshot	snapshot;
	EsDefinitions *defs;
	EsFold	   *fold;
	EsHeads		heads;
	MemoryContext per_stream;
	MemoryContext old;

	check_stack_depth();
	if (PG_ARGISNULL(0))
		es_null_argument("category");
	(void) es_store_now();
	category = PG_GETARG_TEXT_PP(0);
	InitMaterializedSRF(fcinfo, 0);

	snapshot = has_time ? es_asof_snapshot(as_of, NULL) : RegisterSnapshot(GetActiveSnapshot());
	es_early_release_await_all();
	defs = es_definitions();
	fold = es_fold_create(es_aggregate(defs, VARDATA_ANY(category), VARSIZE_ANY_EXHDR(category)));
	es_heads_open(&heads, AccessShareLock);
	es_heads_begin(&heads, category, NULL, NULL, snapshot);

	per_stream = AllocSetContextCreate(CurrentMemoryContext, "event_store stream", ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		Datum		values[3];
		bool		nulls[3] = {false};
		EsHead		head;
		text	   *stream;

		CHECK_FOR_INTERRUPTS();
		old = MemoryContextSwitchTo(per_stream);
		stream = es_heads_next(&heads, &head);
		if (stream != NULL && head.version > 0)
		{
			int64		unusable = load(fold, defs, stream, &head, PG_INT64_MAX, has_time ? &as_of : NULL, snapshot);

			if (unusable != 0)
				es_snapshot_request(head.id, unusable);
			/* A stream that began after as_of did not exist then. */
			if (fold->version > 0)
			{
				values[0] = PointerGetDatum(stream);
				values[1] = JsonbPGetDatum(es_fold_state(fold));
				values[2] = Int64GetDatum(fold->version);
				tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
			}
		}
		MemoryContextSwitchTo(old);
		if (stream == NULL)
			break;
		MemoryContextReset(per_stream);
	}
	es_heads_close(&heads);
	es_fold_end(fold);
	UnregisterSnapshot(snapshot);
	return (Datum) 0;
}

/* ---------------------------------------------------------------- history */

Datum
es_history(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *stream = stream_argument(fcinfo);
	int64		from;
	int64		left;
	Snapshot	snapshot = GetActiveSnapshot();
	EsDefinitions *defs;
	EsFold	   *fold;
	EsHead		head;
	EsScan	   *scan;
	TupleTableSlot *slot;
	MemoryContext per_event;
	MemoryContext old;
	int64		unusable;
	int			settings;

	if (PG_ARGISNULL(1))
		es_null_argument("from_version");
	from = PG_GETARG_INT64(1);
	if (from < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument from_version must be 1 or more"),
				 errdetail("It is %lld.", (long long) from)));
	left = es_count_argument(fcinfo, 2);
	InitMaterializedSRF(fcinfo, 0);
	defs = es_definitions();
	fold = es_fold_create(aggregate_of(defs, stream));
	if (left == 0 || !es_stream_find(stream, snapshot, &head) || head.version < from)
		return (Datum) 0;

	unusable = load(fold, defs, stream, &head, from - 1, NULL, snapshot);
	if (unusable != 0)
		es_snapshot_request(head.id, unusable);
	scan = es_fold_scan(fold, defs, snapshot);
	es_scan_stream_after(scan, stream, &head, from, head.version, fold->position);
	per_event = AllocSetContextCreate(CurrentMemoryContext, "event_store event", ALLOCSET_DEFAULT_SIZES);
	settings = open_settings(fold, scan);
	old = MemoryContextSwitchTo(per_event);
	while (left != 0 && (slot = es_scan_next(scan)) != NULL)
	{
		Datum		values[5];
		bool		nulls[5] = {false};

		es_fold_step(fold, scan, slot);
		values[0] = es_row_column(slot, Anum_log_version);
		values[1] = PointerGetDatum(es_scan_type(scan, slot));
		values[2] = es_row_column(slot, Anum_log_occurred_at);
		values[3] = es_row_column(slot, Anum_log_recorded_at);
		values[4] = JsonbPGetDatum(es_fold_state(fold));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		MemoryContextReset(per_event);
		if (left > 0)
			left--;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(per_event);
	es_settings_close(settings);
	es_scan_end(scan);
	es_fold_end(fold);
	return (Datum) 0;
}

/* ---------------------------------------------------------------- snapshots */

/*
 * Stores a snapshot of the state of a stream at a version, or of its present state where it has no such version yet.
 * Replaces those that cannot be used, and were met on the way. Returns its version, or 0 for a stream without events.
 */
int64
es_take_snapshot(const text *stream, int64 max_version)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EsDefinitions *defs = es_definitions();
	EsFold	   *fold = es_fold_create(aggregate_of(defs, stream));
	EsHead		head;
	int64		version = 0;

	if (es_stream_find(stream, snapshot, &head) && head.version > 0)
	{
		(void) load(fold, defs, stream, &head, max_version, NULL, snapshot);
		if (fold->version > 0)
			es_snapshot_store(&head, fold, es_fold_state(fold));
		version = fold->version;
	}
	UnregisterSnapshot(snapshot);
	es_fold_end(fold);
	return version;
}

/*
 * Computes the state of a stream at a version without using stored snapshots. The fold begins with *base, and its
 * result replaces *base, in the current memory context. False when the stream has no such version, or when the
 * fingerprint of a snapshot is not that of the stream's fold.
 */
bool
es_load_replay(int64 stream, const bytea *fingerprint, int64 version, Snapshot snapshot, EsFoldBase *base)
{
	EsHead		head;
	text	   *name = es_stream_by_id(stream, snapshot, &head);
	EsDefinitions *defs = es_definitions();
	const EsAggregate *aggregate;
	EsFold	   *fold;
	EsScan	   *scan;

	if (name == NULL || version < 1 || version > head.version)
		return false;
	aggregate = aggregate_of(defs, name);
	if (!es_snapshot_is_of(fingerprint, aggregate->fingerprint))
		return false;
	fold = es_fold_create(aggregate);
	if (base->version == 0)
		es_fold_begin(fold, name, aggregate->initial, 0, 0, 0);
	else
		es_fold_begin(fold, name, base->state, base->version, base->position, base->recorded_at);
	if (fold->version < version)
	{
		scan = es_fold_scan(fold, defs, snapshot);
		es_scan_stream_after(scan, name, &head, fold->version + 1, version, fold->position);
		fold_scan(fold, scan);
		es_scan_end(scan);
	}
	base->state = (Jsonb *) PG_DETOAST_DATUM_COPY(JsonbPGetDatum(es_fold_state(fold)));
	base->version = version;
	base->position = fold->position;
	base->recorded_at = fold->recorded_at;
	es_fold_end(fold);
	return true;
}

/* es_snapshot(stream) -> version */
Datum
es_snapshot(PG_FUNCTION_ARGS)
{
	text	   *stream = stream_argument(fcinfo);

	es_prevent_if_read_only("es_snapshot()");
	PreventCommandDuringRecovery("es_snapshot()");
	PG_RETURN_INT64(es_take_snapshot(stream, PG_INT64_MAX));
}

/* How many events this session's loads have folded. */
Datum
es_replayed_events(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(replayed_events);
}
