/*
 * log/epoch.c
 *	  Epochs: which history of the database the positions that are allocated now belong to.
 *
 * When a standby is promoted, a server is recovered to a point in time, or a dump is restored, a second history of
 * the database begins. The first history may have gone on after the point where they part, and that part of it is
 * lost. Whoever has seen a position of the lost part must never find another event at it. And whoever keeps a cursor
 * outside of the database must learn that events which he has seen do not exist any more.
 *
 * So all positions that one server allocates on one timeline in one database are an *epoch*. When an append, or a
 * call that publishes the mark, finds that the newest row of event_store.epochs is of another place, it has a new
 * epoch begun: the sequence jumps ahead, and a row is inserted. The jump is at least ES_EPOCH_STRIDE, and longer than
 * the lost part can be. The number of an epoch is the time when it began, in microseconds, so epochs of two histories
 * have different numbers.
 *
 * The column `mark`, the published mark when the epoch began, is the end of the epoch before. Everything up to it is
 * the same in both histories, because whoever sees that version of the published mark sees all events up to it.
 * Events between `mark` and `last_position` may exist here, but in the lost history other ones may have been
 * committed between them. So a cursor in there must go back to `mark`.
 *
 * A background worker begins an epoch in a transaction of its own, for the same reason for which it makes partitions
 * (log/maker.c): a user's open transaction would make all others wait. ShareUpdateExclusiveLock on
 * event_store.epochs, held to the end of that transaction, makes sure that only one of them begins it. The lock is
 * taken before heads are locked. If that transaction is rolled back, the sequence has jumped all the same, and the
 * next attempt jumps again.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"
#include "log/early_release.h"
#include "log/epoch.h"
#include "log/log.h"
#include "log/maker.h"
#include "log/mark.h"
#include "log/partition.h"
#include "log/transaction.h"

/*
 * How far positions jump. At least by ES_EPOCH_STRIDE, which is a day at 100,000 events a second. And at least to the
 * position that would be reached now if ES_EPOCH_RATE events a second had been appended since ES_EPOCH_CLOCK, the
 * beginning of 2026 (in seconds since 2000). Without this clock, when a server is recovered a second time, the second
 * attempt would jump to the same position as the first. A node's range of positions lasts for 178 years at that rate.
 */
#define ES_EPOCH_STRIDE		INT64CONST(10000000000)
#define ES_EPOCH_CLOCK		INT64CONST(820540800)
#define ES_EPOCH_RATE		50000

/* How far es_begin_epoch() may be told to jump: 2^40, a 256th of a node's positions, 127 days at 100,000 events a second. */
#define ES_EPOCH_MAX_JUMP	(INT64CONST(1) << 40)

/* A row of event_store.epochs. */
typedef struct EsEpoch
{
	int64		epoch;
	int64		mark;			/* up to here events of the epoch before are the same in all histories */
	int64		start;			/* positions of this epoch are above it */
	int64		system;
	int64		timeline;
	int64		database;
	bool		ours;			/* written by the open transaction */
} EsEpoch;

PGDLLEXPORT void es_epoch_worker(Datum arg);

PG_FUNCTION_INFO_V1(es_epoch);
PG_FUNCTION_INFO_V1(es_begin_epoch);
PG_FUNCTION_INFO_V1(es_check_cursor);

/* What this session has found: the newest epoch, which is committed, is of this server, timeline and database. */
static uint64 known_generation = 0;
static TimeLineID known_timeline = 0;
static int64 known_start = 0;

/* Reads all rows, ordered by number, into the current memory context. There are only a few: one for each recovery. */
static int
read_epochs(EsEpoch **epochs)
{
	EsLookup	rows;
	TupleTableSlot *slot;
	Snapshot	snapshot;
	int			room = 8;
	int			count = 0;

	es_lookup_open_table(&rows, es_store()->epochs, AccessShareLock);
	slot = rows.slot;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	*epochs = palloc(sizeof(EsEpoch) * room);
	es_lookup_begin(&rows, snapshot, false, 0, NULL);
	while (es_lookup_next(&rows))
	{
		EsEpoch    *row;
		bool		isnull;
		int			i;

		if (count == room)
			*epochs = repalloc(*epochs, sizeof(EsEpoch) * (room *= 2));
		slot_getallattrs(slot);
		/* After a restore the table may have the rows in any order, so insert each at its place. */
		for (i = count++; i > 0 && (*epochs)[i - 1].epoch > DatumGetInt64(slot->tts_values[Anum_epoch_epoch - 1]); i--)
			(*epochs)[i] = (*epochs)[i - 1];
		row = &(*epochs)[i];
		row->epoch = DatumGetInt64(slot->tts_values[Anum_epoch_epoch - 1]);
		row->mark = DatumGetInt64(slot->tts_values[Anum_epoch_mark - 1]);
		row->start = DatumGetInt64(slot->tts_values[Anum_epoch_start_position - 1]);
		row->system = DatumGetInt64(slot->tts_values[Anum_epoch_system_identifier - 1]);
		row->timeline = DatumGetInt64(slot->tts_values[Anum_epoch_timeline - 1]);
		row->database = DatumGetInt64(slot->tts_values[Anum_epoch_database - 1]);
		row->ours = TransactionIdIsCurrentTransactionId(
			DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull)));
	}
	es_lookup_close(&rows, ES_KEEP_LOCKS);
	UnregisterSnapshot(snapshot);
	return count;
}

