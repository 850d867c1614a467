/*
 * log/mark.c
 *	  The high-water mark: the position up to where everything that will ever exist is visible.
 *
 * nextval takes RowExclusiveLock on the sequence of positions, and keeps it until the transaction's rows are visible
 * (log/position.c). So the mark is found in rounds. A round reads the sequence's last value P, and then lists the
 * transactions that hold that lock, the open appends. When all of these have ended, all positions up to P are
 * *settled*: each was allocated by a listed transaction, or by one that had ended before. A round never waits for
 * transactions that do not append. PREPARE TRANSACTION carries the lock over, and recovery restores it. We never
 * queue for the lock ourselves.
 *
 * The mark must be found first, and the snapshot that reads the rows be taken second. The other way round, a row that
 * becomes visible in between is below the mark but not visible to the snapshot.
 *
 * The row of event_store.mark is the published mark. It is committed after all events up to the mark, so whoever sees a
 * version of this row sees these events too. That is what the higher isolation levels, standbys (replay keeps the order
 * of commits) and plain SQL use. The row also has two times. An append that allocates its positions after a round has
 * begun is never stamped at or before `floor`, whatever the clock does. So when a round that began after `floor` was
 * committed is settled, no event recorded at or before that floor can appear any more, and the floor becomes
 * `stable_until`. Appends read the floor from the sequence floor_seq, because an old snapshot elsewhere keeps all versions of
 * the row (docs/internals/newest.md).
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"
#include "log/early_release.h"
#include "log/epoch.h"
#include "log/log.h"
#include "log/mark.h"
#include "log/newest.h"
#include "log/owner_code.h"
#include "log/position.h"

/* A round that is not settled yet. */
typedef struct EsRound
{
	int64		position;		/* P */
	VirtualTransactionId *appends;	/* open appends that have not ended as far as we know; in TopMemoryContext */
	int			count;
} EsRound;

typedef struct EsMarkRow
{
	int64		mark;
	TimestampTz stable_until;
	TimestampTz floor;
} EsMarkRow;

/* Rounds of earlier calls that were not settled in time. They settle while the session does something else. */
#define ES_PENDING	4

static EsRound pending[ES_PENDING];
static int	pending_count = 0;
static Oid	known_sequence = InvalidOid;	/* the sequence of positions that known_mark belongs to */
static int64 known_mark = 0;	/* this session knows that all positions up to it are settled */
static int64 flushed_mark = 0;	/* this session knows that all events up to it are durable */
static long first_delay = 50;	/* microseconds that settle() sleeps before it looks again for the first time */

PG_FUNCTION_INFO_V1(es_high_water_mark);
PG_FUNCTION_INFO_V1(es_publish_mark);

static void
forget_round(int i)
{
	pfree(pending[i].appends);
	memmove(&pending[i], &pending[i + 1], sizeof(EsRound) * (pending_count - i - 1));
	pending_count--;
}

/* Forgets what we know of another store: the store was dropped and made again. */
static void
check_sequence(Oid sequence)
{
	if (known_sequence == sequence)
		return;
	while (pending_count > 0)
		forget_round(pending_count - 1);
	known_mark = flushed_mark = 0;
	known_sequence = sequence;
}

/* Whether all open appends of a round have ended. Forgets those that have. Does not wait. */
static bool
round_settled(EsRound *round)
{
	while (round->count > 0 && VirtualXactLock(round->appends[round->count - 1], false))
		round->count--;
	return round->count == 0;
}

/*
 * Looks, without waiting, which rounds are settled. Rounds are in order of position: if one is settled, so are those
 * before.
 */
static void
poll_rounds(void)
{
	for (int i = pending_count - 1; i >= 0; i--)
	{
		if (!round_settled(&pending[i]))
			continue;
		known_mark = Max(known_mark, pending[i].position);
		while (i >= 0)
			forget_round(i--);
		break;
	}
}

/* The mark, but below the first position that our own open transaction has allocated: its positions are not settled. */
static int64
below_own(int64 mark)
{
	int64		own = es_transaction_first_position();

	return own != 0 && own <= mark ? own - 1 : mark;
}

