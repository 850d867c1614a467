/*
 * check.c
 *	  Afterwards: what is in the log against what the writers were told and what the readers saw.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stress.h"

typedef struct Event
{
	int64_t		position,
				stream,			/* the head's id */
				version,
				recorded_at,
				rest,
				call;
	int			n;
	int			category;		/* as Reader.category: index into categories */
	bool		right_stream;
} Event;

static Event *events;
static size_t event_count;

static const char *const categories[] = {"account", "order", "audit"};

static void
load_events(PGconn *conn)
{
	size_t		space = 0;
	PGresult   *res;

	PQclear(PQexec(conn, "BEGIN"));
	res = PQexec(conn, "DECLARE c CURSOR FOR SELECT l.position, l.stream, l.version,"
				 " (extract(epoch FROM l.recorded_at) * 1000000)::bigint, l.rest, data->>'call', data->>'n', h.name"
				 " FROM event_store.log l JOIN event_store.heads h ON h.id = l.stream ORDER BY l.position");
	if (PQresultStatus(res) != PGRES_COMMAND_OK)
		complain("cannot read the log: %s", PQerrorMessage(conn));
	PQclear(res);
	for (;;)
	{
		int			rows;

		res = PQexec(conn, "FETCH 10000 FROM c");
		if (PQresultStatus(res) != PGRES_TUPLES_OK)
			complain("cannot read the log: %s", PQerrorMessage(conn));
		rows = PQntuples(res);
		if (event_count + rows > space)
		{
			space = (event_count + rows) * 2;
			events = realloc(events, space * sizeof(Event));
		}
		for (int i = 0; i < rows; i++)
		{
			Event	   *e = &events[event_count++];
			const char *name = PQgetvalue(res, i, 7);
			char		expected[64];

			e->position = atoll(PQgetvalue(res, i, 0));
			e->stream = atoll(PQgetvalue(res, i, 1));
			e->version = atoll(PQgetvalue(res, i, 2));
			e->recorded_at = atoll(PQgetvalue(res, i, 3));
			e->rest = atoll(PQgetvalue(res, i, 4));
			e->call = atoll(PQgetvalue(res, i, 5));
			e->n = atoi(PQgetvalue(res, i, 6));
			e->category = -1;
			for (int c = 0; c < (int) (sizeof(categories) / sizeof(categories[0])); c++)
				if (strncmp(name, categories[c], strlen(categories[c])) == 0 && name[strlen(categories[c])] == '-')
					e->category = c;
			e->right_stream = e->call >= 0 && e->call < call_count && e->n >= 0 && e->n < calls[e->call].events &&
				strcmp(stream_name(calls[e->call].stream[e->n], expected), name) == 0;
		}
		PQclear(res);
		if (rows == 0)
			break;
	}
	PQclear(PQexec(conn, "COMMIT"));
}

static int
by_call(const void *a, const void *b)
{
	const Event *x = *(Event *const *) a;
	const Event *y = *(Event *const *) b;

	if (x->call != y->call)
		return x->call < y->call ? -1 : 1;
	return (x->n > y->n) - (x->n < y->n);
}

static int
by_version(const void *a, const void *b)
{
	const Event *x = *(Event *const *) a;
	const Event *y = *(Event *const *) b;

	if (x->stream != y->stream)
		return x->stream < y->stream ? -1 : 1;
	return (x->version > y->version) - (x->version < y->version);
}

static Event **
sorted(int (*compare) (const void *, const void *))
{
	Event	  **list = malloc(sizeof(Event *) * (event_count + 1));

	for (size_t i = 0; i < event_count; i++)
		list[i] = &events[i];
	qsort(list, event_count, sizeof(Event *), compare);
	return list;
}

/* The events of one call, or none. */
static void
check_call(int64_t number, Event **list, size_t count)
{
	const Call *call = &calls[number];
	const Event *last;

	if (call->fate == FATE_REFUSED && count > 0)
		complain("call %lld was refused or rolled back and has %zu events", (long long) number, count);
	if (call->fate == FATE_COMMITTED && count != (size_t) call->events)
		complain("call %lld was acknowledged with %d events and has %zu", (long long) number, call->events, count);
	if (count == 0)
		return;
	if (count != (size_t) call->events)
	{
		complain("call %lld has %zu of %d events", (long long) number, count, call->events);
		return;
	}
	last = list[count - 1];
	for (size_t i = 0; i < count; i++)
	{
		const Event *e = list[i];

		if (e->n != (int) i || !e->right_stream)
			complain("call %lld: event %d at position %lld where event %zu should be", (long long) number, e->n,
					 (long long) e->position, i);
		if (i > 0 && e->position <= list[i - 1]->position)
			complain("call %lld: events are not in order of position", (long long) number);
		if (e->position + e->rest != last->position)
			complain("call %lld: position %lld has rest %lld, the last position is %lld", (long long) number,
					 (long long) e->position, (long long) e->rest, (long long) last->position);
		if (e->recorded_at != last->recorded_at)
			complain("call %lld: more than one recorded_at", (long long) number);
	}
	if (call->answered && call->fate == FATE_COMMITTED &&
		(call->position != last->position || (call->version != 0 && call->version != last->version)))
		complain("call %lld was answered with version %lld, position %lld; it has %lld, %lld", (long long) number,
				 (long long) call->version, (long long) call->position,
				 (long long) last->version, (long long) last->position);
	if (call->expected >= 0 && list[0]->version != call->expected + 1)
		complain("call %lld expected version %lld and wrote version %lld", (long long) number,
				 (long long) call->expected, (long long) list[0]->version);
}

