/*
 * projection/crash.h
 *	  Projections during whose run the server crashes.
 */
#ifndef ES_PROJECTION_CRASH_H
#define ES_PROJECTION_CRASH_H

#include "projection/checkpoint.h"
#include "projection/definition.h"

typedef enum EsAttempt
{
	ES_ATTEMPT_NOW,				/* run the batch */
	ES_ATTEMPT_BEGUN,			/* commit first, and flush: then run the batch */
	ES_ATTEMPT_LATER,			/* commit; not now: the checkpoint's retry_at says when */
	ES_ATTEMPT_ALONE,			/* nothing was changed: it must be run alone in the database, and others are at work */
	ES_ATTEMPT_FAILED			/* it has crashed the server too often: the caller has to stop the projection */
} EsAttempt;

extern EsAttempt es_attempt_begin(EsCheckpoint *checkpoint, const EsProjection *projection);
extern void es_attempt_end(const EsProjection *projection, bool suspect);

#endif							/* ES_PROJECTION_CRASH_H */
