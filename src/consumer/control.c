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
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"
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

/* The argument reason. It may be stored with each of 100,000 streams. */
text *
es_reason_argument(FunctionCallInfo fcinfo, int n)
{
	text	   *reason = es_text_argument(fcinfo, n, "reason");

	if (VARSIZE_ANY_EXHDR(reason) > MAX_REASON)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("argument reason is too long"),
				 errdetail("It has %zu bytes; at most %d are stored.", (size_t) VARSIZE_ANY_EXHDR(reason), MAX_REASON),
				 errhint("Keep a long text elsewhere, and say here where.")));
	return reason;
}

/* es_pause(name, until, reason) */
Datum
es_pause(PG_FUNCTION_ARGS)
{
	TimestampTz until = PG_ARGISNULL(1) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(1);
	char	   *reason = PG_ARGISNULL(2) ? NULL : text_to_cstring(es_reason_argument(fcinfo, 2));
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
	reason = text_to_cstring(es_reason_argument(fcinfo, 3));
	kind = begin(fcinfo, "es_skip_quarantined()", &name);
	count = kind->skip(name, stream, upto);
	es_journal_skip(kind->kind, name, text_to_cstring(stream), upto, reason);
	PG_RETURN_INT64(count);
}

/*
 * Goes through the events of a stream that are in quarantine: those that pass the filter, from the first one on, up to a position. With
 * whole_calls, a call that reaches beyond that position ends it. Counts what there is on both sides of a version, and finds where the
 * stream goes on behind it. Refuses a version that is not in quarantine.
 */
void
es_consumer_find_skip(const EsFilter *filter, const text *stream, int64 upto_version, int64 upto_position, bool whole_calls,
					  EsSkip *skip)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EsScan	   *scan = es_scan_create(snapshot);
	EsFilterIds ids;
	EsHead		head;
	TupleTableSlot *slot;
	int64		begin = skip->position;
	int64		first = 0;
	int64		last = 0;
	int			settings = es_settings_open(NULL);

	if (!es_stream_find(stream, snapshot, &head))
		elog(ERROR, "stream \"%s\" has no head", text_to_cstring(stream));
	es_filter_resolve(filter, es_upcast_begin(es_definitions()), &ids);
	es_filter_scan(&ids, scan);
	/* One that cannot be upcast is in quarantine too, perhaps for that. */
	scan->catch_failures = true;
	scan->until_position = upto_position;
	es_scan_stream_after(scan, stream, &head, Max(skip->version, 1), head.version, skip->version == 0 ? 0 : begin - 1);
	skip->version = skip->position = 0;
	while ((slot = es_scan_next(scan)) != NULL)
	{
		int64		position = DatumGetInt64(es_row_column(slot, Anum_log_position));

		if (position < begin)
			continue;
		if (whole_calls && position + DatumGetInt32(es_row_column(slot, Anum_log_rest)) > upto_position)
			break;
		last = DatumGetInt64(es_row_column(slot, Anum_log_version));
		if (first == 0)
			first = last;
		if (last <= upto_version)
			skip->skipped++;
		else if (skip->left++ == 0)
		{
			skip->version = last;
			skip->position = position;
		}
	}
	es_settings_close(settings);
	es_scan_end(scan);
	/* Where upcasters leave nothing of them any more, no version is right, and any ends it. */
	if (first != 0 && (upto_version < first || upto_version > last))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument up_to_version must be between %lld and %lld", (long long) first, (long long) last),
				 errdetail("It is %lld; these are the versions of stream \"%s\" that are in quarantine.",
						   (long long) upto_version, text_to_cstring(stream))));
}
