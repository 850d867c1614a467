/*
 * worker/launcher.c
 *	  Keeps a coordinator in every database that has a store.
 *
 * One process of the server, registered when the library is preloaded and connected to no database. It starts a
 * coordinator in each database that can be connected to; one that finds no store says so in shared memory and exits,
 * and the launcher leaves that database alone until a store is made there (its commit wakes us), somebody calls
 * es_start_worker(), or some minutes have passed. Nobody else starts coordinators, and the postmaster does not restart them:
 * the launcher does, with growing delays. Databases that may have no store are looked into one after the other: together
 * they could take all worker slots for nothing.
 *
 * What it knows of a database is in a hash table of its own. A coordinator that an earlier launcher has started is known
 * by its pid in shared memory; the last thing that each coordinator does is to wake us.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/coordinator.h"
#include "worker/worker.h"

PGDLLEXPORT void es_launcher_main(Datum arg);

/* Milliseconds, but for the first. */
#define RESTART_TIME		5		/* seconds, of the launcher itself */
#define LIST_INTERVAL		10000	/* of looking for new databases */
#define PROBE_INTERVAL		300000	/* of looking for a store where there was none */
#define YIELD_DELAY			1000	/* after a coordinator made way, and between looks whether the way is free */
#define FIRST_DELAY			1000	/* after a coordinator failed; doubled each time */
#define LONGEST_DELAY		60000	/* also how long one must have run for the delay to begin anew */
#define SLOT_DELAY			2000	/* after there was no free slot */
#define PROBE_TIME			5000	/* that one look may hold up the others */

typedef struct Known
{
	Oid			database;
	bool		listed;			/* in pg_database, at the last look */
	bool		running;		/* as far as we know */
	bool		has_store;		/* a coordinator has found one */
	BackgroundWorkerHandle *handle; /* NULL: not running, or started by an earlier launcher */
	TimestampTz started;
	TimestampTz next;			/* not to be started before */
	int			failures;		/* in a row */
} Known;

static HTAB *known;
static Oid	probed = InvalidOid;	/* the database that is being looked into, since */
static TimestampTz probed_since = 0;
static bool no_slot = false;	/* said so */
static bool no_room = false;	/* said so */

/* Registers the launcher; called once, when the library is loaded. */
void
es_launcher_init(void)
{
	BackgroundWorker worker;

	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	es_worker_fill(&worker, "es_launcher_main", "event_store launcher", NULL, 0, RESTART_TIME);
	RegisterBackgroundWorker(&worker);
}

static bool
database_exists(Oid database)
{
	AcceptInvalidationMessages();
	return SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(database));
}

/* Brings the table up to date with pg_database, and frees what is kept of databases that are gone. */
static void
list_databases(void)
{
	HASH_SEQ_STATUS all;
	Known	   *row;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	hash_seq_init(&all, known);
	while ((row = hash_seq_search(&all)) != NULL)
		row->listed = false;

	SetCurrentStatementStartTimestamp();
	pgstat_report_activity(STATE_RUNNING, "listing databases");
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = relation_open(DatabaseRelationId, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		bool		found;

		/* -2: a DROP DATABASE did not come to its end. */
		if (!database->datallowconn || database->datistemplate || database->datconnlimit == -2)
			continue;
		row = hash_search(known, &database->oid, HASH_ENTER, &found);
		if (!found)
		{
			memset(row, 0, sizeof(Known));
			row->database = database->oid;
		}
		row->listed = true;
	}
	systable_endscan(scan);
	relation_close(rel, AccessShareLock);
	es_shared_release_vanished(database_exists);
	es_tasks_release_vanished(database_exists);
	CommitTransactionCommand();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);

	hash_seq_init(&all, known);
	while ((row = hash_seq_search(&all)) != NULL)
		if (!row->listed && row->handle == NULL)
			(void) hash_search(known, &row->database, HASH_REMOVE, NULL);
}

/* A coordinator has ended: when may it be started again? */
static void
ended(Known *row, EsSharedDatabase *entry, TimestampTz now)
{
	long		delay = YIELD_DELAY;

	row->running = false;
	if (probed == row->database)
		probed = InvalidOid;
	if (row->handle != NULL)
		pfree(row->handle);
	row->handle = NULL;
	switch (entry == NULL ? ES_END_UNKNOWN : entry->end)
	{
		case ES_END_ABSENT:
			delay = PROBE_INTERVAL;
			row->has_store = false;
			row->failures = 0;
			break;
		case ES_END_CHANGED:
		case ES_END_STOPPED:
			delay = 0;
			break;
		case ES_END_YIELDED:
		case ES_END_TERMINATED:
			break;
		case ES_END_UNKNOWN:
			if (TimestampDifferenceExceeds(row->started, now, LONGEST_DELAY))
				row->failures = 0;
			row->failures = Min(row->failures + 1, 16);
			delay = Min(LONGEST_DELAY, (long) FIRST_DELAY << (row->failures - 1));
			ereport(row->failures == 1 ? LOG : DEBUG1,
					(errmsg("event_store coordinator of database %u failed", row->database),
					 errdetail("It is started again, after a longer time each time it fails.")));
			break;
	}
	row->next = TimestampTzPlusMilliseconds(now, delay);
}

