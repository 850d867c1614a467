-- What would hide rows, or leave something out, without a word: it is refused, or right.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; h text; s text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n  ', s || ': ' || m, 'detail: ' || nullif(d, ''), 'hint: ' || nullif(h, ''));
END $$;
\t on
\pset format unaligned
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
RESET client_min_messages;
SELECT es_create_store();

-- ---------------------------------------------------------------- row-level security
-- a role that the policies of a table apply to: a handler would change the rows that it may see, and nobody would know
CREATE ROLE es_test_silent;
GRANT CREATE, USAGE ON SCHEMA public TO es_test_silent;
SELECT es_grant('es_test_silent', 'define');
SELECT es_grant('es_test_silent', 'operate');
CREATE TABLE totals (tenant text PRIMARY KEY, n int NOT NULL);
INSERT INTO totals VALUES ('x', 0);
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON totals TO es_test_silent;
SET ROLE es_test_silent;
SELECT es_create_projection('totals', tables => '{totals}', categories => '{t}', handler => $$UPDATE totals SET n = totals.n + e.n
    FROM (SELECT data->>'tenant' AS tenant, count(*) AS n FROM new_events GROUP BY 1) e WHERE totals.tenant = e.tenant$$);
RESET ROLE;
SELECT version FROM es_append('t-1', 0, 'E', '{"tenant": "x"}');
SELECT es_run_projection('totals');
ALTER TABLE totals ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON totals USING (tenant = current_setting('app.tenant', true)) WITH CHECK (true);
SELECT version FROM es_append('t-1', 1, 'E', '{"tenant": "x"}');
SET app.tenant = 'x';
SELECT es_run_projection('totals');
RESET app.tenant;
SELECT status, last_error_code, last_error, events FROM event_store.projection_status;
SELECT * FROM totals;
-- inline, too; and when it is created
SET ROLE es_test_silent;
SELECT pg_temp.try($$SELECT es_create_projection('inline', 'UPDATE totals SET n = n + 1 FROM new_events', categories => '{u}', mode => 'inline')$$);
RESET ROLE;
-- not for the owner, who is not subject to them, nor where the role bypasses them
ALTER ROLE es_test_silent BYPASSRLS;
SELECT es_resume('totals');
SELECT es_run_projection('totals');
SELECT * FROM totals;
ALTER ROLE es_test_silent NOBYPASSRLS;
SELECT es_create_projection('own', 'UPDATE totals SET n = n + 10 FROM new_events', categories => '{t}');
SELECT es_run_projection('own');
SELECT * FROM totals;
SHOW row_security;
-- nor may a state, a check or an upcaster say what the policies let the session see that asks
UPDATE totals SET n = 7;
SET ROLE es_test_silent;
CREATE FUNCTION es_test_total() RETURNS bigint STABLE LANGUAGE sql AS 'SELECT sum(n) FROM public.totals';
SELECT es_register_aggregate('t', $$state || jsonb_build_object('total', es_test_total())$$);
SELECT es_register_event_type('Total', 1, 'es_test_total() = 7');
SELECT es_register_upcaster('Old', 1, $$data || jsonb_build_object('total', es_test_total())$$);
RESET ROLE;
SET app.tenant = 'x';
SELECT version FROM es_append('u-1', 0, 'Old', '{}', schema_version => 1);
SELECT pg_temp.try($$SELECT es_load('t-1')$$);
SELECT pg_temp.try($$SELECT es_append('u-1', 1, 'Total', '{}')$$);
SELECT pg_temp.try($$SELECT es_read('u-1')$$);
ALTER ROLE es_test_silent BYPASSRLS;
SELECT state FROM es_load('t-1');
SELECT version FROM es_append('u-1', 1, 'Total', '{}');
SELECT data FROM es_read('u-1', 1, 1);
ALTER ROLE es_test_silent NOBYPASSRLS;
RESET app.tenant;
SELECT es_unregister_aggregate('t'), es_unregister_event_type('Total', 1), es_unregister_upcaster('Old', 1);
DROP FUNCTION es_test_total;
SELECT es_drop_projection(name) FROM event_store.projections;

