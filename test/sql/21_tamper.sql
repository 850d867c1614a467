-- Tamper evidence: whatever an owner or a superuser changes behind the store's back is found, and named.
\t on
\pset format unaligned
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
DROP ROLE IF EXISTS es_test_auditor;
CREATE FUNCTION public.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; h text; s text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n  ', s || ': ' || m, 'detail: ' || nullif(d, ''), 'hint: ' || nullif(h, ''));
END $$;
RESET client_min_messages;
SET event_store.partition_size = 100;
SELECT es_create_store();
-- only this test seals
DO $$BEGIN PERFORM es_stop_worker(); EXCEPTION WHEN OTHERS THEN NULL; END$$;
SET event_store.seal_size = 10;

CREATE FUNCTION findings(of_stream text DEFAULT NULL) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    IF of_stream IS NULL THEN
        RETURN QUERY SELECT format('%s %s/%s @%s: %s', kind, stream, version, position, detail) FROM es_verify_log();
    ELSE
        RETURN QUERY SELECT format('%s %s/%s @%s: %s', kind, stream, version, position, detail) FROM es_verify_stream(of_stream);
    END IF;
END $$;
-- Does something with all triggers disabled, and shows what is found then; nothing of it stays.
CREATE FUNCTION tamper(statements text, of_stream text DEFAULT NULL) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE found text[]; t regclass;
BEGIN
    BEGIN
        FOR t IN SELECT tgrelid FROM pg_trigger WHERE tgname = 'es_immutable' LOOP
            EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', t);
        END LOOP;
        EXECUTE statements;
        found := ARRAY(SELECT findings(of_stream));
        RAISE SQLSTATE 'TT000';
    EXCEPTION WHEN SQLSTATE 'TT000' THEN
        NULL;
    END;
    RETURN QUERY SELECT CASE WHEN found = '{}' THEN 'nothing found' END WHERE found = '{}' UNION ALL SELECT unnest(found);
END $$;

-- ---- nothing yet
SELECT * FROM es_verify_log();
SELECT position, root FROM es_log_root();
SELECT es_seal_log();

-- ---- a log of two partitions: positions 1 to 120, streams a-1, a-2, b-1 and some more; sealed up to 115
SELECT events FROM es_append_batch(array_fill('fill-1'::text, '{70}'), array_fill('Filled'::text, '{70}'), array_fill('{}'::jsonb, '{70}'));
SELECT version, position FROM es_append('a-1', 0, '[{"type": "Opened", "data": {"i": 1}}, {"type": "Changed", "data": {"i": 2}, "metadata": {"user": "u"}}]');
SELECT version, position FROM es_append('a-2', 0, '[{"type": "Opened", "data": {"i": 1}}, {"type": "Changed", "data": {"i": 2}}]');
SELECT version, position FROM es_append('b-1', 0, '[{"type": "Opened", "data": "x"}]');
CREATE TEMP TABLE old_heads AS SELECT * FROM event_store.heads;
CREATE TABLE old_log_0 (LIKE event_store.log_0 INCLUDING ALL);
INSERT INTO old_log_0 SELECT * FROM event_store.log_0;
SELECT version, position FROM es_append('a-1', 2, '[{"type": "Changed", "data": {"i": 3}}, {"type": "Closed", "data": {"i": 4}}]');
SELECT events FROM es_append_batch(array_fill('fill-2'::text, '{33}'), array_fill('Filled'::text, '{33}'), array_fill('{}'::jsonb, '{33}'));
SELECT version, position FROM es_append('b-1', 1, '[{"type": "Changed", "data": {"i": 3}}, {"type": "Closed", "data": {"i": 4}}]');
SELECT version, position FROM es_append('c-1', 0, '[{"type": "Opened", "data": null}, {"type": "Changed", "data": [1, 2.50]}, {"type": "Closed"}]');
SELECT es_seal_log(5);
SELECT es_seal_log();
SELECT es_seal_log();
SELECT after_position, to_position, events FROM event_store.seals ORDER BY 2;
SELECT version, position FROM es_append('d-1', 0, '[{"type": "Opened", "data": {"i": 1}}, {"type": "Changed", "data": {"i": 2}}, {"type": "Changed", "data": {"i": 3}}]');
SELECT version, position FROM es_append('b-1', 3, '[{"type": "Reopened", "data": {"i": 5}}, {"type": "Closed", "data": {"i": 6}}]');
SELECT position AS root_position, root FROM es_log_root() \gset
SELECT :root_position;

