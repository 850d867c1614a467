/*
 * state/rules.c
 *	  Rules documents: folds written as JSON.
 *
 * A document says, by event type, what an event changes in the state:
 *
 *	  {"Opened":    {"set": {"owner": "owner", "opened_at": "$event.occurred_at"}},
 *	   "Deposited": {"add": {"balance": "amount"}, "count": "deposits"},
 *	   "Withdrawn": [{"subtract": {"balance": "amount"}},
 *					 {"when": {"field": "$state.balance", "below": 0}, "count": "overdrafts"}]}
 *
 * The language:
 *
 * document		{event type: rule, ...}, at least one. "*" is the rule of the types that have none of
 *				their own. A type without a rule changes nothing.
 * rule			An operation object, or a list of them, applied one after the other. [] does nothing
 *				(and keeps "*" away from that type).
 * operation	{operation: ..., ...}, one or more of those below, and optionally "when". Several are
 *	object		applied in the order of this list, whatever their order in the text (jsonb has none):
 *
 *	  "set"		 {target: source, ...}	 the value; null where the source is missing
 *	  "add"		 {target: source, ...}	 target + source; a missing target counts as 0
 *	  "subtract" {target: source, ...}	 target - source; likewise
 *	  "min"		 {target: source, ...}	 the lesser of two numbers or of two strings (bytewise); a
 *	  "max"		 {target: source, ...}	 missing target becomes the source; equals change nothing
 *	  "count"	 target | [target, ...] | {target: number, ...}		adds 1, or the number
 *	  "append"	 {target: source, ...}	 one more element; a missing target becomes an array
 *	  "remove"	 {target: source, ...}	 from an array all elements equal to the source, from an object
 *										 the member of that name. {target: {"key": path, "equals":
 *										 source}} removes from an array the objects that have the
 *										 source's value at the path. A missing source or target: nothing
 *	  "merge"	 {target: source, ...}	 RFC 7396: objects member by member, a null deletes one, all
 *										 else replaces. A missing source: nothing
 *	  "unset"	 target | [target, ...]	 removes the member
 *
 *	add, subtract, min and max need their source: missing or null, it is an error, which a "default"
 *	avoids. Numbers are numeric, exact. A string is never taken for a number.
 *
 * target		A path in the state: keys with dots between them. Objects missing on the way are made
 *				(not by remove and unset); anything else there than an object is an error. The empty
 *				path is the state itself, for set and merge. In the state null is the same as missing,
 *				to every operation. One operation's targets must not overlap ("a" and "a.b"): what
 *				needs an order is written as a list.
 * path			Segments with dots between them. A segment is a key, or {source}: the key is then the
 *				value of that source, a string or a number as jsonb prints it: "lines.{sku}.qty". A
 *				backslash takes away the meaning of . \ { } and $. A number is a key like any
 *				other; elements of arrays have no paths.
 * source		"path"						 a field of the event's data; "": all of it
 *				"$metadata.path"			 a field of its metadata; "$metadata": all of it
 *				"$event.name"				 type, version, position, occurred_at, recorded_at, stream,
 *											 schema_version, id; times as ISO 8601 in UTC
 *				"$state.path"				 a field of the state as it was before this operation, "$state":
 *											 all of it
 *				{"value": json}				 that value
 *				{"field": "path...", "default": json}	 any of the strings above; the default where it
 *											 is missing or null
 *				A path through something that is no object, or with {source} that has no key to give,
 *				leads to a missing value. Data that was erased is missing.
 * when			{"field": source, test}, or a list of these, which must all hold, on the state before
 *				the operation object. The test is one of
 *
 *	  "is": json, "not": json, "in": [json, ...]	 equal as JSON; missing counts as null
 *	  "above", "below", "at_least", "at_most": number	 never hold for missing or null; any other
 *										 value than a number is an error
 *	  "exists": true | false			 whether it is there; null is
 *
 * An error that shows in the document itself is raised when the document is compiled. Any other is raised when an
 * event is applied. Messages then name the types of values and never the values themselves: these are somebody's
 * data, and messages get into logs.
 *
 * This file compiles a document; state/rules_fold.c applies it to events.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "port/pg_bitutils.h"

#include "base/base.h"
#include "state/number.h"
#include "state/rules_internal.h"

static const char *const operation_names[] = {
	"set", "add", "subtract", "min", "max", "count", "append", "remove", "merge", "unset"
};

#define OPERATION_LIST	"set, add, subtract, min, max, count, append, remove, merge and unset"

static const char *const test_names[] = {
	"is", "not", "in", "above", "below", "at_least", "at_most", "exists"
};

#define TEST_LIST	"is, not, in, above, below, at_least, at_most and exists"

static const char *const event_field_names[] = {
	"type", "version", "position", "occurred_at", "recorded_at", "stream", "schema_version", "id"
};

#define EVENT_FIELD_LIST \
	"type, version, position, occurred_at, recorded_at, stream, schema_version and id"

/* Where in the document we are, for messages, and where in the string that is being parsed. */
typedef struct Parser
{
	EsRules    *rules;
	const char *type;			/* event type */
	int			element;		/* of the type's list, counted from 1; 0: there is no list */
	const char *operation;		/* or "when"; NULL: not within one */
	const char *target;			/* NULL: not within one */
	List	   *reads;			/* Source *: what this operation reads from the state */
	bool		in_condition;	/* within "when" */
	const char *text;
	int			len;
	int			at;
} Parser;

