/*
 * projection/run.c
 *	  Running projections: by workers of the pool, and in the foreground. Waiting for them.
 *
 * Any worker can run any projection. The process that has locked a checkpoint's row runs that projection, and other
 * workers skip it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"
#include "log/log.h"
#include "projection/projection.h"
#include "projection/definition.h"
#include "projection/apply.h"
#include "projection/rebuild.h"
#include "projection/run.h"

PG_FUNCTION_INFO_V1(es_run_projection);
PG_FUNCTION_INFO_V1(es_wait_for_projection);
PG_FUNCTION_INFO_V1(es_retry_quarantined);

/* Milliseconds. */
#define BATCH_TIME_LONG		200		/* a batch that takes longer makes the next one smaller */
#define BATCH_TIME_SHORT	50		/* a full one that takes less makes it larger */
#define RUN_TIME			100		/* batches of one projection, before the worker goes on to the next one */
#define IDLE_INTERVAL		200		/* between writes of a checkpoint that only the mark moves, where nobody waits */
#define SHORT_REST			8		/* longest pause after a batch that was not full */
#define LONG_REST			20		/* the same, after batches that took longer than BUSY_TIME */
#define BUSY_TIME			2
#define REST_SHARE			9		/* a pause is so many times as long as the batches took, within these limits */
#define WORKER_MARK_WAIT	10		/* for appends that are just committing */
#define HANDLER_LOCK_TIMEOUT 10000	/* then the batch is tried again */
#define DROPPED_INTERVAL	100		/* while somebody drops the extension, and may roll back */

/* ---------------------------------------------------------------- one batch */

static void
stop_projection(EsTask *task, EsProjection *projection)
{
	int			level = task->patient ? LOG : WARNING;
	char	   *name = pstrdup(projection->name);

	es_projection_set_state(name, "failed");
	ereport(level,
			(errmsg("projection \"%s\" has failed: %s", name, task->error),
			 errdetail("It stays at position %lld.", (long long) task->checkpoint->cursor.position),
			 errhint("Put right what is wrong, then SELECT es_resume_projection(%s).", quote_literal_cstr(name))));
}

/* Runs one batch of a projection. Its checkpoint is locked, and its definition was looked up after that. */
static EsResult
run_batch(EsTask *task, EsProjection *projection, Snapshot snapshot, int64 upto)
{
	EsResult	result;

	task->filter = &projection->filter;
	task->handler = es_projection_handler(projection);
	task->max = Max(es_max_batch, task->limit);
	result = es_apply(task, snapshot, upto);
	if (result == ES_FAILED)
		stop_projection(task, projection);
	return result;
}

/* ---------------------------------------------------------------- workers */

/* Chooses the size of the next batch by how long this one took. */
static void
adapt(EsProjection *projection, const EsTask *task, EsResult result, TimestampTz start)
{
	long		elapsed = TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());

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

/*
 * Runs one batch of one projection, in a transaction of its own, up to a mark that was found before. True: there is
 * more to do at once. Sets *wake_at, where the projection has to be looked at again by then even if nobody wakes the
 * worker.
 */
static bool
run_one(const char *name, int64 mark, TimestampTz *wake_at)
{
	EsCheckpoint checkpoint;
	EsTask		task;
	EsProjection *projection;
	Snapshot	snapshot;
	TimestampTz start;
	EsResult	result = ES_NOTHING;

	if (!es_process_begin(psprintf("projection %s", name)))
	{
		*wake_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), DROPPED_INTERVAL);
		return false;
	}
	start = GetCurrentTimestamp();

	memset(&task, 0, sizeof(task));
	task.patient = true;
	task.checkpoint = &checkpoint;
	if (es_checkpoint_lock(name, false, false, &checkpoint) &&
		(projection = es_projection_find(name)) != NULL && projection->running && !projection->is_inline)
	{
		if (checkpoint.retry_at > start)
			*wake_at = checkpoint.retry_at;
		else
		{
			/* It is taken after the mark was found, so it shows all events up to the mark. */
			snapshot = RegisterSnapshot(GetLatestSnapshot());
			if (projection->limit == 0)
				projection->limit = projection->batch_size;
			task.limit = projection->limit;
			task.write_idle = es_shared_watched() ||
				TimestampDifferenceExceeds(projection->idle_since, start, IDLE_INTERVAL);
			result = run_batch(&task, projection, snapshot, mark);
			UnregisterSnapshot(snapshot);

			/* The definitions may have been read again meanwhile, for example because the state was changed. */
			if ((projection = es_projection_find(name)) != NULL)
			{
				adapt(projection, &task, result, start);
				projection->known_position = checkpoint.cursor.position;
				if (result == ES_APPLIED)
					projection->idle_since = start;
				else if (result == ES_NOTHING && mark > checkpoint.cursor.position)
					*wake_at = TimestampTzPlusMilliseconds(projection->idle_since, IDLE_INTERVAL);
			}
			if (result == ES_LATER)
				*wake_at = checkpoint.retry_at;
		}
	}
	es_process_end();
	return result == ES_APPLIED && task.more;
}

