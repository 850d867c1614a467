/*
 * projection/columns.c
 *	  Which columns of new_events a handler can see, so that a batch need not have the others.
 *
 * Judged by the statements as they are written, not as they were analysed: what a name means can change with other
 * tables, but a column that is named nowhere is never seen. It can be seen without its name through a star, a row as
 * a whole ("e", "(e).data", "f(e)", and "e.f", which is f(e)), a natural join, or another name in an alias: then all
 * columns count.
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
	uint32		columns;		/* bits; all when a way was found that tells nothing */
	List	   *relations;		/* char *: what new_events, or a join, is called somewhere */
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

/* Notes what is named; true (which ends the walk): it could be anything. */
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

/* The columns that one reference can be, once all relations are known. */
static uint32
columns_of_reference(const Seen *seen, const ColumnRef *reference)
{
	uint32		column = es_event_column(strVal(llast(reference->fields)));
	ListCell   *field;

	foreach(field, reference->fields)
	{
		ListCell   *relation;

		/* A relation that is called like a column: it may be either. */
		if (lnext(reference->fields, field) != NULL && column != 0)
			break;
		foreach(relation, seen->relations)
			if (strcmp(strVal(lfirst(field)), lfirst(relation)) == 0)
				return ES_ALL_COLUMNS;
	}
	return column;
}

/* The columns (bits, 1 << number in an es_recorded_event) of new_events that the statements in a handler's text can see. */
uint32
es_columns_seen(const char *text)
{
	Seen		seen = {0};
	List	   *statements = raw_parser(text, RAW_PARSE_DEFAULT);
	ListCell   *lc;

	foreach(lc, statements)
	{
		Node	   *statement = lfirst_node(RawStmt, lc)->stmt;

		/* It sees nothing, and the walker does not know it. */
		if (IsA(statement, NotifyStmt))
			continue;
		if (see(statement, &seen))
			return ES_ALL_COLUMNS;
	}
	foreach(lc, seen.references)
		seen.columns |= columns_of_reference(&seen, lfirst(lc));
	return seen.columns;
}
