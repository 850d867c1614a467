/*
 * worker/handout.c
 *	  The hand-out: which task of the pool has something to do, up to where, and who is at it. In shared memory.
 *
 * A task has a slot, found by its database and a hash of its name. Whoever looks for work (the dispatcher, one worker at a
 * time) notes there that there is something to do, or that up to some position there is nothing. Whoever does the work
 * takes the slot first, and notes how far it came.
 *
 * Nothing here is durable, and nothing has to be right for the work to be right: what is done is done under locks of its
 * own, and what is noted here counts only as long as the task is what it was (EsTaskState.definition). A crash forgets all
 * of it, and so does a slot that is given to another task. Then one looks again.
 *
 * The spinlock of a slot guards its fields; that of the table guards whose the slots are. Places (EsSharedWorker) of workers
 * say what their work is: under the lock of the database's entry.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"

/* Tasks that have a slot at once, in all databases. The others work as if nothing were ever noted of them. */
#define SLOTS	1024

struct EsTaskSlot
{
	slock_t		mutex;
	EsTaskKey	key;			/* database InvalidOid: the slot is free */
	EsTaskState state;
};

typedef struct HandOut
{
	slock_t		mutex;			/* of the keys */
	TimestampTz made_at;
	EsTaskSlot	slots[SLOTS];
} HandOut;

static HandOut *handout = NULL;
static EsTaskRef working;		/* what this process is at; slot NULL: nothing */

/* After a crash too, with fresh memory. */
static void
attach(void *memory, bool fresh)
{
	handout = memory;
	if (!fresh)
		return;
	handout->made_at = GetCurrentTimestamp();
	SpinLockInit(&handout->mutex);
	for (int i = 0; i < SLOTS; i++)
		SpinLockInit(&handout->slots[i].mutex);
}

/*
 * What is noted of the tasks of this database, as JSON, by the first hash of their names (hashtextextended(name, 0)): what the
 * setting event_store.hand_out shows. A view can read a setting without depending on the extension.
 */
static const char *
show(void)
{
	StringInfoData json;
	EsSharedDatabase *entry = handout == NULL || !OidIsValid(MyDatabaseId) ? NULL : es_shared_find(MyDatabaseId);

	if (entry == NULL)
		return "";
	initStringInfo(&json);
	appendStringInfo(&json, "{\"no_slot\": %s", entry->no_slot || entry->no_worker_slot ? "true" : "false");
	for (int i = 0; i < SLOTS; i++)
	{
		EsTaskSlot *slot = &handout->slots[i];
		EsTaskKey	key;
		EsTaskState state;

		if (slot->key.database != MyDatabaseId)
			continue;
		SpinLockAcquire(&slot->mutex);
		key = slot->key;
		state = slot->state;
		SpinLockRelease(&slot->mutex);
		if (key.database != MyDatabaseId)
			continue;
		appendStringInfo(&json, ", \"%lld\": {\"row\": %lld, \"position\": %lld, \"slow\": %s", (long long) key.hash[0],
						 (long long) state.row, (long long) state.known, state.slow ? "true" : "false");
		if (state.pid != 0)
			appendStringInfo(&json, ", \"pid\": %d, \"since\": %.6f", state.pid,
							 (double) state.since / USECS_PER_SEC +
							 (double) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * SECS_PER_DAY);
		appendStringInfoChar(&json, '}');
	}
	appendStringInfoChar(&json, '}');
	return json.data;
}

/* Called once, when the library is loaded. */
void
es_handout_init(void)
{
	static const EsSharedArea area = {"event_store hand-out", sizeof(HandOut), attach};
	static char *nothing = NULL;

	DefineCustomStringVariable("event_store.hand_out",
							   "Shows what the workers of this database know of each projection, as JSON.",
							   "The view event_store.projection_status reads it.",
							   &nothing,
							   "",
							   PGC_INTERNAL, GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE,
							   NULL, NULL, show);
	es_shared_ask_for(&area);
}

/* When shared memory was made: when the server was started, or after its last crash. */
TimestampTz
es_handout_made_at(void)
{
	return handout == NULL ? 0 : handout->made_at;
}

/* ---------------------------------------------------------------- slots */

static bool
same_key(const EsTaskKey *a, const EsTaskKey *b)
{
	return a->database == b->database && a->hash[0] == b->hash[0] && a->hash[1] == b->hash[1];
}

