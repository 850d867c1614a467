/*
 * state/snapshot_worker.c
 *	  Takes a snapshot where the version of an event is a multiple of its aggregate's snapshot_every.
 *
 * The coordinator reads new events, up to the mark, and looks for such versions, which is cheap. When it finds one,
 * it starts a process, the snapshot worker, which takes the snapshots from there up to the mark: folding may be slow,
 * and runs stored text. How far both have come is noted in shared memory only. After a restart the coordinator begins
 * at the mark. Loads request the snapshots that were missed (state/snapshot_request.c).
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"
#include "state/snapshot_request.h"

PGDLLEXPORT void es_snapshot_worker_main(Datum arg);

/* Positions that one look goes through at most. */
#define LOOK_POSITIONS	5000

#define SNAPSHOT_INTERVAL	1000	/* milliseconds, of the coordinator's looks */

/* How many streams a worker remembers, so that a stream with several such versions gets only one snapshot. */
#define REMEMBERED		10000

/* What is registered, for the length of a look. */
typedef struct Every
{
	int32		category;
	int			every;
} Every;

typedef struct Taken
{
	int64		stream;
	int64		version;		/* of the newest snapshot taken in this run */
} Taken;

/* Categories that have an aggregate, with events. */
static int
read_aggregates(Every **result)
{
	MemoryContext context = CurrentMemoryContext;
	EsSql		sql;
	int			count;

	es_sql_begin(&sql, es_store()->owner);
	/* The table is read by SQL alone, and its owner can alter it: the code behind this divides by the number. */
	count = es_sql_run("SELECT c.id, a.snapshot_every::integer FROM event_store.aggregates a"
					   " JOIN event_store.categories c ON c.name = a.category WHERE a.snapshot_every > 0");
	*result = MemoryContextAlloc(context, sizeof(Every) * Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];

		(*result)[i].category = DatumGetInt32(es_sql_value(row, SPI_tuptable->tupdesc, 1, INT4OID, NULL));
		(*result)[i].every = DatumGetInt32(es_sql_value(row, SPI_tuptable->tupdesc, 2, INT4OID, NULL));
	}
	es_sql_end(&sql);
	return count;
}

/*
 * Finds the first event at which a snapshot should be taken, among those after one position and up to another, but
 * not much more than LOOK_POSITIONS of them. Returns its position, and in *stream its stream's name, in a memory
 * context. If there is none, *stream is NULL, and the position up to which it has looked is returned.
 */
static int64
next_wanted(MemoryContext context, int64 after, int64 upto, text **stream, int64 *id, int64 *version)
{
	Every	   *aggregates;
	int			count = read_aggregates(&aggregates);
	EsScan	   *scan;
	TupleTableSlot *slot;
	int64		position = 0;

	*stream = NULL;
	if (count == 0 || after >= upto)
		return upto;
	scan = es_scan_create(RegisterSnapshot(GetLatestSnapshot()));
	upto = es_scan_step(scan->snapshot, after, LOOK_POSITIONS, upto);
	scan->filter_categories = true;
	for (int i = 0; i < count; i++)
		scan->categories = bms_add_member(scan->categories, aggregates[i].category);
	es_scan_positions(scan, after, upto);
	while (*stream == NULL && (slot = es_scan_next(scan)) != NULL)
	{
		MemoryContext old = CurrentMemoryContext;
		int32		category = DatumGetInt32(es_row_column(slot, Anum_log_category));

		*version = DatumGetInt64(es_row_column(slot, Anum_log_version));
		for (int i = 0; i < count; i++)
			if (aggregates[i].category == category && *version % aggregates[i].every == 0)
			{
				position = DatumGetInt64(es_row_column(slot, Anum_log_position));
				*id = DatumGetInt64(es_row_column(slot, Anum_log_stream));
				MemoryContextSwitchTo(context);
				*stream = DatumGetTextPCopy(PointerGetDatum(es_scan_stream_name(scan, *id)));
				MemoryContextSwitchTo(old);
				break;
			}
	}
	es_scan_end(scan);
	return *stream != NULL ? position : upto;
}

/* ---------------------------------------------------------------- the coordinator's duty */

static bool snapshots_wanted(void);
static bool look_for_snapshots(void);

/* The word of this duty in shared memory is the position up to where snapshots have been taken; 0: not known. */
static EsDuty looking = {.name = "look for snapshots that are due",.run = look_for_snapshots,
.wanted = snapshots_wanted,.interval = SNAPSHOT_INTERVAL};

