/*
 * log/owner_code.c
 *	  Code of a table's owner that runs with each row that is written: expressions and predicates of indexes, and CHECK
 *	  constraints, which somebody has added to a table of the store.
 *
 * PostgreSQL runs them with the rights of whoever writes. Here that is whoever appends, a superuser perhaps, in a store
 * that may be somebody else's: its owner would become a superuser. So they run with the owner's rights, as when the owner
 * builds the index.
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/rel.h"

#include "base/base.h"
#include "log/owner_code.h"

/* Whether there is any such code. That of the index for es_trace() is PostgreSQL's own, but looking is dearer than switching. */
static bool
has_code(const ResultRelInfo *rri)
{
	const TupleConstr *constraints = RelationGetDescr(rri->ri_RelationDesc)->constr;

	for (int i = 0; i < rri->ri_NumIndices; i++)
		if (rri->ri_IndexRelationInfo[i]->ii_Expressions != NIL || rri->ri_IndexRelationInfo[i]->ii_Predicate != NIL)
			return true;
	return constraints != NULL && constraints->num_check > 0;
}

/*
 * Opens the indexes of a table, to write to them. What is constant in their expressions and predicates is computed then, and
 * so with the rights of the table's owner.
 */
void
es_owner_code_open_indexes(ResultRelInfo *rri, bool speculative)
{
	Oid			user;
	int			context;

	es_switch_role(rri->ri_RelationDesc->rd_rel->relowner, 0, &user, &context);
	ExecOpenIndices(rri, speculative);
	SetUserIdAndSecContext(user, context);
}

/* Takes on the role of the table's owner where there is such code. An error ends that, too. */
void
es_owner_code_begin(EsOwnerCode *code, const ResultRelInfo *rri)
{
	code->switched = has_code(rri);
	if (code->switched)
		es_switch_role(rri->ri_RelationDesc->rd_rel->relowner, 0, &code->saved_user, &code->saved_context);
}

void
es_owner_code_end(const EsOwnerCode *code)
{
	if (code->switched)
		SetUserIdAndSecContext(code->saved_user, code->saved_context);
}
