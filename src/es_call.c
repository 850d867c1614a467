/*
 * es_call.c
 *	  One append call: what it asks for and how it is carried out.
 *
 * Order of what a call locks, the same everywhere: categories and event types that it makes (sorted
 * by name), the partition makers' lock, a batch's key, head rows (sorted by stream name), and last
 * the sequence. Nothing waits after the first position is drawn but inserts, so that a queue of
 * appenders never holds the mark back.
 *
 * Everything that can be refused is refused before a position is drawn.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "es_call.h"
#include "es_error.h"
#include "es_guc.h"
#include "es_key.h"
#include "es_log.h"
#include "es_mark.h"
#include "es_name.h"
#include "es_partition.h"
#include "es_position.h"
#include "es_scan.h"
#include "es_store.h"

typedef struct StreamIndexEntry
{
	const char *name;			/* the key, with its length */
	int			len;
	int			stream;
} StreamIndexEntry;

/* ---------------------------------------------------------------- building a call */

/* A call whose parts live in the current memory context. */
EsCall *
es_call_begin(EsSource source)
{
	EsCall	   *call = palloc0(sizeof(EsCall));

	call->source = source;
	call->context = CurrentMemoryContext;
	return call;
}

/* Makes room for one more in an array that may grow past 1 GB. */
static void *
grow(EsCall *call, void *array, int *space, Size size)
{
	int			bigger = *space == 0 ? 1 : (*space < 32 ? 32 : *space * 2);

	if (*space > PG_INT32_MAX / 2)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many events in one call")));
	*space = bigger;
	return array == NULL ?
		MemoryContextAllocHuge(call->context, size * bigger) :
		repalloc_huge(array, size * bigger);
}

static uint32
stream_hash(const void *key, Size size)
{
	const StreamIndexEntry *entry = key;

	return hash_bytes((const unsigned char *) entry->name, entry->len);
}

static int
stream_match(const void *a, const void *b, Size size)
{
	const StreamIndexEntry *left = a;
	const StreamIndexEntry *right = b;

	return left->len == right->len ? memcmp(left->name, right->name, left->len) : 1;
}

static void
check_name(const text *name, const char *what)
{
	int			len = VARSIZE_ANY_EXHDR(name);

	if (len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", what)));
	if (len > ES_MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s is too long", what),
				 errdetail("It has %d bytes, at most %d are allowed.", len, ES_MAX_NAME)));
}

/* The category of a stream: what comes before the first "-". */
static int
category_length(const text *stream)
{
	const char *name = VARDATA_ANY(stream);
	int			len = VARSIZE_ANY_EXHDR(stream);
	const char *dash = memchr(name, '-', len);

	return dash == NULL ? len : (int) (dash - name);
}

static void
check_stream_name(const text *stream)
{
	check_name(stream, "stream name");
	if (category_length(stream) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream name \"%s\" has no category", text_to_cstring(stream)),
				 errhint("A stream is named category-id, such as account-123.")));
}

/* Refuses idempotency keys that cannot be stored. */
void
es_check_key(const text *key)
{
	check_name(key, "idempotency_key");
}

/* An expected_version argument as EsElement wants it; refuses what means something else elsewhere. */
int64
es_check_expected(bool isnull, int64 expected)
{
	if (isnull)
		return ES_ANY;
	if (expected >= 0 || expected == ES_ANY || expected == ES_EXISTS)
		return expected;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("expected_version must not be %lld", (long long) expected),
			 errdetail("It is NULL or -2 (any version), 0 (the stream must not exist), -4 (it must exist) or the exact version."),
			 expected == -1 ? errhint("For a stream that must not exist yet, pass 0.") : 0));
}

