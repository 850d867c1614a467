# Whose an error of a handler is: an event's, the handler's, or nobody's here, and then it is tried again and no event is blamed.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q[
shared_preload_libraries = 'event_store'
event_store.poll_interval = 50ms
max_worker_processes = 16
log_min_messages = log
]);
$node->start;
$node->safe_psql($db, 'CREATE EXTENSION event_store; SELECT es_create_store()');

sub q1 { return $node->safe_psql($db, $_[0]) }

sub status { return q1("SELECT $_[1] FROM event_store.projection_status WHERE name = '$_[0]'") }

# append(STREAM, DATA, ...): the last position
sub append
{
	my ($stream, @data) = @_;
	my $position;
	$position = q1(qq[SELECT position FROM es_append('$stream', es_expect_any(), 'E', '$_')]) for @data;
	return $position;
}

sub create { return q1("SELECT es_create_projection('$_[0]', \$h\$$_[1]\$h\$, ARRAY['$_[0]'])") }

sub caught_up { return q1("SELECT es_wait_for_projection('$_[0]', (SELECT max(position) FROM event_store.events), '3min')") eq 't' }

sub becomes { return $node->poll_query_until($db, "SELECT $_[1] FROM event_store.projection_status WHERE name = '$_[0]'") }

q1('CREATE TABLE healthy (position bigint PRIMARY KEY)');
create('healthy', 'INSERT INTO healthy SELECT position FROM new_events');
append('healthy-1', '{}');
ok(caught_up('healthy'), 'a healthy projection');
my $workers = q1(q[SELECT string_agg(pid::text, ' ' ORDER BY number) FROM es_workers() WHERE kind = 'worker']);

# ---- errors that pass, and that no event is blamed for

# What the handler does is in a row that a test can change.
q1(q[
CREATE TABLE raises (code text);
INSERT INTO raises VALUES (NULL);
CREATE FUNCTION maybe_raise() RETURNS void LANGUAGE plpgsql AS $$
DECLARE c text;
BEGIN
	SELECT code INTO c FROM raises;
	IF c IS NOT NULL THEN RAISE EXCEPTION 'raised %', c USING ERRCODE = c; END IF;
END $$]);

for my $code (qw(57014 08001 53100 58030 40001 55P03 57P03))
{
	my $name = lc "passing_$code";
	q1("CREATE TABLE $name (position bigint PRIMARY KEY); UPDATE raises SET code = '$code'");
	create($name, "SELECT maybe_raise() FROM new_events; INSERT INTO $name SELECT position FROM new_events");
	append("$name-1", '{}', '{}');
	append("$name-2", '{}');
	ok(becomes($name, 'attempts > 1'), "$code: tried again");
	is(status($name, 'health, status, last_error_code, quarantined_streams'), "waiting|running|$code|0", "$code: the status says why");
	append('healthy-1', '{}');
	ok(caught_up('healthy'), "$code: another one goes on");
	q1('UPDATE raises SET code = NULL');
	q1("SELECT es_resume('$name')");
	ok(caught_up($name), "$code: it passes");
	is(q1("SELECT count(*) FROM $name") . '|' . status($name, 'health, quarantined_streams'), '3|ok|0', "$code: each event once, and none blamed");
}
is(q1(q[SELECT string_agg(pid::text, ' ' ORDER BY number) FROM es_workers() WHERE kind = 'worker' AND pid::text = ANY (string_to_array('] . $workers . q[', ' '))]),
	$workers, 'no worker was lost');

# However often.
q1(q[UPDATE raises SET code = '08006']);
append('passing_08001-3', '{}');
ok(becomes('passing_08001', 'attempts > 0'), 'an outage');
q1(q[ALTER TABLE event_store.checkpoints DISABLE TRIGGER USER;
	UPDATE event_store.checkpoints SET attempts = 100, retry_at = NULL WHERE projection = 'passing_08001';
	ALTER TABLE event_store.checkpoints ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row]);
