/*
 * append/json.c
 *	  Events and appends given as JSON.
 *
 * An unknown field is refused: the value of a misspelt "occured_at" must not get lost silently. Strings become uuids
 * and times by the input functions of these types. Their errors do not say where the value stood, so an error context
 * adds the element and the field that were being read.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "append/call.h"
#include "append/json.h"
#include "append/occurred_at.h"

#define EXPECTED_HINT "Say the version that was loaded, or \"any\", \"none\" (the stream must not exist) or \"exists\"."

/* Where in the JSON value we are reading, for the error context. */
typedef struct Place
{
	int			append;			/* element of appends, counted from 1; 0: the argument is not appends */
	int			event;			/* element of events, counted from 1; 0: not within an event */
	const char *field;			/* NULL: not within a field */
} Place;

static void
place_context(void *arg)
{
	const Place *place = arg;
	const char *quote = place->field ? "\"" : "";
	const char *field = place->field ? place->field : "";
	const char *sep = place->field ? " in " : "";

	if (place->event > 0 && place->append > 0)
		errcontext("%s%s%s%selement %d of events in element %d of appends", quote, field, quote, sep,
				   place->event, place->append);
	else if (place->event > 0)
		errcontext("%s%s%s%selement %d of events", quote, field, quote, sep, place->event);
	else if (place->append > 0)
		errcontext("%s%s%s%selement %d of appends", quote, field, quote, sep, place->append);
	else if (place->field)
		errcontext("\"%s\" of events", place->field);
}

static const char *
type_name(const JsonbValue *v)
{
	switch (v->type)
	{
		case jbvNull:
			return "null";
		case jbvString:
			return "a string";
		case jbvNumeric:
			return "a number";
		case jbvBool:
			return "a boolean";
		case jbvBinary:
			return JsonContainerIsArray(v->val.binary.data) ? "an array" : "an object";
		default:
			return "another value";
	}
}

static void
wrong_type(const char *field, const char *wanted, const JsonbValue *v)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" must be %s, not %s", field, wanted, type_name(v))));
}

static void
unknown_field(const JsonbValue *key, const char *known)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown field \"%.*s\"", pg_mbcliplen(key->val.string.val, key->val.string.len, 64),
					key->val.string.val),
			 errhint("Known fields are %s.", known)));
}

static bool
key_is(const JsonbValue *key, const char *name)
{
	return key->val.string.len == strlen(name) &&
		memcmp(key->val.string.val, name, key->val.string.len) == 0;
}

static text *
string_field(const JsonbValue *v, const char *field)
{
	if (v->type != jbvString)
		wrong_type(field, "a string", v);
	return cstring_to_text_with_len(v->val.string.val, v->val.string.len);
}

static char *
cstring_field(const JsonbValue *v, const char *field)
{
	if (v->type != jbvString)
		wrong_type(field, "a string", v);
	return pnstrdup(v->val.string.val, v->val.string.len);
}

/* Reads an integer. One that does not fit into a bigint raises 22003, by the conversion of numeric. */
static int64
integer_field(const JsonbValue *v, const char *field)
{
	Datum		number;

	if (v->type != jbvNumeric)
		wrong_type(field, "an integer", v);
	number = NumericGetDatum(v->val.numeric);
	if (!DatumGetBool(DirectFunctionCall2(numeric_eq, number,
										  DirectFunctionCall2(numeric_trunc, number, Int32GetDatum(0)))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must be an integer, not %s", field,
						DatumGetCString(DirectFunctionCall1(numeric_out, number)))));
	return DatumGetInt64(DirectFunctionCall1(numeric_int8, number));
}

/* Reads an expected version: a number, or the word for what it says. */
static int64
expected_field(const JsonbValue *v)
{
	static const struct
	{
		const char *word;
		int64		expected;
	}			words[] = {{"any", ES_ANY}, {"none", 0}, {"exists", ES_EXISTS}};

	if (v->type == jbvNull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("\"expected_version\" must not be null"),
				 errhint(EXPECTED_HINT)));
	if (v->type == jbvNumeric)
		return es_check_expected(integer_field(v, "expected_version"));
	if (v->type != jbvString)
		wrong_type("expected_version", "an integer, \"any\", \"none\" or \"exists\"", v);
	for (int i = 0; i < lengthof(words); i++)
		if (key_is(v, words[i].word))
			return words[i].expected;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"expected_version\" must not be \"%.*s\"",
					pg_mbcliplen(v->val.string.val, v->val.string.len, 64), v->val.string.val),
			 errdetail("It is an integer, \"any\", \"none\" or \"exists\"."),
			 v->val.string.len > 0 && strspn(v->val.string.val, "-0123456789") >= (size_t) v->val.string.len ?
			 errhint("Pass the version as a number, without quotes.") : 0));
}

static Jsonb *
empty_object(void)
{
	JsonbValue	v = {.type = jbvObject};

	return JsonbValueToJsonb(&v);
}

