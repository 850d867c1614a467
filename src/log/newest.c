/*
 * log/newest.c
 *	  Where the newest versions of rows are that are updated all the time: heads, and the row of the mark.
 *
 * While any snapshot is old (a report, a dump, a standby's feedback, an unused slot), no version of a row can be
 * removed that is newer than it. To find a row by its index is then to visit all its versions since: each append to a
 * stream would make the next one dearer, without bound. The same holds within one long transaction. So we remember,
 * for the hash of a row's key, where a late version of the row was, and go on from there to the newest one. docs/
 * internals/newest.md has more.
 *
 * This is a hint and nothing else. What is found must be visible to the snapshot, and the caller compares the key.
 * Keys are unique, so such a version is the row that the snapshot shows, wherever the hint came from. The hint may be
 * of another table, of an aborted transaction, or torn by VACUUM: then nothing is found, or the key differs, and the
 * caller uses the index.
 *
 * The hints of all sessions are in shared memory, where there is some; else each session has its own. They are of
 * versions that were committed. What the open transaction has written is in a table of its own, and becomes known to
 * others when it commits.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "log/log.h"
#include "log/newest.h"
#include "log/owner_code.h"

/* From a hint on we go at most so many versions. The index by name is cheaper then: versions are close together in it. */
#define MAX_STEPS		64

#define LOCAL_HINTS		4096	/* a power of two */
#define WRITTEN			256		/* a power of two */

/* A hint has 16 bits of the hash, which tell most keys apart that share a place, the block and the offset. */
#define HINT(hash, tid) \
	(((hash) & UINT64CONST(0xFFFF000000000000)) | \
	 ((uint64) ItemPointerGetBlockNumberNoCheck(tid) << 16) | ItemPointerGetOffsetNumberNoCheck(tid))

/* What the open transaction has written last, by the low bits of the hash. */
typedef struct Written
{
	uint64		hash;
	ItemPointerData tid;
	bool		used;
} Written;

static uint64 local_hints[LOCAL_HINTS];
static Written written[WRITTEN];
static int	used[WRITTEN];		/* which entries of `written` are in use */
static int	used_count = 0;

/* The hash of a row's key. */
uint64
es_newest_hash(Relation rel, const char *key, int len)
{
	return hash_bytes_extended((const unsigned char *) key, len, ((uint64) MyDatabaseId << 32) | RelationGetRelid(rel));
}

static uint64
read_hint(uint64 hash)
{
	pg_atomic_uint64 *shared = es_shared_hint(hash);

	return shared != NULL ? pg_atomic_read_u64(shared) : local_hints[hash & (LOCAL_HINTS - 1)];
}

/* Notes where a committed version of a row was found, which is a late one. */
void
es_newest_found(uint64 hash, ItemPointer tid)
{
	pg_atomic_uint64 *shared = es_shared_hint(hash);
	uint64		hint = HINT(hash, tid);

	if (shared == NULL)
		local_hints[hash & (LOCAL_HINTS - 1)] = hint;
	else if (pg_atomic_read_u64(shared) != hint)
		pg_atomic_write_u64(shared, hint);
}

/* Notes where the open transaction has written the newest version of a row. */
void
es_newest_written(uint64 hash, ItemPointer tid)
{
	Written    *entry = &written[hash & (WRITTEN - 1)];

	if (!entry->used)
		used[used_count++] = hash & (WRITTEN - 1);
	entry->used = true;
	entry->hash = hash;
	entry->tid = *tid;
}

/*
 * At the end of the transaction. After a commit its versions are the newest ones, and others may know. A version that
 * was rolled back to a savepoint may be among them: then the next one finds nothing there, and notes what it finds by
 * the index. Must not fail.
 */
void
es_newest_end_of_transaction(bool commit)
{
	for (int i = 0; i < used_count; i++)
	{
		Written    *entry = &written[used[i]];

		if (commit)
			es_newest_found(entry->hash, &entry->tid);
		entry->used = false;
	}
	used_count = 0;
}

