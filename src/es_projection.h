/*
 * es_projection.h
 *	  Projections, as the background workers see them.
 */
#ifndef ES_PROJECTION_H
#define ES_PROJECTION_H

#include "c.h"

/* What is left to do, by any worker: projections that run and rebuilds. In a transaction. */
extern int	es_projection_tasks(void);

/*
 * Looks at every projection and rebuild that no other process is at, and runs a batch of each that has something to
 * do, in transactions of its own. True: there is more to do at once. Else *wait says after how many milliseconds to
 * look again if nobody wakes us, -1 for no time in particular.
 */
extern bool es_projection_turn(long *wait);

#endif							/* ES_PROJECTION_H */
