/*
 * append/key.h
 *	  Idempotency keys.
 */
#ifndef ES_APPEND_KEY_H
#define ES_APPEND_KEY_H

#include "datatype/timestamp.h"
#include "utils/snapshot.h"

#include "base/base.h"
#include "log/log.h"

/* What an append with an idempotency key did when it was carried out. */
typedef struct EsKeyRow
{
	uint8		request[ES_DIGEST_LEN]; /* digest of what was asked for: a retry must ask for the same */
	int64		version;		/* of the last event; with a key of es_append_batch, the number of events */
	int64		first_position;
	int64		last_position;
	TimestampTz recorded_at;
} EsKeyRow;

extern bool es_key_find(int64 stream, const text *key, Snapshot snapshot, EsKeyRow *row);
extern void es_key_store(int64 stream, const text *key, const EsKeyRow *row);
extern void es_batch_key_lock(const text *key);
extern bool es_batch_key_find(const text *key, EsKeyRow *row);
extern void es_batch_key_store(const text *key, const EsKeyRow *row);

#endif							/* ES_APPEND_KEY_H */