/*
 * Finds the mark, and the names of projections and rebuilds that may have something to do, in the current memory
 * context. False: somebody is just dropping the extension.
 */
static bool
find_candidates(int64 *mark, List **names, List **rebuilds)
{
	MemoryContext caller = CurrentMemoryContext;
	EsProjection *projections;
	int			count;

	*names = NIL;
	if (!es_process_begin("looking for events"))
		return false;
	(void) es_store_now();
	UnregisterSnapshot(es_mark_snapshot_inside(mark));
	projections = es_projections(&count);
	MemoryContextSwitchTo(caller);
	for (int i = 0; i < count; i++)
		if (projections[i].running && !projections[i].is_inline && projections[i].known_position < *mark)
			*names = lappend(*names, pstrdup(projections[i].name));
	*rebuilds = es_rebuilds(caller);
	es_process_end();
	MemoryContextSwitchTo(caller);
	return true;
}

static long
milliseconds_until(TimestampTz wake_at)
{
	return Max(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), wake_at), 1);
}

/*
 * Pauses after batches that were not full, so that the next ones have more to do. As long as a worker keeps up, it so
 * uses about a tenth of a core. The price is a lag of a few milliseconds, and of some more when many events come.
 */
static void
rest(TimestampTz start)
{
	TimestampTz now = GetCurrentTimestamp();
	long		elapsed = (now - start) / 1000;
	long		pause = Min(elapsed * REST_SHARE, elapsed > BUSY_TIME ? LONG_REST : SHORT_REST);

	if (pause > 0)
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, pause, es_wait_event("EventStoreWorkerRest"));
	CHECK_FOR_INTERRUPTS();
}

/*
 * What a worker of the pool does: looks at every projection and rebuild that no other process is at, and runs a batch
 * of each that has something to do, in transactions of its own. Returns and sets what EsPoolWork says.
 */
static bool
run_projections(long *wait)
{
	static bool prepared = false;
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "event_store run", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	TimestampTz start = GetCurrentTimestamp();
	TimestampTz wake_at = 0;
	List	   *names;
	List	   *rebuilds;
	ListCell   *lc;
	bool		more = false;
	int64		mark;

	if (!prepared)
	{
		/* A crash that loses a batch loses its checkpoint as well, so commits need not wait for the disk. */
		SetConfigOption("synchronous_commit", "off", PGC_SUSET, PGC_S_OVERRIDE);
		es_mark_wait = WORKER_MARK_WAIT;
		es_mark_poll_slowly();
		prepared = true;
	}
	if (!find_candidates(&mark, &names, &rebuilds))
	{
		*wait = DROPPED_INTERVAL;
		MemoryContextSwitchTo(old);
		MemoryContextDelete(context);
		return false;
	}
	foreach(lc, names)
	{
		TimestampTz began = GetCurrentTimestamp();
		TimestampTz look_again = 0;
		bool		again = false;

		do
		{
			if (es_process_wanted_away())
				break;
			MemoryContextSwitchTo(context);
			again = run_one(lfirst(lc), mark, &look_again);
		} while (again && !TimestampDifferenceExceeds(began, GetCurrentTimestamp(), RUN_TIME));
		more |= again;
		if (look_again != 0)
			wake_at = wake_at == 0 ? look_again : Min(wake_at, look_again);
	}
	foreach(lc, rebuilds)
	{
		MemoryContextSwitchTo(context);
		CHECK_FOR_INTERRUPTS();
		more |= es_rebuild_step(lfirst(lc), &wake_at);
	}
	MemoryContextSwitchTo(old);
	*wait = wake_at == 0 ? -1 : milliseconds_until(wake_at);
	if (names != NIL && !more)
		rest(start);
	MemoryContextDelete(context);
	return more;
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
	static const EsPoolWork work = {count_tasks, run_projections, HANDLER_LOCK_TIMEOUT};

	es_pool_register(&work);
}

/* ---------------------------------------------------------------- in the foreground */

/*
 * Runs batches of a projection in the open transaction, up to `upto` or to the mark, whichever is less. With settled,
 * the caller knows that no append up to `upto` is open any more, and the mark is not looked for. Runs at most
 * max_batches, if this is not 0. Returns the number of events.
 */
