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

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"
#include "append/key.h"

#define KEY_PAYLOAD_COLUMNS	5
#define KEY_MAX_COLUMNS		(2 + KEY_PAYLOAD_COLUMNS)

/* One of the two tables. */
typedef struct KeyTable
{
	Oid			table;
	int			key_columns;	/* (stream, key) or (key) */
} KeyTable;

static KeyTable
stream_keys(void)
{
	return (KeyTable) {es_store()->keys, 2};
}

static KeyTable
batch_keys(void)
{
	return (KeyTable) {es_store()->batch_keys, 1};
}

static bool
expired(TimestampTz recorded_at)
{
	return es_idempotency_retention > 0 &&
		(GetCurrentTimestamp() - recorded_at) / USECS_PER_SEC >= es_idempotency_retention;
}

/* Finds a row whatever its age; *tid is where it is. */
static bool
find(const KeyTable *t, int64 stream, const text *key, Snapshot snapshot, EsKeyRow *row,
	 ItemPointer tid)
{
	Relation	rel = table_open(t->table, AccessShareLock);
	ScanKeyData keys[2];
	Oid			index;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (t->key_columns == 2)
		ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stream));
	ScanKeyEntryInitialize(&keys[t->key_columns - 1], 0, t->key_columns, BTEqualStrategyNumber,
						   InvalidOid, C_COLLATION_OID, F_TEXTEQ, PointerGetDatum(key));
	/* The lock may have brought news of another index. */
	index = t->key_columns == 2 ? es_store()->keys_pkey : es_store()->batch_keys_pkey;
	scan = systable_beginscan(rel, index, true, snapshot, t->key_columns, keys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Datum		values[KEY_MAX_COLUMNS];
		bool		nulls[KEY_MAX_COLUMNS];
		Datum	   *payload = values + t->key_columns;
		bytea	   *request;

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, nulls);
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
		*tid = tuple->t_self;
	}
	systable_endscan(scan);
	table_close(rel, NoLock);
	return HeapTupleIsValid(tuple);
}

/* The same as of now. */
static bool
find_now(const KeyTable *t, int64 stream, const text *key, EsKeyRow *row, ItemPointer tid)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		found = find(t, stream, key, snapshot, row, tid);

	UnregisterSnapshot(snapshot);
	return found;
}

static void
store(const KeyTable *t, int64 stream, const text *key, const EsKeyRow *row)
{
	Relation	rel = table_open(t->table, RowExclusiveLock);
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *rri = makeNode(ResultRelInfo);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	Datum	   *payload = slot->tts_values + t->key_columns;
	EsKeyRow	old;
	ItemPointerData tid;

	if (find_now(t, stream, key, &old, &tid))
	{
		simple_heap_delete(rel, &tid);	/* expired, or we would have replayed it */
		CommandCounterIncrement();
	}

	ExecClearTuple(slot);
	memset(slot->tts_isnull, 0, slot->tts_tupleDescriptor->natts * sizeof(bool));
	if (t->key_columns == 2)
		slot->tts_values[0] = Int64GetDatum(stream);
	slot->tts_values[t->key_columns - 1] = PointerGetDatum(key);
	payload[0] = PointerGetDatum(es_digest_bytea(row->request));
	payload[1] = Int64GetDatum(row->version);
	payload[2] = Int64GetDatum(row->first_position);
	payload[3] = Int64GetDatum(row->last_position);
	payload[4] = TimestampTzGetDatum(row->recorded_at);
	ExecStoreVirtualTuple(slot);

	InitResultRelInfo(rri, rel, 0, NULL, 0);
	ExecOpenIndices(rri, false);
	table_tuple_insert(rel, slot, GetCurrentCommandId(true), 0, NULL);
	es_insert_index_tuples(rri, slot, estate, false, false, NULL, NIL);
	ExecCloseIndices(rri);
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
	table_close(rel, NoLock);
}

/* Looks up a stream's key as a snapshot shows it. */
bool
es_key_find(int64 stream, const text *key, Snapshot snapshot, EsKeyRow *row)
{
	KeyTable	t = stream_keys();
	ItemPointerData tid;

	return find(&t, stream, key, snapshot, row, &tid) && !expired(row->recorded_at);
}

/* Stores a key that es_key_find() did not find; the caller holds the stream's head lock. */
void
es_key_store(int64 stream, const text *key, const EsKeyRow *row)
{
	KeyTable	t = stream_keys();

	store(&t, stream, key, row);
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
	KeyTable	t = batch_keys();
	ItemPointerData tid;

	return find_now(&t, 0, key, row, &tid) && !expired(row->recorded_at);
}

void
es_batch_key_store(const text *key, const EsKeyRow *row)
{
	KeyTable	t = batch_keys();

	store(&t, 0, key, row);
}

/* ---------------------------------------------------------------- the coordinator's round */

/* Blocks that are looked at in one turn. */
#define PURGE_BLOCKS	256

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
bool
es_key_purge_due(void)
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
purge_table(const KeyTable *t, int n, int limit)
{
	Relation	rel = table_open(t->table, RowExclusiveLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	BlockNumber blocks = RelationGetNumberOfBlocks(rel);
	TimestampTz started = GetCurrentTimestamp();
	BlockNumber first;
	BlockNumber count;
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan;
	int			deleted = 0;
	bool		full = false;

	if (rounds[n].table != t->table || rounds[n].next >= blocks)
		rounds[n].next = 0;
	if (rounds[n].next == 0)
		rounds[n].oldest = started; /* later ones expire later */
	rounds[n].table = t->table;
	first = rounds[n].next;
	count = Min(blocks - first, PURGE_BLOCKS);

	if (count > 0)
	{
		BlockNumber block = first;

		scan = table_beginscan_strat(rel, snapshot, 0, NULL, true, false);
		heap_setscanlimits(scan, first, count);
		while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
		{
			bool		isnull;
			TimestampTz recorded_at = DatumGetTimestampTz(slot_getattr(slot, t->key_columns + KEY_PAYLOAD_COLUMNS,
																	   &isnull));
			TM_FailureData failure;

			CHECK_FOR_INTERRUPTS();
			block = ItemPointerGetBlockNumber(&slot->tts_tid);
			if (started - recorded_at < retention())
				rounds[n].oldest = Min(rounds[n].oldest, recorded_at);
			else if (deleted == limit)
			{
				full = true;
				break;
			}
			else if (es_tuple_delete(rel, &slot->tts_tid, GetCurrentCommandId(true), snapshot, &failure) == TM_Ok)
				deleted++;
		}
		table_endscan(scan);
		rounds[n].next = full ? block : first + count;
	}
	if (rounds[n].next >= blocks)
	{
		rounds[n].next = 0;
		rounds[n].expires = rounds[n].oldest;
	}
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	table_close(rel, NoLock);
	return deleted;
}

/* Deletes up to limit expired keys of either table, in the open transaction; true when it is to be called again soon. */
bool
es_key_purge(int limit)
{
	KeyTable	of_streams;
	KeyTable	of_batches;
	int			deleted;

	(void) es_store_now();
	if (es_idempotency_retention == 0)
		return false;
	of_streams = stream_keys();
	deleted = purge_table(&of_streams, 0, limit);
	of_batches = batch_keys();
	deleted += purge_table(&of_batches, 1, limit);
	return deleted >= limit || rounds[0].next != 0 || rounds[1].next != 0;
}
