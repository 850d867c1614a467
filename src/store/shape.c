/*
 * store/shape.c
 *	  Whether the tables and indexes of the store are as they were made.
 *
 * They belong to the store's owner, who can alter them. C takes what is in a column as a value of the type that the column
 * was made with: where it has another one, a number would be taken for a pointer. What a table must look like is not
 * written down here: it is in sql/store/tables.sql, which the library has in it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_am.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_index.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "nodes/parsenodes.h"
#include "nodes/value.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/base.h"
#include "store/store.h"
#include "store/shape.h"

/* A column, as it was made. */
typedef struct ColumnShape
{
	NameData	name;
	Oid			type;
	Oid			collation;
	bool		nullable;
	char		identity;		/* as in pg_attribute.attidentity */
} ColumnShape;

typedef struct TableShape
{
	NameData	name;
	int			count;
	ColumnShape *columns;
} TableShape;

static TableShape *shapes = NULL;	/* of all tables; made once a session */
static int	shape_count = 0;

/* ---------------------------------------------------------------- how tables were made */

/* A type of pg_catalog: the scripts use no others. */
static Oid
type_of(const TypeName *name)
{
	const char *type = strVal(llast(name->names));
	Oid			oid = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum(type),
									  ObjectIdGetDatum(PG_CATALOG_NAMESPACE));

	if (OidIsValid(oid) && name->arrayBounds != NIL)
		oid = get_array_type(oid);
	if (!OidIsValid(oid))
		elog(ERROR, "type \"%s\" does not exist", type);
	return oid;
}

static void
read_column(const ColumnDef *def, ColumnShape *column)
{
	ListCell   *lc;

	namestrcpy(&column->name, def->colname);
	column->type = type_of(def->typeName);
	/* The one that is ever named is "C". */
	column->collation = def->collClause != NULL ? C_COLLATION_OID : get_typcollation(column->type);
	column->nullable = true;
	foreach(lc, def->constraints)
	{
		const Constraint *constraint = lfirst_node(Constraint, lc);

		if (constraint->contype == CONSTR_NOTNULL || constraint->contype == CONSTR_PRIMARY ||
			constraint->contype == CONSTR_IDENTITY)
			column->nullable = false;
		if (constraint->contype == CONSTR_IDENTITY)
			column->identity = constraint->generated_when;
	}
}

static void
read_table(const CreateStmt *statement, TableShape *shape)
{
	ListCell   *lc;

	namestrcpy(&shape->name, statement->relation->relname);
	shape->columns = palloc0(sizeof(ColumnShape) * list_length(statement->tableElts));
	foreach(lc, statement->tableElts)
	{
		Node	   *element = lfirst(lc);

		if (IsA(element, ColumnDef))
			read_column((ColumnDef *) element, &shape->columns[shape->count++]);
		else if (castNode(Constraint, element)->contype == CONSTR_PRIMARY)
		{
			ListCell   *key;

			foreach(key, castNode(Constraint, element)->keys)
				for (int i = 0; i < shape->count; i++)
					if (strcmp(strVal(lfirst(key)), NameStr(shape->columns[i].name)) == 0)
						shape->columns[i].nullable = false;
		}
	}
}

/* Takes the shapes of all tables from the script that makes them. */
static void
read_shapes(void)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_store shapes", ALLOCSET_SMALL_SIZES);
	MemoryContext old = CurrentMemoryContext;
	List	   *statements = es_script_parse("store/tables", NULL, 0);
	TableShape *tables;
	int			count = 0;
	ListCell   *lc;

	MemoryContextSwitchTo(context);
	tables = palloc0(sizeof(TableShape) * list_length(statements));
	foreach(lc, statements)
	{
		const Node *tree = ((const EsScriptStatement *) lfirst(lc))->tree;

		if (IsA(tree, CreateStmt))
			read_table((const CreateStmt *) tree, &tables[count++]);
	}
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, TopMemoryContext);
	shapes = tables;
	shape_count = count;
}

static const TableShape *
find_shape(const char *table)
{
	if (shapes == NULL)
		read_shapes();
	for (int i = 0; i < shape_count; i++)
		if (strcmp(NameStr(shapes[i].name), table) == 0)
			return &shapes[i];
	elog(ERROR, "there is no table \"%s\" in the store", table);
}

/* ---------------------------------------------------------------- comparing */

void
es_shape_changed(const char *what, const char *name, const char *detail)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s \"%s.%s\" has been changed", what, ES_SCHEMA, name),
			 errdetail("%s", detail),
			 errhint("Undo the change: the library relies on its tables being as it has made them.")));
}

/*
 * Raises an error unless an open table has the columns that it was made with, and stores its rows as PostgreSQL does by
 * itself.
 */
