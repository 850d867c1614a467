/*
 * projection/definition.c
 *	  Projections: what users have defined, and creating one. (projection/control.c changes and drops them.)
 *
 * A session caches the definitions. A change sends a relcache invalidation of their table, and the next call reads them
 * again, always as they are committed now: an append in an old snapshot must not miss an inline projection. Pointers to
 * definitions are good until the end of the transaction, when sets that were replaced are freed.
 *
 * Whoever changes what a batch depends on locks the checkpoint's row first, and so waits for a batch that is being run.
 * Whoever runs a batch locks that row too, and looks up the definition after that.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"
#include "append/append.h"
#include "consumer/consumer.h"
#include "projection/projection.h"
#include "projection/control.h"
#include "projection/definition.h"
#include "projection/inline.h"

PG_FUNCTION_INFO_V1(es_create_projection);

typedef struct Definitions
{
	MemoryContext context;
	uint64		generation;
	EsProjection *projections;
	int			count;
	int			inline_count;
	struct Definitions *next_retired;
} Definitions;

static Definitions *current = NULL;
static Definitions *retired = NULL;

/* ---------------------------------------------------------------- cache */

static void
free_definitions(Definitions *defs)
{
	for (int i = 0; i < defs->count; i++)
		if (defs->projections[i].handler != NULL)
			es_handler_free(defs->projections[i].handler);
	MemoryContextDelete(defs->context);
}

/* Frees the sets that nobody can be using any more. Must not fail. */
static void
end_of_transaction(void)
{
	while (retired != NULL)
	{
		Definitions *next = retired->next_retired;

		free_definitions(retired);
		retired = next;
	}
}

static char *
text_column(TupleTableSlot *slot, int column)
{
	return TextDatumGetCString(slot->tts_values[column - 1]);
}

static void
read_projection(EsProjection *projection, TupleTableSlot *slot)
{
	ListCell   *lc;
	char	   *state;

	slot_getallattrs(slot);
	projection->name = text_column(slot, Anum_projection_name);
	projection->handler_text = text_column(slot, Anum_projection_handler);
	es_filter_read(&projection->filter,
				   slot->tts_values[Anum_projection_categories - 1], slot->tts_isnull[Anum_projection_categories - 1],
				   slot->tts_values[Anum_projection_event_types - 1], slot->tts_isnull[Anum_projection_event_types - 1]);
	if (!slot->tts_isnull[Anum_projection_tables - 1])
		foreach(lc, es_name_list(slot->tts_values[Anum_projection_tables - 1]))
			projection->tables = lappend(projection->tables, text_to_cstring(lfirst(lc)));
	projection->is_inline = strcmp(text_column(slot, Anum_projection_mode), "inline") == 0;
	projection->batch_size = DatumGetInt32(slot->tts_values[Anum_projection_batch_size - 1]);
	projection->from_position = DatumGetInt64(slot->tts_values[Anum_projection_from_position - 1]);
	projection->side_effects = DatumGetBool(slot->tts_values[Anum_projection_side_effects - 1]);
	projection->role.name = text_column(slot, Anum_projection_role);
	projection->role.oid = DatumGetObjectId(slot->tts_values[Anum_projection_role_oid - 1]);
	projection->role.system = DatumGetInt64(slot->tts_values[Anum_projection_role_system - 1]);
	projection->search_path = text_column(slot, Anum_projection_search_path);
	state = text_column(slot, Anum_projection_state);
	projection->running = strcmp(state, "running") == 0;
	projection->failed = strcmp(state, "failed") == 0;
	projection->paused_until = slot->tts_isnull[Anum_projection_paused_until - 1] ? DT_NOEND :
		DatumGetTimestampTz(slot->tts_values[Anum_projection_paused_until - 1]);
	projection->row = es_row_version(slot);
}

static int
compare_projections(const void *a, const void *b)
{
	return strcmp(((const EsProjection *) a)->name, ((const EsProjection *) b)->name);
}

