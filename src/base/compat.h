/*
 * base/compat.h
 *	  The one place that knows PostgreSQL's versions, 15 to 18.
 *
 * A wrapper has the newest signature; its comment names the version it bridges.
 */
#ifndef ES_BASE_COMPAT_H
#define ES_BASE_COMPAT_H

#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "catalog/storage.h"
#include "executor/executor.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/regproc.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "event_store needs PostgreSQL 15 or later"
#endif

/* 16 moved the varlena macros out of postgres.h. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* Of utils/pg_locale.h, which needs the headers of ICU; they are not installed with the server's. */
extern PGDLLIMPORT char *locale_monetary;
extern PGDLLIMPORT char *locale_numeric;
extern PGDLLIMPORT char *locale_time;

/* 18 has its own word for it, in another place. */
#define ES_NORETURN	__attribute__((noreturn))

/* 18 lets the caller ask for instrumentation. */
static inline IndexScanDesc
es_index_beginscan(Relation heap, Relation index, Snapshot snapshot, int nkeys)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(heap, index, snapshot, nkeys, 0);
#endif
}

/* 16 added "only summarizing indexes". */
static inline List *
es_insert_index_tuples(ResultRelInfo *rri, TupleTableSlot *slot, EState *estate,
					   bool update, bool no_dup_error, bool *conflict, List *arbiters)
{
#if PG_VERSION_NUM >= 160000
	return ExecInsertIndexTuples(rri, slot, estate, update, no_dup_error, conflict, arbiters, false);
#else
	return ExecInsertIndexTuples(rri, slot, estate, update, no_dup_error, conflict, arbiters);
#endif
}

/* 18 wants the tuple that is being updated, none here. */
static inline bool
es_check_index_constraints(ResultRelInfo *rri, TupleTableSlot *slot, EState *estate,
						   ItemPointer conflict, List *arbiters)
{
#if PG_VERSION_NUM >= 180000
	ItemPointerData invalid;

	ItemPointerSetInvalid(&invalid);
	return ExecCheckIndexConstraints(rri, slot, estate, conflict, &invalid, arbiters);
#else
	return ExecCheckIndexConstraints(rri, slot, estate, conflict, arbiters);
#endif
}

/* 16 tells which indexes an update must reach, not only whether. */
static inline TM_Result
es_tuple_update(Relation rel, ItemPointer tid, TupleTableSlot *slot, CommandId cid,
				Snapshot snapshot, TM_FailureData *tmfd, bool *update_indexes)
{
	LockTupleMode lockmode;
	TM_Result	result;
#if PG_VERSION_NUM >= 160000
	TU_UpdateIndexes which;

	result = table_tuple_update(rel, tid, slot, cid, snapshot, InvalidSnapshot, true,
								tmfd, &lockmode, &which);
	*update_indexes = (which != TU_None);
#else
	result = table_tuple_update(rel, tid, slot, cid, snapshot, InvalidSnapshot, true,
								tmfd, &lockmode, update_indexes);
#endif
	return result;
}

/* 16 tells being a member of a role from being allowed to SET ROLE to it. */
static inline bool
es_member_can_set_role(Oid member, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return member_can_set_role(member, role);
#else
	return is_member_of_role(member, role);
#endif
}

/* 16 can report an error without raising it. */
static inline List *
es_qualified_name(const char *name)
{
#if PG_VERSION_NUM >= 160000
	return stringToQualifiedNameList(name, NULL);
#else
	return stringToQualifiedNameList(name);
#endif
}

/*
 * Whether there is a synchronous standby to wait for: a byte of WalSndCtl, under SyncRepLock, of which minor releases
 * of 2025 made flags. The server decides which, not the headers: a library must run with any minor release of its major.
 */
#if PG_VERSION_NUM >= 180000 || (PG_VERSION_NUM >= 170005 && PG_VERSION_NUM < 180000) || \
	(PG_VERSION_NUM >= 160009 && PG_VERSION_NUM < 170000) || (PG_VERSION_NUM >= 150013 && PG_VERSION_NUM < 160000)
#define ES_SYNC_STANDBYS	(*(volatile uint8 *) &WalSndCtl->sync_standbys_status)
#else
#define ES_SYNC_STANDBYS	(*(volatile uint8 *) &WalSndCtl->sync_standbys_defined)
#endif
#define ES_SYNC_STANDBYS_INIT		0x01
#define ES_SYNC_STANDBYS_DEFINED	0x02

static inline bool
es_sync_standbys_has_flags(void)
{
	static int	version = 0;

	if (version == 0)
		version = atoi(GetConfigOption("server_version_num", false, false));
	return version >= 180000 || version % 10000 >= (version >= 170000 ? 5 : version >= 160000 ? 9 : 13);
}

#if PG_VERSION_NUM >= 160000
typedef RelFileLocator EsRelFile;
#else
typedef RelFileNode EsRelFile;
#endif

/* 17 put a process's virtual transaction into one field. */
static inline LocalTransactionId
es_proc_lxid(const PGPROC *proc)
{
#if PG_VERSION_NUM >= 170000
	return proc->vxid.lxid;
#else
	return proc->lxid;
#endif
}

/* 17 lets an extension name its wait events. (The server remembers names; the same one gives the same number.) */
static inline uint32
es_wait_event(const char *name)
{
#if PG_VERSION_NUM >= 170000
	return WaitEventExtensionNew(name);
#else
	return PG_WAIT_EXTENSION;
#endif
}

/* 17 has one more timeout that a database may set for its sessions. */
#if PG_VERSION_NUM >= 170000
#define ES_TRANSACTION_TIMEOUT	"transaction_timeout"
#else
#define ES_TRANSACTION_TIMEOUT	NULL
#endif

#endif							/* ES_BASE_COMPAT_H */
