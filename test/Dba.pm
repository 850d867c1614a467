# What the administrator of a database does beside a store that is in use: statements for the crash loop, the fuzzer and the
# model. None of it may make an answer wrong; most of it may not even be noticed.
package Dba;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT_OK = qw($detachable $attach_all $event_triggers $no_event_triggers $has_event_triggers $no_publication $publication);

# The partitions that are full and settled: the newest ones are left, so that appends go on.
our $detachable = q[SELECT name FROM event_store.log_partitions p
	WHERE to_position < (SELECT mark FROM event_store.mark) AND to_position < (SELECT max(to_position) FROM event_store.log_partitions)
		AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = to_regclass('event_store.' || p.name))];

# Attaches whatever is detached, and has go on what has failed for want of it. (A crash may have come between.)
our $attach_all = q[DO $$
	DECLARE p record;
	BEGIN
		FOR p IN SELECT * FROM event_store.log_partitions l
			WHERE NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = to_regclass('event_store.' || l.name)) LOOP
			EXECUTE format('ALTER TABLE event_store.log ATTACH PARTITION event_store.%I FOR VALUES FROM (%s) TO (%s)', p.name, p.from_position, p.to_position);
		END LOOP;
		FOR p IN SELECT name FROM event_store.projection_status WHERE status = 'failed' OR rebuild = 'failed' LOOP
			PERFORM es_resume(p.name);
		END LOOP;
	END $$];

# Event triggers that let nobody change the schema. (That one is made or dropped they do not hear of.)
our $event_triggers = q[
	CREATE OR REPLACE FUNCTION public.no_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no DDL in production: %', tg_tag; END$$;
	CREATE EVENT TRIGGER no_ddl_at_end ON ddl_command_end EXECUTE FUNCTION public.no_ddl();
	CREATE EVENT TRIGGER no_ddl_drop ON sql_drop EXECUTE FUNCTION public.no_ddl();
	CREATE EVENT TRIGGER no_ddl_rewrite ON table_rewrite EXECUTE FUNCTION public.no_ddl();
	CREATE EVENT TRIGGER no_ddl ON ddl_command_start EXECUTE FUNCTION public.no_ddl()];
our $no_event_triggers = join ';', map { "DROP EVENT TRIGGER IF EXISTS $_" } qw(no_ddl no_ddl_rewrite no_ddl_drop no_ddl_at_end);
our $has_event_triggers = q[SELECT count(*) FROM pg_event_trigger WHERE evtname LIKE 'no\_ddl%'];

our $publication = 'CREATE PUBLICATION everything FOR ALL TABLES';
our $no_publication = 'DROP PUBLICATION IF EXISTS everything';

1;
