/*
 * consumer/dispatch.c
 *	  The dispatcher's scan: which of many consumers may get something of a new range of the log.
 *
 * The range is scanned once, by position, for all of them. For each category and each event type that is met, the consumers that
 * want it are kept as a set of their numbers: so what an event costs does not grow with how many there are.
 *
 * A consumer that is found may get an event: upcasters can still drop it or give it another type. One that is not found gets
 * none of the range. So the sets err on the side of wanting: a stored type is wanted where any chain of upcasters may lead from
 * it to a wanted one. A set is made when an event with that category or type is met, and by its name: a name that nobody had
 * stored before cannot be missed.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/base.h"
#include "store/store.h"
#include "log/log.h"
#include "state/state.h"
#include "consumer/consumer.h"

/* The consumers that want a category, or an event type. */
typedef struct Wanted
{
	int32		id;				/* key */
	Bitmapset  *by;
} Wanted;

struct EsDispatch
{
	MemoryContext context;
	int			count;
	const EsFilter *const *filters;
	HTAB	   *categories;
	HTAB	   *types;
};

static HTAB *
make_table(const char *name)
{
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int32);
	ctl.entrysize = sizeof(Wanted);
	ctl.hcxt = CurrentMemoryContext;
	return hash_create(name, 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * Makes a dispatch for consumers with these filters, in TopMemoryContext. The filters must stay as long as it is used, and it must
 * not be used with other upcasters than those of now (es_upcasters_hash()).
 */
EsDispatch *
es_dispatch_create(int count, const EsFilter *const *filters)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "event_store dispatch", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	EsDispatch *dispatch = palloc0(sizeof(EsDispatch));

	dispatch->context = context;
	dispatch->count = count;
	dispatch->filters = filters;
	dispatch->categories = make_table("event_store dispatch categories");
	dispatch->types = make_table("event_store dispatch types");
	MemoryContextSwitchTo(old);
	return dispatch;
}

void
es_dispatch_free(EsDispatch *dispatch)
{
	MemoryContextDelete(dispatch->context);
}

static bool
has_name(const List *names, const text *name)
{
	return es_has_name(names, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
}

/* Who wants events of a category. */
static Bitmapset *
category_wanted(EsDispatch *dispatch, int32 id)
{
	bool		found;
	Wanted	   *wanted = hash_search(dispatch->categories, &id, HASH_FIND, NULL);
	Bitmapset  *by = NULL;
	text	   *name;
	MemoryContext old;

	if (wanted != NULL)
		return wanted->by;
	name = es_name_of(ES_CATEGORY, id);
	old = MemoryContextSwitchTo(dispatch->context);
	for (int i = 0; i < dispatch->count; i++)
		if (dispatch->filters[i]->all_categories || has_name(dispatch->filters[i]->categories, name))
			by = bms_add_member(by, i);
	MemoryContextSwitchTo(old);
	wanted = hash_search(dispatch->categories, &id, HASH_ENTER, &found);
	wanted->by = by;
	return by;
}

/* Who may want events that are stored with a type. *transform is made when it is first needed. */
static Bitmapset *
type_wanted(EsDispatch *dispatch, int32 id, EsTransform **transform)
{
	bool		found;
	Wanted	   *wanted = hash_search(dispatch->types, &id, HASH_FIND, NULL);
	Bitmapset  *by = NULL;
	text	   *name;

	if (wanted != NULL)
		return wanted->by;
	name = es_name_of(ES_EVENT_TYPE, id);
	if (*transform == NULL)
		*transform = es_upcast_begin(es_definitions());
	for (int i = 0; i < dispatch->count; i++)
	{
		const EsFilter *filter = dispatch->filters[i];

		if (filter->all_types || has_name(filter->types, name) ||
			(*transform != NULL && (*transform)->may_become(*transform, id, filter->types)))
		{
			MemoryContext old = MemoryContextSwitchTo(dispatch->context);

			by = bms_add_member(by, i);
			MemoryContextSwitchTo(old);
		}
	}
	wanted = hash_search(dispatch->types, &id, HASH_ENTER, &found);
	wanted->by = by;
	return by;
}

/*
 * Looks which of the consumers in *asked may get an event behind the position that is known of each. The snapshot must show all
 * events up to `upto`. Takes those that it finds out of *asked. Of those that are left, none gets anything up to the position that
 * is returned: it is less than upto where the scan has ended after at_most events.
 */
int64
es_dispatch_scan(EsDispatch *dispatch, Snapshot snapshot, const int64 *known, Bitmapset **asked, int64 upto, int64 at_most)
{
	EsScan	   *scan;
	TupleTableSlot *slot;
	EsTransform *transform = NULL;
	MemoryContext per_row;
	MemoryContext old;
	int64		from = upto;
	int64		reached = upto;
	int			member = -1;

	while ((member = bms_next_member(*asked, member)) >= 0)
		from = Min(from, known[member]);
	if (from >= upto)
		return upto;
	scan = es_scan_create(RegisterSnapshot(snapshot));
	es_scan_positions(scan, from, upto);
	per_row = AllocSetContextCreate(CurrentMemoryContext, "event_store dispatch row", ALLOCSET_SMALL_SIZES);
	while (!bms_is_empty(*asked) && (slot = es_scan_next(scan)) != NULL)
	{
		int64		position = DatumGetInt64(es_row_column(slot, Anum_log_position));
		Bitmapset  *categories;
		Bitmapset  *types;

		if (at_most-- == 0)
		{
			reached = position - 1;
			break;
		}
		categories = category_wanted(dispatch, DatumGetInt32(es_row_column(slot, Anum_log_category)));
		types = type_wanted(dispatch, DatumGetInt32(es_row_column(slot, Anum_log_event_type)), &transform);
		if (!bms_overlap(categories, *asked) || !bms_overlap(types, *asked))
			continue;
		old = MemoryContextSwitchTo(per_row);
		categories = bms_intersect(categories, types);
		MemoryContextSwitchTo(old);
		member = -1;
		while ((member = bms_next_member(categories, member)) >= 0)
			if (position > known[member])
				*asked = bms_del_member(*asked, member);
		MemoryContextReset(per_row);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextDelete(per_row);
	if (transform != NULL)
		es_transform_end(transform);
	es_scan_end(scan);
	return reached;
}
