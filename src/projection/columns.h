/*
 * projection/columns.h
 *	  Which columns of new_events a handler can see.
 */
#ifndef ES_PROJECTION_COLUMNS_H
#define ES_PROJECTION_COLUMNS_H

extern uint32 es_columns_seen(const char *text);

#endif							/* ES_PROJECTION_COLUMNS_H */
