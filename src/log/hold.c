/*
 * log/hold.c
 *	  Holding streams: a transaction that has locked streams and appended nothing, so that nobody else appends to them.
 *
 * It has allocated no position, so it is no open append, and the mark passes by. But others wait for its streams. So it
 * holds one lock in common with all of its kind, which conflicts with none of them: by that the coordinator finds those
 * that forget to end their transaction (log/idle_appender.c).
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"

/*
 * To be called first by whatever locks streams: refuses it where nothing can be written, and within stored text. That runs
 * within another append or load, which has read versions and locked heads before. If a fold appended to the stream that
 * it folds, its state would never be that of the newest version.
 */
void
es_lock_prepare(bool append)
{
	const char *what = append ? "appending events" : "locking streams";

	es_prevent_if_read_only(what);
	PreventCommandDuringRecovery(what);
	PreventCommandIfParallelMode(what);
	(void) es_store_now();
	if (es_in_stored_text())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a fold, an upcaster, a check or a projection without side effects may not %s",
						append ? "append events" : "lock streams"),
				 errhint("Declare functions that change something VOLATILE, so that they are refused when they are registered; a projection that appends needs side_effects => true.")));
}

static LOCKTAG
holding_lock(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, ES_LOCK_HOLDING);
	return tag;
}

/* Notes that the open transaction holds streams; a rollback to a savepoint that gives them back takes that back too. */
void
es_hold_note(void)
{
	LOCKTAG		tag = holding_lock();

	(void) LockAcquire(&tag, RowExclusiveLock, false, false);
}

/* Whether other transactions hold streams. */
bool
es_hold_by_others(void)
{
	LOCKTAG		tag = holding_lock();
	int			count;

	pfree(GetLockConflicts(&tag, ExclusiveLock, &count));
	return count > 0;
}

/*
 * Locks one stream, to the end of the transaction. False when it does not exist; then nobody can make it, but this
 * transaction. What is committed of it can be seen by a snapshot that is taken afterwards.
 */
bool
es_stream_hold(const text *name, EsHead *head)
{
	EsHeads		heads;
	bool		exists;

	es_heads_open(&heads, RowExclusiveLock);
	exists = es_head_lock(&heads, name, PG_INT64_MAX, head) == ES_HEAD_LOCKED;
	es_heads_close(&heads);
	if (!exists && es_absent_too_many())
		es_absent_refuse(name);
	es_hold_note();
	return exists;
}
