/*
 * base/failure.h
 *	  Giving the errors of users' expressions a code and a place.
 */
#ifndef ES_BASE_FAILURE_H
#define ES_BASE_FAILURE_H

#include "utils/elog.h"

#include "base/compat.h"

extern bool es_failure_is_ours(void);
ES_NORETURN extern void es_failure_rethrow(int sqlerrcode, const char *detail);

extern ErrorData *es_catch(void (*body) (void *arg), void *arg);
extern ErrorData *es_catch_and_roll_back(void (*body) (void *arg), void *arg);
extern char *es_failure_of(void (*body) (void *arg), void *arg, MemoryContext messages);

#endif							/* ES_BASE_FAILURE_H */
