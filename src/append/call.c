/*
 * append/call.c
 *	  One append call: collecting what it asks for. What can be checked without reading the store is checked here.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "base/compat.h"
#include "append/call.h"

/* Finds a stream of the call by its name. */
typedef struct StreamIndexEntry
{
	const char *name;			/* the hash key is name and len */
	int			len;
	int			stream;			/* its number in the call */
} StreamIndexEntry;

/* Begins a call. All parts of it are allocated in the current memory context. */
EsCall *
es_call_begin(EsSource source)
{
	EsCall	   *call = palloc(sizeof(EsCall));

	memset(call, 0, offsetof(EsCall, one_event));
	call->source = source;
	call->context = CurrentMemoryContext;
	call->events = &call->one_event;
	call->elements = &call->one_element;
	call->streams = &call->one_stream;
	call->event_space = call->element_space = call->stream_space = 1;
	return call;
}

/*
 * Makes room for one more in an array, which may become larger than 1 GB. `one` is the array that the call began
 * with.
 */
static void *
grow(EsCall *call, void *array, const void *one, int *space, Size size)
{
	int			bigger = *space < 32 ? 32 : *space * 2;

	if (*space > PG_INT32_MAX / 2)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many events in one call")));
	*space = bigger;
	if (array != one)
		return repalloc_huge(array, size * bigger);
	array = MemoryContextAllocHuge(call->context, size * bigger);
	memcpy(array, one, size);
	return array;
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

/* Names that begin with this are the library's own: streams, event types, keys of metadata. */
#define RESERVED_PREFIX	'$'

static bool
is_reserved(const text *name)
{
	return VARDATA_ANY(name)[0] == RESERVED_PREFIX;
}

static void
check_stream_name(const EsCall *call, const text *stream)
{
	check_name(stream, call->source == ES_FROM_IMPORT ? "column stream" : "stream name");
	if (is_reserved(stream))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream name \"%s\" begins with \"$\"", text_to_cstring(stream)),
				 errhint("Such names are reserved for event_store. Choose another category.")));
	if (es_category_length(stream) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream name \"%s\" has no category", text_to_cstring(stream)),
				 errhint("A stream is named category-id, such as account-123.")));
}

/* Refuses an idempotency key that cannot be stored. */
void
es_check_key(const text *key)
{
	check_name(key, "idempotency_key");
}

/*
 * The argument expected_version. Drivers send a field that is missing or misspelt as NULL, and an append that is not
 * checked for that reason loses what the check was for. So NULL does not mean any version.
 */
int64
es_expected_argument(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument expected_version must not be NULL"),
				 errhint("Pass the version that was loaded, or es_expect_any() (-2), es_expect_none() (0) or es_expect_exists() (-4).")));
	return es_check_expected(PG_GETARG_INT64(n));
}

/* Refuses an expected version that means nothing. Returns it as EsElement has it. */
int64
es_check_expected(int64 expected)
{
	if (expected >= 0 || expected == ES_ANY || expected == ES_EXISTS)
		return expected;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("expected_version must not be %lld", (long long) expected),
			 errdetail("It is -2 (any version), 0 (the stream must not exist), -4 (it must exist) or the exact version."),
			 expected == -1 ? errhint("For a stream that must not exist yet, pass 0.") : 0));
}

