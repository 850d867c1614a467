/*
 * log/partition.c
 *	  The partitions ("leaves") of the log, by range of position.
 *
 * A leaf is made complete (table, indexes, immutability triggers) and then attached: CREATE TABLE
 * ... PARTITION OF would take AccessExclusiveLock on the parent, and two appenders would deadlock.
 *
 * It is made in a transaction of its own, by a background worker that the append which needs it
 * starts and waits for. Made in the append's transaction it would be invisible, and its lock held, for
 * as long as that transaction is open: others that use up the newest leaf meanwhile would queue behind
 * it, with head rows locked that it may want. That is only done where a worker cannot do it: no
 * worker slot is free, or the store itself was made by the open transaction.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"
#include "log/log.h"

/*
 * Milliseconds that a worker waits for a lock: when there is no room left, and ahead of that, where an
 * append should not be held up and the next attempt comes after a while.
 */
#define WORKER_LOCK_TIMEOUT		1000
#define AHEAD_LOCK_TIMEOUT		20
#define AHEAD_RETRY_INTERVAL	5000

#define PARTITIONS_AHEAD	2		/* empty leaves that the coordinator keeps */
#define PARTITION_INTERVAL	200		/* milliseconds, of its looking whether there are */

/* What a worker is told, in bgw_extra. */
typedef struct WorkerTask
{
	Oid			database;
	int			partition_size;
	int			lock_timeout;
	int64		position;
} WorkerTask;

PGDLLEXPORT void es_partition_worker(Datum arg);

static EsPartition *cached = NULL;
static int	cached_count = 0;
static uint64 cached_generation = 0;	/* of the store; 0: to be read again */
static uint64 cached_serial = 0;	/* of the list */
static TimestampTz last_failure = 0;	/* of a worker of this session */
static int64 cached_last = 0;	/* a position that is drawn, or will be by this call */

static int
compare_partitions(const void *a, const void *b)
{
	const EsPartition *left = a;
	const EsPartition *right = b;

	return (left->from > right->from) - (left->from < right->from);
}

static int64
bound(List *datums)
{
	PartitionRangeDatum *datum = linitial_node(PartitionRangeDatum, datums);

	if (datum->kind != PARTITION_RANGE_DATUM_VALUE)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a partition of the event log is bounded by MINVALUE or MAXVALUE")));
	return DatumGetInt64(castNode(Const, datum->value)->constvalue);
}

/* Reads a leaf's bounds from the catalog; false when it is just going away. */
static bool
read_partition(Relation pg_class, Oid relid, EsPartition *partition)
{
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&key, Anum_pg_class_oid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(pg_class, ClassOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		stored = heap_getattr(tuple, Anum_pg_class_relpartbound, RelationGetDescr(pg_class), &isnull);

		if (!isnull)
		{
			PartitionBoundSpec *spec = castNode(PartitionBoundSpec, stringToNode(TextDatumGetCString(stored)));

			if (spec->strategy != PARTITION_STRATEGY_RANGE || spec->is_default)
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("the event log has a default partition"),
						 errhint("Detach it: the log must consist of ranges of positions.")));
			partition->relid = relid;
			partition->from = bound(spec->lowerdatums);
			partition->to = bound(spec->upperdatums);
			found = true;
		}
	}
	systable_endscan(scan);
	return found;
}

/*
 * Reads the leaves in order of position; a change of the parent makes a new store generation.
 *
 * Not from the parent's cached partition descriptor: in a session that has just connected, core may
 * store one that was overtaken by a concurrent ATTACH while it was being built, and keep it. Here the
 * generation is noted before the catalogs are read, so whatever comes in between leads to another read.
 */
static void
refresh(void)
{
	const EsStore *store = es_store();
	uint64		generation = store->generation;
	Relation	log;
	Relation	pg_class;
	List	   *children;
	ListCell   *lc;
	EsPartition	   *partitions;
	int			count = 0;

	if (cached_generation == generation && cached != NULL)
		return;

	log = table_open(store->log, AccessShareLock);
	generation = es_store()->generation;	/* the lock may have brought news */
	children = find_inheritance_children(RelationGetRelid(log), NoLock);
	partitions = palloc(sizeof(EsPartition) * Max(list_length(children), 1));
	pg_class = table_open(RelationRelationId, AccessShareLock);
	foreach(lc, children)
		count += read_partition(pg_class, lfirst_oid(lc), &partitions[count]);
	table_close(pg_class, AccessShareLock);
	table_close(log, NoLock);
	list_free(children);
	qsort(partitions, count, sizeof(EsPartition), compare_partitions);

	if (cached != NULL)
		pfree(cached);
	cached = NULL;
	cached_count = 0;
	cached = MemoryContextAlloc(TopMemoryContext, sizeof(EsPartition) * Max(count, 1));
	memcpy(cached, partitions, sizeof(EsPartition) * count);
	pfree(partitions);
	cached_count = count;
	cached_generation = generation;
	cached_serial++;
	cached_last = 0;
}

