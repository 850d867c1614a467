/*
 * subscription/definition.c
 *	  Subscriptions: cursors of consumers outside the database. The terms of this wing, its lock, and definitions.
 *
 * A subscription has a *frontier* F (subscriptions.position). Each event up to F that passes its filter was
 * acknowledged, or belongs to a stream that has a row in subscription_streams: that row says which of the stream's
 * events is the first that was not acknowledged. Such a stream is *in flight*. So what is stored grows with the
 * streams in flight, not with the events. The stream of a row is
 *	  held         consumer is set; nobody else gets events of the stream
 *	  free         neither consumer nor reason is set; the next es_fetch that has room takes it
 *	  quarantined  reason is set; nobody gets its events until es_retry_quarantined frees it
 * The row is deleted when the stream has no event left up to F. Events after F are found by reading the log.
 *
 * A consumer (subscription_consumers) has one lease for all streams that it holds. When another consumer looks for
 * work after the lease has ended, the first one is marked *lost* and all of its streams become free, in one
 * transaction. Until it fetches again, what it acknowledges is refused. As long as nobody looked for work, nothing is
 * lost.
 *
 * The lock is the subscription's row, FOR NO KEY UPDATE to the end of the transaction. Whoever changes rows of these
 * three tables takes it first, and decides by a snapshot that was taken after it.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "consumer/consumer.h"
#include "subscription/definition.h"
#include "subscription/statement.h"

PG_FUNCTION_INFO_V1(es_create_subscription);
PG_FUNCTION_INFO_V1(es_drop_subscription);

/* ---------------------------------------------------------------- arguments */

text *
es_subscription_argument(FunctionCallInfo fcinfo, int n, const char *name)
{
	text	   *value = es_text_argument(fcinfo, n, name);

	es_check_name(value, name, false);
	return value;
}

/* The name of a consumer. NULL stands for the consumer with the empty name. */
text *
es_consumer_argument(FunctionCallInfo fcinfo, int n)
{
	text	   *value;

	if (PG_ARGISNULL(n))
		return cstring_to_text_with_len("", 0);
	value = PG_GETARG_TEXT_PP(n);
	es_check_name(value, "consumer", true);
	return value;
}

/* Refuses a transaction in which a subscription cannot be used. */
void
es_subscription_check_transaction(const char *function)
{
	es_prevent_if_read_only(function);
	PreventCommandDuringRecovery(function);
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s is not supported in a transaction of isolation level REPEATABLE READ or SERIALIZABLE",
						function),
				 errdetail("Consumers compete by what the others have just committed."),
				 errhint("Use READ COMMITTED.")));
}

/* ---------------------------------------------------------------- definitions */

/* Raises YE008: there is no subscription of that name. */
void
es_subscription_unknown(const text *name)
{
	ereport(ERROR,
			(errcode(ES_UNKNOWN),
			 errmsg("subscription \"%s\" does not exist", text_to_cstring(name)),
			 errhint("Make it with es_create_subscription.")));
}

/*
 * Finds a subscription by its name. Its filter is copied to a memory context. With lock, it is locked to the end of the
 * transaction. Raises YE008 when there is none. Must be called between es_subscription_begin() and es_sql_end().
 */
void
es_subscription_find(const text *name, bool lock, MemoryContext context, EsSubscription *sub)
{
#define COLUMNS \
	"SELECT b.id, b.position, b.categories, b.event_types, b.paused, b.paused_until" \
	" FROM event_store.subscriptions b WHERE b.name = $1"
	static EsStatement look = {
		NULL,
		COLUMNS,
		1, {TEXTOID}
	};
	static EsStatement look_and_lock = {
		NULL,
		COLUMNS " FOR NO KEY UPDATE",
		1, {TEXTOID}
	};
	Datum		values[1] = {PointerGetDatum(name)};
	MemoryContext old;
	Datum		categories;
	Datum		types;
	bool		all_categories;
	bool		all_types;

	if (es_statement_run(lock ? &look_and_lock : &look, values, NULL) == 0)
		es_subscription_unknown(name);
	sub->id = DatumGetInt32(es_statement_value(0, 1, INT4OID, NULL));
	sub->position = DatumGetInt64(es_statement_value(0, 2, INT8OID, NULL));
	categories = es_statement_value(0, 3, TEXTARRAYOID, &all_categories);
	types = es_statement_value(0, 4, TEXTARRAYOID, &all_types);
	sub->paused_until = DT_NOBEGIN;
	if (DatumGetBool(es_statement_value(0, 5, BOOLOID, NULL)))
	{
		bool		for_ever;

		sub->paused_until = DatumGetTimestampTz(es_statement_value(0, 6, TIMESTAMPTZOID, &for_ever));
		if (for_ever)
			sub->paused_until = DT_NOEND;
	}
	old = MemoryContextSwitchTo(context);
	es_filter_read(&sub->filter, categories, all_categories, types, all_types);
	MemoryContextSwitchTo(old);
}

