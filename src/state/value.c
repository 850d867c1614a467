/*
 * state/value.c
 *	  JSON values that can be changed in place.
 *
 * A jsonb cannot be changed: to change one number of a state, the whole jsonb would have to be written again. A fold
 * changes its state at each event, and needs the result only once. So it keeps the state as a tree of these values,
 * and makes a jsonb of it at the end.
 *
 * Values are *owned* or *borrowed*. A borrowed one points into a jsonb or string of somebody else, which must stay.
 * Each part of an owned value is allocated by itself, and freed when the value is replaced or removed. So a fold of
 * any number of events needs no more memory than its largest state.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "state/number.h"
#include "state/value.h"

/* An object with more members than this has an index. */
#define SEARCHED_ONE_BY_ONE		8

/* The size of an array. Refuses one that is too large for palloc(), whose own error would be an internal one. */
static Size
checked_size(Size elements, Size size)
{
	if (elements > MaxAllocSize / size)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("an array or object of the state is too large"),
				 errdetail("It would have more than %zu elements.", (Size) (MaxAllocSize / size))));
	return elements * size;
}

/*
 * Objects and arrays
 */

uint32
es_key_hash(const char *key, uint32 len)
{
	return hash_bytes((const unsigned char *) key, len);
}

static inline bool
member_is(const EsMember *member, const char *key, uint32 len, uint32 hash)
{
	return member->hash == hash && member->len == len && memcmp(member->key, key, len) == 0;
}

/* The number of the member with a key; -1: there is none. */
static int64
find_member(const EsObject *object, const char *key, uint32 len, uint32 hash)
{
	if (object->mask == 0)
	{
		for (uint32 i = 0; i < object->count; i++)
			if (member_is(&object->members[i], key, len, hash))
				return i;
		return -1;
	}
	for (uint32 at = hash & object->mask; object->index[at] != 0; at = (at + 1) & object->mask)
		if (member_is(&object->members[object->index[at] - 1], key, len, hash))
			return object->index[at] - 1;
	return -1;
}

/* The member with a key; NULL: there is none. The pointer is good until a member is added or removed. */
EsValue *
es_object_find(const EsObject *object, const char *key, uint32 len, uint32 hash)
{
	int64		found = find_member(object, key, len, hash);

	return found < 0 ? NULL : &object->members[found].value;
}

static void
add_to_index(EsObject *object, uint32 member)
{
	uint32		at = object->members[member].hash & object->mask;

	while (object->index[at] != 0)
		at = (at + 1) & object->mask;
	object->index[at] = member + 1;
}

/* Makes room for a number of members. */
static void
reserve_members(EsObject *object, Size room)
{
	Size		size;

	if (room <= object->room)
		return;
	room = pg_nextpower2_64(Max(room, 4));
	size = checked_size(room, sizeof(EsMember));
	object->members = object->members ? repalloc(object->members, size) : palloc(size);
	object->room = room;
	if (room <= SEARCHED_ONE_BY_ONE)
		return;
	if (object->index)
		pfree(object->index);
	/* The index is at most half full, so that searches in it are short. */
	object->index = palloc0(checked_size(2 * room, sizeof(uint32)));
	object->mask = 2 * room - 1;
	for (uint32 i = 0; i < object->count; i++)
		add_to_index(object, i);
}

/* Finds the member with a key, or adds it as null. */
EsValue *
es_object_make(EsObject *object, const char *key, uint32 len, uint32 hash)
{
	int64		found = find_member(object, key, len, hash);
	EsMember   *member;

	if (found >= 0)
		return &object->members[found].value;
	reserve_members(object, (Size) object->count + 1);
	member = &object->members[object->count];
	member->key = palloc(Max(len, 1));
	memcpy(member->key, key, len);
	member->len = len;
	member->hash = hash;
	member->value = ES_VALUE_NULL;
	object->count++;
	if (object->mask != 0)
		add_to_index(object, object->count - 1);
	return &member->value;
}

