/*
 * log/maker.c
 *	  Having a background worker make what an append lacks: a partition, an epoch.
 *
 * It is made in a transaction of its own. Made in the append's transaction it would be invisible to others, and its
 * lock held, for as long as that transaction is open, which is for its user to say: others that need it meanwhile would
 * queue behind it, with head rows locked that it may want.
 *
 * One worker is enough: who finds that somebody is making it waits for that one first. Who waits, for a maker or for a
 * worker of its own, does so outside of the lock manager, which could not see a deadlock. So a worker gives up when it
 * does not get a lock in time, and nobody waits for a maker longer than ES_MAKER_WAIT.
 *
 * What no worker can make, the caller makes itself: there is no free worker slot, or the open transaction made the
 * store, or holds the lock that the worker would need.
 */
#include "postgres.h"

#include "access/table.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/lmgr.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"
#include "log/maker.h"

/* How many milliseconds somebody waits for a maker that is at work. */
#define ES_MAKER_WAIT	2000

/* What a worker is told, in bgw_extra. */
typedef struct MakerTask
{
	Oid			database;
	int			partition_size; /* the setting, as the session has it that wants the worker */
	int			lock_timeout;
	int64		position;
} MakerTask;

/* Whether somebody is making it just now. */
bool
es_maker_at_work(const EsMaker *maker)
{
	int			count;

	pfree(GetLockConflicts(&maker->lock, maker->lockmode, &count));
	return count > 0;
}

/* Whether it is there. Whoever made it has committed, and told about it then. */
static bool
is_made(const EsMaker *maker)
{
	AcceptInvalidationMessages();
	return maker->is_made(maker->position);
}

/* A worker would not see a table that the open transaction has made, nor get a lock that it holds itself. */
static bool
can_worker_make(const EsMaker *maker)
{
	Relation	table = table_open(maker->table, AccessShareLock);
	bool		own = table->rd_createSubid != InvalidSubTransactionId ||
		CheckRelationLockedByMe(table, ShareUpdateExclusiveLock, true);

	table_close(table, NoLock);
	return !own && IsUnderPostmaster;
}

/*
 * Has a worker make it, and waits for the worker's end. The lock timeout is in milliseconds. A worker that took as long
 * as that without making it did not get a lock; one that ended sooner has met an error.
 */
EsMade
es_maker_run(const EsMaker *maker, int lock_timeout)
{
	TimestampTz start = GetCurrentTimestamp();
	BackgroundWorkerHandle *handle;
	MakerTask	task = {MyDatabaseId, es_partition_size, lock_timeout, maker->position};

	if (!can_worker_make(maker) ||
		!es_worker_start(maker->function, maker->title, &task, sizeof(task), &handle) ||
		WaitForBackgroundWorkerShutdown(handle) != BGWH_STOPPED)
		return ES_NOT_MADE;
	if (is_made(maker))
		return ES_MADE;
	return TimestampDifferenceExceeds(start, GetCurrentTimestamp(), lock_timeout) ? ES_LOCKED_OUT : ES_NOT_MADE;
}

/*
 * Waits a while for a maker that is at work, rather than starting one more. If it is not there then, has a worker make
 * it.
 */
EsMade
es_maker_await_or_run(const EsMaker *maker)
{
	for (int naps = 0; naps < ES_MAKER_WAIT && es_maker_at_work(maker); naps++)
	{
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000);
	}
	return is_made(maker) ? ES_MADE : es_maker_run(maker, ES_MAKER_LOCK_TIMEOUT);
}

/*
 * The beginning of a worker: connects, starts a transaction, and takes over the setting that was passed on. Returns the
 * position that the worker was told. The worker ends with es_worker_end().
 */
int64
es_maker_begin(const char *activity)
{
	MakerTask	task;

	memcpy(&task, MyBgworkerEntry->bgw_extra, sizeof(task));
	es_worker_begin(task.database, activity, task.lock_timeout);
	es_partition_size = task.partition_size;
	return task.position;
}