-- ---- it is sound
SELECT findings();
SELECT name, findings(name) FROM event_store.heads;
SELECT count(*) FROM es_verify_log(0, NULL, :root_position, :'root');
SELECT count(*) FROM es_verify_log(33, 57);
-- upcasters and unregistered names change what is read, not what is stored
SELECT es_register_upcaster('Changed', 1, 'data || ''{"n": 1}''');
SELECT es_register_upcaster('Closed', 1, 'NULL');
SELECT findings();
SELECT findings('a-1');
SELECT es_unregister_upcaster('Changed', 1), es_unregister_upcaster('Closed', 1);
-- a stream that was checked but never written leaves nothing behind
SELECT count(*) FROM es_append_multi('[{"stream": "d-1", "expected_version": 3}, {"stream": "empty-1", "expected_version": 0}]');
SELECT name, version FROM event_store.heads WHERE version = 0;
SELECT findings();
-- the tree and the chain, computed anew from what log/digest.c documents, for three leaves
SET event_store.seal_size = 3;
BEGIN;
SELECT es_seal_log(1);
CREATE FUNCTION pg_temp.be64(n bigint) RETURNS bytea LANGUAGE sql AS 'SELECT int8send(n)';
CREATE FUNCTION pg_temp.str(s text) RETURNS bytea LANGUAGE sql AS $$SELECT int8send(octet_length(convert_to(s, 'UTF8'))) || convert_to(s, 'UTF8')$$;
WITH leaves AS (
    SELECT row_number() OVER (ORDER BY e.position) AS n, sha256('\x00'::bytea || '\x01'::bytea || uuid_send(s.id) || pg_temp.str(h.name)
        || pg_temp.be64(e.version) || pg_temp.be64(e.position) || pg_temp.str(t.name) || pg_temp.be64(e.schema_version)
        || timestamptz_send(e.occurred_at) || timestamptz_send(e.recorded_at) || uuid_send(e.event_id)
        || sha256(uuid_send(e.salt) || 'd'::bytea || '{'::bytea || pg_temp.be64(1) || pg_temp.str('i') || 'n'::bytea || pg_temp.str(e.data ->> 'i') || 'm'::bytea)
        || pg_temp.str(c.name) || pg_temp.be64(e.rest)) AS leaf
    FROM event_store.log e JOIN event_store.heads h ON h.id = e.stream JOIN event_store.event_types t ON t.id = e.event_type
    JOIN event_store.categories c ON c.id = e.category CROSS JOIN event_store.store s WHERE e.position BETWEEN 116 AND 118),
tree AS (
    SELECT sha256('\x01'::bytea || sha256('\x01'::bytea || a.leaf || b.leaf) || c.leaf) AS tree
    FROM leaves a, leaves b, leaves c WHERE a.n = 1 AND b.n = 2 AND c.n = 3)
SELECT s.to_position, s.events, s.tree = t.tree, s.root = sha256('\x02'::bytea || '\x01'::bytea || uuid_send(o.id) || pg_temp.be64(115)
    || pg_temp.be64(118) || pg_temp.be64(3) || t.tree || :'root'::bytea)
FROM event_store.seals s, tree t, event_store.store o WHERE s.to_position = 118;
ROLLBACK;
SET event_store.seal_size = 10;