/* The entry of the index that has a member's number. */
static uint32
place_in_index(const EsObject *object, uint32 member)
{
	uint32		at = object->members[member].hash & object->mask;

	while (object->index[at] != member + 1)
		at = (at + 1) & object->mask;
	return at;
}

void
es_object_remove(EsObject *object, const char *key, uint32 len, uint32 hash)
{
	int64		found = find_member(object, key, len, hash);
	uint32		last = object->count - 1;

	if (found < 0)
		return;
	if (object->mask != 0)
	{
		uint32		hole = place_in_index(object, found);
		uint32		at = hole;

		/* Later entries move up into the hole, unless the hole is before the place where their search starts. */
		while (object->index[at = (at + 1) & object->mask] != 0)
		{
			uint32		home = object->members[object->index[at] - 1].hash & object->mask;

			if (((at - home) & object->mask) >= ((at - hole) & object->mask))
			{
				object->index[hole] = object->index[at];
				hole = at;
			}
		}
		object->index[hole] = 0;
	}
	pfree(object->members[found].key);
	es_value_free(&object->members[found].value);
	if (found != last)
	{
		/* The last member moves to the place of the removed one. */
		if (object->mask != 0)
			object->index[place_in_index(object, last)] = found + 1;
		object->members[found] = object->members[last];
	}
	object->count--;
}

/* Appends an owned value, which then belongs to the array. */
void
es_array_append(EsValue *array, EsValue element)
{
	EsArray    *a = array->as.array;

	if (a->count == a->room)
	{
		Size		room = Max((Size) a->room * 2, 4);

		a = repalloc(a, offsetof(EsArray, elements) + checked_size(room + 1, sizeof(EsValue)));
		a->room = room;
		array->as.array = a;
	}
	a->elements[a->count++] = element;
}

static EsValue
make_object(Size room)
{
	EsValue		value = {ES_OBJECT};

	value.as.object = palloc0(sizeof(EsObject));
	reserve_members(value.as.object, room);
	return value;
}

static EsValue
make_array(Size room)
{
	EsValue		value = {ES_ARRAY};
	EsArray    *a = palloc(offsetof(EsArray, elements) + checked_size(room + 1, sizeof(EsValue)));

	a->count = 0;
	a->room = room;
	value.as.array = a;
	return value;
}

EsValue
es_value_object(void)
{
	return make_object(0);
}

EsValue
es_value_array(void)
{
	return make_array(0);
}

/*
 * Values
 */

/* A borrowed value of what an iterator or a lookup in a jsonb has returned. */
EsValue
es_value_of_json(const JsonbValue *json)
{
	EsValue		value = ES_VALUE_NULL;

	switch (json->type)
	{
		case jbvNull:
			break;
		case jbvBool:
			value.type = ES_BOOLEAN;
			value.as.boolean = json->val.boolean;
			break;
		case jbvNumeric:
			if (!es_decimal_of_numeric(json->val.numeric, &value))
			{
				value.type = ES_NUMERIC;
				value.as.numeric = json->val.numeric;
			}
			break;
		case jbvString:
			value = es_value_of_string(json->val.string.val, json->val.string.len);
			break;
		case jbvBinary:
			value.type = ES_BINARY;
			value.as.binary = json->val.binary.data;
			break;
		default:
			elog(ERROR, "unexpected jsonb value type %d", (int) json->type);
	}
	return value;
}

/* A borrowed value of a whole jsonb. */
EsValue
es_value_of_jsonb(Jsonb *json)
{
	EsValue		value = {ES_BINARY};
	JsonbValue	scalar;

	/* JsonbExtractScalar() changes its result also when it finds no scalar, so it is called only when there is one. */
	if (JB_ROOT_IS_SCALAR(json) && JsonbExtractScalar(&json->root, &scalar))
		return es_value_of_json(&scalar);
	value.as.binary = &json->root;
	return value;
}

