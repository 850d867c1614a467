/*
 * state/rules.h
 *	  Rules documents: folds written as JSON.
 */
#ifndef ES_STATE_RULES_H
#define ES_STATE_RULES_H

#include "datatype/timestamp.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

typedef struct EsRules EsRules; /* a document, compiled: read-only, for any number of folds at once */
typedef struct EsRule EsRule;	/* what it says about one event type */
typedef struct EsRulesState EsRulesState;	/* one fold in progress */

/* An event as a rule sees it. Nothing is kept of it when es_rules_step() returns. */
typedef struct EsRulesEvent
{
	const text *stream;
	const text *type;
	int64		version;
	int64		position;
	TimestampTz occurred_at;
	TimestampTz recorded_at;
	int32		schema_version;
	const pg_uuid_t *id;
	Jsonb	   *data;			/* NULL: erased */
	Jsonb	   *metadata;		/* NULL: has none */
} EsRulesEvent;

extern EsRules *es_rules_compile(Jsonb *document);
extern const EsRule *es_rules_find(const EsRules *rules, const char *type, int len);
extern bool es_rules_use_data(const EsRules *rules);
extern bool es_rules_use_metadata(const EsRules *rules);

extern EsRulesState *es_rules_begin(const EsRules *rules, Jsonb *initial);
extern void es_rules_step(EsRulesState *state, const EsRule *rule, const EsRulesEvent *event);
extern Jsonb *es_rules_result(EsRulesState *state);
extern void es_rules_end(EsRulesState *state);

#endif							/* ES_STATE_RULES_H */
