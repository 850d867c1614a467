/*
 * base/run_as.c
 *	  Whose rights and which settings stored text runs with.
 *
 * Folds, upcasters, checks and handlers run as the role that registered them, in a security restricted operation, and
 * only while the store's owner could SET ROLE to that role: otherwise a name written into a table row would be a
 * way to that name's rights. Settings that change what stable functions return are pinned. Temporary objects of the
 * session are refused (base/temporary.c).
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_namespace.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "parser/parse_expr.h"
#include "parser/parser.h"
#include "tsearch/ts_cache.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/datetime.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/rls.h"
#include "utils/syscache.h"
#include "utils/varlena.h"
#include "utils/xml.h"

#include "base/base.h"

/* ---------------------------------------------------------------- whose rights */

/*
 * Warns of a schema in which everybody may create. The text is looked up again in each session, so a function there that
 * fits better than the one meant would be taken, and run with the registrant's rights.
 */
static void
warn_of_open_schema(const char *name)
{
	Oid			schema;
	HeapTuple	tuple;
	Datum		acl;
	bool		isnull;
	bool		open = false;

	schema = get_namespace_oid(name, true);
	tuple = OidIsValid(schema) ? SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(schema)) : NULL;
	if (!HeapTupleIsValid(tuple))
		return;
	acl = SysCacheGetAttr(NAMESPACEOID, tuple, Anum_pg_namespace_nspacl, &isnull);
	if (!isnull)
		open = aclmask(DatumGetAclP(acl), ACL_ID_PUBLIC, ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner, ACL_CREATE,
					   ACLMASK_ANY) != 0;
	ReleaseSysCache(tuple);
	if (open)
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("every role may create objects in schema \"%s\", which is in the search_path", name),
				 errdetail("A function or operator that somebody makes there could be taken for one that this text means, and would run with the rights of role \"%s\".",
						   GetUserNameFromId(GetUserId(), false)),
				 errhint("REVOKE CREATE ON SCHEMA %s FROM PUBLIC, or set a search_path without it and register again.",
						 quote_identifier(name))));
}

/*
 * The search_path to keep with stored text: the registrant's, with pg_temp last. Where it is not named
 * it would be first, before pg_catalog, and a session that only loads could put its own temporary types
 * and tables in the place of those that the text means. Of "$user" stays the schema that it stands for, if there is one.
 */
char *
es_registered_path(void)
{
	List	   *names;
	ListCell   *lc;
	StringInfoData path;

	if (!SplitIdentifierString(pstrdup(namespace_search_path), ',', &names))
		elog(ERROR, "invalid search_path");
	initStringInfo(&path);
	foreach(lc, names)
	{
		const char *name = lfirst(lc);

		if (strcmp(name, "pg_temp") == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("search_path must not have pg_temp in it when an expression is registered"),
					 errdetail("It is %s.", namespace_search_path)));
		/* The name that the role has now: another one later would have the text mean something else. */
		if (strcmp(name, "$user") == 0)
		{
			name = GetUserNameFromId(GetUserId(), false);
			if (!OidIsValid(get_namespace_oid(name, true)))
				continue;
		}
		warn_of_open_schema(name);
		appendStringInfo(&path, "%s, ", quote_identifier(name));
	}
	appendStringInfoString(&path, "pg_temp");
	return path.data;
}

/* ---------------------------------------------------------------- rights and settings of a run */

/* What a stable function may look at; and what the parser does. */
static const struct
{
	const char *name;
	const char *value;
}			pinned[] = {
	{"TimeZone", "UTC"},
	{"DateStyle", "ISO, MDY"},
	{"IntervalStyle", "postgres"},
	{"extra_float_digits", "1"},
	{"bytea_output", "hex"},
	{"xmlbinary", "base64"},
	{"xmloption", "content"},
	{"lc_monetary", "C"},
	{"lc_numeric", "C"},
	{"lc_time", "C"},
	{"default_text_search_config", "pg_catalog.simple"},
	{"standard_conforming_strings", "on"},
	{"transform_null_equals", "off"},
	{"array_nulls", "on"},
	{"quote_all_identifiers", "off"},
};

/*
 * More of them, which are dearer to look at, and so only where a level is opened for many runs. Those of PL/pgSQL are
 * unknown until it is loaded, unless somebody has set them before.
 */
static const struct
{
	const char *name;
	const char *value;
}			pinned_outside[] = {
	{"timezone_abbreviations", "Default"},
	{"gin_fuzzy_search_limit", "0"},
	{"plpgsql.check_asserts", "on"},
	{"plpgsql.extra_errors", "none"},
};

static void
pin_outside(void)
{
	for (int i = 0; i < lengthof(pinned_outside); i++)
	{
		const char *value = GetConfigOption(pinned_outside[i].name, true, false);

		if (value != NULL && strcmp(value, pinned_outside[i].value) != 0)
			es_pin_setting(pinned_outside[i].name, pinned_outside[i].value);
	}
}

static bool
is_pinned(void)
{
	return strcmp(pg_get_timezone_name(session_timezone), "UTC") == 0 &&
		DateStyle == USE_ISO_DATES && DateOrder == DATEORDER_MDY &&
		IntervalStyle == INTSTYLE_POSTGRES && extra_float_digits == 1 &&
		bytea_output == BYTEA_OUTPUT_HEX && xmlbinary == XMLBINARY_BASE64 && xmloption == XMLOPTION_CONTENT &&
		strcmp(locale_monetary, "C") == 0 && strcmp(locale_numeric, "C") == 0 &&
		strcmp(locale_time, "C") == 0 && strcmp(TSCurrentConfig, "pg_catalog.simple") == 0 &&
		ES_STANDARD_CONFORMING_STRINGS && !Transform_null_equals && Array_nulls && !quote_all_identifiers;
}

