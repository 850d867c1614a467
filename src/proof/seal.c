/*
 * proof/seal.c
 *	  Seals: digests of closed ranges of the log.
 *
 * A *seal* says what the events after one position and up to another are: how many, the root of a Merkle tree over
 * them in order of position, and a digest, its *root*, of this and of the root before. So one root stands for the
 * whole log up to its position, and whoever keeps it outside can tell whether any of it was changed since. The
 * *manifest* of a seal proves nothing; it has place and four bytes of the digest of each event, so that one that
 * was changed, removed or added can be named.
 *
 * A range ends at the mark or before it: what commits later is behind it (log/mark.c). Ranges follow each other without
 * gaps, since one seals at a time: the advisory lock, to the end of the transaction, and then the last seal is read
 * with a snapshot that is newer. The snapshot that the events are read with is newer than the mark. A seal comes behind
 * its events in the WAL, so that a crash that takes these takes it too.
 *
 * The coordinator starts a process for it now and then, the sealer, since digests of many events take a while. It does a
 * seal at a time, each in a transaction of its own, and rests in between, so that it does not take more than a tenth of a
 * CPU from those who append.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "worker/worker.h"
#include "store/store.h"
#include "log/log.h"
#include "proof/proof.h"
#include "proof/seal.h"

PGDLLEXPORT void es_seal_worker(Datum arg);

PG_FUNCTION_INFO_V1(es_seal_log);
PG_FUNCTION_INFO_V1(es_log_root);

/* ---------------------------------------------------------------- reading */

/* Seals that end at a position or after it, or backward from the last one. */
void
es_seals_open(EsSealScan *seals, Snapshot snapshot, int64 from, bool backward)
{
	EsIndexKey	key = {1, BTGreaterEqualStrategyNumber, Int64GetDatum(from)};

	es_lookup_open(&seals->rows, ES_SEALS, AccessShareLock);
	es_lookup_begin(&seals->rows, snapshot, backward, 1, &key);
}

static bool
read_digest(Datum value, uint8 *digest)
{
	bytea	   *bytes = DatumGetByteaPP(value);
	bool		good = VARSIZE_ANY_EXHDR(bytes) == ES_DIGEST_LEN;

	if (good)
		memcpy(digest, VARDATA_ANY(bytes), ES_DIGEST_LEN);
	else
		memset(digest, 0, ES_DIGEST_LEN);
	return good;
}

/* The next seal; false at the end. */
bool
es_seals_next(EsSealScan *seals, EsSeal *seal)
{
	Datum	   *values;
	bool		tree;
	bool		root;

	CHECK_FOR_INTERRUPTS();
	if (!es_lookup_next(&seals->rows))
		return false;
	slot_getsomeattrs(seals->rows.slot, Anum_seal_sealed_at);
	values = seals->rows.slot->tts_values;
	seal->after = DatumGetInt64(values[Anum_seal_after_position - 1]);
	seal->to = DatumGetInt64(values[Anum_seal_to_position - 1]);
	seal->events = DatumGetInt64(values[Anum_seal_events - 1]);
	seal->sealed_at = DatumGetTimestampTz(values[Anum_seal_sealed_at - 1]);
	tree = read_digest(values[Anum_seal_tree - 1], seal->tree);
	root = read_digest(values[Anum_seal_root - 1], seal->root);
	seal->damaged = !tree || !root;
	return true;
}

/*
 * The manifest of the current seal, at its first event; in the current memory context. False, and no event, when it
 * does not list as many events as the seal has, in its range.
 */
bool
es_seals_manifest(EsSealScan *seals, const EsSeal *seal, EsManifest *manifest)
{
	bool		isnull;
	bytea	   *bytes = DatumGetByteaPCopy(slot_getattr(seals->rows.slot, Anum_seal_manifest, &isnull));
	EsManifest	start;
	int64		events = 0;

	memset(manifest, 0, sizeof(EsManifest));
	manifest->next = (const uint8 *) VARDATA(bytes);
	manifest->end = manifest->next + VARSIZE(bytes) - VARHDRSZ;
	manifest->position = seal->after;
	es_manifest_next(manifest);
	start = *manifest;
	for (; manifest->valid; es_manifest_next(manifest))
		events++;
	if (manifest->damaged || events != seal->events || manifest->position > seal->to)
		return false;
	*manifest = start;
	return true;
}