static HTAB *
make_index(EsCall *call)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = offsetof(StreamIndexEntry, stream);
	ctl.entrysize = sizeof(StreamIndexEntry);
	ctl.hash = stream_hash;
	ctl.match = stream_match;
	ctl.hcxt = call->context;
	return hash_create("event_store call", 64, &ctl, HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

/* Finds a stream of the call, or adds it. Returns its number. */
static int
find_stream(EsCall *call, text *name)
{
	StreamIndexEntry probe;
	StreamIndexEntry *entry;
	bool		found;

	if (call->stream_count == 1 && call->stream_index == NULL)
	{
		/* Most calls are about one stream and need no hash table. */
		if (VARSIZE_ANY_EXHDR(name) == VARSIZE_ANY_EXHDR(call->streams[0].name) &&
			memcmp(VARDATA_ANY(name), VARDATA_ANY(call->streams[0].name), VARSIZE_ANY_EXHDR(name)) == 0)
			return 0;

		call->stream_index = make_index(call);
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

	check_stream_name(call, name);
	if (call->stream_count == call->stream_space)
		call->streams = grow(call, call->streams, &call->one_stream, &call->stream_space, sizeof(EsCallStream));
	memset(&call->streams[call->stream_count], 0, sizeof(EsCallStream));
	call->streams[call->stream_count].name = name;
	call->streams[call->stream_count].first_element = -1;
	return call->stream_count++;
}

/* Adds an element. The name and the key must stay where they are until the call was executed. Returns its number. */
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
	{
		es_check_key(key);
		call->key_count++;
	}

	if (call->element_count == call->element_space)
		call->elements = grow(call, call->elements, &call->one_element, &call->element_space, sizeof(EsElement));
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

/* For calls with one element for each stream: the number of that element; -1 when the stream has none yet. */
int
es_call_stream_element(EsCall *call, text *stream)
{
	int			s = find_stream(call, stream);

	return call->streams[s].first_element;
}

static text *
copy_name(EsCall *call, const text *name)
{
	MemoryContext old = MemoryContextSwitchTo(call->context);
	text	   *copy = cstring_to_text_with_len(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));

	MemoryContextSwitchTo(old);
	return copy;
}

/*
 * For es_call_reserve(): has the call name a stream, which later calls of the statement will write to, and an event type. The
 * call keeps copies. An event of it stands for its type only.
 */
void
es_call_reserve_names(EsCall *call, const text *stream, const text *type)
{
	StreamIndexEntry probe = {.name = VARDATA_ANY(stream),.len = VARSIZE_ANY_EXHDR(stream)};
	StreamIndexEntry *entry;
	bool		found;

	if (call->type_index == NULL)
	{
		call->type_index = make_index(call);
		call->stream_index = make_index(call);
	}
	if (hash_search(call->stream_index, &probe, HASH_FIND, NULL) == NULL)
	{
		int			s = find_stream(call, copy_name(call, stream));	/* which may move the array */

		call->streams[s].writes = true;
	}

	probe.name = VARDATA_ANY(type);
	probe.len = VARSIZE_ANY_EXHDR(type);
	if (hash_search(call->type_index, &probe, HASH_FIND, NULL) != NULL)
		return;
	if (call->event_count == call->event_space)
		call->events = grow(call, call->events, &call->one_event, &call->event_space, sizeof(EsCallEvent));
	memset(&call->events[call->event_count], 0, sizeof(EsCallEvent));
	call->events[call->event_count].event.type = copy_name(call, type);
	probe.name = VARDATA_ANY(call->events[call->event_count].event.type);
	entry = hash_search(call->type_index, &probe, HASH_ENTER, &found);
	entry->stream = call->event_count++;
}

/*
 * Says for an error message which event of the input is meant, counted from 1: "Element 3 of events." NULL when the
 * call can have only one event.
 */
char *
es_call_label(const EsCall *call, int event)
{
	const EsElement *element;

	switch (call->source)
	{
		case ES_FROM_APPEND:
		case ES_FROM_LOCK:
			return NULL;
		case ES_FROM_EVENTS:
			return psprintf("Element %d of events.", event + 1);
		case ES_FROM_BATCH:
			return psprintf("Index %d of the arrays.", event + 1);
		case ES_FROM_IMPORT:
			return psprintf("Input row %lld.", (long long) call->first_row + event);
		case ES_FROM_MULTI:
			element = &call->elements[event < call->event_count ? call->events[event].element :
									  call->element_count - 1];
			return psprintf("Element %d of events in element %d of appends.",
							event - element->first + 1, (int) (element - call->elements) + 1);
	}
	return NULL;
}

/* The same as the DETAIL of an error. */
static int
event_detail(const EsCall *call, int event)
{
	char	   *label = es_call_label(call, event);

	return label == NULL ? 0 : errdetail_internal("%s", label);
}

static bool
is_json_null(Jsonb *json)
{
	JsonbValue	v;

	return JB_ROOT_IS_SCALAR(json) && JsonbExtractScalar(&json->root, &v) && v.type == jbvNull;
}

/*
 * Refuses data that was encoded twice: a JSON string whose text is an object or an array. Drivers that make JSON of a
 * parameter themselves do that to a string that is JSON already, and no reader finds its fields in it.
 */
static void
check_encoded_once(const EsCall *call, int event, Jsonb *data)
{
	JsonbValue	v;
	const char *text;
	int			len;

	if (!JB_ROOT_IS_SCALAR(data) || !JsonbExtractScalar(&data->root, &v) || v.type != jbvString)
		return;
	text = v.val.string.val;
	len = v.val.string.len;
	while (len > 0 && strchr(" \t\n\r", text[len - 1]) != NULL)
		len--;
	while (len > 0 && strchr(" \t\n\r", *text) != NULL)
		text++, len--;
	if (len < 2 || !((text[0] == '{' && text[len - 1] == '}') || (text[0] == '[' && text[len - 1] == ']')) ||
		!es_is_json(text, len))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("data is a JSON string that has JSON in it"),
			 event_detail(call, event),
			 errhint("Pass the %s itself and not its text: it was made JSON twice. To keep a text, put it into an object: {\"text\": ...}.",
					 text[0] == '{' ? "object" : "array")));
}

