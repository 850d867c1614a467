/*
 * append/occurred_at.c
 *	  When an event occurred, given as text: in JSON, to an import, and by drivers that have no type for it.
 *
 * The type's own input function reads a time without an offset in the session's TimeZone, 01/02/2026 by its DateStyle, and
 * takes "now" and "tomorrow": the same text from two clients would become two times, for ever. So only ISO 8601 with an
 * offset is taken, which means one time everywhere.
 */
#include "postgres.h"

#include <ctype.h>

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "append/occurred_at.h"

/* Reads so many digits, at least and at most. Returns what comes after them, NULL where they are not there. */
static const char *
digits(const char *s, int least, int most)
{
	int			n = 0;

	if (s == NULL)
		return NULL;
	while (n < most && isdigit((unsigned char) s[n]))
		n++;
	return n >= least ? s + n : NULL;
}

/* Reads one of some characters. */
static const char *
one_of(const char *s, const char *characters)
{
	return s != NULL && *s != '\0' && strchr(characters, *s) != NULL ? s + 1 : NULL;
}

/* Reads a colon and two digits, if they are there. */
static const char *
colon_and_digits(const char *s)
{
	const char *after = digits(one_of(s, ":"), 2, 2);

	return after != NULL ? after : s;
}

/* Reads date and time of day. Returns what comes after them, NULL where it is no ISO 8601. */
static const char *
date_and_time(const char *s)
{
	s = digits(s, 4, 6);
	s = digits(one_of(s, "-"), 2, 2);
	s = digits(one_of(s, "-"), 2, 2);
	s = digits(one_of(s, "Tt "), 2, 2);
	s = digits(one_of(s, ":"), 2, 2);
	if (s == NULL)
		return NULL;
	s = colon_and_digits(s);
	if (*s == '.')
		s = digits(s + 1, 1, 20);
	return s;
}

/* Reads an offset: Z, +01, +01:30, +0130, and -04:56:02 as zones had before there were time zones. */
static const char *
offset(const char *s)
{
	const char *after = one_of(s, "Zz");

	if (after != NULL)
		return after;
	after = digits(one_of(s, "+-"), 2, 2);
	if (after == NULL)
		return NULL;
	if (*after == ':')
		return colon_and_digits(colon_and_digits(after));
	return isdigit((unsigned char) *after) ? digits(after, 2, 2) : after;
}

/* The time that a text means. Raises 22007 where it may mean several, and 22008 where it is none. */
TimestampTz
es_occurred_at(const char *string)
{
	const char *rest = date_and_time(string);
	const char *end = offset(rest);

	/* Years before Christ are written as PostgreSQL writes them. */
	if (end != NULL && strcmp(end, " BC") == 0)
		end += strlen(" BC");
	if (end == NULL || *end != '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_DATETIME_FORMAT),
				 rest != NULL && *rest == '\0' ? errmsg("occurred_at \"%s\" has no offset", string) :
				 errmsg("occurred_at \"%.*s\" is not a time in ISO 8601", pg_mbcliplen(string, strlen(string), 64), string),
				 rest != NULL && *rest == '\0' ? errhint("Add Z if it is UTC, or its offset, such as +01:00.") :
				 errhint("Write it as 2026-01-02T10:00:00Z, or with another offset.")));
	return DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(string),
												   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}
