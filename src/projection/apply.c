/*
 * projection/apply.c
 *	  Applying a batch to a projection's tables, exactly once.
 *
 * The handler, the checkpoint and the quarantine make their changes in one subtransaction of the caller's
 * transaction. At first the handler gets all of the batch at once. When that fails, the kind of the error decides
 * (kind_of()). An error that may pass, or that would come with every event, ends the attempt: the former is never an event's,
 * however often it comes. After any other error
 * the subtransaction is rolled back and the batch is done again with care: the handler gets all calls, then halves,
 * halves of these and so on, each in a subtransaction of its own, until the call that fails is alone. That call is
 * quarantined (projection/quarantine.c), and the others are applied. A handler that works on single calls but not on
 * several at once is found out in the same way, and still works.
 *
 * A handler for which one call after the other fails, with none in between that does not, is taken to be broken: then
 * nothing is quarantined, the checkpoint stays, and the projection stops.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"
#include "projection/apply.h"
#include "projection/quarantine.h"

/* After so many failed calls in a row a handler is taken to be broken. */
#define MAX_FAILURES		10

/* After so many attempts at a batch a worker gives up, unless the error may pass. */
#define BROKEN_ATTEMPTS		4

/* The positions before a batch in which events are looked for that the handler can be tried with, and how many. */
#define TRIAL_DISTANCE		1000
#define TRIAL_EVENTS		10

/* Pauses between attempts, in milliseconds: doubled each time. */
#define FIRST_PAUSE			100
#define LONGEST_PAUSE		60000

typedef enum ErrorKind
{
	OF_THE_EVENT,				/* caused by the event: other events can be applied */
	MAY_PASS,					/* caused by something else: the next attempt may succeed */
	OF_THE_HANDLER				/* every event would cause it */
} ErrorKind;

/* One attempt at a batch, in a subtransaction. */
typedef struct Attempt
{
	EsTask	   *task;
	Snapshot	snapshot;
	int64		upto;
	bool		careful;
	int64		group;			/* not 0: applies this group of quarantined streams instead of a batch */
	int			attempts;		/* at this group, so far */
	EsBatch    *batch;
	EsQuarantine *quarantine;
	int			failures;
	List	   *quarantined_calls;	/* QuarantinedCall *, reported when the attempt has succeeded */
	int64		events;
	bool		broken;			/* the handler was taken to be broken, although the error looked like an event's */
	int			of_data;		/* errors of class 42 are taken to be events': 1 or -1; 0: not known yet */
	int			of_data_count;	/* calls quarantined for one */
	ErrorData  *of_data_error;	/* the last one */
	bool		nothing;
} Attempt;

typedef struct QuarantinedCall
{
	int64		position;		/* of its first event */
	char	   *message;
} QuarantinedCall;

static ErrorKind
kind_of(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK):
		case ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES):
		case ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR):
		case ERRCODE_TO_CATEGORY(ERRCODE_CONNECTION_EXCEPTION):		/* these two come from another server */
		case ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION):
			return MAY_PASS;
		case ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR):
		case ERRCODE_TO_CATEGORY(ERRCODE_INVALID_SCHEMA_NAME):
		case ERRCODE_TO_CATEGORY(ERRCODE_FEATURE_NOT_SUPPORTED):
			return OF_THE_HANDLER;
		default:
			if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE || error->sqlerrcode == ERRCODE_OBJECT_IN_USE)
				return MAY_PASS;
			/* A range of the log is not attached, or the store was changed; a table or an index is damaged. */
			if (error->sqlerrcode == ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE ||
				error->sqlerrcode == ERRCODE_DATA_CORRUPTED || error->sqlerrcode == ERRCODE_INDEX_CORRUPTED)
				return OF_THE_HANDLER;
			return OF_THE_EVENT;
	}
}

/* Whether neither the events nor the handler caused an error, so that the same may succeed later. */
bool
es_apply_may_pass(const ErrorData *error)
{
	return kind_of(error) == MAY_PASS;
}

/*
 * The events of the calls from .. to - 1 that are not left out. Where these are all events of the batch, its own
 * tuplestore is returned.
 */
