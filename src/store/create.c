/*
 * store/create.c
 *	  Making the store: schema event_store and what is in it.
 *
 * None of it is a member of the extension: DROP EXTENSION never takes an event with it and pg_dump
 * sees ordinary tables. What depends on the library (the immutability triggers, the import table) is
 * put back by the next es_create_store().
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"

PG_FUNCTION_INFO_V1(es_create_store);
PG_FUNCTION_INFO_V1(es_upgrade_store);

static const EsStoreHooks *hooks = NULL;

void
es_store_set_hooks(const EsStoreHooks *its)
{
	hooks = its;
}

/* What must be there for a store to be whole: the tables, sequences and views that these scripts make. */
enum
{
	TABLES, SEQUENCES, VIEWS
};
static const char *const whole[] = {
	[TABLES] = "store/tables",[SEQUENCES] = "store/sequences",[VIEWS] = "store/views"
};

/* What they are told of the store. */
static List *
parse_whole(int script, int node)
{
	EsScriptValue values[] = {
		es_script_integer("first_position", ES_NODE_START(node) + 1),
		es_script_integer("last_position", ES_NODE_END(node) - 1),
		es_script_integer("process_lock", ES_LOCK_PROCESS),
	};

	return es_script_parse(whole[script], values, lengthof(values));
}

/* Refuses a schema event_store in which somebody else keeps something. */
static void
check_foreign_schema(void)
{
	char	   *strangers;

	es_script_run("store/strangers", NULL, 0);
	strangers = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	if (strangers != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_SCHEMA),
				 errmsg("schema \"%s\" holds objects that are not an event store", ES_SCHEMA),
				 errdetail("It has %s.", strangers),
				 errhint("Rename the schema, or drop what is in it.")));
}

/*
 * Refuses to make a store in somebody else's schema: its owner could drop the tables, or put others
 * of the same names there.
 */
static void
check_schema_owner(Oid expected)
{
	Oid			nsp = get_namespace_oid(ES_SCHEMA, true);
	HeapTuple	tuple;
	Oid			owner;

	if (!OidIsValid(nsp))
		return;
	tuple = SearchSysCache1(NAMESPACEOID, ObjectIdGetDatum(nsp));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for schema %u", nsp);
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	if (owner != expected)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("schema \"%s\" belongs to another role", ES_SCHEMA),
				 errdetail("Its owner is \"%s\".", GetUserNameFromId(owner, true)),
				 errhint("Drop or rename the schema, or act as its owner.")));
}

/* A relation that a statement makes, and what it is called; NULL for other statements. */
static const RangeVar *
relation_made(const Node *tree, const char **kind)
{
	switch (nodeTag(tree))
	{
		case T_CreateStmt:
			*kind = "table";
			return ((const CreateStmt *) tree)->relation;
		case T_CreateSeqStmt:
			*kind = "sequence";
			return ((const CreateSeqStmt *) tree)->sequence;
		case T_ViewStmt:
			*kind = "view";
			return ((const ViewStmt *) tree)->view;
		default:
			return NULL;
	}
}

/* The names of the tables that a store has, without the partitions of the log, as an array in text form. */
char *
es_store_table_names(void)
{
	StringInfoData names;
	ListCell   *lc;

	initStringInfo(&names);
	foreach(lc, parse_whole(TABLES, 0))
	{
		const Node *tree = ((EsScriptStatement *) lfirst(lc))->tree;

		if (IsA(tree, CreateStmt))
			appendStringInfo(&names, "%s%s", names.len == 0 ? "{" : ",", ((const CreateStmt *) tree)->relation->relname);
	}
	appendStringInfoChar(&names, '}');
	return names.data;
}

/* Refuses a store of which something is missing. */
void
es_check_whole(void)
{
	Oid			nsp = get_namespace_oid(ES_SCHEMA, false);
	for (int i = 0; i < lengthof(whole); i++)
	{
		ListCell   *lc;

		/* Which node it is makes no difference to what there is. */
		foreach(lc, parse_whole(i, 0))
		{
			const char *kind;
			const RangeVar *relation = relation_made(((EsScriptStatement *) lfirst(lc))->tree, &kind);
			Oid			relid;

			if (relation == NULL)
				continue;
			relid = get_relname_relid(relation->relname, nsp);
			if (!OidIsValid(relid))
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("the event store is incomplete: %s \"%s.%s\" does not exist",
								kind, ES_SCHEMA, relation->relname),
						 errhint("Restore it from a backup; or, if there are no events to keep, drop the schema and run SELECT es_create_store().")));
			es_store_check_relation_owner(relid, relation->relname);
		}
	}
}

/*
 * Whom the argument owner names: a role that the caller may act as. Where there is none it is made, as the caller, so that
 * nobody can log in as it. InvalidOid where the argument is left out.
 */
