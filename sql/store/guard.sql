-- The trigger by which a table refuses UPDATE, DELETE and TRUNCATE.
--
-- table: its name. code: the schema of the extension, which has the function.

CREATE TRIGGER es_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON event_store.:table
    FOR EACH STATEMENT EXECUTE FUNCTION :code.es_refuse_change();
