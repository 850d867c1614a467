/*
 * state/snapshot.c
 *	  Stored states of streams: an optimisation, never the truth.
 *
 * A snapshot is used only when its fingerprint is the fold's (it was made by the same definition and
 * upcasters) and its hash is right; otherwise the load goes on as if it were not there.
 *
 * Several are kept for each stream: the newest few, then one in a stretch of ES_SPARSE times snapshot_every
 * versions, so that a load as of any version replays a bounded number of events.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "store/store.h"
#include "state/state.h"
#include "state/snapshot_request.h"

#define ES_KEEP_NEWEST	4
#define ES_SPARSE		16

/*
 * The first byte of a stored fingerprint says whose fold made the state: one that is registered, or the
 * application's.
 */
#define FINGERPRINT_FOLD		'F'
#define FINGERPRINT_APPLICATION	'A'

PG_FUNCTION_INFO_V1(es_put_snapshot);
PG_FUNCTION_INFO_V1(es_get_snapshot);
PG_FUNCTION_INFO_V1(es_drop_snapshots);

static bytea *
fingerprint_bytes(char kind, const void *bytes, int len)
{
	bytea	   *result = palloc(VARHDRSZ + 1 + len);

	SET_VARSIZE(result, VARHDRSZ + 1 + len);
	VARDATA(result)[0] = kind;
	memcpy(VARDATA(result) + 1, bytes, len);
	return result;
}

/* The hash of a snapshot covers its whole row: a state must not be believed at another version or in another stream. */
static bytea *
row_hash(int64 stream, const bytea *fingerprint, int64 version, int64 position, TimestampTz recorded_at,
		 Jsonb *state)
{
	EsHasher   *hasher = es_hasher_create();
	bytea	   *hash = palloc(VARHDRSZ + ES_DIGEST_LEN);

	SET_VARSIZE(hash, VARHDRSZ + ES_DIGEST_LEN);
	es_hash_begin(hasher);
	es_hash_int64(hasher, stream);
	es_hash_string(hasher, VARDATA_ANY(fingerprint), VARSIZE_ANY_EXHDR(fingerprint));
	es_hash_int64(hasher, version);
	es_hash_int64(hasher, position);
	es_hash_int64(hasher, recorded_at);
	es_hash_json(hasher, state);
	es_hash_end(hasher, (uint8 *) VARDATA(hash));
	es_hasher_free(hasher);
	return hash;
}

/* Whether a row has not been changed since it was stored. */
bool
es_snapshot_sound(int64 stream, const bytea *fingerprint, int64 version, int64 position, TimestampTz recorded_at,
				  Jsonb *state, const bytea *hash)
{
	return VARSIZE_ANY_EXHDR(hash) == ES_DIGEST_LEN &&
		memcmp(VARDATA_ANY(hash), VARDATA(row_hash(stream, fingerprint, version, position, recorded_at, state)),
			   ES_DIGEST_LEN) == 0;
}

/* Whether a stored fingerprint is that of a fold; where fold is NULL, of any fold that is or was registered here. */
bool
es_snapshot_is_of(const bytea *fingerprint, const uint8 *fold)
{
	return VARSIZE_ANY_EXHDR(fingerprint) == 1 + ES_DIGEST_LEN &&
		VARDATA_ANY(fingerprint)[0] == FINGERPRINT_FOLD &&
		(fold == NULL || memcmp(VARDATA_ANY(fingerprint) + 1, fold, ES_DIGEST_LEN) == 0);
}

/* Counts a damaged snapshot. It is logged only the first time in a row, because every load meets it again. */
static void
damaged(int64 stream, int64 version)
{
	static int64 logged_stream = 0;
	static int64 logged_version = 0;

	es_snapshot_note_unused(true);
	if (stream == logged_stream && version == logged_version)
		return;
	logged_stream = stream;
	logged_version = version;
	ereport(LOG,
			(errmsg("snapshot of stream id %lld at version %lld is damaged and not used",
					(long long) stream, (long long) version)));
}

/* Whether a stream has a snapshot of any fold that is registered here, or was. */
bool
es_snapshot_of_other_fold(int64 stream, Snapshot snapshot)
{
	EsLookup	rows;
	EsIndexKey	key = {1, BTEqualStrategyNumber, Int64GetDatum(stream)};
	bool		found = false;

	es_lookup_open(&rows, ES_SNAPSHOTS, AccessShareLock);
	es_lookup_begin(&rows, snapshot, false, 1, &key);
	while (!found && es_lookup_next(&rows))
	{
		bytea	   *fingerprint = DatumGetByteaPP(es_row_column(rows.slot, Anum_snapshot_fingerprint));

		found = VARSIZE_ANY_EXHDR(fingerprint) > 0 && VARDATA_ANY(fingerprint)[0] == FINGERPRINT_FOLD;
	}
	es_lookup_close(&rows, ES_KEEP_TABLE_LOCK);
	return found;
}

