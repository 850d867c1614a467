/*
 * es_asof.h
 *	  Whether what was recorded by a time is final.
 */
#ifndef ES_ASOF_H
#define ES_ASOF_H

#include "datatype/timestamp.h"
#include "utils/snapshot.h"

extern Snapshot es_asof_snapshot(TimestampTz as_of, const text *stream);

#endif							/* ES_ASOF_H */
