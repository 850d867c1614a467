/*
 * log/partition_maker.c
 *	  Making partitions of the log, and finding the partition of a position that was just allocated.
 *
 * A table is made first, with its indexes and with the triggers that refuse changes, and is then attached. CREATE
 * TABLE ... PARTITION OF would take AccessExclusiveLock on the parent, and two appenders would deadlock.
 *
 * The append that needs a partition starts a background worker, which makes it in a transaction of its own, and waits
 * for that (log/maker.c). If it was made in the append's transaction, it would be invisible to others, and its lock
 * held, as long as that transaction is open. Other appends that use up the newest partition meanwhile would queue
 * behind it, with heads locked that it may need. So the append makes it only when a worker cannot: no worker slot is
 * free, or the store itself was made by the open transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"
#include "log/log.h"
#include "log/maker.h"
#include "log/partition.h"

/*
 * While there is room in the newest partition, an append should not wait long for the next one. So the worker waits
 * only so many milliseconds for a lock, and after a failure the session does not try again for so many milliseconds.
 */
#define AHEAD_LOCK_TIMEOUT		20
#define AHEAD_RETRY_INTERVAL	5000

#define PARTITIONS_AHEAD	2		/* how many empty partitions the coordinator keeps ready */
#define PARTITION_INTERVAL	200		/* milliseconds after which it looks again */

PGDLLEXPORT void es_partition_worker(Datum arg);

static TimestampTz last_failure = 0;	/* when a worker that this session started has failed last */

/* The lock that whoever makes a partition holds. */
static LOCKTAG
makers_lock(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, es_store()->log, 0, ES_LOCK_PARTITION);
	return tag;
}

/* Takes that lock. Without wait, returns false when another transaction holds it. */
static bool
lock_partitions(bool wait)
{
	LOCKTAG		tag = makers_lock();

	if (LockAcquire(&tag, ExclusiveLock, false, !wait) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	/*
	 * What was made under this lock before is committed by now. After this, es_partition_list() reads the list again.
	 */
	AcceptInvalidationMessages();
	return true;
}

/*
 * Makes the partition for positions from <= p < to. The caller makes sure that nobody else makes one at the same
 * time.
 */
void
es_partition_make(int64 from, int64 to)
{
	EsSql		sql;
	char	   *table = psprintf("log_%lld", (long long) from);
	EsScriptValue values[] = {
		es_script_identifier("partition", table),
		es_script_identifier("stream_index", psprintf("%s_stream_version", table)),
		es_script_integer("from", from),
		es_script_integer("to", to),
		es_script_literal("only", IsolationUsesXactSnapshot() ? table : ""),
	};

	if (es_partition_exists(table))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition \"event_store.%s\" of the event log is not attached", table),
				 errhint("Attach it again: only older partitions can be detached while the log goes on.")));
	es_sql_begin_unheard(&sql, es_store()->owner);
	es_script_run("log/partition", values, lengthof(values));
	es_guard_partition(table);
	es_script_run("log/attach", values, lengthof(values));
	es_sql_end(&sql);
	CommandCounterIncrement();
	ES_FAULT(partition);
}

/* Whether a position is in the last fifth of the newest partition, or beyond it. */
static bool
nearly_full(const EsPartitionList *list, int64 position)
{
	const EsPartition *newest;

	if (list->count == 0)
		return true;
	newest = &list->partitions[list->count - 1];
	return position >= newest->from + (newest->to - newest->from) / 5 * 4;
}

/*
 * Makes the partition after the newest one. It has event_store.partition_size positions, or more so that the position
 * `needed` is in it: a call never needs more than two new partitions.
 */
static void
make_next(int64 needed)
{
	int64		from = es_partition_next(es_partition_list(), es_position_last());
	int64		end = ES_NODE_END(es_store()->node);
	int64		to = end - from <= es_partition_size ? end : from + es_partition_size;

	es_partition_make(from, Min(end, Max(to, needed + 1)));
}

/* How many partitions begin behind the last position, and so are empty. */
static int
partitions_ahead(const EsPartitionList *list, int64 last)
{
	int			count = 0;

	while (count < list->count && list->partitions[list->count - 1 - count].from > last)
		count++;
	return count;
}

/* Whether the coordinator should make an empty partition. */
static bool
partition_wanted(void)
{
	const EsPartitionList *list;
	int64		last;

	(void) es_store_now();
	last = es_position_last();
	list = es_partition_list();
	return partitions_ahead(list, last) < PARTITIONS_AHEAD &&
		list->end < ES_NODE_END(es_store()->node);
}

/* The duty: makes an empty partition. Returns false when there are enough, or when somebody else is making one. */
static bool
make_ahead(void)
{
	bool		wanted;

	if (!es_process_begin("making a partition ahead"))
		return false;
	wanted = partition_wanted() && lock_partitions(false) && partition_wanted();
	if (wanted)
		make_next(es_position_last());	/* where an epoch has jumped over positions, one partition has all of these */
	es_process_end();
	return wanted;
}

/* Registers the duty; called once, when the library is loaded. */
void
es_partition_init(void)
{
	static EsDuty making = {.name = "make a partition of the event log ahead",.run = make_ahead,.interval = PARTITION_INTERVAL};

	es_duty_register(&making);
}

/*
 * Makes partitions until there is one for a position, with room behind that. It is done in the open transaction,
 * which keeps the lock to its end, so it should do nothing else that takes long. Others may have done it when the
 * lock is ours.
 */
