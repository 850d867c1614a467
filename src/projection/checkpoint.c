/*
 * projection/checkpoint.c
 *	  Checkpoints: how far a projection, or a rebuild of one, has come.
 *
 * A checkpoint is a row that is updated in the same transaction as the projection's tables, so that every event is
 * applied exactly once. The row is also the lock: whoever runs a batch, or changes what a batch depends on, holds it to
 * the end of the transaction.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"
#include "projection/checkpoint.h"

/* The rate of events is an average over about this time. */
#define RATE_SECONDS	10.0

static SPIPlanPtr lock_plan = NULL;
static SPIPlanPtr try_plan = NULL;
static SPIPlanPtr peek_plan = NULL;
static SPIPlanPtr save_plan = NULL;

static int64
int_column(int column, Oid type)
{
	bool		isnull;
	Datum		value = es_sql_first(column, type, &isnull);

	return isnull ? 0 : DatumGetInt64(value);
}

/* Locks a checkpoint and reads it. False: there is none, or another process holds it and wait is false. */
bool
es_checkpoint_lock(const char *projection, bool rebuild, bool wait, EsCheckpoint *checkpoint)
{
	EsSql		sql;
	Oid			types[2] = {TEXTOID, BOOLOID};
	Datum		values[2];
	bool		found;

	values[0] = CStringGetTextDatum(projection);
	values[1] = BoolGetDatum(rebuild);
	es_sql_begin(&sql, es_store()->owner);
#define LOCK_CHECKPOINT \
	"SELECT position, scan_from, failures::bigint, quarantined::bigint, attempts::bigint, retry_at, rate, last_active," \
	" begun, suspect::int::bigint, crashes::bigint, crashed_at" \
	" FROM event_store.checkpoints WHERE projection = $1 AND rebuild = $2 FOR UPDATE"
	if (wait)
		found = es_sql_run_kept(&lock_plan, LOCK_CHECKPOINT, 2, types, values, NULL) > 0;
	else
		found = es_sql_run_kept(&try_plan, LOCK_CHECKPOINT " SKIP LOCKED", 2, types, values, NULL) > 0;
	if (found)
	{
		checkpoint->projection = projection;
		checkpoint->rebuild = rebuild;
		checkpoint->cursor.position = int_column(1, INT8OID);
		checkpoint->cursor.scan_from = int_column(2, INT8OID);
		checkpoint->failures = int_column(3, INT8OID);
		checkpoint->quarantined = int_column(4, INT8OID);
		checkpoint->attempts = int_column(5, INT8OID);
		checkpoint->retry_at = int_column(6, TIMESTAMPTZOID);	/* timestamps are bigints in C */
		checkpoint->rate = DatumGetFloat8(es_sql_first(7, FLOAT8OID, NULL));
		checkpoint->last_active = int_column(8, TIMESTAMPTZOID);
		checkpoint->begun = int_column(9, TIMESTAMPTZOID);
		checkpoint->suspect = int_column(10, INT8OID) != 0;
		checkpoint->crashes = int_column(11, INT8OID);
		checkpoint->crashed_at = int_column(12, TIMESTAMPTZOID);
	}
	es_sql_end(&sql);
	(void) es_store_now();		/* notices what was committed while we waited */
	return found;
}

/* Reads the position of a projection, as committed now, without a lock. False: there is no checkpoint. */
bool
es_checkpoint_peek(const char *projection, int64 *position)
{
	EsSql		sql;
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	bool		found;

	values[0] = CStringGetTextDatum(projection);
	es_sql_begin(&sql, es_store()->owner);
	found = es_sql_run_kept(&peek_plan, "SELECT position FROM event_store.checkpoints WHERE projection = $1"
							" AND NOT rebuild", 1, types, values, NULL) > 0;
	if (found)
		*position = int_column(1, INT8OID);
	es_sql_end(&sql);
	return found;
}

/*
 * What becomes of the column upcasters when events were read with a set of them, a parameter of the statement: the first
 * set stays; with another one it is empty for good, which is no set's digest. (docs/internals/definitions.md)
 */
#define WITH_UPCASTERS(parameter) \
	"upcasters = CASE WHEN " parameter " IS NULL OR upcasters = " parameter " THEN upcasters" \
	" WHEN upcasters IS NULL THEN " parameter " ELSE '' END"

static Datum
digest_datum(const uint8 *digest, int len)
{
	bytea	   *value = palloc(VARHDRSZ + len);

	SET_VARSIZE(value, VARHDRSZ + len);
	memcpy(VARDATA(value), digest, len);
	return PointerGetDatum(value);
}

/*
 * Stores a checkpoint after so many events were applied, and forgets earlier failures. upcasters: those that events were
 * read with; NULL: no event was passed. several: some of them with others.
 */
