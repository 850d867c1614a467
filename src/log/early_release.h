/*
 * log/early_release.h
 *	  Early lock release: what commits and head locks tell it.
 */
#ifndef ES_LOG_EARLY_RELEASE_H
#define ES_LOG_EARLY_RELEASE_H

#include "log/log.h"

extern void es_early_release_init(void);
extern void es_early_release_before_commit(void);
extern void es_early_release_end_of_transaction(bool commit);
extern void es_early_release_keep_locks(void);
extern void es_early_release_head_locked(const EsHead *head);

#endif							/* ES_LOG_EARLY_RELEASE_H */