Datum
es_create_subscription(PG_FUNCTION_ARGS)
{
	Oid			types[4] = {TEXTOID, TEXTARRAYOID, TEXTARRAYOID, INT8OID};
	Datum		values[4];
	char		nulls[5] = "    ";
	text	   *name;
	EsSql		sql;

	(void) es_store_now();
	es_prevent_if_read_only("es_create_subscription()");
	name = es_subscription_argument(fcinfo, 0, "name");
	values[0] = PointerGetDatum(name);
	values[1] = es_filter_sorted_argument(fcinfo, 1, "categories", "category", true, &nulls[1]);
	values[2] = es_filter_sorted_argument(fcinfo, 2, "event_types", "event type", false, &nulls[2]);
	if (PG_ARGISNULL(3))
		es_null_argument("from_position");
	if (PG_GETARG_INT64(3) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument from_position must not be negative"),
				 errdetail("It is %lld; 0 starts with the first event.", (long long) PG_GETARG_INT64(3))));
	values[3] = PG_GETARG_DATUM(3);

	es_consumer_claim_name("subscription", text_to_cstring(name));
	es_sql_begin(&sql, es_store()->owner);
	if (es_journal_change(sql.saved_user, NULL, "subscriptions",
						  "INSERT INTO event_store.subscriptions"
						  " (name, categories, event_types, from_position, position, created_at)"
						  " VALUES ($1, $2, $3, $4, $4, clock_timestamp()) ON CONFLICT (name) DO NOTHING",
						  4, types, values, nulls) == 0 &&
		es_sql_run_args("SELECT FROM event_store.subscriptions b WHERE b.name = $1"
						" AND b.categories IS NOT DISTINCT FROM $2 AND b.event_types IS NOT DISTINCT FROM $3"
						" AND b.from_position = $4", 4, types, values, nulls) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("subscription \"%s\" already exists with another definition", text_to_cstring(name)),
				 errhint("Drop it first with es_drop_subscription, or choose another name.")));
	es_sql_end(&sql);
	es_filter_stored("subscription", text_to_cstring(name));
	PG_RETURN_VOID();
}

Datum
es_drop_subscription(PG_FUNCTION_ARGS)
{
	Oid			types[1] = {INT4OID};
	Datum		values[1];
	text	   *name;
	EsSubscription sub;
	EsSql		sql;

	(void) es_store_now();
	es_prevent_if_read_only("es_drop_subscription()");
	name = es_subscription_argument(fcinfo, 0, "name");
	es_subscription_begin(&sql);
	es_subscription_find(name, true, CurrentMemoryContext, &sub);
	values[0] = Int32GetDatum(sub.id);
	es_sql_write_args("subscription_streams",
					  "DELETE FROM event_store.subscription_streams WHERE subscription = $1", 1, types, values, NULL);
	es_sql_write_args("subscription_consumers",
					  "DELETE FROM event_store.subscription_consumers WHERE subscription = $1", 1, types, values, NULL);
	types[0] = TEXTOID;
	values[0] = PointerGetDatum(name);
	es_journal_change(sql.saved_user, NULL, "subscriptions",
					  "DELETE FROM event_store.subscriptions WHERE name = $1", 1, types, values, NULL);
	es_sql_end(&sql);
	PG_RETURN_VOID();
}
