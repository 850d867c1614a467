/*
 * subscription/fetch.c
 *	  es_fetch: the next events for a consumer of a subscription. (subscription/definition.c explains the terms.)
 *
 * A fetch has two parts, both under the subscription's lock. First come events up to the frontier, of the streams
 * that this consumer holds and of free streams: the oldest max_count of them, by position (subscription/pending.c).
 * If there is room left, the log is read from the frontier on, and each stream is assigned to the consumer as its
 * first event is met. Events of streams that others hold, or that are quarantined, are passed over: the rows of these
 * streams say where to go on with them. So what the consumer got is always *all* that there is of its streams up to
 * the last position returned. es_ack relies on that.
 *
 * The mark is found before the lock is taken, and every snapshot is taken after the lock. So events up to the mark are
 * visible in the snapshot, and rows of subscriptions are as the last session that had the lock has left them.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"
#include "subscription/fetch.h"

/* Bounds of arguments. A statement that waits has a snapshot, which holds VACUUM back: so no wait is long. */
#define MAX_COUNT			100000
#define MIN_LEASE			INT64CONST(1000)
#define MAX_LEASE			USECS_PER_DAY
#define MAX_WAIT			(5 * USECS_PER_MINUTE)

/* After so many events of others' streams a call stores how far it came, and ends. */
#define MAX_PASSED			10000
/* It does the same when reading the log takes so long. */
#define MAX_SCAN_TIME		1000	/* milliseconds */
#define SCAN_STEP			100000	/* positions between two looks at the clock */

PG_FUNCTION_INFO_V1(es_fetch);

typedef struct StreamEntry
{
	int64		stream;
	EsStreamState state;
} StreamEntry;

/* ---------------------------------------------------------------- reading */

