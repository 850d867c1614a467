-- The same as guard.sql for the log itself: its rows are those of its partitions, which have the other trigger.
--
-- table: its name. code: the schema of the extension, which has the function.

CREATE OR REPLACE TRIGGER es_immutable BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON event_store.:table
    FOR EACH STATEMENT EXECUTE FUNCTION :code.es_refuse_change();

ALTER TABLE event_store.:table ENABLE ALWAYS TRIGGER es_immutable;
