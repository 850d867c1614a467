/*
 * store/shape.h
 *	  Whether the tables and indexes of the store are as they were made: shape.c.
 */
#ifndef ES_STORE_SHAPE_H
#define ES_STORE_SHAPE_H

#include "utils/relcache.h"

#include "base/base.h"

#define ES_MAX_KEY	3			/* columns of an index */

ES_NORETURN extern void es_shape_changed(const char *what, const char *name, const char *detail);
extern void es_shape_check_table(Relation rel, const char *name, bool written);
extern void es_shape_check_index(Relation index, Oid table, const int *key);

#endif							/* ES_STORE_SHAPE_H */
