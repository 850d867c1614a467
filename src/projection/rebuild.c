/*
 * projection/rebuild.c
 *	  Rebuilding a projection in shadow tables.
 *
 * A rebuild has a row in event_store.rebuilds, a checkpoint of its own and a schema with *shadow tables*, which are
 * made like the live ones and empty. The handler runs with that schema first in its search_path, and
 * projection/guard.c refuses to write to anything else. Rows of the shadow tables are committed with the checkpoint,
 * so after a crash a rebuild goes on where it was, unless the crash has emptied them (projection/shadow.c). The live
 * projection goes on meanwhile.
 *
 * When the shadow tables have nearly caught up, one transaction locks both checkpoints, brings the shadow tables up
 * to the mark and makes the live tables equal to them (projection/difference.c). Readers see the live tables as they
 * were before or as they are after that, never in between.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"
#include "log/log.h"
#include "consumer/consumer.h"
#include "projection/definition.h"
#include "projection/apply.h"
#include "projection/difference.h"
#include "projection/inline.h"
#include "projection/rebuild.h"
#include "projection/shadow.h"

PG_FUNCTION_INFO_V1(es_rebuild_projection);
PG_FUNCTION_INFO_V1(es_cancel_rebuild);

/* Events of a batch. (The projection's own batch_size is chosen for little lag, and a rebuild is to be fast.) */
#define REBUILD_BATCH		20000

/*
 * When it is no more positions behind the mark, the rebuild locks the live projection and does the rest in one step.
 */
#define CLOSE_ENOUGH		20000

/*
 * How long a worker waits for a lock in the last step. While it waits for the sequence of positions, or to truncate a
 * table, appends or readers queue behind it: without a limit, for as long as somebody else leaves a transaction open.
 */
#define FINISH_LOCK_TIMEOUT	"1s"

/* A row of event_store.rebuilds. */
typedef struct Rebuild
{
	char	   *name;
	char	   *handler;
	EsFilter	filter;
	bool		fast;
	EsStoredRole role;
	char	   *search_path;
	char	   *schema;
	bool		running;
	TimestampTz started_at;
} Rebuild;

/* The handler of the rebuild that this process works on, with its plans. */
static EsHandler *kept = NULL;
static char *kept_for = NULL;
static uint64 kept_generation = 0;

/* Reads the row of a rebuild into the current memory context; false when there is none. */
static bool
read_rebuild(const char *name, Rebuild *rebuild)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	EsSql		sql;
	bool		found;

	values[0] = CStringGetTextDatum(name);
	es_sql_begin(&sql, es_store()->owner);
	found = es_sql_run_args("SELECT handler, categories, event_types, fast, search_path, schema, state, started_at, "
							ES_ROLE_COLUMNS
							" FROM event_store.rebuilds WHERE projection = $1", 1, types, values, NULL) > 0;
	if (found)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		MemoryContext old = MemoryContextSwitchTo(caller);
		bool		all_categories;
		bool		all_types;
		Datum		categories;
		Datum		types_wanted;

		rebuild->name = pstrdup(name);
		rebuild->handler = es_sql_text(tuple, desc, 1);
		categories = es_sql_value(tuple, desc, 2, TEXTARRAYOID, &all_categories);
		types_wanted = es_sql_value(tuple, desc, 3, TEXTARRAYOID, &all_types);
		es_filter_read(&rebuild->filter, categories, all_categories, types_wanted, all_types);
		rebuild->fast = DatumGetBool(es_sql_value(tuple, desc, 4, BOOLOID, NULL));
		rebuild->search_path = es_sql_text(tuple, desc, 5);
		rebuild->schema = es_sql_text(tuple, desc, 6);
		rebuild->running = strcmp(es_sql_text(tuple, desc, 7), "running") == 0;
		rebuild->started_at = DatumGetTimestampTz(es_sql_value(tuple, desc, 8, TIMESTAMPTZOID, NULL));
		rebuild->role = es_role_read(tuple, desc, 9);
		MemoryContextSwitchTo(old);
	}
	es_sql_end(&sql);
	return found;
}

