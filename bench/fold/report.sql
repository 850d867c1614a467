-- The report of fold.sh, from a table slices (line jsonb), as Markdown.
SET client_min_messages = warning;
CREATE TEMP VIEW slice AS
    SELECT line->>'variant' AS variant, (line->>'events')::int AS events, (line->>'round')::int AS round,
        (line->>'wall_ns')::float8 / calls AS wall, (line->>'backend_ns')::float8 / calls AS cpu, (line->>'client_ns')::float8 / calls AS client
    FROM (SELECT line, (line->>'calls')::float8 AS calls FROM slices) s;

-- Three digits that count.
CREATE FUNCTION pg_temp.three(x float8) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN x IS NULL THEN '' WHEN x >= 100 THEN to_char(round(x), 'FM999,999,999') WHEN x >= 10 THEN to_char(x, 'FM99.0') ELSE to_char(x, 'FM0.00') END $$;
CREATE FUNCTION pg_temp.kilo(x float8) RETURNS text LANGUAGE sql AS $$
    SELECT to_char(round((x / 1000)::numeric) * 1000, 'FM999,999,999') $$;

CREATE TEMP VIEW relative AS
    SELECT s.variant, s.events, s.round, s.wall, s.cpu, s.client, (s.cpu + s.client) / (r.cpu + r.client) AS to_rules,
        (s.cpu + s.client) / (q.cpu + q.client) AS to_sql, (s.cpu + s.client) / (b.cpu + b.client) AS to_scan
    FROM slice s LEFT JOIN slice r ON r.variant = 'es_load, rules' AND r.events = s.events AND r.round = s.round
        LEFT JOIN slice q ON q.variant = 'es_load, SQL expression' AND q.events = s.events AND q.round = s.round
        LEFT JOIN slice b ON b.variant = 'bare scan' AND b.events = s.events AND b.round = s.round;
CREATE TEMP VIEW summary AS
    SELECT variant, events, percentile_cont(0.5) WITHIN GROUP (ORDER BY wall) AS wall, percentile_cont(0.5) WITHIN GROUP (ORDER BY cpu) AS cpu,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY client) AS client,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY to_rules) AS to_rules, min(to_rules) AS rules_min, max(to_rules) AS rules_max,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY to_sql) AS to_sql, min(to_sql) AS sql_min, max(to_sql) AS sql_max,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY to_scan) AS to_scan
    FROM relative GROUP BY variant, events;

SELECT E'\n## Folding a stream of ' || to_char(events, 'FM999,999') || E' events\n\n'
    || E'| | events/s | events/s a core | µs of CPU an event | CPU / rules | of the rounds | CPU / SQL expression | CPU / bare scan |\n|---|---:|---:|---:|---:|---:|---:|---:|\n'
    || string_agg(format('| %s | %s | %s | %s | **%s** | %s to %s | %s | %s |', variant, pg_temp.kilo(events * 1e9 / wall), pg_temp.kilo(events * 1e9 / (cpu + client)), pg_temp.three((cpu + client) / events / 1000),
        pg_temp.three(to_rules), pg_temp.three(rules_min), pg_temp.three(rules_max), pg_temp.three(to_sql), pg_temp.three(to_scan)), E'\n' ORDER BY cpu + client)
FROM summary WHERE events > 0 GROUP BY events ORDER BY events DESC;

SELECT E'\n## Loading a state by name\n\n| | µs a call | µs of CPU a call | time / row by primary key | of the rounds |\n|---|---:|---:|---:|---:|\n'
    || string_agg(format('| %s | %s | %s | **%s** | %s to %s |', variant, pg_temp.three(wall / 1000), pg_temp.three(cpu / 1000), pg_temp.three(ratio), pg_temp.three(least), pg_temp.three(greatest)), E'\n' ORDER BY wall)
FROM (SELECT s.variant, percentile_cont(0.5) WITHIN GROUP (ORDER BY s.wall) AS wall, percentile_cont(0.5) WITHIN GROUP (ORDER BY s.cpu) AS cpu,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY s.wall / k.wall) AS ratio, min(s.wall / k.wall) AS least, max(s.wall / k.wall) AS greatest
    FROM slice s JOIN slice k ON k.variant = 'row by primary key' AND k.round = s.round WHERE s.events = 0 GROUP BY 1) t;
