/*
 * log/transaction.c
 *	  The transaction callback and what it guards.
 *
 * The lock manager never shows a session its own locks as conflicts, so a high-water mark taken
 * inside a transaction that has drawn positions must stay below the first of them by other means:
 * this variable. A rollback to a savepoint does not clear it, because the sequence's lock stays
 * with the top transaction too and the positions drawn so far are settled only at its end.
 */
#include "postgres.h"

#include "access/xact.h"

#include "base/base.h"
#include "log/log.h"

static int64 first_position = 0;
static bool progressed = false;
static bool has_work = false;
static bool store_made = false;

/* What wings above this one do when a transaction ends, also a failed one. */
#define MAX_CALLBACKS	8
static void (*at_end[MAX_CALLBACKS]) (void);
static int	at_end_count = 0;

static void
reset(void)
{
	first_position = 0;
	progressed = has_work = store_made = false;
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
			if (first_position != 0)
				ES_FAULT(after_commit);
			/* Our rows are visible to new snapshots by now, and our locks are still held. */
			if (first_position != 0 || has_work)
				es_shared_announce(ES_NEWS_APPENDED);
			if (progressed)
				es_shared_announce(ES_NEWS_PROGRESS);
			if (store_made)
				es_shared_store_made();
			reset();
			break;
		case XACT_EVENT_ABORT:
			/* Positions that were drawn for nothing let the mark pass, too. */
			if (first_position != 0)
				es_shared_announce(ES_NEWS_APPENDED);
			es_early_release_end_of_transaction(false);
			reset();
			break;
		case XACT_EVENT_PREPARE:
			es_early_release_end_of_transaction(false);
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
 * Has a function called whenever a transaction has ended, committed, prepared or rolled back: it must not fail, and
 * cannot look at the database. To be called when the library is loaded.
 */
void
es_transaction_at_end(void (*callback) (void))
{
	Assert(at_end_count < MAX_CALLBACKS);
	at_end[at_end_count++] = callback;
}

/* Notes a position drawn by the open transaction; positions only grow, so the first call counts. */
void
es_transaction_allocated(int64 position)
{
	if (first_position == 0)
	{
		first_position = position;
		(void) es_shared();		/* looked up now, for the commit callback */
	}
}

/* Notes that the open transaction moves what others may wait for: a checkpoint, or the published mark. */
void
es_transaction_progressed(void)
{
	progressed = true;
	(void) es_shared();
}

/* Notes that the open transaction leaves work to the background workers. */
void
es_transaction_has_work(void)
{
	has_work = true;
	(void) es_shared();
}

/* Notes that the open transaction makes a store, which somebody should work for. */
void
es_transaction_store_made(void)
{
	store_made = true;
	(void) es_shared();
}

/* The first position that the open transaction drew, 0 when it drew none. */
int64
es_transaction_first_position(void)
{
	return first_position;
}