-- ---------------------------------------------------------------- two projections of one table
CREATE TABLE shared (k text PRIMARY KEY, src text);
SELECT es_create_projection('one', 'INSERT INTO shared SELECT stream, ''one'' FROM new_events', categories => '{one}', tables => '{shared}');
SELECT pg_temp.try($$SELECT es_create_projection('two', 'INSERT INTO shared SELECT stream, ''two'' FROM new_events', categories => '{two}', tables => '{totals,shared}')$$);
-- the same once more is no other
SELECT es_create_projection('one', 'INSERT INTO shared SELECT stream, ''one'' FROM new_events', categories => '{one}', tables => '{shared}');
-- a partition, and its parent
CREATE TABLE parted (k int PRIMARY KEY, n int) PARTITION BY RANGE (k);
CREATE TABLE part1 PARTITION OF parted FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (k);
CREATE TABLE part11 PARTITION OF part1 FOR VALUES FROM (0) TO (5);
CREATE TABLE part2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
SELECT es_create_projection('leaf', 'SELECT FROM new_events', tables => '{part11}');
SELECT pg_temp.try($$SELECT es_create_projection('parent', 'SELECT FROM new_events', tables => '{parted}')$$);
SELECT pg_temp.try($$SELECT es_create_projection('middle', 'SELECT FROM new_events', tables => '{part1}')$$);
SELECT es_create_projection('other leaf', 'SELECT FROM new_events', tables => '{part2}');
-- a partition of a table that belongs to another one
SELECT es_drop_projection('leaf'), es_drop_projection('other leaf');
SELECT es_create_projection('parent', 'SELECT FROM new_events', tables => '{parted}');
SELECT pg_temp.try($$SELECT es_create_projection('leaf', 'SELECT FROM new_events', tables => '{part11}')$$);
SELECT es_drop_projection('parent');
-- two of version 0.1 that have one together: neither is rebuilt
SELECT es_create_projection('two', 'INSERT INTO shared SELECT stream, ''two'' FROM new_events', categories => '{two}', tables => '{totals}');
BEGIN;
ALTER TABLE event_store.projections DISABLE TRIGGER USER;
UPDATE event_store.projections SET tables = '{public.shared}' WHERE name = 'two';
SELECT pg_temp.try($$SELECT es_rebuild_projection('one')$$);
SELECT pg_temp.try($$SELECT es_rebuild_projection('two')$$);
ROLLBACK;
SELECT es_drop_projection(name) FROM event_store.projections ORDER BY name;

-- ---------------------------------------------------------------- tables that inherit
CREATE TABLE base (k text PRIMARY KEY, n int);
CREATE TABLE archive () INHERITS (base);
SELECT pg_temp.try($$SELECT es_create_projection('base', 'SELECT FROM new_events', tables => '{base}')$$);
DROP TABLE archive;
SELECT es_create_projection('base', 'INSERT INTO base SELECT stream, 1 FROM new_events ON CONFLICT (k) DO UPDATE SET n = base.n + 1', categories => '{base}', tables => '{base}');
SELECT version FROM es_append('base-1', 0, 'E', '{}');
SELECT version FROM es_append('base-2', 0, 'E', '{}');
SELECT es_run_projection('base');
-- one that came later: its rows are its own, also where they have the same keys
CREATE TABLE archive () INHERITS (base);
INSERT INTO archive VALUES ('2019', 5), ('base-1', 7);
DELETE FROM ONLY base WHERE k = 'base-1';
INSERT INTO base VALUES ('wrong', 0);
UPDATE ONLY base SET n = 99 WHERE k = 'base-2';
SELECT es_rebuild_projection('base');
SELECT es_run_projection('base');
SELECT tableoid::regclass, * FROM base ORDER BY 1, 2;
INSERT INTO base VALUES ('wrong', 0);
SELECT es_rebuild_projection('base', fast => true);
SELECT es_run_projection('base');
SELECT tableoid::regclass, * FROM base ORDER BY 1, 2;
SELECT es_drop_projection('base');

-- ---------------------------------------------------------------- fast, and triggers
CREATE TABLE person (k text PRIMARY KEY, email text);
CREATE TABLE lookup (email text);
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN DELETE FROM lookup; END IF;
    IF TG_OP = 'DELETE' THEN DELETE FROM lookup WHERE email = OLD.email; END IF;
    IF TG_OP = 'INSERT' THEN INSERT INTO lookup VALUES (NEW.email); END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER keep AFTER INSERT OR DELETE ON person FOR EACH ROW EXECUTE FUNCTION keep();
