-- Epochs by hand: positions jump ahead, cursors of old epochs are told how far to go back, and nothing minds the gap.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_store;
DROP SCHEMA IF EXISTS event_store CASCADE;
SELECT es_create_store();
\set VERBOSITY terse
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', SQLSTATE || ': ' || SQLERRM, '  detail: ' || nullif(detail, ''), '  hint: ' || nullif(hint, ''));
END $$;

-- 1. A new store has one. Its number is a time; the first positions are 1, 2, 3.
SELECT es_epoch() AS first \gset
SELECT to_timestamp(:first / 1000000.0) BETWEEN now() - interval '1 hour' AND clock_timestamp() AS a_time;
SELECT mark, last_position, start_position, system_identifier = (SELECT s.system_identifier FROM pg_control_system() s) AS system,
    timeline = (SELECT c.timeline_id FROM pg_control_checkpoint() c) AS timeline,
    database = (SELECT oid FROM pg_database WHERE datname = current_database())::bigint AS database FROM event_store.epochs;
SELECT position FROM generate_series(1, 5) i, LATERAL es_append('epoch-1', -2, 'Counted', jsonb_build_object('n', i));
SELECT es_publish_mark();
SELECT position FROM es_append('epoch-1', 5, 'Counted', '{"n": 6}');	-- not published

-- 2. Cursors of the epoch that is.
SELECT epoch = :first AS same, position, rewind FROM unnest(ARRAY[0, 3, 5, 6]) p, LATERAL es_check_cursor(:first, p);
SELECT epoch = :first AS same, position, rewind FROM es_check_cursor(:first, 7);	-- nobody has drawn it

-- 3. Another one. What was not published may have been something else.
SELECT es_begin_epoch(0) AS second \gset
SELECT :second > :first AS greater, :second = es_epoch() AS it_is;
SELECT epoch = :second AS second, mark, last_position, start_position FROM event_store.epochs ORDER BY epochs.epoch;
SELECT p AS of, epoch = :second AS second, position, rewind
    FROM unnest(ARRAY[0, 5, 6, 7, 10000000006]) p, LATERAL es_check_cursor(:first, p);
SELECT p AS of, epoch = :second AS second, position, rewind
    FROM unnest(ARRAY[0, 6, 10000000006, 10000000007]) p, LATERAL es_check_cursor(:second, p);
-- of a history that parted from this one, or of none
SELECT p AS of, epoch = :second AS second, position, rewind FROM unnest(ARRAY[0, 5, 6, 10000000007]) p, LATERAL es_check_cursor(42, p);
SELECT epoch = :second AS second, position, rewind FROM es_check_cursor(NULL, 0);

-- 4. Positions go on behind it, in a partition of their own; the gap is one partition more.
SELECT position FROM es_append('epoch-1', 6, 'Counted', '{"n": 7}');
SELECT name, from_position, to_position FROM event_store.partitions;
SELECT position, data->>'n' AS n FROM es_read_all(0, NULL);
SELECT position FROM es_read_all(6, 1);

-- 5. Projections, subscriptions and their views step over the gap.
CREATE TABLE public.epoch_seen (n bigint);
SELECT es_create_projection('epochs', 'INSERT INTO public.epoch_seen SELECT (data->>''n'')::bigint FROM new_events', ARRAY['epoch']);
SELECT es_create_subscription('epoch mail', ARRAY['epoch']);
SELECT es_publish_mark();
SELECT lag_events FROM event_store.projection_status WHERE name = 'epochs';
SELECT lag_events FROM event_store.subscription_status WHERE name = 'epoch mail';
SELECT es_run_projection('epochs');
SELECT array_agg(n ORDER BY n) FROM public.epoch_seen;
SELECT position FROM es_fetch('epoch mail');
SELECT es_ack('epoch mail', 10000000007);
SELECT lag_events FROM event_store.projection_status WHERE name = 'epochs';
SELECT lag_events FROM event_store.subscription_status WHERE name = 'epoch mail';
SELECT es_append('other-1', 0, 'Other', '{}') IS NOT NULL AS other;
SELECT es_begin_epoch(0) IS NOT NULL AS begun;
SELECT es_run_projection('epochs', 1);
SELECT count(*) FROM es_fetch('epoch mail');
SELECT es_publish_mark();
SELECT position, lag_events FROM event_store.projection_status WHERE name = 'epochs';
SELECT es_drop_projection('epochs'), es_drop_subscription('epoch mail');
DROP TABLE public.epoch_seen;

-- 6. Above a position that is known to have been shown.
SELECT es_begin_epoch(500000000000) IS NOT NULL AS begun;
SELECT position FROM es_append('epoch-1', 7, 'Counted', '{"n": 8}');
SELECT es_begin_epoch(5) IS NOT NULL AS begun;
SELECT position FROM es_append('epoch-1', 8, 'Counted', '{"n": 9}');

