/*
 * log/owner_code.h
 *	  Code of a table's owner that runs with each row that is written.
 */
#ifndef ES_LOG_OWNER_CODE_H
#define ES_LOG_OWNER_CODE_H

#include "nodes/execnodes.h"

typedef struct EsOwnerCode
{
	bool		switched;
	Oid			saved_user;
	int			saved_context;
} EsOwnerCode;

extern void es_owner_code_open_indexes(ResultRelInfo *rri, bool speculative);
extern void es_owner_code_begin(EsOwnerCode *code, const ResultRelInfo *rri);
extern void es_owner_code_end(const EsOwnerCode *code);

#endif
