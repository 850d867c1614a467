/*
 * append/functions.c
 *	  The SQL functions that append.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "store/store.h"
#include "append/call.h"
#include "append/execute.h"
#include "append/json.h"
#include "append/key.h"
#include "append/occurred_at.h"

PG_FUNCTION_INFO_V1(es_append);
PG_FUNCTION_INFO_V1(es_append_events);
PG_FUNCTION_INFO_V1(es_append_text);
PG_FUNCTION_INFO_V1(es_append_one_text);
PG_FUNCTION_INFO_V1(es_append_multi);
PG_FUNCTION_INFO_V1(es_try_append);
PG_FUNCTION_INFO_V1(es_try_append_events);
PG_FUNCTION_INFO_V1(es_try_append_multi);
PG_FUNCTION_INFO_V1(es_append_multi_text);
PG_FUNCTION_INFO_V1(es_append_batch);
PG_FUNCTION_INFO_V1(es_append_batch_text);
PG_FUNCTION_INFO_V1(es_find_append);

/* What became of an element of a try: appended, replayed or conflict. NULL: it fits, and the call was refused for another. */
static void
set_outcome(const EsCall *call, const EsElement *element, Datum *value, bool *isnull)
{
	const char *outcome = element->conflict ? "conflict" : element->replayed ? "replayed" : "appended";

	*isnull = call->refused && !element->conflict;
	*value = *isnull ? (Datum) 0 : CStringGetTextDatum(outcome);
}

/* The result row (version, position, recorded_at, replayed, and of a try outcome) for an element: its last event, or the stream's. */
static Datum
result_row(FunctionCallInfo fcinfo, const EsCall *call, const EsElement *element)
{
	Datum		values[5];
	bool		nulls[5] = {false};

	values[0] = Int64GetDatum(element->version);
	values[1] = Int64GetDatum(element->position);
	values[2] = TimestampTzGetDatum(element->recorded_at);
	values[3] = BoolGetDatum(element->replayed);
	nulls[1] = nulls[2] = element->position == 0;
	if (call->tries)
		set_outcome(call, element, &values[4], &nulls[4]);
	return HeapTupleGetDatum(heap_form_tuple(es_result_type(fcinfo), values, nulls));
}

static Datum
append_event(FunctionCallInfo fcinfo, bool tries)
{
	EsCall	   *call = es_call_begin(ES_FROM_APPEND);
	text	   *stream = es_text_argument(fcinfo, 0, "stream");
	text	   *key = PG_ARGISNULL(8) ? NULL : PG_GETARG_TEXT_PP(8);
	TimestampTz occurred_at = PG_ARGISNULL(6) ? 0 : PG_GETARG_TIMESTAMPTZ(6);
	int32		schema_version = PG_ARGISNULL(7) ? 0 : PG_GETARG_INT32(7);
	int			element;

	element = es_call_element(call, stream, es_expected_argument(fcinfo, 1), key);
	es_call_event(call, element,
				  es_text_argument(fcinfo, 2, "event_type"),
				  PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3),
				  PG_ARGISNULL(4) ? NULL : PG_GETARG_JSONB_P(4),
				  PG_ARGISNULL(5) ? NULL : PG_GETARG_UUID_P(5),
				  PG_ARGISNULL(6) ? NULL : &occurred_at,
				  PG_ARGISNULL(7) ? NULL : &schema_version);
	call->tries = tries;
	es_call_execute(call);
	return result_row(fcinfo, call, &call->elements[element]);
}

Datum
es_append(PG_FUNCTION_ARGS)
{
	return append_event(fcinfo, false);
}

Datum
es_try_append(PG_FUNCTION_ARGS)
{
	return append_event(fcinfo, true);
}

