-- For bench/many.sh: a procedure that appends, and measures how long after its commit the event is visible in a projection.
CREATE EXTENSION event_store;
SELECT es_create_store();
CREATE TABLE one (position bigint PRIMARY KEY);
SELECT es_create_projection('one', 'INSERT INTO one SELECT position FROM new_events', event_types => '{One}');
CREATE TABLE measured (what text, ms double precision);
CREATE PROCEDURE measure(what text, n int, pause double precision) LANGUAGE plpgsql AS $$
DECLARE
	p bigint;
	start timestamptz;
BEGIN
	FOR i IN 1 .. n LOOP
		SELECT position INTO p FROM es_append('one-' || i % 10, -2, 'One', '{}');
		COMMIT;
		start := clock_timestamp();
		PERFORM es_wait_for_projection('one', p, '10 min');
		INSERT INTO measured VALUES (what, extract(epoch FROM clock_timestamp() - start) * 1000);
		COMMIT;
		PERFORM pg_sleep(pause);
	END LOOP;
END $$;
-- Appends events of a type, one in a transaction.
CREATE PROCEDURE append_some(type text, n int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		PERFORM es_append('many-1', -2, type, '{}');
		COMMIT;
		PERFORM pg_sleep(0.05);
	END LOOP;
END $$;
