/*
 * log/position.h
 *	  Sequences, read as they are now.
 */
#ifndef ES_LOG_POSITION_H
#define ES_LOG_POSITION_H

#include "log/log.h"

extern int64 es_sequence_last(Oid sequence);

#endif							/* ES_LOG_POSITION_H */
