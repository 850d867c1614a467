/*
 * projection/guard.c
 *	  What a handler's statements may use.
 *
 * The handler of a rebuild may write only to shadow tables, which are all in one schema. Names are redirected by
 * search_path, but a qualified name, or a function with a search_path of its own, does not follow it. So every
 * statement that is executed while the handler runs, also inside of functions, is checked before it begins.
 *
 * Temporary tables and views are always refused. They belong to the session: that of an appender, say, or of a user who
 * runs the projection. Where a table that the handler names does not exist, or no longer, search_path finds a temporary
 * one instead, and its triggers, defaults and view definitions would run with the rights of the handler's role. It is
 * refused where a query is analyzed and where it is planned, because the planner evaluates functions that are declared
 * immutable; and again where a statement begins, because plans are kept.
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "executor/executor.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "optimizer/planner.h"
#include "parser/analyze.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"

#include "base/base.h"
#include "projection/guard.h"

static EsGuard current = {false, InvalidOid};
static post_parse_analyze_hook_type next_post_parse_analyze = NULL;
static planner_hook_type next_planner = NULL;
static ExecutorStart_hook_type next_executor_start = NULL;
static ProcessUtility_hook_type next_utility = NULL;

static void
check_relation(Oid relid)
{
	if (get_rel_namespace(relid) != current.only_schema)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a handler must not write to table \"%s.%s\" while its tables are rebuilt",
						get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid)),
				 errdetail("Only the tables listed with the projection are redirected, and only where they are named without their schema."),
				 errhint("Name them unqualified, and list every table that the handler writes to in the argument tables.")));
}

static void
refuse_temporary(Oid relid)
{
	if (get_rel_persistence(relid) == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a handler must not use temporary table or view \"%s\"", get_rel_name(relid)),
				 errdetail("It belongs to the session that runs the handler.")));
}

static bool
check_query(Node *node, void *context)
{
	ListCell   *lc;

	if (node == NULL)
		return false;
	if (!IsA(node, Query))
		return expression_tree_walker(node, check_query, context);
	foreach(lc, ((Query *) node)->rtable)
	{
		RangeTblEntry *rte = lfirst(lc);

		if (rte->rtekind == RTE_RELATION)
			refuse_temporary(rte->relid);
	}
	return query_tree_walker((Query *) node, check_query, context, 0);
}

static void
post_parse_analyze(ParseState *pstate, Query *query, ES_JUMBLE_CONST JumbleState *jumble)
{
	if (current.in_handler)
		(void) check_query((Node *) query, NULL);
	if (next_post_parse_analyze != NULL)
		next_post_parse_analyze(pstate, query, jumble);
}

static PlannedStmt *
plan(Query *query, const char *text, int options, ParamListInfo params ES_PLANNER_EXPLAIN(ExplainState *explain))
{
	if (current.in_handler)
		(void) check_query((Node *) query, NULL);
	if (next_planner != NULL)
		return next_planner(query, text, options, params ES_PLANNER_EXPLAIN(explain));
	return standard_planner(query, text, options, params ES_PLANNER_EXPLAIN(explain));
}

static void
executor_start(QueryDesc *desc, int eflags)
{
	if (current.in_handler)
	{
		ListCell   *lc;

		foreach(lc, desc->plannedstmt->relationOids)
			refuse_temporary(lfirst_oid(lc));
	}
	if (OidIsValid(current.only_schema))
	{
		Bitmapset  *targets = es_result_relations(desc->plannedstmt);

		for (int i = -1; (i = bms_next_member(targets, i)) >= 0;)
			check_relation(((RangeTblEntry *) list_nth(desc->plannedstmt->rtable, i - 1))->relid);
	}
	if (next_executor_start != NULL)
		next_executor_start(desc, eflags);
	else
		standard_ExecutorStart(desc, eflags);
}

static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context,
				ParamListInfo params, QueryEnvironment *env, DestReceiver *dest, QueryCompletion *completion)
{
	if (OidIsValid(current.only_schema))
		switch (nodeTag(pstmt->utilityStmt))
		{
			case T_NotifyStmt:
				return;			/* the notification was sent when the event was new */
			case T_VariableSetStmt:
			case T_VariableShowStmt:
			case T_TransactionStmt:
			case T_DoStmt:
			case T_CallStmt:
			case T_ExplainStmt:
			case T_PrepareStmt:
			case T_ExecuteStmt:
			case T_DeallocateStmt:
				break;
			default:
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("a handler must not run this command while its tables are rebuilt"),
						 errdetail("The command is %s.", GetCommandTagName(CreateCommandTag(pstmt->utilityStmt)))));
		}
	if (next_utility != NULL)
		next_utility(pstmt, query, read_only_tree, context, params, env, dest, completion);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params, env, dest, completion);
}

/*
 * Sets the hooks, once. They affect the whole process, and most processes never run a handler: so they are set when the
 * first one runs. From then on they stay, because hooks of other extensions may call them by now.
 */
static void
set_hooks(void)
{
	static bool done = false;

	if (done)
		return;
	next_post_parse_analyze = post_parse_analyze_hook;
	post_parse_analyze_hook = post_parse_analyze;
	next_planner = planner_hook;
	planner_hook = plan;
	next_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = executor_start;
	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	done = true;
}

/* Sets what is refused from now on; returns what was set before. */
EsGuard
es_guard_set(EsGuard guard)
{
	EsGuard		before = current;

	set_hooks();
	current = guard;
	return before;
}
