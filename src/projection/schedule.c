/*
 * projection/schedule.c
 *	  Which projections the workers of the pool run, and when.
 *
 * A worker that is woken looks for work: as the dispatcher, alone in its database, it scans what is new in the log once, for
 * all projections that are known to have had nothing to do (consumer/dispatch.c). What it finds out is noted in shared memory,
 * in the hand-out (worker/handout.c). For a projection that gets nothing of it, that is all: its position moves in shared
 * memory alone, and its checkpoint is stored later (SAVE_INTERVAL, SAVE_DISTANCE). A projection that may get something is run by
 * whoever takes it from the hand-out, in batches. The first one is run in the transaction of the look.
 *
 * A position in shared memory is true of the definition that it was found with, and with the upcasters of then, and it counts
 * only where the checkpoint still is where it was: whoever runs the next batch compares all this under the checkpoint's lock.
 * After a crash the checkpoint's older position is as good: what is between the two is looked at once more.
 *
 * Projections whose last batch took long, or waited for a lock, or of which that is not known yet, are slow. They leave a worker
 * for the others, and where there is only one worker they come after them.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"
#include "log/log.h"
#include "consumer/consumer.h"
#include "projection/projection.h"
#include "projection/definition.h"
#include "projection/apply.h"
#include "projection/rebuild.h"
#include "projection/run.h"
#include "projection/schedule.h"

/* Milliseconds. */
#define BATCH_TIME_LONG		200		/* a batch that takes longer makes the next one smaller */
#define BATCH_TIME_SHORT	50		/* a full one that takes less makes it larger */
#define RUN_TIME			100		/* batches of one projection, before the worker goes on to the next one */
#define SAVE_INTERVAL		10000	/* so late is a checkpoint stored that has moved in shared memory alone */
#define SLOW_INTERVAL		10000	/* where there is one worker, slow projections wait for the others at most so long */
#define SHORT_REST			8		/* longest pause after a batch that was not full */
#define LONG_REST			20		/* the same, after batches that took longer than BUSY_TIME */
#define BUSY_TIME			2
#define REST_SHARE			9		/* a pause is so many times as long as the batches took, within these limits */
#define SAVED_TIME			10		/* so much may be done without a pause after a long sleep */
#define WORKER_MARK_WAIT	10		/* for appends that are just committing */
#define FIRST_LOCK_TIMEOUT	100		/* of a handler; doubled with each attempt */
#define LONGEST_LOCK_TIMEOUT 10000
#define DROPPED_INTERVAL	100		/* while somebody drops the extension, and may roll back */
#define BUSY_INTERVAL		50		/* while slow projections wait for a worker */

/* Positions. */
#define SAVE_DISTANCE		INT64CONST(1000000) /* a checkpoint is not farther behind than that */
#define SCAN_DISTANCE		INT64CONST(100000)	/* who is farther behind looks for himself, by the index of his category */
#define SCAN_AT_MOST		20000	/* events in one look */

/* Something for a worker to do. */
typedef struct Candidate
{
	char	   *name;			/* of the projection */
	bool		rebuild;
	bool		slow;
	bool		save;			/* only its checkpoint is to be stored */
	EsTaskRef	task;
	TimestampTz ran_at;
} Candidate;

/* The dispatch, and what it was made for. */
static EsDispatch *dispatch = NULL;
static const EsFilter **filters = NULL;
static EsTaskRef *dispatched = NULL;	/* the tasks of then */
static int	dispatched_count = 0;
static uint64 dispatch_generation = 0;
static uint64 dispatch_upcasters = 0;

/* ---------------------------------------------------------------- what is known */

/* What positions in the hand-out are true of. */
static uint64
definition_of(const EsProjection *projection)
{
	return hash_combine64(projection->row, es_upcasters_hash());
}

/*
 * Up to where a projection has nothing to do, as far as shared memory knows; 0 where it knows nothing.
 */
int64
es_schedule_known(const char *name)
{
	EsProjection *projection = es_projection_find(name);
	EsTaskState state;

	if (projection == NULL)
		return 0;
	if (projection->task.slot == NULL)
		es_task_find(name, false, &projection->task);
	if (!es_task_read(&projection->task, false, &state) || state.definition != definition_of(projection))
		return 0;
	return state.known;
}

