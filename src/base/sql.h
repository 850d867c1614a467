/*
 * base/sql.h
 *	  The one way to run SQL from C: pinned search_path, chosen role.
 */
#ifndef ES_BASE_SQL_H
#define ES_BASE_SQL_H

#include "executor/spi.h"

typedef struct EsSql
{
	Oid			saved_user;
	int			saved_context;
	int			guc_level;
} EsSql;

extern void es_pin_setting(const char *name, const char *value);
extern void es_sql_begin(EsSql *sql, Oid role);
extern void es_sql_end(EsSql *sql);
extern char *es_vpsprintf(const char *fmt, va_list args) pg_attribute_printf(1, 0);
extern uint64 es_sql_run(const char *statement);
extern uint64 es_sql_runf(const char *fmt,...) pg_attribute_printf(1, 2);
extern uint64 es_sql_run_args(const char *statement, int nargs, Oid *types, Datum *values,
							  const char *nulls);
extern uint64 es_sql_run_kept(SPIPlanPtr *plan, const char *statement, int nargs, Oid *types,
							  Datum *values, const char *nulls);
extern Oid	es_extension_schema(void);

#endif							/* ES_BASE_SQL_H */
