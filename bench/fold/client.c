/*
 * The client of fold.sh: runs every variant at every size for a slice of time, in a new random order each round, over
 * one connection a variant, and prints a line of JSON about each slice.
 *
 *     client -d conninfo [-n rounds] [-t seconds a slice] [-r seed]
 *
 * A call is one prepared statement; its rows are fetched and counted. CPU time of the backend and of this process is
 * what the kernel says in nanoseconds; it is read while both sleep.
 */
#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The events of a stream with the columns that the folds use, in order, read as well as plain SQL can. */
#define EVENTS(columns) \
	"SELECT " columns " FROM event_store.log l JOIN event_store.event_types t ON t.id = l.event_type" \
	" WHERE l.stream = (SELECT id FROM event_store.heads WHERE name = $1)"

typedef struct Variant
{
	const char *name;
	const char *stream;			/* printf format, given the size or, where it has none, a random number below STREAMS */
	bool		by_size;
	const char *sql;
} Variant;

#define STREAMS 1000

static const Variant variants[] = {
	{"es_load, rules", "rules-%d", true, "SELECT * FROM es_load($1)"},
	{"es_load, SQL expression", "sql-%d", true, "SELECT * FROM es_load($1)"},
	{"es_load, PL/pgSQL function", "plpgsql-%d", true, "SELECT * FROM es_load($1)"},
	{"PL/pgSQL loop, state in variables", "rules-%d", true, "SELECT bench.loop_variables($1)"},
	{"PL/pgSQL loop, state in jsonb", "rules-%d", true, "SELECT bench.loop_jsonb($1)"},
	{"SQL aggregates", "rules-%d", true,
	EVENTS("sum(CASE t.name WHEN 'Deposited' THEN (l.data->'amount')::numeric WHEN 'Withdrawn' THEN -(l.data->'amount')::numeric END),"
		   " count(*) FILTER (WHERE t.name = 'Deposited'), count(*) FILTER (WHERE t.name = 'Withdrawn'), max(l.data->>'owner')")},
	{"SQL aggregate of the PL/pgSQL function", "rules-%d", true,
	EVENTS("bench.account(t.name, l.data ORDER BY l.version)")},
	{"bare scan", "rules-%d", true,
	"SELECT count(event_type), count(data) FROM event_store.log WHERE stream = (SELECT id FROM event_store.heads WHERE name = $1)"},
	{"fetched by a C client, counted", "rules-%d", true, EVENTS("t.name, l.data") " ORDER BY l.version"},
	{"es_load, snapshot of the last event", "snapshot-%d", false, "SELECT * FROM es_load($1)"},
	{"es_load, rules, 50 events after the snapshot", "tail_rules-%d", false, "SELECT * FROM es_load($1)"},
	{"es_load, SQL expression, 50 events after the snapshot", "tail_sql-%d", false, "SELECT * FROM es_load($1)"},
	{"row by primary key", "snapshot-%d", false, "SELECT state, version, position, recorded_at FROM bench.states WHERE stream = $1"},
};

#define VARIANTS ((int) (sizeof(variants) / sizeof(variants[0])))

static const int sizes[] = {100, 1000, 10000, 100000};

#define SIZES ((int) (sizeof(sizes) / sizeof(sizes[0])))

typedef struct Cell
{
	int			variant;
	int			size;
} Cell;

static uint64_t random_state;

static uint32_t
random_below(uint32_t bound)
{
	random_state = random_state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t) ((random_state >> 33) % bound);
}

static void
die(const char *what, const char *detail)
{
	fprintf(stderr, "%s: %s\n", what, detail);
	exit(1);
}

static double
now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double) t.tv_sec * 1e9 + (double) t.tv_nsec;
}

static double
backend_ns(PGconn *conn)
{
	char		path[64];
	FILE	   *f;
	unsigned long long ns;

	usleep(1000);				/* it answers before it sleeps */
	snprintf(path, sizeof(path), "/proc/%d/schedstat", PQbackendPID(conn));
	f = fopen(path, "r");
	if (f == NULL || fscanf(f, "%llu", &ns) != 1)
		die("cannot read the backend's CPU time", path);
	fclose(f);
	return (double) ns;
}

