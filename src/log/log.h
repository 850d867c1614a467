/*
 * log/log.h
 *	  The events: names, positions, epochs, partitions, heads, rows, digests, scans, the mark, early release.
 *
 * The one header of this wing for the wings above it.
 */
#ifndef ES_LOG_H
#define ES_LOG_H

#include "access/genam.h"
#include "access/xlogdefs.h"
#include "access/heapam.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "c.h"
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

/* ---------------------------------------------------------------- digest */

/*
 * Digests, salts and event ids.
 */

#define ES_DIGEST_LEN	32		/* SHA-256 */

typedef struct EsHasher EsHasher;

/*
 * An event on its way into the log, or as a row of the log says: what its row has, and the names that its digest has instead
 * of their ids. What is pointed to belongs to whoever made it.
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

/* A Merkle tree that leaves are added to, in constant memory. */
typedef struct EsTree
{
	int64		leaves;
	int			depth;			/* of the stack */
	uint8		stack[64][ES_DIGEST_LEN];
} EsTree;

extern EsHasher *es_hasher_create(void);
extern void es_hasher_free(EsHasher *hasher);
extern void es_hash_begin(EsHasher *hasher);
extern void es_hash_int64(EsHasher *hasher, int64 value);
extern void es_hash_string(EsHasher *hasher, const char *bytes, int len);
extern void es_hash_json(EsHasher *hasher, Jsonb *json);
extern void es_hash_end(EsHasher *hasher, uint8 *digest);
extern void es_event_digest(EsHasher *hasher, const pg_uuid_t *store_id, const EsEvent *event, uint8 *chain);
extern void es_event_inner(EsHasher *hasher, const EsEvent *event, uint8 *inner);
extern void es_event_chain(EsHasher *hasher, const pg_uuid_t *store_id, const EsEvent *event, const uint8 *inner,
						   uint8 *chain);
extern void es_event_leaf(EsHasher *hasher, const pg_uuid_t *store_id, const EsEvent *event, const uint8 *inner,
						  const text *category, uint8 *leaf);

extern void es_tree_begin(EsTree *tree);
extern void es_tree_add(EsTree *tree, EsHasher *hasher, const uint8 *leaf);
extern void es_tree_root(EsTree *tree, EsHasher *hasher, uint8 *root);
extern void es_seal_digest(EsHasher *hasher, const pg_uuid_t *store_id, int64 after, int64 to, int64 events,
						   const uint8 *tree_root, const uint8 *previous, uint8 *root);

extern bytea *es_digest_bytea(const uint8 *digest);
extern void es_random_uuid(pg_uuid_t *uuid);
extern void es_event_id(pg_uuid_t *id, TimestampTz at);

/* ---------------------------------------------------------------- early release */

/*
 * Early lock release: locks are given back before the WAL is flushed, the client is answered after.
 */

struct EsHead;

extern void es_early_release_init(void);
extern void es_early_release_before_commit(void);
extern void es_early_release_end_of_transaction(bool commit);
extern void es_early_release_keep_locks(void);
extern void es_early_release_build_on(const struct EsHead *head);
extern void es_early_release_await(const struct EsHead *head);
extern void es_early_release_await_all(void);
extern void es_early_release_flush_all(void);

/* ---------------------------------------------------------------- epoch */

/*
 * Epochs: which history the positions drawn now belong to.
 */

extern void es_log_init(void);
extern bool es_epoch_is_current(void);
extern void es_epoch_prepare(void);
extern bool es_epoch_begin_here(void);
extern int64 es_epoch_start(void);

/* ---------------------------------------------------------------- lookup */

/*
 * Rows of the store's tables, below SQL: found by key, read in the order of an index, inserted, deleted.
 */

/* The indexes by which rows are found, with their columns. All of them are unique. */
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

#define ES_INDEX_COLUMNS	3

