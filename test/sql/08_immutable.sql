-- Immutability: what the owner and a superuser are refused.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; s text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL;
    RETURN s || ': ' || m || E'\n  detail: ' || d;
END $$;
\t on
\pset format unaligned
SELECT es_create_store();
SELECT version FROM es_append('stone-1', 0, 'Carved', '{"v": 1}');
SELECT pg_temp.try($$UPDATE event_store.log SET data = '{}'$$);
SELECT pg_temp.try($$UPDATE event_store.log SET data = '{}' WHERE false$$);
SELECT pg_temp.try($$DELETE FROM event_store.log$$);
SELECT pg_temp.try($$TRUNCATE event_store.log$$);
SELECT pg_temp.try($$UPDATE event_store.log_0 SET data = '{}'$$);
SELECT pg_temp.try($$DELETE FROM event_store.log_0$$);
SELECT pg_temp.try($$TRUNCATE event_store.log_0$$);
SELECT pg_temp.try($$MERGE INTO event_store.log l USING (SELECT 1 AS p) s ON l.position = s.p WHEN MATCHED THEN DELETE$$);
SELECT pg_temp.try($$INSERT INTO event_store.log SELECT * FROM event_store.log ON CONFLICT (position) DO UPDATE SET data = '{}'$$);
SELECT pg_temp.try(format($$%s event_store.%s %s$$, s.a, t, s.b)) FROM unnest('{heads,categories,event_types,append_keys,batch_keys,store}'::text[]) t, (VALUES ('DELETE FROM', ''), ('TRUNCATE', '')) s(a, b);
SELECT pg_temp.try($$UPDATE event_store.heads SET version = 7$$);
SET session_replication_role = replica;
SELECT pg_temp.try($$UPDATE event_store.log SET data = '{}'$$);
SELECT pg_temp.try($$DELETE FROM event_store.log_0$$);
SELECT pg_temp.try($$TRUNCATE event_store.heads$$);
RESET session_replication_role;
-- a view over several tables is not updatable at all
SELECT pg_temp.try($$DELETE FROM event_store.events$$) LIKE '55000:%';
-- detached partitions stay guarded
BEGIN;
ALTER TABLE event_store.log DETACH PARTITION event_store.log_0;
SELECT pg_temp.try($$DELETE FROM event_store.log_0$$);
ROLLBACK;
-- triggers left at ORIGIN (as pg_restore --disable-triggers leaves them) or lost are put right
BEGIN;
ALTER TABLE event_store.log_0 DISABLE TRIGGER ALL;
ALTER TABLE event_store.log_0 ENABLE TRIGGER ALL;
DROP TRIGGER es_immutable ON event_store.heads;
SELECT es_create_store();
SELECT t.tgrelid::regclass, t.tgenabled FROM pg_trigger t WHERE tgname = 'es_immutable' AND tgrelid IN ('event_store.log_0'::regclass, 'event_store.heads'::regclass) ORDER BY 1;
ROLLBACK;
-- the function is only a trigger
SELECT pg_temp.try($$SELECT es_refuse_change()$$);
-- insert triggers on a partition are refused, not skipped; further constraints and indexes are kept
BEGIN;
CREATE FUNCTION pg_temp.noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER mine BEFORE INSERT ON event_store.log_0 FOR EACH ROW EXECUTE FUNCTION pg_temp.noop();
SELECT pg_temp.try($$SELECT es_append('stone-1', 1, 'Carved', '{}')$$);
ROLLBACK;
BEGIN;
CREATE FUNCTION pg_temp.noop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER mine AFTER INSERT ON event_store.log FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.noop();
SELECT pg_temp.try($$SELECT es_append('stone-1', 1, 'Carved', '{}')$$);
ROLLBACK;
BEGIN;
CREATE UNIQUE INDEX one_pebble ON event_store.heads (category) WHERE name LIKE 'pebble-%';
SELECT pg_temp.try($$SELECT es_append_multi('[{"stream": "pebble-1", "expected_version": "any", "events": [{"type": "Thrown"}]}, {"stream": "pebble-2", "expected_version": "any", "events": [{"type": "Thrown"}]}]')$$) LIKE '23505:%';
ROLLBACK;
BEGIN;
ALTER TABLE event_store.log_0 ADD CONSTRAINT no_secrets CHECK (NOT data ? 'secret');
CREATE INDEX by_id ON event_store.log_0 (event_id);
SELECT pg_temp.try($$SELECT es_append('stone-1', 1, 'Carved', '{"secret": 1}')$$) LIKE '23514: new row for relation "log_0" violates check constraint "no_secrets"%';
SELECT event_id AS id FROM es_read('stone-1', backward => true, max_count => 1) \gset
SELECT version FROM es_append('stone-1', 1, 'Carved', '{}', event_id => '11111111-1111-4111-8111-111111111111');
SET LOCAL enable_seqscan = off;
SELECT count(*) FROM event_store.log_0 WHERE event_id = '11111111-1111-4111-8111-111111111111';
ROLLBACK;
SELECT version, data FROM es_read('stone-1');
