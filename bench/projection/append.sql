\set id random(1, 10000)
SELECT es_append('account-' || :id, -2, 'Deposited', '{"amount": 12.5, "to": "account-17"}');
