/*
 * proof/verify.c
 *	  es_verify_log and es_verify_stream: finding events that were changed by other means than the store's functions.
 *
 * es_verify_log() verifies the log in three ways, all with one snapshot:
 *
 *	1. By seals: each seal begins where the one before it ends, and its digest is that of its content and of the seal
 *	   before.
 *	2. By position: each sealed range has exactly the events that were sealed. Each event, sealed or not, has a head
 *	   row, and its version and position are not beyond those in the head row.
 *	3. By stream: the events are there from version 1 to the version in the head row, in order, and their digests, one
 *	   after the other, give the digest in the head row.
 *
 * The second way finds a stream, or the end of one, that was removed and whose head row was removed or changed to
 * fit. The third way finds events that were changed before they were sealed. es_verify_stream() verifies one stream
 * in the third way. If it finds something, it compares the stream's events with the manifests of the seals, to say
 * which were changed.
 *
 * Each finding is a row. Memory is constant: the state of one range or one stream, and at most MAX_FINDINGS findings
 * of a range. A range of positions that is in no attached partition (a *gap*) is one finding. What is missing only
 * because of a gap is not reported again.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "proof/seal.h"

/* Findings of one range that are reported one by one. The rest is only counted. */
#define MAX_FINDINGS	100

typedef struct Finding
{
	const char *kind;
	const text *stream;			/* may be NULL */
	int64		version;		/* 0: none */
	int64		position;		/* 0: none */
	const char *detail;
} Finding;

typedef struct Verifier
{
	ReturnSetInfo *rsinfo;		/* where findings go */
	Snapshot	snapshot;
	EsRowDigest *digests;		/* of the current row */
	EsPartition *partitions;
	int			partition_count;
	EsPartitionGap *gaps;
	int			gap_count;

	/* the range or stream that is being verified */
	MemoryContext context;		/* reset for each */
	bool		collect;		/* collect findings; put_collected() puts them out */
	int64		findings;
	Finding		collected[MAX_FINDINGS];
} Verifier;

PG_FUNCTION_INFO_V1(es_verify_stream);
PG_FUNCTION_INFO_V1(es_verify_log);

/* ---------------------------------------------------------------- findings */

/* Adds a row to the result. */
static void
put(Verifier *v, const Finding *finding)
{
	Datum		values[5] = {0};
	bool		nulls[5] = {false};

	values[0] = CStringGetTextDatum(finding->kind);
	nulls[1] = finding->stream == NULL;
	values[1] = PointerGetDatum(finding->stream);
	nulls[2] = finding->version == 0;
	values[2] = Int64GetDatum(finding->version);
	nulls[3] = finding->position == 0;
	values[3] = Int64GetDatum(finding->position);
	values[4] = CStringGetTextDatum(finding->detail);
	tuplestore_putvalues(v->rsinfo->setResult, v->rsinfo->setDesc, values, nulls);
}

/* Reports a finding, or collects it. stream may be NULL; version and position are 0 where there is none. */
static void report(Verifier *v, const char *kind, const text *stream, int64 version, int64 position,
				   const char *fmt,...) pg_attribute_printf(6, 7);

static void
report(Verifier *v, const char *kind, const text *stream, int64 version, int64 position, const char *fmt,...)
{
	MemoryContext old;
	va_list		args;
	Finding		finding = {kind, stream, version, position, NULL};

	v->findings++;
	if (v->collect && v->findings > MAX_FINDINGS)
		return;
	old = MemoryContextSwitchTo(v->context);
	va_start(args, fmt);
	finding.detail = es_vpsprintf(fmt, args);
	va_end(args);
	if (!v->collect)
		put(v, &finding);
	else
	{
		if (stream != NULL)
			finding.stream = DatumGetTextPCopy(PointerGetDatum(stream));
		v->collected[v->findings - 1] = finding;
	}
	MemoryContextSwitchTo(old);
}

/* Begins with another range or stream. With collect, findings are kept until it is known what they mean. */
static void
begin(Verifier *v, bool collect)
{
	MemoryContextReset(v->context);
	v->collect = collect;
	v->findings = 0;
}

