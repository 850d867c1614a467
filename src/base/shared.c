/*
 * base/shared.c
 *	  What sessions and workers of one database share: latches, and news to wait for.
 *
 * Less than half a megabyte of shared memory, reserved when the server starts with the library preloaded. Without that there are
 * none: then no background process runs, and sessions that wait for something look every few milliseconds whether it has
 * come. The same holds for a database that found no free entry. Nothing durable is in here.
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

#include "base/base.h"

typedef struct EsShared
{
	slock_t		mutex;			/* of the allocation of entries, and of the launcher's fields */
	Latch	   *launcher;		/* NULL: there is none */
	int			launcher_pid;
	pg_atomic_uint32 early_release; /* locks have been released early since the server's start */
	TimestampTz launcher_started_at;
	EsSharedDatabase databases[ES_SHARED_DATABASES];
	pg_atomic_uint64 hints[ES_SHARED_HINTS];	/* of all databases: es_shared_hint() */
} EsShared;

static EsShared *shared = NULL;
static EsSharedDatabase *ours = NULL;
static int	counted = -1;		/* the kind of news that this session is counted as waiting for */

static const EsSharedArea *areas[2];
static int	area_count = 0;
static shmem_request_hook_type next_request_hook = NULL;
static shmem_startup_hook_type next_startup_hook = NULL;

/* Makes an entry, of zeroes so far, usable. */
static void
init_entry(EsSharedDatabase *entry)
{
	SpinLockInit(&entry->mutex);
	pg_atomic_init_u32(&entry->coordinator.asleep, 0);
	for (int w = 0; w < ES_SHARED_WORKERS; w++)
		pg_atomic_init_u32(&entry->workers[w].asleep, 0);
	pg_atomic_init_u32(&entry->waiting[ES_NEWS_APPENDED], 0);
	pg_atomic_init_u32(&entry->waiting[ES_NEWS_PROGRESS], 0);
	for (int w = 0; w < ES_SHARED_WORDS; w++)
		pg_atomic_init_u64(&entry->words[w], 0);
	pg_atomic_init_u64(&entry->raised, 0);
	ConditionVariableInit(&entry->appended);
	ConditionVariableInit(&entry->progress);
}

static void
request_hook(void)
{
	if (next_request_hook != NULL)
		next_request_hook();
	for (int i = 0; i < area_count; i++)
		RequestAddinShmemSpace(MAXALIGN(areas[i]->size));
}

/* Makes the shared memory. Runs again after a crash, with fresh memory. */
static void
startup_hook(void)
{
	if (next_startup_hook != NULL)
		next_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (int i = 0; i < area_count; i++)
	{
		bool		found;
		void	   *memory = ShmemInitStruct(areas[i]->name, areas[i]->size, &found);

		if (!found)
			memset(memory, 0, areas[i]->size);
		areas[i]->attach(memory, !found);
	}
	LWLockRelease(AddinShmemInitLock);
}

/* Asks for an area of shared memory, where the library is being preloaded; else there will be none. */
void
es_shared_ask_for(const EsSharedArea *area)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	Assert(area_count < lengthof(areas));
	if (area_count == 0)
	{
		next_request_hook = shmem_request_hook;
		shmem_request_hook = request_hook;
		next_startup_hook = shmem_startup_hook;
		shmem_startup_hook = startup_hook;
	}
	areas[area_count++] = area;
}

static void
attach(void *memory, bool fresh)
{
	ours = NULL;
	shared = memory;
	if (!fresh)
		return;
	SpinLockInit(&shared->mutex);
	pg_atomic_init_u32(&shared->early_release, 0);
	for (int i = 0; i < ES_SHARED_DATABASES; i++)
		init_entry(&shared->databases[i]);
	for (int i = 0; i < ES_SHARED_HINTS; i++)
		pg_atomic_init_u64(&shared->hints[i], 0);
}

/* Called once, when the library is loaded. */
void
es_shared_init(void)
{
	static const EsSharedArea area = {"event_store", sizeof(EsShared), attach};

	es_shared_ask_for(&area);
}