static Datum
append_events(FunctionCallInfo fcinfo, Jsonb *events, bool tries)
{
	EsCall	   *call = es_call_begin(ES_FROM_EVENTS);
	text	   *stream = es_text_argument(fcinfo, 0, "stream");
	int64		expected = es_expected_argument(fcinfo, 1);
	Jsonb	   *list;
	text	   *key = es_json_events(events, &list);
	int			element = es_call_element(call, stream, expected, key);

	es_json_add_events(call, element, list);
	call->tries = tries;
	es_call_execute(call);
	return result_row(fcinfo, call, &call->elements[element]);
}

Datum
es_append_events(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(2))
		es_null_argument("events");
	return append_events(fcinfo, PG_GETARG_JSONB_P(2), false);
}

Datum
es_try_append_events(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(2))
		es_null_argument("events");
	return append_events(fcinfo, PG_GETARG_JSONB_P(2), true);
}

Datum
es_append_text(PG_FUNCTION_ARGS)
{
	return append_events(fcinfo,
						 es_json_parse(es_text_argument(fcinfo, 2, "events"),
									   "For one event call es_append(stream, expected_version, event_type, data); "
									   "the third of three arguments is a JSON object or array of events."), false);
}

/* An argument that is given as text: JSON, an event id, a time. For the context of an error, as types have no names of it. */
static void
text_context(void *arg)
{
	errcontext("argument %s", (const char *) arg);
}

/* Parses a text that is an argument, or an element of one, by a function. */
static Datum
parse_text(const char *name, Datum (*parse) (const char *), Datum value)
{
	ErrorContextCallback context;
	Datum		parsed;

	context.callback = text_context;
	context.arg = unconstify(char *, name);
	context.previous = error_context_stack;
	error_context_stack = &context;
	parsed = parse(TextDatumGetCString(value));
	error_context_stack = context.previous;
	return parsed;
}

static Datum
parse_json(const char *string)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(string));
}

static Datum
parse_id(const char *string)
{
	return DirectFunctionCall1(uuid_in, CStringGetDatum(string));
}

static Datum
parse_time(const char *string)
{
	return TimestampTzGetDatum(es_occurred_at(string));
}

/* Of es_append of one event. */
#define ONE_EVENT_ARGUMENTS	9

/* es_append of one event, whose data, metadata, id and time are given as text. */
Datum
es_append_one_text(PG_FUNCTION_ARGS)
{
	static const struct
	{
		int			argument;
		const char *name;
		Datum		(*parse) (const char *);
	}			texts[] = {{3, "data", parse_json}, {4, "metadata", parse_json}, {5, "event_id", parse_id}, {6, "occurred_at", parse_time}};

	LOCAL_FCINFO(parsed, ONE_EVENT_ARGUMENTS);
	Datum		result;

	/* Not in place: the executor puts an argument that is a constant there once, and not for each row. */
	Assert(PG_NARGS() == ONE_EVENT_ARGUMENTS);
	memcpy(parsed, fcinfo, SizeForFunctionCallInfo(ONE_EVENT_ARGUMENTS));
	for (int i = 0; i < lengthof(texts); i++)
		if (!PG_ARGISNULL(texts[i].argument))
			parsed->args[texts[i].argument].value = parse_text(texts[i].name, texts[i].parse,
															   PG_GETARG_DATUM(texts[i].argument));
	result = es_append(parsed);
	fcinfo->isnull = parsed->isnull;
	return result;
}