static Tuplestorestate *
rows_of(EsBatch *batch, int64 from, int64 to, int64 *count)
{
	Tuplestorestate *rows;
	TupleTableSlot *slot;
	int64		first = batch->calls[from];
	int64		last = batch->calls[to - 1];

	*count = 0;
	for (int64 i = 0; i < batch->count; i++)
		*count += !batch->events[i].left_out && batch->events[i].key >= first && batch->events[i].key <= last;
	if (*count == batch->count || *count == 0)
		return batch->rows;

	rows = tuplestore_begin_heap(false, false, work_mem);
	slot = MakeSingleTupleTableSlot(batch->desc, &TTSOpsMinimalTuple);
	tuplestore_rescan(batch->rows);
	for (int64 i = 0; tuplestore_gettupleslot(batch->rows, true, false, slot); i++)
	{
		EsBatchEvent *event = &batch->events[i];

		if (!event->left_out && event->key >= first && event->key <= last)
			tuplestore_puttupleslot(rows, slot);
	}
	ExecDropSingleTupleTableSlot(slot);
	return rows;
}

typedef struct Piece
{
	Attempt    *attempt;
	int64		from;			/* calls from .. to - 1 */
	int64		to;
	int64		events;
	MemoryContext context;
} Piece;

/* Runs the handler on some calls of a batch. */
static void
run_piece(void *arg)
{
	Piece	   *piece = arg;
	EsBatch    *batch = piece->attempt->batch;
	MemoryContext old = MemoryContextSwitchTo(piece->context);
	Tuplestorestate *rows = rows_of(batch, piece->from, piece->to, &piece->events);

	if (piece->events > 0)
		es_handler_run(piece->attempt->task->handler, rows, batch->desc, piece->events);
	if (rows != batch->rows)
		tuplestore_end(rows);
	MemoryContextSwitchTo(old);
}

static void
note_quarantined(Attempt *attempt, int64 call, const ErrorData *error)
{
	EsBatch    *batch = attempt->batch;
	QuarantinedCall *quarantined = palloc(sizeof(QuarantinedCall));

	es_batch_members(batch);
	quarantined->position = batch->events[batch->members[batch->starts[call]]].position;
	quarantined->message = pstrdup(error->message);
	attempt->quarantined_calls = lappend(attempt->quarantined_calls, quarantined);
}

/* Reports what was quarantined. Called when no later failure can roll that back. */
static void
report_quarantined(const Attempt *attempt)
{
	ListCell   *lc;

	foreach(lc, attempt->quarantined_calls)
	{
		QuarantinedCall *quarantined = lfirst(lc);

		ereport(attempt->task->patient ? LOG : WARNING,
				(errmsg("projection \"%s\"%s cannot apply the event at position %lld: %s",
						attempt->task->checkpoint->projection,
						attempt->task->checkpoint->rebuild ? " (rebuild)" : "",
						(long long) quarantined->position, quarantined->message),
				 errdetail("The streams of its call are quarantined; everything else goes on."),
				 errhint("See event_store.quarantine, and es_retry_quarantined.")));
	}
}

/* ---------------------------------------------------------------- class 42 */

/*
 * Class 42 (syntax error or access rule violation) is mostly the handler's. But some types raise it for bad values: tsquery, ltree.
 */
static bool
is_class_42(const ErrorData *error)
{
	return ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR);
}

static void
try_handler(void *handler)
{
	es_handler_try(handler);
}

/* Whether an error of class 42 may be an event's: the handler works on a batch without events. */
static bool
may_be_of_data(Attempt *attempt, const ErrorData *error)
{
	if (!is_class_42(error))
		return false;
	if (attempt->of_data == 0)
		attempt->of_data = es_catch(try_handler, attempt->task->handler) == NULL ? 1 : -1;
	return attempt->of_data > 0;
}

typedef struct Trial
{
	Attempt    *attempt;
	bool		worked;
} Trial;

/* Runs the handler on some events before the batch. */
static void
try_earlier(void *arg)
{
	Trial	   *trial = arg;
	EsTask	   *task = trial->attempt->task;
	int64		upto = task->checkpoint->cursor.position;
	EsCursor	from = {Max(upto - TRIAL_DISTANCE, 0), Max(upto - TRIAL_DISTANCE, 0) + 1};
	EsBatch    *batch = es_batch_read(task->filter, es_handler_columns(task->handler), trial->attempt->snapshot, &from, upto,
									  TRIAL_EVENTS, TRIAL_EVENTS, true);
	Piece		piece = {trial->attempt, 0, batch->call_count, 0, CurrentMemoryContext};
	EsBatch    *own = trial->attempt->batch;

	trial->attempt->batch = batch;
	PG_TRY();
	{
		if (batch->call_count > 0)
			run_piece(&piece);
		trial->worked = piece.events > 0;
	}
	PG_FINALLY();
	{
		trial->attempt->batch = own;
	}
	PG_END_TRY();
	es_batch_free(batch);
}

