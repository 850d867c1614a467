/*
 * append/json.h
 *	  Events and appends given as JSON.
 */
#ifndef ES_APPEND_JSON_H
#define ES_APPEND_JSON_H

#include "base/base.h"
#include "append/call.h"

extern text *es_json_events(Jsonb *json, Jsonb **list);
extern void es_json_add_events(EsCall *call, int element, Jsonb *list);
extern void es_json_appends(EsCall *call, Jsonb *appends);
extern Jsonb *es_json_parse(text *json, const char *hint);

#endif							/* ES_APPEND_JSON_H */