static Oid
owner_argument(FunctionCallInfo fcinfo, int n)
{
	const char *name;
	Oid			owner;

	/* Version 0.1 of the extension does not have it. */
	if (PG_NARGS() <= n || PG_ARGISNULL(n))
		return InvalidOid;
	name = text_to_cstring(PG_GETARG_TEXT_PP(n));
	owner = get_role_oid(name, true);
	if (!OidIsValid(owner))
	{
		EsScriptValue value = es_script_identifier("owner", name);
		EsSql		sql;

		es_sql_begin(&sql, InvalidOid);
		es_script_run("store/owner_role", &value, 1);
		es_sql_end(&sql);
		CommandCounterIncrement();
		owner = get_role_oid(name, false);
		ereport(NOTICE, (errmsg("role \"%s\" has been created, as the owner of the event store", name)));
	}
	if (!es_member_can_set_role(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be able to SET ROLE \"%s\"", name)));
	return owner;
}

/*
 * Refuses to take somebody else's store for the caller's because it has the right name: whoever may create schemas in the
 * database could have made one before. It is known by its import table, which only a role can make that was given the
 * extension's server; or the caller says whose it is.
 */
static void
check_adopted(Oid owner)
{
	Oid			import = get_relname_relid("import", get_namespace_oid(ES_SCHEMA, false));

	if (GetUserId() == owner)
		return;
	if (OidIsValid(import) && get_rel_relkind(import) == RELKIND_FOREIGN_TABLE &&
		strcmp(GetForeignServer(GetForeignTable(import)->serverid)->servername, "event_store_import") == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("schema \"%s\" belongs to another role", ES_SCHEMA),
			 errdetail("Its owner is \"%s\", and the extension has not made it.", GetUserNameFromId(owner, false)),
			 errhint("If that role is to own the event store: SELECT es_create_store(owner => %s). Else drop or rename the schema.",
					 quote_literal_cstr(GetUserNameFromId(owner, false)))));
}

/* As the caller: the schema, and what else the owner of the store needs to make what is in it. */
static void
make_schema(Oid owner, bool has_schema)
{
	EsScriptValue values[] = {
		es_script_identifier("owner", GetUserNameFromId(owner, false)),
		es_script_identifier("code", get_namespace_name(es_extension_schema())),
		es_script_identifier("database", get_database_name(MyDatabaseId)),
	};
	EsSql		sql;

	es_sql_begin(&sql, InvalidOid);
	if (!has_schema)
		es_script_run("store/schema", values, lengthof(values));
	/* Only rebuilds need this one, so whoever cannot give it makes the store all the same. */
	if (es_sql_runf("SELECT WHERE NOT has_database_privilege(%u, %u, 'CREATE')"
					" AND has_database_privilege(%u, 'CREATE WITH GRANT OPTION')", owner, MyDatabaseId, MyDatabaseId) > 0)
		es_script_run("store/owner_database", values, lengthof(values));
	if (es_sql_runf("SELECT WHERE NOT has_server_privilege(%u, 'event_store_import', 'USAGE')", owner) > 0)
		es_script_run("store/owner_server", values, lengthof(values));
	if (es_sql_runf("SELECT WHERE NOT has_schema_privilege(%u, %u, 'USAGE')", owner, es_extension_schema()) > 0)
		es_script_run("store/owner_code", values, lengthof(values));
	es_sql_end(&sql);
	CommandCounterIncrement();
}

static void
make_tables(int node)
{
	EsScriptValue values[] = {
		es_script_integer("layout", ES_LAYOUT),
		es_script_integer("node", node),
		es_script_integer("before_first", ES_NODE_START(node)),
	};

	for (int i = 0; i < lengthof(whole); i++)
		es_script_run_parsed(parse_whole(i, node));
	es_script_run("store/rows", values, lengthof(values));
	CommandCounterIncrement();
	es_store_forget();
	hooks->made();
}

/* Makes or puts back what depends on the library. */
static void
make_dependents(bool trace, bool by_category)
{
	es_guard_tables();
	if (!OidIsValid(get_relname_relid("import", get_namespace_oid(ES_SCHEMA, false))))
		es_script_run("store/import", NULL, 0);
	if (trace)
		es_script_run("store/index_trace", NULL, 0);
	if (by_category)
		es_script_run("store/index_by_category", NULL, 0);
}

/* Puts back what depends on the library, the roles and the rights. Nothing of it runs with the caller's rights. */
static void
put_back(bool trace, bool by_category)
{
	EsSql		sql;

	es_sql_begin(&sql, es_store()->owner);
	make_dependents(trace, by_category);
	es_sql_end(&sql);
	es_roles_restore();
	es_grants_restore();
	hooks->visited();
}

