/*
 * worker/coordinator.h
 *	  The process that works for one database's store.
 */
#ifndef ES_WORKER_COORDINATOR_H
#define ES_WORKER_COORDINATOR_H

#include "worker/worker.h"

extern bool es_coordinator_start(const EsProcessTask *task, BackgroundWorkerHandle **handle);

extern void es_duties_begin(void);
extern void es_duties_hear(void);
extern TimestampTz es_duties_run(void);

#endif							/* ES_WORKER_COORDINATOR_H */
