# The high-water mark where one session is not enough to see it: other databases, crashes, a standby and
# its promotion, the end of a page of WAL.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init(allows_streaming => 1);
# Nothing may become durable by chance.
$node->append_conf('postgresql.conf', q[
max_prepared_transactions = 5
wal_writer_delay = 10s
shared_buffers = 32MB
autovacuum = off
checkpoint_timeout = 1h
log_min_messages = log
]);
$node->start;
$node->safe_psql($db, 'CREATE EXTENSION event_store; SELECT es_create_store()');

my $n = 0;

# append(STREAM) -> position
sub append
{
	my ($stream, $on) = @_;
	$n++;
	return ($on // $node)->safe_psql($db, qq[SELECT position FROM es_append('$stream', -2, 'Counted', '{"n": $n}'::jsonb)]);
}

# The last line of what a query answers, readers not waiting for anybody.
sub now
{
	my ($sql, $on) = @_;
	my @lines = split /\n/, ($on // $node)->safe_psql($db, "SET event_store.mark_wait = 0; $sql");
	return $lines[-1];
}

my $all = q[SELECT string_agg(data->>'n', ' ' ORDER BY position) FROM es_read_all(0, NULL)];
my $category = q[SELECT string_agg(data->>'n', ' ' ORDER BY position) FROM es_read_category('counter', 0, NULL)];
my $feed = q[SELECT string_agg(data->>'n', ' ' ORDER BY position) FROM event_store.feed];
my $mark = 'SELECT es_high_water_mark()';

# ---- other databases

$node->safe_psql('postgres', 'CREATE DATABASE other');
$node->safe_psql('other', 'CREATE EXTENSION event_store; SELECT es_create_store()');
my $position = append('counter-1');
my $stranger = $node->background_psql('other');
$stranger->query_safe(q[BEGIN]);
$stranger->query_safe(q[CREATE TABLE written (n int)]);
$stranger->query_safe(q[SELECT es_append('counter-1', 0, 'Counted', '{}'::jsonb)]);
my $idle = $node->background_psql($db);
$idle->query_safe(q[BEGIN]);
$idle->query_safe(q[CREATE TABLE written (n int)]);
$position = append('counter-2');
is(now($mark), $position, "neither another database's open append nor an unrelated transaction in this one holds the mark");
is(now($all), '1 2', 'nor readers');
is($node->safe_psql('other', 'SET event_store.mark_wait = 0; SELECT es_high_water_mark()'), 0, 'but its own');
$stranger->query_safe('ROLLBACK');
$stranger->quit;
$idle->query_safe('ROLLBACK');
$idle->quit;
$node->safe_psql('postgres', 'DROP DATABASE other');

# ---- a poll flushes what it reports, and nothing else

$node->safe_psql('postgres', 'CREATE DATABASE polls');
$node->safe_psql('polls', q[CREATE EXTENSION event_store; SELECT es_create_store(); CREATE TABLE others (n int); SELECT es_append('counter-1', 0, 'Counted', '{}'::jsonb)]);
my $unflushed = 'SELECT pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()';
my $quiet = 'SELECT es_high_water_mark() AS mark \gset';
my $lazy = 'INSERT INTO others VALUES (1)';
my $poll = $node->background_psql('polls');
$poll->query_safe($quiet);
$poll->query_safe('SET synchronous_commit = off');
$poll->query_safe($lazy);
$poll->query_safe($quiet);
is($poll->query_safe($unflushed), 't', 'a mark that was reported before needs no flush');
$poll->query_safe(q[SELECT es_append('counter-1', 1, 'Counted', '{}'::jsonb)]);
$poll->query_safe($quiet);
is($poll->query_safe($unflushed), 'f', 'a new one does');
$poll->query_safe($lazy);
my $another = $node->background_psql('polls');
$another->query_safe($quiet);
is($another->query_safe($unflushed), 'f', 'so does one that this session has not reported');
$node->safe_psql('polls', 'SELECT es_publish_mark()');
$poll->query_safe($lazy);
my $third = $node->background_psql('polls');
$third->query_safe($quiet);
is($third->query_safe($unflushed), 't', 'but not the published one, which was flushed before');
$_->quit for $poll, $another, $third;
$node->safe_psql('postgres', 'DROP DATABASE polls');

# ---- a reader waits for an open append, but not longer than it is told

$node->safe_psql($db, 'SELECT es_publish_mark()');
my $writer = $node->background_psql($db);
$writer->query_safe('BEGIN');
$writer->query_safe(q[SELECT es_append('counter-3', 0, 'Counted', '{"n": "open"}'::jsonb)]);
append('counter-4');
my $before = time;
is($node->safe_psql($db, "SET event_store.mark_wait = '50ms'; $all"), '1 2', 'a reader gives up after event_store.mark_wait and takes the published mark');
my $reader = $node->background_psql($db);
$reader->query_safe(q[SET event_store.mark_wait = '3min']);
$reader->query_until(qr/started/, qq[\\echo started\n$all;\n]);
$node->poll_query_until($db, q[SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE '%es_read_all%' AND state = 'active' AND pid <> pg_backend_pid()])
	or die 'the reader does not wait';
$writer->query_safe('COMMIT');
is($reader->query_safe('SELECT 1'), "1 2 open 3\n1", 'one that may wait reads it in its place');
cmp_ok(time - $before, '<', 120, 'without waiting longer than it must');
$_->quit for $reader, $writer;

# ---- a prepared append outlives a crash and holds the mark meanwhile

my $behind = append('counter-1');
$node->safe_psql($db, 'SELECT es_publish_mark()');
$node->safe_psql($db, q[
	BEGIN;
	SELECT es_append('counter-5', 0, 'Counted', '{"n": "prepared"}'::jsonb);
	PREPARE TRANSACTION 'append']);
append('counter-6');
for my $when ('before', 'after')
{
	is(now($mark), $behind, "$when the crash: a prepared append holds the mark");
	is(now($_), '1 2 open 3 4', "$when the crash: and readers") for $all, $category;
	is(now("SELECT es_publish_mark()"), $behind, "$when the crash: and the published mark");
	is(now($feed), '1 2 open 3 4', "$when the crash: and the feed");
	if ($when eq 'before')
	{
		$node->stop('immediate');
		$node->start;
	}
}
$node->safe_psql($db, q[COMMIT PREPARED 'append']);
is(now($_), '1 2 open 3 4 prepared 5', 'then it passes') for $all, $category;

# ---- what a reader was told is durable, and a position is never drawn twice

# Positions drawn in vain leave only unflushed WAL behind, and not enough to wake the WAL writer. (The
# sequence logs 32 positions ahead.)
sub burn
{
	$node->safe_psql($db, q[
		BEGIN;
		SELECT count(nextval('event_store.position_seq')) FROM generate_series(1, 200);
		ROLLBACK]);
	return;
}

for my $function ('es_publish_mark', 'es_high_water_mark')
{
	burn();
	my $told = now("SET synchronous_commit = off; SELECT $function()");
	$node->stop('immediate');
	$node->start;
	my $new = append('counter-1');
	cmp_ok($new, '>', $told, "after a crash positions go on above what $function() said");
	is(now($mark), $new, 'and the mark with them');
}
cmp_ok(now('SELECT mark FROM event_store.mark'), '>=', 100, 'the published mark survived');
append('counter-7');

# An append that was not made durable, but was read.
$node->safe_psql($db, q[SET synchronous_commit = off; SELECT es_append('counter-8', 0, 'Counted', '{"n": "async"}'::jsonb)]);
is(now($all), '1 2 open 3 4 prepared 5 6 7 8 async', 'an asynchronous append is read');
$node->stop('immediate');
$node->start;
is(now($all), '1 2 open 3 4 prepared 5 6 7 8 async', 'and is there after a crash');

# ---- WAL that ends with a page: nothing of the next page can be flushed

$node->safe_psql($db, q[CREATE FUNCTION fill_page() RETURNS bigint LANGUAGE plpgsql AS $$
	DECLARE
		needed bigint;
	BEGIN
		LOOP
			needed := 8192 - (pg_current_wal_insert_lsn() - '0/0')::bigint % 8192;
			EXIT WHEN needed BETWEEN 400 AND 2000;
			PERFORM pg_logical_emit_message(false, '', repeat('x', 200));
		END LOOP;
		-- a record is 24 bytes, a data header of 5, the message's own 25, and the message, all rounded up to 8
		PERFORM pg_logical_emit_message(false, '', repeat('x', needed::int - 54));
		RETURN (pg_current_wal_insert_lsn() - '0/0')::bigint % 8192;
	END $$]);
for my $sql ($mark, $all, 'SELECT es_publish_mark()')
{
	# The 24 bytes are the next page's header. Somebody else may write WAL in between: then again.
	my ($offset, $answer);
	for (1 .. 20)
	{
		($offset, $answer) = (split /\n/, $node->safe_psql($db, "SELECT fill_page(); $sql"))[0, -1];
		last if $offset == 24;
	}
	is($offset, 24, 'WAL ends with a page');
	isnt($answer, '', "$sql works there");
}

# ---- standby

my $backup = 'base';
$node->safe_psql($db, 'SELECT es_publish_mark()');
$node->backup($backup);
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, $backup, has_streaming => 1);
$standby->start;

my $seen = now($all);
is($standby->safe_psql($db, $_), $seen, 'a standby reads up to the published mark') for $all, $category, $feed;
append('counter-1');
$node->wait_for_catchup($standby);
is($standby->safe_psql($db, $all), $seen, 'not what is above it');
is($standby->safe_psql($db, q[SELECT es_stream_version('counter-1')]), $node->safe_psql($db, q[SELECT es_stream_version('counter-1')]),
	'a stream is read as far as it is replayed');
is($standby->safe_psql($db, q[SELECT count(*) = max(version) FROM es_read('counter-1')]), 't', 'all of it');
my $published = $node->safe_psql($db, 'SELECT es_publish_mark()');
$node->wait_for_catchup($standby);
is($standby->safe_psql($db, $mark), $published, 'the mark of a standby is the published one');
is($standby->safe_psql($db, $_), "$seen $n", 'what was published is read') for $all, $category, $feed;
is($standby->safe_psql($db, "BEGIN ISOLATION LEVEL REPEATABLE READ; $all; COMMIT"), "$seen $n", 'in a higher isolation level, too');
is($standby->safe_psql($db, "SELECT * FROM es_check('all')"), '', 'es_check runs on a standby');

# Two appends, of which the earlier is open: the standby must not show the later one alone.
$writer = $node->background_psql($db);
$writer->query_safe('BEGIN');
$writer->query_safe(q[SELECT es_append('counter-9', 0, 'Counted', '{"n": "late"}'::jsonb)]);
$seen = "$seen $n";
append('counter-10');
now('SELECT es_publish_mark()');
$node->wait_for_catchup($standby);
is($standby->safe_psql($db, $_), $seen, 'a standby does not skip an open append') for $all, $feed;
$writer->query_safe('COMMIT');
$writer->quit;
now('SELECT es_publish_mark()');
$node->wait_for_catchup($standby);
$seen = "$seen late $n";
is($standby->safe_psql($db, $_), $seen, 'and has it in its place then') for $all, $feed;

for my $sql (q[SELECT es_append('counter-1', -2, 'Counted', '{}'::jsonb)], q[SELECT es_append('counter-1', -2, '{"type": "Counted"}'::jsonb)],
	q[SELECT es_append_multi('[{"stream": "counter-1", "expected_version": "any", "events": {"type": "Counted"}}]')], q[SELECT es_append_batch('{counter-1}', '{Counted}', '{"{}"}')],
	q[INSERT INTO event_store.import (stream, event_type) VALUES ('counter-1', 'Counted')], q[SELECT es_publish_mark()])
{
	my (undef, undef, $error) = $standby->psql($db, "\\set VERBOSITY verbose\n$sql");
	like($error, qr/ERROR:  25006: cannot execute .* (during recovery|in a read-only transaction)/, "refused on a standby: $sql");
}

# ---- promotion

append('counter-1');    # replayed, not published
$node->wait_for_catchup($standby);
my $session = $standby->background_psql($db);
is($session->query_safe($all), $seen, 'a session of the standby reads');
$node->stop('immediate');
$standby->promote;
is($session->query_safe($all), "$seen $n", 'after the promotion the same session finds the mark itself');
$session->quit;
my $highest = $standby->safe_psql($db, 'SELECT max(position) FROM event_store.events');
my $first = append('counter-1', $standby);
cmp_ok($first, '>', $highest, 'appends go on at higher positions');
is($standby->safe_psql($db, 'SELECT es_publish_mark()'), $first, 'the mark is published again');
is($standby->safe_psql($db, $feed), $standby->safe_psql($db, $all), 'and the feed is the log');

$standby->stop;
done_testing();
