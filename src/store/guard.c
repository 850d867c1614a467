/*
 * store/guard.c
 *	  Refusing changes: the triggers of the store's tables, by which only the library writes to them.
 *
 * Each table of the store has two triggers, both ENABLE ALWAYS. One fires before each statement: it refuses before
 * anything has been changed, also where no row would be. The other one fires after each row, for rows that come without
 * a statement of their own on the table: those that logical replication applies, and those that are written by a table
 * above it. It fires after and not before the row, since core locks a row, and writes WAL for that, before it asks
 * a trigger that may still prevent the change.
 *
 * The privileges of a table are not enough to protect it. A member of pg_write_all_data has them for every table,
 * definitions among them, and stored text runs with the rights of the role that a definition names.
 *
 * What the library writes below SQL fires no triggers. What it writes by SQL says which table it changes
 * (es_sql_write_args() and its like), and passes in that table while the statement runs.
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "replication/logicalworker.h"
#include "utils/acl.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/base.h"
#include "store/store.h"

PG_FUNCTION_INFO_V1(es_refuse_change);

/* ---------------------------------------------------------------- making the triggers */

/* Gives a table of the store the triggers that refuse changes, or makes them what they should be. */
static void
guard(const char *table, bool partitioned)
{
	EsScriptValue values[] = {
		es_script_identifier("table", table),
		es_script_identifier("code", get_namespace_name(es_extension_schema())),
	};

	/* A trigger for rows would be copied to the partitions, which have their own. */
	es_script_run(partitioned ? "store/guard_partitioned" : "store/guard", values, lengthof(values));
}

/* Does so with a partition of the log. */
void
es_guard_partition(const char *table)
{
	guard(table, false);
}

/*
 * Looks at the triggers of the tables of the store, and of the attached partitions: a row for each table that should
 * have them, with its name, whether they are as they should be, and whether it is partitioned. Returns the number of rows.
 */
static uint64
look_at_triggers(void)
{
	EsScriptValue values[] = {
		es_script_literal("tables", es_store_table_names()),
		es_script_integer("extension_schema", es_extension_schema()),
	};

	return es_script_run("store/guarded", values, lengthof(values));
}

/* Gives all tables of the store their triggers, or makes them what they should be. */
void
es_guard_tables(void)
{
	uint64		count = look_at_triggers();
	SPITupleTable *tables = SPI_tuptable;

	for (uint64 i = 0; i < count; i++)
		if (strcmp(SPI_getvalue(tables->vals[i], tables->tupdesc, 2), "t") != 0)
			guard(SPI_getvalue(tables->vals[i], tables->tupdesc, 1),
				  strcmp(SPI_getvalue(tables->vals[i], tables->tupdesc, 3), "t") == 0);
}

/* ---------------------------------------------------------------- the trigger */

/* Whether a table is the log, or is or was a partition of it. No other table of the store has such a name. */
static bool
is_log(Relation rel)
{
	const char *name = RelationGetRelationName(rel);

	return strncmp(name, "log", 3) == 0 && (name[3] == '\0' || name[3] == '_');
}

/* Whether an UPDATE of a row of the log changes only what an erasure changes. */
static bool
erases_only(const TriggerData *trigger)
{
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);

	slot_getallattrs(trigger->tg_trigslot);
	slot_getallattrs(trigger->tg_newslot);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (i + 1 == Anum_log_salt || i + 1 == Anum_log_data || i + 1 == Anum_log_metadata || att->attisdropped)
			continue;
		if (trigger->tg_trigslot->tts_isnull[i] != trigger->tg_newslot->tts_isnull[i] ||
			(!trigger->tg_newslot->tts_isnull[i] &&
			 !datumIsEqual(trigger->tg_trigslot->tts_values[i], trigger->tg_newslot->tts_values[i],
						   att->attbyval, att->attlen)))
			return false;
	}
	return true;
}

/*
 * Whether the change comes from the publisher of which this database is a subscriber: what a worker of logical
 * replication copies or applies with the rights of the table's owner. (A subscription of somebody who may write to
 * all tables could bring definitions.) Of the log it may add rows, and erase. A TRUNCATE never comes from a store.
 */
static bool
is_replicated(const TriggerData *trigger)
{
	Relation	rel = trigger->tg_relation;

	if (!IsLogicalWorker() || !has_privs_of_role(GetUserId(), rel->rd_rel->relowner) ||
		TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		return false;
	if (!is_log(rel) || TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		return true;
	return TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) && TRIGGER_FIRED_FOR_ROW(trigger->tg_event) && erases_only(trigger);
}

/* Snapshots may be dropped by whoever owns them. */
static bool
drops_snapshots(const TriggerData *trigger)
{
	return strcmp(RelationGetRelationName(trigger->tg_relation), "snapshots") == 0 &&
		(TRIGGER_FIRED_BY_DELETE(trigger->tg_event) || TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event)) &&
		has_privs_of_role(GetUserId(), trigger->tg_relation->rd_rel->relowner);
}

/* The triggers of the store's tables: es_immutable before a statement, es_immutable_row after a row. */
Datum
es_refuse_change(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	const char *table;
	const char *verb;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("es_refuse_change() can only be called as a trigger")));
	table = RelationGetRelationName(trigger->tg_relation);
	verb = TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ? "INSERT" :
		TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? "UPDATE" :
		TRIGGER_FIRED_BY_DELETE(trigger->tg_event) ? "DELETE" : "TRUNCATE";
	if (IsBinaryUpgrade)
		PG_RETURN_POINTER(NULL);
	/* Not by the library either. */
	if (strcmp(table, "journal") == 0 && !TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		ereport(ERROR,
				(errcode(ES_IMMUTABLE),
				 errmsg("the journal is immutable"),
				 errdetail("%s on \"%s\" is refused.", verb, table)));
	if (es_sql_is_writing(table) || drops_snapshots(trigger) || is_replicated(trigger))
		PG_RETURN_POINTER(NULL);

	if (is_log(trigger->tg_relation) && !TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		ereport(ERROR,
				(errcode(ES_IMMUTABLE),
				 errmsg("events are immutable"),
				 errdetail("%s on \"%s\" is refused.", verb, table),
				 errhint("Append an event that corrects the earlier one.")));
	ereport(ERROR,
			(errcode(ES_IMMUTABLE),
			 errmsg("table \"%s\" of the event store is changed by functions only", table),
			 errdetail("%s on \"%s\" is refused.", verb, table),
			 TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ?
			 errhint("Use the functions of the extension. To restore a backup, restore all of it, schema and data, where there is no event store yet.") :
			 errhint("Use the functions of the extension.")));
	return (Datum) 0;
}
