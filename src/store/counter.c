/*
 * store/counter.c
 *	  event_store.counters: how often something has happened, for the view event_store.status.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "base/base.h"
#include "store/store.h"

/* Adds to one of them, in the open transaction. */
void
es_counter_add(const char *name, int64 more)
{
	Oid			types[2] = {TEXTOID, INT8OID};
	Datum		values[2];
	EsSql		sql;

	if (more == 0)
		return;
	values[0] = CStringGetTextDatum(name);
	values[1] = Int64GetDatum(more);
	es_sql_begin(&sql, es_store()->owner);
	es_sql_write_args("counters",
					  "UPDATE event_store.counters SET value = value + $2 WHERE name = $1", 2, types, values, NULL);
	es_sql_end(&sql);
}

/* Sets one of them, in the open transaction. */
void
es_counter_set(const char *name, int64 value)
{
	Oid			types[2] = {TEXTOID, INT8OID};
	Datum		values[2];
	EsSql		sql;

	values[0] = CStringGetTextDatum(name);
	values[1] = Int64GetDatum(value);
	es_sql_begin(&sql, es_store()->owner);
	es_sql_write_args("counters",
					  "UPDATE event_store.counters SET value = $2 WHERE name = $1", 2, types, values, NULL);
	es_sql_end(&sql);
}
