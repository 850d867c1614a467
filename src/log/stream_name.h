/*
 * log/stream_name.h
 *	  The names of streams by their ids.
 */
#ifndef ES_LOG_STREAM_NAME_H
#define ES_LOG_STREAM_NAME_H

#include "log/log.h"

extern text *es_stream_name(int64 id, Snapshot snapshot);

#endif							/* ES_LOG_STREAM_NAME_H */
