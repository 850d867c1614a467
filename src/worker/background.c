/*
 * worker/background.c
 *	  Background workers: starting one; the beginning and end of those that do one thing in one transaction.
 *
 * The coordinator, and what it starts, begin in worker/process.c.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "worker/worker.h"

/*
 * What all our workers have in common; task, of at most BGW_EXTRALEN bytes, is what it is told. A restart time is in
 * seconds: only the launcher has one.
 */
void
es_worker_fill(BackgroundWorker *worker, const char *function, const char *type, const void *task, Size size,
			   int restart_time)
{
	memset(worker, 0, sizeof(BackgroundWorker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = restart_time;
	strlcpy(worker->bgw_library_name, "event_store", BGW_MAXLEN);
	strlcpy(worker->bgw_function_name, function, BGW_MAXLEN);
	strlcpy(worker->bgw_name, type, BGW_MAXLEN);
	strlcpy(worker->bgw_type, type, BGW_MAXLEN);
	Assert(size <= BGW_EXTRALEN);
	if (size > 0)
		memcpy(worker->bgw_extra, task, size);
}

/*
 * Starts a worker that runs a function of this library once. Who wants to wait for it passes a handle.
 * False: there is no free slot.
 */
bool
es_worker_start(const char *function, const char *type, const void *task, Size size,
				BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	es_worker_fill(&worker, function, type, task, size, BGW_NEVER_RESTART);
	worker.bgw_notify_pid = handle == NULL ? 0 : MyProcPid;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/*
 * Connects to a database as the bootstrap superuser: the store's owner need not be a role that can log in. Whoever's text
 * is run becomes the session user meanwhile (base/run_as.c). lock_timeout is in milliseconds: whoever waits for a worker may
 * hold what the worker waits for, and no deadlock would be detected.
 */
void
es_worker_connect(Oid database, int lock_timeout)
{
	char		timeout[12];

	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);

	/* The database's defaults are for sessions of users. */
	snprintf(timeout, sizeof(timeout), "%d", lock_timeout);
	SetConfigOption("lock_timeout", timeout, PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_deferrable", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("statement_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	if (ES_TRANSACTION_TIMEOUT != NULL)
		SetConfigOption(ES_TRANSACTION_TIMEOUT, "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("session_replication_role", "origin", PGC_SUSET, PGC_S_OVERRIDE);
	es_run_as_in_worker();
}

/* The same, and starts a transaction with a snapshot; activity is shown in pg_stat_activity. */
void
es_worker_begin(Oid database, const char *activity, int lock_timeout)
{
	es_worker_connect(database, lock_timeout);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, activity);
}

/* Commits and ends the process. */
void
es_worker_end(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(true);
	proc_exit(0);
}
