/*
 * log/digest.h
 *	  The parts of an event's digests.
 */
#ifndef ES_LOG_DIGEST_H
#define ES_LOG_DIGEST_H

#include "log/log.h"

/* The inner digest is that of salt, data and metadata. The digest in a chain and the leaf in a tree contain it. */
extern void es_event_inner(EsHasher *hasher, const EsEvent *event, uint8 *inner);
extern void es_event_chain(EsHasher *hasher, const pg_uuid_t *store_id, const EsEvent *event, const uint8 *inner,
						   uint8 *chain);
extern void es_event_leaf(EsHasher *hasher, const pg_uuid_t *store_id, const EsEvent *event, const uint8 *inner,
						  const text *category, uint8 *leaf);

#endif							/* ES_LOG_DIGEST_H */