/* The newest sound snapshot with this fingerprint, at most at a version and a time. */
static bool
find(int64 stream, bytea *fingerprint, int64 max_version, const TimestampTz *as_of, Snapshot snapshot,
	 EsSnapshot *found)
{
	EsLookup	rows;
	EsIndexKey	keys[3] = {
		{1, BTEqualStrategyNumber, Int64GetDatum(stream)},
		{2, BTEqualStrategyNumber, PointerGetDatum(fingerprint)},
		{3, BTLessEqualStrategyNumber, Int64GetDatum(max_version)},
	};
	bool		sound = false;

	es_lookup_open(&rows, ES_SNAPSHOTS, AccessShareLock);
	es_lookup_begin(&rows, snapshot, true, 3, keys);
	while (!sound && es_lookup_next(&rows))
	{
		TupleTableSlot *slot = rows.slot;
		Jsonb	   *state;

		slot_getallattrs(slot);
		if (as_of != NULL && DatumGetTimestampTz(slot->tts_values[Anum_snapshot_recorded_at - 1]) > *as_of)
			continue;
		state = DatumGetJsonbPCopy(slot->tts_values[Anum_snapshot_state - 1]);
		sound = es_snapshot_sound(stream, fingerprint, DatumGetInt64(slot->tts_values[Anum_snapshot_version - 1]),
								  DatumGetInt64(slot->tts_values[Anum_snapshot_position - 1]),
								  DatumGetTimestampTz(slot->tts_values[Anum_snapshot_recorded_at - 1]),
								  state, DatumGetByteaPP(slot->tts_values[Anum_snapshot_hash - 1]));
		if (!sound)
		{
			damaged(stream, DatumGetInt64(slot->tts_values[Anum_snapshot_version - 1]));
			continue;
		}
		found->state = state;
		found->version = DatumGetInt64(slot->tts_values[Anum_snapshot_version - 1]);
		found->position = DatumGetInt64(slot->tts_values[Anum_snapshot_position - 1]);
		found->recorded_at = DatumGetTimestampTz(slot->tts_values[Anum_snapshot_recorded_at - 1]);
	}
	es_lookup_close(&rows, ES_KEEP_LOCKS);
	return sound;
}

/* The same for a fold that is registered here. */
bool
es_snapshot_find(int64 stream, const uint8 *fingerprint, int64 max_version, const TimestampTz *as_of,
				 Snapshot snapshot, EsSnapshot *found)
{
	return find(stream, fingerprint_bytes(FINGERPRINT_FOLD, fingerprint, ES_DIGEST_LEN), max_version,
				as_of, snapshot, found);
}

/* Stores a row, in place of a damaged one at that version. */
static void
store(int64 stream, bytea *fingerprint, int64 version, int64 position, TimestampTz recorded_at,
	  Jsonb *state)
{
	Oid			types[7] = {INT8OID, BYTEAOID, INT8OID, INT8OID, TIMESTAMPTZOID, JSONBOID, BYTEAOID};
	Datum		values[7];
	EsSql		sql;

	values[0] = Int64GetDatum(stream);
	values[1] = PointerGetDatum(fingerprint);
	values[2] = Int64GetDatum(version);
	values[3] = Int64GetDatum(position);
	values[4] = TimestampTzGetDatum(recorded_at);
	values[5] = JsonbPGetDatum(state);
	values[6] = PointerGetDatum(row_hash(stream, fingerprint, version, position, recorded_at, state));
	es_sql_begin(&sql, es_store()->owner);
	es_sql_write_args("snapshots",
					  "INSERT INTO event_store.snapshots VALUES ($1, $2, $3, $4, $5, $6, $7)"
					  " ON CONFLICT (stream, fingerprint, version) DO UPDATE SET position = EXCLUDED.position,"
					  " recorded_at = EXCLUDED.recorded_at, state = EXCLUDED.state, hash = EXCLUDED.hash",
					  7, types, values, NULL);
	es_sql_end(&sql);
}

/*
 * Drops snapshots of a stream that are closer to each other than needed, and those of an earlier definition of the
 * fold, which no load uses any more.
 */
static void
thin_out(int64 stream, bytea *fingerprint, int every)
{
	Oid			types[3] = {INT8OID, BYTEAOID, INT8OID};
	Datum		values[3];
	EsSql		sql;

	values[0] = Int64GetDatum(stream);
	values[1] = PointerGetDatum(fingerprint);
	values[2] = Int64GetDatum((int64) every * ES_SPARSE);
	es_sql_begin(&sql, es_store()->owner);
	es_sql_write_args("snapshots",
					  "DELETE FROM event_store.snapshots s USING ("
					  "SELECT version, row_number() OVER (ORDER BY version DESC) AS age,"
					  " row_number() OVER (PARTITION BY version / $3 ORDER BY version) AS place"
					  " FROM event_store.snapshots WHERE stream = $1 AND fingerprint = $2) k"
					  " WHERE s.stream = $1 AND s.fingerprint = $2 AND s.version = k.version"
					  " AND k.age > " CppAsString2(ES_KEEP_NEWEST) " AND k.place > 1",
					  3, types, values, NULL);
	/* Those that applications have put stay: an old and a new release of one may be running side by side. */
	if (VARDATA_ANY(fingerprint)[0] == FINGERPRINT_FOLD)
		es_sql_write_args("snapshots",
						  "DELETE FROM event_store.snapshots WHERE stream = $1 AND fingerprint <> $2"
						  " AND get_byte(fingerprint, 0) = get_byte($2, 0)", 2, types, values, NULL);
	es_sql_end(&sql);
}

