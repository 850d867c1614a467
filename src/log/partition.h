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
	EsPartitionGap *gaps;		/* ordered by position; those that were noted, and those between partitions */
	int			gap_count;
	int64		end;			/* where the newest partition ends */
	int64		last;			/* a position that is allocated, or will be by this call; 0: none is known */
} EsPartitionList;

extern EsPartitionList *es_partition_list(void);

extern EsPartitionList *es_partition_list_upto(int64 upto, bool exists);
extern void es_partition_list_forget(void);
extern bool es_partition_is_attached(const EsPartition *partition);
extern Oid	es_partition_category_index(Relation partition);

/* log/partition_gap.c */
extern void es_partition_gaps_find(EsPartitionList *list, EsPartitionGap *noted, int noted_count);
extern int64 es_partition_next(const EsPartitionList *list, int64 last);
extern bool es_partition_gap_in(int64 from, int64 to, bool last, EsPartitionGap *gap);
ES_NORETURN extern void es_raise_gap(const EsPartitionGap *gap, const char *wanted, bool by_position);

/* log/partition_maker.c */
extern EsPartition es_partition_for(int64 position);
extern void es_partition_make(int64 from, int64 to);
extern void es_partition_make_for(int64 position);

#endif							/* ES_LOG_PARTITION_H */
