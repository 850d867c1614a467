/* event_store: from version 0.1.0 to 0.2.0. Then: SELECT es_upgrade_store(). */

\echo Use "ALTER EXTENSION event_store UPDATE" to load this file. \quit

-- What sql/event_store.sql has more, or has otherwise, than version 0.1.0 had; t/093_from_0_1.pl compares the two. A function
-- whose arguments or result change is dropped and made again: es_upgrade_store() gives its rights again.