/* A copy of the list of leaves, ordered by position, in the caller's context; and its serial number, where it is asked for. */
int
es_partitions_copy(EsPartition **partitions, uint64 *serial)
{
	refresh();
	if (serial != NULL)
		*serial = cached_serial;
	*partitions = palloc(sizeof(EsPartition) * Max(cached_count, 1));
	memcpy(*partitions, cached, sizeof(EsPartition) * cached_count);
	return cached_count;
}

/* The leaf of a position in a list by position: the last one that begins at or before it, if that reaches it; else NULL. */
const EsPartition *
es_partition_among(const EsPartition *partitions, int count, int64 position)
{
	int			low = 0;
	int			high = count;

	while (low < high)
	{
		int			mid = (low + high) / 2;

		if (partitions[mid].from <= position)
			low = mid + 1;
		else
			high = mid;
	}
	return low > 0 && position < partitions[low - 1].to ? &partitions[low - 1] : NULL;
}

static const EsPartition *
find_partition(int64 position)
{
	return es_partition_among(cached, cached_count, position);
}

/* What is in none of the leaves, from the beginning of the log up to a position; in the current memory context. */
int
es_partition_gaps(const EsPartition *partitions, int count, int64 last, EsPartitionGap **gaps)
{
	int64		next = ES_NODE_START(es_store()->node);
	int			found = 0;

	*gaps = palloc(sizeof(EsPartitionGap) * (count + 1));
	for (int i = 0; i < count; i++)
	{
		if (partitions[i].from > next)
			(*gaps)[found++] = (EsPartitionGap) {next, partitions[i].from - 1};
		next = Max(next, partitions[i].to);
	}
	if (last >= next)
		(*gaps)[found++] = (EsPartitionGap) {next, last};
	return found;
}

/* Whether a part of the positions from..to is in a gap. */
bool
es_in_partition_gap(const EsPartitionGap *gaps, int count, int64 from, int64 to)
{
	for (int i = 0; i < count; i++)
		if (gaps[i].from <= to && gaps[i].to >= from)
			return true;
	return false;
}

/* Where the next leaf begins. */
static int64
newest_end(void)
{
	return cached_count > 0 ? cached[cached_count - 1].to : ES_NODE_START(es_store()->node);
}

/*
 * Raises an error when there is a table for the positions after the newest leaf that is no leaf: then that one was detached,
 * and a read that wants them must not just end before. False: the leaves are others than those that es_partitions_copy()
 * gave with this serial number, because one has been attached since; choose again.
 */
bool
es_check_newest_attached(int64 upto, uint64 serial)
{
	int64		from;
	Oid			relid;
	EsPartition		partition;
	Relation	pg_class;
	bool		attached;

	refresh();
	if (cached_serial != serial)
		return false;
	from = newest_end();
	if (upto < from)
		return true;
	relid = get_relname_relid(psprintf("log_%lld", (long long) from), get_namespace_oid(ES_SCHEMA, false));
	if (!OidIsValid(relid))
		return true;

	/* Who makes a leaf commits first and tells about it then: the catalog may know what no invalidation has said. */
	pg_class = table_open(RelationRelationId, AccessShareLock);
	attached = read_partition(pg_class, relid, &partition);
	table_close(pg_class, AccessShareLock);
	if (attached)
	{
		cached_generation = 0;
		return false;
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("events at positions %lld to %lld are not attached", (long long) from, (long long) upto),
			 errdetail("They are in \"event_store.log_%lld\", which is no partition of event_store.log.", (long long) from),
			 errhint("Attach it again: only older partitions can be detached while the log goes on.")));
}

static bool
lock_partitions(bool wait)
{
	LOCKTAG		tag;
	LockAcquireResult result;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, es_store()->log, 0, ES_LOCK_PARTITION);
	result = LockAcquire(&tag, ExclusiveLock, false, !wait);
	if (result == LOCKACQUIRE_NOT_AVAIL)
		return false;
	/* What the previous holder made is committed by now: look again. */
	AcceptInvalidationMessages();
	refresh();
	return true;
}

/* Whether somebody is making a leaf just now. */
static bool
partitions_locked(void)
{
	LOCKTAG		tag;
	int			count;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, es_store()->log, 0, ES_LOCK_PARTITION);
	pfree(GetLockConflicts(&tag, ExclusiveLock, &count));
	return count > 0;
}