/* Begins a round. The sequence's last value is read before the locks are listed: see the head of this file. */
static void
begin_round(Oid sequence)
{
	LOCKTAG		tag;
	EsRound    *round;
	VirtualTransactionId *appends;
	int			count;
	int64		position = below_own(es_position_last());	/* the list does not have our own lock */

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, sequence);
	appends = GetLockConflicts(&tag, ShareLock, &count);
	if (count == 0)
		known_mark = Max(known_mark, position);
	else
	{
		/* When all places are taken, the newest round is given up: the oldest one will settle first. */
		if (pending_count == ES_PENDING)
			forget_round(pending_count - 1);
		round = &pending[pending_count];
		round->position = position;
		round->count = count;
		round->appends = MemoryContextAlloc(TopMemoryContext, sizeof(VirtualTransactionId) * count);
		memcpy(round->appends, appends, sizeof(VirtualTransactionId) * count);
		pending_count++;
	}
	pfree(appends);
}

/*
 * Runs one round. Waits at most event_store.mark_wait for its open appends to end, not for later ones. Returns true
 * when the round was settled. Otherwise known_mark is right too, only older. The wait is a loop that sleeps and looks
 * again: if we waited by the lock manager, we could deadlock with an appender that waits for a lock of our own
 * transaction.
 */
static bool
settle(void)
{
	Oid			sequence = es_store()->position_seq;
	TimestampTz start = GetCurrentTimestamp();
	long		delay = first_delay;
	int64		wanted;

	check_sequence(sequence);
	poll_rounds();
	begin_round(sequence);
	es_shared_raise(sequence, known_mark);
	if (pending_count == 0)
		return true;
	wanted = pending[pending_count - 1].position;
	for (;;)
	{
		poll_rounds();
		es_shared_raise(sequence, known_mark);
		if (known_mark >= wanted)
			return true;
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), es_mark_wait))
			return false;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(delay);
		delay = Min(delay * 2, 2000);
	}
}

/* Opens the table of the mark. */
static void
open_row(EsLookup *rows, LOCKMODE lockmode)
{
	es_lookup_open_table(rows, es_store()->mark, lockmode);
}

static uint64
hash_row(EsLookup *rows)
{
	return es_newest_hash(rows->rel, "mark", 4);
}

/*
 * Finds the version of the row that the snapshot shows, and leaves it in the slot. The row is updated all the time, so
 * where the newest version was last is tried first (log/newest.c), and where this session has found it last. Only then
 * the table is read, with all versions that are not removed yet.
 */
static void
find_row(EsLookup *rows, Snapshot snapshot)
{
	static ItemPointerData last;	/* invalid at first */
	static Oid	last_table = InvalidOid;
	Oid			table = RelationGetRelid(rows->rel);

	if (!es_newest_fetch(rows->rel, hash_row(rows), snapshot, rows->slot) &&
		(last_table != table || !es_newest_follow(rows->rel, &last, snapshot, rows->slot)))
	{
		es_lookup_begin(rows, snapshot, false, 0, NULL);
		if (!es_lookup_next(rows))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the event store is incomplete: \"%s.mark\" has no row", ES_SCHEMA),
					 errhint("Was only the schema restored? Restore the data too.")));
		if (!IsolationUsesXactSnapshot() && !es_newest_is_ours(rows->slot))
			es_newest_found(hash_row(rows), &rows->slot->tts_tid);
	}
	last = rows->slot->tts_tid;
	last_table = table;
}

static void
take_row(TupleTableSlot *slot, EsMarkRow *row)
{
	row->mark = DatumGetInt64(es_row_column(slot, Anum_mark_mark));
	row->stable_until = DatumGetTimestampTz(es_row_column(slot, Anum_mark_stable_until));
	row->floor = DatumGetTimestampTz(es_row_column(slot, Anum_mark_floor));
}

/* Reads the published mark with a snapshot. */
static void
read_row(Snapshot snapshot, EsMarkRow *row)
{
	EsLookup	rows;

	open_row(&rows, AccessShareLock);
	find_row(&rows, snapshot);
	take_row(rows.slot, row);
	es_lookup_close(&rows, ES_KEEP_LOCKS);
}

