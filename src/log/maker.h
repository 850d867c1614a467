/*
 * log/maker.h
 *	  Having a background worker make what an append needs and does not find: a partition, an epoch.
 */
#ifndef ES_LOG_MAKER_H
#define ES_LOG_MAKER_H

#include "storage/lock.h"

/* How many milliseconds the worker waits for a lock, when an append cannot go on without what it makes. */
#define ES_MAKER_LOCK_TIMEOUT	1000

/* What is to be made, and how. "The maker" is the worker or session that makes it. */
typedef struct EsMaker
{
	LOCKTAG		lock;			/* the maker holds this lock ... */
	LOCKMODE	lockmode;		/* ... in this mode */
	Oid			table;			/* the maker must see this table, and takes ShareUpdateExclusiveLock on it */
	const char *function;		/* entry point of the worker */
	const char *title;			/* of the worker, in pg_stat_activity */
	int64		position;		/* passed to the worker and to is_made */
	bool		(*is_made) (int64 position);	/* whether it is there */
} EsMaker;

typedef enum EsMade
{
	ES_MADE,					/* it is there */
	ES_BEING_MADE,				/* another session has just started a worker */
	ES_LOCKED_OUT,				/* a worker did not get a lock in time, and gave up */
	ES_NOT_MADE					/* no worker could do it, or it met an error */
} EsMade;

extern bool es_maker_at_work(const EsMaker *maker);
extern EsMade es_maker_run(const EsMaker *maker, int lock_timeout);
extern EsMade es_maker_await_or_run(const EsMaker *maker);
extern int64 es_maker_begin(const char *activity);

#endif							/* ES_LOG_MAKER_H */
