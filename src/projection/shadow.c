/*
 * projection/shadow.c
 *	  The shadow tables of a rebuild: made like the live ones, empty, in a schema of their own.
 *
 * They are nobody else's business. But where a publication is FOR ALL TABLES they would be published too: a subscriber that
 * has no such tables would stop at the first row, and a table without a replica identity could not be updated. So there
 * they are unlogged, because such tables are never published. A crash, or the promotion of a standby, empties them. Then a
 * marker, a row in an unlogged table beside them, is gone as well, and the rebuild begins anew.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/base.h"
#include "store/store.h"
#include "projection/difference.h"
#include "projection/shadow.h"

#define MARKER	"event_store_marker"

/* Whether some publication has all tables. Between es_sql_begin() and es_sql_end(). */
static bool
all_are_published(void)
{
	return es_sql_run("SELECT FROM pg_publication WHERE puballtables LIMIT 1") > 0;
}

/*
 * Whether there is a marker, and so the tables are unlogged. The projection's role may create in the schema too, and the
 * marker is read with the rights of the store's owner: a view of that name would run its functions with them. So only an
 * unlogged table of the owner's is one.
 */
static bool
has_marker(const char *schema)
{
	Oid			relid = get_relname_relid(MARKER, get_namespace_oid(schema, false));
	HeapTuple	tuple = OidIsValid(relid) ? SearchSysCache1(RELOID, ObjectIdGetDatum(relid)) : NULL;
	Form_pg_class form;
	bool		is_ours;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_class) GETSTRUCT(tuple);
	is_ours = form->relowner == es_store()->owner && form->relkind == RELKIND_RELATION &&
		form->relpersistence == RELPERSISTENCE_UNLOGGED;
	ReleaseSysCache(tuple);
	return is_ours;
}

/* Notes that the unlogged tables have what the checkpoint says. */
static void
set_marker(const char *schema)
{
	es_sql_runf("INSERT INTO %s." MARKER " DEFAULT VALUES", quote_identifier(schema));
}

static void
make_marker(const char *schema)
{
	es_sql_runf("CREATE UNLOGGED TABLE %s." MARKER " (made_at timestamptz NOT NULL DEFAULT clock_timestamp())",
				quote_identifier(schema));
	set_marker(schema);
}

/*
 * A name for the schema of a rebuild, which nobody can foresee: whoever may create schemas could have made one of that name
 * before.
 */
char *
es_shadow_schema(void)
{
	uint64		random;

	if (!pg_strong_random(&random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	return psprintf("event_store_rebuild_%016llx", (unsigned long long) random);
}

/*
 * Makes the schema, which is the store's owner's, and the tables, as the projection's role, which owns them. They have no
 * foreign keys: these are checked when the live tables are made equal to them.
 */
void
es_shadow_make(const char *projection, const char *schema, EsStoredRole role, List *tables)
{
	EsSql		sql;
	ListCell   *lc;
	Oid			role_id = es_run_as_role(role);
	bool		unlogged;

	es_sql_begin_unheard(&sql, es_store()->owner);
	es_sql_runf("CREATE SCHEMA %s", quote_identifier(schema));
	es_sql_runf("COMMENT ON SCHEMA %s IS %s", quote_identifier(schema),
				quote_literal_cstr(psprintf("rebuild of projection %s; gone when it has ended", projection)));
	if (role_id != es_store()->owner)
		es_sql_runf("GRANT USAGE, CREATE ON SCHEMA %s TO %s", quote_identifier(schema),
					quote_identifier(GetUserNameFromId(role_id, false)));
	unlogged = all_are_published();
	if (unlogged)
		make_marker(schema);
	es_sql_end(&sql);
	CommandCounterIncrement();
	es_sql_begin_unheard(&sql, role_id);
	foreach(lc, tables)
		es_sql_runf("CREATE %s TABLE %s.%s (LIKE %s INCLUDING ALL)", unlogged ? "UNLOGGED" : "", quote_identifier(schema),
					es_table_name(lfirst(lc)), (char *) lfirst(lc));
	es_sql_end(&sql);
	CommandCounterIncrement();
}

/* Makes the tables unlogged, when all tables are published since they were made. */
void
es_shadow_keep_private(const char *schema, EsStoredRole role, List *tables)
{
	EsSql		sql;
	ListCell   *lc;
	bool		change;

	if (has_marker(schema))
		return;
	es_sql_begin_unheard(&sql, es_store()->owner);
	change = all_are_published();
	if (change)
		make_marker(schema);
	es_sql_end(&sql);
	if (!change)
		return;
	es_sql_begin_unheard(&sql, es_run_as_role(role));
	foreach(lc, tables)
		es_sql_runf("ALTER TABLE %s.%s SET UNLOGGED", quote_identifier(schema), es_table_name(lfirst(lc)));
	es_sql_end(&sql);
	CommandCounterIncrement();
}

/* Whether the tables were emptied by a crash. If so, notes that they are filled anew, which the caller must do. */
bool
es_shadow_was_emptied(const char *schema)
{
	EsSql		sql;
	bool		emptied;

	if (!has_marker(schema))
		return false;
	es_sql_begin_unheard(&sql, es_store()->owner);
	emptied = es_sql_runf("SELECT FROM %s." MARKER, quote_identifier(schema)) == 0;
	if (emptied)
		set_marker(schema);
	es_sql_end(&sql);
	return emptied;
}
