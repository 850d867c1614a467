/*
 * store/role.c
 *	  The roles that stored text runs as, and that rights were given to, as they are kept in the store's tables.
 *
 * By OID, with the name and the system identifier of the server where that was taken. So a role that is renamed stays
 * the same one, and a new role that gets the name of an old one gets nothing. On another server (a dump was restored there,
 * pg_upgrade, a logical subscriber) the OID means nothing: there a row is inactive, until es_create_store() finds
 * a role of that name. For stored text it must be one that the store's owner may SET ROLE to.
 *
 * The dependency of the role is an ordinary GRANT USAGE ON SCHEMA event_store. DROP ROLE is refused as long as there is one,
 * and dumps have it.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/base.h"
#include "store/store.h"

/* As the columns of type bigint have it. */
int64
es_system_identifier(void)
{
	return (int64) GetSystemIdentifier();
}

/* Whoever calls, to be kept with what it registers; in the current memory context. */
EsStoredRole
es_role_current(void)
{
	EsStoredRole role = {GetUserNameFromId(GetUserId(), false), GetUserId(), es_system_identifier()};

	return role;
}

/* A copy in the current memory context. */
EsStoredRole
es_role_copy(EsStoredRole role)
{
	role.name = pstrdup(role.name);
	return role;
}

/* Reads ES_ROLE_COLUMNS of a row of SPI's, from one column on, into the current memory context. */
EsStoredRole
es_role_read(HeapTuple tuple, TupleDesc desc, int column)
{
	EsStoredRole role;

	role.name = es_sql_text(tuple, desc, column);
	role.oid = DatumGetObjectId(es_sql_value(tuple, desc, column + 1, OIDOID, NULL));
	role.system = DatumGetInt64(es_sql_value(tuple, desc, column + 2, INT8OID, NULL));
	return role;
}

/* Whether it is one of this server's, and there is still one. */
static bool
is_here(EsStoredRole role)
{
	return role.system == es_system_identifier() && OidIsValid(role.oid) &&
		SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(role.oid));
}

/*
 * The role that stored text runs as. Raises an error when it is gone or not known here, or when the store's owner may
 * not act as it.
 */
Oid
es_run_as_role(EsStoredRole role)
{
	Oid			owner = es_store()->owner;

	if (!is_here(role))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 role.system == es_system_identifier() ?
				 errmsg("role \"%s\", which registered this, does not exist", role.name) :
				 errmsg("role \"%s\", which registered this, is a role of another server", role.name),
				 role.system == es_system_identifier() ?
				 errhint("Register it again.") :
				 errhint("SELECT es_create_store() looks for a role of that name here that the store's owner may act as. Or register it again.")));
	if (!es_member_can_set_role(owner, role.oid))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("owner of the event store cannot act as role \"%s\"", GetUserNameFromId(role.oid, false)),
				 errdetail("The store belongs to \"%s\".", GetUserNameFromId(owner, false)),
				 errhint("Grant the role to the store's owner, or register as a role that it is a member of.")));
	return role.oid;
}

/* Whether a role has the right that is its dependency, by its own name. Between es_sql_begin() of the owner and its end. */
static bool
depends(Oid role)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(role)};

	return role == es_store()->owner ||	/* it owns the schema */
		es_sql_run_args("SELECT FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = '" ES_SCHEMA "'"
						" AND a.grantee = $1 AND a.privilege_type = 'USAGE'", 1, types, values, NULL) > 0;
}

static void
depend(Oid role)
{
	if (!depends(role))
		es_sql_runf("GRANT USAGE ON SCHEMA " ES_SCHEMA " TO %s", quote_identifier(GetUserNameFromId(role, false)));
}

/* Has DROP ROLE refused for a role that has just registered something. */
void
es_role_depend(Oid role)
{
	EsSql		sql;

	es_sql_begin(&sql, es_store()->owner);
	if (!depends(role))
	{
		es_rights_lock();
		depend(role);
	}
	es_sql_end(&sql);
	CommandCounterIncrement();
}

/* Whether some stored text runs as a role. */
bool
es_role_has_registered(Oid role)
{
	Oid			types[2] = {OIDOID, INT8OID};
	Datum		values[2] = {ObjectIdGetDatum(role), Int64GetDatum(es_system_identifier())};
	EsSql		sql;
	bool		found;

	es_sql_begin(&sql, es_store()->owner);
	found = es_sql_run_args("SELECT FROM event_store.aggregates WHERE role_oid = $1 AND role_system = $2 UNION ALL"
							" SELECT FROM event_store.upcasters WHERE role_oid = $1 AND role_system = $2 UNION ALL"
							" SELECT FROM event_store.event_checks WHERE role_oid = $1 AND role_system = $2 UNION ALL"
							" SELECT FROM event_store.projections WHERE role_oid = $1 AND role_system = $2 UNION ALL"
							" SELECT FROM event_store.rebuilds WHERE role_oid = $1 AND role_system = $2",
							2, types, values, NULL) > 0;
	es_sql_end(&sql);
	return found;
}

/*
 * Brings the roles in the tables up to date: names of roles that were renamed; on another server than that where a row
 * was written, the role of that name. And gives each the dependency, which is missing where the schema was restored without.
 */
void
es_roles_restore(void)
{
	EsScriptValue values[] = {
		es_script_integer("system", es_system_identifier()),
		es_script_literal("set_role", ES_SET_ROLE_PRIVILEGE),
	};
	EsSql		sql;
	uint64		count;
	SPITupleTable *roles;

	es_sql_begin(&sql, es_store()->owner);
	count = es_script_run("store/roles", values, lengthof(values));
	roles = SPI_tuptable;
	for (uint64 i = 0; i < count; i++)
		depend(DatumGetObjectId(es_sql_value(roles->vals[i], roles->tupdesc, 1, OIDOID, NULL)));
	es_sql_end(&sql);
	CacheInvalidateRelcacheByRelid(es_store()->aggregates);
	CacheInvalidateRelcacheByRelid(es_store()->projections);
	CommandCounterIncrement();
}