/* Puts out the findings that were collected for a range, and how many more there were. */
static void
put_collected(Verifier *v, int64 after, int64 to)
{
	int64		more = v->findings - MAX_FINDINGS;

	v->collect = false;
	for (int i = 0; i < Min(v->findings, MAX_FINDINGS); i++)
		put(v, &v->collected[i]);
	if (more > 0)
		report(v, "more", NULL, 0, 0, "%lld more findings between positions %lld and %lld", (long long) more,
			   (long long) after + 1, (long long) to);
}

static void
report_missing_versions(Verifier *v, const text *stream, int64 from, int64 to)
{
	if (from == to)
		report(v, "missing", stream, from, 0, "the event with this version is not there");
	else
		report(v, "missing", stream, from, 0, "the events with versions %lld to %lld are not there", (long long) from,
			   (long long) to);
}

/* ---------------------------------------------------------------- partitions */

/* Reads the list of partitions, and finds the gaps between them, up to a position. */
static void
read_partitions(Verifier *v, int64 last)
{
	v->partition_count = es_partitions_copy(&v->partitions);
	v->gap_count = es_partition_gaps(last, &v->gaps);
	/* The first partition begins with the node's start, but the first event is at the position after it. */
	if (v->gap_count > 0)
		v->gaps[0].from = Max(v->gaps[0].from, ES_NODE_START(es_store()->node) + 1);
}

/*
 * Takes back a gap behind the newest partition, if there never was an event in it. A transaction may have allocated
 * positions there and made the partition for them, and then have rolled back. If there were events, some head row
 * still has a last position in the gap.
 */
static void
forget_unused_positions(Verifier *v, int64 last)
{
	EsSql		sql;

	if (v->gap_count == 0 || v->gaps[v->gap_count - 1].to != last)
		return;
	es_sql_begin(&sql, es_store()->owner);
	es_sql_run("SELECT greatest(max(last_position), 0) FROM event_store.heads");
	last = Min(last, DatumGetInt64(es_sql_first(1, INT8OID, NULL)));
	es_sql_end(&sql);
	/* Read again: the query may have seen heads of events in a partition that was made since. */
	read_partitions(v, last);
}

/* Which partition a gap is of, where that is known. */
static const char *
gap_partition(const EsPartitionGap *gap)
{
	return NameStr(gap->partition)[0] == '\0' ? "" : psprintf("; they were in \"%s\"", NameStr(gap->partition));
}

/* Whether one of the positions from..to is in a gap. */
static bool
in_gap(const Verifier *v, int64 from, int64 to)
{
	return es_in_partition_gap(v->gaps, v->gap_count, from, to);
}

/* The name of the partition that has a position. */
static const char *
partition_name(const Verifier *v, int64 position)
{
	const EsPartition *partition = es_partition_among(v->partitions, v->partition_count, position);
	char	   *name = partition == NULL ? NULL : get_rel_name(partition->relid);

	return name != NULL ? name : "?";
}

/* ---------------------------------------------------------------- by position */

/* An event that a manifest lists and the log does not have. */
static void
report_missing(Verifier *v, const EsManifest *sealed)
{
	const EsRowDigestStream *stream = es_row_digest_stream(v->digests, sealed->stream);

	if (stream->name != NULL)
		report(v, "missing", stream->name, sealed->version, sealed->position,
			   "the event that was sealed here is not there, in partition \"%s\"", partition_name(v, sealed->position));
	else
		report(v, "missing", NULL, sealed->version, sealed->position,
			   "the event that was sealed here is not there, in partition \"%s\"; its stream, with id %lld, has no head row",
			   partition_name(v, sealed->position), (long long) sealed->stream);
}

/* Compares the current row with what was sealed at its position. leaf is NULL when the row has no digest. */
static void
compare_with_sealed(Verifier *v, const EsManifest *sealed, const uint8 *leaf)
{
	EsRowDigest *e = v->digests;

	if (e->event.stream_id != sealed->stream || e->event.version != sealed->version)
	{
		const EsRowDigestStream *was = es_row_digest_stream(e, sealed->stream);
		char	   *name = was->name != NULL ? psprintf("\"%s\"", text_to_cstring(was->name)) :
			psprintf("with id %lld", (long long) sealed->stream);

		report(v, "changed", e->stream->name, e->event.version, e->event.position,
			   "version %lld of stream %s was sealed here, in partition \"%s\"", (long long) sealed->version, name,
			   partition_name(v, e->event.position));
	}
	else if (leaf != NULL && memcmp(leaf, sealed->print, ES_PRINT_LEN) != 0)
		report(v, "changed", e->stream->name, e->event.version, e->event.position,
			   "the event is not the one that was sealed, in partition \"%s\"", partition_name(v, e->event.position));
}

