/*
 * projection/schedule.c
 *	  Which projections the workers of the pool run, and when.
 *
 * A worker that is woken looks for work (projection/look.c). A projection that may get something is run, in batches, by whoever takes
 * it from the hand-out in shared memory (worker/handout.c). The first batch is run in the transaction of the look.
 *
 * A position in shared memory is true of the definition that it was found with, and with the upcasters of then, and it counts
 * only where the checkpoint still is where it was: whoever runs the next batch compares all this under the checkpoint's lock.
 * After a crash the checkpoint's older position is as good: what is between the two is looked at once more.
 *
 * Projections whose last batch took long, or waited for a lock, or of which that is not known yet, are slow. They leave a worker
 * for the others, and where there is only one worker they come after them.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"
#include "projection/projection.h"
#include "projection/definition.h"
#include "projection/apply.h"
#include "projection/crash.h"
#include "projection/look.h"
#include "projection/rebuild.h"
#include "projection/run.h"

/* Milliseconds. */
#define BATCH_TIME_LONG		200		/* a batch that takes longer makes the next one smaller */
#define BATCH_TIME_SHORT	50		/* a full one that takes less makes it larger */
#define RUN_TIME			100		/* batches of one projection, before the worker goes on to the next one */
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
#define ALONE_WAIT			2000	/* for other workers to end what they are at */
#define ALONE_PAUSE			10000	/* after that was in vain */
#define ALONE_STEP			10
#define BUSY_INTERVAL		50		/* while slow projections wait for a worker */

/* The projection that this worker runs; NULL: none. */
static const char *running = NULL;

/* ---------------------------------------------------------------- what is known */

