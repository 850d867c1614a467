/*
 * libpq.c
 *	  Calls es_append and its like through PQexecParams with untyped parameters, as most drivers built
 *	  on libpq do, and prints a line of TAP for each call. Argument: a connection string.
 */
#include <stdio.h>
#include <string.h>

#include <libpq-fe.h>

#define EVENTS "[{\"type\": \"Opened\"}, {\"type\": \"Closed\", \"data\": {\"n\": 1}}]"

static PGconn *conn;
static int	number = 0;
static int	failures = 0;

/* Runs a call; wanted is the first column's value, or an SQLSTATE, then hint is part of its hint. */
static void
test(const char *name, const char *sql, int n, const char *const *values, const Oid *types,
	 const char *wanted, const char *hint)
{
	PGresult   *res = PQexecParams(conn, sql, n, types, values, NULL, NULL, 0);
	const char *got;
	const char *got_hint = "";

	if (PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) > 0)
		got = PQgetvalue(res, 0, 0);
	else
	{
		got = PQresultErrorField(res, PG_DIAG_SQLSTATE);
		got_hint = PQresultErrorField(res, PG_DIAG_MESSAGE_HINT);
	}
	number++;
	if (got != NULL && strcmp(got, wanted) == 0 && (hint == NULL || (got_hint != NULL && strstr(got_hint, hint))))
		printf("ok %d - libpq: %s\n", number, name);
	else
	{
		failures++;
		printf("not ok %d - libpq: %s\n# got %s, wanted %s: %s\n", number, name, got ? got : "nothing", wanted,
			   PQerrorMessage(conn));
	}
	PQclear(res);
}

#define TEST(name, sql, wanted, hint, ...) \
	do { \
		const char *values[] = {__VA_ARGS__}; \
		test(name, sql, sizeof(values) / sizeof(values[0]), values, NULL, wanted, hint); \
	} while (0)

int
main(int argc, char **argv)
{
	/* text, bigint, text, jsonb; text, bigint, jsonb */
	static const Oid one_types[] = {25, 20, 25, 3802};
	static const Oid list_types[] = {25, 20, 3802};
	static const char *const one_values[] = {"pq-4", "0", "Opened", "{}"};
	static const char *const list_values[] = {"pq-5", "0", EVENTS};

	conn = PQconnectdb(argc > 1 ? argv[1] : "");
	if (PQstatus(conn) != CONNECTION_OK)
	{
		printf("Bail out! %s", PQerrorMessage(conn));
		return 1;
	}

	TEST("one event", "SELECT version FROM es_append($1, $2, $3, $4)", "1", NULL,
		 "pq-1", "0", "Opened", "{\"n\": 1}");
	TEST("one event, all parameters", "SELECT version FROM es_append($1, $2, $3, $4, $5, $6, $7, $8, $9)", "2", NULL,
		 "pq-1", "-2", "Changed", "{}", "{\"user_id\": \"ada\"}", "0190b2f0-0000-7000-8000-000000000003",
		 "2024-02-29T12:00:00Z", "2", "key");
	TEST("a wrong expected version", "SELECT es_append($1, $2, $3, $4)", "YE001", "Load the stream again",
		 "pq-1", "0", "Opened", "{}");
	TEST("several events", "SELECT version FROM es_append($1, $2, $3)", "2", NULL, "pq-2", "0", EVENTS);
	TEST("several events, cast", "SELECT version FROM es_append($1, $2, $3::jsonb)", "4", NULL, "pq-2", "2", EVENTS);
	TEST("a forgotten argument", "SELECT es_append($1, $2, $3)", "22P02", "es_append(stream, expected_version, event_type, data)",
		 "pq-2", "4", "Opened");
	TEST("es_append_multi", "SELECT count(*) FROM es_append_multi($1)", "2", NULL,
		 "[{\"stream\": \"pq-3\", \"expected_version\": \"any\", \"events\": {\"type\": \"Opened\"}}, {\"stream\": \"pq-2\", \"expected_version\": 4}]");
	TEST("es_append_batch", "SELECT events FROM es_append_batch($1, $2, $3)", "2", NULL,
		 "{pq-6,pq-7}", "{Opened,Opened}", "{\"{\\\"n\\\": 1}\",\"{}\"}");
	TEST("es_read", "SELECT version FROM es_read($1, $2, $3, $4)", "4", NULL, "pq-2", NULL, "1", "t");
	TEST("es_read_category", "SELECT count(*) FROM es_read_category($1, $2, $3, $4)", "2", NULL, "pq", "0", NULL, "{Closed}");
	TEST("es_read_all", "SELECT count(*) > 5 FROM es_read_all($1, $2, categories => $3)", "t", NULL, "0", NULL, "{pq}");
	test("one event, typed", "SELECT version FROM es_append($1, $2, $3, $4)", 4, one_values, one_types, "1", NULL);
	test("several events, typed", "SELECT version FROM es_append($1, $2, $3)", 3, list_values, list_types, "2", NULL);

	PQfinish(conn);
	printf("1..%d\n", number);
	return failures > 0;
}
