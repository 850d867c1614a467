/*
 * projection/control.c
 *	  What an operator does with a projection: pause it, resume it, try again or skip what is in quarantine, change its mode,
 *	  drop it. (consumer/control.c has those that subscriptions have too.)
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"
#include "consumer/consumer.h"
#include "projection/apply.h"
#include "projection/control.h"
#include "projection/definition.h"
#include "projection/inline.h"
#include "projection/rebuild.h"
#include "projection/run.h"

PG_FUNCTION_INFO_V1(es_drop_projection);
PG_FUNCTION_INFO_V1(es_set_projection_mode);

/* ---------------------------------------------------------------- pausing */

/* Changes the state of a projection, whose checkpoint is locked. $2 and $3 are until and reason; NULL: none. */
static void
change_state(const char *action, const char *statement, const char *name, TimestampTz until, const char *reason)
{
	Oid			types[3] = {TEXTOID, TIMESTAMPTZOID, TEXTOID};
	Datum		values[3];
	char		nulls[3] = {' ', ' ', ' '};
	EsSql		sql;

	values[0] = CStringGetTextDatum(name);
	values[1] = TimestampTzGetDatum(until);
	if (until == DT_NOEND)
		nulls[1] = 'n';
	values[2] = reason == NULL ? (Datum) 0 : CStringGetTextDatum(reason);
	if (reason == NULL)
		nulls[2] = 'n';
	es_sql_begin(&sql, es_store()->owner);
	es_journal_reasoned(sql.saved_user, action, reason, "projections", statement, 3, types, values, nulls);
	es_sql_end(&sql);
	es_projection_changed();
}

static void
pause_projection(char *name, TimestampTz until, const char *reason)
{
	if (es_projection_lock(name)->is_inline)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("an inline projection cannot be paused"),
				 errdetail("It would miss what is appended meanwhile."),
				 errhint("Make it async first: SELECT es_set_projection_mode(%s, 'async').", quote_literal_cstr(name))));
	change_state("es_pause", "UPDATE event_store.projections SET state = 'paused', paused_until = $2, pause_reason = $3"
				 " WHERE name = $1", name, until, reason);
}

/* Also makes a failed projection, or a failed rebuild of it, try again. */
static void
resume_projection(char *name)
{
	(void) es_projection_lock(name);
	es_projection_change("checkpoints",
						 "UPDATE event_store.checkpoints SET attempts = 0, failures = 0, retry_at = NULL, error = NULL,"
						 " error_code = NULL, error_position = NULL WHERE projection = $1", name);
	es_projection_change("rebuilds", "UPDATE event_store.rebuilds SET state = 'running' WHERE projection = $1", name);
	change_state("es_resume", "UPDATE event_store.projections SET state = 'running', paused_until = NULL, pause_reason = NULL"
				 " WHERE name = $1 AND $2 IS NULL AND $3 IS NULL", name, DT_NOEND, NULL);
}

/* ---------------------------------------------------------------- quarantine */

/* The groups of streams that are in quarantine, or that of one stream, in the current memory context. */
static int64 *
find_groups(const char *name, text *stream, uint64 *count)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	char		nulls[2] = {' ', ' '};
	int64	   *groups;
	EsSql		sql;

	values[0] = CStringGetTextDatum(name);
	values[1] = PointerGetDatum(stream);
	if (stream == NULL)
		nulls[1] = 'n';
	es_sql_begin(&sql, es_store()->owner);
	*count = es_sql_run_args("SELECT DISTINCT q.together FROM event_store.quarantined_streams q"
							 " JOIN event_store.heads h ON h.id = q.stream WHERE q.projection = $1 AND NOT q.rebuild"
							 " AND ($2 IS NULL OR h.name = $2) ORDER BY 1", 2, types, values, nulls);
	groups = MemoryContextAllocHuge(caller, sizeof(int64) * Max(*count, 1));
	for (uint64 i = 0; i < *count; i++)
	{
	
		groups[i] = DatumGetInt64(es_sql_value(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, INT8OID, NULL));
	}
	es_sql_end(&sql);
	return groups;
}

/* Applies what is in quarantine; returns the number of events. */
static int64
retry_projection(char *name, text *stream)
{
	EsCheckpoint checkpoint;
	EsProjection *projection;
	EsTask		task;
	int64	   *groups;
	uint64		count;
	int64		events = 0;

	(void) es_projection_get_running(name);
	(void) es_checkpoint_lock(name, false, true, &checkpoint);
	projection = es_projection_get_running(name);
	groups = find_groups(name, stream, &count);
	if (count == 0 && stream != NULL)
		es_consumer_not_quarantined("projection", name, text_to_cstring(stream));

	memset(&task, 0, sizeof(task));
	task.checkpoint = &checkpoint;
	task.filter = &projection->filter;
	task.handler = es_projection_handler(projection);
	for (uint64 i = 0; i < count; i++)
		events += es_apply_quarantined(&task, groups[i]);
	return events;
}

/*
 * Takes events of a stream out of the quarantine without applying them; returns their number. What the stream has behind
 * them stays there, and so do the other streams of its group: with the error of this one, where none of them has its own.
 */
