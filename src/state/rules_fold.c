/*
 * state/rules_fold.c
 *	  Applies a compiled rules document to events.
 *
 * The state is a tree of EsValues, which a step changes in place. Fields of the event are looked up in its binary
 * jsonb without a copy. A jsonb of the state is made by es_rules_result() only. What a step allocates becomes part of
 * the state or is freed in the same step: a fold may have any number of events, so nothing can wait for its end to be
 * freed.
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/json.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "state/number.h"
#include "state/rules_internal.h"

/* A state that takes more memory than this would hardly fit into a jsonb, and is too large for a backend. */
#define MAX_STATE_MEMORY	((Size) 1024 * 1024 * 1024)

#define UUID_TEXT_LEN		36

/* For messages. */
#define DEFAULT_HINT	"A source can have a default: {\"field\": \"amount\", \"default\": 0}."
#define KEY_KINDS		"a string or a number, as a key must be"

/*
 * A value that an operation reads from the state. All of these are copied before the operation writes. So the order
 * of its targets does not matter, and a target may be a part of what is read, or the other way round.
 */
typedef struct Slot
{
	bool		found;
	EsValue		value;
} Slot;

struct EsRulesState
{
	MemoryContext context;
	MemoryContext scratch;		/* of es_rules_result(); NULL: not made yet */
	EsValue		root;
	Slot	   *slots;
	const EsRulesEvent *event;
	const Operation *operation; /* the current one, for messages; NULL: we are in a condition */
	const Assignment *assignment;	/* the current one, for messages; NULL: none yet */
	StringInfoData key;			/* a number that is used as a key, as text */
	char		occurred_at[MAXDATELEN + 1];
	char		recorded_at[MAXDATELEN + 1];
	char		id[UUID_TEXT_LEN + 1];
};

/* Raises an error about the current operation. */
static ES_NORETURN void
fail(const EsRulesState *state, int sqlstate, const char *hint, const char *problem)
{
	StringInfoData place;

	initStringInfo(&place);
	appendStringInfo(&place, "\"%s\"", state->operation ? state->operation->name : "when");
	if (state->operation && state->assignment)
	{
		const char *target = state->assignment->target.text;

		appendStringInfo(&place, " of \"%.*s\"", pg_mbcliplen(target, strlen(target), 128), target);
	}
	ereport(ERROR,
			(errcode(sqlstate),
			 errmsg("%s: %s", place.data, problem),
			 hint ? errhint("%s", hint) : 0));
}

/* Raises an error: a source has no value, but one is needed. */
static ES_NORETURN void
fail_missing(const EsRulesState *state, const Source *source, const char *hint)
{
	bool		erased = source->kind == SOURCE_DATA && state->event->data == NULL;

	fail(state, ERRCODE_NULL_VALUE_NOT_ALLOWED, hint,
		 psprintf("field \"%s\" is missing%s", source->text,
				  erased ? ": the data of the event was erased" : ""));
}

/* Raises an error: the value of a source has the wrong type. */
static ES_NORETURN void
fail_kind(const EsRulesState *state, const Source *source, const EsValue *value, const char *wanted,
		  const char *hint)
{
	fail(state, value->type == ES_NULL ? ERRCODE_NULL_VALUE_NOT_ALLOWED : ERRCODE_INVALID_PARAMETER_VALUE,
		 hint, psprintf("field \"%s\" is %s, not %s", source->text, es_value_kind(value), wanted));
}

static ES_NORETURN void
fail_number(const EsRulesState *state, const Source *source, const EsValue *value, const char *wanted)
{
	fail_kind(state, source, value, wanted,
			  value->type == ES_STRING ? "Numbers in strings are not converted." :
			  value->type == ES_NULL ? DEFAULT_HINT : NULL);
}

/*
 * Sources
 */

static bool source_value(EsRulesState *state, const Source *source, EsValue *value);

/* Makes a key of a string or a number; false: the value is neither. */
static bool
key_of_value(EsRulesState *state, const EsValue *value, const char **key, uint32 *len, uint32 *hash)
{
	if (es_is_number(value))
	{
		resetStringInfo(&state->key);
		es_number_append(&state->key, value);
		*key = state->key.data;
		*len = state->key.len;
	}
	else if (value->type == ES_STRING)
	{
		*key = value->as.string;
		*len = value->len;
	}
	else
		return false;
	*hash = es_key_hash(*key, *len);
	return true;
}

