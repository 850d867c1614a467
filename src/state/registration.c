/*
 * state/registration.c
 *	  Registering aggregates, upcasters and checks of event types. What cannot be compiled is refused when it is registered.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"
#include "state/state.h"
#include "state/definition.h"

PG_FUNCTION_INFO_V1(es_register_aggregate);
PG_FUNCTION_INFO_V1(es_unregister_aggregate);
PG_FUNCTION_INFO_V1(es_register_upcaster);
PG_FUNCTION_INFO_V1(es_unregister_upcaster);
PG_FUNCTION_INFO_V1(es_register_event_type);
PG_FUNCTION_INFO_V1(es_unregister_event_type);

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
		try_expression(fold, "fold", JSONBOID, es_fold_variables, FOLD_VARIABLES, path);
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

/* Called when an upcaster is registered or dropped: projections keep what upcasters have made. */
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
		" id = EXCLUDED.id, transform = EXCLUDED.transform, to_type = EXCLUDED.to_type, role = EXCLUDED.role,"
		" search_path = EXCLUDED.search_path, role_oid = EXCLUDED.role_oid, role_system = EXCLUDED.role_system"
	};

	(void) es_store_now();
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument transform must not be NULL"),
				 errhint("To drop the event when it is read, let the expression return NULL: 'NULL'.")));
	transform = text_to_cstring(PG_GETARG_TEXT_PP(2));
	try_expression(transform, "transform", JSONBOID, es_event_variables, EVENT_VARIABLES, path);
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
		try_expression(check, "check_expr", BOOLOID, es_event_variables, EVENT_VARIABLES, path);
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
