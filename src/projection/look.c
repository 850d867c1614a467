/*
 * projection/look.c
 *	  Looking for what the workers of the pool have to do.
 *
 * A worker that is woken looks for work: as the dispatcher, alone in its database, it scans what is new in the log once, for
 * all projections that are known to have had nothing to do (consumer/dispatch.c). What it finds out is noted in shared memory,
 * in the hand-out (worker/handout.c). For a projection that gets nothing of it, that is all: its position moves in shared
 * memory alone, and its checkpoint is stored later (SAVE_INTERVAL, SAVE_DISTANCE).
 *
 * A position in shared memory is true of the definition that it was found with, and with the upcasters of then.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"
#include "consumer/consumer.h"
#include "projection/definition.h"
#include "projection/look.h"
#include "projection/rebuild.h"

#define SAVE_INTERVAL		10000	/* milliseconds: so late is a checkpoint stored that has moved in shared memory alone */

/* Positions. */
#define SAVE_DISTANCE		INT64CONST(1000000) /* a checkpoint is not farther behind than that */
#define SCAN_DISTANCE		INT64CONST(100000)	/* who is farther behind looks for himself, by the index of his category */
#define SCAN_AT_MOST		20000	/* events in one look */

/* The dispatch, and what it was made for. */
static EsDispatch *dispatch = NULL;
static const EsFilter **filters = NULL;
static EsTaskRef *dispatched = NULL;	/* the tasks of then */
static int	dispatched_count = 0;
static uint64 dispatch_generation = 0;
static uint64 dispatch_upcasters = 0;

/* What positions in the hand-out are true of. */
uint64
es_look_definition(const EsProjection *projection)
{
	return hash_combine64(projection->row, es_upcasters_hash(es_definitions()));
}

/*
 * Up to where a projection has nothing to do, as far as shared memory knows; 0 where it knows nothing.
 */
int64
es_look_known(const char *name)
{
	EsProjection *projection = es_projection_find(name);
	EsTaskState state;

	if (projection == NULL)
		return 0;
	if (projection->task.slot == NULL)
		es_task_find(name, false, &projection->task);
	if (!es_task_read(&projection->task, false, &state) || state.definition != es_look_definition(projection))
		return 0;
	return state.known;
}

/* ---------------------------------------------------------------- looking for work */

/*
 * Makes the dispatch anew where definitions or upcasters have changed, and frees the slots of projections that are gone. The
 * generation was read before the definitions.
 */
static void
refresh_dispatch(EsProjection *projections, int count, uint64 generation)
{
	uint64		upcasters = es_upcasters_hash(es_definitions());

	if (dispatch != NULL && dispatch_generation == generation && dispatch_upcasters == upcasters)
		return;
	if (dispatch != NULL)
		es_dispatch_free(dispatch);
	dispatch = NULL;
	for (int i = 0; i < dispatched_count; i++)
	{
		bool		gone = true;

		for (int j = 0; j < count && gone; j++)
			gone = projections[j].task.slot != dispatched[i].slot;
		if (gone)
			es_task_forget(&dispatched[i]);
	}
	if (filters != NULL)
	{
		pfree(filters);
		pfree(dispatched);
	}
	filters = MemoryContextAlloc(TopMemoryContext, sizeof(EsFilter *) * Max(count, 1));
	dispatched = MemoryContextAlloc(TopMemoryContext, sizeof(EsTaskRef) * Max(count, 1));
	dispatched_count = count;
	for (int i = 0; i < count; i++)
	{
		filters[i] = &projections[i].filter;
		dispatched[i] = projections[i].task;
	}
	dispatch = es_dispatch_create(count, filters);
	dispatch_generation = generation;
	dispatch_upcasters = upcasters;
}

/* Adds a candidate to the list, which is in the current memory context. */
static List *
add_candidate(List *list, const char *name, const EsTaskRef *task, const EsTaskState *state, bool rebuild, bool save)
{
	EsCandidate *candidate = palloc0(sizeof(EsCandidate));

	candidate->name = pstrdup(name);
	candidate->rebuild = rebuild;
	candidate->slow = state->slow || task->slot == NULL;
	candidate->save = save;
	candidate->task = *task;
	candidate->ran_at = state->ran_at;
	return lappend(list, candidate);
}

/* Whether it is time to store a checkpoint that has moved in shared memory; else it will be at *wake_at. */
static bool
save_is_due(const EsTaskState *state, TimestampTz now, TimestampTz *wake_at)
{
	TimestampTz due = TimestampTzPlusMilliseconds(state->moved_at, SAVE_INTERVAL);

	if (state->known <= state->base)
		return false;
	if (now >= due || state->known - state->base > SAVE_DISTANCE)
		return true;
	es_wake_by(wake_at, due);
	return false;
}

