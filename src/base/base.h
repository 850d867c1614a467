/*
 * base/base.h
 *	  What every wing uses: differences between PostgreSQL's versions, error codes, settings, arguments, running SQL, run-as,
 *	  shared memory, faults, failures.
 *
 * The one header of this wing for the wings above it.
 */
#ifndef ES_BASE_H
#define ES_BASE_H

#include "postgres.h"

#include "access/tupdesc.h"
#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "storage/spin.h"
#include "utils/array.h"
#include "utils/elog.h"

#include "base/compat.h"

/* ---------------------------------------------------------------- argument */

/* Reading the arguments of SQL functions, and finding the type of their result: what several functions need. */

/* As a number of rows: all of them. */
#define ES_NO_LIMIT		(-1)

ES_NORETURN extern void es_null_argument(const char *name);
extern text *es_text_argument(FunctionCallInfo fcinfo, int n, const char *name);
extern int64 es_count_argument(FunctionCallInfo fcinfo, int n);
extern ArrayType *es_array_argument(FunctionCallInfo fcinfo, int n, const char *name);
ES_NORETURN extern void es_null_element(const char *name, int index);
extern TupleDesc es_result_type(FunctionCallInfo fcinfo);

/* ---------------------------------------------------------------- errors */

/*
 * Our SQLSTATEs. Their class is YE: the SQL standard leaves the classes I to Z to implementations. The table in
 * docs/reference.md lists the same codes; "make lint" compares the two.
 */

#define ES_WRONG_VERSION		MAKE_SQLSTATE('Y', 'E', '0', '0', '1')
#define ES_KEY_REUSED			MAKE_SQLSTATE('Y', 'E', '0', '0', '2')
#define ES_NOT_FINAL			MAKE_SQLSTATE('Y', 'E', '0', '0', '4')
#define ES_IMMUTABLE			MAKE_SQLSTATE('Y', 'E', '0', '0', '5')
#define ES_FOLD_FAILED			MAKE_SQLSTATE('Y', 'E', '0', '0', '6')
#define ES_UPCAST_FAILED		MAKE_SQLSTATE('Y', 'E', '0', '0', '7')
#define ES_UNKNOWN				MAKE_SQLSTATE('Y', 'E', '0', '0', '8')
#define ES_EVENT_REJECTED		MAKE_SQLSTATE('Y', 'E', '0', '0', '9')
#define ES_LEASE_LOST			MAKE_SQLSTATE('Y', 'E', '0', '1', '0')

/* The longest name of a stream or an event type, and the longest idempotency key, in bytes. */
#define ES_MAX_NAME				512

/* ---------------------------------------------------------------- failure */

/* Errors of stored text (SQL that users have registered): giving them a code of ours and a place, or catching them. */

extern bool es_failure_is_ours(void);
ES_NORETURN extern void es_failure_rethrow(int sqlerrcode, const char *detail);

extern ErrorData *es_catch(void (*body) (void *arg), void *arg);
extern ErrorData *es_catch_and_roll_back(void (*body) (void *arg), void *arg);
extern void es_failure_in_worker(void);
extern void es_cancel_forget(void);
extern bool es_is_cancel(int code);
extern char *es_failure_of(void (*body) (void *arg), void *arg, MemoryContext messages);

/* ---------------------------------------------------------------- fault */

/*
 * Points at which a test makes a process fail. They exist only in a library that was built with ES_FAULTS; in an
 * ordinary build ES_FAULT() is nothing.
 */

#ifdef ES_FAULTS

/* Each point, and whether the transaction can still be rolled back there (else a fault cannot raise an error). */
#define ES_FAULT_POINTS(POINT) \
	POINT(after_lock, true)			/* of an append: the streams are locked */ \
	POINT(after_allocation, true)	/* the positions are allocated */ \
	POINT(after_insert, true)		/* the events are in the log, the heads are not up to date */ \
	POINT(before_commit, true)		/* in the callback that runs before the commit of a transaction that has appended */ \
	POINT(after_commit, false)		/* its rows are visible, its locks are still held */ \
	POINT(before_flush, false)		/* early lock release: the locks are given back, the commit is not flushed */ \
	POINT(before_checkpoint, true)	/* a batch of a projection is applied, its checkpoint is not stored */ \
	POINT(after_checkpoint, true)	/* the checkpoint is stored, and not committed */ \
	POINT(publish, true)			/* the new mark is in its row, and not committed */ \
	POINT(seal, true)				/* a seal is stored, and not committed */ \
	POINT(snapshot, true)			/* a snapshot is stored, and not committed; older ones are not thinned out yet */ \
	POINT(before_switch, true)		/* a rebuild's differences are applied, its new definition is not */ \
	POINT(partition, true)			/* a partition is made and attached, and not committed */ \
	POINT(ack, true)				/* an acknowledgement is written, and not committed */

