/*
 * projection/guard.h
 *	  Where the handler of a rebuild may write.
 */
#ifndef ES_PROJECTION_GUARD_H
#define ES_PROJECTION_GUARD_H

extern Oid	es_guard_set(Oid schema);

#endif							/* ES_PROJECTION_GUARD_H */
