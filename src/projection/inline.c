/*
 * projection/inline.c
 *	  Inline projections: the handler runs inside of the append, and its error refuses the append.
 *
 * There is no checkpoint to move: appends would queue for its row. Instead no append is under way when a projection
 * becomes inline or ceases to be: the change takes ShareLock on the sequence of positions, which waits for all who have
 * drawn one and keeps others from drawing until it commits. An append looks whether there are inline projections only
 * after it has drawn; if it had to wait for the lock, it has heard of the change by then.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "projection/definition.h"
#include "projection/checkpoint.h"
#include "projection/inline.h"
#include "projection/run.h"

static void
say_which(void *arg)
{
	errcontext("inline projection \"%s\"", (char *) arg);
}

static void
run_one(EsProjection *projection, int64 first, int64 last)
{
	Snapshot	snapshot;
	EsHandler  *handler;
	EsBatch    *batch;
	ErrorContextCallback context;

	/* Its beginning may be still to come, or within this call. */
	first = Max(first, projection->from_position + 1);
	if (first > last)
		return;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	handler = es_projection_handler(projection);
	batch = es_batch_of_call(&projection->filter, es_handler_columns(handler), snapshot, first, last);
	UnregisterSnapshot(snapshot);
	context.callback = say_which;
	context.arg = projection->name;
	context.previous = error_context_stack;
	error_context_stack = &context;
	if (batch->count > 0)
		es_handler_run(handler, batch->rows, batch->desc, batch->count);
	error_context_stack = context.previous;
	es_batch_free(batch);
}

/* Runs the inline projections on a call that was just written, in order of their names. */
void
es_inline_run(int64 first, int64 last)
{
	int			count;
	EsProjection *projections;

	if (!es_has_inline_projections())
		return;
	CommandCounterIncrement();
	projections = es_projections(&count);
	for (int i = 0; i < count; i++)
		if (projections[i].is_inline)
			run_one(&projections[i], first, last);
}

/*
 * Waits for all appends that are under way and keeps others from beginning, until the end of the transaction. Returns
 * the last position drawn: everything up to it is settled.
 */
int64
es_inline_lock(void)
{
	if (es_transaction_first_position() != 0)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a projection cannot become inline, or cease to be, in a transaction that has appended events")));
	LockRelationOid(es_store()->position_seq, ShareLock);
	return es_position_last();
}

static void
set_mode(const char *name, const char *statement, int64 position)
{
	Oid			types[2] = {TEXTOID, INT8OID};
	Datum		values[2];
	EsSql		sql;

	values[0] = CStringGetTextDatum(name);
	values[1] = Int64GetDatum(position);
	es_sql_begin(&sql, es_store()->owner);
	es_sql_run_args("UPDATE event_store.checkpoints c SET position = greatest($2, p.from_position),"
					" scan_from = greatest($2, p.from_position) + 1 FROM event_store.projections p"
					" WHERE p.name = $1 AND c.projection = $1 AND NOT c.rebuild", 2, types, values, NULL);
	es_sql_run_args(statement, 2, types, values, NULL);
	es_sql_end(&sql);
	es_projection_changed();
}

/*
 * Refuses an inline projection with parked streams: their later events would be applied before the parked ones. Of the
 * projection itself, or of its rebuild.
 */
void
es_inline_check_quarantine(const char *name, bool rebuild)
{
	Oid			types[2] = {TEXTOID, BOOLOID};
	Datum		values[2];
	EsSql		sql;
	char	   *stream = NULL;
	MemoryContext caller = CurrentMemoryContext;

	values[0] = CStringGetTextDatum(name);
	values[1] = BoolGetDatum(rebuild);
	es_sql_begin(&sql, es_store()->owner);
	if (es_sql_run_args("SELECT h.name FROM event_store.quarantine q JOIN event_store.heads h ON h.id = q.stream"
						" WHERE q.projection = $1 AND q.rebuild = $2 ORDER BY q.position LIMIT 1",
						2, types, values, NULL) > 0)
		stream = MemoryContextStrdup(caller, SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	es_sql_end(&sql);
	if (stream != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has parked stream \"%s\"", name, stream),
				 errdetail("Inline, it would apply the stream's later events before those that are parked."),
				 errhint("Put right what is wrong with its events or its handler first; an async projection has es_retry_quarantined.")));
}

/*
 * Brings a projection up to date and makes it inline. The checkpoint is locked. The long way without keeping appends
 * from their work, the rest with.
 */
void
es_inline_begin(const char *name)
{
	int64		last;

	if (es_transaction_first_position() == 0)
		(void) es_projection_catch_up(name, PG_INT64_MAX);
	last = es_inline_lock();
	(void) es_projection_catch_up(name, last);
	es_inline_check_quarantine(name, false);
	set_mode(name, "UPDATE event_store.projections SET mode = 'inline' WHERE name = $1 AND $2 >= 0", last);
}

/* Makes a projection async from here on. */
void
es_inline_end(const char *name)
{
	set_mode(name, "UPDATE event_store.projections SET mode = 'async' WHERE name = $1 AND $2 >= 0", es_inline_lock());
}
