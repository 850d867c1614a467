/*
 * append/replay.c
 *	  Whether a call is a retry of a call that was carried out before.
 *
 * A retry is recognized by its idempotency key. Without a key, it is recognized if all its events have ids and an exact
 * expected version, and the events after that version have the same ids, types and data.
 *
 * This is looked up under the locks that make calls with the same key wait for each other. It is looked up before
 * expected versions are compared, because the expected version of a retry does not fit any more: the first call has
 * succeeded.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "log/log.h"
#include "append/call.h"
#include "append/execute.h"
#include "append/key.h"

static void
hash_event(EsHasher *hasher, const EsEvent *event)
{
	es_hash_string(hasher, VARDATA_ANY(event->type), VARSIZE_ANY_EXHDR(event->type));
	es_hash_int64(hasher, event->schema_version);
	es_hash_json(hasher, event->data);
}

/*
 * Computes the request digest of each element with a key, and that of a batch. Two requests are the same when the
 * types, data and schema versions of their events are, and of a batch the streams too. Ids, metadata and times are
 * not included, because a retry may have new ones.
 */
void
es_hash_requests(EsCall *call, uint8 *batch_request)
{
	EsHasher   *hasher = NULL;

	for (int e = 0; e < call->element_count; e++)
	{
		EsElement  *element = &call->elements[e];

		if (element->key == NULL)
			continue;
		if (hasher == NULL)
			hasher = es_hasher_create();
		es_hash_begin(hasher);
		for (int i = 0; i < element->events; i++)
			hash_event(hasher, &call->events[element->first + i].event);
		es_hash_end(hasher, element->request);
	}
	if (call->batch_key != NULL)
	{
		hasher = es_hasher_create();
		es_hash_begin(hasher);
		for (int i = 0; i < call->event_count; i++)
		{
			text	   *stream = call->streams[call->elements[call->events[i].element].stream].name;

			es_hash_string(hasher, VARDATA_ANY(stream), VARSIZE_ANY_EXHDR(stream));
			hash_event(hasher, &call->events[i].event);
		}
		es_hash_end(hasher, batch_request);
	}
	if (hasher != NULL)
		es_hasher_free(hasher);
}

/* Raises YE002. */
static void
key_reused(const text *key, const char *what)
{
	es_early_release_await_all();	/* the error reports that there was another request, so that must be durable */
	ereport(ERROR,
			(errcode(ES_KEY_REUSED),
			 errmsg("idempotency key \"%s\" was used for another request", text_to_cstring(key)),
			 errdetail("%s", what),
			 errhint("A retry repeats the types, data and schema versions of its events; a new request takes a new key.")));
}

/* Whether a call of es_append_batch is a retry, by its key. Fills in the call's result then. */
bool
es_replay_batch(EsCall *call, const uint8 *request)
{
	EsKeyRow	row;

	if (!es_batch_key_find(call->batch_key, &row))
		return false;
	if (memcmp(row.request, request, ES_DIGEST_LEN) != 0)
		key_reused(call->batch_key, call->source == ES_FROM_IMPORT ? "The first batch or import with this key had other rows." :
				   "The first batch or import with this key had other events.");
	es_early_release_await_all();
	call->replayed = true;
	call->replayed_events = row.version;
	call->first_position = row.first_position;
	call->last_position = row.last_position;
	return true;
}

static bool
same_data(Jsonb *a, Jsonb *b)
{
	return compareJsonbContainers(&a->root, &b->root) == 0;
}

/*
 * Whether the events after the expected version have the ids, types and data of the element's events. Then the call
 * is a retry of the one that wrote them. Fills in the element's result.
 */
