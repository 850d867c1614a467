/*
 * projection/inline.c
 *	  Inline projections: the handler runs inside of the append, and its error is the append's error.
 *
 * An inline projection has no checkpoint that moves: all appends would queue for its row. Instead, no append may be
 * open when a projection becomes inline or async. So the change takes ShareLock on the sequence of positions. The
 * lock waits for all transactions that have allocated a position, and lets no other allocate one until the change is
 * committed. An append looks whether there are inline projections only after it has allocated its positions. If it
 * had to wait for the lock, it has received the invalidation of the definitions by then.
 */
#include "postgres.h"

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
add_error_context(void *arg)
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

	/* The projection may begin behind this call, or within it. */
	first = Max(first, projection->from_position + 1);
	if (first > last)
		return;
	snapshot = es_lookup_snapshot();	/* nobody else has written any of these rows */
	handler = es_projection_handler(projection);
	batch = es_batch_of_call(&projection->filter, es_handler_columns(handler), snapshot, first, last);
	UnregisterSnapshot(snapshot);
	context.callback = add_error_context;
	context.arg = projection->name;
	context.previous = error_context_stack;
	error_context_stack = &context;
	if (batch->count > 0)
		es_handler_run(handler, batch->rows, batch->desc, batch->count);
	error_context_stack = context.previous;
	es_batch_free(batch);
}

/* Runs the inline projections, in order of their names, on a call that was just written. */
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
 * Waits for all open appends, and lets no other begin until the end of the transaction. Returns the last position
 * that was allocated: up to it, every append was committed or rolled back.
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
	es_sql_write_args("checkpoints",
					  "UPDATE event_store.checkpoints c SET position = greatest($2, p.from_position),"
					  " scan_from = greatest($2, p.from_position) + 1, counted_after = greatest($2, p.from_position),"
					  " counted_events = events FROM event_store.projections p"
					  " WHERE p.name = $1 AND c.projection = $1 AND NOT c.rebuild", 2, types, values, NULL);
	es_journal_change(sql.saved_user, "es_set_projection_mode", "projections", statement, 2, types, values, NULL);
	es_sql_end(&sql);
	es_projection_changed();
}

/*
 * Refuses to make a projection inline that has quarantined a stream: later events of the stream would be applied before
 * the quarantined ones. Looks at the quarantine of the projection itself, or at that of its rebuild.
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
	if (es_sql_run_args("SELECT h.name FROM event_store.quarantined_streams q JOIN event_store.heads h ON h.id = q.stream"
						" WHERE q.projection = $1 AND q.rebuild = $2 ORDER BY q.position LIMIT 1",
						2, types, values, NULL) > 0)
		stream = MemoryContextStrdup(caller, es_sql_text(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1));
	es_sql_end(&sql);
	if (stream != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has parked stream \"%s\"", name, stream),
				 errdetail("Inline, it would apply the stream's later events before those that are quarantined."),
				 errhint("Put right what is wrong with its events or its handler first; an async projection has es_retry_quarantined.")));
}

/*
 * Brings a projection up to date and makes it inline. The checkpoint is locked. Most of the events are applied before
 * appends are locked out, and only the last ones after that.
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
	es_checkpoint_upcasters(name, false, &es_projection_get(name)->filter);
	set_mode(name, "UPDATE event_store.projections SET mode = 'inline' WHERE name = $1 AND $2 >= 0", last);
}

/* Makes a projection async from here on. */
void
es_inline_end(const char *name)
{
	set_mode(name, "UPDATE event_store.projections SET mode = 'async' WHERE name = $1 AND $2 >= 0", es_inline_lock());
}
