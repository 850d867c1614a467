/*
 * state/snapshot_request.c
 *	  A load that had to replay many events requests a snapshot; one that met a snapshot that cannot be used has it
 *	  replaced.
 *
 * A load must not write, and may run where nothing can be written. So it starts a background worker, which takes the
 * snapshot in a transaction of its own, and does not wait for it. A session starts at most one a second of each kind, and
 * none where there is no free worker slot: nothing depends on it. The session also counts the snapshots that were made under
 * another definition; the worker adds this count to event_store.counters. It counts the unusable ones itself, when it replaces
 * them, so that each counts once however many loads have met it.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"
#include "state/snapshot_request.h"

/* What a worker is told, in bgw_extra. */
typedef struct SnapshotTask
{
	Oid			database;
	int64		stream;
	int64		unusable;		/* version of a snapshot to be replaced; 0: none */
	int64		outdated;
} SnapshotTask;

PGDLLEXPORT void es_snapshot_request_main(Datum arg);

static int64 noticed_outdated = 0;

/* Notes that a load found snapshots only of another definition. */
void
es_snapshot_note_outdated(void)
{
	noticed_outdated++;
}

/*
 * Requests a snapshot of a stream, to be taken in the background. It may never be. With unusable, first one of that version,
 * in place of one that cannot be used.
 */
void
es_snapshot_request(int64 stream, int64 unusable)
{
	static TimestampTz last_request[2] = {0, 0};
	TimestampTz *last = &last_request[unusable != 0];
	SnapshotTask task;
	TimestampTz now = GetCurrentTimestamp();

	if (es_store_is_copy() || !IsUnderPostmaster || !TimestampDifferenceExceeds(*last, now, 1000))
		return;

	memset(&task, 0, sizeof(task));
	task.database = MyDatabaseId;
	task.stream = stream;
	task.unusable = unusable;
	task.outdated = noticed_outdated;
	*last = now;
	if (es_worker_start("es_snapshot_request_main", "event_store snapshot taker", &task, sizeof(task), NULL))
		noticed_outdated = 0;
}

/* Entry of the worker. */
void
es_snapshot_request_main(Datum arg)
{
	SnapshotTask task;
	text	   *stream;

	memcpy(&task, MyBgworkerEntry->bgw_extra, sizeof(task));
	es_worker_begin(task.database, "taking a snapshot", 1000);
	stream = es_stream_name_stored(task.stream, GetActiveSnapshot());
	if (stream != NULL && task.unusable != 0)
		(void) es_take_snapshot(stream, task.unusable);
	if (stream != NULL && es_take_snapshot(stream, PG_INT64_MAX) > 0)
		es_counter_add("snapshots_taken", 1);
	es_counter_add("snapshots_outdated", task.outdated);
	es_worker_end();
}