static int64
skip_projection(char *name, text *stream, int64 upto)
{
	EsCheckpoint checkpoint;
	EsProjection *projection = es_projection_lock(name);
	EsSkip		skip = {0};
	int64		id = 0;
	int64		events = 0;
	Oid			types[5] = {TEXTOID, TEXTOID, INT8OID, INT8OID, INT8OID};
	Datum		values[5];
	bool		found;
	bool		detached;
	EsSql		sql;

	(void) es_checkpoint_lock(name, false, true, &checkpoint);
	values[0] = CStringGetTextDatum(name);
	values[1] = PointerGetDatum(stream);
	es_sql_begin(&sql, es_store()->owner);
	found = es_sql_run_args("SELECT q.stream::bigint, q.position::bigint, q.events::bigint, l.version::bigint"
							" FROM event_store.quarantined_streams q JOIN event_store.heads h ON h.id = q.stream"
							" LEFT JOIN event_store.log l ON l.position = q.position"
							" WHERE q.projection = $1 AND NOT q.rebuild AND h.name = $2", 2, types, values, NULL) > 0;
	if (found)
	{
		id = DatumGetInt64(es_sql_first(1, INT8OID, NULL));
		skip.position = DatumGetInt64(es_sql_first(2, INT8OID, NULL));
		events = DatumGetInt64(es_sql_first(3, INT8OID, NULL));
		skip.version = DatumGetInt64(es_sql_first(4, INT8OID, &detached));
	}
	es_sql_end(&sql);
	if (!found)
		es_consumer_not_quarantined("projection", name, text_to_cstring(stream));
	/* A call that reaches beyond the checkpoint was not given to the projection yet. */
	es_consumer_find_skip(&projection->filter, stream, upto, checkpoint.cursor.position, true, &skip);

	types[1] = INT8OID;
	values[1] = Int64GetDatum(id);
	values[2] = Int64GetDatum(skip.left);
	values[3] = Int64GetDatum(skip.position);
	es_sql_begin(&sql, es_store()->owner);
	if (skip.position != 0)
		es_sql_write_args("quarantined_streams",
						  "UPDATE event_store.quarantined_streams SET position = $4, events = $3"
						  " WHERE projection = $1 AND NOT rebuild AND stream = $2", 4, types, values, NULL);
	else
		es_sql_write_args("quarantined_streams",
						  "WITH gone AS (DELETE FROM event_store.quarantined_streams"
						  " WHERE projection = $1 AND NOT rebuild AND stream = $2 RETURNING *)"
						  " UPDATE event_store.quarantined_streams q"
						  " SET error = g.error, error_code = g.error_code, error_position = g.error_position FROM gone g"
						  " WHERE g.error IS NOT NULL AND q.projection = g.projection AND NOT q.rebuild"
						  " AND q.together = g.together AND q.stream <> g.stream AND NOT EXISTS ("
						  "SELECT FROM event_store.quarantined_streams e WHERE e.projection = g.projection AND NOT e.rebuild"
						  " AND e.together = g.together AND e.stream <> g.stream AND e.error IS NOT NULL)",
						  4, types, values, NULL);
	/* es_check() counts: what is skipped is neither applied nor in quarantine. */
	values[2] = Int64GetDatum(events - skip.left);
	values[4] = Int64GetDatum(skip.position == 0 ? 1 : 0);
	es_sql_write_args("checkpoints",
					  "UPDATE event_store.checkpoints SET counted_events = counted_events - $3,"
					  " quarantined = quarantined - $5 WHERE projection = $1 AND NOT rebuild", 5, types, values, NULL);
	es_sql_end(&sql);
	return skip.skipped;
}

/* ---------------------------------------------------------------- the others */

/* Its tables stay as they are. */
Datum
es_drop_projection(PG_FUNCTION_ARGS)
{
	EsProjection *projection = es_projection_begin_change(fcinfo, "es_drop_projection()");
	char	   *name = pstrdup(projection->name);

	es_rebuild_forget(name);
	es_projection_change("quarantined_streams", "DELETE FROM event_store.quarantined_streams WHERE projection = $1", name);
	es_projection_change("checkpoints", "DELETE FROM event_store.checkpoints WHERE projection = $1", name);
	es_projection_change("projections", "DELETE FROM event_store.projections WHERE name = $1", name);
	es_projection_changed();
	PG_RETURN_VOID();
}

/* es_set_projection_mode(name, mode): without a gap or a double. */
Datum
es_set_projection_mode(PG_FUNCTION_ARGS)
{
	bool		to_inline = es_projection_inline_argument(fcinfo, 1);
	EsProjection *projection = es_projection_begin_change(fcinfo, "es_set_projection_mode()");
	char	   *name = pstrdup(projection->name);

	if (projection->is_inline == to_inline)
		PG_RETURN_VOID();
	if (to_inline && projection->side_effects)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an inline projection cannot have side effects"),
				 errdetail("It runs inside of the append, which may be rolled back and tried again.")));
	if (to_inline && !es_projection_runs(projection))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" is %s", name, projection->failed ? "failed" : "paused"),
				 errhint("Resume it first: SELECT es_resume(%s).", quote_literal_cstr(name))));
	if (to_inline)
	{
		/* A pause that has ended. */
		es_projection_change("projections", "UPDATE event_store.projections SET state = 'running', paused_until = NULL,"
							 " pause_reason = NULL WHERE name = $1 AND state = 'paused'", name);
		es_inline_begin(name);
	}
	else
		es_inline_end(name);
	PG_RETURN_VOID();
}

/* Called once, when the library is loaded. */
void
es_projection_control_init(void)
{
	static const EsConsumerKind kind = {
		"projection", pause_projection, resume_projection, retry_projection, skip_projection
	};

	es_consumer_register(&kind);
}
