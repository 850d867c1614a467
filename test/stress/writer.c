/*
 * writer.c
 *	  Writers, who append in every way there is and note what they were told, and the one who kills
 *	  their backends.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stress.h"

#define HOT_STREAMS		6
#define MAX_CALLS_OF_TX	8

Writer		writers[MAX_WRITERS];

static _Atomic uint64_t transactions = 1;
static _Atomic unsigned fresh = 1;	/* ids of new streams, by and by: several writers meet at each */

/* The calls of the transaction under way. */
typedef struct Transaction
{
	uint64_t	id;
	int			count;
	int64_t		call[MAX_CALLS_OF_TX];
} Transaction;

static unsigned
below(Writer *w, unsigned n)
{
	return next_random(&w->random) % n;
}

static void
maybe_pause(Writer *w, unsigned us)
{
	if (below(w, 2))
		pause_us(below(w, us));
}

/* Connects again and answers a question, which nobody kills: the new session is not among the victims yet. */
static int64_t
reconnect_and_ask(Writer *w, const char *question)
{
	int			old = atomic_exchange(&w->pid, 0);
	int64_t		answer = 0;
	char		sql[100];

	PQfinish(w->conn);
	w->conn = connect_server();
	sprintf(sql, "SELECT count(*) FROM pg_stat_activity WHERE pid = %d", old);
	/* What it did is decided when it is gone. */
	while (old != 0 && query_int(w->conn, sql) > 0)
		pause_us(2000);
	if (question != NULL)
		answer = query_int(w->conn, question);
	atomic_store(&w->pid, PQbackendPID(w->conn));
	return answer;
}

static void
reconnect(Writer *w)
{
	reconnect_and_ask(w, NULL);
}

static Outcome
run(Writer *w, const char *sql)
{
	char		sqlstate[6];
	PGresult   *res = PQexec(w->conn, sql);
	Outcome		outcome = outcome_of(w->conn, res, sqlstate);

	if (outcome == DONE && strcmp(sql, "COMMIT") == 0 && strcmp(PQcmdStatus(res), "COMMIT") != 0)
		outcome = REFUSED;
	PQclear(res);
	return outcome;
}

static void
decide(const Transaction *tx, int from, Fate fate)
{
	for (int i = from; i < tx->count; i++)
		calls[tx->call[i]].fate = fate;
}

static uint32_t
choose_stream(Writer *w)
{
	unsigned	r = below(w, 100);

	if (r < 40)
		return make_stream(0, below(w, HOT_STREAMS));
	if (r < 60)
		return make_stream(1, below(w, 300));
	if (r < 75)
		return make_stream(2, below(w, 50));
	if (r < 98)
	{
		/* A stream that is new, or was a moment ago. */
		unsigned	id = below(w, 4) == 0 ? fresh++ : fresh;

		return make_stream(1, 1000 + id);
	}
	/* A category that is new now and then. */
	return make_stream(3 + (fresh / 40) % 250, below(w, 3));
}

static uint32_t
choose_type(Writer *w)
{
	return below(w, 50) == 0 ? 10 + fresh / 20 : below(w, 10);
}

static bool
has_stream(const Call *call, int count, uint32_t stream)
{
	for (int i = 0; i < count; i++)
		if (call->stream[i] == stream)
			return true;
	return false;
}