-- ---- an event is changed
SELECT tamper($$UPDATE event_store.log SET data = '{"i": 20}' WHERE position = 72$$);
SELECT tamper($$UPDATE event_store.log SET data = '{"i": 20}' WHERE position = 72$$, 'a-1');
SELECT tamper($$UPDATE event_store.log SET data = NULL WHERE position = 72$$);
SELECT tamper($$UPDATE event_store.log SET metadata = '{"user": "v"}' WHERE position = 72$$);
SELECT tamper($$UPDATE event_store.log SET metadata = NULL WHERE position = 72$$);
SELECT tamper($$UPDATE event_store.log SET event_type = (SELECT id FROM event_store.event_types WHERE name = 'Closed') WHERE position = 72$$);
SELECT tamper($$UPDATE event_store.log SET schema_version = 2 WHERE position = 72$$);
SELECT tamper($$UPDATE event_store.log SET recorded_at = recorded_at - interval '1 microsecond' WHERE position = 72$$);
SELECT tamper($$UPDATE event_store.log SET recorded_at = recorded_at + interval '1 day' WHERE position = 72$$);
SELECT tamper($$UPDATE event_store.log SET occurred_at = '2001-01-01' WHERE position = 72$$);
SELECT tamper($$UPDATE event_store.log SET event_id = gen_random_uuid() WHERE position = 72$$);
SELECT tamper($$UPDATE event_store.log SET salt = gen_random_uuid() WHERE position = 72$$);
SELECT tamper($$UPDATE event_store.log SET rest = 5 WHERE position = 72$$);
SELECT tamper($$UPDATE event_store.log SET category = (SELECT id FROM event_store.categories WHERE name = 'b') WHERE position = 72$$);
SELECT tamper($$UPDATE event_store.log SET version = 50 WHERE position = 72$$);
SELECT tamper($$UPDATE event_store.log SET version = 50 WHERE position = 72$$, 'a-1');
SELECT tamper($$UPDATE event_store.log SET position = 130 WHERE position = 72$$);
SELECT tamper($$UPDATE event_store.log SET position = 130 WHERE position = 72$$, 'a-1');
SELECT tamper($$UPDATE event_store.log SET stream = (SELECT id FROM event_store.heads WHERE name = 'fill-2') , version = 34 WHERE position = 72$$);
-- not sealed yet: the stream is named
SELECT tamper($$UPDATE event_store.log SET data = '{"i": 20}' WHERE position = 117$$);
SELECT tamper($$UPDATE event_store.log SET data = '{"i": 20}' WHERE position = 117$$, 'd-1');
SELECT tamper($$UPDATE event_store.log SET version = 9 WHERE position = 117$$);
SELECT tamper($$UPDATE event_store.log SET recorded_at = '2001-01-01' WHERE position = 117$$);
SELECT tamper($$UPDATE event_store.log SET category = (SELECT id FROM event_store.categories WHERE name = 'b') WHERE position = 117$$);
-- many: the rest is counted
SELECT left(string_agg(f, E'\n'), 160) FROM tamper($$UPDATE event_store.log SET occurred_at = '2001-01-01' WHERE position <= 70$$) f;
-- no trigger fires
SELECT tamper($$SET LOCAL client_min_messages = warning; DROP VIEW event_store.events CASCADE; ALTER TABLE event_store.log ALTER COLUMN data TYPE jsonb USING CASE WHEN position = 72 THEN '{"i": 20}' ELSE data END$$);
SELECT tamper($$SET LOCAL client_min_messages = warning; DROP VIEW event_store.events CASCADE; ALTER TABLE event_store.log ALTER COLUMN occurred_at TYPE timestamptz USING CASE WHEN position = 105 THEN now() ELSE occurred_at END$$);
-- numbers that are equal but not the same
SELECT tamper($$UPDATE event_store.log SET data = '[1, 2.5]' WHERE position = 114$$);
SELECT tamper($$UPDATE event_store.log SET data = '[1, 2.50]' WHERE position = 114$$);

