/*
 * log/lookup.c
 *	  Rows of the store's tables, below SQL: found by key, read in the order of an index, inserted, deleted.
 *
 * Code outside of log/ reads and writes the store's tables with this, or with SQL. Events have routines of their own
 * (log/scan.c, log/row.c), and so have writes to heads (log/head.c).
 *
 * A table is opened with one of its unique indexes, and its rows are then found by that index. The OIDs of the table
 * and the index are each looked up just before the lock on it is taken, not together: while we wait for the lock on
 * the table, invalidation messages may tell of another index.
 *
 * The executor is not used. Privileges were checked with EXECUTE on the calling function. The tables that are written
 * here have no triggers but those that refuse changes by SQL (store/location.c), and need no column defaults.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/sysattr.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "log/owner_code.h"

#define MAX_INDEX_COLUMNS	3

/* Types of the columns of the indexes. */
typedef enum KeyType
{
	NO_COLUMN,
	KEY_INT4,
	KEY_INT8,
	KEY_TEXT,					/* compared bytewise */
	KEY_BYTEA
} KeyType;

/* The functions that compare values of a type, by strategy number. Those that nothing uses are left out. */
static const RegProcedure comparisons[][BTMaxStrategyNumber + 1] = {
	[KEY_INT4] = {[BTEqualStrategyNumber] = F_INT4EQ},
	[KEY_INT8] = {[BTLessEqualStrategyNumber] = F_INT8LE,[BTEqualStrategyNumber] = F_INT8EQ,
		[BTGreaterEqualStrategyNumber] = F_INT8GE},
	[KEY_TEXT] = {[BTLessStrategyNumber] = F_TEXT_LT,[BTEqualStrategyNumber] = F_TEXTEQ,
		[BTGreaterEqualStrategyNumber] = F_TEXT_GE,[BTGreaterStrategyNumber] = F_TEXT_GT},
	[KEY_BYTEA] = {[BTEqualStrategyNumber] = F_BYTEAEQ},
};

/*
 * For each index: the fields of EsStore that have the OIDs of its table and of the index, and the types of its
 * columns.
 */
static const struct IndexDef
{
	Size		table;
	Size		index;
	int			columns;
	KeyType		type[MAX_INDEX_COLUMNS];
}			index_defs[] = {
#define INDEX(table, index)	offsetof(EsStore, table), offsetof(EsStore, index)
	[ES_HEADS_BY_ID] = {INDEX(heads, heads_pkey), 1, {KEY_INT8}},
	[ES_HEADS_BY_NAME] = {INDEX(heads, heads_name), 1, {KEY_TEXT}},
	[ES_CATEGORIES_BY_ID] = {INDEX(categories, categories_pkey), 1, {KEY_INT4}},
	[ES_CATEGORIES_BY_NAME] = {INDEX(categories, categories_name), 1, {KEY_TEXT}},
	[ES_EVENT_TYPES_BY_ID] = {INDEX(event_types, event_types_pkey), 1, {KEY_INT4}},
	[ES_EVENT_TYPES_BY_NAME] = {INDEX(event_types, event_types_name), 1, {KEY_TEXT}},
	[ES_APPEND_KEYS] = {INDEX(keys, keys_pkey), 2, {KEY_INT8, KEY_TEXT}},
	[ES_BATCH_KEYS] = {INDEX(batch_keys, batch_keys_pkey), 1, {KEY_TEXT}},
	[ES_SNAPSHOTS] = {INDEX(snapshots, snapshots_pkey), 3, {KEY_INT8, KEY_BYTEA, KEY_INT8}},
	[ES_SUBSCRIPTION_STREAMS] = {INDEX(subscription_streams, subscription_streams_pkey), 2, {KEY_INT4, KEY_INT8}},
	[ES_SEALS] = {INDEX(seals, seals_pkey), 1, {KEY_INT8}},
	[ES_ERASED] = {INDEX(erased, erased_pkey), 1, {KEY_INT8}},
#undef INDEX
};

static Oid
relation_at(Size offset)
{
	return *(const Oid *) ((const char *) es_store() + offset);
}

/* ---------------------------------------------------------------- opening */

/* Opens a table without an index, to read all its rows or some blocks. */
void
es_lookup_open_table(EsLookup *lookup, Oid table, LOCKMODE lockmode)
{
	memset(lookup, 0, sizeof(*lookup));
	lookup->lockmode = lockmode;
	lookup->rel = es_store_open(table, lockmode);
	lookup->slot = table_slot_create(lookup->rel, NULL);
}

