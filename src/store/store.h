/*
 * store/store.h
 *	  Where the store is, making and upgrading it, rights.
 *
 * The one header of this wing for the wings above it.
 */
#ifndef ES_STORE_H
#define ES_STORE_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "utils/relcache.h"
#include "utils/uuid.h"

#include "base/base.h"

/* ---------------------------------------------------------------- counter */

/*
 * How often something has happened.
 */

extern void es_counter_add(const char *name, int64 more);

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

/* ---------------------------------------------------------------- guard */

/*
 * Refusing changes: the trigger of tables whose rows never change by SQL. All between es_sql_begin() and es_sql_end().
 */

extern void es_guard_table(const char *table);
extern void es_guard_tables(void);
extern List *es_immutable_tables(void);

/* ---------------------------------------------------------------- location */

/*
 * Where the store of this database is: the OIDs of its tables, cached per session.
 */

#define ES_LAYOUT			1		/* layout version that this library works with */

/* A position is the node number in the high 15 bits and a count in the low 48. */
#define ES_NODE_SHIFT		48
#define ES_MAX_NODE			32767
#define ES_NODE_START(node)	((int64) (node) << ES_NODE_SHIFT)
#define ES_NODE_END(node)	(ES_NODE_START(node) | INT64CONST(0xFFFFFFFFFFFF))	/* not itself a position */

/* Columns of event_store.log, the events. */
enum EsLogColumn
{
	Anum_log_position = 1,
	Anum_log_stream,
	Anum_log_version,
	Anum_log_occurred_at,
	Anum_log_recorded_at,
	Anum_log_category,
	Anum_log_event_type,
	Anum_log_schema_version,
	Anum_log_rest,				/* distance to the last position of the same call */
	Anum_log_event_id,
	Anum_log_salt,				/* of the inner digest; erased together with data */
	Anum_log_data,
	Anum_log_metadata,
	Natts_log = Anum_log_metadata
};

/* Columns of event_store.heads, one row a stream: its lock and its truth. */
enum EsHeadColumn
{
	Anum_head_id = 1,
	Anum_head_first_position,	/* 0: no event yet */
	Anum_head_created_at,
	Anum_head_category,
	Anum_head_version,
	Anum_head_last_position,
	Anum_head_recorded_at,
	Anum_head_digest,			/* of the last event, chained */
	Anum_head_name,
	Natts_head = Anum_head_name
};

/* Columns of event_store.subscription_streams, one row for each stream in flight or quarantined. */
enum EsSubscriptionStreamColumn
{
	Anum_substream_subscription = 1,
	Anum_substream_stream,
	Anum_substream_version,
	Anum_substream_position,
	Anum_substream_attempts,
	Anum_substream_consumer,
	Anum_substream_since,
	Anum_substream_reason,
	Natts_substream = Anum_substream_reason
};

/* Columns of event_store.seals, one row for each range of the log that was closed. */
enum EsSealColumn
{
	Anum_seal_after_position = 1,
	Anum_seal_to_position,
	Anum_seal_events,
	Anum_seal_tree,
	Anum_seal_root,				/* chained */
	Anum_seal_sealed_at,
	Anum_seal_manifest,
	Natts_seal = Anum_seal_manifest
};

/* Columns of event_store.erased, one row for each event whose data and salt were erased. */
enum EsErasedColumn
{
	Anum_erased_position = 1,
	Anum_erased_digest,
	Natts_erased = Anum_erased_digest
};

typedef struct EsStore
{
	Oid			owner;			/* role that SQL on the store runs as */
	pg_uuid_t	id;				/* made up once; part of every digest */
	int			node;
	Oid			log;			/* partitioned parent */
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
	Oid			snapshots;
	Oid			snapshots_pkey;	/* (stream, fingerprint, version) */
	Oid			subscription_streams;
	Oid			subscription_streams_pkey;	/* (subscription, stream) */
	Oid			seals;
	Oid			seals_pkey;		/* (to_position) */
	Oid			erased;
	Oid			erased_pkey;	/* (position) */
	Oid			position_seq;
	Oid			stream_seq;
	Oid			row_type;		/* of the extension: the relation behind the type es_recorded_event */
	uint64		generation;		/* differs after every re-read: a key for caches beside this one */
} EsStore;

extern const EsStore *es_store(void);
extern const EsStore *es_store_now(void);
extern bool es_store_exists(void);
extern void es_store_init(void);
extern void es_store_forget(void);
extern void es_store_check_partition(Relation partition);

/* ---------------------------------------------------------------- rights */

/*
 * Rights of applications.
 */

extern Oid	es_run_as_role(const char *role);
extern void es_check_store_owner(void);
extern void es_rights_lock(void);
extern void es_grants_restore(void);

#endif							/* ES_STORE_H */
