/*
 * subscription/statement.c
 *	  Statements on the tables of subscriptions: kept plans, and rows that are written by one statement.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"

#include "base/base.h"
#include "store/store.h"
#include "subscription/statement.h"

/*
 * Begins to run SQL on the tables of subscriptions, as the store's owner. Their rows come and go by the thousand, so
 * their statistics are soon wrong. Therefore plans always use the indexes. Index scans also mark entries of dead
 * rows, and later scans skip them.
 */
void
es_subscription_begin(EsSql *sql)
{
	es_sql_begin(sql, es_store()->owner);
	es_pin_setting("enable_seqscan", "off");
	es_pin_setting("enable_bitmapscan", "off");
	es_pin_setting("enable_hashjoin", "off");
	es_pin_setting("enable_mergejoin", "off");
	es_pin_setting("jit", "off");
}

/* Runs a statement. It is planned once a session; the plan cache plans it again when its tables have changed. */
uint64
es_statement_run(EsStatement *statement, Datum *values, const char *nulls)
{
	if (statement->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare_cursor(statement->sql, statement->nargs, statement->types,
											  CURSOR_OPT_GENERIC_PLAN);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "SPI failed with %s on: %s", SPI_result_code_string(SPI_result), statement->sql);
		statement->plan = plan;
	}
	return es_sql_write_plan(statement->writes, statement->plan, statement->sql, values, nulls);
}

/* Runs a statement that must change this many rows. */
void
es_statement_change(EsStatement *statement, Datum *values, uint64 rows)
{
	es_sql_check_written(statement->writes, es_statement_run(statement, values, NULL), rows);
}

/* A value of the last statement's result, which must be of this type; isnull NULL: nor may it be NULL. */
Datum
es_statement_value(uint64 row, int column, Oid type, bool *isnull)
{
	return es_sql_value(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, type, isnull);
}

static Datum *
enlarge(Datum *column, int room)
{
	Size		size = sizeof(Datum) * room;

	return column == NULL ? palloc(size) : repalloc(column, size);
}

void
es_stream_rows_add(EsStreamRows *rows, int64 stream, int64 version, int64 position)
{
	if (rows->count == rows->room)
	{
		rows->room = Max(64, rows->room * 2);
		rows->streams = enlarge(rows->streams, rows->room);
		rows->versions = enlarge(rows->versions, rows->room);
		rows->positions = enlarge(rows->positions, rows->room);
	}
	rows->streams[rows->count] = Int64GetDatum(stream);
	rows->versions[rows->count] = Int64GetDatum(version);
	rows->positions[rows->count++] = Int64GetDatum(position);
}

static Datum
bigint_array(Datum *values, int count)
{
	return PointerGetDatum(construct_array(values, count, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* The column of streams alone, as a bigint[]. */
Datum
es_stream_rows_streams(const EsStreamRows *rows)
{
	return bigint_array(rows->streams, rows->count);
}

/* All three columns, as three values of type bigint[]: streams, versions, positions. */
void
es_stream_rows_arrays(const EsStreamRows *rows, Datum *values)
{
	values[0] = bigint_array(rows->streams, rows->count);
	values[1] = bigint_array(rows->versions, rows->count);
	values[2] = bigint_array(rows->positions, rows->count);
}
