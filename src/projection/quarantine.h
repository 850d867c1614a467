/*
 * projection/quarantine.h
 *	  The quarantine of a projection: streams of which it could not apply an event.
 */
#ifndef ES_PROJECTION_QUARANTINE_H
#define ES_PROJECTION_QUARANTINE_H

#include "base/base.h"
#include "projection/definition.h"

typedef struct EsQuarantine EsQuarantine;

extern EsQuarantine *es_quarantine_load(const char *projection, bool rebuild, bool any, int attempts);
extern int	es_quarantine_count(const EsQuarantine *quarantine);
extern int64 es_quarantine_apply(EsQuarantine *quarantine, EsBatch *batch, int64 from_call);
extern int64 es_quarantine_add(EsQuarantine *quarantine, EsBatch *batch, int64 call, const ErrorData *error);
extern void es_quarantine_save(EsQuarantine *quarantine);

#endif							/* ES_PROJECTION_QUARANTINE_H */
