/*
 * The ways to write events that are compared: one table at the end, and the functions that set their parameters.
 *
 * To add a way, add a line to the table (and a bind function if no present one fits), and name it in run.sh's cells.
 */
#include "bench.h"

#include <stdio.h>
#include <string.h>

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

static void
param_null(Params *p)
{
	param_add(p, 0);
	p->is_null[p->count - 1] = true;
}

static void
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

/* ---- ours ---- */

/* es_append(stream, NULL, type, data, metadata) */
static void
bind_es_append(const Variant *v, const Workload *w, Rng *r, int stream, Params *p)
{
	const Payload *e = payload_any(r);
	char		name[64];

	stream_name(v, stream_of_event(v, w, r, stream), name);
	param_text(p, name);
	param_null(p);
	param_text(p, e->type);
	param_json(p, &e->data);
	param_json(p, &e->metadata);
}

/* es_append(stream, NULL, '[{"type", "data", "metadata"}, ...]') */
static void
bind_es_append_events(const Variant *v, const Workload *w, Rng *r, int stream, Params *p)
{
	Buf		   *json;
	char		name[64];

	stream_name(v, stream, name);
	param_text(p, name);
	param_null(p);
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

/* ---- the machine ---- */

static void
bind_nothing(const Variant *v, const Workload *w, Rng *r, int stream, Params *p)
{
	(void) v, (void) w, (void) r, (void) stream, (void) p;
}

/* ---- the table ---- */

static const Store event_store = {
	"event_store", "app",
	"SELECT coalesce((SELECT position FROM event_store.events ORDER BY position DESC LIMIT 1), 0)",
	"SELECT count(*) FROM event_store.events WHERE position > $1",
	true
};
static const Store message_db = {
	"message_store", "message_store",
	"SELECT coalesce((SELECT global_position FROM messages ORDER BY global_position DESC LIMIT 1), 0)",
	"SELECT count(*) FROM messages WHERE global_position > $1",
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

/* A transaction id alone writes no record, and such a commit is not flushed; this writes the shortest record there is. */
#define COMMIT_ONLY "SELECT pg_logical_emit_message(true, '', '')"
#define ES_APPEND "SELECT version, position FROM es_append($1::text, $2::bigint, $3::text, $4::jsonb, $5::jsonb)"
#define MDB_WRITE "SELECT write_message($1, $2, $3, $4, $5)"
#define MDB_UNNEST "SELECT write_message(id, stream, type, data, metadata)" \
	" FROM unnest($1::varchar[], $2::varchar[], $3::jsonb[], $4::jsonb[], $5::varchar[])" \
	" AS e(stream, type, data, metadata, id)"

static const Variant variants[] = {
	{
		"commit-only", "empty durable commit", "limit", &transactions, SHAPE_STATEMENT, false, ACCOUNT,
		COMMIT_ONLY, bind_nothing
	},
	{
		"es-append", "es_append", "ours", &event_store, SHAPE_STATEMENT, false, ACCOUNT,
		ES_APPEND, bind_es_append
	},
	{
		"es-pipeline", "es_append, pipelined calls", "ours", &event_store, SHAPE_PIPELINE, false, ACCOUNT,
		ES_APPEND, bind_es_append
	},
	{
		"es-events", "es_append, JSON array", "ours", &event_store, SHAPE_STATEMENT, false, ACCOUNT,
		"SELECT version, position FROM es_append($1::text, $2::bigint, $3::jsonb)", bind_es_append_events
	},
	{
		"es-batch", "es_append_batch", "ours", &event_store, SHAPE_STATEMENT, true, ACCOUNT,
		"SELECT events, last_position FROM es_append_batch($1::text[], $2::text[], $3::jsonb[], $4::jsonb[])",
		bind_es_append_batch
	},
	{
		"mdb-write", "Message DB", "theirs", &message_db, SHAPE_STATEMENT, false, ACCOUNT,
		MDB_WRITE, bind_mdb_write
	},
	{
		"mdb-write-own", "Message DB, a category a stream", "theirs", &message_db, SHAPE_STATEMENT, false, OWN_CATEGORY,
		MDB_WRITE, bind_mdb_write
	},
	{
		"mdb-txn", "Message DB, calls in a transaction", "theirs", &message_db, SHAPE_TRANSACTION, false, ACCOUNT,
		MDB_WRITE, bind_mdb_write
	},
	{
		"mdb-txn-scattered", "Message DB, calls in a transaction", "theirs", &message_db, SHAPE_TRANSACTION, true, ACCOUNT,
		MDB_WRITE, bind_mdb_write
	},
	{
		"mdb-pipeline", "Message DB, pipelined calls", "theirs", &message_db, SHAPE_PIPELINE, false, ACCOUNT,
		MDB_WRITE, bind_mdb_write
	},
	{
		"mdb-pipeline-scattered", "Message DB, pipelined calls", "theirs", &message_db, SHAPE_PIPELINE, true, ACCOUNT,
		MDB_WRITE, bind_mdb_write
	},
	{
		"mdb-unnest", "Message DB, calls over unnest", "theirs", &message_db, SHAPE_STATEMENT, false, ACCOUNT,
		MDB_UNNEST, bind_mdb_unnest
	},
	{
		"mdb-unnest-scattered", "Message DB, calls over unnest", "theirs", &message_db, SHAPE_STATEMENT, true, ACCOUNT,
		MDB_UNNEST, bind_mdb_unnest
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
		printf("%-24s %s%s\n", variants[i].name, variants[i].label, variants[i].scattered ? ", a random stream an event" : "");
}
