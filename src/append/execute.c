/*
 * append/execute.c
 *	  Carrying out an append call.
 *
 * All calls take their locks in the same order: categories and event types that are inserted (sorted by name), the
 * key of es_append_batch, heads (sorted by stream name), and last the sequence of positions. Before the key, a worker
 * may make an epoch or a partition, in a transaction of its own. docs/internals/locks.md has the whole list.
 *
 * After the first position was allocated, a call only inserts rows and waits for nothing. So appenders that wait for
 * each other never hold the mark back. And whatever can be refused is refused before a position is allocated.
 */
#include "postgres.h"

#include <ctype.h>

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "append/append.h"
#include "append/call.h"
#include "append/execute.h"
#include "append/key.h"

/* What a wing above has registered to run at the end of each call, in its transaction: inline projections. */
static void (*after_append) (int64 first, int64 last) = NULL;

void
es_after_append(void (*callback) (int64 first, int64 last))
{
	Assert(after_append == NULL);
	after_append = callback;
}

static int
compare_event_ids(const void *a, const void *b, void *arg)
{
	const EsCall *call = arg;

	return memcmp(call->events[*(const int *) a].event.id.data, call->events[*(const int *) b].event.id.data,
				  UUID_LEN);
}

/* Refuses a call with the same event id twice. */
static void
check_ids(EsCall *call)
{
	int		   *ids;
	int			n = 0;

	if (call->id_count < 2)
		return;
	ids = MemoryContextAllocHuge(call->context, sizeof(int) * (Size) call->id_count);
	for (int i = 0; i < call->event_count; i++)
		if (call->events[i].has_id)
			ids[n++] = i;
	qsort_arg(ids, n, sizeof(int), compare_event_ids, call);
	for (int i = 1; i < n; i++)
		if (compare_event_ids(&ids[i - 1], &ids[i], call) == 0)
		{
			int			first = Min(ids[i - 1], ids[i]);
			int			second = Max(ids[i - 1], ids[i]);

			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("two events of one call have the same event id"),
					 errdetail("%s %s",
							   es_call_label(call, first), es_call_label(call, second))));
		}
	pfree(ids);
}

static int
compare_categories(const void *a, const void *b)
{
	const text *left = (*(EsCallStream *const *) a)->name;
	const text *right = (*(EsCallStream *const *) b)->name;

	return es_compare_bytes(VARDATA_ANY(left), es_category_length(left),
						 VARDATA_ANY(right), es_category_length(right));
}

/*
 * A stream to be locked, with the eight bytes of its name after what all names of the call have in common: see
 * lock_order().
 */
typedef struct OrderedStream
{
	uint64		key;
	EsCallStream *stream;
} OrderedStream;

static int
compare_streams(const void *a, const void *b)
{
	const OrderedStream *left = a;
	const OrderedStream *right = b;

	if (left->key != right->key)
		return left->key < right->key ? -1 : 1;
	return es_compare_names(left->stream->name, right->stream->name);
}

static int
compare_types(const void *a, const void *b)
{
	return es_compare_names((*(EsEvent *const *) a)->type, (*(EsEvent *const *) b)->type);
}

/* How many bytes at their beginning the names of all streams of a call have in common. */
static int
common_prefix(const EsCall *call)
{
	const text *first = call->streams[0].name;
	int			common = VARSIZE_ANY_EXHDR(first);

	for (int i = 1; i < call->stream_count && common > 0; i++)
	{
		const text *name = call->streams[i].name;
		int			same = 0;

		common = Min(common, (int) VARSIZE_ANY_EXHDR(name));
		while (same < common && VARDATA_ANY(first)[same] == VARDATA_ANY(name)[same])
			same++;
		common = same;
	}
	return common;
}

/*
 * The streams of a call sorted by name, which is the order in which all calls lock streams. `one` is used as the
 * result when there is only one stream.
 *
 * Most names of a call begin with the same bytes. So for speed, the eight bytes after these are compared first, as a
 * number. A name that is shorter is filled up with zeros.
 */