static Definitions *
read_definitions(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_store projections",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	Definitions *defs = palloc0(sizeof(Definitions));
	EsLookup	rows;
	Snapshot	snapshot;
	int			space = 8;

	es_lookup_open_table(&rows, es_store()->projections, AccessShareLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	es_lookup_begin(&rows, snapshot, false, 0, NULL);

	defs->context = context;
	defs->projections = palloc0(sizeof(EsProjection) * space);
	while (es_lookup_next(&rows))
	{
		if (defs->count == space)
		{
			defs->projections = repalloc(defs->projections, sizeof(EsProjection) * space * 2);
			memset(defs->projections + space, 0, sizeof(EsProjection) * space);
			space *= 2;
		}
		read_projection(&defs->projections[defs->count], rows.slot);
		defs->inline_count += defs->projections[defs->count].is_inline;
		defs->count++;
	}
	es_lookup_close(&rows, ES_KEEP_LOCKS);
	UnregisterSnapshot(snapshot);
	qsort(defs->projections, defs->count, sizeof(EsProjection), compare_projections);
	MemoryContextSwitchTo(old);
	return defs;
}

static Definitions *
definitions(void)
{
	uint64		generation = es_projections_generation();
	Definitions *defs;

	if (current != NULL && current->generation == generation)
		return current;
	defs = read_definitions();
	defs->generation = generation;	/* what changed while we were reading is noticed by the next call */
	if (current != NULL)
	{
		current->next_retired = retired;
		retired = current;
	}
	MemoryContextSetParent(defs->context, TopMemoryContext);
	current = defs;
	return current;
}

/* All projections, in order of name. */
EsProjection *
es_projections(int *count)
{
	Definitions *defs = definitions();

	*count = defs->count;
	return defs->projections;
}

bool
es_has_inline_projections(void)
{
	return definitions()->inline_count > 0;
}

/* Finds a projection by its name. NULL: there is none. */
EsProjection *
es_projection_find(const char *name)
{
	Definitions *defs = definitions();

	for (int i = 0; i < defs->count; i++)
		if (strcmp(defs->projections[i].name, name) == 0)
			return &defs->projections[i];
	return NULL;
}

/* The same; raises YE008 when there is none. */
EsProjection *
es_projection_get(const char *name)
{
	EsProjection *projection = es_projection_find(name);

	if (projection == NULL)
		ereport(ERROR,
				(errcode(ES_UNKNOWN),
				 errmsg("there is no projection \"%s\"", name),
				 errhint("Create one with es_create_projection.")));
	return projection;
}

EsHandler *
es_projection_handler(EsProjection *projection)
{
	if (projection->handler == NULL)
		projection->handler = es_handler_create(projection->handler_text, projection->role, projection->search_path,
												projection->side_effects, InvalidOid);
	return projection->handler;
}

/* Tells all sessions, at commit, that definitions have changed; this one at once. */
void
es_projection_changed(void)
{
	CacheInvalidateRelcacheByRelid(es_store()->projections);
	CommandCounterIncrement();
	es_transaction_progressed();		/* wakes who waits for a projection */
	es_transaction_has_work();
}

/* ---------------------------------------------------------------- changes */

/*
 * Runs a statement about one projection as the store's owner; returns the number of rows. table: the one of the store
 * that it changes, NULL for none.
 */
uint64
es_projection_change(const char *table, const char *statement, const char *name)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	EsSql		sql;
	uint64		rows;

	values[0] = CStringGetTextDatum(name);
	es_sql_begin(&sql, es_store()->owner);
	if (table != NULL && strcmp(table, "projections") == 0)
		rows = es_journal_change(sql.saved_user, NULL, table, statement, 1, types, values, NULL);
	else
		rows = es_sql_write_args(table, statement, 1, types, values, NULL);
	es_sql_end(&sql);
	CommandCounterIncrement();
	return rows;
}

/*
 * Waits for a batch that is being run, and lets no other begin until the end of the transaction. The checkpoint of a
 * rebuild is locked before that of the projection, in the same order as a rebuild locks them. False: there is none, as far
 * as this transaction can see.
 */
static bool
lock_checkpoints(const char *name)
{
	bool		locked = es_projection_change(NULL,
											  "SELECT FROM event_store.checkpoints WHERE projection = $1"
											  " ORDER BY rebuild DESC FOR UPDATE", name) > 0;

	(void) es_store_now();		/* notices what was committed meanwhile */
	return locked;
}

/* Notes that a projection has failed. That is in its status; the journal has what was commanded. The checkpoint is locked. */
void
es_projection_fail(const char *name)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	EsSql		sql;

	values[0] = CStringGetTextDatum(name);
	es_sql_begin(&sql, es_store()->owner);
	es_sql_write_args("projections", "UPDATE event_store.projections SET state = 'failed', paused_until = NULL,"
					  " pause_reason = NULL WHERE name = $1", 1, types, values, NULL);
	es_sql_end(&sql);
	es_projection_changed();
}

static char *
name_argument(FunctionCallInfo fcinfo)
{
	text	   *name = es_text_argument(fcinfo, 0, "name");
	int			len = VARSIZE_ANY_EXHDR(name);

	if (len == 0 || len > ES_MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument name must have 1 to %d bytes", ES_MAX_NAME),
				 errdetail("It has %d.", len)));
	return text_to_cstring(name);
}

