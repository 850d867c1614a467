/*
 * subscription/definition.h
 *	  Subscriptions: cursors of consumers outside the database.
 */
#ifndef ES_SUBSCRIPTION_DEFINITION_H
#define ES_SUBSCRIPTION_DEFINITION_H

#include "fmgr.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

#include "base/base.h"
#include "consumer/consumer.h"

typedef struct EsSubscription
{
	int32		id;
	int64		position;		/* the frontier: see subscription/definition.c */
	EsFilter	filter;
} EsSubscription;

/* A statement whose plan the session keeps; a variable of the function that runs it. */
typedef struct EsStatement
{
	const char *sql;
	int			nargs;
	Oid			types[6];
	SPIPlanPtr	plan;
} EsStatement;

extern uint64 es_statement_run(EsStatement *statement, Datum *values, const char *nulls);
extern Datum es_statement_value(uint64 row, int column, bool *isnull);

extern void es_subscription_begin(EsSql *sql);
extern text *es_subscription_argument(FunctionCallInfo fcinfo, int n, const char *name);
extern text *es_consumer_argument(FunctionCallInfo fcinfo, int n);
extern void es_subscription_prevent(const char *function);
extern void es_subscription_find(const text *name, bool lock, MemoryContext context, EsSubscription *sub);

#endif							/* ES_SUBSCRIPTION_DEFINITION_H */