/* Releases everything but the locks, which are the transaction's. */
void
es_seals_close(EsSealScan *seals)
{
	es_lookup_close(&seals->rows, ES_KEEP_LOCKS);
}

/* The last seal as a snapshot shows it; without one, false and the empty range before the first position. */
static bool
last_seal(Snapshot snapshot, EsSeal *seal)
{
	EsSealScan	seals;
	bool		found;

	memset(seal, 0, sizeof(EsSeal));
	seal->to = ES_NODE_START(es_store()->node);
	es_seals_open(&seals, snapshot, PG_INT64_MIN, true);
	found = es_seals_next(&seals, seal);
	es_seals_close(&seals);
	return found;
}

/* ---------------------------------------------------------------- manifests */

/* Seven bits a byte, the low ones first; the high bit says that there is more. */
static void
put_number(StringInfo buf, int64 value)
{
	uint64		rest = (uint64) value;

	while (rest >= 0x80)
	{
		appendStringInfoCharMacro(buf, (char) (rest | 0x80));
		rest >>= 7;
	}
	appendStringInfoCharMacro(buf, (char) rest);
}

static int64
get_number(EsManifest *manifest)
{
	uint64		value = 0;

	for (int shift = 0; shift < 64 && manifest->next < manifest->end; shift += 7)
	{
		uint8		byte = *manifest->next++;

		value |= (uint64) (byte & 0x7f) << shift;
		if ((byte & 0x80) == 0)
			return (int64) value;
	}
	manifest->damaged = true;
	return 0;
}

/* Goes to the next event of a manifest: not valid at the end, nor where it makes no sense. */
void
es_manifest_next(EsManifest *manifest)
{
	int64		step;

	manifest->valid = false;
	if (manifest->next == manifest->end || manifest->damaged)
		return;
	step = get_number(manifest);
	manifest->stream = get_number(manifest);
	manifest->version = get_number(manifest);
	if (manifest->damaged || manifest->end - manifest->next < ES_PRINT_LEN || step <= 0 ||
		step > PG_INT64_MAX - manifest->position)
	{
		manifest->damaged = true;
		return;
	}
	manifest->position += step;
	memcpy(manifest->print, manifest->next, ES_PRINT_LEN);
	manifest->next += ES_PRINT_LEN;
	manifest->valid = true;
}

/* ---------------------------------------------------------------- making */

