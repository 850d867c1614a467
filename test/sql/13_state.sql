-- State: folds by SQL expression, loads by version and time, history, snapshots.
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; h text; s text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n  ', s || ': ' || m, 'detail: ' || nullif(regexp_replace(d, 'position \d+', 'position N'), ''), 'hint: ' || nullif(h, ''));
END $$;
\t on
\pset format unaligned
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
RESET client_min_messages;
SELECT es_create_store();

-- registration: what it refuses
SELECT pg_temp.try($$SELECT es_load('acct-1')$$);
SELECT pg_temp.try(format('SELECT es_register_aggregate(%L, fold => %L)', 'acct', f)) FROM unnest(ARRAY[
    'state ||', 'state, data', 'nosuch', 'acct.state', 'state AS s', 'version', '(SELECT state)', 'count(*)',
    'jsonb_array_elements(state)', 'state FROM pg_class', 'row_number() OVER ()', 'to_jsonb(random())', 'to_jsonb(now())',
    'to_jsonb(CURRENT_TIMESTAMP)', 'to_jsonb(current_user)', 'to_jsonb(current_setting(''x''))', 'to_jsonb(nextval(''s''))',
    'to_jsonb(clock_timestamp())', '$1', 'state; SELECT 1', '', '*', 'state.*', 'to_jsonb(state.*)', 'jsonb_build_array(*)']) f;
SELECT pg_temp.try($$SELECT es_register_aggregate('acct')$$);
SELECT pg_temp.try($$SELECT es_register_aggregate('acct', 'state', '{}')$$);
SELECT pg_temp.try($$SELECT es_register_aggregate('acct-1', 'state')$$);
SELECT pg_temp.try($$SELECT es_register_aggregate(NULL, 'state')$$);
SELECT pg_temp.try($$SELECT es_register_aggregate('', 'state')$$);
SELECT pg_temp.try($$SELECT es_register_aggregate('acct', 'state', snapshot_every => 0)$$);
SELECT pg_temp.try($$SELECT es_register_aggregate('acct', 'state', initial_state => NULL)$$);
SELECT pg_temp.try($$SELECT es_unregister_aggregate('acct')$$);
SELECT count(*) FROM event_store.aggregates;

-- an account
SELECT es_register_aggregate('acct', initial_state => '{"balance": 0}', fold => $$
    CASE event_type
        WHEN 'Opened' THEN state || data
        WHEN 'Deposited' THEN jsonb_set(state, '{balance}', to_jsonb((state ->> 'balance')::numeric + (data ->> 'amount')::numeric))
        WHEN 'Withdrawn' THEN jsonb_set(state, '{balance}', to_jsonb((state ->> 'balance')::numeric - (data ->> 'amount')::numeric))
        ELSE state
    END $$);
SELECT * FROM es_load('acct-1');
SELECT version FROM es_append('acct-1', 0, '[{"type": "Opened", "data": {"owner": "ann"}}, {"type": "Deposited", "data": {"amount": 100.10}}, {"type": "Withdrawn", "data": {"amount": 0.20}}, {"type": "Noted"}]');
SELECT state, version, position = es_high_water_mark() FROM es_load('acct-1');
-- the version is what es_append expects, and a transaction sees its own appends
BEGIN;
SELECT version FROM es_append('acct-1', (SELECT version FROM es_load('acct-1')), 'Deposited', '{"amount": 1}');
SELECT state, version FROM es_load('acct-1');
ROLLBACK;
SELECT state, version FROM es_load('acct-1');
SELECT v, (es_load_version('acct-1', v)).state FROM generate_series(0, 4) v;
SELECT pg_temp.try($$SELECT es_load_version('acct-1', 5)$$), pg_temp.try($$SELECT es_load_version('acct-1', -1)$$), pg_temp.try($$SELECT es_load_version('acct-9', 1)$$);
SELECT version, event_type, state FROM es_history('acct-1');
SELECT version, state FROM es_history('acct-1', 3, 1);
SELECT count(*) FROM es_history('acct-1', 99), es_load('acct-1');
SELECT pg_temp.try($$SELECT es_history('acct-1', 0)$$);