void
es_partition_make_for(int64 position)
{
	const EsPartitionList *list;

	(void) lock_partitions(true);
	for (list = es_partition_list();
		 nearly_full(list, position) && list->end < ES_NODE_END(es_store()->node);
		 list = es_partition_list())
		make_next(position);
}

/* Entry point of the worker. */
void
es_partition_worker(Datum arg)
{
	es_partition_make_for(es_maker_begin("making a partition of the event log"));
	es_worker_end();
}

static bool
is_made(int64 position)
{
	return position < es_partition_list()->end;
}

/* Whether there is a partition for a position, and room behind it. */
static bool
has_room(int64 position)
{
	return !nearly_full(es_partition_list(), position);
}

/* Describes, for log/maker.c, how to make the partition for a position. */
static EsMaker
maker_for(int64 position)
{
	EsMaker		maker = {
		.lock = makers_lock(),
		.lockmode = ExclusiveLock,
		.table = es_store()->log,
		.function = "es_partition_worker",
		.title = "event_store partition maker",
		.position = position,
		.is_made = is_made
	};

	return maker;
}

/*
 * Raises an error where one of the positions from..to is for a partition that is not attached, and that may have events
 * because it begins with an allocated position, at most `last`: no new one can take its place.
 */
static void
check_gap(int64 from, int64 to, int64 last)
{
	EsPartitionGap gap;

	if (likely(!es_partition_gap_in(from, to, false, &gap)) || gap.from > last)
		return;
	if (NameStr(gap.partition)[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no partition of the event log is for positions %lld to %lld", (long long) gap.from,
						(long long) gap.to),
				 errhint("Attach the partition that was detached.")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("partition \"event_store.%s\" of the event log is not attached", NameStr(gap.partition)),
			 errdetail("It is for positions %lld to %lld, and the next event would be at one of them.",
					   (long long) gap.from, (long long) gap.to),
			 errhint("Attach it again. If it is lost, SELECT es_begin_epoch() goes on behind it.")));
}

/*
 * Makes sure that there is a partition for the next `events` positions. To be called before the call locks anything.
 * When the newest partition is nearly full, also has the next one made.
 */
void
es_partition_prepare(int64 events)
{
	EsPartitionList *list = es_partition_list();
	int64		last;
	int64		end = ES_NODE_END(es_store()->node);
	EsMaker		maker;

	/*
	 * For most calls, the session's own last position shows that there is room, and they need not read the sequence.
	 * Other sessions may have allocated positions since, but these have looked for room themselves.
	 */
	if (list->last != 0 && events < end - list->last && !nearly_full(list, list->last + events))
	{
		list->last += events;
		return;
	}

	last = es_position_last();
	if (list->end >= end || events >= end - last)
		return;					/* no partition is left to make; nextval raises the error when no position is left */
	if (!nearly_full(list, last + events))
	{
		list->last = last + events;
		return;
	}

	check_gap(last + 1, last + events, last);
	maker = maker_for(last + events);
	if (is_made(last + events))
	{
		/* There still is room. So do not start a second worker, and wait a while after one that has failed. */
		maker.is_made = has_room;
		if (!es_maker_at_work(&maker) &&
			TimestampDifferenceExceeds(last_failure, GetCurrentTimestamp(), AHEAD_RETRY_INTERVAL) &&
			es_maker_run(&maker, AHEAD_LOCK_TIMEOUT) > ES_BEING_MADE)
			last_failure = GetCurrentTimestamp();
		return;
	}

	/*
	 * There is no partition. This is the place to wait for it: this call has not locked anything nor allocated a
	 * position yet. If somebody holds a lock on the log that conflicts, a manual ANALYZE for example, a worker gives
	 * up after a second. Then we queue for that lock ourselves, where a timeout, a cancel or the deadlock detector
	 * reaches us, and start another worker after that. If a worker ends sooner without a partition, it has met an
	 * error. es_partition_for() will meet the same error, and report it.
	 */
	while (es_maker_await_or_run(&maker) == ES_LOCKED_OUT)
	{
		LockRelationOid(es_store()->log, ShareUpdateExclusiveLock);
		UnlockRelationOid(es_store()->log, ShareUpdateExclusiveLock);
	}
}

/* The partition of a position; NULL when there is none. */
static const EsPartition *
find(int64 position)
{
	const EsPartitionList *list = es_partition_list();

	return es_partition_among(list->partitions, list->count, position);
}

/*
 * The partition of a position that was just allocated. There nearly always is one. If not, other calls have used up
 * the room that es_partition_prepare() found, or no worker could be started; then the partition is made here. This is
 * the only place where an append holds the makers' lock to the end of its transaction, and it comes after the heads.
 * So the order of locks, heads before the makers' lock, is the same for all appends.
 */
EsPartition
es_partition_for(int64 position)
{
	EsPartitionList *list = es_partition_list();
	const EsPartition *partition = es_partition_among(list->partitions, list->count, position);

	list->last = Max(list->last, position);
	if (unlikely(partition == NULL))
	{
		EsMaker		maker = maker_for(position);

		if (es_maker_await_or_run(&maker) == ES_MADE)
			partition = find(position);
	}
	if (unlikely(partition == NULL))
	{
		es_partition_make_for(position);
		partition = find(position);
	}
	if (partition == NULL)
	{
		check_gap(position, position, position);
		elog(ERROR, "there is no partition for position %lld", (long long) position);
	}
	return *partition;
}
