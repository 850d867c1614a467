/*
 * base/shared.h
 *	  What sessions and workers of one database share: latches, and news to wait for.
 */
#ifndef ES_BASE_SHARED_H
#define ES_BASE_SHARED_H

#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/spin.h"

/* Databases that have an entry at once. */
#define ES_SHARED_DATABASES		64

/* Upper bound of event_store.max_workers. */
#define ES_SHARED_WORKERS		16

/* A background process of ours. Spurious wake-ups are harmless, so the latch may be another's by now. */
typedef struct EsSharedWorker
{
	int			pid;			/* 0: none */
	Latch	   *latch;
	pg_atomic_uint32 asleep;	/* whoever clears it sets the latch */
	TimestampTz started_at;
} EsSharedWorker;

/* Why the last coordinator of a database ended. */
typedef enum EsEnd
{
	ES_END_UNKNOWN,				/* it is running, or it failed */
	ES_END_ABSENT,				/* there is no extension, no store, or no database to work for */
	ES_END_YIELDED,				/* to a command that needs the database for itself */
	ES_END_CHANGED,				/* the extension was updated, or dropped and created again */
	ES_END_STOPPED,				/* es_stop_worker() */
	ES_END_TERMINATED			/* somebody sent it SIGTERM */
} EsEnd;

typedef struct EsSharedDatabase
{
	Oid			database;		/* InvalidOid: the entry is free */
	slock_t		mutex;			/* of pids and latches */
	bool		stopped;		/* es_stop_worker(): to be left alone */
	bool		asked;			/* the launcher should look here, whatever it knows */
	bool		no_slot;		/* the launcher found no free slot for the coordinator */
	bool		ready;			/* the coordinator has found a store */
	EsEnd		end;
	VirtualTransactionId starter;	/* the coordinator waits for its end before it looks for a store */
	uint32		starts;			/* of coordinators */
	int			connecting;		/* starts in a row that did not get as far as being connected */
	int			workers_wanted; /* a pool worker with a number from here on has to go */
	EsSharedWorker coordinator;
	EsSharedWorker workers[ES_SHARED_WORKERS];
	pg_atomic_uint32 publish;	/* somebody wants the mark published now */
	pg_atomic_uint32 waiting[2];	/* sessions that wait for each kind of news */
	pg_atomic_uint64 snapshot_position; /* up to where due snapshots were taken; 0: not known */
	pg_atomic_uint64 sealed_position;	/* up to where a sealer has come since the coordinator started */
	ConditionVariable appended; /* an append was committed */
	ConditionVariable progress; /* a projection was committed, or the mark was published */
} EsSharedDatabase;

typedef enum EsNews
{
	ES_NEWS_APPENDED,
	ES_NEWS_PROGRESS
} EsNews;

extern void es_shared_init(void);
extern EsSharedDatabase *es_shared(void);
extern bool es_shared_note_early_release(void);
extern bool es_shared_early_release(void);
extern void es_shared_init_entry(EsSharedDatabase *entry);
extern bool es_shared_launcher_running(void);
extern bool es_shared_set_launcher(void);
extern void es_shared_launcher_info(int *pid, TimestampTz *started_at);
extern void es_shared_wake_launcher(void);
extern EsSharedDatabase *es_shared_entry(Oid database);
extern EsSharedDatabase *es_shared_find(Oid database);
extern void es_shared_release_vanished(bool (*exists) (Oid database));
extern bool es_shared_release_idle(void);

extern bool es_shared_attach(EsSharedDatabase *entry, EsSharedWorker *worker);
extern void es_shared_detach(EsSharedDatabase *entry, EsSharedWorker *worker);
extern void es_shared_wake(EsSharedWorker *worker);
extern void es_shared_kick(EsSharedDatabase *entry, EsSharedWorker *worker);
extern bool es_shared_coordinator_running(void);
extern void es_shared_store_made(void);
extern void es_shared_announce(EsNews news);
extern void es_shared_want_publish(void);
extern void es_shared_wake_workers(void);

extern bool es_shared_watched(void);
extern void es_shared_wait_begin(EsNews news);
extern bool es_shared_wait(EsNews news, long timeout, const char *what);
extern void es_shared_wait_end(EsNews news);
extern void es_shared_end_of_transaction(void);

#endif							/* ES_BASE_SHARED_H */
