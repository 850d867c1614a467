/*
 * projection/run.c
 *	  Running projections in the foreground, and waiting for them. What workers do is in projection/schedule.c.
 *
 * The process that has locked a checkpoint's row runs that projection.
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
#include "projection/look.h"
#include "projection/run.h"

PG_FUNCTION_INFO_V1(es_run_projection);
PG_FUNCTION_INFO_V1(es_wait_for_projection);

/* ---------------------------------------------------------------- one batch */

/* Stops a projection that has failed for good. */
static void
stop_projection(EsTask *task, EsProjection *projection)
{
	int			level = task->patient ? LOG : WARNING;
	char	   *name = pstrdup(projection->name);

	es_projection_fail(name);
	ereport(level,
			(errmsg("projection \"%s\" has failed: %s", name, task->error),
			 errdetail("It stays at position %lld.", (long long) task->checkpoint->cursor.position),
			 errhint("Put right what is wrong, then SELECT es_resume(%s).", quote_literal_cstr(name))));
}

/* Runs one batch of a projection. Its checkpoint is locked, and its definition was looked up after that. */
EsResult
es_projection_batch(EsTask *task, EsProjection *projection, Snapshot snapshot, int64 upto)
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
		if (es_projection_batch(&task, projection, snapshot, Min(upto, mark)) != ES_APPLIED)
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
EsProjection *
es_projection_get_running(const char *name)
{
	EsProjection *projection = es_projection_get(name);

	if (!es_projection_runs(projection))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" %s", name, projection->failed ? "has failed" : "is paused"),
				 projection->failed ?
				 errdetail("Why is in event_store.projection_status.") : 0,
				 errhint("SELECT es_resume(%s).", quote_literal_cstr(name))));
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
	if (events > 0 && !es_projection_runs(es_projection_get(name)))
		PG_RETURN_INT64(events);	/* the rebuild has run, though the projection is paused or has failed */
	/* Whoever holds the checkpoint may be pausing the projection, or making it inline: so look only after that. */
	(void) es_checkpoint_lock(name, false, true, &checkpoint);
	if (es_projection_get_running(name)->is_inline)
		PG_RETURN_INT64(events);
	PG_RETURN_INT64(events + run_batches(name, PG_INT64_MAX, false, batches, 0));
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
	quarantined = es_sql_run_args("SELECT FROM event_store.quarantined_streams q JOIN event_store.heads h ON h.id = q.stream"
								  " WHERE q.projection = $1 AND NOT q.rebuild AND h.name = $2 AND q.position <= $3",
								  3, types, values, NULL) > 0;
	es_sql_end(&sql);
	if (quarantined)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has parked stream \"%s\"", name, text_to_cstring(stream)),
				 errhint("Why is in event_store.quarantine; es_retry_quarantined tries again.")));
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
		if (es_projection_get_running(name)->is_inline)
			reached = true;
		else
			reached = (es_checkpoint_peek(name, &position) && position >= upto) || es_look_known(name) >= upto;
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
