/*
 * state/definition.c
 *	  What users register: aggregates, upcasters, checks of event types; stored as text with the role and search_path
 *	  of the registration, cached compiled.
 *
 * A session keeps one set of definitions. A change of the tables (a registration sends a relcache invalidation, in its own
 * session too) or of any function makes the next call read them anew. The old set is freed only at the end of the
 * transaction, because a scan that is under way may still use it. A set that was read under the old snapshot of a
 * transaction is dropped when that transaction ends; there is another one then, for who needs what is committed now.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/uuid.h"
#include "utils/varlena.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"
#include "state/definition.h"

const EsVariable es_fold_variables[FOLD_VARIABLES] = {
	{"state", JSONBOID},
	{"event_type", TEXTOID},
	{"data", JSONBOID},
	{"metadata", JSONBOID},
	{"version", INT8OID},
	{"position", INT8OID},
	{"occurred_at", TIMESTAMPTZOID},
	{"recorded_at", TIMESTAMPTZOID},
	{"stream", TEXTOID},
	{"schema_version", INT4OID},
};

const EsVariable es_event_variables[EVENT_VARIABLES] = {
	{"data", JSONBOID},
	{"metadata", JSONBOID},
	{"event_type", TEXTOID},
	{"occurred_at", TIMESTAMPTZOID},
};

/* A row of one of the three tables: the columns that they have in common. */
typedef struct DefinitionRow
{
	char	   *name;			/* category or event type */
	int32		version;
	char	   *text;			/* expression; NULL: none */
	EsStoredRole role;
	char	   *search_path;
	EsExpr	   *compiled;
} DefinitionRow;

typedef struct AggregateRow
{
	DefinitionRow base;
	Jsonb	   *rules;
	Jsonb	   *initial;
	int			snapshot_every;
	int			keep_snapshots;
	Interval   *keep_snapshots_for;
	EsAggregate *compiled;
} AggregateRow;

/* An event type of whose events the schema version must be said. */
typedef struct VersionedType
{
	char	   *name;
	char	   *versions;		/* its schema versions, for an error message */
} VersionedType;

struct EsDefinitions
{
	MemoryContext context;
	uint64		store_generation;
	uint64		function_generation;
	AggregateRow *aggregates;
	int			aggregate_count;
	EsUpcaster *upcasters;
	DefinitionRow *upcaster_rows;
	int			upcaster_count;
	uint64		upcasters_hash;
	DefinitionRow *checks;
	int			check_count;
	VersionedType *versioned;
	int			versioned_count;
	bool		transient;		/* read under a transaction's old snapshot: of that transaction */
	bool		has_upcaster_digest;
	uint8		upcaster_digest[ES_DIGEST_LEN];
	EsDefinitions *next_retired;
};

static EsDefinitions *current = NULL;
static EsDefinitions *latest = NULL;	/* the same as committed now, where that is another one */
static EsDefinitions *retired = NULL;
static uint64 function_generation = 0;

/* ---------------------------------------------------------------- cache */

static void
function_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	function_generation++;
}

/* Frees the sets that nobody can be using any more. Must not fail. */
static void
end_of_transaction(void)
{
	if (current != NULL && current->transient)
	{
		MemoryContextDelete(current->context);
		current = NULL;
	}
	while (retired != NULL)
	{
		EsDefinitions *next = retired->next_retired;

		MemoryContextDelete(retired->context);
		retired = next;
	}
}

/* Registers the callbacks of this wing; called once, when the library is loaded. */
void
es_state_init(void)
{
	CacheRegisterSyscacheCallback(PROCOID, function_callback, (Datum) 0);
	es_transaction_at_end(end_of_transaction);
}

static Interval *
get_interval(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		value = es_sql_value(tuple, desc, column, INTERVALOID, &isnull);

	return isnull ? NULL : DatumGetIntervalP(datumCopy(value, false, sizeof(Interval)));
}

static Jsonb *
get_json(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		value = es_sql_value(tuple, desc, column, JSONBOID, &isnull);

	return isnull ? NULL : DatumGetJsonbPCopy(value);
}