-- every variable
SELECT es_register_aggregate('vars', fold => $$state || jsonb_build_object('n', version, 'p', position > 0, 't', event_type, 'm', metadata, 's', stream, 'sv', schema_version, 'o', occurred_at, 'r', recorded_at >= occurred_at, 'd', data)$$);
SELECT version FROM es_append('vars-1', 0, 'V', '{"x": 1}', '{"y": 2}', occurred_at => '2024-02-03 04:05:06+00', schema_version => 3);
SET TimeZone = 'America/New_York';
SET DateStyle = 'SQL, DMY';
SELECT state FROM es_load('vars-1');
RESET TimeZone;
RESET DateStyle;

-- errors name the place and leave the session usable
SELECT version FROM es_append('acct-1', 4, 'Deposited', '{"amount": "ten"}');
SELECT pg_temp.try($$SELECT es_load('acct-1')$$);
SELECT (es_load_version('acct-1', 4)).state;
SELECT pg_temp.try($$SELECT es_register_aggregate('nul', '(es_load(''acct-1'')).state')$$);
CREATE FUNCTION public.es_test_hides(s jsonb) RETURNS jsonb STABLE LANGUAGE sql AS 'SELECT s || jsonb_build_object(''t'', now())';
SELECT pg_temp.try($$SELECT es_register_aggregate('nul', 'public.es_test_hides(state)')$$);
DROP FUNCTION public.es_test_hides(jsonb);
SELECT es_register_aggregate('nul', 'CASE WHEN version < 2 THEN data END');
SELECT version FROM es_append('nul-1', 0, '[{"type": "A"}, {"type": "B"}]');
SELECT pg_temp.try($$SELECT es_load('nul-1')$$);
CREATE FUNCTION public.es_test_endless(s jsonb) RETURNS jsonb IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN public.es_test_endless(s); END';
SELECT es_register_aggregate('nul', 'public.es_test_endless(state)');
SELECT pg_temp.try($$SELECT es_load('nul-1')$$) LIKE 'YE006: stack depth limit exceeded%';
SELECT es_register_aggregate('nul', 'data || to_jsonb(1 / (version - 2))');
SELECT pg_temp.try($$SELECT es_load('nul-1')$$);

-- a function that changes changes the answer, also in this session
CREATE FUNCTION public.es_test_apply(s jsonb, d jsonb) RETURNS jsonb IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN s || d; END';
SELECT es_register_aggregate('fn', 'es_test_apply(state, data)');
SELECT version FROM es_append('fn-1', 0, '[{"type": "A", "data": {"a": 1}}, {"type": "B", "data": {"b": 2}}]');
SELECT state FROM es_load('fn-1');
SELECT es_snapshot('fn-1');
CREATE OR REPLACE FUNCTION public.es_test_apply(s jsonb, d jsonb) RETURNS jsonb IMMUTABLE LANGUAGE plpgsql AS $$BEGIN RETURN s || d || '{"new": true}'; END$$;
SELECT state FROM es_load('fn-1');
-- nor does a function that a SQL function calls
CREATE FUNCTION public.es_test_outer(s jsonb) RETURNS jsonb IMMUTABLE LANGUAGE sql AS 'SELECT public.es_test_apply(s, s)';
SELECT es_register_aggregate('fn2', 'public.es_test_outer(state)');
SELECT version FROM es_append('fn2-1', 0, 'A', '{}');
SELECT es_snapshot('fn2-1');
CREATE OR REPLACE FUNCTION public.es_test_apply(s jsonb, d jsonb) RETURNS jsonb IMMUTABLE LANGUAGE plpgsql AS $$BEGIN RETURN s || d || '{"newer": true}'; END$$;
SELECT state FROM es_load('fn2-1');
DROP FUNCTION public.es_test_outer(jsonb);
DROP FUNCTION public.es_test_apply(jsonb, jsonb);
SELECT pg_temp.try($$SELECT es_load('fn-1')$$) LIKE '42883:%';