#define ES_FAULT_MEMBER(name, may_throw) ES_FAULT_##name,
typedef enum EsFaultPoint
{
	ES_FAULT_POINTS(ES_FAULT_MEMBER)
	ES_FAULT_COUNT
} EsFaultPoint;

extern void es_fault_init(void);
extern void es_fault(EsFaultPoint point);

#define ES_FAULT(point) es_fault(ES_FAULT_##point)

#else

#define es_fault_init() ((void) 0)
#define ES_FAULT(point) ((void) 0)

#endif							/* ES_FAULTS */

/* ---------------------------------------------------------------- lock */

/*
 * Our advisory locks, by the fourth field of their tags. The advisory locks that users take have 1 or 2 there, so they
 * never meet ours.
 */

#define ES_LOCK_PARTITION	0xE5	/* whoever makes a partition of the log */
#define ES_LOCK_BATCH_KEY	0xE6	/* an append with the key of a batch: the second and third field are a hash of the key */
/*
 * Each background process that stays holds one. The third field is 0 for the coordinator, so there is only one in a
 * database, and number + 1 for a pool worker. The view event_store.status reads these locks.
 */
#define ES_LOCK_PROCESS		0xE7
#define ES_LOCK_SEAL		0xE8	/* whoever seals the log */
#define ES_LOCK_RIGHTS		0xE9	/* whoever changes rights, or makes what depends on the library */
#define ES_LOCK_STREAM_NAME	0xEA	/* a stream that does not exist: the second and third field are a hash of its name */
#define ES_LOCK_MAKER		0xEB	/* whoever has started a maker of what the second field is the table of (log/maker.c) */
#define ES_LOCK_CONSUMERS	0xEC	/* whoever makes a projection or subscription, and decides by what others are there */
#define ES_LOCK_HOLDING		0xED	/* whoever holds streams without having appended; nobody waits for it (log/hold.c) */

/* ---------------------------------------------------------------- run as */

/* Stored text (SQL that users have registered) runs as the role that registered it, and with pinned settings. */

typedef struct EsRunAs
{
	Oid			saved_user;
	int			saved_context;
	int			guc_level;
	const char *saved_write;	/* the table of the store that a statement of ours was changing */
} EsRunAs;

/*
 * Bits of the security context, in addition to PostgreSQL's own three. PostgreSQL saves and restores the context as a whole
 * with every subtransaction, hands it to parallel workers, and keeps bits that it does not know when functions change the
 * user. ES_NO_TEMPORARY goes with every change of role of ours; the others with stored text.
 */
#define ES_NO_TEMPORARY			0x10000000	/* temporary objects are refused: base/temporary.c */
#define ES_RUNNING_STORED_TEXT	0x20000000
#define ES_MAY_NOT_APPEND		0x40000000

/* What a run may do, and does. */
#define ES_RUN_APPENDS		0x01	/* a handler with side effects */
#define ES_RUN_INSIDE		0x04	/* within a level of es_settings_open() */
#define ES_RUN_PARSES		0x02	/* only parses: the caller calls es_refuse_temporary_types() before a function of users runs */

extern char *es_registered_path(void);
extern void es_run_as_in_worker(void);
extern void es_switch_role(Oid role, int bits, Oid *saved_user, int *saved_context);
extern void es_run_as_begin(EsRunAs *run_as, Oid role, const char *search_path, int flags);
extern void es_run_as_end(EsRunAs *run_as);
extern bool es_in_stored_text(void);
extern void es_refuse_in_stored_text(const char *function);
extern int	es_settings_open(const char *search_path);
extern void es_settings_close(int level);

/* ---------------------------------------------------------------- script */

/*
 * SQL scripts that are part of the library: the files sql/<wing>/<name>.sql.
 */

/* What stands for :name in a script. Made by the functions below only, which quote. */
typedef struct EsScriptValue
{
	const char *name;
	const char *sql;
} EsScriptValue;

/* A statement of a script, with its values in it. */
typedef struct EsScriptStatement
{
	char	   *text;			/* without the comments before it and the semicolon after it */
	Node	   *tree;			/* as the raw parser gives it */
} EsScriptStatement;

/* A script's text; the array is made from the files by the Makefile. */
typedef struct EsScriptText
{
	const char *name;			/* <wing>/<name> */
	const char *text;
} EsScriptText;

extern const EsScriptText es_script_texts[];

extern EsScriptValue es_script_integer(const char *name, int64 value);
extern EsScriptValue es_script_identifier(const char *name, const char *value);
extern EsScriptValue es_script_literal(const char *name, const char *value);
extern List *es_script_parse(const char *name, const EsScriptValue *values, int count);
extern uint64 es_script_run_parsed(List *statements);
extern uint64 es_script_run(const char *name, const EsScriptValue *values, int count);