Datum
es_create_store(PG_FUNCTION_ARGS)
{
	int			node = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT32(0);
	bool		trace = PG_ARGISNULL(1) ? false : PG_GETARG_BOOL(1);
	bool		by_category = PG_ARGISNULL(2) ? false : PG_GETARG_BOOL(2);
	Oid			wanted = owner_argument(fcinfo, 3);
	bool		has_schema;
	EsSql		sql;

	if (node < 0 || node > ES_MAX_NODE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument node must be between 0 and %d", ES_MAX_NODE),
				 errdetail("It is %d.", node)));

	es_rights_lock();
	has_schema = OidIsValid(get_namespace_oid(ES_SCHEMA, true));
	if (!es_store_exists())
	{
		Oid			owner = OidIsValid(wanted) ? wanted : GetUserId();

		check_schema_owner(owner);
		if (has_schema)
		{
			es_sql_begin(&sql, InvalidOid);
			check_foreign_schema();
			es_sql_end(&sql);
		}
		make_schema(owner, has_schema);
		es_sql_begin(&sql, owner);
		make_tables(node);
		es_sql_end(&sql);
		es_journal_note("es_create_store", "store", NULL, "node", psprintf("%d", node));
	}
	else
	{
		Oid			owner;

		if (es_store_layout(&owner) != ES_LAYOUT)
			(void) es_store();	/* says so, with the hint */
		es_check_whole();
		if (node != 0 && es_store()->node != node)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("this database has an event store with another node number"),
					 errdetail("Its node number is %d, not %d.", es_store()->node, node)));
		if (OidIsValid(wanted) && wanted != owner)
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("the event store of this database belongs to another role"),
					 errdetail("Its owner is \"%s\".", GetUserNameFromId(owner, false))));
		es_check_store_owner();
		if (!OidIsValid(wanted))
			check_adopted(owner);
		make_schema(owner, true);
	}

	put_back(trace, by_category);
	PG_RETURN_VOID();
}

/*
 * The views of a new layout call functions of the extension's new version. The caller has to update it: only its owner may,
 * and nothing here runs with rights that the caller has not.
 */
static void
check_extension_version(void)
{
	EsSql		sql;

	es_sql_begin(&sql, InvalidOid);
	if (es_script_run("store/old_extension", NULL, 0) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the extension \"event_store\" has to be updated before its store"),
				 errdetail("Its version is %s.", SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1)),
				 errhint("Run ALTER EXTENSION event_store UPDATE.")));
	es_sql_end(&sql);
}

/* What brings a store from a layout to the next one. */
static const char *const steps[ES_LAYOUT] = {[1] = "store/upgrade_1"};

/* The tables and sequences that the next layout has more. Only these are made: where another one is missing, it was lost. */
static const char *const added[ES_LAYOUT][5] = {[1] = {"log_partitions", "floor_seq", "duties", "journal"}};

static bool
is_added(int layout, const char *relation)
{
	for (const char *const *name = added[layout]; *name != NULL; name++)
		if (strcmp(*name, relation) == 0)
			return true;
	return false;
}

/*
 * Makes what the next layout has more, as a new store has it: in the files each relation is followed by what belongs to
 * it. Between es_sql_begin() and es_sql_end().
 */
static void
make_added(int layout)
{
	for (int i = TABLES; i <= SEQUENCES; i++)
	{
		bool		wanted = false;
		ListCell   *lc;

		/* What depends on the node is there already. */
		foreach(lc, parse_whole(i, 0))
		{
			EsScriptStatement *statement = lfirst(lc);
			const char *kind;
			const RangeVar *relation = relation_made(statement->tree, &kind);

			if (relation != NULL)
				wanted = is_added(layout, relation->relname);
			if (wanted)
				es_script_run_parsed(list_make1(statement));
		}
	}
}

/* Brings a store from a layout to the next one, as its owner. */
static void
upgrade(int layout, Oid owner)
{
	EsSql		sql;

	es_sql_begin(&sql, owner);
	make_added(layout);
	es_script_run(steps[layout], NULL, 0);
	es_sql_end(&sql);
	CommandCounterIncrement();
	es_store_forget();
}

/* What every step leaves to its end: the views, which are written once, and what es_create_store() puts back. */
static void
finish_upgrade(void)
{
	EsSql		sql;

	es_sql_begin(&sql, es_store()->owner);
	es_script_run_parsed(parse_whole(VIEWS, es_store()->node));
	es_sql_end(&sql);
	put_back(false, false);
}

Datum
es_upgrade_store(PG_FUNCTION_ARGS)
{
	Oid			owner;
	bool		upgraded = false;

	if (!es_store_exists())
		(void) es_store();		/* says so, with the hint */
	if (es_store_layout(&owner) < ES_LAYOUT)
	{
		check_extension_version();
		/* One at a time: when we have the lock, another one may have done it. */
		es_rights_lock();
		AcceptInvalidationMessages();
	}
	for (int layout = es_store_layout(&owner); layout < ES_LAYOUT; layout++)
	{
		es_prevent_if_read_only("es_upgrade_store()");
		if (!has_privs_of_role(GetUserId(), owner))
			aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_SCHEMA, ES_SCHEMA);
		upgrade(layout, owner);
		upgraded = true;
	}
	if (upgraded)
	{
		finish_upgrade();
		es_journal_note("es_upgrade_store", "store", NULL, "layout", psprintf("%d", ES_LAYOUT));
	}
	es_check_whole();
	(void) es_store();
	PG_RETURN_INT32(ES_LAYOUT);
}
