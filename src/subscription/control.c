/*
 * subscription/control.c
 *	  What an operator does with a subscription: pause it, resume it, try again or skip what is in quarantine, rename it.
 *	  (consumer/control.c has those that projections have too; subscription/definition.c explains the terms.)
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"
#include "consumer/consumer.h"
#include "subscription/definition.h"
#include "subscription/statement.h"
#include "subscription/subscription.h"

PG_FUNCTION_INFO_V1(es_rename_subscription);

/* ---------------------------------------------------------------- pausing */

static void
change_pause(const char *action, char *name, bool paused, TimestampTz until, const char *reason)
{
	Oid			types[4] = {TEXTOID, BOOLOID, TIMESTAMPTZOID, TEXTOID};
	Datum		values[4];
	char		nulls[4] = {' ', ' ', ' ', ' '};
	EsSubscription sub;
	EsSql		sql;

	values[0] = CStringGetTextDatum(name);
	values[1] = BoolGetDatum(paused);
	values[2] = TimestampTzGetDatum(until);
	if (until == DT_NOEND)
		nulls[2] = 'n';
	values[3] = reason == NULL ? (Datum) 0 : CStringGetTextDatum(reason);
	if (reason == NULL)
		nulls[3] = 'n';
	es_subscription_begin(&sql);
	es_subscription_find(DatumGetTextPP(values[0]), true, CurrentMemoryContext, &sub);
	es_journal_reasoned(sql.saved_user, action, reason, "subscriptions",
						"UPDATE event_store.subscriptions SET paused = $2, paused_until = $3, pause_reason = $4 WHERE name = $1",
						4, types, values, nulls);
	es_sql_end(&sql);
}

/* Consumers keep what they have fetched, and may acknowledge it. */
static void
pause_subscription(char *name, TimestampTz until, const char *reason)
{
	change_pause("es_pause", name, true, until, reason);
}

static void
resume_subscription(char *name)
{
	change_pause("es_resume", name, false, DT_NOEND, NULL);
}

/* ---------------------------------------------------------------- quarantine */

/* The id of a stream, as committed now; 0: there is none. */
static int64
stream_id(text *stream)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EsHead		head;
	bool		found = es_stream_find(stream, snapshot, &head);

	UnregisterSnapshot(snapshot);
	return found ? head.id : 0;
}

/* The streams become free; returns their number. How often each has failed stays stored until its first event is acknowledged. */
static int64
retry_subscription(char *name, text *stream)
{
	Oid			types[2] = {INT4OID, INT8OID};
	Datum		values[2];
	char		nulls[2] = {' ', ' '};
	EsSubscription sub;
	EsSql		sql;
	int64		count;

	es_subscription_check_transaction("es_retry_quarantined()");
	values[1] = Int64GetDatum(stream == NULL ? 0 : stream_id(stream));
	if (stream == NULL)
		nulls[1] = 'n';
	es_subscription_begin(&sql);
	es_subscription_find(cstring_to_text(name), true, CurrentMemoryContext, &sub);
	values[0] = Int32GetDatum(sub.id);
	count = es_sql_write_args("subscription_streams",
							  "UPDATE event_store.subscription_streams SET reason = NULL, since = NULL"
							  " WHERE subscription = $1 AND reason IS NOT NULL AND ($2 IS NULL OR stream = $2)",
							  2, types, values, nulls);
	es_sql_end(&sql);
	if (count == 0 && stream != NULL)
		es_consumer_not_quarantined("subscription", name, text_to_cstring(stream));
	return count;
}

/* Moves a stream in quarantine behind a version; what it has behind it stays there. Returns the number of events. */
static int64
skip_subscription(char *name, text *stream, int64 upto)
{
	Oid			types[4] = {INT4OID, INT8OID, INT8OID, INT8OID};
	Datum		values[4];
	MemoryContext context = CurrentMemoryContext;
	EsSubscription sub;
	EsSkip		skip = {0};
	bool		found;
	EsSql		sql;

	es_subscription_check_transaction("es_skip_quarantined()");
	values[1] = Int64GetDatum(stream_id(stream));
	es_subscription_begin(&sql);
	es_subscription_find(cstring_to_text(name), true, context, &sub);
	values[0] = Int32GetDatum(sub.id);
	found = es_sql_run_args("SELECT version::bigint, position::bigint FROM event_store.subscription_streams"
							" WHERE subscription = $1 AND stream = $2 AND reason IS NOT NULL", 2, types, values, NULL) > 0;
	if (found)
	{
		skip.version = DatumGetInt64(es_sql_first(1, INT8OID, NULL));
		skip.position = DatumGetInt64(es_sql_first(2, INT8OID, NULL));
	}
	es_sql_end(&sql);
	if (!found)
		es_consumer_not_quarantined("subscription", name, text_to_cstring(stream));
	es_consumer_find_skip(&sub.filter, stream, upto, sub.position, false, &skip);

	es_subscription_begin(&sql);
	values[2] = Int64GetDatum(skip.version);
	values[3] = Int64GetDatum(skip.position);
	if (skip.position != 0)
		es_sql_write_args("subscription_streams",
						  "UPDATE event_store.subscription_streams SET version = $3, position = $4, attempts = 0"
						  " WHERE subscription = $1 AND stream = $2", 4, types, values, NULL);
	else
		es_sql_write_args("subscription_streams",
						  "DELETE FROM event_store.subscription_streams WHERE subscription = $1 AND stream = $2",
						  2, types, values, NULL);
	es_sql_end(&sql);
	return skip.skipped;
}

/* ---------------------------------------------------------------- es_rename_subscription */

/* Gives it the name as the store's owner; false: there is none of the old name. */
static bool
rename_subscription(Oid owner, text *from, text *to)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2] = {PointerGetDatum(from), PointerGetDatum(to)};
	EsSql		sql;
	bool		found;

	es_sql_begin(&sql, owner);
	found = es_sql_write_args("subscriptions", "UPDATE event_store.subscriptions SET name = $2 WHERE name = $1",
							  2, types, values, NULL) > 0;
	es_sql_end(&sql);
	return found;
}

/*
 * es_rename_subscription(old_name, new_name). It works on the store of version 0.1 too, as its owner: there a projection
 * may have the name, which es_upgrade_store() refuses.
 */
Datum
es_rename_subscription(PG_FUNCTION_ARGS)
{
	text	   *from = es_subscription_argument(fcinfo, 0, "old_name");
	text	   *to = es_subscription_argument(fcinfo, 1, "new_name");
	bool		is_old;
	Oid			owner;

	es_refuse_in_stored_text("es_rename_subscription()");
	es_prevent_if_read_only("es_rename_subscription()");
	is_old = es_store_exists() && es_store_layout(&owner) < ES_LAYOUT;
	if (is_old)
	{
		if (!has_privs_of_role(GetUserId(), owner))
			aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_SCHEMA, ES_SCHEMA);
	}
	else
	{
		owner = es_store_now()->owner;
		es_consumer_claim_name(NULL, text_to_cstring(to));
	}
	if (!rename_subscription(owner, from, to))
		es_subscription_unknown(from);
	if (!is_old)
		es_journal_note("es_rename_subscription", "subscription", text_to_cstring(from), "new_name", text_to_cstring(to));
	PG_RETURN_VOID();
}

/* Called once, when the library is loaded. */
void
es_subscription_init(void)
{
	static const EsConsumerKind kind = {
		"subscription", pause_subscription, resume_subscription, retry_subscription, skip_subscription
	};

	es_consumer_register(&kind);
}
