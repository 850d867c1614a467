/*
 * base/fault.h
 *	  Points at which a test has a process fail, in a library that was built with ES_FAULTS.
 */
#ifndef ES_BASE_FAULT_H
#define ES_BASE_FAULT_H

#ifdef ES_FAULTS

/* The points, and whether the transaction may still be rolled back there. */
#define ES_FAULT_POINTS(POINT) \
	POINT(after_lock, true)			/* an append: the streams are locked */ \
	POINT(after_allocation, true)			/* the positions are drawn */ \
	POINT(after_insert, true)		/* the events are in the log, the heads are not up to date */ \
	POINT(before_commit, true)		/* of a transaction that has appended; the callback of commits */ \
	POINT(after_commit, false)		/* its rows are visible, its locks are held */ \
	POINT(before_flush, false)		/* early lock release: the locks are given back, nothing is flushed */ \
	POINT(before_checkpoint, true)	/* a batch is applied, its checkpoint is not stored */ \
	POINT(after_checkpoint, true)	/* it is stored, and not committed */ \
	POINT(publish, true)			/* the mark is in its row, and not committed */ \
	POINT(seal, true)				/* the same of a seal */ \
	POINT(snapshot, true)			/* and of a snapshot; the older ones are not thinned out */ \
	POINT(before_switch, true)		/* a rebuild's differences are applied, its definition is not */ \
	POINT(partition, true)			/* the table is made and attached, and not committed */ \
	POINT(ack, true)				/* an acknowledgement is written, and not committed */

#define ES_FAULT_MEMBER(name, may_throw) ES_FAULT_##name,
typedef enum EsFaultPoint
{
	ES_FAULT_POINTS(ES_FAULT_MEMBER)
	ES_FAULT_COUNT
} EsFaultPoint;

extern void es_fault_init(void);
extern void es_fault(EsFaultPoint point);

#define ES_FAULT(point) es_fault(ES_FAULT_##point)

#else

#define es_fault_init() ((void) 0)
#define ES_FAULT(point) ((void) 0)

#endif							/* ES_FAULTS */

#endif							/* ES_BASE_FAULT_H */
