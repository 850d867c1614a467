/*
 * worker/worker.h
 *	  Background processes: starting them, what they have in common, and what other wings have them do.
 *
 * The one header of this wing for the wings above it. This wing knows no duty and no projection: the other wings
 * register what is to be done.
 */
#ifndef ES_WORKER_H
#define ES_WORKER_H

#include "datatype/timestamp.h"
#include "postmaster/bgworker.h"

#include "base/base.h"

/* ---------------------------------------------------------------- background */

/*
 * What the background workers of the extension have in common.
 */

extern void es_worker_fill(BackgroundWorker *worker, const char *function, const char *type, const void *task,
						   Size size, int restart_time);
extern void es_worker_connect(Oid database, int lock_timeout);
extern bool es_worker_start(const char *function, const char *type, const void *task, Size size,
							BackgroundWorkerHandle **handle);
extern void es_worker_begin(Oid database, const char *activity, int lock_timeout);
extern void es_worker_end(void);

/* ---------------------------------------------------------------- launcher */

/*
 * Keeps a coordinator in every database that has a store.
 */

extern void es_launcher_init(void);

/* ---------------------------------------------------------------- process */

/*
 * What the coordinator and the processes that it starts have in common.
 */

/* None of these sleeps longer than this: commands that need the database for themselves wait for them. */
#define ES_MAX_SLEEP	1000

typedef enum EsRole
{
	ES_COORDINATOR,
	ES_POOL_WORKER,
	ES_DUTY_WORKER				/* started by a duty, and ends when it has done its work */
} EsRole;

/* What a process is told, in bgw_extra. */
typedef struct EsProcessTask
{
	Oid			database;
	int64		argument;		/* the number of a pool worker; else what the duty says that has it started */
	VirtualTransactionId starter;	/* of a coordinator: the transaction that called es_start_worker() */
} EsProcessTask;

extern void es_process_only_if(bool (*wanted) (void));
extern bool es_process_has_work(void);
extern void es_process_init(EsProcessTask *task, EsRole role, int lock_timeout);
extern EsSharedDatabase *es_process_entry(void);
extern EsSharedWorker *es_process_place(void);
extern void es_process_at_stop(void (*store) (void));
ES_NORETURN extern void es_process_exit(EsEnd end);
extern void es_process_check(void);
extern bool es_process_wanted_away(void);
extern bool es_process_begin(const char *activity);
extern void es_process_end(void);
extern void es_process_abort(void);
extern void es_process_sleep(long timeout, const char *what);

extern bool es_database_locked(Oid database);
extern bool es_process_lock(int number);

/* ---------------------------------------------------------------- child */

/*
 * A process that the coordinator starts. In the coordinator only.
 */

typedef struct EsChild
{
	const char *function;		/* of this library: its entry, which begins with es_process_init() */
	const char *title;
	BackgroundWorkerHandle *handle; /* NULL: not running, or started by an earlier coordinator */
} EsChild;

extern bool es_child_running(EsChild *child);
extern bool es_child_start(EsChild *child, int64 argument);

/* ---------------------------------------------------------------- duty */

/*
 * What the coordinator does now and then. Duties are static variables. Each time when the coordinator is up, it goes
 * through those that are registered, in the order in which _PG_init() has registered them.
 *
 * Most have `run`, which works in transactions of its own (es_process_begin(), es_process_end()). It is called when
 * wanted() says so and the interval since the last time is over. An error is logged, once, and the duty tried again
 * later, so that no duty holds up another one.
 *
 * A duty whose pace is not that simple has `keep` instead, which is called each time and sees for itself to what is to
 * be done. It may have parts that are duties too, not registered, for es_duty_perform(). An error in keep() outside of
 * these ends the coordinator.
 */