/* Whether the position in shared memory counts for a checkpoint, which is locked, and is ahead of it. */
static bool
is_ahead(const EsTaskState *state, const EsProjection *projection, const EsCheckpoint *checkpoint)
{
	return state->definition == definition_of(projection) && state->base == checkpoint->cursor.position &&
		checkpoint->cursor.scan_from == checkpoint->cursor.position + 1 && state->known > checkpoint->cursor.position;
}

static void
advance(EsCheckpoint *checkpoint, int64 known)
{
	checkpoint->cursor.position = known;
	checkpoint->cursor.scan_from = known + 1;
}

/* Everything up to this position has been delivered, or passed by. */
static int64
delivered(const EsCursor *cursor)
{
	return Min(cursor->position, cursor->scan_from - 1);
}

/* ---------------------------------------------------------------- one batch */

/* Chooses the size of the next batch by how long this one took. */
static void
adapt(EsProjection *projection, const EsTask *task, EsResult result, long elapsed)
{
	if (task->split && !projection->said_split)
	{
		projection->said_split = true;
		ereport(LOG,
				(errmsg("handler of projection \"%s\" fails on several calls at once, and not on each of them",
						projection->name),
				 errdetail("It is run call by call, which is slow."),
				 errhint("Two events for one row, perhaps: group the rows of new_events, or take the last one.")));
	}
	if (result == ES_LATER || task->split)
		projection->limit = Max(1, projection->limit / 4);
	else if (elapsed > BATCH_TIME_LONG)
		projection->limit = Max(1, projection->limit / 2);
	else if (task->more && elapsed < BATCH_TIME_SHORT)
		projection->limit = (int) Min((int64) projection->batch_size, (int64) projection->limit * 2);
}

/* Sets how long a handler may wait for a lock: not long at first, as others wait for this worker. */
static void
set_lock_timeout(int attempts)
{
	static int	current = 0;
	int			timeout = attempts > 6 ? LONGEST_LOCK_TIMEOUT : Min(FIRST_LOCK_TIMEOUT << attempts, LONGEST_LOCK_TIMEOUT);
	char		value[16];

	if (timeout == current)
		return;
	snprintf(value, sizeof(value), "%d", timeout);
	SetConfigOption("lock_timeout", value, PGC_SUSET, PGC_S_OVERRIDE);
	current = timeout;
}

/* Runs a batch of a projection whose checkpoint is locked, up to a mark. Sets what is to be noted of it. */
static EsResult
run_locked(EsProjection *projection, EsCheckpoint *checkpoint, int64 mark, bool save, EsTask *task, EsTaskState *after)
{
	TimestampTz start = GetCurrentTimestamp();
	int64		stored = checkpoint->cursor.position;
	bool		ahead = is_ahead(after, projection, checkpoint);
	char	   *name = projection->name;
	uint64		definition = definition_of(projection);
	uint64		row = projection->row;
	EsResult	result;
	Snapshot	snapshot;
	long		elapsed;
	int64		known;

	if (ahead)
		advance(checkpoint, after->known);
	set_lock_timeout(checkpoint->attempts);
	if (projection->limit == 0)
		projection->limit = projection->batch_size;
	task->limit = projection->limit;
	/* What has no slot has nowhere else to be kept. */
	task->write_idle = projection->task.slot == NULL;
	/* It is taken after the mark was found, so it shows all events up to the mark. */
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	result = es_projection_batch(task, projection, snapshot, mark);
	UnregisterSnapshot(snapshot);
	known = result == ES_NOTHING ? delivered(&task->next) : result == ES_APPLIED ? delivered(&checkpoint->cursor) :
		ahead ? after->known : delivered(&checkpoint->cursor);
	if (result == ES_NOTHING && save && ahead)
	{
		advance(checkpoint, known);
		es_checkpoint_save(checkpoint, 0);
	}

	/* The definitions may have been read again meanwhile, for example because the state was changed. */
	elapsed = TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());
	if ((projection = es_projection_find(name)) != NULL)
		adapt(projection, task, result, elapsed);
	after->definition = definition;
	after->row = row;
	after->base = result == ES_APPLIED || (result == ES_NOTHING && save && ahead) ? checkpoint->cursor.position : stored;
	if (known > after->base && (after->known <= after->base || after->moved_at == 0))
		after->moved_at = GetCurrentTimestamp();
	after->known = known;
	after->upto = result == ES_NOTHING || (result == ES_APPLIED && !task->more) ? known : mark;
	after->retry_at = result == ES_LATER ? checkpoint->retry_at : 0;
	after->slow = elapsed > ES_SLOW_TASK || task->error_code == ERRCODE_LOCK_NOT_AVAILABLE;
	return result;
}

