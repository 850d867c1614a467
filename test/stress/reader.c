/*
 * reader.c
 *	  Readers, who follow the log with a cursor "last position seen" and remember what they saw; and
 *	  the one who publishes the mark.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stress.h"

static const char *const query[] = {
	[READ_ALL] = "SELECT position FROM es_read_all($1, $2)",
	[READ_ALL_REPEATABLE] = "SELECT position FROM es_read_all($1, $2)",
	[READ_CATEGORY] = "SELECT position FROM es_read_category($3, $1, $2)",
	[READ_FILTERED] = "SELECT position FROM es_read_all($1, $2, categories => ARRAY[$3])",
	[READ_FEED] = "SELECT position FROM event_store.feed WHERE position > $1 ORDER BY position LIMIT $2",
	[READ_NAIVE] = "SELECT position FROM event_store.events WHERE position > $1 ORDER BY position LIMIT $2",
};

static void
remember(Reader *r, int64_t position)
{
	if (position <= r->cursor)
		complain("reader %s: position %lld after cursor %lld", r->name, (long long) position, (long long) r->cursor);
	if (r->count == r->space)
	{
		r->space = r->space ? r->space * 2 : 4096;
		r->seen = realloc(r->seen, r->space * sizeof(int64_t));
	}
	r->seen[r->count++] = position;
	r->cursor = position;
}

static void
begin_repeatable(PGconn *conn)
{
	PQclear(PQexec(conn, "BEGIN ISOLATION LEVEL REPEATABLE READ"));
}

/* Reads one page; the number of rows. */
static int
read_page(PGconn *conn, Reader *r, int max_count)
{
	char		after[24],
				limit[16];
	const char *params[3] = {after, limit, r->category};
	PGresult   *res;
	int64_t		mark = 0;
	int			rows;

	sprintf(after, "%lld", (long long) r->cursor);
	sprintf(limit, "%d", max_count);
	if (r->kind == READ_FILTERED)
		mark = query_int(conn, "SELECT es_high_water_mark()");
	if (r->kind == READ_ALL_REPEATABLE)
		begin_repeatable(conn);
	res = PQexecParams(conn, query[r->kind], r->category ? 3 : 2, NULL, params, NULL, NULL, 0);
	if (PQresultStatus(res) != PGRES_TUPLES_OK)
		complain("reader %s: %s", r->name, PQerrorMessage(conn));
	rows = PQntuples(res);
	for (int i = 0; i < rows; i++)
		remember(r, atoll(PQgetvalue(res, i, 0)));
	PQclear(res);
	if (r->kind == READ_ALL_REPEATABLE)
		PQclear(PQexec(conn, "COMMIT"));
	if (r->kind == READ_FILTERED && rows < max_count && mark > r->cursor)
		r->cursor = mark;
	return rows;
}

void *
read_events(void *arg)
{
	Reader	   *r = arg;
	PGconn	   *conn = connect_server();
	uint64_t	random = options.seed + (uint64_t) r->kind * 7919;

	for (;;)
	{
		bool		last = atomic_load(&stop_readers);	/* before the read: whatever is settled is there */
		int			max_count = next_random(&random) % 4 == 0 ? 1 + next_random(&random) % 20 : 1000;
		int			rows = read_page(conn, r, max_count);

		if (last && rows == 0)
			break;
		if (!last)
			pause_us(next_random(&random) % 4000);
	}
	PQfinish(conn);
	return NULL;
}

void *
publish_marks(void *unused)
{
	PGconn	   *conn = connect_server();
	int64_t		last = 0;

	(void) unused;
	while (!atomic_load(&stop_readers))
	{
		int64_t		mark = query_int(conn, "SELECT es_publish_mark()");

		if (mark < last)
			complain("the published mark went back from %lld to %lld", (long long) last, (long long) mark);
		counters.marks += mark > last;
		last = mark;
		pause_us(5000);
	}
	PQfinish(conn);
	return NULL;
}