/* The slot of a task of this database. With `make` one is made where there is none. Without a slot, ref->slot is NULL. */
void
es_task_find(const char *name, bool make, EsTaskRef *ref)
{
	int			len = strlen(name);
	int			start;
	EsTaskSlot *empty = NULL;

	memset(ref, 0, sizeof(*ref));
	if (handout == NULL)
		return;
	ref->key.database = MyDatabaseId;
	ref->key.hash[0] = hash_bytes_extended((const unsigned char *) name, len, 0);
	ref->key.hash[1] = hash_bytes_extended((const unsigned char *) name, len, UINT64CONST(0x9e3779b97f4a7c15));
	start = (ref->key.hash[0] ^ MyDatabaseId) % SLOTS;
	SpinLockAcquire(&handout->mutex);
	for (int i = 0; i < SLOTS && ref->slot == NULL; i++)
	{
		EsTaskSlot *slot = &handout->slots[(start + i) % SLOTS];

		if (same_key(&slot->key, &ref->key))
			ref->slot = slot;
		else if (slot->key.database == InvalidOid)
		{
			/* Slots are freed too, so the one that is looked for may be behind it. */
			if (empty == NULL)
				empty = slot;
		}
	}
	if (ref->slot == NULL && empty != NULL && make)
	{
		SpinLockAcquire(&empty->mutex);
		memset(&empty->state, 0, sizeof(empty->state));
		empty->state.slow = true;	/* until it has shown that it is not */
		empty->key = ref->key;
		SpinLockRelease(&empty->mutex);
		ref->slot = empty;
	}
	SpinLockRelease(&handout->mutex);
}

/* Frees the slots of databases that are gone. */
void
es_tasks_release_vanished(bool (*exists) (Oid database))
{
	for (int i = 0; handout != NULL && i < SLOTS; i++)
	{
		EsTaskSlot *slot = &handout->slots[i];
		Oid			database = slot->key.database;

		if (!OidIsValid(database) || exists(database))
			continue;
		SpinLockAcquire(&handout->mutex);
		SpinLockAcquire(&slot->mutex);
		if (slot->key.database == database)
			slot->key.database = InvalidOid;
		SpinLockRelease(&slot->mutex);
		SpinLockRelease(&handout->mutex);
	}
}

/* Locks the slot; false when it is not the task's any more, or there is none. */
static bool
lock(const EsTaskRef *ref)
{
	if (ref->slot == NULL)
		return false;
	SpinLockAcquire(&ref->slot->mutex);
	if (same_key(&ref->slot->key, &ref->key))
		return true;
	SpinLockRelease(&ref->slot->mutex);
	return false;
}

/* Frees the slot of a task that there is no more. */
void
es_task_forget(const EsTaskRef *ref)
{
	if (ref->slot == NULL)
		return;
	SpinLockAcquire(&handout->mutex);
	if (lock(ref))
	{
		if (ref->slot->state.pid == 0)
			ref->slot->key.database = InvalidOid;
		SpinLockRelease(&ref->slot->mutex);
	}
	SpinLockRelease(&handout->mutex);
}

/* What is noted of a task. False: nothing. With `looking`, whoever is at it just now is asked to look once more afterwards. */
bool
es_task_read(const EsTaskRef *ref, bool looking, EsTaskState *state)
{
	memset(state, 0, sizeof(*state));
	if (!lock(ref))
		return false;
	*state = ref->slot->state;
	if (looking && state->pid != 0)
		ref->slot->state.once_more = true;
	SpinLockRelease(&ref->slot->mutex);
	return true;
}

/*
 * Notes what a look at the log has shown, if nothing was noted since: there is nothing to do up to `known`, and up to `upto`
 * there is something, if that is greater.
 */
void
es_task_looked(const EsTaskRef *ref, const EsTaskState *before, int64 known, int64 upto)
{
	TimestampTz now = GetCurrentTimestamp();
	EsTaskState *state;

	if (!lock(ref))
		return;
	state = &ref->slot->state;
	if (state->pid == 0 && state->definition == before->definition && state->known == before->known &&
		state->base == before->base && state->upto == before->upto)
	{
		if (known > state->base && state->known <= state->base)
			state->moved_at = now;
		state->known = known;
		state->upto = upto;
	}
	SpinLockRelease(&ref->slot->mutex);
}

/* ---------------------------------------------------------------- who is at what */

/*
 * Whether this worker may take a slow task: a task that may keep it for long must leave workers for the others. In a
 * worker of the pool, under the entry's lock.
 */
