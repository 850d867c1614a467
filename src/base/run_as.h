/*
 * base/run_as.h
 *	  Whose rights and which settings stored text runs with.
 */
#ifndef ES_BASE_RUN_AS_H
#define ES_BASE_RUN_AS_H

typedef struct EsRunAs
{
	Oid			saved_user;
	int			saved_context;
	int			guc_level;
} EsRunAs;

extern Oid	es_run_as_role(const char *role);
extern char *es_registered_path(void);
extern void es_run_as_begin(EsRunAs *run_as, Oid role, const char *search_path, bool may_append);
extern void es_run_as_end(EsRunAs *run_as);
extern bool es_in_stored_text(void);
extern void es_refuse_in_stored_text(const char *function);
extern int	es_settings_open(const char *search_path);
extern void es_settings_close(int level);

#endif							/* ES_BASE_RUN_AS_H */
