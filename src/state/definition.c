/*
 * state/definition.c
 *	  What users register: aggregates, upcasters, checks of event types; stored as text with the role and search_path
 *	  of the registration, cached compiled.
 *
 * A session keeps one set of definitions. A change of the tables (a registration sends a relcache invalidation, in its own
 * session too) or of any function makes the next call read them anew. The old set is freed only at the end of the
 * transaction, because a scan that is under way may still use it. A set that was read under the old snapshot of a
 * transaction is dropped when that transaction ends.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
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
#include "utils/varlena.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"

PG_FUNCTION_INFO_V1(es_register_aggregate);
PG_FUNCTION_INFO_V1(es_unregister_aggregate);
PG_FUNCTION_INFO_V1(es_register_upcaster);
PG_FUNCTION_INFO_V1(es_unregister_upcaster);
PG_FUNCTION_INFO_V1(es_register_event_type);
PG_FUNCTION_INFO_V1(es_unregister_event_type);

static const EsVariable fold_variables[FOLD_VARIABLES] = {
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

static const EsVariable event_variables[EVENT_VARIABLES] = {
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
	DefinitionRow *checks;
	int			check_count;
	bool		transient;		/* read under a transaction's old snapshot: of that transaction */
	bool		has_upcaster_digest;
	uint8		upcaster_digest[ES_DIGEST_LEN];
	EsDefinitions *next_retired;
};

static EsDefinitions *current = NULL;
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

static char *
get_string(HeapTuple tuple, TupleDesc desc, int column)
{
	return SPI_getvalue(tuple, desc, column);
}

/* The same of a column that is NOT NULL, unless the table's owner has altered it. */
static char *
get_some_string(HeapTuple tuple, TupleDesc desc, int column)
{
	char	   *value = SPI_getvalue(tuple, desc, column);

	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("a definition in schema \"%s\" has no \"%s\"", ES_SCHEMA, SPI_fname(desc, column))));
	return value;
}

static Interval *
get_interval(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, column, &isnull);

	return isnull ? NULL : DatumGetIntervalP(datumCopy(value, false, sizeof(Interval)));
}

static Jsonb *
get_json(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;
	Datum		value = SPI_getbinval(tuple, desc, column, &isnull);

	return isnull ? NULL : DatumGetJsonbPCopy(value);
}

static int32
get_int(HeapTuple tuple, TupleDesc desc, int column)
{
	bool		isnull;

	return DatumGetInt32(SPI_getbinval(tuple, desc, column, &isnull));
}

static void
read_row(DefinitionRow *row, HeapTuple tuple, TupleDesc desc)
{
	row->name = get_some_string(tuple, desc, 1);
	row->version = get_int(tuple, desc, 2);
	row->text = get_string(tuple, desc, 3);
	row->role = es_role_read(tuple, desc, 4);
	row->search_path = get_some_string(tuple, desc, 7);
}