static void parse_source_text(Parser *p, Source *source, bool braces);

/* Shortens a name or value for a message. */
static char *
clip(const char *text, int len)
{
	return pnstrdup(text, pg_mbcliplen(text, len, 128));
}

/* Raises an error about the document, which says where in it we are. If value is not NULL, it is shown. */
static ES_NORETURN void
refuse(const Parser *p, const EsValue *value, const char *hint, const char *problem)
{
	StringInfoData place;
	char	   *json = NULL;

	initStringInfo(&place);
	if (p->type)
		appendStringInfo(&place, " for event type \"%s\"", clip(p->type, strlen(p->type)));
	if (p->element > 0)
		appendStringInfo(&place, ", element %d", p->element);
	if (p->operation)
		appendStringInfo(&place, ", \"%s\"", p->operation);
	if (p->target)
		appendStringInfo(&place, " of \"%s\"", clip(p->target, strlen(p->target)));
	if (value)
	{
		Jsonb	   *jsonb = es_value_to_jsonb(value, CurrentMemoryContext);

		json = JsonbToCString(NULL, &jsonb->root, VARSIZE(jsonb));
		json = clip(json, strlen(json));
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("rules%s: %s", place.data, problem),
			 json ? errdetail("The value is %s.", json) : 0,
			 hint ? errhint("%s", hint) : 0));
}

static ES_NORETURN void
refuse_path(const Parser *p, const char *hint, const char *problem)
{
	refuse(p, NULL, hint, psprintf("path \"%s\" %s", clip(p->text, p->len), problem));
}

static bool
name_is(const EsMember *member, const char *name)
{
	return member->len == strlen(name) && memcmp(member->key, name, member->len) == 0;
}

/* The index of a name in a list of names; -1 if the list does not have it. */
static int
place_of_name(const char *name, uint32 len, const char *const *names, int count)
{
	for (int i = 0; i < count; i++)
		if (len == strlen(names[i]) && memcmp(name, names[i], len) == 0)
			return i;
	return -1;
}

static EsValue *
member_of(const EsValue *object, const char *name)
{
	return es_object_find(object->as.object, name, strlen(name), es_key_hash(name, strlen(name)));
}

static bool
at_end(const Parser *p, bool braces)
{
	return p->at == p->len || (braces && p->text[p->at] == '}');
}

