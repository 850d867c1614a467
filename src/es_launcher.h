/*
 * es_launcher.h
 *	  Keeps a coordinator in every database that has a store.
 */
#ifndef ES_LAUNCHER_H
#define ES_LAUNCHER_H

extern void es_launcher_init(void);

#endif							/* ES_LAUNCHER_H */
