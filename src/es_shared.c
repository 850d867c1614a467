/*
 * es_shared.c
 *	  What sessions and workers of one database share: latches, and news to wait for.
 *
 * A few kilobytes of shared memory. With the library preloaded they are reserved at the server's start. Without, the
 * first process that needs them takes them from the slack that the server keeps for such cases; when that is used
 * up, everything works by polling, only slower. Nothing durable is in here, and nothing depends on it but how
 * soon somebody hears of something.
 *
 * An entry is found by its database. The spinlock of the table guards the allocation of entries, that of an entry its
 * pids and latches. An entry may be reused once its database is gone, so a pointer is good only while its
 * database is ours: es_shared() looks every time.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/wait_event.h"

#include "es_compat.h"
#include "es_shared.h"

typedef struct EsShared
{
	slock_t		mutex;			/* of the allocation of entries, and of the launcher's latch */
	Latch	   *launcher;		/* NULL: there is none */
	EsSharedDatabase databases[ES_SHARED_DATABASES];
} EsShared;

static EsShared *shared = NULL;
static bool unavailable = false;	/* there was no memory for it */
static EsSharedDatabase *ours = NULL;
static int	counted = -1;		/* the kind of news that this session is counted as waiting for */

static shmem_request_hook_type next_request_hook = NULL;
static shmem_startup_hook_type next_startup_hook = NULL;

/* Finds or makes the shared memory. */
static void
attach(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("event_store", sizeof(EsShared), &found);
	if (!found)
	{
		memset(shared, 0, sizeof(EsShared));
		SpinLockInit(&shared->mutex);
		for (int i = 0; i < ES_SHARED_DATABASES; i++)
		{
			EsSharedDatabase *entry = &shared->databases[i];

			SpinLockInit(&entry->mutex);
			pg_atomic_init_u32(&entry->coordinator.asleep, 0);
			for (int w = 0; w < ES_SHARED_WORKERS; w++)
				pg_atomic_init_u32(&entry->workers[w].asleep, 0);
			pg_atomic_init_u32(&entry->publish, 0);
			pg_atomic_init_u32(&entry->waiting[ES_NEWS_APPENDED], 0);
			pg_atomic_init_u32(&entry->waiting[ES_NEWS_PROGRESS], 0);
			pg_atomic_init_u64(&entry->snapshot_position, 0);
			ConditionVariableInit(&entry->appended);
			ConditionVariableInit(&entry->progress);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

static void
request_hook(void)
{
	if (next_request_hook != NULL)
		next_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(EsShared)));
}

/* Runs again after a crash, with fresh memory. */
static void
startup_hook(void)
{
	if (next_startup_hook != NULL)
		next_startup_hook();
	ours = NULL;
	attach();
}

/* Called once, when the library is loaded. */
void
es_shared_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	next_request_hook = shmem_request_hook;
	shmem_request_hook = request_hook;
	next_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_hook;
}

static void
attach_late(void)
{
	MemoryContext context = CurrentMemoryContext;

	if (shared != NULL || unavailable || !IsUnderPostmaster)
		return;
	PG_TRY();
	{
		attach();
	}
	PG_CATCH();
	{
		/* ShmemInitStruct has released its own lock and given back its entry of the index. */
		MemoryContextSwitchTo(context);
		FlushErrorState();
		HOLD_INTERRUPTS();		/* the error undid the lock's own */
		LWLockRelease(AddinShmemInitLock);
		shared = NULL;
		unavailable = true;
	}
	PG_END_TRY();
}

/* The entry of a database, made when there is none; NULL when there is no room. */
EsSharedDatabase *
es_shared_entry(Oid database)
{
	EsSharedDatabase *entry = NULL;

	attach_late();
	if (shared == NULL)
		return NULL;

	SpinLockAcquire(&shared->mutex);
	for (int i = 0; i < ES_SHARED_DATABASES && entry == NULL; i++)
		if (shared->databases[i].database == database)
			entry = &shared->databases[i];
	for (int i = 0; i < ES_SHARED_DATABASES && entry == NULL; i++)
		if (shared->databases[i].database == InvalidOid)
		{
			entry = &shared->databases[i];
			entry->database = database;
			entry->stopped = false;
		}
	SpinLockRelease(&shared->mutex);
	return entry;
}

/* This database's entry; NULL where there is none to be had. */
EsSharedDatabase *
es_shared(void)
{
	if (ours == NULL || ours->database != MyDatabaseId)
		ours = es_shared_entry(MyDatabaseId);
	return ours;
}

