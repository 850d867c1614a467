/*
 * The ways to write and read events that are compared: one table at the end, and the functions that set their parameters.
 *
 * To add a way, add a line to the table (and a bind function if no present one fits), and name it in run.sh's cells.
 */
#include "bench.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define TEXTOID 25
#define VARCHAROID 1043
#define JSONBOID 3802

/* ---- parameters ---- */

static Buf *
param_add(Params *p, int format)
{
	Buf		   *b = &p->value[p->count];

	p->format[p->count] = format;
	p->is_null[p->count] = false;
	p->count++;
	buf_reset(b);
	return b;
}

static void
param_text(Params *p, const char *text)
{
	buf_bytes(param_add(p, 0), text, strlen(text));
}

static void
param_json(Params *p, const Buf *json)
{
	buf_bytes(param_add(p, 0), json->data, json->len);
}

void
stream_name(const Variant *v, int stream, char out[64])
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(out, 64, v->stream_format, stream);
#pragma GCC diagnostic pop
}

static int
stream_of_event(const Variant *v, const Workload *w, Rng *r, int stream)
{
	return v->scattered ? (int) rng_below(r, (uint64_t) w->streams) : stream;
}

static void
param_number(Params *p, long long number)
{
	buf_printf(param_add(p, 0), "%lld", number);
}

/* ---- ours ---- */

/* es_append(stream, expected, type, data, metadata) */
static void
append_params(const Variant *v, const Workload *w, Rng *r, int stream, Params *p, bool exact)
{
	const Payload *e = payload_any(r);
	char		name[64];

	stream_name(v, stream_of_event(v, w, r, stream), name);
	param_text(p, name);
	param_number(p, exact ? p->number : -2);
	param_text(p, e->type);
	param_json(p, &e->data);
	param_json(p, &e->metadata);
}

static void
bind_es_append(const Variant *v, const Workload *w, Rng *r, int stream, Params *p)
{
	append_params(v, w, r, stream, p, false);
}

static void
bind_es_exact(const Variant *v, const Workload *w, Rng *r, int stream, Params *p)
{
	append_params(v, w, r, stream, p, true);
}

/* A page: the position read up to, how many */
static void
bind_page(const Variant *v, const Workload *w, Rng *r, int stream, Params *p)
{
	(void) v, (void) r, (void) stream;
	param_number(p, p->number);
	param_number(p, w->batch);
}

/* stream, type, data, metadata as lines of COPY's text format; nothing in them needs a backslash */
static void
bind_es_import(const Variant *v, const Workload *w, Rng *r, int stream, Params *p)
{
	Buf		   *lines = param_add(p, 0);

	for (int i = 0; i < w->batch; i++)
	{
		const Payload *e = payload_any(r);
		char		name[64];

		stream_name(v, stream_of_event(v, w, r, stream), name);
		buf_printf(lines, "%s\t%s\t", name, e->type);
		buf_bytes(lines, e->data.data, e->data.len);
		buf_printf(lines, "\t");
		buf_bytes(lines, e->metadata.data, e->metadata.len);
		buf_printf(lines, "\n");
	}
}

/* es_append(stream, -2, '[{"type", "data", "metadata"}, ...]') */
static void
bind_es_append_events(const Variant *v, const Workload *w, Rng *r, int stream, Params *p)
{
	Buf		   *json;
	char		name[64];

	stream_name(v, stream, name);
	param_text(p, name);
	param_number(p, -2);
	json = param_add(p, 0);
	for (int i = 0; i < w->batch; i++)
	{
		const Payload *e = payload_any(r);

		buf_printf(json, "%s{\"type\":\"%s\",\"data\":", i == 0 ? "[" : ",", e->type);
		buf_bytes(json, e->data.data, e->data.len);
		buf_printf(json, ",\"metadata\":");
		buf_bytes(json, e->metadata.data, e->metadata.len);
		buf_printf(json, "}");
	}
	buf_printf(json, "]");
}

