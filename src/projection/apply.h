/*
 * projection/apply.h
 *	  Applying a batch to a projection's tables, exactly once.
 */
#ifndef ES_PROJECTION_APPLY_H
#define ES_PROJECTION_APPLY_H

#include "base/base.h"
#include "projection/definition.h"
#include "projection/checkpoint.h"

typedef enum EsResult
{
	ES_NOTHING,					/* there was nothing to do */
	ES_APPLIED,
	ES_LATER,					/* failed; to be tried again at retry_at of the checkpoint */
	ES_FAILED					/* failed for good: the caller has to stop the projection */
} EsResult;

typedef struct EsTask
{
	EsCheckpoint *checkpoint;	/* locked */
	const EsFilter *filter;
	EsHandler  *handler;
	int64		limit;			/* events of a batch */
	int64		max;			/* the same, where more are needed to keep calls whole */
	bool		patient;		/* run by a worker, which can try again later */
	const uint8 *ahead;			/* the upcasters with which events before the cursor were passed, and not stored; NULL: none were */
	bool		write_idle;		/* stores the checkpoint also where no event passed the filter */

	/* results */
	int64		events;			/* applied */
	bool		more;
	bool		split;			/* the handler failed on the batch as a whole, and succeeded piece by piece */
	char	   *error;			/* message, of ES_LATER and ES_FAILED */
	int			error_code;
	EsCursor	next;			/* of ES_NOTHING: where the projection would be if that were stored */
} EsTask;

extern EsResult es_apply(EsTask *task, Snapshot snapshot, int64 upto);
extern int64 es_apply_quarantined(EsTask *task, int64 group);
extern bool es_apply_may_pass(const ErrorData *error);
extern void es_apply_failed(EsCheckpoint *checkpoint, const ErrorData *error);

#endif							/* ES_PROJECTION_APPLY_H */
