-- The store's schema, where there is none yet. All that holds data is in it, and none of it is a member of the extension:
-- DROP EXTENSION never takes an event with it, and pg_dump sees ordinary tables.
--
-- owner: whom the store is to belong to.

CREATE SCHEMA event_store AUTHORIZATION :owner;
