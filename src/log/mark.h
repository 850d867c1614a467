/*
 * log/mark.h
 *	  The high-water mark.
 */
#ifndef ES_LOG_MARK_H
#define ES_LOG_MARK_H

#include "datatype/timestamp.h"
#include "utils/snapshot.h"

typedef struct EsMarkState
{
	int64		mark;			/* as published */
	int64		last;			/* newest position drawn */
	TimestampTz stable_until;
	TimestampTz floor;
} EsMarkState;

extern Snapshot es_mark_snapshot(int64 *mark);
extern Snapshot es_mark_snapshot_inside(int64 *mark);
extern void es_mark_be_patient(void);
extern TimestampTz es_mark_floor(void);
extern void es_mark_times(TimestampTz *stable_until, TimestampTz *floor);
extern void es_mark_state(EsMarkState *state);
extern bool es_mark_publish(TimestampTz goal, bool always, EsMarkState *state);

#endif							/* ES_LOG_MARK_H */
