/*
 * state/state.h
 *	  What users register about state, and state itself: folds, upcasters, checks, loads, snapshots.
 *
 * The one header of this wing for the wings above it.
 */
#ifndef ES_STATE_H
#define ES_STATE_H

#include "datatype/timestamp.h"
#include "executor/executor.h"
#include "nodes/bitmapset.h"
#include "nodes/execnodes.h"
#include "nodes/params.h"
#include "utils/jsonb.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"

/* ---------------------------------------------------------------- expression */

/*
 * SQL expressions that users register: folds, upcasters, checks.
 */

/* A name that the expression may use. */
typedef struct EsVariable
{
	const char *name;
	Oid			type;
} EsVariable;

/* What is compiled: read-only, good for any number of runs at once. */
typedef struct EsExpr
{
	Expr	   *planned;
	const char *what;			/* "fold", "transform", "check_expr" */
	const EsVariable *variables;
	int			variable_count;
	Bitmapset  *used;			/* variables that it mentions, from 0 */
	Oid			role;			/* whose rights it runs with */
	EsStoredRole		registrant;		/* the same as it is stored */
	char	   *search_path;	/* NULL: it calls nothing that could look at it */
	char	   *functions;		/* definitions of the user's functions it names, for the fingerprint */
} EsExpr;

/* An expression ready to be evaluated, one evaluation at a time. */
typedef struct EsEvaluation
{
	const EsExpr *expr;
	ExprState  *state;
	ExprContext *econtext;
	ParamListInfo params;
	EsRunAs	run_as;
} EsEvaluation;

extern EsExpr *es_expr_compile(const char *text, const char *what, Oid result_type,
							   const EsVariable *variables, int count,
							   EsStoredRole role, const char *search_path);
extern EsEvaluation *es_evaluation_open(const EsExpr *expr);
extern void es_evaluation_enter(EsEvaluation *run);
extern void es_evaluation_leave(EsEvaluation *run);
extern void es_evaluation_close(EsEvaluation *run);
extern void es_evaluation_abandon(EsEvaluation *run);

/* Sets a variable; the datum must stay where it is until the evaluation. */
static inline void
es_evaluation_set(EsEvaluation *run, int variable, Datum value, bool isnull)
{
	run->params->params[variable].value = value;
	run->params->params[variable].isnull = isnull;
}

static inline bool
es_evaluation_uses(const EsEvaluation *run, int variable)
{
	return bms_is_member(variable, run->expr->used);
}

/* Evaluates, between enter and leave, in the context es_evaluation_memory(), which the caller resets. */
static inline Datum
es_evaluate(EsEvaluation *run, bool *isnull)
{
	return ExecEvalExprSwitchContext(run->state, run->econtext, isnull);
}

static inline MemoryContext
es_evaluation_memory(EsEvaluation *run)
{
	return run->econtext->ecxt_per_tuple_memory;
}

/* ---------------------------------------------------------------- rules */

/*
 * Rules documents: folds written as JSON.
 */

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

/* ---------------------------------------------------------------- definition */

/*
 * What users register: aggregates, upcasters, checks of event types.
 */

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
	int			keep_snapshots; /* how many of the newest snapshots of a stream are kept */
	Interval   *keep_snapshots_for; /* older ones are dropped when their event is older than this; NULL: they are not */
	uint8		fingerprint[ES_DIGEST_LEN];	/* of this and of all upcasters */
} EsAggregate;

