/*
 * projection/schedule.h
 *	  Which projections the workers of the pool run, and when.
 */
#ifndef ES_PROJECTION_SCHEDULE_H
#define ES_PROJECTION_SCHEDULE_H

#include "c.h"

extern int64 es_schedule_known(const char *name);

#endif							/* ES_PROJECTION_SCHEDULE_H */
