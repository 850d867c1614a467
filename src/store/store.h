/*
 * store/store.h
 *	  Where the store is, making and upgrading it, rights.
 *
 * The one header of this wing for the wings above it.
 */
#ifndef ES_STORE_H
#define ES_STORE_H

#include "datatype/timestamp.h"
#include "access/htup.h"
#include "access/tupdesc.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"
#include "utils/uuid.h"

#include "base/base.h"

/* ---------------------------------------------------------------- counter */

/*
 * How often something has happened.
 */

extern void es_counter_add(const char *name, int64 more);
extern void es_counter_set(const char *name, int64 value);

/* ---------------------------------------------------------------- create */

/*
 * Making the store: what must be in it.
 */

/* What the wings above add when a store is made: made() once, with the tables; visited() at each es_create_store(). */
typedef struct EsStoreHooks
{
	void		(*made) (void);
	void		(*visited) (void);
} EsStoreHooks;

extern void es_store_set_hooks(const EsStoreHooks *hooks);
extern void es_check_whole(void);
extern char *es_store_table_names(void);

/* ---------------------------------------------------------------- guard */

/*
 * Refusing changes: the triggers by which only the library writes to the store's tables. All between es_sql_begin() and
 * es_sql_end().
 */

extern void es_guard_partition(const char *table);
extern void es_guard_tables(void);

/* ---------------------------------------------------------------- journal */

/*
 * Who has changed what the store is told to do.
 */

extern uint64 es_journal_change(Oid acting_as, const char *action, const char *table, const char *statement, int nargs,
								Oid *types, Datum *values, const char *nulls);
extern uint64 es_journal_reasoned(Oid acting_as, const char *action, const char *reason, const char *table,
								  const char *statement, int nargs, Oid *types, Datum *values, const char *nulls);
extern void es_journal_skip(const char *kind, const char *name, const char *stream, int64 upto_version, const char *reason);
extern void es_journal_note(const char *action, const char *kind, const char *name, const char *key, const char *value);

/* ---------------------------------------------------------------- location */

/*
 * Where the store of this database is: the OIDs of its tables, cached per session.
 */

#define ES_LAYOUT			2		/* layout version that this library works with */

/* A position is the node number in the high 15 bits and a count in the low 48. */
#define ES_NODE_SHIFT		48
#define ES_MAX_NODE			32767
#define ES_NODE_START(node)	((int64) (node) << ES_NODE_SHIFT)
#define ES_NODE_END(node)	(ES_NODE_START(node) | INT64CONST(0xFFFFFFFFFFFF))	/* not itself a position */

/*
 * The columns of the tables that are read or written below SQL, in their order: COLUMN(table, name, type) where it is
 * NOT NULL, NULLABLE(table, name, type) where it is not. The tables themselves are made by sql/store/tables.sql; whether
 * they are as that says is checked whenever the store is looked up (store/shape.c). Columns of other tables are named in SQL only.
 */

/* event_store.store: the one row: what this store is. */
#define ES_STORE_COLUMNS(COLUMN, NULLABLE) \
	COLUMN(store, layout, INT4OID) \
	COLUMN(store, node, INT4OID) \
	COLUMN(store, id, UUIDOID) \
	COLUMN(store, created_at, TIMESTAMPTZOID) \
	COLUMN(store, one, BOOLOID)

/* event_store.mark: the one row: the published mark. */
#define ES_MARK_COLUMNS(COLUMN, NULLABLE) \
	COLUMN(mark, mark, INT8OID) \
	COLUMN(mark, stable_until, TIMESTAMPTZOID) \
	COLUMN(mark, floor, TIMESTAMPTZOID) \
	COLUMN(mark, one, BOOLOID)

/* event_store.epochs: one row for each history that positions are of. */
#define ES_EPOCH_COLUMNS(COLUMN, NULLABLE) \
	COLUMN(epoch, epoch, INT8OID) \
	COLUMN(epoch, began_at, TIMESTAMPTZOID) \
	COLUMN(epoch, mark, INT8OID) \
	COLUMN(epoch, last_position, INT8OID) \
	COLUMN(epoch, start_position, INT8OID) \
	COLUMN(epoch, system_identifier, INT8OID) \
	COLUMN(epoch, timeline, INT8OID) \
	COLUMN(epoch, database, INT8OID)

