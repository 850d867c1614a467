/*
 * subscription/fetch.c
 *	  es_fetch: the next events for a consumer of a subscription. (subscription/definition.c has the vocabulary.)
 *
 * One call, under the subscription's lock: first the events up to the frontier of the streams that this consumer
 * holds and of free streams, sorted by position, the oldest max_count of them; then, with room left, the log from
 * the frontier on, each stream being assigned as its first event is met. Events of streams that others hold, or
 * that are quarantined, are passed over: their rows keep the place. So what the consumer got is always *all*
 * that there is of its streams up to the last position returned, which is what es_ack relies on.
 *
 * The mark is found before the lock is taken, and every snapshot is taken after the lock: events up to the mark
 * are visible in it, and rows of subscriptions are as the last one who had the lock has left them.
 *
 * To wait, the same is looked at without the lock (peek()), which writes nothing; a client that waits in vain costs
 * its neighbours nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_operator_d.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplesort.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"
#include "subscription/definition.h"

/* Bounds of arguments. A waiting statement holds a snapshot, which holds vacuum back. */
#define MAX_COUNT			100000
#define MIN_LEASE			INT64CONST(1000)
#define MAX_LEASE			USECS_PER_DAY
#define MAX_WAIT			(5 * USECS_PER_MINUTE)

/* After so many events of others' streams a call keeps how far it came, and ends. */
#define MAX_PASSED			10000
/* The same for somebody who waits: these events are looked at again and again until then. */
#define MAX_PASSED_WAITING	1000
/* And after so long without an event. */
#define MAX_SCAN_TIME		1000	/* milliseconds */
#define SCAN_STEP			100000	/* positions between two looks at the clock */

/* Consumers that have not been heard of for so long after their lease, and hold nothing, are forgotten. */
#define FORGET_CONSUMER		USECS_PER_DAY

/* No wait for news is longer: some, such as a stream given back by es_retry..., are not announced. */
#define LONGEST_SLEEP		1000	/* milliseconds */

PG_FUNCTION_INFO_V1(es_fetch);

/* A row of subscription_streams that this consumer has, or may have. */
typedef struct Pending
{
	int64		stream;
	int64		version;		/* as stored: of the first event not acknowledged */
	int64		position;
	bool		mine;			/* else it is free */
	bool		cut;			/* not read to the end: there was no room */
	int64		found_version;	/* of the first event that is wanted, when found_position is set */
	int64		found_position;
	bool		returned;		/* at least that event */
} Pending;

typedef enum StreamState
{
	NOT_IN_FLIGHT,
	MINE,
	OTHERS						/* held by another consumer, quarantined, or free but not taken */
} StreamState;

typedef struct StreamEntry
{
	int64		stream;
	StreamState state;
} StreamEntry;

/* Three columns that grow together. */
typedef struct Streams
{
	Datum	   *stream;
	Datum	   *version;
	Datum	   *position;
	int			count;
	int			room;
} Streams;

typedef struct Fetch
{
	/* the call */
	const text *name;
	const text *consumer;
	int			max_count;
	int64		lease;			/* microseconds */
	EsSubscription sub;
	bool		peeking;		/* only whether there is anything */

	/* what is read */
	int64		mark;
	Snapshot	snapshot;
	EsFilterIds filter;
	EsTransform *upcast;
	HTAB	   *states;			/* of streams met */
	EsLookup	in_flight;		/* subscription_streams, for those not met yet */

	Pending    *pending;
	int			pending_count;

	/* what came of it */
	ReturnSetInfo *rsinfo;
	int64		count;			/* events returned, or found */
	int64		last_position;	/* of the last one */
	int64		frontier;
	int64		passed;			/* events of others' streams */
	int64		first_passed;	/* peeking: the first of them */
	int64		covered;
	Streams		fresh;			/* streams assigned by the log */
} Fetch;

/* ---------------------------------------------------------------- what is read */

