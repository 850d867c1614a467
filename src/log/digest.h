/*
 * log/digest.h
 *	  Digests, salts and event ids.
 */
#ifndef ES_LOG_DIGEST_H
#define ES_LOG_DIGEST_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#define ES_DIGEST_LEN	32		/* SHA-256 */

typedef struct EsHasher EsHasher;

/* What an event's digest covers; data and metadata through their salted digest, the inner one. */
typedef struct EsDigestInput
{
	const pg_uuid_t *store_id;
	const char *stream;
	int			stream_len;
	int64		version;
	int64		position;
	const char *event_type;
	int			event_type_len;
	int32		schema_version;
	TimestampTz occurred_at;
	TimestampTz recorded_at;
	const pg_uuid_t *event_id;
	const pg_uuid_t *salt;
	Jsonb	   *data;
	Jsonb	   *metadata;		/* may be NULL */
} EsDigestInput;

/* A Merkle tree that leaves are added to, in constant memory. */
typedef struct EsTree
{
	int64		leaves;
	int			depth;			/* of the stack */
	uint8		stack[64][ES_DIGEST_LEN];
} EsTree;

extern EsHasher *es_hasher_create(void);
extern void es_hasher_free(EsHasher *hasher);
extern void es_hash_begin(EsHasher *hasher);
extern void es_hash_int64(EsHasher *hasher, int64 value);
extern void es_hash_string(EsHasher *hasher, const char *bytes, int len);
extern void es_hash_json(EsHasher *hasher, Jsonb *json);
extern void es_hash_end(EsHasher *hasher, uint8 *digest);
extern void es_event_digest(EsHasher *hasher, const EsDigestInput *event, uint8 *chain);
extern void es_event_inner(EsHasher *hasher, const EsDigestInput *event, uint8 *inner);
extern void es_event_chain(EsHasher *hasher, const EsDigestInput *event, const uint8 *inner, uint8 *chain);
extern void es_event_leaf(EsHasher *hasher, const EsDigestInput *event, const uint8 *inner,
						  const char *category, int category_len, int32 rest, uint8 *leaf);

extern void es_tree_begin(EsTree *tree);
extern void es_tree_add(EsTree *tree, EsHasher *hasher, const uint8 *leaf);
extern void es_tree_root(EsTree *tree, EsHasher *hasher, uint8 *root);
extern void es_seal_digest(EsHasher *hasher, const pg_uuid_t *store_id, int64 after, int64 to, int64 events,
						   const uint8 *tree_root, const uint8 *previous, uint8 *root);

extern bytea *es_digest_bytea(const uint8 *digest);
extern void es_random_uuid(pg_uuid_t *uuid);
extern void es_event_id(pg_uuid_t *id, TimestampTz at);

#endif							/* ES_LOG_DIGEST_H */
