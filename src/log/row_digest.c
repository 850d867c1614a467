/*
 * log/row_digest.c
 *	  The digests of a stored event, computed from its row.
 *
 * Seals and verification need them, to find rows that were changed by other means than the store's functions. A row
 * of heads, event_types or categories may have been changed in the same way. So names are not taken from the
 * session's caches, but read with the caller's snapshot. They are cached from es_row_digest_begin() to
 * es_row_digest_end(), in a few megabytes.
 *
 * An event that was erased has no salt, data and metadata any more. Its inner digest is in event_store.erased.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "store/store.h"
#include "log/digest.h"
#include "log/log.h"

/* When the cached names take more than this, the cache is emptied. */
#define NAMES_BYTES		(8 * 1024 * 1024)

typedef struct CachedName
{
	int32		id;
	text	   *name;			/* NULL: there is no such row */
} CachedName;

/* Empties the cache of names. */
static void
reset_names(EsRowDigest *digests)
{
	HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(EsRowDigestStream),.hcxt = digests->names};

	MemoryContextReset(digests->names);
	digests->streams = hash_create("event_store streams verified", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.keysize = sizeof(int32);
	ctl.entrysize = sizeof(CachedName);
	digests->types = hash_create("event_store types verified", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	digests->categories = hash_create("event_store categories verified", 64, &ctl,
									   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Begins, in the current memory context. The caller keeps the snapshot registered until es_row_digest_end(). */
EsRowDigest *
es_row_digest_begin(Snapshot snapshot)
{
	EsRowDigest *digests = palloc0(sizeof(EsRowDigest));

	digests->snapshot = snapshot;
	digests->hasher = es_hasher_create();
	digests->store_id = es_store()->id;
	digests->names = AllocSetContextCreate(CurrentMemoryContext, "event_store names verified", ALLOCSET_DEFAULT_SIZES);
	digests->row = AllocSetContextCreate(CurrentMemoryContext, "event_store row verified", ALLOCSET_DEFAULT_SIZES);
	reset_names(digests);
	return digests;
}

void
es_row_digest_end(EsRowDigest *digests)
{
	es_hasher_free(digests->hasher);
	MemoryContextDelete(digests->names);
	MemoryContextDelete(digests->row);
	pfree(digests);
}

/* The stream with an id. Never returns NULL: a stream without a head row is returned without a name. */
const EsRowDigestStream *
es_row_digest_stream(EsRowDigest *digests, int64 id)
{
	EsRowDigestStream *stream = hash_search(digests->streams, &id, HASH_FIND, NULL);
	EsRowDigestStream found = {.id = id};
	EsLookup	rows;
	Datum		key = Int64GetDatum(id);

	if (stream != NULL)
		return stream;
	es_lookup_open(&rows, ES_HEADS_BY_ID, AccessShareLock);
	if (es_lookup_find(&rows, digests->snapshot, &key))
	{
		MemoryContext old = MemoryContextSwitchTo(digests->names);

		found.category = DatumGetInt32(es_row_column(rows.slot, Anum_head_category));
		found.version = DatumGetInt64(es_row_column(rows.slot, Anum_head_version));
		found.last_position = DatumGetInt64(es_row_column(rows.slot, Anum_head_last_position));
		found.name = DatumGetTextPCopy(es_row_column(rows.slot, Anum_head_name));
		MemoryContextSwitchTo(old);
	}
	es_lookup_close(&rows, ES_KEEP_NO_LOCK);
	stream = hash_search(digests->streams, &id, HASH_ENTER, NULL);
	*stream = found;
	return stream;
}

/* The name with an id, of an event type or a category. NULL when there is no such row. */
static const text *
name_of(EsRowDigest *digests, HTAB *names, EsIndex index, int32 id)
{
	CachedName *entry = hash_search(names, &id, HASH_FIND, NULL);
	text	   *name = NULL;
	EsLookup	rows;
	Datum		key = Int32GetDatum(id);

	if (entry != NULL)
		return entry->name;
	es_lookup_open(&rows, index, AccessShareLock);
	if (es_lookup_find(&rows, digests->snapshot, &key))
	{
		MemoryContext old = MemoryContextSwitchTo(digests->names);

		name = DatumGetTextPCopy(es_row_column(rows.slot, 2));
		MemoryContextSwitchTo(old);
	}
	es_lookup_close(&rows, ES_KEEP_NO_LOCK);
	entry = hash_search(names, &id, HASH_ENTER, NULL);
	entry->name = name;
	return name;
}

const text *
es_row_digest_category(EsRowDigest *digests, int32 id)
{
	return name_of(digests, digests->categories, ES_CATEGORIES_BY_ID, id);
}

/* Notes why the current row has no digests, and returns false. */
static bool
flawed(EsRowDigest *digests, const char *kind, const char *flaw)
{
	digests->flaw_kind = kind;
	digests->flaw = flaw;
	return false;
}

/* Reads the inner digest that was kept of an erased event. False when there is none. */
static bool
read_erased(EsRowDigest *digests, int64 position)
{
	EsLookup	rows;
	Datum		key = Int64GetDatum(position);
	bool		found = false;

	es_lookup_open(&rows, ES_ERASED, AccessShareLock);
	if (es_lookup_find(&rows, digests->snapshot, &key))
	{
		bytea	   *digest = DatumGetByteaPP(es_row_column(rows.slot, Anum_erased_digest));

		found = VARSIZE_ANY_EXHDR(digest) == ES_DIGEST_LEN;
		if (found)
			memcpy(digests->inner, VARDATA_ANY(digest), ES_DIGEST_LEN);
	}
	es_lookup_close(&rows, ES_KEEP_NO_LOCK);
	return found;
}

/* Reads a row of the log. False when its digests cannot be computed; flaw_kind and flaw say why. */
bool
es_row_digest_read(EsRowDigest *digests, TupleTableSlot *slot)
{
	EsEvent    *event = &digests->event;
	Datum	   *values = slot->tts_values;
	bool	   *nulls = slot->tts_isnull;
	MemoryContext old;

	MemoryContextReset(digests->row);
	if (MemoryContextMemAllocated(digests->names, true) > NAMES_BYTES)
		reset_names(digests);
	digests->flaw_kind = digests->flaw = NULL;

	slot_getallattrs(slot);
	event->position = DatumGetInt64(values[Anum_log_position - 1]);
	event->stream_id = DatumGetInt64(values[Anum_log_stream - 1]);
	event->version = DatumGetInt64(values[Anum_log_version - 1]);
	event->occurred_at = DatumGetTimestampTz(values[Anum_log_occurred_at - 1]);
	event->recorded_at = DatumGetTimestampTz(values[Anum_log_recorded_at - 1]);
	event->category_id = DatumGetInt32(values[Anum_log_category - 1]);
	event->type_id = DatumGetInt32(values[Anum_log_event_type - 1]);
	event->schema_version = DatumGetInt32(values[Anum_log_schema_version - 1]);
	event->rest = DatumGetInt32(values[Anum_log_rest - 1]);
	event->id = *DatumGetUUIDP(values[Anum_log_event_id - 1]);
	digests->stream = es_row_digest_stream(digests, event->stream_id);
	digests->category = es_row_digest_category(digests, event->category_id);
	event->stream = digests->stream->name;
	event->type = name_of(digests, digests->types, ES_EVENT_TYPES_BY_ID, event->type_id);

	if (event->stream == NULL)
		return flawed(digests, "head", "its stream has no head row");
	if (event->type == NULL)
		return flawed(digests, "name", "its event type has no row in event_store.event_types");
	if (digests->category == NULL)
		return flawed(digests, "name", "its category has no row in event_store.categories");

	if (nulls[Anum_log_salt - 1])
	{
		if (!nulls[Anum_log_data - 1] || !nulls[Anum_log_metadata - 1])
			return flawed(digests, "erased", "it has data or metadata, but no salt: only both are erased together");
		if (!read_erased(digests, event->position))
			return flawed(digests, "erased", "it was erased, and event_store.erased does not have its digest");
		return true;
	}
	event->salt = *DatumGetUUIDP(values[Anum_log_salt - 1]);
	old = MemoryContextSwitchTo(digests->row);
	event->data = nulls[Anum_log_data - 1] ? NULL : DatumGetJsonbP(values[Anum_log_data - 1]);
	event->metadata = nulls[Anum_log_metadata - 1] ? NULL : DatumGetJsonbP(values[Anum_log_metadata - 1]);
	es_event_inner(digests->hasher, event, digests->inner);
	MemoryContextSwitchTo(old);
	return true;
}

/* The leaf of the current row in the tree of a seal. */
void
es_row_digest_leaf(EsRowDigest *digests, uint8 *leaf)
{
	Assert(digests->flaw == NULL);
	es_event_leaf(digests->hasher, &digests->store_id, &digests->event, digests->inner, digests->category, leaf);
}

/* Replaces chain, the digest of the event before it in the stream, by the digest of the current row. */
void
es_row_digest_chain(EsRowDigest *digests, uint8 *chain)
{
	Assert(digests->flaw == NULL);
	es_event_chain(digests->hasher, &digests->store_id, &digests->event, digests->inner, chain);
}