/* Makes up a call; -1 when there is no room to note another. */
static int64_t
new_call(Writer *w, Transaction *tx)
{
	int64_t		number = call_count++;
	Call	   *call;
	unsigned	r = below(w, 100);

	if (number >= MAX_CALLS)
	{
		call_count = MAX_CALLS;
		atomic_store(&stop_writers, true);
		return -1;
	}
	call = &calls[number];
	call->kind = r < 50 ? CALL_APPEND : r < 65 ? CALL_EVENTS : r < 85 ? CALL_BATCH : CALL_MULTI;
	call->fate = FATE_REFUSED;
	call->keyed = below(w, 3) == 0;
	call->expected = -2;
	call->transaction = tx->id;
	call->events = call->kind == CALL_APPEND ? 1 : 1 + below(w, MAX_EVENTS);
	for (int i = 0; i < call->events; i++)
	{
		call->type[i] = choose_type(w);
		if (i > 0 && (call->kind == CALL_EVENTS || (call->kind == CALL_MULTI && below(w, 3) > 0)))
			call->stream[i] = call->stream[i - 1];
		else
			do
				call->stream[i] = choose_stream(w);
			while (call->kind == CALL_MULTI && has_stream(call, i, call->stream[i]));
	}
	tx->call[tx->count++] = number;
	return number;
}

static Outcome
do_call(Writer *w, int64_t number)
{
	char		sqlstate[6];
	bool		replayed;
	int64_t		version,
				position;
	Outcome		outcome = send_call(w->conn, number, sqlstate, &replayed, &version, &position);

	if (outcome == DONE)
	{
		calls[number].answered = true;
		calls[number].version = version;
		calls[number].position = position;
		if (replayed)
			complain("call %lld was replayed when it was sent first", (long long) number);
	}
	return outcome;
}

/*
 * The answer to a commit was lost. Where a call has a key it is sent again, which tells what became
 * of the whole transaction: replayed, it had committed; not replayed, it had not.
 */
static void
find_out(Writer *w, const Transaction *tx)
{
	int			keyed = -1;
	bool		certain = true;

	counters.lost_answers++;
	reconnect(w);
	for (int i = 0; i < tx->count && keyed < 0; i++)
		if (calls[tx->call[i]].keyed && calls[tx->call[i]].fate == FATE_UNKNOWN)
			keyed = i;
	if (keyed < 0)
		return;
	for (;;)
	{
		int64_t		number = tx->call[keyed];
		char		sqlstate[6];
		bool		replayed;
		int64_t		version,
					position;
		Outcome		outcome = send_call(w->conn, number, sqlstate, &replayed, &version, &position);

		counters.resent++;
		if (outcome == LOST)
		{
			/* When it is replayed next time, it may be this one that had committed. */
			certain = false;
			reconnect(w);
		}
		if (outcome != DONE)
			continue;			/* or a deadlock */
		counters.replayed += replayed;
		calls[number].answered = true;
		calls[number].version = version;
		calls[number].position = position;
		if (certain)
			for (int i = 0; i < tx->count; i++)
				if (calls[tx->call[i]].fate == FATE_UNKNOWN)
					calls[tx->call[i]].fate = replayed ? FATE_COMMITTED : FATE_REFUSED;
		calls[number].fate = FATE_COMMITTED;
		if (!replayed || !certain)
			calls[number].transaction = transactions++;
		return;
	}
}

static void
single_call(Writer *w)
{
	Transaction tx = {.id = transactions++};
	int64_t		number = new_call(w, &tx);

	if (number < 0)
		return;
	switch (do_call(w, number))
	{
		case DONE:
			decide(&tx, 0, FATE_COMMITTED);
			counters.commits++;
			break;
		case REFUSED:
			break;
		case LOST:
			decide(&tx, 0, FATE_UNKNOWN);
			find_out(w, &tx);
			break;
	}
}

/* Load, decide, append with the version seen; again when somebody was faster. */
static void
expecting_call(Writer *w)
{
	uint32_t	stream = choose_stream(w);

	for (int attempt = 0; attempt < 5; attempt++)
	{
		Transaction tx = {.id = transactions++};
		char		sql[128],
					name[64];
		PGresult   *res;
		int64_t		version;
		int64_t		number;

		sprintf(sql, "SELECT es_stream_version('%s')", stream_name(stream, name));
		res = PQexec(w->conn, sql);
		if (PQresultStatus(res) != PGRES_TUPLES_OK)
		{
			PQclear(res);
			reconnect(w);
			continue;
		}
		version = atoll(PQgetvalue(res, 0, 0));
		PQclear(res);
		maybe_pause(w, 2000);
		if ((number = new_call(w, &tx)) < 0)
			return;
		calls[number].kind = CALL_APPEND;
		calls[number].events = 1;
		calls[number].stream[0] = stream;
		calls[number].expected = version;
		switch (do_call(w, number))
		{
			case DONE:
				decide(&tx, 0, FATE_COMMITTED);
				counters.commits++;
				return;
			case REFUSED:
				break;
			case LOST:
				decide(&tx, 0, FATE_UNKNOWN);
				/* With a stale version it would be refused for that, so it is not sent again. */
				calls[number].keyed = false;
				find_out(w, &tx);
				return;
		}
	}
}

