/*
 * base/settings.c
 *	  The settings event_store.*, in alphabetical order.
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"
#include "utils/varlena.h"

#include "base/base.h"
#include "base/compat.h"

#define ES_DEFAULT_AS_OF_WAIT		1000
#define ES_DEFAULT_CRASH_DELAY		60
#define ES_DEFAULT_MARK_WAIT		100
#define ES_DEFAULT_IDLE_APPEND_TIMEOUT	(60 * 1000)
#define ES_DEFAULT_MARK_INTERVAL	20
#define ES_DEFAULT_MAX_BATCH		50000
#define ES_DEFAULT_MAX_CATEGORIES	10000
#define ES_DEFAULT_MAX_EVENT_TYPES	60000
#define ES_DEFAULT_MAX_WORKERS		2
#define ES_DEFAULT_POLL_INTERVAL	1000
#define ES_DEFAULT_PARTITION_SIZE	10000000
#define ES_MIN_PARTITION_SIZE		100
#define ES_DEFAULT_SEAL_INTERVAL	60
#define ES_DEFAULT_SEAL_SIZE		10000

int			es_as_of_wait = ES_DEFAULT_AS_OF_WAIT;
bool		es_assume_schema_version_1 = false;
bool		es_bare_uuid_streams = false;
int			es_crash_delay = ES_DEFAULT_CRASH_DELAY;
bool		es_early_lock_release = false;
int			es_idempotency_retention = 0;
int			es_heartbeat = 0;
int			es_idle_append_timeout = ES_DEFAULT_IDLE_APPEND_TIMEOUT;
char	   *es_import_key = NULL;
int			es_mark_wait = ES_DEFAULT_MARK_WAIT;
int			es_mark_interval = ES_DEFAULT_MARK_INTERVAL;
int			es_max_batch = ES_DEFAULT_MAX_BATCH;
int			es_max_categories = ES_DEFAULT_MAX_CATEGORIES;
int			es_max_event_types = ES_DEFAULT_MAX_EVENT_TYPES;
int			es_max_workers = ES_DEFAULT_MAX_WORKERS;
char	   *es_metadata = NULL;
bool		es_notify = true;
int			es_partition_size = ES_DEFAULT_PARTITION_SIZE;
int			es_poll_interval = ES_DEFAULT_POLL_INTERVAL;
int			es_seal_interval = ES_DEFAULT_SEAL_INTERVAL;
int			es_seal_size = ES_DEFAULT_SEAL_SIZE;

static char *es_stamp = NULL;
int			es_stamp_fields = 0;

/* Takes a list of names, as text, and finds what they mean. */
static bool
check_stamp(char **value, void **extra, GucSource source)
{
	static const struct
	{
		const char *name;
		int			field;
	}			known[] = {
		{"session_user", ES_STAMP_SESSION_USER},
		{"application_name", ES_STAMP_APPLICATION_NAME},
		{"client_addr", ES_STAMP_CLIENT_ADDR},
	};
	char	   *names = pstrdup(*value);
	List	   *list;
	ListCell   *lc;
	int			fields = 0;

	if (!SplitIdentifierString(names, ',', &list))
	{
		GUC_check_errdetail("It is no list of names.");
		return false;
	}
	foreach(lc, list)
	{
		int			i = 0;

		while (i < lengthof(known) && strcmp(lfirst(lc), known[i].name) != 0)
			i++;
		if (i == lengthof(known))
		{
			GUC_check_errdetail("\"%s\" is none of session_user, application_name and client_addr.", (char *) lfirst(lc));
			return false;
		}
		fields |= known[i].field;
	}
	list_free(list);
	pfree(names);
	*extra = es_guc_malloc(sizeof(int));
	if (*extra == NULL)
		return false;
	*(int *) *extra = fields;
	return true;
}

static void
assign_stamp(const char *value, void *extra)
{
	es_stamp_fields = *(int *) extra;
}