/* Refuses keys of metadata that only the library writes. */
static void
check_metadata_keys(const EsCall *call, int event, Jsonb *metadata)
{
	const char *key = es_reserved_key(metadata);

	if (key != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata has a key \"%s\", which begins with \"$\"", key),
				 event_detail(call, event),
				 errhint("Such keys are reserved for event_store. Choose another one.")));
}

/* A key of a JSON object that begins with the reserved prefix; NULL: none does. */
char *
es_reserved_key(Jsonb *object)
{
	JsonbContainer *root = &object->root;
	int			count = JsonContainerSize(root);
	const char *base = (const char *) &root->children[count * 2];

	for (int i = 0; i < count; i++)
		if (getJsonbLength(root, i) > 0 && base[getJsonbOffset(root, i)] == RESERVED_PREFIX)
			return pnstrdup(base + getJsonbOffset(root, i),
							pg_mbcliplen(base + getJsonbOffset(root, i), getJsonbLength(root, i), 64));
	return NULL;
}

/*
 * Adds an event to an element. NULL means that a part was not given, which all but the type and the data may be. What is pointed to must stay where it is until
 * the call was executed. Refuses wrong values with 22023 or 22004, and says which event it is.
 */
void
es_call_event(EsCall *call, int element, text *type, Jsonb *data, Jsonb *metadata,
			  const pg_uuid_t *id, const TimestampTz *occurred_at, const int32 *schema_version)
{
	EsCallEvent *added;
	EsEvent    *event;
	int			number = call->event_count;
	int			len;

	if (call->event_count == call->event_space)
		call->events = grow(call, call->events, &call->one_event, &call->event_space, sizeof(EsCallEvent));
	added = &call->events[number];
	memset(added, 0, sizeof(*added));
	added->element = element;
	event = &added->event;

	Assert(type != NULL);		/* callers have refused NULL, each with the name of its own argument */
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
	if (is_reserved(type))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("event type \"%s\" begins with \"$\"", text_to_cstring(type)),
				 event_detail(call, number),
				 errhint("Such names are reserved for event_store. Choose another one.")));
	event->type = type;

	if (data == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg(call->source == ES_FROM_IMPORT ? "column data must not be NULL" : "argument data must not be NULL"),
				 event_detail(call, number),
				 errhint(ES_EMPTY_PAYLOAD)));
	check_encoded_once(call, number, data);
	event->data = data;
	if (metadata != NULL && is_json_null(metadata))
		metadata = NULL;
	if (metadata != NULL && !JB_ROOT_IS_OBJECT(metadata))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata must be a JSON object"),
				 event_detail(call, number)));
	if (metadata != NULL)
		check_metadata_keys(call, number, metadata);
	event->metadata = metadata;

	if (id != NULL)
	{
		event->id = *id;
		added->has_id = true;
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
		added->has_occurred_at = true;
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
		added->has_schema_version = true;
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