/* What a column of the index must be to the value: BTEqualStrategyNumber, BTLessEqualStrategyNumber... */
typedef struct EsIndexKey
{
	int			column;			/* of the index, from 1 on */
	StrategyNumber strategy;
	Datum		value;			/* what it points to must stay until the reading has ended */
} EsIndexKey;

/* A table that is open, with one of its indexes or (to be read as a whole) without. */
typedef struct EsLookup
{
	TupleTableSlot *slot;		/* the current row */

	/* for log/ alone */
	Relation	rel;
	Relation	index;			/* NULL: without */
	EsIndex		which;			/* with index */
	LOCKMODE	lockmode;
	IndexScanDesc scan;			/* what is being read, NULL: nothing, or the table as a whole */
	TableScanDesc table_scan;
	ScanDirection direction;
	MemoryContext context;		/* for what the index allocates while it is being read */
} EsLookup;

/* Which locks stay to the end of the transaction. */
typedef enum EsKeepLocks
{
	ES_KEEP_NO_LOCK,
	ES_KEEP_TABLE_LOCK,
	ES_KEEP_LOCKS				/* the table's and the index's */
} EsKeepLocks;

extern void es_lookup_open(EsLookup *lookup, EsIndex which, LOCKMODE lockmode);
extern void es_lookup_open_table(EsLookup *lookup, Oid table, LOCKMODE lockmode);
extern void es_lookup_close(EsLookup *lookup, EsKeepLocks keep);

extern bool es_lookup_find(EsLookup *lookup, Snapshot snapshot, const Datum *key);
extern void es_lookup_begin(EsLookup *lookup, Snapshot snapshot, bool backward, int count, const EsIndexKey *keys);
extern void es_lookup_begin_blocks(EsLookup *lookup, Snapshot snapshot, BlockNumber first, BlockNumber count);
extern bool es_lookup_next(EsLookup *lookup);
extern void es_lookup_end(EsLookup *lookup);
extern BlockNumber es_lookup_blocks(EsLookup *lookup);

extern void es_row_insert(EsLookup *lookup, const Datum *values);
extern void es_row_delete(EsLookup *lookup, ItemPointer tid);
extern bool es_row_delete_unless_busy(EsLookup *lookup, Snapshot snapshot);

/* A column of a row that is never NULL; of events, all but salt, data and metadata. */
static inline Datum
es_row_column(TupleTableSlot *slot, int column)
{
	if (slot->tts_nvalid < column)
		slot_getsomeattrs(slot, column);
	return slot->tts_values[column - 1];
}

/* ---------------------------------------------------------------- head */

/*
 * Head rows: a stream's lock and its truth.
 */

typedef struct EsHead
{
	ItemPointerData tid;
	int64		id;
	int64		first_position;	/* 0: no event yet */
	int64		last_position;
	int64		version;		/* 0: no event yet */
	TimestampTz created_at;
	TimestampTz recorded_at;	/* of the last event */
	TransactionId writer;		/* of this version of the row; invalid: it is frozen */
	XLogRecPtr	frozen_lsn;		/* its page's: behind the writer's commit */
	int32		category;
	uint8		digest[ES_DIGEST_LEN];
} EsHead;

/* The heads table, open for the length of one call. */
typedef struct EsHeads
{
	EsLookup	rows;			/* by name */
	EState	   *estate;			/* made when first needed: NULL for readers */
	ResultRelInfo *rri;
	union
	{
		bytea		header;
		char		space[VARHDRSZ + ES_DIGEST_LEN];
	}			digest;			/* what the slot's digest points to */
	const text *category;		/* whose heads are being read */
} EsHeads;

typedef enum EsHeadLock
{
	ES_HEAD_LOCKED,
	ES_HEAD_MADE,				/* new: only a later command can update it */
	ES_HEAD_BEYOND				/* not locked: its committed version is beyond the limit */
} EsHeadLock;

