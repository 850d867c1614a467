-- As many events as retail-products has, of the same shape.
INSERT INTO event_store.import (stream, event_type, data, occurred_at)
SELECT 'product-' || i % 4000, 'ItemSold', jsonb_build_object('invoice', 536365 + i / 20, 'qty', 1 + i % 7, 'unit_price', 0.5 + i % 10,
    'description', 'WHITE HANGING HEART T-LIGHT HOLDER', 'customer', 12000 + i % 4000, 'country', 'Country ' || i % 38),
    '2010-12-01'::timestamptz + i * interval '1 minute'
FROM generate_series(1, :events) i;
