/*
 * es_scan.h
 *	  The one routine that reads events.
 */
#ifndef ES_SCAN_H
#define ES_SCAN_H

#include "access/genam.h"
#include "executor/tuptable.h"
#include "nodes/bitmapset.h"
#include "utils/hsearch.h"

#include "es_head.h"
#include "es_partition.h"
#include "es_store.h"

#define ES_NO_LIMIT		(-1)

typedef struct EsScan
{
	/* what is wanted: set before es_scan_start() */
	Snapshot	snapshot;		/* registered; released by es_scan_end() */
	bool		backward;
	int64		limit;			/* rows still to come, ES_NO_LIMIT for all */
	bool		filter_types;
	Bitmapset  *types;			/* ids, when filter_types */
	bool		filter_categories;
	Bitmapset  *categories;

	/* private */
	bool		by_stream;
	int64		stream;
	int64		from;			/* first position, or version of the stream, wanted */
	int64		to;				/* last one */
	int64		left;			/* by stream: versions still to come */
	int64		last_position;	/* of the row before */
	EsLeaf	   *leaves;
	int			leaf_count;
	int			leaf;			/* the one being read */
	Relation	rel;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	text	   *stream_name;	/* by stream */
	HTAB	   *names;			/* stream names by id, else */
	MemoryContext names_context;
	MemoryContext context;
} EsScan;

extern EsScan *es_scan_create(Snapshot snapshot);
extern void es_scan_stream(EsScan *scan, const text *name, const EsHead *head, int64 from, int64 to);
extern void es_scan_positions(EsScan *scan, int64 after, int64 upto);
extern TupleTableSlot *es_scan_next(EsScan *scan);
extern text *es_scan_stream_name(EsScan *scan, int64 stream);
extern void es_scan_end(EsScan *scan);

/* A column of the row that es_scan_next() returned; never NULL but for salt, data and metadata. */
static inline Datum
es_row_column(TupleTableSlot *slot, int column)
{
	if (slot->tts_nvalid < column)
		slot_getsomeattrs(slot, column);
	return slot->tts_values[column - 1];
}

#endif							/* ES_SCAN_H */