/* event_store.categories and event_store.event_types: names by their small ids. */
#define ES_NAME_COLUMNS(COLUMN, NULLABLE) \
	COLUMN(name, id, INT4OID) \
	COLUMN(name, name, TEXTOID)

/* event_store.heads: one row a stream: its lock and its truth. */
#define ES_HEAD_COLUMNS(COLUMN, NULLABLE) \
	COLUMN(head, id, INT8OID) \
	COLUMN(head, first_position, INT8OID)	/* 0: no event yet */ \
	COLUMN(head, created_at, TIMESTAMPTZOID) \
	COLUMN(head, category, INT4OID) \
	COLUMN(head, version, INT8OID) \
	COLUMN(head, last_position, INT8OID) \
	COLUMN(head, recorded_at, TIMESTAMPTZOID) \
	COLUMN(head, digest, BYTEAOID)	/* of the last event, chained */ \
	COLUMN(head, name, TEXTOID)

/* event_store.log, and its partitions: the events. */
#define ES_LOG_COLUMNS(COLUMN, NULLABLE) \
	COLUMN(log, position, INT8OID) \
	COLUMN(log, stream, INT8OID) \
	COLUMN(log, version, INT8OID) \
	COLUMN(log, occurred_at, TIMESTAMPTZOID) \
	COLUMN(log, recorded_at, TIMESTAMPTZOID) \
	COLUMN(log, category, INT4OID) \
	COLUMN(log, event_type, INT4OID) \
	COLUMN(log, schema_version, INT4OID) \
	COLUMN(log, rest, INT4OID)	/* distance to the last position of the same call */ \
	COLUMN(log, event_id, UUIDOID) \
	NULLABLE(log, salt, UUIDOID)	/* of the inner digest; erased together with data */ \
	NULLABLE(log, data, JSONBOID) \
	NULLABLE(log, metadata, JSONBOID)

/* event_store.log_partitions: every partition that the log has had. */
#define ES_PARTITION_COLUMNS(COLUMN, NULLABLE) \
	COLUMN(partition, from_position, INT8OID) \
	COLUMN(partition, to_position, INT8OID) \
	COLUMN(partition, name, TEXTOID)

/* event_store.append_keys: idempotency keys of streams. */
#define ES_APPEND_KEY_COLUMNS(COLUMN, NULLABLE) \
	COLUMN(append_key, stream, INT8OID) \
	COLUMN(append_key, key, TEXTOID) \
	COLUMN(append_key, request, BYTEAOID) \
	COLUMN(append_key, version, INT8OID) \
	COLUMN(append_key, first_position, INT8OID) \
	COLUMN(append_key, last_position, INT8OID) \
	COLUMN(append_key, recorded_at, TIMESTAMPTZOID)

/* event_store.batch_keys: idempotency keys of batches. */
#define ES_BATCH_KEY_COLUMNS(COLUMN, NULLABLE) \
	COLUMN(batch_key, key, TEXTOID) \
	COLUMN(batch_key, request, BYTEAOID) \
	COLUMN(batch_key, events, INT8OID) \
	COLUMN(batch_key, first_position, INT8OID) \
	COLUMN(batch_key, last_position, INT8OID) \
	COLUMN(batch_key, recorded_at, TIMESTAMPTZOID)

/* event_store.projections: how tables are kept up to date from events. */
#define ES_PROJECTION_COLUMNS(COLUMN, NULLABLE) \
	COLUMN(projection, name, TEXTOID) \
	COLUMN(projection, handler, TEXTOID) \
	NULLABLE(projection, categories, TEXTARRAYOID) \
	NULLABLE(projection, event_types, TEXTARRAYOID) \
	NULLABLE(projection, tables, TEXTARRAYOID) \
	COLUMN(projection, mode, TEXTOID) \
	COLUMN(projection, batch_size, INT4OID) \
	COLUMN(projection, from_position, INT8OID) \
	COLUMN(projection, side_effects, BOOLOID) \
	COLUMN(projection, role, TEXTOID) \
	COLUMN(projection, search_path, TEXTOID) \
	COLUMN(projection, state, TEXTOID) \
	COLUMN(projection, stale, BOOLOID) \
	COLUMN(projection, role_oid, OIDOID) \
	COLUMN(projection, role_system, INT8OID) \
	NULLABLE(projection, paused_until, TIMESTAMPTZOID)	/* NULL: until it is resumed */ \
	NULLABLE(projection, pause_reason, TEXTOID)

