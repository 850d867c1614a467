/*
 * state/upcast.h
 *	  Upcasters at work: old shapes of events turned into new ones as they are read.
 */
#ifndef ES_STATE_UPCAST_H
#define ES_STATE_UPCAST_H

#include "state/definition.h"

typedef struct EsUpcast EsUpcast;

/* An event as it is to be shown; filled in by the caller, changed by es_upcast(). */
typedef struct EsShape
{
	int32		type_id;		/* 0: the type is only a name */
	text	   *type;
	int32		schema_version;
	Datum		data;
	bool		data_null;
	Datum		metadata;
	bool		metadata_null;
	TimestampTz occurred_at;

	/* for error messages */
	const text *stream;
	int64		version;
	int64		position;
} EsShape;

extern EsUpcast *es_upcast_begin(EsDefinitions *defs);
extern bool es_upcast_applies(EsUpcast *upcast, int32 type_id, int32 schema_version);
extern bool es_upcast_may_become(EsUpcast *upcast, int32 type_id, List *names);
extern bool es_upcast(EsUpcast *upcast, EsShape *shape);
extern void es_upcast_failed(EsUpcast *upcast);
extern void es_upcast_end(EsUpcast *upcast);

#endif							/* ES_STATE_UPCAST_H */
