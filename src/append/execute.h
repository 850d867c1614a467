/*
 * append/execute.h
 *	  Carrying out an append call.
 */
#ifndef ES_APPEND_EXECUTE_H
#define ES_APPEND_EXECUTE_H

#include "base/base.h"
#include "append/append.h"

extern void es_call_execute(EsCall *call);

/* append/replay.c */
extern void es_hash_requests(EsCall *call, uint8 *batch_request);
extern bool es_replay_batch(EsCall *call, const uint8 *batch_request);
extern bool es_replay_streams(EsCall *call);
extern void es_check_only_result(EsCall *call, EsElement *element, bool replayed);

#endif							/* ES_APPEND_EXECUTE_H */
