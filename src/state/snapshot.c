/*
 * state/snapshot.c
 *	  Stored states of streams: an optimisation, never the truth.
 *
 * A snapshot is used only when its fingerprint is the fold's (it was made by the same definition and upcasters), its hash
 * is right, and the stream has the event that it was made behind: the rows of this table may have been restored from
 * another moment than the events. Otherwise the load goes on as if it were not there, and has it replaced.
 *
 * Several are kept for each stream: the newest few, then one in a stretch of ES_SPARSE times snapshot_every
 * versions, so that a load as of any version replays a bounded number of events.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
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

#define ES_SPARSE		16

/* Snapshots that could not be used, as the lookups of this session have met them lately. */
#define MAX_UNUSABLE	16

typedef struct Unusable
{
	int64		stream;			/* 0: this place is free */
	int64		version;
	uint32		fingerprint;	/* a hash of it */
} Unusable;

static Unusable unusable[MAX_UNUSABLE];
static int	next_unusable = 0;

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

/*
 * The hash of a snapshot covers its whole row: a state must not be believed at another version or in another stream. A row
 * that has no digest, as those of version 0.1, has the hash that it had there.
 */
static bytea *
row_hash(int64 stream, const bytea *fingerprint, const EsSnapshot *row)
{
	EsHasher   *hasher = es_hasher_create();
	bytea	   *hash = palloc(VARHDRSZ + ES_DIGEST_LEN);

	SET_VARSIZE(hash, VARHDRSZ + ES_DIGEST_LEN);
	es_hash_begin(hasher);
	es_hash_int64(hasher, stream);
	es_hash_string(hasher, VARDATA_ANY(fingerprint), VARSIZE_ANY_EXHDR(fingerprint));
	es_hash_int64(hasher, row->version);
	es_hash_int64(hasher, row->position);
	es_hash_int64(hasher, row->recorded_at);
	es_hash_json(hasher, row->state);
	if (row->digest != NULL)
		es_hash_string(hasher, VARDATA_ANY(row->digest), VARSIZE_ANY_EXHDR(row->digest));
	es_hash_end(hasher, (uint8 *) VARDATA(hash));
	es_hasher_free(hasher);
	return hash;
}

/* Whether a row has not been changed since it was stored. */
bool
es_snapshot_sound(int64 stream, const bytea *fingerprint, const EsSnapshot *row, const bytea *hash)
{
	return VARSIZE_ANY_EXHDR(hash) == ES_DIGEST_LEN &&
		(row->digest == NULL || VARSIZE_ANY_EXHDR(row->digest) == ES_DIGEST_LEN) &&
		memcmp(VARDATA_ANY(hash), VARDATA(row_hash(stream, fingerprint, row)), ES_DIGEST_LEN) == 0;
}

/* Whether a stored fingerprint is that of a fold; where fold is NULL, of any fold that is or was registered here. */
bool
es_snapshot_is_of(const bytea *fingerprint, const uint8 *fold)
{
	return VARSIZE_ANY_EXHDR(fingerprint) == 1 + ES_DIGEST_LEN &&
		VARDATA_ANY(fingerprint)[0] == FINGERPRINT_FOLD &&
		(fold == NULL || memcmp(VARDATA_ANY(fingerprint) + 1, fold, ES_DIGEST_LEN) == 0);
}

/* ---------------------------------------------------------------- of this history */

/* Whether the stream has the event that a snapshot was made behind, at the same position and time. */
static bool
has_event(const text *stream, const EsHead *head, const EsSnapshot *row, Snapshot snapshot)
{
	EsHead		place = *head;	/* has the scan open only the partition that would have it */
	EsScan	   *scan = es_scan_create(RegisterSnapshot(snapshot));
	TupleTableSlot *slot;
	bool		found;

	place.first_position = place.last_position = row->position;
	scan->raw = true;
	es_scan_stream(scan, stream, &place, row->version, row->version);
	slot = es_scan_next(scan);
	found = slot != NULL &&
		DatumGetInt64(es_row_column(slot, Anum_log_position)) == row->position &&
		DatumGetTimestampTz(es_row_column(slot, Anum_log_recorded_at)) == row->recorded_at;
	es_scan_end(scan);
	return found;
}

/*
 * Whether the events after a snapshot continue from its event: whether they lead from the digest of that event to the
 * digest in the head. This is asked only where the event itself is in a partition that is not attached.
 */
