/*
 * state/snapshot_request.h
 *	  Loads that had to replay many events request a snapshot.
 */
#ifndef ES_STATE_SNAPSHOT_REQUEST_H
#define ES_STATE_SNAPSHOT_REQUEST_H

extern void es_snapshot_request(int64 stream, int64 unusable);
extern void es_snapshot_note_outdated(void);

#endif							/* ES_STATE_SNAPSHOT_REQUEST_H */
