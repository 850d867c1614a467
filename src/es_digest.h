/*
 * es_digest.h
 *	  Digests, salts and event ids.
 */
#ifndef ES_DIGEST_H
#define ES_DIGEST_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#define ES_DIGEST_LEN	32		/* SHA-256 */

typedef struct EsHasher EsHasher;

/* What an event's digest covers; data and metadata through their salted inner digests. */
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

extern EsHasher *es_hasher_create(void);
extern void es_hasher_free(EsHasher *hasher);
extern void es_hash_begin(EsHasher *hasher);
extern void es_hash_int64(EsHasher *hasher, int64 value);
extern void es_hash_string(EsHasher *hasher, const char *bytes, int len);
extern void es_hash_json(EsHasher *hasher, Jsonb *json);
extern void es_hash_end(EsHasher *hasher, uint8 *digest);
extern void es_event_digest(EsHasher *hasher, const EsDigestInput *event, uint8 *chain);

extern void es_random_uuid(pg_uuid_t *uuid);
extern void es_event_id(pg_uuid_t *id, TimestampTz at);

#endif							/* ES_DIGEST_H */
