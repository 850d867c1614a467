/*
 * projection/run.h
 *	  Running projections.
 */
#ifndef ES_PROJECTION_RUN_H
#define ES_PROJECTION_RUN_H

#include "c.h"

extern int64 es_projection_catch_up(const char *name, int64 upto);

#endif							/* ES_PROJECTION_RUN_H */
