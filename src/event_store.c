/*
 * event_store.c
 *	  Library entry: what happens when the library is loaded. The tour of the source is README.md.
 */
#include "postgres.h"

#include "fmgr.h"

#include "es_define.h"
#include "es_fault.h"
#include "es_guard.h"
#include "es_guc.h"
#include "es_launcher.h"
#include "es_release.h"
#include "es_shared.h"
#include "es_store.h"
#include "es_xact.h"

PG_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	es_fault_init();
	es_guc_init();
	es_shared_init();
	es_guard_init();
	es_store_init();
	es_define_init();
	es_xact_init();
	es_release_init();
	es_launcher_init();
}
