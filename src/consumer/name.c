/*
 * consumer/name.c
 *	  Names that users give: checked as arguments, and read from arrays.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"

#include "base/base.h"
#include "consumer/consumer.h"

/* Refuses a name that is too long, or empty where it must not be. */
void
es_check_name(const text *value, const char *argument, bool may_be_empty)
{
	int			len = VARSIZE_ANY_EXHDR(value);

	if ((len == 0 && !may_be_empty) || len > ES_MAX_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument %s must have %d to %d bytes", argument, may_be_empty ? 0 : 1, ES_MAX_NAME),
				 errdetail("It has %d bytes.", len)));
}

/* The elements of a text[] without NULLs, as text * in the current memory context. */
List *
es_name_list(Datum array)
{
	Datum	   *elements;
	bool	   *nulls;
	int			count;
	List	   *list = NIL;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
		if (!nulls[i])
			list = lappend(list, DatumGetTextPCopy(elements[i]));
	return list;
}
