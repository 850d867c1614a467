/*
 * base/settings.h
 *	  The settings event_store.*
 */
#ifndef ES_BASE_SETTINGS_H
#define ES_BASE_SETTINGS_H

extern int	es_as_of_wait;				/* milliseconds */
extern bool es_early_lock_release;
extern int	es_idempotency_retention;	/* seconds; 0: for ever */
extern int	es_idle_append_timeout;		/* milliseconds; 0: for ever */
extern int	es_mark_interval;		/* milliseconds */
extern int	es_mark_wait;				/* milliseconds */
extern int	es_max_batch;			/* events */
extern int	es_max_categories;
extern int	es_max_workers;
extern char *es_metadata;				/* jsonb text merged under each append's metadata */
extern bool es_notify;
extern int	es_partition_size;			/* positions */
extern int	es_poll_interval;		/* milliseconds */
extern int	es_seal_interval;		/* seconds; 0: never */
extern int	es_seal_size;			/* events */

extern void es_settings_init(void);

#endif							/* ES_BASE_SETTINGS_H */
