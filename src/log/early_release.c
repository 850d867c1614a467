/*
 * log/early_release.c
 *	  Early lock release: locks are released before the WAL is flushed, and the client is answered after that.
 *
 * Normally a transaction keeps its locks until its commit record is on disk, so appends to one stream wait for each
 * other's flush. With early lock release, the commit itself is an asynchronous one, and the locks are released. Then,
 * before the client is answered, the session waits for the flush of its commit record and for the synchronous
 * standby.
 *
 * So others may see rows for a moment before they are durable. Within the database that does no harm: whoever commits
 * something that is built on such rows writes it behind them in the WAL, and a crash that loses the rows loses that
 * too. But what leaves the database must not tell of events that a crash can still take back. So the functions that
 * report something first wait for the flush of what they have seen. For one stream this is the commit of the
 * transaction that last wrote its head; earlier ones are before it in the WAL. For many streams it is everything that
 * was inserted into the WAL.
 *
 * Everything that such a transaction has done is seen early by everybody but our functions: rows of other tables, and
 * the payload of its NOTIFY, when another session's commit wakes the listener. That is why early lock release must be
 * switched on.
 *
 * The variable `synchronous_commit` is changed, not the setting, and only between the last callback that may fail and
 * the one after the commit. A session that has chosen asynchronous commit keeps it. PREPARE and COMMIT PREPARED flush
 * as always. So does a commit that the server makes synchronous anyway (ForceSyncCommit(), files to be deleted): of
 * such a commit clog keeps no LSN that a reader could wait for. With remote_apply locks are kept too: only after a
 * commit record that was written with it does the standby report at once that it has applied it.
 *
 * A reader that finds no LSN in clog has nothing to wait for on this machine: clog does not write a page, and so does
 * not drop it from its buffers, before the WAL of the commits on it is flushed. (The synchronous standby may be
 * further behind than clog's buffers reach. Then a reader does not wait for the standby.)
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/storage.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "utils/guc.h"
#include "utils/resowner.h"
#include "utils/wait_event.h"

#include "base/base.h"
#include "log/early_release.h"
#include "log/log.h"

static bool lowered = false;	/* we have changed the variable synchronous_commit for this commit */
static int	chosen;				/* the value that the session has chosen for it */
static bool flush_later = false;	/* this commit's flush comes after its locks are released */
static bool keep_locks = false; /* the transaction commits without early lock release */
static XLogRecPtr built_on = InvalidXLogRecPtr; /* the last commit that wrote a head which the transaction has locked */

/*
 * Whether any session may have released locks early since the server was started. Where the library is not preloaded,
 * there is no shared memory to note this, and no session does.
 */
static bool
in_use(void)
{
	return es_early_lock_release || es_shared_early_release();
}

/*
 * What a session that reports something waits for at a synchronous standby; -1: nothing. With remote_apply it waits
 * only for the flush. That is enough to keep what it reports, and a standby does not tell by itself how far it has
 * applied WAL.
 */
static int
standby_mode(void)
{
	switch (synchronous_commit)
	{
		case SYNCHRONOUS_COMMIT_REMOTE_WRITE:
			return SYNC_REP_WAIT_WRITE;
		case SYNCHRONOUS_COMMIT_REMOTE_FLUSH:
		case SYNCHRONOUS_COMMIT_REMOTE_APPLY:
			return SYNC_REP_WAIT_FLUSH;
		default:
			return -1;
	}
}

/* Whether there is a synchronous standby that does not have the WAL up to a point yet. */
static bool
standby_lacks(XLogRecPtr lsn, int mode)
{
	bool		flags = es_sync_standbys_has_flags();
	bool		defined;
	bool		lacks;

	LWLockAcquire(SyncRepLock, LW_SHARED);
	if (!flags)
		defined = ES_SYNC_STANDBYS != 0;
	else if (ES_SYNC_STANDBYS & ES_SYNC_STANDBYS_INIT)
		defined = (ES_SYNC_STANDBYS & ES_SYNC_STANDBYS_DEFINED) != 0;
	else
		defined = SyncRepStandbyNames != NULL && SyncRepStandbyNames[0] != '\0';	/* just started */
	lacks = defined && lsn > WalSndCtl->lsn[mode];
	LWLockRelease(SyncRepLock);
	return lacks;
}

/*
 * Waits until WAL that others have written, up to a point, is on disk and at the synchronous standby. The server's
 * SyncRepWaitForLSN() is not used for the standby, because it is made for a session that waits for its own commit:
 *
 * - It has a queue in which each point of the WAL is once; a server with assertions checks that. Here the point is that
 *   of somebody else's commit. That session may be in the queue, and so may others that report the same stream.
 *
 * - It answers a cancel with a warning and returns, because the commit cannot be undone. We would go on and report an
 *   event that a failover can still lose. Here a cancel must be an error, and it can be: nothing is committed yet.
 *
 * - It resets our latch. A caller that waits for news may have been woken by the latch already, and would miss the news.
 *
 * So this function polls, and also finds out by itself whether there is a synchronous standby. The setting
 * synchronous_standby_names cannot answer that: a session reads it anew only between statements, but an administrator
 * who empties it must end the wait for a standby that is gone. The server goes by a byte in shared memory, and so do we
 * (base/compat.h).
 */