/* Parses a key of a path. It ends at the next dot or at the end, and with braces also at a closing brace. */
static void
parse_key(Parser *p, Segment *segment, bool braces)
{
	char	   *key = palloc(p->len - p->at + 1);
	uint32		len = 0;

	for (; !at_end(p, braces) && p->text[p->at] != '.'; p->at++)
	{
		char		c = p->text[p->at];

		if (c == '\\')
		{
			if (p->at + 1 == p->len || strchr(".\\{}$", p->text[p->at + 1]) == NULL)
				refuse_path(p, "A backslash stands before one of . \\ { } and $, whose meaning it takes away.",
							"has a backslash before nothing that needs one");
			c = p->text[++p->at];
		}
		else if (c == '{' || c == '}')
			refuse_path(p, "A segment in braces takes its key from the event, as in \"lines.{sku}.qty\"; "
						"a backslash before a brace makes it part of a key.",
						"has a brace within a segment");
		key[len++] = c;
	}
	if (len == 0)
		refuse_path(p, NULL, "has an empty segment");
	segment->key = key;
	segment->len = len;
	segment->hash = es_key_hash(key, len);
	segment->from = NULL;
}

static void
parse_path(Parser *p, Path *path, bool braces)
{
	List	   *segments = NIL;
	ListCell   *cell;

	check_stack_depth();
	for (;;)
	{
		Segment    *segment = palloc0(sizeof(Segment));

		if (p->at < p->len && p->text[p->at] == '{')
		{
			Source	   *source = palloc0(sizeof(Source));

			p->at++;
			if (at_end(p, true))
				refuse_path(p, NULL, "has nothing between braces");
			parse_source_text(p, source, true);
			if (p->at == p->len)
				refuse_path(p, NULL, "has a brace that is not closed");
			p->at++;
			if (!at_end(p, braces) && p->text[p->at] != '.')
				refuse_path(p, NULL, "has something behind a brace that should be a dot");
			segment->from = source;
		}
		else
			parse_key(p, segment, braces);
		segment->end = p->at;
		segments = lappend(segments, segment);
		if (at_end(p, braces))
			break;
		p->at++;				/* the dot */
	}
	path->text = p->text;
	path->segments = palloc(list_length(segments) * sizeof(Segment));
	foreach(cell, segments)
		path->segments[path->count++] = *(Segment *) lfirst(cell);
}

/* Parses a source that begins with a dollar sign: $event, $metadata or $state, and a path. */
static void
parse_dollar(Parser *p, Source *source, bool braces)
{
	static const char *const roots[] = {"$event", "$metadata", "$state"};
	static const SourceKind kinds[] = {SOURCE_EVENT, SOURCE_METADATA, SOURCE_STATE};
	const char *name = p->text + p->at;
	int			len = 0;
	int			root;

	while (!at_end(p, braces) && p->text[p->at] != '.')
		p->at++, len++;
	root = place_of_name(name, len, roots, lengthof(roots));
	if (root < 0)
		refuse(p, NULL, "These are $event, $metadata and $state; fields of the event's data have no prefix. "
			   "A key that starts with a dollar sign is written \"\\\\$...\".",
			   psprintf("source \"%s\": nothing is called \"%s\"", clip(p->text, p->len), clip(name, len)));
	source->kind = kinds[root];
	if (!at_end(p, braces))
		p->at++;
	else if (source->kind != SOURCE_EVENT)
		return;					/* the whole metadata, or the whole state */
	if (source->kind == SOURCE_EVENT)
	{
		int			field;

		name = p->text + p->at;
		len = 0;
		while (!at_end(p, braces))
			p->at++, len++;
		field = place_of_name(name, len, event_field_names, lengthof(event_field_names));
		if (field < 0)
			refuse(p, NULL, "Fields of $event are " EVENT_FIELD_LIST ".",
				   psprintf("source \"%s\": an event has no field \"%s\"", clip(p->text, p->len),
							clip(name, len)));
		source->field = field;
	}
	else
		parse_path(p, &source->path, braces);
}

static void
parse_source_text(Parser *p, Source *source, bool braces)
{
	int			start = p->at;

	source->kind = SOURCE_DATA;
	if (p->at < p->len && p->text[p->at] == '$')
		parse_dollar(p, source, braces);
	else if (!at_end(p, braces))
		parse_path(p, &source->path, braces);
	source->text = pnstrdup(p->text + start, p->at - start);
	source->slot = -1;
	if (source->kind == SOURCE_DATA)
		p->rules->use_data = true;
	else if (source->kind == SOURCE_METADATA)
		p->rules->use_metadata = true;
	else if (source->kind == SOURCE_STATE && !p->in_condition)
	{
		/* Sources in braces within its path are in the list before it, because their values are needed to read it. */
		source->slot = list_length(p->reads);
		p->reads = lappend(p->reads, source);
	}
}