-- snapshots: bounded replay, the same answers
SELECT es_register_aggregate('snap', $$state || jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + (data ->> 'n')::int)$$, snapshot_every => 10);
SELECT count(*) FROM generate_series(1, 50) i, LATERAL es_append('snap-1', i - 1, 'N', jsonb_build_object('n', i)) a;
SELECT es_snapshot('snap-none');
SELECT es_snapshot('snap-1');
SELECT count(*) FROM generate_series(51, 60) i, LATERAL es_append('snap-1', i - 1, 'N', jsonb_build_object('n', i)) a;
SELECT es_replayed_events() AS before \gset
SELECT state, version FROM es_load('snap-1');
SELECT es_replayed_events() - :before AS replayed;
SELECT es_replayed_events() AS before \gset
SELECT state FROM es_load_version('snap-1', 49);
SELECT es_replayed_events() - :before AS replayed;
-- damaged, of another fold, or ahead of the log: not used
BEGIN;
ALTER TABLE event_store.snapshots DISABLE TRIGGER USER;
UPDATE event_store.snapshots SET state = '{"n": 0}';
SELECT state, version FROM es_load('snap-1');
ROLLBACK;
SELECT es_register_aggregate('snap', $$state || jsonb_build_object('m', coalesce((state ->> 'm')::int, 0) + 1)$$, snapshot_every => 10);
SELECT state, version FROM es_load('snap-1');
SELECT es_snapshot('snap-1');
-- (a worker that was asked under the earlier definition may come late, also after this; and one that was asked to replace the
-- damaged one does so with this definition, at its version)
DO $$ BEGIN
    FOR i IN 1..600 LOOP
        PERFORM pg_stat_clear_snapshot(), es_snapshot('snap-1');
        IF 1 = (SELECT count(DISTINCT s.fingerprint) FROM event_store.snapshots s JOIN event_store.heads h ON h.id = s.stream WHERE h.name = 'snap-1') THEN
            RETURN;
        END IF;
        PERFORM pg_sleep(0.05);
    END LOOP;
    RAISE 'snapshots of the earlier definition are kept';