static bool
replay_by_ids(EsCall *call, EsElement *element)
{
	EsCallStream *stream = &call->streams[element->stream];
	EsScan	   *scan;
	TupleTableSlot *slot;
	int			next = element->first;
	bool		same = true;

	if (stream->head.version - element->expected < element->events)
		return false;
	scan = es_scan_create(RegisterSnapshot(GetLatestSnapshot()));
	es_scan_stream(scan, stream->name, &stream->head, element->expected + 1,
				   element->expected + element->events);
	while (same && (slot = es_scan_next(scan)) != NULL)
	{
		const EsEvent *event;
		Datum		data;
		bool		isnull;

		event = &call->events[next].event;
		next = call->events[next].next;
		data = slot_getattr(slot, Anum_log_data, &isnull);
		same = !isnull &&
			memcmp(DatumGetUUIDP(es_row_column(slot, Anum_log_event_id))->data, event->id.data,
				   UUID_LEN) == 0 &&
			DatumGetInt32(es_row_column(slot, Anum_log_event_type)) == event->type_id &&
			same_data(DatumGetJsonbP(data), event->data);
		element->version = DatumGetInt64(es_row_column(slot, Anum_log_version));
		element->position = DatumGetInt64(es_row_column(slot, Anum_log_position));
		element->recorded_at = DatumGetTimestampTz(es_row_column(slot, Anum_log_recorded_at));
		if (element->first_position == 0)
			element->first_position = element->position;
	}
	es_scan_end(scan);
	if (!same)
		element->first_position = 0;
	return same;
}

/* Whether the element's key was used before. Fills in the element's result then. */
static bool
replay_by_key(EsCall *call, EsElement *element)
{
	Snapshot	snapshot = es_lookup_snapshot();
	EsCallStream *stream = &call->streams[element->stream];
	EsKeyRow	row;
	bool		found = es_key_find(stream->head.id, element->key, snapshot, &row);

	UnregisterSnapshot(snapshot);
	if (!found)
		return false;
	if (memcmp(row.request, element->request, ES_DIGEST_LEN) != 0)
		key_reused(element->key, psprintf("The first append with this key to stream \"%s\" had other events.",
										  text_to_cstring(stream->name)));
	element->version = row.version;
	element->first_position = row.first_position;
	element->position = row.last_position;
	element->recorded_at = row.recorded_at;
	return true;
}

/* Fills in the result of an element without events: its stream's version, position and time. */
void
es_result_without_events(EsCall *call, EsElement *element, bool replayed)
{
	const EsHead *head = &call->streams[element->stream].head;

	element->version = head->version;
	element->position = head->last_position;
	element->recorded_at = head->recorded_at;
	element->replayed = replayed;
}

/*
 * Whether the call is a retry; called when all heads are locked. If all elements with events are retries, returns
 * true with the results filled in, and nothing will be written. If none is, returns false. A mixture is refused.
 */
bool
es_replay_streams(EsCall *call)
{
	int			writing = 0;
	int			replayed = 0;
	EsElement  *keyed = NULL;

	for (int e = 0; e < call->element_count; e++)
	{
		EsElement  *element = &call->elements[e];
		EsCallStream *stream = &call->streams[element->stream];

		if (element->events == 0)
			continue;
		writing++;
		if (stream->head.version == 0)
			continue;
		if (element->key != NULL)
		{
			element->replayed = replay_by_key(call, element);
			if (element->replayed)
				keyed = element;
		}
		else if (element->expected >= 0 && stream->head.version != element->expected && element->ids == element->events)
			element->replayed = replay_by_ids(call, element);
		replayed += element->replayed;
	}
	if (replayed == 0)
		return false;
	if (replayed < writing)
	{
		if (keyed != NULL)
			key_reused(keyed->key, "Other elements of appends have keys that were not used before.");
		for (int e = 0; e < call->element_count; e++)
			call->elements[e].replayed = false;
		return false;			/* check_versions() will refuse the elements that do not fit */
	}

	for (int i = 0; i < call->stream_count; i++)
		es_early_release_await(&call->streams[i].head); /* its events are reported again, so they must be durable */
	call->replayed = true;
	call->replayed_events = call->event_count;
	for (int e = 0; e < call->element_count; e++)
	{
		EsElement  *element = &call->elements[e];

		if (element->events == 0)
			es_result_without_events(call, element, true);
		else
		{
			call->first_position = call->first_position == 0 ? element->first_position :
				Min(call->first_position, element->first_position);
			call->last_position = Max(call->last_position, element->position);
		}
	}
	return true;
}
