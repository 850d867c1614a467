/*
 * log/partition_gap.c
 *	  Gaps: ranges of positions that are in no attached partition, and that may have events. A read over one of them is
 *	  refused: it would be shorter than it should be, and nobody would know.
 *
 * Every partition is noted in event_store.log_partitions when it is made, and stays there. So what it had is known when it
 * is detached, moved to another schema or dropped, also when it was the newest one. What lies between two attached
 * partitions is a gap too, noted or not.
 *
 * Behind the newest partition there may be positions without a gap: a transaction has allocated them, has made the partition
 * for them, and was rolled back. There never was a committed partition for them, so nothing is noted.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "log/partition.h"

static int
compare_gaps(const void *a, const void *b)
{
	const EsPartitionGap *left = a;
	const EsPartitionGap *right = b;

	return (left->from > right->from) - (left->from < right->from);
}

static void
add_gap(EsPartitionList *list, int64 from, int64 to, const char *partition)
{
	EsPartitionGap *gap = &list->gaps[list->gap_count++];

	gap->from = from;
	gap->to = to;
	namestrcpy(&gap->partition, partition);
}

/*
 * Adds the gaps in positions from..to, which are in no attached partition: those that are noted, and with all what is
 * not noted too.
 */
static void
add_gaps(EsPartitionList *list, const EsPartitionGap *noted, int noted_count, int64 from, int64 to, bool all)
{
	for (int i = 0; i < noted_count && from <= to; i++)
	{
		int64		first = Max(noted[i].from, from);
		int64		last = Min(noted[i].to, to);

		if (first > last)
			continue;
		if (all && first > from)
			add_gap(list, from, first - 1, "");
		add_gap(list, first, last, NameStr(noted[i].partition));
		from = last + 1;
	}
	if (all && from <= to)
		add_gap(list, from, to, "");
}

/*
 * Fills in the gaps of a list and its end, in the current memory context. Its partitions are in order; the noted ones are
 * not, and are sorted.
 */
void
es_partition_gaps_find(EsPartitionList *list, EsPartitionGap *noted, int noted_count)
{
	int64		next = ES_NODE_START(es_store()->node);

	qsort(noted, noted_count, sizeof(EsPartitionGap), compare_gaps);
	/* A piece of a noted one ends with it or where a partition begins; before each, and at the end, may be one not noted. */
	list->gaps = palloc(sizeof(EsPartitionGap) * 3 * (noted_count + list->count + 1));
	list->gap_count = 0;
	for (int i = 0; i < list->count; i++)
	{
		add_gaps(list, noted, noted_count, next, list->partitions[i].from - 1, true);
		next = Max(next, list->partitions[i].to);
	}
	add_gaps(list, noted, noted_count, next, PG_INT64_MAX, false);
	list->end = next;
}

/*
 * Where a partition behind the newest one begins, when `last` is the last position that was allocated: behind everything
 * that is noted and may have events. One that was made ahead and then dropped has none, and is made again.
 */
int64
es_partition_next(const EsPartitionList *list, int64 last)
{
	int64		next = list->end;

	for (int i = 0; i < list->gap_count; i++)
		if (list->gaps[i].from <= last)
			next = Max(next, list->gaps[i].to + 1);
	return next;
}

/*
 * The gaps, in order of position: all that are known, and what lies behind the newest partition up to `last`. Returns how
 * many; *gaps is allocated in the current memory context.
 */
int
es_partition_gaps(int64 last, EsPartitionGap **gaps)
{
	const EsPartitionList *list = es_partition_list();
	int64		next = es_partition_next(list, PG_INT64_MAX);
	int			count = list->gap_count;

	*gaps = palloc(sizeof(EsPartitionGap) * (count + 1));
	memcpy(*gaps, list->gaps, sizeof(EsPartitionGap) * count);
	if (last >= next)
	{
		(*gaps)[count].from = next;
		(*gaps)[count].to = last;
		namestrcpy(&(*gaps)[count++].partition, "");
	}
	return count;
}

/* Whether one of the positions from..to is in a gap. */
bool
es_in_partition_gap(const EsPartitionGap *gaps, int count, int64 from, int64 to)
{
	for (int i = 0; i < count; i++)
		if (gaps[i].from <= to && gaps[i].to >= from)
			return true;
	return false;
}

static bool
find_gap(const EsPartitionList *list, int64 from, int64 to, bool last, EsPartitionGap *gap)
{
	bool		found = false;

	for (int i = 0; i < list->gap_count && (last || !found); i++)
		if (list->gaps[i].from <= to && list->gaps[i].to >= from)
		{
			*gap = list->gaps[i];
			found = true;
		}
	return found;
}

/*
 * Finds the first gap that has one of the positions from..to, or with last the last one. False where there is none. A gap
 * is looked at twice: its partition may have been attached just now.
 */
bool
es_partition_gap_in(int64 from, int64 to, bool last, EsPartitionGap *gap)
{
	if (likely(!find_gap(es_partition_list(), from, to, last, gap)))
		return false;
	es_partition_list_forget();
	return find_gap(es_partition_list(), from, to, last, gap);
}

/*
 * Raises the error of a read that needs what is in a gap. wanted is what it needs, as a sentence, or NULL. A read by
 * position could begin behind the gap.
 */
void
es_raise_gap(const EsPartitionGap *gap, const char *wanted, bool by_position)
{
	const char *name = NameStr(gap->partition);
	char	   *detail;
	char	   *hint;

	if (name[0] == '\0')
	{
		detail = pstrdup("No partition of event_store.log covers this range.");
		hint = pstrdup("Attach the partition that was detached");
	}
	else if (es_partition_exists(name))
	{
		detail = psprintf("These events are in \"event_store.%s\", which is no partition of event_store.log.", name);
		hint = psprintf("Run ALTER TABLE event_store.log ATTACH PARTITION event_store.%s FOR VALUES FROM (%lld) TO (%lld)",
						quote_identifier(name), (long long) gap->from, (long long) gap->to + 1);
	}
	else
	{
		detail = psprintf("These events were in partition \"%s\" of event_store.log, and there is no table \"event_store.%s\".",
						  name, name);
		hint = psprintf("Restore it, and run ALTER TABLE event_store.log ATTACH PARTITION event_store.%s FOR VALUES FROM (%lld) TO (%lld)",
						quote_identifier(name), (long long) gap->from, (long long) gap->to + 1);
	}
	if (wanted != NULL)
		detail = psprintf("%s %s", wanted, detail);
	if (by_position)
		hint = psprintf("%s, or read from position %lld on.", hint, (long long) gap->to);
	else
		hint = psprintf("%s.", hint);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("events at positions %lld to %lld are not attached", (long long) gap->from, (long long) gap->to),
			 errdetail("%s", detail),
			 errhint("%s", hint)));
}

/* Raises that error where a read of the whole log, up to a position, would not find all of it. */
void
es_refuse_gap_upto(int64 position)
{
	EsPartitionGap gap;

	if (es_partition_gap_in(ES_NODE_START(es_store()->node), position, false, &gap))
		es_raise_gap(&gap, NULL, false);
}
