/*
 * base/temporary.c
 *	  Temporary objects, which stored text must not use.
 *
 * They belong to the session: that of a reader, an appender, or of a user who runs a projection. Stored text runs with
 * the rights of somebody else. Where a table or type that it means does not exist, or no longer, search_path finds a
 * temporary one of the same name instead (pg_temp is last in it, and cannot be left out). Then view definitions,
 * triggers, defaults, domain checks and casts of the caller's would run with those rights.
 *
 * While stored text runs (base/run_as.c sets a bit of the security context) three things are refused:
 *
 *	- queries that use temporary tables, views, types or functions: where they are analyzed; where they are planned, because
 *	  the planner evaluates functions that are declared immutable; and where they begin, because plans are kept;
 *	- commands that name a temporary table, and would fire its triggers or rewrite it;
 *	- to begin at all, where the session has a temporary type that could run code by merely being converted to: a domain, a
 *	  type with a cast of its own, or a table with such a column. Variables of PL/pgSQL have types that no hook sees.
 *
 * Core finds functions, operators, collations and the like in pg_temp only where the text says pg_temp.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/transam.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_cast.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "optimizer/planner.h"
#include "parser/analyze.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/base.h"

static post_parse_analyze_hook_type next_post_parse_analyze = NULL;
static planner_hook_type next_planner = NULL;
static ExecutorStart_hook_type next_executor_start = NULL;
static ProcessUtility_hook_type next_utility = NULL;

static bool
refusing(void)
{
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	return (context & ES_NO_TEMPORARY) != 0;
}

/* The schema of this session's temporary objects; InvalidOid: it has none. */
static Oid
temporary_schema(void)
{
	Oid			schema;
	Oid			toast;

	GetTempNamespaceState(&schema, &toast);
	return schema;
}

static void
refuse(const char *what, const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("stored text must not use temporary %s \"%s\"", what, name),
			 errdetail("It belongs to the session, and would be used with the rights of role \"%s\".",
					   GetUserNameFromId(GetUserId(), true))));
}

/* ---------------------------------------------------------------- queries */

static void
refuse_relation(Oid relid)
{
	/* Not by its persistence: a constant of type regclass may be any number. */
	if (OidIsValid(relid) && isAnyTempNamespace(get_rel_namespace(relid)))
		refuse("table or view", get_rel_name(relid));
}

static Oid
type_schema(Oid type)
{
	HeapTuple	tuple;
	Oid			schema = InvalidOid;

	if (type < FirstNormalObjectId)
		return InvalidOid;
	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	if (HeapTupleIsValid(tuple))
	{
		schema = ((Form_pg_type) GETSTRUCT(tuple))->typnamespace;
		ReleaseSysCache(tuple);
	}
	return schema;
}

/* Whether a type, or for an array its element, is temporary: both are in the same schema. */
static void
refuse_type(Oid type)
{
	Oid			schema = type_schema(type);

	if (OidIsValid(schema) && isTempNamespace(schema))
		refuse("type", format_type_be(type));
}

static bool
refuse_function(Oid function, void *context)
{
	if (function >= FirstNormalObjectId && isTempNamespace(get_func_namespace(function)))
		refuse("function", get_func_name(function));
	return false;
}

static bool
check_node(Node *node, void *session_has_some)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		ListCell   *lc;

		foreach(lc, ((Query *) node)->rtable)
			refuse_relation(((RangeTblEntry *) lfirst(lc))->relid);
		return query_tree_walker((Query *) node, check_node, session_has_some, 0);
	}
	if (*(bool *) session_has_some)
	{
		switch (nodeTag(node))
		{
			case T_Const:
				if (castNode(Const, node)->consttype == REGCLASSOID && !castNode(Const, node)->constisnull)
					refuse_relation(DatumGetObjectId(castNode(Const, node)->constvalue));
				refuse_type(castNode(Const, node)->consttype);
				break;
			case T_FuncExpr:
			case T_OpExpr:
			case T_RelabelType:
			case T_CoerceViaIO:
			case T_ArrayCoerceExpr:
			case T_ConvertRowtypeExpr:
			case T_CoerceToDomain:
			case T_RowExpr:
			case T_ArrayExpr:
			case T_Var:
			case T_Param:
			case T_FieldSelect:
				refuse_type(exprType(node));
				break;
			default:
				break;
		}
		(void) check_functions_in_node(node, refuse_function, NULL);
	}
	return expression_tree_walker(node, check_node, session_has_some);
}