static void
start_text(Parser *p, const char *text, uint32 len)
{
	p->text = pnstrdup(text, len);
	p->len = len;
	p->at = 0;
}

static void
parse_source_string(Parser *p, const EsValue *value, Source *source)
{
	start_text(p, value->as.string, value->len);
	parse_source_text(p, source, false);
}

/* Parses a source into *source, which must stay where it is: if it reads the state, p->reads points to it. */
static void
parse_source(Parser *p, const EsValue *value, Source *source)
{
	const EsValue *field;

	if (value->type == ES_STRING)
	{
		parse_source_string(p, value, source);
		return;
	}
	if (value->type != ES_OBJECT)
		refuse(p, value, "A literal is written {\"value\": ...}.",
			   psprintf("a source must be a string or an object, not %s", es_value_kind(value)));
	for (uint32 i = 0; i < value->as.object->count; i++)
	{
		const EsMember *member = &value->as.object->members[i];

		if (!name_is(member, "value") && !name_is(member, "field") && !name_is(member, "default"))
			refuse(p, value, "A source is \"path\", {\"value\": ...} or {\"field\": \"path\", \"default\": ...}.",
				   psprintf("unknown key \"%s\" in a source", clip(member->key, member->len)));
	}
	field = member_of(value, "field");
	if ((member_of(value, "value") != NULL) == (field != NULL))
		refuse(p, value, NULL, "a source has either \"value\" or \"field\"");
	if (field == NULL)
	{
		if (value->as.object->count > 1)
			refuse(p, value, NULL, "a source with a \"value\" has no \"default\"");
		source->kind = SOURCE_LITERAL;
		source->value = *member_of(value, "value");
		source->text = "value";
		return;
	}
	if (field->type != ES_STRING)
		refuse(p, value, NULL, psprintf("\"field\" must be a string, not %s", es_value_kind(field)));
	parse_source_string(p, field, source);
	if (member_of(value, "default") != NULL)
	{
		source->has_default = true;
		source->value = *member_of(value, "default");
	}
}

/*
 * Refuses a source if the document alone shows that its value is not a number, or with strings, neither a number nor a
 * string.
 */
static void
check_kind(Parser *p, const Source *source, bool strings)
{
	EsValue		known = source->value;

	if (source->kind == SOURCE_EVENT)
		known.type = source->field == FIELD_VERSION || source->field == FIELD_POSITION ||
			source->field == FIELD_SCHEMA_VERSION ? ES_DECIMAL : ES_STRING;
	else if (source->kind != SOURCE_LITERAL && !source->has_default)
		return;
	if (!es_is_number(&known) && !(strings && known.type == ES_STRING))
		refuse(p, NULL, known.type == ES_STRING ? "Numbers in strings are not converted." : NULL,
			   psprintf("the %s is %s, not a number%s",
						source->kind == SOURCE_EVENT ? "field" :
						source->kind == SOURCE_LITERAL ? "value" : "default",
						es_value_kind(&known), strings ? " or a string" : ""));
}

static bool
same_segment(const Segment *a, const Segment *b)
{
	if (a->from && b->from)
		return strcmp(a->from->text, b->from->text) == 0;
	return !a->from && !b->from && a->len == b->len && memcmp(a->key, b->key, a->len) == 0;
}

