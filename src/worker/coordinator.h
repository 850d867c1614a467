/*
 * worker/coordinator.h
 *	  The process that works for one database's store.
 */
#ifndef ES_WORKER_COORDINATOR_H
#define ES_WORKER_COORDINATOR_H

#include "postmaster/bgworker.h"

#include "base/base.h"
#include "worker/worker.h"

extern bool es_coordinator_start(const EsProcessTask *task, int notify_pid, BackgroundWorkerHandle **handle);

#endif							/* ES_WORKER_COORDINATOR_H */
