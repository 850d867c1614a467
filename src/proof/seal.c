/*
 * proof/seal.c
 *	  Seals: digests of closed ranges of the log.
 *
 * A *seal* describes the events after one position and up to another: how many there are, and the root of a Merkle
 * tree over them in order of position. Its *root* is a digest of this and of the root of the seal before. So one root
 * stands for the whole log up to its position. Whoever keeps that root in another place can tell later whether any of
 * it was changed.
 *
 * The *manifest* of a seal proves nothing. It lists the position, stream and version of each event, and the first
 * four bytes of its leaf. By this es_verify_log() can name events that were changed, removed or added.
 *
 * A sealed range ends at the mark or before it. What is committed later is behind the mark (log/mark.c), so it never
 * falls into a sealed range. Ranges follow each other without gaps, because only one transaction seals at a time: it
 * takes an advisory lock to its end, and then reads the last seal with a snapshot that is newer than the lock. The
 * snapshot by which the events are read is newer than the mark. The seal comes after its events in the WAL, so a
 * crash that loses the events loses the seal too.
 *
 * The coordinator starts a process for this now and then, the *sealer*, because the digests of many events take a
 * while. The sealer makes one seal after the other, each in a transaction of its own. It sleeps in between, so that
 * it takes at most a tenth of a CPU.
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

/* Begins to read the seals that end at position `from` or after it; with backward, from the last one on backward. */
void
es_seals_open(EsSealScan *seals, Snapshot snapshot, int64 from, bool backward)
{
	EsIndexKey	key = {1, BTGreaterEqualStrategyNumber, Int64GetDatum(from)};

	es_lookup_open(&seals->rows, ES_SEALS, AccessShareLock);
	es_lookup_begin(&seals->rows, snapshot, backward, 1, &key);
}

/* Copies a stored digest. If it does not have the right length, returns false, and the digest is all zeros. */
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

/* Reads the next seal; false at the end. */
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
 * Begins to read the manifest of the current seal, in the current memory context, and goes to its first event.
 * Returns false, and there is no event, when the manifest is damaged: it must list as many events as the seal has,
 * all in its range.
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

/* Releases everything but the locks, which stay to the end of the transaction. */
void
es_seals_close(EsSealScan *seals)
{
	es_lookup_close(&seals->rows, ES_KEEP_LOCKS);
}

/*
 * Reads the last seal with a snapshot. If there is none, returns false, and *seal is an empty one that ends before
 * the first position.
 */
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

/* Appends a number: seven bits a byte, the lowest first. The high bit of a byte says that another byte follows. */
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

/* Reads a number that put_number() has written. At the end of the manifest, notes that it is damaged. */
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

/* Goes to the next event of a manifest. There is no valid event at the end, and where the manifest is damaged. */
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

/*
 * Takes the lock for sealing, to the end of the transaction. Without wait, returns false when another transaction has
 * the lock.
 */
static bool
lock_seals(bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, es_store()->seals, 0, ES_LOCK_SEAL);
	return LockAcquire(&tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

/*
 * Stores a seal. Every event behind the published mark is recorded later than `stable_until`, which was published with it.
 * So where the seal reaches that mark, this is noted with the seal: es_position_at() need not look behind it for an earlier
 * time. A seal of a part of the log that ends before the mark says nothing about the events between.
 */
static void
store_seal(const EsSeal *seal, const EsMarkState *published, StringInfo manifest)
{
	Oid			types[7] = {INT8OID, INT8OID, INT8OID, BYTEAOID, BYTEAOID, BYTEAOID, TIMESTAMPTZOID};
	Datum		values[7];
	bool		known = seal->to >= published->mark && !TIMESTAMP_NOT_FINITE(published->stable_until);
	EsSql		sql;
	uint64		rows;

	SET_VARSIZE(manifest->data, manifest->len);
	values[0] = Int64GetDatum(seal->after);
	values[1] = Int64GetDatum(seal->to);
	values[2] = Int64GetDatum(seal->events);
	values[3] = PointerGetDatum(es_digest_bytea(seal->tree));
	values[4] = PointerGetDatum(es_digest_bytea(seal->root));
	values[5] = PointerGetDatum(manifest->data);
	values[6] = TimestampTzGetDatum(published->stable_until);
	es_sql_begin(&sql, es_store()->owner);
	rows = es_sql_write_args("seals",
							 "INSERT INTO event_store.seals"
							 " (after_position, to_position, events, tree, root, sealed_at, manifest, recorded_after)"
							 " VALUES ($1, $2, $3, $4, $5, clock_timestamp(), $6, $7)", 7, types, values,
							 known ? NULL : "      n");
	es_sql_check_written("seals", rows, 1);
	es_sql_end(&sql);
}

/*
 * Seals the events after the seal *last up to the mark, at most event_store.seal_size of them, and stores the new
 * seal in *last. Returns false when there are no events to seal. The snapshot must show everything up to the mark.
 */
static bool
seal_next(Snapshot snapshot, int64 mark, const EsMarkState *published, EsSeal *last)
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
		store_seal(&seal, published, &manifest);
		ES_FAULT(seal);
		*last = seal;
	}
	es_row_digest_end(digests);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
	return seal.events > 0;
}

