/*
 * subscription/acknowledge.c
 *	  What consumers say about the events that they fetched: es_ack for done, es_nack for failed.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"
#include "subscription/definition.h"
#include "subscription/statement.h"

PG_FUNCTION_INFO_V1(es_ack);
PG_FUNCTION_INFO_V1(es_nack);

/* An answer to the consumer's last fetch. */
typedef struct Reply
{
	EsSubscription sub;
	const text *name;
	const text *consumer;
	int64		upto;
	int64		returned;		/* the last position that the fetch returned */
	int64		covered;		/* up to here it returned everything of the consumer's streams */
} Reply;

/* A stream of which some events are acknowledged, with its first event that is not. */
typedef struct Advance
{
	int64		stream;
	int64		version;
	int64		position;		/* 0: no event is left */
} Advance;

static void
raise_lost(const Reply *reply, const char *detail)
{
	ereport(ERROR,
			(errcode(ES_LEASE_LOST),
			 errmsg("consumer \"%s\" has lost its lease on subscription \"%s\"",
					text_to_cstring(reply->consumer), text_to_cstring(reply->name)),
			 errdetail("%s", detail),
			 errhint("Call es_fetch again, with a longer lease or fewer events.")));
}

/* Locks the subscription and checks that the consumer may answer for events up to reply->upto. */
static void
begin_reply(Reply *reply, MemoryContext context)
{
	static EsStatement look = {
		NULL,
		"SELECT c.returned, c.covered, c.lost FROM event_store.subscription_consumers c"
		" WHERE c.subscription = $1 AND c.consumer = $2",
		2, {INT4OID, TEXTOID}
	};
	Datum		values[2];

	es_subscription_find(reply->name, true, context, &reply->sub);
	values[0] = Int32GetDatum(reply->sub.id);
	values[1] = PointerGetDatum(reply->consumer);
	if (es_statement_run(&look, values, NULL) == 0)
		raise_lost(reply, "It has fetched no events, or too long ago.");
	reply->returned = DatumGetInt64(es_statement_value(0, 1, INT8OID, NULL));
	reply->covered = DatumGetInt64(es_statement_value(0, 2, INT8OID, NULL));
	if (DatumGetBool(es_statement_value(0, 3, BOOLOID, NULL)))
		raise_lost(reply, "The lease had ended, and another consumer took over.");
	if (reply->upto > reply->returned)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument up_to_position is beyond what was fetched"),
				 errdetail("It is %lld; the last es_fetch of consumer \"%s\" ended at position %lld.",
						   (long long) reply->upto, text_to_cstring(reply->consumer),
						   (long long) reply->returned)));
}

static void
reply_arguments(FunctionCallInfo fcinfo, int consumer, Reply *reply)
{
	memset(reply, 0, sizeof(*reply));
	reply->name = es_subscription_argument(fcinfo, 0, "subscription");
	if (PG_ARGISNULL(1))
		es_null_argument("up_to_position");
	reply->upto = PG_GETARG_INT64(1);
	if (reply->upto < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument up_to_position must not be negative"),
				 errdetail("It is %lld.", (long long) reply->upto)));
	reply->consumer = es_consumer_argument(fcinfo, consumer);
}

/* ---------------------------------------------------------------- done */

/*
 * Finds a stream's first event after the acknowledged ones, up to the frontier. Without upcasters it is the first that
 * passes the filter. With upcasters it is the first of any type, and es_fetch finds out whether it passes: an
 * upcaster that fails must not stop an acknowledgement.
 */
static void
advance(const Reply *reply, Snapshot snapshot, bool filter, Bitmapset *types, Advance *a)
{
	EsHead		head;
	text	   *name = es_stream_by_id(a->stream, snapshot, &head);
	int64		position = a->position;
	EsScan	   *scan;
	TupleTableSlot *slot;

	a->position = 0;
	if (name == NULL || head.last_position <= reply->upto)
		return;
	scan = es_scan_create(RegisterSnapshot(snapshot));
	scan->filter_types = filter;
	scan->types = types;
	scan->until_position = reply->sub.position;
	es_scan_stream_after(scan, name, &head, a->version, head.version, position - 1);
	while (a->position == 0 && (slot = es_scan_next(scan)) != NULL)
	{
		position = DatumGetInt64(es_row_column(slot, Anum_log_position));
		if (position > reply->upto)
		{
			a->position = position;
			a->version = DatumGetInt64(es_row_column(slot, Anum_log_version));
		}
	}
	es_scan_end(scan);
}

