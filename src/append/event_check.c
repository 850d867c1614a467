/*
 * append/event_check.c
 *	  Events that are refused because of their type: by the check of its schema version, or for lack of a schema version.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "log/log.h"
#include "state/state.h"
#include "append/call.h"
#include "append/execute.h"

/* Whether an event satisfies a check. An error of the check rejects the event too, with YE009. */
static bool
satisfies(EsEvaluation *run, const EsCallEvent *asked, const char *label)
{
	const EsEvent *event = &asked->event;
	volatile bool satisfied = false;

	es_evaluation_set(run, EVENT_DATA, JsonbPGetDatum(event->data), false);
	es_evaluation_set(run, EVENT_METADATA, event->metadata == NULL ? (Datum) 0 : JsonbPGetDatum(event->metadata),
			   event->metadata == NULL);
	es_evaluation_set(run, EVENT_TYPE, PointerGetDatum(event->type), false);
	es_evaluation_set(run, EVENT_OCCURRED_AT,
			   TimestampTzGetDatum(asked->has_occurred_at ? event->occurred_at : GetCurrentTimestamp()), false);
	PG_TRY();
	{
		bool		isnull;
		Datum		result;

		es_evaluation_enter(run);
		result = es_evaluate(run, &isnull);
		es_evaluation_leave(run);
		satisfied = !isnull && DatumGetBool(result);
	}
	PG_CATCH();
	{
		if (!es_failure_is_ours())
			PG_RE_THROW();
		es_failure_rethrow(ES_EVENT_REJECTED, label);
	}
	PG_END_TRY();
	MemoryContextReset(es_evaluation_memory(run));
	return satisfied;
}

/*
 * Refuses events without a schema version where it must be said. Such an event is not in the shape of version 1, as a rule:
 * whoever wrote it has forgotten to say that it is in the new one. Read as version 1 it would break its stream.
 */
static void
check_schema_versions(const EsCall *call, const EsDefinitions *defs)
{
	int32		checked = 0;	/* event type that the version may be left out of */

	if (!es_has_versioned_types(defs) || es_assume_schema_version_1)
		return;
	for (int i = 0; i < call->event_count; i++)
	{
		const EsEvent *event = &call->events[i].event;
		const char *versions;
		char	   *label;

		if (call->events[i].has_schema_version || event->type_id == checked)
			continue;
		versions = es_schema_versions(defs, VARDATA_ANY(event->type), VARSIZE_ANY_EXHDR(event->type));
		checked = event->type_id;
		if (versions == NULL)
			continue;
		label = es_call_label(call, i);
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("schema_version must not be left out of an event of type \"%s\"", text_to_cstring(event->type)),
				 errdetail("%s%sSchema versions of the type: %s.", label ? label : "", label ? " " : "", versions),
				 errhint("Pass the version whose shape the data has; event_store.assume_schema_version_1 is for old writers that cannot.")));
	}
}

/* Refuses events that do not satisfy the check that is registered for their type and schema version. */
static void
check_events(const EsCall *call, EsDefinitions *defs)
{
	const EsExpr *checked = NULL;
	EsEvaluation	   *run = NULL;
	int			settings;

	if (!es_has_checks(defs))
		return;
	settings = es_settings_open(NULL);
	for (int i = 0; i < call->event_count; i++)
	{
		const EsEvent *event = &call->events[i].event;
		const EsExpr *check = es_find_check(defs, VARDATA_ANY(event->type), VARSIZE_ANY_EXHDR(event->type),
											event->schema_version);
		char	   *label;

		if (check == NULL)
			continue;
		if (check != checked)
		{
			if (run != NULL)
				es_evaluation_close(run);
			run = es_evaluation_open(check);
			checked = check;
		}
		label = es_call_label(call, i);
		if (!satisfies(run, &call->events[i], label))
			ereport(ERROR,
					(errcode(ES_EVENT_REJECTED),
					 errmsg("event of type \"%s\" is rejected by the check of its type",
							text_to_cstring(event->type)),
					 errdetail("%s%sSchema version %d.", label ? label : "", label ? " " : "",
							   event->schema_version)));
		if (label != NULL)
			pfree(label);
	}
	if (run != NULL)
		es_evaluation_close(run);
	es_settings_close(settings);
}

/* Refuses events that may not be appended. To be called when the call is known not to be a retry. */
void
es_check_events(const EsCall *call)
{
	EsDefinitions *defs = es_definitions();

	check_schema_versions(call, defs);
	check_events(call, defs);
}
