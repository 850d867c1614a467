/*
 * projection/shadow.h
 *	  The shadow tables of a rebuild.
 */
#ifndef ES_SHADOW_H
#define ES_SHADOW_H

#include "nodes/pg_list.h"

extern char *es_shadow_schema(void);
extern void es_shadow_make(const char *projection, const char *schema, EsStoredRole role, List *tables);
extern void es_shadow_keep_private(const char *schema, EsStoredRole role, List *tables);
extern bool es_shadow_was_emptied(const char *schema);

#endif							/* ES_SHADOW_H */