SELECT es_create_projection('person', 'INSERT INTO person SELECT stream, data->>''email'' FROM new_events', categories => '{person}', tables => '{person}');
SELECT version FROM es_append('person-1', 0, 'E', '{"email": "a@example.org"}');
SELECT es_run_projection('person');
SELECT pg_temp.try($$SELECT es_rebuild_projection('person', fast => true)$$);
SELECT es_rebuild_projection('person');
SELECT es_run_projection('person');
SELECT * FROM lookup;
-- a trigger that came later, before the last step
ALTER TABLE person DISABLE TRIGGER keep;
SELECT es_rebuild_projection('person', fast => true);
ALTER TABLE person ENABLE TRIGGER keep;
SELECT es_run_projection('person');
SELECT state, last_error FROM event_store.rebuild_progress;
-- nor a rule; nor that of a partition, where the one of all of them is heard
SELECT es_cancel_rebuild('person');
ALTER TABLE person DISABLE TRIGGER keep;
CREATE RULE keep AS ON DELETE TO person DO ALSO DELETE FROM lookup WHERE email = OLD.email;
SELECT pg_temp.try($$SELECT es_rebuild_projection('person', fast => true)$$);
DROP RULE keep ON person;
ALTER TABLE person ENABLE TRIGGER keep;
CREATE TABLE people (k text PRIMARY KEY, email text) PARTITION BY LIST (k);
CREATE TABLE people1 PARTITION OF people DEFAULT;
CREATE TRIGGER keep AFTER DELETE ON people FOR EACH ROW EXECUTE FUNCTION keep();
CREATE TRIGGER keep_none AFTER TRUNCATE ON people EXECUTE FUNCTION keep();
SELECT es_create_projection('people', 'INSERT INTO people SELECT stream, data->>''email'' FROM new_events', categories => '{person}', tables => '{people}');
SELECT es_run_projection('people');
SELECT pg_temp.try($$SELECT es_rebuild_projection('people', fast => true)$$);
SELECT es_cancel_rebuild('people');
CREATE TRIGGER own AFTER DELETE ON people1 FOR EACH ROW EXECUTE FUNCTION keep();
SELECT pg_temp.try($$SELECT es_rebuild_projection('people', fast => true)$$);
SELECT es_drop_projection('people');
DROP TABLE people;
-- with one for TRUNCATE it is right
CREATE TRIGGER keep_none AFTER TRUNCATE ON person EXECUTE FUNCTION keep();
SELECT es_rebuild_projection('person', fast => true);
SELECT es_run_projection('person');
SELECT * FROM lookup;

