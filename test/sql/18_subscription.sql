-- Subscriptions: who gets which events, acknowledging, quarantine, leases, filters, upcasters, bad input, rights.
DO $$ BEGIN PERFORM es_create_store(); END $$;
CREATE FUNCTION public.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE m text; d text; h text; s text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS s = RETURNED_SQLSTATE, m = MESSAGE_TEXT, d = PG_EXCEPTION_DETAIL, h = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n  ', s || ': ' || left(m, 200), 'detail: ' || nullif(d, ''), 'hint: ' || nullif(h, ''));
END $$;
-- what a fetch returns, as position:stream.version
CREATE FUNCTION public.got(subscription text, consumer text = NULL, max_count int = 100, lease interval = '1 hour', wait interval = '0')
RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(position || ':' || stream || '.' || version, ' ' ORDER BY n)
    FROM es_fetch(subscription, consumer, max_count, lease, wait) WITH ORDINALITY
        e (position, stream, category, version, event_type, schema_version, event_id, data, metadata, occurred_at, recorded_at, n)
$$;
-- returns once a consumer's short lease has ended
CREATE FUNCTION public.outlive(name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + interval '10 s';
BEGIN
    LOOP
        PERFORM FROM event_store.subscription_consumers WHERE consumer = name AND lease_until >= clock_timestamp();
        EXIT WHEN NOT FOUND;
        IF clock_timestamp() > deadline THEN RAISE 'the lease of % does not end', name; END IF;
    END LOOP;
END $$;
-- what the server keeps of a subscription
CREATE FUNCTION public.kept(subscription text) RETURNS text LANGUAGE sql AS $$
    SELECT s.position || coalesce(' ' || (SELECT string_agg(
        concat_ws(' ', h.name || '.' || r.version || '@' || r.position,
            CASE WHEN r.reason IS NOT NULL THEN 'quarantined ' || r.attempts WHEN r.consumer IS NULL THEN 'free' ELSE 'held by ' || quote_literal(r.consumer) END), ', ' ORDER BY r.position)
        FROM event_store.subscription_streams r JOIN event_store.heads h ON h.id = r.stream WHERE r.subscription = s.id), '')
    FROM event_store.subscriptions s WHERE s.name = subscription
$$;
\t on
\pset format unaligned
SET intervalstyle = postgres;
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
RESET client_min_messages;
SELECT es_create_store();

-- ------------------------------------------------------------ definitions
SELECT es_create_subscription('mail');
SELECT es_create_subscription('mail');
SELECT try($$SELECT es_create_subscription('mail', '{a}')$$);
SELECT try($$SELECT es_create_subscription('mail', NULL, '{A}')$$);
SELECT try($$SELECT es_create_subscription('mail', from_position => 1)$$);
SELECT es_create_subscription('some', '{b,a,b}', '{Two,One}', 0);
SELECT es_create_subscription('some', '{a,b}', '{One,Two,One}');
SELECT name, categories, event_types, position FROM event_store.subscription_status ORDER BY name;
SELECT es_drop_subscription('some');
SELECT try($$SELECT es_drop_subscription('some')$$);
SELECT try($$SELECT es_fetch('some')$$);
SELECT try($$SELECT es_fetch('some', wait => '10 ms')$$);
SELECT try($$SELECT es_ack('some', 1)$$);
SELECT try($$SELECT es_nack('some', 1, 'r')$$);
SELECT try($$SELECT es_retry_quarantined('some')$$);

-- ------------------------------------------------------------ bad input
SELECT try($$SELECT es_create_subscription(NULL)$$);
SELECT try($$SELECT es_create_subscription('')$$);
SELECT try($$SELECT es_create_subscription(repeat('x', 513))$$);
SELECT try($$SELECT es_create_subscription('x', '{}')$$);
SELECT try($$SELECT es_create_subscription('x', '{a,NULL}')$$);
SELECT try($$SELECT es_create_subscription('x', '{{a},{b}}')$$);
SELECT try($$SELECT es_create_subscription('x', '{a-1}')$$);
SELECT try($$SELECT es_create_subscription('x', '{""}')$$);
SELECT try($$SELECT es_create_subscription('x', NULL, '{}')$$);
SELECT try($$SELECT es_create_subscription('x', NULL, ARRAY[repeat('x', 513)])$$);
SELECT try($$SELECT es_create_subscription('x', from_position => -1)$$);
SELECT try($$SELECT es_create_subscription('x', from_position => NULL)$$);
SELECT try($$SELECT es_drop_subscription(NULL)$$);
SELECT try($$SELECT es_fetch(NULL)$$);
SELECT try($$SELECT es_fetch('mail', repeat('x', 513))$$);
SELECT try($$SELECT es_fetch('mail', max_count => NULL)$$);
SELECT try($$SELECT es_fetch('mail', max_count => 0)$$);
SELECT try($$SELECT es_fetch('mail', max_count => 100001)$$);
SELECT try($$SELECT es_fetch('mail', lease => NULL)$$);
SELECT try($$SELECT es_fetch('mail', lease => '0')$$);
SELECT try($$SELECT es_fetch('mail', lease => '-1 s')$$);
SELECT try($$SELECT es_fetch('mail', lease => '1 day 1 us')$$);
SELECT try($$SELECT es_fetch('mail', lease => '178000000 years')$$);
SELECT try($$SELECT es_fetch('mail', wait => NULL)$$);
SELECT try($$SELECT es_fetch('mail', wait => '-1 us')$$);
SELECT try($$SELECT es_fetch('mail', wait => '301 s')$$);
SELECT try($$SELECT es_ack(NULL, 1)$$);
SELECT try($$SELECT es_ack('mail', NULL)$$);
SELECT try($$SELECT es_ack('mail', -1)$$);
SELECT try($$SELECT es_nack('mail', 1, NULL)$$);
SELECT try($$SELECT es_nack('mail', 1, repeat('r', 8193))$$);
SELECT try($$SELECT es_nack('mail', -1, 'r')$$);
SELECT try($$SELECT es_retry_quarantined(NULL)$$);
-- nothing was fetched
SELECT try($$SELECT es_ack('mail', 0)$$);
SELECT got('mail');
SELECT got('mail', wait => '1 ms');
SELECT kept('mail');

-- ------------------------------------------------------------ one consumer
SELECT events FROM es_append_batch('{a-1,b-1,a-1,c-1,b-1,a-1,c-1}', '{One,One,Two,One,Two,One,Two}', '{"{}","{}","{}","{}","{}","{}","{}"}');
-- without an acknowledgement the same comes again, and more when asked for
SELECT got('mail', max_count => 3);
SELECT got('mail', max_count => 3);
SELECT kept('mail');
SELECT got('mail', max_count => 2);
-- only what the last fetch returned can be acknowledged
SELECT try($$SELECT es_ack('mail', 3)$$);
SELECT es_ack('mail', 1);
SELECT kept('mail');
SELECT got('mail', max_count => 4);
SELECT es_ack('mail', 4);
SELECT kept('mail');
SELECT es_ack('mail', 4);
SELECT es_ack('mail', 0);
SELECT got('mail');
SELECT got('mail', max_count => 2);
SELECT es_ack('mail', 6);
SELECT kept('mail');
SELECT got('mail');
SELECT es_ack('mail', 7);
SELECT kept('mail');
SELECT got('mail');
SELECT es_ack('mail', 7);
SELECT kept('mail');
-- all columns are those of es_read_all
SELECT es_create_subscription('columns');
SELECT count(*) FROM (SELECT * FROM es_fetch('columns') EXCEPT SELECT * FROM es_read_all()) d;
SELECT count(*) FROM (SELECT es_fetch('columns')) s;
-- what a transaction undoes was not fetched, and what it has not committed is not delivered
BEGIN;
SELECT version FROM es_append('a-2', 0, 'One', '{}');
SELECT got('mail');
ROLLBACK;
BEGIN;
SELECT es_ack('columns', 7), kept('columns');
SELECT kept('columns');
ROLLBACK;
SELECT es_ack('columns', 7);
SELECT kept('columns');
SELECT es_drop_subscription('columns');
-- the position may be after the first event, or after the last
SELECT es_create_subscription('later', from_position => 5), es_create_subscription('much later', from_position => 9223372036854775807);
SELECT got('later'), got('much later'), got('much later', wait => '1 ms');
SELECT es_drop_subscription('later'), es_drop_subscription('much later');

-- ------------------------------------------------------------ several consumers
SELECT es_create_subscription('team');
SELECT got('team', 'x', 2), got('team', 'y', 1), got('team', 'z');
SELECT kept('team');
-- y's are passed over by z, and found later
SELECT es_ack('team', 4, 'y');
SELECT kept('team');
SELECT got('team', 'z'), got('team', 'y');
SELECT es_ack('team', 7, 'y');
SELECT es_ack('team', 1, 'x');
SELECT kept('team');
SELECT got('team', 'x', 1);
SELECT es_ack('team', 2, 'x');
SELECT kept('team');
SELECT got('team', 'z'), got('team', 'x');
SELECT es_ack('team', 6, 'x');
SELECT kept('team');
SELECT streams_in_flight, quarantined_streams, oldest_unacked, leases, lag_events,
    (SELECT array_agg(c->>'consumer') FROM jsonb_array_elements(consumers) c) FROM event_store.subscription_status WHERE name = 'team';
-- the empty name is the one of NULL
SELECT events FROM es_append_batch('{a-1}', '{One}', '{"{}"}');
SELECT got('team');
SELECT es_ack('team', position, '') FROM es_fetch('team', '');
SELECT kept('team');
SELECT es_drop_subscription('team');

-- ------------------------------------------------------------ leases
SELECT es_create_subscription('leased', from_position => 3);
SELECT got('leased', 'slow', lease => '1 ms'), outlive('slow');
-- as long as nobody takes over, it is good
SELECT es_ack('leased', 5, 'slow');
SELECT kept('leased');
SELECT got('leased', 'quick', 1);
SELECT kept('leased');
-- now it is lost, all of it, and nothing is acknowledged
SELECT try($$SELECT es_ack('leased', 6, 'slow')$$);
SELECT try($$SELECT es_ack('leased', 5, 'slow')$$);
SELECT try($$SELECT es_nack('leased', 6, 'r', 'slow')$$);
SELECT try($$SELECT es_ack('leased', 0, 'stranger')$$);
SELECT kept('leased');
SELECT (c->>'consumer'), (c->>'lost'), (c->>'streams') FROM event_store.subscription_status, jsonb_array_elements(consumers) c WHERE name = 'leased' ORDER BY 1;
-- its next fetch clears that, with what is left
SELECT got('leased', 'slow');
SELECT es_ack('leased', 7, 'slow');
SELECT kept('leased');
SELECT es_ack('leased', 6, 'quick');
-- also a fetch that gets nothing does
SELECT got('leased', 'quick'), es_ack('leased', 9, 'quick');
SELECT version FROM es_append('a-1', -2, 'One', '{}');
SELECT got('leased', 'slow', lease => '1 ms'), outlive('slow');
SELECT got('leased', 'quick');
SELECT try($$SELECT es_ack('leased', 9, 'slow')$$);
SELECT got('leased', 'slow', wait => '1 ms');
SELECT try($$SELECT es_ack('leased', 10, 'slow')$$);
SELECT kept('leased');
SELECT es_ack('leased', 10, 'quick');
-- a lease that has ended is renewed by a fetch when nobody was quicker; streams of others with a lease are not taken
SELECT version FROM es_append('a-1', -2, 'One', '{}');
SELECT got('leased', 'slow', lease => '1 ms'), outlive('slow');
SELECT got('leased', 'slow');
SELECT got('leased', 'quick');
SELECT es_ack('leased', 11, 'slow');
-- consumers that are long gone are forgotten; what they say then is refused as well
ALTER TABLE event_store.subscription_consumers DISABLE TRIGGER USER;
UPDATE event_store.subscription_consumers SET lease_until = lease_until - interval '2 days' WHERE consumer = 'slow';
ALTER TABLE event_store.subscription_consumers ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row;
SELECT got('leased', 'quick');
SELECT consumer FROM event_store.subscription_consumers JOIN event_store.subscriptions ON id = subscription WHERE name = 'leased';
SELECT try($$SELECT es_ack('leased', 10, 'slow')$$);
SELECT es_drop_subscription('leased');

-- ------------------------------------------------------------ quarantine
SELECT es_create_subscription('q', '{a,b,c}', from_position => 1);
SELECT got('q', max_count => 4);
SELECT try($$SELECT es_nack('q', 6, 'beyond')$$);
SELECT es_ack('q', 2);
SELECT es_nack('q', 3, 'no such customer');
SELECT kept('q');
SELECT name, kind, stream, position, version, error, attempts, since > now() - interval '1 hour' FROM event_store.quarantine;
-- its later events park, the others go on; what was not acknowledged of those comes again
SELECT got('q');
SELECT es_ack('q', 7);
SELECT version FROM es_append('a-1', -2, 'One', '{}');
SELECT version FROM es_append('c-1', -2, 'One', '{}');
SELECT got('q');
SELECT es_ack('q', 12);
SELECT kept('q');
-- what belongs to nobody can neither be acknowledged nor refused
SELECT es_ack('q', 12), es_nack('q', 12, 'again');
SELECT kept('q');
SELECT try($$SELECT es_retry_quarantined('q', 'b-1')$$), try($$SELECT es_retry_quarantined('q', 'nonsense')$$);
SELECT es_retry_quarantined('q', 'a-1');
SELECT kept('q');
SELECT got('q', max_count => 2);
SELECT es_nack('q', 3, 'still not');
SELECT position, error, attempts FROM event_store.quarantine;
SELECT es_retry_quarantined('q');
SELECT got('q', max_count => 2);
SELECT es_ack('q', 3);
SELECT es_nack('q', 6, 'another one');
SELECT position, error, attempts FROM event_store.quarantine;
SELECT es_retry_quarantined('q'), es_retry_quarantined('q');
SELECT got('q');
SELECT es_ack('q', 11);
SELECT kept('q');
SELECT es_drop_subscription('q');

-- ------------------------------------------------------------ filters and upcasters
SELECT es_create_subscription('unknown', '{nobody}'), es_create_subscription('unknown type', NULL, '{Nothing}');
SELECT got('unknown'), got('unknown type'), got('unknown', wait => '1 ms');
SELECT kept('unknown'), kept('unknown type');
SELECT es_create_subscription('twos', '{a,c}', '{Two,New}');
SELECT got('twos');
SELECT es_ack('twos', 3);
SELECT kept('twos');
SELECT es_ack('twos', 7);
SELECT es_append('nobody-1', -2, 'Nothing', '{}') IS NOT NULL;
SELECT got('unknown'), got('unknown type'), got('twos');
-- a type by what an upcaster makes of it; what one drops does not block
SELECT es_create_subscription('up', '{u}', '{New}');
SELECT events FROM es_append_batch('{u-1,u-2,u-1,u-2,u-1,u-3}', '{Old,Old,New,Dropped,Old,Dropped}', ARRAY['1','2','3','4','5','6']::jsonb[]);
SELECT es_register_upcaster('Old', 1, 'to_jsonb(0 - data::text::int)', to_type => 'New');
SELECT es_register_upcaster('Dropped', 1, 'NULL', to_type => 'New');
SELECT position, stream, event_type, schema_version, data FROM es_fetch('up', max_count => 2);
SELECT es_ack('up', 14);
SELECT position, stream, event_type, schema_version, data FROM es_fetch('up');
-- with another consumer at the frontier, the dropped one is in flight until somebody looks
SELECT es_create_subscription('up2', '{u}', '{New}');
SELECT got('up2', 'x', 2), got('up2', 'y');
SELECT es_ack('up2', 15, 'x');
SELECT kept('up2');
SELECT got('up2', 'x');
SELECT kept('up2');
SELECT es_ack('up2', 17, 'x');
SELECT kept('up2');
-- one that fails says so, and acknowledging goes on
SELECT got('up2', 'x', lease => '1 ms');
SELECT version FROM es_append('u-1', -2, 'New', '1');
SELECT got('up2', 'x');
SELECT es_register_upcaster('New', 1, 'to_jsonb(1 / (data::text::int - 1))');
SELECT try($$SELECT es_fetch('up2', 'x')$$);
SELECT es_ack('up2', 21, 'x');
SELECT es_unregister_upcaster('New', 1), es_unregister_upcaster('Old', 1), es_unregister_upcaster('Dropped', 1);
SELECT got('up2'), kept('up2');
-- a stream of the consumer's own that was crowded out is not in its hands: a nack leaves it alone
SELECT es_create_subscription('up3', '{v}', '{New}');
SELECT events FROM es_append_batch('{v-1,v-1,v-2,v-2,v-1}', '{New,Dropped,New,New,New}', ARRAY['1','2','3','4','5']::jsonb[]);
SELECT es_register_upcaster('Dropped', 1, 'NULL', to_type => 'New');
SELECT got('up3', 'x', 1), got('up3', 'y');
SELECT es_ack('up3', 22, 'x'), es_nack('up3', 25, 'no', 'y');
SELECT es_retry_quarantined('up3');
SELECT kept('up3');
SELECT got('up3', 'x', 2);
SELECT kept('up3');
SELECT es_nack('up3', 25, 'no', 'x');
SELECT kept('up3');
SELECT es_unregister_upcaster('Dropped', 1), es_drop_subscription('up3');

-- ------------------------------------------------------------ many streams and events
SELECT events FROM es_append_batch((SELECT array_agg('many-' || i % 700 ORDER BY i) FROM generate_series(1, 5000) i),
    array_fill('Many'::text, ARRAY[5000]), array_fill('{}'::jsonb, ARRAY[5000]));
SELECT es_create_subscription('all', '{many}');
CREATE TEMP TABLE seen (n int GENERATED ALWAYS AS IDENTITY, consumer text, position bigint, stream text, version bigint);
-- consumers with rooms of several sizes, of which one acknowledges only a part and one nothing until it lost its lease
DO $$
DECLARE
    who text; upto bigint; got int; idle int := 0; round int := 0; lost int := 0;
BEGIN
    WHILE idle < 8 LOOP
        round := round + 1;
        who := (ARRAY['x', 'y', 'z', 'w'])[round % 4 + 1];
        WITH f AS (SELECT position, stream, version FROM es_fetch('all', who, (ARRAY[100, 333, 64, 500])[round % 4 + 1], CASE WHEN who = 'w' THEN '1 ms'::interval ELSE '1 hour' END)),
            i AS (INSERT INTO seen (consumer, position, stream, version) SELECT who, * FROM f ORDER BY f.position RETURNING seen.position)
        SELECT count(*), max(i.position) FILTER (WHERE who <> 'y' OR i.position % 3 > 0 OR idle > 0) INTO got, upto FROM i;
        idle := CASE WHEN got = 0 THEN idle + 1 ELSE 0 END;
        BEGIN
            IF who = 'w' THEN
                PERFORM outlive('w');
                PERFORM FROM es_fetch('all', 'x', 10000);
            END IF;
            IF upto IS NOT NULL THEN
                PERFORM es_ack('all', upto, who);
            END IF;
        EXCEPTION WHEN SQLSTATE 'YE010' THEN
            lost := lost + 1;
        END;
        COMMIT;
    END LOOP;
    RAISE NOTICE 'lost sometimes: %', lost > 0;
END $$;
SELECT count(DISTINCT position) > 4000 AS most, count(*) > count(DISTINCT position) AS some_again FROM seen;
SELECT kept('all') = (SELECT max(position) FROM event_store.events)::text AS all_done;

-- a subscription that meets only others' streams stops now and then, and goes on
SELECT es_create_subscription('hot', '{hot}');
SELECT version FROM es_append('hot-1', -2, 'Hot', '{}');
SELECT count(*) FROM es_fetch('hot', 'x', lease => '1 hour');
SELECT events FROM es_append_batch((SELECT array_agg('hot-' || CASE WHEN i = 12000 THEN 2 ELSE 1 END ORDER BY i) FROM generate_series(1, 12000) i),
    array_fill('Hot'::text, ARRAY[12000]), array_fill('{}'::jsonb, ARRAY[12000]));
SELECT position AS before FROM event_store.subscriptions WHERE name = 'hot' \gset
SELECT count(*) FROM es_fetch('hot', 'y', wait => '1 s');
SELECT position - :before AS moved FROM event_store.subscriptions WHERE name = 'hot';
SELECT array_agg(stream) FROM es_fetch('hot', 'y', wait => '1 s');
SELECT es_ack('hot', max(position), 'x') FROM es_fetch('hot', 'x', 7000);
SELECT count(*), min(version), max(version) FROM es_fetch('hot', 'x', 7000);

-- ------------------------------------------------------------ where it cannot work
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT try($$SELECT es_fetch('mail')$$);
SELECT try($$SELECT es_ack('mail', 1)$$);
SELECT try($$SELECT es_nack('mail', 1, 'r')$$);
SELECT try($$SELECT es_retry_quarantined('mail')$$);
ROLLBACK;
BEGIN READ ONLY;
SELECT try($$SELECT es_fetch('mail')$$);
SELECT try($$SELECT es_ack('mail', 1)$$);
SELECT try($$SELECT es_nack('mail', 1, 'r')$$);
ROLLBACK;

-- ------------------------------------------------------------ rights
SET client_min_messages = warning;
DROP ROLE IF EXISTS es_test_consumer;
DROP ROLE IF EXISTS es_test_operator;
RESET client_min_messages;
CREATE ROLE es_test_consumer;
CREATE ROLE es_test_operator;
SET ROLE es_test_consumer;
SELECT try($$SELECT es_create_subscription('mine')$$), try($$SELECT es_drop_subscription('mail')$$), try($$SELECT es_fetch('mail')$$),
    try($$SELECT es_ack('mail', 1)$$), try($$SELECT es_nack('mail', 1, 'r')$$), try($$SELECT es_retry_quarantined('mail')$$),
    try($$TABLE event_store.subscription_status$$), try($$TABLE event_store.quarantine$$);
RESET ROLE;
SELECT es_grant('es_test_consumer', 'consume'), es_grant('es_test_operator', 'operate'), es_grant('es_test_operator', 'define');
SET ROLE es_test_consumer;
SELECT got('mail', max_count => 1);
SELECT es_ack('mail', 8), try($$SELECT es_nack('mail', 8, 'r')$$);
SELECT try($$SELECT es_create_subscription('mine')$$), try($$SELECT es_drop_subscription('mail')$$), try($$SELECT es_retry_quarantined('mail')$$),
    try($$TABLE event_store.subscriptions$$), try($$UPDATE event_store.subscription_streams SET position = 0$$);
RESET ROLE;
SET ROLE es_test_operator;
SELECT es_create_subscription('mine'), es_retry_quarantined('mine');
SELECT count(*) FROM event_store.subscription_status WHERE name = 'mine';
SELECT count(*) FROM event_store.quarantine;
SELECT es_drop_subscription('mine');
SELECT try($$SELECT es_fetch('mail')$$), try($$SELECT es_ack('mail', 1)$$), try($$TABLE event_store.subscriptions$$);
RESET ROLE;
DROP OWNED BY es_test_consumer, es_test_operator;
DROP ROLE es_test_consumer, es_test_operator;

-- ------------------------------------------------------------ a store of its own again, in the same session
ALTER TABLE event_store.grants DISABLE TRIGGER USER;
DELETE FROM event_store.grants;
ALTER TABLE event_store.grants ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row;
SET client_min_messages = warning;
DROP SCHEMA event_store CASCADE;
RESET client_min_messages;
SELECT es_create_store();
SELECT try($$SELECT es_fetch('mail')$$);
SELECT es_create_subscription('mail');
SELECT version FROM es_append('a-1', 0, 'One', '{}');
SELECT got('mail');
SELECT es_ack('mail', 1), es_drop_subscription('mail');
DROP FUNCTION public.try(text), public.got(text, text, int, interval, interval), public.outlive(text), public.kept(text);
