/*
 * log/early_release.c
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
 * Everything that such a transaction has done is seen early, by everybody but our functions: rows of other tables, and the
 * payload of its NOTIFY, when another session's commit wakes the listener. That is why it is a choice.
 *
 * The variable `synchronous_commit` is changed, not the setting, and only between the last callback that may fail and the
 * one after the commit. A session that has chosen asynchronous commit keeps it. PREPARE and COMMIT PREPARED flush as
 * always, and so does what the server makes a synchronous commit anyway (ForceSyncCommit(), files to be deleted): of such a
 * commit clog keeps no LSN for a reader to wait for. remote_apply keeps its locks too: only a commit record that was
 * written with it makes the standby say at once that it has applied it.
 *
 * A reader that finds no LSN in clog has nothing to wait for on this machine: a page of it is not written, and so not
 * given up, before the WAL of its commits is flushed. (The synchronous standby may be further behind than clog's buffers
 * reach. Then a reader does not wait for it.)
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
#include "log/log.h"

static bool lowered = false;	/* synchronous_commit is not what the session has chosen */
static int	chosen;				/* what it has */
static bool owed = false;		/* the flush, after this commit's locks are released */
static bool keep_locks = false; /* this transaction commits as always */
static XLogRecPtr built_on = InvalidXLogRecPtr; /* the commits whose heads this transaction has locked */

/*
 * Whether somebody may have released locks early, by this or by an earlier setting. Where the library is not preloaded there
 * is no place to note it, and the answer is always yes.
 */
static bool
in_use(void)
{
	return es_early_lock_release || es_shared_early_release();
}

/*
 * What the session waits for at a synchronous standby; -1: nothing. At most for the flush, which is all that keeps what it
 * reports: a standby does not say of its own accord how far it has applied WAL.
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

/* Whether the synchronous standby does not have WAL up to a point. */
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
 * Waits until the disk has WAL up to a point that others have written, and the synchronous standby, where there is one.
 * Not in the queue of those who commit: there, each point of the WAL is waited for once.
 */
static void
await_lsn(XLogRecPtr lsn)
{
	int			mode = standby_mode();
	long		nap = 1;

	XLogFlush(lsn);
	if (!es_early_lock_release || mode < 0 || max_wal_senders == 0)
		return;
	while (standby_lacks(lsn, mode))
	{
		CHECK_FOR_INTERRUPTS();
		/* Without the latch: whoever waits further out for news may have been woken by it already. */
		(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, nap, WAIT_EVENT_SYNC_REP);
		nap = Min(nap * 2, 10);
	}
}

/* Must not fail: the transaction has committed. (A WAL that cannot be flushed is a PANIC anyway.) */
static void
release_callback(ResourceReleasePhase phase, bool commit, bool top, void *arg)
{
	if (!owed || phase != RESOURCE_RELEASE_AFTER_LOCKS || !top)
		return;
	owed = false;
	if (commit)
	{
		ES_FAULT(before_flush);
		XLogFlush(XactLastCommitEnd);
		/* As within a commit: it looks for cancels itself, and says that the commit stands. */
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

/* Whether files go with the commit; then it is flushed before. */
static bool
deletes_files(void)
{
	EsRelFile  *files;
	int			count = smgrGetPendingDeletes(true, &files);

	if (count > 0)
		pfree(files);
	return count > 0;
}

/* In the callback before a commit, of a transaction that has appended. */
void
es_early_release_before_commit(void)
{
	if (!es_early_lock_release || keep_locks || synchronous_commit <= SYNCHRONOUS_COMMIT_OFF ||
		synchronous_commit >= SYNCHRONOUS_COMMIT_REMOTE_APPLY || deletes_files())
		return;
	es_shared_note_early_release();
	chosen = synchronous_commit;
	synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
	lowered = owed = true;
}

/* In the callbacks after a commit, an abort or PREPARE. */
void
es_early_release_end_of_transaction(bool commit)
{
	if (lowered)
		synchronous_commit = chosen;
	lowered = keep_locks = false;
	built_on = InvalidXLogRecPtr;
	if (!commit)
		owed = false;
}

/* Notes that the open transaction calls ForceSyncCommit(). */
void
es_early_release_keep_locks(void)
{
	keep_locks = true;
}

/* Up to where WAL must be flushed for a version of a head to be durable. */
static XLogRecPtr
lsn_of(const EsHead *head)
{
	return TransactionIdIsNormal(head->writer) ? TransactionIdGetCommitLSN(head->writer) : head->frozen_lsn;
}

/* Notes the version of a head that the open transaction has locked, and may write over. */
void
es_early_release_build_on(const EsHead *head)
{
	if (in_use() && !TransactionIdIsCurrentTransactionId(head->writer))
		built_on = Max(built_on, lsn_of(head));
}

/*
 * Waits until what a version of a head says is durable. One that the open transaction has written itself says what others
 * have written before.
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
es_early_release_await_all(void)
{
	if (in_use() && !RecoveryInProgress())
		await_lsn(inserted());
}

/* Flushes everything that was inserted by now, whoever did it in whatever way. */
void
es_early_release_flush_all(void)
{
	await_lsn(inserted());
}
