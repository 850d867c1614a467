/*
 * append/import.c
 *	  event_store.import: bulk import through ordinary COPY or INSERT.
 *
 * event_store.import is a foreign table, and this file is its foreign-data wrapper. Rows are checked and kept as they come. At
 * the end of the statement the streams of all rows are locked, in order of name as all calls do, and the rows are appended in
 * chunks, in their order. Each chunk is one append call. The import is atomic because all chunks are in one transaction.
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
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "append/call.h"
#include "append/execute.h"
#include "append/key.h"
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
	TupleDesc	desc;			/* of the rows */
	Tuplestorestate *store;		/* all rows, in the order of the input */
	EsCall	   *names;			/* the streams and event types of all rows: es_call_reserve() */
	text	   *key;			/* the setting event_store.import_key; NULL: none */
	EsHasher   *hasher;			/* of all rows; NULL: there is no key */
	MemoryContext row_context;
	int64		rows;
	Size		bytes;			/* of data and metadata */

	/* when the rows are appended */
	MemoryContext chunk_context;
	EsCall	   *call;			/* the current chunk */
	Size		chunk_bytes;
	int64		appended;		/* rows of all chunks so far */
	EsKeyRow	result;
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
	import->desc = CreateTupleDescCopy(RelationGetDescr(rri->ri_RelationDesc));
	import->store = tuplestore_begin_heap(false, false, work_mem);
	import->names = es_call_begin(ES_FROM_IMPORT);
	import->row_context = AllocSetContextCreate(CurrentMemoryContext, "event_store import row", ALLOCSET_DEFAULT_SIZES);
	import->chunk_context = AllocSetContextCreate(CurrentMemoryContext, "event_store import", ALLOCSET_DEFAULT_SIZES);
	if (es_import_key != NULL && es_import_key[0] != '\0')
	{
		import->key = cstring_to_text(es_import_key);
		es_check_key(import->key);
		import->hasher = es_hasher_create();
		es_hash_begin(import->hasher);
		/* A batch with the same key is another request. */
		es_hash_string(import->hasher, "import", strlen("import"));
	}
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

	errcontext("event_store.import, rows %lld to %lld", (long long) import->call->first_row,
			   (long long) import->call->first_row + import->call->event_count - 1);
}

/* Refuses NULL in a column that must have a value. */
static void
check_column(TupleTableSlot *slot, int column, int64 row)
{
	if (slot->tts_isnull[column])
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("column %s must not be NULL", import_columns[column].name),
				 errdetail("Input row %lld.", (long long) row)));
}

/* Adds a row to a call. What it points to must stay until the call was executed. */
static void
add_to_call(EsCall *call, const Datum *values, const bool *nulls)
{
	text	   *stream = DatumGetTextPP(values[IMPORT_STREAM]);
	TimestampTz occurred_at = 0;
	int32		schema_version = 0;
	int			element = es_call_stream_element(call, stream);

	if (!nulls[IMPORT_OCCURRED_AT])
		occurred_at = es_occurred_at(TextDatumGetCString(values[IMPORT_OCCURRED_AT]));
	if (!nulls[IMPORT_SCHEMA_VERSION])
		schema_version = DatumGetInt32(values[IMPORT_SCHEMA_VERSION]);
	if (element < 0)
		element = es_call_element(call, stream, ES_ANY, NULL);
	es_call_event(call, element, DatumGetTextPP(values[IMPORT_EVENT_TYPE]),
				  nulls[IMPORT_DATA] ? NULL : DatumGetJsonbP(values[IMPORT_DATA]),
				  nulls[IMPORT_METADATA] ? NULL : DatumGetJsonbP(values[IMPORT_METADATA]),
				  nulls[IMPORT_EVENT_ID] ? NULL : DatumGetUUIDP(values[IMPORT_EVENT_ID]),
				  nulls[IMPORT_OCCURRED_AT] ? NULL : &occurred_at,
				  nulls[IMPORT_SCHEMA_VERSION] ? NULL : &schema_version);
}

/* The request of an import is all that its rows have: it is history, which a second run does not make anew. */
static void
hash_row(EsHasher *hasher, const Datum *values, const bool *nulls)
{
	for (int column = 0; column < IMPORT_COLUMNS; column++)
	{
		es_hash_int64(hasher, nulls[column]);
		if (nulls[column])
			continue;
		switch (import_columns[column].type)
		{
			case TEXTOID:
				es_hash_string(hasher, VARDATA_ANY(DatumGetPointer(values[column])),
							   VARSIZE_ANY_EXHDR(DatumGetPointer(values[column])));
				break;
			case JSONBOID:
				es_hash_json(hasher, DatumGetJsonbP(values[column]));
				break;
			case UUIDOID:
				es_hash_string(hasher, (const char *) DatumGetUUIDP(values[column])->data, UUID_LEN);
				break;
			case INT4OID:
				es_hash_int64(hasher, DatumGetInt32(values[column]));
				break;
		}
	}
}

/*
 * Checks a row and keeps it. Nothing is appended before the last row is there: the streams of all rows are locked first, in
 * their order.
 */
