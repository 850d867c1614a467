/*
 * state/upcast.c
 *	  Upcasters at work: old shapes of events turned into new ones as they are read.
 *
 * An upcaster applies to one type at one schema version and yields the next version, perhaps of
 * another type; they are followed as a chain until none applies. What is stored never changes.
 */
#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "log/log.h"
#include "state/state.h"

typedef struct EsUpcast
{
	EsTransform transform;		/* first: what the scan sees of it */
	EsDefinitions *defs;
	MemoryContext context;		/* of the runs */
	MemoryContext results;		/* of the current event */
	EsEvaluation	  **runs;			/* by number of the upcaster, opened when first needed */
	EsEvaluation	  **at_work;		/* the one used last */
} EsUpcast;

static void
end(EsTransform *self)
{
	EsUpcast   *upcast = (EsUpcast *) self;

	for (int i = 0; i < es_upcaster_count(upcast->defs); i++)
		if (upcast->runs[i] != NULL)
			es_evaluation_close(upcast->runs[i]);
	MemoryContextDelete(upcast->results);
}

/* After an error that was caught: what was being evaluated is in no state to be used again. */
static void
failed(EsTransform *self)
{
	EsUpcast   *upcast = (EsUpcast *) self;

	if (upcast->at_work != NULL && *upcast->at_work != NULL)
	{
		es_evaluation_abandon(*upcast->at_work);
		*upcast->at_work = NULL;
	}
}

/* Whether a stored event of this type and version is changed at all. */
static bool
applies(EsTransform *self, int32 type_id, int32 schema_version)
{
	EsUpcast   *upcast = (EsUpcast *) self;

	for (int i = 0; i < es_upcaster_count(upcast->defs); i++)
	{
		EsUpcaster *upcaster = es_upcaster(upcast->defs, i);

		if (upcaster->type_id == type_id && upcaster->from_version == schema_version)
			return true;
	}
	return false;
}

/* Whether events stored under a type can come out as one of the names: versions left aside. */
static bool
may_become(EsTransform *self, int32 type_id, List *names)
{
	EsUpcast   *upcast = (EsUpcast *) self;
	int			count = es_upcaster_count(upcast->defs);
	bool	   *reached = palloc0(sizeof(bool) * count);
	bool		more = true;
	bool		found = false;

	while (more && !found)
	{
		more = false;
		for (int i = 0; i < count && !found; i++)
		{
			EsUpcaster *upcaster = es_upcaster(upcast->defs, i);
			bool		begins = upcaster->type_id == type_id;

			for (int j = 0; j < count && !begins; j++)
			{
				EsUpcaster *before = es_upcaster(upcast->defs, j);

				begins = reached[j] && VARSIZE(before->to_type) - VARHDRSZ == strlen(upcaster->event_type) &&
					memcmp(VARDATA(before->to_type), upcaster->event_type, strlen(upcaster->event_type)) == 0;
			}
			if (!begins || reached[i])
				continue;
			reached[i] = more = true;
			found = es_has_name(names, VARDATA(upcaster->to_type), VARSIZE(upcaster->to_type) - VARHDRSZ);
		}
	}
	pfree(reached);
	return found;
}

/* Where an upcaster failed. */
static char *
place_of(const EsShape *shape)
{
	return psprintf("Upcaster of \"%s\" from version %d, stream \"%s\", version %lld, position %lld.",
					text_to_cstring(shape->type), shape->schema_version, text_to_cstring(shape->stream),
					(long long) shape->version, (long long) shape->position);
}