/* Reads one event from a JSON object and adds it to an element of the call. */
static void
read_event(EsCall *call, int element, JsonbContainer *object, Place *place)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	v;
	text	   *type = NULL;
	Jsonb	   *data = NULL;
	Jsonb	   *metadata = NULL;
	pg_uuid_t  *id = NULL;
	TimestampTz occurred_at;
	int32		schema_version;
	bool		has_occurred_at = false;
	bool		has_schema_version = false;

	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&it, &v, true);
		if (key_is(&key, "type"))
			type = string_field(&v, "type");
		else if (key_is(&key, "data"))
			data = JsonbValueToJsonb(&v);
		else if (key_is(&key, "metadata"))
			metadata = JsonbValueToJsonb(&v);
		else if (v.type == jbvNull &&
				 (key_is(&key, "id") || key_is(&key, "occurred_at") || key_is(&key, "schema_version")))
			continue;			/* JSON null is the same as leaving the field out */
		else if (key_is(&key, "id"))
		{
			place->field = "id";
			id = DatumGetUUIDP(DirectFunctionCall1(uuid_in, CStringGetDatum(cstring_field(&v, "id"))));
		}
		else if (key_is(&key, "occurred_at"))
		{
			place->field = "occurred_at";
			occurred_at = es_occurred_at(cstring_field(&v, "occurred_at"));
			has_occurred_at = true;
		}
		else if (key_is(&key, "schema_version"))
		{
			int64		number;

			place->field = "schema_version";
			number = integer_field(&v, "schema_version");
			if (number < 1 || number > PG_INT32_MAX)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("\"schema_version\" must be between 1 and %d, not %lld", PG_INT32_MAX,
								(long long) number)));
			schema_version = (int32) number;
			has_schema_version = true;
		}
		else
			unknown_field(&key, "type, data, metadata, id, occurred_at and schema_version");
		place->field = NULL;
	}
	if (type == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an event has no \"type\"")));
	es_call_event(call, element, type, data == NULL ? empty_object() : data, metadata, id,
				  has_occurred_at ? &occurred_at : NULL,
				  has_schema_version ? &schema_version : NULL);
}

static void
add_events(EsCall *call, int element, JsonbContainer *list, int append)
{
	ErrorContextCallback context;
	Place		place = {append, 1, NULL};

	context.callback = place_context;
	context.arg = &place;
	context.previous = error_context_stack;
	error_context_stack = &context;

	if (JsonContainerIsObject(list))
		read_event(call, element, list, &place);
	else
	{
		JsonbIterator *it = JsonbIteratorInit(list);
		JsonbIteratorToken token;
		JsonbValue	v;

		while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
		{
			if (token != WJB_ELEM)
				continue;
			CHECK_FOR_INTERRUPTS();
			if (v.type != jbvBinary || !JsonContainerIsObject(v.val.binary.data))
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("an event must be an object, not %s", type_name(&v))));
			read_event(call, element, v.val.binary.data, &place);
			place.event++;
		}
	}
	error_context_stack = context.previous;
}

/* Adds events to an element of the call: those of a JSON array, or the one that a JSON object is. */
void
es_json_add_events(EsCall *call, int element, Jsonb *list)
{
	add_events(call, element, &list->root, 0);
}

static void
check_event_list(JsonbContainer *list, const char *what)
{
	if (JsonContainerIsScalar(list) || !(JsonContainerIsArray(list) || JsonContainerIsObject(list)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be an object or an array of objects", what),
				 JsonContainerIsScalar(list) && getIthJsonbValueFromContainer(list, 0)->type == jbvString ?
				 errhint("It is a JSON string. Pass the JSON itself and not its text: it was made JSON twice.") : 0));
	if (JsonContainerSize(list) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", what)));
}

/*
 * Reads the argument "events" of es_append. It is an event, an array of events, or an object with the keys "events" and
 * "idempotency_key". Stores the event or events in *list, for es_json_add_events(), and returns the idempotency key, or
 * NULL without one.
 */
text *
es_json_events(Jsonb *json, Jsonb **list)
{
	JsonbValue	v;
	text	   *idempotency_key = NULL;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	key;

	*list = json;
	check_event_list(&json->root, "events");
	if (!JB_ROOT_IS_OBJECT(json) ||
		getKeyJsonValueFromContainer(&json->root, "events", strlen("events"), &v) == NULL)
		return NULL;

	it = JsonbIteratorInit(&json->root);
	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&it, &v, true);
		if (key_is(&key, "events"))
		{
			if (v.type != jbvBinary)
				wrong_type("events", "an object or an array of objects", &v);
			check_event_list(v.val.binary.data, "events");
			*list = JsonbValueToJsonb(&v);
		}
		else if (key_is(&key, "idempotency_key"))
		{
			if (v.type != jbvNull)
				idempotency_key = string_field(&v, "idempotency_key");
		}
		else
			unknown_field(&key, "events and idempotency_key");
	}
	return idempotency_key;
}

