/*
 * stress.c
 *	  Writers that commit, roll back, prepare, are refused and are killed; readers that must miss
 *	  nothing of it; and the comparison of both with the log.
 *
 *     stress [-t seconds] [-w writers] [-s seed] [-1]
 *
 * -1: one call a transaction, of which no two may ever deadlock. The server is found as psql finds it
 * (PGHOST, PGDATABASE ...), the role is a superuser, the database has the extension and no store yet.
 * Exit status 0: all is well; 1: something is wrong, or the run was too tame to show anything. See
 * src/log/mark.c for what is tested here, test/t/020_stress.pl for how it is run.
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "stress.h"

#define MAX_COMPLAINTS	20

Options		options = {.seconds = 8, .writers = 10, .seed = 1};
Counters	counters;
Call	   *calls;
_Atomic int64_t call_count;
atomic_bool stop_writers;
atomic_bool stop_readers;

static _Atomic int64_t complaints;

void
complain(const char *fmt,...)
{
	char		message[1024];
	va_list		args;

	if (complaints++ >= MAX_COMPLAINTS)
		return;
	va_start(args, fmt);
	vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	message[strcspn(message, "\n")] = '\0';
	printf("WRONG: %s\n", message);
}

static void
die(const char *what, PGconn *conn)
{
	printf("stress: %s: %s\n", what, PQerrorMessage(conn));
	exit(1);
}

/* xorshift64* */
uint64_t
next_random(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return (*state * UINT64_C(2685821657736338717)) >> 32;
}

void
pause_us(unsigned us)
{
	struct timespec t = {us / 1000000, (long) (us % 1000000) * 1000};

	nanosleep(&t, NULL);
}

static void
ignore_notice(void *unused, const char *message)
{
	(void) unused;
	(void) message;
}

PGconn *
connect_server(void)
{
	PGconn	   *conn = PQconnectdb("application_name=stress");
	PGresult   *res;

	if (PQstatus(conn) != CONNECTION_OK)
		die("cannot connect", conn);
	PQsetNoticeProcessor(conn, ignore_notice, NULL);
	res = PQexec(conn, "SET event_store.partition_size = " PARTITION_SIZE "; SET deadlock_timeout = '20ms'; SET client_min_messages = warning");
	if (PQresultStatus(res) != PGRES_COMMAND_OK)
		die("cannot set up the session", conn);
	PQclear(res);
	return conn;
}

int64_t
query_int(PGconn *conn, const char *sql)
{
	PGresult   *res = PQexec(conn, sql);
	int64_t		value = 0;

	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		complain("%s: %s", sql, PQerrorMessage(conn));
	else
		value = atoll(PQgetvalue(res, 0, 0));
	PQclear(res);
	return value;
}

static void
parse_options(int argc, char **argv)
{
	int			c;

	while ((c = getopt(argc, argv, "t:w:s:1")) != -1)
	{
		if (c == 't')
			options.seconds = atof(optarg);
		else if (c == 'w')
			options.writers = atoi(optarg);
		else if (c == 's')
			options.seed = strtoull(optarg, NULL, 10);
		else if (c == '1')
			options.single = true;
		else
			exit(1);
	}
	if (options.writers < 1 || options.writers > MAX_WRITERS || options.seed == 0)
	{
		fprintf(stderr, "stress: -w is 1 to %d, -s is not 0\n", MAX_WRITERS);
		exit(1);
	}
}

static void
make_store(PGconn *conn)
{
	PGresult   *res = PQexec(conn, "SELECT es_create_store()");

	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		die("cannot make the store", conn);
	PQclear(res);
	if (query_int(conn, "SELECT count(*) FROM event_store.log") > 0)
	{
		printf("stress: the store has events already; this needs a fresh database\n");
		exit(1);
	}
}

/* A run in which too little happened shows nothing. */
static void
need(const char *what, int64_t count, int64_t at_least)
{
	printf("%-26s %lld\n", what, (long long) count);
	if (count < at_least)
		complain("precondition: %s: %lld, at least %lld are needed", what, (long long) count, (long long) at_least);
}

