/*
 * log/mark.c
 *	  The high-water mark: up to where everything that will ever exist is visible.
 *
 * nextval keeps RowExclusiveLock on the sequence until the transaction's rows are visible (log/position.c).
 * So one round is: read the sequence's last value P; list the holders of that lock; when every one
 * of them is gone, all positions up to P are settled: each was drawn by a holder listed, or by a
 * transaction that had ended before. Transactions that never append are never waited for. PREPARE
 * carries the lock over and recovery restores it. We never queue for the lock ourselves.
 *
 * Mark first, then the snapshot that reads the rows: the other way round a row that became visible
 * in between is below the mark and not in the snapshot.
 *
 * The row event_store.mark is the published mark. Whoever sees its version also sees every event up
 * to it, because it was committed after them: this serves the higher isolation levels, standbys
 * (where replay keeps commit order) and plain SQL. It also carries two times. No append that draws
 * its positions after a round began may be stamped at or before `floor`, whatever the clock does;
 * so once a round is settled that began after `floor` was committed, no event recorded at or before
 * that floor can appear any more: it becomes `stable_until`.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"

/* A round that is not settled yet. */
typedef struct EsRound
{
	int64		position;		/* P */
	VirtualTransactionId *holders;	/* those not seen gone yet, in TopMemoryContext */
	int			count;
} EsRound;

typedef struct EsMarkRow
{
	int64		mark;
	TimestampTz stable_until;
	TimestampTz floor;
} EsMarkRow;

/* Rounds of earlier calls: they settle while we do something else. */
#define ES_PENDING	4

static EsRound pending[ES_PENDING];
static int	pending_count = 0;
static Oid	known_sequence = InvalidOid;	/* whose mark known_mark is */
static int64 known_mark = 0;	/* settled, as this session found out */
static long first_nap = 50;		/* of settle(), in microseconds */

PG_FUNCTION_INFO_V1(es_high_water_mark);
PG_FUNCTION_INFO_V1(es_publish_mark);

static void
forget_round(int i)
{
	pfree(pending[i].holders);
	memmove(&pending[i], &pending[i + 1], sizeof(EsRound) * (pending_count - i - 1));
	pending_count--;
}

/* Drops what another store (dropped and made again) left behind. */
static void
check_sequence(Oid sequence)
{
	if (known_sequence == sequence)
		return;
	while (pending_count > 0)
		forget_round(pending_count - 1);
	known_mark = 0;
	known_sequence = sequence;
}

/* Whether all holders are gone; forgets those that are. */
static bool
round_settled(EsRound *round)
{
	while (round->count > 0 && VirtualXactLock(round->holders[round->count - 1], false))
		round->count--;
	return round->count == 0;
}

/*
 * Settles what can be settled without waiting. Rounds are in order of position: when a later one
 * is settled the earlier ones are too.
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

/* Positions of the open transaction itself are not settled. */
static int64
below_own(int64 mark)
{
	int64		own = es_transaction_first_position();

	return own != 0 && own <= mark ? own - 1 : mark;
}

static void
begin_round(Oid sequence)
{
	LOCKTAG		tag;
	EsRound    *round;
	VirtualTransactionId *holders;
	int			count;
	int64		position = below_own(es_position_last());	/* we do not see our own lock */

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, sequence);
	holders = GetLockConflicts(&tag, ShareLock, &count);
	if (count == 0)
		known_mark = Max(known_mark, position);
	else
	{
		/* With all places taken the newest gives way: the oldest will settle first. */
		if (pending_count == ES_PENDING)
			forget_round(pending_count - 1);
		round = &pending[pending_count];
		round->position = position;
		round->count = count;
		round->holders = MemoryContextAlloc(TopMemoryContext, sizeof(VirtualTransactionId) * count);
		memcpy(round->holders, holders, sizeof(VirtualTransactionId) * count);
		pending_count++;
	}
	pfree(holders);
}

/*
 * Finds the mark by the lock manager, waiting at most event_store.mark_wait for the holders of one
 * fixed round. True when that round was settled; known_mark is right either way, only older. Polls:
 * waiting through the lock manager could deadlock with an appender that queues behind our own
 * transaction.
 */
static bool
settle(void)
{
	Oid			sequence = es_store()->position_seq;
	TimestampTz start = GetCurrentTimestamp();
	long		nap = first_nap;
	int64		wanted;

	check_sequence(sequence);
	poll_rounds();
	begin_round(sequence);
	if (pending_count == 0)
		return true;
	wanted = pending[pending_count - 1].position;
	for (;;)
	{
		poll_rounds();
		if (known_mark >= wanted)
			return true;
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), es_mark_wait))
			return false;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(nap);
		nap = Min(nap * 2, 2000);
	}
}

static void
read_row(Snapshot snapshot, EsMarkRow *row)
{
	EsLookup	rows;

	es_lookup_open_table(&rows, es_store()->mark, AccessShareLock);
	es_lookup_begin(&rows, snapshot, false, 0, NULL);
	if (!es_lookup_next(&rows))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the event store is incomplete: \"%s.mark\" has no row", ES_SCHEMA),
				 errhint("Was only the schema restored? Restore the data too.")));
	row->mark = DatumGetInt64(es_row_column(rows.slot, 1));
	row->stable_until = DatumGetTimestampTz(es_row_column(rows.slot, 2));
	row->floor = DatumGetTimestampTz(es_row_column(rows.slot, 3));
	es_lookup_close(&rows, ES_KEEP_LOCKS);
}