/*
 * Makes at most count seals in the open transaction, which has the lock for sealing. Returns how many it has made.
 * Stores the last seal and the mark in *last and *mark.
 */
static int64
seal_up_to(int64 count, EsSeal *last, int64 *mark)
{
	Snapshot	snapshot = es_mark_snapshot_inside(mark);
	EsMarkState published;
	int64		made = 0;

	(void) last_seal(snapshot, last);
	if (last->damaged)
		ereport(ERROR,
				(errcode(ERRCODE_DATA_CORRUPTED),
				 errmsg("the last seal, up to position %lld, is damaged", (long long) last->to),
				 errhint("SELECT * FROM es_verify_log() tells what else is wrong.")));
	es_mark_state(&published);
	while (made < count && last->to < *mark && seal_next(snapshot, *mark, &published, last))
		made++;
	UnregisterSnapshot(snapshot);
	return made;
}

/* es_seal_log(max_seals integer) -> number of seals that were made */
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
	es_prevent_if_read_only("es_seal_log()");
	PreventCommandDuringRecovery("es_seal_log()");
	/* The snapshot must be newer than the lock, and above READ COMMITTED it is the transaction's. */
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
	/*
	 * The caller will keep the root in another place. So the events that it covers must not be lost in a crash:
	 * flush.
	 */
	if (!RecoveryInProgress())
		es_early_release_flush_all();
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(desc, values, nulls)));
}

/* ---------------------------------------------------------------- the coordinator's duty */

static TimestampTz keep_sealing(void);
static void begin_sealing(void);

/*
 * The word of this duty in shared memory is the position up to where sealers have sealed since the coordinator began.
 */
static EsDuty sealing = {.name = "have the event log sealed",.begin = begin_sealing,.keep = keep_sealing};

/* When a coordinator begins: what a sealer of an earlier coordinator has noted may be about another store. */
static void
begin_sealing(void)
{
	pg_atomic_write_u64(es_duty_word(&sealing), 0);
}

/*
 * Starts a sealer when there is something to seal and the interval is over. Returns when the coordinator must call it
 * again at the latest.
 */
static TimestampTz
keep_sealing(void)
{
	static EsChild sealer = {"es_seal_worker", "event_store sealer"};
	static TimestampTz started = 0;
	TimestampTz next;

	if (es_child_running(&sealer) || es_seal_interval == 0 ||
		(int64) pg_atomic_read_u64(es_duty_word(&sealing)) >= es_published_mark()->mark)
		return DT_NOEND;
	next = TimestampTzPlusMilliseconds(started, es_seal_interval * INT64CONST(1000));
	if (GetCurrentTimestamp() < next)
		return next;

	(void) es_child_start(&sealer, 0);
	started = GetCurrentTimestamp();
	return TimestampTzPlusMilliseconds(started, es_seal_interval * INT64CONST(1000));
}

/* Registers the duty; called once, when the library is loaded. */
void
es_seal_init(void)
{
	es_duty_register(&sealing);
}

/* ---------------------------------------------------------------- the sealer */

/*
 * Makes one seal in a transaction of its own. Returns false when the sealer has nothing more to do: another
 * transaction is sealing, there was nothing to seal, or the seal was not full. A seal that is not full ends at the
 * mark. While others append there would always be a few more events, and the sealer would make very many small seals.
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
	es_duty_tell(&sealing, mark);
	return false;
}

/* Entry point of the sealer: makes seals until it has reached the mark. */
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
		/* The server's log may be kept in another place, and then the root is kept there too. */
		ereport(LOG,
				(errmsg("event_store sealed the log of database %u up to position %lld, root %s", MyDatabaseId,
						(long long) last.to, hex)));
	}
	pgstat_report_stat(true);
	proc_exit(0);
}