-- ---- events are swapped
SELECT tamper($$UPDATE event_store.log SET data = CASE position WHEN 72 THEN '{"i": 3}'::jsonb ELSE '{"i": 2}' END WHERE position IN (72, 76)$$);
SELECT tamper($$UPDATE event_store.log SET position = 199 WHERE position = 71; UPDATE event_store.log SET position = 71 WHERE position = 72;
    UPDATE event_store.log SET position = 72 WHERE position = 199$$);
SELECT tamper($$UPDATE event_store.log SET version = 199 WHERE position = 71; UPDATE event_store.log SET version = 1 WHERE position = 72;
    UPDATE event_store.log SET version = 2 WHERE position = 71$$);

-- ---- events are removed, and added
SELECT tamper($$DELETE FROM event_store.log WHERE position = 72$$);
SELECT tamper($$DELETE FROM event_store.log WHERE position = 72$$, 'a-1');
SELECT tamper($$DELETE FROM event_store.log WHERE position = 117$$);
-- a stream's end, and its head row as it was then
SELECT tamper($$DELETE FROM event_store.log l USING event_store.heads h WHERE h.id = l.stream AND h.name = 'a-1' AND l.version > 2;
    UPDATE event_store.heads h SET version = o.version, last_position = o.last_position, recorded_at = o.recorded_at, digest = o.digest
    FROM old_heads o WHERE o.id = h.id AND h.name = 'a-1'$$);
-- the head row alone
SELECT tamper($$UPDATE event_store.heads h SET version = o.version, last_position = o.last_position, recorded_at = o.recorded_at, digest = o.digest
    FROM old_heads o WHERE o.id = h.id AND h.name = 'a-1'$$);
SELECT tamper($$UPDATE event_store.heads h SET version = o.version, last_position = o.last_position, recorded_at = o.recorded_at, digest = o.digest
    FROM old_heads o WHERE o.id = h.id AND h.name = 'a-1'$$, 'a-1');
-- a stream as if it had never been
SELECT tamper($$DELETE FROM event_store.log l USING event_store.heads h WHERE h.id = l.stream AND h.name = 'a-2';
    DELETE FROM event_store.heads WHERE name = 'a-2'$$);
SELECT tamper($$DELETE FROM event_store.log l USING event_store.heads h WHERE h.id = l.stream AND h.name = 'a-2';
    DELETE FROM event_store.heads WHERE name = 'a-2'$$, 'a-2');
SELECT tamper($$DELETE FROM event_store.log l USING event_store.heads h WHERE h.id = l.stream AND h.name = 'a-2'$$);
SELECT tamper($$DELETE FROM event_store.heads WHERE name = 'a-2'$$);
SELECT tamper($$DELETE FROM event_store.heads WHERE name = 'd-1'$$);
SELECT tamper($$UPDATE event_store.heads SET version = 0, last_position = 0, first_position = 0, digest = decode(repeat('00', 32), 'hex') WHERE name = 'a-2'$$);
-- one that was never appended
SELECT tamper($$UPDATE event_store.log SET position = 130 WHERE position = 72; INSERT INTO event_store.log
    SELECT 72, stream, 9, occurred_at, recorded_at, category, event_type, schema_version, rest, gen_random_uuid(), salt, data, metadata
    FROM event_store.log WHERE position = 71$$);