ok(becomes('passing_08001', 'attempts > 100'), 'of any length');
is(status('passing_08001', 'health, quarantined_streams'), 'waiting|0', 'puts nothing into quarantine');
q1('UPDATE raises SET code = NULL');

# ---- the statement_timeout of another server

SKIP:
{
	skip 'postgres_fdw is not installed', 2 unless q1(q[SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw']);
	my ($host, $port) = ($node->host, $node->port);
	q1(qq[
CREATE EXTENSION postgres_fdw;
CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'postgres', options '-c statement_timeout=100ms');
CREATE USER MAPPING FOR CURRENT_USER SERVER far;
CREATE TABLE slow_base (n int);
INSERT INTO slow_base VALUES (1);
CREATE VIEW slow AS SELECT n, pg_sleep(60)::text AS s FROM slow_base;
CREATE FOREIGN TABLE far_slow (n int, s text) SERVER far OPTIONS (table_name 'slow');
]);
	create('far', 'SELECT count(*) FROM new_events, far_slow WHERE far_slow.s IS NOT NULL');
	append('far-1', '{}');
	ok(becomes('far', q[last_error_code = '57014']), 'the statement_timeout of another server is an error that passes');
	append('healthy-1', '{}');
	ok(caught_up('healthy'), 'and another projection goes on');
}

# ---- class 42

q1('CREATE TABLE words (stream text PRIMARY KEY, w tsquery)');
create('words', q[INSERT INTO words SELECT stream, (data->>'q')::tsquery FROM new_events]);
append('words-1', '{"q": "cat & dog"}');
ok(caught_up('words'), 'a cast');
append('words-2', '{"q": "cat &"}');
ok(caught_up('words'), 'bad data, alone in its batch, whose error is of class 42');
append('words-3', '{"q": "cow"}');
ok(caught_up('words'), 'stops nobody');
is(status('words', 'health, quarantined_streams'), 'ok|1', 'and is an event of its own');
is(q1(q[SELECT stream, error_code FROM event_store.quarantine WHERE name = 'words']), 'words-2|42601', 'which one is known');
is(q1('SELECT string_agg(stream, $$ $$ ORDER BY stream) FROM words'), 'words-1 words-3', 'the others are applied');
q1('DROP TABLE words');
append('words-4', '{"q": "owl"}');
ok(becomes('words', q[health = 'failed']), 'a table that is gone is the handler\'s');
is(status('words', 'last_error_code, quarantined_streams'), '42P01|1', 'and no event\'s');
# The same where only what is called finds out.
q1(q[CREATE FUNCTION broken(text) RETURNS void LANGUAGE plpgsql AS $$BEGIN INSERT INTO nowhere VALUES ($1); END$$]);
create('broken', 'SELECT broken(stream) FROM new_events');
append('broken-1', '{}');
ok(becomes('broken', q[health = 'failed']), 'one that no event works with is the handler\'s');
is(status('broken', 'last_error_code, quarantined_streams'), '42P01|0', 'and no event\'s');

# ---- damage

for my $code (qw(XX001 XX002))
{
	my $name = lc "damaged_$code";
	q1("UPDATE raises SET code = '$code'");
	create($name, 'SELECT maybe_raise() FROM new_events');
	append("$name-1", '{}');
	ok(becomes($name, q[health = 'failed']), "$code fails the projection");
	is(status($name, 'last_error_code, quarantined_streams'), "$code|0", "$code: no event is blamed");
	q1('UPDATE raises SET code = NULL');
}

# ---- a cancel that is one

q1('CREATE TABLE cancelled (position bigint PRIMARY KEY)');
create('cancelled', q[SELECT pg_advisory_xact_lock(5); INSERT INTO cancelled SELECT position FROM new_events]);
append('cancelled-1', '{}');
ok(caught_up('cancelled'), 'a projection');
is(q1('SELECT count(*) FROM es_check()'), '0', 'the store is as it should be');
$node->stop;
done_testing();