/* Reports a current row without a digest, and one whose version or position is beyond those in its head row. */
static void
check_row(Verifier *v)
{
	EsRowDigest *e = v->digests;

	if (e->flaw != NULL)
		report(v, e->flaw_kind, e->stream->name, e->event.version, e->event.position, "%s (stream id %lld, partition \"%s\")",
			   e->flaw, (long long) e->event.stream_id, partition_name(v, e->event.position));
	else if (e->event.version > e->stream->version || e->event.position > e->stream->last_position)
		report(v, "head", e->stream->name, e->event.version, e->event.position,
			   "the head row says that the stream ends with version %lld at position %lld",
			   (long long) e->stream->version, (long long) e->stream->last_position);
}

/*
 * Verifies the events at positions after < p <= to. If seal is not NULL, these are the positions of that seal. sealed
 * is the seal's manifest, or NULL when that is damaged.
 */
static void
verify_range(Verifier *v, int64 after, int64 to, const EsSeal *seal, EsManifest *sealed)
{
	EsRowDigest *e = v->digests;
	MemoryContext outer = CurrentMemoryContext;
	EsTree		tree;
	uint8		root[ES_DIGEST_LEN];
	bool		same;
	bool		named = false;	/* there are findings that say which events are not what was sealed */
	bool		flawed = false; /* there are events without a digest */

	es_tree_begin(&tree);
	for (int i = 0; i < v->partition_count; i++)
	{
		EsPartition *partition = &v->partitions[i];
		EsScan	   *scan;
		TupleTableSlot *slot;

		if (partition->to <= after + 1 || partition->from > to)
			continue;
		scan = es_scan_create(RegisterSnapshot(v->snapshot));
		es_scan_positions(scan, Max(after, partition->from - 1), Min(to, partition->to - 1));
		while ((slot = es_scan_next(scan)) != NULL)
		{
			uint8		digest[ES_DIGEST_LEN];
			bool		good = es_row_digest_read(e, slot);

			flawed |= !good;
			memset(digest, 0, sizeof(digest));
			MemoryContextSwitchTo(e->row);
			check_row(v);
			if (seal != NULL)
			{
				if (good)
					es_row_digest_leaf(e, digest);
				es_tree_add(&tree, e->hasher, digest);
			}
			if (sealed != NULL)
			{
				for (; sealed->valid && sealed->position < e->event.position; es_manifest_next(sealed))
					report_missing(v, sealed);
				if (sealed->valid && sealed->position == e->event.position)
				{
					compare_with_sealed(v, sealed, good ? digest : NULL);
					es_manifest_next(sealed);
				}
				else
					report(v, "added", e->stream->name, e->event.version, e->event.position,
						   "no event was sealed here, in partition \"%s\"", partition_name(v, e->event.position));
			}
			MemoryContextSwitchTo(outer);
		}
		es_scan_end(scan);
	}
	if (seal == NULL)
		return;
	for (; sealed != NULL && sealed->valid; es_manifest_next(sealed))
		report_missing(v, sealed);
	es_tree_root(&tree, e->hasher, root);
	same = tree.leaves == seal->events && memcmp(root, seal->tree, ES_DIGEST_LEN) == 0;
	/* Findings about head rows do not explain a difference from the seal: head rows are not sealed. */
	for (int i = 0; i < Min(v->findings, MAX_FINDINGS); i++)
		if (strcmp(v->collected[i].kind, "head") != 0)
			named = true;
	if (same && (named || sealed == NULL))
	{
		v->findings = 0;
		report(v, "seal", NULL, 0, seal->to,
			   "the events between positions %lld and %lld are those that were sealed, but the manifest of the seal was changed",
			   (long long) after + 1, (long long) to);
	}
	else if (!same && !named && !flawed)
		report(v, "seal", NULL, 0, seal->to,
			   "the %lld events between positions %lld and %lld are not the %lld that were sealed; which of them, the manifest of the seal does not tell",
			   (long long) tree.leaves, (long long) after + 1, (long long) to, (long long) seal->events);
}

