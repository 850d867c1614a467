/*
 * log/position.c
 *	  The sequence of global positions.
 *
 * nextval takes RowExclusiveLock on the sequence and keeps it to the end of the top transaction. It is released only
 * after the transaction's rows have become visible to new snapshots. By this lock log/mark.c finds the transactions
 * that it must wait for. So whoever only reads the sequence must not take that lock or a stronger one, because he
 * would look like an appender. pg_sequence_last_value() takes it, so the sequence's page is read here instead.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "commands/sequence.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"

#include "base/base.h"
#include "store/store.h"
#include "log/epoch.h"
#include "log/log.h"
#include "log/position.h"
#include "log/transaction.h"

/* The last value that a sequence has given or was set to, by whatever transaction; the one before the first if none. */
int64
es_sequence_last(Oid sequence)
{
	Relation	seq = relation_open(sequence, AccessShareLock);
	Buffer		buf = ReadBuffer(seq, 0);
	Page		page;
	ItemId		item;
	HeapTupleHeader tuple;
	Form_pg_sequence_data data;
	int64		last;

	LockBuffer(buf, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buf);
	item = PageGetItemId(page, FirstOffsetNumber);
	tuple = (HeapTupleHeader) PageGetItem(page, item);
	data = (Form_pg_sequence_data) ((char *) tuple + tuple->t_hoff);
	last = data->is_called ? data->last_value : data->last_value - 1;
	UnlockReleaseBuffer(buf);
	relation_close(seq, AccessShareLock);
	return last;
}

/* The last position that any transaction has allocated; the one before the first if none has. */
int64
es_position_last(void)
{
	return es_sequence_last(es_store()->position_seq);
}

/* Allocates the next position. From now on this transaction holds the mark back, until it ends. */
int64
es_position_allocate(void)
{
	int64		position = nextval_internal(es_store()->position_seq, false);

	if (unlikely(position <= es_epoch_start()))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sequence \"%s.position_seq\" was set back", ES_SCHEMA),
				 errdetail("It gave position %lld, but positions of this epoch are above %lld.",
						   (long long) position, (long long) es_epoch_start()),
				 errhint("Run SELECT es_begin_epoch().")));
	es_transaction_allocated(position);
	return position;
}
