/*
 * store/counter.c
 *	  event_store.counters: how often something has happened, for the view event_store.status.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "base/base.h"
#include "store/store.h"

/* Runs a statement about one of them, in the open transaction. */
static void
change(const char *statement, const char *name, int64 value)
{
	Oid			types[2] = {TEXTOID, INT8OID};
	Datum		values[2];
	EsSql		sql;

	values[0] = CStringGetTextDatum(name);
	values[1] = Int64GetDatum(value);
	es_sql_begin(&sql, es_store()->owner);
	es_sql_write_args("counters", statement, 2, types, values, NULL);
	es_sql_end(&sql);
}

/* Adds to one of them. */
void
es_counter_add(const char *name, int64 more)
{
	if (more != 0)
		change("UPDATE event_store.counters SET value = value + $2 WHERE name = $1", name, more);
}

/* Sets one of them. */
void
es_counter_set(const char *name, int64 value)
{
	change("UPDATE event_store.counters SET value = $2 WHERE name = $1", name, value);
}