/* event_store.snapshots: states at a version. */
#define ES_SNAPSHOT_COLUMNS(COLUMN, NULLABLE) \
	COLUMN(snapshot, stream, INT8OID) \
	COLUMN(snapshot, fingerprint, BYTEAOID) \
	COLUMN(snapshot, version, INT8OID) \
	COLUMN(snapshot, position, INT8OID) \
	COLUMN(snapshot, recorded_at, TIMESTAMPTZOID) \
	COLUMN(snapshot, state, JSONBOID) \
	COLUMN(snapshot, hash, BYTEAOID) \
	NULLABLE(snapshot, digest, BYTEAOID)	/* of the stream up to the snapshot's event */

/* event_store.subscription_streams: one row for each stream in flight or quarantined. */
#define ES_SUBSTREAM_COLUMNS(COLUMN, NULLABLE) \
	COLUMN(substream, subscription, INT4OID) \
	COLUMN(substream, stream, INT8OID) \
	COLUMN(substream, version, INT8OID) \
	COLUMN(substream, position, INT8OID) \
	COLUMN(substream, attempts, INT4OID) \
	NULLABLE(substream, consumer, TEXTOID) \
	NULLABLE(substream, since, TIMESTAMPTZOID) \
	NULLABLE(substream, reason, TEXTOID)

/* event_store.seals: one row for each range of the log that was closed. */
#define ES_SEAL_COLUMNS(COLUMN, NULLABLE) \
	COLUMN(seal, after_position, INT8OID) \
	COLUMN(seal, to_position, INT8OID) \
	COLUMN(seal, events, INT8OID) \
	COLUMN(seal, tree, BYTEAOID) \
	COLUMN(seal, root, BYTEAOID)	/* chained */ \
	COLUMN(seal, sealed_at, TIMESTAMPTZOID) \
	COLUMN(seal, manifest, BYTEAOID) \
	NULLABLE(seal, recorded_after, TIMESTAMPTZOID)	/* every event behind it is recorded later than this */

/* event_store.erased: one row for each event whose data and salt were erased. */
#define ES_ERASED_COLUMNS(COLUMN, NULLABLE) \
	COLUMN(erased, position, INT8OID) \
	COLUMN(erased, digest, BYTEAOID)