/*
 * Finds a projection, and locks it: waits for a batch that is being run. Definitions are those of now; a checkpoint that is newer
 * than the transaction's snapshot cannot be locked.
 */
EsProjection *
es_projection_lock(const char *name)
{
	for (int tries = 0; tries < 10; tries++)
	{
		(void) es_projection_get(name);
		if (lock_checkpoints(name))
			return es_projection_get(name);
		if (IsolationUsesXactSnapshot())
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("could not serialize access due to concurrent update"),
					 errdetail("Projection \"%s\" has been created since the transaction began.", name)));
		/* It was dropped and created anew while we waited. */
		CHECK_FOR_INTERRUPTS();
	}
	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("projection \"%s\" has no checkpoint", name)));
}

/* The beginning of each function that changes a projection: its name, and the projection locked. */
EsProjection *
es_projection_begin_change(FunctionCallInfo fcinfo, const char *function)
{
	char	   *name = name_argument(fcinfo);

	(void) es_store_now();
	es_prevent_if_read_only(function);
	es_refuse_in_stored_text(function);
	return es_projection_lock(name);
}

/* Whether a projection is to run: it was not paused, or only until a time that has passed, and has not failed. */
bool
es_projection_runs(const EsProjection *projection)
{
	return projection->running ||
		(!projection->failed && projection->paused_until != DT_NOEND && projection->paused_until <= GetCurrentTimestamp());
}

/* ---------------------------------------------------------------- es_create_projection */

/*
 * Refuses a table that is published and has no replica identity: its rows can be neither updated nor deleted, which a
 * rebuild does with those of every table. The error is core's.
 */
void
es_check_replica_identity(Oid relid)
{
	Relation	rel = relation_open(relid, AccessShareLock);

	CheckCmdReplicaIdentity(rel, CMD_UPDATE);
	CheckCmdReplicaIdentity(rel, CMD_DELETE);
	relation_close(rel, NoLock);
}

/* Refuses a table that could not be rebuilt, or that a crash would not leave as its checkpoint says. */
static void
check_table(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Form_pg_class form;
	const char *trouble = NULL;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("argument tables has an OID that is no table: %u", relid)));
	form = (Form_pg_class) GETSTRUCT(tuple);
	if (form->relkind != RELKIND_RELATION && form->relkind != RELKIND_PARTITIONED_TABLE)
		trouble = "It is not a table.";
	else if (form->relkind == RELKIND_RELATION && form->relhassubclass && find_inheritance_children(relid, NoLock) != NIL)
		trouble = "Other tables inherit from it.";
	else if (form->relpersistence == RELPERSISTENCE_TEMP)
		trouble = "It is temporary.";
	else if (form->relpersistence == RELPERSISTENCE_UNLOGGED)
		trouble = "It is unlogged: a crash would empty it, but not take back the checkpoint.";
	else if (form->relnamespace == get_namespace_oid(ES_SCHEMA, false))
		trouble = "It belongs to the event store itself.";
	else if (IsCatalogNamespace(form->relnamespace))
		trouble = "It belongs to the system.";
	if (trouble != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" cannot be a table of a projection", NameStr(form->relname)),
				 errdetail("%s", trouble)));
	ReleaseSysCache(tuple);
	es_check_replica_identity(relid);
}

/* The argument tables, as an array of names: OIDs would mean nothing after a dump. (Datum) 0: it is NULL. */
static Datum
tables_argument(FunctionCallInfo fcinfo, int n, List **relids)
{
	ArrayType  *array;
	Datum	   *elements;
	Datum	   *names;
	bool	   *nulls;
	int			count;

	if (PG_ARGISNULL(n))
		return (Datum) 0;
	array = es_array_argument(fcinfo, n, "tables");
	deconstruct_array(array, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT, &elements, &nulls, &count);
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument tables must not be empty"),
				 errhint("Leave it out for a projection that is never rebuilt.")));
	names = palloc(sizeof(Datum) * count);
	for (int i = 0; i < count; i++)
	{
		Oid			relid;

		if (nulls[i])
			es_null_element("tables", i);
		relid = DatumGetObjectId(elements[i]);
		check_table(relid);
		*relids = lappend_oid(*relids, relid);
		for (int j = 0; j < i; j++)
			if (strcmp(get_rel_name(relid), get_rel_name(DatumGetObjectId(elements[j]))) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("argument tables names \"%s\" twice", get_rel_name(relid)),
						 errdetail("A rebuild tells them apart by their names alone.")));
		names[i] = CStringGetTextDatum(quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
																  get_rel_name(relid)));
	}
	return PointerGetDatum(construct_array(names, count, TEXTOID, -1, false, TYPALIGN_INT));
}