/* The four arrays that es_append_batch and the unnest of Message DB have in common. */
static void
bind_arrays(const Variant *v, const Workload *w, Rng *r, int stream, Params *p, uint32_t text_type)
{
	Buf		   *streams = param_add(p, 1);
	Buf		   *types = param_add(p, 1);
	Buf		   *data = param_add(p, 1);
	Buf		   *metadata = param_add(p, 1);

	buf_array_begin(streams, text_type, w->batch);
	buf_array_begin(types, text_type, w->batch);
	buf_array_begin(data, JSONBOID, w->batch);
	buf_array_begin(metadata, JSONBOID, w->batch);
	for (int i = 0; i < w->batch; i++)
	{
		const Payload *e = payload_any(r);
		char		name[64];

		stream_name(v, stream_of_event(v, w, r, stream), name);
		buf_array_item(streams, name, strlen(name));
		buf_array_item(types, e->type, strlen(e->type));
		buf_array_jsonb(data, e->data.data, e->data.len);
		buf_array_jsonb(metadata, e->metadata.data, e->metadata.len);
	}
}

static void
bind_es_append_batch(const Variant *v, const Workload *w, Rng *r, int stream, Params *p)
{
	bind_arrays(v, w, r, stream, p, TEXTOID);
}

/* ---- Message DB ---- */

/* write_message(id, stream_name, type, data, metadata); time-ordered ids, which suit its index on them best */
static void
bind_mdb_write(const Variant *v, const Workload *w, Rng *r, int stream, Params *p)
{
	const Payload *e = payload_any(r);
	char		name[64];
	char		id[37];

	rng_uuid_v7(r, id);
	stream_name(v, stream_of_event(v, w, r, stream), name);
	param_text(p, id);
	param_text(p, name);
	param_text(p, e->type);
	param_json(p, &e->data);
	param_json(p, &e->metadata);
}

static void
bind_mdb_exact(const Variant *v, const Workload *w, Rng *r, int stream, Params *p)
{
	bind_mdb_write(v, w, r, stream, p);
	param_number(p, p->number);
}

static void
bind_mdb_unnest(const Variant *v, const Workload *w, Rng *r, int stream, Params *p)
{
	Buf		   *ids;

	bind_arrays(v, w, r, stream, p, VARCHAROID);
	ids = param_add(p, 1);
	buf_array_begin(ids, VARCHAROID, w->batch);
	for (int i = 0; i < w->batch; i++)
	{
		char		id[37];

		rng_uuid_v7(r, id);
		buf_array_item(ids, id, 36);
	}
}

/* ---- Emmett ---- */

static void
array_of_texts(Buf *array, const char *text, int count)
{
	buf_array_begin(array, TEXTOID, count);
	for (int i = 0; i < count; i++)
		buf_array_item(array, text, strlen(text));
}

/* emt_append_to_stream(ids, data, metadata, schema versions, types, kinds, stream, stream type, ...) */
static void
bind_emmett(const Variant *v, const Workload *w, Rng *r, int stream, Params *p)
{
	Buf		   *ids = param_add(p, 1);
	Buf		   *data = param_add(p, 1);
	Buf		   *metadata = param_add(p, 1);
	Buf		   *schema_versions = param_add(p, 1);
	Buf		   *types = param_add(p, 1);
	Buf		   *kinds = param_add(p, 1);
	char		text[64];

	array_of_texts(schema_versions, "1", w->batch);
	array_of_texts(kinds, "E", w->batch);
	buf_array_begin(ids, TEXTOID, w->batch);
	buf_array_begin(types, TEXTOID, w->batch);
	buf_array_begin(data, JSONBOID, w->batch);
	buf_array_begin(metadata, JSONBOID, w->batch);
	for (int i = 0; i < w->batch; i++)
	{
		const Payload *e = payload_any(r);

		rng_uuid_v7(r, text);
		buf_array_item(ids, text, 36);
		buf_array_item(types, e->type, strlen(e->type));
		buf_array_jsonb(data, e->data.data, e->data.len);
		buf_array_jsonb(metadata, e->metadata.data, e->metadata.len);
	}
	stream_name(v, stream, text);
	param_text(p, text);
	param_text(p, "account");
}

/* ---- hand-written tables ---- */

/* stream, type, data, metadata */
static void
bind_classic(const Variant *v, const Workload *w, Rng *r, int stream, Params *p)
{
	const Payload *e = payload_any(r);
	char		name[64];

	stream_name(v, stream_of_event(v, w, r, stream), name);
	param_text(p, name);
	param_text(p, e->type);
	param_json(p, &e->data);
	param_json(p, &e->metadata);
}