/* Whether the position in shared memory counts for a checkpoint, which is locked, and is ahead of it. */
static bool
is_ahead(const EsTaskState *state, const EsProjection *projection, const EsCheckpoint *checkpoint)
{
	return state->definition == es_look_definition(projection) && state->base == checkpoint->cursor.position &&
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
	uint64		definition = es_look_definition(projection);
	uint64		row = projection->row;
	EsResult	result;
	Snapshot	snapshot;
	long		elapsed;
	int64		known;
	uint8		before[ES_DIGEST_LEN];

	if (ahead)
	{
		/* What was passed was passed with the upcasters of now (es_upcasters_hash()). */
		es_upcaster_set(es_definitions(), projection->filter.types, projection->filter.all_types, before);
		task->ahead = before;
		advance(checkpoint, after->known);
	}
	set_lock_timeout(checkpoint->attempts);
	if (projection->limit == 0)
		projection->limit = projection->batch_size;
	task->limit = checkpoint->suspect ? 1 : projection->limit;
	/* What has no slot has nowhere else to be kept. And that the attempt has ended is to be stored. */
	task->write_idle = projection->task.slot == NULL || checkpoint->begun != 0;
	/* It is taken after the mark was found, so it shows all events up to the mark. */
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	result = es_projection_batch(task, projection, snapshot, mark);
	UnregisterSnapshot(snapshot);
	known = result == ES_NOTHING ? delivered(&task->next) : result == ES_APPLIED ? delivered(&checkpoint->cursor) :
		ahead ? after->known : delivered(&checkpoint->cursor);
	if (result == ES_NOTHING && save && ahead)
	{
		uint8		now[ES_DIGEST_LEN];

		es_upcaster_set(es_definitions(), task->filter->types, task->filter->all_types, now);
		advance(checkpoint, known);
		es_checkpoint_save(checkpoint, 0, now, memcmp(before, now, ES_DIGEST_LEN) != 0);
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

/* Stops a projection that has crashed the server. Its checkpoint is locked. */
static void
stop_crashing(EsCheckpoint *checkpoint, const char *name)
{
	ErrorData	error = {.sqlerrcode = ERRCODE_CRASH_SHUTDOWN,.message = "the server crashes while its handler runs"};

	es_apply_failed(checkpoint, &error);
	es_projection_fail(name);
	ereport(LOG,
			(errmsg("projection \"%s\" has failed: %s", name, error.message),
			 errhint("Put right what is wrong with its handler, then SELECT es_resume(%s).", quote_literal_cstr(name))));
}

/*
 * Waits until no other worker is at a task; they take none meanwhile. Not for long: false, and the projection has to wait.
 */
static bool
await_alone(void)
{
	for (int waited = 0; !es_task_alone(); waited += ALONE_STEP)
	{
		if (waited >= ALONE_WAIT)
			return false;
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ALONE_STEP, es_wait_event("EventStoreWorkerRest"));
		CHECK_FOR_INTERRUPTS();
	}
	return true;
}

/*
 * Runs one batch of a projection that this worker has taken, up to a mark that was found before, in the open transaction or one of
 * its own; commits. True: there is more to do at once. Sets *wake_at, where the projection has to be looked at again by
 * then even if nobody wakes the worker.
 */
static bool
run_one(const EsCandidate *candidate, int64 mark, bool *open, TimestampTz *wake_at, bool *once_more)
{
	EsCheckpoint checkpoint;
	EsTask		task;
	EsTaskState after;
	EsProjection *projection;
	EsResult	result = ES_NOTHING;
	EsAttempt	attempt = ES_ATTEMPT_NOW;
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
	running = candidate->name;

	memset(&task, 0, sizeof(task));
	task.patient = true;
	task.checkpoint = &checkpoint;
	(void) es_task_read(&candidate->task, false, &after);
	if (es_checkpoint_lock(candidate->name, false, false, &checkpoint) &&
		(projection = es_projection_find(candidate->name)) != NULL && es_projection_runs(projection) && !projection->is_inline)
	{
		ran = true;
		if (projection->task.slot == NULL)
			projection->task = candidate->task;
		after.retry_at = 0;
		if (checkpoint.retry_at > GetCurrentTimestamp())
			after.retry_at = checkpoint.retry_at;
		/* Where there is nothing to do no handler is run. */
		else if (mark <= checkpoint.cursor.position ||
				 (attempt = es_attempt_begin(&checkpoint, projection)) == ES_ATTEMPT_NOW)
		{
			bool		suspect = checkpoint.suspect;

			result = run_locked(projection, &checkpoint, mark, candidate->save, &task, &after);
			if ((projection = es_projection_find(candidate->name)) != NULL)
				es_attempt_end(projection, suspect);
		}
		else if (attempt == ES_ATTEMPT_FAILED)
			stop_crashing(&checkpoint, projection->name);
		if (attempt == ES_ATTEMPT_LATER)
			after.retry_at = checkpoint.retry_at;
		else if (attempt == ES_ATTEMPT_ALONE)
			after.retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BUSY_INTERVAL);
		if (after.retry_at != 0)
			*wake_at = after.retry_at;
	}
	es_process_end();
	/* A batch that kills the server takes everything with it that is not on disk. */
	if (attempt == ES_ATTEMPT_BEGUN)
		XLogFlush(XactLastCommitEnd);
	running = NULL;
	after.ran_at = GetCurrentTimestamp();
	/* The task is still ours, and so is the database, if it is to be. */
	if (attempt == ES_ATTEMPT_BEGUN || (attempt == ES_ATTEMPT_ALONE && await_alone()))
		return run_one(candidate, mark, open, wake_at, once_more);
	if (attempt == ES_ATTEMPT_ALONE)
	{
		/* The others have waited, and have their time first. */
		after.retry_at = TimestampTzPlusMilliseconds(after.ran_at = GetCurrentTimestamp(), ALONE_PAUSE);
		*wake_at = after.retry_at;
	}
	*once_more |= es_task_end(ran ? &after : NULL);
	/* A commit that has stored nothing has told nobody. */
	if (result == ES_NOTHING && es_shared_watched())
		es_shared_announce(ES_NEWS_PROGRESS);
	return result == ES_APPLIED && task.more;
}

/* Healthy ones first, then those that have waited longest. */
static int
compare_candidates(const ListCell *a, const ListCell *b)
{
	const EsCandidate *left = lfirst(a);
	const EsCandidate *right = lfirst(b);

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
run_rebuild(const EsCandidate *candidate)
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
		EsCandidate *candidate = lfirst(lc);
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
			es_wake_by(wake_at, look_again);
		if (later)
			es_wake_by(wake_at, TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BUSY_INTERVAL));
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

