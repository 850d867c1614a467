-- Sets the sequences of ids that are behind their tables beyond these: logical replication brings rows, but no sequences. Where
-- the rows were made by the sequence it never is behind, and is left alone. Positions have a rule of their own (log/epoch.c).

SELECT setval(s.sequence, s.highest)
FROM (
    SELECT 'event_store.stream_seq'::regclass AS sequence, (SELECT max(h.id) FROM event_store.heads h) AS highest
    UNION ALL
    SELECT pg_get_serial_sequence('event_store.categories', 'id')::regclass, (SELECT max(c.id) FROM event_store.categories c)
    UNION ALL
    SELECT pg_get_serial_sequence('event_store.event_types', 'id')::regclass, (SELECT max(t.id) FROM event_store.event_types t)
    UNION ALL
    SELECT pg_get_serial_sequence('event_store.subscriptions', 'id')::regclass, (SELECT max(b.id) FROM event_store.subscriptions b)) s
WHERE s.highest > coalesce(pg_sequence_last_value(s.sequence), 0);
