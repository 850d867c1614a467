/*
 * log/row.h
 *	  Writing rows of the log.
 */
#ifndef ES_LOG_ROW_H
#define ES_LOG_ROW_H

#include "access/heapam.h"
#include "nodes/execnodes.h"

#include "log/partition.h"
#include "store/location.h"

/* Slots that one multi-insert uses; a slot an event would cost more than the insert itself. */
#define ES_LOG_SLOTS	64

typedef struct EsLogRow
{
	int64		position;
	int64		stream;
	int64		version;
	TimestampTz occurred_at;
	TimestampTz recorded_at;
	int32		category;
	int32		event_type;
	int32		schema_version;
	int32		rest;
	const pg_uuid_t *event_id;
	const pg_uuid_t *salt;
	Jsonb	   *data;
	Jsonb	   *metadata;		/* may be NULL */
} EsLogRow;

typedef struct EsLogWriter
{
	EsPartition		partition;
	Relation	rel;			/* NULL: no leaf open */
	EState	   *estate;
	MemoryContext scratch;		/* of one flush */
	ResultRelInfo *rri;
	BulkInsertState bulk;
	bool		check_constraints;
	bool		many;			/* more than one row will come */
	int			used;
	int			made;			/* slots that exist */
	TupleTableSlot *slots[ES_LOG_SLOTS];
	pg_uuid_t	ids[ES_LOG_SLOTS];
	pg_uuid_t	salts[ES_LOG_SLOTS];
	Size		bytes;			/* payload in the used slots */
} EsLogWriter;

extern EsLogWriter *es_log_writer_begin(int64 rows);
extern void es_log_write(EsLogWriter *writer, const EsLogRow *row);
extern void es_log_writer_end(EsLogWriter *writer);

#endif							/* ES_LOG_ROW_H */
