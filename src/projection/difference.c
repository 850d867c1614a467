/*
 * projection/difference.c
 *	  Making live tables equal to their shadow tables, in the open transaction.
 *
 * Rows are matched by the primary key. Rows that are gone are deleted, rows that differ are updated, new ones are
 * inserted. So the tables stay the same tables, rows that are right are not touched, and a snapshot taken before sees
 * everything as it was. First rows are deleted, from the last table to the first. Then they are updated and inserted,
 * from the first table to the last: a table that refers to another one comes after it in the projection's list. In a
 * table without a primary key all rows are deleted and inserted. The fast way is to truncate the tables and fill them
 * again; an older snapshot then sees the tables empty.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/typcache.h"
#include "utils/varlena.h"

#include "base/base.h"
#include "projection/difference.h"

/* What statements about one table are made of. */
typedef struct Table
{
	const char *live;			/* qualified and quoted */
	const char *only;			/* the same, without tables that inherit from it */
	const char *shadow;
	bool		has_key;
	bool		may_refuse;		/* triggers or rules can keep rows as they are */
	StringInfoData same_key;	/* condition on l, the live row, and s, the shadow row */
	StringInfoData columns;		/* to be inserted */
	StringInfoData changes;		/* column = s.column, also of the key: values can be equal and not the same */
	StringInfoData left;		/* the columns in changes, of l and of s */
	StringInfoData right;
	StringInfoData identity;	/* statements that set identity sequences */
} Table;

/* The name of a table without its schema, quoted. */
const char *
es_table_name(const char *qualified)
{
	List	   *names = es_qualified_name(qualified);

	return quote_identifier(strVal(llast(names)));
}

/* The table of that name, which the projection has kept. Whoever operates a projection needs no rights on the table's schema. */
Oid
es_table_oid(const char *qualified)
{
	List	   *names = es_qualified_name(qualified);
	Oid			schema = get_namespace_oid(strVal(linitial(names)), true);
	Oid			table = OidIsValid(schema) ? get_relname_relid(strVal(llast(names)), schema) : InvalidOid;

	if (!OidIsValid(table))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" does not exist", qualified)));
	return table;
}

/*
 * The equality operator of a type of a primary key, qualified: the statements run with the search_path of the
 * handler.
 */
static const char *
equality_of(Oid type)
{
	Oid			oid = lookup_type_cache(type, TYPECACHE_EQ_OPR)->eq_opr;
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(oid));
	Form_pg_operator form;
	const char *name;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "type %s of a primary key has no equality operator", format_type_be(type));
	form = (Form_pg_operator) GETSTRUCT(tuple);
	name = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)),
					NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return name;
}

/* Whether a table, or a partition of it, has rules, or triggers that can keep a row as it is: a BEFORE trigger that returns NULL. */
static bool
may_refuse_rows(Oid relid)
{
	ListCell   *lc;
	bool		may = false;

	foreach(lc, get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE ? find_all_inheritors(relid, AccessShareLock, NULL) :
			list_make1_oid(relid))
	{
		Relation	rel = relation_open(lfirst_oid(lc), AccessShareLock);
		TriggerDesc *triggers = rel->trigdesc;

		may |= rel->rd_rules != NULL || (triggers != NULL &&
										 (triggers->trig_insert_before_row || triggers->trig_update_before_row ||
										  triggers->trig_delete_before_row));
		relation_close(rel, NoLock);
	}
	return may;
}

static void
describe(Table *table, const char *live, const char *schema)
{
	Oid			relid = es_table_oid(live);
	Relation	rel = relation_open(relid, RowExclusiveLock);
	TupleDesc	desc = RelationGetDescr(rel);
	Bitmapset  *key = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_PRIMARY_KEY);

	table->live = live;
	table->only = rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ? live : psprintf("ONLY %s", live);
	table->shadow = psprintf("%s.%s", quote_identifier(schema), es_table_name(live));
	table->has_key = key != NULL;
	table->may_refuse = may_refuse_rows(relid);
	initStringInfo(&table->same_key);
	initStringInfo(&table->columns);
	initStringInfo(&table->changes);
	initStringInfo(&table->left);
	initStringInfo(&table->right);
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
			appendStringInfo(&table->same_key, "%sl.%s %s s.%s", table->same_key.len > 0 ? " AND " : "", name,
							 equality_of(att->atttypid), name);
		if (att->attidentity != ATTRIBUTE_IDENTITY_ALWAYS)
		{
			const char *comma = table->changes.len > 0 ? ", " : "";

			appendStringInfo(&table->changes, "%s%s = s.%s", comma, name, name);
			appendStringInfo(&table->left, "%sl.%s", comma, name);
			appendStringInfo(&table->right, "%ss.%s", comma, name);
		}
		if (att->attidentity != '\0')
			appendStringInfo(&table->identity,
							 "SELECT pg_catalog.setval(q, m) FROM (SELECT pg_catalog.pg_get_serial_sequence(%s, %s)"
							 "::pg_catalog.regclass AS q, (SELECT pg_catalog.max(%s) FROM %s)::pg_catalog.int8 AS m) x"
							 " WHERE m OPERATOR(pg_catalog.>) 0; ",
							 quote_literal_cstr(live), quote_literal_cstr(NameStr(att->attname)), name, live);
	}
	relation_close(rel, NoLock);
}