typedef struct EsUpcaster
{
	pg_uuid_t	id;				/* of this registration: another one has another */
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
extern EsDefinitions *es_definitions_latest(void);
extern uint64 es_upcasters_hash(const EsDefinitions *defs);
extern void es_upcaster_set(EsDefinitions *defs, const List *types, bool all_types, uint8 *digest);
extern const EsAggregate *es_aggregate(EsDefinitions *defs, const char *category, int len);
extern int	es_upcaster_count(const EsDefinitions *defs);
extern EsUpcaster *es_find_upcaster(EsDefinitions *defs, const char *type, int len, int32 version);
extern EsUpcaster *es_upcaster(EsDefinitions *defs, int number);
extern const EsExpr *es_upcaster_transform(EsDefinitions *defs, EsUpcaster *upcaster);
extern bool es_has_checks(const EsDefinitions *defs);
extern bool es_has_versioned_types(const EsDefinitions *defs);
extern const char *es_schema_versions(const EsDefinitions *defs, const char *type, int len);
extern const EsExpr *es_find_check(EsDefinitions *defs, const char *type, int len, int32 version);

extern void es_state_init(void);

/*
 * Called in the transaction that registers or drops an upcaster of a type, which leads to another (perhaps the same).
 */
extern void es_on_upcaster_change(void (*callback) (text *type, text *to_type));

/* ---------------------------------------------------------------- fold */

/*
 * Folding events into a state.
 */

typedef struct EsFold
{
	const EsAggregate *aggregate;
	const text *stream;
	int64		version;		/* what the state includes */
	int64		position;
	TimestampTz recorded_at;
	int64		folded;			/* events since es_fold_begin() */

	/* private */
	EsEvaluation	   *run;			/* a fold given as SQL */
	EsRulesState *rules;		/* a fold given as rules */
	const EsRule **rule_by_type;
	bool	   *rule_known;
	int			rule_space;
	MemoryContext context;
	MemoryContext states[2];	/* the state is in one, the next one goes to the other */
	int			current;
	Jsonb	   *state;
	EsTransform *upcast;			/* for all scans of the fold; NULL: none */
	bool		upcast_begun;
} EsFold;

extern EsFold *es_fold_create(const EsAggregate *aggregate);
extern void es_fold_begin(EsFold *fold, const text *stream, Jsonb *state, int64 version,
						  int64 position, TimestampTz recorded_at);
extern EsScan *es_fold_scan(EsFold *fold, EsDefinitions *defs, Snapshot snapshot);
extern void es_fold_step(EsFold *fold, EsScan *scan, TupleTableSlot *slot);
extern Jsonb *es_fold_state(EsFold *fold);
extern void es_fold_end(EsFold *fold);

/* ---------------------------------------------------------------- load */

/*
 * Loading state.
 */

/* A state to go on from; version 0: from the beginning. */
typedef struct EsFoldBase
{
	Jsonb	   *state;
	int64		version;
	int64		position;
	TimestampTz recorded_at;
} EsFoldBase;

extern bool es_load_replay(int64 stream, const bytea *fingerprint, int64 version, Snapshot snapshot, EsFoldBase *base);
extern int64 es_take_snapshot(const text *stream, int64 max_version);

/* ---------------------------------------------------------------- snapshot */

/*
 * Stored states of streams.
 */

#define ES_KEEP_SNAPSHOTS	4		/* the default */

typedef struct EsSnapshot
{
	Jsonb	   *state;
	int64		version;
	int64		position;
	TimestampTz recorded_at;
	bytea	   *digest;			/* of the stream up to its event; NULL: not known */
	int64		unusable;		/* after a search: version of the newest one that cannot be used; 0: none */
} EsSnapshot;

extern bool es_snapshot_find(const text *stream, const EsHead *head, const uint8 *fingerprint, int64 max_version,
							 const TimestampTz *as_of, Snapshot snapshot, EsSnapshot *found);
extern bool es_snapshot_sound(int64 stream, const bytea *fingerprint, const EsSnapshot *row, const bytea *hash);
extern bool es_snapshot_is_of(const bytea *fingerprint, const uint8 *fold);
extern bool es_snapshot_of_other_fold(int64 stream, Snapshot snapshot);
extern void es_snapshot_store(const EsHead *head, const EsFold *fold, Jsonb *state);

/* ---------------------------------------------------------------- snapshot worker */

/* Registers the duty that takes snapshots every so many events; called once, when the library is loaded. */
extern void es_snapshot_worker_init(void);

/* ---------------------------------------------------------------- upcast */

/*
 * Upcasters at work: old shapes of events turned into new ones as they are read.
 */

extern EsTransform *es_upcast_begin(EsDefinitions *defs);

#endif							/* ES_STATE_H */
