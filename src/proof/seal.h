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

/* How many bytes of each event's leaf (its digest in the tree) a manifest has. */
#define ES_PRINT_LEN	4

typedef struct EsSeal
{
	int64		after;			/* the sealed range is after < position <= to */
	int64		to;
	int64		events;
	TimestampTz sealed_at;
	bool		damaged;		/* one of the digests does not have the right length */
	uint8		tree[ES_DIGEST_LEN];	/* root of the tree over the events */
	uint8		root[ES_DIGEST_LEN];	/* root of the log: digest of all of the above, and of the root before */
} EsSeal;

/* Reads seals in order of position. */
typedef struct EsSealScan
{
	EsLookup	rows;
} EsSealScan;

/* Reads the events that a manifest lists, in order of position. */
typedef struct EsManifest
{
	const uint8 *next;
	const uint8 *end;
	bool		damaged;
	bool		valid;			/* there is a current event */
	/* of the current event */
	int64		position;
	int64		stream;			/* the stream's id */
	int64		version;
	uint8		print[ES_PRINT_LEN];	/* the first bytes of its leaf */
} EsManifest;

extern void es_seals_open(EsSealScan *seals, Snapshot snapshot, int64 from, bool backward);
extern bool es_seals_next(EsSealScan *seals, EsSeal *seal);
extern bool es_seals_manifest(EsSealScan *seals, const EsSeal *seal, EsManifest *manifest);
extern void es_seals_close(EsSealScan *seals);
extern void es_manifest_next(EsManifest *manifest);

#endif							/* ES_PROOF_SEAL_H */
