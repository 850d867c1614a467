/*
 * append/author.h
 *	  Who wrote an event, as the server knows it.
 */
#ifndef ES_APPEND_AUTHOR_H
#define ES_APPEND_AUTHOR_H

#include "utils/jsonb.h"

extern Jsonb *es_author(void);

#endif							/* ES_APPEND_AUTHOR_H */
