/*
 * es_worker.c
 *	  The beginning and the end of a background worker that does one thing in one transaction.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "es_worker.h"

/*
 * Connects to a database as the bootstrap superuser and starts a transaction with a snapshot. activity is
 * shown in pg_stat_activity; lock_timeout is in milliseconds: whoever waits for a worker may hold what the
 * worker waits for, and no deadlock would be detected.
 */
void
es_worker_begin(Oid database, const char *activity, int lock_timeout)
{
	char		timeout[12];

	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);

	/* The database's defaults are for sessions of users. */
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	snprintf(timeout, sizeof(timeout), "%d", lock_timeout);
	SetConfigOption("lock_timeout", timeout, PGC_SUSET, PGC_S_OVERRIDE);

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
