/*
 * state/snapshot.h
 *	  Stored states of streams.
 */
#ifndef ES_STATE_SNAPSHOT_H
#define ES_STATE_SNAPSHOT_H

#include "utils/jsonb.h"
#include "utils/snapshot.h"

#include "log/digest.h"
#include "state/fold.h"

typedef struct EsSnapshot
{
	Jsonb	   *state;
	int64		version;
	int64		position;
	TimestampTz recorded_at;
} EsSnapshot;

extern bool es_snapshot_find(int64 stream, const uint8 *fingerprint, int64 max_version,
							 const TimestampTz *as_of, Snapshot snapshot, EsSnapshot *found);
extern bool es_snapshot_sound(int64 stream, const bytea *fingerprint, int64 version, int64 position,
							  TimestampTz recorded_at, Jsonb *state, const bytea *hash);
extern bool es_snapshot_is_of(const bytea *fingerprint, const uint8 *fold);
extern bool es_snapshot_of_other_fold(int64 stream, Snapshot snapshot);
extern void es_snapshot_store(int64 stream, const EsFold *fold, Jsonb *state);

#endif							/* ES_STATE_SNAPSHOT_H */