/*
 * Runs a statement that changes the rows that there are in `from`. Where a trigger or rule has kept some of them as they
 * were, the table would not be what the rebuild has made, and nobody would know.
 */
static void
change(const Table *table, const char *participle, const char *from, const char *statement)
{
	int64		expected = 0;
	int64		rows;

	if (table->may_refuse)
	{
		bool		isnull;

		es_sql_runf("SELECT pg_catalog.count(*) FROM %s", from);
		expected = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	}
	rows = (int64) es_sql_run(statement);
	if (table->may_refuse && rows != expected)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a trigger or rule of table %s lets the rebuild change only a part of the rows", table->live),
				 errdetail("Of %lld rows to be %s it let %lld pass.", (long long) expected, participle, (long long) rows),
				 errhint("Make it let pass what a rebuild does, or disable it for that long.")));
}

static void
insert_all(const Table *table, const char *condition)
{
	if (table->columns.len > 0)
		change(table, "inserted", psprintf("%s s%s", table->shadow, condition),
			   psprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s s%s", table->live,
						table->columns.data, table->columns.data, table->shadow, condition));
}

/* Rows are compared by their bytes, because a type need not have an equality operator. */
#define DIFFERENT	"ROW(%s)::pg_catalog.record OPERATOR(pg_catalog.*<>) ROW(%s)::pg_catalog.record"

static void
update_rows(void *arg)
{
	const Table *table = arg;

	char	   *condition = psprintf("%s AND " DIFFERENT, table->same_key.data, table->left.data, table->right.data);

	change(table, "updated", psprintf("%s l, %s s WHERE %s", table->only, table->shadow, condition),
		   psprintf("UPDATE %s l SET %s FROM %s s WHERE %s", table->only, table->changes.data, table->shadow, condition));
}

/*
 * Updates rows that differ. A unique index is checked row by row. So the update fails where two rows exchange a value
 * that another unique index than the primary key's covers. Then the rows are deleted instead, and inserted again
 * later with the new ones; but not where that would also delete or change rows of other tables, which refer to them.
 */
static void
update(const Table *table)
{
	ErrorData  *error = es_catch(update_rows, (void *) table);
	char	   *condition;

	if (error == NULL)
		return;
	if ((error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION && error->sqlerrcode != ERRCODE_EXCLUSION_VIOLATION) ||
		es_sql_runf("SELECT FROM pg_catalog.pg_constraint c WHERE c.contype OPERATOR(pg_catalog.=) 'f'"
					" AND c.confrelid OPERATOR(pg_catalog.=) %s::pg_catalog.regclass"
					" AND c.confdeltype OPERATOR(pg_catalog.=) ANY ('{c,n,d}')", quote_literal_cstr(table->live)) > 0)
		ReThrowError(error);
	condition = psprintf("%s AND " DIFFERENT, table->same_key.data, table->left.data, table->right.data);
	change(table, "deleted", psprintf("%s l, %s s WHERE %s", table->only, table->shadow, condition),
		   psprintf("DELETE FROM %s l USING %s s WHERE %s", table->only, table->shadow, condition));
}