/* Opens an index and its table, to find rows by that index. */
void
es_lookup_open(EsLookup *lookup, EsIndex which, LOCKMODE lockmode)
{
	es_lookup_open_table(lookup, relation_at(index_defs[which].table), lockmode);
	/* Look the index up only now: with the lock on the table may have come a message that there is another index. */
	lookup->index = index_open(relation_at(index_defs[which].index), lockmode);
	lookup->which = which;
}

/* Ends what es_lookup_begin() or es_lookup_begin_blocks() has begun, if anything. The current row stays in the slot. */
void
es_lookup_end(EsLookup *lookup)
{
	if (lookup->scan != NULL)
		index_endscan(lookup->scan);
	if (lookup->table_scan != NULL)
		table_endscan(lookup->table_scan);
	lookup->scan = NULL;
	lookup->table_scan = NULL;
}

/* Releases everything but the locks that keep says. */
void
es_lookup_close(EsLookup *lookup, EsKeepLocks keep)
{
	es_lookup_end(lookup);
	ExecDropSingleTupleTableSlot(lookup->slot);
	if (lookup->index != NULL)
		index_close(lookup->index, keep == ES_KEEP_LOCKS ? NoLock : lookup->lockmode);
	table_close(lookup->rel, keep == ES_KEEP_NO_LOCK ? lookup->lockmode : NoLock);
}

/* ---------------------------------------------------------------- reading */

/*
 * A registered snapshot, the latest, for rows that nobody else may write meanwhile: because of a lock that we hold, or because
 * they are our own. So it is the same whether they are seen under MVCC or not. And not under MVCC they are read without
 * predicate locks. At SERIALIZABLE these would be on pages of an index where unrelated appends insert, and each would look
 * like a conflict.
 */
Snapshot
es_lookup_snapshot(void)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());	/* a copy that is ours alone */

	if (IsolationIsSerializable())
		snapshot->snapshot_type = SNAPSHOT_SELF;
	return snapshot;
}

static void
set_key(EsLookup *lookup, ScanKey key, int column, StrategyNumber strategy, Datum value)
{
	RegProcedure comparison = comparisons[index_defs[lookup->which].type[column - 1]][strategy];

	Assert(OidIsValid(comparison));
	/* The collation that this sets is "C", which is that of all our indexes. */
	ScanKeyInit(key, column, strategy, comparison, value);
}

/*
 * Finds the row with a key, which has a value for each column of the index. The row is in the slot until another one is
 * looked up or the lookup is closed.
 */
bool
es_lookup_find(EsLookup *lookup, Snapshot snapshot, const Datum *key)
{
	int			columns = index_defs[lookup->which].columns;
	ScanKeyData keys[MAX_INDEX_COLUMNS];
	IndexScanDesc scan;
	bool		found;

	for (int i = 0; i < columns; i++)
		set_key(lookup, &keys[i], i + 1, BTEqualStrategyNumber, key[i]);
	scan = es_index_beginscan(lookup->rel, lookup->index, snapshot, columns);
	index_rescan(scan, keys, columns, NULL, 0);
	/*
	 * At most one row is visible. Backward, because entries with the same key, those of the versions of one row, are in
	 * order of their place in the table, and a late version is more often at its end.
	 */
	found = index_getnext_slot(scan, BackwardScanDirection, lookup->slot);
	/* The slot keeps its own pin on the buffer, so the row stays when the scan has ended. */
	index_endscan(scan);
	return found;
}

/*
 * Begins to read rows: those with the given keys in the order of the index, or without an index all rows in the order
 * in which they are stored.
 */
void
es_lookup_begin(EsLookup *lookup, Snapshot snapshot, bool backward, int count, const EsIndexKey *keys)
{
	ScanKeyData scan_keys[MAX_INDEX_COLUMNS];

	es_lookup_end(lookup);
	lookup->context = CurrentMemoryContext;
	lookup->direction = backward ? BackwardScanDirection : ForwardScanDirection;
	if (lookup->index == NULL)
	{
		Assert(count == 0 && !backward);
		lookup->table_scan = es_table_beginscan(lookup->rel, snapshot);
		return;
	}
	Assert(count <= MAX_INDEX_COLUMNS);
	for (int i = 0; i < count; i++)
		set_key(lookup, &scan_keys[i], keys[i].column, keys[i].strategy, keys[i].value);
	lookup->scan = es_index_beginscan(lookup->rel, lookup->index, snapshot, count);
	index_rescan(lookup->scan, scan_keys, count, NULL, 0);
}

