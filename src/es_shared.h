/*
 * es_shared.h
 *	  What sessions and workers of one database share: latches, and news to wait for.
 */
#ifndef ES_SHARED_H
#define ES_SHARED_H

#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
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
} EsSharedWorker;

typedef struct EsSharedDatabase
{
	Oid			database;		/* InvalidOid: the entry is free */
	slock_t		mutex;			/* of pids and latches */
	bool		stopped;		/* es_stop_worker(): to be left alone */
	EsSharedWorker coordinator;
	EsSharedWorker workers[ES_SHARED_WORKERS];
	pg_atomic_uint32 publish;	/* somebody wants the mark published now */
	pg_atomic_uint32 waiting[2];	/* sessions that wait for each kind of news */
	pg_atomic_uint64 snapshot_position; /* up to where due snapshots were taken; 0: not known */
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
extern bool es_shared_launcher_running(void);
extern void es_shared_set_launcher(Latch *latch);
extern void es_shared_wake_launcher(void);
extern EsSharedDatabase *es_shared_entry(Oid database);

extern void es_shared_wake(EsSharedWorker *worker);
extern void es_shared_announce(EsNews news);
extern void es_shared_want_publish(void);
extern void es_shared_wake_workers(void);

extern bool es_shared_watched(void);
extern void es_shared_wait_begin(EsNews news);
extern bool es_shared_wait(EsNews news, long timeout, const char *what);
extern void es_shared_wait_end(EsNews news);
extern void es_shared_end_of_transaction(void);

#endif							/* ES_SHARED_H */
