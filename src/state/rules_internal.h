/*
 * state/rules_internal.h
 *	  A compiled rules document: what state/rules.c makes and state/rules_fold.c runs.
 */
#ifndef ES_STATE_RULES_INTERNAL_H
#define ES_STATE_RULES_INTERNAL_H

#include "base/base.h"
#include "state/state.h"
#include "state/value.h"

/* Operations in the order in which those of one object are applied. */
typedef enum OperationKind
{
	OP_SET,
	OP_ADD,
	OP_SUBTRACT,
	OP_MIN,
	OP_MAX,
	OP_COUNT,
	OP_APPEND,
	OP_REMOVE,
	OP_MERGE,
	OP_UNSET
} OperationKind;

typedef enum TestKind
{
	TEST_IS,
	TEST_NOT,
	TEST_IN,
	TEST_ABOVE,
	TEST_BELOW,
	TEST_AT_LEAST,
	TEST_AT_MOST,
	TEST_EXISTS
} TestKind;

typedef enum EventField
{
	FIELD_TYPE,
	FIELD_VERSION,
	FIELD_POSITION,
	FIELD_OCCURRED_AT,
	FIELD_RECORDED_AT,
	FIELD_STREAM,
	FIELD_SCHEMA_VERSION,
	FIELD_ID
} EventField;

typedef enum SourceKind
{
	SOURCE_LITERAL,
	SOURCE_DATA,
	SOURCE_METADATA,
	SOURCE_STATE,
	SOURCE_EVENT
} SourceKind;

typedef struct Source Source;

typedef struct Segment
{
	const char *key;
	uint32		len;
	uint32		hash;
	const Source *from;			/* not NULL: the key is this source's value */
	int			end;			/* where it ends in the path's text, for messages */
} Segment;

typedef struct Path
{
	const char *text;
	int			count;
	Segment    *segments;
} Path;

struct Source
{
	SourceKind	kind;
	EventField	field;
	int			slot;			/* SOURCE_STATE: in EsRulesState; -1: read where it is */
	bool		has_default;
	EsValue		value;			/* of a literal, or the default */
	Path		path;
	const char *text;			/* for messages */
};

/* One target of an operation and what happens to it. */
typedef struct Assignment
{
	Path		target;
	Source		source;
	Path		member;			/* of remove: compare this member of each element */
	bool		by_member;
} Assignment;

typedef struct Operation
{
	OperationKind kind;
	const char *name;
	int			assignment_count;
	Assignment *assignments;
	int			read_count;		/* sources in the state */
	Source	  **reads;
} Operation;

typedef struct Condition
{
	Source		source;
	TestKind	test;
	EsValue		value;
} Condition;

typedef struct OperationObject
{
	int			condition_count;
	Condition  *conditions;
	int			operation_count;
	Operation  *operations;
} OperationObject;

struct EsRule
{
	const char *type;
	uint32		len;
	uint32		hash;
	int			object_count;
	OperationObject *objects;
};

struct EsRules
{
	const EsRule *others;		/* "*"; NULL: there is none */
	uint32		mask;
	const EsRule **index;		/* by hash of the type; linear probing */
	int			slot_count;		/* that the operation with the most reads needs */
	bool		use_data;
	bool		use_metadata;
};

#endif							/* ES_STATE_RULES_INTERNAL_H */