/* Makes sure that nobody else seals until the end of the transaction; false when somebody does and is not waited for. */
static bool
lock_seals(bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, es_store()->seals, 0, ES_LOCK_SEAL);
	return LockAcquire(&tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

static void
store_seal(const EsSeal *seal, StringInfo manifest)
{
	Oid			types[6] = {INT8OID, INT8OID, INT8OID, BYTEAOID, BYTEAOID, BYTEAOID};
	Datum		values[6];
	EsSql		sql;

	SET_VARSIZE(manifest->data, manifest->len);
	values[0] = Int64GetDatum(seal->after);
	values[1] = Int64GetDatum(seal->to);
	values[2] = Int64GetDatum(seal->events);
	values[3] = PointerGetDatum(es_digest_bytea(seal->tree));
	values[4] = PointerGetDatum(es_digest_bytea(seal->root));
	values[5] = PointerGetDatum(manifest->data);
	es_sql_begin(&sql, es_store()->owner);
	es_sql_run_args("INSERT INTO event_store.seals (after_position, to_position, events, tree, root, sealed_at, manifest)"
					" VALUES ($1, $2, $3, $4, $5, clock_timestamp(), $6)", 6, types, values, NULL);
	es_sql_end(&sql);
}

/*
 * Seals what comes after *last, at most seal_size events up to the mark, and puts the new seal there; false when there
 * are none. The snapshot shows everything up to the mark.
 */
static bool
seal_next(Snapshot snapshot, int64 mark, EsSeal *last)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_store seal", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EsSeal		seal;
	EsScan	   *scan;
	EsRowDigest *digests;
	EsTree		tree;
	TupleTableSlot *slot;
	StringInfoData manifest;
	int64		position = last->to;

	memset(&seal, 0, sizeof(seal));
	seal.after = last->to;
	seal.to = mark;
	initStringInfo(&manifest);
	appendStringInfoSpaces(&manifest, VARHDRSZ);
	es_tree_begin(&tree);
	digests = es_row_digest_begin(snapshot);
	scan = es_scan_create(RegisterSnapshot(snapshot));
	es_scan_positions(scan, seal.after, mark);
	while (seal.events < es_seal_size && (slot = es_scan_next(scan)) != NULL)
	{
		uint8		leaf[ES_DIGEST_LEN];

		if (!es_row_digest_read(digests, slot))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("the event at position %lld cannot be sealed: %s",
							(long long) digests->event.position, digests->flaw),
					 errhint("SELECT * FROM es_verify_log() tells what else is wrong.")));
		es_row_digest_leaf(digests, leaf);
		es_tree_add(&tree, digests->hasher, leaf);
		put_number(&manifest, digests->event.position - position);
		put_number(&manifest, digests->event.stream_id);
		put_number(&manifest, digests->event.version);
		appendBinaryStringInfo(&manifest, (const char *) leaf, ES_PRINT_LEN);
		position = digests->event.position;
		if (++seal.events == es_seal_size)
			seal.to = position;
	}
	es_scan_end(scan);
	if (seal.events > 0)
	{
		es_tree_root(&tree, digests->hasher, seal.tree);
		es_seal_digest(digests->hasher, &digests->store_id, seal.after, seal.to, seal.events, seal.tree, last->root,
					   seal.root);
		store_seal(&seal, &manifest);
		ES_FAULT(seal);
		*last = seal;
	}
	es_row_digest_end(digests);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return seal.events > 0;
}

/*
 * Makes up to so many seals in the open transaction, whose sealer's lock is held. Returns how many, the last one and the
 * mark.
 */
static int64
seal_up_to(int64 count, EsSeal *last, int64 *mark)
{
	Snapshot	snapshot = es_mark_snapshot_inside(mark);
	int64		made = 0;

	(void) last_seal(snapshot, last);
	if (last->damaged)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the last seal, up to position %lld, is damaged", (long long) last->to),
				 errhint("SELECT * FROM es_verify_log() tells what else is wrong.")));
	while (made < count && last->to < *mark && seal_next(snapshot, *mark, last))
		made++;
	UnregisterSnapshot(snapshot);
	return made;
}

/* es_seal_log(max_seals integer) -> how many seals it made */
Datum
es_seal_log(PG_FUNCTION_ARGS)
{
	int64		count = PG_ARGISNULL(0) ? PG_INT64_MAX : PG_GETARG_INT32(0);
	EsSeal		last;
	int64		mark;

	(void) es_store_now();
	if (count < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument max_seals must not be negative"),
				 errdetail("It is %lld; NULL means no limit.", (long long) count)));
	PreventCommandIfReadOnly("es_seal_log()");
	PreventCommandDuringRecovery("es_seal_log()");
	/* The snapshot must be newer than the lock. */
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("es_seal_log() works only at isolation level READ COMMITTED")));
	(void) lock_seals(true);
	PG_RETURN_INT64(seal_up_to(count, &last, &mark));
}