static bool
may_be_slow(const EsSharedDatabase *entry, const EsSharedWorker *self, TimestampTz now)
{
	int			slow = 0;

	for (int i = 0; i < ES_SHARED_WORKERS; i++)
	{
		const EsSharedWorker *worker = &entry->workers[i];

		if (worker != self && worker->pid != 0 && worker->busy_since != 0 &&
			(worker->slow || now - worker->busy_since > ES_SLOW_TASK * INT64CONST(1000)))
			slow++;
	}
	return slow < Max(1, entry->workers_wanted - 1);
}

/*
 * Takes a task, for a worker of the pool. False: somebody is at it, or it is slow and enough workers are at such ones
 * (*later is set). A task without a slot is always taken, as a slow one.
 */
bool
es_task_take(const EsTaskRef *ref, bool slow, bool *later)
{
	EsSharedDatabase *entry = es_process_entry();
	EsSharedWorker *self = es_process_place();
	TimestampTz now = GetCurrentTimestamp();
	bool		taken;

	SpinLockAcquire(&entry->mutex);
	taken = (entry->alone == 0 || entry->alone == MyProcPid) && (!slow || may_be_slow(entry, self, now));
	if (taken)
	{
		self->busy_since = now;
		self->slow = slow;
	}
	SpinLockRelease(&entry->mutex);
	if (!taken)
	{
		*later = true;
		return false;
	}
	if (lock(ref))
	{
		taken = ref->slot->state.pid == 0;
		if (taken)
		{
			ref->slot->state.pid = MyProcPid;
			ref->slot->state.since = now;
			working = *ref;
		}
		else
			ref->slot->state.once_more = true;
		SpinLockRelease(&ref->slot->mutex);
	}
	if (!taken)
		(void) es_task_end(NULL);
	return taken;
}

/*
 * Has no other worker of the database take a task until this one ends its own. False: some are at theirs; but they take no more, so it
 * is worth to wait a little, and to ask again.
 */
bool
es_task_alone(void)
{
	EsSharedDatabase *entry = es_process_entry();
	EsSharedWorker *self = es_process_place();
	bool		alone;

	SpinLockAcquire(&entry->mutex);
	alone = entry->alone == 0 || entry->alone == MyProcPid;
	if (alone)
		entry->alone = MyProcPid;
	for (int i = 0; i < ES_SHARED_WORKERS && alone; i++)
		alone = &entry->workers[i] == self || entry->workers[i].pid == 0 || entry->workers[i].busy_since == 0;
	SpinLockRelease(&entry->mutex);
	return alone;
}

/*
 * This worker is at nothing any more. `after` is what is to be noted of the task, or NULL: what was noted before. Returns whether
 * somebody has looked meanwhile, and left it to this worker to look again. After an error too; must not fail.
 */
bool
es_task_end(const EsTaskState *after)
{
	EsSharedDatabase *entry = es_process_entry();
	EsSharedWorker *self = es_process_place();
	bool		once_more = false;

	if (lock(&working))
	{
		EsTaskState *state = &working.slot->state;

		if (state->pid == MyProcPid)
		{
			once_more = state->once_more;
			if (after != NULL)
				*state = *after;
			state->pid = 0;
			state->since = 0;
			state->once_more = false;
		}
		SpinLockRelease(&working.slot->mutex);
	}
	memset(&working, 0, sizeof(working));
	if (self != NULL)
	{
		SpinLockAcquire(&entry->mutex);
		self->busy_since = 0;
		self->slow = false;
		if (entry->alone == MyProcPid)
			entry->alone = 0;
		SpinLockRelease(&entry->mutex);
	}
	return once_more;
}

/* ---------------------------------------------------------------- the dispatcher */

/* Makes this worker the one that looks for work. False: another one is, and it will look again. */
bool
es_dispatch_begin(void)
{
	EsSharedDatabase *entry = es_process_entry();
	bool		free;

	SpinLockAcquire(&entry->mutex);
	free = entry->dispatcher == 0;
	if (free)
	{
		entry->dispatcher = MyProcPid;
		entry->dispatch_again = false;
	}
	else
		entry->dispatch_again = true;
	SpinLockRelease(&entry->mutex);
	return free;
}

/* Returns whether another worker came meanwhile: then it is to be looked again. After an error too; must not fail. */
bool
es_dispatch_end(void)
{
	EsSharedDatabase *entry = es_process_entry();
	bool		again = false;

	SpinLockAcquire(&entry->mutex);
	if (entry->dispatcher == MyProcPid)
	{
		again = entry->dispatch_again;
		entry->dispatcher = 0;
	}
	SpinLockRelease(&entry->mutex);
	return again;
}