/* The key of a segment; false: it is to come from a field that is missing, or is no string or number. */
static bool
segment_key(EsRulesState *state, const Segment *segment, const char **key, uint32 *len, uint32 *hash)
{
	EsValue		value;

	if (segment->from == NULL)
	{
		*key = segment->key;
		*len = segment->len;
		*hash = segment->hash;
		return true;
	}
	return source_value(state, segment->from, &value) && key_of_value(state, &value, key, len, hash);
}

/* Looks a field up in a jsonb; false: it is missing. */
static bool
json_field(EsRulesState *state, Jsonb *json, const Path *path, EsValue *value)
{
	JsonbContainer *container;
	JsonbValue	v;

	if (json == NULL)
		return false;
	if (path->count == 0)
	{
		*value = es_value_of_jsonb(json);
		return true;
	}
	container = &json->root;
	for (int i = 0;; i++)
	{
		const char *key;
		uint32		len;
		uint32		hash;

		if (!JsonContainerIsObject(container) ||
			!segment_key(state, &path->segments[i], &key, &len, &hash) ||
			getKeyJsonValueFromContainer(container, key, len, &v) == NULL)
			return false;
		if (i == path->count - 1)
			break;
		if (v.type != jbvBinary)
			return false;
		container = v.val.binary.data;
	}
	*value = es_value_of_json(&v);
	return true;
}

/* Looks a field up in the state, or in an element of an array in it. NULL: it is missing. */
static const EsValue *
value_field(EsRulesState *state, const EsValue *value, const Path *path)
{
	for (int i = 0; i < path->count && value != NULL; i++)
	{
		const char *key;
		uint32		len;
		uint32		hash;

		if (value->type != ES_OBJECT || !segment_key(state, &path->segments[i], &key, &len, &hash))
			return NULL;
		value = es_object_find(value->as.object, key, len, hash);
	}
	return value;
}

/* A time as a string, as to_jsonb() writes it when TimeZone is UTC. */
static EsValue
time_value(TimestampTz time, char *buffer)
{
	int			utc = 0;

	JsonEncodeDateTime(buffer, TimestampTzGetDatum(time), TIMESTAMPTZOID, &utc);
	return es_value_of_string(buffer, strlen(buffer));
}

static EsValue
text_value(const text *string)
{
	return es_value_of_string(VARDATA_ANY(string), VARSIZE_ANY_EXHDR(string));
}

/*
 * A field of $event. Strings are written into buffers of the state, one for each field, as several may be in use at
 * once.
 */
static EsValue
event_field(EsRulesState *state, EventField field)
{
	const EsRulesEvent *event = state->event;
	char	   *id;

	switch (field)
	{
		case FIELD_TYPE:
			return text_value(event->type);
		case FIELD_VERSION:
			return es_value_of_int64(event->version);
		case FIELD_POSITION:
			return es_value_of_int64(event->position);
		case FIELD_OCCURRED_AT:
			return time_value(event->occurred_at, state->occurred_at);
		case FIELD_RECORDED_AT:
			return time_value(event->recorded_at, state->recorded_at);
		case FIELD_STREAM:
			return text_value(event->stream);
		case FIELD_SCHEMA_VERSION:
			return es_value_of_int64(event->schema_version);
		case FIELD_ID:
			id = DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(event->id)));
			strlcpy(state->id, id, sizeof(state->id));
			pfree(id);
			return es_value_of_string(state->id, UUID_TEXT_LEN);
	}
	elog(ERROR, "unexpected event field %d", (int) field);
}

/* The value of a source, not copied: the caller must not keep or change it. False: it is missing. */
static bool
source_value(EsRulesState *state, const Source *source, EsValue *value)
{
	bool		found = false;

	switch (source->kind)
	{
		case SOURCE_LITERAL:
			*value = source->value;
			return true;
		case SOURCE_DATA:
			found = json_field(state, state->event->data, &source->path, value);
			break;
		case SOURCE_METADATA:
			found = json_field(state, state->event->metadata, &source->path, value);
			break;
		case SOURCE_STATE:
			if (source->slot >= 0)
			{
				found = state->slots[source->slot].found;
				*value = state->slots[source->slot].value;
			}
			else
			{
				const EsValue *field = value_field(state, &state->root, &source->path);

				found = field != NULL;
				if (found)
					*value = *field;
			}
			break;
		case SOURCE_EVENT:
			*value = event_field(state, source->field);
			return true;
	}
	if (source->has_default && (!found || value->type == ES_NULL))
	{
		*value = source->value;
		return true;
	}
	return found;
}