/*
 * The names of running rebuilds, in a memory context. They are cached, and read again when definitions have changed.
 */
List *
es_rebuilds(MemoryContext context)
{
	static List *names = NIL;
	static uint64 generation = 0;
	List	   *copy = NIL;
	ListCell   *lc;
	MemoryContext old;

	if (generation != es_projections_generation())
	{
		uint64		now = es_projections_generation();
		EsSql		sql;
		uint64		count;
		List	   *found = NIL;

		es_sql_begin(&sql, es_store()->owner);
		count = es_sql_run("SELECT projection FROM event_store.rebuilds WHERE state = 'running' ORDER BY 1");
		old = MemoryContextSwitchTo(TopMemoryContext);
		for (uint64 i = 0; i < count; i++)
			found = lappend(found, es_sql_text(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1));
		MemoryContextSwitchTo(old);
		es_sql_end(&sql);
		list_free_deep(names);
		names = found;
		generation = now;
	}
	old = MemoryContextSwitchTo(context);
	foreach(lc, names)
		copy = lappend(copy, pstrdup(lfirst(lc)));
	MemoryContextSwitchTo(old);
	return copy;
}

/* Drops a rebuild, if there is one, with its shadow tables. */
void
es_rebuild_forget(const char *name)
{
	Rebuild		rebuild;
	EsSql		sql;

	if (!read_rebuild(name, &rebuild))
		return;
	if (OidIsValid(get_namespace_oid(rebuild.schema, true)))
	{
		/* The tables belong to the projection's role, the schema to the store's owner. */
		es_sql_begin_unheard(&sql, es_store()->owner);
		es_pin_setting("client_min_messages", "warning");	/* no NOTICE about each table */
		es_sql_runf("DROP SCHEMA %s CASCADE", quote_identifier(rebuild.schema));
		es_sql_end(&sql);
	}
	es_projection_change("quarantined_streams", "DELETE FROM event_store.quarantined_streams WHERE projection = $1 AND rebuild", name);
	es_projection_change("checkpoints", "DELETE FROM event_store.checkpoints WHERE projection = $1 AND rebuild", name);
	es_projection_change("rebuilds", "DELETE FROM event_store.rebuilds WHERE projection = $1", name);
}

/* The schema of the shadow tables, and behind it the handler's own search_path. */
static char *
redirected_path(const char *schema, const char *search_path)
{
	return psprintf("%s, %s", quote_identifier(schema), search_path);
}

/* ---------------------------------------------------------------- es_rebuild_projection */

/* Runs the handler once without events. So a handler whose writes cannot be redirected is refused at once. */
static void
try_handler(const Rebuild *rebuild)
{
	EsHandler  *handler = es_handler_create(rebuild->handler, rebuild->role,
											redirected_path(rebuild->schema, rebuild->search_path), false,
											get_namespace_oid(rebuild->schema, false));

	PG_TRY();
	{
		es_handler_try(handler);
	}
	PG_FINALLY();
	{
		es_handler_free(handler);	/* the end of the transaction would not free it */
	}
	PG_END_TRY();
}

