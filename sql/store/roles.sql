-- Brings the roles in the tables up to date (store/role.c), and returns those that stored text runs as.
--
-- system: the identifier of this server. set_role: what pg_has_role() calls the right to SET ROLE.

-- A role that was renamed, on this server.
UPDATE event_store.aggregates d SET role = r.rolname FROM pg_roles r
WHERE d.role_system = :system AND r.oid = d.role_oid AND d.role <> r.rolname;
UPDATE event_store.upcasters d SET role = r.rolname FROM pg_roles r
WHERE d.role_system = :system AND r.oid = d.role_oid AND d.role <> r.rolname;
UPDATE event_store.event_checks d SET role = r.rolname FROM pg_roles r
WHERE d.role_system = :system AND r.oid = d.role_oid AND d.role <> r.rolname;
UPDATE event_store.projections d SET role = r.rolname FROM pg_roles r
WHERE d.role_system = :system AND r.oid = d.role_oid AND d.role <> r.rolname;
UPDATE event_store.rebuilds d SET role = r.rolname FROM pg_roles r
WHERE d.role_system = :system AND r.oid = d.role_oid AND d.role <> r.rolname;
UPDATE event_store.grants d SET role = r.rolname FROM pg_roles r
WHERE d.role_system = :system AND r.oid = d.role_oid AND d.role <> r.rolname;

-- What another server wrote, or version 0.1: the role of that name, where the owner of the store may act as it.
UPDATE event_store.aggregates d SET role_oid = r.oid, role_system = :system
FROM pg_roles r WHERE d.role_system <> :system AND r.rolname = d.role AND pg_has_role(r.oid, :set_role);
UPDATE event_store.upcasters d SET role_oid = r.oid, role_system = :system
FROM pg_roles r WHERE d.role_system <> :system AND r.rolname = d.role AND pg_has_role(r.oid, :set_role);
UPDATE event_store.event_checks d SET role_oid = r.oid, role_system = :system
FROM pg_roles r WHERE d.role_system <> :system AND r.rolname = d.role AND pg_has_role(r.oid, :set_role);
UPDATE event_store.projections d SET role_oid = r.oid, role_system = :system,
    state = CASE WHEN d.state = 'failed' AND EXISTS (SELECT FROM event_store.checkpoints c
        WHERE c.projection = d.name AND NOT c.rebuild AND c.error_code = '42704') THEN 'running' ELSE d.state END
FROM pg_roles r WHERE d.role_system <> :system AND r.rolname = d.role AND pg_has_role(r.oid, :set_role);
UPDATE event_store.rebuilds d SET role_oid = r.oid, role_system = :system
FROM pg_roles r WHERE d.role_system <> :system AND r.rolname = d.role AND pg_has_role(r.oid, :set_role);

-- Who was given rights need not be a role of the owner's.
UPDATE event_store.grants d SET role_oid = r.oid, role_system = :system
FROM pg_roles r WHERE d.role_system <> :system AND r.rolname = d.role;

SELECT DISTINCT d.role_oid FROM (
    SELECT role_oid, role_system FROM event_store.aggregates
    UNION ALL SELECT role_oid, role_system FROM event_store.upcasters
    UNION ALL SELECT role_oid, role_system FROM event_store.event_checks
    UNION ALL SELECT role_oid, role_system FROM event_store.projections
    UNION ALL SELECT role_oid, role_system FROM event_store.rebuilds) d
JOIN pg_roles r ON r.oid = d.role_oid
WHERE d.role_system = :system
ORDER BY 1;
