/*
 * worker/pool.c
 *	  The pool: processes that do the work that another wing has registered.
 *
 * The coordinator counts the tasks and starts that many workers, but no more than event_store.max_workers. A worker that is
 * one too many ends by itself; one that fails is started again, after a longer time each time it fails. All of them
 * do the same: they have the work done that is due, and sleep until somebody has news.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"

PGDLLEXPORT void es_pool_worker(Datum arg);

/* Milliseconds. */
#define COUNT_INTERVAL		200		/* of counting the tasks */
#define RETRY_SLOT			5000	/* after there was no free slot */
#define FIRST_BACKOFF		500		/* after a worker failed; doubled each time */
#define LONGEST_BACKOFF		60000	/* also how long one must have run for the backoff to begin anew */

/* A worker of the pool, as its coordinator knows it. */
typedef struct Member
{
	EsChild		child;
	TimestampTz started;
	TimestampTz next;			/* not to be started before */
	int			failures;
	bool		told;			/* to go: its end is no failure */
} Member;

static const EsPoolWork *work = NULL;

static Member members[ES_SHARED_WORKERS];
static bool no_slot = false;	/* said so */
static int	tasks = 0;			/* as of the last count */
static bool count_soon = true;	/* that may have changed */

/* ---------------------------------------------------------------- in the coordinator */

static bool
count_tasks(void)
{
	if (!es_process_begin("counting the pool's tasks"))
		return false;
	count_soon = false;
	tasks = work->tasks();
	es_process_end();
	return false;
}

static EsDuty counting = {.name = "count the tasks of the pool",.run = count_tasks,.interval = COUNT_INTERVAL};

static void
start_member(int number, int wanted)
{
	Member	   *member = &members[number];

	member->child.function = "es_pool_worker";
	member->child.title = "event_store worker";
	if (es_child_start(&member->child, number))
	{
		member->started = GetCurrentTimestamp();
		member->told = false;
		if (no_slot)
			ereport(LOG, (errmsg("event_store coordinator could start workers again")));
		no_slot = es_process_entry()->no_worker_slot = false;
	}
	else
	{
		member->next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RETRY_SLOT);
		if (!no_slot)
			ereport(LOG,
					(errmsg("event_store coordinator found no free slot for a background worker"),
					 errdetail("%d of %d workers are running.", number, wanted),
					 errhint("Increase max_worker_processes, or decrease event_store.max_workers.")));
		no_slot = es_process_entry()->no_worker_slot = true;
	}
}

/* Notes that a worker that was wanted has ended: it failed, or was terminated. */
static void
note_failure(Member *member, TimestampTz now)
{
	if (TimestampDifferenceExceeds(member->started, now, LONGEST_BACKOFF))
		member->failures = 0;
	member->failures = Min(member->failures + 1, 16);
	member->next = TimestampTzPlusMilliseconds(now, Min(LONGEST_BACKOFF, (long) FIRST_BACKOFF << (member->failures - 1)));
}

/* Starts what is missing of the pool; those that are too many end by themselves. */
static void
fill_pool(int wanted)
{
	EsSharedDatabase *entry = es_process_entry();
	TimestampTz now = GetCurrentTimestamp();

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

		if (member->child.handle != NULL)
		{
			if (es_child_running(&member->child))
				continue;
			/* One that was told to go was perhaps not wanted for a moment only. */
			if (i < wanted && !member->told)
				note_failure(member, now);
		}
		if (i < wanted && entry->workers[i].pid == 0 && now >= member->next)
			start_member(i, wanted);
	}
}

static TimestampTz
keep_pool(void)
{
	(void) es_duty_perform(&counting);
	fill_pool(Min(es_max_workers, tasks));
	return count_soon ? counting.next : DT_NOEND;
}

/* Has a worker that sleeps look for work. */
void
es_pool_wake(void)
{
	es_shared_wake_one(es_process_entry(), NULL);
}

static void
hear(void)
{
	es_pool_wake();
	count_soon = true;			/* perhaps there is a new task */
}

/* Has the pool do this work; called once, when the library is loaded. */
void
es_pool_register(const EsPoolWork *its_work)
{
	static EsDuty keeping = {.name = "keep up the pool of workers",.keep = keep_pool,.hear = hear};

	Assert(work == NULL);
	work = its_work;
	es_duty_register(&keeping);
}

/* ---------------------------------------------------------------- the worker */

/* Entry of a worker. */
void
es_pool_worker(Datum arg)
{
	EsProcessTask task;
	EsSharedWorker *self;

	es_process_init(&task, ES_POOL_WORKER, work->lock_timeout);
	self = &es_process_entry()->workers[task.argument];
	(void) es_process_lock((int) task.argument + 1);	/* only to be seen */
	if (work->stop != NULL)
		es_process_at_stop(work->stop);
	for (;;)
	{
		long		wait = -1;

		ResetLatch(MyLatch);
		es_process_check();
		/* Said before the look: an event that comes meanwhile sets the latch. */
		pg_atomic_write_u32(&self->asleep, 1);
		pg_memory_barrier();
		if (work->run(&wait))
			continue;
		es_process_sleep(wait < 0 ? es_poll_interval : Min(wait, es_poll_interval), "EventStoreWorker");
	}
}
