/*
 * event_store.c
 *	  Library entry: what happens when the library is loaded. The tour of the source is README.md.
 */
#include "postgres.h"

#include "fmgr.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"
#include "append/append.h"
#include "projection/projection.h"
#include "subscription/subscription.h"
#include "proof/proof.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	es_fault_init();
	es_settings_init();
	es_temporary_init();
	es_shared_init();
	es_handout_init();
	es_store_init();
	es_subscriber_init();
	es_trouble_init();
	es_log_init();
	es_state_init();
	es_projection_init();
	es_subscription_init();

	/* What the coordinator does, in this order. */
	es_publisher_init();
	es_idle_appender_init();
	es_partition_init();
	es_key_init();
	es_run_init();
	es_seal_init();
	es_snapshot_worker_init();

	es_launcher_init();
}
