-- Temporary objects: whoever reads or appends cannot put theirs in the place of what stored text means.
CREATE SCHEMA es_attack;
CREATE FUNCTION es_attack.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
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
DROP ROLE IF EXISTS es_test_low;
RESET client_min_messages;
CREATE ROLE es_test_low;
SELECT current_database() AS db \gset
GRANT TEMPORARY, CREATE ON DATABASE :"db" TO es_test_low;
GRANT USAGE, CREATE ON SCHEMA es_attack TO es_test_low;
SELECT es_grant('es_test_low', r) FROM unnest('{append,read,operate,define}'::text[]) r;

-- What a superuser registers, and then something that it uses is gone.
CREATE TABLE public.es_attack_rates (cur text, rate numeric);
INSERT INTO public.es_attack_rates VALUES ('eur', 1);
CREATE TYPE public.es_attack_kind AS ENUM ('eur');
CREATE FUNCTION public.es_attack_rate(c text) RETURNS numeric STABLE LANGUAGE plpgsql
AS $$BEGIN RETURN (SELECT rate FROM es_attack_rates WHERE cur = c); END$$;
CREATE FUNCTION public.es_attack_inlined(c text) RETURNS numeric STABLE LANGUAGE sql
AS 'SELECT rate FROM es_attack_rates WHERE cur = c';
CREATE FUNCTION public.es_attack_variable(c text) RETURNS numeric STABLE LANGUAGE plpgsql
AS $$DECLARE k es_attack_kind := c; BEGIN RETURN length(k::text); END$$;
CREATE FUNCTION public.es_attack_row(d jsonb) RETURNS jsonb STABLE LANGUAGE plpgsql
AS $$DECLARE r es_attack_rates; BEGIN r := jsonb_populate_record(r, d); RETURN to_jsonb(r); END$$;
CREATE FUNCTION public.es_attack_truncate() RETURNS int LANGUAGE plpgsql
AS $$BEGIN EXECUTE 'TRUNCATE es_attack_rates'; RETURN 1; END$$;
CREATE TABLE public.es_attack_out (n numeric, k text PRIMARY KEY);
SELECT es_register_aggregate('atkf', $$state || jsonb_build_object('r', es_attack_rate('eur'))$$);
SELECT es_register_aggregate('atki', $$state || jsonb_build_object('r', es_attack_inlined('eur'))$$);
SELECT es_register_aggregate('atkv', $$state || jsonb_build_object('r', es_attack_variable('eur'))$$);
SELECT es_register_aggregate('atkr', $$state || es_attack_row(data)$$);
SELECT es_register_aggregate('atkc', $$state || jsonb_build_object('r', (data ->> 'c')::es_attack_kind)$$);
SELECT es_register_aggregate('atkt', $$state || to_jsonb(null::es_attack_rates)$$);
SELECT es_register_aggregate('atkl', $$state || jsonb_build_object('r', array_length('{eur}'::es_attack_kind[], 1))$$);
SELECT version FROM es_append('atkl-1', 0, 'A', '{}');
SELECT es_register_event_type('AttackChecked', 1, $$es_attack_rate('eur') > 0$$);
SELECT es_append(s || '-1', 0, 'A', '{"c": "eur", "rate": "1"}') IS NOT NULL FROM unnest('{atkf,atki,atkv,atkr,atkc,atkt}'::text[]) s;
SELECT version FROM es_append('atku-1', 0, 'AttackOld', '{}');
SELECT es_register_upcaster('AttackOld', 1, $$data || jsonb_build_object('r', es_attack_rate('eur'))$$);
SELECT es_create_projection('es_attack_inline', $$INSERT INTO es_attack_out SELECT es_attack_rate('eur'), 'i' || position FROM new_events$$,
	categories => '{atkp}', mode => 'inline', tables => '{es_attack_out}');
SELECT es_create_projection('es_attack_async', $$INSERT INTO es_attack_out SELECT es_attack_rate('eur'), 'a' || position FROM new_events$$,
	categories => '{atkf}');
SELECT es_create_projection('es_attack_truncate', $$SELECT es_attack_truncate() FROM new_events$$, categories => '{atkf}');
DROP TABLE public.es_attack_rates;
DROP TYPE public.es_attack_kind;

