/*
 * worker/process.h
 *	  What the background processes that stay have in common: coordinator and pool workers.
 */
#ifndef ES_WORKER_PROCESS_H
#define ES_WORKER_PROCESS_H

#include "datatype/timestamp.h"

#include "base/compat.h"
#include "base/shared.h"

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

#endif							/* ES_WORKER_PROCESS_H */