static void
store_rebuild(FunctionCallInfo fcinfo, EsProjection *projection, Rebuild *rebuild)
{
	Oid			types[11] = {TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, BOOLOID, TEXTOID, TEXTOID, TEXTOID, INT8OID,
	OIDOID, INT8OID};
	Datum		values[11];
	char		nulls[11];
	EsSql		sql;

	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(rebuild->name);
	values[1] = CStringGetTextDatum(rebuild->handler);
	for (int i = 2; i <= 3; i++)
	{
		values[i] = PG_ARGISNULL(i) ? (Datum) 0 : PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	values[4] = BoolGetDatum(rebuild->fast);
	values[5] = CStringGetTextDatum(rebuild->role.name);
	values[6] = CStringGetTextDatum(rebuild->search_path);
	values[7] = CStringGetTextDatum(rebuild->schema);
	values[8] = Int64GetDatum(projection->from_position);
	values[9] = ObjectIdGetDatum(rebuild->role.oid);
	values[10] = Int64GetDatum(rebuild->role.system);
	es_sql_begin(&sql, es_store()->owner);
	es_journal_change(sql.saved_user, NULL, "rebuilds",
					  "INSERT INTO event_store.rebuilds (projection, handler, categories, event_types, fast, role,"
					  " search_path, schema, state, started_at, role_oid, role_system)"
					  " SELECT $1, $2, coalesce($3, categories),"
					  " coalesce($4, event_types), $5, $6, $7, $8, 'running', clock_timestamp(), $10, $11"
					  " FROM event_store.projections WHERE name = $1", 11, types, values, nulls);
	es_sql_write_args("checkpoints",
					  "INSERT INTO event_store.checkpoints (projection, rebuild, position, scan_from, counted_after)"
					  " VALUES ($1, true, $9, $9 + 1, $9)", 11, types, values, nulls);
	es_sql_end(&sql);
	CommandCounterIncrement();
}

/* es_rebuild_projection(name, handler, categories, event_types, fast) */
Datum
es_rebuild_projection(PG_FUNCTION_ARGS)
{
	EsProjection *projection;
	List	   *tables = NIL;
	List	   *relids = NIL;
	ListCell   *lc;
	Rebuild		rebuild;

	(void) es_store_now();
	if (!PG_ARGISNULL(1) || !PG_ARGISNULL(2) || !PG_ARGISNULL(3))
		es_check_may_define("es_rebuild_projection()");
	projection = es_projection_begin_change(fcinfo, "es_rebuild_projection()");
	es_filter_check_arguments(fcinfo, 2, 3);
	if (PG_ARGISNULL(4))
		es_null_argument("fast");
	if (projection->side_effects)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("projection \"%s\" has side effects and cannot be rebuilt", projection->name),
				 errdetail("They would happen again.")));
	if (projection->tables == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has no list of tables", projection->name),
				 errdetail("A rebuild must know which tables to build beside the live ones."),
				 errhint("Drop it, empty its tables, and create it anew with the argument tables.")));
	memset(&rebuild, 0, sizeof(rebuild));
	rebuild.name = pstrdup(projection->name);
	rebuild.fast = PG_GETARG_BOOL(4);
	if (PG_ARGISNULL(1))
	{
		rebuild.handler = pstrdup(projection->handler_text);
		rebuild.role = es_role_copy(projection->role);
		rebuild.search_path = pstrdup(projection->search_path);
	}
	else
	{
		rebuild.handler = text_to_cstring(PG_GETARG_TEXT_PP(1));
		rebuild.role = es_role_current();
		rebuild.search_path = es_registered_path();
		es_handler_check(rebuild.handler, rebuild.role, rebuild.search_path, false);
	}
	rebuild.schema = es_shadow_schema();
	foreach(lc, projection->tables)
	{
		Oid			relid = es_table_oid(lfirst(lc));

		/* Now, and not when all the work is done. */
		es_check_replica_identity(relid);
		if (rebuild.fast)
			es_difference_check_fast(lfirst(lc));
		tables = lappend(tables, pstrdup(lfirst(lc)));
		relids = lappend_oid(relids, relid);
	}
	es_projection_check_tables(rebuild.name, relids);

	es_rebuild_forget(rebuild.name);	/* an earlier rebuild is replaced */
	es_shadow_make(rebuild.name, rebuild.schema, rebuild.role, tables);
	try_handler(&rebuild);
	store_rebuild(fcinfo, es_projection_get(rebuild.name), &rebuild);
	es_role_depend(rebuild.role.oid);
	es_projection_changed();
	PG_RETURN_VOID();
}

