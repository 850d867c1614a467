/*
 * read/functions.c
 *	  The SQL functions that read events.
 *
 * In a FROM clause PostgreSQL materialises a function's rows in a tuplestore, which spills to disk
 * beyond work_mem; in a select list (SELECT (es_read_all(0, NULL)).*, or better through a subselect)
 * rows come one at a time as they are fetched. Either way memory is constant.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"

/* A scan that is returned row by row. */
typedef struct RowStream
{
	EsScan	   *scan;
	ExprContext *econtext;		/* whose end closes the scan early */
} RowStream;

PG_FUNCTION_INFO_V1(es_read);
PG_FUNCTION_INFO_V1(es_read_category);
PG_FUNCTION_INFO_V1(es_read_all);
PG_FUNCTION_INFO_V1(es_list_streams);
PG_FUNCTION_INFO_V1(es_stream_version);
PG_FUNCTION_INFO_V1(es_position_at);
PG_FUNCTION_INFO_V1(es_trace);

/* ---------------------------------------------------------------- rows */

static void
close_row_stream(Datum arg)
{
	RowStream  *rows = (RowStream *) DatumGetPointer(arg);

	es_scan_end(rows->scan);
}

/* The first call of a row-by-row function: runs open_scan() where its result must live. */
static Datum
stream_rows(FunctionCallInfo fcinfo, EsScan *(*open_scan) (FunctionCallInfo))
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	FuncCallContext *funcctx;
	RowStream  *rows;
	TupleTableSlot *slot;

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext old;

		funcctx = SRF_FIRSTCALL_INIT();
		old = MemoryContextSwitchTo(funcctx->multi_call_memory_ctx);
		rows = palloc0(sizeof(RowStream));
		rows->scan = open_scan(fcinfo);
		rows->econtext = rsinfo->econtext;
		funcctx->tuple_desc = es_result_type(fcinfo);
		funcctx->user_fctx = rows;
		if (rows->scan != NULL)
			RegisterExprContextCallback(rows->econtext, close_row_stream, PointerGetDatum(rows));
		MemoryContextSwitchTo(old);
	}

	funcctx = SRF_PERCALL_SETUP();
	rows = funcctx->user_fctx;
	slot = rows->scan == NULL ? NULL : es_scan_next(rows->scan);
	if (slot != NULL)
	{
		Datum		values[ES_EVENT_COLUMNS];
		bool		nulls[ES_EVENT_COLUMNS];

		es_scan_event(rows->scan, slot, ES_ALL_COLUMNS, values, nulls);
		SRF_RETURN_NEXT(funcctx, HeapTupleGetDatum(heap_form_tuple(funcctx->tuple_desc, values, nulls)));
	}
	if (rows->scan != NULL)
	{
		UnregisterExprContextCallback(rows->econtext, close_row_stream, PointerGetDatum(rows));
		es_scan_end(rows->scan);
	}
	SRF_RETURN_DONE(funcctx);
}

static Datum
materialize_rows(FunctionCallInfo fcinfo, EsScan *(*open_scan) (FunctionCallInfo))
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	EsScan	   *scan;
	TupleTableSlot *slot;
	MemoryContext per_row;
	MemoryContext old;
	int			settings = 0;

	InitMaterializedSRF(fcinfo, 0);
	scan = open_scan(fcinfo);
	if (scan == NULL)
		return (Datum) 0;
	if (scan->transform != NULL)
		settings = es_settings_open(NULL);	/* once, not for each event */
	per_row = AllocSetContextCreate(CurrentMemoryContext, "event_store row", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(per_row);
	while ((slot = es_scan_next(scan)) != NULL)
	{
		Datum		values[ES_EVENT_COLUMNS];
		bool		nulls[ES_EVENT_COLUMNS];

		es_scan_event(scan, slot, ES_ALL_COLUMNS, values, nulls);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		MemoryContextReset(per_row);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(per_row);
	es_settings_close(settings);
	es_scan_end(scan);
	return (Datum) 0;
}

/* Returns the rows of a scan in the way the caller prefers; no scan, no rows. */
static Datum
return_rows(FunctionCallInfo fcinfo, EsScan *(*open_scan) (FunctionCallInfo))
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("set-valued function called in context that cannot accept a set")));
	if (rsinfo->allowedModes & SFRM_Materialize_Preferred)
		return materialize_rows(fcinfo, open_scan);
	return stream_rows(fcinfo, open_scan);
}

/* ---------------------------------------------------------------- arguments */