/* Reads the published mark as it is committed now, at every isolation level. */
static void
read_row_now(EsMarkRow *row)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

	read_row(snapshot, row);
	UnregisterSnapshot(snapshot);
}

/*
 * The greatest mark that anybody has found here, as far as it is known: with shared memory since the server's start, without
 * by this session. In the beginning it is the published one.
 */
int64
es_mark_given(Oid sequence)
{
	static Oid	looked = InvalidOid;	/* for this sequence there is no need to read the row */
	int64		given = es_shared_raised(sequence);

	if (looked != sequence || (given == 0 && known_mark == 0))
	{
		EsMarkRow	row;

		check_sequence(sequence);
		read_row_now(&row);
		known_mark = Max(known_mark, row.mark);
		es_shared_raise(sequence, known_mark);
		looked = sequence;
	}
	return known_sequence == sequence ? Max(given, known_mark) : given;
}

/*
 * Makes sure that all events up to a mark are durable. Whoever asks again and again while no event comes must not flush
 * what others write, who need not wait for that. Up to the published mark all was flushed before it was published.
 */
static void
flush_upto(int64 mark)
{
	EsMarkRow	row;

	if (mark <= flushed_mark)
		return;
	read_row_now(&row);
	if (mark <= row.mark)
		es_early_release_await_all();
	else
		es_early_release_flush_all();
	flushed_mark = mark;
}

/*
 * Returns a registered snapshot, and stores the mark that goes with it: the snapshot shows everything up to the mark.
 * At READ COMMITTED on a primary, the mark is found now. At the higher levels it is the published mark as the
 * transaction's own snapshot shows it, and on a standby or a logical subscriber the published mark that has come. With flush, everything
 * up to the mark is durable, so that it can be reported to a client.
 */
static Snapshot
mark_snapshot(int64 *mark, bool flush)
{
	Snapshot	snapshot;
	EsMarkRow	row;

	(void) es_store_now();
	if (IsolationUsesXactSnapshot() || es_store_is_copy())
	{
		snapshot = RegisterSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot() :
									GetLatestSnapshot());
		read_row(snapshot, &row);
		*mark = below_own(row.mark);
		/*
		 * What the mark covers was flushed before the mark was published. But a synchronous standby may not have it
		 * yet.
		 */
		if (flush)
			es_early_release_await_all();
		return snapshot;
	}

	if (settle())
		*mark = known_mark;
	else
	{
		read_row_now(&row);
		*mark = Max(known_mark, row.mark);
	}
	*mark = below_own(*mark);
	if (flush)
		flush_upto(*mark);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	return snapshot;
}

/* The mark and its snapshot, for events that are reported to a client. */
Snapshot
es_mark_snapshot(int64 *mark)
{
	return mark_snapshot(mark, true);
}

/*
 * The mark and its snapshot, for work whose result stays in this database. Its WAL comes after that of the events, so a
 * crash that loses the events loses the result too. So nothing has to be flushed.
 */
Snapshot
es_mark_snapshot_inside(int64 *mark)
{
	return mark_snapshot(mark, false);
}

/*
 * Makes this process sleep longer before it looks again whether open appends have ended. For a process that needs the
 * mark all the time, so that it wakes up less often.
 */
void
es_mark_poll_slowly(void)
{
	first_delay = 500;
}

/*
 * The time that recorded_at of a new event must be later than. To be called after the event's position was allocated:
 * if a round had read the sequence of positions before that, its floor was set even before, and is read here. The
 * sequence of the floor is not under MVCC, so this takes the same time whatever versions of the mark's row there are.
 */
TimestampTz
es_mark_floor(void)
{
	return es_sequence_last(es_store()->floor_seq);
}

/* The two published times that go with what the transaction sees. */
void
es_mark_times(TimestampTz *stable_until, TimestampTz *floor)
{
	Snapshot	snapshot = RegisterSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot() :
											GetLatestSnapshot());
	EsMarkRow	row;

	read_row(snapshot, &row);
	UnregisterSnapshot(snapshot);
	*stable_until = row.stable_until;
	*floor = Min(row.floor, es_mark_floor());	/* appends go by the sequence */
}