static bool
chains_to_head(const text *stream, const EsHead *head, const EsSnapshot *row, Snapshot snapshot)
{
	EsHead		tail = *head;
	EsRowDigest *digests;
	EsScan	   *scan;
	TupleTableSlot *slot;
	uint8		chain[ES_DIGEST_LEN];
	bool		good = true;

	if (row->digest == NULL)
		return false;
	memcpy(chain, VARDATA_ANY(row->digest), ES_DIGEST_LEN);
	tail.first_position = row->position + 1;
	digests = es_row_digest_begin(snapshot);
	scan = es_scan_create(RegisterSnapshot(snapshot));
	es_scan_stream(scan, stream, &tail, row->version + 1, head->version);
	while (good && (slot = es_scan_next(scan)) != NULL)
	{
		good = es_row_digest_read(digests, slot);
		if (good)
			es_row_digest_chain(digests, chain);
	}
	es_scan_end(scan);
	es_row_digest_end(digests);
	return good && memcmp(chain, head->digest, ES_DIGEST_LEN) == 0;
}

/* Whether a position is in no attached partition. */
static bool
is_away(int64 position)
{
	EsPartitionGap *gaps;
	int			count = es_partition_gaps(0, &gaps);
	bool		away = es_in_partition_gap(gaps, count, position, position);

	pfree(gaps);
	return away;
}

/*
 * Whether a sound snapshot was made of this history of the stream. It may have been restored from another moment than the
 * events: then the stream has other events at the same versions.
 */
static bool
is_of_history(const text *stream, const EsHead *head, const EsSnapshot *row, Snapshot snapshot)
{
	if (row->version == head->version)
		return row->position == head->last_position && row->recorded_at == head->recorded_at &&
			(row->digest == NULL || memcmp(VARDATA_ANY(row->digest), head->digest, ES_DIGEST_LEN) == 0);
	return has_event(stream, head, row, snapshot) ||
		(is_away(row->position) && chains_to_head(stream, head, row, snapshot));
}

/* ---------------------------------------------------------------- those that cannot be used */

static uint32
fingerprint_hash(const bytea *fingerprint)
{
	return DatumGetUInt32(hash_any((unsigned char *) VARDATA_ANY(fingerprint), VARSIZE_ANY_EXHDR(fingerprint)));
}

/* Forgets what was noted of a stream. */
static void
forget_unusable(int64 stream, const bytea *fingerprint)
{
	uint32		hash = fingerprint_hash(fingerprint);

	for (int i = 0; i < MAX_UNUSABLE; i++)
		if (unusable[i].stream == stream && unusable[i].fingerprint == hash)
			unusable[i].stream = 0;
}

/*
 * Notes a snapshot that is not used, for whoever stores the next one. It is logged only the first time in a row, because
 * every load may meet it again until it is replaced.
 */
static void
note_unusable(const text *stream, int64 id, const bytea *fingerprint, int64 version, const char *why)
{
	static int64 logged_stream = 0;
	static int64 logged_version = 0;

	unusable[next_unusable] = (Unusable) {id, version, fingerprint_hash(fingerprint)};
	next_unusable = (next_unusable + 1) % MAX_UNUSABLE;
	if (id == logged_stream && version == logged_version)
		return;
	logged_stream = id;
	logged_version = version;
	ereport(LOG,
			(errmsg("snapshot of stream \"%s\" at version %lld is not used: %s", text_to_cstring(stream),
					(long long) version, why)));
}

/*
 * Deletes of snapshots besides the one that is stored pass by rows that somebody else has locked: es_snapshot() and a snapshot
 * worker, or two with an old and a new fold, would each wait for the row that the other one has just stored. Who has a row
 * locked replaces it or drops it, or the next one does.
 */
#define DELETE_UNLOCKED(condition) \
	"DELETE FROM event_store.snapshots s USING (" \
	"SELECT k.stream, k.fingerprint, k.version FROM event_store.snapshots k WHERE " condition " FOR UPDATE SKIP LOCKED) d" \
	" WHERE s.stream = d.stream AND s.fingerprint = d.fingerprint AND s.version = d.version"

/* Drops what was noted of a stream, counts it, and says in the status which stream that was. */
static void
drop_unusable(int64 stream, bytea *fingerprint)
{
	uint32		hash = fingerprint_hash(fingerprint);
	int64		count = 0;

	for (int i = 0; i < MAX_UNUSABLE; i++)
	{
		Oid			types[3] = {INT8OID, BYTEAOID, INT8OID};
		Datum		values[3];
		EsSql		sql;

		if (unusable[i].stream != stream || unusable[i].fingerprint != hash)
			continue;
		values[0] = Int64GetDatum(stream);
		values[1] = PointerGetDatum(fingerprint);
		values[2] = Int64GetDatum(unusable[i].version);
		es_sql_begin(&sql, es_store()->owner);
		count += es_sql_write_args("snapshots",
								   DELETE_UNLOCKED("k.stream = $1 AND k.fingerprint = $2 AND k.version = $3"),
								   3, types, values, NULL);
		es_sql_end(&sql);
	}
	if (count == 0)
		return;
	CommandCounterIncrement();
	es_counter_add("snapshots_damaged", count);
	es_counter_set("damaged_stream", stream);
	CommandCounterIncrement();
}

