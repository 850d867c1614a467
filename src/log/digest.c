/*
 * log/digest.c
 *	  Digests, salts and event ids.
 *
 * The digest of an event is SHA-256 (PostgreSQL's own) over the following. Integers are big-endian, in 8 bytes. A
 * string is its length, as such an integer, and its bytes.
 *
 *	  1 (format), store id, stream, version, position, event type, schema version, occurred_at,
 *	  recorded_at (microseconds since 2000-01-01 UTC), event id, inner digest,
 *	  digest of the event before it in the stream (32 zero bytes for the first)
 *
 * The inner digest is SHA-256 over the salt, 'd', data in canonical form, 'm', and metadata in canonical form
 * (nothing where one of them is absent). It can be kept when all three are erased: without the salt, nothing can be
 * guessed from it. There is one inner digest and not one for each of data and metadata. They have one salt, so they
 * are only erased at the same time, and to begin a digest is most of its cost.
 *
 * The canonical form of a JSON value does not depend on how jsonb is stored: z for null, t for true, f for false, n
 * and the number as jsonb prints it, s and a string, [ the count and the elements, { the count and each key with its
 * value. Keys are in jsonb's order (by length, then bytewise).
 *
 * A seal (proof/seal.c) has a Merkle tree of the events in a range of positions, as RFC 9162 section 2.1.1 defines it:
 *
 *	  leaf: 0, the bytes above up to the inner digest, category, rest (distance to the last position of its call)
 *	  node: 1, the two nodes below
 *	  seal: 2, 1 (format), store id, position that the range begins after, its last position, number of events,
 *	  root of the tree, digest of the seal before (32 zero bytes for the first)
 */
#include "postgres.h"

#include "common/cryptohash.h"
#include "common/sha2.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "log/digest.h"
#include "log/log.h"

#define ES_DIGEST_FORMAT	1
#define HASH_BUFFER			4096

/* The first byte of what is hashed for seals. They differ, so that a leaf can never be taken for a node. */
#define ES_HASH_LEAF		0
#define ES_HASH_NODE		1
#define ES_HASH_SEAL		2

struct EsHasher
{
	pg_cryptohash_ctx *ctx;
	int			used;
	uint8		buffer[HASH_BUFFER];
};

/* A hasher for any number of digests, one after the other. Freed by es_hasher_free(), or with the resource owner. */
EsHasher *
es_hasher_create(void)
{
	EsHasher   *hasher = palloc(sizeof(EsHasher));

	hasher->ctx = pg_cryptohash_create(PG_SHA256);
	hasher->used = 0;
	return hasher;
}

void
es_hasher_free(EsHasher *hasher)
{
	pg_cryptohash_free(hasher->ctx);
	pfree(hasher);
}

static void
hash_failed(EsHasher *hasher)
{
	ereport(ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("could not compute SHA-256: %s", pg_cryptohash_error(hasher->ctx))));
}

void
es_hash_begin(EsHasher *hasher)
{
	if (pg_cryptohash_init(hasher->ctx) < 0)
		hash_failed(hasher);
	hasher->used = 0;
}

static void
flush(EsHasher *hasher)
{
	if (hasher->used > 0 &&
		pg_cryptohash_update(hasher->ctx, hasher->buffer, hasher->used) < 0)
		hash_failed(hasher);
	hasher->used = 0;
}

static void
hash_bytes_raw(EsHasher *hasher, const void *bytes, Size len)
{
	if (hasher->used + len > HASH_BUFFER)
	{
		flush(hasher);
		if (len > HASH_BUFFER)
		{
			if (pg_cryptohash_update(hasher->ctx, bytes, len) < 0)
				hash_failed(hasher);
			return;
		}
	}
	memcpy(hasher->buffer + hasher->used, bytes, len);
	hasher->used += len;
}

static void
hash_tag(EsHasher *hasher, char tag)
{
	hash_bytes_raw(hasher, &tag, 1);
}

void
es_hash_int64(EsHasher *hasher, int64 value)
{
	uint64		net = pg_hton64((uint64) value);

	hash_bytes_raw(hasher, &net, sizeof(net));
}

void
es_hash_string(EsHasher *hasher, const char *bytes, int len)
{
	es_hash_int64(hasher, len);
	hash_bytes_raw(hasher, bytes, len);
}

static void
hash_scalar(EsHasher *hasher, const JsonbValue *v)
{
	char	   *number;

	switch (v->type)
	{
		case jbvNull:
			hash_tag(hasher, 'z');
			break;
		case jbvBool:
			hash_tag(hasher, v->val.boolean ? 't' : 'f');
			break;
		case jbvNumeric:
			number = DatumGetCString(DirectFunctionCall1(numeric_out,
														 NumericGetDatum(v->val.numeric)));
			hash_tag(hasher, 'n');
			es_hash_string(hasher, number, strlen(number));
			pfree(number);
			break;
		case jbvString:
			hash_tag(hasher, 's');
			es_hash_string(hasher, v->val.string.val, v->val.string.len);
			break;
		default:
			elog(ERROR, "unexpected jsonb value type %d", (int) v->type);
	}
}