static int
by_transaction(const void *a, const void *b)
{
	const Call *x = &calls[*(const int64_t *) a];
	const Call *y = &calls[*(const int64_t *) b];

	return (x->transaction > y->transaction) - (x->transaction < y->transaction);
}

static void
check_calls(void)
{
	Event	  **list = sorted(by_call);
	size_t		at = 0;
	int64_t    *unknown = malloc(sizeof(int64_t) * (call_count + 1));
	char	   *written = calloc(call_count + 1, 1);
	size_t		unknown_count = 0;

	for (int64_t c = 0; c < call_count; c++)
	{
		size_t		first = at;

		while (at < event_count && list[at]->call <= c)
			at++;
		check_call(c, &list[first], at - first);
		written[c] = at > first;
		if (calls[c].fate == FATE_UNKNOWN)
			unknown[unknown_count++] = c;
	}
	if (at < event_count)
		complain("%zu events of calls that nobody made", event_count - at);

	/* A transaction of which nobody knows whether it committed did so as a whole or not at all. */
	qsort(unknown, unknown_count, sizeof(int64_t), by_transaction);
	for (size_t i = 1; i < unknown_count; i++)
		if (by_transaction(&unknown[i - 1], &unknown[i]) == 0 && written[unknown[i - 1]] != written[unknown[i]])
			complain("calls %lld and %lld were one transaction, and one of them is there", (long long) unknown[i - 1],
					 (long long) unknown[i]);
	printf("%lld calls, %zu events, %zu calls of unknown fate\n", (long long) call_count, event_count, unknown_count);
	free(list);
	free(unknown);
	free(written);
}

static void
check_streams(void)
{
	Event	  **list = sorted(by_version);

	for (size_t i = 0; i < event_count; i++)
	{
		const Event *e = list[i];
		const Event *before = i > 0 && list[i - 1]->stream == e->stream ? list[i - 1] : NULL;
		int64_t		version = before ? before->version + 1 : 1;

		if (e->version != version)
			complain("stream %lld: version %lld where %lld should be", (long long) e->stream, (long long) e->version,
					 (long long) version);
		if (before && e->position <= before->position)
			complain("stream %lld: version %lld has a lower position than the one before", (long long) e->stream,
					 (long long) e->version);
		if (before && (e->call == before->call ? e->recorded_at != before->recorded_at : e->recorded_at <= before->recorded_at))
			complain("stream %lld: version %lld was not recorded after the one before", (long long) e->stream,
					 (long long) e->version);
	}
	free(list);
}

/* How many events a reader did not see. */
static size_t
compare_reader(const Reader *r, int64_t *first_missed, size_t *invented)
{
	size_t		at = 0,
				missed = 0;

	*invented = 0;
	for (size_t i = 0; i < event_count; i++)
	{
		const Event *e = &events[i];

		if (r->category && (e->category < 0 || strcmp(categories[e->category], r->category) != 0))
			continue;
		while (at < r->count && r->seen[at] < e->position)
		{
			at++;
			(*invented)++;
		}
		if (at < r->count && r->seen[at] == e->position)
			at++;
		else if (missed++ == 0)
			*first_missed = e->position;
	}
	*invented += r->count - at;
	return missed;
}

static void
check_reader(const Reader *r)
{
	int64_t		first_missed = 0;
	size_t		invented;
	size_t		missed = compare_reader(r, &first_missed, &invented);

	printf("reader %-22s saw %zu events, missed %zu\n", r->name, r->count, missed);
	if (invented > 0)
		complain("reader %s saw %zu events that are not in the log", r->name, invented);
	if (r->kind == READ_NAIVE)
	{
		if (missed == 0)
			complain("precondition: a cursor without the mark missed nothing, so this run shows nothing");
	}
	else if (missed > 0)
		complain("reader %s missed %zu events, the first at position %lld", r->name, missed, (long long) first_missed);
}

static void
check_heads(PGconn *conn)
{
	int64_t		wrong = query_int(conn,
								  "SELECT count(*) FROM event_store.heads h LEFT JOIN (SELECT stream, max(version) AS version,"
								  " min(position) AS first_position, max(position) AS last_position, max(recorded_at) AS recorded_at,"
								  " min(category) AS category, max(category) AS other FROM event_store.log GROUP BY stream) l ON l.stream = h.id"
								  " WHERE (h.version, h.first_position, h.last_position, h.recorded_at, h.category, h.category)"
								  " IS DISTINCT FROM (l.version, l.first_position, l.last_position, l.recorded_at, l.category, l.other)");

	if (wrong > 0)
		complain("%lld heads differ from their events", (long long) wrong);
}

/* The log must be at rest. */
void
check_log(PGconn *conn, Reader *readers, int reader_count)
{
	load_events(conn);
	check_calls();
	check_streams();
	check_heads(conn);
	for (int i = 0; i < reader_count; i++)
		check_reader(&readers[i]);
}
