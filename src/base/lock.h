/*
 * base/lock.h
 *	  Our advisory locks: the fourth field of their tags. Users' own have 1 or 2 there.
 */
#ifndef ES_BASE_LOCK_H
#define ES_BASE_LOCK_H

#define ES_LOCK_PARTITION	0xE5	/* who makes a leaf of the log */
#define ES_LOCK_BATCH_KEY	0xE6	/* of a batch: the second and third field are a hash of it */
/*
 * Each background process holds one: the third field is 0 for the coordinator, which is so the only one of its database,
 * and number + 1 for a pool worker. The view status reads them.
 */
#define ES_LOCK_PROCESS		0xE7
#define ES_LOCK_SEAL		0xE8	/* who seals the log */
#define ES_LOCK_RIGHTS		0xE9	/* who changes rights, or makes what depends on the library */

#endif							/* ES_BASE_LOCK_H */
