/*
 * store/journal.c
 *	  event_store.journal: who has changed what the store is told to do, when, and how it was before.
 *
 * Definitions, rights and commands, never data of events. A row is written in the transaction of the change, with the
 * names that roles have then: a role that is renamed later does not change what was written. Its key is no sequence, which
 * would not be where a subscriber takes over.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"

#include "base/base.h"
#include "store/store.h"

/* Tables of definitions: what a row of one is called, how it is found by the first parameters of a statement, who does what. */
static const struct
{
	const char *table;
	const char *key;
	const char *object;
	const char *made;
	const char *dropped;
	const char *changed;
}			definitions[] = {
	{"aggregates", "category = $1", "'aggregate ' || $1", "es_register_aggregate", "es_unregister_aggregate",
	"es_register_aggregate"},
	{"upcasters", "event_type = $1 AND from_version = $2", "'upcaster ' || $1 || ' ' || $2", "es_register_upcaster",
	"es_unregister_upcaster", "es_register_upcaster"},
	{"event_checks", "event_type = $1 AND schema_version = $2", "'event type ' || $1 || ' ' || $2",
	"es_register_event_type", "es_unregister_event_type", "es_register_event_type"},
	{"projections", "name = $1", "'projection ' || $1", "es_create_projection", "es_drop_projection",
	"es_rebuild_projection"},
	{"rebuilds", "projection = $1", "'projection ' || $1", "es_rebuild_projection", "es_cancel_rebuild",
	"es_rebuild_projection"},
	{"subscriptions", "name = $1", "'subscription ' || $1", "es_create_subscription", "es_drop_subscription",
	"es_create_subscription"},
};

/* The one value that a query gives, in the caller's memory context; 0 where it gives no row. */
static Datum
look(const char *query, int nargs, Oid *types, Datum *values, const char *nulls)
{
	bool		isnull;
	Datum		value;

	if (es_sql_run_args(query, nargs, types, values, nulls) == 0)
		return (Datum) 0;
	value = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	return isnull ? (Datum) 0 : datumCopy(value, false, -1);
}

/* Between es_sql_begin() and es_sql_end(), as the store's owner. */
static void
write_row(Oid acting_as, const char *action, Datum object, Datum before, Datum after, const char *reason)
{
	Oid			types[] = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID, TEXTOID};
	Datum		values[7];
	char		nulls[] = "       ";
	uint64		rows;

	values[0] = CStringGetTextDatum(GetUserNameFromId(GetSessionUserId(), false));
	values[1] = CStringGetTextDatum(GetUserNameFromId(acting_as, false));
	values[2] = CStringGetTextDatum(action);
	values[3] = object;
	values[4] = before;
	values[5] = after;
	if (before == (Datum) 0)
		nulls[4] = 'n';
	if (after == (Datum) 0)
		nulls[5] = 'n';
	values[6] = reason == NULL ? (Datum) 0 : CStringGetTextDatum(reason);
	if (reason == NULL)
		nulls[6] = 'n';
	rows = es_sql_write_args("journal",
							 "INSERT INTO event_store.journal (at, id, by_role, acting_as, action, object, before, after, reason)"
							 " VALUES (clock_timestamp(), gen_random_uuid(), $1, $2, $3, $4, $5, $6, $7)", 7, types, values, nulls);
	es_sql_check_written("journal", rows, 1);
}

/*
 * Runs a statement that changes a row of a table of definitions, and writes into the journal how the row was before and
 * is after it, where they differ: applications register again what they need when they start. The first parameters of
 * the statement are the key of the row. action: the function that is called, NULL where the change says it. Returns the
 * number of rows. Between es_sql_begin() and es_sql_end(), as the store's owner; acting_as is who called.
 */
uint64
es_journal_change(Oid acting_as, const char *action, const char *table, const char *statement, int nargs, Oid *types,
				  Datum *values, const char *nulls)
{
	return es_journal_reasoned(acting_as, action, NULL, table, statement, nargs, types, values, nulls);
}

/* The same, with the reason that the caller has given; NULL: none. */
uint64
es_journal_reasoned(Oid acting_as, const char *action, const char *reason, const char *table, const char *statement,
					int nargs, Oid *types, Datum *values, const char *nulls)
{
	int			kind = 0;
	char	   *query;
	Datum		before;
	Datum		after;
	uint64		rows;

	while (strcmp(definitions[kind].table, table) != 0)
		if (++kind == lengthof(definitions))
			elog(ERROR, "table \"%s\" has no definitions", table);
	query = psprintf("SELECT to_jsonb(t) - 'role_oid' - 'role_system' FROM event_store.%s t WHERE %s", table, definitions[kind].key);
	before = look(query, nargs, types, values, nulls);
	rows = es_sql_write_args(table, statement, nargs, types, values, nulls);
	after = look(query, nargs, types, values, nulls);
	if (before == after ||
		(before != (Datum) 0 && after != (Datum) 0 &&
		 compareJsonbContainers(&DatumGetJsonbP(before)->root, &DatumGetJsonbP(after)->root) == 0))
		return rows;
	if (action == NULL)
		action = before == (Datum) 0 ? definitions[kind].made :
			after == (Datum) 0 ? definitions[kind].dropped : definitions[kind].changed;
	write_row(acting_as, action, look(psprintf("SELECT %s", definitions[kind].object), nargs, types, values, nulls),
			  before, after, reason);
	return rows;
}

/* Writes a row for what the caller does otherwise. query: gives a JSON object about it; NULL: there is none. */
static void
note(const char *action, const char *kind, const char *name, const char *query, Oid *types, Datum *values, const char *reason)
{
	Oid			acting_as = GetUserId();
	EsSql		sql;

	es_sql_begin(&sql, es_store()->owner);
	write_row(acting_as, action, CStringGetTextDatum(name == NULL ? kind : psprintf("%s %s", kind, name)), (Datum) 0,
			  query == NULL ? (Datum) 0 : look(query, 2, types, values, NULL), reason);
	es_sql_end(&sql);
}

/* Writes into the journal what the caller does otherwise. detail: a key and its value, or NULL. */
void
es_journal_note(const char *action, const char *kind, const char *name, const char *key, const char *value)
{
	Oid			types[] = {TEXTOID, TEXTOID};
	Datum		values[2];
	bool		detailed = key != NULL && value != NULL;

	if (detailed)
	{
		values[0] = CStringGetTextDatum(key);
		values[1] = CStringGetTextDatum(value);
	}
	note(action, kind, name, detailed ? "SELECT jsonb_build_object($1, $2)" : NULL, types, values, NULL);
}

/* Writes into the journal that events which were in quarantine will never be delivered. */
void
es_journal_skip(const char *kind, const char *name, const char *stream, int64 upto_version, const char *reason)
{
	Oid			types[] = {TEXTOID, INT8OID};
	Datum		values[2] = {CStringGetTextDatum(stream), Int64GetDatum(upto_version)};

	note("es_skip_quarantined", kind, name, "SELECT jsonb_build_object('stream', $1, 'up_to_version', $2)", types, values, reason);
}
