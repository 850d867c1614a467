/*
 * append/append.h
 *	  Appending: a call, and carrying it out.
 *
 * The one header of this wing for the wings above it.
 */
#ifndef ES_APPEND_H
#define ES_APPEND_H

#include "datatype/timestamp.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#include "base/base.h"
#include "log/log.h"

/* ---------------------------------------------------------------- call */

/*
 * One append call: what it asks for and what came of it.
 *
 * Every way of appending (es_append, es_append_multi, es_append_batch, import) fills an EsCall and
 * has it carried out by append/execute.c.
 *
 * element	what is asked of one stream: expected version, key, events
 * stream	a stream that the call touches, once however many elements name it
 */

/* Values of expected_version besides an exact one. */
#define ES_ANY			(-2)
#define ES_EXISTS		(-4)

/* Where a call came from: how its error messages name an event. */
typedef enum EsSource
{
	ES_FROM_APPEND,				/* es_append, one event */
	ES_FROM_EVENTS,				/* es_append, a JSON list */
	ES_FROM_MULTI,				/* es_append_multi */
	ES_FROM_BATCH,				/* es_append_batch */
	ES_FROM_IMPORT				/* rows of event_store.import */
} EsSource;

/* What is not asked for (ids, times) or not known yet (all that the store says) is filled in when the call is executed. */
typedef struct EsCallEvent
{
	EsEvent		event;
	int			element;
	int			next;			/* the element's next event */
	bool		has_id;
	bool		has_occurred_at;
} EsCallEvent;

typedef struct EsElement
{
	int			stream;
	int			first;			/* its first event; the rest are linked */
	int			last;
	int64		events;			/* how many */
	int64		ids;			/* how many of them came with an id */
	int64		expected;		/* ES_ANY, ES_EXISTS, 0 or n */
	text	   *key;			/* may be NULL */
	uint8		request[ES_DIGEST_LEN];	/* of the events, when there is a key */

	/* the result */
	int64		version;
	int64		position;		/* 0: none */
	int64		first_position;
	TimestampTz recorded_at;
	bool		replayed;
} EsElement;

typedef struct EsCallStream
{
	text	   *name;
	int32		category;
	int			first_element;
	bool		writes;			/* some element has events */
	EsHead		head;
} EsCallStream;

typedef struct EsCall
{
	EsSource	source;
	MemoryContext context;		/* where all of it lives */
	int64		first_row;		/* of an import: number of the first event's input row */
	text	   *batch_key;		/* may be NULL */

	EsCallEvent *events;
	int			event_count;
	int			event_space;
	int			id_count;		/* events that came with an id */
	int			key_count;		/* elements that came with a key */
	EsElement  *elements;
	int			element_count;
	int			element_space;
	EsCallStream *streams;
	int			stream_count;
	int			stream_space;
	HTAB	   *stream_index;	/* by name, once there are several */

	/* the result */
	bool		replayed;		/* nothing was written */
	int64		first_position;
	int64		last_position;
	int64		replayed_events;

	/* the arrays of a call with one event: most have no more */
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
extern char *es_call_label(const EsCall *call, int event);

extern int64 es_check_expected(bool isnull, int64 expected);
extern void es_check_key(const text *key);

/* Called within each append when its events are written: positions from first to last, and others' in between. */
extern void es_after_append(void (*callback) (int64 first, int64 last));

/* ---------------------------------------------------------------- key */

/*
 * Idempotency keys.
 */

extern void es_key_init(void);

#endif							/* ES_APPEND_H */