/* The version after the one in the tuple, whose buffer is pinned. False when there is none. */
static bool
next_version(HeapTuple tuple, Buffer buffer, ItemPointer next, TransactionId *updater)
{
	HeapTupleHeader header = tuple->t_data;
	bool		found;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	found = (header->t_infomask & HEAP_XMAX_INVALID) == 0 && !HEAP_XMAX_IS_LOCKED_ONLY(header->t_infomask) &&
		!ItemPointerEquals(&header->t_ctid, &tuple->t_self);
	if (found)
	{
		*next = header->t_ctid;
		*updater = HeapTupleHeaderGetUpdateXid(header);
	}
	LockBuffer(buffer, BUFFER_LOCK_UNLOCK);
	return found && ItemPointerIsValid(next);
}

/*
 * Goes from a version of a row to the one that the snapshot shows, and leaves that in the slot. False when it is not
 * found so: it is before this version, or far behind it, or there is no row at this place any more. What is found is
 * visible, but may be another row.
 */
bool
es_newest_follow(Relation rel, ItemPointer tid, Snapshot snapshot, TupleTableSlot *slot)
{
	BufferHeapTupleTableSlot *into = (BufferHeapTupleTableSlot *) slot;
	HeapTuple	tuple = &into->base.tupdata;
	ItemPointerData at = *tid;
	TransactionId updater = InvalidTransactionId;
	BlockNumber blocks = RelationGetNumberOfBlocks(rel);
	BlockNumber pruned = InvalidBlockNumber;

	Assert(TTS_IS_BUFFERTUPLE(slot));
	ExecClearTuple(slot);
	for (int step = 0; step < MAX_STEPS; step++)
	{
		BlockNumber block = ItemPointerGetBlockNumber(&at);
		Buffer		buffer;
		bool		visible;

		/* The table may have been truncated since the hint, and has grown since we looked. */
		if (block >= blocks && block >= (blocks = RelationGetNumberOfBlocks(rel)))
			return false;
		if (block != pruned)
		{
			/* As an index scan does. If nobody did it, there would be no room for the next version on this page. */
			buffer = ReadBuffer(rel, block);
			es_page_prune_opt(rel, buffer);
			ReleaseBuffer(buffer);
			pruned = block;
		}
		tuple->t_self = at;
		visible = heap_fetch(rel, snapshot, tuple, &buffer, true);
		if (!visible && tuple->t_data == NULL)
			return false;		/* there is no row here */
		if (TransactionIdIsValid(updater) && !TransactionIdEquals(HeapTupleHeaderGetRawXmin(tuple->t_data), updater))
		{
			/* The next version is gone, and another row is in its place. */
			ReleaseBuffer(buffer);
			return false;
		}
		if (visible)
		{
			ExecStorePinnedBufferHeapTuple(tuple, slot, buffer);
			slot->tts_tableOid = RelationGetRelid(rel);
			return true;
		}
		if (!next_version(tuple, buffer, &at, &updater))
		{
			ReleaseBuffer(buffer);
			return false;
		}
		ReleaseBuffer(buffer);
	}
	return false;
}

/* Finds the version that the snapshot shows, starting from what is known of the row with this key. */
bool
es_newest_fetch(Relation rel, uint64 hash, Snapshot snapshot, TupleTableSlot *slot)
{
	const Written *entry = &written[hash & (WRITTEN - 1)];
	uint64		hint;
	ItemPointerData tid;

	if (entry->used && entry->hash == hash)
	{
		tid = entry->tid;
		if (es_newest_follow(rel, &tid, snapshot, slot))
			return true;
	}
	hint = read_hint(hash);
	if (hint == 0 || (hint ^ hash) >> 48 != 0)
		return false;
	ItemPointerSet(&tid, (BlockNumber) (hint >> 16), (OffsetNumber) hint);
	return ItemPointerIsValid(&tid) && es_newest_follow(rel, &tid, snapshot, slot);
}