/*
 * Whether the newest epoch is of this server, timeline and database. Not to be called in recovery, where no epoch can
 * be begun.
 */
bool
es_epoch_is_current(void)
{
	EsEpoch    *epochs;
	EsEpoch    *newest;
	int			count;
	bool		current;

	if (likely(known_generation == es_store()->generation && known_timeline == GetWALInsertionTimeLine()))
		return true;

	count = read_epochs(&epochs);
	newest = count > 0 ? &epochs[count - 1] : NULL;
	/* If the sequence was set back below the epoch's start, a new epoch is needed too. */
	current = newest != NULL && newest->system == (int64) GetSystemIdentifier() &&
		newest->timeline == GetWALInsertionTimeLine() && newest->database == MyDatabaseId &&
		newest->start <= es_position_last();
	if (current && !newest->ours)
	{
		known_generation = es_store()->generation;
		known_timeline = GetWALInsertionTimeLine();
		known_start = newest->start;
	}
	pfree(epochs);
	return current;
}

/* The position that those of the newest epoch are above; 0 when this session does not know it. */
int64
es_epoch_start(void)
{
	return known_generation == es_store()->generation ? known_start : 0;
}

static void
insert_row(int64 mark, int64 last, int64 start)
{
	Oid			types[6] = {INT8OID, INT8OID, INT8OID, INT8OID, INT8OID, INT8OID};
	Datum		values[6];
	uint64		rows;

	values[0] = Int64GetDatum(mark);
	values[1] = Int64GetDatum(last);
	values[2] = Int64GetDatum(start);
	values[3] = Int64GetDatum((int64) GetSystemIdentifier());
	values[4] = Int64GetDatum((int64) GetWALInsertionTimeLine());
	values[5] = Int64GetDatum((int64) MyDatabaseId);
	rows = es_sql_write_args("epochs",
							 "INSERT INTO event_store.epochs (epoch, began_at, mark, last_position, start_position,"
							 " system_identifier, timeline, database)"
							 " SELECT greatest((extract(epoch FROM t.now) * 1000000)::bigint,"
							 " (SELECT max(e.epoch) + 1 FROM event_store.epochs e)), t.now, $1, $2, $3, $4, $5, $6"
							 " FROM (SELECT clock_timestamp() AS now) t", 6, types, values, NULL);
	es_sql_check_written("epochs", rows, 1);
}

/* Makes the first epoch of a store, in the transaction that makes the store. */
static void
make_first_epoch(void)
{
	int64		start = ES_NODE_START(es_store()->node);
	EsSql		sql;

	es_sql_begin(&sql, es_store()->owner);
	insert_row(start, start, start);
	es_sql_end(&sql);
	CommandCounterIncrement();
}

/* The highest position that an event has. A sequence that was not restored with the events may be below it. */
static int64
highest_event(void)
{
	bool		isnull;
	int64		highest;

	es_sql_run("SELECT max(position) FROM event_store.log");
	highest = DatumGetInt64(es_sql_first(1, INT8OID, &isnull));
	return isnull ? 0 : highest;
}

/* Where positions of this node would be by now, at ES_EPOCH_RATE. */
static int64
clock_position(void)
{
	return ES_NODE_START(es_store()->node) + (GetCurrentTimestamp() / USECS_PER_SEC - ES_EPOCH_CLOCK) * ES_EPOCH_RATE;
}

/*
 * Refuses to jump further ahead than another server can have come: positions that are jumped over are lost, and behind the
 * node's last one no append is possible any more.
 */
