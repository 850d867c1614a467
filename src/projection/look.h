/*
 * projection/look.h
 *	  Looking for what the workers of the pool have to do.
 */
#ifndef ES_PROJECTION_LOOK_H
#define ES_PROJECTION_LOOK_H

#include "nodes/pg_list.h"
#include "utils/snapshot.h"

#include "worker/worker.h"
#include "projection/definition.h"

/* Something for a worker to do. */
typedef struct EsCandidate
{
	char	   *name;			/* of the projection */
	bool		rebuild;
	bool		slow;
	bool		save;			/* only its checkpoint is to be stored */
	EsTaskRef	task;
	TimestampTz ran_at;
} EsCandidate;

extern uint64 es_look_definition(const EsProjection *projection);
extern int64 es_look_known(const char *name);
extern List *es_look(int64 mark, Snapshot snapshot, MemoryContext context, TimestampTz *wake_at, bool *more);

/* Has the worker look again by then at the latest; 0 is never. */
static inline void
es_wake_by(TimestampTz *wake_at, TimestampTz when)
{
	*wake_at = *wake_at == 0 ? when : Min(*wake_at, when);
}

#endif							/* ES_PROJECTION_LOOK_H */
