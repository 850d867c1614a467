/*
 * state/load.h
 *	  Loading state.
 */
#ifndef ES_STATE_LOAD_H
#define ES_STATE_LOAD_H

#include "utils/jsonb.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

/* A state to go on from; version 0: from the beginning. */
typedef struct EsFoldBase
{
	Jsonb	   *state;
	int64		version;
	int64		position;
	TimestampTz recorded_at;
} EsFoldBase;

extern bool es_load_replay(int64 stream, const bytea *fingerprint, int64 version, Snapshot snapshot, EsFoldBase *base);
extern int64 es_take_snapshot(const text *stream);

#endif							/* ES_STATE_LOAD_H */
