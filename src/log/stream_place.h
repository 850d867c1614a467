/*
 * log/stream_place.h
 *	  In which partition a version of a stream is.
 */
#ifndef ES_LOG_STREAM_PLACE_H
#define ES_LOG_STREAM_PLACE_H

#include "log/log.h"

extern int	es_stream_place(EsScan *scan, int64 version);

#endif							/* ES_LOG_STREAM_PLACE_H */