/* ---------------------------------------------------------------- finding */

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

/* Reads the current row; the state and the digest are copied. */
static void
read_row(EsLookup *rows, EsSnapshot *row)
{
	Datum	   *values = rows->slot->tts_values;

	slot_getallattrs(rows->slot);
	row->version = DatumGetInt64(values[Anum_snapshot_version - 1]);
	row->position = DatumGetInt64(values[Anum_snapshot_position - 1]);
	row->recorded_at = DatumGetTimestampTz(values[Anum_snapshot_recorded_at - 1]);
	row->state = DatumGetJsonbPCopy(values[Anum_snapshot_state - 1]);
	row->digest = rows->slot->tts_isnull[Anum_snapshot_digest - 1] ? NULL :
		DatumGetByteaPCopy(values[Anum_snapshot_digest - 1]);
}

/*
 * The newest snapshot of a stream with this fingerprint that can be used, at most at a version and a time. Whether there is
 * one or not, found->unusable is the version of the newest one that would have been taken and cannot be used; 0: there
 * is none.
 */
static bool
find(const text *stream, const EsHead *head, bytea *fingerprint, int64 max_version, const TimestampTz *as_of,
	 Snapshot snapshot, EsSnapshot *found)
{
	EsLookup	rows;
	EsIndexKey	keys[3] = {
		{1, BTEqualStrategyNumber, Int64GetDatum(head->id)},
		{2, BTEqualStrategyNumber, PointerGetDatum(fingerprint)},
		{3, BTLessEqualStrategyNumber, Int64GetDatum(max_version)},
	};
	bool		usable = false;

	found->unusable = 0;
	forget_unusable(head->id, fingerprint);
	es_lookup_open(&rows, ES_SNAPSHOTS, AccessShareLock);
	es_lookup_begin(&rows, snapshot, true, 3, keys);
	while (!usable && es_lookup_next(&rows))
	{
		const char *why;

		if (as_of != NULL && DatumGetTimestampTz(es_row_column(rows.slot, Anum_snapshot_recorded_at)) > *as_of)
			continue;
		read_row(&rows, found);
		if (!es_snapshot_sound(head->id, fingerprint, found,
							   DatumGetByteaPP(es_row_column(rows.slot, Anum_snapshot_hash))))
			why = "it is damaged";
		else if (!is_of_history(stream, head, found, snapshot))
			why = "it belongs to another history of the stream";
		else
		{
			usable = true;
			break;
		}
		note_unusable(stream, head->id, fingerprint, found->version, why);
		found->unusable = Max(found->unusable, found->version);
	}
	es_lookup_close(&rows, ES_KEEP_LOCKS);
	return usable;
}

/* The same for a fold that is registered here. */
bool
es_snapshot_find(const text *stream, const EsHead *head, const uint8 *fingerprint, int64 max_version,
				 const TimestampTz *as_of, Snapshot snapshot, EsSnapshot *found)
{
	return find(stream, head, fingerprint_bytes(FINGERPRINT_FOLD, fingerprint, ES_DIGEST_LEN), max_version,
				as_of, snapshot, found);
}

/* ---------------------------------------------------------------- storing */

/* Stores a row, in place of one at that version that cannot be used. What else cannot be used is dropped. */
static void
store(int64 stream, bytea *fingerprint, const EsSnapshot *row)
{
	Oid			types[8] = {INT8OID, BYTEAOID, INT8OID, INT8OID, TIMESTAMPTZOID, JSONBOID, BYTEAOID, BYTEAOID};
	Datum		values[8];
	char		nulls[9] = "        ";
	EsSql		sql;

	drop_unusable(stream, fingerprint);
	values[0] = Int64GetDatum(stream);
	values[1] = PointerGetDatum(fingerprint);
	values[2] = Int64GetDatum(row->version);
	values[3] = Int64GetDatum(row->position);
	values[4] = TimestampTzGetDatum(row->recorded_at);
	values[5] = JsonbPGetDatum(row->state);
	values[6] = PointerGetDatum(row_hash(stream, fingerprint, row));
	values[7] = PointerGetDatum(row->digest);
	nulls[7] = row->digest == NULL ? 'n' : ' ';
	es_sql_begin(&sql, es_store()->owner);
	es_sql_write_args("snapshots",
					  "INSERT INTO event_store.snapshots VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
					  " ON CONFLICT (stream, fingerprint, version) DO UPDATE SET position = EXCLUDED.position,"
					  " recorded_at = EXCLUDED.recorded_at, state = EXCLUDED.state, hash = EXCLUDED.hash,"
					  " digest = EXCLUDED.digest",
					  8, types, values, nulls);
	es_sql_end(&sql);
	forget_unusable(stream, fingerprint);
}

