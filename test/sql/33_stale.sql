-- What an upcaster made of a type until now counts, too, when the upcaster is changed or dropped: a projection of that type
-- has applied events that it would not be given any more.
\t on
\pset format unaligned
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
SELECT es_create_store();
CREATE TABLE stale_new (position bigint);
SELECT es_append('a-1', 0, '[{"type": "Old"}, {"type": "Old"}]') IS NOT NULL;
SELECT es_register_upcaster('Old', 1, 'data', to_type => 'Mid'), es_register_upcaster('Mid', 2, 'data', to_type => 'New');
CREATE FUNCTION pg_temp.again() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM event_store.projections WHERE name = 'stale_new') THEN
        PERFORM es_drop_projection('stale_new');
    END IF;
    PERFORM es_create_projection('stale_new', 'INSERT INTO stale_new SELECT position FROM new_events', event_types => '{New}');
    PERFORM es_run_projection('stale_new');
    RETURN (SELECT concat_ws(' ', events, status) FROM event_store.projection_status WHERE name = 'stale_new');
END $$;

SELECT pg_temp.again();
SELECT es_register_upcaster('Old', 1, 'data', to_type => 'Other');
SELECT status FROM event_store.projection_status WHERE name = 'stale_new';

-- the second step of a chain
SELECT es_register_upcaster('Old', 1, 'data', to_type => 'Mid');
SELECT pg_temp.again();
SELECT es_register_upcaster('Mid', 2, 'data', to_type => 'Other');
SELECT status FROM event_store.projection_status WHERE name = 'stale_new';

SELECT es_register_upcaster('Mid', 2, 'data', to_type => 'New');
SELECT pg_temp.again();
SELECT es_unregister_upcaster('Old', 1);
SELECT status FROM event_store.projection_status WHERE name = 'stale_new';

-- one that has nothing to do with it
SELECT es_unregister_upcaster('Mid', 2);
SELECT es_append('a-1', 2, 'New', '{}') IS NOT NULL;
SELECT pg_temp.again();
SELECT es_register_upcaster('Mid', 2, 'data', to_type => 'Other');
SELECT status FROM event_store.projection_status WHERE name = 'stale_new';

-- one that has passed events and applied none: with the upcaster they are for it
SELECT es_unregister_upcaster('Mid', 2);
CREATE FUNCTION pg_temp.status() RETURNS text LANGUAGE sql AS
    $$ SELECT concat_ws(' ', events, status) FROM event_store.projection_status WHERE name = 'stale_new' $$;
SELECT es_drop_projection('stale_new'), es_create_projection('stale_new', 'INSERT INTO stale_new SELECT position FROM new_events', event_types => '{Newer}', tables => '{stale_new}');
SELECT pg_temp.status();
SELECT es_register_upcaster('Old', 5, 'data', to_type => 'Newer');
SELECT pg_temp.status();
SELECT es_run_projection('stale_new'), pg_temp.status();
SELECT es_register_upcaster('Old', 1, 'data', to_type => 'Newer');
SELECT pg_temp.status();
-- what comes first in a transaction does not matter: rebuilt with the upcaster it is not stale, and nor is it when both are taken back
BEGIN;
SELECT es_register_upcaster('New', 1, 'data', to_type => 'Newer');
SELECT es_rebuild_projection('stale_new'), es_run_projection('stale_new'), pg_temp.status();
SAVEPOINT s;
SELECT es_register_upcaster('New', 1, 'data', to_type => 'Newer'), pg_temp.status();
ROLLBACK TO s;
SELECT pg_temp.status();
COMMIT;
SELECT pg_temp.status();
-- paused, and being rebuilt, it says so in the column
SELECT es_unregister_upcaster('Old', 5), es_pause('stale_new');
SELECT status, stale FROM event_store.projection_status WHERE name = 'stale_new';
SELECT es_resume('stale_new'), es_rebuild_projection('stale_new');
SELECT status, stale FROM event_store.projection_status WHERE name = 'stale_new';
SELECT es_run_projection('stale_new');
SELECT status, stale FROM event_store.projection_status WHERE name = 'stale_new';
-- a process manager has acted: nothing can be rebuilt
SELECT es_create_projection('stale_manager', 'SELECT count(*) FROM new_events', side_effects => true), es_run_projection('stale_manager');
SELECT es_unregister_upcaster('Old', 1);
SELECT name, status, stale FROM event_store.projection_status ORDER BY name;
-- an inline projection that has seen nothing yet is marked all the same: appends say nothing of what they used
SELECT es_drop_projection('stale_manager'), es_drop_projection('stale_new');
SELECT es_create_projection('stale_new', 'INSERT INTO stale_new SELECT position FROM new_events', event_types => '{Inline}', mode => 'inline');
SELECT es_register_upcaster('Line', 1, 'data', to_type => 'Inline'), es_unregister_upcaster('Line', 1), pg_temp.status();

-- a setting of the session's changes nothing in stored text
SELECT es_register_aggregate('quoted', $$state || jsonb_build_object('q', quote_ident('plain'))$$);
SELECT es_append('quoted-1', 0, 'Q', '{}') IS NOT NULL;
SET quote_all_identifiers = on;
SELECT quote_ident('plain');
SELECT state FROM es_load('quoted-1');
RESET quote_all_identifiers;

DROP SCHEMA event_store CASCADE;
DROP TABLE stale_new;
