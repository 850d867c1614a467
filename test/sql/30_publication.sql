-- Publications of all tables: everything goes on with them. Nothing is replicated here: t/094_logical.pl does that.
\set VERBOSITY verbose
SET client_min_messages = error;	-- that wal_level is not logical
DROP SCHEMA IF EXISTS event_store CASCADE;
SELECT es_create_store();

CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
	hint text;
BEGIN
	EXECUTE statement;
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM, 'DETAIL: ' || nullif(detail, ''), 'HINT: ' || nullif(hint, ''));
END $$;

-- each table has a primary key, which is its replica identity
SELECT c.relname FROM pg_class c
WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'p')
  AND (c.relreplident <> 'd' OR NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary))
ORDER BY 1;

BEGIN;
ALTER TABLE event_store.mark REPLICA IDENTITY NOTHING;
ALTER TABLE event_store.heads REPLICA IDENTITY USING INDEX heads_name_key;
ALTER TABLE event_store.checkpoints REPLICA IDENTITY FULL;
SELECT kind, detail FROM es_check();
ROLLBACK;

CREATE PUBLICATION everything FOR ALL TABLES;
SELECT version FROM es_append('pub-1', 0, 'Published', '{"n": 1}', idempotency_key => 'k');
SELECT version FROM es_append('pub-1', 1, 'Published', '{"n": 2}');
SELECT es_publish_mark();
SELECT mark FROM event_store.status;
SELECT count(*) FROM event_store.feed;
SELECT es_register_aggregate('pub', fold => 'state || data');
SELECT es_snapshot('pub-1');
SELECT es_create_subscription('away');
SELECT version FROM es_fetch('away');
SELECT es_ack('away', 2);

-- a projection whose table has no key: its shadow table has no replica identity
CREATE TABLE keyless (stream text, n int);
ALTER TABLE keyless REPLICA IDENTITY FULL;
SELECT es_create_projection('keyless', $$
	INSERT INTO keyless SELECT stream, 0 FROM new_events WHERE version = 1;
	UPDATE keyless k SET n = k.n + e.n FROM (SELECT stream, sum((data->>'n')::int) AS n FROM new_events GROUP BY stream) e
	WHERE k.stream = e.stream$$, tables => '{keyless}');
SELECT es_run_projection('keyless');
SELECT * FROM keyless;
SELECT es_rebuild_projection('keyless');
-- nor is it published
SELECT c.relname, c.relpersistence, EXISTS (
	SELECT FROM pg_publication_tables t WHERE t.schemaname = n.nspname AND t.tablename = c.relname) AS published
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname ~ '^event_store_rebuild_' AND c.relkind = 'r'
ORDER BY 1;
SELECT es_run_projection('keyless');
SELECT last_error, rebuild FROM event_store.projection_status;
SELECT * FROM keyless;

-- a publication that is made while a rebuild runs
DROP PUBLICATION everything;
DO $$ BEGIN PERFORM es_append_batch(array_fill('pub-5'::text, '{50000}'), array_fill('Published'::text, '{50000}'),
	array_fill('{"n": 1}'::jsonb, '{50000}')); END $$;
SELECT es_run_projection('keyless');
SELECT es_rebuild_projection('keyless');
SELECT c.relname, c.relpersistence FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname ~ '^event_store_rebuild_' AND c.relkind = 'r';
CREATE PUBLICATION everything FOR ALL TABLES;
SELECT es_run_projection('keyless', 1);
SELECT c.relname, c.relpersistence FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname ~ '^event_store_rebuild_' AND c.relkind = 'r' ORDER BY 1;
SELECT es_run_projection('keyless');
SELECT rebuild FROM event_store.projection_status;
SELECT * FROM keyless ORDER BY stream;

-- the projection's role may create in the schema of the rebuild: nothing there runs with the rights of the store's owner
SELECT es_rebuild_projection('keyless');
SELECT n.nspname AS shadow FROM pg_namespace n WHERE n.nspname ~ '^event_store_rebuild_' \gset
DROP TABLE :shadow.event_store_marker;
CREATE ROLE es_intruder;
CREATE FUNCTION intrude() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'runs as %', current_user; END$$;
CREATE VIEW :shadow.event_store_marker AS SELECT 1 AS x WHERE intrude();
ALTER VIEW :shadow.event_store_marker OWNER TO es_intruder;
SELECT pg_temp.try($$SELECT es_run_projection('keyless')$$);
DROP VIEW :shadow.event_store_marker;
DROP FUNCTION intrude;
DROP ROLE es_intruder;
SELECT es_run_projection('keyless');
SELECT rebuild FROM event_store.projection_status;

-- a table that is published and cannot be updated is refused at once
ALTER TABLE keyless REPLICA IDENTITY DEFAULT;
SELECT pg_temp.try($$SELECT es_create_projection('other', 'DELETE FROM keyless k USING new_events e WHERE k.stream = e.stream', tables => '{keyless}')$$);

SELECT pg_temp.try($$SELECT es_rebuild_projection('keyless')$$);
DROP PUBLICATION everything;
SELECT es_drop_projection('keyless');
DROP TABLE keyless;
SELECT * FROM es_check('all');
SELECT * FROM es_verify_log();
