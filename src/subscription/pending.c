/*
 * subscription/pending.c
 *	  Streams in flight: the part of a fetch that reads events up to the frontier.
 *
 * Each of these streams has a row in subscription_streams, which names its first event that is not acknowledged. A
 * fetch returns the oldest events of the streams that its consumer holds and of free streams. A free stream is taken
 * when at least one of its events is returned.
 */
#include "postgres.h"

#include "catalog/pg_operator_d.h"
#include "catalog/pg_type.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplesort.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "log/log.h"
#include "subscription/fetch.h"

/* A consumer that holds nothing is forgotten when its lease ended so long ago. */
#define FORGET_CONSUMER		USECS_PER_DAY

/* ---------------------------------------------------------------- finding them */

/*
 * Adds rows to fetch->pending, in a memory context: all rows of the consumer, or the oldest free ones. An
 * acknowledgement relies on it that none of the consumer's own is missing.
 */
static void
find_rows(EsFetch *fetch, bool mine, MemoryContext context)
{
	static EsStatement held = {
		NULL,
		"SELECT s.stream, s.version, s.position FROM event_store.subscription_streams s"
		" WHERE s.subscription = $1 AND s.consumer = $2 AND s.reason IS NULL",
		2, {INT4OID, TEXTOID}
	};
	static EsStatement idle = {
		NULL,
		"SELECT s.stream, s.version, s.position FROM event_store.subscription_streams s"
		" WHERE s.subscription = $1 AND s.consumer IS NULL AND s.reason IS NULL ORDER BY s.position LIMIT $3",
		3, {INT4OID, TEXTOID, INT4OID}
	};
	Datum		values[3];
	uint64		count;
	Size		size;

	values[0] = Int32GetDatum(fetch->sub.id);
	values[1] = PointerGetDatum(fetch->consumer);
	values[2] = Int32GetDatum(fetch->max_count);
	count = es_statement_run(mine ? &held : &idle, values, NULL);
	size = sizeof(EsPending) * (fetch->pending_count + count);
	if (count == 0)
		return;
	fetch->pending = fetch->pending == NULL ? MemoryContextAlloc(context, size) : repalloc(fetch->pending, size);
	for (uint64 i = 0; i < count; i++)
	{
		EsPending  *p = &fetch->pending[fetch->pending_count++];

		memset(p, 0, sizeof(EsPending));
		p->stream = DatumGetInt64(es_statement_value(i, 1, INT8OID, NULL));
		p->version = DatumGetInt64(es_statement_value(i, 2, INT8OID, NULL));
		p->position = DatumGetInt64(es_statement_value(i, 3, INT8OID, NULL));
		p->mine = mine;
	}
}

