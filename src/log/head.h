/*
 * log/head.h
 *	  Head rows: a stream's lock and its truth.
 */
#ifndef ES_LOG_HEAD_H
#define ES_LOG_HEAD_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "nodes/execnodes.h"
#include "storage/itemptr.h"
#include "storage/lockdefs.h"

#include "log/digest.h"

typedef struct EsHead
{
	ItemPointerData tid;
	int64		id;
	int64		first_position;	/* 0: no event yet */
	int64		last_position;
	int64		version;		/* 0: no event yet */
	TimestampTz created_at;
	TimestampTz recorded_at;	/* of the last event */
	TransactionId writer;		/* of this version of the row; invalid: it is frozen */
	XLogRecPtr	frozen_lsn;		/* its page's: behind the writer's commit */
	int32		category;
	uint8		digest[ES_DIGEST_LEN];
} EsHead;

/* The heads table, open for the length of one call. */
typedef struct EsHeads
{
	Relation	rel;
	Relation	name_index;
	TupleTableSlot *slot;
	EState	   *estate;			/* made when first needed: NULL for readers */
	ResultRelInfo *rri;
	union
	{
		bytea		header;
		char		space[VARHDRSZ + ES_DIGEST_LEN];
	}			digest;			/* what the slot's digest points to */
} EsHeads;

typedef enum EsHeadLock
{
	ES_HEAD_LOCKED,
	ES_HEAD_MADE,				/* new: only a later command can update it */
	ES_HEAD_BEYOND				/* not locked: its committed version is beyond the limit */
} EsHeadLock;

extern void es_heads_open(EsHeads *heads, LOCKMODE lockmode);
extern void es_heads_close(EsHeads *heads);
extern void es_head_read(TupleTableSlot *slot, EsHead *head);
extern EsHeadLock es_head_lock(EsHeads *heads, const text *name, int32 category, int64 limit,
							   EsHead *head);
extern void es_head_update(EsHeads *heads, const text *name, EsHead *head);
extern bool es_stream_find(const text *name, Snapshot snapshot, EsHead *head);
extern text *es_stream_by_id(int64 id, Snapshot snapshot, EsHead *head);

#endif							/* ES_LOG_HEAD_H */
