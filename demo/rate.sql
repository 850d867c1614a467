SELECT o.version, o.event_type, o.occurred_at::date AS day, r.rate AS usd_per_gbp,
       round(740 / r.rate, 2) AS order_in_pounds
FROM es_read('order-1001') AS o
CROSS JOIN LATERAL (
    SELECT (e.data->>'rate')::numeric AS rate
    FROM event_store.events AS e
    WHERE e.stream = 'fx-GBP' AND e.occurred_at <= o.occurred_at
    ORDER BY e.occurred_at DESC LIMIT 1) AS r
ORDER BY o.version;
