/*
 * store/rights.c
 *	  Rights of applications.
 *
 * A right is EXECUTE on a group of functions, and SELECT on the views for read, INSERT on the import
 * table for import. What was given is kept in event_store.grants, because dropping the extension
 * takes the functions' privileges with it; es_create_store() gives them again.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/base.h"
#include "store/store.h"

PG_FUNCTION_INFO_V1(es_grant);
PG_FUNCTION_INFO_V1(es_revoke);

typedef struct Right
{
	const char *name;
	const char *functions;		/* names, every overload of them; NULL for none */
	const char *relations;		/* with the privilege to give, NULL for none */
} Right;

#define VIEWS_TO_WATCH \
	"event_store.status, event_store.streams, event_store.partitions, event_store.mark, event_store.epochs, " \
	"event_store.grants, " \
	"event_store.projection_status, event_store.rebuild_progress, event_store.subscription_status, event_store.quarantine"

/* docs/reference.md has a table of them, by function; t/096_rights.pl compares it with what is here. */
static const Right rights[] = {
	{"append",
		"'es_append', 'es_append_multi', 'es_append_batch', 'es_expect_any', 'es_expect_none', 'es_expect_exists', "
		"'es_try_append', 'es_try_append_multi', "
		"'es_append_text', 'es_append_multi_text', 'es_append_batch_text', "
		"'es_find_append', 'es_stream_version', 'es_lock_stream', 'es_lock_streams', 'es_load_for_update', "
		"'es_put_snapshot', 'es_get_snapshot'",
	NULL},
	{"read",
		"'es_read', 'es_read_category', 'es_read_all', 'es_list_streams', 'es_stream_version', 'es_position_at', 'es_trace', "
		"'es_high_water_mark', 'es_find_append', 'es_load', 'es_load_version', 'es_load_at', 'es_load_valid_at', "
		"'es_load_category', 'es_history', 'es_get_snapshot', 'es_replayed_events', 'es_wait_for_projection', "
		"'es_verify_stream', 'es_verify_log', 'es_log_root', 'es_epoch', 'es_check_cursor'",
	"SELECT ON event_store.events, event_store.feed, event_store.streams, event_store.mark, event_store.epochs"},
	{"consume",
		"'es_fetch', 'es_ack', 'es_nack', 'es_high_water_mark'",
	NULL},
	{"import",
		"'es_stream_version'",
	"INSERT ON event_store.import"},
	{"define",
		"'es_register_aggregate', 'es_unregister_aggregate', 'es_register_event_type', 'es_unregister_event_type', "
		"'es_register_upcaster', 'es_unregister_upcaster', 'es_test_upcasters', "
		"'es_create_projection', 'es_drop_projection', 'es_set_projection_mode', "
		"'es_create_subscription', 'es_rename_subscription', 'es_drop_subscription'",
	NULL},
	{"operate",
		"'es_publish_mark', 'es_high_water_mark', 'es_position_at', 'es_snapshot', 'es_drop_snapshots', "
		"'es_pause', 'es_resume', 'es_rebuild_projection', 'es_cancel_rebuild', "
		"'es_run_projection', 'es_wait_for_projection', 'es_retry_quarantined', 'es_skip_quarantined', "
		"'es_start_worker', 'es_stop_worker', 'es_workers', 'es_check', "
		"'es_seal_log', 'es_verify_stream', 'es_verify_log', 'es_log_root', 'es_epoch'",
	"SELECT ON " VIEWS_TO_WATCH ", event_store.journal"},
	/* What an erasure and personal fields will need: nothing yet. */
	{"erase", NULL, NULL},
	{"read_personal", NULL, NULL},
	{"monitor",
		"'es_workers', 'es_high_water_mark', 'es_epoch'",
	"SELECT ON " VIEWS_TO_WATCH},
};

/*
 * Held to the end of the transaction by whoever changes rights, or makes what depends on the library: core fails with
 * "tuple concurrently updated" when two do so at once. Two es_create_store() that begin together are common, where each
 * server of an application calls it when it starts.
 */
void
es_rights_lock(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, ES_LOCK_RIGHTS);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	/* What the one before us did. */
	AcceptInvalidationMessages();
}

static const Right *
find_right(const char *name)
{
	for (int i = 0; i < lengthof(rights); i++)
		if (strcmp(rights[i].name, name) == 0)
			return &rights[i];
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized right \"%s\"", name),
			 errhint("Rights are append, read, consume, import, define, operate, erase, read_personal and monitor.")));
}

/*
 * Runs a statement on event_store.grants as the store's owner: what the owner may have attached to the table must not run
 * with the caller's rights. $1: the role's name, $2: the right, $3 and $4: the OID of the role, and of which server.
 */
