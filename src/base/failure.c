/*
 * base/failure.c
 *	  Giving the errors of users' expressions a code and a place, or catching them.
 *
 * From a PG_CATCH, not from an error context callback: a callback would change the code before an
 * EXCEPTION clause inside of the user's own function has seen it.
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "base/base.h"

/* What an operator or the machine's limits did, or a serialization failure, which is retried as it is. */
static bool
is_of_the_environment(int code)
{
	if (code == ERRCODE_STATEMENT_TOO_COMPLEX)
		return false;			/* endless recursion in a function */
	switch (ERRCODE_TO_CATEGORY(code))
	{
		case ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK):
		case ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES):
		case ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR):
		case ERRCODE_TO_CATEGORY(ERRCODE_INTERNAL_ERROR):
			return true;
		default:
			return code == ERRCODE_LOCK_NOT_AVAILABLE;
	}
}

/*
 * In a PG_CATCH: whether the error is one of the expression's own, to be reported under our code; and not
 * what already has a code of ours.
 */
bool
es_failure_is_ours(void)
{
	int			code = geterrcode();

	return !is_of_the_environment(code) &&
		ERRCODE_TO_CATEGORY(code) != ERRCODE_TO_CATEGORY(MAKE_SQLSTATE('Y', 'E', '0', '0', '0'));
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

/* ---------------------------------------------------------------- cancels of a background worker */

static bool in_worker = false;
static volatile sig_atomic_t cancelled = false;

/* As core has it, and noted. */
static void
cancel_handler(SIGNAL_ARGS)
{
	cancelled = true;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

/*
 * Has a background worker know when it is cancelled. The SQLSTATE does not tell: a handler can raise 57014, and through a foreign table
 * comes the statement_timeout of another server.
 */
void
es_failure_in_worker(void)
{
	in_worker = true;
	pqsignal(SIGINT, cancel_handler);
}

/* Forgets a cancel, which was of something that has ended. */
void
es_cancel_forget(void)
{
	cancelled = false;
	QueryCancelPending = false;
}

/* Whether an error with this code is the answer to a cancel. In a session that cannot be told from what only looks like it. */
bool
es_is_cancel(int code)
{
	return code == ERRCODE_QUERY_CANCELED && (cancelled || !in_worker);
}

/* ---------------------------------------------------------------- catching */

/*
 * Runs body(arg) in a subtransaction. Returns NULL, or the error that it was rolled back for, in the caller's memory
 * context. A cancel is thrown on.
 */
static ErrorData *
catch(void (*body) (void *arg), void *arg, bool keep)
{
	MemoryContext old = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(old);
	PG_TRY();
	{
		body(arg);
		if (keep)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(old);
		CurrentResourceOwner = owner;
		/* The others of its class end the process here; caught, they are another server's, through a foreign table. */
		if (es_is_cancel(error->sqlerrcode))
			ReThrowError(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	CurrentResourceOwner = owner;
	/*
	 * Core puts back the user first and the session user after that, which makes that one the user: a worker that had
	 * taken on a role in body() (es_switch_role()) would go on as somebody else.
	 */
	SetUserIdAndSecContext(user, context);
	return error;
}

ErrorData *
es_catch(void (*body) (void *arg), void *arg)
{
	return catch(body, arg, true);
}

/* The same for a trial: rolled back in any case. */
ErrorData *
es_catch_and_roll_back(void (*body) (void *arg), void *arg)
{
	return catch(body, arg, false);
}

/*
 * The same, for users' text: returns the message of an error that is the text's own; what is the environment's is
 * thrown on.
 */
char *
es_failure_of(void (*body) (void *arg), void *arg, MemoryContext messages)
{
	ErrorData  *error = es_catch(body, arg);

	if (error == NULL)
		return NULL;
	if (is_of_the_environment(error->sqlerrcode))
		ReThrowError(error);
	return MemoryContextStrdup(messages, error->message);
}
