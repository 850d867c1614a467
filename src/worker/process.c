/*
 * worker/process.c
 *	  What the coordinator and the processes that it starts have in common.
 *
 * Three things must never wait long for them:
 *
 *	- DROP DATABASE and its like lock the database and then wait five seconds for everybody who is connected to it:
 *	  es_process_check() sees the lock, and the process exits. The launcher starts a coordinator again.
 *	- DROP EXTENSION locks the extension: es_process_begin() takes a lock on it for each transaction, without ever
 *	  waiting for it. While somebody holds it there is no work; when the extension is gone, or another, the
 *	  process exits.
 *	- every other process waits now and then for all to pass a barrier: nothing here goes on for long without
 *	  CHECK_FOR_INTERRUPTS().
 *
 * How a coordinator ended is left in shared memory for the launcher.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"

static EsProcessTask task;
static EsRole role;
static EsSharedDatabase *entry = NULL;	/* never NULL once es_process_init() has run */
static EsSharedWorker *place = NULL;	/* in the entry; NULL for what a duty has started */
static LOCKTAG shown;				/* the lock that shows this process */
static bool is_shown = false;	/* it is held */
static void (*at_stop) (void) = NULL;
static MemoryContext cycle = NULL;	/* current between transactions; reset by es_process_check() */
static Oid	extension = InvalidOid; /* that this process works for */
static char version[64];		/* of it */
static Oid	store = InvalidOid;	/* its table, so that a store that was dropped and made anew is noticed */
static bool confirmed = false;	/* the catalogs still have it so, as far as they have told */
static bool confirming = false; /* cleared by what they tell meanwhile */
static TimestampTz confirmed_at;

/*
 * pg_extension has no cache and sends no invalidations (before 18), so it is read. But an extension or a store that is dropped
 * takes functions, a schema or the table with it, and what is updated mostly replaces functions: those do. What sends nothing,
 * a step to another version without any function, is noticed CONFIRM_INTERVAL later.
 */
#define CONFIRM_INTERVAL	1000	/* milliseconds */

static void
syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	confirmed = confirming = false;
}

static void
relcache_callback(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == store)
		confirmed = confirming = false;
}

/* Set by a wing above: whether there is anything to do in this database. In an open transaction. */
static bool (*has_work) (void) = NULL;

/* Has processes work only where this says so; called once, when the library is loaded. */
void
es_process_only_if(bool (*wanted) (void))
{
	has_work = wanted;
}

/* Whether a process that begins in this database would go on. In an open transaction. */
bool
es_process_has_work(void)
{
	return has_work == NULL || has_work();
}

/*
 * Takes the lock of a process for the length of the session: 0 is the coordinator's. False: somebody has it.
 *
 * Core calls these locks default and not user locks. So those that a handler has taken for the session can be given back
 * all at once.
 */
