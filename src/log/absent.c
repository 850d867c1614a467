/*
 * log/absent.c
 *	  Locks on names of streams that do not exist.
 *
 * A stream is locked by its head row. One that does not exist has none, and making one only to lock it would write, also
 * where the call is refused or only checks. So its name is locked: ExclusiveLock on 64 bits of a hash of it. Whoever
 * holds that lock looks whether there is a head, committed or not (log/head.c). Whoever makes the head gives the lock
 * back as soon as it is inserted: from then on the uncommitted row is the lock, because others find it and wait for its
 * transaction. So the lock table has at most ES_MAX_ABSENT of these locks of a transaction.
 *
 * Two names with the same hash wait for each other in vain, which does no harm.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"

#include "base/base.h"
#include "log/absent.h"
#include "log/log.h"

/*
 * The hashes of the names that the open transaction has locked and not given back, each once, but for those of streams that it has
 * made meanwhile. A rollback to a savepoint releases locks, but takes nothing out of here: es_absent_too_many() does.
 */
static uint64 held[ES_MAX_ABSENT + 1];
static int	held_count = 0;

static uint64
hash_of(const text *name)
{
	return hash_bytes_extended((const unsigned char *) VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name), 0);
}

static LOCKTAG
lock_of(uint64 hash)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash, ES_LOCK_STREAM_NAME);
	return tag;
}

/* The place of a name in held[]; -1: it is not there. */
static int
place_of(uint64 hash)
{
	for (int i = held_count - 1; i >= 0; i--)
		if (held[i] == hash)
			return i;
	return -1;
}

/* Whether the open transaction holds more of these locks than it may. Then it must give one back before it takes another. */
bool
es_absent_too_many(void)
{
	if (held_count <= ES_MAX_ABSENT)
		return false;
	for (int i = held_count - 1; i >= 0; i--)
	{
		LOCKTAG		tag = lock_of(held[i]);

		if (!es_lock_held_by_me(&tag, ExclusiveLock))
			held[i] = held[--held_count];
	}
	return held_count > ES_MAX_ABSENT;
}

/* Locks a name, to the end of the transaction if it is not given back. The caller has seen that there is room for it. */
void
es_absent_lock(const text *name)
{
	uint64		hash = hash_of(name);
	LOCKTAG		tag = lock_of(hash);

	if (es_absent_too_many())	/* before the lock: a name that was given back may be this one */
		elog(ERROR, "too many names of streams are locked");
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	if (place_of(hash) < 0)
		held[held_count++] = hash;
}

/* Gives the lock back. The same transaction may have taken it more than once; then it is kept. */
void
es_absent_unlock(const text *name)
{
	uint64		hash = hash_of(name);
	LOCKTAG		tag = lock_of(hash);
	int			place = place_of(hash);

	(void) LockRelease(&tag, ExclusiveLock, false);
	if (place >= 0 && !es_lock_held_by_me(&tag, ExclusiveLock))
		held[place] = held[--held_count];
}

/*
 * Gives the lock back when the stream has been made: its row is the lock from then on. Where the transaction has taken the lock
 * more than once it is kept, but it does not count any more.
 */
void
es_absent_made(const text *name)
{
	int			place;

	es_absent_unlock(name);
	place = place_of(hash_of(name));
	if (place >= 0)
		held[place] = held[--held_count];
}

/* Refuses a call that would hold too many. */
void
es_absent_refuse(const text *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("a transaction cannot lock more than %d streams that do not exist", ES_MAX_ABSENT),
			 errdetail("Stream \"%s\" would be one more.", text_to_cstring(name)),
			 errhint("Append to them, or lock fewer in one transaction.")));
}

/* Whether a transaction holds the lock; it may be our own. */
bool
es_absent_is_locked(const text *name)
{
	LOCKTAG		tag = lock_of(hash_of(name));
	int			count;

	pfree(GetLockConflicts(&tag, ExclusiveLock, &count));
	return count > 0 || es_lock_held_by_me(&tag, ExclusiveLock);
}

/* Must not fail. */
void
es_absent_end_of_transaction(void)
{
	held_count = 0;
}