EsValue
es_value_of_int64(int64 number)
{
	EsValue		value = {ES_DECIMAL};

	value.as.units = number;
	return value;
}

/* A value that borrows a string. */
EsValue
es_value_of_string(const char *string, uint32 len)
{
	EsValue		value = {ES_STRING};

	value.len = len;
	value.as.string = unconstify(char *, string);
	return value;
}

static EsValue
copy_container(JsonbContainer *container)
{
	EsValue		copy = ES_VALUE_NULL;
	JsonbIterator *it = JsonbIteratorInit(container);
	JsonbIteratorToken token;
	JsonbValue	key;
	JsonbValue	v;
	EsValue		borrowed;
	uint32		hash;

	check_stack_depth();
	/* The iterator is freed when it returns WJB_DONE. */
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		switch (token)
		{
			case WJB_BEGIN_ARRAY:
				copy = make_array(v.val.array.nElems);
				break;
			case WJB_ELEM:
				borrowed = es_value_of_json(&v);
				es_array_append(&copy, es_value_copy(&borrowed));
				break;
			case WJB_BEGIN_OBJECT:
				copy = make_object(v.val.object.nPairs);
				break;
			case WJB_KEY:
				key = v;
				(void) JsonbIteratorNext(&it, &v, true);
				borrowed = es_value_of_json(&v);
				hash = es_key_hash(key.val.string.val, key.val.string.len);
				*es_object_make(copy.as.object, key.val.string.val, key.val.string.len, hash) =
					es_value_copy(&borrowed);
				break;
			default:
				break;
		}
	}
	return copy;
}

/* An owned copy in the current memory context. */
EsValue
es_value_copy(const EsValue *value)
{
	EsValue		copy = *value;

	switch ((EsValueType) value->type)
	{
		case ES_NULL:
		case ES_BOOLEAN:
		case ES_DECIMAL:
			break;
		case ES_NUMERIC:
			copy.as.numeric = DatumGetNumericCopy(NumericGetDatum(value->as.numeric));
			break;
		case ES_STRING:
			{
				/* A few bytes more than needed, so that another string can replace it in place. */
				Size		room = TYPEALIGN(16, Max(value->len, 1));

				copy.as.string = palloc(room);
				copy.room = room <= PG_UINT16_MAX ? room : 0;
				memcpy(copy.as.string, value->as.string, value->len);
				break;
			}
		case ES_ARRAY:
			check_stack_depth();
			copy = make_array(value->as.array->count);
			for (uint32 i = 0; i < value->as.array->count; i++)
				es_array_append(&copy, es_value_copy(&value->as.array->elements[i]));
			break;
		case ES_OBJECT:
			check_stack_depth();
			copy = make_object(value->as.object->count);
			for (uint32 i = 0; i < value->as.object->count; i++)
			{
				const EsMember *member = &value->as.object->members[i];

				*es_object_make(copy.as.object, member->key, member->len,
								member->hash) = es_value_copy(&member->value);
			}
			break;
		case ES_BINARY:
			copy = copy_container(value->as.binary);
			break;
	}
	return copy;
}

/* Frees what a value owns, and makes it null. */
void
es_value_free(EsValue *value)
{
	switch ((EsValueType) value->type)
	{
		case ES_NULL:
		case ES_BOOLEAN:
		case ES_DECIMAL:
		case ES_BINARY:
			break;
		case ES_NUMERIC:
			pfree(value->as.numeric);
			break;
		case ES_STRING:
			pfree(value->as.string);
			break;
		case ES_ARRAY:
			check_stack_depth();
			for (uint32 i = 0; i < value->as.array->count; i++)
				es_value_free(&value->as.array->elements[i]);
			pfree(value->as.array);
			break;
		case ES_OBJECT:
			{
				EsObject   *object = value->as.object;

				check_stack_depth();
				for (uint32 i = 0; i < object->count; i++)
				{
					pfree(object->members[i].key);
					es_value_free(&object->members[i].value);
				}
				if (object->members)
					pfree(object->members);
				if (object->index)
					pfree(object->index);
				pfree(object);
				break;
			}
	}
	*value = ES_VALUE_NULL;
}