static void
await_lsn(XLogRecPtr lsn)
{
	int			mode = standby_mode();
	long		delay = 1;

	XLogFlush(lsn);
	if (!es_early_lock_release || mode < 0 || max_wal_senders == 0)
		return;
	while (standby_lacks(lsn, mode))
	{
		CHECK_FOR_INTERRUPTS();
		/* Our latch is not used or reset here: a caller that waits for news may have been woken by it already. */
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, delay, WAIT_EVENT_SYNC_REP);
		delay = Min(delay * 2, 10);
	}
}

/*
 * Waits for the flush, when the locks have been released. Must not fail, because the transaction has committed. (WAL
 * that cannot be flushed is a PANIC anyway.)
 */
static void
release_callback(ResourceReleasePhase phase, bool commit, bool top, void *arg)
{
	if (!flush_later || phase != RESOURCE_RELEASE_AFTER_LOCKS || !top)
		return;
	flush_later = false;
	if (commit)
	{
		ES_FAULT(before_flush);
		XLogFlush(XactLastCommitEnd);
		/* As PostgreSQL's own commit does it: the function handles cancels itself, and warns that the commit stands. */
		HOLD_INTERRUPTS();
		SyncRepWaitForLSN(XactLastCommitEnd, true);
		RESUME_INTERRUPTS();
	}
}

/* Called once, when the library is loaded. */
void
es_early_release_init(void)
{
	RegisterResourceReleaseCallback(release_callback, NULL);
}

/* Whether the commit deletes files. Then PostgreSQL flushes it before. */
static bool
deletes_files(void)
{
	EsRelFile  *files;
	int			count = smgrGetPendingDeletes(true, &files);

	if (count > 0)
		pfree(files);
	return count > 0;
}

/* Called before the commit of a transaction that has appended, from the last callback that may fail. */
void
es_early_release_before_commit(void)
{
	if (!es_early_lock_release || keep_locks || synchronous_commit <= SYNCHRONOUS_COMMIT_OFF ||
		synchronous_commit >= SYNCHRONOUS_COMMIT_REMOTE_APPLY || deletes_files() || !es_shared_note_early_release())
		return;
	chosen = synchronous_commit;
	synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
	lowered = flush_later = true;
}

/* Called after a commit, a rollback or PREPARE. */
void
es_early_release_end_of_transaction(bool commit)
{
	if (lowered)
		synchronous_commit = chosen;
	lowered = keep_locks = false;
	built_on = InvalidXLogRecPtr;
	if (!commit)
		flush_later = false;
}

/* Notes that the open transaction calls ForceSyncCommit(), so it keeps its locks until it is flushed. */
void
es_early_release_keep_locks(void)
{
	keep_locks = true;
}

/* Up to where the WAL must be flushed so that a version of a head is durable. */
static XLogRecPtr
lsn_of(const EsHead *head)
{
	return TransactionIdIsNormal(head->writer) ? TransactionIdGetCommitLSN(head->writer) : head->frozen_lsn;
}

/*
 * Notes the version of a head that the open transaction has locked. The transaction may write a new version, and then
 * the head does not tell any more who wrote the one before.
 */
void
es_early_release_head_locked(const EsHead *head)
{
	if (in_use() && !TransactionIdIsCurrentTransactionId(head->writer))
		built_on = Max(built_on, lsn_of(head));
}

/*
 * Waits until the events up to a version of a head are durable. If the open transaction has written that version
 * itself, the events of others before it must be durable.
 */
void
es_early_release_await(const EsHead *head)
{
	XLogRecPtr	lsn;

	if (!in_use() || RecoveryInProgress())
		return;
	lsn = TransactionIdIsCurrentTransactionId(head->writer) ? built_on : lsn_of(head);
	if (!XLogRecPtrIsInvalid(lsn))
		await_lsn(lsn);
}

/*
 * The end of the WAL that was inserted. At the start of a page, the insert pointer already counts the page's header.
 * But no record has caused that to be written yet, and XLogFlush would refuse a pointer behind it. So the header is
 * subtracted.
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

/* Waits until everything that can have been seen by now is durable. Nothing to wait for without early lock release. */
void
es_early_release_await_all(void)
{
	if (in_use() && !RecoveryInProgress())
		await_lsn(inserted());
}

/* Flushes the whole WAL, also that of asynchronous commits. */
void
es_early_release_flush_all(void)
{
	await_lsn(inserted());
}
