/*
 * worker/control.c
 *	  SQL functions about the background processes of a database: starting, stopping and listing them.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xlog.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "worker/worker.h"

PG_FUNCTION_INFO_V1(es_start_worker);
PG_FUNCTION_INFO_V1(es_stop_worker);
PG_FUNCTION_INFO_V1(es_workers);

/* Milliseconds. */
#define START_WAIT		10000
#define STOP_POLITELY	1000	/* before SIGTERM */
#define STOP_WAIT		10000

static void
nap(long milliseconds, const char *what)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, milliseconds, es_wait_event(what));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static void
no_slot(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("could not start the event store's worker"),
			 errdetail("There is no free slot for a background worker."),
			 errhint("Increase max_worker_processes.")));
}

/* Raises an error: this database found no place in shared memory. */
static void
no_place(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("could not %s the event store's worker", what),
			 errdetail("There are workers for %d databases at once.", ES_SHARED_DATABASES)));
}

/* Has the launcher start the coordinator, and waits until it has. */
static void
start_by_launcher(EsSharedDatabase *entry)
{
	TimestampTz start = GetCurrentTimestamp();
	uint32		starts = entry->starts;
	VirtualTransactionId self;

	GET_VXID_FROM_PGPROC(self, *MyProc);
	entry->no_slot = false;
	entry->starter = self;
	pg_memory_barrier();
	entry->asked = true;
	es_shared_wake_launcher();
	while (entry->coordinator.pid == 0 && entry->starts == starts)
	{
		if (entry->no_slot)
			no_slot();
		if (TimestampDifferenceExceeds(start, GetCurrentTimestamp(), START_WAIT))
		{
			/* One that was ended is restarted sooner. */
			if (!es_shared_launcher_running())
				no_slot();
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the event store's worker has not started within %d seconds", START_WAIT / 1000),
					 errhint("The server's log may tell why.")));
		}
		nap(10, "EventStoreStart");
	}
}

/* es_start_worker() -> whether it was started; else one was running */
Datum
es_start_worker(PG_FUNCTION_ARGS)
{
	EsSharedDatabase *entry = es_shared();

	PreventCommandDuringRecovery("es_start_worker()");
	if (!es_shared_available())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("could not start the event store's worker"),
				 errdetail("The library is not preloaded, which background workers need."),
				 errhint("Set shared_preload_libraries = 'event_store' and restart the server. Or work in the foreground: es_run_projection(), es_publish_mark(), es_snapshot().")));
	if (!es_process_has_work())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("could not start the event store's worker"),
				 errdetail("The tables of this event store are filled by a subscription."),
				 errhint("On a logical subscriber nothing is to be done. To go on here, drop the subscription.")));
	if (entry == NULL)
		no_place("start");
	entry->stopped = false;
	if (entry->coordinator.pid != 0)
		PG_RETURN_BOOL(false);
	start_by_launcher(entry);
	PG_RETURN_BOOL(true);
}

/* The process in a place: 0 when it is empty. */
static int
pid_of(EsSharedDatabase *entry, EsSharedWorker *worker)
{
	int			pid;

	SpinLockAcquire(&entry->mutex);
	pid = worker->pid;
	SpinLockRelease(&entry->mutex);
	return pid;
}

/* Wakes, or with a signal ends, all processes of this database; returns how many there are. */
static int
tell_all(EsSharedDatabase *entry, int signal)
{
	int			count = 0;

	for (int i = -1; i < ES_SHARED_WORKERS; i++)
	{
		EsSharedWorker *worker = i < 0 ? &entry->coordinator : &entry->workers[i];
		int			pid = pid_of(entry, worker);

		if (pid == 0)
			continue;
		count++;
		if (signal != 0)
			(void) kill(pid, signal);
		else
			es_shared_kick(entry, worker);
	}
	return count;
}

/* es_stop_worker() -> whether any was running */
Datum
es_stop_worker(PG_FUNCTION_ARGS)
{
	EsSharedDatabase *entry = es_shared();
	TimestampTz start = GetCurrentTimestamp();
	bool		terminated = false;

	if (!es_shared_available())
		PG_RETURN_BOOL(false);
	if (entry == NULL)
		no_place("stop");
	entry->stopped = true;
	pg_memory_barrier();
	if (tell_all(entry, 0) == 0)
		PG_RETURN_BOOL(false);
	for (;;)
	{
		TimestampTz now;

		nap(10, "EventStoreStop");
		if (tell_all(entry, 0) == 0)
			PG_RETURN_BOOL(true);
		now = GetCurrentTimestamp();
		if (!terminated && TimestampDifferenceExceeds(start, now, STOP_POLITELY))
		{
			(void) tell_all(entry, SIGTERM);
			terminated = true;
		}
		if (TimestampDifferenceExceeds(start, now, STOP_WAIT))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the event store's workers have not stopped within %d seconds", STOP_WAIT / 1000),
					 errdetail("They stop when they have finished what they are doing.")));
	}
}

static void
put_process(ReturnSetInfo *rsinfo, const char *kind, int number, int pid, TimestampTz started_at)
{
	Datum		values[4];
	bool		nulls[4] = {false};

	if (pid == 0)
		return;
	values[0] = CStringGetTextDatum(kind);
	values[1] = Int32GetDatum(number);
	values[2] = Int32GetDatum(pid);
	values[3] = TimestampTzGetDatum(started_at);
	nulls[1] = number < 0;
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

/* es_workers() -> (kind, number, pid, started_at): the launcher, and what runs for this database */
Datum
es_workers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	EsSharedDatabase *entry = es_shared();
	TimestampTz started_at;
	int			pid;

	InitMaterializedSRF(fcinfo, 0);
	es_shared_launcher_info(&pid, &started_at);
	put_process(rsinfo, "launcher", -1, pid, started_at);
	for (int i = -1; entry != NULL && i < ES_SHARED_WORKERS; i++)
	{
		EsSharedWorker *worker = i < 0 ? &entry->coordinator : &entry->workers[i];

		SpinLockAcquire(&entry->mutex);
		pid = worker->pid;
		started_at = worker->started_at;
		SpinLockRelease(&entry->mutex);
		put_process(rsinfo, i < 0 ? "coordinator" : "worker", i, pid, started_at);
	}
	return (Datum) 0;
}
