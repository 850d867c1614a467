/*
 * es_execute.h
 *	  Carrying out an append call.
 */
#ifndef ES_EXECUTE_H
#define ES_EXECUTE_H

#include "es_call.h"

extern void es_call_execute(EsCall *call);

/* es_replay.c */
extern void es_hash_requests(EsCall *call, uint8 *batch_request);
extern bool es_replay_batch(EsCall *call, const uint8 *batch_request);
extern bool es_replay_streams(EsCall *call);
extern void es_check_only_result(EsCall *call, EsElement *element, bool replayed);

#endif							/* ES_EXECUTE_H */
