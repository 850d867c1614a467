/*
 * proof/check.c
 *	  es_check: every invariant of the store that can be seen from what is stored; one row a finding.
 *
 * All of it is looked at in one snapshot, the statement's. A transaction that appends is in it as a whole or not at
 * all, and so is whatever moves a cursor; so what others do meanwhile is never a finding. Two things are not of the
 * snapshot: the newest position, which is read after the snapshot was taken, so that nothing in the snapshot may be
 * above it; and the list of partitions, where one that was made since is empty.
 *
 * Memory is constant. Most findings are what a query returns, by a cursor; sorts and joins spill by work_mem. Streams
 * are checked by a merge of two cursors, heads by id and the log by (stream, version): O(n log n), and each row of the
 * log is looked at once.
 *
 * A range of positions that is in no attached partition (a *hole*) is one finding. What points into it, or would lie
 * in it, is none.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"

PG_FUNCTION_INFO_V1(es_check);

#define CHECK_COLUMNS	4		/* kind, stream, position, detail */
#define FETCH_COUNT		1000

/* Snapshots that are replayed when they are not all to be. */
#define SAMPLE			"100"

typedef struct Check
{
	ReturnSetInfo *rsinfo;
	MemoryContext scratch;		/* of one row, or of one fetch */
	int64		newest;			/* position drawn; read after the snapshot was taken */
	EsPartition	   *partitions;
	int			partition_count;
	EsPartitionGap  *holes;
	int			hole_count;
	int32	   *types;			/* ids that event_types has, in order */
	int			type_count;
} Check;

/* ---------------------------------------------------------------- findings */

static void
add_finding(Check *check, const char *kind, const char *stream, int64 position, char *detail)
{
	Datum		values[CHECK_COLUMNS];
	bool		nulls[CHECK_COLUMNS] = {false};

	values[0] = CStringGetTextDatum(kind);
	nulls[1] = stream == NULL;
	values[1] = nulls[1] ? (Datum) 0 : CStringGetTextDatum(stream);
	values[2] = Int64GetDatum(position);
	nulls[2] = position == 0;
	values[3] = CStringGetTextDatum(detail);
	tuplestore_putvalues(check->rsinfo->setResult, check->rsinfo->setDesc, values, nulls);
}

/* position 0: none. */
static void finding(Check *check, const char *kind, const char *stream, int64 position, const char *fmt,...)
			pg_attribute_printf(5, 6);

static void
finding(Check *check, const char *kind, const char *stream, int64 position, const char *fmt,...)
{
	va_list		args;
	char	   *detail;

	va_start(args, fmt);
	detail = es_vpsprintf(fmt, args);
	va_end(args);
	add_finding(check, kind, stream, position, detail);
	pfree(detail);
}

/* ---------------------------------------------------------------- cursors */

/* A query that is read row by row, in the snapshot. */
typedef struct Cursor
{
	Portal		portal;
	SPITupleTable *rows;
	uint64		count;
	uint64		next;
} Cursor;

static void
cursor_open(Cursor *cursor, const char *query, int nargs, Oid *types, Datum *values)
{
	memset(cursor, 0, sizeof(*cursor));
	cursor->portal = SPI_cursor_open_with_args(NULL, query, nargs, types, values, NULL, true, 0);
}

/* The next row; NULL after the last one. It is good until the one after it is asked for. */
static HeapTuple
cursor_next(Cursor *cursor)
{
	CHECK_FOR_INTERRUPTS();
	if (cursor->next >= cursor->count)
	{
		if (cursor->rows != NULL)
			SPI_freetuptable(cursor->rows);
		SPI_cursor_fetch(cursor->portal, true, FETCH_COUNT);
		cursor->rows = SPI_tuptable;
		cursor->count = SPI_processed;
		cursor->next = 0;
		if (cursor->count == 0)
			return NULL;
	}
	return cursor->rows->vals[cursor->next++];
}

static void
cursor_close(Cursor *cursor)
{
	if (cursor->rows != NULL)
		SPI_freetuptable(cursor->rows);
	SPI_cursor_close(cursor->portal);
}

/* A column of a cursor's row that is not NULL by the table's definition. */
static Datum
column(Cursor *cursor, HeapTuple row, int number)
{
	bool		isnull;

	return SPI_getbinval(row, cursor->rows->tupdesc, number, &isnull);
}

static int64
int_column(Cursor *cursor, HeapTuple row, int number)
{
	return DatumGetInt64(column(cursor, row, number));
}

/* ---------------------------------------------------------------- partitions */

