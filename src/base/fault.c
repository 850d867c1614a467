/*
 * base/fault.c
 *	  Faults on demand; empty unless the library is built with ES_FAULTS.
 *
 * The setting event_store.fault is a list of point:action[:when]. A session sets it for itself, the configuration for
 * background workers. Actions are
 *
 *	  error		raises an error of the kind that may pass
 *	  wait		waits until the process is cancelled, terminated or killed
 *	  kill		SIGKILL to itself
 *	  panic		PANIC
 *	  stop		SIGSTOP to itself
 *
 * and "when" is a number n, for the nth pass of the process since it has the setting (1 unless told), or a probability
 * with a decimal point. Where a transaction has committed already, it can neither fail nor wait. Each fault is a line in
 * the server's log.
 */
#include "postgres.h"

#ifdef ES_FAULTS

#include <signal.h>
#include <unistd.h>

#include "common/pg_prng.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/wait_event.h"

#include "base/base.h"

typedef enum Action
{
	NOTHING,
	RAISE,
	WAIT,
	KILL,
	CRASH,
	STOP
} Action;

typedef struct Fault
{
	Action		action;
	int			pass;			/* 0: by chance */
	double		chance;
	int			passed;
} Fault;

#define POINT_NAME(name, may_throw) #name,
#define POINT_MAY_THROW(name, may_throw) may_throw,
static const char *const point_names[] = {ES_FAULT_POINTS(POINT_NAME)};
static const bool point_may_throw[] = {ES_FAULT_POINTS(POINT_MAY_THROW)};
static const char *const action_names[] = {"nothing", "error", "wait", "kill", "panic", "stop"};

static char *setting = NULL;
static Fault faults[ES_FAULT_COUNT];

static int
look_up(const char *const *names, int count, const char *name)
{
	for (int i = 0; i < count; i++)
		if (strcmp(names[i], name) == 0)
			return i;
	return -1;
}

static bool
parse(const char *text, Fault *into)
{
	memset(into, 0, sizeof(Fault) * ES_FAULT_COUNT);
	while (*text != '\0')
	{
		char		point[32];
		char		action[16];
		char		when[16] = "1";
		int			length = 0;
		int			p;
		int			a;

		if (sscanf(text, "%31[a-z_]:%15[a-z]%n", point, action, &length) < 2)
			return false;
		text += length;
		if (*text == ':')
		{
			if (sscanf(text, ":%15[0-9.]%n", when, &length) < 1)
				return false;
			text += length;
		}
		if (*text == ',')
			text++;
		else if (*text != '\0')
			return false;
		p = look_up(point_names, ES_FAULT_COUNT, point);
		a = look_up(action_names, lengthof(action_names), action);
		if (p < 0 || a < 0 || (!point_may_throw[p] && (a == RAISE || a == WAIT)))
			return false;
		into[p].action = a;
		if (strchr(when, '.') != NULL)
			into[p].chance = strtod(when, NULL);
		else
			into[p].pass = atoi(when);
	}
	return true;
}

static bool
check_setting(char **value, void **extra, GucSource source)
{
	Fault		parsed[ES_FAULT_COUNT];

	return parse(*value, parsed);
}

static void
assign_setting(const char *value, void *extra)
{
	(void) parse(value, faults);
}

/* Called once, when the library is loaded, before its prefix is reserved. */
void
es_fault_init(void)
{
	DefineCustomStringVariable("event_store.fault",
							   "Sets where the process fails, and how.",
							   "A list of point:action[:when].",
							   &setting,
							   "",
							   PGC_SUSET, 0, check_setting, assign_setting, NULL);
}

void
es_fault(EsFaultPoint point)
{
	Fault	   *fault = &faults[point];

	if (fault->action == NOTHING)
		return;
	fault->passed++;
	if (fault->pass != 0 ? fault->passed != fault->pass : pg_prng_double(&pg_global_prng_state) >= fault->chance)
		return;
	ereport(LOG,
			(errmsg("event_store fault at %s: %s", point_names[point], action_names[fault->action]),
			 errhidestmt(true)));
	switch (fault->action)
	{
		case NOTHING:
			break;
		case RAISE:
			ereport(ERROR,
					(errcode(ERRCODE_SYSTEM_ERROR),
					 errmsg("fault at %s", point_names[point])));
			break;
		case WAIT:
			/* Without the latch, as whoever waits further out may have been woken by it already. */
			for (;;)
			{
				CHECK_FOR_INTERRUPTS();
				(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 5, es_wait_event("EventStoreFault"));
			}
			break;
		case KILL:
			(void) kill(getpid(), SIGKILL);
			break;
		case CRASH:
			ereport(PANIC, (errmsg("fault at %s", point_names[point])));
			break;
		case STOP:
			(void) kill(getpid(), SIGSTOP);
			break;
	}
}

#endif							/* ES_FAULTS */