/* Replaces target, which is owned, by a copy of a value. The value must not be a part of target. */
void
es_value_assign(EsValue *target, const EsValue *value)
{
	EsValue		copy;

	/* Most strings of a state are replaced by strings of about the same length: reuse the memory. */
	if (target->type == ES_STRING && value->type == ES_STRING && value->len <= target->room)
	{
		memcpy(target->as.string, value->as.string, value->len);
		target->len = value->len;
		return;
	}
	copy = es_value_copy(value);
	es_value_free(target);
	*target = copy;
}

static void
merge_member(EsObject *target, const char *key, uint32 len, uint32 hash, const EsValue *value)
{
	if (value->type == ES_NULL)
		es_object_remove(target, key, len, hash);
	else
		es_value_merge(es_object_make(target, key, len, hash), value);
}

/* Applies a JSON Merge Patch (RFC 7396) to target, which is owned. The patch must not be a part of target. */
void
es_value_merge(EsValue *target, const EsValue *patch)
{
	check_stack_depth();
	if (patch->type != ES_OBJECT &&
		!(patch->type == ES_BINARY && JsonContainerIsObject(patch->as.binary)))
	{
		es_value_assign(target, patch);
		return;
	}
	if (target->type != ES_OBJECT)
	{
		es_value_free(target);
		*target = es_value_object();
	}
	if (patch->type == ES_OBJECT)
	{
		for (uint32 i = 0; i < patch->as.object->count; i++)
		{
			const EsMember *member = &patch->as.object->members[i];

			merge_member(target->as.object, member->key, member->len, member->hash, &member->value);
		}
	}
	else
	{
		JsonbIterator *it = JsonbIteratorInit(patch->as.binary);
		JsonbIteratorToken token;
		JsonbValue	key;
		JsonbValue	v;

		while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
		{
			EsValue		value;

			if (token != WJB_KEY)
				continue;
			(void) JsonbIteratorNext(&it, &v, true);
			value = es_value_of_json(&v);
			merge_member(target->as.object, key.val.string.val, key.val.string.len,
						 es_key_hash(key.val.string.val, key.val.string.len), &value);
		}
	}
}

/* Whether two values are equal as JSON: numbers by their value, members of objects in any order. */
bool
es_value_equal(const EsValue *a, const EsValue *b)
{
	check_stack_depth();
	if (es_is_number(a) && es_is_number(b))
		return es_number_compare(a, b) == 0;
	if (a->type == ES_BINARY && b->type == ES_BINARY)
		return compareJsonbContainers(a->as.binary, b->as.binary) == 0;
	if (a->type == ES_BINARY && (b->type == ES_ARRAY || b->type == ES_OBJECT))
	{
		EsValue		copy = copy_container(a->as.binary);
		bool		equal = es_value_equal(&copy, b);

		es_value_free(&copy);
		return equal;
	}
	if (b->type == ES_BINARY && (a->type == ES_ARRAY || a->type == ES_OBJECT))
		return es_value_equal(b, a);
	if (a->type != b->type)
		return false;
	switch ((EsValueType) a->type)
	{
		case ES_NULL:
			return true;
		case ES_BOOLEAN:
			return a->as.boolean == b->as.boolean;
		case ES_STRING:
			return a->len == b->len && memcmp(a->as.string, b->as.string, a->len) == 0;
		case ES_ARRAY:
			if (a->as.array->count != b->as.array->count)
				return false;
			for (uint32 i = 0; i < a->as.array->count; i++)
				if (!es_value_equal(&a->as.array->elements[i], &b->as.array->elements[i]))
					return false;
			return true;
		case ES_OBJECT:
			if (a->as.object->count != b->as.object->count)
				return false;
			for (uint32 i = 0; i < a->as.object->count; i++)
			{
				const EsMember *member = &a->as.object->members[i];
				const EsValue *other = es_object_find(b->as.object, member->key, member->len, member->hash);

				if (other == NULL || !es_value_equal(&member->value, other))
					return false;
			}
			return true;
		default:
			return false;
	}
}