static void
check_columns(Relation rel, const TableShape *shape)
{
	TupleDesc	desc = RelationGetDescr(rel);

	if (desc->natts != shape->count)
		es_shape_changed("table", RelationGetRelationName(rel),
						 psprintf("It has %d columns, counting dropped ones, instead of %d.", desc->natts, shape->count));
	for (int i = 0; i < shape->count; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		const ColumnShape *column = &shape->columns[i];

		if (att->attisdropped || att->atttypid != column->type || att->attcollation != column->collation ||
			att->attgenerated != '\0' || att->attidentity != column->identity ||
			strcmp(NameStr(att->attname), NameStr(column->name)) != 0 ||
			(!column->nullable && !es_column_is_not_null(desc, i)))
			es_shape_changed("table", RelationGetRelationName(rel),
							 psprintf("Column %d is not \"%s\" as it was made.", i + 1, NameStr(column->name)));
	}
	if (rel->rd_rel->relkind == RELKIND_RELATION && rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		es_shape_changed("table", RelationGetRelationName(rel), "Its access method is not heap.");
}

/* Raises an error: a constraint needs the executor. */
ES_NORETURN static void
skipped(Relation rel, const char *constraint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("table \"%s.%s\" has a constraint \"%s\"", ES_SCHEMA, RelationGetRelationName(rel), constraint),
			 errdetail("Appends write below SQL and would not check it."),
			 errhint("Drop the constraint.")));
}

/*
 * Writes below SQL fire no triggers: refused where there are any but those that refuse changes. Foreign keys, and what is
 * deferrable, are checked by triggers of core. The caller has opened the table.
 */
void
es_store_check_triggers(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (trigger->tgisinternal && TRIGGER_FOR_INSERT(trigger->tgtype) && OidIsValid(trigger->tgconstraint))
			skipped(rel, get_constraint_name(trigger->tgconstraint));
		if (!trigger->tgisinternal && strcmp(trigger->tgname, "es_immutable") != 0 &&
			strcmp(trigger->tgname, "es_immutable_row") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("table \"%s.%s\" has a trigger \"%s\"", ES_SCHEMA,
							RelationGetRelationName(rel), trigger->tgname),
					 errdetail("Appends write below SQL and would not fire it."),
					 strcmp(trigger->tgname, "repack_trigger") == 0 ?
					 errhint("pg_repack is at work on this table: wait until it has ended. What is changed while its trigger is not there would be lost. Use VACUUM FULL, CLUSTER or REINDEX CONCURRENTLY instead of it.") :
					 errhint("Drop the trigger; read the log by position instead.")));
	}
}

/* The same, and CHECK constraints too. Those of the log are checked, by log/row.c. */
void
es_store_check_unchecked(Relation rel)
{
	TupleConstr *constraints = RelationGetDescr(rel)->constr;

	es_store_check_triggers(rel);
	if (constraints == NULL || rel->rd_rel->relkind != RELKIND_RELATION)
		return;
	for (int i = 0; i < constraints->num_check; i++)
		/* That of ours, which says that the mark has one row, is kept by its key. */
		if (strcmp(constraints->check[i].ccname, "mark_one_check") != 0)
			skipped(rel, constraints->check[i].ccname);
}

/*
 * The same for a partition of the log; the caller has opened it. It must be an ordinary table: a foreign table has no index,
 * and one that is itself partitioned has no rows.
 */
void
es_store_check_partition(Relation partition)
{
	if (partition->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("partition \"%s\" of the event log is no ordinary table", RelationGetRelationName(partition)),
				 errhint("Detach it, and attach a table that has its rows.")));
	check_columns(partition, find_shape("log"));
	es_store_check_triggers(partition);
}

/* Raises an error unless a table of the store, of this name, is as it was made; written: appends write it below SQL. */
void
es_shape_check_table(Relation rel, const char *name, bool written)
{
	check_columns(rel, find_shape(name));
	if (written)
		es_store_check_unchecked(rel);
}

/*
 * Whether an index has expressions or a predicate. Core's functions that give them compute what is constant in them, which
 * is code of the table's owner, with the rights of whoever asks.
 */
bool
es_index_has_code(Relation index)
{
	bool		no_expressions;
	bool		no_predicate;

	(void) SysCacheGetAttr(INDEXRELID, index->rd_indextuple, Anum_pg_index_indexprs, &no_expressions);
	(void) SysCacheGetAttr(INDEXRELID, index->rd_indextuple, Anum_pg_index_indpred, &no_predicate);
	return !no_expressions || !no_predicate;
}

/* A unique btree index on exactly these columns, ascending; strings compared bytewise. */
void
es_shape_check_index(Relation index, Oid table, const int *key)
{
	Form_pg_index form = index->rd_index;
	const char *name = RelationGetRelationName(index);
	int			natts = 0;
	bool		same = true;

	for (; natts < ES_MAX_KEY && key[natts] != 0; natts++)
		same = same && natts < form->indnatts && form->indkey.values[natts] == key[natts];
	if (!same || form->indnatts != natts || form->indrelid != table || index->rd_rel->relam != BTREE_AM_OID ||
		!form->indisunique || !form->indisvalid || !form->indimmediate || es_index_has_code(index))
		es_shape_changed("index", name, "It is not the unique index that it was made as.");
	for (int i = 0; i < natts; i++)
	{
		if (TupleDescAttr(RelationGetDescr(index), i)->atttypid == TEXTOID &&
			index->rd_indcollation[i] != C_COLLATION_OID)
			es_shape_changed("index", name, "It does not compare bytewise.");
		if (index->rd_indoption[i] != 0)
			es_shape_changed("index", name, "It is not in ascending order.");
	}
}
