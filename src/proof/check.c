/*
 * proof/check.c
 *	  es_check: checks every invariant that the stored rows can show. Each finding is a row.
 *
 * Everything is read with one snapshot, that of the statement. It shows all of a transaction that appends or moves a
 * checkpoint, or nothing of it. So what others do meanwhile is never a finding. Two things are not read with the
 * snapshot. The newest position is read after the snapshot was taken, so nothing in the snapshot may be above it. And
 * a partition that was made since is in the list of partitions, but empty.
 *
 * Most findings are the rows that the queries in sql/proof/check.sql return. Only partitions and stored states are
 * checked here. Memory is constant: queries are read by cursors, and sorts and joins spill to disk beyond work_mem.
 *
 * A range of positions that is in no attached partition (a *gap*) is one finding. What is missing only because of a
 * gap, and what points into it, is not reported again.
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
#include "utils/fmgroids.h"
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

/* How many stored states are checked with "sample". */
#define SAMPLE			100

typedef struct Check
{
	ReturnSetInfo *rsinfo;
	MemoryContext scratch;		/* reset for each row */
	int64		newest;			/* position allocated; read after the snapshot was taken */
	EsPartition *partitions;
	int			partition_count;
	EsPartitionGap *gaps;
	int			gap_count;
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

/* Reports a finding. stream may be NULL; position is 0 where there is none. */
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

/* A query that is read row by row, with the snapshot. */
typedef struct Cursor
{
	Portal		portal;
	SPITupleTable *rows;
	uint64		count;
	uint64		next;
} Cursor;

static void
cursor_open(Cursor *cursor, const char *query)
{
	memset(cursor, 0, sizeof(*cursor));
	cursor->portal = SPI_cursor_open_with_args(NULL, query, 0, NULL, NULL, NULL, true, 0);
}

/* The next row; NULL after the last one. A row is good until the next call. */
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

/* A column of a cursor's row that is never NULL. */
static Datum
column(Cursor *cursor, HeapTuple row, int number, Oid type)
{
	return es_sql_value(row, cursor->rows->tupdesc, number, type, NULL);
}

static int64
int_column(Cursor *cursor, HeapTuple row, int number)
{
	return DatumGetInt64(column(cursor, row, number, INT8OID));
}

/* ---------------------------------------------------------------- partitions */

static void
report_gap(Check *check, const EsPartitionGap *gap)
{
	const char *name = NameStr(gap->partition);
	const char *where = "";

	/* One that was made ahead and dropped is made again; one that is there would be in the way. */
	if (gap->from > check->newest && (name[0] == '\0' || !es_partition_exists(name)))
		return;
	if (name[0] != '\0')
		where = psprintf(es_partition_exists(name) ? "; table event_store.%s is not attached" :
						 "; they were in \"%s\", and there is no such table", name);
	finding(check, "partition", NULL, gap->from, "positions %lld to %lld are in no partition of event_store.log%s",
			(long long) gap->from, (long long) gap->to, where);
}

/* Raises an error when a partition is not as it was made. */
static void
check_partition(void *arg)
{
	EsPartition *partition = arg;
	Relation	rel = try_relation_open(partition->relid, AccessShareLock);

	if (rel == NULL)
		return;
	es_store_check_partition(rel);
	(void) es_partition_index(rel, false);
	(void) es_partition_index(rel, true);
	relation_close(rel, AccessShareLock);
}

/*
 * The partitions must follow each other from the node's first position to that of the last event, and must be as they
 * were made. Positions after the last event were allocated by transactions that were rolled back, and need no
 * partition.
 */
static void
check_partitions(Check *check)
{
	int64		end = ES_NODE_START(es_store()->node);
	int64		last;

	SPI_execute("SELECT greatest(max(last_position), 0) FROM event_store.heads", true, 1);
	last = DatumGetInt64(es_sql_first(1, INT8OID, NULL));
	check->partition_count = es_partitions_copy(&check->partitions);
	check->gap_count = es_partition_gaps(last, &check->gaps);
	for (int i = 0; i < check->gap_count; i++)
		report_gap(check, &check->gaps[i]);
	for (int i = 0; i < check->partition_count; i++)
	{
		EsPartition *partition = &check->partitions[i];
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

/* ---------------------------------------------------------------- queries */

/* The gaps as a literal of type int8multirange. */
static char *
gaps_literal(const Check *check)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	for (int i = 0; i < check->gap_count; i++)
		appendStringInfo(&buf, "%s[%lld,%lld]", i == 0 ? "" : ",",
						 (long long) check->gaps[i].from, (long long) check->gaps[i].to);
	appendStringInfoChar(&buf, '}');
	return buf.data;
}

typedef enum PartitionPart
{
	PARTITION_TABLE,
	PARTITION_FROM,
	PARTITION_TO,
} PartitionPart;

/* The tables, or the bounds, of the partitions in their order, as a literal of an array. */
static char *
partitions_literal(const Check *check, PartitionPart part)
{
	StringInfoData buf;

	initStringInfo(&buf);
	appendStringInfoChar(&buf, '{');
	for (int i = 0; i < check->partition_count; i++)
	{
		const EsPartition *partition = &check->partitions[i];

		appendStringInfo(&buf, "%s%lld", i == 0 ? "" : ",",
						 part == PARTITION_TABLE ? (long long) partition->relid :
						 part == PARTITION_FROM ? (long long) partition->from : (long long) partition->to);
	}
	appendStringInfoChar(&buf, '}');
	return buf.data;
}

/* Runs a query that returns findings (kind, stream, position, detail), and reports them. */
static void
run_query(Check *check, const char *query)
{
	Cursor		cursor;
	HeapTuple	row;

	cursor_open(&cursor, query);
	while ((row = cursor_next(&cursor)) != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(check->scratch);
		TupleDesc	desc = cursor.rows->tupdesc;
		char	   *position = SPI_getvalue(row, desc, 3);

		add_finding(check, es_sql_text(row, desc, 1), SPI_getvalue(row, desc, 2),
					position == NULL ? 0 : pg_strtoint64(position), es_sql_text(row, desc, 4));
		MemoryContextSwitchTo(old);
		MemoryContextReset(check->scratch);
	}
	cursor_close(&cursor);
}

/* Runs the script proof/check.sql. It has queries, and SET statements for how they are planned. */
static void
run_queries(Check *check)
{
	int			node = es_store()->node;
	int			settings = NewGUCNestLevel();
	EsScriptValue values[] = {
		es_script_integer("newest", check->newest),
		es_script_integer("subscriber", es_store_is_subscriber()),
		es_script_integer("before_first", ES_NODE_START(node)),
		es_script_integer("first_position", ES_NODE_START(node) + 1),
		es_script_integer("last_position", ES_NODE_END(node) - 1),
		es_script_literal("gaps", gaps_literal(check)),
		es_script_literal("partitions", partitions_literal(check, PARTITION_TABLE)),
		es_script_literal("partition_from", partitions_literal(check, PARTITION_FROM)),
		es_script_literal("partition_to", partitions_literal(check, PARTITION_TO)),
		es_script_integer("extension_schema", es_extension_schema()),
		es_script_literal("tables", es_store_table_names()),
		es_script_integer("digest_length", ES_DIGEST_LEN),
		es_script_integer("system", es_system_identifier()),
	};
	ListCell   *lc;

	foreach(lc, es_script_parse("proof/check", values, lengthof(values)))
	{
		EsScriptStatement *statement = lfirst(lc);

		if (IsA(statement->tree, VariableSetStmt))
			es_sql_run(statement->text);
		else
			run_query(check, statement->text);
	}
	AtEOXact_GUC(false, settings);
}

/* ---------------------------------------------------------------- snapshots */

/* A stored state that is compared with a replay of its stream. */
typedef struct Replay
{
	int64		stream;
	int64		version;
	const bytea *fingerprint;
	Jsonb	   *state;
	MemoryContext context;		/* where the state of `base` is allocated */
	bool		skipped;		/* it was not made by the current fold of its category, or there is no such stream */
	bool		equal;

	/* Where the last replay has ended. The next one of the same stream goes on from there. */
	int64		base_stream;
	EsFoldBase	base;
} Replay;

/* Replays the stream up to the state's version, and compares. */
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
 * A stored state must be what a replay of its stream gives. States that earlier definitions have made are never used,
 * and states that applications have stored cannot be replayed: of both only the hash is checked.
 */
static void
check_snapshots(Check *check, bool all)
{
	Cursor		cursor;
	HeapTuple	row;
	Replay		r = {0};
	EsScriptValue sample = es_script_integer("sample", all ? PG_INT64_MAX : SAMPLE);
	List	   *statements;

	r.context = CurrentMemoryContext;
	statements = es_script_parse("proof/snapshots", &sample, 1);
	cursor_open(&cursor, ((EsScriptStatement *) linitial(statements))->text);
	while ((row = cursor_next(&cursor)) != NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(check->scratch);
		int64		position = int_column(&cursor, row, 4);
		char	   *name = TextDatumGetCString(column(&cursor, row, 8, TEXTOID));
		EsSnapshot	stored = {0};
		ErrorData  *error;
		Datum		digest;
		bool		no_digest;

		r.stream = int_column(&cursor, row, 1);
		r.fingerprint = DatumGetByteaPP(column(&cursor, row, 2, BYTEAOID));
		r.version = int_column(&cursor, row, 3);
		r.state = DatumGetJsonbP(column(&cursor, row, 6, JSONBOID));
		stored.state = r.state;
		stored.version = r.version;
		stored.position = position;
		stored.recorded_at = DatumGetTimestampTz(column(&cursor, row, 5, TIMESTAMPTZOID));
		digest = es_sql_value(row, cursor.rows->tupdesc, 9, BYTEAOID, &no_digest);
		stored.digest = no_digest ? NULL : DatumGetByteaPP(digest);
		if (!es_snapshot_sound(r.stream, r.fingerprint, &stored, DatumGetByteaPP(column(&cursor, row, 7, BYTEAOID))))
			finding(check, "snapshot", name, position, "the snapshot of version %lld is damaged: its hash is not right",
					(long long) r.version);
		else if (es_snapshot_is_of(r.fingerprint, NULL) &&
				 !es_in_partition_gap(check->gaps, check->gap_count, 0, position))
		{
			error = es_catch(replay, &r);
			if (error != NULL && error->sqlerrcode == ES_UNKNOWN)
				FreeErrorData(error);	/* the category has no fold any more, so nobody uses the state */
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
	/* Sequences are not replicated: of a subscriber's there is nothing to say. */
	check.newest = es_store_is_subscriber() ? ES_NODE_END(es_store()->node) : es_position_last();

	es_sql_begin(&sql, es_store()->owner);
	es_pin_setting("DateStyle", "ISO");
	es_pin_setting("jit", "off");	/* it would compile for each partition, and take longer than the queries */
	check.scratch = AllocSetContextCreate(CurrentMemoryContext, "event_store check", ALLOCSET_DEFAULT_SIZES);
	check_partitions(&check);
	run_queries(&check);
	if (strcmp(snapshots, "none") != 0)
		check_snapshots(&check, strcmp(snapshots, "all") == 0);
	es_sql_end(&sql);
	/* What is reported must be durable. */
	es_early_release_await_all();
	return (Datum) 0;
}
