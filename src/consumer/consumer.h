/*
 * consumer/consumer.h
 *	  What projections and subscriptions share: names, filters of the events that they get, and how they are controlled.
 *
 * The one header of this wing for the wings above it.
 */
#ifndef ES_CONSUMER_H
#define ES_CONSUMER_H

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "nodes/bitmapset.h"
#include "nodes/pg_list.h"

#include "base/base.h"
#include "log/log.h"

/* ---------------------------------------------------------------- filter */

/*
 * Which events a projection or subscription gets: those of some categories, of some types, or of all.
 */

typedef struct EsFilter
{
	List	   *categories;		/* text *; NIL with all_categories */
	List	   *types;			/* the same, of event types */
	bool		all_categories;
	bool		all_types;
} EsFilter;

/* A filter with the ids of its names, made by es_filter_resolve() for scans with one snapshot and one transform. */
typedef struct EsFilterIds
{
	const EsFilter *filter;
	EsTransform *transform;		/* NULL: events are read as they are stored */
	Bitmapset  *categories;
	Bitmapset  *types;
	bool		nothing;		/* no stored event can pass, so nothing has to be scanned */
} EsFilterIds;

extern void es_filter_check_arguments(FunctionCallInfo fcinfo, int categories, int types);
extern Datum es_filter_sorted_argument(FunctionCallInfo fcinfo, int n, const char *argument, const char *element,
									   bool is_category, char *null);
extern void es_filter_read(EsFilter *filter, Datum categories, bool categories_null, Datum types, bool types_null);
extern void es_filter_resolve(const EsFilter *filter, EsTransform *transform, EsFilterIds *ids);
extern void es_filter_scan(const EsFilterIds *ids, EsScan *scan);

/* ---------------------------------------------------------------- dispatch */

/*
 * Finds out, by one scan of a range of the log, which of many consumers may get something of it.
 */

typedef struct EsDispatch EsDispatch;

extern EsDispatch *es_dispatch_create(int count, const EsFilter *const *filters);
extern void es_dispatch_free(EsDispatch *dispatch);
extern int64 es_dispatch_scan(EsDispatch *dispatch, Snapshot snapshot, const int64 *known, Bitmapset **asked,
							  int64 upto, int64 at_most);

/* ---------------------------------------------------------------- renamed */

extern void es_filter_type_renamed(const char *type);
extern void es_filter_stored(const char *kind, const char *name);

/* ---------------------------------------------------------------- control */

/* What an operator can do with a projection, or with a subscription. */
typedef struct EsConsumerKind
{
	const char *kind;			/* "projection" or "subscription" */
	void		(*pause) (char *name, TimestampTz until, const char *reason);	/* DT_NOEND: until it is resumed */
	void		(*resume) (char *name);
	int64		(*retry) (char *name, text *stream);	/* NULL: all that is in quarantine */
	int64		(*skip) (char *name, text *stream, int64 upto_version);
} EsConsumerKind;

/* Events of a stream in quarantine that are to be skipped. */
typedef struct EsSkip
{
	int64		version;		/* of the first event there (0: not known); then of the first one that is left */
	int64		position;		/* the same; 0: none is left */
	int64		skipped;		/* events up to the version */
	int64		left;			/* events behind it */
} EsSkip;

extern void es_consumer_register(const EsConsumerKind *kind);
extern void es_consumer_lock(void);
extern void es_consumer_claim_name(const char *its_kind, const char *name);
ES_NORETURN extern void es_consumer_not_quarantined(const char *kind, const char *name, const char *stream);
extern void es_consumer_find_skip(const EsFilter *filter, const text *stream, int64 upto_version, int64 upto_position, bool whole_calls,
								  EsSkip *skip);
extern text *es_reason_argument(FunctionCallInfo fcinfo, int n);

/* ---------------------------------------------------------------- name */

extern void es_check_name(const text *value, const char *argument, bool may_be_empty);
extern List *es_name_list(Datum array);

#endif							/* ES_CONSUMER_H */
