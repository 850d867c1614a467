/*
 * log/partition.h
 *	  The partitions of the log: the list of them that this session caches, how they are made, their indexes.
 */
#ifndef ES_LOG_PARTITION_H
#define ES_LOG_PARTITION_H

#include "log/log.h"

/* The session's list of all partitions, ordered by position. */
typedef struct EsPartitionList
{
	EsPartition *partitions;	/* NULL: not read yet */
	int			count;
	uint64		serial;			/* changes each time when the list is read */
	int64		last;			/* a position that is allocated, or will be by this call; 0: none is known */
} EsPartitionList;

extern EsPartitionList *es_partition_list(void);

/* Where the newest partition ends, and the next one will begin. */
static inline int64
es_partition_list_end(const EsPartitionList *list)
{
	return list->count > 0 ? list->partitions[list->count - 1].to : ES_NODE_START(es_store()->node);
}

extern bool es_check_newest_attached(int64 upto, uint64 serial);
ES_NORETURN extern void es_raise_not_attached(int64 from, int64 to);
extern Oid	es_partition_category_index(Relation partition);

/* log/partition_maker.c */
extern EsPartition es_partition_for(int64 position);
extern void es_partition_make(int64 from, int64 to);
extern void es_partition_make_for(int64 position);

#endif							/* ES_LOG_PARTITION_H */
