/*
 * proof/verify.c
 *	  Looking for what was changed behind the store's back.
 *
 * es_verify_log() looks at the log in three ways, all under one snapshot:
 *
 *	1. by seals: each follows the one before, and has the digest that its content and the one before give
 *	2. by position: the events of each sealed range are those that were sealed, none more or less. Every event,
 *	   sealed or not, has a head row, which knows of it
 *	3. by stream: the events are there from version 1 to the head's, in order, and give the digest of the head row
 *
 * The second finds whole streams and ends of streams that were removed together with what their head rows said of
 * them; the third finds what was changed before it was sealed. es_verify_stream() does the third for one stream, and
 * asks the seals which of its events is not what it was.
 *
 * Each finding is a row. Memory is constant: the state of one range, or of one stream, and MAX_FINDINGS of a range. A
 * range of positions that is in no attached partition is one finding, and nothing else is said because of it.
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

/* Of one range, before the others are only counted. */
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
	EsRowDigest *digests;
	EsPartition	   *leaves;
	int			leaf_count;
	EsPartitionGap  *gaps;
	int			gap_count;

	/* the range or stream that is being looked at */
	MemoryContext context;		/* reset for each */
	bool		hold;			/* keep findings until it is known what they mean */
	int64		findings;
	Finding		held[MAX_FINDINGS];
} Verifier;

PG_FUNCTION_INFO_V1(es_verify_stream);
PG_FUNCTION_INFO_V1(es_verify_log);

/* ---------------------------------------------------------------- findings */

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

static void report(Verifier *v, const char *kind, const text *stream, int64 version, int64 position,
				   const char *fmt,...) pg_attribute_printf(6, 7);

static void
report(Verifier *v, const char *kind, const text *stream, int64 version, int64 position, const char *fmt,...)
{
	MemoryContext old;
	va_list		args;
	Finding		finding = {kind, stream, version, position, NULL};

	v->findings++;
	if (v->hold && v->findings > MAX_FINDINGS)
		return;
	old = MemoryContextSwitchTo(v->context);
	va_start(args, fmt);
	finding.detail = es_vpsprintf(fmt, args);
	va_end(args);
	if (!v->hold)
		put(v, &finding);
	else
	{
		if (stream != NULL)
			finding.stream = DatumGetTextPCopy(PointerGetDatum(stream));
		v->held[v->findings - 1] = finding;
	}
	MemoryContextSwitchTo(old);
}

/* Begins with another range or stream. */
static void
begin(Verifier *v, bool hold)
{
	MemoryContextReset(v->context);
	v->hold = hold;
	v->findings = 0;
}

/* Puts what was held back. */
static void
release(Verifier *v, int64 after, int64 to)
{
	int64		more = v->findings - MAX_FINDINGS;

	v->hold = false;
	for (int i = 0; i < Min(v->findings, MAX_FINDINGS); i++)
		put(v, &v->held[i]);
	if (more > 0)
		report(v, "more", NULL, 0, 0, "%lld more findings between positions %lld and %lld", (long long) more,
			   (long long) after + 1, (long long) to);
}

static void
report_versions(Verifier *v, const text *stream, int64 from, int64 to)
{
	if (from == to)
		report(v, "missing", stream, from, 0, "the event with this version is not there");
	else
		report(v, "missing", stream, from, 0, "the events with versions %lld to %lld are not there", (long long) from,
			   (long long) to);
}

/* ---------------------------------------------------------------- partitions */

/* Finds out what positions up to the last one that was drawn are attached. */
static void
look_at_leaves(Verifier *v, int64 last)
{
	v->leaf_count = es_partitions_copy(&v->leaves, NULL);
	v->gap_count = es_partition_gaps(v->leaves, v->leaf_count, last, &v->gaps);
	/* Where the log begins is no position. */
	if (v->gap_count > 0)
		v->gaps[0].from = Max(v->gaps[0].from, ES_NODE_START(es_store()->node) + 1);
}

/*
 * Positions behind the newest partition may have been drawn in vain, together with the partition for them: then nothing is
 * there to be missed. Else a stream's last event is.
 */
static void
forget_drawn_in_vain(Verifier *v, int64 last)
{
	EsSql		sql;
	bool		isnull;

	if (v->gap_count == 0 || v->gaps[v->gap_count - 1].to != last)
		return;
	es_sql_begin(&sql, es_store()->owner);
	es_sql_run("SELECT greatest(max(last_position), 0) FROM event_store.heads");
	last = Min(last, DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)));
	es_sql_end(&sql);
	/* With the partition of whatever was seen of the heads just now. */
	look_at_leaves(v, last);
}

static bool
in_gap(const Verifier *v, int64 from, int64 to)
{
	return es_in_partition_gap(v->gaps, v->gap_count, from, to);
}

