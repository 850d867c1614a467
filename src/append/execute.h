/*
 * append/execute.h
 *	  Carrying out an append call, or finding that it is a retry.
 */
#ifndef ES_APPEND_EXECUTE_H
#define ES_APPEND_EXECUTE_H

#include "base/base.h"
#include "append/call.h"

extern void es_call_execute(EsCall *call);
extern bool es_call_reserve(EsCall *call, const uint8 *request);

/* append/event_check.c */
extern void es_check_events(const EsCall *call);

/* append/metadata.c */
extern void es_merge_settings(EsCall *call);

/* append/replay.c */
extern void es_hash_requests(EsCall *call, uint8 *batch_request);
extern bool es_replay_batch(EsCall *call, const uint8 *batch_request);
extern bool es_replay_streams(EsCall *call);
extern void es_result_without_events(EsCall *call, EsElement *element, bool replayed);

#endif							/* ES_APPEND_EXECUTE_H */
