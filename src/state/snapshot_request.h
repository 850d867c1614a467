/*
 * state/snapshot_request.h
 *	  Loads that replayed far ask for a snapshot.
 */
#ifndef ES_STATE_SNAPSHOT_REQUEST_H
#define ES_STATE_SNAPSHOT_REQUEST_H

extern void es_snapshot_request(int64 stream);
extern void es_snapshot_note_unused(bool damaged);
extern void es_counter_add(const char *name, int64 more);

#endif							/* ES_STATE_SNAPSHOT_REQUEST_H */
