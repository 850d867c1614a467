/*
 * append/call.h
 *	  One append call: what it asks for, and its result.
 *
 * All ways of appending (es_append, es_append_multi, es_append_batch, import) fill an EsCall, and append/execute.c
 * carries it out. A call has
 *
 *	  elements	what is asked of one stream: the expected version, perhaps an idempotency key, and events
 *	  events	those of all elements, in the order in which they are written
 *	  streams	each stream that the call touches once, however many elements name it
 */
#ifndef ES_APPEND_CALL_H
#define ES_APPEND_CALL_H

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "base/base.h"
#include "log/log.h"

/* Values of expected_version besides an exact version. */
#define ES_ANY			(-2)	/* any version, or no stream yet */
#define ES_EXISTS		(-4)	/* any version, but the stream must exist */

/* What to write instead of NULL data. */
#define ES_EMPTY_PAYLOAD "An empty payload is '{}'."

/* How the call was made. Error messages name an event accordingly. */
typedef enum EsSource
{
	ES_FROM_APPEND,				/* es_append, one event */
	ES_FROM_EVENTS,				/* es_append, events as JSON */
	ES_FROM_MULTI,				/* es_append_multi */
	ES_FROM_BATCH,				/* es_append_batch */
	ES_FROM_IMPORT,				/* rows of event_store.import */
	ES_FROM_LOCK				/* es_lock_stream, es_lock_streams: elements without events */
} EsSource;

/*
 * An event of the call. What the caller did not give (id, times) and what only the store knows is filled in when it
 * is written.
 */
typedef struct EsCallEvent
{
	EsEvent		event;
	int			element;		/* number of its element */
	int			next;			/* number of the element's next event */
	bool		has_id;			/* the caller gave an id */
	bool		has_occurred_at;	/* the caller gave the time */
	bool		has_schema_version; /* the caller gave the version */
} EsCallEvent;

typedef struct EsElement
{
	int			stream;			/* number of its stream */
	int			first;			/* number of its first event; `next` leads to the others */
	int			last;
	int64		events;			/* how many events it has */
	int64		ids;			/* for how many of them the caller gave an id */
	int64		expected;		/* ES_ANY, ES_EXISTS, or the version; 0: the stream must not exist */
	text	   *key;			/* may be NULL */
	uint8		request[ES_DIGEST_LEN];	/* digest of the events, if there is a key */

	/* the result, of the last event, or of the stream if the element has no events */
	int64		version;
	int64		position;		/* 0: the stream has no event */
	int64		first_position; /* of the first event */
	TimestampTz recorded_at;
	bool		replayed;
	bool		conflict;		/* of a refused call: the stream is not at the expected version */
} EsElement;

typedef struct EsCallStream
{
	text	   *name;
	int32		category;
	int			first_element;	/* number of the first element that names it; -1: none yet */
	bool		writes;			/* an element of it has events */
	bool		absent;			/* it does not exist, and we hold its name */
	bool		made;			/* its head was inserted before the versions were compared */
	EsHead		head;
} EsCallStream;

typedef struct EsCall
{
	EsSource	source;
	MemoryContext context;		/* where all parts of it are allocated */
	bool		tries;			/* a wrong version is a result, and not an error */
	int64		first_row;		/* of an import: number of the input row of the first event */
	text	   *batch_key;		/* idempotency key of es_append_batch; may be NULL */

	EsCallEvent *events;
	int			event_count;
	int			event_space;
	int			id_count;		/* events for which the caller gave an id */
	int			key_count;		/* elements with a key */
	EsElement  *elements;
	int			element_count;
	int			element_space;
	EsCallStream *streams;
	int			stream_count;
	int			stream_space;
	HTAB	   *stream_index;	/* streams by name; NULL as long as there is only one */
	HTAB	   *type_index;		/* event types by name, of a call that only reserves; else NULL */

	/* the result */
	bool		replayed;		/* the call was a retry, so nothing was written */
	bool		refused;		/* with tries: a version was wrong, so nothing was written */
	int64		first_position;
	int64		last_position;
	int64		replayed_events;

	/* room for one event, element and stream: most calls need no more */
	EsCallEvent one_event;
	EsElement	one_element;
	EsCallStream one_stream;
} EsCall;

extern EsCall *es_call_begin(EsSource source);
extern int	es_call_element(EsCall *call, text *stream, int64 expected, text *key);
extern int	es_call_stream_element(EsCall *call, text *stream);
extern void es_call_event(EsCall *call, int element, text *type, Jsonb *data, Jsonb *metadata,
						  const pg_uuid_t *id, const TimestampTz *occurred_at,
						  const int32 *schema_version);
extern void es_call_reserve_names(EsCall *call, const text *stream, const text *type);
extern char *es_call_label(const EsCall *call, int event);

extern int64 es_expected_argument(FunctionCallInfo fcinfo, int n);
extern int64 es_check_expected(int64 expected);
extern void es_check_key(const text *key);
extern char *es_reserved_key(Jsonb *object);

#endif							/* ES_APPEND_CALL_H */
