/*
 * es_turn.h
 *	  Running projections.
 */
#ifndef ES_TURN_H
#define ES_TURN_H

#include "c.h"

extern int64 es_projection_catch_up(const char *name, int64 upto);

#endif							/* ES_TURN_H */
