/*
 * projection/quarantine.c
 *	  The quarantine of a projection: streams of which it could not apply an event.
 *
 * When the events of a call cannot be applied, every stream of the call is quarantined, because later events of a
 * stream must not be applied before earlier ones. And because a call is never applied in part, a later call that
 * touches a quarantined stream is quarantined as a whole, and so are its other streams, from that call on. Streams
 * that depend on each other in this way form a *group*, and can only be tried again with all the others of it. A
 * group has a number, which is stored in column `together`.
 *
 * What is stored for each stream is the position of its first quarantined event: everything of the stream from there to
 * the checkpoint is quarantined. The checkpoint's row is locked while any of this is read or written.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "store/store.h"
#include "projection/quarantine.h"

typedef struct QuarantinedStream
{
	int64		stream;			/* key */
	int64		group;
	int64		position;		/* of the first quarantined event */
	int64		events;			/* quarantined by this batch, to be added to the stored number */
	const char *error;			/* of a call that failed; NULL where the stream only depends on such a call */
	const char *error_code;
	int64		error_position;
	bool		changed;
} QuarantinedStream;

struct EsQuarantine
{
	char	   *projection;
	bool		rebuild;
	int			attempts;		/* made so far at what is quarantined now */
	MemoryContext context;
	HTAB	   *streams;
};

static Datum
key_datum(const EsQuarantine *quarantine)
{
	return CStringGetTextDatum(quarantine->projection);
}

/*
 * Reads the quarantine of a projection, or of its rebuild, into the current memory context. `any` is false where the
 * checkpoint says that no stream is quarantined: then nothing is read.
 */
EsQuarantine *
es_quarantine_load(const char *projection, bool rebuild, bool any, int attempts)
{
	EsQuarantine *quarantine = palloc0(sizeof(EsQuarantine));
	HASHCTL		ctl;
	EsSql		sql;
	Oid			types[2] = {TEXTOID, BOOLOID};
	Datum		values[2];

	quarantine->projection = pstrdup(projection);
	quarantine->rebuild = rebuild;
	quarantine->attempts = attempts;
	quarantine->context = CurrentMemoryContext;
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(QuarantinedStream);
	ctl.hcxt = CurrentMemoryContext;
	quarantine->streams = hash_create("event_store quarantined streams", 64, &ctl,
									  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	if (!any)
		return quarantine;

	values[0] = key_datum(quarantine);
	values[1] = BoolGetDatum(rebuild);
	es_sql_begin(&sql, es_store()->owner);
	es_sql_run_args("SELECT stream, together, position FROM event_store.quarantined_streams"
					" WHERE projection = $1 AND rebuild = $2", 2, types, values, NULL);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		int64		stream = DatumGetInt64(es_sql_value(tuple, desc, 1, INT8OID, NULL));
		QuarantinedStream *entry = hash_search(quarantine->streams, &stream, HASH_ENTER, NULL);

		memset((char *) entry + sizeof(int64), 0, sizeof(QuarantinedStream) - sizeof(int64));
		entry->group = DatumGetInt64(es_sql_value(tuple, desc, 2, INT8OID, NULL));
		entry->position = DatumGetInt64(es_sql_value(tuple, desc, 3, INT8OID, NULL));
	}
	es_sql_end(&sql);
	return quarantine;
}

int
es_quarantine_count(const EsQuarantine *quarantine)
{
	return hash_get_num_entries(quarantine->streams);
}

/* Makes all streams of one group streams of another group. */
static void
merge_groups(EsQuarantine *quarantine, int64 from, int64 to)
{
	HASH_SEQ_STATUS seq;
	QuarantinedStream *entry;

	if (from == to)
		return;
	hash_seq_init(&seq, quarantine->streams);
	while ((entry = hash_seq_search(&seq)) != NULL)
		if (entry->group == from)
		{
			entry->group = to;
			entry->changed = true;
		}
}

/* An event, by its place in members[] of the batch. */
static EsBatchEvent *
member(EsBatch *batch, int64 number)
{
	return &batch->events[batch->members[number]];
}

/*
 * Quarantines a call, after an error or, without one, because of an earlier call. Its streams become one group, with
 * all groups that they were in. Returns the number of events of the call.
 */
