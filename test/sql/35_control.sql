-- What projections and subscriptions have in common: one name space, pausing, what is in quarantine.
CREATE FUNCTION public.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    sqlstate_ text; message text; detail text; hint text; result text;
BEGIN
    EXECUTE statement INTO result;
    RETURN coalesce(result, 'NULL');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS sqlstate_ = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', sqlstate_, message, nullif(detail, ''), nullif(hint, ''));
END $$;
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
SELECT es_create_store();
CREATE SCHEMA control;
SET search_path = control, public;
CREATE TABLE control.sums (stream text PRIMARY KEY, n numeric NOT NULL);
CREATE FUNCTION control.append(stream text, VARIADIC n text[]) RETURNS bigint LANGUAGE sql AS $$
    SELECT max(version) FROM unnest(n) x, es_append(stream, -2, 'Added', jsonb_build_object('n', x)) $$;
-- A handler that adds up, and chokes on what is no number.
SELECT es_create_projection('sums', $$INSERT INTO sums AS s SELECT stream, sum((data->>'n')::numeric) FROM new_events GROUP BY stream
    ON CONFLICT (stream) DO UPDATE SET n = s.n + EXCLUDED.n$$, categories => '{c}', tables => ARRAY['control.sums'::regclass]);
SELECT es_create_subscription('mail', categories => '{c}');

-- ---- one name space

SELECT try($$SELECT es_create_subscription('sums')$$);
SELECT try($$SELECT es_create_projection('mail', 'SELECT FROM new_events')$$);
SELECT try($$SELECT es_rename_subscription('mail', 'sums')$$);
SELECT try($$SELECT es_rename_subscription('nobody', 'somebody')$$);
SELECT try($$SELECT es_rename_subscription('mail', '')$$), try($$SELECT es_rename_subscription('mail', NULL)$$), try($$SELECT es_rename_subscription(NULL, 'x')$$);
SELECT es_rename_subscription('mail', 'post');
SELECT name FROM event_store.subscription_status;
SELECT try($$SELECT es_create_subscription('mail', categories => '{c}')$$), try($$SELECT es_rename_subscription('mail', 'post')$$);
SELECT es_drop_subscription('mail');
-- In a transaction with an old snapshot too.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM event_store.events;
SELECT es_create_subscription('here');
SELECT try($$SELECT es_create_projection('here', 'SELECT FROM new_events')$$);
ROLLBACK;

-- ---- pausing

SELECT try($$SELECT es_pause('nobody')$$);
SELECT try($$SELECT es_pause(NULL)$$), try($$SELECT es_resume(NULL)$$), try($$SELECT es_resume('nobody')$$);
SELECT try($$SELECT es_pause('sums', until => 'yesterday')$$) ~ '^22023 \| argument until must be in the future \| It is .* \| Leave it out to pause until es_resume\.$' AS past;
SELECT try($$SELECT es_pause('sums', until => '-infinity')$$);
SELECT try($$SELECT es_pause('sums', reason => repeat('x', 9000))$$);
SELECT es_pause('sums', now() + interval '1 day', 'for a test'), es_pause('post', reason => 'for another');
SELECT name, status, paused_until > now() AS until, pause_reason FROM event_store.projection_status;
SELECT name, status, paused_until, pause_reason FROM event_store.subscription_status;
SELECT control.append('c-1', '1', '2');
SELECT try($$SELECT es_run_projection('sums')$$), try($$SELECT es_wait_for_projection('sums', 1)$$);
SELECT count(*) FROM es_fetch('post');
SELECT es_pause('sums', 'infinity'), es_pause('post', now() + interval '1 day');
SELECT paused_until, pause_reason FROM event_store.projection_status;
SELECT paused_until > now() AS until, pause_reason FROM event_store.subscription_status;
SELECT es_resume('sums'), es_resume('post');
SELECT es_resume('sums'), es_resume('post');
SELECT name, status, paused_until, pause_reason FROM event_store.projection_status UNION ALL
SELECT name, status, paused_until, pause_reason FROM event_store.subscription_status;
SELECT es_run_projection('sums');
SELECT position, stream FROM es_fetch('post');
-- What was fetched before the pause can be acknowledged.
SELECT es_pause('post');
SELECT es_ack('post', 2);
SELECT es_resume('post');
-- A pause ends by itself.
SELECT control.append('c-1', '3');
SELECT es_pause('sums', clock_timestamp() + interval '50 ms'), es_pause('post', clock_timestamp() + interval '50 ms');
SELECT position FROM es_fetch('post', wait => '1 min');
SELECT es_ack('post', 3);
DO $$ BEGIN
    WHILE (SELECT status FROM event_store.projection_status) = 'paused' LOOP PERFORM pg_sleep(0.01); END LOOP;