static OrderedStream *
lock_order(EsCall *call, OrderedStream *one)
{
	OrderedStream *order;
	int			prefix;

	if (call->stream_count <= 1)
	{
		one->stream = call->streams;
		one->key = 0;
		return one;
	}
	order = MemoryContextAllocHuge(call->context, sizeof(OrderedStream) * (Size) call->stream_count);
	prefix = common_prefix(call);
	for (int i = 0; i < call->stream_count; i++)
	{
		const text *name = call->streams[i].name;

		order[i].stream = &call->streams[i];
		order[i].key = 0;
		memcpy(&order[i].key, VARDATA_ANY(name) + prefix,
			   Min(sizeof(uint64), (Size) (VARSIZE_ANY_EXHDR(name) - prefix)));
		order[i].key = pg_ntoh64(order[i].key);
	}
	qsort(order, call->stream_count, sizeof(OrderedStream), compare_streams);
	return order;
}

/* The stream at a place of the order. The analyzer does not see that lock_order() has filled as many as there are streams. */
static inline EsCallStream *
nth(const OrderedStream *order, int i)
{
	return order[i].stream;		/* NOLINT(clang-analyzer-core.uninitialized.UndefReturn) */
}

/* Whether a stream is at the version that an element expects. */
static bool
fits(const EsCallStream *stream, const EsElement *element)
{
	switch (element->expected)
	{
		case ES_ANY:
			return true;
		case ES_EXISTS:
			return stream->head.version > 0;
		default:
			return stream->head.version == element->expected;
	}
}

/* So many elements are named in the DETAIL of YE001. */
#define NAMED_MISFITS	10

/* Raises YE001, and names the elements that do not fit. The heads of all streams are known. */
static void
wrong_versions(const EsCall *call)
{
	StringInfoData detail;
	const EsCallStream *first = call->streams;
	int			misfits = 0;

	initStringInfo(&detail);
	for (int e = 0; e < call->element_count; e++)
	{
		const EsElement *element = &call->elements[e];
		const EsCallStream *stream = &call->streams[element->stream];

		if (fits(stream, element))
			continue;
		if (misfits == 0)
			first = stream;
		if (misfits++ >= NAMED_MISFITS)
			continue;
		es_early_release_await(&stream->head);	/* the error reports its version, so that must be durable */
		appendStringInfo(&detail, "%sStream \"%s\" is at version %lld, expected version was %lld%s.",
						 misfits > 1 ? "\n" : "", text_to_cstring(stream->name), (long long) stream->head.version,
						 (long long) element->expected,
						 element->expected == 0 ? " (no stream)" :
						 element->expected == ES_EXISTS ? " (an existing stream)" : "");
	}
	if (misfits > NAMED_MISFITS)
		appendStringInfo(&detail, "\nAnd %d more.", misfits - NAMED_MISFITS);
	ereport(ERROR,
			(errcode(ES_WRONG_VERSION),
			 misfits > 1 ? errmsg("wrong expected version of %d streams", misfits) :
			 errmsg("wrong expected version of stream \"%s\"", text_to_cstring(first->name)),
			 errdetail_internal("%s", detail.data),
			 misfits > 1 ? errhint("Load the streams again and decide anew.") :
			 errhint("Load the stream again and decide anew.")));
}

/*
 * Finds the heads of the streams behind one in the order of locks, without their locks: what is committed. For the result of
 * a call that is refused before it has locked them all, so that it can say which others do not fit either.
 */
static void
look_behind(const EsCall *call, const OrderedStream *order, int last)
{
	Snapshot	snapshot;

	if (last == call->stream_count - 1)
		return;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	for (int i = last + 1; i < call->stream_count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!es_stream_find(nth(order, i)->name, snapshot, &nth(order, i)->head))
			memset(&nth(order, i)->head, 0, sizeof(EsHead));
	}
	UnregisterSnapshot(snapshot);
}

/*
 * Whether a try is refused already by what is committed. It is asked before names are made, which would stay behind. What may be
 * a retry is not asked: it may be known by then under a name that is new to us, and another one with its key is an error (YE002).
 */
static bool
cannot_fit(const EsCall *call, const OrderedStream *order)
{
	if (!call->tries || call->key_count > 0 || call->id_count > 0)
		return false;
	look_behind(call, order, -1);
	for (int e = 0; e < call->element_count; e++)
		if (!fits(&call->streams[call->elements[e].stream], &call->elements[e]))
			return true;
	return false;
}

