/*
 * projection/run.h
 *	  Running projections.
 */
#ifndef ES_PROJECTION_RUN_H
#define ES_PROJECTION_RUN_H

#include "base/base.h"
#include "projection/apply.h"

extern EsResult es_projection_batch(EsTask *task, EsProjection *projection, Snapshot snapshot, int64 upto);
extern EsProjection *es_projection_get_running(const char *name);
extern int64 es_projection_catch_up(const char *name, int64 upto);

#endif							/* ES_PROJECTION_RUN_H */
