# Subscriptions under stress: consumers that fetch, acknowledge, refuse, stall beyond their lease and are killed, while
# appenders append, roll back and keep transactions open; and a crash of the server in the middle.
#
# A consumer writes down what it does in the same transactions in which it does it: deliveries with the time for which
# it may rely on them, and what it acknowledged. From that is checked that each event was acknowledged exactly once, in
# the order of its stream, that nothing acknowledged was delivered again, and that no two consumers held a stream at once.
#
# ES_LONG=1 makes it longer.
use strict;
use warnings;

use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seconds = $ENV{ES_LONG} ? 120 : 6;    # of each half
my ($consumers, $appenders) = (4, 2);
my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "jit = off\nlog_min_messages = fatal\nlog_min_error_statement = fatal\nevent_store.assume_schema_version_1 = on");
$node->start;

$node->safe_psql($db, <<'SQL');
CREATE EXTENSION event_store;
SELECT es_create_store();
SELECT es_register_upcaster('C', 1, 'data', to_type => 'B'), es_register_upcaster('D', 1, 'NULL', to_type => 'B');
SELECT es_create_subscription('all'), es_create_subscription('some', '{s}', '{B}');

CREATE SCHEMA seen;
CREATE TABLE seen.delivery (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, subscription text, consumer text,
	asked timestamptz, got timestamptz, good_until timestamptz, replied timestamptz, committed timestamptz, upto bigint, refused boolean);
CREATE TABLE seen.event (delivery bigint, n int, stream text, version bigint, position bigint);
CREATE TABLE seen.ack (n bigint GENERATED ALWAYS AS IDENTITY, delivery bigint, subscription text, stream text,
	version bigint, position bigint, began timestamptz);
CREATE TABLE seen.note (what text);

-- One after the other, until the time is up. The lease is short.
CREATE PROCEDURE seen.consume(name text, ends timestamptz) LANGUAGE plpgsql AS $$
<<consume>>
DECLARE
	lease CONSTANT interval := '150 ms';
	sub text; d bigint; upto bigint; asked timestamptz; began timestamptz; fetched int; last bigint; dice float8; nack boolean;
BEGIN
	WHILE clock_timestamp() < ends LOOP
		sub := CASE WHEN random() < 0.7 THEN 'all' ELSE 'some' END;
		asked := clock_timestamp();
		INSERT INTO seen.delivery (subscription, consumer, asked) VALUES (sub, name, asked) RETURNING id INTO d;
		INSERT INTO seen.event SELECT d, n, e.stream, e.version, e.position
			FROM (SELECT row_number() OVER () AS n, f.* FROM es_fetch(sub, name, (1 + random() ^ 3 * 300)::int, lease,
				CASE WHEN random() < 0.5 THEN interval '40 ms' ELSE '0' END) f) e;
		GET DIAGNOSTICS fetched = ROW_COUNT;
		-- the lease began after we asked; but waiting is not part of it
		UPDATE seen.delivery SET got = clock_timestamp(), good_until = delivery.asked + consume.lease WHERE id = d;
		dice := random();
		IF dice < 0.03 THEN
			ROLLBACK;
			CONTINUE;
		END IF;
		COMMIT;
		CONTINUE WHEN fetched = 0;
		IF dice < 0.08 THEN
			CONTINUE;						-- forgets to acknowledge
		ELSIF dice < 0.14 THEN
			INSERT INTO seen.note VALUES ('stall');
			COMMIT;
			PERFORM pg_sleep(0.3);
		ELSIF dice < 0.5 THEN
			PERFORM pg_sleep(random() * 0.02);
		END IF;
		-- all of it, or a part
		SELECT max(position) INTO last FROM seen.event WHERE delivery = d;
		upto := last;
		IF random() < 0.4 THEN
			SELECT position INTO upto FROM seen.event WHERE delivery = d ORDER BY random() LIMIT 1;
		END IF;
		began := clock_timestamp();
		BEGIN
			nack := random() < 0.03;
			IF nack THEN
				PERFORM es_nack(sub, upto, 'dice', name);
				INSERT INTO seen.note VALUES ('nack');
			ELSE
				PERFORM es_ack(sub, upto, name);
				INSERT INTO seen.ack (delivery, subscription, stream, version, position, began)
					SELECT d, sub, stream, version, position, began FROM seen.event
					WHERE delivery = d AND position <= upto ORDER BY position;
			END IF;
			UPDATE seen.delivery SET replied = began, upto = consume.upto, refused = nack WHERE id = d;
		EXCEPTION WHEN SQLSTATE 'YE010' THEN
			INSERT INTO seen.note VALUES ('lost');
		END;
		COMMIT;
		UPDATE seen.delivery SET committed = clock_timestamp() WHERE id = d;
		COMMIT;
	END LOOP;
END $$;

