/*
 * log/head.c
 *	  Head rows: a stream's version, and its lock.
 *
 * An append locks the head row of its stream FOR NO KEY UPDATE, to the end of the transaction. What the locked row
 * says (version, last position, digest) then holds. If the stream does not exist, its name is locked (log/absent.c), and
 * its head is inserted when it has its first events.
 *
 * Row locks are kept in the rows and not in the lock table, so 100,000 of them do not fill that.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/multixact.h"
#include "access/tableam.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "store/store.h"
#include "log/absent.h"
#include "log/early_release.h"
#include "log/log.h"
#include "log/newest.h"
#include "log/owner_code.h"

/* Opens the table for reading, for locking heads, or for both. */
void
es_heads_open(EsHeads *heads, LOCKMODE lockmode)
{
	memset(heads, 0, sizeof(*heads));
	es_lookup_open(&heads->rows, ES_HEADS_BY_NAME, lockmode);
}

/* Releases everything but the locks on the table and its index, which stay to the end of the transaction. */
void
es_heads_close(EsHeads *heads)
{
	if (heads->estate != NULL)
	{
		ExecCloseIndices(heads->rri);
		ExecResetTupleTable(heads->estate->es_tupleTable, false);
		FreeExecutorState(heads->estate);
	}
	es_lookup_close(&heads->rows, ES_KEEP_LOCKS);
}

/* Makes what is needed to write index entries. Most appends to streams that exist never need it. */
static void
make_estate(EsHeads *heads)
{
	if (heads->estate != NULL)
		return;
	heads->estate = CreateExecutorState();
	heads->rri = makeNode(ResultRelInfo);
	InitResultRelInfo(heads->rri, heads->rows.rel, 0, NULL, 0);
	es_owner_code_open_indexes(heads->rri, true);
}

/* Reads a head from a slot. The slot may be cleared afterwards. */
void
es_head_read(TupleTableSlot *slot, EsHead *head)
{
	bytea	   *digest;
	bool		should_free;
	HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, &should_free);

	head->frozen_lsn = InvalidXLogRecPtr;
	if (HeapTupleHeaderXminFrozen(tuple->t_data))
	{
		/*
		 * A row can be frozen before the commit of its writer is flushed. Then xmin does not tell the writer any
		 * more.
		 */
		head->writer = InvalidTransactionId;
		if (TTS_IS_BUFFERTUPLE(slot) && BufferIsValid(((BufferHeapTupleTableSlot *) slot)->buffer))
			head->frozen_lsn = BufferGetLSNAtomic(((BufferHeapTupleTableSlot *) slot)->buffer);
	}
	else
		head->writer = HeapTupleHeaderGetRawXmin(tuple->t_data);
	if (should_free)
		heap_freetuple(tuple);
	slot_getallattrs(slot);
	head->tid = slot->tts_tid;
	head->id = DatumGetInt64(slot->tts_values[Anum_head_id - 1]);
	head->first_position = DatumGetInt64(slot->tts_values[Anum_head_first_position - 1]);
	head->created_at = DatumGetTimestampTz(slot->tts_values[Anum_head_created_at - 1]);
	head->category = DatumGetInt32(slot->tts_values[Anum_head_category - 1]);
	head->version = DatumGetInt64(slot->tts_values[Anum_head_version - 1]);
	head->last_position = DatumGetInt64(slot->tts_values[Anum_head_last_position - 1]);
	head->recorded_at = DatumGetTimestampTz(slot->tts_values[Anum_head_recorded_at - 1]);
	digest = DatumGetByteaPP(slot->tts_values[Anum_head_digest - 1]);
	if (VARSIZE_ANY_EXHDR(digest) != ES_DIGEST_LEN)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the head row of stream id %lld has a digest of %d bytes",
						(long long) head->id, (int) VARSIZE_ANY_EXHDR(digest))));
	memcpy(head->digest, VARDATA_ANY(digest), ES_DIGEST_LEN);
}

