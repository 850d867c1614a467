-- The running digest of a stream, computed anew in SQL from what src/log/digest.c documents.
\t on
\pset format unaligned
SELECT es_create_store();
CREATE FUNCTION pg_temp.be64(n bigint) RETURNS bytea LANGUAGE sql AS 'SELECT int8send(n)';
CREATE FUNCTION pg_temp.str(s text) RETURNS bytea LANGUAGE sql AS $$SELECT int8send(octet_length(convert_to(s, 'UTF8'))) || convert_to(s, 'UTF8')$$;
CREATE FUNCTION pg_temp.canon(j jsonb) RETURNS bytea STRICT LANGUAGE plpgsql AS $$
DECLARE result bytea; k text; v jsonb;
BEGIN
    CASE jsonb_typeof(j)
        WHEN 'null' THEN RETURN 'z';
        WHEN 'boolean' THEN RETURN CASE WHEN j::text = 'true' THEN 't' ELSE 'f' END;
        WHEN 'number' THEN RETURN 'n'::bytea || pg_temp.str(j #>> '{}');
        WHEN 'string' THEN RETURN 's'::bytea || pg_temp.str(j #>> '{}');
        WHEN 'array' THEN
            result := '['::bytea || pg_temp.be64(jsonb_array_length(j));
            FOR v IN SELECT e FROM jsonb_array_elements(j) WITH ORDINALITY a(e, n) ORDER BY n LOOP
                result := result || pg_temp.canon(v);
            END LOOP;
        WHEN 'object' THEN
            result := '{'::bytea || pg_temp.be64((SELECT count(*) FROM jsonb_object_keys(j)));
            FOR k, v IN SELECT o.key, o.value FROM jsonb_each(j) o ORDER BY octet_length(convert_to(o.key, 'UTF8')), convert_to(o.key, 'UTF8') LOOP
                result := result || pg_temp.str(k) || pg_temp.canon(v);
            END LOOP;
    END CASE;
    RETURN result;
END $$;
CREATE FUNCTION pg_temp.us(t timestamptz) RETURNS bytea LANGUAGE sql AS $$SELECT timestamptz_send(t)$$;
CREATE FUNCTION pg_temp.digest(of_stream text) RETURNS bytea LANGUAGE plpgsql AS $$
DECLARE chain bytea := decode(repeat('00', 32), 'hex'); e record; store uuid := (SELECT id FROM event_store.store);
BEGIN
    FOR e IN SELECT l.*, h.name, t.name AS type FROM event_store.log l JOIN event_store.heads h ON h.id = l.stream
        JOIN event_store.event_types t ON t.id = l.event_type WHERE h.name = of_stream ORDER BY l.version LOOP
        chain := sha256('\x01'::bytea || uuid_send(store) || pg_temp.str(e.name) || pg_temp.be64(e.version) || pg_temp.be64(e.position)
            || pg_temp.str(e.type) || pg_temp.be64(e.schema_version) || pg_temp.us(e.occurred_at) || pg_temp.us(e.recorded_at)
            || uuid_send(e.event_id)
            || sha256(uuid_send(e.salt) || 'd'::bytea || pg_temp.canon(e.data) || 'm'::bytea || coalesce(pg_temp.canon(e.metadata), ''::bytea))
            || chain);
    END LOOP;
    RETURN chain;
END $$;
SELECT version FROM es_append('digest-1', 0, 'Opened', '{"b": [1, 2.50, -3e10, true, false, null, "x\n\"ü漢"], "a": {}, "long key": [], "é": {"z": {"y": [[]]}}}', '{"user_id": "u"}', schema_version => 7, occurred_at => '1700-01-01 00:00+00');
SELECT version FROM es_append('digest-1', 1, '[{"type": "Scalar", "data": 0.10}, {"type": "Ünicode ☃", "data": "text"}, {"type": "Opened"}]');
SELECT version FROM es_append('digest-2', 0, 'Large', jsonb_build_object('text', repeat('0123456789', 3000), 'list', (SELECT jsonb_agg(i) FROM generate_series(1, 3000) i)));
SELECT events FROM es_append_batch('{digest-1,digest-2,digest-1}', '{A,B,C}', ARRAY['{"i": 1}', '{"i": 2}', '{"i": 3}']::jsonb[]);
SELECT h.name, h.version, h.digest = pg_temp.digest(h.name) FROM event_store.heads h WHERE h.name LIKE 'digest-%' ORDER BY 1;
-- any change shows
BEGIN;
ALTER TABLE event_store.log_0 DISABLE TRIGGER USER;
UPDATE event_store.log_0 SET data = '{"i": 4}' WHERE data = '{"i": 3}';
SELECT h.name, h.digest = pg_temp.digest(h.name) FROM event_store.heads h WHERE h.name LIKE 'digest-%' ORDER BY 1;
ROLLBACK;
-- salts differ, also for equal data
SELECT count(*) = count(DISTINCT salt) FROM event_store.log;
