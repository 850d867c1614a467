-- es_check: a sound store gives no row; each kind of damage gives its findings.
-- Damage is done as only an owner or superuser can: with the triggers that refuse it disabled.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; s text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL;
    RETURN s || ': ' || m || coalesce(nullif(E'\n  detail: ' || d, E'\n  detail: '), '');
END $$;
CREATE FUNCTION pg_temp.damage(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE t text;
BEGIN
    FOR t IN SELECT tgrelid::regclass FROM pg_trigger WHERE tgname = 'es_immutable' LOOP
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', t);
    END LOOP;
    EXECUTE statement;
    FOR t IN SELECT format('%s ENABLE ALWAYS TRIGGER %s', tgrelid::regclass, tgname) FROM pg_trigger WHERE tgname ~ '^es_immutable' LOOP
        EXECUTE 'ALTER TABLE ' || t;
    END LOOP;
    RETURN QUERY SELECT concat_ws(' | ', f.kind, coalesce(f.stream, '-'), coalesce(f.position::text, '-'),
        regexp_replace(f.detail, '\d{4}-\d\d-\d\d \d\d:\S*\d', 'TIME', 'g'))
        FROM es_check('all') f
        ORDER BY f.kind, f.stream COLLATE "C", f.position, f.detail COLLATE "C";
    -- and all of it is taken back
    RAISE EXCEPTION USING ERRCODE = 'YX000';
EXCEPTION WHEN SQLSTATE 'YX000' THEN
    NULL;
END $$;
\t on
\pset format unaligned
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
RESET client_min_messages;
SELECT pg_temp.try('SELECT es_check()');
SET event_store.partition_size = 100;
SELECT es_create_store();
SELECT * FROM es_check();

-- a store with something of everything
SELECT version FROM es_append('acct-1', 0, '[{"type": "Opened"}, {"type": "Deposited", "data": {"amount": 5}}, {"type": "Deposited", "data": {"amount": 7}}]');
SELECT version FROM es_append('acct-2', 0, 'Opened', '{}', idempotency_key => 'k1');
SELECT count(*) FROM es_append_multi('[{"stream": "acct-1", "expected_version": "any", "events": [{"type": "Withdrawn", "data": {"amount": 2}}]}, {"stream": "acct-2", "expected_version": "any", "events": [{"type": "Deposited", "data": {"amount": 2}}]}, {"stream": "acct-9", "expected_version": 0}]');
SELECT events FROM es_append_batch('{acct-3,order-1,acct-3}', '{Opened,Placed,Deposited}', '{"{}","{}","{\"amount\": 1}"}', idempotency_key => 'b1');
SELECT count(*) FROM (SELECT es_append('order-2', -2, 'Placed', jsonb_build_object('n', i)) FROM generate_series(1, 110) i) a;
SELECT es_register_aggregate('acct', rules => '{"Deposited": {"add": {"balance": "amount"}}, "Withdrawn": {"subtract": {"balance": "amount"}}}');
SELECT es_register_aggregate('order', fold => 'jsonb_set(state, ''{n}'', to_jsonb(coalesce((state->>''n'')::int, 0) + 1))');
SELECT es_snapshot(s) FROM unnest('{acct-1,acct-3,order-1}'::text[]) s;
SELECT version FROM es_append('acct-1', 4, 'Deposited', '{"amount": 1}');
SELECT es_snapshot('acct-1');
SELECT es_put_snapshot('order-1', 1, '{"own": true}', 'app v1');
CREATE TABLE seen (stream text, n int);
SELECT es_create_projection('seen', $$INSERT INTO seen SELECT stream, 1 / (length(stream) - 6) FROM new_events$$, categories => '{acct}', tables => '{seen}');
CREATE TABLE counted (stream text, n int);
SELECT es_create_projection('counted', $$INSERT INTO counted SELECT stream, 1 FROM new_events WHERE stream <> 'order-1' OR (1 / (version - 1)) > 0$$, tables => '{counted}');
SELECT es_run_projection('counted');
SELECT name, stream FROM event_store.quarantine;
SELECT es_create_subscription('mails', '{order}');
SELECT count(*) FROM es_fetch('mails', 'anna', 3, '1 hour');
SELECT es_ack('mails', (SELECT position FROM event_store.events WHERE stream = 'order-1'), 'anna');
SELECT es_publish_mark();
SELECT es_publish_mark();
SELECT * FROM es_check();
SELECT * FROM es_check('none');
SELECT * FROM es_check('all');

-- arguments, rights, places where it may run
SELECT pg_temp.try($$SELECT es_check(NULL)$$);
SELECT pg_temp.try($$SELECT es_check('some')$$);
SELECT pg_temp.try($$SELECT es_check('')$$);
SET client_min_messages = warning;
DROP ROLE IF EXISTS es_test_checker;
RESET client_min_messages;
CREATE ROLE es_test_checker;
SET ROLE es_test_checker;
SELECT pg_temp.try('SELECT es_check()');
RESET ROLE;
SELECT es_grant('es_test_checker', 'operate');
SET ROLE es_test_checker;
SELECT * FROM es_check('all');
RESET ROLE;
SELECT es_revoke('es_test_checker', 'operate');
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT * FROM es_check('all');
COMMIT;
BEGIN;
SELECT version FROM es_append('acct-7', 0, 'Opened', '{}');
SELECT * FROM es_check();
ROLLBACK;
SELECT * FROM es_check();
\set VERBOSITY terse
SET statement_timeout = 1;
SELECT * FROM es_check('all');
RESET statement_timeout;
\set VERBOSITY default

-- streams
SELECT pg_temp.damage($$DELETE FROM event_store.log WHERE position = 2$$);
SELECT pg_temp.damage($$DELETE FROM event_store.log WHERE position = 1$$);
SELECT pg_temp.damage($$DELETE FROM event_store.log WHERE stream = (SELECT id FROM event_store.heads WHERE name = 'order-1')$$);
SELECT pg_temp.damage($$DELETE FROM event_store.log WHERE position = (SELECT last_position FROM event_store.heads WHERE name = 'order-2')$$);
SELECT pg_temp.damage($$DELETE FROM event_store.heads WHERE name = 'order-2'$$);
SELECT pg_temp.damage($$UPDATE event_store.log SET version = 30 WHERE position = 3$$);
SELECT pg_temp.damage($$UPDATE event_store.log SET version = 0 WHERE position = 1$$);
-- the unique index is per partition
SELECT pg_temp.damage($$UPDATE event_store.log SET version = 1 WHERE position = 120$$);
-- two events change places
SELECT pg_temp.damage($$ALTER TABLE event_store.log DROP CONSTRAINT log_pkey; UPDATE event_store.log_0 SET position = 5 - position WHERE position IN (2, 3)$$);
-- a position twice
SELECT pg_temp.damage($$ALTER TABLE event_store.log DROP CONSTRAINT log_pkey; UPDATE event_store.log_0 SET position = 6 WHERE position = 7$$);
-- outside of its partition
SET allow_system_table_mods = on;
SELECT d FROM pg_temp.damage($$ALTER TABLE event_store.log DETACH PARTITION event_store.log_100;
    UPDATE event_store.log_100 SET position = 50 WHERE position = 120;
    ALTER TABLE event_store.log_100 ADD CONSTRAINT tricked CHECK (position IS NOT NULL AND position >= 100 AND position < 200) NOT VALID;
    UPDATE pg_constraint SET convalidated = true WHERE conname = 'tricked';
    ALTER TABLE event_store.log_100 SET (fillfactor = 100);
    ALTER TABLE event_store.log ATTACH PARTITION event_store.log_100 FOR VALUES FROM (100) TO (200)$$) d WHERE d LIKE '%not for its position';
RESET allow_system_table_mods;
SELECT pg_temp.damage($$UPDATE event_store.log SET recorded_at = recorded_at - interval '1 day' WHERE position = 3$$);
SELECT pg_temp.damage($$UPDATE event_store.log SET event_type = 77 WHERE position = 3$$);
SELECT pg_temp.damage($$UPDATE event_store.log SET category = 2 WHERE position = 3$$);

-- calls
SELECT pg_temp.damage($$UPDATE event_store.log SET rest = 1 WHERE position = 3$$);
SELECT pg_temp.damage($$UPDATE event_store.log SET rest = -1 WHERE position = 3$$);
SELECT pg_temp.damage($$UPDATE event_store.log SET rest = 1000000 WHERE position = 4$$);

-- heads
SELECT pg_temp.damage($$UPDATE event_store.heads SET version = 9 WHERE name = 'acct-1'$$);
SELECT pg_temp.damage($$UPDATE event_store.heads SET version = 1 WHERE name = 'acct-1'$$);
SELECT pg_temp.damage($$UPDATE event_store.heads SET first_position = 2, last_position = 3 WHERE name = 'acct-1'$$);
SELECT pg_temp.damage($$UPDATE event_store.heads SET created_at = '2000-01-01', recorded_at = '2000-01-01' WHERE name = 'acct-1'$$);
SELECT pg_temp.damage($$UPDATE event_store.heads SET digest = '\x00' WHERE name = 'acct-1'$$);
SELECT pg_temp.damage($$UPDATE event_store.heads SET name = 'other-1' WHERE name = 'order-1'$$);
SELECT pg_temp.damage($$UPDATE event_store.categories SET name = 'purse' WHERE name = 'order'$$);
SELECT pg_temp.damage($$INSERT INTO event_store.heads SELECT 0, 4, created_at, category, 0, 4, recorded_at, digest, 'acct-9' FROM event_store.heads WHERE name = 'acct-1'$$);
SELECT pg_temp.damage($$DELETE FROM event_store.event_types WHERE name = 'Withdrawn'$$);

-- the mark and the sequences
SELECT pg_temp.damage($$UPDATE event_store.mark SET mark = 1000$$);
SELECT d FROM pg_temp.damage($$UPDATE event_store.mark SET mark = -1$$) d WHERE d LIKE 'mark%';
SELECT pg_temp.damage($$UPDATE event_store.mark SET stable_until = floor + interval '1 hour'$$);
SELECT pg_temp.damage($$UPDATE event_store.mark SET mark = mark - 1$$);
SELECT pg_temp.damage($$DELETE FROM event_store.mark$$);
SELECT d FROM pg_temp.damage($$SELECT setval('event_store.position_seq', 10)$$) d WHERE d NOT LIKE '%order-2%';
SELECT setval('event_store.position_seq', 120);
SELECT pg_temp.damage($$ALTER SEQUENCE event_store.position_seq CACHE 20$$);
SELECT pg_temp.damage($$SELECT setval('event_store.stream_seq', 2)$$);
SELECT setval('event_store.stream_seq', 6);
SELECT * FROM es_check();

-- keys
SELECT pg_temp.damage($$UPDATE event_store.append_keys SET last_position = 3$$);
SELECT pg_temp.damage($$UPDATE event_store.append_keys SET stream = 99$$);
SELECT pg_temp.damage($$UPDATE event_store.batch_keys SET events = 4$$);
SELECT pg_temp.damage($$UPDATE event_store.batch_keys SET first_position = 2$$);

-- triggers and tables
BEGIN;
ALTER TABLE event_store.log_0 DISABLE TRIGGER es_immutable;
ALTER TABLE event_store.log_100 ENABLE TRIGGER es_immutable;
DROP TRIGGER es_immutable ON event_store.heads;
DROP TRIGGER es_immutable ON event_store.append_keys;
CREATE TRIGGER es_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON event_store.append_keys FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION es_refuse_change();
ALTER TABLE event_store.append_keys ENABLE ALWAYS TRIGGER es_immutable;
DROP TRIGGER es_immutable ON event_store.batch_keys;
CREATE TRIGGER es_immutable BEFORE UPDATE ON event_store.batch_keys FOR EACH STATEMENT EXECUTE FUNCTION es_refuse_change();
ALTER TABLE event_store.batch_keys ENABLE ALWAYS TRIGGER es_immutable;
ALTER TABLE event_store.projections DISABLE TRIGGER es_immutable_row;
ALTER TABLE event_store.grants ENABLE REPLICA TRIGGER es_immutable_row;
DROP TRIGGER es_immutable_row ON event_store.log_0;
DROP TRIGGER es_immutable_row ON event_store.aggregates;
CREATE TRIGGER es_immutable_row AFTER UPDATE OF category ON event_store.aggregates FOR EACH ROW EXECUTE FUNCTION es_refuse_change();
ALTER TABLE event_store.aggregates ENABLE ALWAYS TRIGGER es_immutable_row;
SELECT * FROM es_check();
SELECT es_create_store();
SELECT * FROM es_check();
ROLLBACK;
BEGIN;
ALTER TABLE event_store.snapshots SET UNLOGGED;
ALTER TABLE event_store.append_keys ENABLE ROW LEVEL SECURITY;
SELECT * FROM es_check();
ROLLBACK;
BEGIN;
DROP INDEX event_store.log_100_stream_version;
SELECT * FROM es_check();
ROLLBACK;

-- partitions that are not attached: one finding each, and nothing about what is in them
BEGIN;
ALTER TABLE event_store.log DETACH PARTITION event_store.log_0;
SELECT * FROM es_check('all');
ROLLBACK;
BEGIN;
ALTER TABLE event_store.log DETACH PARTITION event_store.log_100;
SELECT * FROM es_check('all');
ROLLBACK;

-- snapshots
SELECT pg_temp.damage($$UPDATE event_store.snapshots SET state = '{"balance": 1000}' WHERE position = 3 OR version = 4$$);
SELECT pg_temp.damage($$UPDATE event_store.snapshots SET version = 3 WHERE version = 4$$);
SELECT pg_temp.damage($$UPDATE event_store.snapshots SET stream = 99 WHERE version = 4$$);
-- not those of a category that has no fold any more
BEGIN;
SELECT es_unregister_aggregate('order');
SELECT * FROM es_check('all');
ROLLBACK;
-- a function that a fold calls was changed: what es_drop_snapshots is for
BEGIN;
CREATE FUNCTION inner_step(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$SELECT jsonb_build_object('n', coalesce(($1->>'n')::int, 0) + 1)$$;
CREATE FUNCTION outer_step(jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN public.inner_step($1); END$$;
SELECT es_register_aggregate('order', fold => 'outer_step(state)');
SELECT es_snapshot('order-2');
SELECT * FROM es_check('all');
CREATE OR REPLACE FUNCTION inner_step(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$SELECT jsonb_build_object('n', coalesce(($1->>'n')::int, 0) + 2)$$;
SELECT * FROM es_check('all');
SELECT * FROM es_check();
SELECT * FROM es_check('none');
CREATE OR REPLACE FUNCTION inner_step(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$SELECT jsonb_build_object('n', coalesce(($1->>'n')::int, 0) / 0)$$;
SELECT * FROM es_check('all');
ROLLBACK;

-- projections
SELECT pg_temp.damage($$DELETE FROM event_store.checkpoints WHERE projection = 'counted'$$);
SELECT pg_temp.damage($$UPDATE event_store.checkpoints SET position = 1000 WHERE projection = 'seen'$$);
SELECT pg_temp.damage($$UPDATE event_store.checkpoints SET position = -1 WHERE projection = 'seen'$$);
SELECT pg_temp.damage($$UPDATE event_store.checkpoints SET scan_from = position + 5 WHERE projection = 'seen'$$);
SELECT pg_temp.damage($$DELETE FROM event_store.projections WHERE name = 'seen'$$);
SELECT pg_temp.damage($$INSERT INTO event_store.rebuilds SELECT 'none', 'x', NULL, NULL, false, 'r', 's', 's', 'running', now(), false$$);
SELECT pg_temp.damage($$UPDATE event_store.checkpoints SET quarantined = 5 WHERE projection = 'counted'$$);
SELECT pg_temp.damage($$UPDATE event_store.quarantined_streams SET position = 3$$);
SELECT pg_temp.damage($$UPDATE event_store.quarantined_streams SET position = 300$$);
SELECT pg_temp.damage($$UPDATE event_store.quarantined_streams SET stream = 99 WHERE position = 8$$);
SELECT pg_temp.damage($$UPDATE event_store.quarantined_streams SET events = 0$$);
SELECT pg_temp.damage($$UPDATE event_store.quarantined_streams SET error = NULL$$);
SELECT pg_temp.damage($$UPDATE event_store.quarantined_streams SET projection = 'none'$$);

-- subscriptions
SELECT pg_temp.damage($$UPDATE event_store.subscriptions SET position = 1000$$);
SELECT pg_temp.damage($$UPDATE event_store.subscriptions SET position = 3$$);
SELECT pg_temp.damage($$UPDATE event_store.subscriptions SET from_position = 1000$$);
SELECT pg_temp.damage($$UPDATE event_store.subscription_streams SET version = 2$$);
SELECT pg_temp.damage($$UPDATE event_store.subscription_streams SET stream = 99$$);
SELECT pg_temp.damage($$UPDATE event_store.subscription_streams SET consumer = 'bert'$$);
SELECT pg_temp.damage($$UPDATE event_store.subscription_consumers SET lost = true$$);
SELECT regexp_replace(pg_temp.damage($$TRUNCATE event_store.subscriptions$$), 'id \d+', 'id n');

SELECT * FROM es_check('all');
-- what is missing altogether is an error
BEGIN;
SET LOCAL client_min_messages = warning;
DROP TABLE event_store.rebuilds CASCADE;
SELECT pg_temp.try('SELECT es_check()');
ROLLBACK;
DROP OWNED BY es_test_checker;
DROP ROLE es_test_checker;
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
DROP TABLE seen, counted;
-- a store of another node
SELECT es_create_store(node => 3);
SELECT * FROM es_check();
SELECT position FROM es_append('a-1', 0, 'One', '{}');
SELECT es_create_projection('p', 'SELECT FROM new_events');
SELECT es_create_subscription('s');
SELECT * FROM es_check('all');
SELECT es_run_projection('p'), (SELECT count(*) FROM es_fetch('s')), es_publish_mark();
SELECT * FROM es_check('all');
SELECT pg_temp.damage($$UPDATE event_store.mark SET mark = 0$$);
DROP SCHEMA event_store CASCADE;