END $$;
SELECT es_drop_snapshots('snap') > 0;
SELECT state, version FROM es_load('snap-1');
SELECT es_drop_snapshots('nosuch');
-- several are kept, the older ones sparser
SELECT count(*) FROM generate_series(1, 100) i, LATERAL es_append('snap-2', -2, 'N', jsonb_build_object('n', i)) a, LATERAL es_snapshot('snap-' || (a.version * 0 + 2)) s;
SELECT count(*), max(s.version), min(s.version) FROM event_store.snapshots s JOIN event_store.heads h ON h.id = s.stream WHERE h.name = 'snap-2';
-- a load that replayed far asks for one, which a worker takes in the background; what could not be used is counted
SELECT es_register_aggregate('asked', $$state || jsonb_build_object('n', version)$$, snapshot_every => 10);
SELECT count(*) FROM generate_series(1, 30) i, LATERAL es_append('asked-1', i - 1, 'N', jsonb_build_object('n', i)) a;
CREATE FUNCTION pg_temp.wait_for(condition text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE done boolean := false;
BEGIN
    FOR i IN 1..600 LOOP
        EXECUTE 'SELECT ' || condition INTO done;
        EXIT WHEN done;
        PERFORM pg_sleep(0.1), es_load('asked-1');
    END LOOP;
    RETURN done;
END $$;
SELECT state FROM es_load('asked-1');
SELECT pg_temp.wait_for($$EXISTS (SELECT FROM event_store.snapshots s JOIN event_store.heads h ON h.id = s.stream WHERE h.name = 'asked-1' AND s.version = 30)$$);
SELECT es_replayed_events() AS before \gset
SELECT state FROM es_load('asked-1');
SELECT es_replayed_events() - :before AS replayed;
ALTER TABLE event_store.snapshots DISABLE TRIGGER USER;
UPDATE event_store.snapshots SET state = '{}' WHERE version = 30;
ALTER TABLE event_store.snapshots ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row;
SELECT state FROM es_load('asked-1');
SELECT pg_temp.wait_for($$EXISTS (SELECT FROM event_store.snapshots WHERE state = '{"n": 30}') AND (SELECT snapshots_taken >= 2 AND snapshots_damaged >= 1 FROM event_store.status)$$);
SELECT es_register_aggregate('asked', $$state || jsonb_build_object('m', version)$$, snapshot_every => 10);
SELECT state FROM es_load('asked-1');
SELECT pg_temp.wait_for($$EXISTS (SELECT FROM event_store.snapshots WHERE state = '{"m": 30}') AND (SELECT snapshots_taken >= 3 AND snapshots_outdated >= 1 FROM event_store.status)$$);
SELECT es_replayed_events() AS before \gset
SELECT state FROM es_load('asked-1');
SELECT es_replayed_events() - :before AS replayed;
-- folds of the application
SELECT es_put_snapshot('snap-1', 40, '{"mine": 40}', 'app 1.0');
SELECT es_put_snapshot('snap-1', 50, '{"mine": 50}', 'app 1.0');
SELECT es_put_snapshot('snap-1', 45, '{"other": 45}', 'app 1.1');
SELECT state, version FROM es_get_snapshot('snap-1', 'app 1.0');
SELECT count(*) FROM es_get_snapshot('snap-1', 'app 2.0');
SELECT pg_temp.try($$SELECT es_put_snapshot('snap-1', 61, '{}', 'app 1.0')$$), pg_temp.try($$SELECT es_put_snapshot('snap-9', 1, '{}', 'app 1.0')$$), pg_temp.try($$SELECT es_put_snapshot('snap-1', 1, '{}', '')$$);
SELECT state, version FROM es_load('snap-1');

-- as of a time: final or refused
SELECT recorded_at AS t1 FROM es_append('acct-2', 0, 'Opened', '{"owner": "bob"}') \gset
SELECT recorded_at AS t2 FROM es_append('acct-2', 1, 'Deposited', '{"amount": 5}') \gset
SET event_store.as_of_wait = 0;
SELECT es_publish_mark() > 0, es_publish_mark() > 0;
SELECT state, version FROM es_load_at('acct-2', :'t1');
SELECT state, version FROM es_load_at('acct-2', :'t2');
SELECT state, version FROM es_load_at('acct-2', :'t1'::timestamptz - interval '1 us');
SELECT state, version FROM es_load_at('acct-2', '-infinity');
SELECT state, version FROM es_load_at('acct-none', :'t2');
SELECT left(pg_temp.try($$SELECT es_load_at('acct-2', 'infinity')$$), 30), left(pg_temp.try($$SELECT es_load_at('acct-2', clock_timestamp() + interval '1 hour')$$), 6);
-- later than what was published: not final without a worker
SELECT left(pg_temp.try($$SELECT es_load_at('acct-2', clock_timestamp() - interval '1 us')$$), 6);
-- up to the published floor a stream without open appends is final
BEGIN;
SELECT (es_load_at('acct-2', floor)).version FROM event_store.mark;
-- its own open append is not
SELECT version FROM es_append('acct-2', 2, 'Deposited', '{"amount": 7}');
SELECT left(pg_temp.try(format($$SELECT es_load_at('acct-2', %L)$$, floor)), 6) FROM event_store.mark;
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT (es_load_at('acct-2', stable_until)).version FROM event_store.mark;
SELECT left(pg_temp.try(format($$SELECT es_load_at('acct-2', %L)$$, floor)), 6) FROM event_store.mark;
ROLLBACK;
RESET event_store.as_of_wait;

-- the two times: what was true at V, as known at K
SELECT es_register_aggregate('price', fold => $$state || jsonb_build_object('price', data -> 'price', 'seen', coalesce(state -> 'seen', '[]') || to_jsonb(version))$$);
SELECT version FROM es_append('price-1', 0, '[{"type": "P", "data": {"price": 10}, "occurred_at": "2024-01-01T00:00:00Z"}, {"type": "P", "data": {"price": 30}, "occurred_at": "2024-03-01T00:00:00Z"}]');
SELECT recorded_at AS k1 FROM es_load('price-1') \gset
SELECT version FROM es_append('price-1', 2, 'P', '{"price": 20}', occurred_at => '2024-02-01 00:00+00');
SELECT es_publish_mark() > 0, es_publish_mark() > 0;
SELECT v, (es_load_valid_at('price-1', v::timestamptz)).state, (es_load_valid_at('price-1', v::timestamptz)).version, (es_load_valid_at('price-1', v::timestamptz, :'k1')).state ->> 'price' AS known_then
FROM unnest('{2023-12-31 00:00+00,2024-01-15 00:00+00,2024-02-15 00:00+00,2024-04-01 00:00+00,infinity}'::text[]) v;

-- out of order through and through
SELECT es_register_aggregate('wild', $$state || jsonb_build_object('seen', coalesce(state -> 'seen', '[]') || (data -> 'i'))$$);
SELECT events FROM es_append_batch(array_fill('wild-1'::text, '{50}'), array_fill('W'::text, '{50}'), (SELECT array_agg(jsonb_build_object('i', i * 7 % 50) ORDER BY i) FROM generate_series(1, 50) i), occurred_at => (SELECT array_agg('2024-01-01 00:00+00'::timestamptz + i * 7 % 50 * interval '1 day' ORDER BY i) FROM generate_series(1, 50) i));
SELECT state -> 'seen' = (SELECT jsonb_agg(i) FROM generate_series(0, 49) i) FROM es_load_valid_at('wild-1', 'infinity');
SELECT es_register_upcaster('W', 1, 'data');
SELECT state -> 'seen' = (SELECT jsonb_agg(i) FROM generate_series(0, 19) i) FROM es_load_valid_at('wild-1', '2024-01-20 12:00+00');
SELECT es_unregister_upcaster('W', 1);
-- a category, in order of name; names that only begin alike are not of it
SELECT version FROM es_append('price', 0, 'P', '{"price": 1}'), LATERAL es_append('price-0', 0, 'P', '{"price": 2}') b(v), LATERAL es_append('price!x-1', 0, 'P', '{"price": 3}') c(v), LATERAL es_append('pricey-1', 0, 'P', '{"price": 4}') d(v);
SELECT stream, state ->> 'price', version FROM es_load_category('price');
SELECT es_publish_mark() > 0, es_publish_mark() > 0;
SELECT stream, version FROM es_load_category('price', :'k1');
SELECT count(*) FROM es_load_category('acct', '-infinity');
SELECT pg_temp.try($$SELECT es_load_category('nosuch')$$);
SELECT pg_temp.try($$SELECT es_load_category(NULL)$$);

-- rights: stored text never gives anyone another's
SET client_min_messages = warning;
DROP ROLE IF EXISTS es_test_analyst;
RESET client_min_messages;
CREATE ROLE es_test_analyst;
SELECT es_grant('es_test_analyst', 'define'), es_grant('es_test_analyst', 'read');
CREATE FUNCTION public.es_test_secret(s jsonb) RETURNS jsonb STABLE LANGUAGE plpgsql AS $$BEGIN RETURN to_jsonb(current_user::text); END$$;
REVOKE ALL ON FUNCTION public.es_test_secret(jsonb) FROM PUBLIC;
SET ROLE es_test_analyst;
SELECT pg_temp.try($$SELECT es_register_aggregate('who', 'public.es_test_secret(state)')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION public.es_test_secret(jsonb) TO es_test_analyst;
SET ROLE es_test_analyst;
SELECT es_register_aggregate('who', 'public.es_test_secret(state)');
RESET ROLE;
SELECT version FROM es_append('who-1', 0, 'A', '{}');
SELECT state FROM es_load('who-1');
REVOKE EXECUTE ON FUNCTION public.es_test_secret(jsonb) FROM es_test_analyst;
SELECT left(pg_temp.try($$SELECT es_load('who-1')$$), 60);
-- temporary objects of whoever loads do not stand in for what the text means
SELECT es_register_aggregate('trap', $$state || jsonb_build_object('d', (data ->> 'd')::date)$$);
SELECT version FROM es_append('trap-1', 0, 'A', '{"d": "2024-05-06"}');
GRANT TEMPORARY ON DATABASE :"DBNAME" TO es_test_analyst;
SET ROLE es_test_analyst;
CREATE FUNCTION pg_temp.evil(d pg_catalog.date) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'evil ran as %', current_user; RETURN true; END$$;
CREATE DOMAIN pg_temp.date AS pg_catalog.date CHECK (pg_temp.evil(value));
SELECT state FROM es_load('trap-1');
DROP DOMAIN pg_temp.date;
RESET ROLE;
REVOKE TEMPORARY ON DATABASE :"DBNAME" FROM es_test_analyst;
SET search_path = pg_temp, public;
SELECT public.es_register_aggregate('trap', 'state');
RESET search_path;
-- what text does to settings does not stay, and what its answer depends on is pinned
CREATE FUNCTION public.es_test_sets(d jsonb) RETURNS jsonb STABLE LANGUAGE plpgsql AS $$BEGIN PERFORM set_config('search_path', 'nowhere', false); RETURN d; END$$;
SELECT es_register_aggregate('trap', 'public.es_test_sets(state || data)');
SELECT state FROM es_load('trap-1');
SHOW search_path;
CREATE DOMAIN public.es_test_domain AS jsonb CHECK (public.es_test_sets(value) IS NOT NULL);
SELECT pg_temp.try($$SELECT es_register_aggregate('trap', '(state || data)::public.es_test_domain')$$);
DROP DOMAIN public.es_test_domain;
DROP FUNCTION public.es_test_sets(jsonb);
CREATE FUNCTION public.es_test_default(s jsonb, r float8 DEFAULT random()) RETURNS jsonb IMMUTABLE LANGUAGE sql AS 'SELECT to_jsonb(r)';
SELECT pg_temp.try($$SELECT es_register_aggregate('trap', 'public.es_test_default(state)')$$);
DROP FUNCTION public.es_test_default(jsonb, float8);
SELECT es_register_aggregate('trap', $$state || jsonb_build_object('x', regexp_replace(data ->> 'd', '\d', '#'), 'f', ((0.1::float8 + 0.2)::text), 'b', '\x01'::bytea::text)$$);
-- 19 knows no other strings
SELECT current_setting('server_version_num')::int < 190000 AS other_strings \gset
\if :other_strings
SET standard_conforming_strings = off;
\endif
SET extra_float_digits = 0;
SET bytea_output = escape;
SELECT state FROM es_load('trap-1');
RESET standard_conforming_strings;
RESET extra_float_digits;
RESET bytea_output;
-- a function's own EXCEPTION clause sees the error that happened
CREATE FUNCTION public.es_test_safe(t text) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$BEGIN RETURN t::int; EXCEPTION WHEN invalid_text_representation THEN RETURN -1; END$$;
SELECT es_register_aggregate('trap', $$state || to_jsonb(public.es_test_safe(data ->> 'd'))$$, initial_state => '[]');
SELECT state FROM es_load('trap-1');
DROP FUNCTION public.es_test_safe(text);
-- definitions read under an old snapshot are of that transaction
SELECT es_register_aggregate('trap', $$'"first"'::jsonb$$);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT state FROM es_load('trap-1');
COMMIT;
SELECT es_register_aggregate('trap', $$'"second"'::jsonb$$);
SELECT state FROM es_load('trap-1');
-- a store whose owner may not act as a role does not, whatever the row says
ALTER TABLE event_store.aggregates DISABLE TRIGGER USER;
UPDATE event_store.aggregates SET role_oid = 1 WHERE category = 'who';
ALTER TABLE event_store.aggregates ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row;
SELECT es_register_aggregate('other', 'state');
SELECT pg_temp.try($$SELECT es_load('who-1')$$);
ALTER TABLE event_store.aggregates DROP CONSTRAINT aggregates_check;
ALTER TABLE event_store.aggregates DISABLE TRIGGER USER;
UPDATE event_store.aggregates SET fold = NULL WHERE category = 'who';
ALTER TABLE event_store.aggregates ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row;
SELECT es_register_aggregate('other', 'state');
SELECT pg_temp.try($$SELECT es_load('who-1')$$);
SELECT es_unregister_aggregate('who');
DROP FUNCTION public.es_test_secret(jsonb);
DROP FUNCTION public.es_test_endless(jsonb);
DROP OWNED BY es_test_analyst;
DROP ROLE es_test_analyst;
ALTER TABLE event_store.grants DISABLE TRIGGER USER;
DELETE FROM event_store.grants;
ALTER TABLE event_store.grants ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row;