/* ---------------------------------------------------------------- settings */

/* The settings event_store.*; docs/reference.md says what they do. */

extern int	es_as_of_wait;				/* milliseconds */
extern bool es_assume_schema_version_1;
extern bool es_bare_uuid_streams;
extern int	es_crash_delay;			/* seconds */
extern bool es_early_lock_release;
extern int	es_idempotency_retention;	/* seconds; 0: for ever */
extern int	es_heartbeat;			/* seconds; 0: none */
extern int	es_idle_append_timeout;		/* milliseconds; 0: for ever */
extern char *es_import_key;				/* idempotency key of imports; empty: none */
extern int	es_mark_interval;		/* milliseconds */
extern int	es_mark_wait;				/* milliseconds */
extern int	es_max_batch;			/* events */
extern int	es_max_categories;
extern int	es_max_event_types;
extern int	es_max_workers;
extern char *es_metadata;				/* jsonb text merged under each append's metadata */
extern bool es_notify;
extern int	es_partition_size;			/* positions */
extern int	es_poll_interval;		/* milliseconds */
extern int	es_seal_interval;		/* seconds; 0: never */
extern int	es_seal_size;			/* events */
extern int	es_stamp_fields;		/* ES_STAMP_... */

/* What the setting event_store.stamp can name. */
#define ES_STAMP_SESSION_USER		0x01
#define ES_STAMP_APPLICATION_NAME	0x02
#define ES_STAMP_CLIENT_ADDR		0x04

extern void es_settings_init(void);

/* ---------------------------------------------------------------- shared */

/* Shared memory: what the sessions and background processes of one database tell each other. */

/* Databases that have an entry at once. */
#define ES_SHARED_DATABASES		64

/* Upper bound of event_store.max_workers. */
#define ES_SHARED_WORKERS		16

/* Duties of the coordinator, at most. */
#define ES_SHARED_WORDS			16

/* Places for hints about rows that are updated all the time (log/newest.c); a power of two. */
#define ES_SHARED_HINTS			32768

/* A background process of ours. Spurious wake-ups are harmless, so the latch may be another's by now. */
typedef struct EsSharedWorker
{
	int			pid;			/* 0: none */
	Latch	   *latch;
	pg_atomic_uint32 asleep;	/* whoever clears it sets the latch */
	TimestampTz started_at;
	TimestampTz busy_since;		/* of a pool worker: it is at a task since then; 0: it is not */
	bool		slow;			/* and the task is a slow one: worker/handout.c */
} EsSharedWorker;

/* Why the last coordinator of a database ended. */
typedef enum EsEnd
{
	ES_END_UNKNOWN,				/* it is running, or it failed */
	ES_END_ABSENT,				/* there is no extension, no store, or no database to work for */
	ES_END_YIELDED,				/* to a command that needs the database for itself */
	ES_END_CHANGED,				/* the extension was updated, or dropped and created again */
	ES_END_STOPPED,				/* es_stop_worker() */
	ES_END_TERMINATED			/* somebody sent it SIGTERM */
} EsEnd;

typedef struct EsSharedDatabase
{
	Oid			database;		/* InvalidOid: the entry is free */
	slock_t		mutex;			/* of pids and latches */
	bool		stopped;		/* es_stop_worker(): to be left alone */
	bool		asked;			/* the launcher should look here, whatever it knows */
	bool		no_slot;		/* the launcher found no free slot for the coordinator */
	bool		no_worker_slot; /* the coordinator found none for a worker of the pool */
	bool		ready;			/* the coordinator has found a store */
	EsEnd		end;
	VirtualTransactionId starter;	/* the coordinator waits for its end before it looks for a store */
	uint32		starts;			/* of coordinators */
	int			dispatcher;		/* pid of the worker that looks for work just now; 0: none */
	bool		dispatch_again; /* another one came meanwhile */
	int			alone;			/* pid of the worker that is to be the only one at work; 0: none */
	int			workers_wanted; /* a pool worker with a number from here on has to go */
	EsSharedWorker coordinator;
	EsSharedWorker workers[ES_SHARED_WORKERS];
	pg_atomic_uint32 waiting[2];	/* sessions that wait for each kind of news */
	pg_atomic_uint64 words[ES_SHARED_WORDS];	/* one for each duty of the coordinator: es_duty_word() */
	Oid			raised_for;		/* es_shared_raise(): whose number it is */
	pg_atomic_uint64 raised;
	ConditionVariable appended; /* an append was committed */
	ConditionVariable progress; /* a projection was committed, or the mark was published */
} EsSharedDatabase;

typedef enum EsNews
{
	ES_NEWS_APPENDED,
	ES_NEWS_PROGRESS
} EsNews;

