-- What es_create_store(by_category => true) adds. Not by default: it takes a tenth of the rate of single appends.
-- log/scan.c looks whether a partition has it.

CREATE INDEX IF NOT EXISTS log_category_position ON event_store.log (category, position);