static Datum
append_multi(FunctionCallInfo fcinfo, Jsonb *appends, bool tries)
{
	EsCall	   *call = es_call_begin(ES_FROM_MULTI);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	es_json_appends(call, appends);
	call->tries = tries;
	es_call_execute(call);

	InitMaterializedSRF(fcinfo, 0);
	for (int e = 0; e < call->element_count; e++)
	{
		const EsElement *element = &call->elements[e];
		Datum		values[6];
		bool		nulls[6] = {false};

		values[0] = PointerGetDatum(call->streams[element->stream].name);
		values[1] = Int64GetDatum(element->version);
		values[2] = Int64GetDatum(element->position);
		values[3] = TimestampTzGetDatum(element->recorded_at);
		values[4] = BoolGetDatum(element->replayed);
		/* An element without events only checks a version. Its stream may be empty, and then there is no last event. */
		nulls[2] = nulls[3] = element->position == 0;
		if (tries)
			set_outcome(call, element, &values[5], &nulls[5]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

static Jsonb *
appends_argument(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		es_null_argument("appends");
	return PG_GETARG_JSONB_P(0);
}

Datum
es_append_multi(PG_FUNCTION_ARGS)
{
	return append_multi(fcinfo, appends_argument(fcinfo), false);
}

Datum
es_try_append_multi(PG_FUNCTION_ARGS)
{
	return append_multi(fcinfo, appends_argument(fcinfo), true);
}

Datum
es_append_multi_text(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		es_null_argument("appends");
	return append_multi(fcinfo, DatumGetJsonbP(parse_text("appends", parse_json, PG_GETARG_DATUM(0))), false);
}

/* ---------------------------------------------------------------- es_append_batch */

typedef struct BatchArray
{
	const char *name;
	bool		given;
	const char *no_nulls;		/* hint for whoever has NULL elements in it; NULL: it may have them */
	int			count;
	Datum	   *values;
	bool	   *nulls;
} BatchArray;

/* Reads argument n, an array. One that is required must be given. */
static void
read_array(FunctionCallInfo fcinfo, int n, const char *name, bool required, const char *no_nulls, BatchArray *into)
{
	ArrayType  *array;
	int16		len;
	bool		byval;
	char		align;

	memset(into, 0, sizeof(*into));
	into->name = name;
	into->no_nulls = no_nulls;
	if (PG_ARGISNULL(n))
	{
		if (required)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument %s must not be NULL", name),
					 errhint("%s", no_nulls)));
		return;
	}
	array = es_array_argument(fcinfo, n, name);
	get_typlenbyvalalign(ARR_ELEMTYPE(array), &len, &byval, &align);
	deconstruct_array(array, ARR_ELEMTYPE(array), len, byval, align,
					  &into->values, &into->nulls, &into->count);
	into->given = true;
}

/* Refuses an array that is not as long as streams, and NULL elements where there must be none. */
static void
check_array(const BatchArray *array, const BatchArray *streams)
{
	if (array->given && array->count != streams->count)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("argument %s must be as long as streams", array->name),
				 errdetail("%s has %d elements, streams has %d.", array->name, array->count,
						   streams->count)));
	if (array->no_nulls == NULL)
		return;
	for (int i = 0; i < array->count; i++)
		if (array->nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument %s must not contain NULL", array->name),
					 errdetail("Index %d is NULL.", i + 1),
					 errhint("%s", array->no_nulls)));
}

/* Whether the array was given and has a value, not NULL, at an index. */
static bool
has_value(const BatchArray *array, int i)
{
	return array->given && !array->nulls[i];
}

static void
batch_context(void *arg)
{
	errcontext("index %d of the arrays of es_append_batch", *(int *) arg + 1);
}

/* Parses an element of an array of texts, which stays NULL if it is. */
static void
parse_element(BatchArray *array, int i, Datum (*parse) (const char *))
{
	if (array->given && !array->nulls[i])
		array->values[i] = parse_text(array->name, parse, array->values[i]);
}

