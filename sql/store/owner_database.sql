-- What the store's owner needs to make the schemas in which rebuilds of projections build their tables.
--
-- owner: that role. database: the current one.

GRANT CREATE ON DATABASE :database TO :owner;
