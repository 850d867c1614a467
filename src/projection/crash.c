/*
 * projection/crash.c
 *	  Projections during whose run the server crashes.
 *
 * A handler can kill its backend: a C function with a bug, or one that needs more memory than the machine has. Then the server
 * begins anew, with all that was in memory forgotten, and the workers would run the same batch again, for ever.
 *
 * So before the first batch of a projection after a worker began, it is committed and flushed that an attempt begins (column begun).
 * The batch's commit takes that back, with the checkpoint. A worker that finds an attempt that has not ended, from before the last time
 * that shared memory was made anew and by the same postmaster, knows that the server crashed during it. (If it was only this worker that
 * ended, or the server was stopped, shared memory or the postmaster tells so.)
 *
 * That need not have been this projection's fault. But it becomes *suspect*: it is run alone in the database, in single events, after
 * event_store.crash_delay, until it has caught up. A crash while it is alone is its own. The second one within an hour stops it.
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"
#include "projection/crash.h"

#define MAX_CRASHES		2		/* while it was alone, each at most an hour after the one before */

/* The projections that this process has begun an attempt at, by the hash of their names. */
static HTAB *begun = NULL;

static bool *
begun_entry(const EsProjection *projection, HASHACTION action)
{
	if (begun == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = sizeof(uint64);
		ctl.entrysize = sizeof(uint64);
		ctl.hcxt = TopMemoryContext;
		begun = hash_create("event_store attempts", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	return hash_search(begun, &projection->task.key.hash[0], action, NULL);
}

/* Notes that the server crashed during an attempt. */
static EsAttempt
note_crash(EsCheckpoint *checkpoint, const EsProjection *projection)
{
	TimestampTz crash = es_handout_made_at();

	if (checkpoint->suspect)
	{
		checkpoint->crashes = checkpoint->crashed_at != 0 && crash - checkpoint->crashed_at < USECS_PER_HOUR ?
			checkpoint->crashes + 1 : 1;
		checkpoint->crashed_at = crash;
	}
	checkpoint->suspect = true;
	checkpoint->begun = 0;
	checkpoint->retry_at = crash + es_crash_delay * USECS_PER_SEC;
	ereport(LOG,
			(errmsg("the server crashed while projection \"%s\" was run", projection->name),
			 errdetail("It was run alone for %d of these crashes.", checkpoint->crashes),
			 errhint("It will be run alone in its database, in single events.")));
	if (checkpoint->crashes >= MAX_CRASHES)
	{
		checkpoint->suspect = false;
		checkpoint->crashes = 0;
		checkpoint->retry_at = 0;
		es_checkpoint_attempt(checkpoint);
		return ES_ATTEMPT_FAILED;
	}
	es_checkpoint_attempt(checkpoint);
	return ES_ATTEMPT_LATER;
}

/*
 * Before a batch, in a worker: decides whether it may be run now, and stores that it is if need be. The checkpoint is locked.
 */
EsAttempt
es_attempt_begin(EsCheckpoint *checkpoint, const EsProjection *projection)
{
	bool		mine = begun_entry(projection, HASH_FIND) != NULL;

	if (checkpoint->begun != 0 && !mine && checkpoint->begun >= PgStartTime && checkpoint->begun < es_handout_made_at())
		return note_crash(checkpoint, projection);
	if (checkpoint->suspect && !es_task_alone())
		return ES_ATTEMPT_ALONE;
	if (mine && (checkpoint->begun != 0 || !checkpoint->suspect))
		return ES_ATTEMPT_NOW;
	(void) begun_entry(projection, HASH_ENTER);
	checkpoint->begun = GetCurrentTimestamp();
	es_checkpoint_attempt(checkpoint);
	return ES_ATTEMPT_BEGUN;
}

/* After a batch. A suspect commits an attempt before each of them. */
void
es_attempt_end(const EsProjection *projection, bool suspect)
{
	if (suspect)
		(void) begun_entry(projection, HASH_REMOVE);
}
