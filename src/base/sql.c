/*
 * base/sql.c
 *	  The one way to run SQL from C.
 *
 * Between es_sql_begin() and es_sql_end() the search_path is pg_catalog, pg_temp, the settings that
 * change what DDL makes are pinned, and the role is the one asked for, in a restricted operation
 * when that is not the caller. Every name in the statements is still written with its schema. An
 * error needs no clean-up here: the transaction's abort restores the role and the settings.
 *
 * The store's tables have triggers that refuse changes (store/guard.c). A statement of ours that changes one of
 * them says so, with es_sql_write_args() and its like: while it runs, the triggers of that table let it pass.
 *
 * A DBA's event triggers hear of DDL. What the store does by itself, in the middle of an append or in a background process,
 * they must not be able to stop or to delay: es_sql_begin_unheard(). Such statements run as subcommands, as those that
 * PostgreSQL makes of a user's DDL, and event triggers fire for whole commands only, whether they are ENABLE ALWAYS or not.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "parser/parse_expr.h"
#include "parser/parser.h"
#include "tcop/dest.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "base/base.h"

/* Sets a setting until the end of the caller's level of settings. */
void
es_pin_setting(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Between es_sql_begin_unheard() and es_sql_end(): the nesting level of the (sub)transaction, else 0. An error leaves it as it is.
 * Whoever catches that error is at an outer level, where it says nothing.
 */
static int	unheard = 0;

/* Connects SPI; role InvalidOid means the caller itself, with the caller's rights. */
void
es_sql_begin(EsSql *sql, Oid role)
{
	if (OidIsValid(role))
		es_switch_role(role, 0, &sql->saved_user, &sql->saved_context);
	else
		GetUserIdAndSecContext(&sql->saved_user, &sql->saved_context);
	sql->saved_unheard = unheard;
	unheard = 0;
	sql->guc_level = NewGUCNestLevel();
	/* What is as it should be, in a worker all of it, costs a comparison. */
	if (strcmp(namespace_search_path, ES_OWN_SEARCH_PATH) != 0)
		es_pin_setting("search_path", ES_OWN_SEARCH_PATH);
	if (!ES_STANDARD_CONFORMING_STRINGS)
		es_pin_setting("standard_conforming_strings", "on");
	if (GetConfigOption("default_tablespace", false, false)[0] != '\0')
		es_pin_setting("default_tablespace", "");
	if (strcmp(default_table_access_method, "heap") != 0)
		es_pin_setting("default_table_access_method", "heap");
	SPI_connect();
}

/* The same for DDL that event triggers are not to hear of. */
void
es_sql_begin_unheard(EsSql *sql, Oid role)
{
	es_sql_begin(sql, role);
	unheard = GetCurrentTransactionNestLevel();
}

void
es_sql_end(EsSql *sql)
{
	SPI_finish();
	unheard = sql->saved_unheard;
	AtEOXact_GUC(false, sql->guc_level);
	SetUserIdAndSecContext(sql->saved_user, sql->saved_context);
}

/* The table of the store that the running statement of ours changes; NULL: none. */
static const char *written = NULL;

/* Whether a statement of ours is changing a table of the store, by its name. */
bool
es_sql_is_writing(const char *table)
{
	return written != NULL && strcmp(written, table) == 0;
}

/*
 * Has the triggers of no table of the store let changes pass, while code of users runs. What it returns is for
 * es_sql_write_on(). After an error whoever runs the statement sets it right, not the code of users.
 */
const char *
es_sql_write_off(void)
{
	const char *table = written;

	written = NULL;
	return table;
}

void
es_sql_write_on(const char *table)
{
	written = table;
}

/* Runs a utility statement as a subcommand. False, and nothing is done: it is another kind of statement. */
static bool
run_unheard(const char *statement)
{
	RawStmt    *raw = linitial_node(RawStmt, raw_parser(statement, RAW_PARSE_DEFAULT));
	PlannedStmt *planned;

	if (IsA(raw->stmt, SelectStmt) || IsA(raw->stmt, InsertStmt) || IsA(raw->stmt, UpdateStmt) || IsA(raw->stmt, DeleteStmt))
		return false;
	planned = makeNode(PlannedStmt);
	planned->commandType = CMD_UTILITY;
	planned->utilityStmt = raw->stmt;
	planned->stmt_location = raw->stmt_location;
	planned->stmt_len = raw->stmt_len;
	PushActiveSnapshot(GetTransactionSnapshot());
	ProcessUtility(planned, statement, false, PROCESS_UTILITY_SUBCOMMAND, NULL, NULL, None_Receiver, NULL);
	PopActiveSnapshot();
	CommandCounterIncrement();
	return true;
}

/* Runs a statement, without a plan or with one, that changes a table of the store; NULL: none of them. */
static int
execute(const char *table, const char *statement, int nargs, Oid *types, SPIPlanPtr plan, Datum *values,
		const char *nulls)
{
	const char *before = written;
	int			rc;

	if (unheard != 0 && unheard == GetCurrentTransactionNestLevel() && plan == NULL && run_unheard(statement))
		return SPI_OK_UTILITY;

	/* The common case needs no place to come back to. */
	if (table == NULL && before == NULL)
		return plan != NULL ? SPI_execute_plan(plan, values, nulls, false, 0) :
			SPI_execute_with_args(statement, nargs, types, values, nulls, false, 0);
	written = table;
	PG_TRY();
	{
		rc = plan != NULL ? SPI_execute_plan(plan, values, nulls, false, 0) :
			SPI_execute_with_args(statement, nargs, types, values, nulls, false, 0);
	}
	PG_FINALLY();
	{
		written = before;
	}
	PG_END_TRY();
	return rc;
}

/* Runs one statement that changes this table of the store; returns the number of rows. */
uint64
es_sql_write_args(const char *table, const char *statement, int nargs, Oid *types, Datum *values, const char *nulls)
{
	int			rc = execute(table, statement, nargs, types, NULL, values, nulls);

	if (rc < 0)
		elog(ERROR, "SPI failed with %s on: %s", SPI_result_code_string(rc), statement);
	return SPI_processed;
}

/* The same with a prepared plan; statement is its text. */
uint64
es_sql_write_plan(const char *table, SPIPlanPtr plan, const char *statement, Datum *values, const char *nulls)
{
	int			rc = execute(table, statement, 0, NULL, plan, values, nulls);

	if (rc < 0)
		elog(ERROR, "SPI failed with %s on: %s", SPI_result_code_string(rc), statement);
	return SPI_processed;
}

/*
 * Raises an error where a statement that must have changed this many rows of a table of the store has changed others: a trigger or
 * a rule of the owner's has kept it from that. What was done beside it must not stay either: a handler's work without its
 * checkpoint would be done again, an event without its place in quarantine would be lost.
 */
void
es_sql_check_written(const char *table, uint64 rows, uint64 expected)
{
	if (rows != expected)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("could not write to event_store.%s", table),
				 errdetail("A statement that changes %llu of its rows has changed %llu.", (unsigned long long) expected,
						   (unsigned long long) rows),
				 errhint("Drop the triggers and rules of that table.")));
}

