-- The version of the extension where it is one that made stores of an elder layout. ALTER EXTENSION UPDATE comes first then.

SELECT extversion FROM pg_extension WHERE extname = 'event_store' AND extversion = '0.1.0';