/* Defines the settings and reserves the prefix; called once, when the library is loaded. */
void
es_settings_init(void)
{
	DefineCustomIntVariable("event_store.as_of_wait",
							"Sets how long an as-of load waits until its time is final.",
							NULL,
							&es_as_of_wait,
							ES_DEFAULT_AS_OF_WAIT, 0, 60 * 60 * 1000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomBoolVariable("event_store.assume_schema_version_1",
							 "Lets appends leave out the schema version of types that have several.",
							 "For writers of an old release during a deploy: their events are version 1.",
							 &es_assume_schema_version_1,
							 false,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("event_store.bare_uuid_streams",
							 "Allows new streams whose name is a UUID without a category.",
							 "Each of them is of a category of its own, of which there can be event_store.max_categories.",
							 &es_bare_uuid_streams,
							 false,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.crash_delay",
							"Sets when a projection during whose run the server crashed is run again.",
							NULL,
							&es_crash_delay,
							ES_DEFAULT_CRASH_DELAY, 0, 60 * 60,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomBoolVariable("event_store.early_lock_release",
							 "Gives an append's locks back before its commit is flushed; the client is answered after.",
							 "Others may see what its transaction did, in any table, shortly before it is durable.",
							 &es_early_lock_release,
							 false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.heartbeat",
							"Sets how old the published times may grow where nothing happens; 0 means as old as they will.",
							"The coordinator publishes them again, for loads as of a time on standbys.",
							&es_heartbeat,
							0, 0, 24 * 60 * 60,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.idempotency_retention",
							"Sets how long an idempotency key is remembered; 0 means for ever.",
							NULL,
							&es_idempotency_retention,
							0, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.idle_append_timeout",
							"Sets how long a session may be idle in a transaction that has appended or holds streams; 0 means for ever.",
							"The coordinator ends longer ones: they hold the high-water mark back, and others wait for their streams.",
							&es_idle_append_timeout,
							ES_DEFAULT_IDLE_APPEND_TIMEOUT, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomStringVariable("event_store.import_key",
							   "Sets the idempotency key of imports: a second one with the same rows imports nothing.",
							   "Use SET LOCAL.",
							   &es_import_key,
							   "",
							   PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.mark_interval",
							"Sets how often the coordinator publishes the high-water mark at most.",
							NULL,
							&es_mark_interval,
							ES_DEFAULT_MARK_INTERVAL, 1, 60 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.mark_wait",
							"Sets how long a reader waits for open appends before it uses an older high-water mark.",
							NULL,
							&es_mark_wait,
							ES_DEFAULT_MARK_WAIT, 0, 60 * 60 * 1000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.max_batch",
							"Sets up to how many events a projection's batch grows, so that calls stay whole and a rebuild is fast.",
							"A single call of more events is one batch all the same.",
							&es_max_batch,
							ES_DEFAULT_MAX_BATCH, 1, INT_MAX / 2,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.max_categories",
							"Sets the number of categories that the store accepts.",
							"A stream is named category-id; many categories are a sign of ids in the wrong place.",
							&es_max_categories,
							ES_DEFAULT_MAX_CATEGORIES, 1, INT_MAX,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.max_event_types",
							"Sets the number of event types that the store accepts.",
							"Each session keeps the names that it has met; many types are a sign of ids in the wrong place.",
							&es_max_event_types,
							ES_DEFAULT_MAX_EVENT_TYPES, 1, INT_MAX,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.max_workers",
							"Sets the number of background workers that run a database's projections.",
							"They count against max_worker_processes, as do a launcher and a coordinator for each database.",
							&es_max_workers,
							ES_DEFAULT_MAX_WORKERS, 0, ES_SHARED_WORKERS,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("event_store.metadata",
							   "Sets a JSON object that is merged under the metadata of every append.",
							   "Use SET LOCAL; an append's own keys win.",
							   &es_metadata,
							   "",
							   PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("event_store.notify",
							 "Has the coordinator send NOTIFY event_store when the high-water mark has moved.",
							 NULL,
							 &es_notify,
							 true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.partition_size",
							"Sets the number of positions in a new partition of the log.",
							NULL,
							&es_partition_size,
							ES_DEFAULT_PARTITION_SIZE, ES_MIN_PARTITION_SIZE, INT_MAX,
							PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomIntVariable("event_store.poll_interval",
							"Sets after how long background workers look for work that nobody told them of.",
							NULL,
							&es_poll_interval,
							ES_DEFAULT_POLL_INTERVAL, 10, 60 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS, NULL, NULL, NULL);

	DefineCustomIntVariable("event_store.seal_interval",
							"Sets how often the coordinator has new events sealed; 0 means never.",
							NULL,
							&es_seal_interval,
							ES_DEFAULT_SEAL_INTERVAL, 0, 24 * 60 * 60,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.seal_size",
							"Sets the number of events that one seal covers at most.",
							NULL,
							&es_seal_size,
							ES_DEFAULT_SEAL_SIZE, 1, 1000000,
							PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomStringVariable("event_store.stamp",
							   "Sets what the server writes into the metadata of every event as \"$by\".",
							   "A list of session_user, application_name and client_addr.",
							   &es_stamp,
							   "",
							   PGC_SUSET, 0, check_stamp, assign_stamp, NULL);

	MarkGUCPrefixReserved("event_store");
}