/* Stores the state of a fold that has been run up to a version. */
void
es_snapshot_store(int64 stream, const EsFold *fold, Jsonb *state)
{
	bytea	   *fingerprint = fingerprint_bytes(FINGERPRINT_FOLD, fold->aggregate->fingerprint, ES_DIGEST_LEN);

	store(stream, fingerprint, fold->version, fold->position, fold->recorded_at, state);
	CommandCounterIncrement();
	ES_FAULT(snapshot);
	thin_out(stream, fingerprint, fold->aggregate->snapshot_every);
	CommandCounterIncrement();
}

/* ---------------------------------------------------------------- folds in the application */

static bytea *
fingerprint_argument(FunctionCallInfo fcinfo, int n)
{
	text	   *fingerprint = es_text_argument(fcinfo, n, "fingerprint");

	if (VARSIZE_ANY_EXHDR(fingerprint) == 0 || VARSIZE_ANY_EXHDR(fingerprint) > ES_MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument fingerprint must have 1 to %d bytes", ES_MAX_NAME)));
	return fingerprint_bytes(FINGERPRINT_APPLICATION, VARDATA_ANY(fingerprint), VARSIZE_ANY_EXHDR(fingerprint));
}

static bool
head_of(FunctionCallInfo fcinfo, EsHead *head)
{
	if (PG_ARGISNULL(0))
		es_null_argument("stream");
	(void) es_store_now();
	return es_stream_find(PG_GETARG_TEXT_PP(0), GetActiveSnapshot(), head);
}

/* es_put_snapshot(stream, version, state, fingerprint) */
Datum
es_put_snapshot(PG_FUNCTION_ARGS)
{
	EsHead		head;
	EsScan	   *scan;
	TupleTableSlot *slot;
	int64		version;
	int64		position;
	TimestampTz recorded_at;
	bytea	   *fingerprint = fingerprint_argument(fcinfo, 3);
	bool		found = head_of(fcinfo, &head);

	if (PG_ARGISNULL(1))
		es_null_argument("version");
	if (PG_ARGISNULL(2))
		es_null_argument("state");
	version = PG_GETARG_INT64(1);
	if (!found || version < 1 || version > head.version)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream \"%s\" has no version %lld", text_to_cstring(PG_GETARG_TEXT_PP(0)),
						(long long) version),
				 errdetail("It is at version %lld.", (long long) (found ? head.version : 0))));

	scan = es_scan_create(RegisterSnapshot(GetActiveSnapshot()));
	es_scan_stream(scan, PG_GETARG_TEXT_PP(0), &head, version, version);
	slot = es_scan_next(scan);
	position = DatumGetInt64(es_row_column(slot, Anum_log_position));
	recorded_at = DatumGetTimestampTz(es_row_column(slot, Anum_log_recorded_at));
	es_scan_end(scan);

	es_prevent_if_read_only("es_put_snapshot()");
	store(head.id, fingerprint, version, position, recorded_at, PG_GETARG_JSONB_P(2));
	CommandCounterIncrement();
	thin_out(head.id, fingerprint, 100);
	CommandCounterIncrement();
	PG_RETURN_VOID();
}

/* es_get_snapshot(stream, fingerprint) -> (state, version, position, recorded_at), the newest, or no row */
Datum
es_get_snapshot(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	bytea	   *fingerprint = fingerprint_argument(fcinfo, 1);
	EsHead		head;
	EsSnapshot	found;

	InitMaterializedSRF(fcinfo, 0);
	if (head_of(fcinfo, &head) &&
		find(head.id, fingerprint, head.version, NULL, GetActiveSnapshot(), &found))
	{
		Datum		values[4];
		bool		nulls[4] = {false};

		values[0] = JsonbPGetDatum(found.state);
		values[1] = Int64GetDatum(found.version);
		values[2] = Int64GetDatum(found.position);
		values[3] = TimestampTzGetDatum(found.recorded_at);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

/* es_drop_snapshots(category) -> how many */
Datum
es_drop_snapshots(PG_FUNCTION_ARGS)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1];
	EsSql		sql;
	uint64		rows;

	if (PG_ARGISNULL(0))
		es_null_argument("category");
	(void) es_store_now();
	es_prevent_if_read_only("es_drop_snapshots()");
	values[0] = PG_GETARG_DATUM(0);
	es_sql_begin(&sql, es_store()->owner);
	rows = es_sql_write_args("snapshots",
							 "DELETE FROM event_store.snapshots s USING event_store.heads h, event_store.categories c"
							 " WHERE h.id = s.stream AND c.id = h.category AND c.name = $1", 1, types, values, NULL);
	es_sql_end(&sql);
	CommandCounterIncrement();
	PG_RETURN_INT64(rows);
}