/* Parses a target, and adds it to those of an operation. */
static void
parse_target(Parser *p, Operation *operation, const char *text, uint32 len)
{
	Assignment *assignment = &operation->assignments[operation->assignment_count];
	Path	   *path = &assignment->target;

	start_text(p, text, len);
	p->target = path->text = p->text;
	if (len > 0 && *text == '$')
		refuse(p, NULL, "Write \"balance\" for what a source calls \"$state.balance\"; "
			   "a key that starts with a dollar sign is written \"\\\\$...\".",
			   "a target is a path in the state and starts without a dollar sign");
	if (len > 0)
		parse_path(p, path, false);
	else if (operation->kind != OP_SET && operation->kind != OP_MERGE)
		refuse(p, NULL, "Only set and merge do.",
			   psprintf("\"%s\" cannot change the state as a whole", operation->name));

	for (int i = 0; i < operation->assignment_count; i++)
	{
		const Path *other = &operation->assignments[i].target;
		int			same = 0;

		while (same < other->count && same < path->count &&
			   same_segment(&other->segments[same], &path->segments[same]))
			same++;
		if (same == other->count || same == path->count)
			refuse(p, NULL, "What must happen in an order is written as a list of operations.",
				   psprintf("the target overlaps with \"%s\"", clip(other->text, strlen(other->text))));
	}
	operation->assignment_count++;
}

static bool
has_member_form(const EsValue *value)
{
	return value->type == ES_OBJECT &&
		(member_of(value, "key") != NULL || member_of(value, "equals") != NULL);
}

/* {"key": "sku", "equals": source} */
static void
parse_member_form(Parser *p, const EsValue *value, Assignment *assignment)
{
	const EsValue *key = member_of(value, "key");
	const EsValue *equals = member_of(value, "equals");

	if (value->as.object->count != 2 || key == NULL || equals == NULL)
		refuse(p, value, NULL, "elements are removed by \"key\" and \"equals\"");
	if (key->type != ES_STRING || key->len == 0)
		refuse(p, value, NULL, "\"key\" must be a path");
	start_text(p, key->as.string, key->len);
	parse_path(p, &assignment->member, false);
	for (int i = 0; i < assignment->member.count; i++)
		if (assignment->member.segments[i].from)
			refuse(p, value, NULL, "\"key\" is a path in each element, without braces");
	assignment->by_member = true;
	parse_source(p, equals, &assignment->source);
}

/* {target: source, ...}, or {target: number, ...} of count */
static void
parse_assignments(Parser *p, const EsValue *value, Operation *operation)
{
	for (uint32 i = 0; i < value->as.object->count; i++)
	{
		const EsMember *member = &value->as.object->members[i];
		Assignment *assignment = &operation->assignments[i];

		parse_target(p, operation, member->key, member->len);
		if (operation->kind == OP_COUNT)
		{
			if (!es_is_number(&member->value))
				refuse(p, &member->value, "To add a field of the event, use \"add\".",
					   psprintf("\"count\" adds a number, not %s", es_value_kind(&member->value)));
			assignment->source.kind = SOURCE_LITERAL;
			assignment->source.value = member->value;
		}
		else if (operation->kind == OP_REMOVE && has_member_form(&member->value))
			parse_member_form(p, &member->value, assignment);
		else
			parse_source(p, &member->value, &assignment->source);
		if (operation->kind == OP_ADD || operation->kind == OP_SUBTRACT)
			check_kind(p, &assignment->source, false);
		else if (operation->kind == OP_MIN || operation->kind == OP_MAX)
			check_kind(p, &assignment->source, true);
	}
}

/* target or [target, ...], of count and unset */
static void
parse_targets(Parser *p, const EsValue *value, Operation *operation)
{
	const EsValue *targets = value->type == ES_ARRAY ? value->as.array->elements : value;

	for (uint32 i = 0; i < (value->type == ES_ARRAY ? value->as.array->count : 1); i++)
	{
		p->target = NULL;
		if (targets[i].type != ES_STRING)
			refuse(p, &targets[i], NULL,
				   psprintf("a target must be a string, not %s", es_value_kind(&targets[i])));
		parse_target(p, operation, targets[i].as.string, targets[i].len);
		operation->assignments[i].source.kind = SOURCE_LITERAL;
		operation->assignments[i].source.value = es_value_of_int64(1);
	}
}