CREATE PROCEDURE seen.produce(ends timestamptz) LANGUAGE plpgsql AS $$
BEGIN
	WHILE clock_timestamp() < ends LOOP
		FOR i IN 1 .. 1 + (random() * 2)::int LOOP
			PERFORM es_append_batch(array_agg(CASE WHEN random() < 0.8 THEN 's-' ELSE 't-' END || (random() ^ 2 * 60)::int),
				array_agg(chr(65 + (random() * 3)::int)), array_agg('{}'::jsonb)) FROM generate_series(1, 1 + (random() * 20)::int);
			IF random() < 0.2 THEN
				PERFORM pg_sleep(random() * 0.03);
			END IF;
		END LOOP;
		IF random() < 0.2 THEN
			INSERT INTO seen.note VALUES ('committed although rolled back');
			ROLLBACK;
		ELSE
			COMMIT;
		END IF;
		PERFORM pg_sleep(random() * 0.01);
	END LOOP;
END $$;
SQL

# Clients, each a psql that is started again when it was killed, until the time is up.
my @children;
sub start_client
{
	my ($call, $end) = @_;
	my $pid = fork() // die "fork: $!";
	if ($pid == 0)
	{
		open STDOUT, '>', '/dev/null';
		open STDERR, '>', '/dev/null';
		while (time < $end)
		{
			my $left = sprintf '%.3f', $end - time;
			system 'psql', '-XqAt', '-d', $node->connstr($db), '-c', sprintf($call, "clock_timestamp() + '$left s'");
			usleep(20_000);
		}
		POSIX::_exit(0);
	}
	push @children, $pid;
	return;
}

my ($kills, $crashes) = (0, 0);

sub run_for
{
	my ($time, $crash) = @_;
	my $end = time + $time;
	start_client("CALL seen.consume('c$_', %s)", $end) for 1 .. $consumers;
	start_client('CALL seen.produce(%s)', $end) for 1 .. $appenders;
	while (time < $end)
	{
		usleep(250_000);
		if ($crash && time > $end - $time / 3)
		{
			$crash = 0;
			$crashes++;
			$node->stop('immediate');
			$node->start;
		}
		$kills += $node->safe_psql($db, q[
			SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
			WHERE query LIKE 'CALL seen.consume%' AND random() < 0.5 ORDER BY random() LIMIT 1) s;
			SELECT es_retry_quarantined(s) FROM unnest('{all,some}'::text[]) s WHERE random() < 0.3]) =~ /^(\d+)/ ? $1 : 0;
	}
	waitpid $_, 0 for splice @children;
	return;
}

run_for($seconds, 1);
run_for($seconds, 0);

# What is left goes to one who is careful.
$node->safe_psql($db, 'SELECT es_retry_quarantined(s) FROM unnest(ARRAY[\'all\', \'some\']) s');
my $drained = $node->safe_psql($db, <<'SQL');
CREATE PROCEDURE seen.drain(sub text) LANGUAGE plpgsql AS $$
DECLARE
	d bigint; upto bigint; empty int := 0;
BEGIN
	WHILE empty < 3 LOOP
		INSERT INTO seen.delivery (subscription, consumer, asked) VALUES (sub, 'last', clock_timestamp()) RETURNING id INTO d;
		INSERT INTO seen.event SELECT d, row_number() OVER (), f.stream, f.version, f.position
			FROM es_fetch(sub, 'last', 1000, '1 hour', '500 ms') f;
		-- not before: it may have waited for the end of a lease
		UPDATE seen.delivery SET got = clock_timestamp(), good_until = clock_timestamp() WHERE id = d;
		SELECT max(position) INTO upto FROM seen.event WHERE delivery = d;
		COMMIT;
		IF upto IS NULL THEN
			empty := empty + 1;
			CONTINUE;
		END IF;
		empty := 0;
		PERFORM es_ack(sub, upto, 'last');
		INSERT INTO seen.ack (delivery, subscription, stream, version, position, began)
			SELECT d, sub, stream, version, position, clock_timestamp() FROM seen.event WHERE delivery = d ORDER BY position;
		COMMIT;
	END LOOP;
END $$;
CALL seen.drain('all');
CALL seen.drain('some');
SELECT count(*) FROM event_store.subscription_streams;
SQL
is($drained, '0', 'nothing is left in flight');

sub value { my ($sql) = @_; return $node->safe_psql($db, $sql) }

my %wanted = (
	all => q[SELECT stream, version FROM event_store.events WHERE event_type <> 'D'],
	some => q[SELECT stream, version FROM event_store.events WHERE category = 's' AND event_type IN ('B', 'C')]);