/* Prepares to read events, by a snapshot of now. */
static void
begin_reading(Fetch *fetch)
{
	HASHCTL		ctl;

	/* Names of events up to the mark were committed before: they are found now. */
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

static void
end_reading(Fetch *fetch)
{
	es_lookup_close(&fetch->in_flight, ES_KEEP_LOCKS);
	if (fetch->upcast != NULL)
		es_transform_end(fetch->upcast);
	UnregisterSnapshot(fetch->snapshot);
}

static EsScan *
create_scan(Fetch *fetch)
{
	EsScan	   *scan = es_scan_create(RegisterSnapshot(fetch->snapshot));

	es_filter_scan(&fetch->filter, scan);
	scan->transform_shared = true;
	return scan;
}

static void
set_state(Fetch *fetch, int64 stream, StreamState state)
{
	bool		found;
	StreamEntry *entry = hash_search(fetch->states, &stream, HASH_ENTER, &found);

	entry->state = state;
}

/* What the stream of an event after the frontier is to this consumer. */
static StreamEntry *
stream_state(Fetch *fetch, int64 stream)
{
	bool		found;
	StreamEntry *entry = hash_search(fetch->states, &stream, HASH_ENTER, &found);

	if (!found)
	{
		Datum		key[2] = {Int32GetDatum(fetch->sub.id), Int64GetDatum(stream)};

		entry->state = NOT_IN_FLIGHT;
		if (es_lookup_find(&fetch->in_flight, fetch->snapshot, key))
			entry->state = OTHERS;
	}
	return entry;
}

static void
add_stream(Streams *streams, int64 stream, int64 version, int64 position)
{
	if (streams->count == streams->room)
	{
		Size		size;

		streams->room = Max(64, streams->room * 2);
		size = sizeof(Datum) * streams->room;
		streams->stream = streams->stream == NULL ? palloc(size) : repalloc(streams->stream, size);
		streams->version = streams->version == NULL ? palloc(size) : repalloc(streams->version, size);
		streams->position = streams->position == NULL ? palloc(size) : repalloc(streams->position, size);
	}
	streams->stream[streams->count] = Int64GetDatum(stream);
	streams->version[streams->count] = Int64GetDatum(version);
	streams->position[streams->count++] = Int64GetDatum(position);
}

static Datum
bigint_array(Datum *values, int count)
{
	return PointerGetDatum(construct_array(values, count, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* ---------------------------------------------------------------- streams in flight */

/*
 * The consumer's rows, or the oldest free ones, added to fetch->pending in a memory context. Its own are all of them: an
 * acknowledgement relies on it.
 */
static void
look_for_pending(Fetch *fetch, bool mine, MemoryContext context)
{
	static EsStatement held = {
		"SELECT s.stream, s.version, s.position FROM event_store.subscription_streams s"
		" WHERE s.subscription = $1 AND s.consumer = $2 AND s.reason IS NULL",
		2, {INT4OID, TEXTOID}
	};
	static EsStatement idle = {
		"SELECT s.stream, s.version, s.position FROM event_store.subscription_streams s"
		" WHERE s.subscription = $1 AND s.consumer IS NULL AND s.reason IS NULL ORDER BY s.position LIMIT $3",
		3, {INT4OID, TEXTOID, INT4OID}
	};
	Datum		values[3];
	uint64		count;
	Size		size;
	bool		isnull;

	values[0] = Int32GetDatum(fetch->sub.id);
	values[1] = PointerGetDatum(fetch->consumer);
	values[2] = Int32GetDatum(fetch->max_count);
	count = es_statement_run(mine ? &held : &idle, values, NULL);
	size = sizeof(Pending) * (fetch->pending_count + count);
	if (count == 0)
		return;
	fetch->pending = fetch->pending == NULL ? MemoryContextAlloc(context, size) : repalloc(fetch->pending, size);
	for (uint64 i = 0; i < count; i++)
	{
		Pending    *p = &fetch->pending[fetch->pending_count++];

		memset(p, 0, sizeof(Pending));
		p->stream = DatumGetInt64(es_statement_value(i, 1, &isnull));
		p->version = DatumGetInt64(es_statement_value(i, 2, &isnull));
		p->position = DatumGetInt64(es_statement_value(i, 3, &isnull));
		p->mine = mine;
	}
}

/* Takes their streams from consumers whose lease has ended, and forgets those that are long gone. */
static void
end_leases(Fetch *fetch, TimestampTz now)
{
	static EsStatement look = {
		"SELECT c.consumer, c.lost, c.lease_until < $4, EXISTS (SELECT FROM event_store.subscription_streams s"
		" WHERE s.subscription = c.subscription AND s.consumer = c.consumer AND s.reason IS NULL)"
		" FROM event_store.subscription_consumers c"
		" WHERE c.subscription = $1 AND c.consumer <> $2 AND c.lease_until <= $3",
		4, {INT4OID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID}
	};
	static EsStatement lose = {
		"UPDATE event_store.subscription_consumers SET lost = true WHERE subscription = $1 AND consumer = $2",
		2, {INT4OID, TEXTOID}
	};
	static EsStatement release = {
		"UPDATE event_store.subscription_streams SET consumer = NULL"
		" WHERE subscription = $1 AND consumer = $2 AND reason IS NULL",
		2, {INT4OID, TEXTOID}
	};
	static EsStatement forget = {
		"DELETE FROM event_store.subscription_consumers WHERE subscription = $1 AND consumer = $2",
		2, {INT4OID, TEXTOID}
	};
	Datum		values[4];
	uint64		count;
	SPITupleTable *rows;
	TupleDesc	desc;
	bool		isnull;

	values[0] = Int32GetDatum(fetch->sub.id);
	values[1] = PointerGetDatum(fetch->consumer);
	values[2] = TimestampTzGetDatum(now);
	values[3] = TimestampTzGetDatum(now - FORGET_CONSUMER);
	count = es_statement_run(&look, values, NULL);
	rows = SPI_tuptable;
	desc = rows->tupdesc;
	for (uint64 i = 0; i < count; i++)
	{
		bool		is_lost = DatumGetBool(SPI_getbinval(rows->vals[i], desc, 2, &isnull));
		bool		is_old = DatumGetBool(SPI_getbinval(rows->vals[i], desc, 3, &isnull));
		bool		holds = DatumGetBool(SPI_getbinval(rows->vals[i], desc, 4, &isnull));

		values[1] = SPI_getbinval(rows->vals[i], desc, 1, &isnull);
		if (holds)
		{
			if (!is_lost)
				es_statement_run(&lose, values, NULL);
			es_statement_run(&release, values, NULL);
		}
		else if (is_old)
			es_statement_run(&forget, values, NULL);
	}
}

static int
compare_pending(const void *a, const void *b)
{
	const Pending *left = a;
	const Pending *right = b;

	return left->position < right->position ? -1 : left->position > right->position ? 1 : 0;
}

static int
compare_positions(Datum a, Datum b, void *arg)
{
	int64		left = DatumGetInt64(a);
	int64		right = DatumGetInt64(b);

	return left < right ? -1 : left > right ? 1 : 0;
}

/* Adds the events of a stream to the sort while there can be room; heap has the positions that have it. */
static void
read_pending(Fetch *fetch, Pending *p, binaryheap *heap, Tuplesortstate *sort, TupleTableSlot *row)
{
	EsHead		head;
	text	   *name;
	EsScan	   *scan;
	TupleTableSlot *slot;

	if (heap->bh_size == fetch->max_count && p->position > DatumGetInt64(binaryheap_first(heap)))
	{
		p->cut = true;
		return;
	}
	name = es_stream_by_id(p->stream, fetch->snapshot, &head);
	if (name == NULL)
		return;
	scan = create_scan(fetch);
	scan->until_position = fetch->sub.position;
	head.first_position = p->position;	/* nothing before is looked at */
	es_scan_stream(scan, name, &head, p->version, head.version);
	while ((slot = es_scan_next(scan)) != NULL)
	{
		int64		position = DatumGetInt64(es_row_column(slot, Anum_log_position));

		if (p->found_position == 0)
		{
			p->found_version = DatumGetInt64(es_row_column(slot, Anum_log_version));
			p->found_position = position;
		}
		if (heap->bh_size < fetch->max_count)
			binaryheap_add(heap, Int64GetDatum(position));
		else if (position < DatumGetInt64(binaryheap_first(heap)))
			binaryheap_replace_first(heap, Int64GetDatum(position));
		else
		{
			p->cut = true;
			break;
		}
		ExecClearTuple(row);
		es_scan_event(scan, slot, ES_ALL_COLUMNS, row->tts_values, row->tts_isnull);
		ExecStoreVirtualTuple(row);
		tuplesort_puttupleslot(sort, row);
	}
	es_scan_end(scan);
}

/*
 * Returns the oldest events of fetch->pending, and notes what came of each stream. Afterwards a free stream of which
 * something was returned is one to be taken.
 */
static void
return_pending(Fetch *fetch)
{
	AttrNumber	column = 1;
	Oid			less = Int8LessOperator;
	Oid			collation = InvalidOid;
	bool		nulls_first = false;
	TupleDesc	desc = fetch->rsinfo->setDesc;
	TupleTableSlot *row;
	TupleTableSlot *sorted;
	Tuplesortstate *sort;
	binaryheap *heap;
	MemoryContext each;
	MemoryContext old;
	bool		isnull;

	if (fetch->pending_count == 0)
		return;
	qsort(fetch->pending, fetch->pending_count, sizeof(Pending), compare_pending);
	row = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	sorted = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	heap = binaryheap_allocate(fetch->max_count, compare_positions, NULL);
	sort = tuplesort_begin_heap(desc, 1, &column, &less, &collation, &nulls_first, work_mem, NULL,
								TUPLESORT_ALLOWBOUNDED);
	tuplesort_set_bound(sort, fetch->max_count);

	each = AllocSetContextCreate(CurrentMemoryContext, "event_store stream", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(each);
	for (int i = 0; i < fetch->pending_count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		read_pending(fetch, &fetch->pending[i], heap, sort, row);
		ExecClearTuple(row);
		MemoryContextReset(each);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(each);

	tuplesort_performsort(sort);
	while (fetch->count < fetch->max_count && tuplesort_gettupleslot(sort, true, false, sorted, NULL))
	{
		tuplestore_puttupleslot(fetch->rsinfo->setResult, sorted);
		fetch->last_position = DatumGetInt64(slot_getattr(sorted, 1, &isnull));
		fetch->count++;
	}
	ExecDropSingleTupleTableSlot(sorted);
	tuplesort_end(sort);
	ExecDropSingleTupleTableSlot(row);
	binaryheap_free(heap);

	for (int i = 0; i < fetch->pending_count; i++)
	{
		Pending    *p = &fetch->pending[i];

		if (p->found_position > fetch->last_position)
			p->cut = true;		/* crowded out by older ones */
		else
			p->returned = p->found_position != 0;
		if (p->found_position == 0 && !p->cut)
			set_state(fetch, p->stream, NOT_IN_FLIGHT);
		else
			set_state(fetch, p->stream, p->mine || p->returned ? MINE : OTHERS);
	}
}

/* Stores what came of them. */
static void
store_pending(Fetch *fetch)
{
	static EsStatement take = {
		"UPDATE event_store.subscription_streams s SET consumer = $2, version = u.version, position = u.position"
		" FROM unnest($3, $4, $5) u (stream, version, position) WHERE s.subscription = $1 AND s.stream = u.stream",
		5, {INT4OID, TEXTOID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID}
	};
	static EsStatement forget = {
		"DELETE FROM event_store.subscription_streams s WHERE s.subscription = $1 AND s.stream = ANY ($2)",
		2, {INT4OID, INT8ARRAYOID}
	};
	Streams		taken = {0};
	Streams		done = {0};
	Datum		values[5];

	for (int i = 0; i < fetch->pending_count; i++)
	{
		Pending    *p = &fetch->pending[i];

		if (p->found_position == 0 && !p->cut)
			add_stream(&done, p->stream, 0, 0);
		/* Its own also when they were crowded out: es_nack() tells by the position what it had in hand. */
		else if (p->mine ? p->found_position != 0 && p->found_position != p->position : p->returned)
			add_stream(&taken, p->stream, p->found_version, p->found_position);
	}
	values[0] = Int32GetDatum(fetch->sub.id);
	if (taken.count > 0)
	{
		values[1] = PointerGetDatum(fetch->consumer);
		values[2] = bigint_array(taken.stream, taken.count);
		values[3] = bigint_array(taken.version, taken.count);
		values[4] = bigint_array(taken.position, taken.count);
		es_statement_run(&take, values, NULL);
	}
	if (done.count > 0)
	{
		values[1] = bigint_array(done.stream, done.count);
		es_statement_run(&forget, values, NULL);
	}
}

/* ---------------------------------------------------------------- the log */

/* An event after the frontier; false: no more of them. */
static bool
meet(Fetch *fetch, EsScan *scan, TupleTableSlot *slot)
{
	int64		position = DatumGetInt64(es_row_column(slot, Anum_log_position));
	int64		stream = DatumGetInt64(es_row_column(slot, Anum_log_stream));
	StreamEntry *entry = stream_state(fetch, stream);
	Datum		values[ES_EVENT_COLUMNS];
	bool		nulls[ES_EVENT_COLUMNS];

	if (entry->state == OTHERS)
	{
		if (fetch->passed++ == 0)
			fetch->first_passed = position;
		return fetch->passed < (fetch->peeking ? MAX_PASSED_WAITING : MAX_PASSED);
	}
	fetch->count++;
	fetch->last_position = position;
	if (fetch->peeking)
		return false;
	if (entry->state == NOT_IN_FLIGHT)
	{
		entry->state = MINE;
		add_stream(&fetch->fresh, stream, DatumGetInt64(es_row_column(slot, Anum_log_version)), position);
	}
	es_scan_event(scan, slot, ES_ALL_COLUMNS, values, nulls);
	tuplestore_putvalues(fetch->rsinfo->setResult, fetch->rsinfo->setDesc, values, nulls);
	return fetch->count < fetch->max_count;
}

/* Moves the frontier over the log up to the mark, as far as there is room. */
static void
return_from_log(Fetch *fetch)
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
		scan = create_scan(fetch);
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
			more = meet(fetch, scan, slot);
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
store_fetch(Fetch *fetch)
{
	static EsStatement assign = {
		"INSERT INTO event_store.subscription_streams (subscription, stream, version, position, attempts, consumer)"
		" SELECT $1, u.stream, u.version, u.position, 0, $2 FROM unnest($3, $4, $5) u (stream, version, position)",
		5, {INT4OID, TEXTOID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID}
	};
	static EsStatement renew = {
		"INSERT INTO event_store.subscription_consumers AS c"
		" (subscription, consumer, lease_until, returned, covered, lost, fetched_at)"
		" VALUES ($1, $2, $3, $4, $5, false, $6) ON CONFLICT (subscription, consumer) DO UPDATE SET"
		" lease_until = excluded.lease_until, returned = excluded.returned, covered = excluded.covered,"
		" lost = false, fetched_at = excluded.fetched_at",
		6, {INT4OID, TEXTOID, TIMESTAMPTZOID, INT8OID, INT8OID, TIMESTAMPTZOID}
	};
	static EsStatement clear = {
		"UPDATE event_store.subscription_consumers SET lost = false, returned = 0, covered = 0"
		" WHERE subscription = $1 AND consumer = $2 AND lost",
		2, {INT4OID, TEXTOID}
	};
	static EsStatement move = {
		"UPDATE event_store.subscriptions SET position = $2 WHERE id = $1",
		2, {INT4OID, INT8OID}
	};
	TimestampTz now = GetCurrentTimestamp();
	Datum		values[6];

	store_pending(fetch);
	values[0] = Int32GetDatum(fetch->sub.id);
	values[1] = PointerGetDatum(fetch->consumer);
	if (fetch->fresh.count > 0)
	{
		values[2] = bigint_array(fetch->fresh.stream, fetch->fresh.count);
		values[3] = bigint_array(fetch->fresh.version, fetch->fresh.count);
		values[4] = bigint_array(fetch->fresh.position, fetch->fresh.count);
		es_statement_run(&assign, values, NULL);
	}
	if (fetch->count > 0)
	{
		values[2] = TimestampTzGetDatum(now + fetch->lease);
		values[3] = Int64GetDatum(fetch->last_position);
		values[4] = Int64GetDatum(fetch->covered);
		values[5] = TimestampTzGetDatum(now);
		es_statement_run(&renew, values, NULL);
	}
	else
		es_statement_run(&clear, values, NULL);
	if (fetch->frontier != fetch->sub.position)
	{
		values[1] = Int64GetDatum(fetch->frontier);
		es_statement_run(&move, values, NULL);
	}
}

/* What peeks have found out. */
typedef struct Peek
{
	int32		subscription;
	int64		frontier;		/* the subscription's, at the last look */
	int64		clear_until;	/* nothing that matches is in the log after the frontier and up to here */
	bool		behind;			/* there is more of the log to look at, now */
	TimestampTz lease_end;		/* the next end of a lease of another consumer that has streams */
} Peek;

/* The fetch itself. */
static void
do_fetch(Fetch *fetch, const Peek *seen)
{
	MemoryContext context = CurrentMemoryContext;
	EsSql		sql;
	int			settings = 0;

	UnregisterSnapshot(es_mark_snapshot(&fetch->mark));

	es_subscription_begin(&sql);
	es_subscription_find(fetch->name, true, context, &fetch->sub);
	look_for_pending(fetch, true, context);
	if (fetch->pending_count < fetch->max_count)
	{
		end_leases(fetch, GetCurrentTimestamp());
		look_for_pending(fetch, false, context);
	}
	es_sql_end(&sql);

	begin_reading(fetch);
	if (fetch->upcast != NULL)
		settings = es_settings_open(NULL);	/* once, not for each event */
	return_pending(fetch);
	fetch->frontier = fetch->sub.position;
	if (seen->subscription == fetch->sub.id)
		fetch->frontier = Max(fetch->frontier, seen->clear_until);
	if (fetch->count < fetch->max_count)
	{
		return_from_log(fetch);
		fetch->covered = fetch->frontier;
	}
	else
		fetch->covered = fetch->last_position;
	es_settings_close(settings);
	end_reading(fetch);

	es_subscription_begin(&sql);
	store_fetch(fetch);
	es_sql_end(&sql);
}

/* Whether a fetch would do anything, as far as can be seen without the lock. */
static bool
peek(const Fetch *call, Peek *seen)
{
	static EsStatement look = {
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
	Fetch		fetch = *call;
	MemoryContext context = CurrentMemoryContext;
	Datum		values[2];
	EsSql		sql;
	bool		found;
	bool		isnull;
	int			settings = 0;

	fetch.peeking = true;
	UnregisterSnapshot(es_mark_snapshot(&fetch.mark));
	es_subscription_begin(&sql);
	es_subscription_find(fetch.name, false, context, &fetch.sub);
	values[0] = Int32GetDatum(fetch.sub.id);
	values[1] = PointerGetDatum(fetch.consumer);
	es_statement_run(&look, values, NULL);
	found = DatumGetBool(es_statement_value(0, 1, &isnull));
	seen->lease_end = DatumGetTimestampTz(es_statement_value(0, 2, &isnull));
	if (isnull)
		seen->lease_end = DT_NOEND;
	es_sql_end(&sql);
	seen->frontier = fetch.sub.position;
	if (seen->subscription != fetch.sub.id)
	{
		seen->subscription = fetch.sub.id;
		seen->clear_until = 0;
	}
	if (found || seen->lease_end <= GetCurrentTimestamp())
		return true;

	fetch.frontier = Max(fetch.sub.position, seen->clear_until);
	begin_reading(&fetch);
	if (fetch.upcast != NULL)
		settings = es_settings_open(NULL);
	return_from_log(&fetch);
	es_settings_close(settings);
	end_reading(&fetch);
	seen->clear_until = fetch.passed > 0 ? fetch.first_passed - 1 :
		fetch.count > 0 ? fetch.last_position - 1 : fetch.frontier;
	seen->behind = fetch.passed == 0 && fetch.frontier < fetch.mark;
	return fetch.count > 0 || fetch.passed >= MAX_PASSED_WAITING;
}

/* Waits until there is something to fetch; false when the time was up before. */
static bool
await_events(const Fetch *call, int64 wait, Peek *seen)
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

/* An interval argument in microseconds, within bounds; a month has 30 days, as core compares intervals. */
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
	Fetch		fetch = {0};
	Peek		seen = {0};
	int64		lease;
	int64		wait;

	es_subscription_prevent("es_fetch()");
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
	/* When nobody has anything for us, at least keep how much of the log need not be looked at again. */
	if (wait == 0 || await_events(&fetch, wait, &seen) || seen.clear_until > seen.frontier)
		do_fetch(&fetch, &seen);
	return (Datum) 0;
}