/*
 * All calls of a batch have failed with class 42, and none worked. If no earlier event works either, the handler is broken. (One that
 * was applied already may well fail for another reason, a key that is there.) What is tried is rolled back.
 */
static void
check_works_at_all(Attempt *attempt)
{
	Trial		trial = {attempt, false};
	ErrorData  *error;

	if (attempt->group != 0 || attempt->of_data_count == 0 || attempt->events > 0 ||
		attempt->of_data_count < list_length(attempt->quarantined_calls))
		return;
	error = es_catch_and_roll_back(try_earlier, &trial);
	if (error == NULL ? trial.worked : !is_class_42(error))
		return;
	attempt->broken = true;
	ReThrowError(attempt->of_data_error);
}

/* ---------------------------------------------------------------- pieces */

/* Quarantines a call that failed. After too many in a row, the handler is broken and the attempt ends. */
static void
quarantine_call(Attempt *attempt, int64 call, ErrorData *error)
{
	if (++attempt->failures >= MAX_FAILURES)
	{
		attempt->broken = true;
		ReThrowError(error);
	}
	if (is_class_42(error))
	{
		attempt->of_data_count++;
		attempt->of_data_error = error;
	}
	note_quarantined(attempt, call, error);
	(void) es_quarantine_add(attempt->quarantine, attempt->batch, call, error);
}

/* Throws a caught error again where the event did not cause it: to quarantine the call would be wrong. */
static void
check_kind(Attempt *attempt, ErrorData *error)
{
	if (kind_of(error) != OF_THE_EVENT && !may_be_of_data(attempt, error))
		ReThrowError(error);
}

/*
 * Runs a piece in a subtransaction; returns its error. What it allocates is freed, also after an error: a batch can
 * have thousands of pieces.
 */
static ErrorData *
try_piece(Piece *piece)
{
	ErrorData  *error;

	piece->context = AllocSetContextCreate(CurrentMemoryContext, "event_store piece", ALLOCSET_DEFAULT_SIZES);
	error = es_catch(run_piece, piece);
	MemoryContextDelete(piece->context);
	return error;
}

/* Applies the calls from .. to - 1 with care: a call that fails alone is quarantined. */
static void
apply_calls(Attempt *attempt, int64 from, int64 to)
{
	Piece		piece = {attempt, from, to, 0, NULL};
	ErrorData  *error;
	int64		middle = from + (to - from) / 2;

	if (from >= to)
		return;
	CHECK_FOR_INTERRUPTS();
	error = try_piece(&piece);
	if (error == NULL)
	{
		attempt->events += piece.events;
		if (piece.events > 0)
			attempt->failures = 0;
		return;
	}
	check_kind(attempt, error);
	if (to - from == 1)
		quarantine_call(attempt, from, error);
	else
	{
		apply_calls(attempt, from, middle);
		apply_calls(attempt, middle, to);
	}
	if (error != attempt->of_data_error)
		FreeErrorData(error);
}

/*
 * Applies all calls of the batch with care, in order. A call with an event that cannot be upcast is quarantined when
 * all calls before it have been applied: so that calls in between that do not fail are noticed, and the handler is
 * not taken to be broken.
 */