/* Reads the tables. SPI results live in SPI's context, so everything is copied by get_*(). */
static void
read_definitions(EsDefinitions *defs)
{
	EsSql		sql;
	uint64		count;

	es_sql_begin(&sql, es_store()->owner);

	count = es_sql_run("SELECT category, 0, fold, " ES_ROLE_COLUMNS ", search_path, rules::jsonb,"
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

	count = es_sql_run("SELECT event_type, from_version::integer, transform, " ES_ROLE_COLUMNS ", search_path, to_type"
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
		upcaster->to_type = cstring_to_text(get_some_string(tuple, desc, 8));
	}

	count = es_sql_run("SELECT event_type, schema_version::integer, check_expr, " ES_ROLE_COLUMNS ", search_path"
					   " FROM event_store.event_checks WHERE check_expr IS NOT NULL");
	MemoryContextSwitchTo(defs->context);
	defs->checks = palloc0(sizeof(DefinitionRow) * (count + 1));
	for (uint64 i = 0; i < count; i++)
		read_row(&defs->checks[defs->check_count++], SPI_tuptable->vals[i], SPI_tuptable->tupdesc);

	es_sql_end(&sql);
}

/* The definitions as they are now; good until the end of the transaction. */
EsDefinitions *
es_definitions(void)
{
	MemoryContext old;
	MemoryContext context;
	EsDefinitions *defs;
	uint64		generation = es_store()->generation;
	uint64		functions = function_generation;

	if (current != NULL && current->store_generation == generation &&
		current->function_generation == functions)
		return current;

	context = AllocSetContextCreate(CurrentMemoryContext, "event_store definitions", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(context);
	defs = palloc0(sizeof(EsDefinitions));
	defs->context = context;
	read_definitions(defs);
	MemoryContextSwitchTo(old);
	/* What changed while we were reading is noticed by the next call. */
	defs->store_generation = generation;
	defs->function_generation = functions;
	defs->transient = IsolationUsesXactSnapshot();

	if (current != NULL)
	{
		current->next_retired = retired;
		retired = current;
	}
	MemoryContextSetParent(context, TopMemoryContext);
	current = defs;
	return current;
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
										  JSONBOID, event_variables, EVENT_VARIABLES);
	return upcaster->transform;
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
							   event_variables, EVENT_VARIABLES);
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
			aggregate->fold = compile_row(defs, &row->base, "fold", JSONBOID, fold_variables, FOLD_VARIABLES);
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

/* ---------------------------------------------------------------- registration */

static text *
name_argument(FunctionCallInfo fcinfo, int n, const char *argument)
{
	text	   *name = es_text_argument(fcinfo, n, argument);

	if (VARSIZE_ANY_EXHDR(name) == 0 || VARSIZE_ANY_EXHDR(name) > ES_MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument %s must have 1 to %d bytes", argument, ES_MAX_NAME),
				 errdetail("It has %d.", (int) VARSIZE_ANY_EXHDR(name))));
	return name;
}

static int32
version_argument(FunctionCallInfo fcinfo, int n, const char *argument)
{
	if (PG_ARGISNULL(n))
		es_null_argument(argument);
	if (PG_GETARG_INT32(n) < 1 || PG_GETARG_INT32(n) == PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument %s must be 1 or more", argument),
				 errdetail("It is %d.", PG_GETARG_INT32(n))));
	return PG_GETARG_INT32(n);
}

typedef struct Change
{
	const char *table;			/* that it changes */
	const char *statement;
	int			count;
	Oid			types[12];
	Datum		values[12];
	char		nulls[12];
} Change;

static void
add(Change *change, Oid type, Datum value, bool isnull)
{
	change->types[change->count] = type;
	change->values[change->count] = value;
	change->nulls[change->count++] = isnull ? 'n' : ' ';
}

static void
add_text(Change *change, const char *value)
{
	add(change, TEXTOID, value == NULL ? (Datum) 0 : CStringGetTextDatum(value), value == NULL);
}

/* Refuses an expression that cannot be compiled, or calls what the registrant may not execute. */
static void
try_expression(const char *text, const char *what, Oid result, const EsVariable *variables, int count,
			   const char *path)
{
	es_evaluation_close(es_evaluation_open(es_expr_compile(text, what, result, variables, count, es_role_current(), path)));
}

/* Who registers: its rights and its search_path are kept with the text. */
static void
add_registrant(Change *change, const char *path)
{
	EsStoredRole role = es_role_current();

	add_text(change, role.name);
	add_text(change, path);
	add(change, OIDOID, ObjectIdGetDatum(role.oid), false);
	add(change, INT8OID, Int64GetDatum(role.system), false);
}

static uint64
apply_change(Change *change)
{
	EsSql		sql;
	uint64		rows;

	es_prevent_if_read_only("changing definitions");
	es_sql_begin(&sql, es_store()->owner);
	rows = es_journal_change(sql.saved_user, NULL, change->table, change->statement, change->count, change->types,
							 change->values, change->nulls);
	es_sql_end(&sql);
	/* Tells all sessions, at commit; this one at once. */
	CacheInvalidateRelcacheByRelid(es_store()->aggregates);
	CommandCounterIncrement();
	return rows;
}