/* Whether there is shared memory, and so background processes: the library was preloaded. */
bool
es_shared_available(void)
{
	return shared != NULL;
}

/* The entry of a database; NULL when there is none. Under the table's lock. */
static EsSharedDatabase *
find(Oid database)
{
	for (int i = 0; i < ES_SHARED_DATABASES; i++)
		if (shared->databases[i].database == database)
			return &shared->databases[i];
	return NULL;
}

/* The entry of a database, made when there is none; NULL when there is no room. */
EsSharedDatabase *
es_shared_entry(Oid database)
{
	EsSharedDatabase *entry;

	if (shared == NULL)
		return NULL;

	SpinLockAcquire(&shared->mutex);
	entry = find(database);
	if (entry == NULL)
	{
		entry = find(InvalidOid);
		if (entry != NULL)
		{
			entry->stopped = entry->asked = entry->no_slot = entry->no_worker_slot = entry->ready = false;
			entry->end = ES_END_UNKNOWN;
			entry->starts = 0;
			entry->dispatcher = 0;
			entry->alone = 0;
			entry->workers_wanted = 0;
			entry->raised_for = InvalidOid;
			SetInvalidVirtualTransactionId(entry->starter);
			for (int w = 0; w < ES_SHARED_WORDS; w++)
				pg_atomic_write_u64(&entry->words[w], 0);
			entry->database = database;
		}
	}
	SpinLockRelease(&shared->mutex);
	return entry;
}

/* The same, but NULL when there is none yet. */
EsSharedDatabase *
es_shared_find(Oid database)
{
	EsSharedDatabase *entry;

	if (shared == NULL)
		return NULL;
	SpinLockAcquire(&shared->mutex);
	entry = find(database);
	SpinLockRelease(&shared->mutex);
	return entry;
}

/* Whether no process of ours works for an entry, and nobody wants one to. */
static bool
is_idle(const EsSharedDatabase *entry)
{
	if (entry->coordinator.pid != 0 || entry->asked || entry->stopped)
		return false;
	for (int w = 0; w < ES_SHARED_WORKERS; w++)
		if (entry->workers[w].pid != 0)
			return false;
	return true;
}

/* Frees the entries of databases that are gone. */
void
es_shared_release_vanished(bool (*exists) (Oid database))
{
	for (int i = 0; i < ES_SHARED_DATABASES; i++)
	{
		EsSharedDatabase *entry = &shared->databases[i];
		Oid			database = entry->database;

		if (!OidIsValid(database) || exists(database))
			continue;
		SpinLockAcquire(&shared->mutex);
		if (entry->database == database && entry->coordinator.pid == 0)
			entry->database = InvalidOid;
		SpinLockRelease(&shared->mutex);
	}
}

/* Frees the entry of a database that was found to have no store, for one that may have; false: there is none. */
bool
es_shared_release_idle(void)
{
	bool		found = false;

	SpinLockAcquire(&shared->mutex);
	for (int i = 0; i < ES_SHARED_DATABASES && !found; i++)
	{
		EsSharedDatabase *entry = &shared->databases[i];

		found = OidIsValid(entry->database) && entry->end == ES_END_ABSENT && is_idle(entry) &&
			pg_atomic_read_u32(&entry->waiting[ES_NEWS_APPENDED]) == 0 &&
			pg_atomic_read_u32(&entry->waiting[ES_NEWS_PROGRESS]) == 0;
		if (found)
			entry->database = InvalidOid;
	}
	SpinLockRelease(&shared->mutex);
	return found;
}

/* This database's entry; NULL where there is none to be had. */
EsSharedDatabase *
es_shared(void)
{
	if (ours == NULL || ours->database != MyDatabaseId)
		ours = es_shared_entry(MyDatabaseId);
	return ours;
}

/* ---------------------------------------------------------------- hints */

/*
 * A place for a hint about what has this hash, which it shares with others; 0 while there is none. Anybody may read and
 * write it at any time, so what it says may be wrong. NULL without shared memory.
 */
