/*
 * state/snapshot_request.c
 *	  A load that had to replay many events requests a snapshot.
 *
 * A load must not write, and may run where nothing can be written. So it starts a background worker, which takes the
 * snapshot in a transaction of its own, and does not wait for it. A session starts at most one a second, and none where
 * there is no free worker slot: nothing depends on it. The session also counts the snapshots that it could not use; the
 * worker adds these counts to event_store.counters.
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
	int64		damaged;
	int64		outdated;
} SnapshotTask;

PGDLLEXPORT void es_snapshot_request_main(Datum arg);

static int64 noticed_damaged = 0;
static int64 noticed_outdated = 0;
static TimestampTz last_request = 0;

/* Notes a snapshot that was not used: damaged, or made under another definition. */
void
es_snapshot_note_unused(bool damaged)
{
	if (damaged)
		noticed_damaged++;
	else
		noticed_outdated++;
}

/* Requests a snapshot of a stream, to be taken in the background. It may never be. */
void
es_snapshot_request(int64 stream)
{
	SnapshotTask task;
	TimestampTz now = GetCurrentTimestamp();

	if (es_store_is_copy() || !IsUnderPostmaster ||
		!TimestampDifferenceExceeds(last_request, now, 1000))
		return;

	memset(&task, 0, sizeof(task));
	task.database = MyDatabaseId;
	task.stream = stream;
	task.damaged = noticed_damaged;
	task.outdated = noticed_outdated;
	last_request = now;
	if (es_worker_start("es_snapshot_request_main", "event_store snapshot taker", &task, sizeof(task), NULL))
		noticed_damaged = noticed_outdated = 0;
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
	if (stream != NULL && es_take_snapshot(stream) > 0)
		es_counter_add("snapshots_taken", 1);
	es_counter_add("snapshots_damaged", task.damaged);
	es_counter_add("snapshots_outdated", task.outdated);
	es_worker_end();
}
