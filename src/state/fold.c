/*
 * state/fold.c
 *	  Folding events into a state: (state, event) -> state, by a SQL expression or by rules.
 *
 * Only the columns that the fold mentions are looked at. The state of a SQL fold moves between two memory contexts:
 * each new state is made in the one that does not hold the old state, so a fold over millions of events needs the
 * memory of two states.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "state/state.h"

/* Makes a fold in the current memory context. It can be used for one stream after the other. */
EsFold *
es_fold_create(const EsAggregate *aggregate)
{
	EsFold	   *fold = palloc0(sizeof(EsFold));

	fold->aggregate = aggregate;
	fold->context = CurrentMemoryContext;
	if (aggregate->fold != NULL)
	{
		fold->run = es_evaluation_open(aggregate->fold);
		for (int i = 0; i < 2; i++)
			fold->states[i] = AllocSetContextCreate(CurrentMemoryContext, "event_store state",
													ALLOCSET_DEFAULT_SIZES);
	}
	return fold;
}

/* Begins the fold of a stream with a state: the initial state at version 0, or that of a snapshot. */
void
es_fold_begin(EsFold *fold, const text *stream, Jsonb *state, int64 version, int64 position,
			  TimestampTz recorded_at)
{
	fold->stream = stream;
	fold->version = version;
	fold->position = position;
	fold->recorded_at = recorded_at;
	fold->folded = 0;
	fold->state = state;
	if (fold->aggregate->rules != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(fold->context);

		if (fold->rules != NULL)
			es_rules_end(fold->rules);
		fold->rules = es_rules_begin(fold->aggregate->rules, state);
		MemoryContextSwitchTo(old);
	}
}

/*
 * Makes a scan for the events to be folded; the caller says which. All scans of a fold share its upcasters. They are
 * begun with the first scan, because a load from a snapshot may need none, and not again for each stream of a
 * category.
 */
EsScan *
es_fold_scan(EsFold *fold, EsDefinitions *defs, Snapshot snapshot)
{
	EsScan	   *scan = es_scan_create(RegisterSnapshot(snapshot));

	if (!fold->upcast_begun)
	{
		MemoryContext old = MemoryContextSwitchTo(fold->context);

		fold->upcast = es_upcast_begin(defs);
		fold->upcast_begun = true;
		MemoryContextSwitchTo(old);
	}
	scan->transform = fold->upcast;
	scan->transform_shared = true;
	return scan;
}

/* The place at which a fold failed, for the error's detail. */
static char *
place_of(EsFold *fold, EsScan *scan, TupleTableSlot *slot)
{
	return psprintf("Fold of \"%s\", stream \"%s\", version %lld, position %lld, event type \"%s\".",
					fold->aggregate->category, text_to_cstring(fold->stream),
					(long long) DatumGetInt64(es_row_column(slot, Anum_log_version)),
					(long long) DatumGetInt64(es_row_column(slot, Anum_log_position)),
					text_to_cstring(es_scan_type(scan, slot)));
}

static void
fold_by_expression(EsFold *fold, EsScan *scan, TupleTableSlot *slot)
{
	EsEvaluation	   *run = fold->run;
	Bitmapset  *used = run->expr->used;
	MemoryContext old;
	Datum		result;
	bool		isnull;

	es_evaluation_set(run, FOLD_STATE, JsonbPGetDatum(fold->state), false);
	if (bms_is_member(FOLD_EVENT_TYPE, used))
		es_evaluation_set(run, FOLD_EVENT_TYPE, PointerGetDatum(es_scan_type(scan, slot)), false);
	if (bms_is_member(FOLD_DATA, used))
	{
		Datum		data = es_scan_data(scan, slot, &isnull);

		es_evaluation_set(run, FOLD_DATA, data, isnull);
	}
	if (bms_is_member(FOLD_METADATA, used))
	{
		Datum		metadata = slot_getattr(slot, Anum_log_metadata, &isnull);

		es_evaluation_set(run, FOLD_METADATA, metadata, isnull);
	}
	if (bms_is_member(FOLD_VERSION, used))
		es_evaluation_set(run, FOLD_VERSION, es_row_column(slot, Anum_log_version), false);
	if (bms_is_member(FOLD_POSITION, used))
		es_evaluation_set(run, FOLD_POSITION, es_row_column(slot, Anum_log_position), false);
	if (bms_is_member(FOLD_OCCURRED_AT, used))
		es_evaluation_set(run, FOLD_OCCURRED_AT, es_row_column(slot, Anum_log_occurred_at), false);
	if (bms_is_member(FOLD_RECORDED_AT, used))
		es_evaluation_set(run, FOLD_RECORDED_AT, es_row_column(slot, Anum_log_recorded_at), false);
	if (bms_is_member(FOLD_STREAM, used))
		es_evaluation_set(run, FOLD_STREAM, PointerGetDatum(fold->stream), false);
	if (bms_is_member(FOLD_SCHEMA_VERSION, used))
		es_evaluation_set(run, FOLD_SCHEMA_VERSION, Int32GetDatum(es_scan_schema_version(scan, slot)), false);

	es_evaluation_enter(run);
	result = es_evaluate(run, &isnull);
	es_evaluation_leave(run);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("fold returned NULL"),
				 errhint("Wrap what may be missing in coalesce().")));

	/* A fold that returns its state unchanged costs nothing. */
	if (DatumGetPointer(result) != (Pointer) fold->state)
	{
		int			next = 1 - fold->current;

		old = MemoryContextSwitchTo(fold->states[next]);
		fold->state = DatumGetJsonbPCopy(result);
		MemoryContextSwitchTo(old);
		MemoryContextReset(fold->states[fold->current]);
		fold->current = next;
	}
	MemoryContextReset(es_evaluation_memory(run));
}