static void
apply_slowly(Table *tables, int count)
{
	for (int i = count - 1; i >= 0; i--)
	{
		Table	   *table = &tables[i];

		char	   *gone = psprintf("%s l", table->only);

		if (table->has_key)
			gone = psprintf("%s WHERE NOT EXISTS (SELECT FROM %s s WHERE %s)", gone, table->shadow, table->same_key.data);
		change(table, "deleted", gone, psprintf("DELETE FROM %s", gone));
	}
	for (int i = 0; i < count; i++)
	{
		Table	   *table = &tables[i];

		if (table->has_key && table->changes.len > 0)
			update(table);
		if (table->has_key)
			insert_all(table, psprintf(" WHERE NOT EXISTS (SELECT FROM %s l WHERE %s)", table->only,
									   table->same_key.data));
		else
			insert_all(table, "");
	}
}

/* The trigger of a table that fires for an event, by the given bit; NULL: there is none, or it is disabled. */
static const char *
trigger_for(Relation rel, int16 event)
{
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		/* One that a partition has from the table above is that table's. */
		if (!trigger->tgisinternal && !trigger->tgisclone && trigger->tgenabled != TRIGGER_DISABLED &&
			(trigger->tgtype & event) != 0)
			return trigger->tgname;
	}
	return NULL;
}

/* The same for one table: that of the projection, or a partition of it. */
static void
check_fast(Relation rel, const char *name)
{
	const char *trigger = trigger_for(rel, TRIGGER_TYPE_DELETE);

	if (trigger != NULL && trigger_for(rel, TRIGGER_TYPE_TRUNCATE) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table %s has the trigger \"%s\" for DELETE, and none for TRUNCATE", name, trigger),
				 errdetail("A fast rebuild truncates the table, and the trigger would not fire."),
				 errhint("Rebuild it without fast, or make a trigger for TRUNCATE that does the same for all rows.")));
	for (int i = 0; rel->rd_rules != NULL && i < rel->rd_rules->numLocks; i++)
		if (rel->rd_rules->rules[i]->event == CMD_DELETE)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("table %s has a rule for DELETE", name),
					 errdetail("A fast rebuild truncates the table, and the rule would do nothing."),
					 errhint("Rebuild it without fast.")));
}

/*
 * Refuses the fast way for a table whose triggers would not hear of the rows that go: those for DELETE do not fire when it
 * is truncated, nor do rules. What they keep elsewhere would stay, and those for INSERT would add to it.
 */
void
es_difference_check_fast(const char *name)
{
	Oid			relid = es_table_oid(name);
	ListCell   *lc;

	/* Tables that inherit from it without being partitions are left alone. */
	foreach(lc, get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE ? find_all_inheritors(relid, AccessShareLock, NULL) :
			list_make1_oid(relid))
	{
		Relation	rel = relation_open(lfirst_oid(lc), AccessShareLock);

		check_fast(rel, rel->rd_id == relid ? name : quote_qualified_identifier(get_namespace_name(rel->rd_rel->relnamespace),
																				  RelationGetRelationName(rel)));
		relation_close(rel, NoLock);
	}
}

static void
apply_fast(Table *tables, int count)
{
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < count; i++)
		appendStringInfo(&names, "%s%s", i > 0 ? ", " : "", tables[i].only);
	es_sql_runf("TRUNCATE %s", names.data);
	for (int i = 0; i < count; i++)
		insert_all(&tables[i], "");
}

static void
apply(Table *tables, int count, bool fast)
{
	/* There are no statistics yet of tables that were just filled. */
	for (int i = 0; i < count; i++)
		es_sql_runf("ANALYZE %s", tables[i].shadow);
	if (fast)
		apply_fast(tables, count);
	else
		apply_slowly(tables, count);
	for (int i = 0; i < count; i++)
		if (tables[i].identity.len > 0)
			es_sql_run(tables[i].identity.data);
}

/*
 * Makes the tables, given by qualified and quoted names, equal to those of the same names in a schema. Runs as a role.
 * Triggers and constraints of the tables run with the same search_path as when the handler runs.
 */
void
es_difference_apply(Oid role, const char *search_path, const char *schema, List *names, bool fast)
{
	int			count = list_length(names);
	Table	   *tables = palloc0(sizeof(Table) * count);
	EsSql		sql;

	for (int i = 0; i < count; i++)
	{
		if (fast)
			es_difference_check_fast(list_nth(names, i));
		describe(&tables[i], list_nth(names, i), schema);
	}
	es_refuse_temporary_types(role);	/* triggers may call anything, as a handler does */
	es_sql_begin(&sql, role);
	es_pin_setting("search_path", search_path);
	es_pin_setting("row_security", "off");	/* row security raises an error, instead of hiding rows */
	apply(tables, count, fast);
	es_sql_end(&sql);
	CommandCounterIncrement();
}