extern void es_heads_open(EsHeads *heads, LOCKMODE lockmode);
extern void es_heads_close(EsHeads *heads);
extern void es_head_read(TupleTableSlot *slot, EsHead *head);
extern EsHeadLock es_head_lock(EsHeads *heads, const text *name, int32 category, int64 limit,
							   EsHead *head);
extern void es_head_update(EsHeads *heads, const text *name, EsHead *head);
extern void es_heads_begin(EsHeads *heads, const text *category, Snapshot snapshot);
extern text *es_heads_next(EsHeads *heads, EsHead *head);
extern bool es_stream_find(const text *name, Snapshot snapshot, EsHead *head);
extern text *es_stream_by_id(int64 id, Snapshot snapshot, EsHead *head);
extern bool es_stream_has_open_append(const text *name);

/* ---------------------------------------------------------------- idle appender */

/*
 * Sessions that hold the mark back and do nothing.
 */

extern void es_idle_appender_init(void);

/* ---------------------------------------------------------------- mark */

/*
 * The high-water mark.
 */

typedef struct EsMarkState
{
	int64		mark;			/* as published */
	int64		last;			/* newest position drawn */
	TimestampTz stable_until;
	TimestampTz floor;
} EsMarkState;

extern Snapshot es_mark_snapshot(int64 *mark);
extern Snapshot es_mark_snapshot_inside(int64 *mark);
extern void es_mark_be_patient(void);
extern TimestampTz es_mark_floor(void);
extern void es_mark_times(TimestampTz *stable_until, TimestampTz *floor);
extern void es_mark_state(EsMarkState *state);
extern bool es_mark_publish(TimestampTz goal, bool always, EsMarkState *state);

/* ---------------------------------------------------------------- name */

/*
 * Categories and event types: names stored once, small ids in the events.
 */

typedef enum EsNameKind
{
	ES_CATEGORY,
	ES_EVENT_TYPE
} EsNameKind;

extern int32 es_name_find(EsNameKind kind, const char *name, int len);
extern Bitmapset *es_name_ids(EsNameKind kind, List *names);
extern int32 es_name_make(EsNameKind kind, const char *name, int len);
extern int	es_category_length(const text *stream);
extern text *es_name_of(EsNameKind kind, int32 id);

/* ---------------------------------------------------------------- partition */

/*
 * The partitions ("leaves") of the log, by range of position.
 */

typedef struct EsPartition
{
	int64		from;			/* positions from <= p < to */
	int64		to;
	Oid			relid;
} EsPartition;

/* Positions from..to that no attached leaf has. */
typedef struct EsPartitionGap
{
	int64		from;
	int64		to;
} EsPartitionGap;

extern const EsPartition *es_partition_among(const EsPartition *partitions, int count, int64 position);
extern int	es_partition_gaps(const EsPartition *partitions, int count, int64 last, EsPartitionGap **gaps);
extern bool es_in_partition_gap(const EsPartitionGap *gaps, int count, int64 from, int64 to);
extern int	es_partitions_copy(EsPartition **partitions, uint64 *serial);
extern bool es_check_newest_attached(int64 upto, uint64 serial);
extern EsPartition es_partition_for(int64 position);
extern void es_partition_init(void);
extern void es_partition_prepare(int64 events);
extern void es_partition_make_for(int64 position);
extern void es_partition_make(int64 from, int64 to);
extern Oid	es_partition_index(Relation partition, bool by_stream);
extern Oid	es_partition_category_index(Relation partition);
ES_NORETURN extern void es_range_missing(int64 from, int64 to);

/* ---------------------------------------------------------------- position */

/*
 * The sequence of global positions.
 */

extern int64 es_position_last(void);
extern int64 es_position_allocate(void);

/* ---------------------------------------------------------------- publisher */

/*
 * The coordinator publishes the high-water mark, and tells about it.
 */

extern void es_publisher_init(void);
extern const EsMarkState *es_published(void);
extern void es_publish_soon(void);

/* ---------------------------------------------------------------- row */

/*
 * Writing rows of the log.
 */

