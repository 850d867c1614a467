/*
 * worker/coordinator.c
 *	  The process that works for one database's store, and its pool of workers.
 *
 * One per database, by an advisory lock that it keeps. It publishes the mark, tells about it, ends idle sessions that
 * hold it back, keeps partitions ahead, purges keys, has due snapshots taken and keeps up the pool. Each of these is a
 * *duty*, done in a transaction of its own; an error in one, a lock that is not to be had for instance, is logged once
 * and the duty tried again later, so that none of them holds up the publishing.
 *
 * What wakes it: an append's commit (es_shared_announce()), es_shared_want_publish(), NOTIFY event_store from
 * anywhere, and the time. It says `asleep` *before* it looks whether there is something to do: news that come while
 * it is looking set the latch, so nothing is missed between the look and the sleep.
 *
 * An idle server writes nothing. After the mark has reached the newest position, two more rounds are published, so
 * that stable_until passes the last event (`goal`). While an open append holds the mark back, it is only looked at,
 * at growing intervals.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/async.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"
#include "worker/coordinator.h"
#include "store/store.h"
#include "log/log.h"
#include "log/idle_appender.h"
#include "state/snapshot_request.h"
#include "state/snapshot_worker.h"
#include "append/key.h"
#include "projection/definition.h"
#include "proof/seal.h"

PGDLLEXPORT void es_coordinator_main(Datum arg);
PGDLLEXPORT void es_pool_worker(Datum arg);

#define CHANNEL				"event_store"

/* Milliseconds. */
#define LOCK_TIMEOUT		"20"	/* of a duty */
#define HANDLER_LOCK_TIMEOUT 10000	/* of projections: then the batch is tried again */
#define SETTLE_WAIT			"10"	/* for open appends, within a round */
#define RETRY_LOCK			500		/* of a duty, after a lock was not to be had */
#define RETRY_DUTY			5000	/* after another error */
#define TASKS_INTERVAL		200		/* of counting what the pool has to do */
#define POOL_BACKOFF		60000	/* longest, of a pool worker that fails */
#define PURGE_INTERVAL		1000
#define SNAPSHOT_INTERVAL		1000
#define PARTITION_INTERVAL	200
#define IDLE_APPENDER_INTERVAL		1000

/* Seconds after which the postmaster restarts a coordinator that no launcher looks after. */
#define RESTART_TIME		5

#define PARTITIONS_AHEAD	2
#define PURGE_LIMIT			1000

/* A process of the pool, as its coordinator knows it. */
typedef struct Member
{
	BackgroundWorkerHandle *handle; /* NULL: not running, or started by a coordinator before us */
	TimestampTz started;
	TimestampTz next;			/* not to be started before */
	int			failures;
	bool		told;			/* to go: its end is no failure */
} Member;

/* Something that the coordinator does now and then. */
typedef struct Duty
{
	const char *name;			/* as in "could not ..." */
	bool		(*run) (void);	/* true: there is more to do at once */
	bool		failing;
	TimestampTz next;			/* not before */
} Duty;

static EsSharedDatabase *entry;
static Member members[ES_SHARED_WORKERS];
static bool no_slot = false;	/* said so */

static EsMarkState state;		/* as of the last look */
static TimestampTz goal;		/* stable_until should pass it */
static int64 notified;			/* the mark that listeners know */
static bool listens = false;	/* to the channel */
static int	tasks = 0;			/* what the pool has to do */
static bool count_soon = true;	/* that may have changed */
static int	uncounted = 0;		/* sessions that were ended, which no commit has counted */
static BackgroundWorkerHandle *snapshot_worker = NULL;	/* of due snapshots */
static BackgroundWorkerHandle *sealer = NULL;
static TimestampTz sealer_started = 0;

static void
forget_handle(BackgroundWorkerHandle **handle)
{
	pfree(*handle);
	*handle = NULL;
}

static void
at(TimestampTz *next, long milliseconds)
{
	*next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), milliseconds);
}

/* ---------------------------------------------------------------- duties */

static bool
reached_goal(void)
{
	return state.mark >= state.last && state.stable_until >= goal;
}

