/*
 * projection/guard.h
 *	  What a handler's statements may use.
 */
#ifndef ES_PROJECTION_GUARD_H
#define ES_PROJECTION_GUARD_H

typedef struct EsGuard
{
	bool		in_handler;
	Oid			only_schema;	/* the one schema where it may write; InvalidOid: anywhere */
} EsGuard;

extern EsGuard es_guard_set(EsGuard guard);

#endif							/* ES_PROJECTION_GUARD_H */