/* The rule for a stored event type; it is looked up by name once and then found by the type's id. */
static const EsRule *
find_rule(EsFold *fold, EsScan *scan, TupleTableSlot *slot)
{
	int32		id = es_scan_type_id(scan, slot);
	text	   *type;

	if (id > 0 && id < fold->rule_space && fold->rule_known[id])
		return fold->rule_by_type[id];

	type = es_scan_type(scan, slot);
	if (id == 0)
		return es_rules_find(fold->aggregate->rules, VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type));
	if (id >= fold->rule_space)
	{
		int			space = Max(64, id * 2);
		MemoryContext old = MemoryContextSwitchTo(fold->context);
		const EsRule **rules = palloc0(sizeof(EsRule *) * space);
		bool	   *known = palloc0(sizeof(bool) * space);

		if (fold->rule_space > 0)
		{
			memcpy(rules, fold->rule_by_type, sizeof(EsRule *) * fold->rule_space);
			memcpy(known, fold->rule_known, sizeof(bool) * fold->rule_space);
		}
		fold->rule_by_type = rules;
		fold->rule_known = known;
		fold->rule_space = space;
		MemoryContextSwitchTo(old);
	}
	fold->rule_by_type[id] = es_rules_find(fold->aggregate->rules, VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type));
	fold->rule_known[id] = true;
	return fold->rule_by_type[id];
}

static void
fold_by_rules(EsFold *fold, EsScan *scan, TupleTableSlot *slot)
{
	const EsRule *rule = find_rule(fold, scan, slot);
	EsRulesEvent event;
	bool		isnull;

	if (rule == NULL)
		return;
	event.stream = fold->stream;
	event.type = es_scan_type(scan, slot);
	event.version = DatumGetInt64(es_row_column(slot, Anum_log_version));
	event.position = DatumGetInt64(es_row_column(slot, Anum_log_position));
	event.occurred_at = DatumGetTimestampTz(es_row_column(slot, Anum_log_occurred_at));
	event.recorded_at = DatumGetTimestampTz(es_row_column(slot, Anum_log_recorded_at));
	event.schema_version = es_scan_schema_version(scan, slot);
	event.id = DatumGetUUIDP(es_row_column(slot, Anum_log_event_id));
	event.data = NULL;
	event.metadata = NULL;
	if (es_rules_use_data(fold->aggregate->rules))
	{
		Datum		data = es_scan_data(scan, slot, &isnull);

		event.data = isnull ? NULL : DatumGetJsonbP(data);
	}
	if (es_rules_use_metadata(fold->aggregate->rules))
	{
		Datum		metadata = slot_getattr(slot, Anum_log_metadata, &isnull);

		event.metadata = isnull ? NULL : DatumGetJsonbP(metadata);
	}
	es_rules_step(fold->rules, rule, &event);
}

/*
 * Folds the scan's current event. Raises YE006, naming aggregate, stream, version and event type.
 * A payload that had to be detoasted stays in the current memory context until the caller resets that.
 */
void
es_fold_step(EsFold *fold, EsScan *scan, TupleTableSlot *slot)
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		if (fold->run != NULL)
			fold_by_expression(fold, scan, slot);
		else
			fold_by_rules(fold, scan, slot);
	}
	PG_CATCH();
	{
		if (!es_failure_is_ours())
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		es_failure_rethrow(ES_FOLD_FAILED, place_of(fold, scan, slot));
	}
	PG_END_TRY();

	fold->version = DatumGetInt64(es_row_column(slot, Anum_log_version));
	fold->position = DatumGetInt64(es_row_column(slot, Anum_log_position));
	fold->recorded_at = DatumGetTimestampTz(es_row_column(slot, Anum_log_recorded_at));
	fold->folded++;
}

/*
 * The state so far. The result is good until the next step. Raises YE006 when what the rules have made is more than a
 * jsonb can hold.
 */
Jsonb *
es_fold_state(EsFold *fold)
{
	MemoryContext caller = CurrentMemoryContext;
	Jsonb	   *volatile state = NULL;

	if (fold->rules == NULL)
		return fold->state;
	PG_TRY();
	{
		state = es_rules_result(fold->rules);
	}
	PG_CATCH();
	{
		if (!es_failure_is_ours())
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		es_failure_rethrow(ES_FOLD_FAILED,
						   psprintf("State of \"%s\", stream \"%s\", version %lld.",
									fold->aggregate->category, text_to_cstring(fold->stream),
									(long long) fold->version));
	}
	PG_END_TRY();
	return state;
}

void
es_fold_end(EsFold *fold)
{
	if (fold->run != NULL)
	{
		es_evaluation_close(fold->run);
		MemoryContextDelete(fold->states[0]);
		MemoryContextDelete(fold->states[1]);
	}
	if (fold->rules != NULL)
		es_rules_end(fold->rules);
	if (fold->upcast != NULL)
		es_transform_end(fold->upcast);
	pfree(fold);
}