static EsChild snapshot_worker = {"es_snapshot_worker_main", "event_store snapshot taker"};

/* Whether there are events behind which nobody has looked. */
static bool
snapshots_wanted(void)
{
	static bool checked = false;
	pg_atomic_uint64 *word = es_duty_word(&looking);
	const EsMarkState *published = es_published_mark();
	int64		position = pg_atomic_read_u64(word);

	if (published->floor == 0)
		return false;			/* the coordinator has not looked at the mark yet */
	if (!checked)
	{
		/*
		 * Not known yet, or of a store that was dropped. What came while there was no coordinator is looked at, so it
		 * begins with the mark as it was before this coordinator published.
		 */
		if (position == 0 || position > Max(published->last, 1))
			pg_atomic_write_u64(word, position = Max(es_first_published_mark(), 1));
		checked = true;
	}
	return !es_child_running(&snapshot_worker) && position < published->mark;
}

/* The duty: looks whether a snapshot should be taken, and starts a snapshot worker for that. */
static bool
look_for_snapshots(void)
{
	pg_atomic_uint64 *word = es_duty_word(&looking);
	int64		position = pg_atomic_read_u64(word);
	int64		mark = es_published_mark()->mark;
	text	   *stream;
	int64		id;
	int64		version;

	if (!es_process_begin("looking for snapshots that are due"))
		return false;
	/* If there is an error, go on after the events that have caused it. */
	pg_atomic_write_u64(word, Max(mark, 1));
	position = next_wanted(CurrentMemoryContext, position, mark, &stream, &id, &version);
	es_process_end();

	/* The worker begins before that event, so that it finds it again. */
	if (stream != NULL)
		position--;
	pg_atomic_write_u64(word, position);
	if (stream != NULL)
		(void) es_child_start(&snapshot_worker, position);
	return stream == NULL && position < mark;
}

/* Called once, when the library is loaded. */
void
es_snapshot_worker_init(void)
{
	es_duty_register(&looking);
}

/* ---------------------------------------------------------------- the worker */

/* Takes one snapshot in a transaction of its own; an error is logged and the stream passed over. */
static void
take(text *stream, int64 id, HTAB *taken)
{
	MemoryContext context = CurrentMemoryContext;
	volatile int64 version = 0;

	PG_TRY();
	{
		if (es_process_begin("taking a snapshot"))
		{
			version = es_take_snapshot(stream, PG_INT64_MAX);
			if (version > 0)
				es_counter_add("snapshots_taken", 1);
			es_process_end();
		}
	}
	PG_CATCH();
	{
		static bool logged = false;
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		es_process_abort();
		ereport(logged ? DEBUG1 : LOG,
				(errmsg("could not take a snapshot of stream \"%s\": %s", text_to_cstring(stream), error->message),
				 errdetail("Loads of it replay more events.")));
		logged = true;
		version = PG_INT64_MAX; /* not once more in this run */
	}
	PG_END_TRY();
	if (version > 0)
	{
		Taken	   *row = hash_search(taken, &id, HASH_ENTER, NULL);

		row->version = version;
	}
}

/* Entry point of the worker: takes snapshots from a position on, until it has reached the mark. */
void
es_snapshot_worker_main(Datum arg)
{
	EsProcessTask task;
	HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(Taken)};
	HTAB	   *taken = hash_create("event_store snapshots taken", 256, &ctl, HASH_ELEM | HASH_BLOBS);
	MemoryContext cycle;
	int64		position;

	es_process_init(&task, ES_DUTY_WORKER, 1000);
	position = task.argument;
	cycle = CurrentMemoryContext;
	for (;;)
	{
		text	   *stream = NULL;
		int64		id = 0;
		int64		version = 0;
		EsMarkState state;
		Taken	   *known;

		es_process_check();
		if (!es_process_begin("looking for snapshots that are due"))
			break;
		es_mark_state(&state);
		position = next_wanted(cycle, position, state.mark, &stream, &id, &version);
		es_process_end();

		if (stream != NULL)
		{
			known = hash_search(taken, &id, HASH_FIND, NULL);
			if (known == NULL || known->version < version)
				take(stream, id, taken);
		}
		if (hash_get_num_entries(taken) >= REMEMBERED)
		{
			hash_destroy(taken);
			taken = hash_create("event_store snapshots taken", 256, &ctl, HASH_ELEM | HASH_BLOBS);
		}
		es_duty_tell(&looking, position);
		if (stream == NULL && position >= state.mark)
			break;
	}
	pgstat_report_stat(true);
	proc_exit(0);
}
