/*
 * log/log.h
 *	  Events: how they are written and read, and what belongs to them.
 *
 * The one header of this wing for the wings above it. In this order:
 *
 *	  event				an event on its way into the log, or read from it; digests
 *	  name				categories and event types
 *	  lookup			rows of any table of the store, by key
 *	  head				the row of a stream: its version, and its lock
 *	  position			the sequence of positions; room for them in partitions; epochs
 *	  row				writing the rows of events
 *	  scan				reading events
 *	  mark				up to where everything is visible; publishing it
 *	  early release		what must be durable before it is reported
 *	  transaction		what the open transaction has done
 *	  partition			the partitions of the log
 *	  row digest		the digests of a stored event
 */
#ifndef ES_LOG_H
#define ES_LOG_H

#include "access/genam.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/tableam.h"
#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "nodes/bitmapset.h"
#include "nodes/execnodes.h"
#include "storage/itemptr.h"
#include "storage/lockdefs.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/snapshot.h"
#include "utils/uuid.h"

#include "base/base.h"
#include "store/store.h"

/* Registers callbacks and what a new store needs; called once, when the library is loaded. */
extern void es_log_init(void);

/* ---------------------------------------------------------------- event */

#define ES_DIGEST_LEN	32		/* SHA-256 */

/*
 * An event that is being appended, or that a row of the log has: the columns of the row, and the names of stream and
 * type, because its digest has these and not their ids. What is pointed to belongs to whoever made it.
 */
typedef struct EsEvent
{
	const text *stream;
	const text *type;
	Jsonb	   *data;
	Jsonb	   *metadata;		/* may be NULL */
	int64		stream_id;
	int64		version;
	int64		position;
	TimestampTz occurred_at;
	TimestampTz recorded_at;
	int32		category_id;
	int32		type_id;
	int32		schema_version;
	int32		rest;			/* distance to the last position of its call */
	pg_uuid_t	id;
	pg_uuid_t	salt;
} EsEvent;

/* Computes SHA-256 digests. */
typedef struct EsHasher EsHasher;

extern EsHasher *es_hasher_create(void);
extern void es_hasher_free(EsHasher *hasher);
extern void es_hash_begin(EsHasher *hasher);
extern void es_hash_int64(EsHasher *hasher, int64 value);
extern void es_hash_string(EsHasher *hasher, const char *bytes, int len);
extern void es_hash_json(EsHasher *hasher, Jsonb *json);
extern void es_hash_end(EsHasher *hasher, uint8 *digest);
extern void es_event_digest(EsHasher *hasher, const pg_uuid_t *store_id, const EsEvent *event, uint8 *chain);

/* A Merkle tree of digests, to which leaves are added one by one. It takes constant memory. */
typedef struct EsTree
{
	int64		leaves;
	int			depth;			/* entries of the stack in use */
	uint8		stack[64][ES_DIGEST_LEN];
} EsTree;

extern void es_tree_begin(EsTree *tree);
extern void es_tree_add(EsTree *tree, EsHasher *hasher, const uint8 *leaf);
extern void es_tree_root(EsTree *tree, EsHasher *hasher, uint8 *root);
extern void es_seal_digest(EsHasher *hasher, const pg_uuid_t *store_id, int64 after, int64 to, int64 events,
						   const uint8 *tree_root, const uint8 *previous, uint8 *root);

extern bytea *es_digest_bytea(const uint8 *digest);
extern void es_random_uuid(pg_uuid_t *uuid);
extern void es_event_id(pg_uuid_t *id, TimestampTz at);

/* ---------------------------------------------------------------- name */

/* Names of categories and event types are stored once, and events have their ids. */
typedef enum EsNameKind
{
	ES_CATEGORY,
	ES_EVENT_TYPE
} EsNameKind;

extern int32 es_name_find(EsNameKind kind, const char *name, int len);
extern Bitmapset *es_name_ids(EsNameKind kind, List *names);
extern int32 es_name_make(EsNameKind kind, const char *name, int len);
extern text *es_name_of(EsNameKind kind, int32 id);
extern int	es_category_length(const text *stream);
extern int	es_compare_bytes(const char *a, int alen, const char *b, int blen);
extern int	es_compare_names(const text *a, const text *b);
extern bool es_has_name(const List *names, const char *name, int len);
extern text *es_stream_name_stored(int64 id, Snapshot snapshot);

/* ---------------------------------------------------------------- lookup */

