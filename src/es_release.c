/*
 * es_release.c
 *	  Early lock release: locks are given back before the WAL is flushed, the client is answered after.
 *
 * A transaction keeps its locks until its commit record is on disk, so appends to one stream wait for each other's flush.
 * Here the commit itself is made as an asynchronous one; its locks are released; and then, still before the client
 * hears of it, the session waits for the flush of its own commit record, and for the synchronous standby.
 *
 * So others may see rows for a moment before they are durable. Within the database that does no harm: whoever commits
 * something that is built on them writes behind them in the WAL, and a crash that takes them takes that too. But what
 * leaves the database must not speak of events that a crash can still take back. So the functions that report
 * something first wait for the flush of what they have seen: of one stream, by the transaction that wrote its head
 * last (whoever wrote before is before it in the WAL); of many, by everything that was inserted.
 *
 * The variable `synchronous_commit` is changed, not the setting, and only between the last callback that may fail and the
 * one after the commit. A session that has chosen asynchronous commit keeps it. PREPARE and COMMIT PREPARED flush as
 * always.
 */
#include "postgres.h"

#include "access/clog.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "utils/resowner.h"

#include "es_guc.h"
#include "es_release.h"

static bool lowered = false;	/* synchronous_commit is not what the session has chosen */
static int	chosen;				/* what it has */
static bool owed = false;		/* the flush, after this commit's locks are released */

/* To the disk, and to the synchronous standby where there is one. Interrupts are held, as within a commit. */
static void
await_lsn(XLogRecPtr lsn)
{
	XLogFlush(lsn);
	HOLD_INTERRUPTS();			/* it must not be left in the middle; it looks for cancels itself */
	SyncRepWaitForLSN(lsn, true);
	RESUME_INTERRUPTS();
}

/* Must not fail: the transaction has committed. (A WAL that cannot be flushed is a PANIC anyway.) */
static void
release_callback(ResourceReleasePhase phase, bool commit, bool top, void *arg)
{
	if (!owed || phase != RESOURCE_RELEASE_AFTER_LOCKS || !top)
		return;
	owed = false;
	if (commit)
		await_lsn(XactLastCommitEnd);
}

/* Called once, when the library is loaded. */
void
es_release_init(void)
{
	RegisterResourceReleaseCallback(release_callback, NULL);
}

/* In the callback before a commit, of a transaction that has appended. */
void
es_release_before_commit(void)
{
	if (!es_early_lock_release || synchronous_commit <= SYNCHRONOUS_COMMIT_OFF)
		return;
	chosen = synchronous_commit;
	synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
	lowered = owed = true;
}

/* In the callbacks after a commit, an abort or PREPARE. */
void
es_release_end_of_transaction(bool commit)
{
	if (lowered)
		synchronous_commit = chosen;
	lowered = false;
	if (!commit)
		owed = false;
}

/*
 * Waits until what a transaction has committed is durable; InvalidTransactionId, or one that is not an append of the
 * early kind, costs nothing to speak of.
 */
void
es_release_await(TransactionId writer)
{
	XLogRecPtr	lsn;

	if (!es_early_lock_release || !TransactionIdIsNormal(writer) || RecoveryInProgress() ||
		TransactionIdIsCurrentTransactionId(writer))
		return;
	lsn = TransactionIdGetCommitLSN(writer);
	if (!XLogRecPtrIsInvalid(lsn))
		await_lsn(lsn);
}

/*
 * Up to where WAL was inserted. At the start of a page the pointer already counts the page's header, which no record has
 * caused to be written yet: XLogFlush would refuse it.
 */
static XLogRecPtr
inserted(void)
{
	XLogRecPtr	upto = GetXLogInsertRecPtr();

	if (XLogSegmentOffset(upto, wal_segment_size) == SizeOfXLogLongPHD)
		upto -= SizeOfXLogLongPHD;
	else if (upto % XLOG_BLCKSZ == SizeOfXLogShortPHD)
		upto -= SizeOfXLogShortPHD;
	return upto;
}

/* The same for everything that can have been seen by now. */
void
es_release_await_all(void)
{
	if (es_early_lock_release && !RecoveryInProgress())
		await_lsn(inserted());
}

/* Flushes everything that was inserted by now, whoever did it in whatever way. */
void
es_release_flush_all(void)
{
	if (es_early_lock_release)
		await_lsn(inserted());
	else
		XLogFlush(inserted());
}