/* Finds or makes the call's entry of a stream. */
static int
find_stream(EsCall *call, text *name)
{
	StreamIndexEntry probe;
	StreamIndexEntry *entry;
	bool		found;

	if (call->stream_count == 0 ||
		(call->stream_count == 1 && call->stream_index == NULL))
	{
		/* Most calls are about one stream and need no hash table. */
		if (call->stream_count == 1 &&
			VARSIZE_ANY_EXHDR(name) == VARSIZE_ANY_EXHDR(call->streams[0].name) &&
			memcmp(VARDATA_ANY(name), VARDATA_ANY(call->streams[0].name), VARSIZE_ANY_EXHDR(name)) == 0)
			return 0;
	}
	if (call->stream_count == 1 && call->stream_index == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = offsetof(StreamIndexEntry, stream);
		ctl.entrysize = sizeof(StreamIndexEntry);
		ctl.hash = stream_hash;
		ctl.match = stream_match;
		ctl.hcxt = call->context;
		call->stream_index = hash_create("event_store call", 64, &ctl,
										 HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
		probe.name = VARDATA_ANY(call->streams[0].name);
		probe.len = VARSIZE_ANY_EXHDR(call->streams[0].name);
		entry = hash_search(call->stream_index, &probe, HASH_ENTER, &found);
		entry->stream = 0;
	}
	if (call->stream_index != NULL)
	{
		probe.name = VARDATA_ANY(name);
		probe.len = VARSIZE_ANY_EXHDR(name);
		entry = hash_search(call->stream_index, &probe, HASH_ENTER, &found);
		if (found)
			return entry->stream;
		entry->stream = call->stream_count;
	}

	check_stream_name(name);
	if (call->stream_count == call->stream_space)
		call->streams = grow(call, call->streams, &call->stream_space, sizeof(EsCallStream));
	memset(&call->streams[call->stream_count], 0, sizeof(EsCallStream));
	call->streams[call->stream_count].name = name;
	call->streams[call->stream_count].first_element = -1;
	return call->stream_count++;
}

/* Adds an element; name and key must stay where they are. Returns its number. */
int
es_call_element(EsCall *call, text *stream, int64 expected, text *key)
{
	int			number = call->element_count;
	int			s = find_stream(call, stream);
	EsElement  *element;

	if (call->streams[s].first_element >= 0 && expected != ES_ANY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream \"%s\" is named twice with an expected_version", text_to_cstring(stream)),
				 errdetail("Elements %d and %d of appends are about the same stream.",
						   call->streams[s].first_element + 1, number + 1),
				 errhint("Give the expected version at the first one only.")));
	if (key != NULL)
		es_check_key(key);

	if (call->element_count == call->element_space)
		call->elements = grow(call, call->elements, &call->element_space, sizeof(EsElement));
	element = &call->elements[call->element_count++];
	memset(element, 0, sizeof(*element));
	element->stream = s;
	element->first = call->event_count;
	element->expected = expected;
	element->key = key;
	if (call->streams[s].first_element < 0)
		call->streams[s].first_element = number;
	return number;
}

/* The one element of a stream in a call that keeps one a stream; -1 when it has none yet. */
int
es_call_stream_element(EsCall *call, text *stream)
{
	int			s = find_stream(call, stream);

	return call->streams[s].first_element;
}

/*
 * Names an event for an error message: "element 3 of events". The number is the input's, counted
 * from 1. NULL when the call has only one.
 */
char *
es_call_label(const EsCall *call, int event)
{
	const EsElement *element;

	switch (call->source)
	{
		case ES_FROM_APPEND:
			return NULL;
		case ES_FROM_EVENTS:
			return psprintf("Element %d of events.", event + 1);
		case ES_FROM_BATCH:
			return psprintf("Index %d of the arrays.", event + 1);
		case ES_FROM_IMPORT:
			return psprintf("Input row %lld.", (long long) (call->first_row + event));
		case ES_FROM_MULTI:
			element = &call->elements[event < call->event_count ? call->events[event].element :
									  call->element_count - 1];
			return psprintf("Element %d of events in element %d of appends.",
							event - element->first + 1, (int) (element - call->elements) + 1);
	}
	return NULL;
}

static int
event_detail(const EsCall *call, int event)
{
	char	   *label = es_call_label(call, event);

	return label == NULL ? 0 : errdetail_internal("%s", label);
}

static Jsonb *
empty_object(void)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static bool
is_json_null(Jsonb *json)
{
	JsonbValue	v;

	return JB_ROOT_IS_SCALAR(json) && JsonbExtractScalar(&json->root, &v) && v.type == jbvNull;
}

