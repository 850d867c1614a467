/*
 * log/partition_maker.c
 *	  Making partitions of the log, and finding the one for a position that was just allocated.
 *
 * A partition is made complete (table, indexes, immutability triggers) and then attached: CREATE TABLE
 * ... PARTITION OF would take AccessExclusiveLock on the parent, and two appenders would deadlock.
 *
 * It is made in a transaction of its own, by a background worker that the append which needs it
 * starts and waits for (log/maker.c). Made in the append's transaction it would be invisible, and its lock held, for
 * as long as that transaction is open: others that use up the newest partition meanwhile would queue behind
 * it, with head rows locked that it may want. That is only done where a worker cannot do it: no
 * worker slot is free, or the store itself was made by the open transaction.
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
 * Milliseconds that a worker waits for a lock where there still is room: an append should not be held up, and the next
 * attempt comes after a while.
 */
#define AHEAD_LOCK_TIMEOUT		20
#define AHEAD_RETRY_INTERVAL	5000

#define PARTITIONS_AHEAD	2		/* empty partitions that the coordinator keeps */
#define PARTITION_INTERVAL	200		/* milliseconds, of its looking whether there are */

PGDLLEXPORT void es_partition_worker(Datum arg);

static TimestampTz last_failure = 0;	/* of a worker of this session */

/* The lock of those who make partitions. */
static LOCKTAG
makers_lock(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, es_store()->log, 0, ES_LOCK_PARTITION);
	return tag;
}

/* Takes it; false when somebody else has it, and we do not want to wait. */
static bool
lock_partitions(bool wait)
{
	LOCKTAG		tag = makers_lock();

	if (LockAcquire(&tag, ExclusiveLock, false, !wait) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	/* What the previous holder made is committed by now: es_partition_list() looks again. */
	AcceptInvalidationMessages();
	return true;
}

/* Makes the partition for positions from <= p < to. The caller is serialised against other makers. */
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
	};

	if (OidIsValid(get_relname_relid(table, get_namespace_oid(ES_SCHEMA, false))))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition \"event_store.%s\" of the event log is not attached", table),
				 errhint("Attach it again: only older partitions can be detached while the log goes on.")));
	es_sql_begin(&sql, es_store()->owner);
	es_script_run("log/partition", values, lengthof(values));
	es_guard_table(table);
	es_script_run("log/attach", values, lengthof(values));
	es_sql_end(&sql);
	CommandCounterIncrement();
	ES_FAULT(partition);
}

/* Whether a position lies past 80 % of the newest partition. */
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
 * Makes the partition after the newest: partition_size positions, or as many as one call needs, so that a
 * call never makes more than two.
 */
static void
make_next(int64 needed)
{
	int64		from = es_partition_list_end(es_partition_list());
	int64		end = ES_NODE_END(es_store()->node);
	int64		to = end - from <= es_partition_size ? end : from + es_partition_size;

	es_partition_make(from, Min(end, Max(to, needed + 1)));
}

/* How many partitions are empty so far, behind the one in use. */
static int
partitions_ahead(const EsPartitionList *list, int64 last)
{
	int			count = 0;

	while (count < list->count && list->partitions[list->count - 1 - count].from > last)
		count++;
	return count;
}

/* Whether there are fewer empty partitions ahead of the log than there should be. */
static bool
partition_wanted(void)
{
	const EsPartitionList *list;
	int64		last;

	(void) es_store_now();
	last = es_position_last();
	list = es_partition_list();
	return partitions_ahead(list, last) < PARTITIONS_AHEAD && es_partition_list_end(list) < ES_NODE_END(es_store()->node);
}

/* Makes one of them; false when nothing was to be done, or somebody else is at it. */
static bool
make_ahead(void)
{
	bool		wanted;

	if (!es_process_begin("making a partition ahead"))
		return false;
	wanted = partition_wanted() && lock_partitions(false) && partition_wanted();
	if (wanted)
		make_next(es_position_last());	/* an epoch's jump is one partition, that stays empty */
	es_process_end();
	return wanted;
}

