/*
 * subscription/statement.h
 *	  Statements on the tables of subscriptions.
 */
#ifndef ES_SUBSCRIPTION_STATEMENT_H
#define ES_SUBSCRIPTION_STATEMENT_H

#include "base/base.h"

/* A statement whose plan the session keeps; a static variable of the function that runs it. */
typedef struct EsStatement
{
	const char *writes;			/* the table of the store that it changes, NULL for none */
	const char *sql;
	int			nargs;
	Oid			types[6];
	SPIPlanPtr	plan;
} EsStatement;

/* Rows of subscription_streams that one statement writes: it gets each column as an array, and unnests the three. */
typedef struct EsStreamRows
{
	Datum	   *streams;
	Datum	   *versions;
	Datum	   *positions;
	int			count;
	int			room;
} EsStreamRows;

extern void es_subscription_begin(EsSql *sql);
extern uint64 es_statement_run(EsStatement *statement, Datum *values, const char *nulls);
extern void es_statement_change(EsStatement *statement, Datum *values, uint64 rows);
extern Datum es_statement_value(uint64 row, int column, Oid type, bool *isnull);
extern void es_stream_rows_add(EsStreamRows *rows, int64 stream, int64 version, int64 position);
extern Datum es_stream_rows_streams(const EsStreamRows *rows);
extern void es_stream_rows_arrays(const EsStreamRows *rows, Datum *values);

#endif							/* ES_SUBSCRIPTION_STATEMENT_H */