/*
 * Lines of stream number, version, type, data, metadata. A loader knows the versions; here the clock makes them, so that
 * each is behind the last one of its stream, as in the other stores.
 */
static void
bind_copy(const Variant *v, const Workload *w, Rng *r, int stream, Params *p)
{
	Buf		   *lines = param_add(p, 0);
	struct timespec now;
	long long	version;

	clock_gettime(CLOCK_REALTIME, &now);
	version = ((long long) now.tv_sec * 1000000 + now.tv_nsec / 1000) * 1000;
	for (int i = 0; i < w->batch; i++)
	{
		const Payload *e = payload_any(r);

		buf_printf(lines, "%d\t%lld\t%s\t", stream_of_event(v, w, r, stream), version + i, e->type);
		buf_bytes(lines, e->data.data, e->data.len);
		buf_printf(lines, "\t");
		buf_bytes(lines, e->metadata.data, e->metadata.len);
		buf_printf(lines, "\n");
	}
}

/* ---- the machine ---- */

static void
bind_nothing(const Variant *v, const Workload *w, Rng *r, int stream, Params *p)
{
	(void) v, (void) w, (void) r, (void) stream, (void) p;
}

/* ---- the table ---- */

#define ES_LAST "SELECT coalesce((SELECT position FROM event_store.events ORDER BY position DESC LIMIT 1), 0)"
#define ES_GROWN "SELECT count(*) FROM event_store.events WHERE position > $1"

static const Store event_store = {"event_store", "app", ES_LAST, ES_GROWN, true};
static const Store event_store_reads = {"event_store", "reader", ES_LAST, ES_GROWN, true};
static const Store event_store_import = {"event_store", "importer", ES_LAST, ES_GROWN, true};
static const Store message_db = {
	"message_store", "message_store",
	"SELECT coalesce((SELECT global_position FROM messages ORDER BY global_position DESC LIMIT 1), 0)",
	"SELECT count(*) FROM messages WHERE global_position > $1",
	true
};
/* It has no index on the global position. */
static const Store emmett = {
	"peers", "peer",
	"SELECT count(*) FROM emt_messages", "SELECT count(*) - $1::bigint FROM emt_messages",
	true
};
static const Store classic = {
	"peers", "peer",
	"SELECT max(recorded_at) FROM classic", "SELECT count(*) FROM classic WHERE recorded_at > $1",
	true
};
static const Store copied = {
	"peers", "peer",
	"SELECT max(position) FROM copied", "SELECT count(*) FROM copied WHERE position > $1",
	true
};
static const Store counter = {
	"peers", "peer",
	"SELECT n FROM counter", "SELECT n - $1::bigint FROM counter",
	true
};

/* Transaction ids; whatever else the server does may take some too. */
static const Store transactions = {
	"event_store", "app",
	"SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint",
	"SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint - $1::bigint",
	false
};

#define ACCOUNT "account-%07d"
/* Message DB takes a lock a category: here every stream has its own. The length is that of ACCOUNT. */
#define OWN_CATEGORY "acc%07d-main"
/* The one stream that all clients append to; in a category of its own. */
#define HOT "hottest-%07d"
/* What few of the events are in: run.sh strews them over the log. */
#define RARE "rare-%07d"

/* A transaction id alone writes no record, and such a commit is not flushed; this writes the shortest record there is. */
#define COMMIT_ONLY "SELECT pg_logical_emit_message(true, '', '')"
#define ES_APPEND "SELECT version, position FROM es_append($1::text, $2::bigint, $3::text, $4::jsonb, $5::jsonb)"
#define ES_CONFLICT "YE001"
#define MDB_WRITE "SELECT write_message($1, $2, $3, $4, $5)"
#define MDB_UNNEST "SELECT write_message(id, stream, type, data, metadata)" \
	" FROM unnest($1::varchar[], $2::varchar[], $3::jsonb[], $4::jsonb[], $5::varchar[])" \
	" AS e(stream, type, data, metadata, id)"
#define MDB_CONFLICT "P0001"
/* Without an expected version: what its client sends. It fails, or says false, if the stream was appended to meanwhile. */
#define EMMETT_APPEND "SELECT success FROM emt_append_to_stream($1::text[], $2::jsonb[], $3::jsonb[], $4::text[]," \
	" $5::text[], $6::text[], $7::text, $8::text, NULL::bigint, 'emt:default')"
