/*
 * es_holder.h
 *	  Sessions that hold the mark back and do nothing.
 */
#ifndef ES_HOLDER_H
#define ES_HOLDER_H

extern int	es_holder_end_idle(void);

#endif							/* ES_HOLDER_H */