/*
 * Adds an event to an element. What is pointed to must stay where it is until the call was executed;
 * NULL pointers mean absent. Raises 22023 or 22004, naming the event.
 */
void
es_call_event(EsCall *call, int element, text *type, Jsonb *data, Jsonb *metadata,
			  const pg_uuid_t *id, const TimestampTz *occurred_at, const int32 *schema_version)
{
	EsEvent    *event;
	int			number = call->event_count;
	int			len;

	if (call->event_count == call->event_space)
		call->events = grow(call, call->events, &call->event_space, sizeof(EsEvent));
	event = &call->events[number];
	memset(event, 0, sizeof(*event));
	event->element = element;

	if (type == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("event type must not be NULL"),
				 event_detail(call, number)));
	len = VARSIZE_ANY_EXHDR(type);
	if (len == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event type must not be empty"),
				 event_detail(call, number)));
	if (len > ES_MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event type is too long: %d bytes, at most %d are allowed", len, ES_MAX_NAME),
				 event_detail(call, number)));
	event->type = type;

	event->data = data == NULL || is_json_null(data) ? empty_object() : data;
	if (metadata != NULL && is_json_null(metadata))
		metadata = NULL;
	if (metadata != NULL && !JB_ROOT_IS_OBJECT(metadata))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata must be a JSON object"),
				 event_detail(call, number)));
	event->metadata = metadata;

	if (id != NULL)
	{
		event->id = *id;
		event->has_id = true;
		call->id_count++;
		call->elements[element].ids++;
	}
	if (occurred_at != NULL)
	{
		if (TIMESTAMP_NOT_FINITE(*occurred_at))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("occurred_at must be finite"),
					 event_detail(call, number)));
		event->occurred_at = *occurred_at;
		event->has_occurred_at = true;
	}
	event->schema_version = 1;
	if (schema_version != NULL)
	{
		if (*schema_version < 1)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("schema_version must be 1 or more, not %d", *schema_version),
					 event_detail(call, number)));
		event->schema_version = *schema_version;
	}
	if (call->elements[element].events == 0)
		call->elements[element].first = number;
	else
		call->events[call->elements[element].last].next = number;
	call->elements[element].last = number;
	call->elements[element].events++;
	call->streams[call->elements[element].stream].writes = true;
	call->event_count++;
}

/* ---------------------------------------------------------------- executing a call */

/* The setting event_store.metadata, parsed; NULL when it is empty. */
static Jsonb *
setting_metadata(void)
{
	static char *parsed_text = NULL;
	static Jsonb *parsed = NULL;
	Jsonb	   *json;

	if (es_metadata == NULL || es_metadata[0] == '\0')
		return NULL;
	if (parsed_text != NULL && strcmp(parsed_text, es_metadata) == 0)
		return parsed;

	json = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(es_metadata)));
	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("setting event_store.metadata must be a JSON object"),
				 errdetail("It is %s.", es_metadata)));
	if (parsed_text != NULL)
	{
		pfree(parsed_text);
		pfree(parsed);
		parsed_text = NULL;
	}
	parsed = MemoryContextAlloc(TopMemoryContext, VARSIZE(json));
	memcpy(parsed, json, VARSIZE(json));
	parsed_text = MemoryContextStrdup(TopMemoryContext, es_metadata);
	return parsed;
}

static void
merge_setting(EsCall *call)
{
	Jsonb	   *setting = setting_metadata();

	if (setting == NULL)
		return;
	for (int i = 0; i < call->event_count; i++)
	{
		EsEvent    *event = &call->events[i];

		if (event->metadata == NULL)
			event->metadata = setting;
		else
			event->metadata = DatumGetJsonbP(DirectFunctionCall2(jsonb_concat,
																 JsonbPGetDatum(setting),
																 JsonbPGetDatum(event->metadata)));
	}
}

static int
compare_event_ids(const void *a, const void *b, void *arg)
{
	const EsCall *call = arg;

	return memcmp(call->events[*(const int *) a].id.data, call->events[*(const int *) b].id.data,
				  UUID_LEN);
}

