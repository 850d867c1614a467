/*
 * log/row.c
 *	  Writing rows of the log, below SQL.
 *
 * The executor is not used, so what it would do is done here: finding the partition of a row, entries in all indexes
 * (also those that a DBA has added), NOT NULL and CHECK constraints where there are any. A partition with triggers of
 * a user is refused. Privileges were checked with EXECUTE on the calling function.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/table.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/base.h"
#include "log/log.h"
#include "log/owner_code.h"
#include "log/partition.h"

/* How many rows one multi-insert writes at most. A slot for each event would cost more than the insert itself. */
#define MAX_ROWS		64

/* When the rows that wait have this much data, they are written. */
#define MAX_BYTES		65536

struct EsLogWriter
{
	EsPartition partition;		/* the open one */
	Relation	rel;			/* NULL: none is open */
	EState	   *estate;
	MemoryContext scratch;		/* reset when rows were written */
	ResultRelInfo *rri;
	BulkInsertState bulk;
	bool		check_constraints;
	bool		many;			/* more than one row will be written */
	Size		bytes;			/* of data in the rows that wait */
	int			used;			/* rows that wait, in the first of the slots */
	int			made;			/* slots that exist, the first of these */
	TupleTableSlot *slots[MAX_ROWS];
};

static void
open_partition(EsLogWriter *writer, int64 position)
{
	writer->partition = es_partition_for(position);
	writer->rel = table_open(writer->partition.relid, RowExclusiveLock);
	es_store_check_partition(writer->rel);
	writer->check_constraints = writer->rel->rd_att->constr != NULL &&
		(writer->rel->rd_att->constr->num_check > 0 || writer->rel->rd_att->constr->has_not_null);
	writer->rri = makeNode(ResultRelInfo);
	/*
	 * Range table index 0 means that there is no range table. Error messages of constraints then do not look into it.
	 */
	InitResultRelInfo(writer->rri, writer->rel, 0, NULL, 0);
	es_owner_code_open_indexes(writer->rri, false);
	if (writer->many)
		writer->bulk = GetBulkInsertState();
}

static void
insert_indexes(EsLogWriter *writer, TupleTableSlot *slot)
{
	es_insert_index_tuples(writer->rri, slot, writer->estate, false, NULL, NIL);
	ResetPerTupleExprContext(writer->estate);
}

/* Writes the rows that wait. */
static void
flush(EsLogWriter *writer)
{
	CommandId	cid = GetCurrentCommandId(true);
	MemoryContext old;
	EsOwnerCode code;

	if (writer->used == 0)
		return;
	/* Each multi-insert leaves memory of about the size of a page allocated. */
	old = MemoryContextSwitchTo(writer->scratch);
	es_owner_code_begin(&code, writer->rri);
	if (writer->check_constraints)
	{
		for (int i = 0; i < writer->used; i++)
			ExecConstraints(writer->rri, writer->slots[i], writer->estate);
	}
	if (writer->many)
		table_multi_insert(writer->rel, writer->slots, writer->used, cid, 0, writer->bulk);
	else
		table_tuple_insert(writer->rel, writer->slots[0], cid, 0, NULL);
	for (int i = 0; i < writer->used; i++)
	{
		insert_indexes(writer, writer->slots[i]);
		ExecClearTuple(writer->slots[i]);
	}
	es_owner_code_end(&code);
	writer->used = 0;
	writer->bytes = 0;
	MemoryContextSwitchTo(old);
	MemoryContextReset(writer->scratch);
}

static void
close_partition(EsLogWriter *writer)
{
	flush(writer);
	for (int i = 0; i < writer->made; i++)
		ExecDropSingleTupleTableSlot(writer->slots[i]);
	writer->made = 0;
	if (writer->bulk != NULL)
	{
		FreeBulkInsertState(writer->bulk);
		table_finish_bulk_insert(writer->rel, 0);
		writer->bulk = NULL;
	}
	ExecCloseIndices(writer->rri);
	table_close(writer->rel, NoLock);
	writer->rel = NULL;
}

/* Begins to write a number of rows. For a single one another way to insert is chosen than for several. */
EsLogWriter *
es_log_writer_begin(int64 rows)
{
	EsLogWriter *writer = palloc(sizeof(EsLogWriter));

	memset(writer, 0, offsetof(EsLogWriter, slots));
	writer->estate = CreateExecutorState();
	writer->scratch = AllocSetContextCreate(CurrentMemoryContext, "event_store insert",
											ALLOCSET_DEFAULT_SIZES);
	writer->many = rows > 1;
	return writer;
}

/*
 * Writes the row of an event. It may wait until more rows have come. So the event and what it points to must stay
 * where they are until es_log_writer_end().
 */
void
es_log_write(EsLogWriter *writer, const EsEvent *event)
{
	TupleTableSlot *slot;

	if (writer->rel != NULL &&
		(event->position < writer->partition.from || event->position >= writer->partition.to))
		close_partition(writer);
	if (writer->rel == NULL)
		open_partition(writer, event->position);

	if (writer->used == writer->made)
		writer->slots[writer->made++] = table_slot_create(writer->rel, NULL);
	slot = writer->slots[writer->used];

	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, slot->tts_tupleDescriptor->natts * sizeof(bool));
	memset(slot->tts_isnull, 0, Natts_log * sizeof(bool));
	slot->tts_values[Anum_log_position - 1] = Int64GetDatum(event->position);
	slot->tts_values[Anum_log_stream - 1] = Int64GetDatum(event->stream_id);
	slot->tts_values[Anum_log_version - 1] = Int64GetDatum(event->version);
	slot->tts_values[Anum_log_occurred_at - 1] = TimestampTzGetDatum(event->occurred_at);
	slot->tts_values[Anum_log_recorded_at - 1] = TimestampTzGetDatum(event->recorded_at);
	slot->tts_values[Anum_log_category - 1] = Int32GetDatum(event->category_id);
	slot->tts_values[Anum_log_event_type - 1] = Int32GetDatum(event->type_id);
	slot->tts_values[Anum_log_schema_version - 1] = Int32GetDatum(event->schema_version);
	slot->tts_values[Anum_log_rest - 1] = Int32GetDatum(event->rest);
	slot->tts_values[Anum_log_event_id - 1] = UUIDPGetDatum(&event->id);
	slot->tts_values[Anum_log_salt - 1] = UUIDPGetDatum(&event->salt);
	slot->tts_values[Anum_log_data - 1] = JsonbPGetDatum(event->data);
	if (event->metadata != NULL)
		slot->tts_values[Anum_log_metadata - 1] = JsonbPGetDatum(event->metadata);
	else
	{
		slot->tts_values[Anum_log_metadata - 1] = (Datum) 0;
		slot->tts_isnull[Anum_log_metadata - 1] = true;
	}
	ExecStoreVirtualTuple(slot);

	writer->used++;
	writer->bytes += VARSIZE(event->data);
	if (writer->used == MAX_ROWS || writer->bytes > MAX_BYTES)
	{
		CHECK_FOR_INTERRUPTS();
		flush(writer);
	}
}

/* Writes the rows that still wait, and frees the writer. */
void
es_log_writer_end(EsLogWriter *writer)
{
	if (writer->rel != NULL)
		close_partition(writer);
	FreeExecutorState(writer->estate);
	MemoryContextDelete(writer->scratch);
	pfree(writer);
}
