/*
 * Closed-loop benchmark driver: a thread a client, each with its own connection, sends the next call when the last one
 * is answered. Prints one line of JSON about one slice of one variant; run.sh decides what runs when.
 *
 * Everything that is not the work itself happens outside the measured time: connecting, preparing, the first calls of
 * each session (which fill its caches and settle its plans), making the payloads, and afterwards checking that the
 * store grew by exactly the events whose calls were answered.
 *
 *     driver -v variant [-c clients] [-b batch] [-t seconds | -n events] [-S streams] [-r seed] [-d conninfo] [-o]
 *     driver -l          lists the variants
 *
 * -o: others append to the store too, so that it may grow by more.
 *
 * Where all clients append to one stream, its number is the seed: each slice has a new one.
 */
#include "bench.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* From here on a statement has its generic plan, if it gets one: plancache.c plans the first five calls afresh. */
#define WARM_UP_STATEMENTS 6

typedef struct Options
{
	const Variant *variant;
	Workload	work;
	int			clients;
	double		seconds;		/* the slice ends then, or, where it is 0, after: */
	long		events;
	uint64_t	seed;
	const char *conninfo;
	bool		others;			/* somebody else appends to the store too */
} Options;

typedef struct Client
{
	const Options *opt;
	PGconn	   *conn;
	Rng			rng;
	Params		params;
	long		calls;
	long		events;
	long		lost;			/* attempts that were repeated */
	long		calls_max;		/* 0: until the deadline */
	uint32_t   *latency_ns10;	/* a call's latency in units of 10 ns: 42 s fit */
	size_t		latency_cap;
	double		end_us;
	pthread_t	thread;
} Client;

static pthread_barrier_t ready;
static pthread_barrier_t go;
static double deadline_us;

/* ---- statements ---- */

static PGconn *
connect_as(const char *role, const Options *opt)
{
	char		conninfo[512];
	PGconn	   *conn;

	snprintf(conninfo, sizeof(conninfo), "%s user=%s dbname=%s application_name=bench",
			 opt->conninfo, role, opt->variant->store->database);
	conn = PQconnectdb(conninfo);
	if (PQstatus(conn) != CONNECTION_OK)
		die("%s", PQerrorMessage(conn));
	return conn;
}

static void
check(PGconn *conn, PGresult *res, const char *what)
{
	ExecStatusType status = PQresultStatus(res);

	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK && status != PGRES_PIPELINE_SYNC)
		die("%s: %s", what, PQerrorMessage(conn));
	PQclear(res);
}

static void
run_sql(PGconn *conn, const char *sql)
{
	check(conn, PQexec(conn, sql), sql);
}

/* One value, of one row. */
static void
query_value(PGconn *conn, const char *sql, const char *param, char *out, size_t size)
{
	PGresult   *res = PQexecParams(conn, sql, param != NULL, NULL, &param, NULL, NULL, 0);

	if (PQresultStatus(res) != PGRES_TUPLES_OK || PQntuples(res) != 1)
		die("%s: %s", sql, PQerrorMessage(conn));
	snprintf(out, size, "%s", PQgetvalue(res, 0, 0));
	PQclear(res);
}

static long long
query_number(PGconn *conn, const char *sql, const char *param)
{
	char		text[64];

	query_value(conn, sql, param, text, sizeof(text));
	return atoll(text);
}

/* ---- calls ---- */

/* libpq's view of the parameters */
typedef struct Bound
{
	const char *values[MAX_PARAMS];
	int			lengths[MAX_PARAMS];
} Bound;

static void
bind_params(Client *c, int stream, Bound *bound)
{
	Params	   *p = &c->params;

	p->count = 0;
	c->opt->variant->bind(c->opt->variant, &c->opt->work, &c->rng, stream, p);
	for (int i = 0; i < p->count; i++)
	{
		bound->values[i] = p->is_null[i] ? NULL : p->value[i].data;
		bound->lengths[i] = (int) p->value[i].len;
	}
}

static void
call_statement(Client *c, int stream)
{
	Bound		bound;

	bind_params(c, stream, &bound);
	check(c->conn, PQexecPrepared(c->conn, "call", c->params.count, bound.values, bound.lengths, c->params.format, 1),
		  c->opt->variant->name);
}

