/*
 * state/value.h
 *	  JSON values that can be changed in place.
 */
#ifndef ES_STATE_VALUE_H
#define ES_STATE_VALUE_H

#include "utils/jsonb.h"
#include "utils/numeric.h"

typedef enum EsValueType
{
	ES_NULL,
	ES_BOOLEAN,
	ES_DECIMAL,					/* a number that fits 64 bits: units / 10 ^ scale */
	ES_NUMERIC,					/* any other number */
	ES_STRING,
	ES_ARRAY,
	ES_OBJECT,
	ES_BINARY					/* an array or object as jsonb has it; only ever borrowed */
} EsValueType;

typedef struct EsArray EsArray;
typedef struct EsObject EsObject;

/*
 * Owned: what it points to belongs to it, es_value_free() gives it back. Borrowed: it points into
 * somebody else's memory, and is only read. All zeros is null.
 */
typedef struct EsValue
{
	uint8		type;			/* EsValueType */
	uint8		scale;			/* ES_DECIMAL: digits after the point */
	uint16		room;			/* ES_STRING, owned: bytes allocated, 0 for many */
	uint32		len;			/* ES_STRING */
	union
	{
		bool		boolean;
		int64		units;
		Numeric		numeric;
		char	   *string;
		EsArray    *array;
		EsObject   *object;
		JsonbContainer *binary;
	}			as;
} EsValue;

struct EsArray
{
	uint32		count;
	uint32		room;
	EsValue		elements[FLEXIBLE_ARRAY_MEMBER];
};

/* In no order. */
typedef struct EsMember
{
	char	   *key;
	uint32		len;
	uint32		hash;
	EsValue		value;
} EsMember;

struct EsObject
{
	uint32		count;
	uint32		room;
	uint32		mask;			/* entries of the index less 1; 0: searched one by one */
	uint32	   *index;			/* member number + 1, 0: free; linear probing */
	EsMember   *members;
};

#define ES_VALUE_NULL	((EsValue) {ES_NULL})

extern EsValue es_value_of_json(const JsonbValue *json);
extern EsValue es_value_of_jsonb(Jsonb *json);
extern EsValue es_value_of_int64(int64 number);
extern EsValue es_value_of_string(const char *string, uint32 len);
extern EsValue es_value_object(void);
extern EsValue es_value_array(void);

extern EsValue es_value_copy(const EsValue *value);
extern void es_value_free(EsValue *value);
extern void es_value_assign(EsValue *target, const EsValue *value);
extern void es_value_merge(EsValue *target, const EsValue *patch);
extern bool es_value_equal(const EsValue *a, const EsValue *b);
extern const char *es_value_kind(const EsValue *value);
extern Jsonb *es_value_to_jsonb(const EsValue *value, MemoryContext scratch);

extern uint32 es_key_hash(const char *key, uint32 len);
extern EsValue *es_object_find(const EsObject *object, const char *key, uint32 len, uint32 hash);
extern EsValue *es_object_make(EsObject *object, const char *key, uint32 len, uint32 hash);
extern void es_object_remove(EsObject *object, const char *key, uint32 len, uint32 hash);

extern void es_array_append(EsValue *array, EsValue element);

#endif							/* ES_STATE_VALUE_H */