/* Whether a part of the positions first..last is in no partition. */
static bool
in_hole(const Check *check, int64 first, int64 last)
{
	return es_in_partition_gap(check->holes, check->hole_count, first, last);
}

static void
report_hole(Check *check, const EsPartitionGap *hole)
{
	char	   *table = psprintf("log_%lld", (long long) hole->from);
	bool		exists = OidIsValid(get_relname_relid(table, get_namespace_oid(ES_SCHEMA, false)));

	finding(check, "partition", NULL, hole->from, "positions %lld to %lld are in no partition of event_store.log%s%s%s",
			(long long) hole->from, (long long) hole->to,
			exists ? "; table event_store." : "", exists ? table : "", exists ? " is not attached" : "");
}

static void
check_partition(void *arg)
{
	EsPartition	   *partition = arg;
	Relation	rel = try_relation_open(partition->relid, AccessShareLock);

	if (rel == NULL)
		return;
	es_store_check_partition(rel);
	(void) es_partition_index(rel, false);
	(void) es_partition_index(rel, true);
	relation_close(rel, AccessShareLock);
}

/*
 * The partitions must follow each other from the node's first position to the last event's, and be tables as they were
 * made. Positions that were drawn in vain may be beyond the newest one.
 */
static void
check_partitions(Check *check)
{
	int64		end = ES_NODE_START(es_store()->node);
	int64		last;
	bool		isnull;

	SPI_execute("SELECT greatest(max(last_position), 0) FROM event_store.heads", true, 1);
	last = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	check->partition_count = es_partitions_copy(&check->partitions, NULL);
	check->hole_count = es_partition_gaps(check->partitions, check->partition_count, last, &check->holes);
	for (int i = 0; i < check->hole_count; i++)
		report_hole(check, &check->holes[i]);
	for (int i = 0; i < check->partition_count; i++)
	{
		EsPartition	   *partition = &check->partitions[i];
		ErrorData  *error;

		if (partition->from < end)
			finding(check, "partition", NULL, partition->from,
					"partition \"%s\" begins at position %lld, where it should be %lld",
					get_rel_name(partition->relid), (long long) partition->from, (long long) end);
		end = Max(end, partition->to);
		error = es_catch(check_partition, partition);
		if (error != NULL)
		{
			finding(check, "partition", NULL, partition->from, "%s%s%s", error->message,
					error->detail == NULL ? "" : ": ", error->detail == NULL ? "" : error->detail);
			FreeErrorData(error);
		}
	}
}

/* ---------------------------------------------------------------- streams */

/* A stream as its head row has it, and as its events have it. */
typedef struct Stream
{
	int64		id;
	char	   *name;			/* NULL: there is no head row */
	int64		head_version;
	int64		head_first;
	int64		head_last;
	TimestampTz head_created_at;
	TimestampTz head_recorded_at;
	int32		category;
	int32		digest_length;

	bool		any;			/* an event was met */
	int64		version;		/* of the last one */
	int64		position;
	TimestampTz recorded_at;
} Stream;

static int
compare_types(const void *a, const void *b)
{
	int32		left = *(const int32 *) a;
	int32		right = *(const int32 *) b;

	return (left > right) - (left < right);
}