/* Refuses a query or an expression that uses something temporary. */
void
es_refuse_temporary(Node *node)
{
	bool		session_has_some = OidIsValid(temporary_schema());

	(void) check_node(node, &session_has_some);
}

static void
post_parse_analyze(ParseState *pstate, Query *query, ES_JUMBLE_CONST JumbleState *jumble)
{
	if (refusing())
		es_refuse_temporary((Node *) query);
	if (next_post_parse_analyze != NULL)
		next_post_parse_analyze(pstate, query, jumble);
}

static PlannedStmt *
plan(Query *query, const char *text, int options, ParamListInfo params ES_PLANNER_EXPLAIN(ExplainState *explain))
{
	if (refusing())
		es_refuse_temporary((Node *) query);
	if (next_planner != NULL)
		return next_planner(query, text, options, params ES_PLANNER_EXPLAIN(explain));
	return standard_planner(query, text, options, params ES_PLANNER_EXPLAIN(explain));
}

static void
executor_start(QueryDesc *desc, int eflags)
{
	if (refusing())
	{
		ListCell   *lc;

		foreach(lc, desc->plannedstmt->relationOids)
			refuse_relation(lfirst_oid(lc));
	}
	if (next_executor_start != NULL)
		next_executor_start(desc, eflags);
	else
		standard_ExecutorStart(desc, eflags);
}

/* ---------------------------------------------------------------- commands */

static void
refuse_named(RangeVar *relation)
{
	if (relation != NULL)
		refuse_relation(RangeVarGetRelid(relation, NoLock, true));
}

/* Refuses a command that runs code of a table that it names: triggers, defaults, constraints, expressions. */
static void
check_command(Node *command)
{
	ListCell   *lc;

	switch (nodeTag(command))
	{
		case T_CopyStmt:
			refuse_named(castNode(CopyStmt, command)->relation);
			break;
		case T_TruncateStmt:
			foreach(lc, castNode(TruncateStmt, command)->relations)
				refuse_named(lfirst_node(RangeVar, lc));
			break;
		case T_AlterTableStmt:
			refuse_named(castNode(AlterTableStmt, command)->relation);
			break;
		case T_IndexStmt:
			refuse_named(castNode(IndexStmt, command)->relation);
			break;
		case T_CreateTrigStmt:
			refuse_named(castNode(CreateTrigStmt, command)->relation);
			break;
		case T_LockStmt:
			foreach(lc, castNode(LockStmt, command)->relations)
				refuse_named(lfirst_node(RangeVar, lc));
			break;
		default:
			break;
	}
}

static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree, ProcessUtilityContext context,
				ParamListInfo params, QueryEnvironment *env, DestReceiver *dest, QueryCompletion *completion)
{
	if (refusing())
		check_command(pstmt->utilityStmt);
	if (next_utility != NULL)
		next_utility(pstmt, query, read_only_tree, context, params, env, dest, completion);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params, env, dest, completion);
}

/* ---------------------------------------------------------------- types */

/* A temporary type that runs code where a value is converted to it, and whose code that is. */
typedef struct ActiveType
{
	Oid			type;
	Oid			owner;
} ActiveType;

/* Those of this session, found again after any change of types, columns or casts. */
static List *active_types = NIL;
static Oid	active_schema = InvalidOid;
static bool active_valid = false;
static bool active_reading = false; /* a change meanwhile means: find them again */

static void
types_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	active_valid = active_reading = false;
}

static void
note_active(Oid type, Oid owner)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	ActiveType *active = palloc(sizeof(ActiveType));

	active->type = type;
	active->owner = owner;
	active_types = lappend(active_types, active);
	MemoryContextSwitchTo(old);
}

static Oid
type_owner(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Oid			owner = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_type) GETSTRUCT(tuple))->typowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}