/*
 * Sets the floor that appends read. The caller holds the mark's row, so that nobody sets an older one at the same time,
 * or begins an epoch. It is not rolled back with the transaction. That does no harm: the floor of a publication that
 * was rolled back is only later than it would have to be.
 */
static void
set_floor(TimestampTz floor)
{
	EsSql		sql;

	es_sql_begin(&sql, es_store()->owner);
	(void) DirectFunctionCall2(setval_oid, ObjectIdGetDatum(es_store()->floor_seq), Int64GetDatum(Max(floor, 1)));
	es_sql_end(&sql);
}

Datum
es_high_water_mark(PG_FUNCTION_ARGS)
{
	int64		mark;

	UnregisterSnapshot(es_mark_snapshot(&mark));
	PG_RETURN_INT64(mark);
}

/* The published mark as it is now, and the newest position. */
void
es_mark_state(EsMarkState *state)
{
	EsMarkRow	row;

	(void) es_store_now();
	read_row_now(&row);
	state->mark = row.mark;
	state->stable_until = row.stable_until;
	state->floor = row.floor;
	state->last = es_position_last();
}

/* Writes a new version of the row that is in the slot, whose place is *tid. */
static void
update_row(EsLookup *rows, ItemPointer tid, const EsMarkRow *row)
{
	TupleTableSlot *slot = rows->slot;
	EsUpdateIndexes update_indexes;
	TM_FailureData failure;
	TM_Result	result;

	ExecClearTuple(slot);
	memset(slot->tts_isnull, 0, Natts_mark * sizeof(bool));
	slot->tts_values[Anum_mark_mark - 1] = Int64GetDatum(row->mark);
	slot->tts_values[Anum_mark_stable_until - 1] = TimestampTzGetDatum(row->stable_until);
	slot->tts_values[Anum_mark_floor - 1] = TimestampTzGetDatum(row->floor);
	slot->tts_values[Anum_mark_one - 1] = BoolGetDatum(true);
	ExecStoreVirtualTuple(slot);
	result = es_tuple_update(rows->rel, tid, slot, GetCurrentCommandId(true), InvalidSnapshot, &failure,
							 &update_indexes);
	if (result != TM_Ok)
		elog(ERROR, "unexpected result %d of updating the row of the mark", (int) result);
	if (update_indexes != ES_UPDATE_NONE)
	{
		static const AttrNumber same[] = {Anum_mark_one};
		EState	   *estate = CreateExecutorState();
		ResultRelInfo *rri = makeNode(ResultRelInfo);

		InitResultRelInfo(rri, rows->rel, 0, NULL, 0);
		es_owner_code_open_indexes(rri, false);
		es_newest_insert_entries(rri, slot, estate, update_indexes, same, lengthof(same));
		ExecCloseIndices(rri);
		FreeExecutorState(estate);
	}
	es_newest_written(hash_row(rows), &slot->tts_tid);
	ExecClearTuple(slot);
}

/*
 * Locks the newest version of the row, and leaves it in the slot; *row is what it has. Waits for another session that
 * publishes. The caller has opened the table.
 */
static void
lock_row(EsLookup *rows, EsMarkRow *row)
{
	TM_Result	result;
	ItemPointerData tid;

	do
	{
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
		TM_FailureData failure;

		CHECK_FOR_INTERRUPTS();
		find_row(rows, snapshot);
		es_newest_check_snapshot(rows->rel, rows->slot);
		tid = rows->slot->tts_tid;
		if (es_newest_is_ours(rows->slot))
			result = TM_Ok;
		else
			result = table_tuple_lock(rows->rel, &tid, snapshot, rows->slot, GetCurrentCommandId(false),
									  LockTupleNoKeyExclusive, LockWaitBlock,
									  IsolationUsesXactSnapshot() ? 0 : TUPLE_LOCK_FLAG_FIND_LAST_VERSION, &failure);
		UnregisterSnapshot(snapshot);
		if (result != TM_Ok && IsolationUsesXactSnapshot())
			es_newest_conflict();
	} while (result == TM_Updated || result == TM_Deleted);
	if (result != TM_Ok)
		elog(ERROR, "unexpected result %d of locking the row of the mark", (int) result);
	take_row(rows->slot, row);
}