-- ---- the head row, and names
SELECT tamper($$UPDATE event_store.heads SET digest = sha256('x') WHERE name = 'a-2'$$);
SELECT tamper($$UPDATE event_store.heads SET digest = 'x' WHERE name = 'a-2'$$);
SELECT tamper($$UPDATE event_store.heads SET digest = 'x' WHERE name = 'a-2'$$, 'a-2');
SELECT tamper($$UPDATE event_store.heads SET version = 3 WHERE name = 'a-2'$$);
SELECT tamper($$UPDATE event_store.heads SET version = -1 WHERE name = 'a-2'$$);
SELECT tamper($$UPDATE event_store.heads SET first_position = 74 WHERE name = 'a-2'$$);
SELECT tamper($$UPDATE event_store.heads SET last_position = 115 WHERE name = 'a-2'$$);
SELECT tamper($$UPDATE event_store.heads SET created_at = '2001-01-01' WHERE name = 'a-2'$$);
SELECT tamper($$UPDATE event_store.heads SET recorded_at = now() WHERE name = 'a-2'$$);
SELECT tamper($$UPDATE event_store.heads SET category = 99 WHERE name = 'a-2'$$);
SELECT tamper($$UPDATE event_store.heads SET name = 'a-3' WHERE name = 'a-2'$$);
SELECT tamper($$UPDATE event_store.event_types SET name = 'Reopened!' WHERE name = 'Reopened'$$);
SELECT tamper($$UPDATE event_store.event_types SET name = 'Unchanged' WHERE name = 'Changed'$$);
SELECT tamper($$DELETE FROM event_store.event_types WHERE name = 'Reopened'$$);
SELECT tamper($$DELETE FROM event_store.event_types WHERE name = 'Reopened'$$, 'b-1');
SELECT tamper($$DELETE FROM event_store.categories WHERE name = 'c'$$);

-- ---- partitions
SELECT tamper($$ALTER TABLE event_store.log DETACH PARTITION event_store.log_0; ALTER TABLE event_store.log_0 RENAME TO gone;
    ALTER TABLE old_log_0 SET SCHEMA event_store; ALTER TABLE event_store.old_log_0 RENAME TO log_0;
    ALTER TABLE event_store.log ATTACH PARTITION event_store.log_0 FOR VALUES FROM (0) TO (100)$$) LIMIT 4;
SELECT tamper($$ALTER TABLE event_store.log DETACH PARTITION event_store.log_0$$);
SELECT tamper($$ALTER TABLE event_store.log DETACH PARTITION event_store.log_0$$, 'a-1');
SELECT tamper($$ALTER TABLE event_store.log DETACH PARTITION event_store.log_0$$, 'd-1');
SELECT tamper($$ALTER TABLE event_store.log DETACH PARTITION event_store.log_100$$);
SELECT tamper($$DROP TABLE event_store.log_0$$);

-- ---- seals
SELECT tamper($$DELETE FROM event_store.seals WHERE to_position = 40$$);
SELECT tamper($$DELETE FROM event_store.seals WHERE to_position = 10$$);
SELECT tamper($$UPDATE event_store.seals SET tree = sha256('x') WHERE to_position = 40$$);
SELECT tamper($$UPDATE event_store.seals SET root = sha256('x') WHERE to_position = 40$$);
SELECT tamper($$UPDATE event_store.seals SET root = 'x' WHERE to_position = 40$$);
SELECT tamper($$UPDATE event_store.seals SET events = 11 WHERE to_position = 40$$);
SELECT tamper($$UPDATE event_store.seals SET after_position = 35 WHERE to_position = 40$$);
SELECT tamper($$UPDATE event_store.seals SET manifest = '' WHERE to_position = 40$$);
SELECT tamper($$UPDATE event_store.seals SET manifest = '\xffffffffffffffffffffffff' WHERE to_position = 40$$);
SELECT tamper($$UPDATE event_store.seals SET manifest = set_byte(manifest, 5, (get_byte(manifest, 5) + 1) % 256) WHERE to_position = 40$$);
SELECT tamper($$UPDATE event_store.seals SET manifest = '' WHERE to_position = 80; DELETE FROM event_store.log WHERE position = 72$$);
SELECT tamper($$UPDATE event_store.seals SET manifest = '' WHERE to_position = 80; DELETE FROM event_store.log WHERE position = 72$$, 'a-1');

-- ---- whoever can write everything can make it sound again: only a root that was kept elsewhere tells
BEGIN;
DO $$
DECLARE t regclass;
BEGIN
    FOR t IN SELECT tgrelid FROM pg_trigger WHERE tgname = 'es_immutable' LOOP
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', t);
    END LOOP;