static void
check_preconditions(PGconn *conn)
{
	need("commits", counters.commits, 100);
	need("rollbacks", counters.rollbacks, 10);
	need("savepoints rolled back", counters.savepoints, 10);
	need("COMMIT PREPARED", counters.prepared_commits, 5);
	need("ROLLBACK PREPARED", counters.prepared_rollbacks, 5);
	need("backends terminated", counters.kills, 5);
	need("answers lost", counters.lost_answers, 1);
	need("wrong versions (YE001)", counters.conflicts, 10);
	need("serialization failures", counters.serialization_failures, 1);
	need("calls sent again", counters.resent, 10);
	need("replayed", counters.replayed, 10);
	need("advances of the mark", counters.marks, 10);
	need("partitions", query_int(conn, "SELECT count(*) FROM event_store.partitions"), 3);
	need("deadlocks", counters.deadlocks, 0);
}

int
main(int argc, char **argv)
{
	static Reader readers[] = {
		{.kind = READ_ALL, .name = "all"},
		{.kind = READ_ALL_REPEATABLE, .name = "all, repeatable read"},
		{.kind = READ_CATEGORY, .name = "category", .category = "account"},
		{.kind = READ_FILTERED, .name = "filtered", .category = "audit"},
		{.kind = READ_FEED, .name = "feed"},
		{.kind = READ_NAIVE, .name = "without the mark"},
	};
	enum
	{
		READERS = sizeof(readers) / sizeof(readers[0])
	};
	pthread_t	writer_threads[MAX_WRITERS];
	pthread_t	reader_threads[READERS];
	pthread_t	killer,
				publisher;
	PGconn	   *conn;

	setvbuf(stdout, NULL, _IOLBF, 0);
	parse_options(argc, argv);
	calls = mmap(NULL, sizeof(Call) * MAX_CALLS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (calls == MAP_FAILED)
	{
		perror("stress: mmap");
		return 1;
	}
	conn = connect_server();
	make_store(conn);

	for (int i = 0; i < READERS; i++)
		pthread_create(&reader_threads[i], NULL, read_events, &readers[i]);
	pthread_create(&publisher, NULL, publish_marks, NULL);
	for (int i = 0; i < options.writers; i++)
	{
		writers[i].number = i;
		writers[i].random = options.seed * 1000003 + i;
		pthread_create(&writer_threads[i], NULL, write_events, &writers[i]);
	}
	pthread_create(&killer, NULL, kill_writers, NULL);

	pause_us((unsigned) (options.seconds * 1e6));
	atomic_store(&stop_writers, true);
	pthread_join(killer, NULL);
	for (int i = 0; i < options.writers; i++)
		pthread_join(writer_threads[i], NULL);

	/* With nobody writing any more the mark reaches the end of the log, and the readers with it. */
	if (query_int(conn, "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()") > 0)
		complain("prepared transactions are left");
	for (int i = 0;; i++)
	{
		int64_t		last = query_int(conn, "SELECT last_value FROM event_store.position_seq");
		int64_t		mark = query_int(conn, "SELECT es_publish_mark()");

		if (mark == last)
			break;
		if (i > 100)
		{
			complain("the mark stays at %lld, the last position is %lld", (long long) mark, (long long) last);
			break;
		}
		pause_us(50000);
	}
	atomic_store(&stop_readers, true);
	for (int i = 0; i < READERS; i++)
		pthread_join(reader_threads[i], NULL);
	pthread_join(publisher, NULL);

	check_log(conn, readers, READERS);
	check_preconditions(conn);
	PQfinish(conn);
	if (complaints > MAX_COMPLAINTS)
		printf("and %lld more\n", (long long) complaints - MAX_COMPLAINTS);
	printf("stress: %s\n", complaints == 0 ? "ok" : "FAILED");
	return complaints == 0 ? 0 : 1;
}