/* The unique indexes by which rows of the store's tables are found, with their columns. */
typedef enum EsIndex
{
	ES_HEADS_BY_ID,				/* id */
	ES_HEADS_BY_NAME,			/* name */
	ES_CATEGORIES_BY_ID,		/* id */
	ES_CATEGORIES_BY_NAME,		/* name */
	ES_EVENT_TYPES_BY_ID,		/* id */
	ES_EVENT_TYPES_BY_NAME,		/* name */
	ES_APPEND_KEYS,				/* stream, key */
	ES_BATCH_KEYS,				/* key */
	ES_SNAPSHOTS,				/* stream, fingerprint, version */
	ES_SUBSCRIPTION_STREAMS,	/* subscription, stream */
	ES_SEALS,					/* to_position */
	ES_ERASED					/* position */
} EsIndex;

/* A condition on a column of the index, for reading several rows. */
typedef struct EsIndexKey
{
	int			column;			/* of the index, counted from 1 */
	StrategyNumber strategy;	/* how the column must compare: BTEqualStrategyNumber, BTLessEqualStrategyNumber... */
	Datum		value;			/* what it points to must stay until all rows were read */
} EsIndexKey;

/* An open table, with one of its indexes or without. */
typedef struct EsLookup
{
	TupleTableSlot *slot;		/* the current row */

	/* For log/ alone. */
	Relation	rel;
	Relation	index;			/* NULL: the table was opened without */
	EsIndex		which;			/* which index, if there is one */
	LOCKMODE	lockmode;
	IndexScanDesc scan;			/* reading by the index; NULL: not begun */
	TableScanDesc table_scan;	/* reading without an index; NULL: not begun */
	ScanDirection direction;
	MemoryContext context;		/* for what the index scan allocates */
} EsLookup;

/* Which locks es_lookup_close() leaves to the end of the transaction. */
typedef enum EsKeepLocks
{
	ES_KEEP_NO_LOCK,
	ES_KEEP_TABLE_LOCK,
	ES_KEEP_LOCKS				/* those of the table and the index */
} EsKeepLocks;

extern void es_lookup_open(EsLookup *lookup, EsIndex which, LOCKMODE lockmode);
extern void es_lookup_open_table(EsLookup *lookup, Oid table, LOCKMODE lockmode);
extern void es_lookup_close(EsLookup *lookup, EsKeepLocks keep);

extern Snapshot es_lookup_snapshot(void);

/* One row, or several. */
extern bool es_lookup_find(EsLookup *lookup, Snapshot snapshot, const Datum *key);
extern void es_lookup_begin(EsLookup *lookup, Snapshot snapshot, bool backward, int count, const EsIndexKey *keys);
extern void es_lookup_begin_blocks(EsLookup *lookup, Snapshot snapshot, BlockNumber first, BlockNumber count);
extern bool es_lookup_next(EsLookup *lookup);
extern void es_lookup_end(EsLookup *lookup);
extern BlockNumber es_lookup_blocks(EsLookup *lookup);

extern uint64 es_row_version(TupleTableSlot *slot);
extern void es_row_insert(EsLookup *lookup, const Datum *values);
extern void es_row_delete(EsLookup *lookup, ItemPointer tid);
extern bool es_row_delete_unless_busy(EsLookup *lookup, Snapshot snapshot);

/* A column that is never NULL, of the row in a slot. In the log all are but salt, data and metadata. */
static inline Datum
es_row_column(TupleTableSlot *slot, int column)
{
	if (slot->tts_nvalid < column)
		slot_getsomeattrs(slot, column);
	return slot->tts_values[column - 1];
}

/* ---------------------------------------------------------------- head */

/* A stream, as its row in the table heads has it. */
typedef struct EsHead
{
	ItemPointerData tid;
	int64		id;
	int64		first_position; /* 0: the stream has no event yet */
	int64		last_position;
	int64		version;		/* 0: the stream has no event yet */
	TimestampTz created_at;
	TimestampTz recorded_at;	/* of the last event */
	TransactionId writer;		/* the transaction that wrote this version of the row; invalid when the row is frozen */
	XLogRecPtr	frozen_lsn;		/* of a frozen row: LSN of its page, which is behind the writer's commit */
	int32		category;
	uint8		digest[ES_DIGEST_LEN];	/* of the last event, which covers all before it */
} EsHead;

extern bool es_stream_find(const text *name, Snapshot snapshot, EsHead *head);
extern text *es_stream_by_id(int64 id, Snapshot snapshot, EsHead *head);
extern bool es_stream_has_open_append(const text *name);
extern void es_head_read(TupleTableSlot *slot, EsHead *head);

