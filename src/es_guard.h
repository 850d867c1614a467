/*
 * es_guard.h
 *	  What a handler may write to while tables are rebuilt.
 */
#ifndef ES_GUARD_H
#define ES_GUARD_H

extern void es_guard_init(void);
extern Oid	es_guard_set(Oid schema);

#endif							/* ES_GUARD_H */
