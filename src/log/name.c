/*
 * log/name.c
 *	  Categories and event types: each name is stored once, and events have its id.
 *
 * The id of a name never changes, and rows are never deleted. So a session caches a name for good when the
 * transaction that inserted it has committed. A name that our own open transaction has inserted is not cached,
 * because a rollback would remove it again. When the store was dropped and made again, new caches are made; the old
 * ones are not freed, because callers may still have pointers to names in them.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"

typedef struct EsName
{
	const char *name;			/* the hash key is name and len; points into text */
	int			len;
	int32		id;
	text	   *text;
} EsName;

typedef struct EsNameCache
{
	Oid			table;			/* OID of the table that the names are from */
	HTAB	   *by_name;		/* EsName */
	HTAB	   *by_id;			/* int32 -> text * */
} EsNameCache;

typedef struct EsNameById
{
	int32		id;
	text	   *text;
} EsNameById;

static EsNameCache caches[2];
static MemoryContext cache_context = NULL;

static uint32
name_hash(const void *key, Size size)
{
	const EsName *name = key;

	return hash_bytes((const unsigned char *) name->name, name->len);
}

static int
name_match(const void *a, const void *b, Size size)
{
	const EsName *left = a;
	const EsName *right = b;

	return left->len == right->len ? memcmp(left->name, right->name, left->len) : 1;
}

static Oid
name_table(EsNameKind kind)
{
	return kind == ES_CATEGORY ? es_store()->categories : es_store()->event_types;
}

static const char *
name_table_name(EsNameKind kind)
{
	return kind == ES_CATEGORY ? "categories" : "event_types";
}

/* The cache of names from a table. It is made when there is none, or when that is of a store that was dropped. */
static EsNameCache *
name_cache(EsNameKind kind, Oid table)
{
	EsNameCache *cache = &caches[kind];
	HASHCTL		ctl;

	if (cache->table == table)
		return cache;

	if (cache_context == NULL)
		cache_context = AllocSetContextCreate(TopMemoryContext, "event_store names",
											  ALLOCSET_DEFAULT_SIZES);
	cache->table = InvalidOid;
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = offsetof(EsName, id);
	ctl.entrysize = sizeof(EsName);
	ctl.hash = name_hash;
	ctl.match = name_match;
	ctl.hcxt = cache_context;
	cache->by_name = hash_create("event_store names", 64, &ctl,
								 HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int32);
	ctl.entrysize = sizeof(EsNameById);
	ctl.hcxt = cache_context;
	cache->by_id = hash_create("event_store name ids", 64, &ctl,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	cache->table = table;
	return cache;
}

static void
add_to_cache(EsNameCache *cache, int32 id, const text *name)
{
	MemoryContext old = MemoryContextSwitchTo(cache_context);
	text	   *copy = (text *) palloc(VARSIZE(name));
	EsName		key;
	EsName	   *entry;
	EsNameById *by_id;
	bool		found;

	memcpy(copy, name, VARSIZE(name));
	memset(&key, 0, sizeof(key));
	key.name = VARDATA(copy);
	key.len = VARSIZE(copy) - VARHDRSZ;
	entry = hash_search(cache->by_name, &key, HASH_ENTER, &found);
	entry->id = id;
	entry->text = copy;
	by_id = hash_search(cache->by_id, &id, HASH_ENTER, &found);
	by_id->text = copy;
	MemoryContextSwitchTo(old);
}

/*
 * Looks a row up, by name or by id, and caches it unless our own transaction has inserted it. The snapshot is the
 * latest one at every isolation level: a committed id is valid for ever, so it does not matter whether the
 * transaction's own snapshot shows it.
 */
static text *
look_up(EsNameKind kind, bool by_name, Datum key, int32 *id)
{
	EsIndex		index = kind == ES_CATEGORY ?
		(by_name ? ES_CATEGORIES_BY_NAME : ES_CATEGORIES_BY_ID) :
		(by_name ? ES_EVENT_TYPES_BY_NAME : ES_EVENT_TYPES_BY_ID);
	Snapshot	snapshot;
	EsLookup	rows;
	text	   *name = NULL;

	es_lookup_open(&rows, index, AccessShareLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	if (es_lookup_find(&rows, snapshot, &key))
	{
		bool		isnull;
		Datum		xmin = slot_getsysattr(rows.slot, MinTransactionIdAttributeNumber, &isnull);

		*id = DatumGetInt32(es_row_column(rows.slot, Anum_name_id));
		name = DatumGetTextPCopy(es_row_column(rows.slot, Anum_name_name));
		if (!TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin)))
			add_to_cache(name_cache(kind, name_table(kind)), *id, name);
	}
	es_lookup_close(&rows, ES_KEEP_TABLE_LOCK);
	UnregisterSnapshot(snapshot);
	return name;
}

/* The id of a name; 0 when the name is not stored. */
int32
es_name_find(EsNameKind kind, const char *name, int len)
{
	EsNameCache *cache = name_cache(kind, name_table(kind));
	EsName		probe;
	EsName	   *entry;
	int32		id = 0;

	memset(&probe, 0, sizeof(probe));
	probe.name = name;
	probe.len = len;
	entry = hash_search(cache->by_name, &probe, HASH_FIND, NULL);
	if (entry != NULL)
		return entry->id;

	(void) look_up(kind, true, PointerGetDatum(cstring_to_text_with_len(name, len)), &id);
	return id;
}

