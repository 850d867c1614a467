/*
 * base/compat.h
 *	  The one place that knows PostgreSQL's versions, 15 to 19.
 *
 * A wrapper has the newest signature; its comment names the version it bridges.
 */
#ifndef ES_BASE_COMPAT_H
#define ES_BASE_COMPAT_H

#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/tableam.h"
#include "access/tupdesc.h"
#include "catalog/storage.h"
#include "common/jsonapi.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "nodes/plannodes.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/numeric.h"
#include "utils/regproc.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 150000
#error "event_store needs PostgreSQL 15 or later"
#endif

/* 16 moved the varlena macros out of postgres.h, and can report an error without raising it. */
#if PG_VERSION_NUM >= 160000
#include "nodes/miscnodes.h"
#include "varatt.h"
#endif

/* Whether a string is JSON. 17 gave makeJsonLexContextCstringLen() an argument more. */
static inline bool
es_is_json(const char *string, int len)
{
#if PG_VERSION_NUM >= 170000
	JsonLexContext *lex = makeJsonLexContextCstringLen(NULL, string, len, GetDatabaseEncoding(), false);
	bool		is_json = pg_parse_json(lex, &nullSemAction) == JSON_SUCCESS;

	freeJsonLexContext(lex);
	return is_json;
#else
	return pg_parse_json(makeJsonLexContextCstringLen(unconstify(char *, string), len, GetDatabaseEncoding(), false),
						 &nullSemAction) == JSON_SUCCESS;
#endif
}

/* 16 gave guc.c an allocator of its own, for what check hooks leave. */
static inline void *
es_guc_malloc(size_t size)
{
#if PG_VERSION_NUM >= 160000
	return guc_malloc(LOG, size);
#else
	return malloc(size);
#endif
}

/* Of utils/pg_locale.h, which needs the headers of ICU; they are not installed with the server's. */
extern PGDLLIMPORT char *locale_monetary;
extern PGDLLIMPORT char *locale_numeric;
extern PGDLLIMPORT char *locale_time;

/* 18 has its own word for it, in another place. */
#define ES_NORETURN	__attribute__((noreturn))

/* 18 lets the caller ask for instrumentation; 19 takes flags, none here. */
static inline IndexScanDesc
es_index_beginscan(Relation heap, Relation index, Snapshot snapshot, int nkeys)
{
#if PG_VERSION_NUM >= 190000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0, SO_NONE);
#elif PG_VERSION_NUM >= 180000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(heap, index, snapshot, nkeys, 0);
#endif
}

/* 18 has NOT NULL constraints that were not checked for the rows that were there. */
static inline bool
es_column_is_not_null(TupleDesc desc, int i)
{
#if PG_VERSION_NUM >= 180000
	return TupleDescCompactAttr(desc, i)->attnullability == ATTNULLABLE_VALID;
#else
	return TupleDescAttr(desc, i)->attnotnull;
#endif
}

/* 19 takes flags, none here. */
static inline TableScanDesc
es_table_beginscan(Relation rel, Snapshot snapshot)
{
#if PG_VERSION_NUM >= 190000
	return table_beginscan(rel, snapshot, 0, NULL, SO_NONE);
#else
	return table_beginscan(rel, snapshot, 0, NULL);
#endif
}

/* Index entries of a new row. 16 added "only summarizing indexes"; 19 made flags of what to do, and has another order. */
static inline List *
es_insert_index_tuples(ResultRelInfo *rri, TupleTableSlot *slot, EState *estate,
					   bool no_dup_error, bool *conflict, List *arbiters)
{
#if PG_VERSION_NUM >= 190000
	return ExecInsertIndexTuples(rri, estate, no_dup_error ? EIIT_NO_DUPE_ERROR : 0, slot, arbiters, conflict);
#elif PG_VERSION_NUM >= 160000
	return ExecInsertIndexTuples(rri, slot, estate, false, no_dup_error, conflict, arbiters, false);
#else
	return ExecInsertIndexTuples(rri, slot, estate, false, no_dup_error, conflict, arbiters);
#endif
}

/* The same for a new version of a row. */
static inline void
es_update_index_tuples(ResultRelInfo *rri, TupleTableSlot *slot, EState *estate, bool only_summarizing)
{
#if PG_VERSION_NUM >= 190000
	(void) ExecInsertIndexTuples(rri, estate, EIIT_IS_UPDATE | (only_summarizing ? EIIT_ONLY_SUMMARIZING : 0),
								 slot, NIL, NULL);
#elif PG_VERSION_NUM >= 160000
	(void) ExecInsertIndexTuples(rri, slot, estate, true, false, NULL, NIL, only_summarizing);
#else
	(void) ExecInsertIndexTuples(rri, slot, estate, true, false, NULL, NIL);
#endif
}

/* 19 can also set bits of the visibility map, not here. */
static inline void
es_page_prune_opt(Relation rel, Buffer buffer)
{
#if PG_VERSION_NUM >= 190000
	Buffer		map = InvalidBuffer;

	heap_page_prune_opt(rel, buffer, &map, false);
	if (BufferIsValid(map))
		ReleaseBuffer(map);
#else
	heap_page_prune_opt(rel, buffer);
#endif
}

