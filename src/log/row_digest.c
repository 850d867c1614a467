/*
 * log/row_digest.c
 *	  What the digests of a stored event are, worked out from its row alone.
 *
 * For those who look for what was changed behind our back. So nothing is taken from the caches of names that a
 * session has: a row of heads, event_types or categories may have been changed too. What is looked up here is
 * remembered for one call, under its snapshot, in a few megabytes.
 *
 * An event that was erased has no salt, data or metadata; its inner digest is in event_store.erased.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/compat.h"
#include "log/row_digest.h"
#include "log/scan.h"
#include "store/location.h"

/* Of names remembered, before they are forgotten. */
#define NAMES_BYTES		(8 * 1024 * 1024)

typedef struct EvidenceName
{
	int32		id;
	text	   *name;			/* NULL: there is no such row */
} EvidenceName;

static void
forget_names(EsEvidence *evidence)
{
	HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(EsEvidenceStream),.hcxt = evidence->names};

	MemoryContextReset(evidence->names);
	evidence->streams = hash_create("event_store streams verified", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.keysize = sizeof(int32);
	ctl.entrysize = sizeof(EvidenceName);
	evidence->types = hash_create("event_store types verified", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	evidence->categories = hash_create("event_store categories verified", 64, &ctl,
									   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* In the current memory context; the snapshot is the caller's, registered until es_evidence_end(). */
EsEvidence *
es_evidence_begin(Snapshot snapshot)
{
	EsEvidence *evidence = palloc0(sizeof(EsEvidence));

	evidence->snapshot = snapshot;
	evidence->hasher = es_hasher_create();
	evidence->store_id = es_store()->id;
	evidence->names = AllocSetContextCreate(CurrentMemoryContext, "event_store names verified", ALLOCSET_DEFAULT_SIZES);
	evidence->row = AllocSetContextCreate(CurrentMemoryContext, "event_store row verified", ALLOCSET_DEFAULT_SIZES);
	forget_names(evidence);
	return evidence;
}

void
es_evidence_end(EsEvidence *evidence)
{
	es_hasher_free(evidence->hasher);
	MemoryContextDelete(evidence->names);
	MemoryContextDelete(evidence->row);
	pfree(evidence);
}

/* A stream by its id: never NULL, but it may have no name. */
const EsEvidenceStream *
es_evidence_stream(EsEvidence *evidence, int64 id)
{
	EsEvidenceStream *stream = hash_search(evidence->streams, &id, HASH_FIND, NULL);
	EsEvidenceStream found = {.id = id};
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (stream != NULL)
		return stream;
	rel = table_open(es_store()->heads, AccessShareLock);
	ScanKeyInit(&key, Anum_head_id, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	scan = systable_beginscan(rel, es_store()->heads_pkey, true, evidence->snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		TupleDesc	desc = RelationGetDescr(rel);
		MemoryContext old = MemoryContextSwitchTo(evidence->names);
		bool		isnull;

		found.category = DatumGetInt32(heap_getattr(tuple, Anum_head_category, desc, &isnull));
		found.version = DatumGetInt64(heap_getattr(tuple, Anum_head_version, desc, &isnull));
		found.last_position = DatumGetInt64(heap_getattr(tuple, Anum_head_last_position, desc, &isnull));
		found.name = DatumGetTextPCopy(heap_getattr(tuple, Anum_head_name, desc, &isnull));
		MemoryContextSwitchTo(old);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	stream = hash_search(evidence->streams, &id, HASH_ENTER, NULL);
	*stream = found;
	return stream;
}

/* NULL: there is no such row. */
static const text *
name_of(EsEvidence *evidence, HTAB *names, Oid table, Oid pkey, int32 id)
{
	EvidenceName *entry = hash_search(names, &id, HASH_FIND, NULL);
	text	   *name = NULL;
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (entry != NULL)
		return entry->name;
	rel = table_open(table, AccessShareLock);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(id));
	scan = systable_beginscan(rel, pkey, true, evidence->snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		MemoryContext old = MemoryContextSwitchTo(evidence->names);
		bool		isnull;

		name = DatumGetTextPCopy(heap_getattr(tuple, 2, RelationGetDescr(rel), &isnull));
		MemoryContextSwitchTo(old);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	entry = hash_search(names, &id, HASH_ENTER, NULL);
	entry->name = name;
	return name;
}

const text *
es_evidence_category(EsEvidence *evidence, int32 id)
{
	return name_of(evidence, evidence->categories, es_store()->categories, es_store()->categories_pkey, id);
}

static bool
flawed(EsEvidence *evidence, const char *kind, const char *flaw)
{
	evidence->flaw_kind = kind;
	evidence->flaw = flaw;
	return false;
}

/* What was kept of an event that was erased; false when nothing was. */
static bool
read_erased(EsEvidence *evidence, int64 position)
{
	Relation	rel = table_open(es_store()->erased, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&key, Anum_erased_position, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(position));
	scan = systable_beginscan(rel, es_store()->erased_pkey, true, evidence->snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		bytea	   *digest = DatumGetByteaPP(heap_getattr(tuple, Anum_erased_digest, RelationGetDescr(rel), &isnull));

		found = VARSIZE_ANY_EXHDR(digest) == ES_DIGEST_LEN;
		if (found)
			memcpy(evidence->inner, VARDATA_ANY(digest), ES_DIGEST_LEN);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* Looks at a row of the log; false when it has no digests: see flaw. */
bool
es_evidence_row(EsEvidence *evidence, TupleTableSlot *slot)
{
	EsDigestInput *input = &evidence->input;
	Datum	   *values = slot->tts_values;
	bool	   *nulls = slot->tts_isnull;
	const text *type;
	MemoryContext old;

	MemoryContextReset(evidence->row);
	if (MemoryContextMemAllocated(evidence->names, true) > NAMES_BYTES)
		forget_names(evidence);
	evidence->flaw_kind = evidence->flaw = NULL;

	slot_getallattrs(slot);
	input->store_id = &evidence->store_id;
	input->position = DatumGetInt64(values[Anum_log_position - 1]);
	input->version = DatumGetInt64(values[Anum_log_version - 1]);
	input->schema_version = DatumGetInt32(values[Anum_log_schema_version - 1]);
	input->occurred_at = DatumGetTimestampTz(values[Anum_log_occurred_at - 1]);
	input->recorded_at = DatumGetTimestampTz(values[Anum_log_recorded_at - 1]);
	input->event_id = DatumGetUUIDP(values[Anum_log_event_id - 1]);
	evidence->stream_id = DatumGetInt64(values[Anum_log_stream - 1]);
	evidence->category_id = DatumGetInt32(values[Anum_log_category - 1]);
	evidence->rest = DatumGetInt32(values[Anum_log_rest - 1]);
	evidence->stream = es_evidence_stream(evidence, evidence->stream_id);
	evidence->category = es_evidence_category(evidence, evidence->category_id);
	type = name_of(evidence, evidence->types, es_store()->event_types, es_store()->event_types_pkey,
				   DatumGetInt32(values[Anum_log_event_type - 1]));

	if (evidence->stream->name == NULL)
		return flawed(evidence, "head", "its stream has no head row");
	if (type == NULL)
		return flawed(evidence, "name", "its event type has no row in event_store.event_types");
	if (evidence->category == NULL)
		return flawed(evidence, "name", "its category has no row in event_store.categories");
	input->stream = VARDATA_ANY(evidence->stream->name);
	input->stream_len = VARSIZE_ANY_EXHDR(evidence->stream->name);
	input->event_type = VARDATA_ANY(type);
	input->event_type_len = VARSIZE_ANY_EXHDR(type);

	if (nulls[Anum_log_salt - 1])
	{
		if (!nulls[Anum_log_data - 1] || !nulls[Anum_log_metadata - 1])
			return flawed(evidence, "erased", "it has data or metadata, but no salt: only both are erased together");
		if (!read_erased(evidence, input->position))
			return flawed(evidence, "erased", "it was erased, and event_store.erased does not have its digest");
		return true;
	}
	input->salt = DatumGetUUIDP(values[Anum_log_salt - 1]);
	old = MemoryContextSwitchTo(evidence->row);
	input->data = nulls[Anum_log_data - 1] ? NULL : DatumGetJsonbP(values[Anum_log_data - 1]);
	input->metadata = nulls[Anum_log_metadata - 1] ? NULL : DatumGetJsonbP(values[Anum_log_metadata - 1]);
	es_event_inner(evidence->hasher, input, evidence->inner);
	MemoryContextSwitchTo(old);
	return true;
}

/* The current row's leaf in a seal. */
void
es_evidence_leaf(EsEvidence *evidence, uint8 *leaf)
{
	Assert(evidence->flaw == NULL);
	es_event_leaf(evidence->hasher, &evidence->input, evidence->inner, VARDATA_ANY(evidence->category),
				  VARSIZE_ANY_EXHDR(evidence->category), evidence->rest, leaf);
}

/* Replaces chain, the digest of the event before in the stream, by the current row's. */
void
es_evidence_chain(EsEvidence *evidence, uint8 *chain)
{
	Assert(evidence->flaw == NULL);
	es_event_chain(evidence->hasher, &evidence->input, evidence->inner, chain);
}
