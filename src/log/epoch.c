/*
 * log/epoch.c
 *	  Epochs: which history the positions drawn now belong to.
 *
 * The promotion of a standby, a point-in-time recovery and the restoring of a dump make a second history out of a
 * first one, which may have gone on behind the point where they part. Whoever was shown a position of that lost
 * part must never find another event under it; and whoever keeps a cursor outside of the database must hear that
 * events that he has seen are no more.
 *
 * So an *epoch* is what is drawn by one server on one timeline in one database. The first that wants to draw a
 * position, or to publish the mark, and finds that the newest row of event_store.epochs is of another place begins a
 * new one: the sequence jumps ahead, by ES_EPOCH_STRIDE at least and further than the lost part can be long, and a row says so. Its
 * number is the time at which it began, in microseconds, so the epochs of two histories have different numbers.
 *
 * `mark`, the published mark when it began, is the end of the epoch before: everything up to there is the same in
 * both histories, since whoever sees that version of the row sees all of it. Events between `mark` and
 * `last_position` may be here, but another one may have been committed between them in the lost history; a cursor
 * in there has to go back to `mark`.
 *
 * A new epoch is begun in a transaction of its own, by a background worker, for the same reasons as a partition is
 * (log/maker.c): an open transaction of a user's would keep all others waiting. The ShareUpdateExclusiveLock on
 * event_store.epochs, kept to the end of the transaction, makes sure that one begins it. It is taken before the heads
 * are locked. When that transaction is rolled back, the sequence has jumped all the same: the next one jumps again.
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
#include "log/log.h"
#include "log/maker.h"

/*
 * How far positions jump at least: a day at 100,000 events a second. And up to as many positions as there have been
 * since 2026 began (in seconds since 2000) at this rate: where a server is recovered a second time, the first attempt
 * has jumped by the same stride, from the same place. A node's range of positions lasts for 178 years of that.
 */
#define ES_EPOCH_STRIDE		INT64CONST(10000000000)
#define ES_EPOCH_CLOCK		INT64CONST(820540800)
#define ES_EPOCH_RATE		50000

/* A row of event_store.epochs. */
typedef struct EsEpoch
{
	int64		epoch;
	int64		mark;			/* the epoch before is certain up to here */
	int64		start;			/* positions are above it */
	int64		system;
	int64		timeline;
	int64		database;
	bool		ours;			/* written by the open transaction */
} EsEpoch;

PGDLLEXPORT void es_epoch_worker(Datum arg);

PG_FUNCTION_INFO_V1(es_epoch);
PG_FUNCTION_INFO_V1(es_begin_epoch);
PG_FUNCTION_INFO_V1(es_check_cursor);

/* A committed row was found to be of this place. */
static uint64 known_generation = 0;
static TimeLineID known_timeline = 0;
static int64 known_start = 0;

/* The rows, in order; in the caller's context. Never more than some. */
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
		/* A restored table may have them in any order. */
		for (i = count++; i > 0 && (*epochs)[i - 1].epoch > DatumGetInt64(slot->tts_values[0]); i--)
			(*epochs)[i] = (*epochs)[i - 1];
		row = &(*epochs)[i];
		row->epoch = DatumGetInt64(slot->tts_values[0]);
		row->mark = DatumGetInt64(slot->tts_values[2]);
		row->start = DatumGetInt64(slot->tts_values[4]);
		row->system = DatumGetInt64(slot->tts_values[5]);
		row->timeline = DatumGetInt64(slot->tts_values[6]);
		row->database = DatumGetInt64(slot->tts_values[7]);
		row->ours = TransactionIdIsCurrentTransactionId(
			DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull)));
	}
	es_lookup_close(&rows, ES_KEEP_LOCKS);
	UnregisterSnapshot(snapshot);
	return count;
}

/* Whether this is the place where the newest epoch began. In recovery it is not for us to say. */
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
	/* A sequence that was set back is no better than one of another place. */
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

/* Positions of the newest epoch are above this; 0 where we do not know it. */
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

	values[0] = Int64GetDatum(mark);
	values[1] = Int64GetDatum(last);
	values[2] = Int64GetDatum(start);
	values[3] = Int64GetDatum((int64) GetSystemIdentifier());
	values[4] = Int64GetDatum((int64) GetWALInsertionTimeLine());
	values[5] = Int64GetDatum((int64) MyDatabaseId);
	es_sql_run_args("INSERT INTO event_store.epochs (epoch, began_at, mark, last_position, start_position,"
					" system_identifier, timeline, database)"
					" SELECT greatest((extract(epoch FROM t.now) * 1000000)::bigint,"
					" (SELECT max(e.epoch) + 1 FROM event_store.epochs e)), t.now, $1, $2, $3, $4, $5, $6"
					" FROM (SELECT clock_timestamp() AS now) t", 6, types, values, NULL);
}

/* The first epoch of a store that the open transaction makes. */
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