/* Publishes: raises what the row has to what *row has, and sets *row to what it has then. */
static void
write_row(EsMarkRow *row)
{
	EsLookup	rows;
	EsMarkRow	old;
	ItemPointerData tid;

	open_row(&rows, RowExclusiveLock);
	es_store_check_unchecked(rows.rel);
	lock_row(&rows, &old);
	tid = rows.slot->tts_tid;
	row->mark = Max(row->mark, old.mark);
	row->stable_until = Max(row->stable_until, old.stable_until);
	row->floor = Max(row->floor, old.floor);
	update_row(&rows, &tid, row);
	es_lookup_close(&rows, ES_KEEP_LOCKS);
}

/*
 * Where an epoch begins, the store may have come here without the sequence's value. The first event here must not be
 * stamped at or before a floor that was published elsewhere. The row stays locked: somebody who publishes at the same
 * time may have set a later one.
 */
void
es_mark_restore_floor(void)
{
	EsLookup	rows;
	EsMarkRow	row;

	open_row(&rows, RowExclusiveLock);
	lock_row(&rows, &row);
	if (!TIMESTAMP_NOT_FINITE(row.floor) && row.floor > es_mark_floor())
		set_floor(row.floor);
	es_lookup_close(&rows, ES_KEEP_LOCKS);
}

/*
 * Publishes the mark in the open transaction. goal is a time that stable_until should pass in the end. If neither the
 * mark would move, nor floor or stable_until come closer to the goal, nothing is written, unless always is true.
 * Fills in *state, and returns true when the mark has moved.
 *
 * If a new epoch has to be begun, the caller has done that before, because the epoch notes what the last one has
 * published.
 */
bool
es_mark_publish(TimestampTz goal, bool always, EsMarkState *state)
{
	EsMarkRow	row;
	EsMarkRow	next;
	TimestampTz floor;
	bool		settled;

	(void) es_store_now();
	Assert(es_epoch_is_current());
	read_row_now(&row);
	/* Before the round begins: what allocates after it has begun reads at least this. It was set before it was committed. */
	floor = Min(row.floor, es_mark_floor());
	settled = settle();
	state->last = es_position_last();
	state->mark = row.mark;
	state->stable_until = row.stable_until;
	state->floor = row.floor;
	next.mark = below_own(Max(known_mark, row.mark));
	next.stable_until = settled && es_transaction_first_position() == 0 ? Max(floor, row.stable_until) : row.stable_until;
	if (!always && next.mark <= row.mark && row.floor >= goal &&
		(row.stable_until >= goal || next.stable_until <= row.stable_until))
		return false;

	/*
	 * The published mark must not be durable before the events up to it, nor before the sequence's own WAL record.
	 * Otherwise, after a crash, a position below the published mark would be allocated again.
	 */
	es_early_release_flush_all();
	ForceSyncCommit();
	es_early_release_keep_locks();

	/* The new floor is a time after the round, so what the round has settled is stamped at or before it. */
	next.floor = GetCurrentTimestamp();
	write_row(&next);
	set_floor(next.floor);		/* before the commit, and under the lock on the row */
	state->mark = next.mark;
	state->stable_until = next.stable_until;
	state->floor = next.floor;
	CommandCounterIncrement();
	es_transaction_progressed();
	ES_FAULT(publish);
	return state->mark > row.mark;
}

Datum
es_publish_mark(PG_FUNCTION_ARGS)
{
	EsMarkState state;

	es_prevent_if_read_only("es_publish_mark()");
	PreventCommandDuringRecovery("es_publish_mark()");
	(void) es_store_now();
	es_epoch_prepare();
	(void) es_mark_publish(DT_NOBEGIN, true, &state);
	PG_RETURN_INT64(state.mark);
}
