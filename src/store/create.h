/*
 * store/create.h
 *	  Making the store: what must be in it.
 */
#ifndef ES_STORE_CREATE_H
#define ES_STORE_CREATE_H

/* Tables that refuse UPDATE, DELETE and TRUNCATE by SQL; the leaves of the log do too. */
extern const char *const es_immutable[];
extern const int es_immutable_count;

extern void es_check_whole(void);

#endif							/* ES_STORE_CREATE_H */