END $$;
SELECT es_run_projection('sums');
SELECT * FROM control.sums;
-- An inline projection refuses it.
SELECT es_set_projection_mode('sums', 'inline');
SELECT try($$SELECT es_pause('sums')$$);
SELECT es_set_projection_mode('sums', 'async');

-- ---- quarantine: c-2 fails at its second event; c-3 is in one call with a later event of c-2

SELECT control.append('c-2', '1', 'many', '2');
SELECT version FROM es_append_multi('[{"stream": "c-2", "expected_version": 3, "events": [{"type": "Added", "data": {"n": "10"}}]},
    {"stream": "c-3", "expected_version": 0, "events": [{"type": "Added", "data": {"n": "20"}}]}]');
SELECT control.append('c-3', '30');
SELECT es_run_projection('sums');
SELECT * FROM control.sums ORDER BY 1;
SELECT position FROM es_fetch('post', 'one');
SELECT es_nack('post', 7, 'away', 'one'), es_ack('post', 9, 'one');
SELECT name, kind, stream, position, version, events, error, error_code, error_position, attempts, together IS NOT NULL AS tied, rebuild
FROM event_store.quarantine ORDER BY kind, stream;

SELECT try($$SELECT es_skip_quarantined('sums', 'c-1', 1, 'r')$$);
SELECT try($$SELECT es_skip_quarantined('post', 'c-1', 1, 'r')$$), try($$SELECT es_skip_quarantined('post', 'c-nobody', 1, 'r')$$);
SELECT try($$SELECT es_skip_quarantined('nobody', 'c-1', 1, 'r')$$);
SELECT try($$SELECT es_skip_quarantined(NULL, 'c-1', 1, 'r')$$), try($$SELECT es_skip_quarantined('sums', NULL, 1, 'r')$$);
SELECT try($$SELECT es_skip_quarantined('sums', 'c-2', NULL, 'r')$$), try($$SELECT es_skip_quarantined('sums', 'c-2', 2, NULL)$$);
SELECT try($$SELECT es_skip_quarantined('sums', 'c-2', 1, 'r')$$), try($$SELECT es_skip_quarantined('sums', 'c-2', 5, 'r')$$);
SELECT try($$SELECT es_skip_quarantined('post', 'c-2', 0, 'r')$$), try($$SELECT es_skip_quarantined('post', 'c-2', 5, 'r')$$);

-- The bad event is given up. What is behind it stays, until it is tried again: the call with both streams whole.
SELECT es_skip_quarantined('sums', 'c-2', 2, 'not a number');
SELECT stream, position, version, events FROM event_store.quarantine WHERE name = 'sums' ORDER BY 1;
SELECT kind, stream, detail FROM es_check();
SELECT es_retry_quarantined('sums', 'c-3');
SELECT * FROM control.sums ORDER BY 1;
SELECT count(*) FROM event_store.quarantine WHERE name = 'sums';
SELECT kind, stream, detail FROM es_check();
SELECT try($$SELECT es_retry_quarantined('sums', 'c-3')$$);