END $$;
DELETE FROM event_store.log l USING event_store.heads h WHERE h.id = l.stream AND h.name = 'a-2';
DELETE FROM event_store.heads WHERE name = 'a-2';
DELETE FROM event_store.seals;
SELECT findings();
SELECT es_seal_log();
SELECT findings();
SELECT kind, stream, version, position, detail FROM es_verify_log(0, NULL, :root_position, :'root');
SELECT kind, stream, version, position, detail FROM es_verify_log(110, 112, 40, (SELECT s.root FROM event_store.seals s LIMIT 1));
ROLLBACK;
SELECT count(*) FROM es_verify_log(0, NULL, :root_position, :'root');
SELECT kind, position, detail FROM es_verify_log(0, NULL, :root_position, '\x00');

-- ---- what was erased verifies by the digest that was kept
CREATE FUNCTION erase(at bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO event_store.erased SELECT position,
        sha256(uuid_send(salt) || 'd'::bytea || '{'::bytea || int8send(1) || int8send(1) || 'i'::bytea || 'n'::bytea || int8send(1) || (data ->> 'i')::bytea
            || 'm'::bytea || CASE WHEN metadata IS NULL THEN ''::bytea ELSE '{'::bytea || int8send(1) || int8send(4) || 'user'::bytea
            || 's'::bytea || int8send(1) || (metadata ->> 'user')::bytea END)
        FROM event_store.log WHERE position = at;
    UPDATE event_store.log SET salt = NULL, data = NULL, metadata = NULL WHERE position = at;
$$;
SELECT tamper('SELECT erase(71), erase(72), erase(117)');
SELECT tamper('SELECT erase(71), erase(72), erase(117)', 'a-1');
SELECT tamper('UPDATE event_store.log SET salt = NULL, data = NULL, metadata = NULL WHERE position = 72');
SELECT tamper('UPDATE event_store.log SET salt = NULL, data = NULL, metadata = NULL WHERE position = 72', 'a-1');
SELECT tamper($$SELECT erase(72); UPDATE event_store.log SET data = '{"i": 20}' WHERE position = 72$$);
SELECT tamper($$SELECT erase(72); UPDATE event_store.erased SET digest = sha256('x')$$);
SELECT tamper($$SELECT erase(72); UPDATE event_store.erased SET digest = 'x'$$);
SELECT tamper($$SELECT erase(72); UPDATE event_store.log SET occurred_at = '2001-01-01' WHERE position = 72$$);

-- ---- a log that is not sound is not sealed over
CREATE FUNCTION unsealable() RETURNS text LANGUAGE plpgsql AS $$
DECLARE answer text;
BEGIN
    ALTER TABLE event_store.heads DISABLE TRIGGER USER;
    DELETE FROM event_store.heads WHERE name = 'd-1';
    answer := try('SELECT es_seal_log()');
    RAISE EXCEPTION '%', answer;
END $$;
SELECT try('SELECT unsealable()');

-- ---- arguments, rights
SELECT try('SELECT * FROM es_verify_log(-1)');
SELECT try('SELECT * FROM es_verify_log(7, 5)');
SELECT try('SELECT * FROM es_verify_log(0, NULL, 5)');
SELECT try($$SELECT * FROM es_verify_log(0, NULL, NULL, '\x00')$$);
SELECT count(*) FROM es_verify_log(NULL, NULL);
SELECT count(*) FROM es_verify_log(9223372036854775807, 9223372036854775807);
SELECT count(*) FROM es_verify_log(0, 9223372036854775807);
SELECT try('SELECT * FROM es_verify_stream(NULL)');
SELECT try('SELECT es_seal_log(-1)');
SELECT es_seal_log(0);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM es_verify_log();
SELECT position FROM es_log_root();
SELECT try('SELECT es_seal_log()');
COMMIT;
BEGIN READ ONLY;
SELECT count(*) FROM es_verify_log();
SELECT es_seal_log();
ROLLBACK;
SELECT try('UPDATE event_store.seals SET events = 0');
SELECT try('TRUNCATE event_store.erased');
CREATE ROLE es_test_auditor;
SET ROLE es_test_auditor;
SELECT try('SELECT * FROM es_verify_log()');
SELECT try('SELECT * FROM es_verify_stream(''a-1'')');
SELECT try('SELECT es_log_root()');
SELECT try('SELECT es_seal_log()');
RESET ROLE;
SELECT es_grant('es_test_auditor', 'read');
SET ROLE es_test_auditor;
SELECT count(*) FROM es_verify_log();
SELECT count(*) FROM es_verify_stream('a-1');
SELECT position FROM es_log_root();
SELECT try('SELECT es_seal_log()');
RESET ROLE;
SELECT es_revoke('es_test_auditor', 'read'), es_grant('es_test_auditor', 'operate');
SET ROLE es_test_auditor;
SELECT es_seal_log();
SELECT count(*) FROM es_verify_log();
RESET ROLE;
SELECT es_revoke('es_test_auditor', 'operate');
DROP OWNED BY es_test_auditor;
DROP ROLE es_test_auditor;

-- ---- by its owner, who is no superuser; positions that nobody used, and another node
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
DROP ROLE IF EXISTS es_test_owner;
RESET client_min_messages;
SELECT es_create_store(node => 7);
DO $$BEGIN PERFORM es_stop_worker(); EXCEPTION WHEN OTHERS THEN NULL; END$$;
SELECT findings();
DO $$BEGIN PERFORM es_append('a-1', 0, 'Opened', '{}'); PERFORM es_append('a-1', 99, 'Opened', '{}'); EXCEPTION WHEN OTHERS THEN NULL; END$$;
SELECT version, position - (7::bigint << 48) FROM es_append('a-1', 0, '[{"type": "Opened", "data": {"i": 1}}, {"type": "Changed", "data": {"i": 2}}]');
SELECT es_seal_log();
SELECT after_position - (7::bigint << 48), to_position - (7::bigint << 48), events FROM event_store.seals;
SELECT findings();
-- Positions that were drawn in vain are no gap, although their partition was never committed.
DO $$
BEGIN
    LOCK TABLE event_store.log IN SHARE UPDATE EXCLUSIVE MODE;    -- so that no worker makes it
    PERFORM es_append_batch(array_fill('a-1'::text, '{300}'), array_fill('Changed'::text, '{300}'), array_fill('{}'::jsonb, '{300}'));
    RAISE EXCEPTION 'no';
EXCEPTION WHEN raise_exception THEN NULL;
END $$;
SELECT newest_position - (7::bigint << 48) > (SELECT max(to_position) - (7::bigint << 48) FROM event_store.partitions) AS beyond FROM event_store.status;
SELECT findings();
CREATE ROLE es_test_owner;
DO $$
DECLARE r record;
BEGIN
    EXECUTE format('GRANT CREATE ON DATABASE %I TO es_test_owner', current_database());
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO es_test_owner;
    ALTER SCHEMA event_store OWNER TO es_test_owner;
    FOR r IN SELECT c.oid::regclass AS name FROM pg_class c WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S', 'f')
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'i' AND c.relkind = 'S') LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO es_test_owner', r.name);
    END LOOP;
END $$;
SET ROLE es_test_owner;
SELECT regexp_replace(f, '@\d+', '@', 'g') FROM tamper($$UPDATE event_store.log SET data = '{"i": 20}' WHERE version = 2$$) f;
SELECT regexp_replace(f, '@\d+', '@', 'g') FROM tamper($$DELETE FROM event_store.log; DELETE FROM event_store.heads$$) f;
RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
DROP OWNED BY es_test_owner;
DROP ROLE es_test_owner;
DROP TABLE old_log_0;
DROP FUNCTION try, findings, tamper, erase, unsealable;
RESET client_min_messages;
SELECT es_create_store();
DO $$BEGIN PERFORM es_start_worker(); EXCEPTION WHEN OTHERS THEN NULL; END$$;