/* Returns false if another client was faster. */
static bool
attempt(Client *c, int stream)
{
	const Variant *v = c->opt->variant;
	const char *state;
	bool		lost;
	Bound		bound;
	PGresult   *res;

	bind_params(c, stream, &bound);
	res = PQexecPrepared(c->conn, "call", c->params.count, bound.values, bound.lengths, c->params.format, 1);
	state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	lost = (state != NULL && v->lost_state != NULL && strcmp(state, v->lost_state) == 0) ||
		(v->lost_is_false && PQntuples(res) == 1 && PQgetvalue(res, 0, 0)[0] == 0);
	if (lost)
		PQclear(res);
	else
		check(c->conn, res, v->name);
	return !lost;
}

static void
call_until_won(Client *c, int stream)
{
	while (!attempt(c, stream))
		c->lost++;
}

/* What a command handler does: it knows the version from what it has read, and reads again when it has lost. */
static void
call_exact(Client *c, int stream)
{
	const Variant *v = c->opt->variant;
	char		name[64];
	const char *value = name;

	stream_name(v, stream, name);
	for (;;)
	{
		PGresult   *res = PQexecPrepared(c->conn, "version", 1, &value, NULL, NULL, 0);

		if (PQresultStatus(res) != PGRES_TUPLES_OK || PQntuples(res) != 1)
			die("%s: %s", v->version_sql, PQerrorMessage(c->conn));
		c->params.number = atoll(PQgetvalue(res, 0, 0));
		PQclear(res);
		if (attempt(c, stream))
			return;
		c->lost++;
	}
}

/* The next page, as text, which is what clients take; from the first again behind the last full one. */
static void
call_read(Client *c, int stream)
{
	const Variant *v = c->opt->variant;
	Bound		bound;
	PGresult   *res;
	int			rows;

	bind_params(c, stream, &bound);
	res = PQexecPrepared(c->conn, "call", c->params.count, bound.values, bound.lengths, c->params.format, 0);
	rows = PQntuples(res);
	if (PQresultStatus(res) != PGRES_TUPLES_OK || (rows == 0 && c->params.number == 0))
		die("%s: no events: %s", v->name, PQerrorMessage(c->conn));
	c->events += rows;
	c->params.number = rows < c->opt->work.batch ? 0 : atoll(PQgetvalue(res, rows - 1, 0));
	PQclear(res);
}

static void
call_copy(Client *c, int stream)
{
	const char *name = c->opt->variant->name;
	Bound		bound;
	PGresult   *res;

	bind_params(c, stream, &bound);
	res = PQexec(c->conn, c->opt->variant->sql);
	if (PQresultStatus(res) != PGRES_COPY_IN)
		die("%s: %s", name, PQerrorMessage(c->conn));
	PQclear(res);
	if (PQputCopyData(c->conn, bound.values[0], bound.lengths[0]) != 1 || PQputCopyEnd(c->conn, NULL) != 1)
		die("%s: %s", name, PQerrorMessage(c->conn));
	check(c->conn, PQgetResult(c->conn), name);
	while ((res = PQgetResult(c->conn)) != NULL)
		check(c->conn, res, name);
}

static void
call_transaction(Client *c, int stream)
{
	run_sql(c->conn, "BEGIN");
	for (int i = 0; i < c->opt->work.batch; i++)
		call_statement(c, stream);
	run_sql(c->conn, "COMMIT");
}

/* Statements up to one sync are one transaction, without a BEGIN: the cheapest form there is. */
static void
call_pipeline(Client *c, int stream)
{
	int			batch = c->opt->work.batch;
	PGresult   *res;

	for (int i = 0; i < batch; i++)
	{
		Bound		bound;

		bind_params(c, stream, &bound);
		if (!PQsendQueryPrepared(c->conn, "call", c->params.count, bound.values, bound.lengths, c->params.format, 1))
			die("%s", PQerrorMessage(c->conn));
	}
	if (!PQpipelineSync(c->conn))
		die("%s", PQerrorMessage(c->conn));
	for (int i = 0; i < batch; i++)
	{
		check(c->conn, PQgetResult(c->conn), c->opt->variant->name);
		if ((res = PQgetResult(c->conn)) != NULL)
			die("a second result in the pipeline");
	}
	check(c->conn, PQgetResult(c->conn), "sync");
}

