/*
 * projection/checkpoint.h
 *	  Checkpoints: how far a projection, or a rebuild of one, has come.
 */
#ifndef ES_PROJECTION_CHECKPOINT_H
#define ES_PROJECTION_CHECKPOINT_H

#include "base/base.h"
#include "projection/definition.h"

typedef struct EsCheckpoint
{
	const char *projection;
	bool		rebuild;
	EsCursor	cursor;
	double		rate;			/* events a second, averaged over the last seconds */
	TimestampTz last_active;	/* 0: never */
	int			failures;		/* calls quarantined in a row, with none applied in between */
	int			quarantined;	/* streams */
	int			attempts;		/* attempts that failed since the last batch that was applied */
	TimestampTz retry_at;		/* 0: at once */
	TimestampTz begun;			/* an attempt that has not ended was committed then; 0: none (projection/crash.c) */
	bool		suspect;		/* the server crashed during an attempt */
	int			crashes;		/* while it was run alone */
	TimestampTz crashed_at;
} EsCheckpoint;

extern bool es_checkpoint_lock(const char *projection, bool rebuild, bool wait, EsCheckpoint *checkpoint);
extern bool es_checkpoint_peek(const char *projection, int64 *position);
extern void es_checkpoint_attempt(const EsCheckpoint *checkpoint);
extern void es_checkpoint_save(EsCheckpoint *checkpoint, int64 events, const uint8 *upcasters, bool several);
extern void es_checkpoint_upcasters(const char *projection, bool rebuild, const EsFilter *filter);
extern void es_checkpoint_fail(EsCheckpoint *checkpoint, const ErrorData *error, int64 position);

#endif							/* ES_PROJECTION_CHECKPOINT_H */
