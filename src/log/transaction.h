/*
 * log/transaction.h
 *	  What the open transaction has done.
 */
#ifndef ES_LOG_TRANSACTION_H
#define ES_LOG_TRANSACTION_H

#include "log/log.h"

extern void es_transaction_init(void);
extern void es_transaction_allocated(int64 position);
extern void es_transaction_store_made(void);

#endif							/* ES_LOG_TRANSACTION_H */
