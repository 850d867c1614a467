/*
 * log/name.h
 *	  Categories and event types: names stored once, small ids in the events.
 */
#ifndef ES_LOG_NAME_H
#define ES_LOG_NAME_H

#include "c.h"

typedef enum EsNameKind
{
	ES_CATEGORY,
	ES_EVENT_TYPE
} EsNameKind;

extern int32 es_name_find(EsNameKind kind, const char *name, int len);
extern int32 es_name_make(EsNameKind kind, const char *name, int len);
extern text *es_name_of(EsNameKind kind, int32 id);

#endif							/* ES_LOG_NAME_H */