static bool
same_name(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

static uint64
hash_name(EsHeads *heads, const text *name)
{
	return es_newest_hash(heads->rows.rel, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
}

/*
 * Finds a head row by the stream's name, with a snapshot, and leaves it in the slot. hash is hash_name() of it. Where it
 * was last is tried first, because by the index all its versions would be visited that are not removed yet.
 */
static bool
find_row(EsHeads *heads, const text *name, uint64 hash, Snapshot snapshot)
{
	TupleTableSlot *slot = heads->rows.slot;
	Datum		key = PointerGetDatum(name);

	if (es_newest_fetch(heads->rows.rel, hash, snapshot, slot) &&
		same_name(name, DatumGetTextPP(es_row_column(slot, Anum_head_name))))
		return true;
	if (!es_lookup_find(&heads->rows, snapshot, &key))
		return false;
	/* Others need not know of a version that is not committed, or may be an old one. */
	if (!IsolationUsesXactSnapshot() && !es_newest_is_ours(heads->rows.slot))
		es_newest_found(hash, &slot->tts_tid);
	return true;
}

/* Reads the head of a stream with a snapshot. Does not lock it. */
static bool
head_find(EsHeads *heads, const text *name, Snapshot snapshot, EsHead *head)
{
	bool		found = find_row(heads, name, hash_name(heads, name), snapshot);

	if (found)
		es_head_read(heads->rows.slot, head);
	ExecClearTuple(heads->rows.slot);
	return found;
}

/* Reads the head of a stream with a snapshot, for a result. Does not lock it. False when there is no such stream. */
bool
es_stream_find(const text *name, Snapshot snapshot, EsHead *head)
{
	EsHeads		heads;
	bool		found;

	es_heads_open(&heads, AccessShareLock);
	found = head_find(&heads, name, snapshot, head);
	es_heads_close(&heads);
	if (found)
		es_early_release_await(head);	/* the caller will report it, so it must be durable */
	return found;
}

/*
 * Reads the head of the stream with an id. Returns its name, in the current memory context, or NULL when there is
 * none.
 */
text *
es_stream_by_id(int64 id, Snapshot snapshot, EsHead *head)
{
	EsLookup	rows;
	Datum		key = Int64GetDatum(id);
	text	   *name = NULL;

	es_lookup_open(&rows, ES_HEADS_BY_ID, AccessShareLock);
	if (es_lookup_find(&rows, snapshot, &key))
	{
		es_head_read(rows.slot, head);
		name = DatumGetTextPCopy(es_row_column(rows.slot, Anum_head_name));
	}
	es_lookup_close(&rows, ES_KEEP_LOCKS);
	return name;
}

/* The first name, bytewise, behind all that begin with a prefix. NULL: there is none. */
static text *
behind_prefix(const text *prefix)
{
	int			len = VARSIZE_ANY_EXHDR(prefix);
	text	   *behind;

	while (len > 0 && (unsigned char) VARDATA_ANY(prefix)[len - 1] == 0xFF)
		len--;
	if (len == 0)
		return NULL;
	behind = cstring_to_text_with_len(VARDATA_ANY(prefix), len);
	VARDATA(behind)[len - 1]++;
	return behind;
}

/*
 * Begins to read heads with a snapshot, in order of name: those of a category (NULL: of all), whose names begin with a prefix
 * (NULL: any), after a name (NULL: from the first on). The heads of a category are "category" itself and the names that begin
 * with "category-". In the index by name they are next to each other.
 */
void
es_heads_begin(EsHeads *heads, const text *category, const text *prefix, const text *after, Snapshot snapshot)
{
	const text *from = NULL;
	const text *to = NULL;
	EsIndexKey	keys[2];
	int			count = 0;

	heads->category = category;
	if (category != NULL)
	{
		from = category;
		to = cstring_to_text(psprintf("%s.", text_to_cstring(category)));	/* "." is the character after "-" */
	}
	if (prefix != NULL)
	{
		const text *behind = behind_prefix(prefix);

		if (from == NULL || es_compare_names(prefix, from) > 0)
			from = prefix;
		if (to == NULL || (behind != NULL && es_compare_names(behind, to) < 0))
			to = behind;
	}
	if (after != NULL && (from == NULL || es_compare_names(after, from) >= 0))
		keys[count++] = (EsIndexKey) {1, BTGreaterStrategyNumber, PointerGetDatum(after)};
	else if (from != NULL)
		keys[count++] = (EsIndexKey) {1, BTGreaterEqualStrategyNumber, PointerGetDatum(from)};
	if (to != NULL)
		keys[count++] = (EsIndexKey) {1, BTLessStrategyNumber, PointerGetDatum(to)};
	es_lookup_begin(&heads->rows, snapshot, false, count, keys);
}

/* Reads the next head. Returns the stream's name, in the current memory context, or NULL at the end. */
text *
es_heads_next(EsHeads *heads, EsHead *head)
{
	while (es_lookup_next(&heads->rows))
	{
		text	   *name;

		CHECK_FOR_INTERRUPTS();
		name = DatumGetTextPP(es_row_column(heads->rows.slot, Anum_head_name));
		/* The range also holds names such as "category!". */
		if (heads->category != NULL && es_category_length(name) != VARSIZE_ANY_EXHDR(heads->category))
			continue;
		es_head_read(heads->rows.slot, head);
		return DatumGetTextPCopy(PointerGetDatum(name));
	}
	return NULL;
}

/* Whether an open transaction has locked or updated this version of a head row. It may be our own. */
static bool
has_open_xmax(HeapTupleHeader tuple)
{
	TransactionId xmax;

	if (tuple->t_infomask & HEAP_XMAX_INVALID)
		return false;
	xmax = HeapTupleHeaderGetRawXmax(tuple);
	if (tuple->t_infomask & HEAP_XMAX_IS_MULTI)
		return MultiXactIdIsRunning(xmax, HEAP_XMAX_IS_LOCKED_ONLY(tuple->t_infomask));
	return TransactionIdIsCurrentTransactionId(xmax) || TransactionIdIsInProgress(xmax);
}

/* The same for the version in the slot; or our own transaction has written it. */
static bool
slot_is_open(EsHeads *heads)
{
	bool		should_free;
	HeapTuple	tuple = ExecFetchSlotHeapTuple(heads->rows.slot, false, &should_free);
	bool		open = TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)) ||
		has_open_xmax(tuple->t_data);

	if (should_free)
		heap_freetuple(tuple);
	return open;
}

