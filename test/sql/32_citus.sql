-- A store whose tables belong to Citus is refused. There is no Citus here, but its catalog of tables can be made.
\set VERBOSITY default
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS event_store CASCADE;
SELECT es_create_store();
SELECT version FROM es_append('citus-1', 0, 'T', '{}');
CREATE TABLE elsewhere ();

SET allow_system_table_mods = on;
CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass NOT NULL, partmethod "char" NOT NULL, partkey text, colocationid integer NOT NULL DEFAULT 0, repmodel "char" NOT NULL DEFAULT 's');
RESET allow_system_table_mods;

-- Citus with tables of its own
INSERT INTO pg_dist_partition VALUES ('elsewhere', 'h');
\c -
SELECT version FROM es_append('citus-1', 1, 'T', '{}');

-- and with one of the store's
INSERT INTO pg_dist_partition VALUES ('event_store.heads', 'n');
\c -
SELECT version FROM es_append('citus-1', 2, 'T', '{}');
SELECT version FROM es_read('citus-1');
SELECT es_create_store();
SELECT * FROM es_check();
-- a session that was there before hears of it when Citus changes the table
DELETE FROM pg_dist_partition WHERE logicalrelid = 'event_store.heads'::regclass;
SELECT version FROM es_append('citus-1', 2, 'T', '{}');
INSERT INTO pg_dist_partition VALUES ('event_store.log_0', 'n');
ALTER TABLE event_store.log ALTER COLUMN metadata SET STATISTICS 100;
SELECT version FROM es_append('citus-1', 3, 'T', '{}');
ALTER TABLE event_store.log ALTER COLUMN metadata SET STATISTICS -1;

-- a table of that name that is none of Citus's
DELETE FROM pg_dist_partition;
SET allow_system_table_mods = on;
ALTER TABLE pg_catalog.pg_dist_partition RENAME COLUMN logicalrelid TO other;
RESET allow_system_table_mods;
INSERT INTO pg_dist_partition VALUES ('event_store.heads', 'n');
\c -
SELECT version FROM es_append('citus-1', 3, 'T', '{}');

SET allow_system_table_mods = on;
DROP TABLE pg_catalog.pg_dist_partition;
RESET allow_system_table_mods;
DROP TABLE elsewhere;
\c -
SELECT version FROM es_append('citus-1', 4, 'T', '{}');