static void
check_ids(EsCall *call)
{
	int		   *ids;
	int			n = 0;

	if (call->id_count < 2)
		return;
	ids = MemoryContextAllocHuge(call->context, sizeof(int) * (Size) call->id_count);
	for (int i = 0; i < call->event_count; i++)
		if (call->events[i].has_id)
			ids[n++] = i;
	qsort_arg(ids, n, sizeof(int), compare_event_ids, call);
	for (int i = 1; i < n; i++)
		if (compare_event_ids(&ids[i - 1], &ids[i], call) == 0)
		{
			int			first = Min(ids[i - 1], ids[i]);
			int			second = Max(ids[i - 1], ids[i]);

			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("two events of one call have the same event id"),
					 errdetail("%s %s",
							   es_call_label(call, first), es_call_label(call, second))));
		}
	pfree(ids);
}

/* Bytewise, as the indexes are ordered: the same everywhere, whatever the database's collation. */
static int
compare_bytes(const char *a, int alen, const char *b, int blen)
{
	int			cmp = memcmp(a, b, Min(alen, blen));

	return cmp != 0 ? cmp : (alen > blen) - (alen < blen);
}

static int
compare_text(const text *a, const text *b)
{
	return compare_bytes(VARDATA_ANY(a), VARSIZE_ANY_EXHDR(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(b));
}

static int
compare_categories(const void *a, const void *b)
{
	const text *left = (*(EsCallStream *const *) a)->name;
	const text *right = (*(EsCallStream *const *) b)->name;

	return compare_bytes(VARDATA_ANY(left), category_length(left),
						 VARDATA_ANY(right), category_length(right));
}

static int
compare_streams(const void *a, const void *b, void *arg)
{
	const EsCall *call = arg;

	return compare_text(call->streams[*(const int *) a].name, call->streams[*(const int *) b].name);
}

static int
compare_types(const void *a, const void *b)
{
	return compare_text((*(EsEvent *const *) a)->type, (*(EsEvent *const *) b)->type);
}

/*
 * Gives every stream its category's id and every event its type's; makes those that are new in
 * order of name.
 */
static void
resolve_names(EsCall *call)
{
	EsCallStream **strangers = NULL;
	EsEvent   **missing = NULL;
	int			stranger_count = 0;
	int			missing_count = 0;

	for (int i = 0; i < call->stream_count; i++)
	{
		EsCallStream *stream = &call->streams[i];

		stream->category = es_name_find(ES_CATEGORY, VARDATA_ANY(stream->name),
										category_length(stream->name));
		if (stream->category == 0)
		{
			if (strangers == NULL)
				strangers = MemoryContextAllocHuge(call->context,
												   sizeof(EsCallStream *) * (Size) call->stream_count);
			strangers[stranger_count++] = stream;
		}
	}
	if (stranger_count > 0)
		qsort(strangers, stranger_count, sizeof(EsCallStream *), compare_categories);
	for (int i = 0; i < stranger_count; i++)
	{
		if (i > 0 && compare_categories(&strangers[i - 1], &strangers[i]) == 0)
			strangers[i]->category = strangers[i - 1]->category;
		else
			strangers[i]->category = es_name_make(ES_CATEGORY, VARDATA_ANY(strangers[i]->name),
												  category_length(strangers[i]->name));
	}

	for (int i = 0; i < call->event_count; i++)
	{
		EsEvent    *event = &call->events[i];

		/* Runs of one type are common in batches. */
		if (i > 0 && event[-1].type_id != 0 && compare_text(event[-1].type, event->type) == 0)
			event->type_id = event[-1].type_id;
		else
			event->type_id = es_name_find(ES_EVENT_TYPE, VARDATA_ANY(event->type),
										  VARSIZE_ANY_EXHDR(event->type));
		if (event->type_id == 0)
		{
			if (missing == NULL)
				missing = MemoryContextAllocHuge(call->context, sizeof(EsEvent *) * (Size) call->event_count);
			missing[missing_count++] = event;
		}
	}
	if (missing_count == 0)
		return;
	qsort(missing, missing_count, sizeof(EsEvent *), compare_types);
	for (int i = 0; i < missing_count; i++)
	{
		if (i > 0 && compare_types(&missing[i - 1], &missing[i]) == 0)
			missing[i]->type_id = missing[i - 1]->type_id;
		else
			missing[i]->type_id = es_name_make(ES_EVENT_TYPE, VARDATA_ANY(missing[i]->type),
											   VARSIZE_ANY_EXHDR(missing[i]->type));
	}
	pfree(missing);
}

static void
hash_event(EsHasher *hasher, const EsEvent *event)
{
	es_hash_string(hasher, VARDATA_ANY(event->type), VARSIZE_ANY_EXHDR(event->type));
	es_hash_int64(hasher, event->schema_version);
	es_hash_json(hasher, event->data);
}

/*
 * What makes two requests the same: types, data and schema versions, and of a batch the streams. Not
 * ids, metadata and times: a retry has new ones.
 */
static void
hash_requests(EsCall *call, uint8 *batch_request)
{
	EsHasher   *hasher = NULL;

	for (int e = 0; e < call->element_count; e++)
	{
		EsElement  *element = &call->elements[e];

		if (element->key == NULL)
			continue;
		if (hasher == NULL)
			hasher = es_hasher_create();
		es_hash_begin(hasher);
		for (int i = 0; i < element->events; i++)
			hash_event(hasher, &call->events[element->first + i]);
		es_hash_end(hasher, element->request);
	}
	if (call->batch_key != NULL)
	{
		hasher = es_hasher_create();
		es_hash_begin(hasher);
		for (int i = 0; i < call->event_count; i++)
		{
			text	   *stream = call->streams[call->elements[call->events[i].element].stream].name;

			es_hash_string(hasher, VARDATA_ANY(stream), VARSIZE_ANY_EXHDR(stream));
			hash_event(hasher, &call->events[i]);
		}
		es_hash_end(hasher, batch_request);
	}
	if (hasher != NULL)
		es_hasher_free(hasher);
}

static void
key_reused(const text *key, const char *what)
{
	ereport(ERROR,
			(errcode(ES_KEY_REUSED),
			 errmsg("idempotency key \"%s\" was used for another request", text_to_cstring(key)),
			 errdetail("%s", what),
			 errhint("A retry repeats the types, data and schema versions of its events; a new request takes a new key.")));
}

/* Replays a batch whose key is known. */
static bool
replay_batch(EsCall *call, const uint8 *request)
{
	EsKeyRow	row;

	if (!es_batch_key_find(call->batch_key, &row))
		return false;
	if (memcmp(row.request, request, ES_DIGEST_LEN) != 0)
		key_reused(call->batch_key, "The first batch with this key had other events.");
	call->replayed = true;
	call->replayed_events = row.version;
	call->first_position = row.first_position;
	call->last_position = row.last_position;
	return true;
}

static bool
exact(const EsElement *element)
{
	return element->expected >= 0;
}

static void
wrong_version(const EsCallStream *stream, const EsElement *element)
{
	const char *meaning = element->expected == 0 ? " (no stream)" :
		element->expected == ES_EXISTS ? " (an existing stream)" : "";

	ereport(ERROR,
			(errcode(ES_WRONG_VERSION),
			 errmsg("wrong expected version of stream \"%s\"", text_to_cstring(stream->name)),
			 errdetail("Stream \"%s\" is at version %lld, expected version was %lld%s.",
					   text_to_cstring(stream->name), (long long) stream->head.version,
					   (long long) element->expected, meaning),
			 errhint("Load the stream again and decide anew.")));
}

/*
 * A head beyond which the call's expectation is hopeless, whatever others in flight do: versions only
 * grow. Not where the request may turn out to be a retry.
 */
static int64
hopeless_above(const EsCall *call, const EsCallStream *stream)
{
	const EsElement *element = &call->elements[stream->first_element];

	if (!exact(element) || element->key != NULL || call->batch_key != NULL || call->id_count > 0)
		return PG_INT64_MAX;
	return element->expected;
}

static void
lock_streams(EsCall *call, EsHeads *heads, const int *order)
{
	bool		made = false;

	for (int i = 0; i < call->stream_count; i++)
	{
		EsCallStream *stream = &call->streams[order[i]];

		switch (es_head_lock(heads, stream->name, stream->category,
							 hopeless_above(call, stream), &stream->head))
		{
			case ES_HEAD_LOCKED:
				break;
			case ES_HEAD_MADE:
				made = true;
				break;
			case ES_HEAD_BEYOND:
				wrong_version(stream, &call->elements[stream->first_element]);
				break;
		}
	}
	if (made)
		CommandCounterIncrement();	/* a row can only be updated by a later command */
}

static bool
same_data(Jsonb *a, Jsonb *b)
{
	return compareJsonbContainers(&a->root, &b->root) == 0;
}

/*
 * Whether the events after the expected version are the ones asked for, by id, type and data: then
 * the call is a retry of the one that wrote them. Fills in the element's result.
 */
static bool
replay_by_ids(EsCall *call, EsElement *element)
{
	EsCallStream *stream = &call->streams[element->stream];
	EsScan	   *scan;
	TupleTableSlot *slot;
	int			next = element->first;
	bool		same = true;

	if (stream->head.version - element->expected < element->events)
		return false;
	scan = es_scan_create(RegisterSnapshot(GetLatestSnapshot()));
	es_scan_stream(scan, stream->name, &stream->head, element->expected + 1,
				   element->expected + element->events);
	while (same && (slot = es_scan_next(scan)) != NULL)
	{
		EsEvent    *event;
		Datum		data;
		bool		isnull;

		event = &call->events[next];
		next = event->next;
		data = slot_getattr(slot, Anum_log_data, &isnull);
		same = !isnull &&
			memcmp(DatumGetUUIDP(es_row_column(slot, Anum_log_event_id))->data, event->id.data,
				   UUID_LEN) == 0 &&
			DatumGetInt32(es_row_column(slot, Anum_log_event_type)) == event->type_id &&
			same_data(DatumGetJsonbP(data), event->data);
		element->version = DatumGetInt64(es_row_column(slot, Anum_log_version));
		element->position = DatumGetInt64(es_row_column(slot, Anum_log_position));
		element->recorded_at = DatumGetTimestampTz(es_row_column(slot, Anum_log_recorded_at));
		if (element->first_position == 0)
			element->first_position = element->position;
	}
	es_scan_end(scan);
	if (!same)
		element->first_position = 0;
	return same;
}

static bool
replay_by_key(EsCall *call, EsElement *element)
{
	EsKeyRow	row;

	if (!es_key_find(call->streams[element->stream].head.id, element->key, &row))
		return false;
	if (memcmp(row.request, element->request, ES_DIGEST_LEN) != 0)
		key_reused(element->key, psprintf("The first append with this key to stream \"%s\" had other events.",
										  text_to_cstring(call->streams[element->stream].name)));
	element->version = row.version;
	element->first_position = row.first_position;
	element->position = row.last_position;
	element->recorded_at = row.recorded_at;
	return true;
}

static void
read_only_result(EsCall *call, EsElement *element, bool replayed)
{
	const EsHead *head = &call->streams[element->stream].head;

	element->version = head->version;
	element->position = head->last_position;
	element->recorded_at = head->recorded_at;
	element->replayed = replayed;
}

/*
 * Finds out, under the head locks, whether the call is a retry. Either all elements with events are,
 * and nothing is written, or none is.
 */
static bool
replay_streams(EsCall *call)
{
	int			writing = 0;
	int			replayed = 0;
	EsElement  *keyed = NULL;

	for (int e = 0; e < call->element_count; e++)
	{
		EsElement  *element = &call->elements[e];
		EsCallStream *stream = &call->streams[element->stream];

		if (element->events == 0)
			continue;
		writing++;
		if (stream->head.version == 0)
			continue;
		if (element->key != NULL)
		{
			element->replayed = replay_by_key(call, element);
			if (element->replayed)
				keyed = element;
		}
		else if (exact(element) && stream->head.version != element->expected && element->ids == element->events)
			element->replayed = replay_by_ids(call, element);
		replayed += element->replayed;
	}
	if (replayed == 0)
		return false;
	if (replayed < writing)
	{
		if (keyed != NULL)
			key_reused(keyed->key, "Other elements of appends have keys that were not used before.");
		for (int e = 0; e < call->element_count; e++)
			call->elements[e].replayed = false;
		return false;			/* the version check will say what is wrong */
	}

	call->replayed = true;
	call->replayed_events = call->event_count;
	for (int e = 0; e < call->element_count; e++)
	{
		EsElement  *element = &call->elements[e];

		if (element->events == 0)
			read_only_result(call, element, true);
		else
		{
			call->first_position = call->first_position == 0 ? element->first_position :
				Min(call->first_position, element->first_position);
			call->last_position = Max(call->last_position, element->position);
		}
	}
	return true;
}

static void
check_versions(EsCall *call)
{
	for (int e = 0; e < call->element_count; e++)
	{
		EsElement  *element = &call->elements[e];
		EsCallStream *stream = &call->streams[element->stream];

		if (element->expected == ES_ANY)
			continue;
		if (element->expected == ES_EXISTS ? stream->head.version == 0 :
			stream->head.version != element->expected)
			wrong_version(stream, element);
	}
	for (int s = 0; s < call->stream_count; s++)
		if (call->streams[s].head.version > PG_INT64_MAX - call->event_count)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("stream \"%s\" has no versions left", text_to_cstring(call->streams[s].name))));
}

