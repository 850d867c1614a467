/*
 * state/expression.h
 *	  SQL expressions that users register: folds, upcasters, checks.
 */
#ifndef ES_STATE_EXPRESSION_H
#define ES_STATE_EXPRESSION_H

#include "executor/executor.h"
#include "nodes/bitmapset.h"
#include "nodes/execnodes.h"
#include "nodes/params.h"

#include "base/run_as.h"

/* A name that the expression may use. */
typedef struct EsVariable
{
	const char *name;
	Oid			type;
} EsVariable;

/* What is compiled: read-only, good for any number of runs at once. */
typedef struct EsExpr
{
	Expr	   *planned;
	const char *what;			/* "fold", "transform", "check_expr" */
	const EsVariable *variables;
	int			variable_count;
	Bitmapset  *used;			/* variables that it mentions, from 0 */
	Oid			role;			/* whose rights it runs with */
	char	   *role_name;
	char	   *search_path;	/* NULL: it calls nothing that could look at it */
	char	   *functions;		/* definitions of the user's functions it names, for the fingerprint */
} EsExpr;

/* An expression ready to be evaluated, one evaluation at a time. */
typedef struct EsRun
{
	const EsExpr *expr;
	ExprState  *state;
	ExprContext *econtext;
	ParamListInfo params;
	EsRunAs	run_as;
} EsRun;

extern EsExpr *es_expr_compile(const char *text, const char *what, Oid result_type,
							   const EsVariable *variables, int count,
							   const char *role, const char *search_path);
extern EsRun *es_run_open(const EsExpr *expr);
extern void es_run_enter(EsRun *run);
extern void es_run_leave(EsRun *run);
extern void es_run_close(EsRun *run);
extern void es_run_abandon(EsRun *run);

/* Sets a variable; the datum must stay where it is until the evaluation. */
static inline void
es_run_set(EsRun *run, int variable, Datum value, bool isnull)
{
	run->params->params[variable].value = value;
	run->params->params[variable].isnull = isnull;
}

static inline bool
es_run_uses(const EsRun *run, int variable)
{
	return bms_is_member(variable, run->expr->used);
}

/* Evaluates, between enter and leave, in the context es_run_memory(), which the caller resets. */
static inline Datum
es_run_eval(EsRun *run, bool *isnull)
{
	return ExecEvalExprSwitchContext(run->state, run->econtext, isnull);
}

static inline MemoryContext
es_run_memory(EsRun *run)
{
	return run->econtext->ecxt_per_tuple_memory;
}

#endif							/* ES_STATE_EXPRESSION_H */