/*
 * Gives every stream its category's id and every event its type's; makes those that are new in
 * order of name. Returns false when a try is refused.
 */
static bool
resolve_names(EsCall *call, const OrderedStream *order)
{
	EsCallStream **strangers = NULL;
	EsEvent   **missing = NULL;
	int			stranger_count = 0;
	int			missing_count = 0;

	for (int i = 0; i < call->stream_count; i++)
	{
		EsCallStream *stream = &call->streams[i];

		stream->category = es_name_find(ES_CATEGORY, VARDATA_ANY(stream->name),
										es_category_length(stream->name));
		/* A category that only a check names need not be there. */
		if (stream->category == 0 && stream->writes)
		{
			if (strangers == NULL)
				strangers = MemoryContextAllocHuge(call->context,
												   sizeof(EsCallStream *) * (Size) call->stream_count);
			strangers[stranger_count++] = stream;
		}
	}
	if (stranger_count > 0 && cannot_fit(call, order))
		return false;
	if (stranger_count > 0)
		qsort(strangers, stranger_count, sizeof(EsCallStream *), compare_categories);
	for (int i = 0; i < stranger_count; i++)
	{
		if (i > 0 && compare_categories(&strangers[i - 1], &strangers[i]) == 0)
			strangers[i]->category = strangers[i - 1]->category;
		else
			strangers[i]->category = es_name_make(ES_CATEGORY, VARDATA_ANY(strangers[i]->name),
												  es_category_length(strangers[i]->name));
	}

	for (int i = 0; i < call->event_count; i++)
	{
		EsEvent    *event = &call->events[i].event;
		const EsEvent *before = i > 0 ? &call->events[i - 1].event : NULL;

		/* Often several events of the same type follow each other. */
		if (before != NULL && before->type_id != 0 && es_compare_names(before->type, event->type) == 0)
			event->type_id = before->type_id;
		else
			event->type_id = es_name_find(ES_EVENT_TYPE, VARDATA_ANY(event->type),
										  VARSIZE_ANY_EXHDR(event->type));
		if (event->type_id == 0)
		{
			if (missing == NULL)
				missing = MemoryContextAllocHuge(call->context, sizeof(EsEvent *) * (Size) call->event_count);
			missing[missing_count++] = event;
		}
	}
	if (missing_count == 0)
		return true;
	if (cannot_fit(call, order))
		return false;
	qsort(missing, missing_count, sizeof(EsEvent *), compare_types);
	for (int i = 0; i < missing_count; i++)
	{
		if (i > 0 && compare_types(&missing[i - 1], &missing[i]) == 0)
			missing[i]->type_id = missing[i - 1]->type_id;
		else
			missing[i]->type_id = es_name_make(ES_EVENT_TYPE, VARDATA_ANY(missing[i]->type),
											   VARSIZE_ANY_EXHDR(missing[i]->type));
	}
	pfree(missing);
	return true;
}

/*
 * The greatest version of a stream with which the call can still succeed. Versions only grow, so when the committed
 * version is greater, the call will be refused whatever open transactions do. PG_INT64_MAX means that there is no
 * such limit. That is so as well if any element of the call may turn out to be a retry, because then versions are not
 * compared; but a try of one element looks whether it is one when it is beyond the limit, and needs no lock for that: what
 * it repeats is committed then, or is never appended.
 */
static int64
greatest_version(const EsCall *call, const EsCallStream *stream)
{
	const EsElement *element;

	if (stream->first_element < 0)
		return PG_INT64_MAX;	/* the call only reserves */
	element = &call->elements[stream->first_element];
	if (element->expected < 0)
		return PG_INT64_MAX;
	if ((call->key_count > 0 || call->batch_key != NULL || call->id_count > 0) && !(call->tries && call->element_count == 1))
		return PG_INT64_MAX;
	return element->expected;
}

/*
 * Makes the heads of streams first..last in the order of locks that are absent and will be written, with version 0.
 * Returns whether there were any.
 */
static bool
make_absent(EsHeads *heads, const OrderedStream *order, int first, int last)
{
	bool		made = false;

	for (int i = first; i <= last; i++)
	{
		EsCallStream *stream = nth(order, i);

		CHECK_FOR_INTERRUPTS();
		if (!stream->absent || !stream->writes)
			continue;
		es_head_identify(&stream->head, stream->category);
		es_head_insert(heads, stream->name, &stream->head);
		stream->absent = false;
		stream->made = true;
		made = true;
	}
	return made;
}