static int32
get_int(HeapTuple tuple, TupleDesc desc, int column)
{
	return DatumGetInt32(es_sql_value(tuple, desc, column, INT4OID, NULL));
}

static void
read_row(DefinitionRow *row, HeapTuple tuple, TupleDesc desc)
{
	row->name = es_sql_text(tuple, desc, 1);
	row->version = get_int(tuple, desc, 2);
	row->text = SPI_getvalue(tuple, desc, 3);
	row->role = es_role_read(tuple, desc, 4);
	row->search_path = es_sql_text(tuple, desc, 7);
}

/* Reads the tables. SPI results live in SPI's context, so everything is copied by get_*(). */
static void
read_definitions(EsDefinitions *defs, bool as_committed)
{
	uint64		(*run) (const char *statement) = as_committed ? es_sql_run_latest : es_sql_run;
	EsSql		sql;
	uint64		count;

	es_sql_begin(&sql, es_store()->owner);

	count = run("SELECT category, 0, fold, " ES_ROLE_COLUMNS ", search_path, rules::jsonb,"
				" coalesce(initial_state::jsonb, '{}'), snapshot_every::integer,"
				" keep_snapshots::integer, keep_snapshots_for::interval"
				" FROM event_store.aggregates");
	MemoryContextSwitchTo(defs->context);
	defs->aggregates = palloc0(sizeof(AggregateRow) * (count + 1));
	for (uint64 i = 0; i < count; i++)
	{
		AggregateRow *row = &defs->aggregates[defs->aggregate_count++];
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;

		read_row(&row->base, tuple, desc);
		row->rules = get_json(tuple, desc, 8);
		row->initial = get_json(tuple, desc, 9);
		row->snapshot_every = get_int(tuple, desc, 10);
		row->keep_snapshots = get_int(tuple, desc, 11);
		row->keep_snapshots_for = get_interval(tuple, desc, 12);
	}

	count = run("SELECT event_type, from_version::integer, transform, " ES_ROLE_COLUMNS ", search_path, to_type, id"
				" FROM event_store.upcasters ORDER BY 1, 2");
	MemoryContextSwitchTo(defs->context);
	defs->upcaster_rows = palloc0(sizeof(DefinitionRow) * (count + 1));
	defs->upcasters = palloc0(sizeof(EsUpcaster) * (count + 1));
	for (uint64 i = 0; i < count; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		TupleDesc	desc = SPI_tuptable->tupdesc;
		EsUpcaster *upcaster = &defs->upcasters[defs->upcaster_count];
		DefinitionRow *row = &defs->upcaster_rows[defs->upcaster_count++];

		read_row(row, tuple, desc);
		upcaster->row = row;
		upcaster->event_type = row->name;
		upcaster->from_version = row->version;
		upcaster->to_type = cstring_to_text(es_sql_text(tuple, desc, 8));
		upcaster->id = *DatumGetUUIDP(es_sql_value(tuple, desc, 9, UUIDOID, NULL));
		defs->upcasters_hash = hash_combine64(defs->upcasters_hash, hash_bytes_extended(upcaster->id.data, UUID_LEN, 1));
	}

	count = run("SELECT event_type, schema_version::integer, check_expr, " ES_ROLE_COLUMNS ", search_path"
				" FROM event_store.event_checks WHERE check_expr IS NOT NULL");
	MemoryContextSwitchTo(defs->context);
	defs->checks = palloc0(sizeof(DefinitionRow) * (count + 1));
	for (uint64 i = 0; i < count; i++)
		read_row(&defs->checks[defs->check_count++], SPI_tuptable->vals[i], SPI_tuptable->tupdesc);

	/* Version 1 is an old one, or one of several. */
	count = run("SELECT event_type, string_agg(version::text, ', ' ORDER BY version) FROM ("
				"SELECT event_type, version, bool_or(registered) AS registered, bool_or(old) AS old FROM ("
				"SELECT event_type, schema_version::integer, true, false FROM event_store.event_checks"
				" UNION ALL SELECT event_type, from_version::integer, false, from_version = 1 FROM event_store.upcasters"
				" UNION ALL SELECT to_type, from_version::integer + 1, false, false FROM event_store.upcasters"
				") v (event_type, version, registered, old) GROUP BY 1, 2) w"
				" GROUP BY 1 HAVING bool_or(old) OR count(*) FILTER (WHERE registered) > 1");
	MemoryContextSwitchTo(defs->context);
	defs->versioned = palloc0(sizeof(VersionedType) * (count + 1));
	for (uint64 i = 0; i < count; i++)
	{
		VersionedType *type = &defs->versioned[defs->versioned_count++];

		type->name = es_sql_text(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		type->versions = es_sql_text(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 2);
	}

	es_sql_end(&sql);
}

/* Brings one of the two sets up to date. */
static EsDefinitions *
up_to_date(EsDefinitions **set, bool as_committed)
{
	MemoryContext old;
	MemoryContext context;
	EsDefinitions *defs;
	uint64		generation = es_store()->generation;
	uint64		functions = function_generation;

	if (*set != NULL && (*set)->store_generation == generation && (*set)->function_generation == functions)
		return *set;

	context = AllocSetContextCreate(CurrentMemoryContext, "event_store definitions", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	defs = palloc0(sizeof(EsDefinitions));
	defs->context = context;
	read_definitions(defs, as_committed);
	MemoryContextSwitchTo(old);
	/* What changed while we were reading is noticed by the next call. */
	defs->store_generation = generation;
	defs->function_generation = functions;
	defs->transient = IsolationUsesXactSnapshot() && !as_committed;

	if (*set != NULL)
	{
		(*set)->next_retired = retired;
		retired = *set;
	}
	MemoryContextSetParent(context, TopMemoryContext);
	*set = defs;
	return *set;
}

/* The definitions as the transaction sees them; good until its end. */
EsDefinitions *
es_definitions(void)
{
	return up_to_date(&current, false);
}

/*
 * The definitions as they are committed now, for what stays behind when a transaction in an old snapshot has ended: the
 * tables of projections.
 */
EsDefinitions *
es_definitions_latest(void)
{
	return IsolationUsesXactSnapshot() ? up_to_date(&latest, true) : es_definitions();
}

static bool
same_name(const char *name, const char *other, int len)
{
	return strlen(name) == len && memcmp(name, other, len) == 0;
}

/* What is compiled belongs to the set only when it has succeeded. A failure, which may come again, leaves nothing in it. */
static MemoryContext
begin_compiling(MemoryContext *old)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_store definition", ALLOCSET_SMALL_SIZES);

	*old = MemoryContextSwitchTo(context);
	return context;
}

static void
end_compiling(EsDefinitions *defs, MemoryContext context, MemoryContext old)
{
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(context, defs->context);
}

static EsExpr *
compile_row(EsDefinitions *defs, DefinitionRow *row, const char *what, Oid result,
			const EsVariable *variables, int count)
{
	if (row->compiled == NULL)
	{
		MemoryContext old;
		MemoryContext context = begin_compiling(&old);

		row->compiled = es_expr_compile(row->text, what, result, variables, count, row->role, row->search_path);
		end_compiling(defs, context, old);
	}
	return row->compiled;
}

int
es_upcaster_count(const EsDefinitions *defs)
{
	return defs->upcaster_count;
}

EsUpcaster *
es_upcaster(EsDefinitions *defs, int number)
{
	return &defs->upcasters[number];
}

/* The upcaster of a type at a version, NULL when there is none. */
EsUpcaster *
es_find_upcaster(EsDefinitions *defs, const char *type, int len, int32 version)
{
	for (int i = 0; i < defs->upcaster_count; i++)
		if (defs->upcasters[i].from_version == version &&
			same_name(defs->upcasters[i].event_type, type, len))
			return &defs->upcasters[i];
	return NULL;
}

const EsExpr *
es_upcaster_transform(EsDefinitions *defs, EsUpcaster *upcaster)
{
	if (upcaster->transform == NULL)
		upcaster->transform = compile_row(defs, unconstify(DefinitionRow *, upcaster->row), "transform",
										  JSONBOID, es_event_variables, EVENT_VARIABLES);
	return upcaster->transform;
}

static int
compare_ids(const void *a, const void *b)
{
	return memcmp(a, b, UUID_LEN);
}

/* A hash of all upcasters that are registered: another registration of the same has another one. */
uint64
es_upcasters_hash(const EsDefinitions *defs)
{
	return defs->upcasters_hash;
}

/*
 * A digest of those upcasters that decide which events are delivered with a filter by types, and in which shape: all whose
 * type is among the types, or is led to one of them by upcasters, versions left aside. Another registration has another id,
 * so another set has another digest. The view projection_status computes the same in SQL.
 */
void
es_upcaster_set(EsDefinitions *defs, const List *types, bool all_types, uint8 *digest)
{
	int			count = defs->upcaster_count;
	bool	   *within = palloc0(sizeof(bool) * (count + 1));
	bytea	   *ids = palloc(VARHDRSZ + UUID_LEN * count);
	int			found = 0;
	bool		more = true;

	for (int i = 0; i < count; i++)
	{
		EsUpcaster *upcaster = &defs->upcasters[i];

		within[i] = all_types || es_has_name(types, upcaster->event_type, strlen(upcaster->event_type)) ||
			es_has_name(types, VARDATA(upcaster->to_type), VARSIZE(upcaster->to_type) - VARHDRSZ);
	}
	while (more && !all_types)
	{
		more = false;
		for (int i = 0; i < count; i++)
			for (int j = 0; j < count && !within[i]; j++)
			{
				const char *next = defs->upcasters[j].event_type;

				if (within[j] && (strcmp(defs->upcasters[i].event_type, next) == 0 ||
								  same_name(next, VARDATA(defs->upcasters[i].to_type),
											VARSIZE(defs->upcasters[i].to_type) - VARHDRSZ)))
					within[i] = more = true;
			}
	}
	for (int i = 0; i < count; i++)
		if (within[i])
			memcpy(VARDATA(ids) + UUID_LEN * found++, defs->upcasters[i].id.data, UUID_LEN);
	qsort(VARDATA(ids), found, UUID_LEN, compare_ids);
	SET_VARSIZE(ids, VARHDRSZ + UUID_LEN * found);
	memcpy(digest, VARDATA_ANY(DatumGetByteaPP(DirectFunctionCall1(sha256_bytea, PointerGetDatum(ids)))), ES_DIGEST_LEN);
	pfree(ids);
	pfree(within);
}

bool
es_has_checks(const EsDefinitions *defs)
{
	return defs->check_count > 0;
}

/* The check of a type at a version, NULL when there is none. */
const EsExpr *
es_find_check(EsDefinitions *defs, const char *type, int len, int32 version)
{
	for (int i = 0; i < defs->check_count; i++)
		if (defs->checks[i].version == version && same_name(defs->checks[i].name, type, len))
			return compile_row(defs, &defs->checks[i], "check_expr", BOOLOID,
							   es_event_variables, EVENT_VARIABLES);
	return NULL;
}

bool
es_has_versioned_types(const EsDefinitions *defs)
{
	return defs->versioned_count > 0;
}

/*
 * The schema versions of a type, as text, if the version of its events must be said: an upcaster leads on from version 1, or
 * several versions are registered. NULL: who says none means 1.
 */
const char *
es_schema_versions(const EsDefinitions *defs, const char *type, int len)
{
	for (int i = 0; i < defs->versioned_count; i++)
		if (same_name(defs->versioned[i].name, type, len))
			return defs->versioned[i].versions;
	return NULL;
}

static void
hash_cstring(EsHasher *hasher, const char *string)
{
	es_hash_string(hasher, string == NULL ? "" : string, string == NULL ? 0 : strlen(string));
}

static void
hash_definition(EsHasher *hasher, const DefinitionRow *row, const EsExpr *expr)
{
	hash_cstring(hasher, row->name);
	es_hash_int64(hasher, row->version);
	hash_cstring(hasher, row->text);
	hash_cstring(hasher, row->role.name);
	hash_cstring(hasher, row->search_path);
	hash_cstring(hasher, expr == NULL ? NULL : expr->functions);
}

typedef struct CompileAttempt
{
	EsDefinitions *defs;
	EsUpcaster *upcaster;
} CompileAttempt;

static void
try_transform(void *arg)
{
	CompileAttempt *attempt = arg;

	(void) es_upcaster_transform(attempt->defs, attempt->upcaster);
}

/*
 * The digest of all upcasters: which of them a stream needs is known only when it has been read. One
 * that cannot be compiled any more, because a function of its was dropped, must not stop the loads of
 * streams without such events; the others fail where they meet one.
 */
static const uint8 *
upcaster_digest(EsDefinitions *defs, EsHasher *hasher)
{
	if (!defs->has_upcaster_digest)
	{
		for (int i = 0; i < defs->upcaster_count; i++)
		{
			CompileAttempt attempt = {defs, &defs->upcasters[i]};

			if (attempt.upcaster->transform == NULL)
				(void) es_failure_of(try_transform, &attempt, CurrentMemoryContext);
		}
		es_hash_begin(hasher);
		for (int i = 0; i < defs->upcaster_count; i++)
		{
			hash_definition(hasher, &defs->upcaster_rows[i], defs->upcasters[i].transform);
			es_hash_string(hasher, VARDATA(defs->upcasters[i].to_type),
						   VARSIZE(defs->upcasters[i].to_type) - VARHDRSZ);
		}
		es_hash_end(hasher, defs->upcaster_digest);
		defs->has_upcaster_digest = true;
	}
	return defs->upcaster_digest;
}

/* The fingerprint of a fold: all that a state depends on besides the events. A snapshot with another one is not used. */
static void
make_fingerprint(EsDefinitions *defs, const AggregateRow *row, EsAggregate *aggregate)
{
	EsHasher   *hasher = es_hasher_create();
	const uint8 *upcasters = upcaster_digest(defs, hasher);

	es_hash_begin(hasher);
	hash_definition(hasher, &row->base, aggregate->fold);
	es_hash_json(hasher, row->initial);
	if (row->rules != NULL)
		es_hash_json(hasher, row->rules);
	es_hash_string(hasher, (const char *) upcasters, ES_DIGEST_LEN);
	es_hash_end(hasher, aggregate->fingerprint);
	es_hasher_free(hasher);
}

/* The aggregate of a category; raises YE008 when none is registered. */
const EsAggregate *
es_aggregate(EsDefinitions *defs, const char *category, int len)
{
	for (int i = 0; i < defs->aggregate_count; i++)
	{
		AggregateRow *row = &defs->aggregates[i];
		EsAggregate *aggregate;
		MemoryContext old;
		MemoryContext context;

		if (!same_name(row->base.name, category, len))
			continue;
		if (row->compiled != NULL)
			return row->compiled;

		if ((row->base.text == NULL) == (row->rules == NULL) || row->snapshot_every < 1 ||
			row->keep_snapshots < 1)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("the definition of aggregate \"%s\" has been changed in its table", row->base.name),
					 errhint("Register it again.")));
		context = begin_compiling(&old);
		aggregate = palloc0(sizeof(EsAggregate));
		aggregate->category = row->base.name;
		aggregate->initial = row->initial;
		aggregate->snapshot_every = row->snapshot_every;
		aggregate->keep_snapshots = row->keep_snapshots;
		aggregate->keep_snapshots_for = row->keep_snapshots_for;
		if (row->base.text != NULL)
			aggregate->fold = compile_row(defs, &row->base, "fold", JSONBOID, es_fold_variables, FOLD_VARIABLES);
		else
			aggregate->rules = es_rules_compile(row->rules);
		make_fingerprint(defs, row, aggregate);
		end_compiling(defs, context, old);
		row->compiled = aggregate;
		return aggregate;
	}
	ereport(ERROR,
			(errcode(ES_UNKNOWN),
			 errmsg("no aggregate is registered for category \"%.*s\"", len, category),
			 errhint("Register one with es_register_aggregate.")));
}