-- A temporary view that runs code.
SET ROLE es_test_low;
CREATE FUNCTION pg_temp.evil() RETURNS numeric LANGUAGE plpgsql AS $$BEGIN EXECUTE 'ALTER ROLE es_test_low SUPERUSER'; RETURN 1; END$$;
CREATE TEMP VIEW es_attack_rates AS SELECT 'eur'::text AS cur, pg_temp.evil() AS rate;
SELECT es_attack.try($$SELECT es_load('atkf-1')$$);
SELECT es_attack.try($$SELECT es_load_at('atkf-1', clock_timestamp())$$) ~ '^YE00[46]';
SELECT es_attack.try($$SELECT es_history('atkf-1')$$);
SELECT es_attack.try($$SELECT es_load_category('atkf')$$);
SELECT es_attack.try($$SELECT es_snapshot('atkf-1')$$);
SELECT es_attack.try($$SELECT es_load('atki-1')$$);
SELECT es_attack.try($$SELECT es_append('atkx-1', 0, 'AttackChecked', '{}')$$);
SELECT es_attack.try($$SELECT es_read('atku-1')$$);
SELECT es_attack.try($$SELECT es_read_category('atku')$$);
SELECT failures, error FROM es_test_upcasters('AttackOld');
SELECT es_attack.try($$SELECT es_append('atkp-1', 0, 'A', '{}')$$);
SELECT es_attack.try($$SELECT es_run_projection('es_attack_async')$$);
SELECT es_attack.try($$SELECT es_rebuild_projection('es_attack_inline')$$);
SELECT es_attack.try($$SELECT es_run_projection('es_attack_inline')$$);
-- The same with a plan that this session has kept, made with the path of the registration.
SET search_path = "$user", public, pg_temp;
SELECT left(es_attack.try($$SELECT es_attack_rate('eur')$$), 5);
SELECT es_attack.try($$SELECT es_load('atkf-1')$$);
SELECT es_attack.try($$SELECT es_append('atkx-1', 0, 'AttackChecked', '{}')$$);
RESET search_path;
DROP VIEW pg_temp.es_attack_rates;
RESET ROLE;
SELECT rolsuper FROM pg_roles WHERE rolname = 'es_test_low';
SELECT name, last_error FROM event_store.projection_status WHERE name LIKE 'es_attack%' AND last_error IS NOT NULL ORDER BY 1;
SELECT error FROM event_store.quarantine WHERE name = 'es_attack_async';

