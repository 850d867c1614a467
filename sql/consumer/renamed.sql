-- Which projections and subscriptions do not get events of a type that they ask for, because upcasters give these events another
-- type that they do not ask for.
--
-- type: only events whose upcasters go through this type; '': all. consumer: only this one, 'projection' or
-- 'subscription' and its name; '': all.

WITH RECURSIVE step AS (
    SELECT u.event_type, u.from_version, u.to_type, u.from_version + 1 AS to_version FROM event_store.upcasters u
    UNION ALL
    SELECT s.event_type, s.from_version, u.to_type, u.from_version + 1
    FROM step s
    JOIN event_store.upcasters u ON u.event_type = s.to_type AND u.from_version = s.to_version
),
delivered AS (
    SELECT DISTINCT ON (s.event_type, s.from_version) s.event_type, s.from_version, s.to_type
    FROM step s
    ORDER BY s.event_type, s.from_version, s.to_version DESC
),
consumer AS (
    SELECT 'projection' AS kind, p.name, p.event_types FROM event_store.projections p
    UNION ALL
    SELECT 'subscription', b.name, b.event_types FROM event_store.subscriptions b
)
SELECT c.kind, c.name, d.event_type, min(d.from_version)::text, d.to_type
FROM consumer c
JOIN delivered d ON d.event_type = ANY (c.event_types)
WHERE d.to_type <> ALL (c.event_types)
    AND (:consumer = '' OR c.kind || ' ' || c.name = :consumer)
    AND (:type = '' OR d.event_type = :type
        OR EXISTS (SELECT FROM step s WHERE s.event_type = d.event_type AND s.from_version = d.from_version AND s.to_type = :type))
GROUP BY c.kind, c.name, d.event_type, d.to_type
ORDER BY c.kind, c.name, d.event_type, d.to_type;
