-- Has the trigger of guard.sql fire also where session_replication_role is replica.
--
-- table: its name.

ALTER TABLE event_store.:table ENABLE ALWAYS TRIGGER es_immutable;