/* es_log_root() -> (position, root, sealed_at) of the last seal; NULLs when there is none */
Datum
es_log_root(PG_FUNCTION_ARGS)
{
	TupleDesc	desc = es_result_type(fcinfo);
	Datum		values[3] = {0};
	bool		nulls[3] = {true, true, true};
	Snapshot	snapshot;
	EsSeal		seal;

	(void) es_store_now();
	snapshot = RegisterSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetLatestSnapshot());
	if (last_seal(snapshot, &seal))
	{
		memset(nulls, 0, sizeof(nulls));
		values[0] = Int64GetDatum(seal.to);
		values[1] = PointerGetDatum(es_digest_bytea(seal.root));
		values[2] = TimestampTzGetDatum(seal.sealed_at);
	}
	UnregisterSnapshot(snapshot);
	/* It is to be kept elsewhere: what it speaks of must not be lost in a crash. */
	if (!RecoveryInProgress())
		es_early_release_flush_all();
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/* ---------------------------------------------------------------- the coordinator's duty */

static TimestampTz keep_sealing(void);
static void begin_sealing(void);

/* Its word is up to where a sealer has come since the coordinator began. */
static EsDuty sealing = {.name = "have the event log sealed",.begin = begin_sealing,.keep = keep_sealing};

/* What an earlier coordinator's sealer has left is perhaps of another store. */
static void
begin_sealing(void)
{
	pg_atomic_write_u64(es_duty_word(&sealing), 0);
}

/* Has what is new sealed by a sealer. Returns when it wants to be called again at the latest. */
static TimestampTz
keep_sealing(void)
{
	static EsChild sealer = {"es_seal_worker", "event_store sealer"};
	static TimestampTz started = 0;
	TimestampTz next;

	if (es_child_running(&sealer) || es_seal_interval == 0 ||
		(int64) pg_atomic_read_u64(es_duty_word(&sealing)) >= es_published()->mark)
		return DT_NOEND;
	next = TimestampTzPlusMilliseconds(started, es_seal_interval * INT64CONST(1000));
	if (GetCurrentTimestamp() < next)
		return next;

	(void) es_child_start(&sealer, 0);
	started = GetCurrentTimestamp();
	return TimestampTzPlusMilliseconds(started, es_seal_interval * INT64CONST(1000));
}

/* Called once, when the library is loaded. */
void
es_seal_init(void)
{
	es_duty_register(&sealing);
}

/* ---------------------------------------------------------------- the sealer */

/*
 * Makes one seal; false when that was the last, or somebody else is at it. One that is not full is the last: while
 * others append there is always a little more, and seals of a little would be many.
 */
static bool
make_one(EsSeal *last, bool *made)
{
	int64		mark = 0;
	bool		locked;

	*made = false;
	if (!es_process_begin("sealing the event log"))
		return false;
	(void) es_store_now();
	locked = lock_seals(false);
	if (locked)
		*made = seal_up_to(1, last, &mark) > 0;
	es_process_end();
	if (!locked)
		return false;
	if (*made && last->events >= es_seal_size)
		return true;
	pg_atomic_write_u64(es_duty_word(&sealing), mark);
	return false;
}

/* Entry of the sealer: seals until it has come to the mark as it is then. */
void
es_seal_worker(Datum arg)
{
	EsProcessTask task;
	EsSeal		last;
	bool		any = false;

	es_process_init(&task, ES_DUTY_WORKER, 1000);
	for (;;)
	{
		TimestampTz start = GetCurrentTimestamp();
		bool		made;
		bool		more;

		ResetLatch(MyLatch);
		es_process_check();
		more = make_one(&last, &made);
		any |= made;
		if (!more)
			break;
		es_process_sleep(9 * TimestampDifferenceMilliseconds(start, GetCurrentTimestamp()) + 1, "EventStoreSealer");
	}
	if (any)
	{
		char		hex[2 * ES_DIGEST_LEN + 1];

		hex[hex_encode((const char *) last.root, ES_DIGEST_LEN, hex)] = '\0';
		/* A log that is kept elsewhere is a place outside. */
		ereport(LOG,
				(errmsg("event_store sealed the log of database %u up to position %lld, root %s", MyDatabaseId,
						(long long) last.to, hex)));
	}
	pgstat_report_stat(true);
	proc_exit(0);
}
