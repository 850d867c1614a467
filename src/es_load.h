/*
 * es_load.h
 *	  Loading state.
 */
#ifndef ES_LOAD_H
#define ES_LOAD_H

extern int64 es_take_snapshot(const text *stream);

#endif							/* ES_LOAD_H */
