/*
 * es_mark.h
 *	  The high-water mark.
 */
#ifndef ES_MARK_H
#define ES_MARK_H

#include "datatype/timestamp.h"
#include "utils/snapshot.h"

extern Snapshot es_mark_snapshot(int64 *mark);
extern Snapshot es_mark_snapshot_inside(int64 *mark);
extern TimestampTz es_mark_floor(void);
extern void es_mark_times(TimestampTz *stable_until, TimestampTz *floor);

#endif							/* ES_MARK_H */
