CREATE TABLE sales (country text, month date, items bigint, revenue numeric, PRIMARY KEY (country, month));
SELECT es_create_projection('sales', $$
    INSERT INTO sales AS s SELECT data->>'country', date_trunc('month', occurred_at)::date, sum((data->>'qty')::int),
        sum((data->>'qty')::int * (data->>'unit_price')::numeric) FROM new_events GROUP BY 1, 2
    ON CONFLICT (country, month) DO UPDATE SET items = s.items + EXCLUDED.items, revenue = s.revenue + EXCLUDED.revenue$$,
    categories => '{product}', tables => '{sales}');
