/*
 * projection/guard.c
 *	  Where the handler of a rebuild may write.
 *
 * Only to shadow tables, which are all in one schema. Names are redirected by search_path, but a qualified name, or a
 * function with a search_path of its own, does not follow it. So every statement that is executed while the handler
 * runs, also inside of functions, is checked before it begins.
 */
#include "postgres.h"

#include "executor/executor.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"

#include "base/base.h"
#include "projection/guard.h"

static Oid	only_schema = InvalidOid;
static ExecutorStart_hook_type next_executor_start = NULL;
static ProcessUtility_hook_type next_utility = NULL;

static void
check_relation(Oid relid)
{
	if (get_rel_namespace(relid) != only_schema)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a handler must not write to table \"%s.%s\" while its tables are rebuilt",
						get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid)),
				 errdetail("Only the tables listed with the projection are redirected, and only where they are named without their schema."),
				 errhint("Name them unqualified, and list every table that the handler writes to in the argument tables.")));
}

static void
executor_start(QueryDesc *desc, int eflags)
{
	if (OidIsValid(only_schema))
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
	if (OidIsValid(only_schema))
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
 * Sets the hooks, once. They affect the whole process, and most processes never run a rebuild: so they are set when the
 * first one runs. From then on they stay, because hooks of other extensions may call them by now.
 */
static void
set_hooks(void)
{
	static bool done = false;

	if (done)
		return;
	next_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = executor_start;
	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	done = true;
}

/* Sets the one schema that may be written to, InvalidOid for any; returns what was set before. */
Oid
es_guard_set(Oid schema)
{
	Oid			before = only_schema;

	if (OidIsValid(schema))
		set_hooks();
	only_schema = schema;
	return before;
}
