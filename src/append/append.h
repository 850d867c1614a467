/*
 * append/append.h
 *	  Appending.
 *
 * The one header of this wing for the wings above it. The SQL functions are all that append; other wings only hear of
 * it.
 */
#ifndef ES_APPEND_H
#define ES_APPEND_H

/*
 * Registers what is called at the end of each append call, in its transaction, when its rows are written. Its events
 * have positions from first to last; other transactions may have events between these.
 */
extern void es_after_append(void (*callback) (int64 first, int64 last));

/* Registers the duty that deletes expired idempotency keys; called once, when the library is loaded. */
extern void es_key_init(void);

#endif							/* ES_APPEND_H */
