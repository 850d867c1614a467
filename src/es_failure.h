/*
 * es_failure.h
 *	  Giving the errors of users' expressions a code and a place.
 */
#ifndef ES_FAILURE_H
#define ES_FAILURE_H

#include "utils/elog.h"

/*
 * For error context callbacks: whether the error under way is one of the expression's own, to be
 * reported under our code. Not what an operator or the machine's limits did, not a serialization
 * failure (retried as it is), not a notice, and not what already has a code of ours.
 */
static inline bool
es_failure_is_ours(void)
{
	int			code = geterrcode();

	if (code == ERRCODE_STATEMENT_TOO_COMPLEX)
		return true;			/* endless recursion in a function */
	switch (ERRCODE_TO_CATEGORY(code))
	{
		case ERRCODE_TO_CATEGORY(ERRCODE_SUCCESSFUL_COMPLETION):
		case ERRCODE_TO_CATEGORY(ERRCODE_WARNING):
		case ERRCODE_TO_CATEGORY(ERRCODE_NO_DATA):
		case ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK):
		case ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES):
		case ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR):
		case ERRCODE_TO_CATEGORY(ERRCODE_INTERNAL_ERROR):
		case ERRCODE_TO_CATEGORY(MAKE_SQLSTATE('Y', 'E', '0', '0', '0')):
			return false;
		default:
			return true;
	}
}

#endif							/* ES_FAILURE_H */