/* es_cancel_rebuild(name) -> whether there was one */
Datum
es_cancel_rebuild(PG_FUNCTION_ARGS)
{
	EsProjection *projection = es_projection_begin_change(fcinfo, "es_cancel_rebuild()");
	char	   *name = pstrdup(projection->name);
	Rebuild		rebuild;
	bool		found = read_rebuild(name, &rebuild);

	es_rebuild_forget(name);
	if (found)
		es_journal_note("es_cancel_rebuild", "projection", name, NULL, NULL);
	es_projection_changed();
	PG_RETURN_BOOL(found);
}

/* ---------------------------------------------------------------- running a rebuild */

static EsHandler *
handler_of(const Rebuild *rebuild)
{
	uint64		generation = es_projections_generation();

	if (kept != NULL && (kept_generation != generation || strcmp(kept_for, rebuild->name) != 0))
	{
		es_handler_free(kept);
		kept = NULL;
		pfree(kept_for);
	}
	if (kept == NULL)
	{
		Oid			schema = get_namespace_oid(rebuild->schema, false);

		kept_for = MemoryContextStrdup(TopMemoryContext, rebuild->name);
		kept_generation = generation;
		kept = es_handler_create(rebuild->handler, rebuild->role,
								 redirected_path(rebuild->schema, rebuild->search_path), false, schema);
	}
	return kept;
}

/*
 * Stops a rebuild. The shadow tables stay, so that one can look at them, until the rebuild is resumed, cancelled or
 * replaced.
 */
static void
stop_rebuild(const char *name, const char *error, bool patient)
{
	es_projection_change("rebuilds", "UPDATE event_store.rebuilds SET state = 'failed' WHERE projection = $1", name);
	es_projection_changed();
	ereport(patient ? LOG : WARNING,
			(errmsg("rebuild of projection \"%s\" has failed: %s", name, error),
			 errdetail("The live tables are as they were."),
			 errhint("SELECT es_resume(%s), es_rebuild_projection() or es_cancel_rebuild().",
					 quote_literal_cstr(name))));
}

/* Sets a rebuild back to its beginning: its shadow tables are empty. */
static void
begin_anew(const char *name)
{
	es_projection_change("quarantined_streams", "DELETE FROM event_store.quarantined_streams WHERE projection = $1 AND rebuild", name);
	es_projection_change("checkpoints",
						 "UPDATE event_store.checkpoints c SET position = p.from_position, scan_from = p.from_position + 1,"
						 " events = 0, upcasters = NULL, failures = 0, quarantined = 0, attempts = 0, retry_at = NULL, error = NULL,"
						 " error_code = NULL, error_position = NULL FROM event_store.projections p"
						 " WHERE p.name = $1 AND c.projection = $1 AND c.rebuild", name);
	ereport(LOG,
			(errmsg("rebuild of projection \"%s\" begins anew", name),
			 errdetail("A crash has emptied its tables: they are unlogged, because all tables are published.")));
}

typedef struct Finish
{
	const Rebuild *rebuild;
	EsTask	   *task;
	EsResult	result;			/* of the last batch */
	bool		done;
} Finish;

