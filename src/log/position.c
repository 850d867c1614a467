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
#include "catalog/pg_sequence.h"
#include "commands/sequence.h"
#include "storage/bufmgr.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/base.h"
#include "store/store.h"
#include "log/epoch.h"
#include "log/log.h"
#include "log/mark.h"
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

/*
 * Refuses a sequence that was altered so that it does not give one position after the other. With a CACHE, a session would use
 * positions that it took from the sequence in a transaction that has ended.
 */
static void
check_sequence(Oid sequence)
{
	HeapTuple	tuple = SearchSysCache1(SEQRELID, ObjectIdGetDatum(sequence));
	Form_pg_sequence form;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for sequence %u", sequence);
	form = (Form_pg_sequence) GETSTRUCT(tuple);
	if (form->seqcache != 1 || form->seqincrement < 1 || form->seqcycle)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sequence \"%s.position_seq\" was altered", ES_SCHEMA),
				 errdetail("It has CACHE %lld, INCREMENT %lld%s.", (long long) form->seqcache, (long long) form->seqincrement,
						   form->seqcycle ? " and CYCLE" : ""),
				 errhint("ALTER SEQUENCE %s.position_seq CACHE 1 INCREMENT 1 NO CYCLE.", ES_SCHEMA)));
	ReleaseSysCache(tuple);
}

/*
 * Allocates the next position, which must be above another one. From now on this transaction holds the mark back, until it
 * ends. A sequence that was set back, into a range where no event is, would give positions that readers have passed: the
 * event would be acknowledged and never delivered.
 */
int64
es_position_allocate(int64 above)
{
	Oid			sequence = es_store()->position_seq;
	int64		position;

	if (es_transaction_first_position() == 0)
		check_sequence(sequence);
	position = nextval_internal(sequence, false);
	/* No mark that anybody has found since then reaches this position: the lock that we have now keeps it below. */
	above = Max(above, Max(es_epoch_start(), es_mark_given(sequence)));
	if (unlikely(position <= above))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sequence \"%s.position_seq\" was set back", ES_SCHEMA),
				 errdetail("It gave position %lld, but readers or events have come to position %lld.",
						   (long long) position, (long long) above),
				 errhint("Run SELECT es_begin_epoch().")));
	es_transaction_allocated(position);
	return position;
}