void
es_checkpoint_save(EsCheckpoint *checkpoint, int64 events, const uint8 *upcasters, bool several)
{
	EsSql		sql;
	Oid			types[12] = {TEXTOID, BOOLOID, INT8OID, INT8OID, INT8OID, FLOAT8OID, TIMESTAMPTZOID, INT4OID, INT4OID, BOOLOID, INT4OID,
	BYTEAOID};
	Datum		values[12];
	char		nulls[12];
	uint64		rows;
	TimestampTz now = GetCurrentTimestamp();
	double		seconds = checkpoint->last_active == 0 ? RATE_SECONDS :
		Max(now - checkpoint->last_active, 1) / (double) USECS_PER_SEC;
	double		weight = 1 - exp(-seconds / RATE_SECONDS);

	if (events > 0)
	{
		checkpoint->rate += (events / seconds - checkpoint->rate) * weight;
		checkpoint->last_active = now;
	}
	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(checkpoint->projection);
	values[1] = BoolGetDatum(checkpoint->rebuild);
	values[2] = Int64GetDatum(checkpoint->cursor.position);
	values[3] = Int64GetDatum(checkpoint->cursor.scan_from);
	values[4] = Int64GetDatum(events);
	values[5] = Float8GetDatum(checkpoint->rate);
	values[6] = TimestampTzGetDatum(checkpoint->last_active);
	nulls[6] = checkpoint->last_active == 0 ? 'n' : ' ';
	values[7] = Int32GetDatum(checkpoint->failures);
	values[8] = Int32GetDatum(checkpoint->quarantined);
	values[9] = BoolGetDatum(checkpoint->suspect);
	values[10] = Int32GetDatum(checkpoint->suspect ? checkpoint->crashes : 0);
	values[11] = upcasters == NULL ? (Datum) 0 : digest_datum(upcasters, several ? 0 : ES_DIGEST_LEN);
	nulls[11] = upcasters == NULL ? 'n' : ' ';
	es_sql_begin(&sql, es_store()->owner);
	rows = es_sql_write_kept("checkpoints", &save_plan,
							 "UPDATE event_store.checkpoints SET position = $3, scan_from = $4,"
							 " events = events + $5, rate = $6, last_active = $7, failures = $8, quarantined = $9,"
							 " attempts = 0, retry_at = NULL, error = NULL, error_code = NULL, error_position = NULL,"
							 " begun = NULL, suspect = $10, crashes = $11, "
							 WITH_UPCASTERS("$12")
							 " WHERE projection = $1 AND rebuild = $2", 12, types, values, nulls);
	es_sql_check_written("checkpoints", rows, 1);
	es_sql_end(&sql);
	es_transaction_progressed();
}

/* Notes that events are read with the upcasters of now from here on, without a batch that says so. */
void
es_checkpoint_upcasters(const char *projection, bool rebuild, const EsFilter *filter)
{
	Oid			types[3] = {TEXTOID, BOOLOID, BYTEAOID};
	Datum		values[3];
	uint8		digest[ES_DIGEST_LEN];
	EsSql		sql;

	es_upcaster_set(es_definitions_latest(), filter->types, filter->all_types, digest);
	values[0] = CStringGetTextDatum(projection);
	values[1] = BoolGetDatum(rebuild);
	values[2] = digest_datum(digest, ES_DIGEST_LEN);
	es_sql_begin(&sql, es_store()->owner);
	es_sql_check_written("checkpoints",
						 es_sql_write_args("checkpoints", "UPDATE event_store.checkpoints SET " WITH_UPCASTERS("$3")
										   " WHERE projection = $1 AND rebuild = $2", 3, types, values, NULL), 1);
	es_sql_end(&sql);
	CommandCounterIncrement();
}

/* Stores that an attempt begins, or what has become of an earlier one. */
void
es_checkpoint_attempt(const EsCheckpoint *checkpoint)
{
	EsSql		sql;
	Oid			types[7] = {TEXTOID, BOOLOID, TIMESTAMPTZOID, BOOLOID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID};
	Datum		values[7];
	char		nulls[7];
	uint64		rows;

	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(checkpoint->projection);
	values[1] = BoolGetDatum(checkpoint->rebuild);
	values[2] = TimestampTzGetDatum(checkpoint->begun);
	nulls[2] = checkpoint->begun == 0 ? 'n' : ' ';
	values[3] = BoolGetDatum(checkpoint->suspect);
	values[4] = Int32GetDatum(checkpoint->crashes);
	values[5] = TimestampTzGetDatum(checkpoint->crashed_at);
	nulls[5] = checkpoint->crashed_at == 0 ? 'n' : ' ';
	values[6] = TimestampTzGetDatum(checkpoint->retry_at);
	nulls[6] = checkpoint->retry_at == 0 ? 'n' : ' ';
	es_sql_begin(&sql, es_store()->owner);
	rows = es_sql_write_args("checkpoints",
							 "UPDATE event_store.checkpoints SET begun = $3, suspect = $4, crashes = $5, crashed_at = $6,"
							 " retry_at = $7 WHERE projection = $1 AND rebuild = $2", 7, types, values, nulls);
	es_sql_check_written("checkpoints", rows, 1);
	es_sql_end(&sql);
}

/* Stores why a batch was not applied, and when to try again. The position stays. */
void
es_checkpoint_fail(EsCheckpoint *checkpoint, const ErrorData *error, int64 position)
{
	EsSql		sql;
	Oid			types[7] = {TEXTOID, BOOLOID, INT4OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, INT8OID};
	Datum		values[7];

	values[0] = CStringGetTextDatum(checkpoint->projection);
	values[1] = BoolGetDatum(checkpoint->rebuild);
	values[2] = Int32GetDatum(checkpoint->attempts);
	values[3] = TimestampTzGetDatum(checkpoint->retry_at);
	values[4] = CStringGetTextDatum(error->message);
	values[5] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
	values[6] = Int64GetDatum(position);
	es_sql_begin(&sql, es_store()->owner);
	es_sql_write_args("checkpoints",
					  "UPDATE event_store.checkpoints SET attempts = $3, retry_at = $4, error = $5, error_code = $6,"
					  " error_position = $7, begun = NULL WHERE projection = $1 AND rebuild = $2", 7, types, values, NULL);
	es_sql_end(&sql);
}
