/*
 * projection/handler.c
 *	  Handlers: the SQL statements of a projection.
 *
 * A handler sees its batch as relation new_events. This is no table, but an ephemeral named relation, like a
 * trigger's transition tables: the handler's own statements see it, functions and views that they use do not. Plans
 * are kept: one for small batches and one for large ones, because a plan is made for the number of rows of the batch
 * that was there when it was made.
 *
 * It runs as the role that created the projection (base/run_as.c).
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "executor/spi.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "tcop/dest.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "store/store.h"
#include "projection/definition.h"
#include "projection/columns.h"
#include "projection/guard.h"

/* From this many events on a batch is planned as a large one. */
#define LARGE_BATCH		100

struct EsHandler
{
	MemoryContext context;
	char	   *text;
	EsStoredRole role;
	char	   *search_path;
	bool		may_append;
	Oid			only_schema;	/* the one schema where it may write; InvalidOid: anywhere */
	SPIPlanPtr	plans[2];		/* for small batches, for large ones; NULL until needed */
	uint32		columns;		/* bits of the columns of new_events that it can see; all until there is a plan */
};

/*
 * Allows statements that read and write rows, and NOTIFY. Others cannot see the batch, or would end the transaction.
 */
static void
check_statements(const char *text)
{
	List	   *statements = raw_parser(text, RAW_PARSE_DEFAULT);
	ListCell   *lc;

	if (statements == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("argument handler has no statement")));
	foreach(lc, statements)
	{
		Node	   *statement = lfirst_node(RawStmt, lc)->stmt;
		SelectStmt *first;

		switch (nodeTag(statement))
		{
			case T_SelectStmt:
				/* Of queries that UNION and the like combine, the first one has the INTO. */
				for (first = (SelectStmt *) statement; first->op != SETOP_NONE; first = first->larg)
					;
				if (first->intoClause == NULL)
					continue;
				break;
			case T_InsertStmt:
			case T_UpdateStmt:
			case T_DeleteStmt:
			case T_MergeStmt:
			case T_NotifyStmt:
				continue;
			default:
				break;
		}
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("argument handler has a statement that is not SELECT, INSERT, UPDATE, DELETE, MERGE or NOTIFY"),
				 errhint("Put what a projection must do otherwise into a function, and pass it the rows of new_events.")));
	}
}

/* Makes a handler in TopMemoryContext. It stays until es_handler_free(). Nothing is parsed yet. */
EsHandler *
es_handler_create(const char *text, EsStoredRole role, const char *search_path, bool may_append,
				  Oid only_schema)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "event_store handler", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EsHandler  *handler = palloc0(sizeof(EsHandler));

	handler->context = context;
	handler->text = pstrdup(text);
	handler->role = es_role_copy(role);
	handler->search_path = pstrdup(search_path);
	handler->may_append = may_append;
	handler->only_schema = only_schema;
	handler->columns = ES_ALL_COLUMNS;
	MemoryContextSwitchTo(old);
	return handler;
}

void
es_handler_free(EsHandler *handler)
{
	for (int i = 0; i < lengthof(handler->plans); i++)
		if (handler->plans[i] != NULL)
			SPI_freeplan(handler->plans[i]);
	MemoryContextDelete(handler->context);
}

static void
register_events(Tuplestorestate *rows, TupleDesc desc, int64 count)
{
	EphemeralNamedRelation enr = palloc0(sizeof(EphemeralNamedRelationData));
	int			rc;

	enr->md.name = ES_NEW_EVENTS;
	enr->md.reliddesc = InvalidOid;
	enr->md.tupdesc = desc;
	enr->md.enrtype = ENR_NAMED_TUPLESTORE;
	enr->md.enrtuples = count;
	enr->reldata = rows;
	rc = SPI_register_relation(enr);
	if (rc != SPI_OK_REL_REGISTER)
		elog(ERROR, "SPI failed with %s", SPI_result_code_string(rc));
}

static SPIPlanPtr
prepare(const char *text)
{
	SPIPlanPtr	plan = SPI_prepare(text, 0, NULL);

	if (plan == NULL)
		elog(ERROR, "SPI failed with %s", SPI_result_code_string(SPI_result));
	return plan;
}

/*
 * Runs the handler on a batch. Each of its statements has a snapshot of its own. Errors are thrown on, and the caller
 * has a subtransaction to roll back.
 */
void
es_handler_run(EsHandler *handler, Tuplestorestate *rows, TupleDesc desc, int64 count)
{
	SPIPlanPtr *plan = &handler->plans[count >= LARGE_BATCH ? 1 : 0];
	EsRunAs		run_as;
	SPIExecuteOptions options = {0};
	Oid			before;
	volatile int rc = 0;

	es_run_as_begin(&run_as, es_run_as_role(handler->role), handler->search_path,
					handler->may_append ? ES_RUN_APPENDS : 0);
	SPI_connect();
	register_events(rows, desc, count);
	tuplestore_rescan(rows);
	options.dest = None_Receiver;	/* rows of a SELECT or RETURNING are thrown away */
	before = es_guard_set(handler->only_schema);
	PG_TRY();
	{
		if (*plan == NULL)
		{
			SPIPlanPtr	made = prepare(handler->text);

			SPI_keepplan(made);
			*plan = made;
			handler->columns = es_columns_seen(handler->text);
		}
		rc = SPI_execute_plan_extended(*plan, &options);
	}
	PG_FINALLY();
	{
		(void) es_guard_set(before);
	}
	PG_END_TRY();
	if (rc < 0)
		elog(ERROR, "SPI failed with %s", SPI_result_code_string(rc));
	SPI_finish();
	es_run_as_end(&run_as);
}

/* The columns of new_events that a batch for this handler must have. */
uint32
es_handler_columns(const EsHandler *handler)
{
	return handler->columns;
}

static void
run_empty(void *arg)
{
	EsBatch    *empty = ((void **) arg)[1];

	es_handler_run(((void **) arg)[0], empty->rows, empty->desc, 0);
}

/*
 * Runs a handler on an empty batch, and rolls back what it does. So a handler that does what is refused, or uses what
 * does not exist, is refused before there is an event. Errors that an empty batch may well cause are ignored.
 */
void
es_handler_try(EsHandler *handler)
{
	EsBatch    *empty = es_batch_empty();
	ErrorData  *error = es_catch_and_roll_back(run_empty, (void *[2]) {handler, empty});

	es_batch_free(empty);
	if (error != NULL && (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR) ||
						  ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TO_CATEGORY(ERRCODE_FEATURE_NOT_SUPPORTED) ||
						  ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TO_CATEGORY(ERRCODE_INVALID_SCHEMA_NAME)))
		ReThrowError(error);
}

/* Refuses a handler that cannot be parsed, uses what does not exist, or does what is not allowed. */
void
es_handler_check(const char *text, EsStoredRole role, const char *search_path, bool may_append)
{
	EsHandler  *handler;

	check_statements(text);
	handler = es_handler_create(text, role, search_path, may_append, InvalidOid);
	PG_TRY();
	{
		es_handler_try(handler);
	}
	PG_FINALLY();
	{
		es_handler_free(handler);
	}
	PG_END_TRY();
}
