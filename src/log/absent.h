/*
 * log/absent.h
 *	  Locks on names of streams that do not exist.
 */
#ifndef ES_LOG_ABSENT_H
#define ES_LOG_ABSENT_H

#include "log/log.h"

extern void es_absent_lock(const text *name);
extern void es_absent_unlock(const text *name);
extern void es_absent_made(const text *name);
extern bool es_absent_is_locked(const text *name);
extern void es_absent_end_of_transaction(void);

#endif							/* ES_LOG_ABSENT_H */