static void
check_above(int64 above, int64 last)
{
	int64		limit = Max(last, clock_position()) + ES_EPOCH_MAX_JUMP;

	if (above > limit)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument above must be at most %lld ahead", (long long) ES_EPOCH_MAX_JUMP),
				 errdetail("It is %lld; the newest position is %lld.", (long long) above, (long long) last),
				 errhint("It is the highest position of the server that this one is a copy of. Where that is further ahead, go there in steps.")));
}

/*
 * Begins an epoch in the open transaction, which holds the lock. Its positions are above `above`, and with by_clock
 * at least where the clock says (ES_EPOCH_RATE).
 */
static void
begin_epoch(bool by_clock, int64 above)
{
	int64		end = ES_NODE_END(es_store()->node) - 1;	/* the last position that the sequence can give */
	int64		last = es_position_last();
	int64		start;
	EsMarkState state;
	EsEpoch    *epochs;
	int			count = read_epochs(&epochs);
	EsSql		sql;

	es_mark_state(&state);
	es_mark_restore_floor();
	es_sql_begin(&sql, es_store()->owner);
	last = Max(last, highest_event());
	last = Max(last, state.mark);
	if (count > 0)
		last = Max(last, epochs[count - 1].start);
	last = Min(last, end);
	start = last + ES_EPOCH_STRIDE;
	if (by_clock)
		start = Max(start, clock_position());
	else
		check_above(above, last);
	/* Near the end of the node's positions, jump only over half of what is left. */
	start = Min(start, last + (end - last) / 2);
	start = Max(start, above);

	/* This is not rolled back with the transaction. It is in the WAL before any position that is allocated after it. */
	es_sql_runf("SELECT setval('event_store.position_seq', %lld)", (long long) start);
	es_script_run("log/sequences", NULL, 0);
	insert_row(state.mark, last, start);
	es_sql_end(&sql);
	CacheInvalidateRelcacheByRelid(es_store()->epochs);	/* all sessions forget what they know of the last epoch */
	CommandCounterIncrement();
	ForceSyncCommit();			/* clients will be told the number, so it must not be lost in a crash */
	pfree(epochs);
	ereport(LOG,
			(errmsg("event store of database %u begins a new epoch", MyDatabaseId),
			 errdetail("Its positions are above %lld; the epoch before is certain up to position %lld.",
					   (long long) start, (long long) state.mark)));
}

/* Begins an epoch in the open transaction, if a new one is needed. Returns whether it did. */
bool
es_epoch_begin_here(void)
{
	Oid			epochs;

	(void) es_store_now();
	if (es_epoch_is_current())
		return false;
	epochs = es_store()->epochs;
	LockRelationOid(epochs, ShareUpdateExclusiveLock);
	if (es_epoch_is_current())
	{
		/* Another transaction has begun it. Locks are counted, so if ours had this lock before, it keeps it. */
		UnlockRelationOid(epochs, ShareUpdateExclusiveLock);
		return false;
	}
	begin_epoch(true, 0);
	return true;
}

/* Entry point of the worker. */
void
es_epoch_worker(Datum arg)
{
	(void) es_maker_begin("beginning an epoch of the event log");
	/*
	 * Do not wait for a standby: the session that waits for us may not want that. Its own commit comes behind ours in
	 * the WAL, so when it waits for a standby, it waits for ours too.
	 */
	SetConfigOption("synchronous_commit", "local", PGC_USERSET, PGC_S_OVERRIDE);
	if (es_epoch_begin_here())
		es_partition_make_for(es_position_last());
	es_worker_end();
}

static bool
is_begun(int64 position)
{
	return es_epoch_is_current();
}

/*
 * Has an epoch begun: waits for somebody who is doing it, else starts a worker, else does it in the open transaction.
 */
static void
begin_by_worker(void)
{
	EsMaker		maker = {
		.lockmode = ShareUpdateExclusiveLock,
		.table = es_store()->epochs,
		.function = "es_epoch_worker",
		.title = "event_store epoch maker",
		.is_made = is_begun
	};

	SET_LOCKTAG_RELATION(maker.lock, MyDatabaseId, maker.table);
	if (es_maker_await_or_run(&maker) != ES_MADE)
		(void) es_epoch_begin_here();
}

/*
 * Makes sure that the newest epoch is of this server, timeline and database, before this transaction allocates
 * positions or publishes the mark. Does nothing in a transaction that cannot write. To be called before anything is
 * locked.
 */
void
es_epoch_prepare(void)
{
	if (es_store_is_copy() || XactReadOnly || IsInParallelMode())
		return;
	if (unlikely(!es_epoch_is_current()))
		begin_by_worker();
}