/* An area of shared memory: attach() is called with it when the server starts and after each crash, then fresh, of zeroes. */
typedef struct EsSharedArea
{
	const char *name;
	Size		size;
	void		(*attach) (void *memory, bool fresh);
} EsSharedArea;

extern void es_shared_ask_for(const EsSharedArea *area);
extern void es_shared_init(void);
extern EsSharedDatabase *es_shared(void);
extern bool es_shared_available(void);
extern bool es_shared_note_early_release(void);
extern bool es_shared_early_release(void);
extern pg_atomic_uint64 *es_shared_hint(uint64 hash);
extern void es_shared_raise(Oid object, int64 number);
extern int64 es_shared_raised(Oid object);
extern bool es_shared_launcher_running(void);
extern bool es_shared_set_launcher(void);
extern void es_shared_launcher_info(int *pid, TimestampTz *started_at);
extern void es_shared_wake_launcher(void);
extern EsSharedDatabase *es_shared_entry(Oid database);
extern EsSharedDatabase *es_shared_find(Oid database);
extern void es_shared_release_vanished(bool (*exists) (Oid database));
extern bool es_shared_release_idle(void);

extern bool es_shared_attach(EsSharedDatabase *entry, EsSharedWorker *worker);
extern void es_shared_detach(EsSharedDatabase *entry, EsSharedWorker *worker);
extern bool es_shared_wake(EsSharedWorker *worker);
extern void es_shared_wake_one(EsSharedDatabase *entry, const EsSharedWorker *except);
extern void es_shared_kick(EsSharedDatabase *entry, EsSharedWorker *worker);
extern bool es_shared_coordinator_running(void);
extern void es_shared_store_made(void);
extern void es_shared_announce(EsNews news);
extern void es_shared_wake_coordinator(void);
extern void es_shared_wake_workers(void);

extern bool es_shared_watched(void);
extern void es_shared_wait_begin(EsNews news);
extern bool es_shared_wait(EsNews news, long timeout, const char *what);
extern void es_shared_wait_end(EsNews news);
extern void es_shared_end_of_transaction(void);

/* ---------------------------------------------------------------- temporary */

/* Temporary objects, which stored text must not use. */

extern void es_refuse_temporary(Node *node);
extern void es_refuse_temporary_types(Oid role);
extern void es_temporary_init(void);

/* ---------------------------------------------------------------- sql */

/* The one way to run SQL from C: with a pinned search_path, as a chosen role. */

/* The schema that holds the store. */
#define ES_SCHEMA			"event_store"

/* The search_path of our own statements. */
#define ES_OWN_SEARCH_PATH	"pg_catalog, pg_temp"

typedef struct EsSql
{
	Oid			saved_user;
	int			saved_context;
	int			guc_level;
	int			saved_unheard;	/* the same of whoever began before */
} EsSql;

extern void es_pin_setting(const char *name, const char *value);
extern void es_sql_begin(EsSql *sql, Oid role);
extern void es_sql_begin_unheard(EsSql *sql, Oid role);
extern void es_sql_end(EsSql *sql);
extern char *es_vpsprintf(const char *fmt, va_list args) pg_attribute_printf(1, 0);
extern uint64 es_sql_run(const char *statement);
extern uint64 es_sql_run_latest(const char *statement);
extern uint64 es_sql_runf(const char *fmt,...) pg_attribute_printf(1, 2);
extern uint64 es_sql_run_args(const char *statement, int nargs, Oid *types, Datum *values,
							  const char *nulls);
extern uint64 es_sql_run_latest_args(const char *statement, int nargs, Oid *types, Datum *values);
extern uint64 es_sql_run_kept(SPIPlanPtr *plan, const char *statement, int nargs, Oid *types,
							  Datum *values, const char *nulls);
extern uint64 es_sql_write_args(const char *table, const char *statement, int nargs, Oid *types, Datum *values,
								const char *nulls);
extern uint64 es_sql_write_kept(const char *table, SPIPlanPtr *plan, const char *statement, int nargs, Oid *types,
								Datum *values, const char *nulls);
extern uint64 es_sql_write_plan(const char *table, SPIPlanPtr plan, const char *statement, Datum *values,
								const char *nulls);
extern Datum es_sql_value(HeapTuple row, TupleDesc desc, int column, Oid type, bool *isnull);
extern Datum es_sql_first(int column, Oid type, bool *isnull);
extern char *es_sql_text(HeapTuple row, TupleDesc desc, int column);
extern bool es_sql_is_writing(const char *table);
extern void es_sql_check_written(const char *table, uint64 rows, uint64 expected);
extern const char *es_sql_write_off(void);
extern void es_sql_write_on(const char *table);
extern Oid	es_extension_schema(void);

#endif							/* ES_BASE_H */