/*
 * Runs one batch of a projection that this worker has taken, up to a mark that was found before, in the open transaction or one of
 * its own; commits. True: there is more to do at once. Sets *wake_at, where the projection has to be looked at again by
 * then even if nobody wakes the worker.
 */
static bool
run_one(const Candidate *candidate, int64 mark, bool *open, TimestampTz *wake_at, bool *once_more)
{
	EsCheckpoint checkpoint;
	EsTask		task;
	EsTaskState after;
	EsProjection *projection;
	EsResult	result = ES_NOTHING;
	char	   *activity = psprintf("projection %s", candidate->name);
	bool		ran = false;

	if (!*open && !es_process_begin(activity))
	{
		*wake_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), DROPPED_INTERVAL);
		(void) es_task_end(NULL);
		return false;
	}
	if (*open)
	{
		pgstat_report_activity(STATE_RUNNING, activity);
		debug_query_string = activity;
	}
	*open = false;

	memset(&task, 0, sizeof(task));
	task.patient = true;
	task.checkpoint = &checkpoint;
	(void) es_task_read(&candidate->task, false, &after);
	if (es_checkpoint_lock(candidate->name, false, false, &checkpoint) &&
		(projection = es_projection_find(candidate->name)) != NULL && projection->running && !projection->is_inline)
	{
		ran = true;
		if (checkpoint.retry_at > GetCurrentTimestamp())
			after.retry_at = checkpoint.retry_at;
		else
			result = run_locked(projection, &checkpoint, mark, candidate->save, &task, &after);
		if (after.retry_at != 0)
			*wake_at = after.retry_at;
	}
	es_process_end();
	after.ran_at = GetCurrentTimestamp();
	*once_more |= es_task_end(ran ? &after : NULL);
	/* A commit that has stored nothing has told nobody. */
	if (result == ES_NOTHING && es_shared_watched())
		es_shared_announce(ES_NEWS_PROGRESS);
	return result == ES_APPLIED && task.more;
}

/* ---------------------------------------------------------------- looking for work */

/*
 * Makes the dispatch anew where definitions or upcasters have changed, and frees the slots of projections that are gone. The
 * generation was read before the definitions.
 */
static void
refresh_dispatch(EsProjection *projections, int count, uint64 generation)
{
	uint64		upcasters = es_upcasters_hash();

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

static void
wake_by(TimestampTz *wake_at, TimestampTz when)
{
	*wake_at = *wake_at == 0 ? when : Min(*wake_at, when);
}

/* Adds a candidate to the list, which is in the current memory context. */
static List *
add_candidate(List *list, const char *name, const EsTaskRef *task, const EsTaskState *state, bool rebuild, bool save)
{
	Candidate  *candidate = palloc0(sizeof(Candidate));

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
	wake_by(wake_at, due);
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
static List *
look(int64 mark, Snapshot snapshot, MemoryContext context, TimestampTz *wake_at, bool *more)
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
		if (!projection->running || projection->is_inline || state->pid != 0)
			continue;
		/* Whoever has changed a definition does not want to wait. */
		noted = noted && state->definition == definition_of(projection);
		if (noted && state->retry_at > now)
		{
			wake_by(wake_at, state->retry_at);
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
			wake_by(wake_at, state.retry_at);
		else if (state.pid == 0)
			found = add_candidate(found, lfirst(lc), &task, &state, true, false);
	}
	MemoryContextSwitchTo(old);
	return found;
}

/* Healthy ones first, then those that have waited longest. */
static int
compare_candidates(const ListCell *a, const ListCell *b)
{
	const Candidate *left = lfirst(a);
	const Candidate *right = lfirst(b);

	if (left->slow != right->slow)
		return left->slow ? 1 : -1;
	return (left->ran_at > right->ran_at) - (left->ran_at < right->ran_at);
}

/* ---------------------------------------------------------------- a worker's round */

static long
milliseconds_until(TimestampTz wake_at)
{
	return Max(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), wake_at), 1);
}