static int64
quarantine_call(EsQuarantine *quarantine, EsBatch *batch, int64 call, const ErrorData *error)
{
	int64		group = batch->calls[call];

	for (int64 i = batch->starts[call]; i < batch->starts[call + 1]; i++)
	{
		QuarantinedStream *entry = hash_search(quarantine->streams, &member(batch, i)->stream, HASH_FIND, NULL);

		if (entry != NULL)
			group = Min(group, entry->group);
	}
	for (int64 i = batch->starts[call]; i < batch->starts[call + 1]; i++)
	{
		EsBatchEvent *event = member(batch, i);
		QuarantinedStream *entry;
		bool		found;

		event->left_out = true;
		entry = hash_search(quarantine->streams, &event->stream, HASH_ENTER, &found);
		if (!found)
		{
			memset((char *) entry + sizeof(int64), 0, sizeof(QuarantinedStream) - sizeof(int64));
			entry->position = event->position;
			entry->group = group;
		}
		else
		{
			/*
			 * A later call of the batch may have quarantined this stream behind another one, before this call was found
			 * to fail. Then what the stream has between the two calls is quarantined as well.
			 */
			entry->position = Min(entry->position, event->position);
			if (entry->group != group)
				merge_groups(quarantine, entry->group, group);
		}
		if (error != NULL && entry->error == NULL)
		{
			entry->error = MemoryContextStrdup(quarantine->context, error->message);
			entry->error_code = MemoryContextStrdup(quarantine->context, unpack_sql_state(error->sqlerrcode));
			entry->error_position = member(batch, batch->starts[call])->position;
		}
		entry->events++;
		entry->changed = true;
	}
	return batch->starts[call + 1] - batch->starts[call];
}

/*
 * Quarantines the calls of a batch, from `from_call` on, that touch a quarantined stream. It goes through the calls
 * in order of their keys, which is the order of the events of every stream; so going through them once is enough.
 * Returns the number of events quarantined.
 */
int64
es_quarantine_apply(EsQuarantine *quarantine, EsBatch *batch, int64 from_call)
{
	int64		events = 0;

	if (es_quarantine_count(quarantine) == 0)
		return 0;
	es_batch_members(batch);
	for (int64 call = from_call; call < batch->call_count; call++)
		for (int64 i = batch->starts[call]; i < batch->starts[call + 1]; i++)
		{
			EsBatchEvent *event = member(batch, i);
			QuarantinedStream *entry;

			if (event->left_out)
				break;			/* its call is quarantined already */
			entry = hash_search(quarantine->streams, &event->stream, HASH_FIND, NULL);
			if (entry != NULL && event->position >= entry->position)
			{
				events += quarantine_call(quarantine, batch, call, NULL);
				break;
			}
		}
	return events;
}

/*
 * Quarantines a call that failed, and the later calls of the batch that depend on it. Returns the number of events
 * quarantined.
 */
int64
es_quarantine_add(EsQuarantine *quarantine, EsBatch *batch, int64 call, const ErrorData *error)
{
	int64		events;

	es_batch_members(batch);
	events = quarantine_call(quarantine, batch, call, error);
	return events + es_quarantine_apply(quarantine, batch, call + 1);
}

/* Stores what has changed. */
void
es_quarantine_save(EsQuarantine *quarantine)
{
	HASH_SEQ_STATUS seq;
	QuarantinedStream *entry;
	EsSql		sql;
	Oid			types[10] = {TEXTOID, BOOLOID, INT8OID, INT8OID, INT8OID, INT8OID, TEXTOID, TEXTOID, INT8OID, INT4OID};
	SPIPlanPtr	plan = NULL;

	es_sql_begin(&sql, es_store()->owner);
	hash_seq_init(&seq, quarantine->streams);
	while ((entry = hash_seq_search(&seq)) != NULL)
	{
		Datum		values[10];
		char		nulls[10];
		uint64		rows;

		if (!entry->changed)
			continue;
		memset(nulls, ' ', sizeof(nulls));
		values[0] = key_datum(quarantine);
		values[1] = BoolGetDatum(quarantine->rebuild);
		values[2] = Int64GetDatum(entry->stream);
		values[3] = Int64GetDatum(entry->group);
		values[4] = Int64GetDatum(entry->position);
		values[5] = Int64GetDatum(entry->events);
		values[6] = entry->error == NULL ? (Datum) 0 : CStringGetTextDatum(entry->error);
		values[7] = entry->error == NULL ? (Datum) 0 : CStringGetTextDatum(entry->error_code);
		values[8] = Int64GetDatum(entry->error_position);
		values[9] = Int32GetDatum(quarantine->attempts + 1);
		if (entry->error == NULL)
			nulls[6] = nulls[7] = nulls[8] = 'n';
		rows = es_sql_write_kept("quarantined_streams", &plan,
								 "INSERT INTO event_store.quarantined_streams AS q VALUES"
								 " ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, clock_timestamp())"
								 " ON CONFLICT (projection, rebuild, stream) DO UPDATE SET together = EXCLUDED.together,"
								 " events = q.events + EXCLUDED.events, error = coalesce(q.error, EXCLUDED.error),"
								 " error_code = coalesce(q.error_code, EXCLUDED.error_code),"
								 " error_position = coalesce(q.error_position, EXCLUDED.error_position)",
								 10, types, values, nulls);
		es_sql_check_written("quarantined_streams", rows, 1);
	}
	if (plan != NULL)
		SPI_freeplan(plan);
	es_sql_end(&sql);
}
