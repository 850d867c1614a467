/*
 * subscription/fetch.h
 *	  A fetch in progress.
 */
#ifndef ES_SUBSCRIPTION_FETCH_H
#define ES_SUBSCRIPTION_FETCH_H

#include "nodes/execnodes.h"
#include "utils/hsearch.h"
#include "utils/snapshot.h"

#include "base/base.h"
#include "log/log.h"
#include "consumer/consumer.h"
#include "subscription/definition.h"
#include "subscription/statement.h"

/* While a consumer waits, events of others' streams are read again and again until there are so many of them. */
#define ES_MAX_PASSED_WAITING	1000

/* What a stream is to the consumer that fetches. */
typedef enum EsStreamState
{
	ES_STREAM_NOT_IN_FLIGHT,
	ES_STREAM_MINE,
	ES_STREAM_OTHERS			/* another consumer holds it, it is quarantined, or it is free but not taken */
} EsStreamState;

/* A row of subscription_streams that the consumer holds, or a free one that it may take. */
typedef struct EsPending
{
	int64		stream;
	int64		version;		/* as stored: of the first event not acknowledged */
	int64		position;
	bool		mine;			/* else it is free */
	bool		cut;			/* not all of its events were returned: there was no room */
	int64		found_version;	/* of the first event that passes the filter, when found_position is set */
	int64		found_position;
	bool		returned;		/* at least that event was returned */
} EsPending;

typedef struct EsFetch
{
	/* the call */
	const text *name;
	const text *consumer;
	int			max_count;
	int64		lease;			/* microseconds */
	EsSubscription sub;
	bool		peeking;		/* only looks whether there is anything */

	/* what is read */
	int64		mark;
	Snapshot	snapshot;
	EsFilterIds filter;
	EsTransform *upcast;
	HTAB	   *states;			/* of the streams met so far */
	EsLookup	in_flight;		/* subscription_streams, to look up the others */

	EsPending  *pending;
	int			pending_count;

	/* what came of it */
	ReturnSetInfo *rsinfo;
	int64		count;			/* events returned; peeking: found */
	int64		last_position;	/* of the last of them */
	int64		frontier;
	int64		passed;			/* events of others' streams that were passed over */
	int64		first_passed;	/* peeking: position of the first of them */
	int64		covered;		/* up to here, everything of the consumer's streams was returned */
	EsStreamRows fresh;			/* streams that were assigned as the log was read */
} EsFetch;

/* What one or several peeks have found out. */
typedef struct EsPeek
{
	int32		subscription;
	int64		frontier;		/* the subscription's, at the last peek */
	int64		clear_until;	/* from the frontier to here, the log has nothing for the consumer */
	bool		behind;			/* there is more of the log to read, now */
	TimestampTz lease_end;		/* when the next lease ends of another consumer that holds streams */
} EsPeek;

/* subscription/fetch.c */
extern void es_fetch_begin_reading(EsFetch *fetch);
extern void es_fetch_end_reading(EsFetch *fetch);
extern EsScan *es_fetch_scan(EsFetch *fetch);
extern void es_fetch_set_state(EsFetch *fetch, int64 stream, EsStreamState state);
extern void es_fetch_from_log(EsFetch *fetch);

/* subscription/pending.c */
extern void es_pending_find(EsFetch *fetch, MemoryContext context);
extern void es_pending_return(EsFetch *fetch);
extern void es_pending_store(EsFetch *fetch);

/* subscription/wait.c */
extern bool es_fetch_wait(const EsFetch *call, int64 wait, EsPeek *seen);

#endif							/* ES_SUBSCRIPTION_FETCH_H */