/* The table heads, open for the length of one call. The fields are for log/head.c alone. */
typedef struct EsHeads
{
	EsLookup	rows;			/* by name */
	EState	   *estate;			/* for writing index entries; made when it is first needed */
	ResultRelInfo *rri;
	const text *category;		/* the category whose heads are being read; NULL: all */
	union
	{
		bytea		header;
		char		space[VARHDRSZ + ES_DIGEST_LEN];
	}			digest;			/* the digest that the slot points to; last, as its size seems to vary */
} EsHeads;

/* A transaction holds the names of so many streams that do not exist, and not more. */
#define ES_MAX_ABSENT	64

typedef enum EsHeadLock
{
	ES_HEAD_LOCKED,
	ES_HEAD_ABSENT,				/* there is no such stream, and nobody else can make it */
	ES_HEAD_BEYOND				/* not locked, because its committed version is greater than the limit */
} EsHeadLock;

extern void es_heads_open(EsHeads *heads, LOCKMODE lockmode);
extern void es_heads_close(EsHeads *heads);
extern EsHeadLock es_head_lock(EsHeads *heads, const text *name, int64 limit, EsHead *head);
extern void es_head_identify(EsHead *head, int32 category);
extern void es_head_insert(EsHeads *heads, const text *name, EsHead *head);
extern void es_head_delete(EsHeads *heads, EsHead *head);
extern void es_head_give_back(const text *name);
extern void es_head_update(EsHeads *heads, const text *name, EsHead *head);
extern bool es_absent_too_many(void);
ES_NORETURN extern void es_absent_refuse(const text *name);
extern void es_heads_begin(EsHeads *heads, const text *category, const text *prefix, const text *after, Snapshot snapshot);
extern text *es_heads_next(EsHeads *heads, EsHead *head);

/* A transaction may hold streams without appending to them. */
extern void es_lock_prepare(bool append);
extern bool es_stream_hold(const text *name, EsHead *head);
extern void es_hold_note(void);
extern bool es_hold_by_others(void);

/* ---------------------------------------------------------------- position */

extern int64 es_position_last(void);
extern int64 es_position_allocate(int64 above);

/* Before a call locks anything, it makes sure that positions are of the right epoch, and that there is a partition. */
extern void es_epoch_prepare(void);
extern void es_partition_prepare(int64 events);

/* ---------------------------------------------------------------- row */

/* Writes rows of events into the log. */
typedef struct EsLogWriter EsLogWriter;

extern EsLogWriter *es_log_writer_begin(int64 rows);
extern void es_log_write(EsLogWriter *writer, const EsEvent *event);
extern void es_log_writer_end(EsLogWriter *writer);

/* ---------------------------------------------------------------- scan */

/* Columns of the type es_recorded_event. */
#define ES_EVENT_COLUMNS	11
#define ES_ALL_COLUMNS	((UINT32_C(1) << ES_EVENT_COLUMNS) - 1)

/* An event as a reader sees it: first as it is stored, then as upcasters have changed it. */
typedef struct EsShape
{
	int32		type_id;		/* 0: upcasters gave it a type that is not stored */
	text	   *type;
	int32		schema_version;
	Datum		data;
	bool		data_null;
	Datum		metadata;
	bool		metadata_null;
	TimestampTz occurred_at;

	/* for error messages */
	const text *stream;
	int64		version;
	int64		position;
} EsShape;

/*
 * Changes events while a scan reads them: upcasters. A wing above makes one and puts it into the scan, which only
 * knows these functions.
 */
typedef struct EsTransform EsTransform;
struct EsTransform
{
	/* Whether a stored event of this type and schema version is changed. */
	bool		(*applies) (EsTransform *transform, int32 type_id, int32 schema_version);
	/*
	 * Whether events that are stored with a type may become one of the types in a list of text *, whatever their
	 * version.
	 */
	bool		(*may_become) (EsTransform *transform, int32 type_id, List *names);
	/* Changes an event; false when it is dropped. What the shape points to is good until the next call. */
	bool		(*apply) (EsTransform *transform, EsShape *shape);
	/* Called after an error of apply() was caught, before the next call. */
	void		(*failed) (EsTransform *transform);
	void		(*end) (EsTransform *transform);
};

static inline bool
es_transform_applies(EsTransform *transform, int32 type_id, int32 schema_version)
{
	return transform->applies(transform, type_id, schema_version);
}