static void
check_event(Check *check, Stream *stream, Cursor *log, HeapTuple row)
{
	int64		version = int_column(log, row, 2);
	int64		position = int_column(log, row, 3);
	TimestampTz recorded_at = DatumGetTimestampTz(column(log, row, 4));
	int32		category = DatumGetInt32(column(log, row, 5));
	int32		type = DatumGetInt32(column(log, row, 6));
	const EsPartition *partition = es_partition_among(check->partitions, check->partition_count, position);
	int64		expected = stream->any ? stream->version + 1 : 1;

	if (version < expected)
		finding(check, "version", stream->name, position, "version %lld is there %s", (long long) version,
				stream->any ? "twice" : "although the first one is 1");
	else if (version > expected && !in_hole(check, stream->any ? stream->position : 0, position))
	{
		if (version == expected + 1)
			finding(check, "version", stream->name, position, "version %lld is missing", (long long) expected);
		else
			finding(check, "version", stream->name, position, "versions %lld to %lld are missing",
					(long long) expected, (long long) version - 1);
	}

	if (stream->any && position <= stream->position)
		finding(check, "position", stream->name, position,
				"version %lld is at position %lld, which is not after position %lld of version %lld",
				(long long) version, (long long) position, (long long) stream->position,
				(long long) stream->version);
	if (partition == NULL || partition->relid != DatumGetObjectId(column(log, row, 7)))
		finding(check, "position", stream->name, position, "the event is in partition \"%s\", which is not for its position",
				get_rel_name(DatumGetObjectId(column(log, row, 7))));
	if (position > check->newest)
		finding(check, "position", stream->name, position,
				"the sequence of positions is at %lld: it would draw this one again", (long long) check->newest);
	if (stream->any && recorded_at < stream->recorded_at)
		finding(check, "time", stream->name, position,
				"version %lld was recorded at %s, before the version before it", (long long) version,
				timestamptz_to_str(recorded_at));
	if (bsearch(&type, check->types, check->type_count, sizeof(int32), compare_types) == NULL)
		finding(check, "name", stream->name, position, "event type %d of version %lld has no name", type,
				(long long) version);
	if (stream->name != NULL && category != stream->category)
		finding(check, "name", stream->name, position, "category %d of version %lld is not the stream's, %d", category,
				(long long) version, stream->category);

	if (!stream->any && version == 1 && stream->name != NULL)
	{
		if (position != stream->head_first)
			finding(check, "head", stream->name, position, "the head row has first position %lld",
					(long long) stream->head_first);
		if (recorded_at != stream->head_created_at)
			finding(check, "head", stream->name, position,
					"the head row was created at another time than its first event was recorded");
	}
	if (!stream->any || version >= stream->version)
		stream->version = version;
	stream->any = true;
	stream->position = position;
	stream->recorded_at = recorded_at;
}

/* All events of a stream have been looked at: is the head row the end of them? */
static void
check_head(Check *check, const Stream *stream)
{
	if (stream->digest_length != ES_DIGEST_LEN)
		finding(check, "head", stream->name, stream->head_last, "the head row has a digest of %d bytes",
				stream->digest_length);
	if (stream->any && stream->version > stream->head_version)
		finding(check, "head", stream->name, stream->position, "the head row has version %lld, but there is version %lld",
				(long long) stream->head_version, (long long) stream->version);
	else if ((stream->any ? stream->version : 0) < stream->head_version)
	{
		if (!in_hole(check, stream->any ? stream->position + 1 : stream->head_first, stream->head_last))
			finding(check, "head", stream->name, stream->head_last,
					"the head row has version %lld, but the last event has version %lld",
					(long long) stream->head_version, (long long) (stream->any ? stream->version : 0));
	}
	else if (!stream->any)
	{
		if (stream->head_first != 0 || stream->head_last != 0)
			finding(check, "head", stream->name, stream->head_last, "the head row has positions, but no version");
	}
	else
	{
		if (stream->position != stream->head_last)
			finding(check, "head", stream->name, stream->position, "the head row has last position %lld",
					(long long) stream->head_last);
		if (stream->recorded_at != stream->head_recorded_at)
			finding(check, "head", stream->name, stream->position,
					"the head row has another time than its last event was recorded");
	}
}

static void
read_types(Check *check)
{
	Cursor		cursor;
	HeapTuple	row;
	int			room = 64;

	check->types = palloc(sizeof(int32) * room);
	check->type_count = 0;
	cursor_open(&cursor, "SELECT id FROM event_store.event_types ORDER BY id", 0, NULL, NULL);
	while ((row = cursor_next(&cursor)) != NULL)
	{
		if (check->type_count == room)
			check->types = repalloc_huge(check->types, sizeof(int32) * (Size) (room *= 2));
		check->types[check->type_count++] = DatumGetInt32(column(&cursor, row, 1));
	}
	cursor_close(&cursor);
}

