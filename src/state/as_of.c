/*
 * state/as_of.c
 *	  Whether what was recorded by a time is final: asked twice, an as-of load answers the same, or it
 *	  is refused (YE004).
 *
 * T is final for every stream when it is at or below stable_until (log/mark.c). It is final for one
 * stream when no append to it is under way, the clock is past T and the published floor is at least T,
 * all of it before the snapshot that reads: an append that begins later is stamped after both.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/as_of.h"

/* Sets *ask when the published times are older than as_of, so that it helps to ask the coordinator to publish newer ones. */
static bool
is_final(TimestampTz as_of, const text *stream, bool *ask)
{
	TimestampTz stable_until;
	TimestampTz floor;

	es_mark_times(&stable_until, &floor);
	*ask = as_of > floor && as_of < GetCurrentTimestamp();
	if (as_of <= stable_until)
		return true;
	return stream != NULL && !IsolationUsesXactSnapshot() && !RecoveryInProgress() &&
		as_of <= floor && as_of < GetCurrentTimestamp() && !es_stream_has_open_append(stream);
}

/*
 * A registered snapshot that shows all that was recorded by a time, on one stream or (NULL) on all.
 * Waits up to event_store.as_of_wait for that to be final, then raises YE004; raises 22023 for a time
 * further ahead.
 */
Snapshot
es_asof_snapshot(TimestampTz as_of, const text *stream)
{
	TimestampTz start = GetCurrentTimestamp();
	long		nap = 200;
	bool		waiting = false;
	bool		ask;

	if (!TIMESTAMP_IS_NOBEGIN(as_of) &&
		(TIMESTAMP_IS_NOEND(as_of) || as_of > start + (int64) es_as_of_wait * 1000))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time \"%s\" is in the future", timestamptz_to_str(as_of)),
				 errdetail("What will have been recorded by then is not known."),
				 errhint("For the current state use es_load.")));
	while (!TIMESTAMP_IS_NOBEGIN(as_of) && !is_final(as_of, stream, &ask))
	{
		if (IsolationUsesXactSnapshot() ||
			TimestampDifferenceExceeds(start, GetCurrentTimestamp(), es_as_of_wait))
			ereport(ERROR,
					(errcode(ES_NOT_FINAL),
					 errmsg("the state as of \"%s\" is not final yet", timestamptz_to_str(as_of)),
					 errdetail("An append that is under way may still be recorded at or before that time, or the published mark is older."),
					 errhint("Try again later; es_publish_mark() moves the published mark where no worker does.")));
		CHECK_FOR_INTERRUPTS();

		/*
		 * A coordinator publishes the times on request, and goes on until stable_until is there. The end
		 * of an append to the one stream is no news, so the sleep is short.
		 */
		if (es_shared_coordinator_running())
		{
			if (!waiting)
				es_shared_wait_begin(ES_NEWS_PROGRESS);
			waiting = true;
			if (ask)
				es_publish_soon();
			(void) es_shared_wait(ES_NEWS_PROGRESS, 10, "EventStoreAsOf");
		}
		else
		{
			pg_usleep(nap);
			nap = Min(nap * 2, 10000);
		}
	}
	if (waiting)
		es_shared_wait_end(ES_NEWS_PROGRESS);
	return RegisterSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetLatestSnapshot());
}