bool
es_process_lock(int number)
{
	SET_LOCKTAG_ADVISORY(shown, MyDatabaseId, 0, number, ES_LOCK_PROCESS);
	shown.locktag_lockmethodid = DEFAULT_LOCKMETHOD;
	is_shown = LockAcquire(&shown, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
	return is_shown;
}

/* Whether some command has locked a database against connections. */
bool
es_database_locked(Oid database)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, database, 0);
	if (LockAcquire(&tag, RowExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	(void) LockRelease(&tag, RowExclusiveLock, true);
	return false;
}

/* Registered before the connection is made, so it runs after everything else was given back. */
static void
leave(int code, Datum arg)
{
	/* Core does that only for user locks, and after an error: the next process with this one's place would have it. */
	if (is_shown && MyProc != NULL && es_lock_held_by_me(&shown, ExclusiveLock))
		(void) LockRelease(&shown, ExclusiveLock, true);
	(void) es_task_end(NULL);
	(void) es_dispatch_end();
	es_shared_detach(entry, place);
	if (role != ES_COORDINATOR)
		return;
	for (int i = 0; i < ES_SHARED_WORKERS; i++)
		es_shared_kick(entry, &entry->workers[i]);
	es_shared_wake_launcher();
}

/*
 * Enters this process in shared memory and connects it to its database. Does not return when another process has its
 * place.
 */
void
es_process_init(EsProcessTask *given, EsRole its_role, int lock_timeout)
{
	memcpy(&task, MyBgworkerEntry->bgw_extra, sizeof(task));
	*given = task;
	role = its_role;
	cycle = AllocSetContextCreate(TopMemoryContext, "event_store cycle", ALLOCSET_DEFAULT_SIZES);

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	es_failure_in_worker();

	entry = es_shared_entry(task.database);
	if (entry == NULL)
		proc_exit(0);			/* it was given to another database: ours is gone */
	if (role == ES_COORDINATOR || role == ES_POOL_WORKER)
	{
		place = role == ES_COORDINATOR ? &entry->coordinator : &entry->workers[task.argument];
		if (!es_shared_attach(entry, place))
			proc_exit(0);
		before_shmem_exit(leave, (Datum) 0);
	}

	if (role == ES_COORDINATOR)
	{
		entry->end = ES_END_UNKNOWN;
		entry->starts++;
		if (entry->stopped)
			es_process_exit(ES_END_STOPPED);
	}
	es_worker_connect(task.database, lock_timeout);
	CacheRegisterSyscacheCallback(PROCOID, syscache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, syscache_callback, (Datum) 0);
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	pgstat_report_appname(MyBgworkerEntry->bgw_type);
	pgstat_report_activity(STATE_IDLE, NULL);
	MemoryContextSwitchTo(cycle);
}

/* This process's place in the entry; NULL: it has none. */
EsSharedWorker *
es_process_place(void)
{
	return place;
}

/* Has a worker call this when it ends because it was stopped, or the server is. */
void
es_process_at_stop(void (*store) (void))
{
	at_stop = store;
}

/* Stores what is only in memory. An error is ignored: what is not stored was never relied on. */
static void
store_at_stop(void)
{
	if (at_stop == NULL || es_database_locked(task.database))
		return;
	ProcDiePending = false;		/* that is why we are here; a second one interrupts us */
	PG_TRY();
	{
		at_stop();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(TopMemoryContext);
		FlushErrorState();
		es_process_abort();
	}
	PG_END_TRY();
}

/* The entry of this process's database. */
EsSharedDatabase *
es_process_entry(void)
{
	return entry;
}

/* Ends the process. A coordinator says why; of another process the coordinator finds out for itself. */
void
es_process_exit(EsEnd end)
{
	if (role == ES_COORDINATOR)
		entry->end = end;
	proc_exit(0);
}

/* Whether this process should exit; for those who come between two calls of es_process_check() through much work. */
bool
es_process_wanted_away(void)
{
	CHECK_FOR_INTERRUPTS();
	return entry->stopped || (role != ES_COORDINATOR && entry->coordinator.pid == 0) ||
		(role == ES_POOL_WORKER && task.argument >= entry->workers_wanted) ||
		es_database_locked(task.database);
}

/*
 * To be called between transactions, at least every ES_MAX_SLEEP: handles signals, and exits when it is time to. What was
 * allocated between transactions since the last call is gone.
 */
void
es_process_check(void)
{
	if (ProcDiePending)
	{
		store_at_stop();
		es_process_exit(entry->stopped ? ES_END_STOPPED : ES_END_TERMINATED);	/* without a line in the log */
	}
	es_cancel_forget();			/* between two of them there is nothing to cancel */
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	if (es_process_wanted_away())
	{
		store_at_stop();
		es_process_exit(entry->stopped ? ES_END_STOPPED : ES_END_YIELDED);
	}
	MemoryContextSwitchTo(cycle);
	MemoryContextReset(cycle);
}

/* Reads the extension's row; false when there is none. The version is wanted where there is a place for it. */
static bool
read_extension(Oid *oid, char *into, Size size)
{
	Relation	rel = relation_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ, CStringGetDatum("event_store"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		stored = heap_getattr(tuple, Anum_pg_extension_extversion, RelationGetDescr(rel), &isnull);

		*oid = ((Form_pg_extension) GETSTRUCT(tuple))->oid;
		if (into != NULL)
			into[0] = '\0';
		if (into != NULL && !isnull)
			strlcpy(into, TextDatumGetCString(stored), size);
	}
	systable_endscan(scan);
	relation_close(rel, AccessShareLock);
	return HeapTupleIsValid(tuple);
}

/*
 * SET CONSTRAINTS ALL IMMEDIATE: a deferred trigger would run at commit, with another role's rights, so core refuses it in
 * stored text. Nobody who appends waits here, and no statement of the transaction is somebody else's.
 */
static void
check_constraints_at_once(void)
{
	ConstraintsSetStmt *all = makeNode(ConstraintsSetStmt);

	AfterTriggerSetState(all);
}

/* Exits unless there is still the same to work for. The extension is locked. */
static void
confirm(void)
{
	Oid			oid;
	Oid			schema;
	Oid			table;
	char		now[sizeof(version)];

	confirming = true;
	schema = get_namespace_oid(ES_SCHEMA, true);
	table = OidIsValid(schema) ? get_relname_relid("store", schema) : InvalidOid;
	if (!read_extension(&oid, now, sizeof(now)) || !OidIsValid(table) || !es_process_has_work())
		es_process_exit(ES_END_ABSENT);
	if (!OidIsValid(extension))
	{
		extension = oid;
		store = table;
		strlcpy(version, now, sizeof(version));
	}
	else if (oid != extension || table != store || strcmp(now, version) != 0)
		es_process_exit(ES_END_CHANGED);
	confirmed = confirming;
	confirmed_at = GetCurrentStatementStartTimestamp();
}

/*
 * Begins a transaction, with a snapshot and a lock on the extension. False, and no transaction, when somebody is
 * dropping the extension just now: try again later. Does not return when there is nothing to work for any more, or
 * another process should.
 */
bool
es_process_begin(const char *activity)
{
	LOCKTAG		tag;
	Oid			locked = extension;

	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, activity);
	debug_query_string = activity;
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (!confirmed && !read_extension(&locked, NULL, 0))
		es_process_exit(ES_END_ABSENT);
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ExtensionRelationId, locked, 0);
	if (LockAcquire(&tag, AccessShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
	{
		es_process_abort();
		return false;
	}
	/* With the lock: whoever dropped it before has sent what clears `confirmed`, and nobody can drop it now. */
	AcceptInvalidationMessages();
	if (!confirmed || TimestampDifferenceExceeds(confirmed_at, GetCurrentStatementStartTimestamp(), CONFIRM_INTERVAL))
		confirm();
	if (role == ES_POOL_WORKER)
		check_constraints_at_once();
	return true;
}

/*
 * Discards what stored text may have left behind in this session, so that the next one finds nothing of it. Temporary objects,
 * LISTEN and prepared statements are none: a security restricted operation refuses them. Settings were put back.
 */
static void
discard(void)
{
	if (GetSessionUserId() != BOOTSTRAP_SUPERUSERID)
		elog(FATAL, "background worker is still another role's");
	if (role == ES_COORDINATOR)
		return;
	LockReleaseAll(USER_LOCKMETHOD, true);
	ResetSequenceCaches();
}

static void
ended(void)
{
	discard();
	MemoryContextSwitchTo(cycle);
	pgstat_report_stat(false);
	debug_query_string = NULL;
	pgstat_report_activity(STATE_IDLE, NULL);
}

/* Commits. */
void
es_process_end(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	ended();
}

/* Rolls back, after an error too. */
void
es_process_abort(void)
{
	AbortCurrentTransaction();
	/* Core has released it. */
	if (is_shown)
		is_shown = LockAcquire(&shown, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
	ended();
}

/*
 * Sleeps until the latch is set or the time (milliseconds) is up. The latch is not reset: the loop does that first.
 */
void
es_process_sleep(long timeout, const char *what)
{
	if (timeout >= ES_MAX_SLEEP)
		pgstat_report_stat(true);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 Max(0, Min(timeout, ES_MAX_SLEEP)), es_wait_event(what));
}
