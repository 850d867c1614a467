/*
 * log/position.h
 *	  The sequence of global positions.
 */
#ifndef ES_LOG_POSITION_H
#define ES_LOG_POSITION_H

extern int64 es_position_last(void);
extern int64 es_position_allocate(void);

#endif							/* ES_LOG_POSITION_H */
