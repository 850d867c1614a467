/*
 * state/expression.c
 *	  SQL expressions that users register: folds, upcasters, checks.
 *
 * An expression is parsed and planned once (SQL functions are inlined) and then run by the executor's
 * expression interpreter, without SPI. It is one bare expression over the variables it is given: no
 * FROM, no subquery, no aggregate, no set, nothing volatile and nothing that depends on when or by
 * whom it is run.
 *
 * It is planned, initialised and evaluated as the role that registered it, in a security restricted
 * operation, and only while the store's owner could SET ROLE to that role: otherwise a name written
 * into a table row would be a way to that name's rights. Settings that change what stable functions
 * return are pinned.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_node.h"
#include "parser/parse_type.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "base/base.h"
#include "store/store.h"
#include "state/state.h"

/* ---------------------------------------------------------------- parsing */

static void
not_an_expression(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_SYNTAX_ERROR),
			 errmsg("%s must be a single expression", what),
			 errdetail("It has no FROM, WHERE, subquery, aggregate, window or set-returning function.")));
}

typedef struct ParseVariables
{
	const char *what;
	const EsVariable *variables;
	int			count;
	Bitmapset  *used;
} ParseVariables;

/* A bare name that is one of the variables becomes a parameter. */
static Node *
resolve_column(ParseState *pstate, ColumnRef *cref)
{
	ParseVariables *known = pstate->p_ref_hook_state;
	const char *name;

	if (IsA(llast(cref->fields), A_Star))
		not_an_expression(known->what);
	if (list_length(cref->fields) != 1 || !IsA(linitial(cref->fields), String))
		return NULL;
	name = strVal(linitial(cref->fields));
	for (int i = 0; i < known->count; i++)
	{
		Param	   *param;

		if (strcmp(name, known->variables[i].name) != 0)
			continue;
		known->used = bms_add_member(known->used, i);
		param = makeNode(Param);
		param->paramkind = PARAM_EXTERN;
		param->paramid = i + 1;
		param->paramtype = known->variables[i].type;
		param->paramtypmod = -1;
		param->paramcollid = get_typcollation(param->paramtype);
		param->location = cref->location;
		return (Node *) param;
	}
	return NULL;
}

/* The expression of a text like "state || data". */
static Node *
parse_expression(const char *text, const char *what)
{
	List	   *raw = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *select;
	ResTarget  *target;

	if (list_length(raw) != 1)
		not_an_expression(what);
	select = castNode(SelectStmt, linitial_node(RawStmt, raw)->stmt);
	if (list_length(select->targetList) != 1 || select->distinctClause != NIL ||
		select->fromClause != NIL || select->whereClause != NULL || select->groupClause != NIL ||
		select->havingClause != NULL || select->windowClause != NIL || select->valuesLists != NIL ||
		select->sortClause != NIL || select->limitOffset != NULL || select->limitCount != NULL ||
		select->lockingClause != NIL || select->withClause != NULL || select->op != SETOP_NONE)
		not_an_expression(what);
	target = linitial_node(ResTarget, select->targetList);
	if (target->name != NULL || target->indirection != NIL)
		not_an_expression(what);
	return target->val;
}

/* ---------------------------------------------------------------- what it may call */

/* Stable, but of another answer tomorrow or for another session. */
static bool
function_is_fickle(Oid func)
{
	switch (func)
	{
		case F_NOW:
		case F_TRANSACTION_TIMESTAMP:
		case F_STATEMENT_TIMESTAMP:
		case F_AGE_TIMESTAMPTZ:
		case F_AGE_TIMESTAMP:
		case F_CURRENT_USER:
		case F_SESSION_USER:
		case F_CURRENT_SCHEMA:
		case F_CURRENT_SCHEMAS:
		case F_CURRENT_DATABASE:
		case F_CURRENT_SETTING_TEXT:
		case F_CURRENT_SETTING_TEXT_BOOL:
		case F_PG_BACKEND_PID:
		case F_TXID_CURRENT:
		case F_PG_CURRENT_XACT_ID:
		case F_PG_CURRENT_SNAPSHOT:
		case F_TXID_CURRENT_SNAPSHOT:
		case F_INET_CLIENT_ADDR:
		case F_INET_SERVER_ADDR:
			return true;
		default:
			break;
	}
	/* Loads and reads of this extension: a state must not depend on another stream's. */
	return func >= FirstNormalObjectId &&
		getExtensionOfObject(ProcedureRelationId, func) == get_extension_oid("event_store", true);
}

static bool
is_fickle(Oid func, void *context)
{
	return function_is_fickle(func);
}

static bool
find_fickle(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, SQLValueFunction) || IsA(node, NextValueExpr) || IsA(node, CurrentOfExpr))
		return true;
	if (check_functions_in_node(node, is_fickle, context))
		return true;
	return expression_tree_walker(node, find_fickle, context);
}

static bool
find_domain(Node *node, void *context)
{
	if (node == NULL)
		return false;
	return IsA(node, CoerceToDomain) || expression_tree_walker(node, find_domain, context);
}