/* Anum_<table>_<column> of each, and Natts_<table>. */
#define ES_COLUMN_NUMBER(table, name, type) Anum_##table##_##name,
#define ES_COLUMN_NUMBERS(table, COLUMNS) \
	enum { Anum_##table##_none, COLUMNS(ES_COLUMN_NUMBER, ES_COLUMN_NUMBER) Natts_##table##_end, \
		   Natts_##table = Natts_##table##_end - 1 }

ES_COLUMN_NUMBERS(store, ES_STORE_COLUMNS);
ES_COLUMN_NUMBERS(mark, ES_MARK_COLUMNS);
ES_COLUMN_NUMBERS(epoch, ES_EPOCH_COLUMNS);
ES_COLUMN_NUMBERS(name, ES_NAME_COLUMNS);
ES_COLUMN_NUMBERS(head, ES_HEAD_COLUMNS);
ES_COLUMN_NUMBERS(log, ES_LOG_COLUMNS);
ES_COLUMN_NUMBERS(partition, ES_PARTITION_COLUMNS);
ES_COLUMN_NUMBERS(append_key, ES_APPEND_KEY_COLUMNS);
ES_COLUMN_NUMBERS(batch_key, ES_BATCH_KEY_COLUMNS);
ES_COLUMN_NUMBERS(projection, ES_PROJECTION_COLUMNS);
ES_COLUMN_NUMBERS(snapshot, ES_SNAPSHOT_COLUMNS);
ES_COLUMN_NUMBERS(substream, ES_SUBSTREAM_COLUMNS);
ES_COLUMN_NUMBERS(seal, ES_SEAL_COLUMNS);
ES_COLUMN_NUMBERS(erased, ES_ERASED_COLUMNS);

typedef struct EsStore
{
	Oid			owner;			/* role that SQL on the store runs as */
	pg_uuid_t	id;				/* made up once; part of every digest */
	int			node;
	Oid			store;			/* one row: what this store is */
	Oid			log;			/* partitioned parent */
	Oid			log_partitions;
	Oid			heads;
	Oid			heads_pkey;		/* (id) */
	Oid			heads_name;		/* unique (name) */
	Oid			categories;
	Oid			categories_pkey;	/* (id) */
	Oid			categories_name;	/* unique (name) */
	Oid			event_types;
	Oid			event_types_pkey;
	Oid			event_types_name;
	Oid			keys;			/* idempotency keys of streams */
	Oid			keys_pkey;
	Oid			batch_keys;
	Oid			batch_keys_pkey;
	Oid			grants;
	Oid			mark;			/* published mark, one row */
	Oid			epochs;
	Oid			aggregates;
	Oid			upcasters;
	Oid			event_checks;
	Oid			projections;
	Oid			checkpoints;
	Oid			rebuilds;
	Oid			quarantined_streams;
	Oid			counters;
	Oid			duties;
	Oid			journal;
	Oid			snapshots;
	Oid			snapshots_pkey;	/* (stream, fingerprint, version) */
	Oid			subscriptions;
	Oid			subscription_streams;
	Oid			subscription_streams_pkey;	/* (subscription, stream) */
	Oid			subscription_consumers;
	Oid			seals;
	Oid			seals_pkey;		/* (to_position) */
	Oid			erased;
	Oid			erased_pkey;	/* (position) */
	Oid			position_seq;
	Oid			stream_seq;
	Oid			floor_seq;		/* its last value is the floor of new events' times */
	Oid			row_type;		/* of the extension: the relation behind the type es_recorded_event */
	uint64		generation;		/* differs after every re-read: a key for caches beside this one */
} EsStore;

extern const EsStore *es_store(void);
extern const EsStore *es_store_now(void);
extern uint64 es_projections_generation(void);
extern bool es_store_exists(void);
extern int	es_store_layout(Oid *owner);
extern void es_store_init(void);
extern void es_store_forget(void);
extern Relation es_store_open(Oid table, LOCKMODE lockmode);
extern void es_store_check_triggers(Relation table);
extern void es_store_check_unchecked(Relation table);
extern void es_store_check_partition(Relation partition);
extern void es_store_check_relation_owner(Oid relid, const char *name);
extern bool es_index_has_code(Relation index);

/* ---------------------------------------------------------------- citus */

/*
 * Refusing a store whose tables were given to Citus.
 */

extern void es_check_not_distributed(Oid schema);

/* ---------------------------------------------------------------- subscriber */

/*
 * Whether the store is a copy that replication keeps.
 */

extern bool es_store_is_copy(void);
extern bool es_store_is_subscriber(void);
extern void es_store_check_copied(void);
extern void es_prevent_if_read_only(const char *what);
extern void es_subscriber_init(void);
/* ---------------------------------------------------------------- role */

/*
 * The roles that stored text runs as, as they are kept in the store's tables.
 */

typedef struct EsStoredRole
{
	const char *name;			/* when it was registered, or last brought up to date */
	Oid			oid;			/* of the server that has this system identifier */
	int64		system;
} EsStoredRole;

/* Three columns of a query, for es_role_read(): their owner can alter the table. */
#define ES_ROLE_COLUMNS		"role::text, role_oid::oid, role_system::bigint"

extern int64 es_system_identifier(void);
extern EsStoredRole es_role_current(void);
extern EsStoredRole es_role_copy(EsStoredRole role);
extern EsStoredRole es_role_read(HeapTuple tuple, TupleDesc desc, int column);
extern Oid	es_run_as_role(EsStoredRole role);
extern void es_role_depend(Oid role);
extern bool es_role_has_registered(Oid role);
extern void es_roles_restore(void);

/* ---------------------------------------------------------------- trouble */

/*
 * What the coordinator could not do when it tried last.
 */

extern void es_trouble_init(void);

/* ---------------------------------------------------------------- rights */

/*
 * Rights of applications.
 */

extern void es_check_store_owner(void);
extern void es_check_may_define(const char *function);
extern void es_check_may_load(const char *function);
extern void es_rights_lock(void);
extern void es_grants_restore(void);

#endif							/* ES_STORE_H */
