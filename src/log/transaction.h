/*
 * log/transaction.h
 *	  What this session's open transaction has drawn.
 */
#ifndef ES_LOG_TRANSACTION_H
#define ES_LOG_TRANSACTION_H

extern void es_transaction_init(void);
extern void es_transaction_allocated(int64 position);
extern void es_transaction_progressed(void);
extern void es_transaction_has_work(void);
extern void es_transaction_store_made(void);
extern int64 es_transaction_first_position(void);

#endif							/* ES_LOG_TRANSACTION_H */