static Datum
append_batch(FunctionCallInfo fcinfo, bool as_text)
{
	EsCall	   *call = es_call_begin(ES_FROM_BATCH);
	BatchArray	arrays[8];
	const BatchArray *streams = &arrays[0];
	const BatchArray *types = &arrays[1];
	const BatchArray *data = &arrays[2];
	const BatchArray *metadata = &arrays[3];
	const BatchArray *ids = &arrays[4];
	const BatchArray *times = &arrays[5];
	const BatchArray *expected = &arrays[6];
	const BatchArray *versions = &arrays[7];
	ErrorContextCallback context;
	Datum		values[4];
	bool		nulls[4] = {false};
	int			i;

	read_array(fcinfo, 0, "streams", true, "Each event has a stream.", &arrays[0]);
	read_array(fcinfo, 1, "event_types", true, "Each event has a type.", &arrays[1]);
	read_array(fcinfo, 2, "data", true, ES_EMPTY_PAYLOAD, &arrays[2]);
	read_array(fcinfo, 3, "metadata", false, NULL, &arrays[3]);
	read_array(fcinfo, 4, "event_ids", false, NULL, &arrays[4]);
	read_array(fcinfo, 5, "occurred_at", false, NULL, &arrays[5]);
	read_array(fcinfo, 6, "expected_versions", false,
			   "Any version is es_expect_any() (-2); leave the array out where it holds for all streams.", &arrays[6]);
	read_array(fcinfo, 7, "schema_versions", false, NULL, &arrays[7]);
	for (int a = 0; a < lengthof(arrays); a++)
		check_array(&arrays[a], streams);
	if (streams->count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument streams must not be empty")));
	if (!PG_ARGISNULL(8))
	{
		call->batch_key = PG_GETARG_TEXT_PP(8);
		es_check_key(call->batch_key);
	}

	context.callback = batch_context;
	context.arg = &i;
	context.previous = error_context_stack;
	error_context_stack = &context;
	for (i = 0; i < streams->count; i++)
	{
		text	   *stream = DatumGetTextPP(streams->values[i]);
		TimestampTz occurred_at;
		int32		schema_version;
		int			element;

		if (as_text)
		{
			parse_element(&arrays[2], i, parse_json);
			parse_element(&arrays[3], i, parse_json);
			parse_element(&arrays[4], i, parse_id);
			parse_element(&arrays[5], i, parse_time);
		}
		occurred_at = has_value(times, i) ? DatumGetTimestampTz(times->values[i]) : 0;
		schema_version = has_value(versions, i) ? DatumGetInt32(versions->values[i]) : 0;
		element = es_call_stream_element(call, stream);

		if ((i & 1023) == 1023)
			CHECK_FOR_INTERRUPTS();
		if (element < 0)
			element = es_call_element(call, stream,
									  expected->given ? es_check_expected(DatumGetInt64(expected->values[i])) : ES_ANY,
									  NULL);
		es_call_event(call, element,
					  DatumGetTextPP(types->values[i]),
					  DatumGetJsonbP(data->values[i]),
					  has_value(metadata, i) ? DatumGetJsonbP(metadata->values[i]) : NULL,
					  has_value(ids, i) ? DatumGetUUIDP(ids->values[i]) : NULL,
					  has_value(times, i) ? &occurred_at : NULL,
					  has_value(versions, i) ? &schema_version : NULL);
	}
	error_context_stack = context.previous;
	es_call_execute(call);

	values[0] = Int64GetDatum(call->replayed ? call->replayed_events : call->event_count);
	values[1] = Int64GetDatum(call->first_position);
	values[2] = Int64GetDatum(call->last_position);
	values[3] = BoolGetDatum(call->replayed);
	return HeapTupleGetDatum(heap_form_tuple(es_result_type(fcinfo), values, nulls));
}

Datum
es_append_batch(PG_FUNCTION_ARGS)
{
	return append_batch(fcinfo, false);
}

Datum
es_append_batch_text(PG_FUNCTION_ARGS)
{
	return append_batch(fcinfo, true);
}

/* ---------------------------------------------------------------- es_find_append */

Datum
es_find_append(PG_FUNCTION_ARGS)
{
	text	   *stream = PG_GETARG_TEXT_PP(0);
	text	   *key = PG_GETARG_TEXT_PP(1);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	EsHead		head;
	EsKeyRow	row;

	(void) es_store_now();
	InitMaterializedSRF(fcinfo, 0);
	if (es_stream_find(stream, GetActiveSnapshot(), &head) && es_key_find(head.id, key, GetActiveSnapshot(), &row))
	{
		Datum		values[4];
		bool		nulls[4] = {false};

		values[0] = Int64GetDatum(row.version);
		values[1] = Int64GetDatum(row.last_position);
		values[2] = TimestampTzGetDatum(row.recorded_at);
		values[3] = BoolGetDatum(true);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