/*
 * The call's one stamp: the clock, but after every stream's last event and after the published
 * floor. To be read after the positions were drawn (es_mark.c says why).
 */
static TimestampTz
stamp_call(EsCall *call)
{
	TimestampTz stamp = GetCurrentTimestamp();
	TimestampTz floor = es_mark_floor();

	if (!TIMESTAMP_NOT_FINITE(floor))
		stamp = Max(stamp, floor + 1);
	for (int s = 0; s < call->stream_count; s++)
		if (call->streams[s].writes && call->streams[s].head.version > 0)
			stamp = Max(stamp, call->streams[s].head.recorded_at + 1);
	return stamp;
}

static int64 *
draw_positions(EsCall *call)
{
	int64	   *positions = MemoryContextAllocHuge(call->context, sizeof(int64) * (Size) call->event_count);

	for (int i = 0; i < call->event_count; i++)
	{
		if ((i & 1023) == 1023)
			CHECK_FOR_INTERRUPTS();
		positions[i] = es_position_draw();
	}
	call->first_position = positions[0];
	call->last_position = positions[call->event_count - 1];
	if (call->last_position - call->first_position > PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the positions of one call are too far apart"),
				 errdetail("They run from %lld to %lld.", (long long) call->first_position,
						   (long long) call->last_position)));
	return positions;
}