/*
 * Verifies a range and puts out its findings. seals is at the seal of the range; seal is NULL for a range that is not
 * sealed. A sealed range that is in a gap, even with a part of it, is passed over: the gap was reported, and the tree
 * of the seal cannot be computed without the events in it.
 */
static void
verify_attached_range(Verifier *v, int64 after, int64 to, const EsSeal *seal, EsSealScan *seals)
{
	MemoryContext old;
	EsManifest	manifest;
	bool		listed;

	if (seal != NULL && in_gap(v, after + 1, to))
		return;
	begin(v, true);
	old = MemoryContextSwitchTo(v->context);
	listed = seal != NULL && es_seals_manifest(seals, seal, &manifest);
	verify_range(v, after, to, seal, listed ? &manifest : NULL);
	put_collected(v, after, to);
	MemoryContextSwitchTo(old);
}

/* ---------------------------------------------------------------- by seals */

/*
 * Verifies the events between two seals, or behind the last one, that no seal covers: those at positions from < p <=
 * upto.
 */
static void
verify_unsealed(Verifier *v, int64 after, int64 to, int64 from, int64 upto)
{
	after = Max(after, from);
	to = Min(to, upto);
	if (after < to)
		verify_attached_range(v, after, to, NULL, NULL);
}

/*
 * Verifies all seals, and the events at positions from < p <= upto. Sealed events are verified by whole seals, so
 * perhaps more of them. If root is not NULL, it must be the root of the seal that ends at root_position.
 */
static void
verify_seals(Verifier *v, int64 from, int64 upto, int64 root_position, const bytea *root)
{
	EsRowDigest *e = v->digests;
	EsSealScan	seals;
	EsSeal		seal;
	int64		last = ES_NODE_START(es_store()->node);
	uint8		previous[ES_DIGEST_LEN] = {0};
	bool		found = false;

	es_seals_open(&seals, v->snapshot, PG_INT64_MIN, false);
	while (es_seals_next(&seals, &seal))
	{
		uint8		digest[ES_DIGEST_LEN];

		begin(v, false);
		if (seal.after != last || seal.after >= seal.to)
		{
			if (seal.after > last && seal.after < seal.to)
				report(v, "seal", NULL, 0, last + 1, "positions %lld to %lld are in no seal, but later ones are",
					   (long long) last + 1, (long long) seal.after);
			else
				report(v, "seal", NULL, 0, seal.to, "a seal of positions %lld to %lld follows one that ends at position %lld",
					   (long long) seal.after + 1, (long long) seal.to, (long long) last);
			verify_unsealed(v, last, seal.after, from, upto);
			begin(v, false);
		}
		es_seal_digest(e->hasher, &e->store_id, seal.after, seal.to, seal.events, seal.tree, previous, digest);
		if (seal.damaged || memcmp(digest, seal.root, ES_DIGEST_LEN) != 0)
			report(v, "seal", NULL, 0, seal.to,
				   "the seal of positions %lld to %lld does not have the digest of what it says and of the seal before",
				   (long long) seal.after + 1, (long long) seal.to);
		if (root != NULL && seal.to == root_position)
		{
			found = true;
			if (VARSIZE_ANY_EXHDR(root) != ES_DIGEST_LEN || memcmp(VARDATA_ANY(root), seal.root, ES_DIGEST_LEN) != 0)
				report(v, "root", NULL, 0, seal.to, "the log up to position %lld does not have this root",
					   (long long) seal.to);
		}
		if (seal.to > from && seal.after < upto && seal.after < seal.to)
			verify_attached_range(v, seal.after, seal.to, &seal, &seals);
		last = Max(last, seal.to);
		memcpy(previous, seal.root, ES_DIGEST_LEN);
	}
	es_seals_close(&seals);
	begin(v, false);
	if (root != NULL && !found)
		report(v, "root", NULL, 0, root_position, "no seal ends at position %lld", (long long) root_position);
	verify_unsealed(v, last, PG_INT64_MAX - 1, from, upto);
}

/* ---------------------------------------------------------------- by stream */

/*
 * Reads the head row in a slot; *name is good as long as the slot is. Reports a digest that is not of the right length,
 * and returns false then.
 */
