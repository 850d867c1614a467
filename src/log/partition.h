/*
 * log/partition.h
 *	  The partitions ("leaves") of the log, by range of position.
 */
#ifndef ES_LOG_PARTITION_H
#define ES_LOG_PARTITION_H

#include "base/compat.h"

typedef struct EsLeaf
{
	int64		from;			/* positions from <= p < to */
	int64		to;
	Oid			relid;
} EsLeaf;

/* Positions from..to that no attached leaf has. */
typedef struct EsLeafGap
{
	int64		from;
	int64		to;
} EsLeafGap;

extern const EsLeaf *es_leaf_among(const EsLeaf *leaves, int count, int64 position);
extern int	es_leaf_gaps(const EsLeaf *leaves, int count, int64 last, EsLeafGap **gaps);
extern bool es_in_leaf_gap(const EsLeafGap *gaps, int count, int64 from, int64 to);
extern int	es_leaves_copy(EsLeaf **leaves, uint64 *serial);
extern bool es_check_newest_attached(int64 upto, uint64 serial);
extern EsLeaf es_leaf_for(int64 position);
extern void es_partition_prepare(int64 events);
extern bool es_partition_wanted(int ahead);
extern bool es_partition_make_ahead(int ahead);
extern void es_partition_make_for(int64 position);
extern void es_partition_make(int64 from, int64 to);
extern Oid	es_leaf_index(Relation leaf, bool by_stream);
extern Oid	es_leaf_category_index(Relation leaf);
ES_NORETURN extern void es_range_missing(int64 from, int64 to);

#endif							/* ES_LOG_PARTITION_H */