static PGconn *
connect_and_prepare(const char *conninfo, const Variant *variant)
{
	PGconn	   *conn = PQconnectdb(conninfo);
	PGresult   *result;

	if (PQstatus(conn) != CONNECTION_OK)
		die("cannot connect", PQerrorMessage(conn));
	result = PQprepare(conn, "v", variant->sql, 0, NULL);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		die(variant->name, PQerrorMessage(conn));
	PQclear(result);
	return conn;
}

static long
call(PGconn *conn, const Variant *variant, int size)
{
	char		stream[64];
	const char *values[1] = {stream};
	PGresult   *result;
	long		rows;

	snprintf(stream, sizeof(stream), variant->stream, variant->by_size ? size : (int) random_below(STREAMS));
	result = PQexecPrepared(conn, "v", 1, values, NULL, NULL, 0);
	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		die(variant->name, PQerrorMessage(conn));
	rows = PQntuples(result);
	if (rows == 0)
		die(variant->name, "no row");
	PQclear(result);
	return rows;
}

static void
slice(PGconn *conn, const Variant *variant, int size, int round, double seconds)
{
	double		start,
				cpu,
				own,
				end;
	long		calls = 0;

	cpu = backend_ns(conn);
	own = now_ns(CLOCK_PROCESS_CPUTIME_ID);
	start = now_ns(CLOCK_MONOTONIC);
	do
	{
		(void) call(conn, variant, size);
		calls++;
		end = now_ns(CLOCK_MONOTONIC);
	} while (end - start < seconds * 1e9);
	own = now_ns(CLOCK_PROCESS_CPUTIME_ID) - own;
	cpu = backend_ns(conn) - cpu;
	printf("{\"variant\": \"%s\", \"events\": %d, \"round\": %d, \"calls\": %ld, \"wall_ns\": %.0f, \"backend_ns\": %.0f, \"client_ns\": %.0f}\n",
		   variant->name, variant->by_size ? size : 0, round, calls, end - start, cpu, own);
}

int
main(int argc, char **argv)
{
	const char *conninfo = "";
	int			rounds = 7;
	double		seconds = 0.3;
	PGconn	   *conns[VARIANTS];
	Cell		cells[VARIANTS * SIZES];
	int			count = 0;
	int			opt;

	random_state = 1;
	while ((opt = getopt(argc, argv, "d:n:t:r:")) != -1)
	{
		switch (opt)
		{
			case 'd':
				conninfo = optarg;
				break;
			case 'n':
				rounds = atoi(optarg);
				break;
			case 't':
				seconds = atof(optarg);
				break;
			case 'r':
				random_state = strtoull(optarg, NULL, 10);
				break;
			default:
				die("usage", "client -d conninfo [-n rounds] [-t seconds] [-r seed]");
		}
	}
	for (int v = 0; v < VARIANTS; v++)
	{
		conns[v] = connect_and_prepare(conninfo, &variants[v]);
		for (int s = 0; s < (variants[v].by_size ? SIZES : 1); s++)
		{
			cells[count].variant = v;
			cells[count++].size = sizes[s];
			/* Plans and caches settle: plancache.c plans the first five calls afresh. */
			for (int i = 0; i < 6; i++)
				(void) call(conns[v], &variants[v], sizes[s]);
		}
	}
	for (int round = 1; round <= rounds; round++)
	{
		for (int i = count - 1; i > 0; i--)
		{
			int			j = (int) random_below((uint32_t) i + 1);
			Cell		cell = cells[i];

			cells[i] = cells[j];
			cells[j] = cell;
		}
		for (int i = 0; i < count; i++)
			slice(conns[cells[i].variant], &variants[cells[i].variant], cells[i].size, round, seconds);
	}
	for (int v = 0; v < VARIANTS; v++)
		PQfinish(conns[v]);
	return 0;
}
