/*
 * state/number.c
 *	  The numbers among JSON values: exact, and fast where they are small.
 *
 * Nearly all numbers of real events fit into 64 bits as a number of units of 10^-scale, a *decimal*. To add two
 * decimals is one machine instruction instead of a call into numeric. Nothing is rounded: when a sum does not fit,
 * numeric computes it. The scale is numeric's display scale and follows the rules of numeric. So with either, 12.50
 * stays 12.50, and 0.5 + 0.25 is 0.75.
 */
#include "postgres.h"

#include "common/int.h"
#include "utils/builtins.h"

#include "base/base.h"
#include "state/number.h"

/* 10^18 is the largest power of ten in an int64. */
#define MAX_SCALE				18

static const int64 power_of_ten[MAX_SCALE + 1] = {
	INT64CONST(1),
	INT64CONST(10),
	INT64CONST(100),
	INT64CONST(1000),
	INT64CONST(10000),
	INT64CONST(100000),
	INT64CONST(1000000),
	INT64CONST(10000000),
	INT64CONST(100000000),
	INT64CONST(1000000000),
	INT64CONST(10000000000),
	INT64CONST(100000000000),
	INT64CONST(1000000000000),
	INT64CONST(10000000000000),
	INT64CONST(100000000000000),
	INT64CONST(1000000000000000),
	INT64CONST(10000000000000000),
	INT64CONST(100000000000000000),
	INT64CONST(1000000000000000000)
};

/* The format of a stored numeric, which only numeric.c defines. Tables have it on disk, so it does not change. */
#define NUMERIC_FORM_MASK		0xC000
#define NUMERIC_FORM_NEGATIVE	0x4000	/* long form */
#define NUMERIC_FORM_SHORT		0x8000
#define NUMERIC_FORM_SPECIAL	0xC000	/* NaN and the infinities */
#define NUMERIC_LONG_SCALE		0x3FFF
#define NUMERIC_SHORT_NEGATIVE	0x2000
#define NUMERIC_SHORT_SCALE		0x1F80
#define NUMERIC_SHORT_SHIFT		7
#define NUMERIC_SHORT_SIGN		0x0040
#define NUMERIC_SHORT_WEIGHT	0x003F
#define NUMERIC_BASE			10000
#define NUMERIC_BASE_DIGITS		4

/* Makes a decimal of a numeric. Returns false when it does not fit exactly. */
bool
es_decimal_of_numeric(Numeric numeric, EsValue *decimal)
{
	const char *bytes = VARDATA_ANY(numeric);
	const char *end = bytes + VARSIZE_ANY_EXHDR(numeric);
	uint16		header;
	int16		weight;
	int			scale;
	int			exponent;
	bool		negative;
	int64		units = 0;

	/* Parts are copied, because a numeric with a short varlena header is not aligned. */
	memcpy(&header, bytes, sizeof(header));
	bytes += sizeof(header);
	if ((header & NUMERIC_FORM_MASK) == NUMERIC_FORM_SPECIAL)
		return false;
	if (header & NUMERIC_FORM_SHORT)
	{
		negative = (header & NUMERIC_SHORT_NEGATIVE) != 0;
		scale = (header & NUMERIC_SHORT_SCALE) >> NUMERIC_SHORT_SHIFT;
		weight = header & NUMERIC_SHORT_WEIGHT;
		if (header & NUMERIC_SHORT_SIGN)
			weight -= NUMERIC_SHORT_SIGN;
	}
	else
	{
		negative = (header & NUMERIC_FORM_MASK) == NUMERIC_FORM_NEGATIVE;
		scale = header & NUMERIC_LONG_SCALE;
		memcpy(&weight, bytes, sizeof(weight));
		bytes += sizeof(weight);
	}
	if (scale > MAX_SCALE)
		return false;

	/* The first digit counts 10000 ^ weight. Zero digits at either end are not stored. */
	exponent = (weight + 1) * NUMERIC_BASE_DIGITS + scale;
	for (; bytes + sizeof(int16) <= end; bytes += sizeof(int16))
	{
		int16		digit;

		memcpy(&digit, bytes, sizeof(digit));
		if (pg_mul_s64_overflow(units, NUMERIC_BASE, &units) ||
			pg_add_s64_overflow(units, digit, &units))
			return false;
		exponent -= NUMERIC_BASE_DIGITS;
	}
	if (units == 0)
		exponent = 0;
	if (exponent > 0 &&
		(exponent > MAX_SCALE || pg_mul_s64_overflow(units, power_of_ten[exponent], &units)))
		return false;
	if (exponent < 0)
	{
		/* The last digit, of base 10000, has decimal places beyond the scale. Normally they are zeros. */
		if (-exponent > MAX_SCALE || units % power_of_ten[-exponent] != 0)
			return false;
		units /= power_of_ten[-exponent];
	}

	decimal->type = ES_DECIMAL;
	decimal->scale = scale;
	decimal->as.units = negative ? -units : units;
	return true;
}