/* Makes the leaf for positions from <= p < to. The caller is serialised against other makers. */
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
	refresh();
}

/* Whether a position lies past 80 % of the newest leaf. */
static bool
nearly_full(int64 position)
{
	const EsPartition *newest;

	if (cached_count == 0)
		return true;
	newest = &cached[cached_count - 1];
	return position >= newest->from + (newest->to - newest->from) / 5 * 4;
}

/*
 * Makes the leaf after the newest: partition_size positions, or as many as one call needs, so that a
 * call never makes more than two.
 */
static void
make_next(int64 needed)
{
	int64		from = newest_end();
	int64		end = ES_NODE_END(es_store()->node);
	int64		to = end - from <= es_partition_size ? end : from + es_partition_size;

	es_partition_make(from, Min(end, Max(to, needed + 1)));
}

/* How many leaves are empty so far, behind the one in use. */
static int
partitions_ahead(int64 last)
{
	int			count = 0;

	while (count < cached_count && cached[cached_count - 1 - count].from > last)
		count++;
	return count;
}

/* Whether there are fewer empty leaves ahead of the log than there should be. */
static bool
partition_wanted(void)
{
	(void) es_store_now();
	refresh();
	return partitions_ahead(es_position_last()) < PARTITIONS_AHEAD && newest_end() < ES_NODE_END(es_store()->node);
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
		make_next(es_position_last());	/* an epoch's jump is one leaf, that stays empty */
	es_process_end();
	return wanted;
}

/* Has the coordinator make leaves ahead; called once, when the library is loaded. */
void
es_partition_init(void)
{
	static EsDuty making = {.name = "make a partition of the event log ahead",.run = make_ahead,.interval = PARTITION_INTERVAL};

	es_duty_register(&making);
}

/* Makes leaves until there is one for a position, with room behind it. The maker's lock is held. */
static void
make_until(int64 position)
{
	while (nearly_full(position) && newest_end() < ES_NODE_END(es_store()->node))
		make_next(position);
}

/* The same in the open transaction, which should do nothing else that takes long. */
void
es_partition_make_for(int64 position)
{
	(void) lock_partitions(true);
	make_until(position);
}

/*
 * Entry of the worker: makes leaves until there is one for a position, with room behind it. Others may
 * have done it by the time it holds the lock.
 */
void
es_partition_worker(Datum arg)
{
	WorkerTask	task;

	memcpy(&task, MyBgworkerEntry->bgw_extra, sizeof(task));
	es_worker_begin(task.database, "making a partition of the event log", task.lock_timeout);
	es_partition_size = task.partition_size;
	(void) lock_partitions(true);
	make_until(task.position);
	es_worker_end();
}

/* Has a worker do it; false when it could not be started or did not come to its end. */
static bool
make_by_worker(int64 position, int lock_timeout)
{
	Relation	log = table_open(es_store()->log, AccessShareLock);
	/* It would not see the log that the open transaction made, nor get a lock that we hold ourselves. */
	bool		own = log->rd_createSubid != InvalidSubTransactionId ||
		CheckRelationLockedByMe(log, ShareUpdateExclusiveLock, true);
	BackgroundWorkerHandle *handle;
	WorkerTask	task;

	table_close(log, NoLock);
	if (own || !IsUnderPostmaster)
		return false;

	task.database = MyDatabaseId;
	task.position = position;
	task.partition_size = es_partition_size;
	task.lock_timeout = lock_timeout;
	if (!es_worker_start("es_partition_worker", "event_store partition maker", &task, sizeof(task), &handle))
		return false;
	if (WaitForBackgroundWorkerShutdown(handle) != BGWH_STOPPED)
		return false;
	AcceptInvalidationMessages();
	refresh();
	return true;
}

/*
 * Waits a while for a maker that is at work, rather than starting one more; true when there is a leaf
 * for the position afterwards.
 */
static bool
await_maker(int64 position)
{
	for (int naps = 0; naps < 2000 && partitions_locked(); naps++)
	{
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000);
	}
	AcceptInvalidationMessages();
	refresh();
	return position < newest_end();
}

/*
 * Makes sure, before anything is locked, that the next `events` positions have a leaf, and makes the
 * next leaf ahead when the newest is 80 % full.
 */
