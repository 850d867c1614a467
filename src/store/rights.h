/*
 * store/rights.h
 *	  Rights of applications.
 */
#ifndef ES_STORE_RIGHTS_H
#define ES_STORE_RIGHTS_H

extern void es_check_store_owner(void);
extern void es_rights_lock(void);
extern void es_grants_restore(void);

#endif							/* ES_STORE_RIGHTS_H */
