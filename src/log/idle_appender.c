/*
 * log/idle_appender.c
 *	  Idle appenders: sessions that have appended, or hold streams, and are idle in the same transaction, so that the mark
 *	  cannot pass or others wait.
 *
 * An *open append* is a transaction that has allocated positions and has not ended; it holds the lock on the sequence
 * of positions (log/mark.c). One that holds streams without that has the lock of log/hold.c. If the session of either has
 * been idle in this transaction for longer than
 * event_store.idle_append_timeout, the coordinator ends the session, as pg_terminate_backend() would. That may also
 * hit a session that receives its next statement just then. But the transaction must be the one that was idle. So
 * three things are seen in this order: the transaction's lock, that the session is idle, and that the same
 * transaction is still open. The third look and the signal are made under ProcArrayLock. A transaction with an id
 * needs that lock to end, and a process needs it to go away, so the pid cannot be another process's by then.
 *
 * A session that is running a statement is left alone, however long it takes, and so are our own processes. A prepared
 * transaction has no session that could be ended, so it is only logged, once.
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

#define IDLE_APPENDER_INTERVAL	1000	/* milliseconds between two runs, at most */

/*
 * Open appends that were ended or logged already: their virtual transactions, as text. Those that are gone are
 * removed.
 */
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

/* Ends a session, if this transaction is still open in it. */
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

/* Ends the session of such a transaction if it has been idle for too long. Returns whether it was ended. */
static bool
end_session(int pid, LocalTransactionId transaction, bool appended)
{
	Oid			type = INT4OID;
	Datum		arg = Int32GetDatum(pid);
	SPITupleTable *rows;
	TimestampTz idle;
	bool		isnull;

	/* Only sessions of clients: our own processes append too, and end their transactions by themselves. */
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
			(appended ?
			 errmsg("event_store coordinator ended the session of process %d, which was idle in a transaction that has appended", pid) :
			 errmsg("event_store coordinator ended the session of process %d, which was idle in a transaction that holds streams", pid),
			 errdetail("User \"%s\", application \"%s\": idle since %s, in this transaction since %s.",
					   SPI_getvalue(rows->vals[0], rows->tupdesc, 3), SPI_getvalue(rows->vals[0], rows->tupdesc, 4),
					   SPI_getvalue(rows->vals[0], rows->tupdesc, 1), SPI_getvalue(rows->vals[0], rows->tupdesc, 2)),
			 appended ? errhint("It held the high-water mark back for longer than event_store.idle_append_timeout allows.") :
			 errhint("Whoever wants to append to its streams waits, for longer than event_store.idle_append_timeout allows.")));
	return true;
}

/* Logs such a transaction that is prepared, if it has been there for too long. Returns whether it was logged. */
static bool
log_prepared(const char *gid, TimestampTz prepared, bool appended)
{
	if (!too_long(prepared))
		return false;
	ereport(LOG,
			(appended ? errmsg("prepared transaction \"%s\" holds the high-water mark back", gid) :
			 errmsg("prepared transaction \"%s\" holds streams", gid),
			 appended ? errdetail("It has appended, and was prepared at %s.", timestamptz_to_str(prepared)) :
			 errdetail("It has locked them, and was prepared at %s.", timestamptz_to_str(prepared)),
			 errhint("event_store.idle_append_timeout does not end it. Use COMMIT PREPARED or ROLLBACK PREPARED.")));
	return true;
}

/* Ends the sessions of all idle appenders. Returns how many. */
static int
end_sessions(void)
{
	Oid			types[3] = {OIDOID, OIDOID, INT4OID};
	Datum		args[3];
	SPITupleTable *rows;
	List	   *still = NIL;
	int			ended = 0;
	EsSql		sql;

	args[0] = ObjectIdGetDatum(MyDatabaseId);
	args[1] = ObjectIdGetDatum(es_store_now()->position_seq);
	args[2] = Int32GetDatum(ES_LOCK_HOLDING);
	es_sql_begin(&sql, BOOTSTRAP_SUPERUSERID);
	es_sql_run_args("SELECT l.virtualtransaction, l.pid, split_part(l.virtualtransaction, '/', 2)::bigint, p.gid, p.prepared,"
					" bool_or(l.locktype = 'relation')"
					" FROM pg_locks l LEFT JOIN pg_locks x ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'"
					" AND x.virtualtransaction = l.virtualtransaction"
					" LEFT JOIN pg_prepared_xacts p ON p.transaction = x.transactionid"
					" WHERE (l.locktype = 'relation' AND l.relation = $2 OR l.locktype = 'advisory' AND l.objsubid = $3)"
					" AND l.database = $1 AND l.mode = 'RowExclusiveLock'"
					" AND l.granted AND (l.pid IS NOT NULL OR p.gid IS NOT NULL) GROUP BY 1, 2, 3, 4, 5", 3, types, args, NULL);
	rows = SPI_tuptable;
	/* The state of sessions must be read after their locks, so it must not come from an earlier snapshot. */
	pgstat_clear_backend_activity_snapshot();
	for (uint64 i = 0; i < rows->numvals; i++)
	{
		HeapTuple	row = rows->vals[i];
		char	   *transaction = SPI_getvalue(row, rows->tupdesc, 1);
		bool		done = is_known(transaction);
		bool		prepared;
		Datum		pid = SPI_getbinval(row, rows->tupdesc, 2, &prepared);
		bool		isnull;
		bool		appended = DatumGetBool(SPI_getbinval(row, rows->tupdesc, 6, &isnull));

		if (!done && prepared)
			done = log_prepared(SPI_getvalue(row, rows->tupdesc, 4),
								DatumGetTimestampTz(SPI_getbinval(row, rows->tupdesc, 5, &isnull)), appended);
		else if (!done)
		{
			done = end_session(DatumGetInt32(pid), DatumGetInt64(SPI_getbinval(row, rows->tupdesc, 3, &isnull)), appended);
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

/* Whether there can be such transactions at all. Open appends keep the mark below the newest position. */
static bool
may_be_some(void)
{
	return es_idle_append_timeout > 0 &&
		(es_published_mark()->mark < es_published_mark()->last || es_hold_by_others());
}

static bool
end_idle_appenders(void)
{
	static int	uncounted = 0;	/* sessions that were ended, but not yet counted by a transaction that has committed */

	if (!es_process_begin("looking for idle sessions that hold the high-water mark back, or streams"))
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

/* Registers the duty; called once, when the library is loaded. */
void
es_idle_appender_init(void)
{
	static EsDuty ending = {.name = "end sessions that hold the high-water mark back, or streams",.run = end_idle_appenders,
	.wanted = may_be_some,.pace = pace,.punctual = true};

	es_duty_register(&ending);
}