/*
 * Whether an open transaction has locked or updated the stream's head, or is making the stream. It may be our own. One
 * that locks the head after this function has begun may be missed.
 *
 * Where the head is committed, one that holds it has left its mark in the version that is visible now. Only where it is
 * not, the lock on the name and uncommitted heads are looked for.
 */
bool
es_stream_has_open_append(const text *name)
{
	EsHeads		heads;
	SnapshotData dirty;
	EsIndexKey	key = {1, BTEqualStrategyNumber, PointerGetDatum(name)};
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		open = false;

	es_heads_open(&heads, AccessShareLock);
	if (find_row(&heads, name, hash_name(&heads, name), snapshot))
		open = slot_is_open(&heads);
	else if (es_absent_is_locked(name))
		open = true;			/* whoever gives this lock back has inserted the head before, and is found now */
	else
	{
		InitDirtySnapshot(dirty);
		es_lookup_begin(&heads.rows, &dirty, false, 1, &key);
		while (!open && es_lookup_next(&heads.rows))
			open = TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax) || slot_is_open(&heads);
	}
	UnregisterSnapshot(snapshot);
	es_heads_close(&heads);
	return open;
}

/* Puts a head row into the slot. */
static void
fill_slot(EsHeads *heads, const EsHead *head, const text *name)
{
	TupleTableSlot *slot = heads->rows.slot;
	bytea	   *digest = &heads->digest.header;

	SET_VARSIZE(digest, VARHDRSZ + ES_DIGEST_LEN);
	memcpy(VARDATA(digest), head->digest, ES_DIGEST_LEN);

	ExecClearTuple(slot);
	memset(slot->tts_isnull, 0, Natts_head * sizeof(bool));
	slot->tts_values[Anum_head_id - 1] = Int64GetDatum(head->id);
	slot->tts_values[Anum_head_first_position - 1] = Int64GetDatum(head->first_position);
	slot->tts_values[Anum_head_created_at - 1] = TimestampTzGetDatum(head->created_at);
	slot->tts_values[Anum_head_category - 1] = Int32GetDatum(head->category);
	slot->tts_values[Anum_head_version - 1] = Int64GetDatum(head->version);
	slot->tts_values[Anum_head_last_position - 1] = Int64GetDatum(head->last_position);
	slot->tts_values[Anum_head_recorded_at - 1] = TimestampTzGetDatum(head->recorded_at);
	slot->tts_values[Anum_head_digest - 1] = PointerGetDatum(digest);
	slot->tts_values[Anum_head_name - 1] = PointerGetDatum(name);
	ExecStoreVirtualTuple(slot);
}