static void
add_row(Import *import, TupleTableSlot *slot)
{
	MemoryContext old = MemoryContextSwitchTo(import->row_context);
	Datum		values[IMPORT_COLUMNS];
	ErrorContextCallback context;
	EsCall	   *call;

	slot_getallattrs(slot);
	import->rows++;
	context.callback = row_context;
	context.arg = import;
	context.previous = error_context_stack;
	error_context_stack = &context;

	for (int column = 0; column < IMPORT_COLUMNS; column++)
	{
		values[column] = slot->tts_values[column];
		/* What lies elsewhere is fetched now, while the query's snapshot is there. */
		if (!slot->tts_isnull[column] && TupleDescAttr(import->desc, column)->attlen == -1)
			values[column] = PointerGetDatum(PG_DETOAST_DATUM_PACKED(values[column]));
	}
	check_column(slot, IMPORT_STREAM, import->rows);
	check_column(slot, IMPORT_EVENT_TYPE, import->rows);
	call = es_call_begin(ES_FROM_IMPORT);
	call->first_row = import->rows;
	add_to_call(call, values, slot->tts_isnull);
	es_call_reserve_names(import->names, DatumGetTextPP(values[IMPORT_STREAM]), DatumGetTextPP(values[IMPORT_EVENT_TYPE]));
	if (import->hasher != NULL)
		hash_row(import->hasher, values, slot->tts_isnull);
	for (int column = IMPORT_DATA; column <= IMPORT_METADATA; column++)
		if (!slot->tts_isnull[column])
			import->bytes += VARSIZE_ANY(DatumGetPointer(values[column]));
	tuplestore_putvalues(import->store, import->desc, values, slot->tts_isnull);

	error_context_stack = context.previous;
	MemoryContextSwitchTo(old);
	MemoryContextReset(import->row_context);
}

/* Appends the rows of a chunk. */
static void
append_chunk(Import *import)
{
	ErrorContextCallback context;
	MemoryContext old = MemoryContextSwitchTo(import->chunk_context);

	context.callback = chunk_context;
	context.arg = import;
	context.previous = error_context_stack;
	error_context_stack = &context;
	es_call_execute(import->call);
	error_context_stack = context.previous;

	/* The key points at the last chunk: es_check() finds that it has what it says. */
	import->result.version = import->call->event_count;
	import->result.first_position = import->call->first_position;
	import->result.last_position = import->call->last_position;
	import->result.recorded_at = import->call->elements[import->call->element_count - 1].recorded_at;
	import->appended += import->call->event_count;
	import->call = NULL;
	import->chunk_bytes = 0;
	MemoryContextSwitchTo(old);
	MemoryContextReset(import->chunk_context);
}

/* Appends all rows, in the order of the input and in chunks. */
static void
append_rows(Import *import)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(import->desc, &TTSOpsMinimalTuple);
	MemoryContext old = CurrentMemoryContext;

	/* A chunk that is the whole import takes its locks in order by itself. */
	if (import->key != NULL || import->rows > IMPORT_ROWS || import->bytes > IMPORT_BYTES)
	{
		uint8		request[ES_DIGEST_LEN] = {0};

		if (import->hasher != NULL)
		{
			es_hash_end(import->hasher, request);
			es_hasher_free(import->hasher);
			import->hasher = NULL;
		}
		memcpy(import->result.request, request, ES_DIGEST_LEN);
		import->names->batch_key = import->key;
		if (es_call_reserve(import->names, request))
			return;
	}
	while (tuplestore_gettupleslot(import->store, true, true, slot))
	{
		Datum		values[IMPORT_COLUMNS];

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		MemoryContextSwitchTo(import->chunk_context);	/* the slot's tuple lives longer than a chunk, the copies do not */
		if (import->call == NULL)
		{
			import->call = es_call_begin(ES_FROM_IMPORT);
			import->call->first_row = import->appended + 1;
		}
		for (int column = 0; column < IMPORT_COLUMNS; column++)
			values[column] = slot->tts_isnull[column] ? (Datum) 0 :
				datumCopy(slot->tts_values[column], TupleDescAttr(import->desc, column)->attbyval,
						  TupleDescAttr(import->desc, column)->attlen);
		for (int column = IMPORT_DATA; column <= IMPORT_METADATA; column++)
			if (!slot->tts_isnull[column])
				import->chunk_bytes += VARSIZE_ANY(DatumGetPointer(values[column]));
		add_to_call(import->call, values, slot->tts_isnull);
		if (import->call->event_count >= IMPORT_ROWS || import->chunk_bytes >= IMPORT_BYTES)
			append_chunk(import);
		MemoryContextSwitchTo(old);
	}
	if (import->call != NULL)
		append_chunk(import);
	ExecDropSingleTupleTableSlot(slot);
	if (import->key != NULL)
		es_batch_key_store(import->key, &import->result);
}

static void
end_import(Import *import)
{
	if (import->rows > 0)
		append_rows(import);
	if (import->hasher != NULL)
		es_hasher_free(import->hasher);
	tuplestore_end(import->store);
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
		end_import(rri->ri_FdwState);
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
