-- One rebuild; meanwhile this session reads the live table. Prints events/s | reads | reads that saw anything else.
DO $$
DECLARE
    whole record;
    seen record;
    started timestamptz;
    ended timestamptz;
    reads bigint := 0;
    wrong bigint := 0;
    events bigint := (SELECT count(*) FROM event_store.events WHERE category = 'product');
BEGIN
    SELECT count(*) AS n, sum(items) AS items, sum(revenue) AS revenue INTO whole FROM sales;
    PERFORM dblink_connect('other', format('host=%s port=%s user=postgres dbname=postgres', current_setting('unix_socket_directories'), current_setting('port')));
    started := clock_timestamp();
    PERFORM * FROM dblink('other', 'SELECT es_rebuild_projection(''sales'')') AS d(nothing text);
    LOOP
        SELECT count(*) AS n, sum(items) AS items, sum(revenue) AS revenue INTO seen FROM sales;
        reads := reads + 1;
        wrong := wrong + (seen IS DISTINCT FROM whole)::int;
        ended := clock_timestamp();
        EXIT WHEN NOT EXISTS (SELECT FROM event_store.rebuilds);
        PERFORM pg_sleep(0.005);
    END LOOP;
    PERFORM dblink_disconnect('other');
    PERFORM set_config('bench.result', format('%s|%s|%s', round(events / extract(epoch FROM ended - started)), reads, wrong), false);
END $$;
SELECT current_setting('bench.result');