static void
parse_operation(Parser *p, OperationKind kind, const EsValue *value, Operation *operation)
{
	bool		lists = (kind == OP_COUNT || kind == OP_UNSET);
	ListCell   *cell;
	uint32		count = 0;

	p->operation = operation_names[kind];
	p->reads = NIL;
	operation->kind = kind;
	operation->name = operation_names[kind];
	if (value->type == ES_OBJECT && kind != OP_UNSET)
		count = value->as.object->count;
	else if (value->type == ES_ARRAY && lists)
		count = value->as.array->count;
	else if (value->type == ES_STRING && lists)
		count = 1;
	else
		refuse(p, value, NULL,
			   psprintf("must be %s, not %s",
						kind == OP_UNSET ? "a target or a list of targets" :
						kind == OP_COUNT ? "a target, a list of targets or an object of targets and numbers" :
						"an object of targets and sources", es_value_kind(value)));
	if (count == 0)
		refuse(p, NULL, NULL, "has no targets");
	operation->assignments = palloc0(count * sizeof(Assignment));
	if (value->type == ES_OBJECT)
		parse_assignments(p, value, operation);
	else
		parse_targets(p, value, operation);
	p->target = NULL;
	p->operation = NULL;

	operation->reads = palloc(list_length(p->reads) * sizeof(Source *));
	foreach(cell, p->reads)
		operation->reads[operation->read_count++] = lfirst(cell);
	p->rules->slot_count = Max(p->rules->slot_count, operation->read_count);
}

static void
parse_condition(Parser *p, const EsValue *value, Condition *condition)
{
	const EsValue *field = NULL;
	int			tests = 0;

	if (value->type != ES_OBJECT)
		refuse(p, value, NULL, psprintf("a condition must be an object, not %s", es_value_kind(value)));
	for (uint32 i = 0; i < value->as.object->count; i++)
	{
		const EsMember *member = &value->as.object->members[i];
		int			test = place_of_name(member->key, member->len, test_names, lengthof(test_names));

		if (name_is(member, "field"))
			field = &member->value;
		else if (test < 0)
			refuse(p, value, "Tests are " TEST_LIST ".",
				   psprintf("unknown test \"%s\"", clip(member->key, member->len)));
		else
		{
			tests++;
			condition->test = test;
			condition->value = member->value;
		}
	}
	if (field == NULL)
		refuse(p, value, NULL, "a condition must have a \"field\"");
	if (tests != 1)
		refuse(p, value, tests == 0 ? "Tests are " TEST_LIST "." :
			   "Conditions that must all hold are written as a list.",
			   psprintf("a condition must have one test, not %d", tests));

	parse_source(p, field, &condition->source);
	if (condition->source.kind == SOURCE_LITERAL)
		refuse(p, value, NULL, "a condition must look at a field, not at a literal");
	switch (condition->test)
	{
		case TEST_IS:
		case TEST_NOT:
			break;
		case TEST_IN:
			if (condition->value.type != ES_ARRAY || condition->value.as.array->count == 0)
				refuse(p, value, NULL, "\"in\" must be a list of values");
			break;
		case TEST_ABOVE:
		case TEST_BELOW:
		case TEST_AT_LEAST:
		case TEST_AT_MOST:
			if (!es_is_number(&condition->value))
				refuse(p, value, NULL,
					   psprintf("\"%s\" must be a number, not %s", test_names[condition->test],
								es_value_kind(&condition->value)));
			check_kind(p, &condition->source, false);
			break;
		case TEST_EXISTS:
			if (condition->value.type != ES_BOOLEAN)
				refuse(p, value, NULL, "\"exists\" must be true or false");
			if (condition->source.has_default)
				refuse(p, value, NULL, "a field with a default always exists");
			break;
	}
}

static void
parse_conditions(Parser *p, const EsValue *value, OperationObject *object)
{
	bool		list = value->type == ES_ARRAY;
	const EsValue *conditions = list ? value->as.array->elements : value;

	p->operation = "when";
	p->in_condition = true;
	object->condition_count = list ? value->as.array->count : 1;
	if (object->condition_count == 0)
		refuse(p, NULL, NULL, "has no conditions");
	object->conditions = palloc0(object->condition_count * sizeof(Condition));
	for (int i = 0; i < object->condition_count; i++)
		parse_condition(p, &conditions[i], &object->conditions[i]);
	p->in_condition = false;
	p->operation = NULL;
}

