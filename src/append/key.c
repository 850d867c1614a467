/*
 * append/key.c
 *	  Idempotency keys: event_store.append_keys (stream, key) and event_store.batch_keys (key).
 *
 * A stream's key is looked up and stored under the stream's head lock, a batch's under a lock on
 * the key itself, so two calls with one key never run at once: the second finds the first's row, or
 * does the work when the first rolled back. The columns of both tables after the key are the same:
 * request, version or events, first_position, last_position, recorded_at.
 *
 * A key older than event_store.idempotency_retention counts as absent and its row is replaced. The coordinator
 * deletes such rows, a few blocks at a time, going round the tables. There is no index on recorded_at: after a round
 * it knows the oldest row that it left, and begins the next one when that row expires.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"
#include "append/append.h"
#include "append/key.h"

#define KEY_PAYLOAD_COLUMNS	5
#define KEY_MAX_COLUMNS		(2 + KEY_PAYLOAD_COLUMNS)

/* One of the two tables: ES_APPEND_KEYS, whose rows are found by (stream, key), or ES_BATCH_KEYS, by (key). */
static int
key_columns(EsIndex table)
{
	return table == ES_APPEND_KEYS ? 2 : 1;
}

static bool
expired(TimestampTz recorded_at)
{
	return es_idempotency_retention > 0 &&
		(GetCurrentTimestamp() - recorded_at) / USECS_PER_SEC >= es_idempotency_retention;
}

/* Fills in the columns of the key. */
static void
set_key(EsIndex table, int64 stream, const text *key, Datum *values)
{
	values[0] = Int64GetDatum(stream);
	values[key_columns(table) - 1] = PointerGetDatum(key);
}

/* Finds a row, whatever its age, in a table that is open; it is in the slot then. */
static bool
find_row(EsLookup *rows, EsIndex table, int64 stream, const text *key, Snapshot snapshot)
{
	Datum		values[2];

	set_key(table, stream, key, values);
	return es_lookup_find(rows, snapshot, values);
}

/* Reads a row, whatever its age. */
static bool
find(EsIndex table, int64 stream, const text *key, Snapshot snapshot, EsKeyRow *row)
{
	EsLookup	rows;
	bool		found;

	es_lookup_open(&rows, table, AccessShareLock);
	found = find_row(&rows, table, stream, key, snapshot);
	if (found)
	{
		Datum	   *payload = rows.slot->tts_values + key_columns(table);
		bytea	   *request;

		slot_getallattrs(rows.slot);
		request = DatumGetByteaPP(payload[0]);
		if (VARSIZE_ANY_EXHDR(request) != ES_DIGEST_LEN)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("an idempotency key has a request digest of %d bytes",
							(int) VARSIZE_ANY_EXHDR(request))));
		memcpy(row->request, VARDATA_ANY(request), ES_DIGEST_LEN);
		row->version = DatumGetInt64(payload[1]);
		row->first_position = DatumGetInt64(payload[2]);
		row->last_position = DatumGetInt64(payload[3]);
		row->recorded_at = DatumGetTimestampTz(payload[4]);
	}
	es_lookup_close(&rows, ES_KEEP_TABLE_LOCK);
	return found;
}

static void
store(EsIndex table, int64 stream, const text *key, const EsKeyRow *row)
{
	EsLookup	rows;
	Snapshot	snapshot;
	Datum		values[KEY_MAX_COLUMNS];
	Datum	   *payload = values + key_columns(table);
	bool		found;

	es_lookup_open(&rows, table, RowExclusiveLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	found = find_row(&rows, table, stream, key, snapshot);
	UnregisterSnapshot(snapshot);
	if (found)
	{
		es_row_delete(&rows, &rows.slot->tts_tid);	/* expired, or we would have replayed it */
		CommandCounterIncrement();
	}

	set_key(table, stream, key, values);
	payload[0] = PointerGetDatum(es_digest_bytea(row->request));
	payload[1] = Int64GetDatum(row->version);
	payload[2] = Int64GetDatum(row->first_position);
	payload[3] = Int64GetDatum(row->last_position);
	payload[4] = TimestampTzGetDatum(row->recorded_at);
	es_row_insert(&rows, values);
	es_lookup_close(&rows, ES_KEEP_TABLE_LOCK);
}

/* Looks up a stream's key as a snapshot shows it. */
bool
es_key_find(int64 stream, const text *key, Snapshot snapshot, EsKeyRow *row)
{
	return find(ES_APPEND_KEYS, stream, key, snapshot, row) && !expired(row->recorded_at);
}

/* Stores a key that es_key_find() did not find; the caller holds the stream's head lock. */
void
es_key_store(int64 stream, const text *key, const EsKeyRow *row)
{
	store(ES_APPEND_KEYS, stream, key, row);
}

/* Locks a batch's key to the end of the transaction; before any stream is locked. */
void
es_batch_key_lock(const text *key)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(key),
										   VARSIZE_ANY_EXHDR(key), 0);
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, ES_LOCK_BATCH_KEY);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