/* A retry out of the blue of what was answered before. */
static void
old_call(Writer *w)
{
	for (int tries = 0; tries < 50 && call_count > 0; tries++)
	{
		int64_t		number = next_random(&w->random) % call_count;
		Call	   *call = &calls[number];
		char		sqlstate[6];
		bool		replayed;
		int64_t		version,
					position;

		if (number >= MAX_CALLS || !call->keyed || call->fate != FATE_COMMITTED || !call->answered)
			continue;
		counters.resent++;
		switch (send_call(w->conn, number, sqlstate, &replayed, &version, &position))
		{
			case DONE:
				if (!replayed)
					complain("call %lld was done a second time", (long long) number);
				else if (version != call->version || position != call->position)
					complain("call %lld was answered with version %lld, position %lld; replayed with %lld, %lld",
							 (long long) number, (long long) call->version, (long long) call->position,
							 (long long) version, (long long) position);
				counters.replayed++;
				break;
			case REFUSED:
				break;
			case LOST:
				reconnect(w);
				break;
		}
		return;
	}
}

typedef enum End
{
	END_COMMIT,
	END_ROLLBACK,
	END_COMMIT_PREPARED,
	END_ROLLBACK_PREPARED
} End;

/* Finishes a prepared transaction, whatever it takes. */
static void
finish_prepared(Writer *w, const Transaction *tx, const char *gid, bool commit)
{
	char		finish[128],
				look[128];

	sprintf(finish, "%s PREPARED '%s'", commit ? "COMMIT" : "ROLLBACK", gid);
	sprintf(look, "SELECT count(*) FROM pg_prepared_xacts WHERE gid = '%s'", gid);
	for (;;)
	{
		Outcome		outcome = run(w, finish);

		if (outcome == DONE)
			break;
		if (outcome == LOST && reconnect_and_ask(w, look) == 0)
			break;
		pause_us(1000);
	}
	decide(tx, 0, commit ? FATE_COMMITTED : FATE_REFUSED);
	if (commit)
		counters.prepared_commits++;
	else
		counters.prepared_rollbacks++;
}

static void
end_transaction(Writer *w, Transaction *tx, End end)
{
	char		gid[64],
				sql[128];

	if (end == END_ROLLBACK)
	{
		if (run(w, "ROLLBACK") == LOST)
			reconnect(w);
		counters.rollbacks++;
		return;
	}
	if (end == END_COMMIT)
	{
		switch (run(w, "COMMIT"))
		{
			case DONE:
				for (int i = 0; i < tx->count; i++)
					if (calls[tx->call[i]].fate == FATE_UNKNOWN)
						calls[tx->call[i]].fate = FATE_COMMITTED;
				counters.commits++;
				break;
			case REFUSED:
				decide(tx, 0, FATE_REFUSED);
				break;
			case LOST:
				find_out(w, tx);
				break;
		}
		return;
	}

	sprintf(gid, "stress_%d_%llu", w->number, (unsigned long long) tx->id);
	sprintf(sql, "PREPARE TRANSACTION '%s'", gid);
	switch (run(w, sql))
	{
		case DONE:
			pause_us(below(w, 30000));
			finish_prepared(w, tx, gid, end == END_COMMIT_PREPARED);
			break;
		case REFUSED:
			decide(tx, 0, FATE_REFUSED);
			break;
		case LOST:
			sprintf(sql, "SELECT count(*) FROM pg_prepared_xacts WHERE gid = '%s'", gid);
			if (reconnect_and_ask(w, sql) > 0)
				finish_prepared(w, tx, gid, end == END_COMMIT_PREPARED);
			else
				decide(tx, 0, FATE_REFUSED);
			break;
	}
}