/* Adds the name of a table to a list, as it is stored. */
static List *
add_name(List *names, Oid relid)
{
	return lappend(names, quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid)));
}

/*
 * Refuses tables of which another projection has one, or a partition of one: a rebuild makes a table equal to what one
 * projection would have written, and would delete the rows of the other. The lock lets nobody else check meanwhile.
 */
void
es_projection_check_tables(const char *projection, const List *relids)
{
	List	   *related = NIL;
	Datum	   *elements;
	int			count = 0;
	Oid			types[2] = {TEXTOID, TEXTARRAYOID};
	Datum		values[2];
	ListCell   *lc;
	EsSql		sql;

	foreach(lc, relids)
	{
		ListCell   *lc2;

		foreach(lc2, find_all_inheritors(lfirst_oid(lc), NoLock, NULL))
			related = add_name(related, lfirst_oid(lc2));
		if (get_rel_relispartition(lfirst_oid(lc)))
			foreach(lc2, get_partition_ancestors(lfirst_oid(lc)))
				related = add_name(related, lfirst_oid(lc2));
	}
	elements = palloc(sizeof(Datum) * list_length(related));
	foreach(lc, related)
		elements[count++] = CStringGetTextDatum(lfirst(lc));
	es_consumer_lock();

	values[0] = CStringGetTextDatum(projection);
	values[1] = PointerGetDatum(construct_array(elements, count, TEXTOID, -1, false, TYPALIGN_INT));
	es_sql_begin(&sql, es_store()->owner);
	if (es_sql_run_latest_args("SELECT p.name, (SELECT min(t) FROM unnest(p.tables) t WHERE t = ANY ($2))"
							   " FROM event_store.projections p WHERE p.name <> $1 AND p.tables && $2 ORDER BY p.name LIMIT 1",
							   2, types, values) > 0)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	desc = SPI_tuptable->tupdesc;

		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s belongs to projection \"%s\"", SPI_getvalue(row, desc, 2), SPI_getvalue(row, desc, 1)),
				 errdetail("A rebuild of \"%s\" would delete its rows.", projection),
				 errhint("Give each projection tables of its own, and join them in a view.")));
	}
	es_sql_end(&sql);
}

/* An argument mode: whether it is inline, and not async. */
bool
es_projection_inline_argument(FunctionCallInfo fcinfo, int n)
{
	char	   *mode = text_to_cstring(es_text_argument(fcinfo, n, "mode"));

	if (strcmp(mode, "inline") != 0 && strcmp(mode, "async") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized mode \"%s\"", mode),
				 errhint("Modes are async and inline.")));
	return strcmp(mode, "inline") == 0;
}

/*
 * es_create_projection(name, handler, categories, event_types, tables, mode, batch_size, from_position, side_effects)
 */
