/*
 * state/number.h
 *	  The numbers among JSON values.
 */
#ifndef ES_STATE_NUMBER_H
#define ES_STATE_NUMBER_H

#include "lib/stringinfo.h"

#include "base/base.h"
#include "state/value.h"

static inline bool
es_is_number(const EsValue *value)
{
	return value->type == ES_DECIMAL || value->type == ES_NUMERIC;
}

extern bool es_decimal_of_numeric(Numeric numeric, EsValue *decimal);
extern Numeric es_numeric_of_decimal(const EsValue *decimal);
extern bool es_number_add(EsValue *target, const EsValue *amount, bool subtract);
extern int	es_number_compare(const EsValue *a, const EsValue *b);
extern void es_number_append(StringInfo out, const EsValue *number);

#endif							/* ES_STATE_NUMBER_H */
