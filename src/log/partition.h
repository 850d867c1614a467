/*
 * log/partition.h
 *	  The partitions of the log, as this session knows them.
 */
#ifndef ES_LOG_PARTITION_H
#define ES_LOG_PARTITION_H

#include "log/log.h"

/* All of them, ordered by position. */
typedef struct EsPartitionList
{
	EsPartition *partitions;	/* NULL: not read yet */
	int			count;
	uint64		serial;			/* another number for each time that it was read */
	int64		last;			/* a position that is allocated, or will be by this call; 0: none is known since it was read */
} EsPartitionList;

extern EsPartitionList *es_partition_list(void);

/* Where the next partition begins. */
static inline int64
es_partition_list_end(const EsPartitionList *list)
{
	return list->count > 0 ? list->partitions[list->count - 1].to : ES_NODE_START(es_store()->node);
}

#endif							/* ES_LOG_PARTITION_H */
