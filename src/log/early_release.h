/*
 * log/early_release.h
 *	  Early lock release: locks are given back before the WAL is flushed, the client is answered after.
 */
#ifndef ES_LOG_EARLY_RELEASE_H
#define ES_LOG_EARLY_RELEASE_H

struct EsHead;

extern void es_early_release_init(void);
extern void es_early_release_before_commit(void);
extern void es_early_release_end_of_transaction(bool commit);
extern void es_early_release_keep_locks(void);
extern void es_early_release_build_on(const struct EsHead *head);
extern void es_early_release_await(const struct EsHead *head);
extern void es_early_release_await_all(void);
extern void es_early_release_flush_all(void);

#endif							/* ES_LOG_EARLY_RELEASE_H */
