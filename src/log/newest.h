/*
 * log/newest.h
 *	  Where the newest versions of rows are that are updated all the time.
 */
#ifndef ES_LOG_NEWEST_H
#define ES_LOG_NEWEST_H

#include "log/log.h"

extern uint64 es_newest_hash(Relation rel, const char *key, int len);
extern bool es_newest_fetch(Relation rel, uint64 hash, Snapshot snapshot, TupleTableSlot *slot);
extern bool es_newest_follow(Relation rel, ItemPointer tid, Snapshot snapshot, TupleTableSlot *slot);
extern void es_newest_found(uint64 hash, ItemPointer tid);
extern void es_newest_written(uint64 hash, ItemPointer tid);
extern void es_newest_end_of_transaction(bool commit);
extern bool es_newest_is_ours(TupleTableSlot *slot);
ES_NORETURN extern void es_newest_conflict(void);
extern void es_newest_check_snapshot(Relation rel, TupleTableSlot *slot);
extern void es_newest_insert_entries(ResultRelInfo *rri, TupleTableSlot *slot, EState *estate, EsUpdateIndexes which,
									 const AttrNumber *same, int same_count);

#endif							/* ES_LOG_NEWEST_H */