static void
check_streams(Check *check)
{
	Cursor		heads;
	Cursor		log;
	HeapTuple	head;
	HeapTuple	event;
	MemoryContext old;

	read_types(check);
	cursor_open(&heads, "SELECT id, name, version, first_position, last_position, created_at, recorded_at, category,"
				" octet_length(digest) FROM event_store.heads ORDER BY id", 0, NULL, NULL);
	cursor_open(&log, "SELECT stream, version, position, recorded_at, category, event_type, tableoid"
				" FROM event_store.log ORDER BY stream, version, position", 0, NULL, NULL);
	head = cursor_next(&heads);
	event = cursor_next(&log);
	while (head != NULL || event != NULL)
	{
		Stream		stream;
		int64		head_id = head == NULL ? PG_INT64_MAX : int_column(&heads, head, 1);
		int64		event_id = event == NULL ? PG_INT64_MAX : int_column(&log, event, 1);

		old = MemoryContextSwitchTo(check->scratch);
		memset(&stream, 0, sizeof(stream));
		stream.id = Min(head_id, event_id);
		if (head != NULL && head_id == stream.id)
		{
			stream.name = TextDatumGetCString(column(&heads, head, 2));
			stream.head_version = int_column(&heads, head, 3);
			stream.head_first = int_column(&heads, head, 4);
			stream.head_last = int_column(&heads, head, 5);
			stream.head_created_at = DatumGetTimestampTz(column(&heads, head, 6));
			stream.head_recorded_at = DatumGetTimestampTz(column(&heads, head, 7));
			stream.category = DatumGetInt32(column(&heads, head, 8));
			stream.digest_length = DatumGetInt32(column(&heads, head, 9));
			head = cursor_next(&heads);
		}
		else
			finding(check, "head", NULL, int_column(&log, event, 3), "stream id %lld has events, but no head row",
					(long long) stream.id);
		while (event != NULL && int_column(&log, event, 1) == stream.id)
		{
			check_event(check, &stream, &log, event);
			event = cursor_next(&log);
		}
		if (stream.name != NULL)
			check_head(check, &stream);
		MemoryContextSwitchTo(old);
		MemoryContextReset(check->scratch);
	}
	cursor_close(&log);
	cursor_close(&heads);
}

/* ---------------------------------------------------------------- what a query finds */

/* Holes are $1 and $2, the newest position is $3, the node's first one less 1 is $4, the extension's schema $5. */
#define NOT_IN_HOLE(position) \
	" NOT EXISTS (SELECT FROM unnest($1, $2) hole (a, b) WHERE " position " >= hole.a AND " position " < hole.b)"
#define OUR_TABLES \
	" FROM pg_class c WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'p')"