/* Whether a name is a UUID and nothing else, with its hyphens or without. */
static bool
is_bare_uuid(const text *name)
{
	const char *s = VARDATA_ANY(name);
	int			len = VARSIZE_ANY_EXHDR(name);

	if (len != 36 && len != 32)
		return false;
	for (int i = 0; i < len; i++)
		if (len == 36 && (i == 8 || i == 13 || i == 18 || i == 23) ? s[i] != '-' : !isxdigit((unsigned char) s[i]))
			return false;
	return true;
}

/*
 * Refuses a bare UUID as the name of a stream that is to be made. Its first part would be its category, one for each
 * stream: that works until there are too many categories, and streams cannot be renamed then.
 */
static void
check_new_name(const EsCallStream *stream)
{
	if (!stream->writes || es_bare_uuid_streams || !is_bare_uuid(stream->name))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("stream name \"%s\" is a UUID without a category", text_to_cstring(stream->name)),
			 errdetail("A stream is named category-id. This one would be of category \"%.*s\".",
					   es_category_length(stream->name), VARDATA_ANY(stream->name)),
			 errhint("Put a category before it, such as account-%s; or set event_store.bare_uuid_streams = on.",
					 text_to_cstring(stream->name))));
}

/*
 * Locks all streams: the heads of those that exist, the names of those that do not. Heads are made when the events are
 * written, so that a call which is refused or only checks writes nothing. But names are locked in the lock table, which
 * has room for so many. Where a call has more, it makes the heads of those so far, which come before the others in the
 * order of locks. Returns false when a try is refused; then not all are locked.
 */
static bool
lock_streams(EsCall *call, EsHeads *heads, const OrderedStream *order)
{
	bool		made = false;
	int			first = 0;		/* of the streams whose names may be held */

	for (int i = 0; i < call->stream_count; i++)
	{
		EsCallStream *stream = nth(order, i);

		switch (es_head_lock(heads, stream->name, greatest_version(call, stream), &stream->head))
		{
			case ES_HEAD_LOCKED:
				break;
			case ES_HEAD_ABSENT:
				check_new_name(stream);
				stream->absent = true;
				if (!es_absent_too_many())
					break;
				made |= make_absent(heads, order, first, i);
				first = i + 1;
				if (es_absent_too_many())
					es_absent_refuse(stream->name);
				break;
			case ES_HEAD_BEYOND:
				if (made)
					CommandCounterIncrement();
				look_behind(call, order, i);
				if (!call->tries)
					wrong_versions(call);
				return false;
		}
	}
	if (made)
		CommandCounterIncrement();	/* only a later command can update a row that was inserted */
	return true;
}

/* Compares the expected versions, under the locks. Returns false when a try is refused. */
static bool
check_versions(EsCall *call)
{
	for (int e = 0; e < call->element_count; e++)
	{
		if (fits(&call->streams[call->elements[e].stream], &call->elements[e]))
			continue;
		if (call->tries)
			return false;
		wrong_versions(call);
	}
	for (int s = 0; s < call->stream_count; s++)
		if (call->streams[s].head.version > PG_INT64_MAX - call->event_count)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("stream \"%s\" has no versions left", text_to_cstring(call->streams[s].name))));
	return true;
}

/*
 * A try is refused: fills in the results, which are those of the streams as they are. Names of streams that do not exist are
 * given back, for a transaction may hold only so many and may try for long. Heads stay locked to its end.
 */
static void
refuse(EsCall *call, EsHeads *heads, bool holds)
{
	call->refused = true;
	for (int s = 0; s < call->stream_count; s++)
	{
		EsCallStream *stream = &call->streams[s];

		if (stream->absent)
			es_head_give_back(stream->name);
		else if (stream->made)
			es_head_delete(heads, &stream->head);
	}
	for (int e = 0; e < call->element_count; e++)
	{
		EsElement  *element = &call->elements[e];
		EsCallStream *stream = &call->streams[element->stream];

		es_result_without_events(call, element, false);
		element->conflict = !fits(stream, element);
		es_early_release_await(&stream->head);	/* its version is reported, so that must be durable */
	}
	if (holds)
		es_hold_note();
}

