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

/* A stream as the snapshot shows it; good until the next es_evidence_row(). */
typedef struct EsEvidenceStream
{
	int64		id;
	text	   *name;			/* NULL: there is no head row */
	int32		category;
	int64		version;
	int64		last_position;
} EsEvidenceStream;

typedef struct EsEvidence
{
	Snapshot	snapshot;
	EsHasher   *hasher;
	pg_uuid_t	store_id;

	/* of the current row */
	EsDigestInput input;
	uint8		inner[ES_DIGEST_LEN];
	const EsEvidenceStream *stream;
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
} EsEvidence;

extern EsEvidence *es_evidence_begin(Snapshot snapshot);
extern const EsEvidenceStream *es_evidence_stream(EsEvidence *evidence, int64 id);
extern const text *es_evidence_category(EsEvidence *evidence, int32 id);
extern bool es_evidence_row(EsEvidence *evidence, TupleTableSlot *slot);
extern void es_evidence_leaf(EsEvidence *evidence, uint8 *leaf);
extern void es_evidence_chain(EsEvidence *evidence, uint8 *chain);
extern void es_evidence_end(EsEvidence *evidence);

#endif							/* ES_LOG_ROW_DIGEST_H */