static bool
read_head(Verifier *v, TupleTableSlot *slot, EsHead *head, text **name)
{
	bytea	   *digest;

	slot_getallattrs(slot);
	*name = DatumGetTextPP(slot->tts_values[Anum_head_name - 1]);
	digest = DatumGetByteaPP(slot->tts_values[Anum_head_digest - 1]);
	if (VARSIZE_ANY_EXHDR(digest) == ES_DIGEST_LEN)
	{
		es_head_read(slot, head);
		return true;
	}
	report(v, "head", *name, 0, 0, "the digest in the head row has %d bytes", (int) VARSIZE_ANY_EXHDR(digest));
	return false;
}

/* Whether what a head row says fits together: its category is that of its name, and its version is not negative. */
static bool
check_head(Verifier *v, const text *name, const EsHead *head)
{
	const text *category = es_row_digest_category(v->digests, head->category);
	int			len = es_category_length(name);
	int64		before = v->findings;

	if (category == NULL || VARSIZE_ANY_EXHDR(category) != len ||
		memcmp(VARDATA_ANY(category), VARDATA_ANY(name), len) != 0)
		report(v, "head", name, 0, 0, "the category in the head row is not that of the stream's name");
	if (head->version < 0)
		report(v, "head", name, 0, 0, "the version in the head row is %lld", (long long) head->version);
	return v->findings == before;
}

/*
 * Verifies a stream's events in order of version. With beyond, events beyond the version in the head row are looked for
 * too. With flaws, events whose digest cannot be computed are reported. es_verify_log() needs neither, because
 * verify_range() has reported both.
 */
static void
verify_events(Verifier *v, const text *name, const EsHead *head, bool beyond, bool flaws)
{
	EsRowDigest *e = v->digests;
	MemoryContext outer = CurrentMemoryContext;
	EsHead		range = *head;
	EsScan	   *scan;
	TupleTableSlot *slot;
	uint8		chain[ES_DIGEST_LEN] = {0};
	bool		gap = in_gap(v, beyond ? head->first_position : Min(head->first_position, head->last_position),
							 beyond ? PG_INT64_MAX : head->last_position);
	bool		whole = !gap;	/* no event is missing or without a digest so far: the head's digest can be compared */
	int64		version = 0;	/* of the row before; position and recorded_at are of that row too */
	int64		position = 0;
	TimestampTz recorded_at = DT_NOBEGIN;

	if (beyond || head->first_position > head->last_position)
	{
		range.first_position = PG_INT64_MIN;
		range.last_position = PG_INT64_MAX;
	}
	scan = es_scan_create(RegisterSnapshot(v->snapshot));
	scan->raw = true;
	es_scan_stream(scan, name, &range, 1, beyond ? PG_INT64_MAX : head->version);
	while ((slot = es_scan_next(scan)) != NULL)
	{
		bool		good = es_row_digest_read(e, slot);
		const EsEvent *event = &e->event;

		MemoryContextSwitchTo(e->row);
		if (event->version > head->version)
		{
			report(v, "head", name, event->version, event->position,
				   "the head row says that the stream ends with version %lld at position %lld",
				   (long long) head->version, (long long) head->last_position);
			MemoryContextSwitchTo(outer);
			break;
		}
		if (event->version <= version || event->position <= position || event->recorded_at < recorded_at)
			report(v, "order", name, event->version, event->position,
				   "it follows version %lld at position %lld, but version or position is not greater, or recorded_at is earlier",
				   (long long) version, (long long) position);
		if (event->version != version + 1)
		{
			if (!gap && event->version > version + 1)
				report_missing_versions(v, name, version + 1, event->version - 1);
			whole = false;
		}
		if (e->event.category_id != head->category)
			report(v, "changed", name, event->version, event->position, "its category is not that of its stream");
		if (version == 0 && event->version == 1 &&
			(event->position != head->first_position || event->recorded_at != head->created_at))
			report(v, "head", name, event->version, event->position,
				   "position or time of the first event is not that in the head row");
		if (!good)
		{
			if (flaws)
				report(v, e->flaw_kind, name, event->version, event->position, "%s", e->flaw);
			whole = false;
		}
		if (whole)
			es_row_digest_chain(e, chain);
		version = Max(version, event->version);
		position = Max(position, event->position);
		recorded_at = event->recorded_at;
		MemoryContextSwitchTo(outer);
	}
	es_scan_end(scan);
	if (version < head->version)
	{
		if (!gap)
			report_missing_versions(v, name, version + 1, head->version);
		whole = false;
	}
	else if (version > 0 && (position != head->last_position || recorded_at != head->recorded_at))
		report(v, "head", name, version, position, "position or time of the last event is not that in the head row");
	if (whole && memcmp(chain, head->digest, ES_DIGEST_LEN) != 0)
		report(v, "digest", name, 0, 0, "the stream's %lld events do not give the digest in its head row",
			   (long long) head->version);
}

