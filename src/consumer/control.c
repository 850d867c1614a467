/*
 * consumer/control.c
 *	  What an operator does with a projection or a subscription, whichever a name is of: pause, resume, and what is in
 *	  quarantine.
 *
 * Projections and subscriptions share one name space, so that a name says which one is meant. Each of the two wings
 * registers what these functions do with its own kind.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"
#include "consumer/consumer.h"

PG_FUNCTION_INFO_V1(es_pause);
PG_FUNCTION_INFO_V1(es_resume);
PG_FUNCTION_INFO_V1(es_retry_quarantined);
PG_FUNCTION_INFO_V1(es_skip_quarantined);

/* Bytes of an argument reason. */
#define MAX_REASON	8192

static const EsConsumerKind *kinds[2];
static int	kind_count = 0;

/* Called once for each kind, when the library is loaded. */
void
es_consumer_register(const EsConsumerKind *kind)
{
	Assert(kind_count < lengthof(kinds));
	kinds[kind_count++] = kind;
}

/* ---------------------------------------------------------------- names */

/* What has this name, as committed now or changed by this transaction; NULL: nothing. */
static const EsConsumerKind *
kind_of(const char *name)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	const EsConsumerKind *kind = NULL;
	EsSql		sql;

	values[0] = CStringGetTextDatum(name);
	es_sql_begin(&sql, es_store()->owner);
	if (es_sql_run_latest_args("SELECT 'projection' FROM event_store.projections WHERE name = $1"
							   " UNION ALL SELECT 'subscription' FROM event_store.subscriptions WHERE name = $1",
							   1, types, values) > 0)
	{
		const char *found = es_sql_text(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

		for (int i = 0; i < kind_count; i++)
			if (strcmp(kinds[i]->kind, found) == 0)
				kind = kinds[i];
	}
	es_sql_end(&sql);
	return kind;
}

/*
 * Held to the end of the transaction by whoever makes or renames a projection or subscription, and decides by what
 * others are there.
 */
void
es_consumer_lock(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, es_store()->projections, 0, ES_LOCK_CONSUMERS);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	/* What the one before us did. */
	(void) es_store_now();
}

/*
 * Refuses a name that is one of the other kind; its_kind is NULL where there must be none of either. The lock lets nobody
 * else take it meanwhile.
 */
void
es_consumer_claim_name(const char *its_kind, const char *name)
{
	const EsConsumerKind *kind;

	es_consumer_lock();
	kind = kind_of(name);
	if (kind != NULL && (its_kind == NULL || strcmp(kind->kind, its_kind) != 0))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("there is already a %s \"%s\"", kind->kind, name),
				 errdetail("Projections and subscriptions share their names."),
				 errhint("Choose another name.")));
}

/* ---------------------------------------------------------------- the functions */

/* The beginning of each: what the name is of. */
static const EsConsumerKind *
begin(FunctionCallInfo fcinfo, const char *function, char **name)
{
	text	   *argument = es_text_argument(fcinfo, 0, "name");
	const EsConsumerKind *kind;

	es_check_name(argument, "name", false);
	*name = text_to_cstring(argument);
	(void) es_store_now();
	es_prevent_if_read_only(function);
	PreventCommandDuringRecovery(function);
	es_refuse_in_stored_text(function);
	kind = kind_of(*name);
	if (kind == NULL)
		ereport(ERROR,
				(errcode(ES_UNKNOWN),
				 errmsg("there is no projection or subscription \"%s\"", *name),
				 errhint("The views event_store.projection_status and event_store.subscription_status list them.")));
	return kind;
}

/* NULL where it is NULL. */
static char *
reason_argument(FunctionCallInfo fcinfo, int n)
{
	text	   *reason;

	if (PG_ARGISNULL(n))
		return NULL;
	reason = PG_GETARG_TEXT_PP(n);
	if (VARSIZE_ANY_EXHDR(reason) > MAX_REASON)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("argument reason is too long"),
				 errdetail("It has %zu bytes; at most %d are stored.", (size_t) VARSIZE_ANY_EXHDR(reason), MAX_REASON),
				 errhint("Keep a long text elsewhere, and say here where.")));
	return text_to_cstring(reason);
}

/* es_pause(name, until, reason) */
Datum
es_pause(PG_FUNCTION_ARGS)
{
	TimestampTz until = PG_ARGISNULL(1) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(1);
	char	   *reason = reason_argument(fcinfo, 2);
	char	   *name;
	const EsConsumerKind *kind = begin(fcinfo, "es_pause()", &name);

	if (until <= GetCurrentTimestamp())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument until must be in the future"),
				 errdetail("It is %s.", timestamptz_to_str(until)),
				 errhint("Leave it out to pause until es_resume.")));
	kind->pause(name, until, reason);
	PG_RETURN_VOID();
}

Datum
es_resume(PG_FUNCTION_ARGS)
{
	char	   *name;
	const EsConsumerKind *kind = begin(fcinfo, "es_resume()", &name);

	kind->resume(name);
	PG_RETURN_VOID();
}

/* There is nothing of this stream in quarantine. */
void
es_consumer_not_quarantined(const char *kind, const char *name, const char *stream)
{
	ereport(ERROR,
			(errcode(ES_UNKNOWN),
			 errmsg("%s \"%s\" has not quarantined stream \"%s\"", kind, name, stream),
			 errhint("The view event_store.quarantine lists what is in quarantine.")));
}

/* es_retry_quarantined(name, stream) -> events of a projection, streams of a subscription */
Datum
es_retry_quarantined(PG_FUNCTION_ARGS)
{
	text	   *stream = PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1);
	char	   *name;
	const EsConsumerKind *kind = begin(fcinfo, "es_retry_quarantined()", &name);
	int64		count = kind->retry(name, stream);

	es_journal_note("es_retry_quarantined", kind->kind, name, "stream", stream == NULL ? NULL : text_to_cstring(stream));
	PG_RETURN_INT64(count);
}

/* es_skip_quarantined(name, stream, up_to_version, reason) -> events */
Datum
es_skip_quarantined(PG_FUNCTION_ARGS)
{
	text	   *stream = es_text_argument(fcinfo, 1, "stream");
	int64		upto;
	int64		count;
	char	   *reason;
	char	   *name;
	const EsConsumerKind *kind;

	if (PG_ARGISNULL(2))
		es_null_argument("up_to_version");
	upto = PG_GETARG_INT64(2);
	(void) es_text_argument(fcinfo, 3, "reason");
	reason = reason_argument(fcinfo, 3);
	kind = begin(fcinfo, "es_skip_quarantined()", &name);
	count = kind->skip(name, stream, upto);
	es_journal_skip(kind->kind, name, text_to_cstring(stream), upto, reason);
	PG_RETURN_INT64(count);
}

/* up_to_version of es_skip_quarantined() is of no event that is in quarantine; first and last are. */
void
es_consumer_check_skip(const text *stream, int64 upto, int64 first, int64 last)
{
	if (upto < first || upto > last)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument up_to_version must be between %lld and %lld", (long long) first, (long long) last),
				 errdetail("It is %lld; these are the versions of stream \"%s\" that are in quarantine.",
						   (long long) upto, text_to_cstring(stream))));
}
