/*
 * stress.h
 *	  What the parts of the stress test share: the calls that were sent, and what became of each.
 */
#ifndef STRESS_H
#define STRESS_H

#include <libpq-fe.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAX_EVENTS		12		/* of one call */
#define MAX_CALLS		4000000
#define MAX_WRITERS		64
#define PARTITION_SIZE	"1000"

typedef enum CallKind
{
	CALL_APPEND,				/* es_append, one event */
	CALL_EVENTS,				/* es_append, several */
	CALL_BATCH,
	CALL_MULTI
} CallKind;

typedef enum Fate
{
	FATE_UNKNOWN,				/* the answer was lost */
	FATE_COMMITTED,
	FATE_REFUSED				/* an error, or its transaction or savepoint was rolled back */
} Fate;

/* One call: all that is needed to send it, to send it again, and to recognise its events. */
typedef struct Call
{
	CallKind	kind;
	Fate		fate;
	bool		keyed;			/* its idempotency key is made of its number */
	int			events;
	uint32_t	stream[MAX_EVENTS];
	uint32_t	type[MAX_EVENTS];
	int64_t		expected;		/* -2: any */
	uint64_t	transaction;	/* calls of one transaction share their fate, but for savepoints */
	/* the answer, where there was one; version 0: this form of call does not tell */
	bool		answered;
	int64_t		version;
	int64_t		position;
} Call;

extern Call *calls;
extern _Atomic int64_t call_count;

typedef enum Outcome
{
	DONE,
	REFUSED,
	LOST						/* the connection is gone, and with it the answer */
} Outcome;

/* What happened how often: the preconditions of a meaningful run. */
typedef struct Counters
{
	_Atomic int64_t commits,
				rollbacks,
				savepoints,
				prepared_commits,
				prepared_rollbacks,
				kills,
				lost_answers,
				conflicts,
				serialization_failures,
				deadlocks,
				resent,
				replayed,
				marks;
} Counters;

extern Counters counters;

typedef struct Options
{
	double		seconds;
	int			writers;
	uint64_t	seed;
	bool		single;			/* one call a transaction: then a deadlock is a failure */
} Options;

extern Options options;
extern atomic_bool stop_writers;
extern atomic_bool stop_readers;

/* stress.c */
extern PGconn *connect_server(void);
extern void complain(const char *fmt,...) __attribute__((format(printf, 1, 2)));
extern void pause_us(unsigned us);
extern uint64_t next_random(uint64_t *state);
extern int64_t query_int(PGconn *conn, const char *sql);

/* call.c */
extern const char *stream_name(uint32_t stream, char *buf);
extern uint32_t make_stream(unsigned category, unsigned id);
extern Outcome outcome_of(PGconn *conn, PGresult *res, char *sqlstate);
extern Outcome send_call(PGconn *conn, int64_t number, char *sqlstate, bool *replayed, int64_t *version, int64_t *position);

/* writer.c */
typedef struct Writer
{
	int			number;
	PGconn	   *conn;
	uint64_t	random;
	_Atomic int pid;
} Writer;

extern Writer writers[MAX_WRITERS];
extern void *write_events(void *writer);
extern void *kill_writers(void *unused);

/* reader.c */
typedef enum ReaderKind
{
	READ_ALL,
	READ_ALL_REPEATABLE,
	READ_CATEGORY,
	READ_FILTERED,				/* a category, going on after the mark when a page is not full */
	READ_FEED,
	READ_NAIVE					/* a cursor without the mark: must be seen to fail */
} ReaderKind;

typedef struct Reader
{
	ReaderKind	kind;
	const char *name;
	const char *category;		/* NULL: all */
	int64_t    *seen;
	size_t		count,
				space;
	int64_t		cursor;
} Reader;

extern void *read_events(void *reader);
extern void *publish_marks(void *unused);

/* check.c */
extern void check_log(PGconn *conn, Reader *readers, int reader_count);

#endif