static void
read_append(EsCall *call, JsonbContainer *object, Place *place)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	v;
	text	   *stream = NULL;
	text	   *idempotency_key = NULL;
	JsonbContainer *events = NULL;
	int64		expected = ES_ANY;
	bool		has_expected = false;
	int			element;

	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&it, &v, true);
		if (key_is(&key, "stream"))
			stream = string_field(&v, "stream");
		else if (v.type == jbvNull && (key_is(&key, "events") || key_is(&key, "idempotency_key")))
			continue;			/* JSON null is the same as leaving the field out */
		else if (key_is(&key, "expected_version"))
		{
			place->field = "expected_version";
			expected = expected_field(&v);
			has_expected = true;
		}
		else if (key_is(&key, "events"))
		{
			if (v.type != jbvBinary)
				wrong_type("events", "an object or an array of objects", &v);
			events = v.val.binary.data;
		}
		else if (key_is(&key, "idempotency_key"))
			idempotency_key = string_field(&v, "idempotency_key");
		else
			unknown_field(&key, "stream, expected_version, events and idempotency_key");
		place->field = NULL;
	}
	if (stream == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an append has no \"stream\"")));
	if (events != NULL && JsonContainerIsArray(events) && JsonContainerSize(events) == 0)
		events = NULL;
	if (events == NULL && idempotency_key != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an append without events must not have an \"idempotency_key\"")));
	if (events != NULL && !has_expected)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("an append with events has no \"expected_version\""),
				 errhint(EXPECTED_HINT)));
	element = es_call_element(call, stream, expected, idempotency_key);
	if (events != NULL)
		add_events(call, element, events, place->append);
}

/* Reads the argument "appends" of es_append_multi, and adds its elements and their events to the call. */
void
es_json_appends(EsCall *call, Jsonb *appends)
{
	ErrorContextCallback context;
	Place		place = {1, 0, NULL};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	int			keyed = 0;
	int			writing = 0;

	if (!JB_ROOT_IS_ARRAY(appends) || JB_ROOT_IS_SCALAR(appends))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("appends must be an array of objects"),
				 JB_ROOT_IS_SCALAR(appends) && getIthJsonbValueFromContainer(&appends->root, 0)->type == jbvString ?
				 errhint("It is a JSON string. Pass the JSON itself and not its text: it was made JSON twice.") : 0));
	if (JB_ROOT_COUNT(appends) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("appends must not be empty")));

	context.callback = place_context;
	context.arg = &place;
	context.previous = error_context_stack;
	error_context_stack = &context;
	it = JsonbIteratorInit(&appends->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		CHECK_FOR_INTERRUPTS();
		if (v.type != jbvBinary || !JsonContainerIsObject(v.val.binary.data))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("an append must be an object, not %s", type_name(&v))));
		read_append(call, v.val.binary.data, &place);
		place.append++;
	}
	error_context_stack = context.previous;

	for (int e = 0; e < call->element_count; e++)
	{
		writing += call->elements[e].events > 0;
		keyed += call->elements[e].key != NULL;
	}
	for (int e = 0; e < call->element_count; e++)
		for (int f = call->streams[call->elements[e].stream].first_element; f < e; f++)
			if (call->elements[f].stream == call->elements[e].stream &&
				call->elements[f].key != NULL && call->elements[e].key != NULL &&
				VARSIZE_ANY_EXHDR(call->elements[f].key) == VARSIZE_ANY_EXHDR(call->elements[e].key) &&
				memcmp(VARDATA_ANY(call->elements[f].key), VARDATA_ANY(call->elements[e].key),
					   VARSIZE_ANY_EXHDR(call->elements[e].key)) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("idempotency key \"%s\" is given twice for stream \"%s\"",
								text_to_cstring(call->elements[e].key),
								text_to_cstring(call->streams[call->elements[e].stream].name)),
						 errdetail("Elements %d and %d of appends.", f + 1, e + 1)));
	if (keyed > 0 && keyed < writing)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("either every append with events has an \"idempotency_key\" or none has"),
				 errdetail("%d of %d have one.", keyed, writing),
				 errhint("The call is replayed as a whole; the elements may share one key, it is kept per stream.")));
}

static void
parse_context(void *arg)
{
	/* Other errors, such as a stack that is too deep, have a hint of PostgreSQL's own, which must stay. */
	if (geterrcode() == ERRCODE_INVALID_TEXT_REPRESENTATION)
		errhint("%s", (const char *) arg);
}

/* Parses JSON that was given as text. When that is no JSON, the error of the JSON parser gets this hint. */
Jsonb *
es_json_parse(text *json, const char *hint)
{
	ErrorContextCallback context;
	Jsonb	   *parsed;

	context.callback = parse_context;
	context.arg = unconstify(char *, hint);
	context.previous = error_context_stack;
	error_context_stack = &context;
	parsed = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text_to_cstring(json))));
	error_context_stack = context.previous;
	return parsed;
}
