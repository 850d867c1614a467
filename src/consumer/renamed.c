/*
 * consumer/renamed.c
 *	  Says who filters by an event type that upcasters turn into another one.
 *
 * A filter is by the type that an event is delivered with. So when a type is renamed by an upcaster, a projection or
 * subscription that asks for the old name gets its events no more. That may be meant, but nobody should find out from
 * what is missing: there is a NOTICE when the upcaster is registered, and when such a filter is.
 */
#include "postgres.h"

#include "executor/spi.h"

#include "base/base.h"
#include "store/store.h"
#include "consumer/consumer.h"

/*
 * Gives a NOTICE for each filter that misses events, in the open transaction. type: only those that upcasters lead through this
 * type; consumer: only this one, as "projection" or "subscription" and its name. NULL: all.
 */
static void
notice(const char *type, const char *consumer)
{
	EsScriptValue values[] = {
		es_script_literal("type", type == NULL ? "" : type),
		es_script_literal("consumer", consumer == NULL ? "" : consumer),
	};
	EsSql		sql;
	uint64		rows;

	es_sql_begin(&sql, es_store()->owner);
	rows = es_script_run("consumer/renamed", values, lengthof(values));
	for (uint64 i = 0; i < rows; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		char	   *kind = SPI_getvalue(row, desc, 1);
		char	   *to_type = SPI_getvalue(row, desc, 5);

		ereport(NOTICE,
				(errmsg("%s \"%s\" does not get events of type \"%s\", schema version %s", kind, SPI_getvalue(row, desc, 2),
						SPI_getvalue(row, desc, 3), SPI_getvalue(row, desc, 4)),
				 errdetail("Upcasters give them the type \"%s\", which it does not ask for.", to_type),
				 strcmp(kind, "projection") == 0 ?
				 errhint("To get them, rebuild it with \"%s\" among its event_types.", to_type) :
				 errhint("To get them, make one with \"%s\" among its event_types.", to_type)));
	}
	es_sql_end(&sql);
}

/* When an upcaster of a type, or to a type, has been registered. */
void
es_filter_type_renamed(const char *type)
{
	notice(type, NULL);
}

/* When a filter has been stored. kind is "projection" or "subscription". */
void
es_filter_stored(const char *kind, const char *name)
{
	notice(NULL, psprintf("%s %s", kind, name));
}