/* Prepares to read events, with a snapshot taken now. */
void
es_fetch_begin_reading(EsFetch *fetch)
{
	HASHCTL		ctl;

	/* Names of events up to the mark were committed before it was found, so their ids are found now. */
	fetch->snapshot = RegisterSnapshot(GetLatestSnapshot());
	fetch->upcast = es_upcast_begin(es_definitions());
	es_filter_resolve(&fetch->sub.filter, fetch->upcast, &fetch->filter);

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(StreamEntry);
	ctl.hcxt = CurrentMemoryContext;
	fetch->states = hash_create("event_store streams in flight", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	es_lookup_open(&fetch->in_flight, ES_SUBSCRIPTION_STREAMS, AccessShareLock);
}

void
es_fetch_end_reading(EsFetch *fetch)
{
	es_lookup_close(&fetch->in_flight, ES_KEEP_LOCKS);
	if (fetch->upcast != NULL)
		es_transform_end(fetch->upcast);
	UnregisterSnapshot(fetch->snapshot);
}

/* A scan of what passes the subscription's filter. */
EsScan *
es_fetch_scan(EsFetch *fetch)
{
	EsScan	   *scan = es_scan_create(RegisterSnapshot(fetch->snapshot));

	es_filter_scan(&fetch->filter, scan);
	scan->transform_shared = true;
	return scan;
}

void
es_fetch_set_state(EsFetch *fetch, int64 stream, EsStreamState state)
{
	bool		found;
	StreamEntry *entry = hash_search(fetch->states, &stream, HASH_ENTER, &found);

	entry->state = state;
}

/* What the stream of an event after the frontier is to this consumer. Each stream is looked up once. */
static StreamEntry *
stream_state(EsFetch *fetch, int64 stream)
{
	bool		found;
	StreamEntry *entry = hash_search(fetch->states, &stream, HASH_ENTER, &found);

	if (!found)
	{
		Datum		key[2] = {Int32GetDatum(fetch->sub.id), Int64GetDatum(stream)};

		entry->state = ES_STREAM_NOT_IN_FLIGHT;
		if (es_lookup_find(&fetch->in_flight, fetch->snapshot, key))
			entry->state = ES_STREAM_OTHERS;
	}
	return entry;
}

/* ---------------------------------------------------------------- the log */

/* Returns an event after the frontier, or passes it over. False: the fetch must not read more of them. */
static bool
return_event(EsFetch *fetch, EsScan *scan, TupleTableSlot *slot)
{
	int64		position = DatumGetInt64(es_row_column(slot, Anum_log_position));
	int64		stream = DatumGetInt64(es_row_column(slot, Anum_log_stream));
	StreamEntry *entry = stream_state(fetch, stream);
	Datum		values[ES_EVENT_COLUMNS];
	bool		nulls[ES_EVENT_COLUMNS];

	if (entry->state == ES_STREAM_OTHERS)
	{
		if (fetch->passed++ == 0)
			fetch->first_passed = position;
		return fetch->passed < (fetch->peeking ? ES_MAX_PASSED_WAITING : MAX_PASSED);
	}
	fetch->count++;
	fetch->last_position = position;
	if (fetch->peeking)
		return false;
	if (entry->state == ES_STREAM_NOT_IN_FLIGHT)
	{
		entry->state = ES_STREAM_MINE;
		es_stream_rows_add(&fetch->fresh, stream, DatumGetInt64(es_row_column(slot, Anum_log_version)), position);
	}
	es_scan_event(scan, slot, ES_ALL_COLUMNS, values, nulls);
	tuplestore_putvalues(fetch->rsinfo->setResult, fetch->rsinfo->setDesc, values, nulls);
	return fetch->count < fetch->max_count;
}

/* Returns events after the frontier, up to the mark or as far as there is room, and moves the frontier. */
void
es_fetch_from_log(EsFetch *fetch)
{
	TimestampTz start = GetCurrentTimestamp();
	MemoryContext step = AllocSetContextCreate(CurrentMemoryContext, "event_store fetch", ALLOCSET_DEFAULT_SIZES);
	MemoryContext row = AllocSetContextCreate(CurrentMemoryContext, "event_store row", ALLOCSET_DEFAULT_SIZES);
	MemoryContext call = CurrentMemoryContext;
	bool		more = true;

	if (fetch->filter.nothing)
		fetch->frontier = Max(fetch->frontier, fetch->mark);
	while (more && fetch->frontier < fetch->mark)
	{
		int64		from = Max(fetch->frontier, ES_NODE_START(es_store()->node));
		int64		upto;
		EsScan	   *scan;
		TupleTableSlot *slot;

		MemoryContextSwitchTo(step);
		scan = es_fetch_scan(fetch);
		upto = es_scan_step(scan->snapshot, from, SCAN_STEP, fetch->mark);
		es_scan_positions(scan, fetch->frontier, upto);
		for (;;)
		{
			MemoryContextSwitchTo(row);
			slot = es_scan_next(scan);
			if (slot == NULL)
				break;
			fetch->frontier = DatumGetInt64(es_row_column(slot, Anum_log_position));
			MemoryContextSwitchTo(call);
			more = return_event(fetch, scan, slot);
			MemoryContextReset(row);
			if (!more)
				break;
		}
		MemoryContextSwitchTo(step);
		if (more)
			fetch->frontier = upto;
		es_scan_end(scan);
		MemoryContextSwitchTo(call);
		MemoryContextReset(step);
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), MAX_SCAN_TIME))
			break;
	}
	MemoryContextDelete(row);
	MemoryContextDelete(step);
}

/* ---------------------------------------------------------------- the call */

static void
store_fetch(EsFetch *fetch)
{
	static EsStatement assign = {
		"subscription_streams",
		"INSERT INTO event_store.subscription_streams (subscription, stream, version, position, attempts, consumer)"
		" SELECT $1, u.stream, u.version, u.position, 0, $2 FROM unnest($3, $4, $5) u (stream, version, position)",
		5, {INT4OID, TEXTOID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID}
	};
	static EsStatement renew = {
		"subscription_consumers",
		"INSERT INTO event_store.subscription_consumers AS c"
		" (subscription, consumer, lease_until, returned, covered, lost, fetched_at)"
		" VALUES ($1, $2, $3, $4, $5, false, $6) ON CONFLICT (subscription, consumer) DO UPDATE SET"
		" lease_until = excluded.lease_until, returned = excluded.returned, covered = excluded.covered,"
		" lost = false, fetched_at = excluded.fetched_at",
		6, {INT4OID, TEXTOID, TIMESTAMPTZOID, INT8OID, INT8OID, TIMESTAMPTZOID}
	};
	static EsStatement clear = {
		"subscription_consumers",
		"UPDATE event_store.subscription_consumers SET lost = false, returned = 0, covered = 0"
		" WHERE subscription = $1 AND consumer = $2 AND lost",
		2, {INT4OID, TEXTOID}
	};
	static EsStatement move = {
		"subscriptions",
		"UPDATE event_store.subscriptions SET position = $2 WHERE id = $1",
		2, {INT4OID, INT8OID}
	};
	TimestampTz now = GetCurrentTimestamp();
	Datum		values[6];

	es_pending_store(fetch);
	values[0] = Int32GetDatum(fetch->sub.id);
	values[1] = PointerGetDatum(fetch->consumer);
	if (fetch->fresh.count > 0)
	{
		es_stream_rows_arrays(&fetch->fresh, &values[2]);
		es_statement_change(&assign, values, fetch->fresh.count);
	}
	if (fetch->count > 0)
	{
		values[2] = TimestampTzGetDatum(now + fetch->lease);
		values[3] = Int64GetDatum(fetch->last_position);
		values[4] = Int64GetDatum(fetch->covered);
		values[5] = TimestampTzGetDatum(now);
		es_statement_change(&renew, values, 1);
	}
	else
		es_statement_run(&clear, values, NULL);
	if (fetch->frontier != fetch->sub.position)
	{
		values[1] = Int64GetDatum(fetch->frontier);
		es_statement_change(&move, values, 1);
	}
}

