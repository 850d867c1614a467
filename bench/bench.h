/*
 * What the parts of the benchmark driver share.
 *
 * A *variant* is one way to write events to one store, or to read them. A *call* is what the client waits for: one
 * statement, one transaction of several, or attempts until one succeeds; its latency is what is recorded. A call writes
 * *batch* events, or reads as many.
 */
#ifndef BENCH_H
#define BENCH_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- buf.c: growing byte strings, PostgreSQL's binary formats, random numbers ---- */

typedef struct Buf
{
	char	   *data;
	size_t		len;
	size_t		cap;
} Buf;

void		buf_reset(Buf *b);
void		buf_bytes(Buf *b, const void *bytes, size_t n);
void		buf_printf(Buf *b, const char *format,...) __attribute__((format(printf, 2, 3)));
void		buf_array_begin(Buf *b, uint32_t element_type, int count);
void		buf_array_item(Buf *b, const void *bytes, size_t n);
void		buf_array_jsonb(Buf *b, const char *json, size_t n);

void		die(const char *format,...) __attribute__((noreturn, format(printf, 1, 2)));

typedef struct Rng
{
	uint64_t	state;
} Rng;

Rng			rng_seed(uint64_t seed);
uint64_t	rng_next(Rng *r);
uint64_t	rng_below(Rng *r, uint64_t bound);
void		rng_uuid_v7(Rng *r, char out[37]);

/* ---- payload.c: the events themselves ---- */

typedef struct Payload
{
	const char *type;
	Buf			data;
	Buf			metadata;
} Payload;

#define PAYLOADS 1024

void		payloads_make(uint64_t seed);
const Payload *payload_any(Rng *r);

/* ---- variants.c: the ways to write and read ---- */

#define MAX_PARAMS 8

typedef struct Params
{
	long long	number;			/* for bind: the version to expect, or the position read up to */
	int			count;
	Buf			value[MAX_PARAMS];
	int			format[MAX_PARAMS]; /* 0 text, 1 binary */
	bool		is_null[MAX_PARAMS];
} Params;

typedef struct Workload
{
	int			batch;
	int			streams;
} Workload;

/* How a call's events reach the server. */
typedef enum Shape
{
	SHAPE_STATEMENT,			/* one statement takes them all */
	SHAPE_TRANSACTION,			/* BEGIN, a statement an event, COMMIT, each awaited */
	SHAPE_PIPELINE,				/* a statement an event, one round trip, one (implicit) transaction */
	SHAPE_COPY,					/* COPY FROM STDIN; the only parameter is its data */
	SHAPE_EXACT,				/* the stream's version is read, then an event appended that expects it */
	SHAPE_READ					/* a page of events behind a position, which is the first column */
} Shape;

/* How to ask a store what has been written; the driver checks every slice with it. */
typedef struct Store
{
	const char *database;
	const char *role;			/* whom the clients connect as: an application's role, which may append and no more */
	const char *last_sql;		/* -> bigint, where the log ends now */
	const char *grown_sql;		/* $1 bigint: events behind that place */
	bool		exact;			/* nobody else adds to what grown_sql counts */
} Store;

typedef struct Variant
{
	const char *name;
	const char *label;
	const char *side;			/* "ours", "theirs", or "limit": what the machine allows */
	const char *work;			/* what is compared with each other: append, hot, exact, read, read-type, read-rare */
	const Store *store;
	Shape		shape;
	bool		scattered;		/* a random stream an event; else one random stream a call */
	bool		late;			/* with event_store.early_lock_release off */
	const char *stream_format;	/* printf format of a stream's name, given its number */
	const char *sql;
	const char *version_sql;	/* SHAPE_EXACT: $1 is the stream */
	/* An attempt that lost against another client's: it ends with this SQLSTATE, or returns false; it is repeated. */
	const char *lost_state;
	bool		lost_is_false;
	/* Sets the parameters of one statement: the whole batch, or one event (SHAPE_TRANSACTION, SHAPE_PIPELINE). */
	void		(*bind) (const struct Variant *v, const Workload *w, Rng *r, int stream, Params *p);
} Variant;

void		stream_name(const Variant *v, int stream, char out[64]);
const Variant *variant_find(const char *name);
void		variants_print(void);

/* ---- meters.c: what the server and the machine spent ---- */

typedef struct Meter
{
	double		backends_us;	/* CPU of the server processes of our connections */
	double		others_us;		/* CPU of the server's other processes: WAL writer, autovacuum... */
	double		client_us;		/* CPU of this driver */
	double		machine_us;		/* CPU of everything that runs on the machine */
	double		clock_us;
} Meter;

Meter		meter_read(const int *backend_pids, int count);
Meter		meter_since(Meter start, Meter end);
double		clock_us(void);
double		load_average(void);

#endif