/* A round of the mark. */
static bool
publish(void)
{
	bool		moved;

	if (!es_process_begin("publishing the high-water mark"))
		return false;
	if (!es_epoch_is_current())
	{
		/* We were started on a timeline of its own. In a transaction that waits for no standby: appends wait for it. */
		(void) set_config_option("synchronous_commit", "local", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
		(void) es_epoch_begin_here();
		es_process_end();
		return true;
	}
	moved = es_mark_publish(goal, false, &state);
	es_process_end();
	if (moved)
		goal = state.floor;
	return !reached_goal();
}

/* Whether there is something to publish. */
static bool
look(void)
{
	if (!es_process_begin("looking for events"))
		return false;
	es_mark_state(&state);
	if (notified == 0)
		notified = state.mark;
	/* Not known yet, or of a store that was dropped. */
	if (pg_atomic_read_u64(&entry->snapshot_position) == 0 ||
		(int64) pg_atomic_read_u64(&entry->snapshot_position) > Max(state.last, 1))
		pg_atomic_write_u64(&entry->snapshot_position, Max(state.mark, 1));
	es_process_end();
	return !reached_goal();
}

static bool
notify(void)
{
	char		payload[32];

	if (!es_process_begin("sending a notification"))
		return false;
	snprintf(payload, sizeof(payload), INT64_FORMAT, state.mark);

	/*
	 * Whoever commits with notifications waits for the one lock of all of them, in all databases; nobody who holds it
	 * should wait for the disk, or for a standby, on our account.
	 */
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	Async_Notify(CHANNEL, payload);
	es_process_end();
	notified = state.mark;
	return false;
}

static bool
start_listening(void)
{
	if (!es_process_begin("listening"))
		return false;
	Async_Listen(CHANNEL);
	es_process_end();
	listens = true;
	return false;
}

static bool
make_partition(void)
{
	bool		made;

	if (!es_process_begin("making a partition ahead"))
		return false;
	made = es_partition_make_ahead(PARTITIONS_AHEAD);
	es_process_end();
	return made;
}

static bool
end_idle_appenders(void)
{
	if (!es_process_begin("looking for idle sessions that hold the high-water mark back"))
		return false;
	uncounted += es_idle_appenders_end();
	es_counter_add("sessions_ended", uncounted);
	es_process_end();
	uncounted = 0;
	return false;
}

static bool
purge_keys(void)
{
	bool		more;

	if (!es_process_begin("purging idempotency keys"))
		return false;
	more = es_key_purge(PURGE_LIMIT);
	es_process_end();
	return more;
}

static bool
count_tasks(void)
{
	if (!es_process_begin("counting the pool's tasks"))
		return false;
	count_soon = false;
	tasks = es_projection_tasks();
	es_process_end();
	return false;
}

/* Starts a process of ours: of the pool with its number, or a helper that does one thing. False: no slot, *handle is NULL. */
static bool
start_process(const char *function, const char *title, int number, int64 position, BackgroundWorkerHandle **handle)
{
	EsProcessTask task;
	bool		started;
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	memset(&task, 0, sizeof(task));
	task.database = MyDatabaseId;
	task.owned = true;
	task.number = number;
	task.position = position;
	started = es_worker_start(function, title, &task, sizeof(task), handle);
	if (!started)
		*handle = NULL;
	MemoryContextSwitchTo(old);
	return started;
}

static bool
look_for_snapshots(void)
{
	int64		position = pg_atomic_read_u64(&entry->snapshot_position);
	bool		found;

	if (!es_process_begin("looking for snapshots that are due"))
		return false;
	/* After an error go on behind what led to it. */
	pg_atomic_write_u64(&entry->snapshot_position, Max(state.mark, 1));
	position = es_snapshot_worker_look(position, state.mark, &found);
	es_process_end();
	pg_atomic_write_u64(&entry->snapshot_position, position);

	if (found)
		(void) start_process("es_snapshot_worker_main", "event_store snapshot taker", 0, position, &snapshot_worker);
	return !found && position < state.mark;
}

/* Has what is new sealed by a worker. Returns when it wants to be called again at the latest. */
static TimestampTz
keep_sealing(void)
{
	TimestampTz next;
	pid_t		pid;

	if (sealer != NULL && GetBackgroundWorkerPid(sealer, &pid) == BGWH_STOPPED)
		forget_handle(&sealer);
	if (sealer != NULL || es_seal_interval == 0 ||
		(int64) pg_atomic_read_u64(&entry->sealed_position) >= state.mark)
		return DT_NOEND;
	next = TimestampTzPlusMilliseconds(sealer_started, es_seal_interval * INT64CONST(1000));
	if (GetCurrentTimestamp() < next)
		return next;

	(void) start_process("es_seal_worker", "event_store sealer", 0, 0, &sealer);
	sealer_started = GetCurrentTimestamp();
	return TimestampTzPlusMilliseconds(sealer_started, es_seal_interval * INT64CONST(1000));
}

/* The same where there is no shared memory, and so no worker that would find us: one seal at a time. */
static bool
seal_ourselves(void)
{
	bool		more;

	if (!es_process_begin("sealing the event log"))
		return false;
	more = es_seal_some() > 0;
	es_process_end();
	return more;
}

/* Projections, where there is no shared memory for a pool. */
static bool
work_ourselves(void)
{
	long		wait;

	return es_projections_run(&wait);
}

static Duty publishing = {"publish the high-water mark", publish};
static Duty looking = {"look for events", look};
static Duty listening = {"listen for notifications", start_listening};
static Duty notifying = {"send a notification", notify};
static Duty partitions = {"make a partition of the event log ahead", make_partition};
static Duty idle_appenders = {"end sessions that hold the high-water mark back", end_idle_appenders};
static Duty keys = {"purge idempotency keys", purge_keys};
static Duty counting = {"count the tasks of the pool", count_tasks};
static Duty due = {"look for snapshots that are due", look_for_snapshots};
static Duty working = {"run projections", work_ourselves};
static Duty sealing = {"seal the event log", seal_ourselves};

/*
 * Does a duty, not before it is time for it; when it has no more to do, it is time again after an interval
 * (milliseconds). Returns what the duty does. An error is logged when it is the first in a row.
 */
static bool
perform(Duty *duty, long interval)
{
	volatile bool more = false;
	volatile bool done = false;
	volatile long pause = interval;

	if (GetCurrentTimestamp() < duty->next)
		return false;
	PG_TRY();
	{
		more = duty->run();
		done = true;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(TopMemoryContext);
		error = CopyErrorData();
		FlushErrorState();
		es_process_abort();
		if (!duty->failing)
			ereport(WARNING,
					(errcode(error->sqlerrcode),
					 errmsg("event_store coordinator could not %s: %s", duty->name, error->message),
					 error->detail ? errdetail_internal("%s", error->detail) : 0,
					 errhint("It goes on trying, and says so when it has succeeded.")));
		duty->failing = true;
		pause = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ? RETRY_LOCK : RETRY_DUTY;
		FreeErrorData(error);
	}
	PG_END_TRY();
	if (done && duty->failing)
	{
		duty->failing = false;
		ereport(LOG, (errmsg("event_store coordinator could %s again", duty->name)));
	}
	if (!more)
		at(&duty->next, pause);
	return more;
}

/* The earlier of two times. */
static TimestampTz
earlier(TimestampTz a, TimestampTz b)
{
	return Min(a, b);
}

/* ---------------------------------------------------------------- the pool */

static void
start_member(int number)
{
	Member	   *member = &members[number];

	if (start_process("es_pool_worker", "event_store worker", number, 0, &member->handle))
	{
		member->started = GetCurrentTimestamp();
		member->told = false;
		if (no_slot)
			ereport(LOG, (errmsg("event_store coordinator could start workers again")));
		no_slot = false;
	}
	else
	{
		at(&member->next, RETRY_DUTY);
		if (!no_slot)
			ereport(LOG,
					(errmsg("event_store coordinator found no free slot for a background worker"),
					 errdetail("%d of %d workers are running.", number, entry->workers_wanted),
					 errhint("Increase max_worker_processes, or decrease event_store.max_workers.")));
		no_slot = true;
	}
}

/* Starts what is missing of the pool; those that are too many end by themselves. */
static void
keep_pool(void)
{
	TimestampTz now = GetCurrentTimestamp();
	int			wanted = Min(es_max_workers, tasks);

	if (entry->workers_wanted != wanted)
	{
		entry->workers_wanted = wanted;
		for (int i = wanted; i < ES_SHARED_WORKERS; i++)
		{
			members[i].told = true;
			es_shared_kick(entry, &entry->workers[i]);
		}
	}
	for (int i = 0; i < ES_SHARED_WORKERS; i++)
	{
		Member	   *member = &members[i];
		pid_t		pid;

		if (member->handle != NULL)
		{
			if (GetBackgroundWorkerPid(member->handle, &pid) != BGWH_STOPPED)
				continue;
			forget_handle(&member->handle);
			if (i >= wanted)
				continue;
			/* It was wanted and has ended: it failed, or was terminated. Or it was not wanted for a moment. */
			if (!member->told)
			{
				if (TimestampDifferenceExceeds(member->started, now, POOL_BACKOFF))
					member->failures = 0;
				member->failures = Min(member->failures + 1, 16);
				member->next = TimestampTzPlusMilliseconds(now, Min(POOL_BACKOFF, 500L << (member->failures - 1)));
			}
		}
		if (i < wanted && entry->workers[i].pid == 0 && now >= member->next)
			start_member(i);
	}
}

static void
wake_pool(void)
{
	for (int i = 0; i < ES_SHARED_WORKERS; i++)
		if (entry->workers[i].pid != 0)
			es_shared_wake(&entry->workers[i]);
}

/* Entry of a pool worker. */
void
es_pool_worker(Datum arg)
{
	EsProcessTask task;
	EsSharedWorker *self;

	es_process_init(&task, ES_POOL_WORKER, HANDLER_LOCK_TIMEOUT);
	entry = es_process_entry();
	self = &entry->workers[task.number];
	(void) es_process_lock(task.number + 1);	/* only to be seen */
	for (;;)
	{
		long		wait = -1;

		ResetLatch(MyLatch);
		es_process_check();
		/* Said before the look: an event that comes meanwhile sets the latch. */
		pg_atomic_write_u32(&self->asleep, 1);
		pg_memory_barrier();
		if (es_projections_run(&wait))
			continue;
		es_process_sleep(wait < 0 ? es_poll_interval : Min(wait, es_poll_interval), "EventStoreWorker");
	}
}

/* ---------------------------------------------------------------- the loop */

/*
 * Registers a coordinator. notify_pid is told when it starts and ends; a task that is not owned makes the postmaster
 * restart it. False: no free slot.
 */
bool
es_coordinator_start(const EsProcessTask *task, int notify_pid, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	es_worker_fill(&worker, "es_coordinator_main", "event_store coordinator", task, sizeof(EsProcessTask),
				   task->owned ? BGW_NEVER_RESTART : RESTART_TIME);
	snprintf(worker.bgw_name, BGW_MAXLEN, "event_store coordinator of database %u", task->database);
	worker.bgw_notify_pid = notify_pid;
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
	SetConfigOption("event_store.mark_wait", SETTLE_WAIT, PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", LOCK_TIMEOUT, PGC_SUSET, PGC_S_OVERRIDE);
	await_starter(&task.starter);

	/* Shared memory has let us in; where there is none, this lock does it. */
	if (!es_process_lock(0))
		proc_exit(0);
	while (!es_process_begin("starting"))
	{
		ResetLatch(MyLatch);
		es_process_check();
		es_process_sleep(100, "EventStoreCoordinator");
	}
	es_process_end();
	ereport(LOG, (errmsg("event_store coordinator of database %u started", MyDatabaseId)));
	pg_atomic_write_u64(&entry->sealed_position, 0);	/* perhaps of a store before this one */
	entry->ready = true;
	es_shared_wake_launcher();
	goal = GetCurrentTimestamp();
}

/* Asks to be woken by what comes from here on. */
static void
arm(void)
{
	pg_atomic_write_u32(&entry->coordinator.asleep, 1);
	pg_memory_barrier();
}

/* The rounds of the mark: when the next one is due. */
static struct
{
	bool		armed;			/* whoever has news wakes us */
	bool		pending;		/* there are news that no look has seen */
	bool		publish;		/* the last look, or round, did not reach the goal */
	TimestampTz last;			/* when the last one was */
	long		nap;			/* milliseconds from the last one to the next */
	TimestampTz poll;			/* look, whether there are news or not */
}			rounds;

/* Somebody has news for us: the pool hears of it at once, the mark when mark_interval has passed. */
static void
hear(void)
{
	wake_pool();
	count_soon = true;			/* perhaps it was a new projection */
	rounds.pending = true;
	rounds.nap = es_mark_interval;	/* perhaps it was the append that holds the mark back */
}

/* Looks, and publishes, when it is time to. */
static void
run_round(void)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		mark = state.mark;
	int64		last = state.last;

	if (!rounds.pending && !rounds.publish && now < rounds.poll)
		return;
	if (now < TimestampTzPlusMilliseconds(rounds.last, rounds.nap))
		return;

	arm();						/* before the look: nothing is missed */
	rounds.armed = true;
	rounds.pending = false;
	if (!rounds.publish)
		rounds.publish = perform(&looking, 0);
	if (rounds.publish && now >= publishing.next)
		rounds.publish = perform(&publishing, 0) || publishing.failing;
	if (state.mark > mark || state.last > last)
		wake_pool();			/* by a transaction that told nobody: COMMIT PREPARED */
	if (state.mark > mark || state.mark >= state.last)
		rounds.nap = es_mark_interval;
	else
		rounds.nap = Min(es_poll_interval, Max(rounds.nap * 2, es_mark_interval));
	rounds.last = now;
	at(&rounds.poll, es_poll_interval);
}

/* What has a pace of its own; returns when it wants to be called again at the latest. */
static TimestampTz
run_others(void)
{
	TimestampTz next = DT_NOEND;
	pid_t		pid;

	if (es_notify && notified != 0 && state.mark > notified)
	{
		(void) perform(&notifying, 0);
		if (state.mark > notified)
			next = earlier(next, notifying.next);
	}
	/* Whoever has drawn and is open keeps the mark below the newest position. */
	if (es_idle_append_timeout > 0 && state.mark < state.last)
	{
		(void) perform(&idle_appenders, Min(es_idle_append_timeout, IDLE_APPENDER_INTERVAL));
		next = earlier(next, idle_appenders.next);
	}
	if (perform(&partitions, PARTITION_INTERVAL))
		next = 0;
	if (es_key_purge_due() && perform(&keys, PURGE_INTERVAL))
		at(&keys.next, PURGE_INTERVAL / 10);
	(void) perform(&counting, TASKS_INTERVAL);
	if (count_soon)
		next = earlier(next, counting.next);
	if (entry != es_shared())
	{
		if (tasks > 0 && perform(&working, es_poll_interval))
			next = 0;
		if (es_seal_interval > 0 && perform(&sealing, es_seal_interval * 1000L))
			next = 0;
		return next;			/* neither a pool nor a taker would find us */
	}
	keep_pool();
	next = earlier(next, keep_sealing());

	if (snapshot_worker != NULL && GetBackgroundWorkerPid(snapshot_worker, &pid) == BGWH_STOPPED)
		forget_handle(&snapshot_worker);
	if (snapshot_worker == NULL && (int64) pg_atomic_read_u64(&entry->snapshot_position) < state.mark &&
		perform(&due, SNAPSHOT_INTERVAL))
		next = 0;
	return next;
}

/* Entry of the coordinator. */
void
es_coordinator_main(Datum arg)
{
	begin_coordinator();
	rounds.pending = true;
	for (;;)
	{
		TimestampTz now;
		TimestampTz next;

		ResetLatch(MyLatch);
		es_process_check();

		if (rounds.armed && pg_atomic_read_u32(&entry->coordinator.asleep) == 0)
		{
			rounds.armed = false;
			hear();
		}
		if (pg_atomic_read_u32(&entry->publish) != 0 && pg_atomic_exchange_u32(&entry->publish, 0) != 0)
		{
			goal = GetCurrentTimestamp();
			rounds.pending = true;
		}
		if (!listens)
			(void) perform(&listening, 0);
		if (notifyInterruptPending)
		{
			/* Our own are among them: they make us look once more, and find nothing. */
			ProcessNotifyInterrupt(false);
			pgstat_report_activity(STATE_IDLE, NULL);
			rounds.pending = true;
		}
		run_round();
		next = run_others();

		now = GetCurrentTimestamp();
		next = earlier(next, rounds.poll);
		if (rounds.pending || rounds.publish)
			next = earlier(next, TimestampTzPlusMilliseconds(rounds.last, rounds.nap));
		es_process_sleep(next <= now ? 0 : TimestampDifferenceMilliseconds(now, next), "EventStoreCoordinator");
	}
}