Datum
es_create_projection(PG_FUNCTION_ARGS)
{
	char	   *name = name_argument(fcinfo);
	char	   *handler = text_to_cstring(es_text_argument(fcinfo, 1, "handler"));
	char	   *path;
	EsStoredRole role = es_role_current();
	Oid			types[13] = {TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, INT4OID, INT8OID,
	BOOLOID, TEXTOID, TEXTOID, OIDOID, INT8OID};
	Datum		values[13];
	char		nulls[13];
	bool		is_inline = es_projection_inline_argument(fcinfo, 5);
	bool		made;
	List	   *relids = NIL;
	EsSql		sql;

	(void) es_store_now();
	es_prevent_if_read_only("es_create_projection()");
	es_refuse_in_stored_text("es_create_projection()");
	path = es_registered_path();
	es_filter_check_arguments(fcinfo, 2, 3);
	if (PG_ARGISNULL(6))
		es_null_argument("batch_size");
	if (PG_ARGISNULL(7))
		es_null_argument("from_position");
	if (PG_ARGISNULL(8))
		es_null_argument("side_effects");
	if (PG_GETARG_INT32(6) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument batch_size must be 1 or more"),
				 errdetail("It is %d.", PG_GETARG_INT32(6))));
	if (PG_GETARG_INT64(7) < 0 || PG_GETARG_INT64(7) == PG_INT64_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument from_position must not be negative"),
				 errdetail("It is %lld.", (long long) PG_GETARG_INT64(7))));
	if (is_inline && PG_GETARG_BOOL(8))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an inline projection cannot have side effects"),
				 errdetail("It runs inside of the append, which may be rolled back and tried again.")));

	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(name);
	values[1] = CStringGetTextDatum(handler);
	for (int i = 2; i <= 3; i++)
	{
		values[i] = PG_ARGISNULL(i) ? (Datum) 0 : PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	values[4] = tables_argument(fcinfo, 4, &relids);
	nulls[4] = values[4] == (Datum) 0 ? 'n' : ' ';
	values[5] = CStringGetTextDatum(is_inline ? "inline" : "async");
	values[6] = PG_GETARG_DATUM(6);
	values[7] = PG_GETARG_DATUM(7);
	values[8] = PG_GETARG_DATUM(8);
	values[9] = CStringGetTextDatum(role.name);
	values[10] = CStringGetTextDatum(path);
	values[11] = ObjectIdGetDatum(role.oid);
	values[12] = Int64GetDatum(role.system);

	es_handler_check(handler, role, path, PG_GETARG_BOOL(8));
	es_consumer_claim_name("projection", name);
	if (relids != NIL)
		es_projection_check_tables(name, relids);

	es_sql_begin(&sql, es_store()->owner);
	made = es_journal_change(sql.saved_user, NULL, "projections",
							 "INSERT INTO event_store.projections VALUES"
							 " ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'running', false, $12, $13)"
							 " ON CONFLICT (name) DO NOTHING", 13, types, values, nulls) > 0;
	if (!made &&
		es_sql_run_args("SELECT FROM event_store.projections WHERE name = $1 AND handler = $2"
						" AND categories IS NOT DISTINCT FROM $3 AND event_types IS NOT DISTINCT FROM $4"
						" AND tables IS NOT DISTINCT FROM $5 AND mode = $6 AND batch_size = $7"
						" AND from_position = $8 AND side_effects = $9 AND role_oid = $12 AND role_system = $13"
						" AND search_path = $11", 13, types, values, nulls) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("there is already another projection \"%s\"", name),
				 errhint("To give it a new handler or filter, use es_rebuild_projection; else drop it and empty its tables first.")));
	if (made)
		es_sql_write_args("checkpoints",
						  "INSERT INTO event_store.checkpoints (projection, rebuild, position, scan_from, counted_after)"
						  " VALUES ($1, false, $8, $8 + 1, $8)", 13, types, values, nulls);
	es_sql_end(&sql);
	if (made)
	{
		es_role_depend(role.oid);
		es_projection_changed();
		es_filter_stored("projection", name);
		if (is_inline)
			es_inline_begin(name);
	}
	PG_RETURN_VOID();
}

/* ---------------------------------------------------------------- changes of upcasters */

/*
 * A projection is stale when it has passed events with other upcasters, of those that have to do with its types, than there
 * are now. Nothing has to be marked for that: its checkpoint says with which (docs/internals/definitions.md). An inline
 * projection has no batches that could say it, so it is marked when an upcaster of its types changes. A rebuild ends that.
 *
 * to_type is NULL before the change: then what the upcasters have made of the type until now is followed. A projection of
 * the type that it became has applied events that it would not be given any more.
 */
static void
upcaster_changed(text *type, text *to_type)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2];
	EsSql		sql;
	uint64		rows;

	values[0] = PointerGetDatum(type);
	values[1] = PointerGetDatum(to_type != NULL ? to_type : type);
	es_sql_begin(&sql, es_store()->owner);
	rows = es_sql_write_args("projections",
							 "WITH RECURSIVE touched(name) AS (VALUES ($1 COLLATE \"C\"), ($2 COLLATE \"C\")"
							 " UNION SELECT u.to_type FROM event_store.upcasters u JOIN touched t ON u.event_type = t.name)"
							 " UPDATE event_store.projections p SET stale = true WHERE p.mode = 'inline' AND NOT p.stale"
							 " AND (p.event_types IS NULL OR EXISTS (SELECT FROM unnest(p.event_types) e(name)"
							 " JOIN touched t ON t.name = e.name COLLATE \"C\"))", 2, types, values, NULL);
	es_sql_end(&sql);
	if (rows > 0)
		es_projection_changed();
	if (to_type != NULL)
		es_filter_type_renamed(text_to_cstring(type));
}

/* Called once, when the library is loaded. */
void
es_projection_init(void)
{
	es_transaction_at_end(end_of_transaction);
	es_on_upcaster_change(upcaster_changed);
	es_after_append(es_inline_run);
	es_projection_control_init();
}
