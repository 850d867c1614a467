/*
 * append/author.c
 *	  Who wrote an event, as the server knows it: the metadata key "$by", by the setting event_store.stamp.
 *
 * Callers cannot write such a key (append/call.c refuses it), and only superusers can change the setting. What is in it is
 * as trustworthy as its source: the session's user is what the client has logged in as, the application's name is what the
 * client says, and behind a pooler both and the address are the pooler's.
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"

#include "base/base.h"
#include "append/author.h"

/* The client's address as text; NULL where it came by a Unix socket, or there is no client. */
static char *
client_address(void)
{
	LOCAL_FCINFO(fcinfo, 0);
	Datum		address;

	InitFunctionCallInfoData(*fcinfo, NULL, 0, InvalidOid, NULL, NULL);
	address = inet_client_addr(fcinfo);
	return fcinfo->isnull ? NULL : TextDatumGetCString(DirectFunctionCall1(network_host, address));
}

static void
add_field(StringInfo json, const char *name, const char *value)
{
	appendStringInfo(json, "%s\"%s\": ", json->data[json->len - 1] == '{' ? "" : ", ", name);
	if (value != NULL)
		escape_json(json, value);
	else
		appendStringInfoString(json, "null");
}

/* {"$by": {...}}, with what the setting event_store.stamp names; NULL when it is empty. */
Jsonb *
es_author(void)
{
	StringInfoData json;

	if (es_stamp_fields == 0)
		return NULL;
	initStringInfo(&json);
	appendStringInfoString(&json, "{\"$by\": {");
	if (es_stamp_fields & ES_STAMP_SESSION_USER)
		add_field(&json, "session_user", GetUserNameFromId(GetSessionUserId(), true));
	if (es_stamp_fields & ES_STAMP_APPLICATION_NAME)
		add_field(&json, "application_name", application_name);
	if (es_stamp_fields & ES_STAMP_CLIENT_ADDR)
		add_field(&json, "client_addr", client_address());
	appendStringInfoString(&json, "}}");
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json.data)));
}
