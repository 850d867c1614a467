/*
 * worker/worker.h
 *	  Background processes: starting them, and what they have in common. Knows no duty and no projection.
 *
 * The one header of this wing for the wings above it.
 */
#ifndef ES_WORKER_H
#define ES_WORKER_H

#include "datatype/timestamp.h"
#include "postmaster/bgworker.h"

#include "base/base.h"

/* ---------------------------------------------------------------- background */

/*
 * What the background workers of the extension have in common.
 */

extern void es_worker_fill(BackgroundWorker *worker, const char *function, const char *type, const void *task,
						   Size size, int restart_time);
extern void es_worker_connect(Oid database, int lock_timeout);
extern bool es_worker_start(const char *function, const char *type, const void *task, Size size,
							BackgroundWorkerHandle **handle);
extern void es_worker_begin(Oid database, const char *activity, int lock_timeout);
extern void es_worker_end(void);

/* ---------------------------------------------------------------- launcher */

/*
 * Keeps a coordinator in every database that has a store.
 */

extern void es_launcher_init(void);

/* ---------------------------------------------------------------- process */

/*
 * What the background processes that stay have in common: coordinator and pool workers.
 */

/* None of these sleeps longer than this: commands that need the database for themselves wait for them. */
#define ES_MAX_SLEEP	1000

typedef enum EsRole
{
	ES_COORDINATOR,
	ES_POOL_WORKER,
	ES_SNAPSHOT_WORKER,
	ES_SEALER
} EsRole;

/* What a process is told, in bgw_extra. */
typedef struct EsProcessTask
{
	Oid			database;
	bool		owned;			/* somebody else starts it again when it ends: the launcher, or the coordinator */
	int			number;			/* of a pool worker */
	int64		position;		/* of the taker of due snapshots */
	VirtualTransactionId starter;
} EsProcessTask;

extern void es_process_init(EsProcessTask *task, EsRole role, int lock_timeout);
extern EsSharedDatabase *es_process_entry(void);
ES_NORETURN extern void es_process_exit(EsEnd end);
extern void es_process_check(void);
extern bool es_process_wanted_away(void);
extern bool es_process_begin(const char *activity);
extern void es_process_end(void);
extern void es_process_abort(void);
extern void es_process_sleep(long timeout, const char *what);

extern bool es_database_locked(Oid database);
extern bool es_process_lock(int number);
extern void es_process_unlock(int number);

#endif							/* ES_WORKER_H */