void
es_partition_prepare(int64 events)
{
	int64		last;
	int64		end = ES_NODE_END(es_store()->node);

	refresh();

	/*
	 * The session's own last position tells most calls that there is room without looking at the
	 * sequence. It may be out of date, but whoever drew the positions since has looked.
	 */
	if (cached_last != 0 && events < end - cached_last && !nearly_full(cached_last + events))
	{
		cached_last += events;
		return;
	}

	last = es_position_last();
	if (newest_end() >= end || events >= end - last)
		return;					/* nothing to make; the sequence says when it is at its end */
	if (!nearly_full(last + events))
	{
		cached_last = last + events;
		return;
	}

	if (last + events < newest_end())
	{
		/* While there is room one maker is enough, and one that failed need not be followed at once. */
		if (!partitions_locked() &&
			TimestampDifferenceExceeds(last_failure, GetCurrentTimestamp(), AHEAD_RETRY_INTERVAL))
		{
			(void) make_by_worker(last + events, AHEAD_LOCK_TIMEOUT);
			if (nearly_full(last + events))
				last_failure = GetCurrentTimestamp();
		}
		return;
	}

	/*
	 * There is none: this is where to wait for it, with nothing locked by this call and no position
	 * drawn. A worker gives up after a second when somebody holds a lock on the log that it needs, a manual
	 * ANALYZE for example. Then we queue for that lock ourselves, where a timeout, a cancel or the deadlock
	 * detector reaches us, and have another one try. One that ends sooner without a leaf has met an error,
	 * which es_partition_for() will meet too, and report.
	 */
	while (!await_maker(last + events))
	{
		TimestampTz start = GetCurrentTimestamp();

		if (!make_by_worker(last + events, WORKER_LOCK_TIMEOUT) || last + events < newest_end() ||
			!TimestampDifferenceExceeds(start, GetCurrentTimestamp(), WORKER_LOCK_TIMEOUT))
			break;
		LockRelationOid(es_store()->log, ShareUpdateExclusiveLock);
		UnlockRelationOid(es_store()->log, ShareUpdateExclusiveLock);
	}
}

/*
 * The leaf of a position that was just drawn. That there is none is rare: others used up what
 * es_partition_prepare() found, or no worker could be started. Only here, behind the heads, is the
 * makers' lock kept to the end of a transaction: the order heads, makers' lock is the same everywhere.
 */
EsPartition
es_partition_for(int64 position)
{
	const EsPartition *partition;

	refresh();
	cached_last = Max(cached_last, position);
	partition = find_partition(position);
	if (unlikely(partition == NULL) && (await_maker(position) || make_by_worker(position, WORKER_LOCK_TIMEOUT)))
		partition = find_partition(position);
	if (unlikely(partition == NULL))
	{
		(void) lock_partitions(true);
		make_until(position);
		partition = find_partition(position);
	}
	if (partition == NULL)
		es_range_missing(position, position);
	return *partition;
}

/* The valid index of a leaf over just these columns, InvalidOid when there is none; a unique one, or any. */
static Oid
find_partition_index(Relation partition, bool unique, int natts, const AttrNumber *columns)
{
	List	   *indexes = RelationGetIndexList(partition);
	ListCell   *lc;
	Oid			found = InvalidOid;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (index->rd_index->indisvalid && (index->rd_index->indisunique || !unique) &&
			index->rd_rel->relam == BTREE_AM_OID && index->rd_index->indnkeyatts == natts &&
			memcmp(index->rd_index->indkey.values, columns, natts * sizeof(AttrNumber)) == 0 &&
			RelationGetIndexPredicate(index) == NIL)
			found = RelationGetRelid(index);
		index_close(index, NoLock);
		if (OidIsValid(found))
			break;
	}
	list_free(indexes);
	return found;
}

/* The index of a leaf that finds an event by its position, or by its stream and version. */
Oid
es_partition_index(Relation partition, bool by_stream)
{
	static const AttrNumber position[] = {Anum_log_position};
	static const AttrNumber version[] = {Anum_log_stream, Anum_log_version};
	Oid			found = by_stream ? find_partition_index(partition, true, 2, version) : find_partition_index(partition, true, 1, position);

	if (!OidIsValid(found))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition \"%s\" of the event log lacks a unique index", RelationGetRelationName(partition)),
				 errdetail("It would be on %s.", by_stream ? "stream and version" : "position")));
	return found;
}

/* The one by category and position, which a DBA may have dropped: then InvalidOid. */
Oid
es_partition_category_index(Relation partition)
{
	static const AttrNumber columns[] = {Anum_log_category, Anum_log_position};

	return find_partition_index(partition, false, 2, columns);
}

/* A read needs positions from..to, but no attached leaf covers them. */
void
es_range_missing(int64 from, int64 to)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("events at positions %lld to %lld are not attached", (long long) from, (long long) to),
			 errdetail("No partition of event_store.log covers this range."),
			 errhint("Attach the partition that was detached, or read from position %lld on.", (long long) to)));
}