static void
parse_object(Parser *p, const EsValue *value, OperationObject *object)
{
	if (value->type != ES_OBJECT)
		refuse(p, value, NULL, psprintf("an operation must be an object, not %s", es_value_kind(value)));
	for (uint32 i = 0; i < value->as.object->count; i++)
	{
		const EsMember *member = &value->as.object->members[i];

		if (!name_is(member, "when") &&
			place_of_name(member->key, member->len, operation_names, lengthof(operation_names)) < 0)
			refuse(p, value, "Operations are " OPERATION_LIST "; beside them stands \"when\".",
				   psprintf("unknown operation \"%s\"", clip(member->key, member->len)));
	}
	if (member_of(value, "when") != NULL)
		parse_conditions(p, member_of(value, "when"), object);
	object->operations = palloc0(lengthof(operation_names) * sizeof(Operation));
	for (int kind = 0; kind < lengthof(operation_names); kind++)
	{
		const EsValue *what = member_of(value, operation_names[kind]);

		if (what != NULL)
			parse_operation(p, kind, what, &object->operations[object->operation_count++]);
	}
	if (object->operation_count == 0)
		refuse(p, value, "Operations are " OPERATION_LIST ".", "an operation object has no operation");
}

static EsRule *
parse_rule(Parser *p, const EsMember *member)
{
	EsRule	   *rule = palloc0(sizeof(EsRule));
	bool		list = member->value.type == ES_ARRAY;
	const EsValue *objects = list ? member->value.as.array->elements : &member->value;

	p->type = rule->type = pnstrdup(member->key, member->len);
	rule->len = member->len;
	rule->hash = member->hash;
	if (rule->len == 0 || rule->len > ES_MAX_NAME)
		refuse(p, NULL, NULL, psprintf("an event type has 1 to %d bytes", ES_MAX_NAME));
	rule->object_count = list ? member->value.as.array->count : 1;
	rule->objects = palloc0(rule->object_count * sizeof(OperationObject));
	for (int i = 0; i < rule->object_count; i++)
	{
		p->element = list ? i + 1 : 0;
		parse_object(p, &objects[i], &rule->objects[i]);
	}
	p->element = 0;
	p->type = NULL;
	return rule;
}

/* Compiles a document; everything is allocated in the current memory context. */
EsRules *
es_rules_compile(Jsonb *document)
{
	EsRules    *rules = palloc0(sizeof(EsRules));
	Parser		parser = {.rules = rules};
	EsValue		borrowed = es_value_of_jsonb(document);
	EsValue		tree = es_value_copy(&borrowed);

	if (tree.type != ES_OBJECT)
		refuse(&parser, &tree, "Rules are written {\"Deposited\": {\"add\": {\"balance\": \"amount\"}}, ...}.",
			   psprintf("must be an object of event types, not %s", es_value_kind(&tree)));
	if (tree.as.object->count == 0)
		refuse(&parser, NULL, NULL, "must name at least one event type");

	rules->mask = pg_nextpower2_32(2 * tree.as.object->count) - 1;
	rules->index = palloc0((rules->mask + 1) * sizeof(EsRule *));
	for (uint32 i = 0; i < tree.as.object->count; i++)
	{
		EsRule	   *rule = parse_rule(&parser, &tree.as.object->members[i]);
		uint32		at = rule->hash & rules->mask;

		if (strcmp(rule->type, "*") == 0)
		{
			rules->others = rule;
			continue;
		}
		while (rules->index[at] != NULL)
			at = (at + 1) & rules->mask;
		rules->index[at] = rule;
	}
	return rules;
}

/* The rule of an event type; NULL: its events change nothing. */
const EsRule *
es_rules_find(const EsRules *rules, const char *type, int len)
{
	uint32		hash = es_key_hash(type, len);

	for (uint32 at = hash & rules->mask; rules->index[at] != NULL; at = (at + 1) & rules->mask)
	{
		const EsRule *rule = rules->index[at];

		if (rule->hash == hash && rule->len == len && memcmp(rule->type, type, len) == 0)
			return rule;
	}
	return rules->others;
}

bool
es_rules_use_data(const EsRules *rules)
{
	return rules->use_data;
}

bool
es_rules_use_metadata(const EsRules *rules)
{
	return rules->use_metadata;
}

