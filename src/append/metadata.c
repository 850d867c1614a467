/*
 * append/metadata.c
 *	  Metadata that events get besides their own: that of the setting event_store.metadata, and what the server says of
 *	  their author.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "append/author.h"
#include "append/call.h"
#include "append/execute.h"
#include "append/json.h"

/* The setting event_store.metadata, parsed. NULL when it is empty. The session keeps what it has parsed last. */
static Jsonb *
setting_metadata(void)
{
	static char *parsed_text = NULL;
	static Jsonb *parsed = NULL;
	Jsonb	   *json;

	if (es_metadata == NULL || es_metadata[0] == '\0')
		return NULL;
	if (parsed_text != NULL && strcmp(parsed_text, es_metadata) == 0)
		return parsed;

	json = es_json_parse(cstring_to_text(es_metadata),
						 "This is the setting event_store.metadata; it must be a JSON object.");
	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("setting event_store.metadata must be a JSON object"),
				 errdetail("It is %s.", es_metadata)));
	if (es_reserved_key(json) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("setting event_store.metadata has a key \"%s\", which begins with \"$\"", es_reserved_key(json)),
				 errhint("Such keys are reserved for event_store. Choose another one.")));
	if (parsed_text != NULL)
	{
		pfree(parsed_text);
		pfree(parsed);
		parsed_text = NULL;
	}
	parsed = MemoryContextAlloc(TopMemoryContext, VARSIZE(json));
	memcpy(parsed, json, VARSIZE(json));
	parsed_text = MemoryContextStrdup(TopMemoryContext, es_metadata);
	return parsed;
}

static Jsonb *
merged(Jsonb *under, Jsonb *over)
{
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(under), JsonbPGetDatum(over)));
}

/*
 * Adds the metadata of the setting event_store.metadata to all events, where what an event itself has wins, and what the
 * server says of the author.
 */
void
es_merge_settings(EsCall *call)
{
	Jsonb	   *setting = setting_metadata();
	Jsonb	   *author = es_author();

	if (author != NULL && setting != NULL)
		setting = merged(setting, author);	/* once for all events that have no metadata of their own */
	else if (author != NULL)
		setting = author;
	if (setting == NULL)
		return;
	for (int i = 0; i < call->event_count; i++)
	{
		EsEvent    *event = &call->events[i].event;

		/* An event's own keys can be none of the author's. */
		event->metadata = event->metadata == NULL ? setting : merged(setting, event->metadata);
	}
}
