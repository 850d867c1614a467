/*
 * es_failure.c
 *	  Giving the errors of users' expressions a code and a place.
 *
 * From a PG_CATCH, not from an error context callback: a callback would change the code before an
 * EXCEPTION clause inside of the user's own function has seen it.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "es_failure.h"

/*
 * In a PG_CATCH: whether the error is one of the expression's own, to be reported under our code. Not
 * what an operator or the machine's limits did, not a serialization failure (retried as it is), and
 * not what already has a code of ours.
 */
bool
es_failure_is_ours(void)
{
	int			code = geterrcode();

	if (code == ERRCODE_STATEMENT_TOO_COMPLEX)
		return true;			/* endless recursion in a function */
	switch (ERRCODE_TO_CATEGORY(code))
	{
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

/* In a PG_CATCH: throws the error on with our code, and with a detail that says where it was. */
void
es_failure_rethrow(int sqlerrcode, const char *detail)
{
	ErrorData  *error;

	MemoryContextSwitchTo(TopTransactionContext);
	error = CopyErrorData();
	FlushErrorState();
	error->sqlerrcode = sqlerrcode;
	error->detail = detail == NULL ? NULL : pstrdup(detail);
	ReThrowError(error);
}
