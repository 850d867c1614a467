/*
 * store/trouble.c
 *	  What the coordinator could not do when it tried last, in event_store.duties: event_store.status shows it.
 *
 * The log says once that a duty fails. A row here says so for as long as it does. It is written when a duty begins to fail and
 * deleted when it works again, so as long as all is well nothing is written. A lock that is not to be had is tried for a second
 * before that. Where nothing can be written, for instance because the disk is full, only the log has it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"

/* Writes, in a transaction of its own, that a duty fails, or (error NULL) that it works; duty NULL: that all do. */
static bool
note(const char *duty, const ErrorData *error)
{
	Oid			types[3] = {TEXTOID, TEXTOID, TEXTOID};
	Datum		values[3];
	char		nulls[] = "   ";
	EsSql		sql;

	if (!es_process_begin(error != NULL ? "noting that a duty fails" : "noting that duties work"))
		return false;
	/* What the duty could not do must not wait for a standby, perhaps; this need not. */
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	(void) es_store_now();
	values[0] = CStringGetTextDatum(duty != NULL ? duty : "");
	nulls[0] = duty != NULL ? ' ' : 'n';
	es_sql_begin(&sql, es_store()->owner);
	if (error != NULL)
	{
		values[1] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
		values[2] = CStringGetTextDatum(error->message);
		es_sql_write_args("duties", "INSERT INTO event_store.duties (name, since, error_code, error)"
						  " VALUES ($1, clock_timestamp(), $2, $3)"
						  " ON CONFLICT (name) DO UPDATE SET error_code = excluded.error_code, error = excluded.error",
						  3, types, values, nulls);
	}
	else
		es_sql_write_args("duties", "DELETE FROM event_store.duties WHERE $1 IS NULL OR name = $1", 1, types, values, nulls);
	es_sql_end(&sql);
	es_process_end();
	return true;
}

/* Called once, when the library is loaded. */
void
es_trouble_init(void)
{
	es_duty_on_trouble(note);
}
