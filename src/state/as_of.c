/*
 * state/as_of.c
 *	  Whether a time is final: whether no event can be recorded any more at that time or before it.
 *
 * A load as of a final time always gives the same state. A load as of a time that does not become final is refused
 * (YE004).
 *
 * A time T is final for all streams when it is at or before stable_until (log/mark.c). It is final for one stream
 * when no open transaction is appending to it, the clock is past T, and the published floor is T or later, all of
 * this before the snapshot is taken: an append that begins after that is stamped later than the clock and later than
 * the floor.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/as_of.h"

/*
 * Whether a time is final, for a stream or (NULL) for all. Sets *publish_helps when it may become final because newer
 * times are published. For one stream that is a newer floor; for all streams, above READ COMMITTED and on a copy, a
 * newer stable_until. On an idle server the two stay apart for as long as nobody asks.
 */
static bool
is_final(TimestampTz as_of, const text *stream, bool *publish_helps)
{
	bool		by_stream = stream != NULL && !IsolationUsesXactSnapshot() && !es_store_is_copy();
	TimestampTz stable_until;
	TimestampTz floor;
	TimestampTz now;

	es_mark_times(&stable_until, &floor);
	now = GetCurrentTimestamp();
	*publish_helps = as_of > (by_stream ? floor : stable_until) && as_of < now;
	if (as_of <= stable_until)
		return true;
	return by_stream && as_of <= floor && as_of < now && !es_stream_has_open_append(stream);
}

/*
 * Returns a registered snapshot that shows all events recorded at or before a time, of one stream or (NULL) of all.
 * Waits up to event_store.as_of_wait until the time is final, and then raises YE004. If the time is so far in the
 * future that it cannot be final by then, raises 22023.
 */
Snapshot
es_asof_snapshot(TimestampTz as_of, const text *stream)
{
	TimestampTz start = GetCurrentTimestamp();
	long		delay = 200;
	bool		waiting = false;
	bool		publish_helps;

	if (!TIMESTAMP_IS_NOBEGIN(as_of) &&
		(TIMESTAMP_IS_NOEND(as_of) || as_of > start + (int64) es_as_of_wait * 1000))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time \"%s\" is in the future", timestamptz_to_str(as_of)),
				 errdetail("What will have been recorded by then is not known."),
				 errhint("For the current state use es_load.")));
	while (!TIMESTAMP_IS_NOBEGIN(as_of) && !is_final(as_of, stream, &publish_helps))
	{
		/* Asked each time: a coordinator may have ended meanwhile, and one that begins knows of no question. */
		if (publish_helps)
			es_publish_soon();

		/* The snapshot of a higher level does not change. But when the caller tries again, it is to be final. */
		if (IsolationUsesXactSnapshot() ||
			TimestampDifferenceExceeds(start, GetCurrentTimestamp(), es_as_of_wait))
			ereport(ERROR,
					(errcode(ES_NOT_FINAL),
					 errmsg("the state as of \"%s\" is not final yet", timestamptz_to_str(as_of)),
					 errdetail("An append that is under way may still be recorded at or before that time, or the published mark is older."),
					 errhint("Try again later; where no worker does it, es_publish_mark() moves the published mark, and called a second time stable_until with it.")));
		CHECK_FOR_INTERRUPTS();

		/*
		 * A coordinator publishes the times when it is asked to, and goes on until stable_until has passed that
		 * moment; we are woken then. The end of an append to the one stream does not wake us, so we never sleep long.
		 */
		if (es_shared_coordinator_running())
		{
			if (!waiting)
				es_shared_wait_begin(ES_NEWS_PROGRESS);
			waiting = true;
			(void) es_shared_wait(ES_NEWS_PROGRESS, 10, "EventStoreAsOf");
		}
		else
		{
			pg_usleep(delay);
			delay = Min(delay * 2, 10000);
		}
	}
	if (waiting)
		es_shared_wait_end(ES_NEWS_PROGRESS);
	return RegisterSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetLatestSnapshot());
}