pg_atomic_uint64 *
es_shared_hint(uint64 hash)
{
	return shared == NULL ? NULL : &shared->hints[hash & (ES_SHARED_HINTS - 1)];
}

/* ---------------------------------------------------------------- a number that rises */

/* Raises a number of an object of this database, of which there is one at a time, to at least this. */
void
es_shared_raise(Oid object, int64 number)
{
	EsSharedDatabase *entry = es_shared();

	if (entry == NULL || es_shared_raised(object) >= number)
		return;
	SpinLockAcquire(&entry->mutex);
	if (entry->raised_for != object)
	{
		pg_atomic_write_u64(&entry->raised, 0);
		pg_write_barrier();
		entry->raised_for = object;
	}
	if (number > (int64) pg_atomic_read_u64(&entry->raised))
		pg_atomic_write_u64(&entry->raised, number);
	SpinLockRelease(&entry->mutex);
}

/* To what the number of an object was raised since the server's start; 0 where nobody has, or there is no shared memory. */
int64
es_shared_raised(Oid object)
{
	EsSharedDatabase *entry = es_shared();
	int64		number;

	if (entry == NULL || entry->raised_for != object)
		return 0;
	pg_read_barrier();
	number = (int64) pg_atomic_read_u64(&entry->raised);
	return number;
}

/* ---------------------------------------------------------------- early lock release */

/*
 * Notes that locks are going to be released early. A session may not have heard yet that the setting was changed; the
 * others go by this. False: there is no shared memory to note it in, so locks must not be released early.
 */
bool
es_shared_note_early_release(void)
{
	if (shared == NULL)
		return false;
	if (pg_atomic_read_u32(&shared->early_release) == 0)
		pg_atomic_write_u32(&shared->early_release, 1);
	return true;
}

/* Whether that was noted since the server's start. */
bool
es_shared_early_release(void)
{
	return shared != NULL && pg_atomic_read_u32(&shared->early_release) != 0;
}

/* ---------------------------------------------------------------- waking */

static void
clear_launcher(int code, Datum arg)
{
	SpinLockAcquire(&shared->mutex);
	if (shared->launcher_pid == MyProcPid)
	{
		shared->launcher = NULL;
		shared->launcher_pid = 0;
	}
	SpinLockRelease(&shared->mutex);
}

/* Makes this process the launcher, until it exits. False: there is one. */
bool
es_shared_set_launcher(void)
{
	bool		set;

	if (shared == NULL)
		return false;
	SpinLockAcquire(&shared->mutex);
	set = shared->launcher_pid == 0;
	if (set)
	{
		shared->launcher = MyLatch;
		shared->launcher_pid = MyProcPid;
		shared->launcher_started_at = MyStartTimestamp;
	}
	SpinLockRelease(&shared->mutex);
	if (set)
		before_shmem_exit(clear_launcher, (Datum) 0);
	return set;
}

/* *pid is 0 when there is no launcher. */
void
es_shared_launcher_info(int *pid, TimestampTz *started_at)
{
	*pid = 0;
	*started_at = 0;
	if (shared == NULL)
		return;
	SpinLockAcquire(&shared->mutex);
	*pid = shared->launcher_pid;
	*started_at = shared->launcher_started_at;
	SpinLockRelease(&shared->mutex);
}

bool
es_shared_launcher_running(void)
{
	return shared != NULL && shared->launcher != NULL;
}

void
es_shared_wake_launcher(void)
{
	Latch	   *latch;

	if (shared == NULL)
		return;
	SpinLockAcquire(&shared->mutex);
	latch = shared->launcher;
	SpinLockRelease(&shared->mutex);
	if (latch != NULL)
		SetLatch(latch);
}

/* Enters this process in a place of the entry; false when somebody else has it. */
bool
es_shared_attach(EsSharedDatabase *entry, EsSharedWorker *worker)
{
	bool		free;

	SpinLockAcquire(&entry->mutex);
	free = worker->pid == 0;
	if (free)
	{
		worker->pid = MyProcPid;
		worker->latch = MyLatch;
		worker->started_at = MyStartTimestamp;
		worker->busy_since = 0;
		worker->slow = false;
		pg_atomic_write_u32(&worker->asleep, 0);
	}
	SpinLockRelease(&entry->mutex);
	return free;
}