static void
call_once(Client *c)
{
	const Variant *v = c->opt->variant;
	bool		hot = strcmp(v->work, "hot") == 0 || strcmp(v->work, "exact") == 0;
	int			stream = hot ? (int) c->opt->seed : (int) rng_below(&c->rng, (uint64_t) c->opt->work.streams);

	switch (v->shape)
	{
		case SHAPE_STATEMENT:
			call_until_won(c, stream);
			break;
		case SHAPE_TRANSACTION:
			call_transaction(c, stream);
			break;
		case SHAPE_PIPELINE:
			call_pipeline(c, stream);
			break;
		case SHAPE_COPY:
			call_copy(c, stream);
			break;
		case SHAPE_EXACT:
			call_exact(c, stream);
			break;
		case SHAPE_READ:
			call_read(c, stream);
			return;				/* it counts what it gets */
	}
	c->events += c->opt->work.batch;
}

/* ---- clients ---- */

static void
prepare(Client *c)
{
	const Variant *v = c->opt->variant;

	if (v->shape != SHAPE_COPY)
		check(c->conn, PQprepare(c->conn, "call", v->sql, 0, NULL), v->sql);
	if (v->shape == SHAPE_EXACT)
		check(c->conn, PQprepare(c->conn, "version", v->version_sql, 0, NULL), v->version_sql);
	if (v->shape == SHAPE_PIPELINE && !PQenterPipelineMode(c->conn))
		die("%s", PQerrorMessage(c->conn));
}

static void
warm_up(Client *c)
{
	bool		many = c->opt->variant->shape == SHAPE_TRANSACTION || c->opt->variant->shape == SHAPE_PIPELINE;
	int			per_call = many ? c->opt->work.batch : 1;

	for (int done = 0; done < WARM_UP_STATEMENTS; done += per_call)
		call_once(c);
	c->events = c->lost = 0;
}

static void
record_latency(Client *c, double us)
{
	if ((size_t) c->calls == c->latency_cap)
	{
		c->latency_cap = c->latency_cap == 0 ? 1 << 14 : c->latency_cap * 2;
		c->latency_ns10 = realloc(c->latency_ns10, c->latency_cap * sizeof(uint32_t));
		if (c->latency_ns10 == NULL)
			die("out of memory");
	}
	c->latency_ns10[c->calls] = (uint32_t) (us * 100 < UINT32_MAX ? us * 100 : UINT32_MAX);
}

static bool
client_goes_on(const Client *c, double now_us)
{
	return c->calls_max > 0 ? c->calls < c->calls_max : now_us < deadline_us;
}

static void *
client_main(void *arg)
{
	Client	   *c = arg;
	double		now;

	c->conn = connect_as(c->opt->variant->store->role, c->opt);
	prepare(c);
	warm_up(c);
	pthread_barrier_wait(&ready);
	pthread_barrier_wait(&go);
	now = clock_us();
	while (client_goes_on(c, now))
	{
		double		start = now;

		call_once(c);
		now = clock_us();
		record_latency(c, now - start);
		c->calls++;
	}
	c->end_us = now;
	return NULL;
}

static Client *
clients_start(const Options *opt)
{
	Client	   *clients = calloc((size_t) opt->clients, sizeof(Client));
	long		calls = opt->events / opt->work.batch / opt->clients;

	if (clients == NULL)
		die("out of memory");
	if (opt->seconds <= 0 && calls == 0)
		die("-n is less than one call a client");
	pthread_barrier_init(&ready, NULL, (unsigned) opt->clients + 1);
	pthread_barrier_init(&go, NULL, (unsigned) opt->clients + 1);
	for (int i = 0; i < opt->clients; i++)
	{
		clients[i].opt = opt;
		clients[i].rng = rng_seed(opt->seed * 1000 + (uint64_t) i);
		clients[i].calls_max = opt->seconds > 0 ? 0 : calls;
		if (pthread_create(&clients[i].thread, NULL, client_main, &clients[i]) != 0)
			die("cannot start a thread");
	}
	pthread_barrier_wait(&ready);
	return clients;
}

/* ---- the slice ---- */

typedef struct Slice
{
	long		calls;
	long		events;
	long		lost;
	double		start_us;
	double		end_us;
	Meter		meter;
	long long	wal_bytes;
	uint32_t   *latency_ns10;	/* of all clients, sorted */
} Slice;

