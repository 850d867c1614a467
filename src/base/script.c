/*
 * base/script.c
 *	  SQL scripts that are part of the library.
 *
 * The files sql/<wing>/<name>.sql are compiled into the library, so what runs is always of the library's own version, and
 * no file has to be found or read when it runs (docs/internals/schema.md has the reasons). A script is any number of
 * statements. PostgreSQL's own parser finds where each of them ends; each is run by itself, so that an error's context
 * shows that statement and not the whole file.
 *
 * Values are put into the text before it is parsed, where it has :name, as psql does it. Utility statements have no
 * parameters, so this is the only way there; and queries have them in the same way, so that there is one. A value is
 * an integer, or quoted. A name that no value was given for is an error, so a colon cannot be taken for one by mistake.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/guc.h"

#include "base/base.h"

EsScriptValue
es_script_integer(const char *name, int64 value)
{
	EsScriptValue result = {name, psprintf("%lld", (long long) value)};

	return result;
}

/* The name of a table, a column, a schema. */
EsScriptValue
es_script_identifier(const char *name, const char *value)
{
	EsScriptValue result = {name, quote_identifier(value)};

	return result;
}

/* A string; the script gives it a type where the place does not. */
EsScriptValue
es_script_literal(const char *name, const char *value)
{
	EsScriptValue result = {name, quote_literal_cstr(value)};

	return result;
}

static const char *
script_text(const char *name)
{
	for (const EsScriptText *script = es_script_texts; script->name != NULL; script++)
		if (strcmp(script->name, name) == 0)
			return script->text;
	elog(ERROR, "there is no script \"%s\"", name);
}

static bool
is_name_char(char c)
{
	return (c >= 'a' && c <= 'z') || c == '_';
}

/* The script's text with the values in it. A cast (::) and a slice ([1:2]) are no names; all names are in lower case. */
static char *
put_values(const char *name, const EsScriptValue *values, int count)
{
	StringInfoData buf;
	const char *p = script_text(name);

	initStringInfo(&buf);
	while (*p != '\0')
	{
		size_t		len = 0;
		int			found = -1;

		if (p[0] == ':' && p[1] == ':')
		{
			appendStringInfoString(&buf, "::");
			p += 2;
			continue;
		}
		while (p[0] == ':' && is_name_char(p[1 + len]))
			len++;
		if (len == 0)
		{
			appendStringInfoChar(&buf, *p++);
			continue;
		}
		for (int i = 0; i < count; i++)
			if (strlen(values[i].name) == len && memcmp(values[i].name, p + 1, len) == 0)
				found = i;
		if (found < 0)
			elog(ERROR, "script \"%s\" has a value \"%.*s\" that is not given", name, (int) len, p + 1);
		appendStringInfoString(&buf, values[found].sql);
		p += 1 + len;
	}
	return buf.data;
}

/* Where a statement begins: behind spaces and comments, which the parser counts as part of it. */
static const char *
skip_comments(const char *p)
{
	for (;;)
	{
		p += strspn(p, " \t\n");
		if (p[0] != '-' || p[1] != '-')
			return p;
		p += strcspn(p, "\n");
	}
}

/* The statements of a script, as a list of EsScriptStatement. */
List *
es_script_parse(const char *name, const EsScriptValue *values, int count)
{
	char	   *text = put_values(name, values, count);
	List	   *result = NIL;
	List	   *trees;
	ListCell   *lc;
	int			settings = NewGUCNestLevel();

	/* The scripts are written for it. */
	es_pin_setting("standard_conforming_strings", "on");
	trees = raw_parser(text, RAW_PARSE_DEFAULT);
	AtEOXact_GUC(false, settings);
	foreach(lc, trees)
	{
		RawStmt    *raw = lfirst_node(RawStmt, lc);
		EsScriptStatement *statement = palloc(sizeof(EsScriptStatement));
		const char *begin = text + raw->stmt_location;
		const char *end = raw->stmt_len == 0 ? begin + strlen(begin) : begin + raw->stmt_len;

		begin = skip_comments(begin);
		statement->text = pnstrdup(begin, end - begin);
		statement->tree = raw->stmt;
		result = lappend(result, statement);
	}
	return result;
}

/* The table of the store that a statement changes; NULL: none. */
static const char *
written_table(const Node *tree)
{
	const RangeVar *relation =
		IsA(tree, InsertStmt) ? ((const InsertStmt *) tree)->relation :
		IsA(tree, UpdateStmt) ? ((const UpdateStmt *) tree)->relation :
		IsA(tree, DeleteStmt) ? ((const DeleteStmt *) tree)->relation : NULL;

	if (relation == NULL || relation->schemaname == NULL || strcmp(relation->schemaname, ES_SCHEMA) != 0)
		return NULL;
	return relation->relname;
}

/* Runs statements, between es_sql_begin() and es_sql_end(); returns the rows of the last one. */
uint64
es_script_run_parsed(List *statements)
{
	uint64		rows = 0;
	ListCell   *lc;

	foreach(lc, statements)
	{
		const EsScriptStatement *statement = lfirst(lc);

		rows = es_sql_write_args(written_table(statement->tree), statement->text, 0, NULL, NULL, NULL);
	}
	return rows;
}

uint64
es_script_run(const char *name, const EsScriptValue *values, int count)
{
	return es_script_run_parsed(es_script_parse(name, values, count));
}
