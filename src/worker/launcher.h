/*
 * worker/launcher.h
 *	  Keeps a coordinator in every database that has a store.
 */
#ifndef ES_WORKER_LAUNCHER_H
#define ES_WORKER_LAUNCHER_H

extern void es_launcher_init(void);

#endif							/* ES_WORKER_LAUNCHER_H */