/* The type of a value, for messages. */
const char *
es_value_kind(const EsValue *value)
{
	switch ((EsValueType) value->type)
	{
		case ES_NULL:
			return "null";
		case ES_BOOLEAN:
			return "a boolean";
		case ES_DECIMAL:
		case ES_NUMERIC:
			return "a number";
		case ES_STRING:
			return "a string";
		case ES_ARRAY:
			return "an array";
		case ES_OBJECT:
			return "an object";
		case ES_BINARY:
			return JsonContainerIsArray(value->as.binary) ? "an array" : "an object";
	}
	return "another value";
}

/* The order in which jsonb stores keys: shorter ones first, then bytewise. */
static int
compare_members(const void *a, const void *b)
{
	const EsMember *x = *(EsMember *const *) a;
	const EsMember *y = *(EsMember *const *) b;

	if (x->len != y->len)
		return x->len < y->len ? -1 : 1;
	return memcmp(x->key, y->key, x->len);
}

/* Fills in the tree from which a jsonb is made. Strings and numerics are not copied. */
static void
build_json(const EsValue *value, JsonbValue *json)
{
	switch ((EsValueType) value->type)
	{
		case ES_NULL:
			json->type = jbvNull;
			break;
		case ES_BOOLEAN:
			json->type = jbvBool;
			json->val.boolean = value->as.boolean;
			break;
		case ES_DECIMAL:
			json->type = jbvNumeric;
			json->val.numeric = es_numeric_of_decimal(value);
			break;
		case ES_NUMERIC:
			json->type = jbvNumeric;
			json->val.numeric = value->as.numeric;
			break;
		case ES_STRING:
			json->type = jbvString;
			json->val.string.val = value->as.string;
			json->val.string.len = value->len;
			break;
		case ES_ARRAY:
			{
				EsArray    *array = value->as.array;

				check_stack_depth();
				json->type = jbvArray;
				json->val.array.rawScalar = false;
				json->val.array.nElems = array->count;
				json->val.array.elems = palloc(checked_size(array->count + 1, sizeof(JsonbValue)));
				for (uint32 i = 0; i < array->count; i++)
					build_json(&array->elements[i], &json->val.array.elems[i]);
				break;
			}
		case ES_OBJECT:
			{
				EsObject   *object = value->as.object;
				EsMember  **sorted = palloc(checked_size(object->count + 1, sizeof(EsMember *)));
				JsonbPair  *pairs = palloc(checked_size(object->count + 1, sizeof(JsonbPair)));

				check_stack_depth();
				for (uint32 i = 0; i < object->count; i++)
					sorted[i] = &object->members[i];
				qsort(sorted, object->count, sizeof(EsMember *), compare_members);
				for (uint32 i = 0; i < object->count; i++)
				{
					pairs[i].key.type = jbvString;
					pairs[i].key.val.string.val = sorted[i]->key;
					pairs[i].key.val.string.len = sorted[i]->len;
					pairs[i].order = i;
					build_json(&sorted[i]->value, &pairs[i].value);
				}
				pfree(sorted);
				json->type = jbvObject;
				json->val.object.nPairs = object->count;
				json->val.object.pairs = pairs;
				break;
			}
		case ES_BINARY:
			elog(ERROR, "a borrowed value has no jsonb of its own");
	}
}

/*
 * Makes a jsonb in the current memory context. Intermediate results are allocated in scratch, which the caller
 * resets.
 */
Jsonb *
es_value_to_jsonb(const EsValue *value, MemoryContext scratch)
{
	MemoryContext result = MemoryContextSwitchTo(scratch);
	JsonbValue	json;

	build_json(value, &json);
	MemoryContextSwitchTo(result);
	return JsonbValueToJsonb(&json);
}