static void
start(Known *row, EsSharedDatabase *entry, TimestampTz now)
{
	EsProcessTask task;
	MemoryContext old;
	bool		started;

	memset(&task, 0, sizeof(task));
	task.database = row->database;
	task.starter = entry->starter;
	SetInvalidVirtualTransactionId(entry->starter);
	entry->asked = entry->ready = false;
	entry->end = ES_END_UNKNOWN;
	pg_memory_barrier();
	old = MemoryContextSwitchTo(TopMemoryContext);
	started = es_coordinator_start(&task, &row->handle);
	MemoryContextSwitchTo(old);
	if (started)
	{
		if (no_slot)
			ereport(LOG, (errmsg("event_store launcher found a free slot for a coordinator again")));
		no_slot = entry->no_slot = false;
		row->running = true;
		row->started = now;
		if (!row->has_store && !VirtualTransactionIdIsValid(task.starter))
		{
			probed = row->database;
			probed_since = now;
		}
		return;
	}

	row->handle = NULL;
	row->next = TimestampTzPlusMilliseconds(now, SLOT_DELAY);
	entry->starter = task.starter;
	entry->no_slot = true;
	if (!no_slot)
		ereport(LOG,
				(errmsg("event_store launcher found no free slot for the coordinator of database %u", row->database),
				 errhint("Increase max_worker_processes.")));
	no_slot = true;
}

/* Sees to one database; returns when to do it again at the latest. */
static TimestampTz
look_after(Known *row, TimestampTz now)
{
	EsSharedDatabase *entry = es_shared_find(row->database);
	pid_t		pid;

	if (row->handle != NULL)
	{
		if (GetBackgroundWorkerPid(row->handle, &pid) != BGWH_STOPPED)
		{
			if (entry != NULL && entry->ready)
			{
				row->has_store = true;
				if (probed == row->database)
					probed = InvalidOid;
			}
			return DT_NOEND;	/* its end sets our latch */
		}
		ended(row, entry, now);
	}
	else if (entry != NULL && entry->coordinator.pid != 0)
	{
		if (!row->running)
			row->started = now;
		row->running = row->has_store = true;
		return DT_NOEND;
	}
	else if (row->running)
		ended(row, entry, now);

	if (!row->listed || (entry != NULL && entry->stopped))
		return DT_NOEND;
	if (entry != NULL && entry->asked && !entry->no_slot)
	{
		row->failures = 0;
		row->next = now;
	}
	if (row->next > now)
		return row->next;
	if (!row->has_store && OidIsValid(probed) && (entry == NULL || !entry->asked) &&
		!TimestampDifferenceExceeds(probed_since, now, PROBE_TIME))
		return TimestampTzPlusMilliseconds(now, YIELD_DELAY);	/* or earlier: its end, or success, wakes us */
	if (es_database_locked(row->database))
	{
		row->next = TimestampTzPlusMilliseconds(now, YIELD_DELAY);
		return row->next;
	}

	if (entry == NULL)
	{
		entry = es_shared_entry(row->database);
		if (entry == NULL && es_shared_release_idle())
			entry = es_shared_entry(row->database);
	}
	if (entry == NULL)
	{
		if (!no_room)
			ereport(LOG,
					(errmsg("event_store launcher works for %d databases at once", ES_SHARED_DATABASES),
					 errdetail("There is no coordinator in database %u, and perhaps in others.", row->database)));
		no_room = true;
		row->next = TimestampTzPlusMilliseconds(now, LONGEST_DELAY);
		return row->next;
	}
	start(row, entry, now);
	return row->running ? DT_NOEND : row->next;
}

/* Entry of the launcher. */
void
es_launcher_main(Datum arg)
{
	HASHCTL		ctl = {.keysize = sizeof(Oid),.entrysize = sizeof(Known)};
	MemoryContext cycle;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	if (!es_shared_set_launcher())
		proc_exit(0);
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	pgstat_report_appname("event_store launcher");
	known = hash_create("event_store databases", 32, &ctl, HASH_ELEM | HASH_BLOBS);
	cycle = AllocSetContextCreate(TopMemoryContext, "event_store cycle", ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		HASH_SEQ_STATUS all;
		Known	   *row;
		TimestampTz now;
		TimestampTz next;

		ResetLatch(MyLatch);
		if (ProcDiePending)
			proc_exit(1);		/* without a line in the log */
		QueryCancelPending = false; /* there is nothing to cancel */
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
		MemoryContextSwitchTo(cycle);
		MemoryContextReset(cycle);

		list_databases();
		now = GetCurrentTimestamp();
		next = TimestampTzPlusMilliseconds(now, LIST_INTERVAL);
		hash_seq_init(&all, known);
		while ((row = hash_seq_search(&all)) != NULL)
			next = Min(next, look_after(row, now));

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 Max(1, TimestampDifferenceMilliseconds(now, next)), es_wait_event("EventStoreLauncher"));
	}
}
