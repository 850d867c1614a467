/*
 * es_due.h
 *	  Snapshots that are due.
 */
#ifndef ES_DUE_H
#define ES_DUE_H

extern int64 es_due_look(int64 after, int64 upto, bool *found);

#endif							/* ES_DUE_H */
