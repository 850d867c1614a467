/*
 * worker/duty.c
 *	  What the coordinator does now and then, as other wings have registered it.
 *
 * Every process that loads the library registers the same duties in the same order. So a duty's number is the same in all
 * of them, and with it the place of its word in shared memory.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/coordinator.h"
#include "worker/worker.h"

/* Milliseconds. */
#define RETRY_LOCK			500		/* after a lock was not to be had */
#define RETRY_DUTY			5000	/* after another error */
#define LOCK_PATIENCE		1000	/* that no lock was to be had, before it is noted */

static EsDuty *duties[ES_SHARED_WORDS];
static int	count = 0;
static EsTroubleNote note = NULL;

/* To be called when the library is loaded. The duty is done behind those that are registered already. */
void
es_duty_register(EsDuty *duty)
{
	if (count == ES_SHARED_WORDS)
		elog(ERROR, "too many duties");
	duty->number = count;
	duties[count++] = duty;
}

/*
 * The word in shared memory that belongs to a registered duty, in this database: for what a session or a process of its own
 * has to tell it. It is 0 until somebody writes to it, and outlives a coordinator. NULL: there is no shared memory for
 * this database.
 */
pg_atomic_uint64 *
es_duty_word(const EsDuty *duty)
{
	EsSharedDatabase *entry = es_shared();

	return entry == NULL ? NULL : &entry->words[duty->number];
}

/*
 * Writes to a duty's word from a process that the duty has started. That process does not keep the database's place in
 * shared memory: once the coordinator has ended, it may be another's, and there may be none left.
 */
void
es_duty_tell(const EsDuty *duty, uint64 word)
{
	pg_atomic_uint64 *to = es_duty_word(duty);

	if (to != NULL)
		pg_atomic_write_u64(to, word);
}

/* Sets how trouble is noted; called once, when the library is loaded. */
void
es_duty_on_trouble(EsTroubleNote its_note)
{
	note = its_note;
}

/* Notes trouble, or its end. Errors are ignored: what cannot be written is in the log. */
static bool
try_note(const char *duty, const ErrorData *error)
{
	volatile bool noted = false;

	if (note == NULL)
		return true;
	PG_TRY();
	{
		noted = note(duty, error);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(TopMemoryContext);
		FlushErrorState();
		es_process_abort();
	}
	PG_END_TRY();
	return noted;
}

/* After an error of a duty. */
static void
note_trouble(EsDuty *duty, const ErrorData *error)
{
	if (duty->noted)
		return;
	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE &&
		!TimestampDifferenceExceeds(duty->failing_since, GetCurrentTimestamp(), LOCK_PATIENCE))
		return;
	duty->noted = try_note(duty->name, error);
}

/*
 * Does a duty, not before it is time for it; when it has no more to do, it is time again after its interval. Returns what
 * the duty does. An error is logged when it is the first in a row.
 */
bool
es_duty_perform(EsDuty *duty)
{
	volatile bool more = false;
	volatile bool done = false;
	volatile int retry = 0;

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
		if (!duty->failing)
			duty->failing_since = GetCurrentTimestamp();
		duty->failing = true;
		note_trouble(duty, error);
		retry = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ? RETRY_LOCK : RETRY_DUTY;
		FreeErrorData(error);
	}
	PG_END_TRY();
	if (done && duty->failing)
	{
		duty->failing = false;
		ereport(LOG, (errmsg("event_store coordinator could %s again", duty->name)));
	}
	if (done && duty->noted && try_note(duty->name, NULL))
		duty->noted = false;
	if (!more)
	{
		int			pause = !done ? retry : duty->pace != NULL ? duty->pace() : duty->interval;

		duty->next = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), pause);
	}
	return more;
}

static bool
wanted(EsDuty *duty)
{
	return duty->wanted == NULL || duty->wanted();
}

/* Sees to one duty; returns when to do so again at the latest. */
static TimestampTz
run_duty(EsDuty *duty)
{
	if (duty->keep != NULL)
		return duty->keep();
	if (!wanted(duty))
		return DT_NOEND;
	if (es_duty_perform(duty))
		return DT_NOBEGIN;
	return duty->punctual && wanted(duty) ? duty->next : DT_NOEND;
}

/* A coordinator begins. What an earlier one has noted is over, or will be noted again. */
void
es_duties_begin(void)
{
	(void) try_note(NULL, NULL);
	for (int i = 0; i < count; i++)
		if (duties[i]->begin != NULL)
			duties[i]->begin();
}

/* Somebody has news for the coordinator. */
void
es_duties_hear(void)
{
	for (int i = 0; i < count; i++)
		if (duties[i]->hear != NULL)
			duties[i]->hear();
}

/* Does what is due; returns when to do so again at the latest. */
TimestampTz
es_duties_run(void)
{
	TimestampTz next = DT_NOEND;

	for (int i = 0; i < count; i++)
	{
		TimestampTz its_next = run_duty(duties[i]);

		next = Min(next, its_next);
	}
	return next;
}