/* Runs one upcaster on an event that has data; false when it drops the event. */
static bool
run_upcaster(EsUpcast *upcast, EsEvaluation *run, EsShape *shape)
{
	MemoryContext old;
	Datum		result;
	bool		isnull;

	es_evaluation_set(run, EVENT_DATA, shape->data, false);
	es_evaluation_set(run, EVENT_METADATA, shape->metadata, shape->metadata_null);
	es_evaluation_set(run, EVENT_TYPE, PointerGetDatum(shape->type), false);
	es_evaluation_set(run, EVENT_OCCURRED_AT, TimestampTzGetDatum(shape->occurred_at), false);
	es_evaluation_enter(run);
	result = es_evaluate(run, &isnull);
	if (!isnull)
	{
		old = MemoryContextSwitchTo(upcast->results);
		shape->data = JsonbPGetDatum(DatumGetJsonbPCopy(result));
		MemoryContextSwitchTo(old);
	}
	es_evaluation_leave(run);
	MemoryContextReset(es_evaluation_memory(run));
	return !isnull;
}

/* The upcaster made ready, when it is first needed. */
static EsEvaluation *
run_of(EsUpcast *upcast, EsUpcaster *upcaster)
{
	EsEvaluation	  **run = &upcast->runs[upcaster - es_upcaster(upcast->defs, 0)];

	upcast->at_work = run;
	if (*run == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(upcast->context);

		*run = es_evaluation_open(es_upcaster_transform(upcast->defs, upcaster));
		MemoryContextSwitchTo(old);
	}
	return *run;
}

/*
 * Brings an event to its newest shape; false when an upcaster drops it. The results are good until
 * the next call. An erased event (data NULL) changes its type and version only.
 */
static bool
apply(EsTransform *self, EsShape *shape)
{
	EsUpcast   *upcast = (EsUpcast *) self;
	MemoryContext caller = CurrentMemoryContext;

	MemoryContextReset(upcast->results);
	for (;;)
	{
		EsUpcaster *upcaster = es_find_upcaster(upcast->defs, VARDATA_ANY(shape->type),
												VARSIZE_ANY_EXHDR(shape->type), shape->schema_version);
		volatile bool kept = true;

		if (upcaster == NULL)
			return true;
		PG_TRY();
		{
			if (!shape->data_null)
				kept = run_upcaster(upcast, run_of(upcast, upcaster), shape);
		}
		PG_CATCH();
		{
			if (!es_failure_is_ours())
				PG_RE_THROW();
			MemoryContextSwitchTo(caller);
			es_failure_rethrow(ES_UPCAST_FAILED, place_of(shape));
		}
		PG_END_TRY();
		if (!kept)
			return false;
		shape->type = upcaster->to_type;
		shape->type_id = upcaster->to_type_id;
		shape->schema_version++;
	}
}

/* The upcasters for a scan, in the current memory context; NULL when there are none. */
EsTransform *
es_upcast_begin(EsDefinitions *defs)
{
	EsUpcast   *upcast;

	if (es_upcaster_count(defs) == 0)
		return NULL;
	upcast = palloc0(sizeof(EsUpcast));
	upcast->transform.applies = applies;
	upcast->transform.may_become = may_become;
	upcast->transform.apply = apply;
	upcast->transform.failed = failed;
	upcast->transform.end = end;
	upcast->defs = defs;
	upcast->context = CurrentMemoryContext;
	upcast->results = AllocSetContextCreate(CurrentMemoryContext, "event_store upcast",
											ALLOCSET_DEFAULT_SIZES);
	upcast->runs = palloc0(sizeof(EsEvaluation *) * es_upcaster_count(defs));

	/*
	 * A type has an id only once an event of it was appended, which changes no definition; and the id of
	 * a row that was rolled back may be another's by now. So ids are looked up (in a cache) each time.
	 */
	for (int i = 0; i < es_upcaster_count(defs); i++)
	{
		EsUpcaster *upcaster = es_upcaster(defs, i);

		upcaster->type_id = es_name_find(ES_EVENT_TYPE, upcaster->event_type, strlen(upcaster->event_type));
		upcaster->to_type_id = es_name_find(ES_EVENT_TYPE, VARDATA(upcaster->to_type),
											VARSIZE(upcaster->to_type) - VARHDRSZ);
	}
	return &upcast->transform;
}