/* Runs one statement that changes no table of the store; returns the number of rows. */
uint64
es_sql_run_args(const char *statement, int nargs, Oid *types, Datum *values, const char *nulls)
{
	return es_sql_write_args(NULL, statement, nargs, types, values, nulls);
}

/* Runs one statement that changes this table of the store, with a plan that is kept for the session, in *plan. */
uint64
es_sql_write_kept(const char *table, SPIPlanPtr *plan, const char *statement, int nargs, Oid *types, Datum *values,
				  const char *nulls)
{
	if (*plan == NULL)
	{
		SPIPlanPtr	made = SPI_prepare(statement, nargs, types);

		if (made == NULL)
			elog(ERROR, "SPI failed with %s on: %s", SPI_result_code_string(SPI_result), statement);
		SPI_keepplan(made);
		*plan = made;
	}
	return es_sql_write_plan(table, *plan, statement, values, nulls);
}

/* The same for one that changes none of them. */
uint64
es_sql_run_kept(SPIPlanPtr *plan, const char *statement, int nargs, Oid *types, Datum *values, const char *nulls)
{
	return es_sql_write_kept(NULL, plan, statement, nargs, types, values, nulls);
}

uint64
es_sql_run(const char *statement)
{
	return es_sql_run_args(statement, 0, NULL, NULL, NULL);
}