/* The highest position of an event that is there, which a sequence that was not restored does not know. */
static int64
highest_event(void)
{
	bool		isnull;
	int64		highest;

	es_sql_run("SELECT max(position) FROM event_store.log");
	highest = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	return isnull ? 0 : highest;
}

/*
 * Begins an epoch in the open transaction, by the clock, or where its positions are above `above` too. The lock is held.
 */
static void
begin_epoch(bool by_clock, int64 above)
{
	int64		end = ES_NODE_END(es_store()->node) - 1;	/* the sequence's last */
	int64		last = es_position_last();
	int64		start;
	EsMarkState state;
	EsEpoch    *epochs;
	int			count = read_epochs(&epochs);
	EsSql		sql;

	es_mark_state(&state);
	es_sql_begin(&sql, es_store()->owner);
	last = Max(last, highest_event());
	last = Max(last, state.mark);
	if (count > 0)
		last = Max(last, epochs[count - 1].start);
	last = Min(last, end);
	start = last + ES_EPOCH_STRIDE;
	if (by_clock)
		start = Max(start, ES_NODE_START(es_store()->node) +
					(GetCurrentTimestamp() / USECS_PER_SEC - ES_EPOCH_CLOCK) * ES_EPOCH_RATE);
	/* Close to the end of the positions there is no room for jumps. */
	start = Min(start, last + (end - last) / 2);
	start = Max(start, above);

	/* Not rolled back with the transaction; in the WAL before anything that is drawn behind it. */
	es_sql_runf("SELECT setval('event_store.position_seq', %lld)", (long long) start);
	insert_row(state.mark, last, start);
	es_sql_end(&sql);
	CacheInvalidateRelcacheByRelid(es_store()->epochs);	/* no session goes on with what it knows of the last one */
	CommandCounterIncrement();
	ForceSyncCommit();			/* its number is told to others */
	pfree(epochs);
	ereport(LOG,
			(errmsg("event store of database %u begins a new epoch", MyDatabaseId),
			 errdetail("Its positions are above %lld; the epoch before is certain up to position %lld.",
					   (long long) start, (long long) state.mark)));
}

/* Begins one in the open transaction if there must be one; whether it did. */
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
		/* Somebody did. A lock that the transaction had before stays with it: locks are counted. */
		UnlockRelationOid(epochs, ShareUpdateExclusiveLock);
		return false;
	}
	begin_epoch(true, 0);
	return true;
}

/* Entry of the worker. */
void
es_epoch_worker(Datum arg)
{
	(void) es_maker_begin("beginning an epoch of the event log");
	/* Whoever waits for us may want to go on without a standby; its own commit comes behind ours in the WAL. */
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

/* Has an epoch begun: by whoever is at it, by a worker, or in the open transaction. */
static void
have_begun(void)
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
 * Makes sure that what this transaction is going to allocate, or to publish, belongs to the epoch of this place; does
 * nothing where nothing can be written. To be called before anything is locked.
 */
void
es_epoch_prepare(void)
{
	if (RecoveryInProgress() || XactReadOnly || IsInParallelMode())
		return;
	if (unlikely(!es_epoch_is_current()))
		have_begun();
}

/* The rows, of which there is one at least. */
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

/* es_epoch() -> the number of the epoch of what is appended now */
Datum
es_epoch(PG_FUNCTION_ARGS)
{
	(void) es_store_now();
	es_epoch_prepare();
	PG_RETURN_INT64(newest_epoch());
}

/* es_begin_epoch(above) -> number */
Datum
es_begin_epoch(PG_FUNCTION_ARGS)
{
	int64		above = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0);
	int64		end;

	PreventCommandIfReadOnly("es_begin_epoch()");
	PreventCommandDuringRecovery("es_begin_epoch()");
	PreventCommandIfParallelMode("es_begin_epoch()");
	end = ES_NODE_END(es_store_now()->node) - 1;
	if (above < 0 || above >= end)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument above must be between 0 and %lld", (long long) end - 1),
				 errdetail("It is %lld.", (long long) above)));
	LockRelationOid(es_store()->epochs, ShareUpdateExclusiveLock);
	begin_epoch(PG_ARGISNULL(0), above);
	PG_RETURN_INT64(newest_epoch());
}

/*
 * es_check_cursor(epoch, position) -> (epoch, position, rewind): the cursor to go on with.
 *
 * A number that is not known is one of a history that parted from ours, at the beginning of one of our epochs, and
 * jumped ahead from there: the last one whose `mark` the position has reached.
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
	int			of = -1;

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
			of = i;

	certain = position;
	if (of == count - 1)
	{
		/* Beyond all that was drawn here: a copy of the server was restored. A standby may not have come so far. */
		if (!RecoveryInProgress() && position > es_position_last())
		{
			EsMarkState state;

			es_mark_state(&state);
			certain = state.mark;
		}
	}
	else if (of >= 0)
		certain = epochs[of + 1].mark;
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

/* What was restored goes on where nobody else does. Not by a worker: we may hold locks that it needs. */
static void
store_visited(void)
{
	if (!XactReadOnly && es_epoch_begin_here())
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