/*
 * Verifies the streams whose last position, by their head rows, is from < p <= upto. With from at the beginning of
 * the log also those that have no position.
 */
static void
verify_streams(Verifier *v, int64 from, int64 upto)
{
	EsLookup	rows;
	bool		first = from <= ES_NODE_START(es_store()->node);

	es_lookup_open(&rows, ES_HEADS_BY_ID, AccessShareLock);
	es_lookup_begin(&rows, v->snapshot, false, 0, NULL);
	while (es_lookup_next(&rows))
	{
		int64		last;
		EsHead		head;
		text	   *name;
		MemoryContext old;

		CHECK_FOR_INTERRUPTS();
		last = DatumGetInt64(es_row_column(rows.slot, Anum_head_last_position));
		if (last > upto || (last <= from && !(first && last <= ES_NODE_START(es_store()->node))))
			continue;
		begin(v, false);
		old = MemoryContextSwitchTo(v->context);
		if (read_head(v, rows.slot, &head, &name) && check_head(v, name, &head))
			verify_events(v, name, &head, false, false);
		MemoryContextSwitchTo(old);
	}
	es_lookup_close(&rows, ES_KEEP_LOCKS);
}

/* Reports which events of a stream are not what was sealed at their positions. Reads them in order of version. */
static void
report_changed_events(Verifier *v, const text *name, const EsHead *head)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_store manifest", ALLOCSET_DEFAULT_SIZES);
	EsRowDigest *e = v->digests;
	EsHead		range = *head;
	EsScan	   *scan;
	EsManifest	sealed;
	int64		sealed_to = PG_INT64_MIN;	/* where the current seal ends */
	int64		position = 0;
	bool		listed = false;	/* the current seal's manifest is good */
	TupleTableSlot *slot;

	memset(&sealed, 0, sizeof(sealed));
	range.first_position = PG_INT64_MIN;
	range.last_position = PG_INT64_MAX;
	scan = es_scan_create(RegisterSnapshot(v->snapshot));
	scan->raw = true;
	es_scan_stream(scan, name, &range, 1, PG_INT64_MAX);
	while ((slot = es_scan_next(scan)) != NULL)
	{
		MemoryContext old;
		int64		before = position;
		uint8		leaf[ES_DIGEST_LEN];

		if (!es_row_digest_read(e, slot))
			continue;
		position = e->event.position;
		/* Find the seal anew where this one ends, and where the order of positions was disturbed. */
		if (position > sealed_to || position <= before)
		{
			EsSealScan	seals;
			EsSeal		seal;

			MemoryContextReset(context);
			memset(&sealed, 0, sizeof(sealed));
			es_seals_open(&seals, v->snapshot, position, false);
			if (!es_seals_next(&seals, &seal) || seal.after >= position)
			{
				/* No seal has this position: it is not sealed yet, or the seal was removed. */
				es_seals_close(&seals);
				continue;
			}
			old = MemoryContextSwitchTo(context);
			listed = es_seals_manifest(&seals, &seal, &sealed);
			MemoryContextSwitchTo(old);
			sealed_to = seal.to;
			es_seals_close(&seals);
		}
		if (!listed)
			continue;
		while (sealed.valid && sealed.position < position)
			es_manifest_next(&sealed);
		old = MemoryContextSwitchTo(e->row);
		es_row_digest_leaf(e, leaf);
		if (sealed.valid && sealed.position == position)
			compare_with_sealed(v, &sealed, leaf);
		else
			report(v, "added", name, e->event.version, position, "no event was sealed here, in partition \"%s\"",
				   partition_name(v, position));
		MemoryContextSwitchTo(old);
	}
	es_scan_end(scan);
	MemoryContextDelete(context);
}

/* ---------------------------------------------------------------- SQL functions */

