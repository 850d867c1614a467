/*
 * es_guc.c
 *	  The settings event_store.*, in alphabetical order.
 */
#include "postgres.h"

#include <limits.h>

#include "utils/guc.h"

#include "es_guc.h"

#define ES_DEFAULT_AS_OF_WAIT		1000
#define ES_DEFAULT_MARK_WAIT		100
#define ES_DEFAULT_MAX_CATEGORIES	10000
#define ES_DEFAULT_PARTITION_SIZE	10000000
#define ES_MIN_PARTITION_SIZE		100

int			es_as_of_wait = ES_DEFAULT_AS_OF_WAIT;
int			es_idempotency_retention = 0;
int			es_mark_wait = ES_DEFAULT_MARK_WAIT;
int			es_max_categories = ES_DEFAULT_MAX_CATEGORIES;
char	   *es_metadata = NULL;
int			es_partition_size = ES_DEFAULT_PARTITION_SIZE;

/* Defines the settings and reserves the prefix; called once, when the library is loaded. */
void
es_guc_init(void)
{
	DefineCustomIntVariable("event_store.as_of_wait",
							"Sets how long an as-of load waits until its time is final.",
							NULL,
							&es_as_of_wait,
							ES_DEFAULT_AS_OF_WAIT, 0, 60 * 60 * 1000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.idempotency_retention",
							"Sets how long an idempotency key is remembered; 0 means for ever.",
							NULL,
							&es_idempotency_retention,
							0, 0, INT_MAX,
							PGC_SUSET, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.mark_wait",
							"Sets how long a reader waits for open appends before it uses an older high-water mark.",
							NULL,
							&es_mark_wait,
							ES_DEFAULT_MARK_WAIT, 0, 60 * 60 * 1000,
							PGC_USERSET, GUC_UNIT_MS, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.max_categories",
							"Sets the number of categories that the store accepts.",
							"A stream is named category-id; many categories are a sign of ids in the wrong place.",
							&es_max_categories,
							ES_DEFAULT_MAX_CATEGORIES, 1, INT_MAX,
							PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("event_store.metadata",
							   "Sets a JSON object that is merged under the metadata of every append.",
							   "Use SET LOCAL; an append's own keys win.",
							   &es_metadata,
							   "",
							   PGC_USERSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.partition_size",
							"Sets the number of positions in a new partition of the log.",
							NULL,
							&es_partition_size,
							ES_DEFAULT_PARTITION_SIZE, ES_MIN_PARTITION_SIZE, INT_MAX,
							PGC_SUSET, 0, NULL, NULL, NULL);

	MarkGUCPrefixReserved("event_store");
}