static void
apply_with_care(Attempt *attempt)
{
	EsBatch    *batch = attempt->batch;
	ErrorData **failures = MemoryContextAllocExtended(CurrentMemoryContext,
													  sizeof(ErrorData *) * Max(batch->call_count, 1),
													  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	int64		from = 0;

	for (int64 i = 0; i < batch->count; i++)
		if (batch->events[i].failure != NULL && !batch->events[i].left_out)
		{
			int64		call = es_batch_call(batch, batch->events[i].key);

			check_kind(attempt, batch->events[i].failure);
			if (failures[call] == NULL)
				failures[call] = batch->events[i].failure;
		}
	es_batch_members(batch);
	for (int64 call = 0; call < batch->call_count; call++)
		if (failures[call] != NULL)
		{
			apply_calls(attempt, from, call);
			from = call + 1;
			/* It may have been quarantined meanwhile, behind another call that failed. */
			if (!batch->events[batch->members[batch->starts[call]]].left_out)
				quarantine_call(attempt, call, failures[call]);
		}
	apply_calls(attempt, from, batch->call_count);
}

/* Takes a group of streams out of the quarantine, and reads their events up to the checkpoint. */
static void
take_quarantined(Attempt *attempt)
{
	EsCheckpoint *checkpoint = attempt->task->checkpoint;
	Oid			types[3] = {TEXTOID, BOOLOID, INT8OID};
	Datum		values[3];
	EsSql		sql;
	uint64		count;
	int64	   *streams;
	int64	   *positions;

	values[0] = CStringGetTextDatum(checkpoint->projection);
	values[1] = BoolGetDatum(checkpoint->rebuild);
	values[2] = Int64GetDatum(attempt->group);
	es_sql_begin(&sql, es_store()->owner);
	count = es_sql_write_args("quarantined_streams",
							  "DELETE FROM event_store.quarantined_streams WHERE projection = $1 AND rebuild = $2"
							  " AND together = $3 RETURNING stream, position, attempts", 3, types, values, NULL);
	streams = SPI_palloc(sizeof(int64) * Max(count, 1));
	positions = SPI_palloc(sizeof(int64) * Max(count, 1));
	for (uint64 i = 0; i < count; i++)
	{
		streams[i] = DatumGetInt64(es_sql_value(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, INT8OID, NULL));
		positions[i] = DatumGetInt64(es_sql_value(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2, INT8OID, NULL));
		attempt->attempts = Max(attempt->attempts,
								DatumGetInt32(es_sql_value(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 3, INT4OID, NULL)));
	}
	es_sql_end(&sql);
	CommandCounterIncrement();
	attempt->batch = es_batch_of_streams(attempt->task->filter, es_handler_columns(attempt->task->handler),
										 attempt->snapshot, streams, positions, count, checkpoint->cursor.position, true);
}

/* One attempt: reads the batch, runs the handler, stores what came of it. */
static void
attempt_batch(void *arg)
{
	Attempt    *attempt = arg;
	EsTask	   *task = attempt->task;
	EsCheckpoint *checkpoint = task->checkpoint;
	EsCheckpoint after = *checkpoint;
	EsBatch    *batch;
	bool		passed;			/* events, applied or not */

	attempt->failures = checkpoint->failures;
	if (attempt->group != 0)
	{
		attempt->failures = 0;
		take_quarantined(attempt);
	}
	else
		attempt->batch = es_batch_read(task->filter, es_handler_columns(task->handler), attempt->snapshot,
									   &checkpoint->cursor, attempt->upto, task->limit, task->max, attempt->careful);
	batch = attempt->batch;
	if (batch->call_count == 0 && attempt->group == 0 && !task->write_idle && !batch->more)
	{
		attempt->nothing = true;
		task->next = batch->next;
		es_batch_free(batch);
		return;
	}

	attempt->quarantine = es_quarantine_load(checkpoint->projection, checkpoint->rebuild, checkpoint->quarantined > 0,
											 attempt->attempts);
	(void) es_quarantine_apply(attempt->quarantine, batch, 0);
	if (batch->call_count > 0)
	{
		if (attempt->careful)
		{
			apply_with_care(attempt);
			check_works_at_all(attempt);
		}
		else
		{
			Piece		piece = {attempt, 0, batch->call_count, 0, CurrentMemoryContext};

			run_piece(&piece);
			attempt->events = piece.events;
			if (piece.events > 0)
				attempt->failures = 0;
		}
	}
	es_quarantine_save(attempt->quarantine);
	CommandCounterIncrement();

	if (attempt->group == 0)
		after.cursor = batch->next;
	after.failures = attempt->failures;
	/* It has come through what may have crashed the server; what is in quarantine says nothing of that. */
	after.suspect = checkpoint->suspect && (attempt->group != 0 || batch->more);
	after.begun = 0;
	after.quarantined = es_quarantine_count(attempt->quarantine);
	ES_FAULT(before_checkpoint);
	passed = attempt->group != 0 || after.cursor.position > checkpoint->cursor.position;
	es_checkpoint_save(&after, attempt->events, passed || task->ahead != NULL ? batch->upcasters : NULL,
					   task->ahead != NULL && memcmp(task->ahead, batch->upcasters, ES_DIGEST_LEN) != 0);
	CommandCounterIncrement();
	ES_FAULT(after_checkpoint);
	task->more = batch->more;
	task->split = attempt->careful && attempt->group == 0 && attempt->quarantined_calls == NIL && batch->call_count > 1;
	*checkpoint = after;
	es_batch_free(batch);		/* now, because its temporary files belong to this subtransaction */
}

static long
pause_after(int attempts)
{
	return attempts > 9 ? LONGEST_PAUSE : Min(FIRST_PAUSE << attempts, LONGEST_PAUSE);
}

/* Stores that an attempt has failed, why, and when to make the next one. */
void
es_apply_failed(EsCheckpoint *checkpoint, const ErrorData *error)
{
	checkpoint->attempts++;
	checkpoint->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), pause_after(checkpoint->attempts - 1));
	es_checkpoint_fail(checkpoint, error, checkpoint->cursor.scan_from);
}

