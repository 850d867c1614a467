/*
 * state/as_of.h
 *	  Whether what was recorded by a time is final.
 */
#ifndef ES_STATE_AS_OF_H
#define ES_STATE_AS_OF_H

#include "datatype/timestamp.h"
#include "utils/snapshot.h"

extern Snapshot es_asof_snapshot(TimestampTz as_of, const text *stream);

#endif							/* ES_STATE_AS_OF_H */
