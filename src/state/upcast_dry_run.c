/*
 * state/upcast_dry_run.c
 *	  es_test_upcasters: a dry run of the upcasters over what is stored, before anyone depends on them.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"

typedef struct TestKey
{
	int32		type_id;
	int32		schema_version;
} TestKey;

/* What became of the events of one type at one version. */
typedef struct TestResult
{
	TestKey		key;
	int64		events;
	int64		failures;
	int64		first_failure;	/* position */
	char	   *error;
} TestResult;

PG_FUNCTION_INFO_V1(es_test_upcasters);

typedef struct Attempt
{
	EsTransform *upcast;
	EsShape    *shape;
} Attempt;

static void
try_upcast(void *arg)
{
	Attempt    *attempt = arg;

	(void) es_transform_apply(attempt->upcast, attempt->shape);
}

Datum
es_test_upcasters(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	EsDefinitions *defs;
	EsTransform *upcast;
	EsScan	   *scan;
	TupleTableSlot *slot;
	HASHCTL		ctl;
	HTAB	   *results;
	HASH_SEQ_STATUS seq;
	TestResult *result;
	MemoryContext home = CurrentMemoryContext;
	MemoryContext per_event;
	int			settings;

	(void) es_store_now();
	InitMaterializedSRF(fcinfo, 0);
	defs = es_definitions();
	upcast = es_upcast_begin(defs);
	if (upcast == NULL)
		return (Datum) 0;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(TestKey);
	ctl.entrysize = sizeof(TestResult);
	ctl.hcxt = home;
	results = hash_create("event_store upcaster test", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	scan = es_scan_create(RegisterSnapshot(GetActiveSnapshot()));
	scan->filter_types = true;
	for (int i = 0; i < es_upcaster_count(defs); i++)
	{
		EsUpcaster *upcaster = es_upcaster(defs, i);

		if (upcaster->type_id != 0 &&
			(PG_ARGISNULL(0) ||
			 strcmp(upcaster->event_type, text_to_cstring(PG_GETARG_TEXT_PP(0))) == 0))
			scan->types = bms_add_member(scan->types, upcaster->type_id);
	}
	if (bms_is_empty(scan->types))
		scan->limit = 0;
	es_scan_positions(scan, 0, PG_INT64_MAX);
	per_event = AllocSetContextCreate(home, "event_store event", ALLOCSET_DEFAULT_SIZES);
	settings = es_settings_open(NULL);
	while ((slot = es_scan_next(scan)) != NULL)
	{
		EsShape		shape;
		TestKey		key;
		bool		found;
		char	   *message;
		Attempt		attempt;
		MemoryContext old = MemoryContextSwitchTo(per_event);

		es_scan_shape(scan, slot, &shape);
		key.type_id = shape.type_id;
		key.schema_version = shape.schema_version;
		result = hash_search(results, &key, HASH_ENTER, &found);
		if (!found)
		{
			result->events = result->failures = result->first_failure = 0;
			result->error = NULL;
		}
		result->events++;
		attempt.upcast = upcast;
		attempt.shape = &shape;
		message = es_failure_of(try_upcast, &attempt, per_event);
		if (message != NULL && result->failures++ == 0)
		{
			result->first_failure = shape.position;
			result->error = MemoryContextStrdup(home, message);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(per_event);
	}
	es_settings_close(settings);
	es_scan_end(scan);
	es_transform_end(upcast);

	hash_seq_init(&seq, results);
	while ((result = hash_seq_search(&seq)) != NULL)
	{
		Datum		values[6];
		bool		nulls[6] = {false};

		values[0] = PointerGetDatum(es_name_of(ES_EVENT_TYPE, result->key.type_id));
		values[1] = Int32GetDatum(result->key.schema_version);
		values[2] = Int64GetDatum(result->events);
		values[3] = Int64GetDatum(result->failures);
		values[4] = Int64GetDatum(result->first_failure);
		nulls[4] = result->failures == 0;
		values[5] = result->error == NULL ? (Datum) 0 : CStringGetTextDatum(result->error);
		nulls[5] = result->error == NULL;
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