#define UNIQUE_VIOLATION "23505"
#define COPY_LINES "COPY copied (stream, version, event_type, data, metadata) FROM STDIN"
/* The columns that both have */
#define ES_COLUMNS "position, event_id, stream, version, event_type, data, metadata, recorded_at"
#define MDB_COLUMNS "global_position, id, stream_name, position, type, data, metadata, time"

static const Variant variants[] = {
	{
		.name = "commit-only", .label = "empty durable commit", .side = "limit", .work = "append",
		.store = &transactions, .shape = SHAPE_STATEMENT, .stream_format = ACCOUNT,
		.sql = COMMIT_ONLY,
		.bind = bind_nothing
	},
	{
		.name = "es-append", .label = "es_append", .side = "ours", .work = "append",
		.store = &event_store, .shape = SHAPE_STATEMENT, .stream_format = ACCOUNT,
		.sql = ES_APPEND,
		.bind = bind_es_append
	},
	{
		.name = "es-hot", .label = "es_append", .side = "ours", .work = "hot",
		.store = &event_store, .shape = SHAPE_STATEMENT, .stream_format = HOT,
		.sql = ES_APPEND,
		.bind = bind_es_append
	},
	{
		.name = "es-exact", .label = "es_append", .side = "ours", .work = "exact",
		.store = &event_store, .shape = SHAPE_EXACT, .stream_format = HOT,
		.sql = ES_APPEND,
		.version_sql = "SELECT es_stream_version($1)",
		.lost_state = ES_CONFLICT,
		.bind = bind_es_exact
	},
	{
		.name = "es-append-late", .label = "es_append, locks held until flushed", .side = "ours", .work = "append",
		.store = &event_store, .shape = SHAPE_STATEMENT, .late = true, .stream_format = ACCOUNT,
		.sql = ES_APPEND,
		.bind = bind_es_append
	},
	{
		.name = "es-hot-late", .label = "es_append, locks held until flushed", .side = "ours", .work = "hot",
		.store = &event_store, .shape = SHAPE_STATEMENT, .late = true, .stream_format = HOT,
		.sql = ES_APPEND,
		.bind = bind_es_append
	},
	{
		.name = "es-exact-late", .label = "es_append, locks held until flushed", .side = "ours", .work = "exact",
		.store = &event_store, .shape = SHAPE_EXACT, .late = true, .stream_format = HOT,
		.sql = ES_APPEND,
		.version_sql = "SELECT es_stream_version($1)",
		.lost_state = ES_CONFLICT,
		.bind = bind_es_exact
	},
	{
		.name = "es-pipeline", .label = "es_append, pipelined calls", .side = "ours", .work = "append",
		.store = &event_store, .shape = SHAPE_PIPELINE, .stream_format = ACCOUNT,
		.sql = ES_APPEND,
		.bind = bind_es_append
	},
	{
		.name = "es-events", .label = "es_append, JSON array", .side = "ours", .work = "append",
		.store = &event_store, .shape = SHAPE_STATEMENT, .stream_format = ACCOUNT,
		.sql = "SELECT version, position FROM es_append($1::text, $2::bigint, $3::jsonb)",
		.bind = bind_es_append_events
	},
	{
		.name = "es-batch", .label = "es_append_batch", .side = "ours", .work = "append",
		.store = &event_store, .shape = SHAPE_STATEMENT, .scattered = true, .stream_format = ACCOUNT,
		.sql = "SELECT events, last_position FROM es_append_batch($1::text[], $2::text[], $3::jsonb[], $4::jsonb[])",
		.bind = bind_es_append_batch
	},
	{
		.name = "es-fill-rare", .label = "es_append_batch, a rare category", .side = "ours", .work = "append",
		.store = &event_store, .shape = SHAPE_STATEMENT, .scattered = true, .stream_format = RARE,
		.sql = "SELECT events, last_position FROM es_append_batch($1::text[], $2::text[], $3::jsonb[], $4::jsonb[])",
		.bind = bind_es_append_batch
	},
	{
		.name = "mdb-fill-rare", .label = "Message DB, calls over unnest, a rare category", .side = "theirs", .work = "append",
		.store = &message_db, .shape = SHAPE_STATEMENT, .scattered = true, .stream_format = RARE,
		.sql = MDB_UNNEST,
		.bind = bind_mdb_unnest
	},
	{
		.name = "es-import", .label = "COPY event_store.import", .side = "ours", .work = "append",
		.store = &event_store_import, .shape = SHAPE_COPY, .scattered = true, .stream_format = ACCOUNT,
		.sql = "COPY event_store.import (stream, event_type, data, metadata) FROM STDIN",
		.bind = bind_es_import
	},
	{
		.name = "es-read-all", .label = "es_read_all", .side = "ours", .work = "read",
		.store = &event_store_reads, .shape = SHAPE_READ, .stream_format = ACCOUNT,
		.sql = "SELECT " ES_COLUMNS " FROM es_read_all($1, $2)",
		.bind = bind_page
	},
	{
		.name = "es-read-category", .label = "es_read_category", .side = "ours", .work = "read",
		.store = &event_store_reads, .shape = SHAPE_READ, .stream_format = ACCOUNT,
		.sql = "SELECT " ES_COLUMNS " FROM es_read_category('account', $1, $2)",
		.bind = bind_page
	},
	{
		.name = "es-read-rare", .label = "es_read_category", .side = "ours", .work = "read-rare",
		.store = &event_store_reads, .shape = SHAPE_READ, .stream_format = RARE,
		.sql = "SELECT " ES_COLUMNS " FROM es_read_category('rare', $1, $2)",
		.bind = bind_page
	},
	{
		.name = "es-read-type", .label = "es_read_all, of one type", .side = "ours", .work = "read-type",
		.store = &event_store_reads, .shape = SHAPE_READ, .stream_format = ACCOUNT,
		.sql = "SELECT " ES_COLUMNS " FROM es_read_all($1, $2, ARRAY['MoneyDeposited'])",
		.bind = bind_page
	},
	{
		.name = "mdb-write", .label = "Message DB", .side = "theirs", .work = "append",
		.store = &message_db, .shape = SHAPE_STATEMENT, .stream_format = ACCOUNT,
		.sql = MDB_WRITE,
		.bind = bind_mdb_write
	},
	{
		.name = "mdb-write-own", .label = "Message DB, a category a stream", .side = "theirs", .work = "append",
		.store = &message_db, .shape = SHAPE_STATEMENT, .stream_format = OWN_CATEGORY,
		.sql = MDB_WRITE,
		.bind = bind_mdb_write
	},
	{
		.name = "mdb-hot", .label = "Message DB", .side = "theirs", .work = "hot",
		.store = &message_db, .shape = SHAPE_STATEMENT, .stream_format = HOT,
		.sql = MDB_WRITE,
		.bind = bind_mdb_write
	},
	{
		.name = "mdb-exact", .label = "Message DB", .side = "theirs", .work = "exact",
		.store = &message_db, .shape = SHAPE_EXACT, .stream_format = HOT,
		.sql = "SELECT write_message($1, $2, $3, $4, $5, $6)",
		.version_sql = "SELECT coalesce(stream_version($1), -1)",
		.lost_state = MDB_CONFLICT,
		.bind = bind_mdb_exact
	},
	{
		.name = "mdb-txn", .label = "Message DB, calls in a transaction", .side = "theirs", .work = "append",
		.store = &message_db, .shape = SHAPE_TRANSACTION, .stream_format = ACCOUNT,
		.sql = MDB_WRITE,
		.bind = bind_mdb_write
	},
	{
		.name = "mdb-pipeline", .label = "Message DB, pipelined calls", .side = "theirs", .work = "append",
		.store = &message_db, .shape = SHAPE_PIPELINE, .stream_format = ACCOUNT,
		.sql = MDB_WRITE,
		.bind = bind_mdb_write
	},
	{
		.name = "mdb-unnest", .label = "Message DB, calls over unnest", .side = "theirs", .work = "append",
		.store = &message_db, .shape = SHAPE_STATEMENT, .stream_format = ACCOUNT,
		.sql = MDB_UNNEST,
		.bind = bind_mdb_unnest
	},
	{
		.name = "mdb-txn-scattered", .label = "Message DB, calls in a transaction", .side = "theirs", .work = "append",
		.store = &message_db, .shape = SHAPE_TRANSACTION, .scattered = true, .stream_format = ACCOUNT,
		.sql = MDB_WRITE,
		.bind = bind_mdb_write
	},
	{
		.name = "mdb-pipeline-scattered", .label = "Message DB, pipelined calls", .side = "theirs", .work = "append",
		.store = &message_db, .shape = SHAPE_PIPELINE, .scattered = true, .stream_format = ACCOUNT,
		.sql = MDB_WRITE,
		.bind = bind_mdb_write
	},
	{
		.name = "mdb-unnest-scattered", .label = "Message DB, calls over unnest", .side = "theirs", .work = "append",
		.store = &message_db, .shape = SHAPE_STATEMENT, .scattered = true, .stream_format = ACCOUNT,
		.sql = MDB_UNNEST,
		.bind = bind_mdb_unnest
	},
	{
		.name = "mdb-read", .label = "Message DB, get_category_messages", .side = "theirs", .work = "read",
		.store = &message_db, .shape = SHAPE_READ, .stream_format = ACCOUNT,
		.sql = "SELECT " MDB_COLUMNS " FROM get_category_messages('account', $1::bigint + 1, $2)",
		.bind = bind_page
	},
	{
		.name = "mdb-read-rare", .label = "Message DB, get_category_messages", .side = "theirs", .work = "read-rare",
		.store = &message_db, .shape = SHAPE_READ, .stream_format = RARE,
		.sql = "SELECT " MDB_COLUMNS " FROM get_category_messages('rare', $1::bigint + 1, $2)",
		.bind = bind_page
	},
	{
		.name = "mdb-read-type", .label = "Message DB, get_category_messages with a condition", .side = "theirs", .work = "read-type",
		.store = &message_db, .shape = SHAPE_READ, .stream_format = ACCOUNT,
		.sql = "SELECT " MDB_COLUMNS " FROM get_category_messages('account', $1::bigint + 1, $2,"
		" condition => 'type = ''MoneyDeposited''')",
		.bind = bind_page
	},
	{
		.name = "emmett", .label = "Emmett's function", .side = "theirs", .work = "append",
		.store = &emmett, .shape = SHAPE_STATEMENT, .stream_format = ACCOUNT,
		.sql = EMMETT_APPEND,
		.lost_state = UNIQUE_VIOLATION, .lost_is_false = true,
		.bind = bind_emmett
	},
	{
		.name = "classic", .label = "hand-written INSERT", .side = "theirs", .work = "append",
		.store = &classic, .shape = SHAPE_STATEMENT, .stream_format = ACCOUNT,
		.sql = "INSERT INTO classic (stream, version, event_type, data, metadata)"
		" SELECT $1::text, coalesce(max(version), 0) + 1, $2, $3::jsonb, $4::jsonb FROM classic WHERE stream = $1",
		.lost_state = UNIQUE_VIOLATION,
		.bind = bind_classic
	},
	{
		.name = "copy", .label = "COPY", .side = "theirs", .work = "append",
		.store = &copied, .shape = SHAPE_COPY, .stream_format = ACCOUNT,
		.sql = COPY_LINES,
		.bind = bind_copy
	},
	{
		.name = "copy-scattered", .label = "COPY", .side = "theirs", .work = "append",
		.store = &copied, .shape = SHAPE_COPY, .scattered = true, .stream_format = ACCOUNT,
		.sql = COPY_LINES,
		.bind = bind_copy
	},
	{
		.name = "update", .label = "bare UPDATE of one row", .side = "theirs", .work = "hot",
		.store = &counter, .shape = SHAPE_STATEMENT, .stream_format = ACCOUNT,
		.sql = "UPDATE counter SET n = n + 1 WHERE id = 1",
		.bind = bind_nothing
	},
};

#define VARIANTS (sizeof(variants) / sizeof(variants[0]))

const Variant *
variant_find(const char *name)
{
	for (size_t i = 0; i < VARIANTS; i++)
		if (strcmp(variants[i].name, name) == 0)
			return &variants[i];
	return NULL;
}

void
variants_print(void)
{
	for (size_t i = 0; i < VARIANTS; i++)
		printf("%-24s %-10s %s%s\n", variants[i].name, variants[i].work, variants[i].label,
			   variants[i].scattered ? ", a random stream an event" : "");
}
