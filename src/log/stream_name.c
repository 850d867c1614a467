/*
 * log/stream_name.c
 *	  The names of streams by their ids. The row of an event has the id of its stream, not the name.
 *
 * The name of a stream never changes, and its id is never given to another stream: ids come from a sequence, which does
 * not give a number twice, even when the transaction that used it was rolled back. So a session can cache names as long
 * as the store is not dropped and made again. The cache takes a few megabytes at most.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "log/stream_name.h"

/* When the cached names take more than this, the cache is emptied. */
#define NAMES_BYTES		(4 * 1024 * 1024)

typedef struct StreamName
{
	int64		id;
	text	   *name;
} StreamName;

static HTAB *names = NULL;
static MemoryContext names_context = NULL;
static Oid	names_of = InvalidOid;	/* OID of the table heads that they are from */
static Size names_bytes = 0;

static void
reset_names(void)
{
	HASHCTL		ctl;

	names = NULL;
	names_bytes = 0;
	if (names_context == NULL)
		names_context = AllocSetContextCreate(TopMemoryContext, "event_store stream names", ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(names_context);
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(StreamName);
	ctl.hcxt = names_context;
	names = hash_create("event_store stream names", 1024, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	names_of = es_store()->heads;
}

/* Reads a name with a snapshot, into a memory context. NULL when there is no such stream, or none any more. */
static text *
read_name(int64 id, Snapshot snapshot, MemoryContext context)
{
	EsLookup	rows;
	Datum		key = Int64GetDatum(id);
	text	   *name = NULL;

	es_lookup_open(&rows, ES_HEADS_BY_ID, AccessShareLock);
	if (es_lookup_find(&rows, snapshot, &key))
	{
		MemoryContext old = MemoryContextSwitchTo(context);

		name = DatumGetTextPCopy(es_row_column(rows.slot, Anum_head_name));
		MemoryContextSwitchTo(old);
	}
	es_lookup_close(&rows, ES_KEEP_TABLE_LOCK);
	return name;
}

/*
 * Reads the name of a stream from the table and not from the cache, into the current memory context. NULL when there
 * is no such stream, or none any more.
 */
text *
es_stream_name_stored(int64 id, Snapshot snapshot)
{
	return read_name(id, snapshot, CurrentMemoryContext);
}

/* The name of a stream that has an event visible to the snapshot. It is good until the next call. */
text *
es_stream_name(int64 id, Snapshot snapshot)
{
	StreamName *entry;
	text	   *name;

	if (names == NULL || names_of != es_store()->heads || names_bytes >= NAMES_BYTES)
		reset_names();
	entry = hash_search(names, &id, HASH_FIND, NULL);
	if (entry != NULL)
		return entry->name;

	/* Read the name before the entry is made: after an error in between, an entry without a name would be left. */
	name = read_name(id, snapshot, names_context);
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("event_store.heads has no row with id %lld", (long long) id)));
	entry = hash_search(names, &id, HASH_ENTER, NULL);
	entry->name = name;
	names_bytes += VARSIZE(name) + sizeof(StreamName) + 3 * sizeof(void *);
	return entry->name;
}