static int64
position_argument(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		es_null_argument("after_position");
	if (PG_GETARG_INT64(n) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument after_position must not be negative"),
				 errdetail("It is %lld; 0 reads from the first event on.", (long long) PG_GETARG_INT64(n))));
	return PG_GETARG_INT64(n);
}

/* The names in an array, as text *. False: there is no filter, because the argument is NULL. */
static bool
filter_argument(FunctionCallInfo fcinfo, int n, const char *argument, List **names)
{
	Datum	   *values;
	bool	   *nulls;
	int			count;

	*names = NIL;
	if (PG_ARGISNULL(n))
		return false;
	deconstruct_array(es_array_argument(fcinfo, n, argument), TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls,
					  &count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			es_null_element(argument, i);
		*names = lappend(*names, DatumGetTextPP(values[i]));
	}
	return true;
}

/* The argument event_types of a scan. */
static void
filter_types(FunctionCallInfo fcinfo, int n, EsScan *scan)
{
	/* The function of version 0.1 of the extension may not have it. */
	if (PG_NARGS() <= n)
		return;
	scan->filter_types = filter_argument(fcinfo, n, "event_types", &scan->type_names);
	scan->types = es_name_ids(ES_EVENT_TYPE, scan->type_names);
}

/* Whether no stored event can pass the filters. Names that the store does not know have no id. */
static bool
nothing_wanted(const EsScan *scan)
{
	return (scan->filter_categories && scan->categories == NULL) ||
		(scan->filter_types && scan->types == NULL && (scan->transform == NULL || scan->type_names == NIL));
}

static bool
backward_argument(FunctionCallInfo fcinfo, int n)
{
	if (PG_NARGS() <= n)
		return false;
	if (PG_ARGISNULL(n))
		es_null_argument("backward");
	return PG_GETARG_BOOL(n);
}

/* ---------------------------------------------------------------- by stream */

static EsScan *
open_stream(FunctionCallInfo fcinfo)
{
	text	   *name;
	int64		limit = es_count_argument(fcinfo, 2);
	int64		from;
	bool		backward;
	EsHead		head;
	EsScan	   *scan;
	Snapshot	snapshot;

	if (PG_ARGISNULL(0))
		es_null_argument("stream");
	backward = backward_argument(fcinfo, 3);
	if (PG_ARGISNULL(4))
		es_null_argument("upcast");
	name = PG_GETARG_TEXT_PP(0);
	if (!PG_ARGISNULL(1) && PG_GETARG_INT64(1) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument from_version must be 1 or more"),
				 errdetail("It is %lld; the first event of a stream has version 1.",
						   (long long) PG_GETARG_INT64(1))));
	(void) es_store_now();

	snapshot = RegisterSnapshot(GetActiveSnapshot());
	if (!es_stream_find(name, snapshot, &head) || head.version == 0)
	{
		UnregisterSnapshot(snapshot);
		return NULL;
	}
	scan = es_scan_create(snapshot);
	scan->backward = backward;
	scan->limit = limit;
	if (PG_GETARG_BOOL(4))
		scan->transform = es_upcast_begin(es_definitions());
	filter_types(fcinfo, 5, scan);
	if (nothing_wanted(scan))
		scan->limit = 0;
	if (backward)
	{
		from = PG_ARGISNULL(1) ? head.version : Min(PG_GETARG_INT64(1), head.version);
		es_scan_stream(scan, name, &head, 1, from);
	}
	else
	{
		from = PG_ARGISNULL(1) ? 1 : PG_GETARG_INT64(1);
		es_scan_stream(scan, name, &head, from, head.version);
	}
	return scan;
}

Datum
es_read(PG_FUNCTION_ARGS)
{
	return return_rows(fcinfo, open_stream);
}

