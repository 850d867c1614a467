-- event_store.import: COPY and INSERT, refusals.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; s text; c text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, c = PG_EXCEPTION_CONTEXT;
    RETURN concat_ws(E'\n  ', s || ': ' || m, 'detail: ' || nullif(d, ''), 'context: ' || substring(c FROM E'^(event_store.import[^\n]*)'));
END $$;
\t on
\pset format unaligned
SELECT es_create_store();
COPY event_store.import (stream, event_type, data) FROM stdin;
imp-1	Opened	{"a": 1}
imp-2	Opened	{}
imp-1	Changed	{"a": 2}
\.
COPY event_store.import FROM stdin WITH (FORMAT csv);
imp-1,Closed,"{""a"": 3}","{""user_id"": ""u""}",1999-01-01T00:00:00Z,01890a5d-ac96-774b-bcce-b302099a8057,4
\.
SELECT version, event_type, data, metadata, occurred_at AT TIME ZONE 'UTC' < '2000-01-01', event_id = '01890a5d-ac96-774b-bcce-b302099a8057', schema_version FROM es_read('imp-1');
INSERT INTO event_store.import (stream, event_type) VALUES ('imp-2', 'Without');
SELECT event_type, data FROM es_read('imp-2');

-- more than one chunk, in order, the replica role too
SET session_replication_role = replica;
INSERT INTO event_store.import (stream, event_type, data) SELECT 'imp-' || i % 7, 'Bulk', to_jsonb(i) FROM generate_series(1, 12000) i;
RESET session_replication_role;
SELECT count(*), count(DISTINCT position + rest) FROM event_store.log l JOIN event_store.event_types t ON t.id = l.event_type WHERE t.name = 'Bulk';
SELECT bool_and(data = to_jsonb(n)) FROM (SELECT data, row_number() OVER () AS n FROM es_read_all(0, NULL, '{Bulk}')) e;

-- an error anywhere: nothing is imported; the row is named
SELECT count(*) AS before FROM event_store.events \gset
COPY event_store.import (stream, event_type, data) FROM stdin;
imp-1	Fine	{}
imp-1		{}
\.
COPY event_store.import (stream, event_type, data) FROM stdin;
imp-1	Fine	{}
imp-1	Fine	\N
\.
COPY event_store.import (stream, event_type, data) FROM stdin;
imp-1	Fine	{}
\N	Fine	{}
\.
COPY event_store.import (stream, event_type, data) FROM stdin;
imp-1	Fine	{}
imp-1	Fine	{not json}
\.
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type, schema_version) SELECT 'imp-1', 'Fine', CASE WHEN i = 7000 THEN 0 ELSE 1 END FROM generate_series(1, 8000) i$$);
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type, metadata) VALUES ('imp-1', 'Fine', '{}'), ('imp-1', 'Fine', '[]')$$);
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type, occurred_at) VALUES ('imp-1', 'Fine', 'infinity')$$);
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type, event_id) SELECT 'imp-1', 'Fine', '01890a5d-ac96-774b-bcce-b302099a8057' FROM generate_series(1, 2)$$);
SET event_store.max_categories = 1;
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type) VALUES ('imp-1', 'Fine'), ('unheardof-1', 'Fine')$$) ~ '^54000: too many categories.*\n.*\n  context: event_store.import, rows 1 to 2';
RESET event_store.max_categories;
SELECT count(*) - :before AS imported FROM event_store.events;

-- savepoints and blocks
BEGIN;
INSERT INTO event_store.import (stream, event_type) VALUES ('imp-s', 'Kept');
SAVEPOINT s;
INSERT INTO event_store.import (stream, event_type) VALUES ('imp-s', 'Undone');
ROLLBACK TO s;
INSERT INTO event_store.import (stream, event_type) VALUES ('imp-s', 'Kept too') RETURNING stream, event_type;
COMMIT;
SELECT version, event_type FROM es_read('imp-s');
WITH w AS (INSERT INTO event_store.import (stream, event_type) VALUES ('imp-s', 'From a CTE') RETURNING event_type) SELECT * FROM w;
PREPARE p (text) AS INSERT INTO event_store.import (stream, event_type) VALUES ('imp-s', $1);
EXECUTE p('Prepared');
EXECUTE p('Prepared again');
EXPLAIN (COSTS OFF) INSERT INTO event_store.import (stream, event_type) VALUES ('imp-s', 'Not at all');
INSERT INTO event_store.import (stream, event_type) SELECT 'imp-s', 'None' WHERE false;
SELECT version, event_type FROM es_read('imp-s', 3);

-- what it is not for
SELECT pg_temp.try($$SELECT * FROM event_store.import$$);
SELECT pg_temp.try($$UPDATE event_store.import SET event_type = 'x'$$);
SELECT pg_temp.try($$DELETE FROM event_store.import$$);
SELECT pg_temp.try($$TRUNCATE event_store.import$$);
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type) VALUES ('a-1', 'b') ON CONFLICT DO NOTHING$$);

-- another table on the same server is refused: it would have other privileges
CREATE FOREIGN TABLE fake_import (stream text, event_type text, data jsonb, metadata jsonb, occurred_at timestamptz, event_id uuid, schema_version integer) SERVER event_store_import;
SELECT pg_temp.try($$INSERT INTO fake_import (stream, event_type) VALUES ('imp-1', 'Smuggled')$$);
DROP FOREIGN TABLE fake_import;
BEGIN;
ALTER FOREIGN TABLE event_store.import DROP COLUMN metadata;
SELECT pg_temp.try($$INSERT INTO event_store.import (stream, event_type) VALUES ('imp-1', 'Fine')$$);
ROLLBACK;
