/*
 * append/import.c
 *	  event_store.import: bulk import through ordinary COPY or INSERT.
 *
 * event_store.import is a foreign table, and this file is its foreign-data wrapper. Rows are collected and appended in
 * chunks. Each chunk is one append call. The import is atomic because all chunks are in one transaction.
 *
 * Why not a view or a table: a view with INSTEAD OF triggers would lose rows silently where session_replication_role is
 * "replica", because triggers of a view cannot be ENABLE ALWAYS. A table with a BEFORE trigger that returns NULL makes
 * COPY report 0 rows.
 *
 * A wrapper can be used by any foreign table, and appends whatever rows the executor hands to it. The only privilege
 * that protects the log here is INSERT on event_store.import. So check_table() refuses any other foreign table.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "fmgr.h"
#include "executor/executor.h"
#include "foreign/fdwapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"
#include "append/call.h"
#include "append/execute.h"
#include "append/occurred_at.h"

/* A chunk ends when it has this many rows, or this many bytes of data and metadata. */
#define IMPORT_ROWS		5000
#define IMPORT_BYTES	(8 * 1024 * 1024)

/* The columns, by their place in the table. */
enum ImportColumn
{
	IMPORT_STREAM,
	IMPORT_EVENT_TYPE,
	IMPORT_DATA,
	IMPORT_METADATA,
	IMPORT_OCCURRED_AT,
	IMPORT_EVENT_ID,
	IMPORT_SCHEMA_VERSION,
	IMPORT_COLUMNS
};

typedef struct ImportColumnDef
{
	const char *name;
	Oid			type;
} ImportColumnDef;

static const ImportColumnDef import_columns[IMPORT_COLUMNS] = {
	{"stream", TEXTOID},
	{"event_type", TEXTOID},
	{"data", JSONBOID},
	{"metadata", JSONBOID},
	{"occurred_at", TEXTOID},
	{"event_id", UUIDOID},
	{"schema_version", INT4OID},
};

typedef struct Import
{
	MemoryContext context;		/* of the current chunk */
	EsCall	   *call;			/* the current chunk; NULL: it has no row yet */
	int64		rows;			/* of all chunks so far */
	Size		bytes;			/* of data and metadata in the current chunk */
} Import;

PG_FUNCTION_INFO_V1(es_import_handler);

/* Refuses any foreign table but event_store.import as es_create_store() made it. */
static void
check_table(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	bool		same = desc->natts == IMPORT_COLUMNS;

	if (RelationGetNamespace(rel) != get_namespace_oid(ES_SCHEMA, false) ||
		strcmp(RelationGetRelationName(rel), "import") != 0 ||
		rel->rd_rel->relowner != es_store()->owner)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("table \"%s\" may not import events", RelationGetRelationName(rel)),
				 errhint("Only event_store.import, owned by the store's owner, may.")));
	for (int i = 0; same && i < IMPORT_COLUMNS; i++)
		same = !TupleDescAttr(desc, i)->attisdropped &&
			TupleDescAttr(desc, i)->atttypid == import_columns[i].type &&
			strcmp(NameStr(TupleDescAttr(desc, i)->attname), import_columns[i].name) == 0;
	if (!same)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the columns of event_store.import have been changed"),
				 errhint("Drop the foreign table and run SELECT es_create_store().")));
}

static Import *
begin_import(ResultRelInfo *rri)
{
	Import	   *import;

	check_table(rri->ri_RelationDesc);
	import = palloc0(sizeof(Import));
	import->context = AllocSetContextCreate(CurrentMemoryContext, "event_store import",
											ALLOCSET_DEFAULT_SIZES);
	return import;
}

static void
row_context(void *arg)
{
	errcontext("event_store.import, row %lld", (long long) ((const Import *) arg)->rows);
}

/* Error context while a chunk is appended: an error can be about any of its rows. */
static void
chunk_context(void *arg)
{
	const Import *import = arg;

	errcontext("event_store.import, rows %lld to %lld",
			   (long long) import->rows - import->call->event_count + 1, (long long) import->rows);
}

/* Appends the rows that were collected, and begins a new chunk. */
static void
append_chunk(Import *import)
{
	ErrorContextCallback context;
	MemoryContext old;

	if (import->call == NULL)
		return;
	context.callback = chunk_context;
	context.arg = import;
	context.previous = error_context_stack;
	error_context_stack = &context;
	old = MemoryContextSwitchTo(import->context);
	es_call_execute(import->call);
	MemoryContextSwitchTo(old);
	error_context_stack = context.previous;

	import->call = NULL;
	import->bytes = 0;
	MemoryContextReset(import->context);
}

static text *
text_column(TupleTableSlot *slot, int column, int64 row)
{
	if (slot->tts_isnull[column])
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("column %s must not be NULL", import_columns[column].name),
				 errdetail("Input row %lld.", (long long) row)));
	return DatumGetTextPCopy(slot->tts_values[column]);
}

