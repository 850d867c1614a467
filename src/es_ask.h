/*
 * es_ask.h
 *	  Loads that replayed far ask for a snapshot.
 */
#ifndef ES_ASK_H
#define ES_ASK_H

extern void es_ask_for_snapshot(int64 stream);
extern void es_ask_count(bool damaged);
extern void es_count(const char *name, int64 more);

#endif							/* ES_ASK_H */