Numeric
es_numeric_of_decimal(const EsValue *decimal)
{
	return int64_div_fast_to_numeric(decimal->as.units, decimal->scale);
}

/* A number as a numeric. If *made is true, it was made for this, and the caller frees it. */
static Numeric
numeric_of(const EsValue *number, bool *made)
{
	*made = (number->type == ES_DECIMAL);
	return *made ? es_numeric_of_decimal(number) : number->as.numeric;
}

/* Brings two decimals to the greater one of their scales; false: one of them does not fit then. */
static inline bool
align(const EsValue *a, const EsValue *b, int64 *x, int64 *y)
{
	*x = a->as.units;
	*y = b->as.units;
	if (a->scale < b->scale)
		return !pg_mul_s64_overflow(*x, power_of_ten[b->scale - a->scale], x);
	if (a->scale > b->scale)
		return !pg_mul_s64_overflow(*y, power_of_ten[a->scale - b->scale], y);
	return true;
}

/* Adds to (or subtracts from) an owned number. False: the result is out of numeric's range, and target is unchanged. */
bool
es_number_add(EsValue *target, const EsValue *amount, bool subtract)
{
	Numeric		a;
	Numeric		b;
	Numeric		sum;
	bool		made_a;
	bool		made_b;

	if (target->type == ES_DECIMAL && amount->type == ES_DECIMAL)
	{
		int64		x;
		int64		y;

		if (align(target, amount, &x, &y) &&
			!(subtract ? pg_sub_s64_overflow(x, y, &x) : pg_add_s64_overflow(x, y, &x)))
		{
			target->as.units = x;
			target->scale = Max(target->scale, amount->scale);
			return true;
		}
	}

	a = numeric_of(target, &made_a);
	b = numeric_of(amount, &made_b);
	sum = subtract ? es_numeric_sub(a, b) : es_numeric_add(a, b);
	if (made_b)
		pfree(b);
	if (sum == NULL)
		return false;
	pfree(a);
	if (es_decimal_of_numeric(sum, target))
		pfree(sum);
	else
	{
		target->type = ES_NUMERIC;
		target->as.numeric = sum;
	}
	return true;
}

int
es_number_compare(const EsValue *a, const EsValue *b)
{
	Numeric		x;
	Numeric		y;
	bool		made_x;
	bool		made_y;
	int			result;

	if (a->type == ES_DECIMAL && b->type == ES_DECIMAL)
	{
		int64		m;
		int64		n;

		if (align(a, b, &m, &n))
			return (m > n) - (m < n);
	}
	x = numeric_of(a, &made_x);
	y = numeric_of(b, &made_y);
	result = DatumGetInt32(DirectFunctionCall2(numeric_cmp, NumericGetDatum(x), NumericGetDatum(y)));
	if (made_x)
		pfree(x);
	if (made_y)
		pfree(y);
	return result;
}

/* Appends a number to a string as jsonb prints it. */
void
es_number_append(StringInfo out, const EsValue *number)
{
	char	   *digits;

	if (number->type == ES_DECIMAL)
	{
		char		buffer[MAXINT8LEN + 1];
		const char *first = buffer;
		int			len = pg_lltoa(number->as.units, buffer);

		if (*first == '-')
		{
			appendStringInfoChar(out, '-');
			first++;
			len--;
		}
		if (len > number->scale)
			appendBinaryStringInfo(out, first, len - number->scale);
		else
			appendStringInfoChar(out, '0');
		if (number->scale > 0)
		{
			appendStringInfoChar(out, '.');
			for (int i = len; i < number->scale; i++)
				appendStringInfoChar(out, '0');
			first += Max(len - number->scale, 0);
			appendBinaryStringInfo(out, first, Min(len, number->scale));
		}
		return;
	}
	digits = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(number->as.numeric)));
	appendStringInfoString(out, digits);
	pfree(digits);
}
