/*
 * log/idle_appender.c
 *	  Sessions that hold the mark back and do nothing.
 *
 * A *holder* is a transaction that has drawn positions and is open (log/mark.c). With event_store.idle_append_timeout the
 * coordinator ends the session of one that has been idle in its transaction for longer: as pg_terminate_backend() would,
 * which may also hit a session that gets its next statement just then. What is made sure of is that the transaction is
 * the one that was idle: its lock is seen first, then that the session is idle, then that this transaction is still open.
 * The last look and the signal are made under ProcArrayLock, which a transaction with an id needs to end, and a
 * process to go away: so the pid is not another process's either.
 *
 * A session that is at work is left alone, however long it takes, and so are our own processes. Nobody can end a prepared
 * transaction by itself: that is said once.
 */
#include "postgres.h"

#include <signal.h>

#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/procarray.h"
#include "utils/backend_status.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"
#include "log/log.h"

#define IDLE_APPENDER_INTERVAL	1000	/* milliseconds, of looking for them */

/* Virtual transactions, as text, that something was done or said about; only while they hold the mark. */
static List *known = NIL;

static bool
is_known(const char *transaction)
{
	ListCell   *cell;

	foreach(cell, known)
		if (strcmp(lfirst(cell), transaction) == 0)
			return true;
	return false;
}

static bool
too_long(TimestampTz since)
{
	return TimestampDifferenceExceeds(since, GetCurrentTimestamp(), es_idle_append_timeout);
}

/* Ends the session, if that transaction is still open in it. */
static bool
terminate(int pid, LocalTransactionId transaction)
{
	PGPROC	   *proc;
	bool		sent;

	LWLockAcquire(ProcArrayLock, LW_SHARED);
	proc = BackendPidGetProcWithLock(pid);
	sent = proc != NULL && es_proc_lxid(proc) == transaction && kill(pid, SIGTERM) == 0;
	LWLockRelease(ProcArrayLock);
	return sent;
}

/* Whether the holder, a session, was idle for too long and is no more. */
static bool
end_session(int pid, LocalTransactionId transaction)
{
	Oid			type = INT4OID;
	Datum		arg = Int32GetDatum(pid);
	SPITupleTable *rows;
	TimestampTz idle;
	bool		isnull;

	/* A client's: our own processes append too, and end by themselves. */
	if (es_sql_run_args("SELECT a.state_change, a.xact_start, pg_get_userbyid(a.usesysid), a.application_name"
						" FROM pg_stat_get_activity($1) a WHERE a.backend_type = 'client backend'"
						" AND a.state IN ('idle in transaction', 'idle in transaction (aborted)')"
						" AND a.state_change IS NOT NULL", 1, &type, &arg, NULL) != 1)
		return false;
	rows = SPI_tuptable;
	idle = DatumGetTimestampTz(SPI_getbinval(rows->vals[0], rows->tupdesc, 1, &isnull));
	if (!too_long(idle) || !terminate(pid, transaction))
		return false;
	ereport(LOG,
			(errmsg("event_store coordinator ended the session of process %d, which was idle in a transaction that has appended", pid),
			 errdetail("User \"%s\", application \"%s\": idle since %s, in this transaction since %s.",
					   SPI_getvalue(rows->vals[0], rows->tupdesc, 3), SPI_getvalue(rows->vals[0], rows->tupdesc, 4),
					   SPI_getvalue(rows->vals[0], rows->tupdesc, 1), SPI_getvalue(rows->vals[0], rows->tupdesc, 2)),
			 errhint("It held the high-water mark back for longer than event_store.idle_append_timeout allows.")));
	return true;
}

/* Whether it was said that the holder, a prepared transaction, is there for too long. */
static bool
complain(const char *gid, TimestampTz prepared)
{
	if (!too_long(prepared))
		return false;
	ereport(LOG,
			(errmsg("prepared transaction \"%s\" holds the high-water mark back", gid),
			 errdetail("It has appended, and was prepared at %s.", timestamptz_to_str(prepared)),
			 errhint("event_store.idle_append_timeout does not end it. Use COMMIT PREPARED or ROLLBACK PREPARED.")));
	return true;
}

/* Ends those that were idle for longer than event_store.idle_append_timeout; returns how many. */
static int
end_sessions(void)
{
	Oid			types[2] = {OIDOID, OIDOID};
	Datum		args[2];
	SPITupleTable *rows;
	List	   *still = NIL;
	int			ended = 0;
	EsSql		sql;

	args[0] = ObjectIdGetDatum(MyDatabaseId);
	args[1] = ObjectIdGetDatum(es_store_now()->position_seq);
	es_sql_begin(&sql, BOOTSTRAP_SUPERUSERID);
	es_sql_run_args("SELECT l.virtualtransaction, l.pid, split_part(l.virtualtransaction, '/', 2)::bigint, p.gid, p.prepared"
					" FROM pg_locks l LEFT JOIN pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'"
					" AND x.virtualtransaction = l.virtualtransaction"
					" LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid"
					" WHERE l.locktype = 'relation' AND l.database = $1 AND l.relation = $2 AND l.mode = 'RowExclusiveLock'"
					" AND l.granted AND (l.pid IS NOT NULL OR p.gid IS NOT NULL)", 2, types, args, NULL);
	rows = SPI_tuptable;
	/* Sessions are looked at after their locks. */
	pgstat_clear_backend_activity_snapshot();
	for (uint64 i = 0; i < rows->numvals; i++)
	{
		HeapTuple	row = rows->vals[i];
		char	   *transaction = SPI_getvalue(row, rows->tupdesc, 1);
		bool		done = is_known(transaction);
		bool		prepared;
		Datum		pid = SPI_getbinval(row, rows->tupdesc, 2, &prepared);
		bool		isnull;

		if (!done && prepared)
			done = complain(SPI_getvalue(row, rows->tupdesc, 4),
							DatumGetTimestampTz(SPI_getbinval(row, rows->tupdesc, 5, &isnull)));
		else if (!done)
		{
			done = end_session(DatumGetInt32(pid), DatumGetInt64(SPI_getbinval(row, rows->tupdesc, 3, &isnull)));
			ended += done;
		}
		if (done)
		{
			MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

			still = lappend(still, pstrdup(transaction));
			MemoryContextSwitchTo(old);
		}
	}
	es_sql_end(&sql);
	list_free_deep(known);
	known = still;
	return ended;
}

/* ---------------------------------------------------------------- the coordinator's duty */

/* Whoever has drawn and is open keeps the mark below the newest position. */
static bool
mark_is_held(void)
{
	return es_idle_append_timeout > 0 && es_published()->mark < es_published()->last;
}

static bool
end_idle_appenders(void)
{
	static int	uncounted = 0;	/* sessions that were ended, which no commit has counted */

	if (!es_process_begin("looking for idle sessions that hold the high-water mark back"))
		return false;
	uncounted += end_sessions();
	es_counter_add("sessions_ended", uncounted);
	es_process_end();
	uncounted = 0;
	return false;
}

static int
pace(void)
{
	return Min(es_idle_append_timeout, IDLE_APPENDER_INTERVAL);
}

/* Has the coordinator do it; called once, when the library is loaded. */
void
es_idle_appender_init(void)
{
	static EsDuty ending = {.name = "end sessions that hold the high-water mark back",.run = end_idle_appenders,
	.wanted = mark_is_held,.pace = pace,.punctual = true};

	es_duty_register(&ending);
}
