-- Roles: kept by OID. One that is renamed stays the same; a new one of an old name gets nothing.
CREATE FUNCTION public.es_role_try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; s text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT;
    RETURN s || ': ' || m;
END $$;
\t on
\pset format unaligned
SET client_min_messages = warning;
DO $$ BEGIN PERFORM es_create_store(); END $$;
DROP ROLE IF EXISTS es_test_reg, es_test_reg2, es_test_user, es_test_user2;
SELECT es_grant(current_user::text, 'append');
SELECT es_revoke(current_user::text, 'append');
RESET client_min_messages;
CREATE ROLE es_test_reg;
CREATE ROLE es_test_user;
GRANT CREATE ON SCHEMA public TO es_test_reg;
SELECT es_grant('es_test_reg', 'define'), es_grant('es_test_user', 'read');
SET ROLE es_test_reg;
CREATE TABLE public.es_role_seen (who text);
CREATE FUNCTION public.es_role_fold(s jsonb) RETURNS jsonb STABLE LANGUAGE plpgsql
AS $$BEGIN RETURN s || jsonb_build_object('u', (SELECT oid::regrole FROM pg_roles WHERE rolname = current_user)); END$$;
SELECT es_register_aggregate('rolf', 'public.es_role_fold(state)');
SELECT es_register_aggregate('rolr', rules => '{"A": {"set": {"a": "a"}}}');
SELECT es_register_event_type('RoleChecked', 1, $$public.es_role_fold('{}') IS NOT NULL$$);
SELECT es_register_upcaster('RoleOld', 1, 'public.es_role_fold(data)');
SELECT es_create_projection('es_role_p', 'INSERT INTO public.es_role_seen SELECT current_user FROM new_events', categories => '{rolf}',
	mode => 'inline', tables => '{es_role_seen}');
RESET ROLE;
SELECT version FROM es_append('rolf-1', 0, 'RoleChecked', '{}');
SELECT version FROM es_append('rolu-1', 0, 'RoleOld', '{}', schema_version => 1);
SELECT state FROM es_load('rolf-1');

-- Renamed: everything goes on, and the tables are brought up to date.
ALTER ROLE es_test_reg RENAME TO es_test_reg2;
ALTER ROLE es_test_user RENAME TO es_test_user2;
CREATE ROLE es_test_reg SUPERUSER;
CREATE ROLE es_test_user;
SELECT state FROM es_load('rolf-1');
SELECT version FROM es_append('rolf-1', 1, 'RoleChecked', '{}');
SELECT data FROM es_read('rolu-1', upcast => true);
SELECT who, count(*) FROM public.es_role_seen GROUP BY 1 ORDER BY 1;
SELECT detail FROM es_check() WHERE kind = 'role' AND detail ~ 'es_test';
SELECT es_create_store();
SELECT detail FROM es_check() WHERE kind = 'role' AND detail ~ 'es_test';
SELECT role, "right" FROM event_store.grants WHERE role ~ 'es_test_(reg|user)' ORDER BY 1;
SELECT has_function_privilege('es_test_user', 'es_load(text)', 'EXECUTE') AS new_one,
	has_function_privilege('es_test_user2', 'es_load(text)', 'EXECUTE') AS old_one;
SELECT es_revoke('es_test_user2', 'read');
SELECT role FROM event_store.grants WHERE role ~ 'es_test_user';
SELECT has_function_privilege('es_test_user2', 'es_load(text)', 'EXECUTE');

-- DROP ROLE is refused; where its rights are dropped first, what it has registered does not run, for the new role neither.
DROP ROLE es_test_reg;
SELECT es_revoke('es_test_reg2', 'define');
SELECT es_role_try('DROP ROLE es_test_reg2');
\set VERBOSITY terse
DROP ROLE es_test_reg2;
\set VERBOSITY default
SELECT es_drop_projection('es_role_p');
REASSIGN OWNED BY es_test_reg2 TO CURRENT_USER;
DROP OWNED BY es_test_reg2;
DROP ROLE es_test_reg2;
CREATE ROLE es_test_reg2 SUPERUSER;
SELECT es_role_try($$SELECT es_load('rolf-1')$$);
SELECT es_role_try($$SELECT es_append('rolf-1', 2, 'RoleChecked', '{}')$$);
SELECT es_role_try($$SELECT es_read('rolu-1')$$);
SELECT detail FROM es_check() WHERE kind = 'role' AND detail ~ 'es_test';
SELECT es_create_store();
SELECT es_role_try($$SELECT es_load('rolf-1')$$);
-- Rules run nothing.
SELECT version FROM es_append('rolr-1', 0, 'A', '{"a": 1}');
SELECT state FROM es_load('rolr-1');

-- From another server: not before es_create_store(), and only as a role that the store's owner may act as.
CREATE FUNCTION pg_temp.elsewhere(t text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE g name;
BEGIN
	EXECUTE format('ALTER TABLE event_store.%I DISABLE TRIGGER USER', t);
	EXECUTE format('UPDATE event_store.%I SET role_system = 1, role_oid = 10 WHERE role ~ ''es_test''', t);
	FOR g IN SELECT tgname FROM pg_trigger WHERE tgrelid = ('event_store.' || t)::regclass AND NOT tgisinternal LOOP
		EXECUTE format('ALTER TABLE event_store.%I ENABLE ALWAYS TRIGGER %I', t, g);
	END LOOP;
END $$;
SELECT es_grant('es_test_user', 'append');
SELECT pg_temp.elsewhere(t) FROM unnest('{aggregates,upcasters,event_checks,grants}'::text[]) t;
SELECT es_role_try($$SELECT es_load('rolf-1')$$);
SELECT detail FROM es_check() WHERE kind = 'role' AND detail ~ 'es_test';
SELECT es_create_store();
SELECT state FROM es_load('rolf-1');
SELECT detail FROM es_check() WHERE kind = 'role' AND detail ~ 'es_test';
SELECT role, role_oid = 'es_test_user'::regrole FROM event_store.grants WHERE role ~ 'es_test';
-- Rights of a role that is gone can be taken from it.
DROP OWNED BY es_test_user;
DROP ROLE es_test_user;
SELECT role, "right" FROM event_store.grants WHERE role ~ 'es_test';
SELECT es_revoke('es_test_user', 'append');
SELECT es_role_try($$SELECT es_revoke('es_test_user', 'append')$$);
SELECT role, "right" FROM event_store.grants WHERE role ~ 'es_test';

SELECT es_unregister_aggregate('rolf'), es_unregister_aggregate('rolr'), es_unregister_upcaster('RoleOld', 1), es_unregister_event_type('RoleChecked', 1);
DROP TABLE public.es_role_seen;
DROP FUNCTION public.es_role_fold(jsonb), public.es_role_try(text);
DROP OWNED BY es_test_reg2, es_test_user2;
DROP ROLE es_test_reg2, es_test_user2;
