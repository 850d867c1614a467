/*
 * append/key.c
 *	  Idempotency keys: event_store.append_keys (stream, key) and event_store.batch_keys (key).
 *
 * A key of a stream is looked up and stored while the stream's head is locked; a key of es_append_batch, while the
 * key itself is locked. So two calls with the same key never run at the same time: the second one finds the row of
 * the first one, or does the work itself when the first was rolled back. After the key, both tables have the same
 * columns: request, version (or events, the number of events of a batch), first_position, last_position, recorded_at.
 *
 * A key older than event_store.idempotency_retention has expired. It counts as absent, and its row is replaced when
 * the key is used again. The coordinator deletes expired rows. It reads each table a few blocks at a time, again and
 * again from the beginning (a *round*). There is no index on recorded_at. But at the end of a round the oldest row
 * that is left is known, and the next round begins when that row expires.
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

/* How many columns the key of a table has: (stream, key) with ES_APPEND_KEYS, (key) with ES_BATCH_KEYS. */
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

/* Fills in the values of the key's columns. */
static void
set_key(EsIndex table, int64 stream, const text *key, Datum *values)
{
	values[0] = Int64GetDatum(stream);
	values[key_columns(table) - 1] = PointerGetDatum(key);
}

/* Finds a row in an open table and leaves it in the slot. Finds expired rows too. */
static bool
find_row(EsLookup *rows, EsIndex table, int64 stream, const text *key, Snapshot snapshot)
{
	Datum		values[2];

	set_key(table, stream, key, values);
	return es_lookup_find(rows, snapshot, values);
}

/* Opens a table and reads a row of it. Reads expired rows too. */
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

/* Stores a row. If there is an expired row with the same key, that is deleted before. */
static void
store(EsIndex table, int64 stream, const text *key, const EsKeyRow *row)
{
	EsLookup	rows;
	Snapshot	snapshot;
	Datum		values[KEY_MAX_COLUMNS];
	Datum	   *payload = values + key_columns(table);
	bool		found;

	es_lookup_open(&rows, table, RowExclusiveLock);
	snapshot = es_lookup_snapshot();	/* the stream, or the key, is locked */
	found = find_row(&rows, table, stream, key, snapshot);
	UnregisterSnapshot(snapshot);
	if (found)
	{
		es_row_delete(&rows, &rows.slot->tts_tid);	/* it has expired, or the call would have been replayed */
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

/* Looks up a key of a stream with a snapshot. False when there is none, or when it has expired. */
bool
es_key_find(int64 stream, const text *key, Snapshot snapshot, EsKeyRow *row)
{
	return find(ES_APPEND_KEYS, stream, key, snapshot, row) && !expired(row->recorded_at);
}

/* Stores a key of a stream, which es_key_find() did not find. The caller has locked the stream's head. */
void
es_key_store(int64 stream, const text *key, const EsKeyRow *row)
{
	store(ES_APPEND_KEYS, stream, key, row);
}

/* Locks a key of es_append_batch to the end of the transaction. To be called before any stream is locked. */
void
es_batch_key_lock(const text *key)
{
	uint64		hash = hash_bytes_extended((const unsigned char *) VARDATA_ANY(key),
										   VARSIZE_ANY_EXHDR(key), 0);
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, ES_LOCK_BATCH_KEY);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/* Looks up a key of es_append_batch, which the caller has locked. False when there is none, or when it has expired. */
bool
es_batch_key_find(const text *key, EsKeyRow *row)
{
	Snapshot	snapshot = es_lookup_snapshot();
	bool		found = find(ES_BATCH_KEYS, 0, key, snapshot, row);

	UnregisterSnapshot(snapshot);
	return found && !expired(row->recorded_at);
}

/* Stores a key of es_append_batch, which es_batch_key_find() did not find. The caller has locked the key. */
void
es_batch_key_store(const text *key, const EsKeyRow *row)
{
	store(ES_BATCH_KEYS, 0, key, row);
}

/* ---------------------------------------------------------------- the coordinator's duty */

#define PURGE_BLOCKS	256		/* blocks of a table that are read in one run */
#define PURGE_LIMIT		1000	/* rows of a table that are deleted in one run */
#define PURGE_INTERVAL	1000	/* milliseconds between two runs; a tenth of it within a round */

/* Where the round through each of the two tables is. */
static struct
{
	Oid			table;			/* OID of the table; when it changes, this is another store, and a round begins */
	BlockNumber next;			/* the block to go on with; 0: begin a round */
	TimestampTz oldest;			/* recorded_at of the oldest row that this round has left */
	TimestampTz oldest_left;	/* the same of the last round; 0: there was none */
}			rounds[2];

static TimestampTz
retention(void)
{
	return (TimestampTz) es_idempotency_retention * USECS_PER_SEC;
}

/*
 * Whether there may be expired keys: a round is not at its end, or the oldest key that the last one has left has
 * expired.
 */
static bool
purge_wanted(void)
{
	if (es_idempotency_retention == 0)
		return false;
	for (int i = 0; i < lengthof(rounds); i++)
		if (rounds[i].next != 0 || GetCurrentTimestamp() - rounds[i].oldest_left >= retention())
			return true;
	return false;
}

/*
 * Reads the next blocks of a table and deletes at most limit expired keys. Deletes below SQL, because by SQL a trigger
 * refuses it. A row that another transaction is replacing is passed over. Returns how many were deleted.
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
		rounds[n].oldest = started; /* rows that are inserted from now on are not older */
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
		rounds[n].oldest_left = rounds[n].oldest;
	}
	es_lookup_close(&rows, ES_KEEP_LOCKS);
	UnregisterSnapshot(snapshot);
	return deleted;
}

/* Deletes expired keys in the open transaction. True when a round is not at its end, so that this must go on soon. */
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

static bool more_to_purge = false;	/* the last run was not the end of a round */

/* The duty: one run, in a transaction of its own. */
static bool
purge_keys(void)
{
	more_to_purge = false;
	if (!es_process_begin("purging idempotency keys"))
		return false;
	more_to_purge = purge();
	es_process_end();
	return false;				/* do not go on at once, even if there is more: leave the disk to others */
}

static int
purge_pace(void)
{
	return more_to_purge ? PURGE_INTERVAL / 10 : PURGE_INTERVAL;
}

/* Registers the duty; called once, when the library is loaded. */
void
es_key_init(void)
{
	static EsDuty purging = {.name = "purge idempotency keys",.run = purge_keys,.wanted = purge_wanted,.pace = purge_pace};

	es_duty_register(&purging);
}