/* Slots that one multi-insert uses; a slot an event would cost more than the insert itself. */
#define ES_LOG_SLOTS	64

typedef struct EsLogWriter
{
	EsPartition		partition;
	Relation	rel;			/* NULL: no leaf open */
	EState	   *estate;
	MemoryContext scratch;		/* of one flush */
	ResultRelInfo *rri;
	BulkInsertState bulk;
	bool		check_constraints;
	bool		many;			/* more than one row will come */
	Size		bytes;			/* payload in the used slots */
	int			used;
	int			made;			/* slots that exist: the first of these */
	TupleTableSlot *slots[ES_LOG_SLOTS];
} EsLogWriter;

extern EsLogWriter *es_log_writer_begin(int64 rows);
extern void es_log_write(EsLogWriter *writer, const EsEvent *event);
extern void es_log_writer_end(EsLogWriter *writer);

/* ---------------------------------------------------------------- row digest */

/*
 * What the digests of a stored event are, worked out from its row alone.
 */

/* A stream as the snapshot shows it; good until the next es_row_digest_read(). */
typedef struct EsRowDigestStream
{
	int64		id;
	text	   *name;			/* NULL: there is no head row */
	int32		category;
	int64		version;
	int64		last_position;
} EsRowDigestStream;

typedef struct EsRowDigest
{
	Snapshot	snapshot;
	EsHasher   *hasher;
	pg_uuid_t	store_id;

	/* of the current row */
	EsEvent		event;
	uint8		inner[ES_DIGEST_LEN];
	const EsRowDigestStream *stream;
	const text *category;
	const char *flaw_kind;		/* why it has no digests: what es_verify_log calls it; NULL: it has */
	const char *flaw;

	/* private */
	MemoryContext names;		/* what was looked up, reset when it grows large */
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

/* ---------------------------------------------------------------- scan */

/*
 * The one routine that reads events.
 */

/* Columns of the type es_recorded_event. */
#define ES_EVENT_COLUMNS	11
#define ES_ALL_COLUMNS	((UINT32_C(1) << ES_EVENT_COLUMNS) - 1)

/* An event as it is to be shown; filled in by the caller, changed by es_transform(). */
typedef struct EsShape
{
	int32		type_id;		/* 0: the type is only a name */
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
 * What changes events as a scan reads them: upcasters. The wing that knows how makes one and puts it into the scan; the
 * scan only knows these functions.
 */
typedef struct EsTransform EsTransform;
struct EsTransform
{
	/* Whether a stored event of this type and schema version is changed at all. */
	bool		(*applies) (EsTransform *transform, int32 type_id, int32 schema_version);
	/* Whether events stored under a type can come out as one of the names, a list of text *; versions left aside. */
	bool		(*may_become) (EsTransform *transform, int32 type_id, List *names);
	/* Changes an event; false when it is dropped. What it points to is good until the next call. */
	bool		(*apply) (EsTransform *transform, EsShape *shape);
	/* Called after an error of apply() was caught, and before the next call. */
	void		(*failed) (EsTransform *transform);
	void		(*end) (EsTransform *transform);
};

static inline bool
es_transform_applies(EsTransform *transform, int32 type_id, int32 schema_version)
{
	return transform->applies(transform, type_id, schema_version);
}

static inline bool
es_transform(EsTransform *transform, EsShape *shape)
{
	return transform->apply(transform, shape);
}

static inline void
es_transform_end(EsTransform *transform)
{
	transform->end(transform);
}

/* Where a leaf's index is being read. */
typedef struct EsScanCursor
{
	IndexScanDesc scan;
	TupleTableSlot *slot;		/* the row that it is at */
	int64		position;		/* of the row, when there are several cursors; 0: at its end */
} EsScanCursor;

typedef struct EsScan
{
	/* what is wanted: set before es_scan_start() */
	Snapshot	snapshot;		/* registered; released by es_scan_end() */
	bool		backward;
	int64		limit;			/* rows still to come, ES_NO_LIMIT for all */
	bool		has_until;		/* by stream: ends before the first event recorded after until */
	TimestampTz until;
	int64		until_position; /* by stream: ends before the first event after it; 0: at the last one */
	bool		raw;			/* by stream: the rows that are there, versions dense or not */
	bool		filter_types;
	Bitmapset  *types;			/* ids, when filter_types */
	List	   *type_names;		/* the same as text *, also of types that are not stored */
	EsTransform *transform;		/* NULL: events are shown as they are stored */
	bool		transform_shared;	/* the caller ends it */
	bool		catch_failures; /* an error of the transform does not end the scan: see failure */
	bool		filter_categories;
	Bitmapset  *categories;

	/* of the current event, with catch_failures: why it could not be upcast; it is shown as it is stored */
	ErrorData  *failure;

	/* by stream: the last row passed, also one that an upcaster dropped; version 0: none */
	int64		passed_version;
	int64		passed_position;
	TimestampTz passed_recorded_at;

	/* private */
	bool		by_stream;
	int64		stream;
	int64		from;			/* first position, or version of the stream, wanted */
	int64		to;				/* last one */
	int64		left;			/* by stream: versions still to come */
	int64		last_position;	/* of the row before */
	EsPartition	   *partitions;
	int			partition_count;
	int			partition;			/* the one being read */
	Relation	rel;
	Relation	index;
	int			index_category; /* column of the index that has the category, when a filter asks for it; else 0 */
	int			index_type;		/* the same of the event type */
	EsScanCursor *cursors;		/* one, or in index order by category one for each of them */
	int			cursor_count;
	int			cursor;			/* whose row is the current one; -1: none yet */
	EsShape		shape;			/* the current event, when it was upcast */
	bool		changed;		/* it was */
	text	   *stream_name;	/* by stream */
	MemoryContext context;
} EsScan;

extern EsScan *es_scan_create(Snapshot snapshot);
extern void es_scan_stream(EsScan *scan, const text *name, const EsHead *head, int64 from, int64 to);
extern void es_scan_positions(EsScan *scan, int64 after, int64 upto);
extern int64 es_scan_step(Snapshot snapshot, int64 after, int64 step, int64 upto);
extern TupleTableSlot *es_scan_next(EsScan *scan);
extern text *es_scan_stream_name(EsScan *scan, int64 stream);
extern void es_scan_event(EsScan *scan, TupleTableSlot *slot, uint32 columns, Datum *values, bool *nulls);
extern void es_scan_end(EsScan *scan);
extern text *es_scan_type(EsScan *scan, TupleTableSlot *slot);
extern void es_scan_shape(EsScan *scan, TupleTableSlot *slot, EsShape *shape);

/* The current event's data and the like, in the shape that upcasters gave them. */
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

static inline int32
es_scan_schema_version(EsScan *scan, TupleTableSlot *slot)
{
	return scan->changed ? scan->shape.schema_version :
		DatumGetInt32(es_row_column(slot, Anum_log_schema_version));
}

/* 0 when the type is only a name. */
static inline int32
es_scan_type_id(EsScan *scan, TupleTableSlot *slot)
{
	return scan->changed ? scan->shape.type_id : DatumGetInt32(es_row_column(slot, Anum_log_event_type));
}

/* ---------------------------------------------------------------- stream name */

/*
 * The names of streams by their ids.
 */

extern text *es_stream_name(int64 id, Snapshot snapshot);
extern text *es_stream_name_stored(int64 id, Snapshot snapshot);

/* ---------------------------------------------------------------- transaction */

/*
 * What this session's open transaction has drawn.
 */

extern void es_transaction_init(void);
extern void es_transaction_at_end(void (*callback) (void));
extern void es_transaction_allocated(int64 position);
extern void es_transaction_progressed(void);
extern void es_transaction_has_work(void);
extern void es_transaction_store_made(void);
extern int64 es_transaction_first_position(void);

#endif							/* ES_LOG_H */
