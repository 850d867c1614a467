-- The triggers by which a table refuses changes that are not the library's, for everybody: also where
-- session_replication_role is replica, and in the workers of logical replication.
--
-- table: its name. code: the schema of the extension, which has the function.

CREATE OR REPLACE TRIGGER es_immutable BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON event_store.:table
    FOR EACH STATEMENT EXECUTE FUNCTION :code.es_refuse_change();

CREATE OR REPLACE TRIGGER es_immutable_row AFTER INSERT OR UPDATE OR DELETE ON event_store.:table
    FOR EACH ROW EXECUTE FUNCTION :code.es_refuse_change();

ALTER TABLE event_store.:table ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row;
