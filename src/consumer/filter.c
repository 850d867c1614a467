/*
 * consumer/filter.c
 *	  Filters: which events a projection or subscription gets, by category and event type.
 *
 * A filter is stored as two arrays of names, where NULL stands for all. Names need not be those of stored events: an
 * event of the type may come later. So a filter is kept as names, and turned into ids anew for the scans of each call.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "base/base.h"
#include "log/log.h"
#include "consumer/consumer.h"

/* ---------------------------------------------------------------- arguments */

static void
check_category(const text *name)
{
	if (memchr(VARDATA_ANY(name), '-', VARSIZE_ANY_EXHDR(name)) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a category", text_to_cstring(name)),
				 errdetail("A category is the part of a stream's name before the first \"-\".")));
}

/* Refuses a list of names that is empty, has a NULL, or a name of the wrong length. */
static void
check_names(FunctionCallInfo fcinfo, int n, const char *argument, bool is_category)
{
	List	   *names;
	ListCell   *lc;

	if (PG_ARGISNULL(n))
		return;
	if (array_contains_nulls(es_array_argument(fcinfo, n, argument)))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument %s must not contain NULL", argument)));
	names = es_name_list(PG_GETARG_DATUM(n));
	if (names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument %s must not be empty", argument),
				 errhint("NULL means all.")));
	foreach(lc, names)
	{
		text	   *name = lfirst(lc);
		int			len = VARSIZE_ANY_EXHDR(name);

		if (len == 0 || len > ES_MAX_NAME)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("names in argument %s must have 1 to %d bytes", argument, ES_MAX_NAME),
					 errdetail("One has %d.", len)));
		if (is_category)
			check_category(name);
	}
}

/* Checks the arguments categories and event_types, which have these numbers. They are stored as they were given. */
void
es_filter_check_arguments(FunctionCallInfo fcinfo, int categories, int types)
{
	check_names(fcinfo, categories, "categories", true);
	check_names(fcinfo, types, "event_types", false);
}

static int
compare_texts(const void *a, const void *b)
{
	const text *left = DatumGetTextPP(*(const Datum *) a);
	const text *right = DatumGetTextPP(*(const Datum *) b);
	int			len = Min(VARSIZE_ANY_EXHDR(left), VARSIZE_ANY_EXHDR(right));
	int			result = memcmp(VARDATA_ANY(left), VARDATA_ANY(right), len);

	if (result != 0)
		return result;
	return (int) VARSIZE_ANY_EXHDR(left) - (int) VARSIZE_ANY_EXHDR(right);
}

/*
 * Checks one of these arguments, and returns it with its names sorted and each name once: so equal filters are stored
 * as equal arrays. *null is 'n' where it is NULL, else ' '.
 */
Datum
es_filter_sorted_argument(FunctionCallInfo fcinfo, int n, const char *argument, const char *element, bool is_category,
						  char *null)
{
	Datum	   *values;
	bool	   *nulls;
	int			count;
	int			kept = 0;

	*null = PG_ARGISNULL(n) ? 'n' : ' ';
	if (PG_ARGISNULL(n))
		return (Datum) 0;
	deconstruct_array(es_array_argument(fcinfo, n, argument), TEXTOID, -1, false, TYPALIGN_INT,
					  &values, &nulls, &count);
	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument %s must not be empty", argument),
				 errhint("NULL stands for all.")));
	for (int i = 0; i < count; i++)
	{
		text	   *value;

		if (nulls[i])
			es_null_element(argument, i);
		value = DatumGetTextPP(values[i]);
		values[i] = PointerGetDatum(value);
		es_check_name(value, element, false);
		if (is_category)
			check_category(value);
	}
	qsort(values, count, sizeof(Datum), compare_texts);
	for (int i = 0; i < count; i++)
		if (kept == 0 || compare_texts(&values[kept - 1], &values[i]) != 0)
			values[kept++] = values[i];
	return PointerGetDatum(construct_array(values, kept, TEXTOID, -1, false, TYPALIGN_INT));
}

/* ---------------------------------------------------------------- use */

/* Reads a filter from its two columns. The names are copied to the current memory context. */
void
es_filter_read(EsFilter *filter, Datum categories, bool categories_null, Datum types, bool types_null)
{
	filter->all_categories = categories_null;
	filter->categories = categories_null ? NIL : es_name_list(categories);
	filter->all_types = types_null;
	filter->types = types_null ? NIL : es_name_list(types);
}

/*
 * Looks up the ids of a filter's names. A transform can turn a stored type into one that the filter asks for, so with
 * one only the categories can tell that nothing passes.
 */
void
es_filter_resolve(const EsFilter *filter, EsTransform *transform, EsFilterIds *ids)
{
	ids->filter = filter;
	ids->transform = transform;
	ids->categories = es_name_ids(ES_CATEGORY, filter->categories);
	ids->types = es_name_ids(ES_EVENT_TYPE, filter->types);
	ids->nothing = (!filter->all_categories && ids->categories == NULL) ||
		(!filter->all_types && ids->types == NULL && transform == NULL);
}

/*
 * Has a scan return only what passes the filter. The scan ends the transform, unless the caller sets
 * transform_shared.
 */
void
es_filter_scan(const EsFilterIds *ids, EsScan *scan)
{
	scan->filter_categories = !ids->filter->all_categories;
	scan->categories = ids->categories;
	scan->filter_types = !ids->filter->all_types;
	scan->types = ids->types;
	scan->type_names = ids->filter->types;
	scan->transform = ids->transform;
}