/* The snapshot must be registered; verifier_end() releases it. last is the last position that partitions must have. */
static Verifier *
verifier_begin(FunctionCallInfo fcinfo, Snapshot snapshot, int64 last)
{
	Verifier   *v = palloc0(sizeof(Verifier));

	v->rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	v->snapshot = snapshot;
	v->context = AllocSetContextCreate(CurrentMemoryContext, "event_store verify", ALLOCSET_DEFAULT_SIZES);
	v->digests = es_row_digest_begin(snapshot);
	read_partitions(v, last);
	return v;
}

static void
verifier_end(Verifier *v)
{
	es_row_digest_end(v->digests);
	UnregisterSnapshot(v->snapshot);
}

/* es_verify_stream(stream text) -> findings */
Datum
es_verify_stream(PG_FUNCTION_ARGS)
{
	text	   *name;
	Snapshot	snapshot;
	Verifier   *v;
	EsLookup	rows;
	Datum		key;

	(void) es_store_now();
	name = es_text_argument(fcinfo, 0, "stream");
	InitMaterializedSRF(fcinfo, 0);
	snapshot = RegisterSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetLatestSnapshot());
	v = verifier_begin(fcinfo, snapshot, 0);

	es_lookup_open(&rows, ES_HEADS_BY_NAME, AccessShareLock);
	key = PointerGetDatum(name);
	begin(v, false);
	if (!es_lookup_find(&rows, snapshot, &key))
		report(v, "head", name, 0, 0, "there is no such stream");
	else
	{
		EsHead		head;
		text	   *stored;

		if (read_head(v, rows.slot, &head, &stored))
		{
			read_partitions(v, head.last_position);
			for (int i = 0; i < v->gap_count; i++)
				if (v->gaps[i].from <= head.last_position && v->gaps[i].to >= head.first_position)
					report(v, "partition", name, 0, v->gaps[i].from,
						   "positions %lld to %lld are in no attached partition%s", (long long) v->gaps[i].from,
						   (long long) v->gaps[i].to, gap_partition(&v->gaps[i]));
			(void) check_head(v, name, &head);
			verify_events(v, name, &head, true, true);
			if (v->findings > 0)
				report_changed_events(v, name, &head);
			es_early_release_await(&head);	/* the head was reported on, so it must not be lost in a crash */
		}
	}
	es_lookup_close(&rows, ES_KEEP_LOCKS);
	verifier_end(v);
	return (Datum) 0;
}

/* es_verify_log(from_position, to_position, root_position, root) -> findings */
Datum
es_verify_log(PG_FUNCTION_ARGS)
{
	int64		from;
	int64		upto;
	int64		mark;
	bytea	   *root = NULL;
	Verifier   *v;
	Snapshot	snapshot;

	(void) es_store_now();
	from = PG_ARGISNULL(0) ? 0 : Min(PG_GETARG_INT64(0), PG_INT64_MAX - 1);
	upto = PG_ARGISNULL(1) ? PG_INT64_MAX - 1 : Min(PG_GETARG_INT64(1), PG_INT64_MAX - 1);
	if (from < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument from_position must not be negative"),
				 errdetail("It is %lld.", (long long) from)));
	if (upto < from)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument to_position must not be less than from_position"),
				 errdetail("They are %lld and %lld.", (long long) upto, (long long) from)));
	if (PG_ARGISNULL(2) != PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("arguments root_position and root must be given together"),
				 errhint("Both are what es_log_root() returned.")));
	if (!PG_ARGISNULL(3))
		root = PG_GETARG_BYTEA_PP(3);

	InitMaterializedSRF(fcinfo, 0);
	snapshot = es_mark_snapshot(&mark);
	v = verifier_begin(fcinfo, snapshot, mark);
	from = Max(from, ES_NODE_START(es_store()->node));
	forget_unused_positions(v, mark);
	begin(v, false);
	for (int i = 0; i < v->gap_count; i++)
		if (v->gaps[i].from <= Min(upto, mark) && v->gaps[i].to > from)
			report(v, "partition", NULL, 0, v->gaps[i].from, "positions %lld to %lld are in no attached partition%s",
				   (long long) v->gaps[i].from, (long long) v->gaps[i].to, gap_partition(&v->gaps[i]));
	verify_seals(v, from, upto, PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2), root);
	verify_streams(v, from, upto);
	verifier_end(v);
	return (Datum) 0;
}
