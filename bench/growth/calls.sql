-- A call of ten events, from a client that is beside the load.
\set id random(1, 1000000)
SELECT version FROM es_append('account-' || :id, -2, (SELECT jsonb_agg(jsonb_build_object('type', 'Deposited', 'data',
    jsonb_build_object('amount', i * 10.5, 'currency', 'EUR', 'reference', 'transfer-' || i, 'note', 'monthly saving, standing order'),
    'metadata', jsonb_build_object('user', 'clerk-17', 'request', 'r-000000-0000'))) FROM generate_series(1, 10) i));
