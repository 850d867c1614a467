/*
 * store/citus.c
 *	  Refusing a store whose tables were given to Citus.
 *
 * Citus puts an empty table in the place of one that it takes over (citus_add_local_table_to_metadata(), for instance), and
 * has the planner go to the rows elsewhere. Below SQL there is no planner: appends would be acknowledged, and seen by
 * nobody. Citus lists its tables in pg_dist_partition. We do not depend on Citus; where it is not there, neither is that table.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/base.h"
#include "store/store.h"

/* Raises 0A000 when Citus has a table of this schema. */
void
es_check_not_distributed(Oid schema)
{
	Oid			relid = get_relname_relid("pg_dist_partition", PG_CATALOG_NAMESPACE);
	Oid			found = InvalidOid;
	AttrNumber	column;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (likely(!OidIsValid(relid)) || get_rel_relkind(relid) != RELKIND_RELATION)
		return;
	column = get_attnum(relid, "logicalrelid");
	if (column == InvalidAttrNumber || (get_atttype(relid, column) != REGCLASSOID && get_atttype(relid, column) != OIDOID))
		return;					/* somebody else's */
	rel = relation_open(relid, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while (!OidIsValid(found) && HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, column, RelationGetDescr(rel), &isnull);

		if (!isnull && get_rel_namespace(DatumGetObjectId(value)) == schema)
			found = DatumGetObjectId(value);
	}
	systable_endscan(scan);
	relation_close(rel, AccessShareLock);
	if (OidIsValid(found))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s.%s\" belongs to Citus", ES_SCHEMA, get_rel_name(found)),
				 errdetail("The event store reads and writes its tables below SQL, where Citus would not see it."),
				 errhint("Make it an ordinary table again: SELECT undistribute_table('%s.%s').", ES_SCHEMA, get_rel_name(found))));
}
