/*
 * projection/columns.c
 *	  Which columns of new_events a handler can see. A batch leaves the others NULL.
 *
 * This looks at the statements as they are written, not as they were analyzed: what a name means can change with other
 * tables, but a column that is not named anywhere cannot be seen. There are ways to see a column without its name: a
 * star, a row as a whole ("e", "(e).data", "f(e)", and "e.f", which is f(e)), a natural join, or another name in an
 * alias. Where one of these is used, all columns count as seen.
 */
#include "postgres.h"

#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "nodes/pg_list.h"
#include "parser/parser.h"

#include "base/base.h"
#include "projection/definition.h"
#include "projection/columns.h"

typedef struct Seen
{
	uint32		columns;		/* bits of the columns seen; all of them, where a star or the like was found */
	List	   *relations;		/* char *: the names that new_events, or a join, has somewhere */
	List	   *references;		/* ColumnRef * */
} Seen;

static bool
see_alias(Seen *seen, const Alias *alias)
{
	if (alias == NULL)
		return false;
	seen->relations = lappend(seen->relations, alias->aliasname);
	return alias->colnames != NIL;
}

/* Notes what is named. True, which ends the walk: all columns count as seen. */
static bool
see(Node *node, void *context)
{
	Seen	   *seen = context;
	bool		anything = false;

	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_ColumnRef:
			anything = IsA(llast(((ColumnRef *) node)->fields), A_Star);
			seen->references = lappend(seen->references, node);
			break;
		case T_RangeVar:
			if (strcmp(((RangeVar *) node)->relname, ES_NEW_EVENTS) == 0)
			{
				anything = see_alias(seen, ((RangeVar *) node)->alias);
				seen->relations = lappend(seen->relations, ES_NEW_EVENTS);
			}
			break;
		case T_JoinExpr:
			{
				JoinExpr   *join = (JoinExpr *) node;
				ListCell   *lc;

				anything = join->isNatural || see_alias(seen, join->alias) || see_alias(seen, join->join_using_alias);
				foreach(lc, join->usingClause)
					seen->columns |= es_event_column(strVal(lfirst(lc)));
				break;
			}
		default:
			break;
	}
	if (anything)
		seen->columns = ES_ALL_COLUMNS;
	return anything || raw_expression_tree_walker(node, see, context);
}

/* The columns that one reference can stand for. All relations must be known by now. */
static uint32
columns_of_reference(const Seen *seen, const ColumnRef *reference)
{
	uint32		column = es_event_column(strVal(llast(reference->fields)));
	ListCell   *field;

	foreach(field, reference->fields)
	{
		ListCell   *relation;

		/*
		 * With a relation in front of it, the last field is a column. A name alone is looked up among the relations as
		 * well: one of them may have the name of a column, and then the row as a whole may be meant.
		 */
		if (lnext(reference->fields, field) != NULL && column != 0)
			break;
		foreach(relation, seen->relations)
			if (strcmp(strVal(lfirst(field)), lfirst(relation)) == 0)
				return ES_ALL_COLUMNS;
	}
	return column;
}

/*
 * The columns of new_events that the statements in a handler's text can see, as bits: 1 << number of the column in
 * es_recorded_event.
 */
uint32
es_columns_seen(const char *text)
{
	Seen		seen = {0};
	List	   *statements = raw_parser(text, RAW_PARSE_DEFAULT);
	ListCell   *lc;

	foreach(lc, statements)
	{
		Node	   *statement = lfirst_node(RawStmt, lc)->stmt;

		/* NOTIFY sees no columns, and raw_expression_tree_walker() does not know it. */
		if (IsA(statement, NotifyStmt))
			continue;
		if (see(statement, &seen))
			return ES_ALL_COLUMNS;
	}
	foreach(lc, seen.references)
		seen.columns |= columns_of_reference(&seen, lfirst(lc));
	return seen.columns;
}