static inline bool
es_transform_apply(EsTransform *transform, EsShape *shape)
{
	return transform->apply(transform, shape);
}

static inline void
es_transform_end(EsTransform *transform)
{
	transform->end(transform);
}

/*
 * A scan: es_scan_create(), then the fields that say what is wanted, then es_scan_stream() or es_scan_positions(), then
 * es_scan_next() until it returns NULL, and es_scan_end().
 */
typedef struct EsScan
{
	/* What is wanted. */
	Snapshot	snapshot;		/* registered; es_scan_end() releases it */
	bool		backward;
	int64		limit;			/* how many events are still wanted; ES_NO_LIMIT for all */
	bool		has_until;		/* by stream: end before the first event that was recorded after `until` */
	TimestampTz until;
	int64		until_position; /* by stream: end before the first event after this position; 0: read all */
	bool		raw;			/* by stream: return the rows that are there, even if versions are missing */
	bool		filter_types;
	Bitmapset  *types;			/* ids of the wanted types, with filter_types */
	List	   *type_names;		/* their names as text *, also of types that are not stored */
	EsTransform *transform;		/* NULL: events are returned as they are stored */
	bool		transform_shared;	/* the caller ends the transform, not es_scan_end() */
	bool		catch_failures; /* an error of the transform does not end the scan: see failure */
	bool		filter_categories;
	Bitmapset  *categories;		/* ids of the wanted categories, with filter_categories */

	/* With catch_failures: why the current event could not be upcast. It is returned as it is stored. NULL: it was. */
	ErrorData  *failure;

	/* By stream: the last row that was read, even if upcasters have dropped its event. Version 0: none was read. */
	int64		passed_version;
	int64		passed_position;
	TimestampTz passed_recorded_at;

	/* For log/scan.c alone, and for the functions below. */
	bool		by_stream;
	int64		stream;
	int64		from;			/* the first position, or version of the stream, that is wanted */
	int64		to;				/* the last one */
	int64		left;			/* by stream: how many versions are still to come */
	int64		last_position;	/* of the row before */
	int64		stream_first;	/* by stream: the positions of its first and last event */
	int64		stream_last;
	struct EsPartition *partitions; /* those that may have what is wanted */
	struct EsPartitionGap *gap;	/* backward by position: what lies before `from` and is not attached; NULL: nothing */
	int			partition_count;
	int			partition;		/* the one that is being read */
	Relation	rel;
	Relation	index;
	int			index_category; /* column of the index that has the category, if a filter needs it; else 0 */
	int			index_type;		/* the same for the event type */
	struct EsScanCursor *cursors;	/* one; or with the index by category, one for each category */
	int			cursor_count;
	int			cursor;			/* the one that has the current row; -1: none yet */
	EsShape		shape;			/* the current event, if upcasters have changed it */
	bool		changed;		/* they have */
	text	   *stream_name;	/* by stream */
	MemoryContext context;
} EsScan;

extern EsScan *es_scan_create(Snapshot snapshot);
extern void es_scan_stream(EsScan *scan, const text *name, const EsHead *head, int64 from, int64 to);
extern void es_scan_stream_after(EsScan *scan, const text *name, const EsHead *head, int64 from, int64 to, int64 after);
extern void es_scan_positions(EsScan *scan, int64 after, int64 upto);
extern int64 es_scan_step(Snapshot snapshot, int64 after, int64 step, int64 upto);
extern TupleTableSlot *es_scan_next(EsScan *scan);
extern void es_scan_end(EsScan *scan);

/* The current event. */
extern void es_scan_event(EsScan *scan, TupleTableSlot *slot, uint32 columns, Datum *values, bool *nulls);
extern text *es_scan_stream_name(EsScan *scan, int64 stream);
extern text *es_scan_type(EsScan *scan, TupleTableSlot *slot);
extern void es_scan_shape(EsScan *scan, TupleTableSlot *slot, EsShape *shape);

/* The current event's data, after upcasting. */
static inline Datum
es_scan_data(EsScan *scan, TupleTableSlot *slot, bool *isnull)
{
	if (scan->changed)
	{
		*isnull = scan->shape.data_null;
		return scan->shape.data;
	}
	return slot_getattr(slot, Anum_log_data, isnull);
}

/* The current event's schema version, after upcasting. */
static inline int32
es_scan_schema_version(EsScan *scan, TupleTableSlot *slot)
{
	return scan->changed ? scan->shape.schema_version :
		DatumGetInt32(es_row_column(slot, Anum_log_schema_version));
}