for my $sub (sort keys %wanted)
{
	cmp_ok(value("SELECT count(*) FROM ($wanted{$sub}) e"), '>', 200, "$sub: there were events");
	is(value("SELECT count(*) FROM ($wanted{$sub} EXCEPT SELECT stream, version FROM seen.ack WHERE subscription = '$sub') e"),
		'0', "$sub: every event was acknowledged");
	is(value("SELECT count(*) FROM (SELECT stream, version FROM seen.ack WHERE subscription = '$sub' EXCEPT $wanted{$sub}) e"),
		'0', "$sub: and no other");
	is(value("SELECT count(*) - count(DISTINCT (stream, version)) FROM seen.ack WHERE subscription = '$sub'"),
		'0', "$sub: and none twice");
	is(value("SELECT count(*) FROM (SELECT version < lag(version) OVER (PARTITION BY stream ORDER BY n) AS back
		FROM seen.ack WHERE subscription = '$sub') e WHERE back"), '0', "$sub: in the order of its stream");
}
is(value('SELECT count(*) FROM (SELECT position <= lag(position) OVER (PARTITION BY delivery ORDER BY n) AS back FROM seen.event) e WHERE back'),
	'0', 'deliveries are in position order');
$node->safe_psql($db, <<'SQL');
CREATE INDEX ON seen.event (stream, delivery);
CREATE INDEX ON seen.event (delivery);
ANALYZE seen.delivery, seen.event, seen.ack;
-- For how long a consumer could rely on it: to the end of the lease, or until it asked again; a reply that was accepted
-- says that it had it until then, and gives back what is done or refused.
CREATE TABLE seen.hold AS
	SELECT h.subscription, h.consumer, h.stream, h.id, h.first, h.last, h.events, h.asked, h.got,
		CASE WHEN h.replied IS NULL THEN least(h.good_until, h.asked_again)
			WHEN CASE WHEN h.refused THEN h.first_position ELSE h.last_position END <= h.upto THEN h.replied
			ELSE greatest(h.replied, least(h.good_until, h.asked_again)) END AS good_until
	FROM (SELECT d.*, e.stream, min(e.version) AS first, max(e.version) AS last, count(*) AS events,
			min(e.position) AS first_position, max(e.position) AS last_position
		FROM (SELECT *, lead(asked) OVER (PARTITION BY subscription, consumer ORDER BY id) AS asked_again FROM seen.delivery) d
		JOIN seen.event e ON e.delivery = d.id
		GROUP BY d.id, d.subscription, d.consumer, d.asked, d.got, d.good_until, d.replied,
			d.committed, d.upto, d.refused, d.asked_again, e.stream) h;
CREATE INDEX ON seen.hold (subscription, stream, got);
ANALYZE seen.hold;
SQL
my $overlap = q[FROM seen.hold a JOIN seen.hold b USING (subscription, stream)
	WHERE a.consumer <> b.consumer AND a.got <= b.got AND b.got < a.good_until];
is(value("SELECT count(*) $overlap"), '0', 'no two consumers held a stream at the same time')
  or diag(value("SELECT a, b $overlap LIMIT 10"), "\n", value("SELECT d FROM seen.delivery d WHERE d.id BETWEEN
	(SELECT min(a.id) - 10 $overlap) AND (SELECT max(b.id) + 10 $overlap) ORDER BY d.id LIMIT 100"));
is(value(q[SELECT count(*) FROM seen.hold h JOIN seen.ack a USING (subscription, stream)
	JOIN seen.delivery d ON d.id = a.delivery WHERE a.version >= h.first AND h.asked > d.committed]),
	'0', 'nothing was delivered after it was acknowledged');
is(value(q[SELECT count(*) FROM seen.hold h WHERE h.subscription = 'all' AND h.events <> (SELECT count(*) FROM event_store.events e
	WHERE e.stream = h.stream AND e.version BETWEEN h.first AND h.last AND e.event_type <> 'D')]),
	'0', 'deliveries have all of a stream');
is(value("SELECT string_agg(f::text, ' ') FROM es_check('all') f"), '', 'es_check finds nothing');

# It must really have happened.
cmp_ok($kills, '>=', 5, "consumers were killed: $kills");
is($crashes, 1, 'the server crashed');
for my $what ('stall', 'lost', 'nack')
{
	my $n = value("SELECT count(*) FROM seen.note WHERE what = '$what'");
	cmp_ok($n, '>=', 1, "$what: $n");
}
is(value("SELECT count(*) FROM seen.note WHERE what LIKE 'committed%'"), '0', 'rolled back appends are gone');
cmp_ok(value('SELECT count(*) - count(DISTINCT (d.subscription, e.stream, e.version)) FROM seen.event e JOIN seen.delivery d ON d.id = e.delivery'),
	'>', 100, 'events were delivered again');
cmp_ok(value(q[SELECT count(*) FROM (SELECT subscription, stream FROM seen.hold GROUP BY 1, 2 HAVING count(DISTINCT consumer) > 2) s]),
	'>', 20, 'streams went from one consumer to others');
note(value(q[SELECT count(*) || ' events, ' || (SELECT count(*) FROM seen.delivery) || ' deliveries' FROM event_store.events]));
$node->stop;
done_testing();
