/*
 * base/argument.h
 *	  Arguments of SQL functions that several of them have, and the type of their result.
 */
#ifndef ES_BASE_ARGUMENT_H
#define ES_BASE_ARGUMENT_H

#include "fmgr.h"
#include "access/tupdesc.h"
#include "utils/array.h"

#include "base/compat.h"

ES_NORETURN extern void es_null_argument(const char *name);
extern text *es_text_argument(FunctionCallInfo fcinfo, int n, const char *name);
extern int64 es_count_argument(FunctionCallInfo fcinfo, int n);
extern ArrayType *es_array_argument(FunctionCallInfo fcinfo, int n, const char *name);
ES_NORETURN extern void es_null_element(const char *name, int index);
extern TupleDesc es_result_type(FunctionCallInfo fcinfo);

#endif							/* ES_BASE_ARGUMENT_H */
