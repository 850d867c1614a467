/*
 * projection/definition.h
 *	  Projections: what users have defined.
 */
#ifndef ES_PROJECTION_DEFINITION_H
#define ES_PROJECTION_DEFINITION_H

#include "fmgr.h"

#include "worker/worker.h"
#include "projection/batch.h"
#include "projection/handler.h"

typedef struct EsProjection
{
	char	   *name;
	char	   *handler_text;
	EsFilter	filter;
	List	   *tables;			/* char *, qualified and quoted; NIL: none listed */
	bool		is_inline;
	int			batch_size;
	int64		from_position;
	bool		side_effects;
	EsStoredRole role;
	char	   *search_path;
	bool		running;		/* neither paused nor failed */
	bool		failed;
	TimestampTz paused_until;	/* DT_NOEND: it runs, has failed, or is paused until it is resumed */
	EsHandler  *handler;		/* made when first needed */

	uint64		row;			/* differs for each version of the row, and so for each definition */
	EsTaskRef	task;			/* in the hand-out: projection/schedule.c */

	/* What this process remembers. */
	int			limit;			/* events of the next batch; 0: not known yet */
	bool		said_split;
} EsProjection;

/* Definitions, as committed now; good until the end of the transaction. */
extern EsProjection *es_projections(int *count);
extern EsProjection *es_projection_find(const char *name);
extern EsProjection *es_projection_get(const char *name);
extern EsHandler *es_projection_handler(EsProjection *projection);
extern bool es_has_inline_projections(void);
extern void es_projection_changed(void);
extern void es_projection_check_tables(const char *projection, const List *relids);
extern uint64 es_projection_change(const char *table, const char *statement, const char *name);
extern void es_projection_fail(const char *name);
extern bool es_projection_runs(const EsProjection *projection);
extern bool es_projection_inline_argument(FunctionCallInfo fcinfo, int n);
extern void es_check_replica_identity(Oid relid);
extern EsProjection *es_projection_lock(const char *name);
extern EsProjection *es_projection_begin_change(FunctionCallInfo fcinfo, const char *function);

#endif							/* ES_PROJECTION_DEFINITION_H */