/* A figure taken with other settings would be compared with one that is not. */
static void
check_settings(PGconn *control)
{
	static const char *const on[] = {"fsync", "synchronous_commit", "full_page_writes"};

	for (size_t i = 0; i < sizeof(on) / sizeof(on[0]); i++)
	{
		char		value[64];

		query_value(control, "SELECT current_setting($1)", on[i], value, sizeof(value));
		if (strcmp(value, "on") != 0)
			die("%s is %s, not on", on[i], value);
	}
}

/*
 * Sets event_store.early_lock_release as the variant wants it, and waits until new sessions have it: the postmaster
 * reads its configuration when it gets to it.
 */
static void
set_early_release(const Options *opt)
{
	const char *want = opt->variant->late ? "off" : "on";
	char		sql[128];

	for (int tries = 0; tries < 2000; tries++)
	{
		PGconn	   *conn = connect_as("postgres", opt);
		char		value[64];

		run_sql(conn, "LOAD 'event_store'");
		query_value(conn, "SELECT current_setting('event_store.early_lock_release')", NULL, value, sizeof(value));
		if (tries == 0 && strcmp(value, want) != 0)
		{
			snprintf(sql, sizeof(sql), "ALTER SYSTEM SET event_store.early_lock_release = %s", want);
			run_sql(conn, sql);
			run_sql(conn, "SELECT pg_reload_conf()");
		}
		PQfinish(conn);
		if (strcmp(value, want) == 0)
			return;
		usleep(5000);
	}
	die("event_store.early_lock_release does not become %s", want);
}

/* The store must have grown by what was acknowledged: no more, no less. */
static void
check_growth(PGconn *control, const Options *opt, const char *last, long long events)
{
	const Store *store = opt->variant->store;
	long long	grown = query_number(control, store->grown_sql, last);

	if (store->exact && !opt->others ? grown != events : grown < events)
		die("%s: %lld events acknowledged, but the store grew by %lld", opt->variant->name, events, grown);
}

static int
compare_latency(const void *a, const void *b)
{
	uint32_t	x = *(const uint32_t *) a;
	uint32_t	y = *(const uint32_t *) b;

	return (x > y) - (x < y);
}

static void
collect(Slice *slice, const Client *clients, int count)
{
	long		n = 0;

	for (int i = 0; i < count; i++)
	{
		slice->calls += clients[i].calls;
		slice->events += clients[i].events;
		slice->lost += clients[i].lost;
		if (clients[i].end_us > slice->end_us)
			slice->end_us = clients[i].end_us;
	}
	if (slice->calls == 0)
		die("no call ended");
	slice->latency_ns10 = malloc((size_t) slice->calls * sizeof(uint32_t));
	if (slice->latency_ns10 == NULL)
		die("out of memory");
	for (int i = 0; i < count; i++)
	{
		if (clients[i].calls > 0)
			memcpy(slice->latency_ns10 + n, clients[i].latency_ns10, (size_t) clients[i].calls * sizeof(uint32_t));
		n += clients[i].calls;
	}
	qsort(slice->latency_ns10, (size_t) n, sizeof(uint32_t), compare_latency);
}

static Slice
run_slice(const Options *opt)
{
	Slice		slice = {0};
	PGconn	   *control = connect_as("postgres", opt);
	Client	   *clients;
	int		   *pids = malloc((size_t) opt->clients * sizeof(int));
	char		last[64];
	char		wal_start[64];
	Meter		start;

	if (pids == NULL)
		die("out of memory");
	check_settings(control);
	if (strcmp(opt->variant->side, "ours") == 0)
		set_early_release(opt);
	clients = clients_start(opt);
	for (int i = 0; i < opt->clients; i++)
		pids[i] = PQbackendPID(clients[i].conn);
	query_value(control, opt->variant->store->last_sql, NULL, last, sizeof(last));
	query_value(control, "SELECT pg_current_wal_insert_lsn()", NULL, wal_start, sizeof(wal_start));

	start = meter_read(pids, opt->clients);
	slice.start_us = clock_us();
	deadline_us = slice.start_us + opt->seconds * 1e6;
	pthread_barrier_wait(&go);
	for (int i = 0; i < opt->clients; i++)
		pthread_join(clients[i].thread, NULL);
	slice.meter = meter_since(start, meter_read(pids, opt->clients));

	slice.wal_bytes = query_number(control, "SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", wal_start);
	collect(&slice, clients, opt->clients);
	check_growth(control, opt, last, opt->variant->shape == SHAPE_READ ? 0 : slice.events);
	for (int i = 0; i < opt->clients; i++)
		PQfinish(clients[i].conn);
	PQfinish(control);
	return slice;
}