/*
 * Whether the open transaction has written this version of the row, which is in the slot. Then no other transaction
 * can change the row, and locking it again would only make multixacts: a new version inherits the locks of the one
 * before, and each subtransaction that rolls back adds a member. PostgreSQL 15 also fails an assertion of its own
 * when such a row moves to another page, because it takes the lock that the multixact has, with the update that was
 * rolled back, for the lock that it wants.
 */
bool
es_newest_is_ours(TupleTableSlot *slot)
{
	bool		isnull;
	Datum		xmin = slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull);

	return TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
}

/* Above READ COMMITTED: another transaction has changed the row. */
void
es_newest_conflict(void)
{
	/* PostgreSQL's own code and text: drivers and users know what to do about it. */
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent update")));
}

/*
 * Above READ COMMITTED, refuses to change a version that is newer than the transaction's snapshot: what the caller has
 * decided rests on what the snapshot shows. For an UPDATE the executor does this. We write the table directly, so we
 * must do it.
 */
void
es_newest_check_snapshot(Relation rel, TupleTableSlot *slot)
{
	if (IsolationUsesXactSnapshot() && !table_tuple_satisfies_snapshot(rel, slot, GetTransactionSnapshot()))
		es_newest_conflict();
}

/* Whether an index only keeps unique what does not change when a row is updated: its columns are among `same`. */
static bool
is_unchanged(Relation index, const AttrNumber *same, int same_count)
{
	Form_pg_index form = index->rd_index;

	/* One that REINDEX CONCURRENTLY is making is not valid yet. */
	if (!form->indisunique || !form->indimmediate || !form->indisvalid || es_index_has_code(index))
		return false;
	for (int i = 0; i < form->indnkeyatts; i++)
	{
		bool		found = false;

		for (int j = 0; j < same_count; j++)
			found = found || form->indkey.values[i] == same[j];
		if (!found)
			return false;
	}
	return true;
}

/*
 * Writes the index entries that a new version of a row needs; it is in the slot. `same` are the columns that never
 * change. Where an index keeps these unique, the executor would look whether the key is, and visit all versions of the
 * row for that, while it holds a lock on the index page. But the key has been this row's since it was inserted. Whoever
 * inserts the same key finds the entries that are there, so it stays so.
 */
void
es_newest_insert_entries(ResultRelInfo *rri, TupleTableSlot *slot, EState *estate, EsUpdateIndexes which,
						 const AttrNumber *same, int same_count)
{
	Relation   *indexes = rri->ri_IndexRelationDescs;
	IndexInfo **infos = rri->ri_IndexRelationInfo;
	int			all = rri->ri_NumIndices;
	int			others = 0;
	EsOwnerCode code;

	/* The other indexes, which a DBA has added, come first, and are the executor's. */
	for (int i = 0; i < all; i++)
		if (!is_unchanged(indexes[i], same, same_count))
		{
			Relation	index = indexes[i];
			IndexInfo  *info = infos[i];

			indexes[i] = indexes[others];
			infos[i] = infos[others];
			indexes[others] = index;
			infos[others++] = info;
		}
	if (others > 0)
	{
		rri->ri_NumIndices = others;
		es_owner_code_begin(&code, rri);
		es_update_index_tuples(rri, slot, estate, which == ES_UPDATE_SUMMARIZING);
		es_owner_code_end(&code);
		rri->ri_NumIndices = all;
	}
	if (which != ES_UPDATE_ALL)
		return;
	for (int i = others; i < all; i++)
	{
		Datum		values[INDEX_MAX_KEYS];
		bool		nulls[INDEX_MAX_KEYS];

		if (!infos[i]->ii_ReadyForInserts)
			continue;
		FormIndexDatum(infos[i], slot, estate, values, nulls);
		(void) index_insert(indexes[i], values, nulls, &slot->tts_tid, rri->ri_RelationDesc, UNIQUE_CHECK_NO, true,
							infos[i]);
	}
}
