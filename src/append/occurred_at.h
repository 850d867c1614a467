/*
 * append/occurred_at.h
 *	  When an event occurred, given as text.
 */
#ifndef ES_APPEND_OCCURRED_AT_H
#define ES_APPEND_OCCURRED_AT_H

#include "datatype/timestamp.h"

extern TimestampTz es_occurred_at(const char *string);

#endif							/* ES_APPEND_OCCURRED_AT_H */