static void
refuse_volatile(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
			 errmsg("%s must not call volatile functions", what),
			 errhint("Declare a function that depends on its arguments alone IMMUTABLE.")));
}

static void
refuse_fickle(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
			 errmsg("%s must not depend on the time, the session, the user or the store", what),
			 errhint("Use occurred_at or recorded_at, or put the value into the event.")));
}

typedef struct FunctionNotes
{
	StringInfo	definitions;	/* of user-defined functions */
	bool		user_defined;	/* code of users may run, or names be looked up: the search_path and the rest are needed */
} FunctionNotes;

static bool
is_plain_type(Oid type)
{
	switch (type)
	{
		case ANYOID:
		case ANYELEMENTOID:
		case ANYNONARRAYOID:
		case BOOLOID:
		case BPCHAROID:
		case BYTEAOID:
		case CSTRINGOID:
		case DATEOID:
		case FLOAT4OID:
		case FLOAT8OID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case INTERVALOID:
		case JSONBOID:
		case JSONOID:
		case NUMERICOID:
		case OIDOID:			/* of the type, as input functions have it */
		case TEXTOID:
		case TIMEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case TIMETZOID:
		case VARCHAROID:
			return true;
		default:
			return false;
	}
}

/*
 * Whether one of core's functions does nothing but what its arguments say. Others look up names ('t'::regclass), or run code
 * of users without being theirs: table_to_xml() that of a view, pg_input_is_valid() the checks of a domain. Stable ones over
 * plain types are common (jsonb_build_object(), casts of times) and do not; all others need the search_path of the
 * registration, which costs a little, and not that of whoever reads.
 */
static bool
is_plain_function(Form_pg_proc function)
{
	const char *name = NameStr(function->proname);

	if (function->provolatile == PROVOLATILE_IMMUTABLE)
		return true;
	if (!is_plain_type(function->prorettype) || strncmp(name, "pg_", 3) == 0 || strncmp(name, "has_", 4) == 0 ||
		strcmp(name, "format_type") == 0)
		return false;
	for (int i = 0; i < function->pronargs; i++)
		if (!is_plain_type(function->proargtypes.values[i]))
			return false;
	return true;
}

/* Whether a value of this type is read and written in the same way whatever the search_path is. */
static bool
is_settled_type(Oid type)
{
	switch (type)
	{
		case REGCLASSOID:
		case REGCOLLATIONOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REGOPERATOROID:
		case REGOPEROID:
		case REGPROCEDUREOID:
		case REGPROCOID:
		case REGTYPEOID:
			return false;
		default:
			return type < FirstNormalObjectId;
	}
}

static bool
note_function(Oid func, void *context)
{
	FunctionNotes *notes = context;
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(func));

	if (func >= FirstNormalObjectId || !HeapTupleIsValid(tuple) || !is_plain_function((Form_pg_proc) GETSTRUCT(tuple)))
		notes->user_defined = true;
	if (HeapTupleIsValid(tuple))
	{
		if (func >= FirstNormalObjectId && ((Form_pg_proc) GETSTRUCT(tuple))->prokind == PROKIND_FUNCTION)
			appendStringInfoString(notes->definitions,
								   TextDatumGetCString(DirectFunctionCall1(pg_get_functiondef,
																		   ObjectIdGetDatum(func))));
		ReleaseSysCache(tuple);
	}
	return false;
}

static bool
note_functions(Node *node, void *context)
{
	if (node == NULL)
		return false;
	/* Core's functions may call those of a type: to_jsonb() a cast to json, for example, or the output of a regclass, a name. */
	if ((IsA(node, Const) && !is_settled_type(castNode(Const, node)->consttype)) ||
		(IsA(node, RelabelType) && !is_settled_type(castNode(RelabelType, node)->resulttype)) ||
		(IsA(node, RowExpr) && !is_settled_type(castNode(RowExpr, node)->row_typeid)))
		((FunctionNotes *) context)->user_defined = true;
	(void) check_functions_in_node(node, note_function, context);
	return expression_tree_walker(node, note_functions, context);
}

/* Whether a name means a type that is not core's. */
static bool
names_type(TypeName *name)
{
	return LookupTypeNameOid(NULL, name, true) >= FirstNormalObjectId;
}

/*
 * Whether an expression, before the parser has looked up its names, may convert a literal to a type that is not core's. The
 * parser does that itself, and calls the type's input function. The syntax of a call, or of a column, will do too.
 */
static bool
find_named_type(Node *node, void *context)
{
	ListCell   *lc;

	if (node == NULL)
		return false;
	if (IsA(node, TypeName) && names_type((TypeName *) node))
		return true;
	if (IsA(node, FuncCall) && names_type(makeTypeNameFromNameList(((FuncCall *) node)->funcname)))
		return true;
	if (IsA(node, A_Indirection))
		foreach(lc, ((A_Indirection *) node)->indirection)
			if (IsA(lfirst(lc), String) && names_type(makeTypeNameFromNameList(list_make1(lfirst(lc)))))
				return true;
	return raw_expression_tree_walker(node, find_named_type, context);
}

