/*
 * projection/batch.h
 *	  Batches of events for a projection. A batch never splits a call of an append.
 */
#ifndef ES_PROJECTION_BATCH_H
#define ES_PROJECTION_BATCH_H

#include "access/tupdesc.h"
#include "utils/snapshot.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "log/log.h"
#include "consumer/consumer.h"

/* The relation through which a handler sees its batch. */
#define ES_NEW_EVENTS	"new_events"

/* What has been delivered: see projection/batch.c. */
typedef struct EsCursor
{
	int64		position;		/* C: everything with a delivery key up to here */
	int64		scan_from;		/* D: the lowest position that was not */
} EsCursor;

typedef struct EsBatchEvent
{
	int64		position;
	int64		key;			/* delivery key: the last position of its call */
	int64		stream;
	bool		left_out;		/* not delivered by this batch: its call goes on behind it, or is quarantined */
	ErrorData  *failure;		/* it could not be upcast */
} EsBatchEvent;

typedef struct EsBatch
{
	MemoryContext context;
	Tuplestorestate *rows;		/* es_recorded_event, one for each of events[]; columns that nobody sees are NULL */
	TupleDesc	desc;
	uint32		columns;		/* bits of the columns that the handler can see */
	EsBatchEvent *events;		/* in position order */
	int64		count;
	int64		space;
	int64	   *calls;			/* delivery keys, ascending: each call once */
	int64		call_count;
	int64	   *members;		/* indexes into events[], call by call; made by es_batch_members() */
	int64	   *starts;			/* where each call begins in members[], and one more for the end */
	EsCursor	next;			/* where the next batch begins */
	bool		more;			/* there may be more events up to the mark */
	TimestampTz last_recorded_at;	/* of its last event */
	uint8		upcasters[ES_DIGEST_LEN];	/* es_upcaster_set() of those that it was read with */
} EsBatch;

extern EsBatch *es_batch_read(const EsFilter *filter, uint32 columns, Snapshot snapshot, const EsCursor *from,
							  int64 upto, int64 limit, int64 max, bool catch_failures);
extern EsBatch *es_batch_of_call(const EsFilter *filter, uint32 columns, Snapshot snapshot, int64 first, int64 last);
extern EsBatch *es_batch_of_streams(const EsFilter *filter, uint32 columns, Snapshot snapshot, int64 *streams,
									int64 *positions, int count, int64 upto, bool catch_failures);
extern EsBatch *es_batch_empty(void);
extern uint32 es_event_column(const char *name);
extern void es_batch_free(EsBatch *batch);
extern int64 es_batch_call(const EsBatch *batch, int64 key);
extern void es_batch_members(EsBatch *batch);

#endif							/* ES_PROJECTION_BATCH_H */
