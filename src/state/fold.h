/*
 * state/fold.h
 *	  Folding events into a state.
 */
#ifndef ES_STATE_FOLD_H
#define ES_STATE_FOLD_H

#include "state/definition.h"
#include "log/scan.h"

typedef struct EsFold
{
	const EsAggregate *aggregate;
	const text *stream;
	int64		version;		/* what the state includes */
	int64		position;
	TimestampTz recorded_at;
	int64		folded;			/* events since es_fold_begin() */

	/* private */
	EsRun	   *run;			/* a fold given as SQL */
	EsRulesState *rules;		/* a fold given as rules */
	const EsRule **rule_by_type;
	bool	   *rule_known;
	int			rule_space;
	MemoryContext context;
	MemoryContext states[2];	/* the state is in one, the next one goes to the other */
	int			current;
	Jsonb	   *state;
	EsUpcast   *upcast;			/* for all scans of the fold; NULL: none */
	bool		upcast_begun;
} EsFold;

extern EsFold *es_fold_create(const EsAggregate *aggregate);
extern void es_fold_begin(EsFold *fold, const text *stream, Jsonb *state, int64 version,
						  int64 position, TimestampTz recorded_at);
extern EsScan *es_fold_scan(EsFold *fold, EsDefinitions *defs, Snapshot snapshot);
extern void es_fold_step(EsFold *fold, EsScan *scan, TupleTableSlot *slot);
extern Jsonb *es_fold_state(EsFold *fold);
extern void es_fold_end(EsFold *fold);

#endif							/* ES_STATE_FOLD_H */
