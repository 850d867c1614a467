/*
 * worker/coordinator.c
 *	  The process that works for one database's store.
 *
 * There is one in each database that has a store. The launcher starts it. It does the duties that other wings have
 * registered (worker/duty.c), each in transactions of its own. An error in one of them, for instance a lock that is not to
 * be had, is logged once and the duty tried again later, so that no duty holds up the others.
 *
 * What wakes it: news (es_shared_announce()), whoever has set the word of a duty (es_shared_wake_coordinator()), the end of
 * a process that it has started, a notification that a duty listens to, and the time. A duty that looks for news says so
 * *before* it looks (es_coordinator_arm()): news that come while it is looking set the latch, so nothing is missed between
 * the look and the sleep.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/coordinator.h"
#include "worker/worker.h"

PGDLLEXPORT void es_coordinator_main(Datum arg);

#define LOCK_TIMEOUT		"20"	/* milliseconds, of a duty */

static EsSharedDatabase *entry;
static bool armed = false;		/* whoever has news wakes us */

/* Registers a coordinator; its end sets the caller's latch. False: there is no free slot. */
bool
es_coordinator_start(const EsProcessTask *task, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	es_worker_fill(&worker, "es_coordinator_main", "event_store coordinator", task, sizeof(EsProcessTask),
				   BGW_NEVER_RESTART);
	snprintf(worker.bgw_name, BGW_MAXLEN, "event_store coordinator of database %u", task->database);
	worker.bgw_notify_pid = MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/* Waits for the end of the transaction that started us: it may be making what we are to work for. */
static void
await_starter(const VirtualTransactionId *starter)
{
	if (!VirtualTransactionIdIsValid(*starter))
		return;
	pgstat_report_activity(STATE_IDLE, "waiting for the transaction that started it");
	while (!VirtualXactLock(*starter, false))
	{
		ResetLatch(MyLatch);
		es_process_check();
		es_process_sleep(20, "EventStoreStarter");
	}
}

static void
begin_coordinator(void)
{
	EsProcessTask task;

	es_process_init(&task, ES_COORDINATOR, 0);
	entry = es_process_entry();
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
	await_starter(&task.starter);
	(void) es_process_lock(0);	/* only to be seen: shared memory has let us in, and nobody else */
	while (!es_process_begin("starting"))
	{
		ResetLatch(MyLatch);
		es_process_check();
		es_process_sleep(100, "EventStoreCoordinator");
	}
	es_process_end();
	ereport(LOG, (errmsg("event_store coordinator of database %u started", MyDatabaseId)));
	es_duties_begin();
	entry->ready = true;
	es_shared_wake_launcher();
}

/* Asks to be woken by news that come from here on. */
void
es_coordinator_arm(void)
{
	pg_atomic_write_u32(&entry->coordinator.asleep, 1);
	pg_memory_barrier();
	armed = true;
}

/* Whether somebody had news since we asked to be woken. */
static bool
woken(void)
{
	if (!armed || pg_atomic_read_u32(&entry->coordinator.asleep) != 0)
		return false;
	armed = false;
	return true;
}

/* Entry of the coordinator. */
void
es_coordinator_main(Datum arg)
{
	begin_coordinator();
	for (;;)
	{
		TimestampTz now;
		TimestampTz next;

		ResetLatch(MyLatch);
		es_process_check();
		if (woken())
			es_duties_hear();
		next = es_duties_run();
		now = GetCurrentTimestamp();
		es_process_sleep(next <= now ? 0 : TimestampDifferenceMilliseconds(now, next), "EventStoreCoordinator");
	}
}
