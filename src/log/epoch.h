/*
 * log/epoch.h
 *	  Epochs: which history the positions drawn now belong to.
 */
#ifndef ES_LOG_EPOCH_H
#define ES_LOG_EPOCH_H

extern bool es_epoch_is_current(void);
extern void es_epoch_prepare(void);
extern void es_epoch_make_first(void);
extern bool es_epoch_begin_here(void);
extern int64 es_epoch_start(void);

#endif							/* ES_LOG_EPOCH_H */
