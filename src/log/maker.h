/*
 * log/maker.h
 *	  Having a background worker make what an append lacks: a partition, an epoch.
 */
#ifndef ES_LOG_MAKER_H
#define ES_LOG_MAKER_H

#include "storage/lock.h"

/* Milliseconds for which a maker waits for a lock, where somebody waits for what it makes. */
#define ES_MAKER_LOCK_TIMEOUT	1000

/* What is to be made. */
typedef struct EsMaker
{
	LOCKTAG		lock;			/* whoever makes it holds this lock ... */
	LOCKMODE	lockmode;		/* ... in this mode */
	Oid			table;			/* the maker must see this table, and takes a ShareUpdateExclusiveLock on it */
	const char *function;		/* entry of the worker */
	const char *title;			/* of the worker, in pg_stat_activity */
	int64		position;		/* told to the worker, and to is_made */
	bool		(*is_made) (int64 position);
} EsMaker;

typedef enum EsMade
{
	ES_MADE,					/* it is there */
	ES_LOCKED_OUT,				/* a worker gave up, for it did not get a lock */
	ES_NOT_MADE					/* there was no worker, or it met an error */
} EsMade;

extern bool es_maker_at_work(const EsMaker *maker);
extern EsMade es_maker_run(const EsMaker *maker, int lock_timeout);
extern EsMade es_maker_await_or_run(const EsMaker *maker);
extern int64 es_maker_begin(const char *activity);

#endif							/* ES_LOG_MAKER_H */