static void
read_row_now(EsMarkRow *row)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

	read_row(snapshot, row);
	UnregisterSnapshot(snapshot);
}

/*
 * The mark and a registered snapshot that shows everything up to it. In READ COMMITTED on a primary
 * the mark is found now and nothing beyond the flushed WAL is promised; elsewhere both are what the
 * transaction's own snapshot says.
 */
static Snapshot
mark_snapshot(int64 *mark, bool flush)
{
	Snapshot	snapshot;
	EsMarkRow	row;

	(void) es_store_now();
	if (IsolationUsesXactSnapshot() || RecoveryInProgress())
	{
		snapshot = RegisterSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot() :
									GetLatestSnapshot());
		read_row(snapshot, &row);
		*mark = below_own(row.mark);
		/* It was flushed before it was published, but a standby may not have what it speaks of. */
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
		es_early_release_flush_all();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	return snapshot;
}

Snapshot
es_mark_snapshot(int64 *mark)
{
	return mark_snapshot(mark, true);
}

/*
 * The same for what stays inside of the database: it is in the WAL behind the events, so a crash that takes them takes
 * it too.
 */
Snapshot
es_mark_snapshot_inside(int64 *mark)
{
	return mark_snapshot(mark, false);
}

/*
 * For a process that looks for the mark all the time: it waits longer before it looks again whether appends have ended,
 * and so wakes up less often.
 */
void
es_mark_be_patient(void)
{
	first_nap = 500;
}

/*
 * The time that a stamp must be later than. To be called after a position was drawn: a round that
 * does not know of that draw has committed its floor before.
 */
TimestampTz
es_mark_floor(void)
{
	EsMarkRow	row;

	read_row_now(&row);
	return row.floor;
}

/* The two published times, as the transaction may rely on them. */
void
es_mark_times(TimestampTz *stable_until, TimestampTz *floor)
{
	Snapshot	snapshot = RegisterSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot() :
											GetLatestSnapshot());
	EsMarkRow	row;

	read_row(snapshot, &row);
	UnregisterSnapshot(snapshot);
	*stable_until = row.stable_until;
	*floor = row.floor;
}

Datum
es_high_water_mark(PG_FUNCTION_ARGS)
{
	int64		mark;

	UnregisterSnapshot(es_mark_snapshot(&mark));
	PG_RETURN_INT64(mark);
}

/* The row as it is published now, and the newest position. */
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

/*
 * Publishes the mark in the open transaction. goal is a time that stable_until should pass; where neither the mark nor
 * what leads there would move, nothing is written, unless always. Fills in *state; true when the mark
 * has moved. Where a new epoch is to be begun, that comes first: it notes what the last one has published.
 */
bool
es_mark_publish(TimestampTz goal, bool always, EsMarkState *state)
{
	EsMarkRow	row;
	EsSql		sql;
	Oid			types[3] = {INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID};
	Datum		values[3];
	TimestampTz stable_until;
	int64		mark;
	bool		settled;
	bool		isnull;

	(void) es_store_now();
	Assert(es_epoch_is_current());
	read_row_now(&row);			/* its floor is committed before the round begins */
	settled = settle();
	state->last = es_position_last();
	state->mark = row.mark;
	state->stable_until = row.stable_until;
	state->floor = row.floor;
	mark = below_own(Max(known_mark, row.mark));
	stable_until = settled && es_transaction_first_position() == 0 ? row.floor : row.stable_until;
	if (!always && mark <= row.mark && row.floor >= goal &&
		(row.stable_until >= goal || stable_until <= row.stable_until))
		return false;

	/*
	 * The row must not be durable before the events it speaks of, nor before the sequence's own
	 * record: after a crash a position below a published mark would be drawn again.
	 */
	es_early_release_flush_all();
	ForceSyncCommit();
	es_early_release_keep_locks();

	/* The new floor is a time after the round: then what it has settled is stamped at or before it. */
	state->floor = GetCurrentTimestamp();
	state->stable_until = stable_until;
	values[0] = Int64GetDatum(mark);
	values[1] = TimestampTzGetDatum(stable_until);
	values[2] = TimestampTzGetDatum(state->floor);
	es_sql_begin(&sql, es_store()->owner);
	es_sql_run_args("UPDATE event_store.mark SET mark = greatest(mark, $1), "
					"stable_until = greatest(stable_until, $2), floor = greatest(floor, $3) "
					"RETURNING mark", 3, types, values, NULL);
	if (SPI_tuptable == NULL || SPI_processed != 1)
		elog(ERROR, "event_store.mark has %llu rows", (unsigned long long) SPI_processed);
	state->mark = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	es_sql_end(&sql);
	CommandCounterIncrement();
	es_transaction_progressed();
	ES_FAULT(publish);
	return state->mark > row.mark;
}

Datum
es_publish_mark(PG_FUNCTION_ARGS)
{
	EsMarkState state;

	PreventCommandIfReadOnly("es_publish_mark()");
	PreventCommandDuringRecovery("es_publish_mark()");
	(void) es_store_now();
	es_epoch_prepare();
	(void) es_mark_publish(DT_NOBEGIN, true, &state);
	PG_RETURN_INT64(state.mark);
}
