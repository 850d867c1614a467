-- The triggers of the store's tables: only the library writes to them, whoever asks for it.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; s text; h text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
    RETURN s || ': ' || m || coalesce(nullif(E'\n  detail: ' || d, E'\n  detail: '), '') || coalesce(nullif(E'\n  hint: ' || h, E'\n  hint: '), '');
END $$;
\t on
\pset format unaligned
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
RESET client_min_messages;
SELECT es_create_store();
CREATE TABLE guarded (orders bigint);
INSERT INTO guarded VALUES (0);
SELECT es_create_projection('guarded', 'UPDATE guarded SET orders = orders + (SELECT count(*) FROM new_events)', categories => '{guard}');
SELECT es_register_aggregate('guard', '''{}''::jsonb');
SELECT version FROM es_append('guard-1', 0, 'Ordered', '{}');
SELECT es_snapshot('guard-1');
CREATE TABLE writable AS SELECT * FROM event_store.projections;

-- Who may write to all tables may not write to these: each of them, in each way.
CREATE ROLE es_test_writer IN ROLE pg_write_all_data, pg_read_all_data;
GRANT CREATE ON SCHEMA public TO es_test_writer;
SET ROLE es_test_writer;
SELECT count(*) > 20 AS tables, string_agg(t || ' ' || r, ', ') FILTER (WHERE r NOT LIKE 'YE005:%')
FROM (
    SELECT c.oid::regclass AS t, pg_temp.try(format(s, c.oid::regclass, a.attname)) AS r
    FROM pg_class c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = CASE WHEN c.relname IN ('categories', 'event_types', 'subscriptions') THEN 2 ELSE 1 END,
        unnest(ARRAY['INSERT INTO %1$s OVERRIDING SYSTEM VALUE SELECT * FROM %1$s',
            'INSERT INTO %1$s DEFAULT VALUES', 'UPDATE %1$s SET %2$s = %2$s', 'UPDATE %1$s SET %2$s = NULL WHERE false', 'DELETE FROM %1$s']) s
    WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'p')) x;
SELECT pg_temp.try($$UPDATE event_store.projections SET handler = 'UPDATE pg_authid SET rolsuper = true FROM new_events', role = 'es_test_writer' WHERE name = 'guarded'$$);
SELECT pg_temp.try($$INSERT INTO event_store.grants VALUES ('es_test_writer', 'operate')$$);
SELECT pg_temp.try($$MERGE INTO event_store.aggregates a USING (SELECT 'guard' AS c) s ON a.category = s.c WHEN MATCHED THEN UPDATE SET role = 'es_test_writer'$$);
SELECT pg_temp.try($$WITH w AS (UPDATE event_store.aggregates SET role = 'es_test_writer' RETURNING category) SELECT state FROM w, es_load(category || '-1')$$);
SELECT pg_temp.try($$TRUNCATE event_store.snapshots$$);
-- through views, rules and foreign keys of its own
CREATE VIEW public.es_test_view AS SELECT * FROM event_store.projections;
SELECT pg_temp.try($$UPDATE es_test_view SET handler = 'SELECT'$$);
SELECT pg_temp.try($$INSERT INTO es_test_view SELECT * FROM event_store.projections ON CONFLICT (name) DO UPDATE SET handler = 'SELECT'$$);
CREATE TABLE public.es_test_rule (name text, handler text);
CREATE RULE redirect AS ON INSERT TO public.es_test_rule DO INSTEAD UPDATE event_store.projections p SET handler = NEW.handler WHERE p.name = NEW.name;
SELECT pg_temp.try($$INSERT INTO es_test_rule VALUES ('guarded', 'SELECT')$$);
CREATE FUNCTION public.es_test_steal() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE event_store.projections SET handler = ''SELECT''; RETURN NEW; END';
RESET ROLE;
SET session_replication_role = replica;
SELECT pg_temp.try($$UPDATE event_store.projections SET handler = 'SELECT'$$);
RESET session_replication_role;
SELECT handler FROM event_store.projections;

-- Stored text is code of users, with the rights of its role: it does not pass either, whatever calls it.
SELECT es_grant('es_test_writer', 'define');
GRANT ALL ON guarded, writable TO es_test_writer;
SET ROLE es_test_writer;
SELECT es_create_projection('thief', 'UPDATE event_store.projections SET handler = ''SELECT'' FROM new_events', side_effects => true);
SELECT es_create_projection('by_trigger', 'INSERT INTO writable SELECT p.* FROM event_store.projections p, new_events');
CREATE FUNCTION public.es_test_write() RETURNS void LANGUAGE sql AS 'UPDATE event_store.aggregates SET snapshot_every = 7';
CREATE FUNCTION public.es_test_fold(jsonb) RETURNS jsonb STABLE LANGUAGE plpgsql AS $$BEGIN
    PERFORM public.es_test_write();
    RETURN $1;
END$$;
SELECT es_register_aggregate('thief', 'public.es_test_fold(state)');
RESET ROLE;
CREATE TRIGGER steal AFTER INSERT ON writable FOR EACH STATEMENT EXECUTE FUNCTION public.es_test_steal();
SELECT version FROM es_append('thief-1', 0, 'Stolen', '{}');
SELECT es_run_projection('thief'), es_run_projection('by_trigger');
SELECT name, status, last_error FROM event_store.projection_status WHERE name <> 'guarded' ORDER BY 1;
SELECT stream, error_code FROM event_store.quarantine ORDER BY name, position;
SELECT pg_temp.try($$SELECT es_load('thief-1')$$);
SELECT count(DISTINCT handler) FROM event_store.projections;

-- The library writes one table at a time: what the owner has put there does not pass in another one, nor does stored text
-- that is called meanwhile pass in that one,
CREATE FUNCTION public.es_test_more() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
    IF NEW.category = 'more' THEN
        UPDATE event_store.projections SET handler = 'SELECT';
    ELSIF NEW.category = 'load' THEN
        PERFORM public.es_load('thief-1');
    END IF;
    RETURN NEW;
END$$;
CREATE TRIGGER more AFTER INSERT ON event_store.aggregates FOR EACH ROW EXECUTE FUNCTION public.es_test_more();
SELECT pg_temp.try($$SELECT es_register_aggregate('more', '''{}''::jsonb')$$);
SELECT pg_temp.try($$SELECT es_register_aggregate('load', '''{}''::jsonb')$$);
DROP TRIGGER more ON event_store.aggregates;
-- and after an error nothing passes any more.
ALTER TABLE event_store.aggregates ADD CONSTRAINT never CHECK (category <> 'never');
DO $$BEGIN
    PERFORM es_register_aggregate('never', '''{}''::jsonb');
EXCEPTION WHEN check_violation THEN
    RAISE NOTICE '%', pg_temp.try('UPDATE event_store.aggregates SET snapshot_every = 1');
END$$;
SELECT pg_temp.try($$UPDATE event_store.aggregates SET snapshot_every = 1$$);
ALTER TABLE event_store.aggregates DROP CONSTRAINT never;

-- Rows that come by a table above, without a statement of their own.
CREATE TABLE above (LIKE event_store.counters);
ALTER TABLE event_store.counters INHERIT above;
SELECT pg_temp.try($$UPDATE above SET value = 7$$);
SELECT pg_temp.try($$DELETE FROM above$$);
ALTER TABLE event_store.counters NO INHERIT above;
ALTER TABLE event_store.log DISABLE TRIGGER es_immutable;
SELECT pg_temp.try($$UPDATE event_store.log SET data = '{"a": 1}'$$);
SELECT pg_temp.try($$INSERT INTO event_store.log SELECT 99, stream, 99, occurred_at, recorded_at, category, event_type, 1, 0, event_id, salt, data, metadata FROM event_store.log WHERE position = 1$$);
SELECT es_create_store();

-- Snapshots may be emptied by whom they belong to, but not be changed.
SELECT pg_temp.try('UPDATE event_store.snapshots SET version = 7'), pg_temp.try('DELETE FROM event_store.snapshots');
SELECT es_snapshot('guard-1');
SELECT pg_temp.try('TRUNCATE event_store.snapshots');
SELECT count(*) FROM event_store.snapshots;
SELECT * FROM es_check();

-- The trigger's function is of use to nobody.
CREATE TABLE mine (i int);
CREATE TRIGGER mine BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION es_refuse_change();
SELECT pg_temp.try('INSERT INTO mine VALUES (1)');

-- clean up
SELECT es_revoke('es_test_writer', 'define');
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
DROP TABLE mine, above, guarded, writable;
DROP OWNED BY es_test_writer CASCADE;
DROP FUNCTION es_test_more();
DROP ROLE es_test_writer;