-- The subscription: two events are given up, two are delivered again.
SELECT es_skip_quarantined('post', 'c-2', 2, 'nobody is there');
SELECT stream, position, version, attempts FROM event_store.quarantine WHERE name = 'post';
SELECT es_retry_quarantined('post', 'c-2');
SELECT position, stream, version FROM es_fetch('post', 'two');
SELECT es_ack('post', 7, 'two');
SELECT try($$SELECT es_retry_quarantined('post', 'c-2')$$);
SELECT es_retry_quarantined('post');

-- All that a stream has there is given up: the streams tied to it keep the error.
SELECT control.append('c-4', 'many');
SELECT version FROM es_append_multi('[{"stream": "c-4", "expected_version": 1, "events": [{"type": "Added", "data": {"n": "10"}}]},
    {"stream": "c-5", "expected_version": 0, "events": [{"type": "Added", "data": {"n": "20"}}]}]');
SELECT es_run_projection('sums');
SELECT es_skip_quarantined('sums', 'c-4', 2, 'all of it');
SELECT stream, error FROM event_store.quarantine WHERE name = 'sums';
SELECT kind, stream, detail FROM es_check();
SELECT es_retry_quarantined('sums');
SELECT * FROM control.sums ORDER BY 1;
-- Later events of the stream are applied.
SELECT control.append('c-4', '7');
SELECT es_run_projection('sums');
SELECT * FROM control.sums WHERE stream = 'c-4';
SELECT position FROM es_fetch('post', 'two') ORDER BY 1 LIMIT 1;
SELECT es_nack('post', 12, 'away', 'two');
SELECT es_skip_quarantined('post', 'c-4', 3, 'all of it'), es_skip_quarantined('post', 'c-5', 1, 'all of it');
SELECT count(*) FROM event_store.quarantine;
SELECT kind, stream, detail FROM es_check();

-- The journal has who did it, and why.
SELECT action, object, after->'stream' AS stream, after->'up_to_version' AS up_to_version, after->>'state' AS state, after->'new_name' AS new_name, reason
FROM event_store.journal WHERE action IN ('es_pause', 'es_resume', 'es_skip_quarantined', 'es_retry_quarantined', 'es_rename_subscription') ORDER BY at;

-- A rebuild meets what was skipped again.
SELECT es_rebuild_projection('sums');
SELECT es_run_projection('sums');
SELECT stream, version, events FROM event_store.quarantine ORDER BY 1;
SELECT kind, stream, detail FROM es_check();

-- Over several partitions: what is in quarantine begins in a later one than its stream.
SELECT es_drop_projection('sums');
DROP SCHEMA event_store CASCADE;
SET event_store.partition_size = 100;
SELECT es_create_store();
TRUNCATE sums;
SELECT es_create_projection('sums', $$INSERT INTO sums AS s SELECT stream, sum((data->>'n')::numeric) FROM new_events GROUP BY stream
    ON CONFLICT (stream) DO UPDATE SET n = s.n + EXCLUDED.n$$, tables => ARRAY['control.sums'::regclass]);
SELECT es_create_subscription('post');
SELECT control.append('c-1', VARIADIC array_agg(CASE n WHEN 250 THEN 'many' ELSE '1' END ORDER BY n)) FROM generate_series(1, 400) n;
SELECT es_run_projection('sums');
SELECT count(*), max(position) FROM es_fetch('post', max_count => 260);
SELECT es_ack('post', 249), es_nack('post', 260, 'away');
SELECT kind, position, version, events FROM event_store.quarantine ORDER BY 1;
SELECT es_skip_quarantined('sums', 'c-1', 350, 'many of them'), es_skip_quarantined('post', 'c-1', 260, 'many of them');
SELECT kind, position, version, events FROM event_store.quarantine ORDER BY 1;
SELECT es_retry_quarantined('sums'), es_retry_quarantined('post');
SELECT * FROM control.sums;
SELECT kind, stream, detail FROM es_check();
RESET event_store.partition_size;

RESET search_path;
DROP SCHEMA control CASCADE;
DROP FUNCTION try(text);