/* Each returns stream, position and detail. What joins most of the log must not be planned by estimates for a few rows. */
static const struct
{
	const char *kind;
	const char *query;
	bool		no_loops;
}			queries[] = {
	/* Its one row is the published mark. */
	{"mark", "SELECT NULL, NULL, format('event_store.mark has %s rows', count(*)) FROM event_store.mark HAVING count(*) <> 1"},
	{"mark", "SELECT NULL, m.mark, CASE WHEN m.mark > $3 THEN format('the published mark is above the newest position, %s', $3)"
		" WHEN m.mark < $4 THEN 'the published mark is below the first position'"
		" ELSE format('stable_until is %s, later than floor, %s', m.stable_until, m.floor) END"
	" FROM event_store.mark m WHERE m.mark > $3 OR m.mark < $4 OR m.stable_until > m.floor"},
	{"time", "SELECT h.name, l.position, format('it was recorded at %s, where everything up to %s is said to be below the mark, %s',"
		" l.recorded_at, m.stable_until, m.mark) FROM event_store.mark m JOIN event_store.log l ON l.position > m.mark"
	" LEFT JOIN event_store.heads h ON h.id = l.stream WHERE l.recorded_at <= m.stable_until"},

	{"sequence", "SELECT NULL, NULL, 'event_store.position_seq is not as it was made: it must be of type bigint, increment by 1,"
		" cache 1, not cycle, and have the bounds of the node' FROM pg_sequence s"
		" WHERE s.seqrelid = 'event_store.position_seq'::regclass AND (s.seqtypid <> 'bigint'::regtype OR s.seqincrement <> 1"
	" OR s.seqcache <> 1 OR s.seqcycle OR s.seqmin <> $4 + 1 OR s.seqmax <> $4 + 281474976710654)"},
	{"sequence", "SELECT h.name, NULL, format('event_store.stream_seq is at %s: it would give the id %s again', s.last_value, h.id)"
		" FROM event_store.stream_seq s, LATERAL (SELECT h.name, h.id FROM event_store.heads h ORDER BY h.id DESC LIMIT 1) h"
	" WHERE h.id > s.last_value OR h.id = s.last_value AND NOT s.is_called"},

	{"position", "SELECT NULL, l.position, format('%s events have this position', count(*)) FROM event_store.log l"
	" GROUP BY l.position HAVING count(*) > 1"},
	{"name", "SELECT h.name, NULL, CASE WHEN c.id IS NULL THEN format('category %s has no name', h.category)"
		" ELSE format('the head row has category %L', c.name) END FROM event_store.heads h"
	" LEFT JOIN event_store.categories c ON c.id = h.category WHERE c.name IS DISTINCT FROM split_part(h.name, '-', 1)"},
	{"call", "SELECT (SELECT h.name FROM event_store.heads h WHERE h.id = l.stream), l.position, CASE WHEN l.rest < 0 THEN format('rest is %s', l.rest)"
		" ELSE format('rest is %s, but the last event of its call is not at position %s', l.rest, l.position + l.rest) END"
		" FROM event_store.log l LEFT JOIN event_store.log e ON e.position = l.position + l.rest"
		" WHERE l.rest <> 0 AND (l.rest < 0 OR e.rest IS DISTINCT FROM 0 OR e.recorded_at <> l.recorded_at)"
	" AND" NOT_IN_HOLE("l.position + l.rest"), true},

	{"key", "SELECT h.name, k.last_position, format('idempotency key %L does not point at the events of an append', k.key)"
		" FROM event_store.append_keys k LEFT JOIN event_store.heads h ON h.id = k.stream"
		" LEFT JOIN event_store.log l ON l.position = k.last_position LEFT JOIN event_store.log f ON f.position = k.first_position"
		" WHERE h.id IS NULL OR (l.stream, l.version, l.recorded_at) IS DISTINCT FROM (k.stream, k.version, k.recorded_at)"
		" AND" NOT_IN_HOLE("k.last_position")
		" OR (f.stream, f.recorded_at) IS DISTINCT FROM (k.stream, k.recorded_at)"
	" AND" NOT_IN_HOLE("k.first_position")},
	{"key", "SELECT NULL, k.last_position, format('idempotency key %L does not point at the %s events of a batch', k.key, k.events)"
		" FROM event_store.batch_keys k WHERE NOT EXISTS (SELECT FROM unnest($1, $2) hole (a, b)"
		" WHERE k.first_position < hole.b AND k.last_position >= hole.a)"
		" AND (SELECT (count(*), min(l.position), max(l.position), min(l.recorded_at), max(l.recorded_at)) IS DISTINCT FROM"
		" (k.events, k.first_position, k.last_position, k.recorded_at, k.recorded_at) FROM event_store.log l"
	" WHERE l.position BETWEEN k.first_position AND k.last_position AND l.position + l.rest = k.last_position)"},

	{"trigger", "SELECT NULL, NULL, CASE WHEN t.oid IS NULL THEN format('table %s has no trigger es_immutable', c.oid::regclass)"
		" WHEN t.tgenabled <> 'A' THEN format('trigger es_immutable of table %s is not ENABLE ALWAYS', c.oid::regclass)"
		" ELSE format('trigger es_immutable of table %s is not as it was made', c.oid::regclass) END"
		" FROM pg_class c LEFT JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = 'es_immutable'"
		" WHERE (c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'p')"
		" AND (c.relname = ANY ($6) OR c.relname ~ '^log_[0-9]+$')"
		" OR c.oid IN (SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = 'event_store.log'::regclass))"
		" AND (t.oid IS NULL OR t.tgenabled <> 'A' OR t.tgtype <> 58 OR t.tgqual IS NOT NULL OR t.tgattr[0] IS NOT NULL"
		" OR t.tgfoid IS DISTINCT FROM (SELECT p.oid FROM pg_proc p WHERE p.proname = 'es_refuse_change' AND p.pronamespace = $5))"
	" ORDER BY c.relname"},
	{"table", "SELECT NULL, NULL, format('table %s is unlogged: a crash empties it', c.oid::regclass)" OUR_TABLES
	" AND c.relpersistence <> 'p' ORDER BY c.relname"},
	{"table", "SELECT NULL, NULL, format('table %s has row-level security or rules', c.oid::regclass)" OUR_TABLES
		" AND (c.relrowsecurity OR c.relforcerowsecurity OR EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid))"
	" ORDER BY c.relname"},

	{"snapshot", "SELECT h.name, s.position, CASE WHEN h.id IS NULL THEN format('stream id %s of a snapshot does not exist', s.stream)"
		" ELSE format('the snapshot of version %s is not at the position and time of that event', s.version) END"
		" FROM event_store.snapshots s LEFT JOIN event_store.heads h ON h.id = s.stream"
		" LEFT JOIN event_store.log l ON l.position = s.position"
		" WHERE (l.stream, l.version, l.recorded_at) IS DISTINCT FROM (s.stream, s.version, s.recorded_at)"
	" AND" NOT_IN_HOLE("s.position")},

	{"projection", "SELECT NULL, NULL::bigint, format('projection %L has no checkpoint', p.name) FROM event_store.projections p"
		" WHERE NOT EXISTS (SELECT FROM event_store.checkpoints c WHERE c.projection = p.name AND NOT c.rebuild)"
		" UNION ALL SELECT NULL, NULL, format('the rebuild of projection %L has no checkpoint', b.projection)"
		" FROM event_store.rebuilds b WHERE NOT EXISTS (SELECT FROM event_store.checkpoints c"
		" WHERE c.projection = b.projection AND c.rebuild)"
		" UNION ALL SELECT NULL, NULL, format('the rebuild of projection %L is of no projection', b.projection)"
		" FROM event_store.rebuilds b WHERE NOT EXISTS (SELECT FROM event_store.projections p WHERE p.name = b.projection)"
		" UNION ALL SELECT NULL, c.position, format('a checkpoint is of no projection or rebuild: %L', c.projection)"
		" FROM event_store.checkpoints c WHERE CASE WHEN c.rebuild"
		" THEN NOT EXISTS (SELECT FROM event_store.rebuilds b WHERE b.projection = c.projection)"
	" ELSE NOT EXISTS (SELECT FROM event_store.projections p WHERE p.name = c.projection) END"},
	{"projection", "SELECT NULL, c.position, CASE WHEN c.position < p.from_position"
		" THEN format('the checkpoint of projection %L is before its beginning, %s', p.name, p.from_position)"
		" WHEN c.scan_from > c.position + 1 THEN format('projection %L would go on at position %s', p.name, c.scan_from)"
		" ELSE format('the checkpoint of projection %L is above the newest position, %s', p.name, $3) END"
		" FROM event_store.projections p JOIN event_store.checkpoints c ON c.projection = p.name"
	" WHERE c.position > greatest(p.from_position, $3) OR c.position < p.from_position OR c.scan_from > c.position + 1"},
	{"projection", "SELECT NULL, c.position, format('projection %L has %s parked streams, but its checkpoint says %s',"
		" c.projection, q.n, c.quarantined) FROM event_store.checkpoints c CROSS JOIN LATERAL (SELECT count(*) AS n"
		" FROM event_store.quarantine q WHERE q.projection = c.projection AND q.rebuild = c.rebuild) q"
	" WHERE q.n <> c.quarantined"},
	{"projection", "SELECT h.name, q.position, CASE WHEN c.projection IS NULL THEN format('the stream is parked by no projection: %L', q.projection)"
		" WHEN h.id IS NULL THEN format('projection %L has parked stream id %s, which does not exist', q.projection, q.stream)"
		" WHEN q.position > c.position THEN format('projection %L has parked the stream beyond its checkpoint, %s', q.projection, c.position)"
		" WHEN q.events < 1 THEN format('projection %L has parked the stream, but no event', q.projection)"
		" WHEN l.stream IS DISTINCT FROM q.stream THEN format('projection %L has parked the stream at a position where it has no event', q.projection)"
		" ELSE format('projection %L has parked the stream for no error', q.projection) END"
		" FROM event_store.quarantine q LEFT JOIN event_store.heads h ON h.id = q.stream"
		" LEFT JOIN event_store.checkpoints c ON c.projection = q.projection AND c.rebuild = q.rebuild"
		" LEFT JOIN event_store.log l ON l.position = q.position"
		" WHERE c.projection IS NULL OR h.id IS NULL OR q.position > c.position OR q.events < 1"
		" OR l.stream IS DISTINCT FROM q.stream AND" NOT_IN_HOLE("q.position")
		" OR NOT EXISTS (SELECT FROM event_store.quarantine e WHERE e.projection = q.projection AND e.rebuild = q.rebuild"
	" AND e.together = q.together AND e.error IS NOT NULL)"},

	{"subscription", "SELECT NULL, b.position, CASE WHEN b.position < b.from_position"
		" THEN format('subscription %L is before its beginning, %s', b.name, b.from_position)"
		" ELSE format('subscription %L is above the newest position, %s', b.name, $3) END FROM event_store.subscriptions b"
	" WHERE b.position > greatest(b.from_position, $3) OR b.position < b.from_position"},
	{"subscription", "SELECT h.name, s.position, CASE WHEN b.id IS NULL THEN format('the stream is in flight for no subscription: id %s', s.subscription)"
		" WHEN h.id IS NULL THEN format('subscription %L has stream id %s in flight, which does not exist', b.name, s.stream)"
		" WHEN s.position > b.position THEN format('subscription %L has the stream in flight beyond its position, %s', b.name, b.position)"
		" WHEN s.consumer IS NOT NULL AND c.consumer IS NULL THEN format('subscription %L has given the stream to consumer %L, who has no lease', b.name, s.consumer)"
		" ELSE format('subscription %L has the stream in flight at version %s, which is not at this position', b.name, s.version) END"
		" FROM event_store.subscription_streams s LEFT JOIN event_store.heads h ON h.id = s.stream"
		" LEFT JOIN event_store.subscriptions b ON b.id = s.subscription"
		" LEFT JOIN event_store.subscription_consumers c ON c.subscription = s.subscription AND c.consumer = s.consumer AND NOT c.lost"
		" LEFT JOIN event_store.log l ON l.position = s.position"
		" WHERE b.id IS NULL OR h.id IS NULL OR s.position > b.position OR s.consumer IS NOT NULL AND c.consumer IS NULL"
	" OR (l.stream, l.version) IS DISTINCT FROM (s.stream, s.version) AND" NOT_IN_HOLE("s.position")},
	{"subscription", "SELECT NULL, greatest(c.returned, c.covered), CASE WHEN b.id IS NULL THEN"
		" format('consumer %L is of no subscription: id %s', c.consumer, c.subscription)"
		" ELSE format('consumer %L of subscription %L was given events beyond its position, %s', c.consumer, b.name, b.position) END"
		" FROM event_store.subscription_consumers c LEFT JOIN event_store.subscriptions b ON b.id = c.subscription"
	" WHERE b.id IS NULL OR greatest(c.returned, c.covered) > b.position"},
};