static int64
run_batches(const char *name, int64 upto, bool settled, int64 max_batches, int64 batch_size)
{
	int64		events = 0;
	int64		mark = upto;
	Snapshot	snapshot = settled ? RegisterSnapshot(GetLatestSnapshot()) : es_mark_snapshot_inside(&mark);
	EsCheckpoint checkpoint;
	EsTask		task;

	memset(&task, 0, sizeof(task));
	task.checkpoint = &checkpoint;
	task.write_idle = true;
	for (int64 batches = 0; max_batches == 0 || batches < max_batches; batches++)
	{
		EsProjection *projection;

		CHECK_FOR_INTERRUPTS();
		if (!es_checkpoint_lock(name, false, true, &checkpoint))
			break;
		projection = es_projection_get(name);
		task.limit = batch_size == 0 ? projection->batch_size : batch_size;
		if (run_batch(&task, projection, snapshot, Min(upto, mark)) != ES_APPLIED)
			break;
		events += task.events;
		if (!task.more)
			break;
	}
	UnregisterSnapshot(snapshot);
	return events;
}

/*
 * Brings a projection up to a position at which no append is open any more, or with PG_INT64_MAX to the mark. Raises an
 * error when the projection fails. The checkpoint is locked.
 */
int64
es_projection_catch_up(const char *name, int64 upto)
{
	int64		events = run_batches(name, upto, upto != PG_INT64_MAX, 0, es_max_batch);
	EsProjection *projection = es_projection_get(name);

	if (projection->failed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has failed", name)));
	return events;
}

static char *
name_argument(FunctionCallInfo fcinfo)
{
	return text_to_cstring(es_text_argument(fcinfo, 0, "name"));
}

/* Finds a projection. Raises an error when it does not exist, is paused or has failed. */
static EsProjection *
running_projection(const char *name)
{
	EsProjection *projection = es_projection_get(name);

	if (!projection->running)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" %s", name, projection->failed ? "has failed" : "is paused"),
				 projection->failed ?
				 errdetail("Why is in event_store.projection_status.") : 0,
				 errhint("SELECT es_resume_projection(%s).", quote_literal_cstr(name))));
	return projection;
}

/* es_run_projection(name, max_batches) -> events */
Datum
es_run_projection(PG_FUNCTION_ARGS)
{
	char	   *name = name_argument(fcinfo);
	int64		batches = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT32(1);
	int64		events;
	EsCheckpoint checkpoint;

	(void) es_store_now();
	es_prevent_if_read_only("es_run_projection()");
	PreventCommandDuringRecovery("es_run_projection()");
	if (!PG_ARGISNULL(1) && batches < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument max_batches must be 1 or more"),
				 errdetail("It is %lld; NULL means no limit.", (long long) batches)));
	es_refuse_in_stored_text("es_run_projection()");
	events = es_rebuild_run(name, batches);
	if (events > 0 && !es_projection_get(name)->running)
		PG_RETURN_INT64(events);	/* the rebuild has run, though the projection is paused or has failed */
	/* Whoever holds the checkpoint may be pausing the projection, or making it inline: so look only after that. */
	(void) es_checkpoint_lock(name, false, true, &checkpoint);
	if (running_projection(name)->is_inline)
		PG_RETURN_INT64(events);
	PG_RETURN_INT64(events + run_batches(name, PG_INT64_MAX, false, batches, 0));
}

/* es_retry_quarantined(name, stream) -> events */
Datum
es_retry_quarantined(PG_FUNCTION_ARGS)
{
	char	   *name = name_argument(fcinfo);
	EsCheckpoint checkpoint;
	EsProjection *projection;
	EsTask		task;
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	char		nulls[2] = {' ', ' '};
	int64	   *groups;
	uint64		count;
	int64		events = 0;
	EsSql		sql;

	(void) es_store_now();
	es_prevent_if_read_only("es_retry_quarantined()");
	es_refuse_in_stored_text("es_retry_quarantined()");
	(void) running_projection(name);
	(void) es_checkpoint_lock(name, false, true, &checkpoint);
	projection = running_projection(name);

	values[0] = CStringGetTextDatum(name);
	values[1] = PG_ARGISNULL(1) ? (Datum) 0 : PG_GETARG_DATUM(1);
	nulls[1] = PG_ARGISNULL(1) ? 'n' : ' ';
	es_sql_begin(&sql, es_store()->owner);
	count = es_sql_run_args("SELECT DISTINCT q.together FROM event_store.quarantine q"
							" JOIN event_store.heads h ON h.id = q.stream WHERE q.projection = $1 AND NOT q.rebuild"
							" AND ($2 IS NULL OR h.name = $2) ORDER BY 1", 2, types, values, nulls);
	groups = SPI_palloc(sizeof(int64) * Max(count, 1));
	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;

		groups[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull));
	}
	es_sql_end(&sql);
	if (count == 0 && !PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ES_UNKNOWN),
				 errmsg("projection \"%s\" has not parked stream \"%s\"", name,
						text_to_cstring(PG_GETARG_TEXT_PP(1)))));

	memset(&task, 0, sizeof(task));
	task.checkpoint = &checkpoint;
	task.filter = &projection->filter;
	task.handler = es_projection_handler(projection);
	for (uint64 i = 0; i < count; i++)
		events += es_apply_quarantined(&task, groups[i]);
	es_journal_note("es_retry_quarantined", "projection", name, "stream",
					PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1)));
	PG_RETURN_INT64(events);
}