/* A round: looks for something to do, and does what no other worker is at. */
static bool
run_round(long *wait)
{
	static MemoryContext context = NULL;
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
	/* It is kept, so that an error leaves nothing behind. */
	if (context == NULL)
		context = AllocSetContextCreate(TopMemoryContext, "event_store run", ALLOCSET_SMALL_SIZES);
	MemoryContextReset(context);
	(void) es_store_now();
	snapshot = es_mark_snapshot_inside(&mark);
	candidates = es_look(mark, snapshot, context, &wake_at, &more);
	UnregisterSnapshot(snapshot);
	list_sort(candidates, compare_candidates);
	more |= run_candidates(candidates, mark, &open, context, &wake_at, &ran);
	if (open)
		es_process_end();
	*wait = wake_at == 0 ? -1 : milliseconds_until(wake_at);
	if (ran && !more)
		rest(start);
	MemoryContextSwitchTo(old);
	return more;
}

/* Notes an error that has come from a projection's run, but not from its handler: with that, its batch is tried again later. */
static void
note_failure(const char *name, const ErrorData *error)
{
	EsCheckpoint checkpoint;

	if (!es_process_begin(psprintf("projection %s", name)))
		return;
	(void) es_store_now();
	if (es_checkpoint_lock(name, false, false, &checkpoint))
		es_apply_failed(&checkpoint, error);
	es_process_end();
}

/*
 * What a worker of the pool does. Returns and sets what EsPoolWork says. An error of one projection does not end the worker, which
 * would be missing to the others.
 */
static bool
run_projections(long *wait)
{
	volatile bool more = false;

	running = NULL;
	PG_TRY();
	{
		more = run_round(wait);
	}
	PG_CATCH();
	{
		MemoryContext context = AllocSetContextCreate(TopMemoryContext, "event_store failure", ALLOCSET_SMALL_SIZES);
		ErrorData  *error;
		char	   *name;

		if (running == NULL || es_is_cancel(geterrcode()))
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		name = pstrdup(running);
		FlushErrorState();
		es_process_abort();
		(void) es_task_end(NULL);
		running = NULL;
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("a worker could not run projection \"%s\": %s", name, error->message),
				 errdetail("It tries again later.")));
		note_failure(name, error);
		MemoryContextDelete(context);
		*wait = DROPPED_INTERVAL;
	}
	PG_END_TRY();
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
			es_projection_runs(&projections[i]) && !projections[i].is_inline)
			names = lappend(names, pstrdup(projections[i].name));
	}
	foreach(lc, names)
	{
		EsCheckpoint checkpoint;
		EsProjection *projection;
		EsTaskState state;

		if (es_checkpoint_lock(lfirst(lc), false, false, &checkpoint) &&
			(projection = es_projection_find(lfirst(lc))) != NULL &&
		/* Why it waits is in the row: that stays. */
			checkpoint.attempts == 0 && checkpoint.retry_at == 0 && checkpoint.begun == 0 &&
			es_task_read(&projection->task, false, &state) && is_ahead(&state, projection, &checkpoint))
		{
			uint8		upcasters[ES_DIGEST_LEN];

			es_upcaster_set(es_definitions(), projection->filter.types, projection->filter.all_types, upcasters);
			advance(&checkpoint, state.known);
			es_checkpoint_save(&checkpoint, 0, upcasters, false);
		}
	}
	es_process_end();
}

/* How many tasks there are for the pool: projections that run, or will when their pause ends, and rebuilds. In the open transaction. */
static int
count_tasks(void)
{
	int			count;
	int			tasks = 0;
	EsProjection *projections;

	(void) es_store_now();
	projections = es_projections(&count);
	for (int i = 0; i < count; i++)
		tasks += (projections[i].running || projections[i].paused_until != DT_NOEND) && !projections[i].is_inline;
	return tasks + list_length(es_rebuilds(CurrentMemoryContext));
}

/* Has the pool run projections; called once, when the library is loaded. */
void
es_run_init(void)
{
	static const EsPoolWork work = {count_tasks, run_projections, LONGEST_LOCK_TIMEOUT, store_positions};

	es_pool_register(&work);
}
