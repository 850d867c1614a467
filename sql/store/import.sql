-- The import table. It depends on the extension's server: DROP EXTENSION takes it, es_create_store() puts it back.

CREATE FOREIGN TABLE event_store.import (
    stream          text,
    event_type      text,
    data            jsonb DEFAULT '{}',
    metadata        jsonb,
    occurred_at     text,
    event_id        uuid,
    schema_version  integer
) SERVER event_store_import;
COMMENT ON FOREIGN TABLE event_store.import IS 'COPY or INSERT into it appends events';