/* Writes the events and brings the heads (in memory) up to date. */
static void
write_events(EsCall *call, const int64 *positions, TimestampTz stamp)
{
	const pg_uuid_t store_id = es_store()->id;
	EsLogWriter *writer = es_log_writer_begin(call->event_count);
	EsHasher   *hasher = es_hasher_create();
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "event_store digest",
												  ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < call->event_count; i++)
	{
		EsEvent    *event = &call->events[i];
		EsElement  *element = &call->elements[event->element];
		EsCallStream *stream = &call->streams[element->stream];
		EsHead	   *head = &stream->head;
		EsDigestInput input;
		EsLogRow	row;
		pg_uuid_t	salt;
		MemoryContext old;

		if (!event->has_id)
			es_event_id(&event->id, stamp);
		es_random_uuid(&salt);

		head->version++;
		head->last_position = positions[i];
		head->recorded_at = stamp;
		if (head->first_position == 0)
		{
			head->first_position = positions[i];
			head->created_at = stamp;
		}

		row.position = positions[i];
		row.stream = head->id;
		row.version = head->version;
		row.occurred_at = event->has_occurred_at ? event->occurred_at : stamp;
		row.recorded_at = stamp;
		row.category = stream->category;
		row.event_type = event->type_id;
		row.schema_version = event->schema_version;
		row.rest = (int32) (call->last_position - positions[i]);
		row.event_id = &event->id;
		row.salt = &salt;
		row.data = event->data;
		row.metadata = event->metadata;

		input.store_id = &store_id;
		input.stream = VARDATA_ANY(stream->name);
		input.stream_len = VARSIZE_ANY_EXHDR(stream->name);
		input.version = row.version;
		input.position = row.position;
		input.event_type = VARDATA_ANY(event->type);
		input.event_type_len = VARSIZE_ANY_EXHDR(event->type);
		input.schema_version = row.schema_version;
		input.occurred_at = row.occurred_at;
		input.recorded_at = stamp;
		input.event_id = &event->id;
		input.salt = &salt;
		input.data = event->data;
		input.metadata = event->metadata;
		old = MemoryContextSwitchTo(scratch);
		es_event_digest(hasher, &input, head->digest);
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);

		es_log_write(writer, &row);

		element->version = row.version;
		element->position = row.position;
		element->recorded_at = stamp;
		if (element->first_position == 0)
			element->first_position = row.position;
	}
	es_hasher_free(hasher);
	MemoryContextDelete(scratch);
	es_log_writer_end(writer);
}

