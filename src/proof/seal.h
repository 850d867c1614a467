/*
 * proof/seal.h
 *	  Seals: digests of closed ranges of the log.
 */
#ifndef ES_PROOF_SEAL_H
#define ES_PROOF_SEAL_H

#include "access/genam.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

#include "base/base.h"
#include "log/log.h"

/* Bytes of an event's leaf that a manifest has. */
#define ES_PRINT_LEN	4

typedef struct EsSeal
{
	int64		after;			/* the range is after < position <= to */
	int64		to;
	int64		events;
	TimestampTz sealed_at;
	bool		damaged;		/* a digest is not of the right length */
	uint8		tree[ES_DIGEST_LEN];
	uint8		root[ES_DIGEST_LEN];
} EsSeal;

/* Seals in order of position. */
typedef struct EsSealScan
{
	EsLookup	rows;
} EsSealScan;

/* The events that a manifest lists, in order of position. */
typedef struct EsManifest
{
	const uint8 *next;
	const uint8 *end;
	bool		damaged;
	bool		valid;			/* there is a current one */
	int64		position;
	int64		stream;			/* its id */
	int64		version;
	uint8		print[ES_PRINT_LEN];
} EsManifest;

extern void es_seals_open(EsSealScan *seals, Snapshot snapshot, int64 from, bool backward);
extern bool es_seals_next(EsSealScan *seals, EsSeal *seal);
extern bool es_seals_manifest(EsSealScan *seals, const EsSeal *seal, EsManifest *manifest);
extern void es_seals_close(EsSealScan *seals);
extern void es_manifest_next(EsManifest *manifest);

#endif							/* ES_PROOF_SEAL_H */