-- A temporary type with a cast, one with a check, a table with a column of such a type.
SET ROLE es_test_low;
CREATE TYPE pg_temp.es_attack_kind AS ENUM ('eur');
SET client_min_messages = warning;
CREATE FUNCTION es_attack.evil(text) RETURNS pg_temp.es_attack_kind IMMUTABLE LANGUAGE plpgsql
AS $$BEGIN EXECUTE 'ALTER ROLE es_test_low SUPERUSER'; RETURN NULL; END$$;
RESET client_min_messages;
SELECT es_attack.try($$SELECT es_load('atkc-1')$$);
CREATE CAST (text AS pg_temp.es_attack_kind) WITH FUNCTION es_attack.evil(text) AS ASSIGNMENT;
SELECT es_attack.try($$SELECT es_load('atkv-1')$$);
SELECT es_attack.try($$SELECT es_load('atkc-1')$$);
-- Loads that call no function of users are not disturbed.
RESET ROLE;
SELECT es_register_aggregate('atkn', 'state || data');
SELECT version FROM es_append('atkn-1', 0, 'A', '{"n": 1}');
SET ROLE es_test_low;
SELECT state FROM es_load('atkn-1');
DROP TYPE pg_temp.es_attack_kind CASCADE;
CREATE FUNCTION es_attack.check(text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN EXECUTE 'ALTER ROLE es_test_low SUPERUSER'; RETURN true; END$$;
CREATE DOMAIN pg_temp.es_attack_kind AS text CHECK (es_attack.check(value));
SELECT es_attack.try($$SELECT es_load('atkv-1')$$);
SELECT es_attack.try($$SELECT es_load('atkc-1')$$);
SELECT es_attack.try($$SELECT es_load('atkl-1')$$);	-- the parser converts a literal
SELECT es_attack.try($$SELECT es_run_projection('es_attack_async')$$);
DROP DOMAIN pg_temp.es_attack_kind;
-- A range of such a type.
CREATE DOMAIN es_attack.number AS int CHECK (es_attack.check(value::text));
CREATE TYPE pg_temp.es_attack_kind AS RANGE (subtype = es_attack.number);
SELECT es_attack.try($$SELECT es_load('atkv-1')$$);
DROP TYPE pg_temp.es_attack_kind;
-- An error while such types are looked for: they are looked for again.
CREATE TYPE es_attack.held AS (a int);
CREATE TEMP TABLE es_attack_first (c es_attack.held);
CREATE DOMAIN pg_temp.es_attack_kind AS text CHECK (es_attack.check(value));
BEGIN;
ALTER TYPE es_attack.held RENAME ATTRIBUTE a TO b;
PREPARE TRANSACTION 'es_attack';
SET lock_timeout = '10ms';
SELECT es_attack.try($$SELECT es_load('atkv-1')$$);
RESET lock_timeout;
ROLLBACK PREPARED 'es_attack';
SELECT es_attack.try($$SELECT es_load('atkv-1')$$);
DROP DOMAIN pg_temp.es_attack_kind;
DROP TABLE es_attack_first;
CREATE DOMAIN es_attack.active AS text CHECK (es_attack.check(value));
CREATE TEMP TABLE es_attack_rates (c es_attack.active);
SELECT es_attack.try($$SELECT es_load('atkr-1')$$);
SELECT es_attack.try($$SELECT es_load('atkt-1')$$);
SELECT es_attack.try($$SELECT es_append('atkx-1', 0, 'AttackChecked', '{}')$$);
DROP TABLE es_attack_rates;
-- A harmless temporary table is refused where it is used, and only there.
CREATE TEMP TABLE es_attack_rates (c text);
SELECT es_attack.try($$SELECT es_load('atkt-1')$$);
SELECT state FROM es_load('atkn-1');
-- A table with a trigger, for a command.
CREATE FUNCTION es_attack.fire() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN EXECUTE 'ALTER ROLE es_test_low SUPERUSER'; RETURN NULL; END$$;
CREATE TRIGGER t BEFORE TRUNCATE ON es_attack_rates EXECUTE FUNCTION es_attack.fire();
SELECT es_attack.try($$SELECT es_run_projection('es_attack_truncate')$$);
RESET ROLE;
SELECT DISTINCT error FROM event_store.quarantine WHERE name = 'es_attack_truncate';
SELECT rolsuper FROM pg_roles WHERE rolname = 'es_test_low';
DROP TABLE pg_temp.es_attack_rates;

-- Text that names a temporary function outright, which each session would have of its own.
CREATE FUNCTION pg_temp.twice(j jsonb) RETURNS jsonb IMMUTABLE LANGUAGE sql AS 'SELECT j';
SELECT es_attack.try($$SELECT es_register_aggregate('atkq', 'pg_temp.twice(state)')$$);
SELECT es_attack.try($$SELECT es_create_projection('es_attack_q', 'SELECT pg_temp.twice(data) FROM new_events')$$);

-- The caller's search_path: functions, operators and casts of its own are not found.
SET ROLE es_test_low;
CREATE FUNCTION es_attack.jsonb_build_object(text, int) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN EXECUTE 'ALTER ROLE es_test_low SUPERUSER'; RETURN '{}'; END$$;
CREATE FUNCTION es_attack.concat(jsonb, jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN EXECUTE 'ALTER ROLE es_test_low SUPERUSER'; RETURN '{}'; END$$;
CREATE OPERATOR es_attack.|| (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = es_attack.concat);
RESET ROLE;
SELECT es_register_aggregate('atkn', $$state || jsonb_build_object('n', 2)$$);
SET ROLE es_test_low;
SET search_path = es_attack, pg_catalog, public;
SELECT state FROM es_load('atkn-1');
RESET search_path;
RESET ROLE;
SELECT rolsuper FROM pg_roles WHERE rolname = 'es_test_low';

-- Core's functions that look up names, or run what a view calls, have the path of the registration too.
CREATE TABLE public.es_attack_names (n int);
SELECT es_register_aggregate('atko', $$state || jsonb_build_object('r', length(table_to_xml((data ->> 't')::regclass, true, true, '')::text) > 0)$$);
SELECT es_register_aggregate('atks', $$state || jsonb_build_object('t', (data ->> 't')::regclass, 'c', 'es_attack_names'::regclass)$$);
SELECT es_append(s || '-1', 0, 'A', '{"t": "es_attack_names"}') IS NOT NULL FROM unnest('{atko,atks}'::text[]) s;
SET ROLE es_test_low;
CREATE VIEW es_attack.es_attack_names AS SELECT es_attack.check('') AS n;
SET search_path = es_attack, public;
SELECT es_attack.try($$SELECT es_load('atko-1')$$) IN ('ok', 'YE006: unsupported XML feature');	-- a server may be built without
SELECT state FROM es_load('atks-1');
SET search_path = pg_catalog, public;
SELECT state FROM es_load('atks-1');
RESET search_path;
RESET ROLE;
SELECT rolsuper FROM pg_roles WHERE rolname = 'es_test_low';
DROP TABLE public.es_attack_names;

-- Whoever registers with a schema in the path that is open to all is told so.
SET client_min_messages = warning;
GRANT CREATE ON SCHEMA es_attack TO PUBLIC;
SET search_path = es_attack, public;
\set VERBOSITY terse
SELECT es_register_event_type('AttackChecked', 1, 'true');
\set VERBOSITY default
RESET search_path;

SELECT es_drop_projection(n) FROM unnest('{es_attack_inline,es_attack_async,es_attack_truncate}'::text[]) n;
SELECT es_unregister_aggregate(c) FROM unnest('{atkf,atki,atkv,atkr,atkc,atkt,atkl,atkn,atko,atks}'::text[]) c;
SELECT es_unregister_upcaster('AttackOld', 1);
SELECT es_unregister_event_type('AttackChecked', 1);
DROP TABLE public.es_attack_out;
DROP FUNCTION public.es_attack_rate(text), public.es_attack_inlined(text), public.es_attack_variable(text), public.es_attack_row(jsonb),
	public.es_attack_truncate();
DROP SCHEMA es_attack CASCADE;
SELECT es_revoke('es_test_low', r) FROM unnest('{append,read,operate,define}'::text[]) r;
REVOKE ALL ON DATABASE :"db" FROM es_test_low;
DROP OWNED BY es_test_low;
DROP ROLE es_test_low;