-- ---------------------------------------------------------------- constraints that are not checked below SQL
SELECT count(*) FROM es_check();
CREATE TABLE ok (id bigint PRIMARY KEY);
BEGIN;
ALTER TABLE event_store.log_0 ADD CONSTRAINT fk FOREIGN KEY (stream) REFERENCES ok (id) NOT VALID;
SELECT pg_temp.try($$SELECT es_append('z-1', -2, 'T', '{}')$$);
SELECT kind, detail FROM es_check();
ROLLBACK;
BEGIN;
ALTER TABLE event_store.log_0 ADD CONSTRAINT once UNIQUE (event_id) DEFERRABLE INITIALLY DEFERRED;
SELECT pg_temp.try($$SELECT es_append('z-1', -2, 'T', '{}')$$);
ROLLBACK;
BEGIN;
ALTER TABLE event_store.heads ADD CONSTRAINT fk FOREIGN KEY (category) REFERENCES event_store.categories (id);
SELECT pg_temp.try($$SELECT es_append('z-1', -2, 'T', '{}')$$);
ROLLBACK;
BEGIN;
ALTER TABLE event_store.heads ADD CONSTRAINT low CHECK (version < 1) NOT VALID;
SELECT pg_temp.try($$SELECT es_append('z-1', -2, 'T', '{}')$$);
ROLLBACK;
BEGIN;
ALTER TABLE event_store.append_keys ADD CONSTRAINT short CHECK (length(key) < 3);
SELECT pg_temp.try($$SELECT es_append('z-1', -2, 'T', '{}', idempotency_key => 'long')$$);
ROLLBACK;
BEGIN;
ALTER TABLE event_store.mark ADD CONSTRAINT low CHECK (mark < 0) NOT VALID;
SELECT pg_temp.try($$SELECT es_publish_mark()$$);
ROLLBACK;
-- these are checked
BEGIN;
ALTER TABLE event_store.log ADD CONSTRAINT small CHECK (length(data::text) < 10) NOT VALID;
SELECT split_part(pg_temp.try($$SELECT es_append('z-1', -2, 'T', '{"a": "long enough"}')$$), E'\n', 1);
SELECT pg_temp.try($$SELECT es_append('z-1', -2, 'T', '{"a": 1}')$$);
ROLLBACK;
BEGIN;
ALTER TABLE event_store.log_0 ADD CONSTRAINT once UNIQUE (event_id);
SELECT pg_temp.try($$SELECT es_append('z-1', -2, 'T', '{}', event_id => '00000000-0000-0000-0000-000000000001')$$);
SELECT pg_temp.try($$SELECT es_append('z-2', -2, 'T', '{}', event_id => '00000000-0000-0000-0000-000000000001')$$);
ROLLBACK;
-- tables that refer to the log or to heads are nobody's business here
BEGIN;
CREATE TABLE mine (stream text COLLATE "C" REFERENCES event_store.heads (name));
SELECT pg_temp.try($$SELECT es_append('z-1', -2, 'T', '{}')$$);
ROLLBACK;
-- ---------------------------------------------------------------- names that cannot be stored
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
BEGIN;
CREATE TRIGGER t BEFORE INSERT ON event_store.event_types FOR EACH ROW EXECUTE FUNCTION nothing();
SELECT pg_temp.try($$SELECT es_append('z-1', -2, 'New', '{}')$$);
ROLLBACK;
BEGIN;
CREATE RULE r AS ON INSERT TO event_store.categories DO INSTEAD NOTHING;
SELECT pg_temp.try($$SELECT es_append('new-1', -2, 'E', '{}')$$);
ROLLBACK;
-- ---------------------------------------------------------------- nor anything else: what was done beside it does not stay either
CREATE TABLE done (stream text, version bigint);
SELECT version FROM es_append('done-1', 0, 'E', '{}');
SELECT version FROM es_append('done-1', 1, 'E', '{"bad": true}');
SELECT es_create_projection('done', 'INSERT INTO done SELECT stream, version FROM new_events WHERE 1 / (CASE WHEN data ? ''bad'' THEN 0 ELSE 1 END) = 1',
    categories => '{done}', tables => '{done}');
