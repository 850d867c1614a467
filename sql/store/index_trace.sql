-- What es_create_store(trace => true) adds, for es_trace().

CREATE INDEX IF NOT EXISTS log_correlation_id ON event_store.log ((metadata ->> 'correlation_id'), position)
    WHERE (metadata ->> 'correlation_id') IS NOT NULL;
