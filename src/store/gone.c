/*
 * store/gone.c
 *	  Functions that version 0.1 had. CREATE EXTENSION ... VERSION '0.1.0', which a dump of that version may ask for, names
 *	  their symbols, so that they must be there. Who calls one is told what to do.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"

#include "base/base.h"

#define GONE(function) \
	PG_FUNCTION_INFO_V1(function); \
	Datum \
	function(PG_FUNCTION_ARGS) \
	{ \
		raise_gone(#function); \
		PG_RETURN_NULL(); \
	}

static void
raise_gone(const char *function)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_FUNCTION),
			 errmsg("%s() is not part of this version of event_store", function),
			 errhint("Run ALTER EXTENSION event_store UPDATE, then SELECT es_upgrade_store().")));
}

GONE(es_pause_projection)
GONE(es_resume_projection)
GONE(es_retry_quarantined_subscription)
