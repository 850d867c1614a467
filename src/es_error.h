/*
 * es_error.h
 *	  Our SQLSTATEs. Class YE: the standard leaves classes I to Z to implementations.
 *	  The table in README.md lists the same codes.
 */
#ifndef ES_ERROR_H
#define ES_ERROR_H

#include "utils/elog.h"

#define ES_WRONG_VERSION		MAKE_SQLSTATE('Y', 'E', '0', '0', '1')
#define ES_KEY_REUSED			MAKE_SQLSTATE('Y', 'E', '0', '0', '2')
#define ES_IMMUTABLE			MAKE_SQLSTATE('Y', 'E', '0', '0', '5')

/* Names of streams and event types, and idempotency keys, in bytes. */
#define ES_MAX_NAME				512

#endif							/* ES_ERROR_H */
