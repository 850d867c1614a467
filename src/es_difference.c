/*
 * es_difference.c
 *	  Making live tables equal to rebuilt ones, in the open transaction.
 *
 * Rows are matched by the primary key: what is gone is deleted, what differs is updated, what is new is inserted. So the
 * tables stay the same tables, rows that are right are not touched, and a snapshot taken before sees everything as it
 * was. First rows are deleted, from the last table to the first, then updated and inserted, from the first to the last: a
 * table that refers to another comes after it in the projection's list. Without a primary key all rows are deleted and
 * inserted. In the fast way the tables are truncated and filled instead, which old snapshots do not outlive.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/regproc.h"
#include "utils/varlena.h"

#include "es_compat.h"
#include "es_difference.h"
#include "es_failure.h"
#include "es_sql.h"

/* What statements about one table are made of. */
typedef struct Table
{
	const char *live;			/* qualified and quoted */
	const char *beside;
	bool		has_key;
	StringInfoData same_key;	/* condition on l and s */
	StringInfoData columns;		/* to be inserted */
	StringInfoData changes;		/* column = s.column, but for the key */
	StringInfoData identity;	/* setting identity sequences */
} Table;

/* The name of a table without its schema, quoted. */
const char *
es_table_name(const char *qualified)
{
	List	   *names = es_qualified_name(qualified);

	return quote_identifier(strVal(llast(names)));
}

static void
describe(Table *table, const char *live, const char *schema)
{
	Oid			relid = RangeVarGetRelid(makeRangeVarFromNameList(es_qualified_name(live)), NoLock, false);
	Relation	rel = table_open(relid, RowExclusiveLock);
	TupleDesc	desc = RelationGetDescr(rel);
	Bitmapset  *key = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY);

	table->live = live;
	table->beside = psprintf("%s.%s", quote_identifier(schema), es_table_name(live));
	table->has_key = key != NULL;
	initStringInfo(&table->same_key);
	initStringInfo(&table->columns);
	initStringInfo(&table->changes);
	initStringInfo(&table->identity);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		const char *name = quote_identifier(NameStr(att->attname));
		bool		in_key = bms_is_member(att->attnum - FirstLowInvalidHeapAttributeNumber, key);

		if (att->attisdropped || att->attgenerated != '\0')
			continue;
		appendStringInfo(&table->columns, "%s%s", table->columns.len > 0 ? ", " : "", name);
		if (in_key)
			appendStringInfo(&table->same_key, "%sl.%s = s.%s", table->same_key.len > 0 ? " AND " : "", name, name);
		else if (att->attidentity != ATTRIBUTE_IDENTITY_ALWAYS)
			appendStringInfo(&table->changes, "%s%s = s.%s", table->changes.len > 0 ? ", " : "", name, name);
		if (att->attidentity != '\0')
			appendStringInfo(&table->identity,
							 "SELECT setval(q, m) FROM (SELECT pg_get_serial_sequence(%s, %s)::regclass AS q,"
							 " (SELECT max(%s) FROM %s) AS m) x WHERE m IS NOT NULL; ",
							 quote_literal_cstr(live), quote_literal_cstr(NameStr(att->attname)), name, live);
	}
	table_close(rel, NoLock);
}

static void
insert_all(const Table *table, const char *condition)
{
	if (table->columns.len > 0)
		es_sql_runf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s s%s", table->live,
					table->columns.data, table->columns.data, table->beside, condition);
}

/* Rows of both are compared by their bytes: a type need not have an equality. */
#define DIFFERENT	"ROW(l.*)::record *<> ROW(s.*)::record"

static void
update_rows(void *arg)
{
	const Table *table = arg;

	es_sql_runf("UPDATE %s l SET %s FROM %s s WHERE %s AND " DIFFERENT, table->live, table->changes.data,
				table->beside, table->same_key.data);
}

/*
 * Updates what differs. Where values change places under another unique index than the primary key's, which is checked
 * row by row, the rows are deleted instead, to be inserted with the new ones.
 */
static void
update(const Table *table)
{
	ErrorData  *error = es_catch(update_rows, (void *) table);

	if (error == NULL)
		return;
	if (error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION && error->sqlerrcode != ERRCODE_EXCLUSION_VIOLATION)
		ReThrowError(error);
	es_sql_runf("DELETE FROM %s l USING %s s WHERE %s AND " DIFFERENT, table->live, table->beside,
				table->same_key.data);
}

static void
apply_slowly(Table *tables, int count)
{
	for (int i = count - 1; i >= 0; i--)
	{
		Table	   *table = &tables[i];

		if (table->has_key)
			es_sql_runf("DELETE FROM %s l WHERE NOT EXISTS (SELECT FROM %s s WHERE %s)", table->live, table->beside,
						table->same_key.data);
		else
			es_sql_runf("DELETE FROM %s", table->live);
	}
	for (int i = 0; i < count; i++)
	{
		Table	   *table = &tables[i];

		if (table->has_key && table->changes.len > 0)
			update(table);
		if (table->has_key)
			insert_all(table, psprintf(" WHERE NOT EXISTS (SELECT FROM %s l WHERE %s)", table->live,
									   table->same_key.data));
		else
			insert_all(table, "");
	}
}

static void
apply_fast(Table *tables, int count)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < count; i++)
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", tables[i].live);
	es_sql_runf("TRUNCATE %s", names.data);
	for (int i = 0; i < count; i++)
		insert_all(&tables[i], "");
}

/* Makes the tables (qualified and quoted names) equal to those of the same names in a schema, as a role. */
void
es_difference_apply(Oid role, const char *schema, List *names, bool fast)
{
	int			count = list_length(names);
	Table	   *tables = palloc0(sizeof(Table) * count);
	EsSql		sql;

	for (int i = 0; i < count; i++)
		describe(&tables[i], list_nth(names, i), schema);
	es_sql_begin(&sql, role);
	/* The planner knows nothing of tables that were filled a moment ago. */
	for (int i = 0; i < count; i++)
		es_sql_runf("ANALYZE %s", tables[i].beside);
	if (fast)
		apply_fast(tables, count);
	else
		apply_slowly(tables, count);
	for (int i = 0; i < count; i++)
		if (tables[i].identity.len > 0)
			es_sql_run(tables[i].identity.data);
	es_sql_end(&sql);
	CommandCounterIncrement();
}