SELECT es_create_subscription('done mail', categories => '{done}');
CREATE FUNCTION pg_temp.try_without(name text, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE r text;
BEGIN
    EXECUTE format('CREATE TRIGGER nothing BEFORE INSERT OR UPDATE ON event_store.%I FOR EACH ROW EXECUTE FUNCTION nothing()', name);
    r := pg_temp.try(statement);
    EXECUTE format('DROP TRIGGER nothing ON event_store.%I', name);
    RETURN r;
END $$;
SELECT pg_temp.try_without('checkpoints', $$SELECT es_run_projection('done', 1)$$);
SELECT es_resume('done');
SET client_min_messages = error;
SELECT pg_temp.try_without('quarantined_streams', $$SELECT es_run_projection('done')$$);
SELECT status, position, last_error FROM event_store.projection_status WHERE name = 'done';
RESET client_min_messages;
SELECT count(*) FROM done;
SELECT pg_temp.try_without('subscription_streams', $$SELECT es_fetch('done mail', 'c')$$);
SELECT pg_temp.try_without('subscription_consumers', $$SELECT es_fetch('done mail', 'c')$$);
SELECT pg_temp.try_without('subscriptions', $$SELECT es_fetch('done mail', 'c')$$);
SELECT count(*) FROM event_store.subscription_streams;
SELECT es_publish_mark() > 0;
SELECT pg_temp.try_without('seals', $$SELECT es_seal_log()$$);
SELECT pg_temp.try_without('epochs', $$SELECT es_begin_epoch()$$);
SELECT pg_temp.try_without('journal', $$SELECT es_drop_subscription('done mail')$$);
SELECT count(*) FROM es_fetch('done mail', 'c');
SELECT es_drop_projection('done'), es_drop_subscription('done mail');
DROP TABLE done;
DROP FUNCTION nothing;

-- ---------------------------------------------------------------- renamed event types
CREATE TABLE placed (n int);
SELECT es_create_projection('old name', 'INSERT INTO placed SELECT count(*) FROM new_events', event_types => '{OrderPlaced}');
SELECT es_create_projection('both', 'INSERT INTO placed SELECT count(*) FROM new_events', event_types => '{OrderPlaced,OrderSubmitted}');
SELECT es_create_projection('all', 'INSERT INTO placed SELECT count(*) FROM new_events');
SELECT es_create_subscription('old name too', event_types => '{Other,OrderPlaced}');
SELECT es_create_subscription('new name', event_types => '{OrderSubmitted}');
SELECT es_register_upcaster('OrderPlaced', 1, 'data', to_type => 'OrderSubmitted');
-- the same type: nothing is said
SELECT es_register_upcaster('Other', 1, 'data');
-- a second step, after which neither name is right; it is one for each filter
SELECT es_register_upcaster('OrderSubmitted', 2, 'data', to_type => 'OrderSent');
-- filters that come later
SELECT es_create_projection('late', 'INSERT INTO placed SELECT count(*) FROM new_events', event_types => '{OrderPlaced}');
SELECT es_create_subscription('late mail', event_types => '{OrderPlaced,OrderSent}');
SELECT es_create_subscription('later', event_types => '{OrderSubmitted}');

-- ---------------------------------------------------------------- triggers and rules that keep rows as they are
-- a rebuild makes the tables equal to what its handler has made, or fails
CREATE TABLE guarded (k text PRIMARY KEY, n int);
SELECT es_create_projection('guarded', tables => '{guarded}', categories => '{g}',
    handler => $$INSERT INTO guarded AS g SELECT stream, 1 FROM new_events ON CONFLICT (k) DO UPDATE SET n = g.n + 1$$);
SELECT (es_append('g-1', 0, 'E', '{}')).version, (es_append('g-2', 0, 'E', '{}')).version;
SELECT es_run_projection('guarded');
CREATE FUNCTION keep_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE FUNCTION pg_temp.rebuild(fast boolean DEFAULT false) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL client_min_messages = error;
    PERFORM es_rebuild_projection('guarded', fast => fast);
    PERFORM es_run_projection('guarded');
    RETURN coalesce((SELECT concat_ws(' ', state, last_error_code, last_error) FROM event_store.rebuild_progress), 'done');
END $$;
INSERT INTO guarded VALUES ('gone', 1);
CREATE TRIGGER t BEFORE DELETE ON guarded FOR EACH ROW EXECUTE FUNCTION keep_row();
SELECT pg_temp.rebuild();
DROP TRIGGER t ON guarded;
UPDATE guarded SET n = 7 WHERE k = 'g-1';
CREATE TRIGGER t BEFORE UPDATE ON guarded FOR EACH ROW WHEN (old.k = 'g-1') EXECUTE FUNCTION keep_row();
SELECT pg_temp.rebuild();
DROP TRIGGER t ON guarded;
DELETE FROM guarded WHERE k = 'g-2';
CREATE TRIGGER t BEFORE INSERT ON guarded FOR EACH ROW EXECUTE FUNCTION keep_row();
SELECT pg_temp.rebuild(), pg_temp.rebuild(fast => true);
SELECT * FROM guarded ORDER BY k;
DROP TRIGGER t ON guarded;
CREATE RULE r AS ON INSERT TO guarded DO INSTEAD NOTHING;
SELECT pg_temp.rebuild();
DROP RULE r ON guarded;
-- one that lets them pass, and changes them
CREATE FUNCTION change_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.n := new.n + 100; RETURN new; END $$;
CREATE TRIGGER t BEFORE INSERT OR UPDATE ON guarded FOR EACH ROW EXECUTE FUNCTION change_row();
SELECT pg_temp.rebuild();
SELECT * FROM guarded ORDER BY k;
SELECT es_drop_projection('guarded');
DROP TABLE guarded;
DROP FUNCTION keep_row, change_row;

SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
SELECT es_create_store();
DROP TABLE placed, totals, shared, parted, archive, person, lookup, ok;
DROP TABLE base;
DROP FUNCTION keep;
REVOKE ALL ON SCHEMA public FROM es_test_silent;
DROP OWNED BY es_test_silent;
DROP ROLE es_test_silent;