/* Adds a JSON value in canonical form. */
void
es_hash_json(EsHasher *hasher, Jsonb *json)
{
	JsonbIterator *it = JsonbIteratorInit(&json->root);
	JsonbValue	v;
	JsonbIteratorToken token;

	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		switch (token)
		{
			case WJB_BEGIN_ARRAY:
				/* jsonb stores a scalar as an array with one element, and rawScalar tells it from a real array. */
				if (!v.val.array.rawScalar)
				{
					hash_tag(hasher, '[');
					es_hash_int64(hasher, v.val.array.nElems);
				}
				break;
			case WJB_BEGIN_OBJECT:
				hash_tag(hasher, '{');
				es_hash_int64(hasher, v.val.object.nPairs);
				break;
			case WJB_KEY:
				es_hash_string(hasher, v.val.string.val, v.val.string.len);
				break;
			case WJB_ELEM:
			case WJB_VALUE:
				hash_scalar(hasher, &v);
				break;
			default:
				break;
		}
	}
}

void
es_hash_end(EsHasher *hasher, uint8 *digest)
{
	flush(hasher);
	if (pg_cryptohash_final(hasher->ctx, digest, ES_DIGEST_LEN) < 0)
		hash_failed(hasher);
}

/* Computes the inner digest of an event: that of its salt, data and metadata. */
void
es_event_inner(EsHasher *hasher, const EsEvent *event, uint8 *inner)
{
	es_hash_begin(hasher);
	hash_bytes_raw(hasher, event->salt.data, UUID_LEN);
	hash_tag(hasher, 'd');
	if (event->data != NULL)
		es_hash_json(hasher, event->data);
	hash_tag(hasher, 'm');
	if (event->metadata != NULL)
		es_hash_json(hasher, event->metadata);
	es_hash_end(hasher, inner);
}

/* Adds what the digest of an event and its leaf in a tree have in common. */
static void
hash_event(EsHasher *hasher, const pg_uuid_t *store_id, const EsEvent *event, const uint8 *inner)
{
	hash_tag(hasher, ES_DIGEST_FORMAT);
	hash_bytes_raw(hasher, store_id->data, UUID_LEN);
	es_hash_string(hasher, VARDATA_ANY(event->stream), VARSIZE_ANY_EXHDR(event->stream));
	es_hash_int64(hasher, event->version);
	es_hash_int64(hasher, event->position);
	es_hash_string(hasher, VARDATA_ANY(event->type), VARSIZE_ANY_EXHDR(event->type));
	es_hash_int64(hasher, event->schema_version);
	es_hash_int64(hasher, event->occurred_at);
	es_hash_int64(hasher, event->recorded_at);
	hash_bytes_raw(hasher, event->id.data, UUID_LEN);
	hash_bytes_raw(hasher, inner, ES_DIGEST_LEN);
}

/*
 * Replaces chain, the digest of the event before it in the stream (zeros before the first), by the digest of this
 * event. Does not look at salt, data and metadata, because the inner digest has them.
 */
void
es_event_chain(EsHasher *hasher, const pg_uuid_t *store_id, const EsEvent *event, const uint8 *inner, uint8 *chain)
{
	es_hash_begin(hasher);
	hash_event(hasher, store_id, event, inner);
	hash_bytes_raw(hasher, chain, ES_DIGEST_LEN);
	es_hash_end(hasher, chain);
}

/* The same for an event whose inner digest is not known yet. */
void
es_event_digest(EsHasher *hasher, const pg_uuid_t *store_id, const EsEvent *event, uint8 *chain)
{
	uint8		inner[ES_DIGEST_LEN];

	es_event_inner(hasher, event, inner);
	es_event_chain(hasher, store_id, event, inner, chain);
}

/* Computes the leaf of an event in a tree. It only needs the event's own row, and no event before it. */
void
es_event_leaf(EsHasher *hasher, const pg_uuid_t *store_id, const EsEvent *event, const uint8 *inner,
			  const text *category, uint8 *leaf)
{
	es_hash_begin(hasher);
	hash_tag(hasher, ES_HASH_LEAF);
	hash_event(hasher, store_id, event, inner);
	es_hash_string(hasher, VARDATA_ANY(category), VARSIZE_ANY_EXHDR(category));
	es_hash_int64(hasher, event->rest);
	es_hash_end(hasher, leaf);
}

