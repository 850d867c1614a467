/*
 * log/transaction.h
 *	  What this session's open transaction has drawn.
 */
#ifndef ES_LOG_TRANSACTION_H
#define ES_LOG_TRANSACTION_H

extern void es_xact_init(void);
extern void es_xact_drew(int64 position);
extern void es_xact_progressed(void);
extern void es_xact_has_work(void);
extern void es_xact_store_made(void);
extern int64 es_xact_first_position(void);

#endif							/* ES_LOG_TRANSACTION_H */
