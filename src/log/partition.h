/*
 * log/partition.h
 *	  The partitions ("leaves") of the log, by range of position.
 */
#ifndef ES_LOG_PARTITION_H
#define ES_LOG_PARTITION_H

#include "base/compat.h"

typedef struct EsPartition
{
	int64		from;			/* positions from <= p < to */
	int64		to;
	Oid			relid;
} EsPartition;

/* Positions from..to that no attached leaf has. */
typedef struct EsPartitionGap
{
	int64		from;
	int64		to;
} EsPartitionGap;

extern const EsPartition *es_partition_among(const EsPartition *partitions, int count, int64 position);
extern int	es_partition_gaps(const EsPartition *partitions, int count, int64 last, EsPartitionGap **gaps);
extern bool es_in_partition_gap(const EsPartitionGap *gaps, int count, int64 from, int64 to);
extern int	es_partitions_copy(EsPartition **partitions, uint64 *serial);
extern bool es_check_newest_attached(int64 upto, uint64 serial);
extern EsPartition es_partition_for(int64 position);
extern void es_partition_prepare(int64 events);
extern bool es_partition_wanted(int ahead);
extern bool es_partition_make_ahead(int ahead);
extern void es_partition_make_for(int64 position);
extern void es_partition_make(int64 from, int64 to);
extern Oid	es_partition_index(Relation partition, bool by_stream);
extern Oid	es_partition_category_index(Relation partition);
ES_NORETURN extern void es_range_missing(int64 from, int64 to);

#endif							/* ES_LOG_PARTITION_H */