/* The id of the current event's type, after upcasting; 0 when that is a type that is not stored. */
static inline int32
es_scan_type_id(EsScan *scan, TupleTableSlot *slot)
{
	return scan->changed ? scan->shape.type_id : DatumGetInt32(es_row_column(slot, Anum_log_event_type));
}

/* ---------------------------------------------------------------- mark */

/* The published mark, the newest position, and the two published times. */
typedef struct EsMarkState
{
	int64		mark;
	int64		last;			/* the newest position that was allocated */
	TimestampTz stable_until;
	TimestampTz floor;
} EsMarkState;

extern Snapshot es_mark_snapshot(int64 *mark);
extern Snapshot es_mark_snapshot_inside(int64 *mark);
extern void es_mark_poll_slowly(void);
extern TimestampTz es_mark_floor(void);
extern void es_mark_times(TimestampTz *stable_until, TimestampTz *floor);
extern void es_mark_state(EsMarkState *state);

/* The coordinator publishes the mark. */
extern const EsMarkState *es_published_mark(void);
extern int64 es_first_published_mark(void);
extern void es_publish_soon(void);

/* ---------------------------------------------------------------- early release */

/*
 * With early lock release, others can see events before they are durable. Before events are reported, wait until they
 * are.
 */
extern void es_early_release_await(const EsHead *head);
extern void es_early_release_await_all(void);
extern void es_early_release_flush_all(void);

/* ---------------------------------------------------------------- transaction */

extern void es_transaction_at_end(void (*callback) (void));
extern void es_transaction_progressed(void);
extern void es_transaction_has_work(void);
extern int64 es_transaction_first_position(void);

/* ---------------------------------------------------------------- partition */

typedef struct EsPartition
{
	int64		from;			/* it has positions from <= p < to */
	int64		to;
	Oid			relid;
} EsPartition;

/* Positions from..to that are in no attached partition, and may have events. */
typedef struct EsPartitionGap
{
	int64		from;
	int64		to;
	NameData	partition;		/* the one that has them, or had them; empty: not known */
} EsPartitionGap;

extern int	es_partitions_copy(EsPartition **partitions);
extern const EsPartition *es_partition_among(const EsPartition *partitions, int count, int64 position);
extern int	es_partition_gaps(int64 last, EsPartitionGap **gaps);
extern bool es_partition_exists(const char *name);
extern bool es_in_partition_gap(const EsPartitionGap *gaps, int count, int64 from, int64 to);
extern void es_refuse_gap_upto(int64 position);
extern Oid	es_partition_index(Relation partition, bool by_stream);

/* ---------------------------------------------------------------- row digest */

/* A stream, as the snapshot shows it. */
typedef struct EsRowDigestStream
{
	int64		id;
	text	   *name;			/* NULL: the stream has no head row */
	int32		category;
	int64		version;
	int64		last_position;
} EsRowDigestStream;

/* Computes the digests of one row of the log after the other. */
typedef struct EsRowDigest
{
	Snapshot	snapshot;
	EsHasher   *hasher;
	pg_uuid_t	store_id;

	/* The current row. */
	EsEvent		event;
	uint8		inner[ES_DIGEST_LEN];
	const EsRowDigestStream *stream;
	const text *category;
	const char *flaw_kind;		/* why it has no digests, as a kind of finding of es_verify_log; NULL: it has */
	const char *flaw;			/* the same in words */

	/* For log/row_digest.c alone, but callers may allocate in `row` too. */
	MemoryContext names;		/* names that were looked up; reset when they take too much memory */
	MemoryContext row;			/* reset for each row */
	HTAB	   *streams;
	HTAB	   *types;
	HTAB	   *categories;
} EsRowDigest;

extern EsRowDigest *es_row_digest_begin(Snapshot snapshot);
extern const EsRowDigestStream *es_row_digest_stream(EsRowDigest *digests, int64 id);
extern const text *es_row_digest_category(EsRowDigest *digests, int32 id);
extern bool es_row_digest_read(EsRowDigest *digests, TupleTableSlot *slot);
extern void es_row_digest_leaf(EsRowDigest *digests, uint8 *leaf);
extern void es_row_digest_chain(EsRowDigest *digests, uint8 *chain);
extern void es_row_digest_end(EsRowDigest *digests);

/* ---------------------------------------------------------------- duties of the coordinator */

/* Each registers a duty; called once, when the library is loaded. */
extern void es_idle_appender_init(void);
extern void es_partition_init(void);
extern void es_publisher_init(void);

#endif							/* ES_LOG_H */
