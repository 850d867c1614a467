/*
 * log/publisher.c
 *	  The coordinator publishes the high-water mark, and sends notifications about it.
 *
 * The coordinator looks for events when an append commits (es_shared_announce()), when es_publish_soon() is called,
 * when anybody sends NOTIFY event_store, and from time to time. It asks to be woken *before* it looks
 * (es_coordinator_arm()), so that it misses nothing that comes while it looks.
 *
 * On an idle server nothing is written, unless event_store.heartbeat asks for it: then the times are published again when they
 * are that old, for standbys, whose loads as of a time have nobody else to ask. After the mark has reached the newest position, it is published twice more,
 * so that stable_until passes the time of the last event (`goal`). While an open append holds the mark back, the
 * coordinator only looks, at growing intervals.
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
#include "log/epoch.h"
#include "log/log.h"
#include "log/mark.h"

#define CHANNEL				"event_store"

#define RETRY_NOTIFY		100		/* milliseconds */
#define SETTLE_WAIT			"10"	/* milliseconds that it waits for open appends when it publishes */

static EsMarkState state;		/* the published mark and the newest position, when the coordinator looked last */
static TimestampTz goal;		/* publish until stable_until has passed this time */
static int64 notified;			/* the mark of the last notification; 0: the coordinator has not looked yet */
static int64 first_mark = 0;	/* as of the first look */
static bool listens = false;	/* the coordinator listens to the channel */

/* When to look, and to publish, the next time. */
static struct
{
	bool		pending;		/* there is news, and the coordinator has not looked since */
	bool		publish;		/* there is something to publish: the goal was not reached the last time */
	TimestampTz last;			/* when it looked or published last */
	int			delay;			/* milliseconds from then to the next time */
	TimestampTz poll;			/* look at this time even if there is no news */
}			rounds;

/* ---------------------------------------------------------------- looking and publishing */

static bool
reached_goal(void)
{
	return state.mark >= state.last && state.stable_until >= goal;
}

/* Looks for events. Returns whether there is something to publish. */
static bool
look(void)
{
	if (!es_process_begin("looking for events"))
		return false;
	es_mark_state(&state);
	if (notified == 0)
		notified = first_mark = state.mark;
	es_process_end();
	return !reached_goal();
}

/* Publishes the mark. Returns whether to go on publishing. */
static bool
publish(void)
{
	bool		moved;

	if (!es_process_begin("publishing the high-water mark"))
		return false;
	if (!es_epoch_is_current())
	{
		/*
		 * The server is on a new timeline, or in another place, since the last epoch. Begin a new one first. Appends
		 * wait for that, so its transaction must not wait for a standby.
		 */
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

/* ---------------------------------------------------------------- when to do it */

static TimestampTz keep_publishing(void);

/* When a coordinator begins, stable_until should pass the times of all events so far. */
static void
begin(void)
{
	SetConfigOption("event_store.mark_wait", SETTLE_WAIT, PGC_SUSET, PGC_S_OVERRIDE);
	goal = GetCurrentTimestamp();
	rounds.pending = true;
}

/* There is news: look when event_store.mark_interval has passed since the last time. */
static void
hear(void)
{
	rounds.pending = true;
	rounds.delay = es_mark_interval;	/* perhaps the append that held the mark back has ended */
}

/* es_publish_soon() sets the word of this duty in shared memory. */
static EsDuty rounds_of_the_mark = {.name = "publish the high-water mark",.begin = begin,.hear = hear,.keep = keep_publishing};

/* Looks, and publishes, when it is time for that. */
static void
run_round(void)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		mark = state.mark;
	int64		last = state.last;

	if (!rounds.pending && !rounds.publish && now < rounds.poll)
		return;
	if (now < TimestampTzPlusMilliseconds(rounds.last, rounds.delay))
		return;

	es_coordinator_arm();		/* before the look, so that nothing is missed */
	rounds.pending = false;
	if (!rounds.publish)
		rounds.publish = es_duty_perform(&looking);
	if (rounds.publish && now >= publishing.next)
		rounds.publish = es_duty_perform(&publishing) || publishing.failing;
	if (state.mark > mark || state.last > last)
		es_pool_wake();			/* COMMIT PREPARED of an append wakes nobody, so the workers are woken here */
	if (state.mark > mark || state.mark >= state.last)
		rounds.delay = es_mark_interval;
	else
		rounds.delay = Min(es_poll_interval, Max(rounds.delay * 2, es_mark_interval));
	rounds.last = now;
	rounds.poll = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), es_poll_interval);
}

/* When the published times are to be published again though nothing has happened. */
static TimestampTz
heartbeat_at(void)
{
	if (es_heartbeat == 0)
		return DT_NOEND;
	return TimestampTzPlusMilliseconds(Max(goal, state.stable_until), (int64) es_heartbeat * 1000);
}

/* The duty: takes note of news, and looks and publishes. Returns when it must be called again at the latest. */
static TimestampTz
keep_publishing(void)
{
	pg_atomic_uint64 *asked = es_duty_word(&rounds_of_the_mark);
	TimestampTz next;

	if ((pg_atomic_read_u64(asked) != 0 && pg_atomic_exchange_u64(asked, 0) != 0) ||
		heartbeat_at() <= GetCurrentTimestamp())
	{
		goal = GetCurrentTimestamp();
		rounds.pending = true;
	}
	if (!listens)
		(void) es_duty_perform(&listening);
	if (notifyInterruptPending)
	{
		/* Our own notifications are among these. They make us look once more in vain. */
		ProcessNotifyInterrupt(false);
		pgstat_report_activity(STATE_IDLE, NULL);
		rounds.pending = true;
	}
	run_round();

	next = Min(rounds.poll, heartbeat_at());
	if (rounds.pending || rounds.publish)
		next = Min(next, TimestampTzPlusMilliseconds(rounds.last, rounds.delay));
	return next;
}

/* The published mark and the newest position when the coordinator looked last; all zero before the first time. */
const EsMarkState *
es_published_mark(void)
{
	return &state;
}

/* The published mark when this coordinator looked first, before it published a newer one; 0: it has not looked yet. */
int64
es_first_published_mark(void)
{
	return first_mark;
}

/* Has the coordinator, if there is one, publish soon, until stable_until has passed the current time. */
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
	 * A transaction that sends a notification holds a lock while it commits, which is the same for all databases. So
	 * nobody should hold it while he waits for the disk or for a standby.
	 */
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	Async_Notify(CHANNEL, payload);
	es_process_end();
	notified = state.mark;
	return false;
}

/* None while there is nothing to send. What could not be sent, because somebody is dropping the extension, waits a little. */
static int
pause_of_notifying(void)
{
	return news_to_send() ? RETRY_NOTIFY : 0;
}

static EsDuty notifying = {.name = "send a notification",.run = notify,.wanted = news_to_send,.pace = pause_of_notifying,.punctual = true};

/* Registers the duties; called once, when the library is loaded. */
void
es_publisher_init(void)
{
	es_duty_register(&rounds_of_the_mark);
	es_duty_register(&notifying);
}