/*
 * Pauses after batches that were not full, so that the next ones have more to do. As long as a worker keeps up, it so
 * uses about a tenth of a core. What it has not used while it slept it may use later, up to some milliseconds: so where
 * events come now and then, they do not wait.
 */
static void
rest(TimestampTz start)
{
	static TimestampTz rested_until = 0;	/* of all time before it, a tenth was used */
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz earliest = now - SAVED_TIME * INT64CONST(1000) * (REST_SHARE + 1);
	TimestampTz elapsed = now - start;

	rested_until = Max(rested_until, earliest) + elapsed * (REST_SHARE + 1);
	if (rested_until > now)
	{
		long		pause = Min((rested_until - now) / 1000, elapsed > BUSY_TIME * 1000 ? LONG_REST : SHORT_REST);

		if (pause > 0)
			(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, pause, es_wait_event("EventStoreWorkerRest"));
		rested_until = Min(rested_until, GetCurrentTimestamp());
	}
	CHECK_FOR_INTERRUPTS();
}

/*
 * Before a task that may take long: who has news is to wake another worker, and what came since we said that we sleep is for
 * another one too.
 */
static void
leave_news_to_others(void)
{
	if (pg_atomic_exchange_u32(&es_process_place()->asleep, 0) == 0)
		es_shared_wake_one(es_process_entry(), es_process_place());
}

/*
 * After a slow batch: whoever waits for its checkpoint, to pause it or to end a rebuild, gets it before the next one. The lock is
 * not handed over, so it takes a moment.
 */
static void
give_way(TimestampTz start)
{
	long		pause = Min((GetCurrentTimestamp() - start) / 1000 / 50, LONG_REST);

	if (pause > 0)
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, pause, es_wait_event("EventStoreWorkerRest"));
}

/* Runs a step of a rebuild that this worker has taken. True: there is more to do at once. */
static bool
run_rebuild(const Candidate *candidate)
{
	EsTaskState after = {.ran_at = GetCurrentTimestamp()};
	TimestampTz wake_at = 0;
	bool		more = es_rebuild_step(candidate->name, &wake_at);

	if (!more)
		after.retry_at = wake_at != 0 ? wake_at : TimestampTzPlusMilliseconds(GetCurrentTimestamp(), DROPPED_INTERVAL);
	(void) es_task_end(&after);
	return more;
}

/* Runs what was found, as far as this worker may. Sets *ran; returns whether there is more to do at once. */
static bool
run_candidates(List *candidates, int64 mark, bool *open, MemoryContext context, TimestampTz *wake_at, bool *ran)
{
	static TimestampTz slow_at = 0;
	EsSharedDatabase *entry = es_process_entry();
	bool		more = false;
	bool		slow_done = false;
	ListCell   *lc;

	foreach(lc, candidates)
	{
		Candidate  *candidate = lfirst(lc);
		TimestampTz began = GetCurrentTimestamp();
		TimestampTz look_again = 0;
		bool		again = false;
		bool		later = false;
		bool		once_more = false;

		if (candidate->slow)
		{
			/* One of them, and then another look: the others have waited. */
			if (slow_done || (more && entry->workers_wanted == 1 &&
							  !TimestampDifferenceExceeds(slow_at, began, SLOW_INTERVAL)))
			{
				more = true;
				break;
			}
		}
		do
		{
			if (es_process_wanted_away())
				return false;
			MemoryContextSwitchTo(context);
			again = false;
			if (!es_task_take(&candidate->task, candidate->slow, &later))
				break;
			if (lnext(candidates, lc) != NULL && !*ran)
				es_shared_wake_one(entry, es_process_place());
			*ran = true;
			if (candidate->slow)
			{
				slow_done = candidate->task.slot != NULL;
				slow_at = began;
				if (slow_done)
					leave_news_to_others();
			}
			if (candidate->rebuild)
			{
				if (*open)
					es_process_end();
				*open = false;
				again = run_rebuild(candidate);
			}
			else
				again = run_one(candidate, mark, open, &look_again, &once_more);
		} while (again && !candidate->slow && !TimestampDifferenceExceeds(began, GetCurrentTimestamp(), RUN_TIME));
		more |= again || once_more;
		if (look_again != 0)
			wake_by(wake_at, look_again);
		if (later)
			wake_by(wake_at, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BUSY_INTERVAL));
	}
	if (slow_done)
		give_way(slow_at);
	return more || slow_done;
}