/* ---------------------------------------------------------------- waking */

void
es_shared_set_launcher(Latch *latch)
{
	attach_late();
	if (shared == NULL)
		return;
	SpinLockAcquire(&shared->mutex);
	shared->launcher = latch;
	SpinLockRelease(&shared->mutex);
}

bool
es_shared_launcher_running(void)
{
	attach_late();
	return shared != NULL && shared->launcher != NULL;
}

void
es_shared_wake_launcher(void)
{
	Latch	   *latch;

	attach_late();
	if (shared == NULL)
		return;
	SpinLockAcquire(&shared->mutex);
	latch = shared->launcher;
	SpinLockRelease(&shared->mutex);
	if (latch != NULL)
		SetLatch(latch);
}

/* Wakes a worker if it sleeps: one exchange and no system call while it is at work. Must not fail. */
void
es_shared_wake(EsSharedWorker *worker)
{
	if (worker->latch != NULL && pg_atomic_read_u32(&worker->asleep) != 0 &&
		pg_atomic_exchange_u32(&worker->asleep, 0) != 0)
		SetLatch(worker->latch);
}

/*
 * Tells whoever waits for it that an append or a projection was committed. From the commit callback: must not fail,
 * allocate or take a heavyweight lock.
 */
void
es_shared_announce(EsNews news)
{
	EsSharedDatabase *entry = ours;

	if (entry == NULL || entry->database != MyDatabaseId)
		return;
	/* The rows are visible by now; whoever is about to sleep must see either them or this. */
	pg_memory_barrier();
	if (news == ES_NEWS_APPENDED)
	{
		es_shared_wake(&entry->coordinator);
		if (pg_atomic_read_u32(&entry->waiting[ES_NEWS_APPENDED]) != 0)
			ConditionVariableBroadcast(&entry->appended);
	}
	else
		ConditionVariableBroadcast(&entry->progress);
}

/* Has the coordinator publish the mark soon, if there is one. */
void
es_shared_want_publish(void)
{
	EsSharedDatabase *entry = es_shared();

	if (entry == NULL)
		return;
	pg_atomic_write_u32(&entry->publish, 1);
	pg_memory_barrier();
	es_shared_wake(&entry->coordinator);
}

/* Has the workers look for something to do. */
void
es_shared_wake_workers(void)
{
	EsSharedDatabase *entry = es_shared();

	if (entry == NULL)
		return;
	es_shared_wake(&entry->coordinator);
	for (int i = 0; i < ES_SHARED_WORKERS; i++)
		es_shared_wake(&entry->workers[i]);
}

/* ---------------------------------------------------------------- waiting */

/* Whether some session waits for a projection. */
bool
es_shared_watched(void)
{
	EsSharedDatabase *entry = es_shared();

	return entry == NULL || pg_atomic_read_u32(&entry->waiting[ES_NEWS_PROGRESS]) != 0;
}

/*
 * To wait for news: begin; then, as often as needed, look whether what is waited for has come, and if not wait; then
 * end. After an error the transaction's abort does what end would have done.
 */
void
es_shared_wait_begin(EsNews news)
{
	EsSharedDatabase *entry = es_shared();

	if (entry == NULL)
		return;
	es_shared_end_of_transaction();
	pg_atomic_fetch_add_u32(&entry->waiting[news], 1);
	counted = news;
	ConditionVariablePrepareToSleep(news == ES_NEWS_APPENDED ? &entry->appended : &entry->progress);
}

/* Sleeps until there are such news or the time (milliseconds) is up; false when it is up. */
bool
es_shared_wait(EsNews news, long timeout, const char *what)
{
	EsSharedDatabase *entry = es_shared();

	if (entry == NULL)
	{
		CHECK_FOR_INTERRUPTS();
		pg_usleep(Min(timeout, 5) * 1000L);
		return timeout > 5;
	}
	return !ConditionVariableTimedSleep(news == ES_NEWS_APPENDED ? &entry->appended : &entry->progress,
										timeout, es_wait_event(what));
}

void
es_shared_wait_end(EsNews news)
{
	if (ours != NULL)
		ConditionVariableCancelSleep();
	es_shared_end_of_transaction();
}

/* Must not fail. */
void
es_shared_end_of_transaction(void)
{
	if (counted >= 0 && ours != NULL)
		pg_atomic_fetch_sub_u32(&ours->waiting[counted], 1);
	counted = -1;
}
