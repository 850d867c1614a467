/*
 * event_store.c
 *	  Library entry: what happens when the library is loaded. The tour of the source is README.md.
 */
#include "postgres.h"

#include "fmgr.h"

#include "state/definition.h"
#include "base/fault.h"
#include "projection/guard.h"
#include "base/settings.h"
#include "worker/launcher.h"
#include "log/early_release.h"
#include "base/shared.h"
#include "store/location.h"
#include "log/transaction.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	es_fault_init();
	es_settings_init();
	es_shared_init();
	es_guard_init();
	es_store_init();
	es_define_init();
	es_transaction_init();
	es_early_release_init();
	es_launcher_init();
}
