/*
 * projection/inline.h
 *	  Inline projections: their handlers run inside of the append.
 */
#ifndef ES_PROJECTION_INLINE_H
#define ES_PROJECTION_INLINE_H

#include "c.h"

extern void es_inline_run(int64 first, int64 last);
extern int64 es_inline_lock(void);
extern void es_inline_check_quarantine(const char *name, bool rebuild);
extern void es_inline_begin(const char *name);
extern void es_inline_end(const char *name);

#endif							/* ES_PROJECTION_INLINE_H */