/* ---------------------------------------------------------------- trees of leaves */

void
es_tree_begin(EsTree *tree)
{
	tree->leaves = 0;
	tree->depth = 0;
}

/* Computes the node above two nodes, and replaces the left one by it. */
static void
join_nodes(EsHasher *hasher, uint8 *left, const uint8 *right)
{
	es_hash_begin(hasher);
	hash_tag(hasher, ES_HASH_NODE);
	hash_bytes_raw(hasher, left, ES_DIGEST_LEN);
	hash_bytes_raw(hasher, right, ES_DIGEST_LEN);
	es_hash_end(hasher, left);
}

/* Adds a leaf. The stack has the roots of the complete subtrees so far, the largest first. */
void
es_tree_add(EsTree *tree, EsHasher *hasher, const uint8 *leaf)
{
	Assert(tree->depth < lengthof(tree->stack));
	memcpy(tree->stack[tree->depth++], leaf, ES_DIGEST_LEN);
	tree->leaves++;
	for (int64 n = tree->leaves; (n & 1) == 0; n >>= 1)
	{
		tree->depth--;
		join_nodes(hasher, tree->stack[tree->depth - 1], tree->stack[tree->depth]);
	}
}

/* Computes the root of a tree. Without leaves it is the digest of nothing. */
void
es_tree_root(EsTree *tree, EsHasher *hasher, uint8 *root)
{
	if (tree->depth == 0)
	{
		es_hash_begin(hasher);
		es_hash_end(hasher, root);
		return;
	}
	for (; tree->depth > 1; tree->depth--)
		join_nodes(hasher, tree->stack[tree->depth - 2], tree->stack[tree->depth - 1]);
	memcpy(root, tree->stack[0], ES_DIGEST_LEN);
}

/* Computes the root of a seal. It covers the seal's range and events, and by the root before it all events before. */
void
es_seal_digest(EsHasher *hasher, const pg_uuid_t *store_id, int64 after, int64 to, int64 events,
			   const uint8 *tree_root, const uint8 *previous, uint8 *root)
{
	es_hash_begin(hasher);
	hash_tag(hasher, ES_HASH_SEAL);
	hash_tag(hasher, ES_DIGEST_FORMAT);
	hash_bytes_raw(hasher, store_id->data, UUID_LEN);
	es_hash_int64(hasher, after);
	es_hash_int64(hasher, to);
	es_hash_int64(hasher, events);
	hash_bytes_raw(hasher, tree_root, ES_DIGEST_LEN);
	hash_bytes_raw(hasher, previous, ES_DIGEST_LEN);
	es_hash_end(hasher, root);
}

/* A digest as a bytea, in the current memory context. */
bytea *
es_digest_bytea(const uint8 *digest)
{
	bytea	   *bytes = palloc(VARHDRSZ + ES_DIGEST_LEN);

	SET_VARSIZE(bytes, VARHDRSZ + ES_DIGEST_LEN);
	memcpy(VARDATA(bytes), digest, ES_DIGEST_LEN);
	return bytes;
}

/*
 * Makes 16 strong random bytes. The generator is asked for 64 times as many at once, because its fixed cost is most
 * of the cost of a small request.
 */
void
es_random_uuid(pg_uuid_t *uuid)
{
	static uint8 pool[64 * UUID_LEN];
	static int	left = 0;

	if (left == 0)
	{
		if (!pg_strong_random(pool, sizeof(pool)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		left = lengthof(pool) / UUID_LEN;
	}
	left--;
	memcpy(uuid->data, pool + left * UUID_LEN, UUID_LEN);
	/* Nobody must find a salt in memory after it was erased from the table. */
	memset(pool + left * UUID_LEN, 0, UUID_LEN);
}

/*
 * Makes the id of an event: a version 7 UUID (RFC 9562) with 48 bits of Unix milliseconds, 12 bits of the fraction of
 * a millisecond (method 3 of section 6.2 there), and 62 random bits. Within a session each one is greater than the
 * one before.
 */
void
es_event_id(pg_uuid_t *id, TimestampTz at)
{
	static uint64 last = 0;
	int64		us = at + (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
	uint64		tick;

	us = Max(us, 0);
	tick = ((uint64) (us / 1000) << 12) | ((us % 1000) * 4096 / 1000);
	if (tick <= last)
		tick = last + 1;
	last = tick;

	es_random_uuid(id);
	for (int i = 0; i < 6; i++)
		id->data[i] = (uint8) (tick >> (12 + 8 * (5 - i)));
	id->data[6] = 0x70 | (uint8) ((tick >> 8) & 0x0f);
	id->data[7] = (uint8) tick;
	id->data[8] = 0x80 | (id->data[8] & 0x3f);
}