/* Which indexes the new version of a row needs entries in. */
typedef enum EsUpdateIndexes
{
	ES_UPDATE_NONE,
	ES_UPDATE_ALL,
	ES_UPDATE_SUMMARIZING		/* those that have entries for pages, not for rows; not before 16 */
} EsUpdateIndexes;

/* 16 tells which indexes an update must reach, not only whether; 19 takes flags, none here. */
static inline TM_Result
es_tuple_update(Relation rel, ItemPointer tid, TupleTableSlot *slot, CommandId cid,
				Snapshot snapshot, TM_FailureData *tmfd, EsUpdateIndexes *update_indexes)
{
	LockTupleMode lockmode;
	TM_Result	result;
#if PG_VERSION_NUM >= 160000
	TU_UpdateIndexes which;

#if PG_VERSION_NUM >= 190000
	result = table_tuple_update(rel, tid, slot, cid, 0, snapshot, InvalidSnapshot, true,
								tmfd, &lockmode, &which);
#else
	result = table_tuple_update(rel, tid, slot, cid, snapshot, InvalidSnapshot, true,
								tmfd, &lockmode, &which);
#endif
	*update_indexes = which == TU_None ? ES_UPDATE_NONE : which == TU_Summarizing ? ES_UPDATE_SUMMARIZING : ES_UPDATE_ALL;
#else
	bool		all;

	result = table_tuple_update(rel, tid, slot, cid, snapshot, InvalidSnapshot, true,
								tmfd, &lockmode, &all);
	*update_indexes = all ? ES_UPDATE_ALL : ES_UPDATE_NONE;
#endif
	return result;
}

/* 19 made flags of why a row is deleted, none here. */
static inline TM_Result
es_tuple_delete(Relation rel, ItemPointer tid, CommandId cid, Snapshot snapshot, bool wait, TM_FailureData *tmfd)
{
#if PG_VERSION_NUM >= 190000
	return table_tuple_delete(rel, tid, cid, 0, snapshot, InvalidSnapshot, wait, tmfd);
#else
	return table_tuple_delete(rel, tid, cid, snapshot, InvalidSnapshot, wait, tmfd, false);
#endif
}

/* What pg_has_role() calls the right to SET ROLE. */
#if PG_VERSION_NUM >= 160000
#define ES_SET_ROLE_PRIVILEGE	"SET"
#else
#define ES_SET_ROLE_PRIVILEGE	"MEMBER"
#endif

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

/* 19 reports that a number is out of range to an ErrorSaveContext, no longer to a bool. Here the answer is NULL then. */
static inline Numeric
es_numeric_add(Numeric a, Numeric b)
{
#if PG_VERSION_NUM >= 190000
	ErrorSaveContext failure = {T_ErrorSaveContext};

	return numeric_add_safe(a, b, (Node *) &failure);
#else
	bool		failed = false;

	return numeric_add_opt_error(a, b, &failed);
#endif
}

static inline Numeric
es_numeric_sub(Numeric a, Numeric b)
{
#if PG_VERSION_NUM >= 190000
	ErrorSaveContext failure = {T_ErrorSaveContext};

	return numeric_sub_safe(a, b, (Node *) &failure);
#else
	bool		failed = false;

	return numeric_sub_opt_error(a, b, &failed);
#endif
}

/* 19 wants to be told that a description of rows is complete, before the first use. */
static inline void
es_tuple_desc_finalize(TupleDesc desc)
{
#if PG_VERSION_NUM >= 190000
	TupleDescFinalize(desc);
#endif
}

/* 19 knows no other strings, and has no variable that says so. */
#if PG_VERSION_NUM >= 190000
#define ES_STANDARD_CONFORMING_STRINGS	true
#else
#define ES_STANDARD_CONFORMING_STRINGS	standard_conforming_strings
#endif

/* 19 hands a planner the state of the EXPLAIN that it plans for: the last parameter, and the last argument of a call. */
#if PG_VERSION_NUM >= 190000
#define ES_PLANNER_EXPLAIN(explain)	, explain
#else
#define ES_PLANNER_EXPLAIN(explain)
#endif

/* 19 has post_parse_analyze_hook leave the JumbleState alone. */
#if PG_VERSION_NUM >= 190000
#define ES_JUMBLE_CONST	const
#else
#define ES_JUMBLE_CONST
#endif

/* 19 has a statement's target relations, by their numbers in its range table, in a set and not in a list. */
static inline Bitmapset *
es_result_relations(const PlannedStmt *statement)
{
#if PG_VERSION_NUM >= 190000
	return statement->resultRelationRelids;
#else
	Bitmapset  *targets = NULL;
	ListCell   *lc;

	foreach(lc, statement->resultRelations)
		targets = bms_add_member(targets, lfirst_int(lc));

	return targets;
#endif
}

#if PG_VERSION_NUM >= 160000
typedef RelFileLocator EsRelFile;
#else
typedef RelFileNode EsRelFile;
#endif

/* 17 can also ask for stronger locks, not here. */
static inline bool
es_lock_held_by_me(const LOCKTAG *tag, LOCKMODE lockmode)
{
#if PG_VERSION_NUM >= 170000
	return LockHeldByMe(tag, lockmode, false);
#else
	return LockHeldByMe(tag, lockmode);
#endif
}

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
