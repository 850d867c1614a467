/*
 * base/errors.h
 *	  Our SQLSTATEs. Class YE: the standard leaves classes I to Z to implementations.
 *	  The table in docs/reference.md lists the same codes.
 */
#ifndef ES_BASE_ERRORS_H
#define ES_BASE_ERRORS_H

#include "utils/elog.h"

#define ES_WRONG_VERSION		MAKE_SQLSTATE('Y', 'E', '0', '0', '1')
#define ES_KEY_REUSED			MAKE_SQLSTATE('Y', 'E', '0', '0', '2')
#define ES_NOT_FINAL			MAKE_SQLSTATE('Y', 'E', '0', '0', '4')
#define ES_IMMUTABLE			MAKE_SQLSTATE('Y', 'E', '0', '0', '5')
#define ES_FOLD_FAILED			MAKE_SQLSTATE('Y', 'E', '0', '0', '6')
#define ES_UPCAST_FAILED		MAKE_SQLSTATE('Y', 'E', '0', '0', '7')
#define ES_UNKNOWN				MAKE_SQLSTATE('Y', 'E', '0', '0', '8')
#define ES_EVENT_REJECTED		MAKE_SQLSTATE('Y', 'E', '0', '0', '9')
#define ES_LEASE_LOST			MAKE_SQLSTATE('Y', 'E', '0', '1', '0')

/* Names of streams and event types, and idempotency keys, in bytes. */
#define ES_MAX_NAME				512

#endif							/* ES_BASE_ERRORS_H */
