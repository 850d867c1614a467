/*
 * call.c
 *	  Sending one call of any form. Its events carry its number, so that they are recognised.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stress.h"

/* A stream: its category in the high 8 bits, the rest its id. */
uint32_t
make_stream(unsigned category, unsigned id)
{
	return (uint32_t) category << 24 | (id & 0xFFFFFF);
}

const char *
stream_name(uint32_t stream, char *buf)
{
	static const char *const categories[] = {"account", "order", "audit"};
	unsigned	category = stream >> 24;

	if (category < sizeof(categories) / sizeof(categories[0]))
		sprintf(buf, "%s-%u", categories[category], stream & 0xFFFFFF);
	else
		sprintf(buf, "kind%u-%u", category, stream & 0xFFFFFF);
	return buf;
}

/* What a result means for the one who waits for it; sqlstate gets 5 characters. */
Outcome
outcome_of(PGconn *conn, PGresult *res, char *sqlstate)
{
	ExecStatusType status = PQresultStatus(res);
	const char *code = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK)
		return DONE;
	snprintf(sqlstate, 6, "%s", code ? code : "");
	if (PQstatus(conn) == CONNECTION_BAD || code == NULL || strcmp(code, "57P01") == 0)
		return LOST;
	if (strcmp(code, "40001") == 0)
		counters.serialization_failures++;
	else if (strcmp(code, "40P01") == 0)
	{
		counters.deadlocks++;
		if (options.single)
			complain("deadlock although every transaction is one call: %s", PQerrorMessage(conn));
	}
	else if (strcmp(code, "YE001") == 0)
		counters.conflicts++;
	else if (strcmp(code, "55000") != 0)	/* a prepared transaction that is busy */
		complain("unexpected error %s: %s", code, PQerrorMessage(conn));
	return REFUSED;
}

static int
put_event(char *out, const Call *call, int64_t number, int i)
{
	return sprintf(out, "{\"type\":\"T%u\",\"data\":{\"call\":%lld,\"n\":%d}}", call->type[i], (long long) number, i);
}

static void
put_multi(char *out, const Call *call, int64_t number)
{
	char		name[64];

	out += sprintf(out, "[");
	for (int i = 0; i < call->events; i++)
	{
		bool		first = i == 0 || call->stream[i] != call->stream[i - 1];
		bool		last = i == call->events - 1 || call->stream[i] != call->stream[i + 1];

		if (first)
			out += sprintf(out, "%s{\"stream\":\"%s\",\"expected_version\":\"any\",\"events\":[", i == 0 ? "" : ",", stream_name(call->stream[i], name));
		else
			out += sprintf(out, ",");
		out += put_event(out, call, number, i);
		if (last && call->keyed)
			out += sprintf(out, "],\"idempotency_key\":\"call %lld\"}", (long long) number);
		else if (last)
			out += sprintf(out, "]}");
	}
	sprintf(out, "]");
}

/* Sends a call and waits for the answer. */
Outcome
send_call(PGconn *conn, int64_t number, char *sqlstate, bool *replayed, int64_t *version, int64_t *position)
{
	Call	   *call = &calls[number];
	char		stream[64],
				expected[24],
				key[40],
				one[64],
				two[4096],
				three[4096];
	char	   *s = one;
	const char *sql = NULL;
	const char *params[5] = {0};
	int			n = 0;
	PGresult   *res;
	Outcome		outcome;

	stream_name(call->stream[0], stream);
	sprintf(expected, "%lld", (long long) call->expected);
	sprintf(key, "call %lld", (long long) number);
	switch (call->kind)
	{
		case CALL_APPEND:
			sprintf(one, "T%u", call->type[0]);
			sprintf(two, "{\"call\":%lld,\"n\":0}", (long long) number);
			sql = "SELECT version, position, replayed FROM es_append($1, $2, $3, $4, idempotency_key => $5)";
			params[n++] = stream;
			params[n++] = expected;
			params[n++] = one;
			params[n++] = two;
			params[n++] = call->keyed ? key : NULL;
			break;
		case CALL_EVENTS:
			s = two + sprintf(two, "{\"events\":[");
			for (int i = 0; i < call->events; i++)
			{
				if (i > 0)
					*s++ = ',';
				s += put_event(s, call, number, i);
			}
			sprintf(s, call->keyed ? "],\"idempotency_key\":\"%s\"}" : "]}", key);
			sql = "SELECT version, position, replayed FROM es_append($1, $2, $3)";
			params[n++] = stream;
			params[n++] = expected;
			params[n++] = two;
			break;
		case CALL_BATCH:
			{
				char		streams[MAX_EVENTS * 40],
							name[64];
				char	   *a = streams,
						   *t = two,
						   *d = three;

				for (int i = 0; i < call->events; i++)
				{
					char		open = i == 0 ? '{' : ',';

					a += sprintf(a, "%c%s", open, stream_name(call->stream[i], name));
					t += sprintf(t, "%cT%u", open, call->type[i]);
					d += sprintf(d, "%c\"{\\\"call\\\":%lld,\\\"n\\\":%d}\"", open, (long long) number, i);
				}
				strcpy(a, "}");
				strcpy(t, "}");
				strcpy(d, "}");
				sql = "SELECT 0, last_position, replayed FROM es_append_batch($1, $2, $3, idempotency_key => $4)";
				params[n++] = streams;
				params[n++] = two;
				params[n++] = three;
				params[n++] = call->keyed ? key : NULL;
				res = PQexecParams(conn, sql, n, NULL, params, NULL, NULL, 0);
				goto answered;
			}
		case CALL_MULTI:
			put_multi(two, call, number);
			sql = "SELECT 0, max(position), bool_or(replayed), bool_and(replayed) FROM es_append_multi($1)";
			params[n++] = two;
			break;
	}
	res = PQexecParams(conn, sql, n, NULL, params, NULL, NULL, 0);

answered:
	outcome = outcome_of(conn, res, sqlstate);
	if (outcome == DONE)
	{
		*version = atoll(PQgetvalue(res, 0, 0));
		*position = atoll(PQgetvalue(res, 0, 1));
		*replayed = PQgetvalue(res, 0, 2)[0] == 't';
		if (call->kind == CALL_MULTI && *replayed != (PQgetvalue(res, 0, 3)[0] == 't'))
			complain("call %lld: one part was replayed and another was not", (long long) number);
		if (*replayed && !call->keyed)
			complain("call %lld has no key and was replayed", (long long) number);
	}
	PQclear(res);
	return outcome;
}