/* Refuses an age of snapshots that is negative, or so great that it lies before all times. */
static void
check_age(Interval *age)
{
	Interval	none = {0};

	if (DatumGetInt32(DirectFunctionCall2(interval_cmp, IntervalPGetDatum(age), IntervalPGetDatum(&none))) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument keep_snapshots_for must not be negative")));
	(void) DirectFunctionCall2(timestamptz_mi_interval, TimestampTzGetDatum(GetCurrentTimestamp()),
							   IntervalPGetDatum(age));
}

Datum
es_register_aggregate(PG_FUNCTION_ARGS)
{
	text	   *category = name_argument(fcinfo, 0, "category");
	char	   *fold = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	Jsonb	   *rules = PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P(2);
	char	   *path = es_registered_path();
	bool		kept = PG_NARGS() > 5;	/* the function of version 0.1.0 has no arguments about what is kept */
	Change		change = {
		"aggregates",
		"INSERT INTO event_store.aggregates (category, fold, rules, initial_state, snapshot_every, role, search_path,"
		" role_oid, role_system, keep_snapshots, keep_snapshots_for)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (category) DO UPDATE SET fold = EXCLUDED.fold,"
		" rules = EXCLUDED.rules, initial_state = EXCLUDED.initial_state,"
		" snapshot_every = EXCLUDED.snapshot_every, role = EXCLUDED.role, search_path = EXCLUDED.search_path,"
		" role_oid = EXCLUDED.role_oid, role_system = EXCLUDED.role_system,"
		" keep_snapshots = EXCLUDED.keep_snapshots, keep_snapshots_for = EXCLUDED.keep_snapshots_for"
	};

	(void) es_store_now();
	if (memchr(VARDATA_ANY(category), '-', VARSIZE_ANY_EXHDR(category)) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a category", text_to_cstring(category)),
				 errdetail("A category is the part of a stream's name before the first \"-\".")));
	if ((fold == NULL) == (rules == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("exactly one of fold and rules must be given")));
	if (PG_ARGISNULL(3))
		es_null_argument("initial_state");
	if (PG_ARGISNULL(4) || PG_GETARG_INT32(4) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument snapshot_every must be 1 or more")));
	if (kept && (PG_ARGISNULL(5) || PG_GETARG_INT32(5) < 1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument keep_snapshots must be 1 or more")));
	if (kept && !PG_ARGISNULL(6))
		check_age(PG_GETARG_INTERVAL_P(6));

	/* What cannot be compiled is refused here and now. */
	if (fold != NULL)
		try_expression(fold, "fold", JSONBOID, fold_variables, FOLD_VARIABLES, path);
	else
		(void) es_rules_compile(rules);

	add(&change, TEXTOID, PointerGetDatum(category), false);
	add_text(&change, fold);
	add(&change, JSONBOID, rules == NULL ? (Datum) 0 : JsonbPGetDatum(rules), rules == NULL);
	add(&change, JSONBOID, PG_GETARG_DATUM(3), false);
	add(&change, INT4OID, PG_GETARG_DATUM(4), false);
	add_registrant(&change, path);
	add(&change, INT4OID, kept ? PG_GETARG_DATUM(5) : Int32GetDatum(ES_KEEP_SNAPSHOTS), false);
	add(&change, INTERVALOID, kept ? PG_GETARG_DATUM(6) : (Datum) 0, !kept || PG_ARGISNULL(6));
	apply_change(&change);
	es_role_depend(GetUserId());
	PG_RETURN_VOID();
}

static void
not_registered(const char *what, const char *name)
{
	ereport(ERROR,
			(errcode(ES_UNKNOWN),
			 errmsg("no %s is registered for \"%s\"", what, name)));
}

Datum
es_unregister_aggregate(PG_FUNCTION_ARGS)
{
	text	   *category = name_argument(fcinfo, 0, "category");
	Change		change = {"aggregates", "DELETE FROM event_store.aggregates WHERE category = $1"};

	add(&change, TEXTOID, PointerGetDatum(category), false);
	if (apply_change(&change) == 0)
		not_registered("aggregate", text_to_cstring(category));
	PG_RETURN_VOID();
}

/* Called when an upcaster is registered or dropped: projections keep what upcasters have made, and become stale. */
static void (*on_upcaster_change) (text *type, text *to_type) = NULL;

void
es_on_upcaster_change(void (*callback) (text *type, text *to_type))
{
	Assert(on_upcaster_change == NULL);
	on_upcaster_change = callback;
}

/* Called before a change of an upcaster, with no to_type: what it makes of the type can still be followed; and after it. */
static void
upcaster_changed(text *type, text *to_type)
{
	if (on_upcaster_change != NULL)
		on_upcaster_change(type, to_type);
}

Datum
es_register_upcaster(PG_FUNCTION_ARGS)
{
	text	   *type = name_argument(fcinfo, 0, "event_type");
	int32		version = version_argument(fcinfo, 1, "from_version");
	text	   *to_type = PG_ARGISNULL(3) ? type : name_argument(fcinfo, 3, "to_type");
	char	   *transform;
	char	   *path = es_registered_path();
	Change		change = {
		"upcasters",
		"INSERT INTO event_store.upcasters (event_type, from_version, transform, to_type, role, search_path,"
		" role_oid, role_system) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (event_type, from_version) DO UPDATE SET"
		" transform = EXCLUDED.transform, to_type = EXCLUDED.to_type, role = EXCLUDED.role,"
		" search_path = EXCLUDED.search_path, role_oid = EXCLUDED.role_oid, role_system = EXCLUDED.role_system"
	};

	(void) es_store_now();
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument transform must not be NULL"),
				 errhint("To drop the event when it is read, let the expression return NULL: 'NULL'.")));
	transform = text_to_cstring(PG_GETARG_TEXT_PP(2));
	try_expression(transform, "transform", JSONBOID, event_variables, EVENT_VARIABLES, path);
	add(&change, TEXTOID, PointerGetDatum(type), false);
	add(&change, INT4OID, Int32GetDatum(version), false);
	add_text(&change, transform);
	add(&change, TEXTOID, PointerGetDatum(to_type), false);
	add_registrant(&change, path);
	upcaster_changed(type, NULL);
	apply_change(&change);
	es_role_depend(GetUserId());
	upcaster_changed(type, to_type);
	PG_RETURN_VOID();
}

Datum
es_unregister_upcaster(PG_FUNCTION_ARGS)
{
	text	   *type = name_argument(fcinfo, 0, "event_type");
	int32		version = version_argument(fcinfo, 1, "from_version");
	Change		change = {
		"upcasters",
		"DELETE FROM event_store.upcasters WHERE event_type = $1 AND from_version = $2"
	};

	add(&change, TEXTOID, PointerGetDatum(type), false);
	add(&change, INT4OID, Int32GetDatum(version), false);
	upcaster_changed(type, NULL);
	if (apply_change(&change) == 0)
		not_registered("upcaster", psprintf("%s version %d", text_to_cstring(type), version));
	upcaster_changed(type, type);
	PG_RETURN_VOID();
}

Datum
es_register_event_type(PG_FUNCTION_ARGS)
{
	text	   *type = name_argument(fcinfo, 0, "event_type");
	int32		version = version_argument(fcinfo, 1, "schema_version");
	char	   *check = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	char	   *path = es_registered_path();
	Change		change = {
		"event_checks",
		"INSERT INTO event_store.event_checks (event_type, schema_version, check_expr, role, search_path,"
		" role_oid, role_system) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (event_type, schema_version) DO UPDATE SET"
		" check_expr = EXCLUDED.check_expr, role = EXCLUDED.role, search_path = EXCLUDED.search_path,"
		" role_oid = EXCLUDED.role_oid, role_system = EXCLUDED.role_system"
	};

	(void) es_store_now();
	if (check != NULL)
		try_expression(check, "check_expr", BOOLOID, event_variables, EVENT_VARIABLES, path);
	add(&change, TEXTOID, PointerGetDatum(type), false);
	add(&change, INT4OID, Int32GetDatum(version), false);
	add_text(&change, check);
	add_registrant(&change, path);
	apply_change(&change);
	es_role_depend(GetUserId());
	PG_RETURN_VOID();
}

Datum
es_unregister_event_type(PG_FUNCTION_ARGS)
{
	text	   *type = name_argument(fcinfo, 0, "event_type");
	int32		version = version_argument(fcinfo, 1, "schema_version");
	Change		change = {
		"event_checks",
		"DELETE FROM event_store.event_checks WHERE event_type = $1 AND schema_version = $2"
	};

	add(&change, TEXTOID, PointerGetDatum(type), false);
	add(&change, INT4OID, Int32GetDatum(version), false);
	if (apply_change(&change) == 0)
		not_registered("check", psprintf("%s version %d", text_to_cstring(type), version));
	PG_RETURN_VOID();
}
