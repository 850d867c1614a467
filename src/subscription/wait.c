/*
 * subscription/wait.c
 *	  Waiting for events: es_fetch with a wait, until there is something to fetch.
 *
 * A consumer that waits peeks: it reads the same as a fetch, but without the subscription's lock and without writing
 * anything. So a consumer that waits in vain does not slow down the others. Each peek reads the log only from where the
 * last one ended. Events of streams that others hold are read again by each peek, because the streams can become free;
 * when there are many of them, the wait ends, so that the fetch moves the frontier beyond them.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "log/log.h"
#include "subscription/fetch.h"

/*
 * No sleep is longer than that: some news, such as streams that es_retry_quarantined frees, wake nobody.
 */
#define LONGEST_SLEEP		1000	/* milliseconds */

/*
 * Whether there are rows that a fetch would use or change: streams that this consumer holds, free streams, or the mark
 * that this consumer was lost. Finds also when the next lease of another consumer ends.
 */
static bool
peek_at_rows(EsFetch *fetch, EsPeek *seen)
{
	static EsStatement look = {
		NULL,
		"SELECT EXISTS (SELECT FROM event_store.subscription_streams s"
		" WHERE s.subscription = $1 AND s.consumer = $2 AND s.reason IS NULL)"
		" OR EXISTS (SELECT FROM event_store.subscription_streams s"
		" WHERE s.subscription = $1 AND s.consumer IS NULL AND s.reason IS NULL)"
		" OR EXISTS (SELECT FROM event_store.subscription_consumers c"
		" WHERE c.subscription = $1 AND c.consumer = $2 AND c.lost),"
		" (SELECT min(c.lease_until) FROM event_store.subscription_consumers c"
		" WHERE c.subscription = $1 AND c.consumer <> $2 AND EXISTS (SELECT FROM event_store.subscription_streams s"
		" WHERE s.subscription = c.subscription AND s.consumer = c.consumer AND s.reason IS NULL))",
		2, {INT4OID, TEXTOID}
	};
	MemoryContext context = CurrentMemoryContext;
	Datum		values[2];
	EsSql		sql;
	bool		found;
	bool		isnull;

	es_subscription_begin(&sql);
	es_subscription_find(fetch->name, false, context, &fetch->sub);
	values[0] = Int32GetDatum(fetch->sub.id);
	values[1] = PointerGetDatum(fetch->consumer);
	es_statement_run(&look, values, NULL);
	found = DatumGetBool(es_statement_value(0, 1, BOOLOID, NULL));
	seen->lease_end = DatumGetTimestampTz(es_statement_value(0, 2, TIMESTAMPTZOID, &isnull));
	if (isnull)
		seen->lease_end = DT_NOEND;
	es_sql_end(&sql);
	seen->frontier = fetch->sub.position;
	if (seen->subscription != fetch->sub.id)
	{
		/* The first peek, or the subscription was dropped and created again. */
		seen->subscription = fetch->sub.id;
		seen->clear_until = 0;
	}
	return found || seen->lease_end <= GetCurrentTimestamp();
}

/* Whether a fetch would do anything, as far as can be seen without the lock. */
static bool
peek(const EsFetch *call, EsPeek *seen)
{
	EsFetch		fetch = *call;
	bool		found;
	int			settings = 0;

	fetch.peeking = true;
	UnregisterSnapshot(es_mark_snapshot(&fetch.mark));
	found = peek_at_rows(&fetch, seen);
	if (fetch.sub.paused_until > GetCurrentTimestamp())
	{
		seen->behind = false;
		seen->lease_end = fetch.sub.paused_until;	/* when to look again */
		return false;
	}
	if (found)
		return true;

	fetch.frontier = Max(fetch.sub.position, seen->clear_until);
	es_fetch_begin_reading(&fetch);
	if (fetch.upcast != NULL)
		settings = es_settings_open(NULL);
	es_fetch_from_log(&fetch);
	es_settings_close(settings);
	es_fetch_end_reading(&fetch);
	seen->clear_until = fetch.passed > 0 ? fetch.first_passed - 1 :
		fetch.count > 0 ? fetch.last_position - 1 : fetch.frontier;
	seen->behind = fetch.passed == 0 && fetch.frontier < fetch.mark;
	return fetch.count > 0 || fetch.passed >= ES_MAX_PASSED_WAITING;
}

/* Waits until there is something to fetch; false when the time, in microseconds, was up before. */
bool
es_fetch_wait(const EsFetch *call, int64 wait, EsPeek *seen)
{
	TimestampTz end = GetCurrentTimestamp() + wait;
	MemoryContext round = AllocSetContextCreate(CurrentMemoryContext, "event_store wait", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(round);
	bool		found;

	es_shared_wait_begin(ES_NEWS_APPENDED);
	for (;;)
	{
		TimestampTz now;
		long		sleep;

		found = peek(call, seen);
		MemoryContextReset(round);
		now = GetCurrentTimestamp();
		if (found || now >= end)
			break;
		CHECK_FOR_INTERRUPTS();
		if (seen->behind)
			continue;
		sleep = Min(TimestampDifferenceMilliseconds(now, Min(end, seen->lease_end)), LONGEST_SLEEP);
		(void) es_shared_wait(ES_NEWS_APPENDED, Max(sleep, 1), "EventStoreFetch");
	}
	es_shared_wait_end(ES_NEWS_APPENDED);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(round);
	return found;
}