/* The name of the partition that has a position. */
static const char *
leaf_name(const Verifier *v, int64 position)
{
	const EsPartition *leaf = es_partition_among(v->leaves, v->leaf_count, position);
	char	   *name = leaf == NULL ? NULL : get_rel_name(leaf->relid);

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
			   "the event that was sealed here is not there, in partition \"%s\"", leaf_name(v, sealed->position));
	else
		report(v, "missing", NULL, sealed->version, sealed->position,
			   "the event that was sealed here is not there, in partition \"%s\"; its stream, with id %lld, has no head row",
			   leaf_name(v, sealed->position), (long long) sealed->stream);
}

/* Compares the current row with what was sealed at its position; leaf is NULL where it has none. */
static void
compare_with_sealed(Verifier *v, const EsManifest *sealed, const uint8 *leaf)
{
	EsRowDigest *e = v->digests;

	if (e->stream_id != sealed->stream || e->input.version != sealed->version)
	{
		const EsRowDigestStream *was = es_row_digest_stream(e, sealed->stream);
		char	   *name = was->name != NULL ? psprintf("\"%s\"", text_to_cstring(was->name)) :
			psprintf("with id %lld", (long long) sealed->stream);

		report(v, "changed", e->stream->name, e->input.version, e->input.position,
			   "version %lld of stream %s was sealed here, in partition \"%s\"", (long long) sealed->version, name,
			   leaf_name(v, e->input.position));
	}
	else if (leaf != NULL && memcmp(leaf, sealed->print, ES_PRINT_LEN) != 0)
		report(v, "changed", e->stream->name, e->input.version, e->input.position,
			   "the event is not the one that was sealed, in partition \"%s\"", leaf_name(v, e->input.position));
}

/* The current row and its head: what can be said of any event. */
static void
check_head_knows(Verifier *v)
{
	EsRowDigest *e = v->digests;

	if (e->flaw != NULL)
		report(v, e->flaw_kind, e->stream->name, e->input.version, e->input.position, "%s (stream id %lld, partition \"%s\")",
			   e->flaw, (long long) e->stream_id, leaf_name(v, e->input.position));
	else if (e->input.version > e->stream->version || e->input.position > e->stream->last_position)
		report(v, "head", e->stream->name, e->input.version, e->input.position,
			   "the head row says that the stream ends with version %lld at position %lld",
			   (long long) e->stream->version, (long long) e->stream->last_position);
}

/*
 * Looks at the events after < position <= to. With a seal, they are its range, and sealed is its manifest, or NULL when
 * that is damaged.
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
	for (int i = 0; i < v->leaf_count; i++)
	{
		EsPartition	   *leaf = &v->leaves[i];
		EsScan	   *scan;
		TupleTableSlot *slot;

		if (leaf->to <= after + 1 || leaf->from > to)
			continue;
		scan = es_scan_create(RegisterSnapshot(v->snapshot));
		es_scan_positions(scan, Max(after, leaf->from - 1), Min(to, leaf->to - 1));
		while ((slot = es_scan_next(scan)) != NULL)
		{
			uint8		digest[ES_DIGEST_LEN];
			bool		good = es_row_digest_read(e, slot);

			flawed |= !good;
			memset(digest, 0, sizeof(digest));
			MemoryContextSwitchTo(e->row);
			check_head_knows(v);
			if (seal != NULL)
			{
				if (good)
					es_row_digest_leaf(e, digest);
				es_tree_add(&tree, e->hasher, digest);
			}
			if (sealed != NULL)
			{
				for (; sealed->valid && sealed->position < e->input.position; es_manifest_next(sealed))
					report_missing(v, sealed);
				if (sealed->valid && sealed->position == e->input.position)
				{
					compare_with_sealed(v, sealed, good ? digest : NULL);
					es_manifest_next(sealed);
				}
				else
					report(v, "added", e->stream->name, e->input.version, e->input.position,
						   "no event was sealed here, in partition \"%s\"", leaf_name(v, e->input.position));
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
	/* What is said of head rows has nothing to do with the seal. */
	for (int i = 0; i < Min(v->findings, MAX_FINDINGS); i++)
		if (strcmp(v->held[i].kind, "head") != 0)
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

/* The same with findings held and put, for the part that is attached. */
static void
verify_attached_range(Verifier *v, int64 after, int64 to, const EsSeal *seal, EsSealScan *seals)
{
	MemoryContext old;
	EsManifest	manifest;
	bool		listed;

	if (seal != NULL && in_gap(v, after + 1, to))
		return;					/* what is wrong is said already */
	begin(v, true);
	old = MemoryContextSwitchTo(v->context);
	listed = seal != NULL && es_seals_manifest(seals, seal, &manifest);
	verify_range(v, after, to, seal, listed ? &manifest : NULL);
	release(v, after, to);
	MemoryContextSwitchTo(old);
}

