-- The Federal Reserve's exchange rates, 237,267 real events: imported, read back equal, questions answered.
\t on
\pset format unaligned
\getenv testdir PG_ABS_SRCDIR
SELECT es_create_store();
-- one JSON document a line: separators that cannot occur in it
CREATE TEMP TABLE source (line bigint GENERATED ALWAYS AS IDENTITY, doc jsonb);
\set load '\\copy source (doc) FROM PROGRAM ''gzip -dc ' :testdir '/data/fx-rates.ndjson.gz'' WITH (FORMAT csv, QUOTE E''\\x01'', DELIMITER E''\\x02'')'
:load
SELECT count(*) FROM source;
INSERT INTO event_store.import (stream, event_type, data, occurred_at)
    SELECT doc ->> 'stream', doc ->> 'type', doc -> 'data', doc ->> 'occurred_at' FROM source ORDER BY line;

-- read back equal, in the order of the source
SELECT count(*) FROM (
    SELECT doc ->> 'stream', doc ->> 'type', doc -> 'data', (doc ->> 'occurred_at')::timestamptz, row_number() OVER (ORDER BY line) FROM source
    EXCEPT ALL
    SELECT stream, event_type, data, occurred_at, row_number() OVER (ORDER BY position) FROM es_read_category('fx', 0, NULL)) d;
SELECT count(*) FROM es_read_category('fx', 0, NULL);
SELECT count(*), sum(version), max(version) FROM event_store.streams WHERE category = 'fx';
SELECT count(*), min(version), max(version), bool_and(version = n) FROM (SELECT version, row_number() OVER () AS n FROM es_read('fx-JPY')) e;
SELECT event_type, count(*) FROM es_read_all(0, NULL, categories => '{fx}') GROUP BY 1 ORDER BY 1;

-- every rate as of a day (what had happened by then)
SELECT stream, data ->> 'rate' AS rate FROM (
    SELECT DISTINCT ON (stream) stream, data FROM event_store.events
    WHERE category = 'fx' AND occurred_at <= '1985-09-20T23:59:59Z' ORDER BY stream, version DESC) r
ORDER BY stream COLLATE "C";
SELECT data ->> 'rate' FROM es_read('fx-CHF', backward => true) WHERE occurred_at <= '2015-01-15T23:59:59Z' LIMIT 1;
SELECT data ->> 'rate' FROM es_read('fx-EUR', backward => true, max_count => 1);
DROP TABLE source;