/*
 * The recorded_at of all events of the call. It is now, but later than the last event of each stream and
 * later than the published floor. To be called after the positions were allocated; log/mark.c says why.
 */
static TimestampTz
stamp_call(EsCall *call, TimestampTz now)
{
	TimestampTz stamp = now;
	TimestampTz floor = es_mark_floor();

	if (!TIMESTAMP_NOT_FINITE(floor))
		stamp = Max(stamp, floor + 1);
	for (int s = 0; s < call->stream_count; s++)
		if (call->streams[s].writes && call->streams[s].head.version > 0)
			stamp = Max(stamp, call->streams[s].head.recorded_at + 1);
	return stamp;
}

/* Allocates the positions of all events: in their order, and above all of their streams. */
static void
allocate_positions(EsCall *call)
{
	int64		above = 0;

	for (int s = 0; s < call->stream_count; s++)
		if (call->streams[s].writes)
			above = Max(above, call->streams[s].head.last_position);
	for (int i = 0; i < call->event_count; i++)
	{
		if ((i & 1023) == 1023)
			CHECK_FOR_INTERRUPTS();
		above = call->events[i].event.position = es_position_allocate(above);
	}
	call->first_position = call->events[0].event.position;
	call->last_position = call->events[call->event_count - 1].event.position;
	if (call->last_position - call->first_position > PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the positions of one call are too far apart"),
				 errdetail("They run from %lld to %lld.", (long long) call->first_position,
						   (long long) call->last_position)));
}

/*
 * Writes the rows of all events. Changes the heads in memory, but does not write them yet. An event of which nobody has said
 * when it occurred has occurred now, by the clock: a stamp may be later, after somebody's clock was wrong.
 */
static void
write_events(EsCall *call, TimestampTz stamp, TimestampTz now)
{
	const pg_uuid_t store_id = es_store()->id;
	EsLogWriter *writer = es_log_writer_begin(call->event_count);
	EsHasher   *hasher = es_hasher_create();
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "event_store digest",
												  ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < call->event_count; i++)
	{
		EsCallEvent *asked = &call->events[i];
		EsEvent    *event = &asked->event;
		EsElement  *element = &call->elements[asked->element];
		EsCallStream *stream = &call->streams[element->stream];
		EsHead	   *head = &stream->head;
		MemoryContext old;

		head->version++;
		head->last_position = event->position;
		head->recorded_at = stamp;
		if (head->first_position == 0)
		{
			head->first_position = event->position;
			head->created_at = stamp;
		}

		if (!asked->has_id)
			es_event_id(&event->id, stamp);
		es_random_uuid(&event->salt);
		event->stream = stream->name;
		event->stream_id = head->id;
		event->category_id = stream->category;
		event->version = head->version;
		if (!asked->has_occurred_at)
			event->occurred_at = now;
		event->recorded_at = stamp;
		event->rest = (int32) (call->last_position - event->position);
		old = MemoryContextSwitchTo(scratch);
		es_event_digest(hasher, &store_id, event, head->digest);
		MemoryContextSwitchTo(old);
		MemoryContextReset(scratch);

		es_log_write(writer, event);

		element->version = event->version;
		element->position = event->position;
		element->recorded_at = stamp;
		if (element->first_position == 0)
			element->first_position = event->position;
	}
	es_hasher_free(hasher);
	MemoryContextDelete(scratch);
	es_log_writer_end(writer);
}

/* Stores the idempotency keys of the call. */
static void
store_keys(EsCall *call, const uint8 *batch_request, TimestampTz stamp)
{
	EsKeyRow	row;

	row.recorded_at = stamp;
	for (int e = 0; e < call->element_count; e++)
	{
		EsElement  *element = &call->elements[e];

		if (element->key == NULL)
			continue;
		memcpy(row.request, element->request, ES_DIGEST_LEN);
		row.version = element->version;
		row.first_position = element->first_position;
		row.last_position = element->position;
		es_key_store(call->streams[element->stream].head.id, element->key, &row);
	}
	if (call->batch_key != NULL)
	{
		memcpy(row.request, batch_request, ES_DIGEST_LEN);
		row.version = call->event_count;
		row.first_position = call->first_position;
		row.last_position = call->last_position;
		es_batch_key_store(call->batch_key, &row);
	}
}