typedef struct NewsScan
{
	Snapshot	snapshot;
	const int64 *known;
	Bitmapset  *left;			/* without those that may get something */
	int64		mark;
	int64		reached;
} NewsScan;

static void
run_scan(void *arg)
{
	NewsScan   *scan = arg;

	scan->reached = es_dispatch_scan(dispatch, scan->snapshot, scan->known, &scan->left, scan->mark, SCAN_AT_MOST);
}

/*
 * Scans what is new, for the projections in `asked`, of which `states` was noted; lists those that may get something. Sets *more
 * where the scan did not come to its end. When the log cannot be read, that is each projection's own trouble: all are listed.
 */
static List *
scan_news(EsProjection *projections, int count, EsTaskState *states, Bitmapset *asked, int64 mark, Snapshot snapshot,
		  MemoryContext context, bool *more)
{
	int64	   *known = palloc(sizeof(int64) * count);
	NewsScan	scan = {snapshot, known, bms_copy(asked), mark, 0};
	List	   *found = NIL;
	int			i = -1;
	bool		moved = false;

	for (int j = 0; j < count; j++)
		known[j] = states[j].known;
	if (es_catch(run_scan, &scan) != NULL)
	{
		scan.left = NULL;
		scan.reached = mark;
	}
	while ((i = bms_next_member(asked, i)) >= 0)
		if (bms_is_member(i, scan.left))
		{
			int64		to = Max(scan.reached, known[i]);

			es_task_looked(&projections[i].task, &states[i], to, to);
			moved |= to > known[i];
		}
		else
		{
			MemoryContext old = MemoryContextSwitchTo(context);

			es_task_looked(&projections[i].task, &states[i], known[i], mark);
			found = add_candidate(found, projections[i].name, &projections[i].task, &states[i], false, false);
			MemoryContextSwitchTo(old);
		}
	if (moved && es_shared_watched())
		es_shared_announce(ES_NEWS_PROGRESS);
	*more |= scan.reached < mark;
	return found;
}

/*
 * Lists what there is to do, in a memory context, in the open transaction. The snapshot shows everything up to the mark.
 */
List *
es_look(int64 mark, Snapshot snapshot, MemoryContext context, TimestampTz *wake_at, bool *more)
{
	TimestampTz now = GetCurrentTimestamp();
	MemoryContext old;
	uint64		generation = es_projections_generation();
	EsProjection *projections;
	EsTaskState *states;
	Bitmapset  *asked = NULL;
	List	   *found = NIL;
	ListCell   *lc;
	int			count;

	projections = es_projections(&count);
	states = palloc0(sizeof(EsTaskState) * Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		EsProjection *projection = &projections[i];
		EsTaskState *state = &states[i];
		bool		noted;
		bool		save = false;

		if (projection->task.slot == NULL)
			es_task_find(projection->name, true, &projection->task);
		noted = es_task_read(&projection->task, true, state);
		if (projection->is_inline || state->pid != 0)
			continue;
		if (!es_projection_runs(projection))
		{
			if (projection->paused_until != DT_NOEND)
				es_wake_by(wake_at, projection->paused_until);
			continue;
		}
		/* Whoever has changed a definition does not want to wait. */
		noted = noted && state->definition == es_look_definition(projection);
		if (noted && state->retry_at > now)
		{
			es_wake_by(wake_at, state->retry_at);
			continue;
		}
		if (noted && state->upto <= state->known &&
			mark - state->known <= SCAN_DISTANCE)
		{
			save = save_is_due(state, now, wake_at);
			if (state->known < mark && !save)
				asked = bms_add_member(asked, i);
			if (!save)
				continue;
		}
		old = MemoryContextSwitchTo(context);
		found = add_candidate(found, projection->name, &projection->task, state, false, save);
		MemoryContextSwitchTo(old);
	}
	refresh_dispatch(projections, count, generation);
	if (asked != NULL && es_dispatch_begin())
	{
		List	   *news = scan_news(projections, count, states, asked, mark, snapshot, context, more);

		old = MemoryContextSwitchTo(context);
		found = list_concat(found, news);
		MemoryContextSwitchTo(old);
		*more |= es_dispatch_end();
	}
	old = MemoryContextSwitchTo(context);
	foreach(lc, es_rebuilds(context))
	{
		EsTaskRef	task;
		EsTaskState state;

		es_task_find(psprintf("rebuild of %s", (char *) lfirst(lc)), true, &task);
		(void) es_task_read(&task, false, &state);
		state.slow = true;
		if (state.retry_at > now)
			es_wake_by(wake_at, state.retry_at);
		else if (state.pid == 0)
			found = add_candidate(found, lfirst(lc), &task, &state, true, false);
	}
	MemoryContextSwitchTo(old);
	return found;
}

