CREATE TABLE rate_by_month (currency text, month date, lowest numeric NOT NULL, highest numeric NOT NULL,
                            PRIMARY KEY (currency, month));
SELECT es_create_projection('rate_by_month', tables => '{rate_by_month}', categories => '{fx}', handler => $$
    INSERT INTO rate_by_month AS r
    SELECT data->>'currency', date_trunc('month', occurred_at)::date,
           min((data->>'rate')::numeric), max((data->>'rate')::numeric)
    FROM new_events GROUP BY 1, 2
    ON CONFLICT (currency, month) DO UPDATE SET lowest = least(r.lowest, EXCLUDED.lowest),
                                                highest = greatest(r.highest, EXCLUDED.highest)
$$);
