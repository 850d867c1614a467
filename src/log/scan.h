/*
 * log/scan.h
 *	  The one routine that reads events.
 */
#ifndef ES_LOG_SCAN_H
#define ES_LOG_SCAN_H

#include "access/genam.h"
#include "executor/tuptable.h"
#include "nodes/bitmapset.h"
#include "utils/hsearch.h"

#include "log/head.h"
#include "log/partition.h"
#include "store/location.h"
#include "state/upcast.h"

#define ES_NO_LIMIT		(-1)

/* Columns of the type es_recorded_event. */
#define ES_EVENT_COLUMNS	11
#define ES_ALL_COLUMNS	((UINT32_C(1) << ES_EVENT_COLUMNS) - 1)

/* Where a leaf's index is being read. */
typedef struct EsScanCursor
{
	IndexScanDesc scan;
	TupleTableSlot *slot;		/* the row that it is at */
	int64		position;		/* of the row, when there are several cursors; 0: at its end */
} EsScanCursor;

typedef struct EsScan
{
	/* what is wanted: set before es_scan_start() */
	Snapshot	snapshot;		/* registered; released by es_scan_end() */
	bool		backward;
	int64		limit;			/* rows still to come, ES_NO_LIMIT for all */
	bool		has_until;		/* by stream: ends before the first event recorded after until */
	TimestampTz until;
	int64		until_position; /* by stream: ends before the first event after it; 0: at the last one */
	bool		raw;			/* by stream: the rows that are there, versions dense or not */
	bool		filter_types;
	Bitmapset  *types;			/* ids, when filter_types */
	List	   *type_names;		/* the same as text *, also of types that are not stored */
	EsUpcast   *upcast;			/* NULL: events are shown as they are stored */
	bool		upcast_shared;	/* the caller ends it */
	bool		catch_failures; /* an upcaster's error does not end the scan: see failure */
	bool		filter_categories;
	Bitmapset  *categories;

	/* of the current event, with catch_failures: why it could not be upcast; it is shown as it is stored */
	ErrorData  *failure;

	/* by stream: the last row passed, also one that an upcaster dropped; version 0: none */
	int64		passed_version;
	int64		passed_position;
	TimestampTz passed_recorded_at;

	/* private */
	bool		by_stream;
	int64		stream;
	int64		from;			/* first position, or version of the stream, wanted */
	int64		to;				/* last one */
	int64		left;			/* by stream: versions still to come */
	int64		last_position;	/* of the row before */
	EsPartition	   *partitions;
	int			partition_count;
	int			partition;			/* the one being read */
	Relation	rel;
	Relation	index;
	int			index_category; /* column of the index that has the category, when a filter asks for it; else 0 */
	int			index_type;		/* the same of the event type */
	EsScanCursor *cursors;		/* one, or in index order by category one for each of them */
	int			cursor_count;
	int			cursor;			/* whose row is the current one; -1: none yet */
	EsShape		shape;			/* the current event, when it was upcast */
	bool		changed;		/* it was */
	text	   *stream_name;	/* by stream */
	MemoryContext context;
} EsScan;

extern EsScan *es_scan_create(Snapshot snapshot);
extern void es_scan_stream(EsScan *scan, const text *name, const EsHead *head, int64 from, int64 to);
extern void es_scan_positions(EsScan *scan, int64 after, int64 upto);
extern int64 es_scan_step(Snapshot snapshot, int64 after, int64 step, int64 upto);
extern TupleTableSlot *es_scan_next(EsScan *scan);
extern text *es_scan_stream_name(EsScan *scan, int64 stream);
extern void es_scan_event(EsScan *scan, TupleTableSlot *slot, uint32 columns, Datum *values, bool *nulls);
extern void es_scan_end(EsScan *scan);
extern text *es_scan_type(EsScan *scan, TupleTableSlot *slot);
extern void es_scan_shape(EsScan *scan, TupleTableSlot *slot, EsShape *shape);

/* A column of the row that es_scan_next() returned; never NULL but for salt, data and metadata. */
static inline Datum
es_row_column(TupleTableSlot *slot, int column)
{
	if (slot->tts_nvalid < column)
		slot_getsomeattrs(slot, column);
	return slot->tts_values[column - 1];
}

/* The current event's data and the like, in the shape that upcasters gave them. */
static inline Datum
es_scan_data(EsScan *scan, TupleTableSlot *slot, bool *isnull)
{
	if (scan->changed)
	{
		*isnull = scan->shape.data_null;
		return scan->shape.data;
	}
	return slot_getattr(slot, Anum_log_data, isnull);
}

static inline int32
es_scan_schema_version(EsScan *scan, TupleTableSlot *slot)
{
	return scan->changed ? scan->shape.schema_version :
		DatumGetInt32(es_row_column(slot, Anum_log_schema_version));
}

/* 0 when the type is only a name. */
static inline int32
es_scan_type_id(EsScan *scan, TupleTableSlot *slot)
{
	return scan->changed ? scan->shape.type_id : DatumGetInt32(es_row_column(slot, Anum_log_event_type));
}

#endif							/* ES_LOG_SCAN_H */
