/*
 * subscription/definition.h
 *	  Subscriptions: cursors of consumers outside the database.
 */
#ifndef ES_SUBSCRIPTION_DEFINITION_H
#define ES_SUBSCRIPTION_DEFINITION_H

#include "datatype/timestamp.h"
#include "fmgr.h"

#include "base/base.h"
#include "consumer/consumer.h"

typedef struct EsSubscription
{
	int32		id;
	int64		position;		/* the frontier: see subscription/definition.c */
	TimestampTz paused_until;	/* nothing is delivered before; DT_NOEND: until it is resumed */
	EsFilter	filter;
} EsSubscription;

extern text *es_subscription_argument(FunctionCallInfo fcinfo, int n, const char *name);
extern text *es_consumer_argument(FunctionCallInfo fcinfo, int n);
extern void es_subscription_check_transaction(const char *function);
ES_NORETURN extern void es_subscription_unknown(const text *name);
extern void es_subscription_find(const text *name, bool lock, MemoryContext context, EsSubscription *sub);

#endif							/* ES_SUBSCRIPTION_DEFINITION_H */