/*
 * Takes what the calls of a statement will need, in the order of locks, before the first of them: names, the statement's
 * key if it has one (its request is what the rows are), and all streams. So two statements of several calls do not deadlock.
 * Streams that do not exist are made, at version 0. Returns true, and has taken no stream, when the statement is a retry.
 */
bool
es_call_reserve(EsCall *call, const uint8 *request)
{
	EsHeads		heads;
	OrderedStream one;
	OrderedStream *order = lock_order(call, &one);

	es_prevent_if_read_only("appending events");
	PreventCommandDuringRecovery("appending events");
	(void) es_store_now();
	es_epoch_prepare();
	(void) resolve_names(call, order);
	if (call->batch_key != NULL)
	{
		es_batch_key_lock(call->batch_key);
		if (es_replay_batch(call, request))
			return true;
	}
	es_heads_open(&heads, RowExclusiveLock);
	lock_streams(call, &heads, order);
	if (make_absent(&heads, order, 0, call->stream_count - 1))
		CommandCounterIncrement();
	es_heads_close(&heads);
	return false;
}

/*
 * Carries out a call in the caller's transaction, and fills in the results of its elements and of the call. Raises
 * YE001, YE002, YE009 and errors about the input before it has written any event.
 */
void
es_call_execute(EsCall *call)
{
	EsHeads		heads;
	OrderedStream one;
	OrderedStream *order;
	uint8		batch_request[ES_DIGEST_LEN];
	TimestampTz now;
	TimestampTz stamp;
	bool		locked;

	es_lock_prepare(call->source != ES_FROM_LOCK);
	check_ids(call);
	es_merge_settings(call);
	es_hash_requests(call, batch_request);

	order = lock_order(call, &one);
	if (call->event_count > 0)
		es_epoch_prepare();
	if (!resolve_names(call, order))
	{
		refuse(call, NULL, false);
		return;
	}
	if (call->event_count > 0)
		es_partition_prepare(call->event_count);
	if (call->batch_key != NULL)
	{
		es_batch_key_lock(call->batch_key);
		if (es_replay_batch(call, batch_request))
			return;
	}

	es_heads_open(&heads, RowExclusiveLock);
	locked = lock_streams(call, &heads, order);
	ES_FAULT(after_lock);
	if (es_replay_streams(call))
	{
		es_heads_close(&heads);
		if (locked)
			es_hold_note();
		return;
	}
	if (!locked || !check_versions(call))
	{
		refuse(call, &heads, locked || call->stream_count > 1);
		es_heads_close(&heads);
		return;
	}
	es_check_events(call);		/* after retries were found: what was accepted once is not checked again */
	if (call->event_count > 0)
	{
		allocate_positions(call);
		ES_FAULT(after_allocation);
		for (int i = 0; i < call->stream_count; i++)
			if (nth(order, i)->writes && nth(order, i)->absent)
				es_head_identify(&nth(order, i)->head, nth(order, i)->category);
		now = GetCurrentTimestamp();
		stamp = stamp_call(call, now);
		write_events(call, stamp, now);
		ES_FAULT(after_insert);
		for (int i = 0; i < call->stream_count; i++)
		{
			EsCallStream *stream = nth(order, i);

			if (stream->writes && stream->absent)
				es_head_insert(&heads, stream->name, &stream->head);
			else if (stream->writes)
				es_head_update(&heads, stream->name, &stream->head);
		}
		store_keys(call, batch_request, stamp);
	}
	for (int e = 0; e < call->element_count; e++)
		if (call->elements[e].events == 0)
		{
			es_result_without_events(call, &call->elements[e], false);

			/*
			 * What is reported must be durable. If the call has appended, our own commit will be behind it in the
			 * WAL, so there is no need to wait, and after positions were allocated nobody should.
			 */
			if (call->event_count == 0)
				es_early_release_await(&call->streams[call->elements[e].stream].head);
		}
	es_heads_close(&heads);
	CommandCounterIncrement();
	if (call->event_count == 0)
		es_hold_note();
	if (call->event_count > 0 && after_append != NULL)
		after_append(call->first_position, call->last_position);
}
