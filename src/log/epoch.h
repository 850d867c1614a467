/*
 * log/epoch.h
 *	  Epochs: which history of the database positions belong to.
 */
#ifndef ES_LOG_EPOCH_H
#define ES_LOG_EPOCH_H

#include "log/log.h"

extern bool es_epoch_is_current(void);
extern bool es_epoch_begin_here(void);
extern int64 es_epoch_start(void);

#endif							/* ES_LOG_EPOCH_H */
