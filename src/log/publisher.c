/*
 * log/publisher.c
 *	  The coordinator publishes the high-water mark, and tells about it.
 *
 * What makes it look for events: an append's commit (es_shared_announce()), es_publish_soon(), NOTIFY event_store from
 * anywhere, and the time. It asks to be woken *before* it looks (es_coordinator_arm()), so that nothing is missed.
 *
 * An idle server writes nothing. After the mark has reached the newest position, two more rounds are published, so
 * that stable_until passes the last event (`goal`). While an open append holds the mark back, it is only looked at,
 * at growing intervals.
 */
#include "postgres.h"

#include "commands/async.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/guc.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"
#include "log/log.h"

#define CHANNEL				"event_store"

#define SETTLE_WAIT			"10"	/* milliseconds, for open appends, within a round */

static EsMarkState state;		/* as of the last look */
static TimestampTz goal;		/* stable_until should pass it */
static int64 notified;			/* the mark that listeners know; 0 before the first look */
static bool listens = false;	/* to the channel */

/* When the next round is due. */
static struct
{
	bool		pending;		/* there are news that no look has seen */
	bool		publish;		/* the last look, or round, did not reach the goal */
	TimestampTz last;			/* when the last one was */
	int			nap;			/* milliseconds from the last one to the next */
	TimestampTz poll;			/* look, whether there are news or not */
}			rounds;

/* ---------------------------------------------------------------- the parts of a round */

static bool
reached_goal(void)
{
	return state.mark >= state.last && state.stable_until >= goal;
}

/* Whether there is something to publish. */
static bool
look(void)
{
	if (!es_process_begin("looking for events"))
		return false;
	es_mark_state(&state);
	if (notified == 0)
		notified = state.mark;
	es_process_end();
	return !reached_goal();
}

/* A round of the mark. */
static bool
publish(void)
{
	bool		moved;

	if (!es_process_begin("publishing the high-water mark"))
		return false;
	if (!es_epoch_is_current())
	{
		/* We were started on a timeline of its own. In a transaction that waits for no standby: appends wait for it. */
		(void) set_config_option("synchronous_commit", "local", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
		(void) es_epoch_begin_here();
		es_process_end();
		return true;
	}
	moved = es_mark_publish(goal, false, &state);
	es_process_end();
	if (moved)
		goal = state.floor;
	return !reached_goal();
}

static bool
start_listening(void)
{
	if (!es_process_begin("listening"))
		return false;
	Async_Listen(CHANNEL);
	es_process_end();
	listens = true;
	return false;
}

static EsDuty looking = {.name = "look for events",.run = look};
static EsDuty publishing = {.name = "publish the high-water mark",.run = publish};
static EsDuty listening = {.name = "listen for notifications",.run = start_listening};

/* ---------------------------------------------------------------- rounds */

static TimestampTz keep_publishing(void);

/* A coordinator begins: stable_until should pass what was recorded before. */
static void
begin(void)
{
	SetConfigOption("event_store.mark_wait", SETTLE_WAIT, PGC_SUSET, PGC_S_OVERRIDE);
	goal = GetCurrentTimestamp();
	rounds.pending = true;
}

/* Somebody has news: they are looked at when mark_interval has passed since the last round. */
static void
hear(void)
{
	rounds.pending = true;
	rounds.nap = es_mark_interval;	/* perhaps it was the append that holds the mark back */
}

/* The word is set by es_publish_soon(). */
static EsDuty rounds_of_the_mark = {.name = "publish the high-water mark",.begin = begin,.hear = hear,.keep = keep_publishing};

/* Looks, and publishes, when it is time to. */
static void
run_round(void)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		mark = state.mark;
	int64		last = state.last;

	if (!rounds.pending && !rounds.publish && now < rounds.poll)
		return;
	if (now < TimestampTzPlusMilliseconds(rounds.last, rounds.nap))
		return;

	es_coordinator_arm();		/* before the look: nothing is missed */
	rounds.pending = false;
	if (!rounds.publish)
		rounds.publish = es_duty_perform(&looking);
	if (rounds.publish && now >= publishing.next)
		rounds.publish = es_duty_perform(&publishing) || publishing.failing;
	if (state.mark > mark || state.last > last)
		es_pool_wake();			/* by a transaction that told nobody: COMMIT PREPARED */
	if (state.mark > mark || state.mark >= state.last)
		rounds.nap = es_mark_interval;
	else
		rounds.nap = Min(es_poll_interval, Max(rounds.nap * 2, es_mark_interval));
	rounds.last = now;
	rounds.poll = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), es_poll_interval);
}

/* Hears what came, and sees to the next round; returns when that is due at the latest. */
static TimestampTz
keep_publishing(void)
{
	pg_atomic_uint64 *asked = es_duty_word(&rounds_of_the_mark);
	TimestampTz next;

	if (pg_atomic_read_u64(asked) != 0 && pg_atomic_exchange_u64(asked, 0) != 0)
	{
		goal = GetCurrentTimestamp();
		rounds.pending = true;
	}
	if (!listens)
		(void) es_duty_perform(&listening);
	if (notifyInterruptPending)
	{
		/* Our own are among them: they make us look once more, and find nothing. */
		ProcessNotifyInterrupt(false);
		pgstat_report_activity(STATE_IDLE, NULL);
		rounds.pending = true;
	}
	run_round();

	next = rounds.poll;
	if (rounds.pending || rounds.publish)
		next = Min(next, TimestampTzPlusMilliseconds(rounds.last, rounds.nap));
	return next;
}

/* The published mark and the newest position, as of the coordinator's last look: all zero before the first. */
const EsMarkState *
es_published(void)
{
	return &state;
}

/* Has the coordinator publish soon, if there is one, until stable_until has passed this moment. */
void
es_publish_soon(void)
{
	pg_atomic_uint64 *asked = es_duty_word(&rounds_of_the_mark);

	if (asked == NULL)
		return;
	pg_atomic_write_u64(asked, 1);
	es_shared_wake_coordinator();
}

/* ---------------------------------------------------------------- notifications */

static bool
news_to_send(void)
{
	return es_notify && notified != 0 && state.mark > notified;
}

static bool
notify(void)
{
	char		payload[32];

	if (!es_process_begin("sending a notification"))
		return false;
	snprintf(payload, sizeof(payload), INT64_FORMAT, state.mark);

	/*
	 * Whoever commits with notifications waits for the one lock of all of them, in all databases; nobody who holds it
	 * should wait for the disk, or for a standby, on our account.
	 */
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	Async_Notify(CHANNEL, payload);
	es_process_end();
	notified = state.mark;
	return false;
}

static EsDuty notifying = {.name = "send a notification",.run = notify,.wanted = news_to_send,.punctual = true};

/* Called once, when the library is loaded. */
void
es_publisher_init(void)
{
	es_duty_register(&rounds_of_the_mark);
	es_duty_register(&notifying);
}