/* es_list_streams(category, prefix, after, max_count): in order of name, by the index of the heads. */
Datum
es_list_streams(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	text	   *category = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	text	   *prefix = PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1);
	text	   *after = PG_ARGISNULL(2) ? NULL : PG_GETARG_TEXT_PP(2);
	int64		left = es_count_argument(fcinfo, 3);
	Snapshot	snapshot;
	EsHeads		heads;
	EsHead		head;
	text	   *name;

	(void) es_store_now();
	InitMaterializedSRF(fcinfo, 0);
	snapshot = RegisterSnapshot(GetActiveSnapshot());
	es_early_release_await_all();
	es_heads_open(&heads, AccessShareLock);
	es_heads_begin(&heads, category, prefix, after, snapshot);
	while (left != 0 && (name = es_heads_next(&heads, &head)) != NULL)
	{
		Datum		values[6];
		bool		no_nulls[6] = {false};

		if (head.version > 0)
		{
			values[0] = PointerGetDatum(name);
			values[1] = Int64GetDatum(head.version);
			values[2] = Int64GetDatum(head.last_position);
			values[3] = TimestampTzGetDatum(head.created_at);
			values[4] = TimestampTzGetDatum(head.recorded_at);
			values[5] = BoolGetDatum(false);	/* nothing closes a stream yet */
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, no_nulls);
			if (left != ES_NO_LIMIT)
				left--;
		}
		pfree(name);
	}
	es_heads_close(&heads);
	UnregisterSnapshot(snapshot);
	return (Datum) 0;
}

Datum
es_stream_version(PG_FUNCTION_ARGS)
{
	EsHead		head;

	if (PG_ARGISNULL(0))
		es_null_argument("stream");
	(void) es_store_now();
	if (!es_stream_find(PG_GETARG_TEXT_PP(0), GetActiveSnapshot(), &head))
		PG_RETURN_INT64(0);
	PG_RETURN_INT64(head.version);
}

/* ---------------------------------------------------------------- by position */

/* After a position and up to the mark; backward, from the mark or what comes before a position to the first. */
static void
scan_positions(EsScan *scan, int64 after, int64 mark)
{
	if (!scan->backward)
		es_scan_positions(scan, after, mark);
	else
		es_scan_positions(scan, 0, after == 0 ? mark : Min(after - 1, mark));
}

static EsScan *
open_category(FunctionCallInfo fcinfo)
{
	int64		after = position_argument(fcinfo, 1);
	int64		limit = es_count_argument(fcinfo, 2);
	text	   *category;
	int32		id;
	int64		mark;
	EsScan	   *scan;

	if (PG_ARGISNULL(0))
		es_null_argument("category");
	category = PG_GETARG_TEXT_PP(0);
	if (memchr(VARDATA_ANY(category), '-', VARSIZE_ANY_EXHDR(category)) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a category", text_to_cstring(category)),
				 errdetail("A category is the part of a stream's name before the first \"-\"."),
				 errhint("For one stream use es_read.")));

	scan = es_scan_create(es_mark_snapshot(&mark));
	scan->limit = limit;
	scan->backward = backward_argument(fcinfo, 4);
	scan->filter_categories = true;
	id = es_name_find(ES_CATEGORY, VARDATA_ANY(category), VARSIZE_ANY_EXHDR(category));
	if (id != 0)
		scan->categories = bms_make_singleton(id);
	filter_types(fcinfo, 3, scan);
	scan->transform = es_upcast_begin(es_definitions());
	if (nothing_wanted(scan))
		scan->limit = 0;
	scan_positions(scan, after, mark);
	return scan;
}

Datum
es_read_category(PG_FUNCTION_ARGS)
{
	return return_rows(fcinfo, open_category);
}

static EsScan *
open_all(FunctionCallInfo fcinfo)
{
	int64		after = position_argument(fcinfo, 0);
	int64		limit = es_count_argument(fcinfo, 1);
	int64		mark;
	List	   *categories;
	EsScan	   *scan;

	scan = es_scan_create(es_mark_snapshot(&mark));
	scan->limit = limit;
	scan->backward = backward_argument(fcinfo, 4);
	filter_types(fcinfo, 2, scan);
	scan->filter_categories = filter_argument(fcinfo, 3, "categories", &categories);
	scan->categories = es_name_ids(ES_CATEGORY, categories);
	scan->transform = es_upcast_begin(es_definitions());
	if (nothing_wanted(scan))
		scan->limit = 0;
	scan_positions(scan, after, mark);
	return scan;
}

Datum
es_read_all(PG_FUNCTION_ARGS)
{
	return return_rows(fcinfo, open_all);
}

/* A position behind which every event is recorded later than a time: that of a seal, or the mark. */
static int64
recorded_later_behind(TimestampTz at, int64 mark)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[1] = {TIMESTAMPTZOID};
	Datum		values[1] = {TimestampTzGetDatum(at)};
	EsSql		sql;

	es_sql_begin(&sql, es_store()->owner);
	if (es_sql_run_kept(&plan, "SELECT to_position FROM event_store.seals WHERE recorded_after >= $1"
						" ORDER BY recorded_after, to_position LIMIT 1", 1, types, values, NULL) > 0)
		mark = Min(mark, DatumGetInt64(es_sql_first(1, INT8OID, NULL)));
	es_sql_end(&sql);
	return mark;
}

