CREATE TABLE totals (stream text PRIMARY KEY, events bigint NOT NULL, amount numeric NOT NULL) WITH (fillfactor = 50);
SELECT es_create_projection('totals', $$
    INSERT INTO totals AS t SELECT stream, count(*), sum((data->>'amount')::numeric) FROM new_events GROUP BY 1
    ON CONFLICT (stream) DO UPDATE SET events = t.events + EXCLUDED.events, amount = t.amount + EXCLUDED.amount$$, tables => '{totals}');
