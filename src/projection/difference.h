/*
 * projection/difference.h
 *	  Making live tables equal to their shadow tables.
 */
#ifndef ES_PROJECTION_DIFFERENCE_H
#define ES_PROJECTION_DIFFERENCE_H

#include "nodes/pg_list.h"

extern const char *es_table_name(const char *qualified);
extern Oid	es_table_oid(const char *qualified);
extern void es_difference_check_fast(const char *name);
extern void es_difference_apply(Oid role, const char *search_path, const char *schema, List *tables, bool fast);

#endif							/* ES_PROJECTION_DIFFERENCE_H */