/*
 * Backward to the first event that is old enough: recorded_at is monotonic in a stream but not quite in the log, so
 * nothing shorter is exact. But it begins with the seal behind which all are too new.
 */
Datum
es_position_at(PG_FUNCTION_ARGS)
{
	TimestampTz at;
	int64		mark;
	int64		position = 0;
	EsScan	   *scan;
	TupleTableSlot *slot;

	if (PG_ARGISNULL(0))
		es_null_argument("recorded_at");
	at = PG_GETARG_TIMESTAMPTZ(0);
	scan = es_scan_create(es_mark_snapshot(&mark));
	scan->backward = true;
	es_scan_positions(scan, 0, recorded_later_behind(at, mark));
	while (position == 0 && (slot = es_scan_next(scan)) != NULL)
		if (DatumGetTimestampTz(es_row_column(slot, Anum_log_recorded_at)) <= at)
			position = DatumGetInt64(es_row_column(slot, Anum_log_position));
	es_scan_end(scan);
	PG_RETURN_INT64(position);
}

/* ---------------------------------------------------------------- by correlation */

/* Upcasts the columns of an event, followed by its type's id; false when that drops it. */
static bool
upcast_values(EsTransform *upcast, Datum *values, bool *nulls)
{
	EsShape		shape;

	shape.type_id = DatumGetInt32(values[ES_EVENT_COLUMNS]);
	shape.schema_version = DatumGetInt32(values[5]);
	if (!es_transform_applies(upcast, shape.type_id, shape.schema_version))
		return true;
	shape.position = DatumGetInt64(values[0]);
	shape.stream = DatumGetTextPP(values[1]);
	shape.version = DatumGetInt64(values[3]);
	shape.type = DatumGetTextPP(values[4]);
	shape.data = values[7];
	shape.data_null = nulls[7];
	shape.metadata = values[8];
	shape.metadata_null = nulls[8];
	shape.occurred_at = DatumGetTimestampTz(values[9]);
	if (!es_transform_apply(upcast, &shape))
		return false;
	values[4] = PointerGetDatum(shape.type);
	values[5] = Int32GetDatum(shape.schema_version);
	values[7] = shape.data;
	nulls[7] = shape.data_null;
	return true;
}

/* Through the planner, which knows whether the trace index is there. */
Datum
es_trace(PG_FUNCTION_ARGS)
{
	static const char *const query =
		"SELECT l.position, h.name, c.name, l.version, t.name, l.schema_version, l.event_id, l.data, "
		"l.metadata, l.occurred_at, l.recorded_at, l.event_type "
		"FROM event_store.log l "
		"JOIN event_store.heads h ON h.id = l.stream "
		"JOIN event_store.categories c ON c.id = l.category "
		"JOIN event_store.event_types t ON t.id = l.event_type "
		"WHERE (l.metadata ->> 'correlation_id') = $1 ORDER BY l.position";
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Oid			types[1] = {TEXTOID};
	Datum		args[1];
	EsSql		sql;
	Portal		portal;
	EsTransform *upcast;

	if (PG_ARGISNULL(0))
		es_null_argument("correlation_id");
	args[0] = PG_GETARG_DATUM(0);
	(void) es_store_now();
	es_refuse_gap_upto(es_position_last());
	InitMaterializedSRF(fcinfo, 0);
	upcast = es_upcast_begin(es_definitions());

	es_sql_begin(&sql, es_store()->owner);
	portal = SPI_cursor_open_with_args(NULL, query, 1, types, args, NULL, true, 0);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, 1000);
		if (SPI_processed == 0)
			break;
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			Datum		values[ES_EVENT_COLUMNS + 1];
			bool		nulls[ES_EVENT_COLUMNS + 1];

			for (int c = 0; c < ES_EVENT_COLUMNS; c++)
				values[c] = es_sql_value(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, c + 1,
										 TupleDescAttr(rsinfo->setDesc, c)->atttypid, &nulls[c]);
			values[ES_EVENT_COLUMNS] = es_sql_value(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, ES_EVENT_COLUMNS + 1,
													INT4OID, NULL);
			if (upcast != NULL && !upcast_values(upcast, values, nulls))
				continue;
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	es_sql_end(&sql);
	es_early_release_await_all();
	if (upcast != NULL)
		es_transform_end(upcast);
	return (Datum) 0;
}
