/*
 * es_grant.h
 *	  Rights of applications.
 */
#ifndef ES_GRANT_H
#define ES_GRANT_H

extern void es_check_store_owner(void);
extern void es_rights_lock(void);
extern void es_grants_restore(void);

#endif							/* ES_GRANT_H */
