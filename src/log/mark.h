/*
 * log/mark.h
 *	  Publishing the high-water mark.
 */
#ifndef ES_LOG_MARK_H
#define ES_LOG_MARK_H

#include "log/log.h"

extern int64 es_mark_given(Oid sequence);
extern void es_mark_restore_floor(void);
extern bool es_mark_publish(TimestampTz goal, bool always, EsMarkState *state);

#endif							/* ES_LOG_MARK_H */
