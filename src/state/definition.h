/*
 * state/definition.h
 *	  What users register: aggregates, upcasters, checks of event types.
 */
#ifndef ES_STATE_DEFINITION_H
#define ES_STATE_DEFINITION_H

#include "utils/jsonb.h"

#include "log/digest.h"
#include "state/expression.h"
#include "state/rules.h"

/* Variables of a fold. */
enum EsFoldVariable
{
	FOLD_STATE,
	FOLD_EVENT_TYPE,
	FOLD_DATA,
	FOLD_METADATA,
	FOLD_VERSION,
	FOLD_POSITION,
	FOLD_OCCURRED_AT,
	FOLD_RECORDED_AT,
	FOLD_STREAM,
	FOLD_SCHEMA_VERSION,
	FOLD_VARIABLES
};

/* Variables of an upcaster's transform and of a check. */
enum EsEventVariable
{
	EVENT_DATA,
	EVENT_METADATA,
	EVENT_TYPE,
	EVENT_OCCURRED_AT,
	EVENT_VARIABLES
};

typedef struct EsAggregate
{
	char	   *category;
	EsExpr	   *fold;			/* one of the two */
	EsRules    *rules;
	Jsonb	   *initial;
	int			snapshot_every;
	uint8		fingerprint[ES_DIGEST_LEN];	/* of this and of all upcasters */
} EsAggregate;

typedef struct EsUpcaster
{
	char	   *event_type;
	int32		from_version;
	int32		type_id;		/* 0: no event of the type is stored; es_upcast_begin() looks it up */
	text	   *to_type;
	int32		to_type_id;		/* 0: no event of that type is stored */
	EsExpr	   *transform;		/* compiled when first needed */
	const struct DefinitionRow *row;
} EsUpcaster;

typedef struct EsDefinitions EsDefinitions;

extern EsDefinitions *es_definitions(void);
extern const EsAggregate *es_aggregate(EsDefinitions *defs, const char *category, int len);
extern int	es_upcaster_count(const EsDefinitions *defs);
extern EsUpcaster *es_find_upcaster(EsDefinitions *defs, const char *type, int len, int32 version);
extern EsUpcaster *es_upcaster(EsDefinitions *defs, int number);
extern const EsExpr *es_upcaster_transform(EsDefinitions *defs, EsUpcaster *upcaster);
extern bool es_has_checks(const EsDefinitions *defs);
extern const EsExpr *es_find_check(EsDefinitions *defs, const char *type, int len, int32 version);

extern void es_define_init(void);
extern void es_define_end_of_transaction(void);

#endif							/* ES_STATE_DEFINITION_H */
