/*
 * projection/control.h
 *	  What an operator does with a projection.
 */
#ifndef ES_PROJECTION_CONTROL_H
#define ES_PROJECTION_CONTROL_H

extern void es_projection_control_init(void);

#endif							/* ES_PROJECTION_CONTROL_H */
