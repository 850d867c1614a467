/*
 * base/sql.c
 *	  The one way to run SQL from C.
 *
 * Between es_sql_begin() and es_sql_end() the search_path is pg_catalog, pg_temp, the settings that
 * change what DDL makes are pinned, and the role is the one asked for, in a restricted operation
 * when that is not the caller. Every name in the statements is still written with its schema. An
 * error needs no clean-up here: the transaction's abort restores the role and the settings.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"

#include "base/base.h"

/* Sets a setting until the end of the caller's level of settings. */
void
es_pin_setting(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/* Connects SPI; role InvalidOid means the caller itself, with the caller's rights. */
void
es_sql_begin(EsSql *sql, Oid role)
{
	GetUserIdAndSecContext(&sql->saved_user, &sql->saved_context);
	if (OidIsValid(role))
		SetUserIdAndSecContext(role, sql->saved_context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION);
	sql->guc_level = NewGUCNestLevel();
	es_pin_setting("search_path", "pg_catalog, pg_temp");
	es_pin_setting("standard_conforming_strings", "on");
	es_pin_setting("default_tablespace", "");
	es_pin_setting("default_table_access_method", "heap");
	SPI_connect();
}

void
es_sql_end(EsSql *sql)
{
	SPI_finish();
	AtEOXact_GUC(false, sql->guc_level);
	SetUserIdAndSecContext(sql->saved_user, sql->saved_context);
}

/* Runs one statement that may write; returns the number of rows. */
uint64
es_sql_run_args(const char *statement, int nargs, Oid *types, Datum *values, const char *nulls)
{
	int			rc = SPI_execute_with_args(statement, nargs, types, values, nulls, false, 0);

	if (rc < 0)
		elog(ERROR, "SPI failed with %s on: %s", SPI_result_code_string(rc), statement);
	return SPI_processed;
}

/* The same with a plan that is kept for the session, in *plan. */
uint64
es_sql_run_kept(SPIPlanPtr *plan, const char *statement, int nargs, Oid *types, Datum *values, const char *nulls)
{
	int			rc;

	if (*plan == NULL)
	{
		SPIPlanPtr	made = SPI_prepare(statement, nargs, types);

		if (made == NULL)
			elog(ERROR, "SPI failed with %s on: %s", SPI_result_code_string(SPI_result), statement);
		SPI_keepplan(made);
		*plan = made;
	}
	rc = SPI_execute_plan(*plan, values, nulls, false, 0);
	if (rc < 0)
		elog(ERROR, "SPI failed with %s on: %s", SPI_result_code_string(rc), statement);
	return SPI_processed;
}

uint64
es_sql_run(const char *statement)
{
	return es_sql_run_args(statement, 0, NULL, NULL, NULL);
}

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