static double
percentile_us(const Slice *slice, double fraction)
{
	return slice->latency_ns10[(long) ((double) (slice->calls - 1) * fraction)] / 100.0;
}

static const char *
json_bool(bool value)
{
	return value ? "true" : "false";
}

static void
print_slice(const Options *opt, const Slice *s)
{
	const Variant *v = opt->variant;
	double		events = (double) s->events;
	double		elapsed_us = s->end_us - s->start_us;
	double		foreign_us = s->meter.machine_us - s->meter.backends_us - s->meter.others_us - s->meter.client_us;

	printf("{\"variant\":\"%s\",\"label\":\"%s\",\"side\":\"%s\",\"work\":\"%s\",",
		   v->name, v->label, v->side, v->work);
	printf("\"pipeline\":%s,\"scattered\":%s,\"late\":%s,\"clients\":%d,\"batch\":%d,",
		   json_bool(v->shape == SHAPE_PIPELINE), json_bool(v->scattered), json_bool(v->late),
		   opt->clients, opt->work.batch);
	printf("\"lost\":%.3f,", (double) s->lost / (double) s->calls);
	printf("\"events\":%.0f,\"seconds\":%.3f,\"rate\":%.1f,", events, elapsed_us / 1e6, events / elapsed_us * 1e6);
	printf("\"p50_us\":%.1f,\"p95_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f,",
		   percentile_us(s, 0.50), percentile_us(s, 0.95), percentile_us(s, 0.99), percentile_us(s, 1.0));
	printf("\"cpu_us\":%.2f,\"other_cpu_us\":%.2f,\"client_cpu_us\":%.2f,\"wal_bytes\":%.1f,",
		   s->meter.backends_us / events, s->meter.others_us / events, s->meter.client_us / events,
		   (double) s->wal_bytes / events);
	printf("\"load\":%.2f,\"foreign_percent\":%.0f}\n", load_average(), 100 * foreign_us / s->meter.clock_us);
}

/* ---- command line ---- */

static int
number_option(const char *text, char option)
{
	char	   *end;
	long		n = strtol(text, &end, 10);

	if (*end != '\0' || n < 1 || n > 1000000000)
		die("-%c wants a number from 1 to 1000000000, not \"%s\"", option, text);
	return (int) n;
}

static Options
parse_options(int argc, char **argv)
{
	Options		opt = {.work = {.batch = 1, .streams = 100000}, .clients = 1, .seconds = 2, .seed = 1, .conninfo = ""};
	int			option;

	while ((option = getopt(argc, argv, "v:c:b:t:n:S:r:d:ol")) != -1)
		switch (option)
		{
			case 'v':
				if ((opt.variant = variant_find(optarg)) == NULL)
					die("there is no variant \"%s\"; -l lists them", optarg);
				break;
			case 'c':
				opt.clients = number_option(optarg, 'c');
				break;
			case 'b':
				opt.work.batch = number_option(optarg, 'b');
				break;
			case 't':
				opt.seconds = atof(optarg);
				break;
			case 'n':
				opt.events = number_option(optarg, 'n');
				opt.seconds = 0;
				break;
			case 'S':
				opt.work.streams = number_option(optarg, 'S');
				break;
			case 'r':
				opt.seed = (uint64_t) number_option(optarg, 'r');
				break;
			case 'd':
				opt.conninfo = optarg;
				break;
			case 'o':
				opt.others = true;
				break;
			case 'l':
				variants_print();
				exit(0);
			default:
				exit(2);
		}
	if (opt.variant == NULL)
		die("-v is missing; -l lists the variants");
	return opt;
}

int
main(int argc, char **argv)
{
	Options		opt = parse_options(argc, argv);
	Slice		slice;

	payloads_make(1);			/* the same in every slice */
	slice = run_slice(&opt);
	print_slice(&opt, &slice);
	return 0;
}
