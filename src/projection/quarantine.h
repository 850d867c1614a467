/*
 * projection/quarantine.h
 *	  The quarantine of a projection: streams whose events it has parked.
 */
#ifndef ES_PROJECTION_QUARANTINE_H
#define ES_PROJECTION_QUARANTINE_H

#include "projection/batch.h"

typedef struct EsParked EsParked;

extern EsParked *es_parked_load(const char *projection, bool rebuild, bool any, int attempts);
extern int	es_parked_count(const EsParked *parked);
extern int64 es_parked_apply(EsParked *parked, EsBatch *batch, int64 from_call);
extern int64 es_parked_add(EsParked *parked, EsBatch *batch, int64 call, const ErrorData *error);
extern void es_parked_save(EsParked *parked);

#endif							/* ES_PROJECTION_QUARANTINE_H */