/* ---------------------------------------------------------------- compiling and running */

/*
 * Compiles an expression in the current memory context. what names the argument in errors; role and
 * search_path are those of the registration. Raises a syntax or type error of core's, or ours for
 * what is not allowed.
 */
EsExpr *
es_expr_compile(const char *text, const char *what, Oid result_type,
				const EsVariable *variables, int count, EsStoredRole role, const char *search_path)
{
	EsExpr	   *compiled = palloc0(sizeof(EsExpr));
	ParseVariables known = {what, variables, count, NULL};
	ParseState *pstate;
	FunctionNotes notes = {NULL, false};
	StringInfoData definitions;
	EsRunAs	run_as;
	Node	   *raw;
	Node	   *node;
	Node	   *coerced;

	compiled->role = es_run_as_role(role);
	es_run_as_begin(&run_as, compiled->role, search_path, ES_RUN_PARSES);

	pstate = make_parsestate(NULL);
	pstate->p_sourcetext = text;
	pstate->p_pre_columnref_hook = resolve_column;
	pstate->p_ref_hook_state = &known;
	raw = parse_expression(text, what);
	if (find_named_type(raw, NULL))
		es_refuse_temporary_types(compiled->role);
	node = transformExpr(pstate, raw, EXPR_KIND_SELECT_TARGET);
	if (pstate->p_hasSubLinks || pstate->p_hasAggs || pstate->p_hasWindowFuncs || pstate->p_hasTargetSRFs)
		not_an_expression(what);
	coerced = coerce_to_target_type(pstate, node, exprType(node), result_type, -1,
									COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
	if (coerced == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("%s must return %s, not %s", what, format_type_be(result_type),
						format_type_be(exprType(node)))));
	assign_expr_collations(pstate, coerced);

	if (contain_volatile_functions(coerced))
		refuse_volatile(what);
	if (find_fickle(coerced, NULL))
		refuse_fickle(what);

	initStringInfo(&definitions);
	notes.definitions = &definitions;
	(void) note_functions(coerced, &notes);
	/* Before the planner, which evaluates functions that are declared immutable. */
	es_refuse_temporary(coerced);
	if (notes.user_defined)
		es_refuse_temporary_types(compiled->role);
	compiled->planned = expression_planner((Expr *) coerced);
	/* Once more: SQL functions were inlined, and what they call came to light. */
	(void) note_functions((Node *) compiled->planned, &notes);
	es_refuse_temporary((Node *) compiled->planned);
	if (contain_volatile_functions((Node *) compiled->planned))
		refuse_volatile(what);
	if (find_fickle((Node *) compiled->planned, NULL))
		refuse_fickle(what);
	/* The planner has left only those with constraints, which may call anything. */
	if (find_domain((Node *) compiled->planned, NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				 errmsg("%s must not cast to a domain with constraints", what)));
	compiled->functions = definitions.data;
	free_parsestate(pstate);
	es_run_as_end(&run_as);

	compiled->what = what;
	compiled->registrant = es_role_copy(role);
	compiled->variables = variables;
	compiled->variable_count = count;
	compiled->used = known.used;
	compiled->search_path = notes.user_defined ? pstrdup(search_path) : NULL;
	return compiled;
}

/* Makes an expression ready, in the current memory context. */
EsEvaluation *
es_evaluation_open(const EsExpr *expr)
{
	EsEvaluation	   *run = palloc0(sizeof(EsEvaluation));

	/* Looked at for each run: membership may have been revoked, or the role dropped, since compiling. */
	(void) es_run_as_role(expr->registrant);
	run->expr = expr;
	run->econtext = CreateStandaloneExprContext();
	run->params = makeParamList(expr->variable_count);
	for (int i = 0; i < expr->variable_count; i++)
	{
		run->params->params[i].ptype = expr->variables[i].type;
		run->params->params[i].pflags = 0;
		run->params->params[i].isnull = true;
	}
	run->econtext->ecxt_param_list_info = run->params;

	/* Initialising checks EXECUTE on the functions: as the role that registered. */
	es_evaluation_enter(run);
	run->state = ExecInitExprWithParams(expr->planned, run->params);
	es_evaluation_leave(run);
	return run;
}

/*
 * Takes on the role and the settings for one or more evaluations; what happens until es_evaluation_leave()
 * happens with that role's rights. After an error the transaction's abort restores everything.
 */
void
es_evaluation_enter(EsEvaluation *run)
{
	es_run_as_begin(&run->run_as, run->expr->role, run->expr->search_path, ES_RUN_INSIDE);
}

void
es_evaluation_leave(EsEvaluation *run)
{
	es_run_as_end(&run->run_as);
}

void
es_evaluation_close(EsEvaluation *run)
{
	FreeExprContext(run->econtext, true);
	pfree(run);
}

/* The same after an error that was caught: what it held has been released with the subtransaction. */
void
es_evaluation_abandon(EsEvaluation *run)
{
	FreeExprContext(run->econtext, false);
	pfree(run);
}