/*
 * Runs a query, which sees what is committed now and what this transaction has changed, and not only what the transaction's
 * snapshot shows; returns the number of rows. No argument is NULL.
 */
uint64
es_sql_run_latest_args(const char *statement, int nargs, Oid *types, Datum *values)
{
	int			rc;

	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	rc = SPI_execute_with_args(statement, nargs, types, values, NULL, true, 0);
	PopActiveSnapshot();
	if (rc < 0)
		elog(ERROR, "SPI failed with %s on: %s", SPI_result_code_string(rc), statement);
	return SPI_processed;
}

uint64
es_sql_run_latest(const char *statement)
{
	return es_sql_run_latest_args(statement, 0, NULL, NULL);
}

/* ---------------------------------------------------------------- results */

ES_NORETURN static void
altered(TupleDesc desc, int column, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("column \"%s\" of a table in schema \"" ES_SCHEMA "\" has been changed", SPI_fname(desc, column)),
			 errdetail("%s", detail),
			 errhint("Undo the change: the library relies on its tables being as it has made them.")));
}

/*
 * A value of a row of SPI's, which must be of this type. isnull NULL: nor may it be NULL. The owner of the store can alter its
 * tables while a statement waits for their locks, and a value of another type would be taken for a pointer.
 */
Datum
es_sql_value(HeapTuple row, TupleDesc desc, int column, Oid type, bool *isnull)
{
	bool		null;
	Datum		value;

	if (SPI_gettypeid(desc, column) != type)
		altered(desc, column, psprintf("It is of type %s instead of %s.", format_type_be(SPI_gettypeid(desc, column)),
									   format_type_be(type)));
	value = SPI_getbinval(row, desc, column, &null);
	if (isnull != NULL)
		*isnull = null;
	else if (null)
		altered(desc, column, "It is NULL.");
	return value;
}

/* The same, of the last statement's first row. */
Datum
es_sql_first(int column, Oid type, bool *isnull)
{
	return es_sql_value(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, column, type, isnull);
}

/* A value of any type in text form, which may not be NULL. */
char *
es_sql_text(HeapTuple row, TupleDesc desc, int column)
{
	char	   *value = SPI_getvalue(row, desc, column);

	if (value == NULL)
		altered(desc, column, "It is NULL.");
	return value;
}

/* ---------------------------------------------------------------- texts of statements */

/* psprintf() of a va_list, which core does not have. */
char *
es_vpsprintf(const char *fmt, va_list args)
{
	StringInfoData buf;

	initStringInfo(&buf);
	for (;;)
	{
		va_list		again;
		int			needed;

		va_copy(again, args);
		needed = appendStringInfoVA(&buf, fmt, again);
		va_end(again);
		if (needed == 0)
			return buf.data;
		enlargeStringInfo(&buf, needed);
	}
}

uint64
es_sql_runf(const char *fmt,...)
{
	va_list		args;
	char	   *statement;
	uint64		rows;

	va_start(args, fmt);
	statement = es_vpsprintf(fmt, args);
	va_end(args);
	rows = es_sql_run(statement);
	pfree(statement);
	return rows;
}

/* The schema that holds the extension's functions. (Core exports this only in newer versions.) */
Oid
es_extension_schema(void)
{
	Relation	rel = relation_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			schema = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("event_store"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	systable_endscan(scan);
	relation_close(rel, AccessShareLock);

	if (!OidIsValid(schema))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"event_store\" does not exist in this database")));
	return schema;
}
