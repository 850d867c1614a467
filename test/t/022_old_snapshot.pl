# An old snapshot somewhere else, or one long transaction, must not make appends dearer: no version of a row can be removed
# then that is newer than the snapshot, and the rows of streams and of the mark have a version for each append and each
# publication. Work is counted in pages that a statement visits, which is the same on any machine.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $appends = 10000;
my $publications = 40000;
my $db = 'postgres';

# pages(statement, times): how many pages one run of it visits, on average; each run is a transaction.
my $meter = q[
CREATE TABLE result (pages float8);
CREATE PROCEDURE pages(statement text, times int, committed bool) LANGUAGE plpgsql AS $$
DECLARE
	plan jsonb;
	pages bigint := 0;
BEGIN
	FOR i IN 1 .. times LOOP
		EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ' || statement INTO plan;
		pages := pages + (plan->0->'Plan'->>'Shared Hit Blocks')::bigint + (plan->0->'Plan'->>'Shared Read Blocks')::bigint;
		IF committed THEN COMMIT; END IF;
	END LOOP;
	TRUNCATE result;
	INSERT INTO result VALUES (pages::float8 / times);
END $$;
CREATE PROCEDURE again(statement text, times int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. times LOOP
		EXECUTE statement;
		COMMIT;
	END LOOP;
END $$;
];

my $append = q[SELECT es_append('hot-1', -2, 'Happened', '{}'::jsonb)];
my %statements = (
	'an append' => $append,
	'reading the last event of the stream' => q[SELECT count(*) FROM es_read('hot-1', NULL, 1, true)],
	'a publication' => 'SELECT es_publish_mark()',
);

# In a session that has just begun, or in $session. The first calls read catalogs.
sub pages
{
	my ($node, $statement, $session) = @_;
	my $call = 'CALL again($s$' . $statement . '$s$, 5); CALL pages($s$' . $statement . '$s$, 120, true); SELECT pages FROM result';

	return $session ? $session->query_safe($call) : $node->safe_psql($db, $call);
}

sub compare
{
	my ($what, $first, $now, $limit) = @_;

	cmp_ok($now, '<=', $limit * $first, "$what visits $now pages, at first $first");
}

for my $preloaded (1, 0)
{
	my $node = PostgreSQL::Test::Cluster->new($preloaded ? 'preloaded' : 'plain');

	$node->init;
	$node->append_conf('postgresql.conf', "autovacuum = off\nevent_store.partition_size = 1000000\n");
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'event_store'\n") if $preloaded;
	$node->start;
	$node->safe_psql($db, "CREATE EXTENSION event_store; SELECT es_create_store(); $meter");
	$node->safe_psql($db, 'SELECT es_stop_worker()') if $preloaded;

	# Pages of heads with free space all over the table, as a store has that is in use.
	$node->safe_psql($db, q[SELECT count(*) FROM generate_series(1, 3000) i, es_append('cold-' || i, 0, 'Happened', '{}'::jsonb)]);
	$node->safe_psql($db, q[SELECT count(*) FROM generate_series(1, 3000) i, es_append('cold-' || i, 1, 'Happened', '{}'::jsonb) WHERE i % 3 <> 0]);
	$node->safe_psql($db, 'CALL again($s$' . $append . '$s$, 200)');
	$node->safe_psql($db, 'VACUUM event_store.heads');

	my %first = map { $_ => pages($node, $statements{$_}) } sort keys %statements;
	my $session = $node->background_psql($db);
	my $old = $node->background_psql($db);

	$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
	$old->query_safe('SELECT count(*) FROM event_store.heads');
	$session->query_safe('CALL again($s$' . $append . "\$s\$, $appends)");
	$session->query_safe(q[CALL again('SELECT es_publish_mark()', ] . $publications . ')');

	for my $what (sort keys %statements)
	{
		compare("$what (preloaded: $preloaded), in the session that was at it", $first{$what}, pages($node, $statements{$what}, $session), 1.2);
		compare("$what (preloaded: $preloaded), in a new session", $first{$what}, pages($node, $statements{$what}), 1.2);
	}
	is($old->query_safe(q[SELECT count(*) FROM es_read('hot-1')]), 200 + 125, 'the old snapshot shows what it has shown');
	my $found = $old->query_safe('SELECT es_high_water_mark()');
	is($old->query_safe('SELECT es_high_water_mark()'), $found, 'and its mark');
	$old->query_safe('COMMIT');

	# One long transaction.
	$session->query_safe('BEGIN');
	$session->query_safe("SELECT count(*) FROM generate_series(1, $appends), LATERAL ($append) a");
	compare("an append in a transaction that has made $appends", $first{'an append'},
		$session->query_safe('CALL pages($s$' . $append . '$s$, 120, false); SELECT pages FROM result'), 1.2);
	$session->query_safe('COMMIT');
	compare('an append after it, in a new session', $first{'an append'}, pages($node, $append), 1.2);

	$old->quit;
	$session->quit;
	is($node->safe_psql($db, q[SELECT count(*) FROM es_check()]), '0', 'es_check finds nothing');
	$node->stop;
}

done_testing();