/* ---------------------------------------------------------------- waiting */

/* Raises an error when a projection has quarantined a stream from a position up to `upto` on. */
static void
check_not_quarantined(const char *name, text *stream, int64 upto)
{
	Oid			types[3] = {TEXTOID, TEXTOID, INT8OID};
	Datum		values[3];
	EsSql		sql;
	bool		quarantined;

	values[0] = CStringGetTextDatum(name);
	values[1] = PointerGetDatum(stream);
	values[2] = Int64GetDatum(upto);
	es_sql_begin(&sql, es_store()->owner);
	quarantined = es_sql_run_args("SELECT FROM event_store.quarantine q JOIN event_store.heads h ON h.id = q.stream"
								  " WHERE q.projection = $1 AND NOT q.rebuild AND h.name = $2 AND q.position <= $3",
								  3, types, values, NULL) > 0;
	es_sql_end(&sql);
	if (quarantined)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has parked stream \"%s\"", name, text_to_cstring(stream)),
				 errhint("Why is in event_store.projection_quarantine; es_retry_quarantined tries again.")));
}

static int64
timeout_argument(FunctionCallInfo fcinfo, int n)
{
	Interval   *timeout;
	double		ms;

	if (PG_ARGISNULL(n))
		es_null_argument("timeout");
	timeout = PG_GETARG_INTERVAL_P(n);
	ms = timeout->time / 1000.0 + ((double) timeout->day + timeout->month * 30.0) * 86400.0 * 1000.0;
	if (ms < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument timeout must not be negative")));
	return ms > 1e12 ? INT64CONST(1000000000000) : (int64) ms;
}

/* es_wait_for_projection(name, up_to_position, timeout, stream) */
Datum
es_wait_for_projection(PG_FUNCTION_ARGS)
{
	char	   *name = name_argument(fcinfo);
	int64		timeout = timeout_argument(fcinfo, 2);
	TimestampTz start = GetCurrentTimestamp();
	int64		upto;
	int64		position;
	bool		reached = false;

	if (PG_ARGISNULL(1))
		es_null_argument("up_to_position");
	upto = PG_GETARG_INT64(1);
	(void) es_store_now();
	es_refuse_in_stored_text("es_wait_for_projection()");
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("es_wait_for_projection() must be called in a transaction of isolation level READ COMMITTED"),
				 errdetail("This transaction would not see what the projection writes.")));
	if (es_transaction_first_position() != 0 && es_transaction_first_position() <= upto &&
		!es_projection_get(name)->is_inline)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("position %lld was drawn by this transaction, which has not ended", (long long) upto),
				 errhint("Commit first, then wait.")));

	es_shared_wait_begin(ES_NEWS_PROGRESS);
	for (;;)
	{
		long		left = timeout - TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());

		(void) es_store_now();
		if (running_projection(name)->is_inline)
			reached = true;
		else
			reached = es_checkpoint_peek(name, &position) && position >= upto;
		if (reached || left <= 0)
			break;
		es_shared_wake_workers();
		(void) es_shared_wait(ES_NEWS_PROGRESS, Min(left, es_store_is_copy() ? 10 : 1000),
							  "EventStoreWaitForProjection");
	}
	es_shared_wait_end(ES_NEWS_PROGRESS);
	if (!reached && !es_store_is_copy() && !es_shared_coordinator_running())
		ereport(WARNING,
				(errmsg("no background worker runs projections in this database"),
				 es_shared_available() ?
				 errhint("SELECT es_start_worker(); es_run_projection() runs one in the foreground.") :
				 errhint("Set shared_preload_libraries = 'event_store' and restart the server; es_run_projection() runs one in the foreground.")));
	if (reached && !PG_ARGISNULL(3))
		check_not_quarantined(name, PG_GETARG_TEXT_PP(3), upto);
	PG_RETURN_BOOL(reached);
}