/*
 * Makes one attempt, and a second one with care where that may help. Returns NULL, or the error: then nothing is
 * changed.
 */
static ErrorData *
run_attempts(Attempt *attempt)
{
	EsTask	   *task = attempt->task;
	EsCheckpoint before = *task->checkpoint;
	ErrorData  *error = NULL;

	for (;;)
	{
		attempt->batch = NULL;
		attempt->quarantined_calls = NIL;
		attempt->events = 0;
		attempt->broken = attempt->nothing = false;
		attempt->of_data_count = 0;
		attempt->of_data_error = NULL;
		error = es_catch(attempt_batch, attempt);
		if (error == NULL)
			return NULL;
		*task->checkpoint = before;
		if (attempt->careful || (kind_of(error) != OF_THE_EVENT && !may_be_of_data(attempt, error)))
			return error;
		attempt->careful = true;
	}
}

/*
 * Applies the next batch of events, up to a position. The snapshot must show all events up to it. Whatever is returned,
 * the transaction can go on. With ES_LATER and ES_FAILED nothing was applied, and the checkpoint's row says why.
 */
EsResult
es_apply(EsTask *task, Snapshot snapshot, int64 upto)
{
	EsCheckpoint *checkpoint = task->checkpoint;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_store apply", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Attempt		attempt;
	ErrorData  *error;
	EsResult	result;

	task->events = 0;
	task->more = task->split = false;
	task->error = NULL;
	task->error_code = 0;
	task->next = checkpoint->cursor;
	memset(&attempt, 0, sizeof(attempt));
	attempt.task = task;
	attempt.snapshot = snapshot;
	attempt.upto = upto;
	/* The mark may be older than the one that the checkpoint was moved to. */
	if (upto <= checkpoint->cursor.position)
		result = ES_NOTHING;
	else if ((error = run_attempts(&attempt)) == NULL)
	{
		report_quarantined(&attempt);
		task->events = attempt.events;
		result = attempt.nothing ? ES_NOTHING : ES_APPLIED;
	}
	else
	{
		ErrorKind	kind = attempt.broken ? OF_THE_HANDLER : kind_of(error);

		if (kind == MAY_PASS && !task->patient)
			ReThrowError(error);
		es_apply_failed(checkpoint, error);
		result = kind != MAY_PASS && (!task->patient || checkpoint->attempts >= BROKEN_ATTEMPTS) ? ES_FAILED : ES_LATER;
		task->error = MemoryContextStrdup(old, error->message);
		task->error_code = error->sqlerrcode;
	}
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return result;
}

/*
 * Applies the quarantined events of a group of streams, in order. What fails again is quarantined again, with one
 * attempt more. Returns the number of events applied.
 */
int64
es_apply_quarantined(EsTask *task, int64 group)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_store apply", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Attempt		attempt;

	memset(&attempt, 0, sizeof(attempt));
	attempt.task = task;
	attempt.snapshot = RegisterSnapshot(GetLatestSnapshot());
	attempt.group = group;
	attempt.careful = true;
	attempt_batch(&attempt);
	report_quarantined(&attempt);
	UnregisterSnapshot(attempt.snapshot);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return attempt.events;
}