/* The value of a source, as a copy that the state can keep. A missing value is null. */
static EsValue
take_source(EsRulesState *state, const Source *source)
{
	EsValue		value;

	if (!source_value(state, source, &value))
		return ES_VALUE_NULL;
	if (source->kind == SOURCE_STATE && state->slots[source->slot].found)
	{
		/* The slot has a copy already. Take that one. */
		state->slots[source->slot].value = ES_VALUE_NULL;
		return value;
	}
	return es_value_copy(&value);
}

/* Copies what an operation reads from the state. */
static void
fill_slots(EsRulesState *state, const Operation *operation)
{
	for (int i = 0; i < operation->read_count; i++)
	{
		const Source *source = operation->reads[i];
		const EsValue *field = value_field(state, &state->root, &source->path);

		state->slots[i].found = field != NULL && !(source->has_default && field->type == ES_NULL);
		if (state->slots[i].found)
			state->slots[i].value = es_value_copy(field);
	}
}

static void
empty_slots(EsRulesState *state, const Operation *operation)
{
	for (int i = 0; i < operation->read_count; i++)
		es_value_free(&state->slots[i].value);
}

/*
 * Targets
 */

/* The key of a segment of a target. Raises an error when it has none. */
static inline void
target_key(EsRulesState *state, const Segment *segment, const char **key, uint32 *len, uint32 *hash)
{
	EsValue		value;

	if (segment_key(state, segment, key, len, hash))
		return;
	if (!source_value(state, segment->from, &value))
		fail_missing(state, segment->from, NULL);
	fail_kind(state, segment->from, &value, KEY_KINDS, NULL);
}

/* Raises an error: a path goes on below a value that is no object. */
static ES_NORETURN void
fail_through(const EsRulesState *state, const Path *path, int segments, const EsValue *value)
{
	fail(state, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
		 segments == 0 ? psprintf("the state is %s, not an object", es_value_kind(value)) :
		 psprintf("\"%s\" in the state is %s, not an object",
				  pnstrdup(path->text, path->segments[segments - 1].end), es_value_kind(value)));
}

/*
 * Follows the first segments of a target's path. If the value is missing, returns NULL; but with make, makes it as
 * null, and the objects above it too.
 */
static EsValue *
walk(EsRulesState *state, const Path *path, int segments, bool make)
{
	EsValue    *at = &state->root;

	for (int i = 0; i < segments; i++)
	{
		const char *key;
		uint32		len;
		uint32		hash;

		if (at->type == ES_NULL)
		{
			if (!make)
				return NULL;
			*at = es_value_object();
		}
		if (at->type != ES_OBJECT)
			fail_through(state, path, i, at);
		target_key(state, &path->segments[i], &key, &len, &hash);
		at = make ? es_object_make(at->as.object, key, len, hash) :
			es_object_find(at->as.object, key, len, hash);
		if (at == NULL)
			return NULL;
	}
	return at;
}

static inline EsValue *
make_target(EsRulesState *state, const Assignment *assignment)
{
	return walk(state, &assignment->target, assignment->target.count, true);
}

static inline EsValue *
find_target(EsRulesState *state, const Assignment *assignment)
{
	return walk(state, &assignment->target, assignment->target.count, false);
}

static ES_NORETURN void
fail_target(const EsRulesState *state, const EsValue *target, const char *wanted)
{
	fail(state, ERRCODE_INVALID_PARAMETER_VALUE, NULL,
		 psprintf("the target is %s, not %s", es_value_kind(target), wanted));
}

/*
 * Operations
 */

static void
set(EsRulesState *state, const Assignment *assignment)
{
	const Source *source = &assignment->source;
	EsValue		value = ES_VALUE_NULL;
	EsValue    *target;

	if (source->kind == SOURCE_STATE)
	{
		value = take_source(state, source);
		target = make_target(state, assignment);
		es_value_free(target);
		*target = value;
		return;
	}
	(void) source_value(state, source, &value);
	es_value_assign(make_target(state, assignment), &value);
}

static void
add(EsRulesState *state, const Assignment *assignment, bool subtract)
{
	EsValue		amount;
	EsValue    *target;

	if (!source_value(state, &assignment->source, &amount))
		fail_missing(state, &assignment->source, DEFAULT_HINT);
	if (!es_is_number(&amount))
		fail_number(state, &assignment->source, &amount, "a number");
	target = make_target(state, assignment);
	if (target->type == ES_NULL)
		*target = es_value_of_int64(0);
	else if (!es_is_number(target))
		fail_target(state, target, "a number");
	if (!es_number_add(target, &amount, subtract))
		fail(state, ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, NULL, "the result is not in numeric's range");
}

