/*
 * append/lock.c
 *	  SQL functions that lock streams: nobody else appends to them until the transaction ends.
 *
 * A lock is a call whose elements have no events, so it takes the same locks as an append, in the same order.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "log/log.h"
#include "append/call.h"
#include "append/execute.h"

PG_FUNCTION_INFO_V1(es_lock_stream);
PG_FUNCTION_INFO_V1(es_lock_streams);

/* es_lock_stream(stream) -> version; 0 when it does not exist */
Datum
es_lock_stream(PG_FUNCTION_ARGS)
{
	EsCall	   *call = es_call_begin(ES_FROM_LOCK);
	int			element = es_call_element(call, es_text_argument(fcinfo, 0, "stream"), ES_ANY, NULL);

	es_call_execute(call);
	PG_RETURN_INT64(call->elements[element].version);
}

static int
compare_names(const void *a, const void *b)
{
	return es_compare_names(DatumGetTextPP(*(const Datum *) a), DatumGetTextPP(*(const Datum *) b));
}

/* es_lock_streams(streams) -> setof (stream, version), in order of name, each once */
Datum
es_lock_streams(PG_FUNCTION_ARGS)
{
	EsCall	   *call = es_call_begin(ES_FROM_LOCK);
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum	   *names;
	bool	   *nulls;
	int			count;

	if (PG_ARGISNULL(0))
		es_null_argument("streams");
	deconstruct_array(es_array_argument(fcinfo, 0, "streams"), TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			es_null_element("streams", i);
		names[i] = PointerGetDatum(DatumGetTextPP(names[i]));
	}
	qsort(names, count, sizeof(Datum), compare_names);
	for (int i = 0; i < count; i++)
		if (i == 0 || compare_names(&names[i - 1], &names[i]) != 0)
			(void) es_call_element(call, DatumGetTextPP(names[i]), ES_ANY, NULL);
	es_call_execute(call);

	InitMaterializedSRF(fcinfo, 0);
	for (int e = 0; e < call->element_count; e++)
	{
		const EsElement *element = &call->elements[e];
		Datum		values[2];
		bool		no_nulls[2] = {false};

		CHECK_FOR_INTERRUPTS();
		values[0] = PointerGetDatum(call->streams[element->stream].name);
		values[1] = Int64GetDatum(element->version);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, no_nulls);
	}
	return (Datum) 0;
}
