/*
 * base/argument.c
 *	  Arguments of SQL functions that several of them have, and the type of their result.
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"

#include "base/base.h"

void
es_null_argument(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("argument %s must not be NULL", name)));
}

text *
es_text_argument(FunctionCallInfo fcinfo, int n, const char *name)
{
	if (PG_ARGISNULL(n))
		es_null_argument(name);
	return PG_GETARG_TEXT_PP(n);
}

/* max_count: ES_NO_LIMIT where it is NULL. */
int64
es_count_argument(FunctionCallInfo fcinfo, int n)
{
	int64		count;

	if (PG_ARGISNULL(n))
		return ES_NO_LIMIT;
	count = PG_GETARG_INT64(n);
	if (count < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument max_count must not be negative"),
				 errdetail("It is %lld; NULL means no limit.", (long long) count)));
	return count;
}

/* An array that is not NULL and has at most one dimension. */
ArrayType *
es_array_argument(FunctionCallInfo fcinfo, int n, const char *name)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(n);

	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("argument %s must be a one-dimensional array", name),
				 errdetail("It has %d dimensions.", ARR_NDIM(array))));
	return array;
}

/* Refuses an array for an element, counted from 0. */
void
es_null_element(const char *name, int index)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("argument %s must not contain NULL", name),
			 errdetail("Index %d is NULL.", index + 1)));
}

/* The row type that the call returns. */
TupleDesc
es_result_type(FunctionCallInfo fcinfo)
{
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return BlessTupleDesc(desc);
}