/* Adds a row to the chunk, and appends the chunk when it is full. */
static void
add_row(Import *import, TupleTableSlot *slot)
{
	MemoryContext old = MemoryContextSwitchTo(import->context);
	text	   *stream;
	text	   *type;
	Jsonb	   *data = NULL;
	Jsonb	   *metadata = NULL;
	TimestampTz occurred_at = 0;
	int32		schema_version = 0;
	pg_uuid_t  *id = NULL;
	int			element;
	ErrorContextCallback context;

	slot_getallattrs(slot);
	import->rows++;
	context.callback = row_context;
	context.arg = import;
	context.previous = error_context_stack;
	error_context_stack = &context;
	if (import->call == NULL)
	{
		import->call = es_call_begin(ES_FROM_IMPORT);
		import->call->first_row = import->rows;
	}

	stream = text_column(slot, IMPORT_STREAM, import->rows);
	type = text_column(slot, IMPORT_EVENT_TYPE, import->rows);
	if (!slot->tts_isnull[IMPORT_DATA])
	{
		data = DatumGetJsonbPCopy(slot->tts_values[IMPORT_DATA]);
		import->bytes += VARSIZE(data);
	}
	if (!slot->tts_isnull[IMPORT_METADATA])
	{
		metadata = DatumGetJsonbPCopy(slot->tts_values[IMPORT_METADATA]);
		import->bytes += VARSIZE(metadata);
	}
	if (!slot->tts_isnull[IMPORT_OCCURRED_AT])
		occurred_at = es_occurred_at(TextDatumGetCString(slot->tts_values[IMPORT_OCCURRED_AT]));
	if (!slot->tts_isnull[IMPORT_EVENT_ID])
		id = DatumGetUUIDP(slot->tts_values[IMPORT_EVENT_ID]);
	if (!slot->tts_isnull[IMPORT_SCHEMA_VERSION])
		schema_version = DatumGetInt32(slot->tts_values[IMPORT_SCHEMA_VERSION]);

	element = es_call_stream_element(import->call, stream);
	if (element < 0)
		element = es_call_element(import->call, stream, ES_ANY, NULL);
	es_call_event(import->call, element, type, data, metadata, id,
				  slot->tts_isnull[IMPORT_OCCURRED_AT] ? NULL : &occurred_at,
				  slot->tts_isnull[IMPORT_SCHEMA_VERSION] ? NULL : &schema_version);
	MemoryContextSwitchTo(old);
	error_context_stack = context.previous;

	if (import->call->event_count >= IMPORT_ROWS || import->bytes >= IMPORT_BYTES)
		append_chunk(import);
}

/* ---------------------------------------------------------------- the wrapper's callbacks */

static int
is_updatable(Relation rel)
{
	return 1 << CMD_INSERT;
}

static void
begin_modify(ModifyTableState *mtstate, ResultRelInfo *rri, List *fdw_private, int subplan, int eflags)
{
	if (!(eflags & EXEC_FLAG_EXPLAIN_ONLY))
		rri->ri_FdwState = begin_import(rri);
}

static void
begin_insert(ModifyTableState *mtstate, ResultRelInfo *rri)
{
	rri->ri_FdwState = begin_import(rri);
}

static TupleTableSlot *
insert_row(EState *estate, ResultRelInfo *rri, TupleTableSlot *slot, TupleTableSlot *plan_slot)
{
	add_row(rri->ri_FdwState, slot);
	return slot;
}

static void
end_insert(EState *estate, ResultRelInfo *rri)
{
	if (rri->ri_FdwState != NULL)
		append_chunk(rri->ri_FdwState);
}

/*
 * ON CONFLICT is refused: no event conflicts with another one, so DO NOTHING would insert again what is there. (Core refuses
 * a conflict target, and DO UPDATE.)
 */
static List *
plan_modify(PlannerInfo *root, ModifyTable *plan, Index relation, int subplan)
{
	if (plan->onConflictAction != ONCONFLICT_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("event_store.import does not support ON CONFLICT"),
				 errdetail("Events have no unique keys that could conflict."),
				 errhint("To import once, whatever happens, set event_store.import_key for the transaction.")));
	return NIL;
}

/* SELECT is refused here, when it is planned. So are UPDATE and DELETE, which need a scan too. */
static void
refuse_scan(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	ereport(ERROR,
			(errcode(ERRCODE_WRONG_OBJECT_TYPE),
			 errmsg("event_store.import can only be inserted into"),
			 errhint("Read event_store.events.")));
}

/* PostgreSQL requires these two callbacks. It never calls them, because refuse_scan() has raised its error before. */
static void
no_paths(PlannerInfo *root, RelOptInfo *rel, Oid relid)
{
	refuse_scan(root, rel, relid);
}

static ForeignScan *
no_plan(PlannerInfo *root, RelOptInfo *rel, Oid relid, ForeignPath *path, List *tlist, List *clauses,
		Plan *outer)
{
	refuse_scan(root, rel, relid);
	return NULL;
}

Datum
es_import_handler(PG_FUNCTION_ARGS)
{
	FdwRoutine *routine = makeNode(FdwRoutine);

	routine->GetForeignRelSize = refuse_scan;
	routine->GetForeignPaths = no_paths;
	routine->GetForeignPlan = no_plan;
	routine->IsForeignRelUpdatable = is_updatable;
	routine->PlanForeignModify = plan_modify;
	routine->BeginForeignModify = begin_modify;
	routine->ExecForeignInsert = insert_row;
	routine->EndForeignModify = end_insert;
	routine->BeginForeignInsert = begin_insert;
	routine->EndForeignInsert = end_insert;
	PG_RETURN_POINTER(routine);
}