static uint64
on_grants(const char *statement, const char *role, Oid oid, const char *right)
{
	Oid			types[4] = {TEXTOID, TEXTOID, OIDOID, INT8OID};
	Datum		values[4];
	EsSql		sql;
	uint64		rows;

	values[0] = CStringGetTextDatum(role);
	values[1] = CStringGetTextDatum(right);
	values[2] = ObjectIdGetDatum(oid);
	values[3] = Int64GetDatum(es_system_identifier());
	es_sql_begin(&sql, es_store()->owner);
	rows = es_sql_write_args("grants", statement, 4, types, values, NULL);
	es_sql_end(&sql);
	return rows;
}

static bool
has_right(const char *role, const char *right)
{
	return on_grants("SELECT FROM event_store.grants WHERE role_oid = $3 AND role_system = $4 AND \"right\" = $2", role, get_role_oid(role, false), right) > 0;
}

/* A role that has another right too must keep what both give. */
static bool
function_still_needed(const char *role, const char *right, const char *function)
{
	char	   *quoted = psprintf("'%s'", function);
	bool		needed = false;

	for (int i = 0; i < lengthof(rights) && !needed; i++)
		needed = strcmp(rights[i].name, right) != 0 &&
			rights[i].functions != NULL && strstr(rights[i].functions, quoted) != NULL && has_right(role, rights[i].name);
	pfree(quoted);
	return needed;
}

/* The fourth column of apply()'s query. */
static bool
may_give(HeapTuple function, TupleDesc desc)
{
	bool		isnull;

	return DatumGetBool(SPI_getbinval(function, desc, 4, &isnull));
}

/*
 * GRANTs or REVOKEs what a right is made of: as the caller; or as another role, who can perhaps not give all of it. What that one
 * cannot give, and the role has not got, is warned of.
 */
static void
apply(const Right *right, const char *role, bool give, Oid as)
{
	const char *verb = give ? "GRANT" : "REVOKE";
	const char *to = give ? "TO" : "FROM";
	const char *who = quote_identifier(role);
	char	   *code = pstrdup(quote_identifier(get_namespace_name(es_extension_schema())));
	char	   *query = psprintf("SELECT p.proname, p.oid::regprocedure::text AS signature, p.oid,"
								 " has_function_privilege(p.oid, 'EXECUTE WITH GRANT OPTION') FROM pg_proc p"
								 " WHERE p.pronamespace = %u AND p.proname IN (%s)"
								 " AND EXISTS (SELECT FROM pg_depend d JOIN pg_extension x ON x.oid = d.refobjid"
								 "  WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid"
								 "  AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'"
								 "  AND x.extname = 'event_store') ORDER BY 2",
								 es_extension_schema(), right->functions == NULL ? "NULL" : right->functions);
	EsSql		sql;
	uint64		count;
	SPITupleTable *functions;

	es_sql_begin(&sql, as);
	count = es_sql_run(query);
	functions = SPI_tuptable;
	for (uint64 i = 0; i < count; i++)
	{
		char	   *name = SPI_getvalue(functions->vals[i], functions->tupdesc, 1);
		char	   *signature = SPI_getvalue(functions->vals[i], functions->tupdesc, 2);

		if (give ? !OidIsValid(as) || may_give(functions->vals[i], functions->tupdesc) :
			!function_still_needed(role, right->name, name))
			es_sql_runf("%s EXECUTE ON FUNCTION %s %s %s", verb, signature, to, who);
	}
	/* GRANT by somebody who may not give only warns: that would look like success. */
	if (give && es_sql_run(psprintf("SELECT FROM (%s) f WHERE NOT has_function_privilege(%s, f.oid, 'EXECUTE')",
									query, quote_literal_cstr(role))) > 0)
		ereport(OidIsValid(as) ? WARNING : ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 OidIsValid(as) ? errmsg("could not give right \"%s\" to role \"%s\" again", right->name, role) :
				 errmsg("could not grant EXECUTE on the extension's functions"),
				 errdetail("They belong to the owner of the extension."),
				 OidIsValid(as) ? errhint("As that role: SELECT es_grant(%s, %s).", quote_literal_cstr(role),
										  quote_literal_cstr(right->name)) : 0));
	if (give && (!OidIsValid(as) || es_sql_run(psprintf("SELECT WHERE has_schema_privilege(%u, 'USAGE WITH GRANT OPTION')",
																	  es_extension_schema())) > 0))
		es_sql_runf("GRANT USAGE ON SCHEMA %s TO %s", code, who);
	if (right->relations != NULL)
	{
		es_sql_runf("%s %s %s %s", verb, right->relations, to, who);
		if (give)
			es_sql_runf("GRANT USAGE ON SCHEMA event_store TO %s", who);
	}
	es_sql_end(&sql);
}

