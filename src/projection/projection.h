/*
 * projection/projection.h
 *	  Projections: tables that are kept up to date from events.
 *
 * The one header of this wing for the wings above it.
 */
#ifndef ES_PROJECTION_H
#define ES_PROJECTION_H

extern void es_projection_init(void);
extern void es_run_init(void);

#endif							/* ES_PROJECTION_H */
