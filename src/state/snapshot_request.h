/*
 * state/snapshot_request.h
 *	  Loads that replayed far ask for a snapshot.
 */
#ifndef ES_STATE_SNAPSHOT_REQUEST_H
#define ES_STATE_SNAPSHOT_REQUEST_H

extern void es_snapshot_request(int64 stream);
extern void es_snapshot_note_unused(bool damaged);

#endif							/* ES_STATE_SNAPSHOT_REQUEST_H */
