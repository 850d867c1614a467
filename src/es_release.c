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
#include "replication/walsender_private.h"
#include "storage/lwlock.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"

#include "es_compat.h"
#include "es_guc.h"
#include "es_release.h"

static bool lowered = false;	/* synchronous_commit is not what the session has chosen */
static int	chosen;				/* what it has */
static bool owed = false;		/* the flush, after this commit's locks are released */

/* What the session waits for at a synchronous standby; -1: nothing. */
static int
standby_mode(void)
{
	switch (synchronous_commit)
	{
		case SYNCHRONOUS_COMMIT_REMOTE_WRITE:
			return SYNC_REP_WAIT_WRITE;
		case SYNCHRONOUS_COMMIT_REMOTE_FLUSH:
			return SYNC_REP_WAIT_FLUSH;
		case SYNCHRONOUS_COMMIT_REMOTE_APPLY:
			return SYNC_REP_WAIT_APPLY;
		default:
			return -1;
	}
}

/*
 * Waits until the disk has WAL up to a point that others have written, and the synchronous standby, where there is one.
 * Not in the queue of those who commit: there, each point of the WAL is waited for once.
 */
static void
await_lsn(XLogRecPtr lsn)
{
	int			mode = standby_mode();
	bool		waiting = mode >= 0 && max_wal_senders > 0;

	XLogFlush(lsn);
	while (waiting)
	{
		LWLockAcquire(SyncRepLock, LW_SHARED);
		waiting = es_sync_standbys_defined() && lsn > WalSndCtl->lsn[mode];
		LWLockRelease(SyncRepLock);
		if (waiting)
		{
			CHECK_FOR_INTERRUPTS();
			pgstat_report_wait_start(WAIT_EVENT_SYNC_REP);
			pg_usleep(1000);
			pgstat_report_wait_end();
		}
	}
}

/* Must not fail: the transaction has committed. (A WAL that cannot be flushed is a PANIC anyway.) */
static void
release_callback(ResourceReleasePhase phase, bool commit, bool top, void *arg)
{
	if (!owed || phase != RESOURCE_RELEASE_AFTER_LOCKS || !top)
		return;
	owed = false;
#if defined(ES_MUTANT) && ES_MUTANT == 5
	return;						/* known bug: the client is answered before the flush */
#endif
	if (commit)
	{
		XLogFlush(XactLastCommitEnd);
		/* As within a commit: it looks for cancels itself, and says that the commit stands. */
		HOLD_INTERRUPTS();
		SyncRepWaitForLSN(XactLastCommitEnd, true);
		RESUME_INTERRUPTS();
	}
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

#if defined(ES_MUTANT) && ES_MUTANT == 6
	return;						/* known bug: what is not durable is reported */
#endif
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
