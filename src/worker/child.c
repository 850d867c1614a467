/*
 * worker/child.c
 *	  The processes that a coordinator starts: the workers of the pool, and those that a duty keeps.
 *
 * The end of one sets the coordinator's latch. A child that an earlier coordinator has started is none of this one's: it
 * sees that its coordinator is gone, and goes too (worker/process.c).
 */
#include "postgres.h"

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "worker/worker.h"

/* Whether the process that was started last is still there. */
bool
es_child_running(EsChild *child)
{
	pid_t		pid;

	if (child->handle == NULL)
		return false;
	if (GetBackgroundWorkerPid(child->handle, &pid) != BGWH_STOPPED)
		return true;
	pfree(child->handle);
	child->handle = NULL;
	return false;
}

/* Starts it, while it is not running. False: there is no free slot. */
bool
es_child_start(EsChild *child, int64 argument)
{
	EsProcessTask task;
	bool		started;
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);

	memset(&task, 0, sizeof(task));
	task.database = MyDatabaseId;
	task.argument = argument;
	started = es_worker_start(child->function, child->title, &task, sizeof(task), &child->handle);
	if (!started)
		child->handle = NULL;
	MemoryContextSwitchTo(old);
	return started;
}