static void
prepare_worker(void)
{
	static bool prepared = false;

	if (prepared)
		return;
	/* A crash that loses a batch loses its checkpoint as well, so commits need not wait for the disk. */
	SetConfigOption("synchronous_commit", "off", PGC_SUSET, PGC_S_OVERRIDE);
	es_mark_wait = WORKER_MARK_WAIT;
	es_mark_poll_slowly();
	prepared = true;
}

/*
 * What a worker of the pool does: looks for something to do, and does what no other worker is at. Returns and sets what
 * EsPoolWork says.
 */
static bool
run_projections(long *wait)
{
	MemoryContext context;
	MemoryContext old = CurrentMemoryContext;
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz wake_at = 0;
	List	   *candidates;
	Snapshot	snapshot;
	bool		open = true;
	bool		ran = false;
	bool		more = false;
	int64		mark;

	prepare_worker();
	if (!es_process_begin("looking for events"))
	{
		*wait = DROPPED_INTERVAL;
		return false;
	}
	context = AllocSetContextCreate(TopMemoryContext, "event_store run", ALLOCSET_SMALL_SIZES);
	(void) es_store_now();
	snapshot = es_mark_snapshot_inside(&mark);
	candidates = look(mark, snapshot, context, &wake_at, &more);
	UnregisterSnapshot(snapshot);
	list_sort(candidates, compare_candidates);
	more |= run_candidates(candidates, mark, &open, context, &wake_at, &ran);
	if (open)
		es_process_end();
	*wait = wake_at == 0 ? -1 : milliseconds_until(wake_at);
	if (ran && !more)
		rest(start);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return more;
}

/* Stores the checkpoints that have moved in shared memory alone. */
static void
store_positions(void)
{
	EsProjection *projections;
	List	   *names = NIL;
	ListCell   *lc;
	int			count;

	if (!es_process_begin("storing checkpoints"))
		return;
	(void) es_store_now();
	projections = es_projections(&count);
	for (int i = 0; i < count; i++)
	{
		EsTaskState state;

		es_task_find(projections[i].name, false, &projections[i].task);
		if (es_task_read(&projections[i].task, false, &state) && state.pid == 0 && state.known > state.base &&
			projections[i].running && !projections[i].is_inline)
			names = lappend(names, pstrdup(projections[i].name));
	}
	foreach(lc, names)
	{
		EsCheckpoint checkpoint;
		EsProjection *projection;
		EsTaskState state;

		if (es_checkpoint_lock(lfirst(lc), false, false, &checkpoint) &&
			(projection = es_projection_find(lfirst(lc))) != NULL &&
			es_task_read(&projection->task, false, &state) && is_ahead(&state, projection, &checkpoint))
		{
			advance(&checkpoint, state.known);
			es_checkpoint_save(&checkpoint, 0);
		}
	}
	es_process_end();
}

/* How many tasks there are for the pool: projections that run, and rebuilds. In the open transaction. */
static int
count_tasks(void)
{
	int			count;
	int			tasks = 0;
	EsProjection *projections;

	(void) es_store_now();
	projections = es_projections(&count);
	for (int i = 0; i < count; i++)
		tasks += projections[i].running && !projections[i].is_inline;
	return tasks + list_length(es_rebuilds(CurrentMemoryContext));
}

/* Has the pool run projections; called once, when the library is loaded. */
void
es_run_init(void)
{
	static const EsPoolWork work = {count_tasks, run_projections, LONGEST_LOCK_TIMEOUT, store_positions};

	es_pool_register(&work);
}
