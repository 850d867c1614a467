CREATE EXTENSION event_store;
CREATE EXTENSION dblink;
SELECT es_create_store();
CREATE TABLE each (position bigint PRIMARY KEY, events bigint);
SELECT es_create_projection('each', 'INSERT INTO each SELECT position, count(*) OVER () FROM new_events');