/* ---------------------------------------------------------------- by seals */

/* What is in no seal between two of them is looked at all the same, where it is wanted. */
static void
verify_unsealed(Verifier *v, int64 after, int64 to, int64 from, int64 upto)
{
	after = Max(after, from);
	to = Min(to, upto);
	if (after < to)
		verify_attached_range(v, after, to, NULL, NULL);
}

/* All seals, and the events after one position and up to another, in whole seals. */
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

/* Takes a head row apart; false, and a finding, when it has no digest. The name is in the slot. */
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

/* Whether a head row is in accord with itself: category, and what an empty stream has. */
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
 * Looks at a stream's events in order of version. beyond: also at those that its head row does not know of. flaws: also
 * at those that have no digest for another reason.
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
	bool		whole = !gap;	/* the digest can be compared */
	int64		version = 0;	/* of the row before, and its position and time */
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
		const EsDigestInput *event = &e->input;

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
				report_versions(v, name, version + 1, event->version - 1);
			whole = false;
		}
		if (e->category_id != head->category)
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
			report_versions(v, name, version + 1, head->version);
		whole = false;
	}
	else if (version > 0 && (position != head->last_position || recorded_at != head->recorded_at))
		report(v, "head", name, version, position, "position or time of the last event is not that in the head row");
	if (whole && memcmp(chain, head->digest, ES_DIGEST_LEN) != 0)
		report(v, "digest", name, 0, 0, "the stream's %lld events do not give the digest in its head row",
			   (long long) head->version);
}

/* All streams whose last event, as their head rows have it, is after one position and not after another. */
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

/* Which of a stream's events are not what was sealed at their positions; they come in order of position. */
static void
name_changed_events(Verifier *v, const text *name, const EsHead *head)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_store manifest", ALLOCSET_DEFAULT_SIZES);
	EsRowDigest *e = v->digests;
	EsHead		range = *head;
	EsScan	   *scan;
	EsManifest	sealed;
	int64		sealed_to = PG_INT64_MIN;	/* up to where that seal goes */
	int64		position = 0;
	bool		listed = false;	/* it has its manifest */
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
		position = e->input.position;
		if (position > sealed_to || position <= before)
		{
			EsSealScan	seals;
			EsSeal		seal;

			MemoryContextReset(context);
			memset(&sealed, 0, sizeof(sealed));
			es_seals_open(&seals, v->snapshot, position, false);
			if (!es_seals_next(&seals, &seal) || seal.after >= position)
			{
				/* Not sealed, yet or any more. */
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
			report(v, "added", name, e->input.version, position, "no event was sealed here, in partition \"%s\"",
				   leaf_name(v, position));
		MemoryContextSwitchTo(old);
	}
	es_scan_end(scan);
	MemoryContextDelete(context);
}

/* ---------------------------------------------------------------- SQL functions */

/* The snapshot, registered, is released by verifier_end(). last: of the positions drawn. */
static Verifier *
verifier_begin(FunctionCallInfo fcinfo, Snapshot snapshot, int64 last)
{
	Verifier   *v = palloc0(sizeof(Verifier));

	v->rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	v->snapshot = snapshot;
	v->context = AllocSetContextCreate(CurrentMemoryContext, "event_store verify", ALLOCSET_DEFAULT_SIZES);
	v->digests = es_row_digest_begin(snapshot);
	look_at_leaves(v, last);
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
			look_at_leaves(v, head.last_position);
			for (int i = 0; i < v->gap_count; i++)
				if (v->gaps[i].from <= head.last_position && v->gaps[i].to >= head.first_position)
					report(v, "partition", name, 0, v->gaps[i].from,
						   "positions %lld to %lld are in no attached partition", (long long) v->gaps[i].from,
						   (long long) v->gaps[i].to);
			(void) check_head(v, name, &head);
			verify_events(v, name, &head, true, true);
			if (v->findings > 0)
				name_changed_events(v, name, &head);
			es_early_release_await(&head);	/* what we have said of it is durable */
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
	forget_drawn_in_vain(v, mark);
	begin(v, false);
	for (int i = 0; i < v->gap_count; i++)
		if (v->gaps[i].from <= upto && v->gaps[i].to > from)
			report(v, "partition", NULL, 0, v->gaps[i].from, "positions %lld to %lld are in no attached partition",
				   (long long) v->gaps[i].from, (long long) v->gaps[i].to);
	verify_seals(v, from, upto, PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2), root);
	verify_streams(v, from, upto);
	verifier_end(v);
	return (Datum) 0;
}