/* Gives a stream that is to be made its id. */
void
es_head_identify(EsHead *head, int32 category)
{
	head->category = category;
	head->id = nextval_internal(es_store()->stream_seq, false);
}

/*
 * Inserts the head of a stream that es_head_lock() has found absent, and gives the lock on its name back: from now on
 * the row is the lock.
 *
 * Nobody else can have inserted it since, but somebody who does not go by our locks: by SQL with the triggers off, or by
 * logical replication. He has the same right to it as an update that came first.
 */
void
es_head_insert(EsHeads *heads, const text *name, EsHead *head)
{
	List	   *arbiters;
	bool		conflict = false;
	EsOwnerCode code;

	make_estate(heads);
	/* A conflict is only one of the index by name. Another unique index, which a DBA has added, raises its error. */
	arbiters = list_make1_oid(RelationGetRelid(heads->rows.index));
	fill_slot(heads, head, name);
	table_tuple_insert(heads->rows.rel, heads->rows.slot, GetCurrentCommandId(true), 0, NULL);
	es_owner_code_begin(&code, heads->rri);
	es_insert_index_tuples(heads->rri, heads->rows.slot, heads->estate, true, &conflict, arbiters);
	es_owner_code_end(&code);
	if (conflict)
		es_newest_conflict();
	ResetPerTupleExprContext(heads->estate);
	head->tid = heads->rows.slot->tts_tid;
	es_newest_written(hash_name(heads, name), &head->tid);
	ExecClearTuple(heads->rows.slot);
	es_absent_made(name);
}

/* Takes back what es_head_insert() has done, in a later command. Whoever wants to make the stream waits for our transaction. */
void
es_head_delete(EsHeads *heads, EsHead *head)
{
	es_row_delete(&heads->rows, &head->tid);
}

/* Gives back the lock on the name of a stream that es_head_lock() has found absent. */
void
es_head_give_back(const text *name)
{
	es_absent_unlock(name);
}

/*
 * Looks for a head that the latest snapshot does not show: a committed or an uncommitted one. Returns whether there is
 * one; *other is the open transaction that has inserted it, or invalid, and *tid its place.
 */
static bool
find_uncommitted(EsHeads *heads, const text *name, TransactionId *other, ItemPointer tid)
{
	SnapshotData dirty;
	EsIndexKey	key = {1, BTEqualStrategyNumber, PointerGetDatum(name)};
	bool		found;

	InitDirtySnapshot(dirty);
	es_lookup_begin(&heads->rows, &dirty, false, 1, &key);
	found = es_lookup_next(&heads->rows);
	if (found)
	{
		*other = dirty.xmin;
		*tid = heads->rows.slot->tts_tid;
	}
	es_lookup_end(&heads->rows);
	ExecClearTuple(heads->rows.slot);
	return found;
}

/*
 * Locks the name of a stream that was not found. Returns true when there is no such stream, and false when there is one
 * by now, or may be: then the caller looks for it again.
 */
static bool
lock_absent(EsHeads *heads, const text *name)
{
	TransactionId other;
	ItemPointerData tid;

	es_absent_lock(name);
	if (!find_uncommitted(heads, name, &other, &tid))
		return true;
	/* The row is the lock, so nobody needs the name. */
	es_absent_unlock(name);
	if (TransactionIdIsValid(other))
		XactLockTableWait(other, heads->rows.rel, &tid, XLTW_Lock);
	return false;
}

/*
 * The open transaction that has locked or updated the row in the slot. InvalidTransactionId when there is none, when
 * it is our own, and when there are several.
 */
static TransactionId
locking_transaction(EsHeads *heads)
{
	BufferHeapTupleTableSlot *slot = (BufferHeapTupleTableSlot *) heads->rows.slot;
	HeapTupleHeader tuple = slot->base.tuple->t_data;
	TransactionId xmax;
	uint16		mask;

	LockBuffer(slot->buffer, BUFFER_LOCK_SHARE);
	mask = tuple->t_infomask;
	xmax = HeapTupleHeaderGetRawXmax(tuple);
	LockBuffer(slot->buffer, BUFFER_LOCK_UNLOCK);
	if ((mask & (HEAP_XMAX_INVALID | HEAP_XMAX_IS_MULTI)) != 0 || !TransactionIdIsNormal(xmax) ||
		TransactionIdIsCurrentTransactionId(xmax) || !TransactionIdIsInProgress(xmax))
		return InvalidTransactionId;
	return xmax;
}