typedef struct EsDuty
{
	const char *name;			/* as in "could not ..." */
	bool		(*run) (void);	/* true: there is more to do at once */
	bool		(*wanted) (void);	/* whether there may be something to do; NULL: always */
	int			interval;		/* milliseconds from the end of one run to the next, if there is no more to do */
	int			(*pace) (void); /* the same, where it is not always the same */
	bool		punctual;		/* the coordinator gets up for it when the interval is over; else it waits until it is up */

	TimestampTz (*keep) (void); /* returns when it is to be called again at the latest */
	void		(*begin) (void);	/* NULL, or called when a coordinator begins */
	void		(*hear) (void); /* NULL, or called when somebody has news: an append, or that there is work to do */

	/* The coordinator's. */
	int			number;			/* of its word in shared memory */
	bool		failing;
	bool		noted;			/* that it fails, where es_duty_on_trouble() says */
	TimestampTz failing_since;
	TimestampTz next;			/* not before */
} EsDuty;

/*
 * Writes down, in a transaction of its own, that a duty fails; without an error that it works again; without a duty that all
 * work. False: not now.
 */
typedef bool (*EsTroubleNote) (const char *duty, const ErrorData *error);

extern void es_duty_on_trouble(EsTroubleNote note);
extern void es_duty_register(EsDuty *duty);
extern bool es_duty_perform(EsDuty *duty);
extern pg_atomic_uint64 *es_duty_word(const EsDuty *duty);
extern void es_duty_tell(const EsDuty *duty, uint64 word);
extern void es_coordinator_arm(void);

/* ---------------------------------------------------------------- handout */

/*
 * The hand-out: which task has something to do, up to where, and who is at it. In shared memory (worker/handout.c).
 */

/* A task that was at work for so long (milliseconds), or waited for a lock, is slow: it leaves workers for the others. */
#define ES_SLOW_TASK	1000

typedef struct EsTaskKey
{
	Oid			database;
	uint64		hash[2];		/* of its name */
} EsTaskKey;

typedef struct EsTaskSlot EsTaskSlot;

/* A task's slot, as a process remembers it. It may have become another task's; then nothing is noted of this one. */
typedef struct EsTaskRef
{
	EsTaskSlot *slot;			/* NULL: there is none */
	EsTaskKey	key;
} EsTaskRef;

typedef struct EsTaskState
{
	uint64		definition;		/* what the positions are true of; of another definition nothing is known */
	uint64		row;			/* the row that the definition is in: es_row_version() */
	int64		base;			/* the position that is stored */
	int64		known;			/* up to here everything is done, or is nothing to be done */
	int64		upto;			/* if greater than known: there is something to do up to here */
	TimestampTz moved_at;		/* since when known is greater than base */
	TimestampTz ran_at;			/* when somebody was at it last */
	TimestampTz retry_at;		/* not before; 0: at once */
	bool		slow;
	bool		once_more;		/* whoever is at it should look again */
	int			pid;			/* who is at it; 0: nobody */
	TimestampTz since;
} EsTaskState;

extern void es_handout_init(void);
extern void es_task_find(const char *name, bool make, EsTaskRef *ref);
extern void es_task_forget(const EsTaskRef *ref);
extern void es_tasks_release_vanished(bool (*exists) (Oid database));
extern bool es_task_read(const EsTaskRef *ref, bool looking, EsTaskState *state);
extern void es_task_looked(const EsTaskRef *ref, const EsTaskState *before, int64 known, int64 upto);
extern bool es_task_take(const EsTaskRef *ref, bool slow, bool *later);
extern bool es_task_alone(void);
extern TimestampTz es_handout_made_at(void);
extern bool es_task_end(const EsTaskState *after);
extern bool es_dispatch_begin(void);
extern bool es_dispatch_end(void);

/* ---------------------------------------------------------------- pool */

/*
 * The pool of workers, and what it works on.
 */

typedef struct EsPoolWork
{
	/* How many tasks there are, each of which one worker can be at. In an open transaction. */
	int			(*tasks) (void);

	/*
	 * Does what is due, in transactions of its own. Returns whether there is more to do at once; if not, *wait says after
	 * how many milliseconds to call again at the latest, where that is known: else it is less than 0.
	 */
	bool		(*run) (long *wait);
	int			lock_timeout;	/* milliseconds */
	void		(*stop) (void); /* a worker ends, and nobody is in a hurry: stores what is only in memory */
} EsPoolWork;

extern void es_pool_register(const EsPoolWork *work);
extern void es_pool_wake(void);

#endif							/* ES_WORKER_H */