static Datum
holes_array(const Check *check, bool ends)
{
	Datum	   *values = palloc(sizeof(Datum) * (check->hole_count + 1));

	for (int i = 0; i < check->hole_count; i++)
		values[i] = Int64GetDatum(ends ? check->holes[i].to + 1 : check->holes[i].from);
	return PointerGetDatum(construct_array(values, check->hole_count, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

static Datum
guarded_array(void)
{
	List	   *tables = es_immutable_tables();
	Datum	   *values = palloc(sizeof(Datum) * list_length(tables));
	int			count = 0;
	ListCell   *lc;

	foreach(lc, tables)
		values[count++] = CStringGetTextDatum(lfirst(lc));
	return PointerGetDatum(construct_array(values, count, TEXTOID, -1, false, TYPALIGN_INT));
}

static void
run_queries(Check *check)
{
	Oid			types[6] = {INT8ARRAYOID, INT8ARRAYOID, INT8OID, INT8OID, OIDOID, TEXTARRAYOID};
	Datum		values[6];

	values[0] = holes_array(check, false);
	values[1] = holes_array(check, true);
	values[2] = Int64GetDatum(check->newest);
	values[3] = Int64GetDatum(ES_NODE_START(es_store()->node));
	values[4] = ObjectIdGetDatum(es_extension_schema());
	values[5] = guarded_array();
	for (int i = 0; i < lengthof(queries); i++)
	{
		Cursor		cursor;
		HeapTuple	row;
		int			settings = NewGUCNestLevel();

		if (queries[i].no_loops)
			es_pin_setting("enable_nestloop", "off");
		cursor_open(&cursor, queries[i].query, lengthof(types), types, values);
		AtEOXact_GUC(false, settings);
		while ((row = cursor_next(&cursor)) != NULL)
		{
			MemoryContext old = MemoryContextSwitchTo(check->scratch);
			char	   *position = SPI_getvalue(row, cursor.rows->tupdesc, 2);

			add_finding(check, queries[i].kind, SPI_getvalue(row, cursor.rows->tupdesc, 1),
						position == NULL ? 0 : pg_strtoint64(position), SPI_getvalue(row, cursor.rows->tupdesc, 3));
			MemoryContextSwitchTo(old);
			MemoryContextReset(check->scratch);
		}
		cursor_close(&cursor);
	}
}

/* ---------------------------------------------------------------- snapshots */

/* A snapshot that is compared with a replay of its stream. */
typedef struct Replay
{
	int64		stream;
	int64		version;
	const bytea *fingerprint;
	Jsonb	   *state;
	MemoryContext context;		/* where the base is kept */
	bool		skipped;		/* no fold that is registered now has made it, or its stream is not there */
	bool		equal;

	/* what the last replay came to: the next one of the same stream goes on there */
	int64		base_stream;
	EsFoldBase	base;
} Replay;

static void
replay(void *arg)
{
	Replay	   *r = arg;
	EsFoldBase	base = {0};
	Jsonb	   *state;

	if (r->base_stream == r->stream && r->base.version <= r->version)
		base = r->base;
	r->skipped = !es_load_replay(r->stream, r->fingerprint, r->version, GetActiveSnapshot(), &base);
	if (r->skipped)
		return;
	state = base.state;
	r->equal = compareJsonbContainers(&state->root, &r->state->root) == 0;

	base.state = MemoryContextAlloc(r->context, VARSIZE(state));
	memcpy(base.state, state, VARSIZE(state));
	if (r->base.state != NULL)
		pfree(r->base.state);
	r->base = base;
	r->base_stream = r->stream;
}

/*
 * A stored state must be what a replay gives. What was made by an earlier definition is never used, and those of
 * applications cannot be replayed: of these only the hash is looked at.
 */
static void
check_snapshots(Check *check, bool all)
{
	Cursor		cursor;
	HeapTuple	row;
	Replay		r = {0};

	r.context = CurrentMemoryContext;
	cursor_open(&cursor, all ?
				"SELECT s.stream, s.fingerprint, s.version, s.position, s.recorded_at, s.state, s.hash, h.name"
				" FROM event_store.snapshots s JOIN event_store.heads h ON h.id = s.stream"
				" ORDER BY s.stream, s.fingerprint, s.version" :
				"SELECT s.stream, s.fingerprint, s.version, s.position, s.recorded_at, s.state, s.hash, h.name"
				" FROM (SELECT stream, fingerprint, version FROM event_store.snapshots ORDER BY random() LIMIT " SAMPLE ") k"
				" JOIN event_store.snapshots s USING (stream, fingerprint, version)"
				" JOIN event_store.heads h ON h.id = s.stream ORDER BY s.stream, s.fingerprint, s.version", 0, NULL, NULL);
	while ((row = cursor_next(&cursor)) != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(check->scratch);
		int64		position = int_column(&cursor, row, 4);
		char	   *name = TextDatumGetCString(column(&cursor, row, 8));
		ErrorData  *error;

		r.stream = int_column(&cursor, row, 1);
		r.fingerprint = DatumGetByteaPP(column(&cursor, row, 2));
		r.version = int_column(&cursor, row, 3);
		r.state = DatumGetJsonbP(column(&cursor, row, 6));
		if (!es_snapshot_sound(r.stream, r.fingerprint, r.version, position,
							   DatumGetTimestampTz(column(&cursor, row, 5)), r.state,
							   DatumGetByteaPP(column(&cursor, row, 7))))
			finding(check, "snapshot", name, position, "the snapshot of version %lld is damaged: its hash is not right",
					(long long) r.version);
		else if (es_snapshot_is_of(r.fingerprint, NULL) && !in_hole(check, 0, position))
		{
			error = es_catch(replay, &r);
			if (error != NULL && error->sqlerrcode == ES_UNKNOWN)
				FreeErrorData(error);	/* the category has no fold any more: nobody uses it */
			else if (error != NULL)
			{
				finding(check, "snapshot", name, position, "the snapshot of version %lld cannot be replayed: %s",
						(long long) r.version, error->message);
				FreeErrorData(error);
				r.base_stream = 0;
			}
			else if (!r.skipped && !r.equal)
				finding(check, "snapshot", name, position, "the snapshot of version %lld is not what a replay gives",
						(long long) r.version);
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(check->scratch);
	}
	cursor_close(&cursor);
}

/* ---------------------------------------------------------------- the call */

/* es_check(snapshots) -> findings */
Datum
es_check(PG_FUNCTION_ARGS)
{
	char	   *snapshots = text_to_cstring(es_text_argument(fcinfo, 0, "snapshots"));
	Check		check = {0};
	EsSql		sql;

	if (strcmp(snapshots, "all") != 0 && strcmp(snapshots, "sample") != 0 && strcmp(snapshots, "none") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument snapshots must be all, sample or none"),
				 errdetail("It is \"%s\".", snapshots)));
	(void) es_store_now();
	es_check_whole();
	InitMaterializedSRF(fcinfo, 0);
	check.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	check.newest = es_position_last();

	es_sql_begin(&sql, es_store()->owner);
	es_pin_setting("DateStyle", "ISO");
	check.scratch = AllocSetContextCreate(CurrentMemoryContext, "event_store check", ALLOCSET_DEFAULT_SIZES);
	check_partitions(&check);
	run_queries(&check);
	check_streams(&check);
	if (strcmp(snapshots, "none") != 0)
		check_snapshots(&check, strcmp(snapshots, "all") == 0);
	es_sql_end(&sql);
	/* What was read is not reported before it is durable. */
	es_early_release_await_all();
	return (Datum) 0;
}
