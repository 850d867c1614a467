-- Brings a store from layout 1 (version 0.1) to layout 2 (version 0.2): what the tables, indexes and sequences of a new store
-- have that those of 0.1 have not. No table is rewritten. The views (CREATE OR REPLACE), the triggers that refuse changes, the
-- import table and the grants come after it, from the files that a new store is made by. A view that loses or renames a column
-- is dropped here.

-- Of a table that is changed here the trigger that refuses changes goes; it is put back with the others.
DROP TRIGGER IF EXISTS es_immutable ON event_store.store;

UPDATE event_store.store SET layout = 2;
