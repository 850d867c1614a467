# Limits: big payloads, big calls, constant memory, deep JSON, the ends of the number ranges. Each is
# accepted and read back equal, or refused with an SQLSTATE and nothing changed.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
# Few buffers, so that a backend's VmHWM, which counts the shared pages it touched, says something.
$node->append_conf('postgresql.conf', "shared_buffers = 16MB\nmax_wal_size = 2GB\nautovacuum = off\njit = off");
{
	# glibc overwrites what is freed: a use after free shows.
	local $ENV{MALLOC_PERTURB_} = 165;
	$node->start;
}

sub make_store
{
	my ($db, $argument) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $db") if $db ne 'postgres';
	$node->safe_psql($db, 'CREATE EXTENSION event_store; SELECT es_create_store(' . ($argument // '') . ')');
	return;
}

# What an append changes, as text.
sub state_of
{
	my ($db) = @_;

	return $node->safe_psql($db, q[
		SELECT (SELECT count(*) FROM event_store.log), (SELECT count(*) FROM event_store.heads),
			(SELECT sum(version) FROM event_store.heads), (SELECT count(*) FROM event_store.append_keys),
			(SELECT count(*) FROM event_store.batch_keys), (SELECT count(*) FROM event_store.categories),
			(SELECT count(*) FROM event_store.event_types), (SELECT count(*) FROM event_store.partitions)]);
}

# What a query answers: its rows, or its error.
sub answer
{
	my ($db, $sql) = @_;
	my (undef, $out, $err) = $node->psql($db, $sql);

	return $out . $err;
}

# Runs statements of which the last fails with this SQLSTATE; nothing has changed then.
sub refused
{
	my ($db, $sql, $sqlstate, $name) = @_;
	my $before = state_of($db);
	my (undef, undef, $err) = $node->psql($db, "\\set VERBOSITY sqlstate\n$sql");

	like($err, qr/ERROR:\s+$sqlstate\b/, "$name: $sqlstate");
	is(state_of($db), $before, "$name: nothing changed");
	return;
}

# A line of /proc/self/status of the backend, in kB; an SQL expression.
sub status
{
	my ($line) = @_;
	return qq[(regexp_match(pg_read_file('/proc/self/status'), '$line:\\s+(\\d+)'))[1]::bigint];
}

my $have_proc = -r '/proc/self/status';
my $random_mb = q[(SELECT string_agg(md5(g::text), '') FROM generate_series(1, 32768) g)];

# SQL: a batch of $n events; $stream is an SQL expression over g.
sub batch
{
	my ($n, $stream, $more) = @_;
	return qq[SELECT b.* FROM (SELECT array_agg($stream) AS s, array_agg('Counted'::text) AS t,
		array_agg(jsonb_build_object('n', g)) AS d FROM generate_series(1, $n) g) x,
		es_append_batch(x.s, x.t, x.d] . ($more // '') . ') b';
}

sub timed
{
	my ($db, $sql) = @_;
	my $start = time;
	my $result = $node->safe_psql($db, $sql);
	return ($result, time - $start);
}

# ---- reads past rolled-back events

make_store('rollbacks');
$node->safe_psql('rollbacks', q[
	DO $$ BEGIN
		FOR i IN 1..1500 LOOP
			PERFORM es_append('a-1', -2, 'Counted', jsonb_build_object('n', i));
			BEGIN
				PERFORM es_append('a-1', -2, 'Counted', '{"n": -1}'::jsonb);
				RAISE division_by_zero;
			EXCEPTION WHEN division_by_zero THEN NULL;
			END;
		END LOOP;
	END $$]);
for my $round (1 .. 2)
{
	for my $query (
		q[SELECT sum((e).version) FROM (SELECT es_read_all(0, NULL) AS e) x],
		q[SELECT sum((e).version) FROM (SELECT es_read('a-1') AS e) x],
		q[SELECT sum((e).version) FROM (SELECT es_read('a-1', NULL, NULL, true) AS e) x],
		q[SELECT sum((e).version) FROM (SELECT es_read_category('a', 0, NULL) AS e) x],
		q[SELECT sum(version) FROM es_read_all(0, NULL)],
		q[SELECT sum(version) FROM es_read('a-1')])
	{
		my ($rc, $out, $err) = $node->psql('rollbacks', $query);
		is($out, 1500 * 1501 / 2, "a read past rolled-back events, round $round: $query") or diag($err);
		BAIL_OUT('the server crashed') if $rc == 2;
	}
}
$node->restart;    # with an ordinary malloc

# ---- payloads

make_store('postgres');
my $db = 'postgres';
my ($out, $seconds) = timed($db, qq[
	SELECT version FROM es_append('big-1', 0, 'Grown', jsonb_build_object('s', repeat($random_mb, 100)));
	SELECT octet_length(data->>'s'), md5(data->>'s') = md5(repeat($random_mb, 100)) FROM es_read('big-1')]);
is($out, "1\n104857600|t", 'a payload of 100 MB is accepted and read back equal');
note(sprintf 'append and read of 100 MB: %.1f s', $seconds);
refused($db, qq[SELECT es_append('big-2', 0, 'Grown', jsonb_build_object('s', repeat($random_mb, 300)))],
	'54000', 'a payload of 300 MB');
refused($db, qq[SELECT es_append('big-2', 0, '{"type": "Grown", "data": {"s": "' || repeat('x', 300 * 1024 * 1024) || '"}}')],
	'54000', '300 MB of text');

# ---- deep JSON

my $deep = q[repeat('[', 2000) || repeat(']', 2000)];
is($node->safe_psql($db, qq[
		SELECT version FROM es_append('deep-1', 0, 'Nested', ($deep)::jsonb, ('{"m": ' || $deep || '}')::jsonb);
		SELECT version FROM es_append('deep-1', 1, '{"type": "Nested", "data": ' || $deep || '}');
		SELECT count(*) FROM es_read('deep-1') WHERE data::text = $deep]),
	"1\n2\n2", '2,000 levels of nesting are accepted and read back equal');
refused($db, q[SELECT es_append('deep-2', 0, '{"type": "Nested", "data": ' || repeat('[', 100000) || repeat(']', 100000) || '}')],
	'54001', '100,000 levels of nesting as text');
refused($db, q[SELECT es_append('deep-2', 0, 'Nested', (repeat('[', 100000) || repeat(']', 100000))::jsonb)],
	'54001', '100,000 levels of nesting as jsonb');
refused($db, q[SELECT es_append('deep-2', 0, 'Nested', '{}'::jsonb, (repeat('{"a":', 100000) || '1' || repeat('}', 100000))::jsonb)],
	'54001', '100,000 levels of nesting in metadata');
# Whatever core's parser lets through must not overrun the stack in ours.
$out = $node->safe_psql($db, q[
	CREATE FUNCTION try_depth(n integer) RETURNS text LANGUAGE plpgsql AS $$
	DECLARE deep jsonb;
	BEGIN
		deep := (repeat('[{"a":', n) || '1' || repeat('}]', n))::jsonb;
		PERFORM es_append('deep-3', -2, 'Nested', deep, idempotency_key => n::text);
		RETURN CASE WHEN (SELECT data = deep FROM es_read('deep-3', backward => true, max_count => 1)) THEN 'ok' ELSE 'other' END;
	EXCEPTION WHEN statement_too_complex THEN RETURN 'refused';
	END $$;
	SELECT DISTINCT try_depth(n) FROM generate_series(500, 12000, 250) n ORDER BY 1]);
is($out, "ok\nrefused", 'every depth is accepted and read back equal, or refused with 54001');

# ---- states

# A state grows to what jsonb can hold, 256 MB; the error names the version, the session stays usable.
$node->safe_psql($db, qq[
	SELECT es_register_aggregate('fat', \$\$jsonb_build_object('s', coalesce(state->>'s', '') || (data->>'s'))\$\$);
	SELECT es_register_aggregate('wide', rules => '{"Grown": {"append": {"list": "s"}}}');
	SELECT es_register_aggregate('tall', 'jsonb_build_array(state)', initial_state => '0');
	SELECT count(*) FROM generate_series(1, 20) g, LATERAL es_append('fat-1', g - 1, 'Grown', jsonb_build_object('s', repeat('x', 20 * 1024 * 1024)));
	SELECT count(*) FROM generate_series(1, 20) g, LATERAL es_append('wide-1', g - 1, 'Grown', jsonb_build_object('s', repeat('x', 20 * 1024 * 1024)));
	SELECT es_append_batch(array_fill('tall-1'::text, '{20000}'), array_fill('Grown'::text, '{20000}'), array_fill('{}'::jsonb, '{20000}'))]);
for my $category ('fat', 'wide')
{
	is(answer($db, "SELECT version, octet_length(state::text) > 250000000 FROM es_load_version('$category-1', 12)"), '12|t',
		"$category: a state of 250 MB");
	my $failed = answer($db, "\\set VERBOSITY verbose\nSELECT es_load('$category-1')");
	like($failed, qr/ERROR:  YE006: .*stream "$category-1", version (13|20)\b/s, "$category: one of 400 MB is refused");
	is(answer($db, "SELECT version FROM es_load_version('$category-1', 3)"), '3', "$category: and goes on");
}
like(answer($db, "\\set VERBOSITY verbose\nSET max_stack_depth = '300kB';\nSELECT es_load('tall-1')"), qr/ERROR:  YE006: stack depth limit exceeded/,
	'a state of 20,000 levels is refused under a small stack');
is(answer($db, "SELECT state::text = repeat('[', 1000) || '0' || repeat(']', 1000) FROM es_load_version('tall-1', 1000)"), 't',
	'one of 1,000 is right');

# ---- big calls

($out, $seconds) = timed($db, batch(1000000, q['many-' || g % 10]) . ($have_proc ? '; SELECT ' . status('VmHWM') : ''));
my ($result, $peak) = split /\n/, $out;
like($result, qr/^1000000\|\d+\|\d+\|f$/, '1,000,000 events in one es_append_batch');
note(sprintf '1,000,000 events in one call: %.1f s, backend VmHWM %d MB', $seconds, ($peak // 0) / 1024);
SKIP:
{
	skip 'no /proc', 1 if !$have_proc;
	cmp_ok($peak, '<', 1024 * 1024, 'in less than 1 GB of memory');
}
is($node->safe_psql($db, q[
		SELECT count(*), max(position) - min(position), max(rest), count(DISTINCT recorded_at)
		FROM event_store.log WHERE stream IN (SELECT id FROM event_store.heads WHERE name LIKE 'many-%');
		SELECT count(*), sum((data->>'n')::bigint), bool_and((data->>'n')::bigint = (version - 1) * 10 + 3) FROM es_read('many-3')]),
	"1000000|999999|999999|1\n100000|49999800000|t", 'and all of it is there, in order');

# 64, and 128 from 19 on.
is($node->safe_psql($db, "SELECT setting = boot_val FROM pg_settings WHERE name = 'max_locks_per_transaction'"), 't',
	'with the default lock table');
($out, my $few) = timed($db, batch(20000, q['few-' || g]));
like($out, qr/^20000\|/, '20,000 new streams in one call');
($out, my $many) = timed($db, batch(100000, q['hundred-' || g]));
like($out, qr/^100000\|/, '100,000 new streams in one call');
($out, my $again) = timed($db, batch(100000, q['hundred-' || g], q[, expected_versions => (SELECT array_agg(1::bigint) FROM generate_series(1, 100000))]));
like($out, qr/^100000\|/, '100,000 existing streams in one call, with expected versions');
note(sprintf '20,000 new streams: %.2f s; 100,000: %.2f s; 100,000 existing: %.2f s', $few, $many, $again);
cmp_ok($many, '<', 12 * $few + 1, 'five times the streams take at most twelve times as long');
is($node->safe_psql($db, q[SELECT count(*), min(version), max(version) FROM event_store.streams WHERE category = 'hundred']),
	'100000|2|2', 'each has two events');
# One wrong version of 100,000 undoes all of it.
refused($db, batch(100000, q['hundred-' || g], q[, expected_versions => (SELECT array_agg((CASE g WHEN 99999 THEN 1 ELSE 2 END)::bigint) FROM generate_series(1, 100000) g)]),
	'YE001', '100,000 streams of which one is at another version');

sub multi
{
	my ($n) = @_;
	return qq[SELECT count(*), sum(version) FROM (SELECT jsonb_agg(jsonb_build_object('stream', 'multi$n-' || g,
		'expected_version', 0, 'events', jsonb_build_object('type', 'Counted'))) AS a FROM generate_series(1, $n) g) x,
		es_append_multi(x.a)];
}
($out, $few) = timed($db, multi(4000));
is($out, '4000|4000', '4,000 streams in one es_append_multi');
($out, $many) = timed($db, multi(20000));
is($out, '20000|20000', '20,000 streams in one es_append_multi');
note(sprintf 'es_append_multi of 4,000 streams: %.2f s, of 20,000: %.2f s', $few, $many);
cmp_ok($many, '<', 12 * $few + 1, 'without quadratic time');

# ---- constant memory of reads

my $total = $node->safe_psql($db, 'SELECT count(*) FROM event_store.log');
cmp_ok($total, '>', 1200000, "the log has $total events");
SKIP:
{
	skip 'no /proc', 4 if !$have_proc;
	my @ways = (
		[ 'es_read_all in the select list, with a cursor',
			'BEGIN; DECLARE c CURSOR FOR SELECT (e).position, (e).stream, (e).data FROM (SELECT es_read_all(8, NULL) AS e) x; MOVE 1000 IN c',
			'MOVE FORWARD ALL IN c', 'CLOSE c; COMMIT' ],
		[ 'es_read_all in FROM with 1 MB of work_mem',
			"SET work_mem = '1MB'; SELECT count(*) FROM es_read_all(8)",
			'SELECT count(*) FROM es_read_all(8, NULL)', '' ],
		[ 'es_read of 100,000 events in the select list',
			q[SELECT count(*) FROM (SELECT es_read('many-1', max_count => 1000)) x],
			q[SELECT count(*) FROM (SELECT es_read('many-1')) x], '' ],
		[ 'es_position_at over the whole log', q[SELECT es_position_at('2000-01-01')],
			q[SELECT es_position_at('2000-01-01')], '' ]);
	for my $way (@ways)
	{
		my ($name, $first, $second, $end) = @$way;
		my $hwm = status('VmHWM');
		# The first small part of it fills the caches.
		my $start = time;
		my @lines = split /\n/, $node->safe_psql($db, qq[
			\\o /dev/null
			$first;
			\\o
			SELECT $hwm;
			\\o /dev/null
			$second;
			\\o
			SELECT $hwm;
			$end]);
		cmp_ok($lines[-1] - $lines[0], '<', 30 * 1024, "$name: constant memory");
		note(sprintf '%s: VmHWM %d MB, then %d MB; %.1f s', $name, $lines[0] / 1024, $lines[-1] / 1024, time - $start);
	}
}

# ---- many calls

is($node->safe_psql($db, 'BEGIN; ' . join('; ', map { "SELECT version FROM es_append('fifty-1', " . ($_ - 1) . ", 'Counted', '{}'::jsonb)" } 1 .. 50)
			. '; COMMIT'),
	join("\n", 1 .. 50), '50 appends in one transaction, each at the version that the one before returned');

SKIP:
{
	skip 'no /proc', 3 if !$have_proc;
	my $file = $node->basedir . '/appends.sql';
	my $appends = sub {
		my ($from, $to) = @_;
		return join "\n", '\o /dev/null',
			(map { sprintf q[SELECT * FROM es_append('session-%d', -2, 'Counted', '{"n": %d}'::jsonb);], $_ % 100, $_ } $from .. $to),
			'\o', 'SELECT ' . status('VmRSS') . q[, sum(total_bytes) FROM pg_backend_memory_contexts;], '';
	};
	append_to_file($file, $appends->(1, 3000) . $appends->(3001, 10000));
	($out, $seconds) = timed($db, "\\i $file");
	my ($early, $late) = map { [ split /\|/ ] } split /\n/, $out;
	note(sprintf '10,000 appends in a session: %.1f s; contexts %d kB, then %d kB; VmRSS %d kB, then %d kB', $seconds,
		$early->[1] / 1024, $late->[1] / 1024, $early->[0], $late->[0]);
	cmp_ok($late->[1] - $early->[1], '<', 64 * 1024, '10,000 appends in a session: the memory contexts do not grow');
	cmp_ok($late->[0] - $early->[0], '<', 12 * 1024, 'nor does the process');

	$out = $node->safe_psql($db, qq[
		SELECT count(es_append('statement-' || g % 10, -2, 'Counted', '{}'::jsonb, idempotency_key => g::text)) FROM generate_series(1, 500) g;
		SELECT ] . status('VmHWM') . q[;
		SELECT count(es_append('statement-' || g % 10, -2, 'Counted', '{}'::jsonb, idempotency_key => g::text)) FROM generate_series(501, 10000) g;
		SELECT ] . status('VmHWM'));
	my @lines = split /\n/, $out;
	cmp_ok($lines[3] - $lines[1], '<', 30 * 1024, '10,000 keyed appends in two statements: constant memory');
}

# ---- categories

make_store('categories');
($out, $seconds) = timed('categories', batch(10000, q['kind' || g || '-1']));
like($out, qr/^10000\|/, '10,000 categories in one call');
note(sprintf '10,000 new categories: %.1f s', $seconds);
refused('categories', q[SELECT es_append('onemore-1', 0, 'Counted', '{}'::jsonb)], '54000', 'the 10,001st category');
refused('categories', q[SELECT es_append_multi('[{"stream": "kind1-1", "expected_version": "any", "events": {"type": "New"}}, {"stream": "onemore-1", "expected_version": "any", "events": {"type": "New"}}]')],
	'54000', 'the 10,001st category beside another stream');
refused('categories', q[INSERT INTO event_store.import (stream, event_type) VALUES ('kind1-1', 'Newer'), ('onemore-1', 'Newer')],
	'54000', 'the 10,001st category in an import');
is($node->safe_psql('categories', q[SELECT version FROM es_append('kind77-2', 0, 'Counted', '{}'::jsonb)]), 1,
	'a stream of an old category is still accepted');
is($node->safe_psql('categories', q[SET event_store.max_categories = 10001; SELECT version FROM es_append('onemore-1', 0, 'Counted', '{}'::jsonb)]), 1,
	'and one more category with a higher limit');

# ---- the last version

make_store('ends');
my $max = '9223372036854775807';
$node->safe_psql('ends', qq[
	SELECT es_append('end-1', 0, 'Counted', '{}'::jsonb);
	SELECT es_append('end-2', 0, 'Counted', '{}'::jsonb);
	ALTER TABLE event_store.heads DISABLE TRIGGER USER;
	UPDATE event_store.heads SET version = $max - 2 WHERE name = 'end-1';
	ALTER TABLE event_store.heads ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row]);
refused('ends', batch(3, q['end-1'::text]), '54000', 'three more events for a stream with two versions left');
is($node->safe_psql('ends', batch(2, q['end-1'::text]) . q[; SELECT es_stream_version('end-1')]) =~ s/^.*\n//r, $max,
	'the last two versions are given out');
refused('ends', q[SELECT es_append('end-1', -2, 'Counted', '{}'::jsonb)], '54000', 'a stream without versions left');
refused('ends', qq[SELECT es_append('end-1', $max, 'Counted', '{}'::jsonb)], '54000', 'the same with its exact version');
refused('ends', qq[SELECT es_append('end-2', $max, 'Counted', '{}'::jsonb)], 'YE001', 'the highest expected version');
refused('ends', qq[SELECT es_append('end-2', -$max - 1, 'Counted', '{}'::jsonb)], '22023', 'the lowest expected version');
refused('ends', qq[SELECT es_append('end-2', '9223372036854775808', 'Counted', '{}'::jsonb)], '22003', 'an expected version that is no bigint');
refused('ends', q[SELECT es_append_multi('[{"stream": "end-2", "expected_version": 9223372036854775808, "events": {"type": "Counted"}}]')],
	'22003', 'the same in es_append_multi');
is($node->safe_psql('ends', qq[SELECT version FROM es_read('end-1', $max - 1, 1); SELECT version FROM es_read('end-1', NULL, 2, true)]),
	join("\n", '9223372036854775806', '9223372036854775807', '9223372036854775806'), 'the last events can be read');
is(answer('ends', qq[SELECT version FROM es_read('end-1', $max - 1)]),
	join("\n", '9223372036854775806', '9223372036854775807'), 'also up to the end');
is($node->safe_psql('ends', qq[SELECT count(*) FROM es_read('end-2', $max); SELECT count(*) FROM es_read('end-2', 1, $max);
		SELECT count(*) FROM es_read('end-2', $max, $max, true); SELECT count(*) FROM es_read_all($max, $max); SELECT count(*) FROM es_read_all(0, $max)]),
	"0\n1\n1\n0\n4", 'the ends of bigint as arguments of the reads');

# ---- the last position: of node 0, in the middle of bigint, and of the last node, at its end

for my $number (0, 32767)
{
	my $name = "node$number";
	make_store($name, $number);
	$node->safe_psql($name, q[SELECT es_append('end-1', 0, 'Counted', '{}'::jsonb)]);
	my $last = $node->safe_psql($name, q[SELECT seqmax FROM pg_sequence WHERE seqrelid = 'event_store.position_seq'::regclass]);
	$node->safe_psql($name, qq[SELECT setval('event_store.position_seq', $last - 3)]);
	refused($name, batch(4, q['end-1'::text]), '2200H', "node $number: four more events with three positions left");
	# (The positions that it drew are lost.)
	$node->safe_psql($name, qq[SELECT setval('event_store.position_seq', $last - 2)]);
	is(answer($name, q[SELECT position FROM es_append('end-1', 1, 'Counted', '{}'::jsonb)]), $last - 1,
		"node $number: the last position but one is given out");
	is(answer($name, q[SELECT position FROM es_append('end-1', 2, 'Counted', '{}'::jsonb)]), $last,
		"node $number: the last position is given out");
	refused($name, q[SELECT es_append('end-1', 3, 'Counted', '{}'::jsonb)], '2200H', "node $number: no positions left");
	is(answer($name, q[SELECT string_agg(version::text, ' ' ORDER BY position) FROM es_read_all(); SELECT max(version) FROM es_read('end-1')]),
		"1 2 3\n3", "node $number: the events up to the last position are read");
	is(answer($name, 'SELECT es_high_water_mark()'), $last, "node $number: the mark reaches the last position");
	is(answer($name, 'SELECT * FROM es_check()'), '', "node $number: es_check finds nothing");
}

$node->stop;
unlike(slurp_file($node->logfile), qr/was terminated by signal|PANIC:|TRAP:|WARNING: .*(leak|not closed|left non-empty)/,
	'the server log has no crash and no leak');
done_testing();