/*
 * Locks a stream to the end of the transaction, and fills in its head. If the stream does not exist, its name is
 * locked, and nothing is written. Waits for a concurrent append to the stream. Above READ COMMITTED, raises PostgreSQL's own
 * 40001 when the head is newer than the transaction's snapshot.
 *
 * limit is the greatest version with which the call can succeed; PG_INT64_MAX means any. When the committed version
 * is already greater, the head is filled in but not locked: the call will be refused, so it need not wait for that. A
 * call with a limit waits for the other transaction itself and not in the queue for the row lock. So when that
 * transaction commits, all waiting calls see at once that they have lost. In the queue, each of them would have to
 * lock the row, one after the other.
 */
EsHeadLock
es_head_lock(EsHeads *heads, const text *name, int64 limit, EsHead *head)
{
	uint64		hash = hash_name(heads, name);

	for (;;)
	{
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
		TM_Result	result;
		TM_FailureData tmfd;
		ItemPointerData tid;
		TransactionId other;
		bool		ours;

		CHECK_FOR_INTERRUPTS();
		if (!find_row(heads, name, hash, snapshot))
		{
			UnregisterSnapshot(snapshot);
			if (lock_absent(heads, name))
			{
				memset(head, 0, sizeof(*head));
				return ES_HEAD_ABSENT;
			}
			continue;
		}
		es_newest_check_snapshot(heads->rows.rel, heads->rows.slot);
		es_head_read(heads->rows.slot, head);
		tid = heads->rows.slot->tts_tid;
		ours = es_newest_is_ours(heads->rows.slot);
		other = limit == PG_INT64_MAX || ours ? InvalidTransactionId : locking_transaction(heads);
		ExecClearTuple(heads->rows.slot);
		if (head->version > limit || ours)
		{
			UnregisterSnapshot(snapshot);
			return head->version > limit ? ES_HEAD_BEYOND : ES_HEAD_LOCKED;
		}
		if (TransactionIdIsValid(other))
		{
			UnregisterSnapshot(snapshot);
			XactLockTableWait(other, heads->rows.rel, &tid, XLTW_Lock);
			continue;
		}

		result = table_tuple_lock(heads->rows.rel, &tid, snapshot, heads->rows.slot,
								  GetCurrentCommandId(false), LockTupleNoKeyExclusive, LockWaitBlock,
								  IsolationUsesXactSnapshot() ? 0 : TUPLE_LOCK_FLAG_FIND_LAST_VERSION,
								  &tmfd);
		UnregisterSnapshot(snapshot);
		switch (result)
		{
			case TM_Ok:
				es_head_read(heads->rows.slot, head);
				ExecClearTuple(heads->rows.slot);
				es_newest_found(hash, &head->tid);
				es_early_release_head_locked(head);
				return ES_HEAD_LOCKED;
			case TM_Updated:
			case TM_Deleted:
				if (IsolationUsesXactSnapshot())
					es_newest_conflict();
				break;
			default:
				elog(ERROR, "unexpected result %d of locking a head row", (int) result);
		}
	}
}

/* Updates a head that this transaction has locked, or has made in an earlier command. */
void
es_head_update(EsHeads *heads, const text *name, EsHead *head)
{
	TM_FailureData tmfd;
	EsUpdateIndexes update_indexes;
	TM_Result	result;

	fill_slot(heads, head, name);
	result = es_tuple_update(heads->rows.rel, &head->tid, heads->rows.slot, GetCurrentCommandId(true),
							 InvalidSnapshot, &tmfd, &update_indexes);
	if (result != TM_Ok)
		elog(ERROR, "unexpected result %d of updating a locked head row", (int) result);
	if (update_indexes != ES_UPDATE_NONE)
	{
		static const AttrNumber same[] = {Anum_head_id, Anum_head_name};

		make_estate(heads);
		es_newest_insert_entries(heads->rri, heads->rows.slot, heads->estate, update_indexes, same, lengthof(same));
		ResetPerTupleExprContext(heads->estate);
	}
	head->tid = heads->rows.slot->tts_tid;
	es_newest_written(hash_name(heads, name), &head->tid);
	ExecClearTuple(heads->rows.slot);
}
