-- What the store's owner needs to make triggers, which call a function of the extension.
--
-- owner: that role. code: the schema of the extension.

GRANT USAGE ON SCHEMA :code TO :owner;