/* Frees the streams of consumers whose lease has ended, and forgets consumers that are long gone. */
static void
end_leases(EsFetch *fetch, TimestampTz now)
{
	static EsStatement look = {
		NULL,
		"SELECT c.consumer, c.lost, c.lease_until < $4, EXISTS (SELECT FROM event_store.subscription_streams s"
		" WHERE s.subscription = c.subscription AND s.consumer = c.consumer AND s.reason IS NULL)"
		" FROM event_store.subscription_consumers c"
		" WHERE c.subscription = $1 AND c.consumer <> $2 AND c.lease_until <= $3",
		4, {INT4OID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID}
	};
	static EsStatement lose = {
		"subscription_consumers",
		"UPDATE event_store.subscription_consumers SET lost = true WHERE subscription = $1 AND consumer = $2",
		2, {INT4OID, TEXTOID}
	};
	static EsStatement release = {
		"subscription_streams",
		"UPDATE event_store.subscription_streams SET consumer = NULL"
		" WHERE subscription = $1 AND consumer = $2 AND reason IS NULL",
		2, {INT4OID, TEXTOID}
	};
	static EsStatement forget = {
		"subscription_consumers",
		"DELETE FROM event_store.subscription_consumers WHERE subscription = $1 AND consumer = $2",
		2, {INT4OID, TEXTOID}
	};
	Datum		values[4];
	uint64		count;
	SPITupleTable *rows;
	TupleDesc	desc;

	values[0] = Int32GetDatum(fetch->sub.id);
	values[1] = PointerGetDatum(fetch->consumer);
	values[2] = TimestampTzGetDatum(now);
	values[3] = TimestampTzGetDatum(now - FORGET_CONSUMER);
	count = es_statement_run(&look, values, NULL);
	rows = SPI_tuptable;
	desc = rows->tupdesc;
	for (uint64 i = 0; i < count; i++)
	{
		bool		is_lost = DatumGetBool(es_sql_value(rows->vals[i], desc, 2, BOOLOID, NULL));
		bool		is_old = DatumGetBool(es_sql_value(rows->vals[i], desc, 3, BOOLOID, NULL));
		bool		holds = DatumGetBool(es_sql_value(rows->vals[i], desc, 4, BOOLOID, NULL));

		values[1] = es_sql_value(rows->vals[i], desc, 1, TEXTOID, NULL);
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

/*
 * Finds all streams that the consumer holds, and as many free ones as there may be room for. Between
 * es_subscription_begin() and es_sql_end(), with the subscription locked.
 */
void
es_pending_find(EsFetch *fetch, MemoryContext context)
{
	find_rows(fetch, true, context);
	if (fetch->pending_count < fetch->max_count)
	{
		end_leases(fetch, GetCurrentTimestamp());
		find_rows(fetch, false, context);
	}
}

/* ---------------------------------------------------------------- returning their events */

static int
compare_pending(const void *a, const void *b)
{
	const EsPending *left = a;
	const EsPending *right = b;

	return left->position < right->position ? -1 : left->position > right->position ? 1 : 0;
}

static int
compare_positions(Datum a, Datum b, void *arg)
{
	int64		left = DatumGetInt64(a);
	int64		right = DatumGetInt64(b);

	return left < right ? -1 : left > right ? 1 : 0;
}

/*
 * Adds the events of one stream to the sort. The heap has the positions of the oldest max_count events so far, the
 * newest of them on top. Once it is full, the stream is left at its first event that is newer than that.
 */
static void
read_stream(EsFetch *fetch, EsPending *p, binaryheap *heap, Tuplesortstate *sort, TupleTableSlot *row)
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
	scan = es_fetch_scan(fetch);
	scan->until_position = fetch->sub.position;
	es_scan_stream_after(scan, name, &head, p->version, head.version, p->position - 1);
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

/* Reads the streams, oldest first, and returns their oldest events. */
static void
return_oldest(EsFetch *fetch)
{
	AttrNumber	column = 1;
	Oid			less = Int8LessOperator;
	Oid			collation = InvalidOid;
	bool		nulls_first = false;
	TupleDesc	desc = fetch->rsinfo->setDesc;
	TupleTableSlot *row = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	TupleTableSlot *sorted = MakeSingleTupleTableSlot(desc, &TTSOpsMinimalTuple);
	binaryheap *heap = binaryheap_allocate(fetch->max_count, compare_positions, NULL);
	Tuplesortstate *sort;
	MemoryContext each;
	MemoryContext old;
	bool		isnull;

	sort = tuplesort_begin_heap(desc, 1, &column, &less, &collation, &nulls_first, work_mem, NULL,
								TUPLESORT_ALLOWBOUNDED);
	tuplesort_set_bound(sort, fetch->max_count);
	qsort(fetch->pending, fetch->pending_count, sizeof(EsPending), compare_pending);

	each = AllocSetContextCreate(CurrentMemoryContext, "event_store stream", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(each);
	for (int i = 0; i < fetch->pending_count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		read_stream(fetch, &fetch->pending[i], heap, sort, row);
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
}

/*
 * Returns the oldest events of fetch->pending, and notes what came of each stream. A free stream of which something was
 * returned is to be taken afterwards.
 */
void
es_pending_return(EsFetch *fetch)
{
	if (fetch->pending_count == 0)
		return;
	return_oldest(fetch);
	for (int i = 0; i < fetch->pending_count; i++)
	{
		EsPending  *p = &fetch->pending[i];

		if (p->found_position > fetch->last_position)
			p->cut = true;		/* older events of other streams took its place */
		else
			p->returned = p->found_position != 0;
		if (p->found_position == 0 && !p->cut)
			es_fetch_set_state(fetch, p->stream, ES_STREAM_NOT_IN_FLIGHT);
		else
			es_fetch_set_state(fetch, p->stream, p->mine || p->returned ? ES_STREAM_MINE : ES_STREAM_OTHERS);
	}
}

/* ---------------------------------------------------------------- storing */

/* Stores what came of each stream: rows of streams that have no event left are deleted. */
void
es_pending_store(EsFetch *fetch)
{
	static EsStatement take = {
		"subscription_streams",
		"UPDATE event_store.subscription_streams s SET consumer = $2, version = u.version, position = u.position"
		" FROM unnest($3, $4, $5) u (stream, version, position) WHERE s.subscription = $1 AND s.stream = u.stream",
		5, {INT4OID, TEXTOID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID}
	};
	static EsStatement forget = {
		"subscription_streams",
		"DELETE FROM event_store.subscription_streams s WHERE s.subscription = $1 AND s.stream = ANY ($2)",
		2, {INT4OID, INT8ARRAYOID}
	};
	EsStreamRows taken = {0};
	EsStreamRows done = {0};
	Datum		values[5];

	for (int i = 0; i < fetch->pending_count; i++)
	{
		EsPending  *p = &fetch->pending[i];

		if (p->found_position == 0 && !p->cut)
			es_stream_rows_add(&done, p->stream, 0, 0);

		/*
		 * The consumer's own rows are moved also where older events took the place of theirs: es_nack() tells by a
		 * row's position whether the consumer got the event.
		 */
		else if (p->mine ? p->found_position != 0 && p->found_position != p->position : p->returned)
			es_stream_rows_add(&taken, p->stream, p->found_version, p->found_position);
	}
	values[0] = Int32GetDatum(fetch->sub.id);
	if (taken.count > 0)
	{
		values[1] = PointerGetDatum(fetch->consumer);
		es_stream_rows_arrays(&taken, &values[2]);
		es_statement_change(&take, values, taken.count);
	}
	if (done.count > 0)
	{
		values[1] = es_stream_rows_streams(&done);
		es_statement_run(&forget, values, NULL);
	}
}