/* Has the coordinator make partitions ahead; called once, when the library is loaded. */
void
es_partition_init(void)
{
	static EsDuty making = {.name = "make a partition of the event log ahead",.run = make_ahead,.interval = PARTITION_INTERVAL};

	es_duty_register(&making);
}

/*
 * Makes partitions until there is one for a position, with room behind it, in the open transaction, which should do
 * nothing else that takes long. Others may have done it by the time it holds the lock.
 */
void
es_partition_make_for(int64 position)
{
	const EsPartitionList *list;

	(void) lock_partitions(true);
	for (list = es_partition_list();
		 nearly_full(list, position) && es_partition_list_end(list) < ES_NODE_END(es_store()->node);
		 list = es_partition_list())
		make_next(position);
}

/* Entry of the worker. */
void
es_partition_worker(Datum arg)
{
	es_partition_make_for(es_maker_begin("making a partition of the event log"));
	es_worker_end();
}

static bool
is_made(int64 position)
{
	return position < es_partition_list_end(es_partition_list());
}

/* What is to be made where there is no partition for a position, with room behind it. */
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
 * Makes sure, before anything is locked, that the next `events` positions have a partition, and makes the
 * next one ahead when the newest is 80 % full.
 */
void
es_partition_prepare(int64 events)
{
	EsPartitionList *list = es_partition_list();
	int64		last;
	int64		end = ES_NODE_END(es_store()->node);
	EsMaker		maker;

	/*
	 * The session's own last position tells most calls that there is room without looking at the
	 * sequence. It may be out of date, but whoever allocated the positions since has looked.
	 */
	if (list->last != 0 && events < end - list->last && !nearly_full(list, list->last + events))
	{
		list->last += events;
		return;
	}

	last = es_position_last();
	if (es_partition_list_end(list) >= end || events >= end - last)
		return;					/* nothing to make; the sequence says when it is at its end */
	if (!nearly_full(list, last + events))
	{
		list->last = last + events;
		return;
	}

	maker = maker_for(last + events);
	if (is_made(last + events))
	{
		/* While there is room one maker is enough, and one that failed need not be followed at once. */
		if (!es_maker_at_work(&maker) &&
			TimestampDifferenceExceeds(last_failure, GetCurrentTimestamp(), AHEAD_RETRY_INTERVAL))
		{
			(void) es_maker_run(&maker, AHEAD_LOCK_TIMEOUT);
			if (nearly_full(es_partition_list(), last + events))
				last_failure = GetCurrentTimestamp();
		}
		return;
	}

	/*
	 * There is none: this is where to wait for it, with nothing locked by this call and no position
	 * allocated. A worker gives up after a second when somebody holds a lock on the log that it needs, a manual
	 * ANALYZE for example. Then we queue for that lock ourselves, where a timeout, a cancel or the deadlock
	 * detector reaches us, and have another one try. One that ends sooner without a partition has met an error,
	 * which es_partition_for() will meet too, and report.
	 */
	while (es_maker_await_or_run(&maker) == ES_LOCKED_OUT)
	{
		LockRelationOid(es_store()->log, ShareUpdateExclusiveLock);
		UnlockRelationOid(es_store()->log, ShareUpdateExclusiveLock);
	}
}

/* The partition of a position, NULL when there is none. */
static const EsPartition *
find(int64 position)
{
	const EsPartitionList *list = es_partition_list();

	return es_partition_among(list->partitions, list->count, position);
}

/*
 * The partition of a position that was just allocated. That there is none is rare: others used up what
 * es_partition_prepare() found, or no worker could be started. Only here, behind the heads, is the
 * makers' lock kept to the end of a transaction: the order heads, makers' lock is the same everywhere.
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
		es_range_missing(position, position);
	return *partition;
}