static int
compare_strings(const EsValue *a, const EsValue *b)
{
	int			difference = memcmp(a->as.string, b->as.string, Min(a->len, b->len));

	return difference != 0 ? difference : (a->len > b->len) - (a->len < b->len);
}

static void
keep_extreme(EsRulesState *state, const Assignment *assignment, int sign)
{
	EsValue		value;
	EsValue    *target;
	int			order;

	if (!source_value(state, &assignment->source, &value))
		fail_missing(state, &assignment->source, DEFAULT_HINT);
	if (!es_is_number(&value) && value.type != ES_STRING)
		fail_number(state, &assignment->source, &value, "a number or a string");
	target = make_target(state, assignment);
	if (target->type == ES_NULL)
		order = sign;
	else if (es_is_number(target) && es_is_number(&value))
		order = es_number_compare(&value, target);
	else if (target->type == ES_STRING && value.type == ES_STRING)
		order = compare_strings(&value, target);
	else
		fail_target(state, target, es_value_kind(&value));
	if (sign > 0 ? order > 0 : order < 0)
		es_value_assign(target, &value);
}

static void
append(EsRulesState *state, const Assignment *assignment)
{
	EsValue		element = take_source(state, &assignment->source);
	EsValue    *target = make_target(state, assignment);

	if (target->type == ES_NULL)
		*target = es_value_array();
	else if (target->type != ES_ARRAY)
		fail_target(state, target, "an array");
	es_array_append(target, element);
}

/* Removes the elements that are equal to a value, or whose member, by the path of "key", is equal to it. */
static void
remove_elements(EsRulesState *state, const Assignment *assignment, EsArray *array, const EsValue *value)
{
	uint32		kept = 0;

	for (uint32 i = 0; i < array->count; i++)
	{
		EsValue    *element = &array->elements[i];
		const EsValue *compared = element;

		if (assignment->by_member)
			compared = value_field(state, element, &assignment->member);
		if (compared != NULL && es_value_equal(compared, value))
			es_value_free(element);
		else
			array->elements[kept++] = *element;
	}
	array->count = kept;
}

static void
remove_from(EsRulesState *state, const Assignment *assignment)
{
	EsValue		value;
	EsValue    *target;
	EsValue		copy;

	if (!source_value(state, &assignment->source, &value))
		return;
	target = find_target(state, assignment);
	if (target == NULL || target->type == ES_NULL)
		return;
	if (target->type == ES_OBJECT && !assignment->by_member)
	{
		const char *key;
		uint32		len;
		uint32		hash;

		if (!key_of_value(state, &value, &key, &len, &hash))
			fail_kind(state, &assignment->source, &value, KEY_KINDS, NULL);
		es_object_remove(target->as.object, key, len, hash);
		return;
	}
	if (target->type != ES_ARRAY)
		fail_target(state, target, assignment->by_member ? "an array" : "an array or an object");

	/* It will be compared with many elements, and that is faster when it is not binary jsonb. */
	copy = es_value_copy(&value);
	remove_elements(state, assignment, target->as.array, &copy);
	es_value_free(&copy);
}

static void
merge(EsRulesState *state, const Assignment *assignment)
{
	EsValue		patch;

	if (source_value(state, &assignment->source, &patch))
		es_value_merge(make_target(state, assignment), &patch);
}

static void
unset(EsRulesState *state, const Assignment *assignment)
{
	const Path *path = &assignment->target;
	EsValue    *parent = walk(state, path, path->count - 1, false);
	const char *key;
	uint32		len;
	uint32		hash;

	if (parent == NULL || parent->type == ES_NULL)
		return;
	if (parent->type != ES_OBJECT)
		fail_through(state, path, path->count - 1, parent);
	target_key(state, &path->segments[path->count - 1], &key, &len, &hash);
	es_object_remove(parent->as.object, key, len, hash);
}