/* The definition, the checkpoint and the quarantine of the rebuild become those of the projection. */
static void
replace_definition(const Rebuild *rebuild)
{
	const char *name = rebuild->name;

	es_projection_change("projections",
						 "UPDATE event_store.projections p SET handler = r.handler, categories = r.categories,"
						 " event_types = r.event_types, role = r.role, role_oid = r.role_oid, role_system = r.role_system,"
						 " search_path = r.search_path, stale = false,"
						 " state = CASE p.state WHEN 'failed' THEN 'running' ELSE p.state END"
						 " FROM event_store.rebuilds r WHERE p.name = $1 AND r.projection = $1", name);
	es_projection_change("quarantined_streams",
						 "DELETE FROM event_store.quarantined_streams WHERE projection = $1 AND NOT rebuild", name);
	es_projection_change("quarantined_streams", "UPDATE event_store.quarantined_streams SET rebuild = false WHERE projection = $1", name);
	es_projection_change("checkpoints",
						 "UPDATE event_store.checkpoints c SET position = r.position, scan_from = r.scan_from,"
						 " failures = r.failures, quarantined = r.quarantined, attempts = 0, retry_at = NULL, error = NULL, error_code = NULL,"
						 " error_position = NULL, counted_after = r.counted_after, counted_events = c.events - r.events,"
						 " upcasters = r.upcasters"
						 " FROM event_store.checkpoints r"
						 " WHERE c.projection = $1 AND NOT c.rebuild AND r.projection = $1 AND r.rebuild", name);
	es_rebuild_forget(name);
	es_projection_changed();
}

/*
 * The last step: locks the live projection, brings the shadow tables up to the mark, and makes the live tables equal
 * to them. It is put off, with finish->done false, when the mark that can be found now is older than the position of
 * the live projection.
 */
static void
finish(void *arg)
{
	Finish	   *finish = arg;
	EsTask	   *task = finish->task;
	EsCheckpoint live;
	EsProjection *projection;
	Snapshot	snapshot;
	int64		mark;

	finish->done = false;
	if (!es_checkpoint_lock(finish->rebuild->name, false, true, &live))
		return;
	projection = es_projection_get(finish->rebuild->name);
	if (projection->is_inline)
	{
		mark = es_inline_lock();
		snapshot = RegisterSnapshot(GetLatestSnapshot());
	}
	else
		snapshot = es_mark_snapshot_inside(&mark);
	if (mark < live.cursor.position && !projection->is_inline)
	{
		UnregisterSnapshot(snapshot);
		return;
	}
	do
	{
		CHECK_FOR_INTERRUPTS();
		finish->result = es_apply(task, snapshot, mark);
		if (finish->result == ES_LATER || finish->result == ES_FAILED)
		{
			UnregisterSnapshot(snapshot);
			return;
		}
	} while (task->more);
	UnregisterSnapshot(snapshot);

	if (projection->is_inline)
	{
		es_inline_check_quarantine(finish->rebuild->name, true);
		es_checkpoint_upcasters(finish->rebuild->name, true, &finish->rebuild->filter);
	}
	es_difference_apply(es_run_as_role(finish->rebuild->role), finish->rebuild->search_path, finish->rebuild->schema,
						projection->tables, finish->rebuild->fast);
	ES_FAULT(before_switch);
	replace_definition(finish->rebuild);
	finish->done = true;
}

/*
 * Runs one step of a rebuild in the open transaction. The checkpoint of the rebuild is locked. True: there is more to
 * do. *ended: the rebuild is finished or has failed.
 */