/* Clears the place if it is still ours. Must not fail. */
void
es_shared_detach(EsSharedDatabase *entry, EsSharedWorker *worker)
{
	SpinLockAcquire(&entry->mutex);
	if (worker->pid == MyProcPid)
	{
		worker->pid = 0;
		worker->latch = NULL;
		pg_atomic_write_u32(&worker->asleep, 0);
	}
	SpinLockRelease(&entry->mutex);
}

/* Wakes a worker even if it did not say that it wants to be woken. */
void
es_shared_kick(EsSharedDatabase *entry, EsSharedWorker *worker)
{
	Latch	   *latch;

	SpinLockAcquire(&entry->mutex);
	latch = worker->latch;
	SpinLockRelease(&entry->mutex);
	if (latch != NULL)
		SetLatch(latch);
}

/* Whether somebody publishes the mark in this database. */
bool
es_shared_coordinator_running(void)
{
	EsSharedDatabase *entry = es_shared();

	return entry != NULL && entry->coordinator.pid != 0;
}

/* Has the launcher look at this database. From the commit callback: must not fail. */
static void
ask_launcher(EsSharedDatabase *entry)
{
	entry->asked = true;
	pg_memory_barrier();
	es_shared_wake_launcher();
}

/* A store was made, or what it needs was put back, and is committed. From the commit callback: must not fail. */
void
es_shared_store_made(void)
{
	EsSharedDatabase *entry = ours;

	if (entry != NULL && entry->database == MyDatabaseId)
		ask_launcher(entry);
}

/* Wakes a worker if it sleeps: one exchange and no system call while it is at work. True: it slept. Must not fail. */
bool
es_shared_wake(EsSharedWorker *worker)
{
	Latch	   *latch;

	if (pg_atomic_read_u32(&worker->asleep) == 0 || pg_atomic_exchange_u32(&worker->asleep, 0) == 0)
		return false;
	latch = *(Latch *volatile *) &worker->latch;
	if (latch != NULL)
		SetLatch(latch);
	return true;
}

/*
 * Wakes one worker of the pool that sleeps, if there is one, but not `except`. It looks for work, and wakes others as it needs
 * them. Must not fail.
 */
void
es_shared_wake_one(EsSharedDatabase *entry, const EsSharedWorker *except)
{
	for (int i = 0; i < Min(entry->workers_wanted, ES_SHARED_WORKERS); i++)
		if (&entry->workers[i] != except && es_shared_wake(&entry->workers[i]))
			break;
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
		if (entry->coordinator.pid != 0)
			(void) es_shared_wake(&entry->coordinator);
		else if (shared->launcher_pid != 0 && !entry->asked && entry->end == ES_END_ABSENT)
			ask_launcher(entry);	/* the store was restored from a dump, say */
		es_shared_wake_one(entry, NULL);
		if (pg_atomic_read_u32(&entry->waiting[ES_NEWS_APPENDED]) != 0)
			ConditionVariableBroadcast(&entry->appended);
	}
	else
		ConditionVariableBroadcast(&entry->progress);
}

/* Wakes the coordinator, if there is one and it sleeps. */
void
es_shared_wake_coordinator(void)
{
	EsSharedDatabase *entry = es_shared();

	if (entry == NULL)
		return;
	pg_memory_barrier();		/* what the caller has written for it is seen */
	(void) es_shared_wake(&entry->coordinator);
}

/* Has the workers look for something to do. */
void
es_shared_wake_workers(void)
{
	EsSharedDatabase *entry = es_shared();

	if (entry == NULL)
		return;
	(void) es_shared_wake(&entry->coordinator);
	for (int i = 0; i < ES_SHARED_WORKERS; i++)
		(void) es_shared_wake(&entry->workers[i]);
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