/*
 * Drops snapshots of a stream that are closer to each other than needed: behind the newest `keep` all but the first in each
 * ES_SPARSE times `every` versions, and those of events older than keep_for (NULL: however old). Also drops those of an
 * earlier definition of the fold, which no load uses any more.
 */
static void
thin_out(int64 stream, bytea *fingerprint, int every, int keep, const Interval *keep_for)
{
	Oid			types[5] = {INT8OID, BYTEAOID, INT8OID, INT4OID, INTERVALOID};
	Datum		values[5];
	char		nulls[6] = "     ";
	EsSql		sql;

	values[0] = Int64GetDatum(stream);
	values[1] = PointerGetDatum(fingerprint);
	values[2] = Int64GetDatum((int64) every * ES_SPARSE);
	values[3] = Int32GetDatum(keep);
	values[4] = IntervalPGetDatum(keep_for);
	nulls[4] = keep_for == NULL ? 'n' : ' ';
	es_sql_begin(&sql, es_store()->owner);
	es_sql_write_args("snapshots",
					  DELETE_UNLOCKED("k.stream = $1 AND k.fingerprint = $2 AND k.version IN ("
									  "SELECT r.version FROM ("
									  "SELECT version, recorded_at, row_number() OVER (ORDER BY version DESC) AS age,"
									  " row_number() OVER (PARTITION BY version / $3 ORDER BY version) AS place"
									  " FROM event_store.snapshots WHERE stream = $1 AND fingerprint = $2) r"
									  " WHERE r.age > $4 AND (r.place > 1 OR r.recorded_at < clock_timestamp() - $5))"),
					  5, types, values, nulls);
	/* Those that applications have put stay: an old and a new release of one may be running side by side. */
	if (VARDATA_ANY(fingerprint)[0] == FINGERPRINT_FOLD)
		es_sql_write_args("snapshots",
						  DELETE_UNLOCKED("k.stream = $1 AND k.fingerprint <> $2"
										  " AND get_byte(k.fingerprint, 0) = get_byte($2, 0)"), 2, types, values, NULL);
	es_sql_end(&sql);
}

/* The digest that goes with a snapshot at a version: the head has it where that is its version; else it is not known. */
static bytea *
digest_at(const EsHead *head, int64 version)
{
	return version == head->version ? es_digest_bytea(head->digest) : NULL;
}

/* Stores the state of a fold that has been run up to a version. The head is that of the stream as the fold has seen it. */
void
es_snapshot_store(const EsHead *head, const EsFold *fold, Jsonb *state)
{
	const EsAggregate *aggregate = fold->aggregate;
	bytea	   *fingerprint = fingerprint_bytes(FINGERPRINT_FOLD, aggregate->fingerprint, ES_DIGEST_LEN);
	EsSnapshot	row = {
		.state = state,
		.version = fold->version,
		.position = fold->position,
		.recorded_at = fold->recorded_at,
		.digest = digest_at(head, fold->version)
	};

	store(head->id, fingerprint, &row);
	CommandCounterIncrement();
	ES_FAULT(snapshot);
	thin_out(head->id, fingerprint, aggregate->snapshot_every, aggregate->keep_snapshots, aggregate->keep_snapshots_for);
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
	EsSnapshot	row = {0};
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
	row.position = DatumGetInt64(es_row_column(slot, Anum_log_position));
	row.recorded_at = DatumGetTimestampTz(es_row_column(slot, Anum_log_recorded_at));
	es_scan_end(scan);
	row.version = version;
	row.state = PG_GETARG_JSONB_P(2);
	row.digest = digest_at(&head, version);

	es_prevent_if_read_only("es_put_snapshot()");
	store(head.id, fingerprint, &row);
	CommandCounterIncrement();
	thin_out(head.id, fingerprint, 100, ES_KEEP_SNAPSHOTS, NULL);
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
		find(PG_GETARG_TEXT_PP(0), &head, fingerprint, head.version, NULL, GetActiveSnapshot(), &found))
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
	es_journal_note("es_drop_snapshots", "category", text_to_cstring(PG_GETARG_TEXT_PP(0)), NULL, NULL);
	CommandCounterIncrement();
	PG_RETURN_INT64(rows);
}