static bool
step(Rebuild *rebuild, EsTask *task, bool *ended)
{
	Snapshot	snapshot;
	int64		mark;
	EsResult	result;
	ErrorData  *error;
	EsCheckpoint before = *task->checkpoint;
	Finish		last = {rebuild, task, ES_NOTHING, false};
	int			level;

	*ended = false;
	if (!OidIsValid(get_namespace_oid(rebuild->schema, true)))
	{
		/* The handler would write to the live tables. */
		stop_rebuild(rebuild->name, psprintf("schema \"%s\" does not exist", rebuild->schema), task->patient);
		*ended = true;
		return false;
	}
	if (es_shadow_was_emptied(rebuild->schema))
	{
		begin_anew(rebuild->name);
		task->events = 0;
		return true;			/* with the checkpoint that was set back */
	}
	es_shadow_keep_private(rebuild->schema, rebuild->role, es_projection_get(rebuild->name)->tables);
	task->filter = &rebuild->filter;
	task->handler = handler_of(rebuild);
	task->write_idle = true;
	task->limit = Max(REBUILD_BATCH, 1);
	task->limit = Min(task->limit, es_max_batch);
	task->max = es_max_batch;

	snapshot = es_mark_snapshot_inside(&mark);
	if (task->checkpoint->cursor.position + CLOSE_ENOUGH < mark)
	{
		result = es_apply(task, snapshot, mark);
		UnregisterSnapshot(snapshot);
		if (result == ES_FAILED)
		{
			stop_rebuild(rebuild->name, task->error, task->patient);
			*ended = true;
		}
		return result == ES_APPLIED;
	}
	UnregisterSnapshot(snapshot);

	level = NewGUCNestLevel();
	if (task->patient)
		es_pin_setting("lock_timeout", FINISH_LOCK_TIMEOUT);
	error = es_catch(finish, &last);
	AtEOXact_GUC(false, level);
	if (error != NULL)
	{
		*task->checkpoint = before;
		/* The projection is inline, and the caller's transaction has appended: the rebuild is not to blame. */
		if (!task->patient && error->sqlerrcode == ERRCODE_ACTIVE_SQL_TRANSACTION)
			ReThrowError(error);
		if (es_apply_may_pass(error))
		{
			/* It could not get a lock, or there was a deadlock: the rebuild is not to blame. */
			if (!task->patient)
				ReThrowError(error);
			es_apply_failed(task->checkpoint, error);
			return false;
		}
		es_apply_failed(task->checkpoint, error);
		stop_rebuild(rebuild->name, error->message, task->patient);
	}
	else if (last.result == ES_FAILED)
		stop_rebuild(rebuild->name, task->error, task->patient);
	*ended = error != NULL || last.result == ES_FAILED || last.done;
	return false;
}

/*
 * Runs one step of a rebuild, in a worker and in a transaction of its own. True: there is more to do at once. Else
 * *wake_at is when to run the next step, if that is known and earlier.
 */
bool
es_rebuild_step(const char *name, TimestampTz *wake_at)
{
	EsCheckpoint checkpoint;
	EsTask		task;
	Rebuild		rebuild;
	bool		more = false;
	bool		ended = false;

	if (!es_process_begin(psprintf("rebuild of projection %s", name)))
		return false;
	memset(&task, 0, sizeof(task));
	task.patient = true;
	task.checkpoint = &checkpoint;
	if (es_checkpoint_lock(name, true, false, &checkpoint) && read_rebuild(name, &rebuild) && rebuild.running)
	{
		if (checkpoint.retry_at > GetCurrentTimestamp())
			*wake_at = *wake_at == 0 ? checkpoint.retry_at : Min(*wake_at, checkpoint.retry_at);
		else
		{
			more = step(&rebuild, &task, &ended);
			if (!more && !ended)
			{
				TimestampTz soon = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 10);

				*wake_at = *wake_at == 0 ? soon : Min(*wake_at, soon);
			}
		}
	}
	es_process_end();
	return more;
}

/* Runs a rebuild in the foreground, in the open transaction, if possible to its end. Returns the number of events. */
int64
es_rebuild_run(const char *name, int64 max_batches)
{
	EsCheckpoint checkpoint;
	EsTask		task;
	Rebuild		rebuild;
	int64		events = 0;
	bool		ended = false;

	memset(&task, 0, sizeof(task));
	task.checkpoint = &checkpoint;
	for (int64 batches = 0; !ended && (max_batches == 0 || batches < max_batches); batches++)
	{
		bool		more;

		CHECK_FOR_INTERRUPTS();
		if (!es_checkpoint_lock(name, true, true, &checkpoint) || !read_rebuild(name, &rebuild) || !rebuild.running)
			break;
		more = step(&rebuild, &task, &ended);
		events += task.events;
		if (!more && !ended)
			break;				/* the mark is held back */
	}
	return events;
}