bool
es_batch_key_find(const text *key, EsKeyRow *row)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		found = find(ES_BATCH_KEYS, 0, key, snapshot, row);

	UnregisterSnapshot(snapshot);
	return found && !expired(row->recorded_at);
}

void
es_batch_key_store(const text *key, const EsKeyRow *row)
{
	store(ES_BATCH_KEYS, 0, key, row);
}

/* ---------------------------------------------------------------- the coordinator's duty */

/* Blocks that are looked at in one turn. */
#define PURGE_BLOCKS	256

#define PURGE_LIMIT		1000	/* keys of a table, in one turn */
#define PURGE_INTERVAL	1000	/* milliseconds */

static struct
{
	Oid			table;			/* of a store that was dropped: begin anew */
	BlockNumber next;			/* block to go on with */
	TimestampTz oldest;			/* that this round has left in place */
	TimestampTz expires;		/* recorded_at of the oldest row that the last round left; 0: not known */
}			rounds[2];

static TimestampTz
retention(void)
{
	return (TimestampTz) es_idempotency_retention * USECS_PER_SEC;
}

/* Whether there may be expired keys, as far as the last round could tell. */
static bool
purge_wanted(void)
{
	if (es_idempotency_retention == 0)
		return false;
	for (int i = 0; i < lengthof(rounds); i++)
		if (rounds[i].next != 0 || GetCurrentTimestamp() - rounds[i].expires >= retention())
			return true;
	return false;
}

/*
 * Deletes at most limit of the expired keys of some blocks of a table, below SQL, where no trigger refuses it; a row
 * that somebody else is just replacing is passed over.
 */
static int
purge_table(Oid table, int key_column_count, int n, int limit)
{
	EsLookup	rows;
	Snapshot	snapshot;
	BlockNumber blocks;
	TimestampTz started;
	BlockNumber first;
	BlockNumber count;
	int			deleted = 0;
	bool		full = false;

	es_lookup_open_table(&rows, table, RowExclusiveLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	blocks = es_lookup_blocks(&rows);
	started = GetCurrentTimestamp();
	if (rounds[n].table != table || rounds[n].next >= blocks)
		rounds[n].next = 0;
	if (rounds[n].next == 0)
		rounds[n].oldest = started; /* later ones expire later */
	rounds[n].table = table;
	first = rounds[n].next;
	count = Min(blocks - first, PURGE_BLOCKS);

	if (count > 0)
	{
		BlockNumber block = first;

		es_lookup_begin_blocks(&rows, snapshot, first, count);
		while (es_lookup_next(&rows))
		{
			TimestampTz recorded_at = DatumGetTimestampTz(es_row_column(rows.slot,
																		key_column_count + KEY_PAYLOAD_COLUMNS));

			CHECK_FOR_INTERRUPTS();
			block = ItemPointerGetBlockNumber(&rows.slot->tts_tid);
			if (started - recorded_at < retention())
				rounds[n].oldest = Min(rounds[n].oldest, recorded_at);
			else if (deleted == limit)
			{
				full = true;
				break;
			}
			else if (es_row_delete_unless_busy(&rows, snapshot))
				deleted++;
		}
		rounds[n].next = full ? block : first + count;
	}
	if (rounds[n].next >= blocks)
	{
		rounds[n].next = 0;
		rounds[n].expires = rounds[n].oldest;
	}
	es_lookup_close(&rows, ES_KEEP_LOCKS);
	UnregisterSnapshot(snapshot);
	return deleted;
}

/* Deletes up to PURGE_LIMIT expired keys of either table, in the open transaction; true when it is to be called again soon. */
static bool
purge(void)
{
	int			deleted;

	(void) es_store_now();
	if (es_idempotency_retention == 0)
		return false;
	deleted = purge_table(es_store()->keys, key_columns(ES_APPEND_KEYS), 0, PURGE_LIMIT);
	deleted += purge_table(es_store()->batch_keys, key_columns(ES_BATCH_KEYS), 1, PURGE_LIMIT);
	return deleted >= PURGE_LIMIT || rounds[0].next != 0 || rounds[1].next != 0;
}

static bool more_to_purge = false;

static bool
purge_keys(void)
{
	more_to_purge = false;
	if (!es_process_begin("purging idempotency keys"))
		return false;
	more_to_purge = purge();
	es_process_end();
	return false;				/* not at once: others are at work too */
}

static int
purge_pace(void)
{
	return more_to_purge ? PURGE_INTERVAL / 10 : PURGE_INTERVAL;
}

/* Has the coordinator purge keys; called once, when the library is loaded. */
void
es_key_init(void)
{
	static EsDuty purging = {.name = "purge idempotency keys",.run = purge_keys,.wanted = purge_wanted,.pace = purge_pace};

	es_duty_register(&purging);
}
