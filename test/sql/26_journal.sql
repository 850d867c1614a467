-- The journal: who has told the store what, and how it was before.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ': ' || SQLERRM;
END $$;
\t on
\pset format unaligned
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
DROP ROLE IF EXISTS es_test_deploy;
DROP ROLE IF EXISTS es_test_owner2;
RESET client_min_messages;
SELECT es_create_store(node => 5);
CREATE ROLE es_test_deploy;
GRANT CREATE ON SCHEMA public TO es_test_deploy;
SELECT es_grant('es_test_deploy', 'define'), es_grant('es_test_deploy', 'operate'), es_grant('es_test_deploy', 'operate');
SET ROLE es_test_deploy;
CREATE TABLE public.journaled (position bigint PRIMARY KEY);
SELECT es_register_aggregate('order', 'state || data');
SELECT es_register_aggregate('order', 'state || data');          -- the same once more: nothing to tell
SELECT es_register_aggregate('order', 'data', snapshot_every => 50);
SELECT es_register_event_type('Placed', 1, 'data ? ''sku''');
SELECT es_register_upcaster('Old', 1, 'data');
SELECT es_create_projection('seen', 'INSERT INTO journaled SELECT position FROM new_events', tables => '{journaled}');
SELECT es_create_projection('seen', 'INSERT INTO journaled SELECT position FROM new_events', tables => '{journaled}');
SELECT es_pause('seen'), es_pause('seen');
SELECT es_resume('seen');
SELECT es_set_projection_mode('seen', 'inline');
SELECT es_set_projection_mode('seen', 'async');
SELECT es_rebuild_projection('seen', handler => 'INSERT INTO journaled SELECT position + 0 FROM new_events');
SELECT es_cancel_rebuild('seen'), es_cancel_rebuild('seen');
SELECT es_create_subscription('mail'), es_create_subscription('mail');
SELECT es_retry_quarantined('mail');
SELECT es_drop_subscription('mail');
SELECT es_drop_snapshots('order');
SELECT es_drop_projection('seen');
SELECT es_unregister_upcaster('Old', 1), es_unregister_event_type('Placed', 1), es_unregister_aggregate('order');
RESET ROLE;
SELECT es_begin_epoch() > 0;
SELECT es_revoke('es_test_deploy', 'define'), es_revoke('es_test_deploy', 'define');
SELECT by_role = session_user, acting_as = 'es_test_deploy', action, object,
    before - '{search_path,role,keep_snapshots,keep_snapshots_for,initial_state,schema,started_at,created_at,id}'::text[] AS before,
    after - '{search_path,role,keep_snapshots,keep_snapshots_for,initial_state,schema,started_at,created_at,id}'::text[] AS after, reason
FROM event_store.journal ORDER BY at;
SELECT count(*) = 0 FROM event_store.journal WHERE at > clock_timestamp();
-- what was rolled back was not told
BEGIN;
SELECT es_register_aggregate('order', 'state');
ROLLBACK;
SELECT count(*) FROM event_store.journal WHERE object = 'aggregate order';
-- events leave no trace in it
SELECT version FROM es_append('order-1', 0, 'Placed', '{"sku": "desk"}');
SELECT count(*) FROM event_store.journal WHERE before::text LIKE '%desk%' OR after::text LIKE '%desk%' OR action LIKE '%append%';
-- it is only added to: by whom it belongs to neither, nor by the library
SELECT pg_temp.try('UPDATE event_store.journal SET by_role = ''x'''), pg_temp.try('DELETE FROM event_store.journal'), pg_temp.try('TRUNCATE event_store.journal');
SELECT pg_temp.try($$INSERT INTO event_store.journal (at, id, by_role, acting_as, action, object) VALUES (now(), gen_random_uuid(), 'x', 'x', 'x', 'x')$$);
SET session_replication_role = replica;
SELECT pg_temp.try('DELETE FROM event_store.journal');
RESET session_replication_role;
-- who may read it
SELECT es_grant('es_test_deploy', 'monitor'), es_revoke('es_test_deploy', 'operate');
SET ROLE es_test_deploy;
SELECT pg_temp.try('SELECT FROM event_store.journal');
RESET ROLE;
SELECT es_grant('es_test_deploy', 'operate');
SET ROLE es_test_deploy;
SELECT count(*) > 20 FROM event_store.journal;
RESET ROLE;
-- a role that is renamed or dropped leaves its name
ALTER ROLE es_test_deploy RENAME TO es_test_owner2;
SELECT DISTINCT acting_as FROM event_store.journal WHERE acting_as LIKE 'es_test%';
SELECT * FROM es_check();
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
DROP TABLE public.journaled;
DROP OWNED BY es_test_owner2;
DROP ROLE es_test_owner2;
