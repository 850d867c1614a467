-- What the store's owner needs to make the import table, which is of the extension's server.
--
-- owner: that role.

GRANT USAGE ON FOREIGN SERVER event_store_import TO :owner;