/* What another right gives was taken away with this one where they overlap: give it once more. */
static void
reapply_others(const char *role, const char *right)
{
	bool		any = false;

	for (int i = 0; i < lengthof(rights); i++)
		if (strcmp(rights[i].name, right) != 0 && has_right(role, rights[i].name))
		{
			apply(&rights[i], role, true, InvalidOid);
			any = true;
		}
	if (!any && !es_role_has_registered(get_role_oid(role, false)))
	{
		EsSql		sql;

		es_sql_begin(&sql, InvalidOid);
		es_sql_runf("REVOKE USAGE ON SCHEMA event_store FROM %s", quote_identifier(role));
		es_sql_end(&sql);
	}
}

/* Raises 42501 unless the caller is the store's owner, or acts with its rights. */
void
es_check_store_owner(void)
{
	Oid			owner = es_store()->owner;

	if (!has_privs_of_role(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of the event store"),
				 errdetail("Its owner is \"%s\".", GetUserNameFromId(owner, false))));
}

/* Whether the caller may execute a function of the extension: whether he has the right that it belongs to. */
static bool
may_execute(const char *function)
{
	CatCList   *named = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(function));
	Oid			schema = es_extension_schema();
	bool		may = false;

	for (int i = 0; i < named->n_members; i++)
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(&named->members[i]->tuple);

		if (proc->pronamespace == schema &&
			DatumGetBool(DirectFunctionCall2(has_function_privilege_id, ObjectIdGetDatum(proc->oid),
											 CStringGetTextDatum("EXECUTE"))))
			may = true;
	}
	ReleaseCatCacheList(named);
	return may;
}

/*
 * Raises 42501 unless the caller may define projections. For functions that belong to another right and give a
 * definition on the way.
 */
void
es_check_may_define(const char *function)
{
	if (!may_execute("es_create_projection"))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to give a new definition"),
				 errdetail("With it, %s needs the right define.", function)));
}

/* Raises 42501 unless the caller may load states. For functions of the right append that return one. */
void
es_check_may_load(const char *function)
{
	if (!may_execute("es_load"))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to load a state"),
				 errdetail("%s needs the rights append and read.", function)));
}

/* Takes a right from a role that is gone, or is another server's: only its row is left. False: there is none. */
static bool
forget_right(const char *role, const char *right)
{
	return on_grants("DELETE FROM event_store.grants g WHERE g.role = $1 AND g.\"right\" = $2"
					 " AND (g.role_system <> $4 OR NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = g.role_oid))",
					 role, InvalidOid, right) > 0;
}

static void
change_right(FunctionCallInfo fcinfo, bool give)
{
	char	   *role = text_to_cstring(PG_GETARG_TEXT_PP(0));
	const Right *right = find_right(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	Oid			oid = get_role_oid(role, true);

	es_check_store_owner();
	es_prevent_if_read_only(give ? "es_grant()" : "es_revoke()");
	es_rights_lock();
	if (!OidIsValid(oid) && (give || !forget_right(role, right->name)))
		(void) get_role_oid(role, false);
	if (!OidIsValid(oid))
		return;
	if (give)
	{
		apply(right, role, true, InvalidOid);
		if (on_grants("INSERT INTO event_store.grants (role, \"right\", role_oid, role_system) SELECT $1, $2, $3, $4"
					  " WHERE NOT EXISTS (SELECT FROM event_store.grants WHERE \"right\" = $2 AND role_oid = $3"
					  " AND role_system = $4)", role, oid, right->name) > 0)
			es_journal_note("es_grant", "role", role, "right", right->name);
	}
	else
	{
		if (on_grants("DELETE FROM event_store.grants WHERE \"right\" = $2 AND (role_oid = $3 AND role_system = $4"
					  " OR role = $1 AND role_system <> $4)", role, oid, right->name) > 0)
			es_journal_note("es_revoke", "role", role, "right", right->name);
		CommandCounterIncrement();
		apply(right, role, false, InvalidOid);
		reapply_others(role, right->name);
	}
}

Datum
es_grant(PG_FUNCTION_ARGS)
{
	change_right(fcinfo, true);
	PG_RETURN_VOID();
}

Datum
es_revoke(PG_FUNCTION_ARGS)
{
	change_right(fcinfo, false);
	PG_RETURN_VOID();
}

/*
 * Gives every right on record again, with the rights of the store's owner, who can write to the table; roles that are gone
 * are left out. After es_roles_restore().
 */
void
es_grants_restore(void)
{
	EsSql		sql;
	uint64		count;
	SPITupleTable *grants;

	es_sql_begin(&sql, es_store()->owner);
	count = es_sql_run(psprintf("SELECT r.rolname, g.\"right\" FROM event_store.grants g"
								" JOIN pg_roles r ON r.oid = g.role_oid WHERE g.role_system = %lld"
								" AND g.\"right\" IS NOT NULL ORDER BY 1, 2", (long long) es_system_identifier()));
	grants = SPI_tuptable;
	for (uint64 i = 0; i < count; i++)
		apply(find_right(es_sql_text(grants->vals[i], grants->tupdesc, 2)),
			  es_sql_text(grants->vals[i], grants->tupdesc, 1), true, es_store()->owner);
	es_sql_end(&sql);
}
