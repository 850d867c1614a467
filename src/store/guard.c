/*
 * store/guard.c
 *	  Refusing changes: the trigger of tables whose rows never change by SQL.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/base.h"
#include "store/store.h"

PG_FUNCTION_INFO_V1(es_refuse_change);

/* Has the trigger of a table fire for everybody, replication included. */
static void
guard_always(const char *table)
{
	EsScriptValue value = es_script_identifier("table", table);

	es_script_run("store/guard_always", &value, 1);
}

/* Gives a table of the store the trigger that refuses changes. */
void
es_guard_table(const char *table)
{
	EsScriptValue values[] = {
		es_script_identifier("table", table),
		es_script_identifier("code", get_namespace_name(es_extension_schema())),
	};

	es_script_run("store/guard", values, lengthof(values));
	guard_always(table);
}

/* The names of the tables that must have the trigger that refuses changes, in the current memory context. */
List *
es_immutable_tables(void)
{
	MemoryContext caller = CurrentMemoryContext;
	List	   *result = NIL;
	uint64		count = es_script_run("store/immutable", NULL, 0);
	MemoryContext old = MemoryContextSwitchTo(caller);

	for (uint64 i = 0; i < count; i++)
		result = lappend(result, pstrdup(SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1)));
	MemoryContextSwitchTo(old);
	return result;
}

/* Gives the tables that refuse changes their trigger, or makes it ENABLE ALWAYS again. */
void
es_guard_tables(void)
{
	uint64		count = es_script_run("store/immutable", NULL, 0);
	SPITupleTable *tables = SPI_tuptable;

	for (uint64 i = 0; i < count; i++)
	{
		const char *table = SPI_getvalue(tables->vals[i], tables->tupdesc, 1);
		bool		has_trigger = strcmp(SPI_getvalue(tables->vals[i], tables->tupdesc, 2), "t") == 0;
		bool		always = strcmp(SPI_getvalue(tables->vals[i], tables->tupdesc, 3), "t") == 0;

		if (!has_trigger)
			es_guard_table(table);
		else if (!always)
			guard_always(table);
	}
}

/* The trigger on the store's tables, BEFORE UPDATE OR DELETE OR TRUNCATE, for each statement. */
Datum
es_refuse_change(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	const char *verb;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("es_refuse_change() can only be called as a trigger")));
	verb = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? "UPDATE" :
		TRIGGER_FIRED_BY_DELETE(trigger->tg_event) ? "DELETE" : "TRUNCATE";
	ereport(ERROR,
			(errcode(ES_IMMUTABLE),
			 errmsg("events are immutable"),
			 errdetail("%s on \"%s\" is refused.", verb, RelationGetRelationName(trigger->tg_relation)),
			 errhint("Append an event that corrects the earlier one.")));
	return (Datum) 0;
}