/* The fetch itself, after peeks have found out something if the call waited. */
static void
do_fetch(EsFetch *fetch, const EsPeek *seen)
{
	MemoryContext context = CurrentMemoryContext;
	EsSql		sql;
	int			settings = 0;

	UnregisterSnapshot(es_mark_snapshot(&fetch->mark));

	es_subscription_begin(&sql);
	es_subscription_find(fetch->name, true, context, &fetch->sub);
	if (fetch->sub.paused_until > GetCurrentTimestamp())
	{
		es_sql_end(&sql);
		return;
	}
	es_pending_find(fetch, context);
	es_sql_end(&sql);

	es_fetch_begin_reading(fetch);
	if (fetch->upcast != NULL)
		settings = es_settings_open(NULL);	/* once, not for each event */
	es_pending_return(fetch);
	fetch->frontier = fetch->sub.position;
	if (seen->subscription == fetch->sub.id)
		fetch->frontier = Max(fetch->frontier, seen->clear_until);
	if (fetch->count < fetch->max_count)
	{
		es_fetch_from_log(fetch);
		fetch->covered = fetch->frontier;
	}
	else
		fetch->covered = fetch->last_position;
	es_settings_close(settings);
	es_fetch_end_reading(fetch);

	es_subscription_begin(&sql);
	store_fetch(fetch);
	es_sql_end(&sql);
}

/*
 * An interval argument in microseconds, within bounds. A month has 30 days, as it has where PostgreSQL compares
 * intervals.
 */
static int64
duration_argument(FunctionCallInfo fcinfo, int n, const char *name, int64 min, int64 max, const char *bounds)
{
	const Interval *interval;
	double		length;

	if (PG_ARGISNULL(n))
		es_null_argument(name);
	interval = PG_GETARG_INTERVAL_P(n);
	length = (double) interval->time +
		((double) interval->day + DAYS_PER_MONTH * (double) interval->month) * (double) USECS_PER_DAY;
	if (!(length >= min && length <= max))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument %s must be between %s", name, bounds),
				 errdetail("It is %s.", DatumGetCString(DirectFunctionCall1(interval_out,
																			 PG_GETARG_DATUM(n))))));
	return (int64) length;
}

Datum
es_fetch(PG_FUNCTION_ARGS)
{
	EsFetch		fetch = {0};
	EsPeek		seen = {0};
	int64		lease;
	int64		wait;

	es_subscription_check_transaction("es_fetch()");
	(void) es_store_now();
	fetch.name = es_subscription_argument(fcinfo, 0, "subscription");
	fetch.consumer = es_consumer_argument(fcinfo, 1);
	if (PG_ARGISNULL(2))
		es_null_argument("max_count");
	fetch.max_count = PG_GETARG_INT32(2);
	if (fetch.max_count < 1 || fetch.max_count > MAX_COUNT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument max_count must be between 1 and %d", MAX_COUNT),
				 errdetail("It is %d.", fetch.max_count)));
	lease = duration_argument(fcinfo, 3, "lease", MIN_LEASE, MAX_LEASE, "1 ms and 1 day");
	wait = duration_argument(fcinfo, 4, "wait", 0, MAX_WAIT, "0 and 5 minutes");

	InitMaterializedSRF(fcinfo, 0);
	fetch.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	fetch.lease = lease;
	/* Where the wait was in vain, a fetch can still store how much of the log need not be read again. */
	if (wait == 0 || es_fetch_wait(&fetch, wait, &seen) || seen.clear_until > seen.frontier)
		do_fetch(&fetch, &seen);
	return (Datum) 0;
}
