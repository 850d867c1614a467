/*
 * state/snapshot_worker.h
 *	  Snapshots that are due.
 */
#ifndef ES_STATE_SNAPSHOT_WORKER_H
#define ES_STATE_SNAPSHOT_WORKER_H

extern int64 es_snapshot_worker_look(int64 after, int64 upto, bool *found);

#endif							/* ES_STATE_SNAPSHOT_WORKER_H */
