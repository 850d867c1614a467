/*
 * log/maker.c
 *	  Having a background worker make what an append needs and does not find: a partition, an epoch.
 *
 * The worker makes it in a transaction of its own. If the append's transaction made it, it would be invisible to
 * others, and its lock held, as long as that transaction is open, and its user decides how long that is. Others that
 * need it meanwhile would queue behind that transaction, with heads locked that it may need.
 *
 * One worker is enough. So a session claims that it starts one (starters_lock()), and one that finds somebody making it
 * waits for that one first. A session that waits, for
 * another one's worker or for its own, does not wait by the lock manager, and that could not see a deadlock. So a
 * worker gives up when it does not get a lock in time, and nobody waits for another one's worker longer than
 * ES_MAKER_WAIT.
 *
 * Sometimes no worker can make it: there is no free worker slot, or the open transaction has made the store, or holds
 * the lock that the worker would need. Then the caller makes it itself.
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

/* How many milliseconds a session waits for a maker that it has not started. */
#define ES_MAKER_WAIT	2000

/* What is passed to a worker, in bgw_extra. */
typedef struct MakerTask
{
	Oid			database;
	int			partition_size; /* the setting as it is in the session that starts the worker */
	int			lock_timeout;
	int64		position;
} MakerTask;

/*
 * The lock that a session holds while its worker is at work. A worker that is only being started holds no lock yet; by
 * this one others know of it, and do not start one each. Nobody waits for it.
 */
static LOCKTAG
starters_lock(const EsMaker *maker)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, maker->table, 0, ES_LOCK_MAKER);
	return tag;
}

static bool
is_held(const LOCKTAG *tag, LOCKMODE lockmode)
{
	int			count;

	pfree(GetLockConflicts(tag, lockmode, &count));
	return count > 0;
}

/* Whether somebody is making it now, or has started a worker for it. */
bool
es_maker_at_work(const EsMaker *maker)
{
	LOCKTAG		starter = starters_lock(maker);

	return is_held(&maker->lock, maker->lockmode) || is_held(&starter, ExclusiveLock);
}

/* Whether it is there. Invalidation messages of a maker that has committed are accepted first. */
static bool
is_made(const EsMaker *maker)
{
	AcceptInvalidationMessages();
	return maker->is_made(maker->position);
}

/*
 * Whether a worker can make it: it would not see a table that our open transaction has made, nor get a lock that we
 * hold.
 */
static bool
can_worker_make(const EsMaker *maker)
{
	Relation	table = table_open(maker->table, AccessShareLock);
	bool		own = table->rd_createSubid != InvalidSubTransactionId ||
		CheckRelationLockedByMe(table, ShareUpdateExclusiveLock, true);

	table_close(table, NoLock);
	return !own && IsUnderPostmaster;
}

/* Starts a worker, and waits until it has ended. False when it cannot be started. */
static bool
run_worker(const EsMaker *maker, int lock_timeout)
{
	BackgroundWorkerHandle *handle;
	MakerTask	task = {MyDatabaseId, es_partition_size, lock_timeout, maker->position};

	return can_worker_make(maker) &&
		es_worker_start(maker->function, maker->title, &task, sizeof(task), &handle) &&
		WaitForBackgroundWorkerShutdown(handle) == BGWH_STOPPED;
}

/*
 * Starts a worker that makes it, and waits until the worker has ended, unless another session has just done so.
 * lock_timeout is in milliseconds. If the worker has not made it and took at least that long, it did not get a lock. If it
 * ended sooner, it has met an error.
 */
EsMade
es_maker_run(const EsMaker *maker, int lock_timeout)
{
	TimestampTz start = GetCurrentTimestamp();
	LOCKTAG		starter = starters_lock(maker);
	bool		made;
	bool		ran;

	if (LockAcquire(&starter, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return ES_BEING_MADE;
	/* Another session's worker may have made it just before. */
	made = is_made(maker);
	ran = !made && run_worker(maker, lock_timeout);
	(void) LockRelease(&starter, ExclusiveLock, false);
	if (made || (ran && is_made(maker)))
		return ES_MADE;
	return ran && TimestampDifferenceExceeds(start, GetCurrentTimestamp(), lock_timeout) ? ES_LOCKED_OUT : ES_NOT_MADE;
}

/* Waits a while for a maker that is at work already. If it is not made then, starts a worker. */
EsMade
es_maker_await_or_run(const EsMaker *maker)
{
	EsMade		result = ES_BEING_MADE;

	for (int waited = 0; waited < ES_MAKER_WAIT && result == ES_BEING_MADE; waited++)
	{
		if (es_maker_at_work(maker))
		{
			CHECK_FOR_INTERRUPTS();
			pg_usleep(1000);
		}
		else
			result = is_made(maker) ? ES_MADE : es_maker_run(maker, ES_MAKER_LOCK_TIMEOUT);
	}
	if (result == ES_BEING_MADE)
		result = is_made(maker) ? ES_MADE : es_maker_run(maker, ES_MAKER_LOCK_TIMEOUT);
	return result == ES_BEING_MADE ? ES_NOT_MADE : result;
}

/*
 * The beginning of a worker: connects, starts a transaction, and takes over the setting of the session that has
 * started it. Returns the position that was passed to it. The worker ends with es_worker_end().
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