static void
advance_all(const Reply *reply, Advance *advances, int count)
{
	bool		filter;
	Bitmapset  *types = NULL;
	Snapshot	snapshot;
	MemoryContext each;
	MemoryContext old;

	if (count == 0)
		return;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	filter = !reply->sub.filter.all_types && es_upcaster_count(es_definitions()) == 0;
	if (filter)
		types = es_name_ids(ES_EVENT_TYPE, reply->sub.filter.types);
	each = AllocSetContextCreate(CurrentMemoryContext, "event_store stream", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(each);
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		advance(reply, snapshot, filter, types, &advances[i]);
		MemoryContextReset(each);
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(each);
	UnregisterSnapshot(snapshot);
}

/* The consumer's streams with events up to reply->upto, in a memory context. */
static int
streams_to_advance(const Reply *reply, MemoryContext context, Advance **advances)
{
	static EsStatement look = {
		NULL,
		"SELECT s.stream, s.version, s.position FROM event_store.subscription_streams s"
		" WHERE s.subscription = $1 AND s.consumer = $2 AND s.reason IS NULL AND s.position <= $3",
		3, {INT4OID, TEXTOID, INT8OID}
	};
	Datum		values[3];
	uint64		count;

	values[0] = Int32GetDatum(reply->sub.id);
	values[1] = PointerGetDatum(reply->consumer);
	values[2] = Int64GetDatum(reply->upto);
	count = es_statement_run(&look, values, NULL);
	*advances = MemoryContextAllocHuge(context, sizeof(Advance) * Max(count, 1));
	for (uint64 i = 0; i < count; i++)
	{
		(*advances)[i].stream = DatumGetInt64(es_statement_value(i, 1, INT8OID, NULL));
		(*advances)[i].version = DatumGetInt64(es_statement_value(i, 2, INT8OID, NULL));
		(*advances)[i].position = DatumGetInt64(es_statement_value(i, 3, INT8OID, NULL));
	}
	return (int) count;
}

/* Stores where the streams are now. Rows of streams that have no event left are deleted. */
static void
store_advances(const Reply *reply, const Advance *advances, int count)
{
	static EsStatement move = {
		"subscription_streams",
		"UPDATE event_store.subscription_streams s SET version = u.version, position = u.position, attempts = 0"
		" FROM unnest($2, $3, $4) u (stream, version, position) WHERE s.subscription = $1 AND s.stream = u.stream",
		4, {INT4OID, INT8ARRAYOID, INT8ARRAYOID, INT8ARRAYOID}
	};
	static EsStatement forget = {
		"subscription_streams",
		"DELETE FROM event_store.subscription_streams s WHERE s.subscription = $1 AND s.stream = ANY ($2)",
		2, {INT4OID, INT8ARRAYOID}
	};
	EsStreamRows moved = {0};
	EsStreamRows gone = {0};
	Datum		values[4];

	for (int i = 0; i < count; i++)
		if (advances[i].position == 0)
			es_stream_rows_add(&gone, advances[i].stream, 0, 0);
		else
			es_stream_rows_add(&moved, advances[i].stream, advances[i].version, advances[i].position);
	values[0] = Int32GetDatum(reply->sub.id);
	if (gone.count > 0)
	{
		values[1] = es_stream_rows_streams(&gone);
		es_statement_run(&forget, values, NULL);
	}
	if (moved.count > 0)
	{
		es_stream_rows_arrays(&moved, &values[1]);
		es_statement_change(&move, values, moved.count);
	}
}

Datum
es_ack(PG_FUNCTION_ARGS)
{
	static EsStatement forget_all = {
		"subscription_streams",
		"DELETE FROM event_store.subscription_streams s"
		" WHERE s.subscription = $1 AND s.consumer = $2 AND s.reason IS NULL",
		2, {INT4OID, TEXTOID}
	};
	static EsStatement note = {
		"subscription_consumers",
		"UPDATE event_store.subscription_consumers SET acked_at = clock_timestamp()"
		" WHERE subscription = $1 AND consumer = $2",
		2, {INT4OID, TEXTOID}
	};
	MemoryContext context = CurrentMemoryContext;
	Datum		values[2];
	Advance    *advances = NULL;
	int			count = 0;
	bool		everything;
	Reply		reply;
	EsSql		sql;

	es_subscription_check_transaction("es_ack()");
	(void) es_store_now();
	reply_arguments(fcinfo, 2, &reply);

	es_subscription_begin(&sql);
	begin_reply(&reply, context);
	/* Often nobody has moved the frontier since the fetch. Then no stream has an event left up to the frontier. */
	everything = reply.upto == reply.returned && reply.covered >= reply.sub.position;
	if (!everything)
		count = streams_to_advance(&reply, context, &advances);
	es_sql_end(&sql);

	advance_all(&reply, advances, count);

	es_subscription_begin(&sql);
	values[0] = Int32GetDatum(reply.sub.id);
	values[1] = PointerGetDatum(reply.consumer);
	if (everything)
		es_statement_run(&forget_all, values, NULL);
	else
		store_advances(&reply, advances, count);
	es_statement_run(&note, values, NULL);
	es_sql_end(&sql);
	ES_FAULT(ack);
	PG_RETURN_VOID();
}

/* ---------------------------------------------------------------- failed */

Datum
es_nack(PG_FUNCTION_ARGS)
{
	static EsStatement quarantine = {
		"subscription_streams",
		"UPDATE event_store.subscription_streams SET consumer = NULL, reason = $4, attempts = attempts + 1,"
		" since = clock_timestamp()"
		" WHERE subscription = $1 AND consumer = $2 AND reason IS NULL AND position <= $3",
		4, {INT4OID, TEXTOID, INT8OID, TEXTOID}
	};
	Datum		values[4];
	text	   *reason;
	Reply		reply;
	EsSql		sql;

	es_subscription_check_transaction("es_nack()");
	(void) es_store_now();
	reply_arguments(fcinfo, 3, &reply);
	reason = es_reason_argument(fcinfo, 2);

	es_subscription_begin(&sql);
	begin_reply(&reply, CurrentMemoryContext);
	values[0] = Int32GetDatum(reply.sub.id);
	values[1] = PointerGetDatum(reply.consumer);
	values[2] = Int64GetDatum(reply.upto);
	values[3] = PointerGetDatum(reason);
	es_statement_run(&quarantine, values, NULL);
	es_sql_end(&sql);
	PG_RETURN_VOID();
}