/* Notes a type when it is, or its elements, bounds or columns are, a domain of a user's. */
static void
note_domains(Oid noted, Oid type, int depth)
{
	Oid			element = get_element_type(type);

	check_stack_depth();
	if (OidIsValid(element))
		type = element;
	if (type < FirstNormalObjectId || depth > 32)
		return;
	if (get_typtype(type) == TYPTYPE_DOMAIN)
		note_active(noted, type_owner(type));
	else if (get_typtype(type) == TYPTYPE_RANGE)
		note_domains(noted, get_range_subtype(type), depth + 1);
	else if (get_typtype(type) == TYPTYPE_MULTIRANGE)
		note_domains(noted, get_range_subtype(get_multirange_range(type)), depth + 1);
	else if (get_typtype(type) == TYPTYPE_COMPOSITE)
	{
		Relation	rel = relation_open(get_typ_typrelid(type), AccessShareLock);
		TupleDesc	desc = RelationGetDescr(rel);

		for (int i = 0; i < desc->natts; i++)
			if (!TupleDescAttr(desc, i)->attisdropped)
				note_domains(noted, TupleDescAttr(desc, i)->atttypid, depth + 1);
		relation_close(rel, AccessShareLock);
	}
}

/* Notes temporary types that have a cast. Whoever owns a type can make one, with any function. */
static void
note_casts(Oid schema)
{
	Relation	rel = relation_open(CastRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_cast form = (Form_pg_cast) GETSTRUCT(tuple);

		if (type_schema(form->castsource) == schema)
			note_active(form->castsource, type_owner(form->castsource));
		if (type_schema(form->casttarget) == schema)
			note_active(form->casttarget, type_owner(form->casttarget));
	}
	systable_endscan(scan);
	relation_close(rel, AccessShareLock);
}

/* Finds what is in the temporary schema by what depends on it. */
static void
find_active_types(Oid schema)
{
	Relation	rel = relation_open(DependRelationId, AccessShareLock);
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	list_free_deep(active_types);
	active_types = NIL;
	active_schema = schema;
	active_valid = false;		/* until all are found: this may fail half way, at a lock or a cancel */
	active_reading = true;
	ScanKeyInit(&key[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(NamespaceRelationId));
	ScanKeyInit(&key[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(schema));
	scan = systable_beginscan(rel, DependReferenceIndexId, true, NULL, 2, key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);

		if (form->classid == TypeRelationId)
			note_domains(form->objid, form->objid, 0);
		else if (form->classid == RelationRelationId && OidIsValid(get_rel_type_id(form->objid)))
			note_domains(get_rel_type_id(form->objid), get_rel_type_id(form->objid), 0);
	}
	systable_endscan(scan);
	relation_close(rel, AccessShareLock);
	note_casts(schema);
	active_valid = active_reading;
}

/*
 * Refuses to run functions of users as a role in a session with a temporary type that would run somebody else's code.
 * Code of the role itself and of superusers is no danger.
 */
void
es_refuse_temporary_types(Oid role)
{
	Oid			schema = temporary_schema();
	ListCell   *lc;

	if (likely(!OidIsValid(schema)))
		return;
	for (int tries = 0; tries < 10 && (!active_valid || active_schema != schema); tries++)
		find_active_types(schema);	/* debug_discard_caches would go on for ever */
	foreach(lc, active_types)
	{
		ActiveType *active = lfirst(lc);

		if (active->owner != role && !superuser_arg(active->owner))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("stored text is not run in a session with temporary type \"%s\"",
							format_type_be(active->type)),
					 errdetail("It has a domain or a cast of role \"%s\", whose code could run with the rights of role \"%s\".",
							   GetUserNameFromId(active->owner, true), GetUserNameFromId(role, true)),
					 errhint("Drop the temporary table or type, or use another session.")));
	}
}

/* Sets the hooks; called once, when the library is loaded. Parallel workers load it too. */
void
es_temporary_init(void)
{
	next_post_parse_analyze = post_parse_analyze_hook;
	post_parse_analyze_hook = post_parse_analyze;
	next_planner = planner_hook;
	planner_hook = plan;
	next_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = executor_start;
	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	CacheRegisterSyscacheCallback(TYPEOID, types_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(ATTNUM, types_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(CASTSOURCETARGET, types_changed, (Datum) 0);
}