static void
apply(EsRulesState *state, OperationKind kind, const Assignment *assignment)
{
	switch (kind)
	{
		case OP_SET:
			set(state, assignment);
			break;
		case OP_ADD:
		case OP_COUNT:
			add(state, assignment, false);
			break;
		case OP_SUBTRACT:
			add(state, assignment, true);
			break;
		case OP_MIN:
			keep_extreme(state, assignment, -1);
			break;
		case OP_MAX:
			keep_extreme(state, assignment, 1);
			break;
		case OP_APPEND:
			append(state, assignment);
			break;
		case OP_REMOVE:
			remove_from(state, assignment);
			break;
		case OP_MERGE:
			merge(state, assignment);
			break;
		case OP_UNSET:
			unset(state, assignment);
			break;
	}
}

static bool
holds(EsRulesState *state, const Condition *condition)
{
	EsValue		value;
	bool		found = source_value(state, &condition->source, &value);
	int			order;

	if (condition->test == TEST_EXISTS)
		return found == condition->value.as.boolean;
	if (!found)
		value = ES_VALUE_NULL;
	switch (condition->test)
	{
		case TEST_IS:
			return es_value_equal(&value, &condition->value);
		case TEST_NOT:
			return !es_value_equal(&value, &condition->value);
		case TEST_IN:
			for (uint32 i = 0; i < condition->value.as.array->count; i++)
				if (es_value_equal(&value, &condition->value.as.array->elements[i]))
					return true;
			return false;
		default:
			break;
	}

	if (value.type == ES_NULL)
		return false;
	if (!es_is_number(&value))
		fail_number(state, &condition->source, &value, "a number");
	order = es_number_compare(&value, &condition->value);
	switch (condition->test)
	{
		case TEST_ABOVE:
			return order > 0;
		case TEST_BELOW:
			return order < 0;
		case TEST_AT_LEAST:
			return order >= 0;
		case TEST_AT_MOST:
			return order <= 0;
		default:
			elog(ERROR, "unexpected test %d", (int) condition->test);
	}
}

static bool
all_hold(EsRulesState *state, const OperationObject *object)
{
	state->operation = NULL;
	for (int i = 0; i < object->condition_count; i++)
		if (!holds(state, &object->conditions[i]))
			return false;
	return true;
}

static void
run_operation(EsRulesState *state, const Operation *operation)
{
	state->operation = operation;
	state->assignment = NULL;
	if (operation->read_count > 0)
		fill_slots(state, operation);
	for (int i = 0; i < operation->assignment_count; i++)
	{
		state->assignment = &operation->assignments[i];
		apply(state, operation->kind, state->assignment);
		if (unlikely(MemoryContextMemAllocated(state->context, false) > MAX_STATE_MEMORY))
			fail(state, ERRCODE_PROGRAM_LIMIT_EXCEEDED, NULL,
				 psprintf("the state takes more than %zu MB of memory", MAX_STATE_MEMORY / (1024 * 1024)));
	}
	if (operation->read_count > 0)
		empty_slots(state, operation);
}

/* Changes the state as the rule for an event's type says. */
void
es_rules_step(EsRulesState *state, const EsRule *rule, const EsRulesEvent *event)
{
	MemoryContext caller = MemoryContextSwitchTo(state->context);

	state->event = event;
	for (int i = 0; i < rule->object_count; i++)
	{
		const OperationObject *object = &rule->objects[i];

		if (object->condition_count > 0 && !all_hold(state, object))
			continue;
		for (int o = 0; o < object->operation_count; o++)
			run_operation(state, &object->operations[o]);
	}
	state->event = NULL;
	MemoryContextSwitchTo(caller);
}

/* Begins a fold. The compiled rules must live as long as the fold. */
EsRulesState *
es_rules_begin(const EsRules *rules, Jsonb *initial)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "fold by rules",
												  ALLOCSET_START_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	EsRulesState *state = palloc0(sizeof(EsRulesState));
	EsValue		borrowed = es_value_of_jsonb(initial);

	state->context = context;
	state->root = es_value_copy(&borrowed);
	if (rules->slot_count > 0)
		state->slots = palloc0(rules->slot_count * sizeof(Slot));
	initStringInfo(&state->key);
	MemoryContextSwitchTo(caller);
	return state;
}

/* The state so far as a jsonb, in the current memory context. The fold can go on. */
Jsonb *
es_rules_result(EsRulesState *state)
{
	Jsonb	   *result;

	if (state->scratch == NULL)
		state->scratch = AllocSetContextCreate(state->context, "result of a fold by rules",
											   ALLOCSET_START_SMALL_SIZES);
	result = es_value_to_jsonb(&state->root, state->scratch);
	MemoryContextReset(state->scratch);
	return result;
}

void
es_rules_end(EsRulesState *state)
{
	MemoryContextDelete(state->context);
}
