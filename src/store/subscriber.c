/*
 * store/subscriber.c
 *	  Whether the store is a copy that logical replication keeps, or a standby's.
 *
 * On a logical subscriber the tables of the store are filled by apply workers. Whatever else wrote there would collide
 * with what comes: an epoch of its own, a position, a checkpoint. So nothing starts, publishes or writes there by itself,
 * and functions that would write are refused, until the subscription is dropped. What is read by position goes by the
 * published mark, which comes with the rows: an apply worker commits in the order of the publisher, and there the mark is
 * committed after the events.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_subscription_rel.h"
#include "miscadmin.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"

static bool known = false;		/* what follows is as the catalog says */
static bool reading = false;	/* an invalidation meanwhile means: read again */
static bool subscribed = false; /* tables of the store are targets of a subscription */
static bool copying = false;	/* and not all of them have been copied */

static void
subscription_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	known = reading = false;
}

/* Looks for tables of the store among the targets of subscriptions of this database. */
static void
read_targets(Oid nsp)
{
	Relation	rel = relation_open(SubscriptionRelRelationId, AccessShareLock);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple	tuple;

	subscribed = copying = false;
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_subscription_rel row = (Form_pg_subscription_rel) GETSTRUCT(tuple);

		/* 19 can bring the values of sequences too, but only when it is told to. They say nothing about the rows. */
		if (get_rel_namespace(row->srrelid) != nsp || get_rel_relkind(row->srrelid) == RELKIND_SEQUENCE)
			continue;
		subscribed = true;
		if (row->srsubstate != SUBREL_STATE_READY)
			copying = true;
	}
	systable_endscan(scan);
	relation_close(rel, AccessShareLock);
}

static void
look(void)
{
	Oid			nsp;

	if (likely(known))
		return;
	nsp = get_namespace_oid(ES_SCHEMA, true);
	if (!OidIsValid(nsp))
	{
		subscribed = copying = false;
		return;					/* not kept: nothing would tell that the schema is made */
	}
	for (int tries = 0; tries < 10 && !known; tries++)	/* debug_discard_caches would go on for ever */
	{
		reading = true;
		read_targets(nsp);
		known = reading;
	}
	reading = false;
}

/* Whether the tables of the store are filled by a subscription. (Its sequences are not.) */
bool
es_store_is_subscriber(void)
{
	look();
	return subscribed;
}

/* Whether nobody but replication may write to the store: it is a standby's, or that of a logical subscriber. */
bool
es_store_is_copy(void)
{
	return RecoveryInProgress() || es_store_is_subscriber();
}

/*
 * Refuses a copy of which only a part is there. While tables are copied for the first time, the mark, or the head of a
 * stream, may have come and the events not.
 */
void
es_store_check_copied(void)
{
	if (likely(known && !copying))
		return;
	look();
	if (copying)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the event store is being copied by a subscription"),
				 errdetail("Not all of its tables are ready."),
				 errhint("Look at srsubstate in pg_subscription_rel, and try again when it is r for all of them.")));
}

/* Refuses what would write, in a read-only transaction and on a logical subscriber. */
void
es_prevent_if_read_only(const char *what)
{
	PreventCommandIfReadOnly(what);
	look();
	if (subscribed)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot execute %s on a logical subscriber", what),
				 errdetail("The tables of this event store are filled by a subscription."),
				 errhint("Do it on the publisher. To go on here, drop the subscription and run SELECT es_create_store().")));
}

/* Whether background processes have anything to do for the store of this database. */
static bool
wants_processes(void)
{
	return !es_store_is_copy();
}

/* Called once, when the library is loaded. */
void
es_subscriber_init(void)
{
	CacheRegisterSyscacheCallback(SUBSCRIPTIONRELMAP, subscription_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, subscription_callback, (Datum) 0);
	es_process_only_if(wants_processes);
}