static void
transaction(Writer *w, End end, bool savepoint)
{
	Transaction tx = {.id = transactions++};
	int			wanted = options.single ? 1 : 1 + below(w, 3);
	Outcome		outcome;

	/* Until COMMIT is sent, a loss means that nothing happened. */
	outcome = run(w, below(w, 6) == 0 ? "BEGIN ISOLATION LEVEL REPEATABLE READ" : "BEGIN");
	while (outcome == DONE && tx.count < wanted)
	{
		int64_t		number = new_call(w, &tx);

		if (number < 0)
			break;
		outcome = do_call(w, number);
		maybe_pause(w, 8000);
	}
	if (outcome == DONE && savepoint)
	{
		int			kept = tx.count;

		if (options.single)
		{
			/* The call that is taken back is the transaction's only one before. */
			outcome = run(w, "ROLLBACK");
			if (outcome == DONE)
				outcome = run(w, "BEGIN");
			tx.count = kept = 0;
		}
		if (outcome == DONE)
			outcome = run(w, "SAVEPOINT s");
		if (outcome == DONE)
		{
			int64_t		number = new_call(w, &tx);

			outcome = number < 0 ? DONE : do_call(w, number);
			maybe_pause(w, 5000);
		}
		if (outcome != LOST)
			outcome = run(w, "ROLLBACK TO s");
		counters.savepoints++;
		tx.count = kept;		/* what came after stays refused */
		if (outcome == DONE && (!options.single || below(w, 2)))
		{
			int64_t		number = new_call(w, &tx);

			outcome = number < 0 ? DONE : do_call(w, number);
			maybe_pause(w, 5000);
		}
	}

	if (outcome == LOST)
	{
		reconnect(w);
		return;
	}
	if (outcome == REFUSED)
		end = END_ROLLBACK;
	if (end == END_COMMIT)
		decide(&tx, 0, FATE_UNKNOWN);
	end_transaction(w, &tx, end);
}

void *
write_events(void *arg)
{
	Writer	   *w = arg;

	w->conn = connect_server();
	atomic_store(&w->pid, PQbackendPID(w->conn));
	while (!atomic_load(&stop_writers))
	{
		unsigned	r = below(w, 100);

		if (r < 25)
			single_call(w);
		else if (r < 45)
			expecting_call(w);
		else if (r < 50)
			old_call(w);
		else if (r < 65)
			transaction(w, END_COMMIT, false);
		else if (r < 75)
			transaction(w, END_ROLLBACK, false);
		else if (r < 85)
			transaction(w, END_COMMIT, true);
		else if (r < 87)
			transaction(w, END_ROLLBACK_PREPARED, true);
		else
			transaction(w, below(w, 3) ? END_COMMIT_PREPARED : END_ROLLBACK_PREPARED, false);
		maybe_pause(w, 3000);
	}
	atomic_store(&w->pid, 0);
	PQfinish(w->conn);
	return NULL;
}

void *
kill_writers(void *unused)
{
	PGconn	   *conn = connect_server();
	uint64_t	random = options.seed ^ 0x6B696C6C;

	(void) unused;
	while (!atomic_load(&stop_writers))
	{
		int			pid;
		char		sql[64];

		pause_us(20000 + next_random(&random) % 80000);
		pid = atomic_load(&writers[next_random(&random) % options.writers].pid);
		if (pid == 0)
			continue;
		sprintf(sql, "SELECT pg_terminate_backend(%d)::int", pid);
		counters.kills += query_int(conn, sql);
	}
	PQfinish(conn);
	return NULL;
}
