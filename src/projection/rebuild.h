/*
 * projection/rebuild.h
 *	  Rebuilding a projection in shadow tables.
 */
#ifndef ES_PROJECTION_REBUILD_H
#define ES_PROJECTION_REBUILD_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/palloc.h"

extern List *es_rebuilds(MemoryContext context);
extern bool es_rebuild_step(const char *name, TimestampTz *wake_at);
extern int64 es_rebuild_run(const char *name, int64 max_batches);
extern void es_rebuild_forget(const char *name);

#endif							/* ES_PROJECTION_REBUILD_H */
