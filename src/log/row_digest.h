/*
 * log/row_digest.h
 *	  What the digests of a stored event are, worked out from its row alone.
 */
#ifndef ES_LOG_ROW_DIGEST_H
#define ES_LOG_ROW_DIGEST_H

#include "executor/tuptable.h"
#include "utils/hsearch.h"
#include "utils/snapshot.h"

#include "log/digest.h"

/* A stream as the snapshot shows it; good until the next es_row_digest_read(). */
typedef struct EsRowDigestStream
{
	int64		id;
	text	   *name;			/* NULL: there is no head row */
	int32		category;
	int64		version;
	int64		last_position;
} EsRowDigestStream;

typedef struct EsRowDigest
{
	Snapshot	snapshot;
	EsHasher   *hasher;
	pg_uuid_t	store_id;

	/* of the current row */
	EsDigestInput input;
	uint8		inner[ES_DIGEST_LEN];
	const EsRowDigestStream *stream;
	const text *category;
	int64		stream_id;
	int32		category_id;
	int32		rest;
	const char *flaw_kind;		/* why it has no digests: what es_verify_log calls it; NULL: it has */
	const char *flaw;

	/* private */
	MemoryContext names;		/* what was looked up, reset when it grows large */
	MemoryContext row;			/* reset for each row */
	HTAB	   *streams;
	HTAB	   *types;
	HTAB	   *categories;
} EsRowDigest;

extern EsRowDigest *es_row_digest_begin(Snapshot snapshot);
extern const EsRowDigestStream *es_row_digest_stream(EsRowDigest *digests, int64 id);
extern const text *es_row_digest_category(EsRowDigest *digests, int32 id);
extern bool es_row_digest_read(EsRowDigest *digests, TupleTableSlot *slot);
extern void es_row_digest_leaf(EsRowDigest *digests, uint8 *leaf);
extern void es_row_digest_chain(EsRowDigest *digests, uint8 *chain);
extern void es_row_digest_end(EsRowDigest *digests);

#endif							/* ES_LOG_ROW_DIGEST_H */