/* Begins to read the rows in some blocks of the table. */
void
es_lookup_begin_blocks(EsLookup *lookup, Snapshot snapshot, BlockNumber first, BlockNumber count)
{
	es_lookup_end(lookup);
	lookup->context = CurrentMemoryContext;
	lookup->direction = ForwardScanDirection;
	lookup->table_scan = table_beginscan_strat(lookup->rel, snapshot, 0, NULL, true, false);
	heap_setscanlimits(lookup->table_scan, first, count);
}

/*
 * Goes to the next row; false at the end. What the index scan allocates meanwhile may be used until it ends. So it is
 * allocated in the memory context in which the scan was begun.
 */
bool
es_lookup_next(EsLookup *lookup)
{
	MemoryContext old = MemoryContextSwitchTo(lookup->context);
	bool		found = lookup->scan != NULL ?
		index_getnext_slot(lookup->scan, lookup->direction, lookup->slot) :
		table_scan_getnextslot(lookup->table_scan, lookup->direction, lookup->slot);

	MemoryContextSwitchTo(old);
	return found;
}

/* What no two versions of rows of a table have in common: who wrote it, and where it is. (A view computes the same.) */
uint64
es_row_version(TupleTableSlot *slot)
{
	bool		isnull;
	TransactionId xmin = DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull));

	return (uint64) xmin << 32 | (uint32) (ItemPointerGetBlockNumber(&slot->tts_tid) << 11 |
										   ItemPointerGetOffsetNumber(&slot->tts_tid));
}

/* How many blocks the table has now. */
BlockNumber
es_lookup_blocks(EsLookup *lookup)
{
	return RelationGetNumberOfBlocks(lookup->rel);
}

/* ---------------------------------------------------------------- writing */

/*
 * Inserts a row, and its entries in all indexes of the table, also those that a DBA has added. values has all
 * columns, none of them NULL. The table must be open with RowExclusiveLock or a stronger lock.
 */
void
es_row_insert(EsLookup *lookup, const Datum *values)
{
	TupleTableSlot *slot = lookup->slot;
	int			columns = slot->tts_tupleDescriptor->natts;
	EState	   *estate = CreateExecutorState();
	ResultRelInfo *rri = makeNode(ResultRelInfo);
	EsOwnerCode code;

	ExecClearTuple(slot);
	memcpy(slot->tts_values, values, columns * sizeof(Datum));
	memset(slot->tts_isnull, 0, columns * sizeof(bool));
	ExecStoreVirtualTuple(slot);

	InitResultRelInfo(rri, lookup->rel, 0, NULL, 0);
	es_owner_code_open_indexes(rri, false);
	table_tuple_insert(lookup->rel, slot, GetCurrentCommandId(true), 0, NULL);
	es_owner_code_begin(&code, rri);
	es_insert_index_tuples(rri, slot, estate, false, NULL, NIL);
	es_owner_code_end(&code);
	ExecCloseIndices(rri);
	ExecClearTuple(slot);
	FreeExecutorState(estate);
}

/*
 * Deletes a row that the caller has found, or waits for a transaction that is deleting it and needs nothing more when that
 * has committed. No other transaction may be able to update it. After a CommandCounterIncrement() a row with the same key
 * can be inserted.
 */
void
es_row_delete(EsLookup *lookup, ItemPointer tid)
{
	TM_FailureData failure;
	TM_Result	result = es_tuple_delete(lookup->rel, tid, GetCurrentCommandId(true), InvalidSnapshot, true, &failure);

	if (result != TM_Ok && result != TM_Deleted)
		elog(ERROR, "a row of \"%s\" cannot be deleted: %d", RelationGetRelationName(lookup->rel), (int) result);
}

/*
 * Deletes the current row, which was read with this snapshot. Does nothing and returns false when another transaction
 * has changed or locked it since.
 */
bool
es_row_delete_unless_busy(EsLookup *lookup, Snapshot snapshot)
{
	TM_FailureData failure;

	return es_tuple_delete(lookup->rel, &lookup->slot->tts_tid, GetCurrentCommandId(true), snapshot, false, &failure) == TM_Ok;
}
