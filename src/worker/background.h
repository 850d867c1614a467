/*
 * worker/background.h
 *	  What the background workers of the extension have in common.
 */
#ifndef ES_WORKER_BACKGROUND_H
#define ES_WORKER_BACKGROUND_H

#include "postmaster/bgworker.h"

extern void es_worker_fill(BackgroundWorker *worker, const char *function, const char *type, const void *task,
						   Size size, int restart_time);
extern void es_worker_connect(Oid database, int lock_timeout);
extern bool es_worker_start(const char *function, const char *type, const void *task, Size size,
							BackgroundWorkerHandle **handle);
extern void es_worker_begin(Oid database, const char *activity, int lock_timeout);
extern void es_worker_end(void);

#endif							/* ES_WORKER_BACKGROUND_H */