-- 7. Rolled back, the positions have jumped all the same, and only they.
SELECT count(*) FROM event_store.epochs;
BEGIN;
SELECT es_begin_epoch(0) IS NOT NULL AS begun;
SELECT count(*) FROM event_store.epochs;
ROLLBACK;
SELECT count(*) FROM event_store.epochs;
SELECT position FROM es_append('epoch-1', 9, 'Counted', '{"n": 10}');
SELECT data->>'n' AS n FROM es_read_all(0, NULL) WHERE category = 'epoch';

-- 8. A sequence that somebody has set back. (t/090_backup.pl has a session that has looked before.)
SELECT es_begin_epoch(0) IS NOT NULL AS begun;
SELECT setval('event_store.position_seq', 3);
SELECT position > 540000000000 AS above FROM es_append('epoch-1', 10, 'Counted', '{"n": 11}');
-- By itself it takes the clock, too: 50,000 positions for each second since 2026 began.
SELECT start_position >= floor(extract(epoch FROM began_at - '2026-01-01 00:00+00') - 1) * 50000 AS at_least,
    start_position <= ceil(extract(epoch FROM clock_timestamp() - '2026-01-01 00:00+00') + 1) * 50000 OR
    start_position = last_position + 10000000000 AS at_most
    FROM event_store.epochs ORDER BY epochs.epoch DESC LIMIT 1;

-- 9. Bad input.
SELECT pg_temp.try('SELECT es_check_cursor(1, NULL)'), pg_temp.try('SELECT es_check_cursor(1, -1)'), pg_temp.try('SELECT es_begin_epoch(-1)');
SELECT pg_temp.try('SELECT es_begin_epoch(281474976710655)'), pg_temp.try('SELECT es_begin_epoch(9223372036854775807)');
SELECT position, rewind FROM es_check_cursor(-9223372036854775808, 9223372036854775807);
SELECT position, rewind FROM es_check_cursor(9223372036854775807, 1);
BEGIN READ ONLY;
SELECT es_epoch() = max(epoch) AS readable FROM event_store.epochs;
SELECT es_begin_epoch();
ROLLBACK;
SELECT pg_temp.try('UPDATE event_store.epochs SET mark = 1'), pg_temp.try('TRUNCATE event_store.epochs');

-- 10. Close to the end of the positions jumps get shorter.
SELECT split_part(pg_temp.try('SELECT es_begin_epoch(281474976710000)'), E'\n', 1) AS far,
    split_part(pg_temp.try(format('SELECT es_begin_epoch(%s)', newest_position + 1999511627776)), E'\n', 1) AS less_far
    FROM event_store.status;
DO $$
DECLARE left_over bigint;
BEGIN
    LOOP
        SELECT positions_left INTO left_over FROM event_store.status;
        EXIT WHEN left_over <= 654;
        PERFORM es_begin_epoch(least(281474976710000, 281474976710654 - left_over + 1099511627776));
    END LOOP;
END $$;
SELECT positions_left FROM event_store.status;
SELECT position FROM es_append('epoch-1', 11, 'Counted', '{"n": 12}');
SELECT es_begin_epoch() IS NOT NULL AS begun;
SELECT position FROM es_append('epoch-1', 12, 'Counted', '{"n": 13}');
SELECT count(es_begin_epoch()) FROM generate_series(1, 12);
SELECT pg_temp.try($$SELECT es_append('epoch-1', 13, 'Counted', '{"n": 14}')$$);

-- 11. Rights, and a node of its own.
DROP SCHEMA event_store CASCADE;
SELECT es_create_store(7);
SELECT start_position, mark FROM event_store.epochs;
SELECT es_begin_epoch(0) IS NOT NULL AS begun;
SELECT position FROM es_append('epoch-1', 0, 'Counted', '{"n": 1}');
SELECT position - 1970324836974592 AS position, rewind FROM es_check_cursor(42, 1970334836974593);
CREATE ROLE es_test_epoch;
SET ROLE es_test_epoch;
SELECT pg_temp.try('SELECT es_epoch()'), pg_temp.try('SELECT es_check_cursor(1, 1)'), pg_temp.try('SELECT es_begin_epoch()'), pg_temp.try('TABLE event_store.epochs');
RESET ROLE;
SELECT es_grant('es_test_epoch', 'read');
SET ROLE es_test_epoch;
SELECT pg_temp.try('SELECT es_epoch()'), pg_temp.try('SELECT es_check_cursor(1, 1)'), pg_temp.try('SELECT es_begin_epoch()'), pg_temp.try('TABLE event_store.epochs');
RESET ROLE;
SELECT es_revoke('es_test_epoch', 'read'), es_grant('es_test_epoch', 'operate');
SET ROLE es_test_epoch;
SELECT pg_temp.try('SELECT es_epoch()'), pg_temp.try('SELECT es_begin_epoch()'), pg_temp.try('TABLE event_store.epochs');
RESET ROLE;
SELECT es_revoke('es_test_epoch', 'operate');
DROP OWNED BY es_test_epoch;
DROP ROLE es_test_epoch;
DROP SCHEMA event_store CASCADE;
SELECT pg_temp.try('SELECT es_epoch()'), pg_temp.try('SELECT es_check_cursor(1, 1)'), pg_temp.try('SELECT es_begin_epoch()');
