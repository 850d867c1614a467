/*
 * projection/handler.h
 *	  Handlers: the SQL statements of a projection.
 */
#ifndef ES_PROJECTION_HANDLER_H
#define ES_PROJECTION_HANDLER_H

#include "access/tupdesc.h"
#include "utils/tuplestore.h"

#include "base/base.h"
#include "store/store.h"

typedef struct EsHandler EsHandler;

extern EsHandler *es_handler_create(const char *text, EsStoredRole role, const char *search_path, bool may_append,
									Oid only_schema);
extern void es_handler_check(const char *text, EsStoredRole role, const char *search_path, bool may_append);
extern void es_handler_try(EsHandler *handler);
extern void es_handler_run(EsHandler *handler, Tuplestorestate *rows, TupleDesc desc, int64 count);
extern uint32 es_handler_columns(const EsHandler *handler);
extern void es_handler_free(EsHandler *handler);

#endif							/* ES_PROJECTION_HANDLER_H */