static void
store_keys(EsCall *call, const uint8 *batch_request, TimestampTz stamp)
{
	EsKeyRow	row;

	row.recorded_at = stamp;
	for (int e = 0; e < call->element_count; e++)
	{
		EsElement  *element = &call->elements[e];

		if (element->key == NULL)
			continue;
		memcpy(row.request, element->request, ES_DIGEST_LEN);
		row.version = element->version;
		row.first_position = element->first_position;
		row.last_position = element->position;
		es_key_store(call->streams[element->stream].head.id, element->key, &row);
	}
	if (call->batch_key != NULL)
	{
		memcpy(row.request, batch_request, ES_DIGEST_LEN);
		row.version = call->event_count;
		row.first_position = call->first_position;
		row.last_position = call->last_position;
		es_batch_key_store(call->batch_key, &row);
	}
}

/*
 * Carries the call out; fills in the results of its elements and of the call. Joins the caller's
 * transaction. Raises YE001, YE002, or what the input deserves; then nothing has been changed.
 */
void
es_call_execute(EsCall *call)
{
	EsHeads		heads;
	int		   *order;
	uint8		batch_request[ES_DIGEST_LEN];
	int64	   *positions;
	TimestampTz stamp;

	PreventCommandIfReadOnly("appending events");
	PreventCommandDuringRecovery("appending events");
	PreventCommandIfParallelMode("appending events");
	(void) es_store();

	check_ids(call);
	merge_setting(call);
	hash_requests(call, batch_request);

	order = MemoryContextAllocHuge(call->context, sizeof(int) * (Size) Max(call->stream_count, 1));
	for (int i = 0; i < call->stream_count; i++)
		order[i] = i;
	if (call->stream_count > 1)
		qsort_arg(order, call->stream_count, sizeof(int), compare_streams, call);

	resolve_names(call);
	if (call->event_count > 0)
		es_partition_prepare(call->event_count);
	if (call->batch_key != NULL)
	{
		es_batch_key_lock(call->batch_key);
		if (replay_batch(call, batch_request))
			return;
	}

	es_heads_open(&heads, RowExclusiveLock);
	lock_streams(call, &heads, order);
	if (replay_streams(call))
	{
		es_heads_close(&heads);
		return;
	}
	check_versions(call);
	if (call->event_count > 0)
	{
		positions = draw_positions(call);
		stamp = stamp_call(call);
		write_events(call, positions, stamp);
		for (int i = 0; i < call->stream_count; i++)
			if (call->streams[order[i]].writes)
				es_head_update(&heads, call->streams[order[i]].name, &call->streams[order[i]].head);
		store_keys(call, batch_request, stamp);
		pfree(positions);
	}
	for (int e = 0; e < call->element_count; e++)
		if (call->elements[e].events == 0)
			read_only_result(call, &call->elements[e], false);
	es_heads_close(&heads);
	CommandCounterIncrement();
}
