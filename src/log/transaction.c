/*
 * log/transaction.c
 *	  What the open transaction of this session has done, and what happens at its end.
 *
 * first_position: the lock manager does not report a session's own locks as conflicts. So a session that has
 * allocated positions and finds the high-water mark in the same transaction must keep the mark below the first of
 * them in another way: by this variable. A rollback to a savepoint does not reset it. The lock on the sequence stays
 * with the top transaction as well, and the positions that were allocated so far are settled only at its end.
 */
#include "postgres.h"

#include "access/xact.h"

#include "base/base.h"
#include "log/absent.h"
#include "log/early_release.h"
#include "log/log.h"
#include "log/newest.h"
#include "log/transaction.h"

static int64 first_position = 0;	/* that the transaction has allocated; 0: none */
static bool progressed = false; /* see es_transaction_progressed() */
static bool has_work = false;	/* see es_transaction_has_work() */
static bool store_made = false; /* see es_transaction_store_made() */

/*
 * Callbacks that wings above this one have registered. They run at the end of each transaction, also of a failed one.
 */
#define MAX_CALLBACKS	8
static void (*at_end[MAX_CALLBACKS]) (void);
static int	at_end_count = 0;

static void
reset(void)
{
	first_position = 0;
	progressed = has_work = store_made = false;
	es_absent_end_of_transaction();
	es_shared_end_of_transaction();
	for (int i = 0; i < at_end_count; i++)
		at_end[i] ();
}

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (first_position != 0)
			{
				es_early_release_before_commit();
				ES_FAULT(before_commit);
			}
			break;
		case XACT_EVENT_COMMIT:
			es_early_release_end_of_transaction(true);
			es_newest_end_of_transaction(true);
			if (first_position != 0)
				ES_FAULT(after_commit);
			/* New snapshots see our rows by now, but we still hold our locks. */
			if (first_position != 0 || has_work)
				es_shared_announce(ES_NEWS_APPENDED);
			if (progressed)
				es_shared_announce(ES_NEWS_PROGRESS);
			if (store_made)
				es_shared_store_made();
			reset();
			break;
		case XACT_EVENT_ABORT:
			/* The mark can now pass the positions that we had allocated, so background processes must look. */
			if (first_position != 0)
				es_shared_announce(ES_NEWS_APPENDED);
			es_early_release_end_of_transaction(false);
			es_newest_end_of_transaction(false);
			reset();
			break;
		case XACT_EVENT_PREPARE:
			es_early_release_end_of_transaction(false);
			es_newest_end_of_transaction(false);
			reset();
			break;
		default:
			break;
	}
}

/* Registers the callback; called once, when the library is loaded. */
void
es_transaction_init(void)
{
	RegisterXactCallback(xact_callback, NULL);
}

/*
 * Registers a function that is called at the end of each transaction: when it was committed, prepared or rolled back.
 * The function must not fail and cannot access the database. Call this only when the library is loaded.
 */
void
es_transaction_at_end(void (*callback) (void))
{
	Assert(at_end_count < MAX_CALLBACKS);
	at_end[at_end_count++] = callback;
}

/* Notes that the open transaction has allocated a position. Positions only grow, so the first call tells the lowest. */
void
es_transaction_allocated(int64 position)
{
	if (first_position == 0)
	{
		first_position = position;
		(void) es_shared();		/* looked up now, for the commit callback */
	}
}

/*
 * Notes that the open transaction moves a checkpoint or the published mark. At its commit, those who wait for it are
 * woken.
 */
void
es_transaction_progressed(void)
{
	progressed = true;
	(void) es_shared();
}

/*
 * Notes that there will be work for the background workers when the open transaction has committed: they are woken
 * then.
 */
void
es_transaction_has_work(void)
{
	has_work = true;
	(void) es_shared();
}

/* Notes that the open transaction makes a store. At its commit, the launcher is told, and starts a coordinator. */
void
es_transaction_store_made(void)
{
	store_made = true;
	(void) es_shared();
}

/* The first position that the open transaction has allocated; 0 when it has allocated none. */
int64
es_transaction_first_position(void)
{
	return first_position;
}