/* Reads all rows. Raises an error when there is none. */
static int
must_read_epochs(EsEpoch **epochs)
{
	int			count = read_epochs(epochs);

	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the event store is incomplete: \"%s.epochs\" has no row", ES_SCHEMA),
				 errhint("Append an event, or run SELECT es_publish_mark().")));
	return count;
}

static int64
newest_epoch(void)
{
	EsEpoch    *epochs;
	int			count = must_read_epochs(&epochs);

	return epochs[count - 1].epoch;
}

/* es_epoch() -> the number of the epoch that events appended now belong to */
Datum
es_epoch(PG_FUNCTION_ARGS)
{
	(void) es_store_now();
	es_epoch_prepare();
	PG_RETURN_INT64(newest_epoch());
}

/* es_begin_epoch(above) -> the number of the new epoch */
Datum
es_begin_epoch(PG_FUNCTION_ARGS)
{
	int64		above = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0);
	int64		end;

	es_prevent_if_read_only("es_begin_epoch()");
	PreventCommandDuringRecovery("es_begin_epoch()");
	PreventCommandIfParallelMode("es_begin_epoch()");
	end = ES_NODE_END(es_store_now()->node) - 1;
	if (above < 0 || above >= end)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument above must be between 0 and %lld", (long long) end - 1),
				 errdetail("It is %lld.", (long long) above)));
	/* Positions do not come back: the rights to operate are not enough. */
	es_check_store_owner();
	LockRelationOid(es_store()->epochs, ShareUpdateExclusiveLock);
	begin_epoch(PG_ARGISNULL(0), above);
	es_journal_note("es_begin_epoch", "store", NULL, "above", PG_ARGISNULL(0) ? NULL : psprintf("%lld", (long long) above));
	PG_RETURN_INT64(newest_epoch());
}

/*
 * es_check_cursor(epoch, position) -> (epoch, position, rewind): the cursor to go on with.
 *
 * An epoch that is not in our table belongs to a history that has parted from ours at the beginning of one of our
 * epochs, and jumped ahead from there. That is the last of our epochs whose `mark` the position has reached. So the
 * cursor has to go back to that mark.
 */
Datum
es_check_cursor(PG_FUNCTION_ARGS)
{
	TupleDesc	desc = es_result_type(fcinfo);
	Datum		values[3];
	bool		nulls[3] = {false, false, false};
	EsEpoch    *epochs;
	int64		position;
	int64		certain;
	int			count;
	int			known = -1;		/* which of our epochs the cursor has; -1: none */

	if (PG_ARGISNULL(1))
		es_null_argument("position");
	position = PG_GETARG_INT64(1);
	if (position < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument position must not be negative"),
				 errdetail("It is %lld.", (long long) position)));
	(void) es_store_now();
	es_epoch_prepare();
	count = must_read_epochs(&epochs);
	for (int i = 0; i < count && !PG_ARGISNULL(0); i++)
		if (epochs[i].epoch == PG_GETARG_INT64(0))
			known = i;

	certain = position;
	if (known == count - 1)
	{
		/*
		 * A position of the newest epoch that was never allocated here: a copy of the server was restored, on the same
		 * timeline. (On a copy this means nothing, because it may not have come so far.)
		 */
		if (!es_store_is_copy() && position > es_position_last())
		{
			EsMarkState state;

			es_mark_state(&state);
			certain = state.mark;
		}
	}
	else if (known >= 0)
		certain = epochs[known + 1].mark;
	else
	{
		certain = 0;
		for (int i = 0; i < count && epochs[i].mark <= position; i++)
			certain = Max(certain, epochs[i].mark);
	}

	values[0] = Int64GetDatum(epochs[count - 1].epoch);
	values[1] = Int64GetDatum(Min(position, certain));
	values[2] = BoolGetDatum(position > certain);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/* ---------------------------------------------------------------- a store that is made */

/* The first epoch and the first partition, in the transaction that makes the tables. */
static void
store_made(void)
{
	int64		start = ES_NODE_START(es_store()->node);

	make_first_epoch();
	es_partition_make(start, start + es_partition_size);
}

/*
 * Called by each es_create_store(). If the store was restored, begins a new epoch, with positions that no other copy
 * of the store gives. Not done by a worker, because this transaction may hold locks that it would need.
 */
static void
store_visited(void)
{
	if (!XactReadOnly && !es_store_is_copy() && es_epoch_begin_here())
		es_partition_make_for(es_position_last());
	es_transaction_store_made();
}

/* Called once, when the library is loaded. */
void
es_log_init(void)
{
	static const EsStoreHooks hooks = {store_made, store_visited};

	es_store_set_hooks(&hooks);
	es_transaction_init();
	es_early_release_init();
}