/* The ids of the names in a list of text *. Names that are not stored are left out. */
Bitmapset *
es_name_ids(EsNameKind kind, List *names)
{
	Bitmapset  *ids = NULL;
	ListCell   *lc;

	foreach(lc, names)
	{
		text	   *name = lfirst(lc);
		int32		id = es_name_find(kind, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));

		if (id != 0)
			ids = bms_add_member(ids, id);
	}
	return ids;
}

/*
 * Refuses a name beyond the limit of its kind: each session keeps all names that it has met. An id is at least the number
 * of names so far, so only ids beyond the limit need a count.
 */
static void
check_limit(EsNameKind kind, int32 id, const char *name, int len)
{
	int			limit = kind == ES_CATEGORY ? es_max_categories : es_max_event_types;
	EsSql		sql;
	uint64		count;

	if (id <= limit)
		return;
	es_sql_begin(&sql, es_store()->owner);
	es_sql_run(kind == ES_CATEGORY ? "SELECT count(*) FROM event_store.categories" :
			   "SELECT count(*) FROM event_store.event_types");
	count = DatumGetInt64(es_sql_first(1, INT8OID, NULL));
	es_sql_end(&sql);
	if (count <= (uint64) limit)
		return;
	if (kind == ES_CATEGORY)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many categories: \"%.*s\" would be number %llu",
						pg_mbcliplen(name, len, 64), name, (unsigned long long) count),
				 errdetail("The setting event_store.max_categories is %d.", limit),
				 errhint("A stream is named category-id, such as account-123: the category is the kind of thing, the part before the first \"-\".")));
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("too many event types: \"%.*s\" would be number %llu",
					pg_mbcliplen(name, len, 64), name, (unsigned long long) count),
			 errdetail("The setting event_store.max_event_types is %d.", limit),
			 errhint("An event type says what happened, such as OrderPlaced: ids belong into the data.")));
}

/* As often as this one after the other, somebody else inserts the same name and is rolled back. */
#define MAX_TRIES	100

/*
 * The id of a name, which is inserted if it is not stored yet. Waits for a concurrent transaction that is inserting
 * the same name. To avoid deadlocks, callers insert several names in sorted order, before they lock any stream.
 */
int32
es_name_make(EsNameKind kind, const char *name, int len)
{
	int32		id = es_name_find(kind, name, len);
	EsSql		sql;
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	char		statement[128];
	uint64		inserted;

	if (id != 0)
		return id;

	values[0] = PointerGetDatum(cstring_to_text_with_len(name, len));
	snprintf(statement, sizeof(statement),
			 "INSERT INTO event_store.%s (name) VALUES ($1) ON CONFLICT DO NOTHING", name_table_name(kind));
	for (int tries = 1; id == 0; tries++)
	{
		es_sql_begin(&sql, es_store()->owner);
		inserted = es_sql_write_args(name_table_name(kind), statement, 1, types, values, NULL);
		es_sql_end(&sql);
		CommandCounterIncrement();
		id = es_name_find(kind, name, len);
		CHECK_FOR_INTERRUPTS();
		/* It may have been there, and the transaction that had inserted it was rolled back then. But not for ever. */
		if (id == 0 && (inserted > 0 || tries == MAX_TRIES))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("could not store the name \"%.*s\" in event_store.%s", pg_mbcliplen(name, len, 64), name,
							name_table_name(kind)),
					 errdetail("A row that is inserted there is not there afterwards."),
					 errhint("Drop the triggers and rules of that table.")));
	}
	check_limit(kind, id, name, len);
	return id;
}

/* The name with an id. It is good at least until the caller's memory context is reset. */
text *
es_name_of(EsNameKind kind, int32 id)
{
	EsNameCache *cache = name_cache(kind, name_table(kind));
	EsNameById *entry = hash_search(cache->by_id, &id, HASH_FIND, NULL);
	text	   *name;
	int32		found;

	if (entry != NULL)
		return entry->text;

	name = look_up(kind, false, Int32GetDatum(id), &found);
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("event_store.%s has no row with id %d", name_table_name(kind), id)));
	return name;
}

/*
 * Compares bytewise, as our indexes are ordered. So the order is the same for all, whatever the database's collation.
 */
int
es_compare_bytes(const char *a, int alen, const char *b, int blen)
{
	int			cmp = memcmp(a, b, Min(alen, blen));

	return cmp != 0 ? cmp : (alen > blen) - (alen < blen);
}

int
es_compare_names(const text *a, const text *b)
{
	return es_compare_bytes(VARDATA_ANY(a), VARSIZE_ANY_EXHDR(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(b));
}

/* Whether a list of text * has a name. */
bool
es_has_name(const List *names, const char *name, int len)
{
	ListCell   *lc;

	foreach(lc, names)
		if (VARSIZE_ANY_EXHDR(lfirst(lc)) == len && memcmp(VARDATA_ANY(lfirst(lc)), name, len) == 0)
			return true;
	return false;
}

/* The length of the category in a stream's name: what comes before the first "-", or all of it. */
int
es_category_length(const text *stream)
{
	const char *name = VARDATA_ANY(stream);
	int			len = VARSIZE_ANY_EXHDR(stream);
	const char *dash = memchr(name, '-', len);

	return dash == NULL ? len : (int) (dash - name);
}