/* The same as es_settings_open() within a level that this has opened. */
static int
open_inside(const char *search_path)
{
	int			level = NewGUCNestLevel();

	if (!is_pinned())
		for (int i = 0; i < lengthof(pinned); i++)
			es_pin_setting(pinned[i].name, pinned[i].value);
	if (search_path != NULL && strcmp(namespace_search_path, search_path) != 0)
		es_pin_setting("search_path", search_path);
	/*
	 * Row-level security that applies to the role raises an error: a state or a batch must not be made of some of the rows
	 * that are meant, by a policy that may even look at the settings of whoever asks.
	 */
	if (search_path != NULL && row_security)
		es_pin_setting("row_security", "off");
	return level;
}

/*
 * Opens a level of settings, to be closed with es_settings_close(): everything that stored text's
 * answer may depend on is pinned, and what it changes itself is undone. Nested levels find the
 * settings as they should be and cost next to nothing; so a load opens one around its loop. A
 * search_path of NULL is left as it is: nothing looks up names, and no code of users runs.
 */
int
es_settings_open(const char *search_path)
{
	int			level = open_inside(search_path);

	pin_outside();
	return level;
}

/* Level 0 is one that was not opened. */
void
es_settings_close(int level)
{
	if (level != 0)
		AtEOXact_GUC(false, level);
}

/* ---------------------------------------------------------------- background workers */

static bool in_worker = false;

/*
 * Tells that this process is a background worker of ours, which has connected as the bootstrap superuser. What is pinned
 * for stored text becomes the reset value of its settings: RESET in a handler changes nothing, and nothing has to be pinned
 * for each run.
 */
void
es_run_as_in_worker(void)
{
	in_worker = true;
	for (int i = 0; i < lengthof(pinned); i++)
		SetConfigOption(pinned[i].name, pinned[i].value, PGC_SUSET, PGC_S_OVERRIDE);
	for (int i = 0; i < lengthof(pinned_outside); i++)
		SetConfigOption(pinned_outside[i].name, pinned_outside[i].value, PGC_SUSET, PGC_S_OVERRIDE);
	/* As es_sql_begin() has it. Where tables are made is left to the database: a handler's function may make partitions. */
	SetConfigOption("search_path", ES_OWN_SEARCH_PATH, PGC_SUSET, PGC_S_OVERRIDE);
	/* As es_settings_open() has it where tables may be read. */
	SetConfigOption("row_security", "off", PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * In a worker the session user is nobody who has asked for anything, but a superuser. Functions that look at session_user
 * must not answer a role's text as they would answer that one. So the role becomes the session user too, by SET LOCAL: core
 * puts it back at the end of the transaction, or of the subtransaction that fails, before anything else runs, and hands
 * it to parallel workers. Until then it stays, and mostly the next one to switch to is the same.
 */
static void
switch_session(Oid role)
{
	static bool named = false;

	if (!named)
	{
		/* Whoever connects without a name has none to go back to. This is not undone by a rollback. */
		SetConfigOption("session_authorization", GetUserNameFromId(BOOTSTRAP_SUPERUSERID, false), PGC_SUSET,
						PGC_S_OVERRIDE);
		named = true;
	}
	(void) set_config_option("session_authorization", GetUserNameFromId(role, false), PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

/*
 * Takes on a role, the one way in this library: in a security restricted operation, and without the temporary objects of
 * the session. The caller puts back what was saved; after an error the abort of the (sub)transaction does.
 */
void
es_switch_role(Oid role, int bits, Oid *saved_user, int *saved_context)
{
	GetUserIdAndSecContext(saved_user, saved_context);
	/* Within another role's text the session user stays. */
	if (in_worker && *saved_context == 0 && GetSessionUserId() != role)
		switch_session(role);
	SetUserIdAndSecContext(role, *saved_context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION |
						   ES_NO_TEMPORARY | bits);
}

/* Whether we have been called from a fold, an upcaster, a check or a handler that may not append. */
bool
es_in_stored_text(void)
{
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	return (context & ES_MAY_NOT_APPEND) != 0;
}

/*
 * Refuses a function that changes, runs or waits for projections where stored text has called it, also that of a
 * projection with side effects: a batch that is under way keeps what it knows of its checkpoint in memory.
 */
void
es_refuse_in_stored_text(const char *function)
{
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	if ((context & ES_RUNNING_STORED_TEXT) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s must not be called from a handler", function)));
}

/*
 * Takes on a role and its settings; what happens until es_run_as_end() happens with that role's rights. After an
 * error the abort of the (sub)transaction restores everything. A search_path of NULL: no function of users is called.
 */
void
es_run_as_begin(EsRunAs *run_as, Oid role, const char *search_path, int flags)
{
	if (search_path != NULL && (flags & ES_RUN_PARSES) == 0)
		es_refuse_temporary_types(role);
	run_as->saved_write = es_sql_write_off();
	es_switch_role(role, ES_RUNNING_STORED_TEXT | ((flags & ES_RUN_APPENDS) != 0 ? 0 : ES_MAY_NOT_APPEND),
				   &run_as->saved_user, &run_as->saved_context);
	/* Core's own functions change no settings: without others there is nothing to undo. */
	if ((flags & ES_RUN_INSIDE) == 0)
		run_as->guc_level = es_settings_open(search_path);
	else
		run_as->guc_level = search_path == NULL && is_pinned() ? 0 : open_inside(search_path);
}

void
es_run_as_end(EsRunAs *run_as)
{
	es_settings_close(run_as->guc_level);
	SetUserIdAndSecContext(run_as->saved_user, run_as->saved_context);
	es_sql_write_on(run_as->saved_write);
}
