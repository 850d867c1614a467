# A store outlives crashes, and travels in a dump: no event is lost or changed, appends go on at
# higher positions, and a prepared append commits after the crash.
#
# On every version: the server has its part in it.
use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', 'max_prepared_transactions = 5');
$node->start;

my $db = 'postgres';
$node->safe_psql($db, 'CREATE EXTENSION event_store; SELECT es_create_store()');

# append(STREAM, EXPECTED, ROW, DATABASE) -> (version, position)
sub append
{
	my ($stream, $expected, $n, $in) = @_;
	my $result = $node->safe_psql($in // $db,
		qq[SELECT version, position FROM es_append('$stream', $expected, 'Counted', '{"n": $n}'::jsonb)]);
	return split /\|/, $result;
}

# Every column of every event, as text.
sub all_events
{
	my ($in) = @_;
	return $node->safe_psql($in // $db, 'SELECT * FROM event_store.events ORDER BY position');
}

sub highest_position
{
	my ($in) = @_;
	return $node->safe_psql($in // $db, 'SELECT coalesce(max(position), 0) FROM event_store.events');
}

# ---- crash

append('counter-1', 0, 1);
append('counter-1', 1, 2);
my (undef, $before) = append('counter-2', -2, 3);
my $events = all_events();
is(scalar(split /\n/, $events), 3, 'three events are there');

$node->stop('immediate');
$node->start;

is(all_events(), $events, 'after a crash the events are the same');
my ($version, $position) = append('counter-1', 2, 4);
is($version, 3, 'the version goes on after a crash');
cmp_ok($position, '>', $before, 'the position goes on after a crash');

# An append that was rolled back by the crash is not there, and its position is not given out again.
my $session = $node->background_psql($db, on_error_stop => 0);
my $lost = $session->query(
	q[BEGIN; SELECT position FROM es_append('counter-1', 3, 'Counted', '{"n": 5}'::jsonb)]);
$lost =~ s/\D//g;
cmp_ok($lost, '>', $position, 'an open transaction has a position');
append('counter-2', 1, 6);    # commits, so the WAL up to here is flushed
$node->stop('immediate');
eval { $session->quit };
$node->start;
is($node->safe_psql($db, q[SELECT es_stream_version('counter-1')]), 3, 'an open append is gone after a crash');
($version, $position) = append('counter-1', 3, 7);
is($version, 4, 'and its version is free');
cmp_ok($position, '>', $lost, 'but its position is not');

# ---- prepared transaction

$node->safe_psql($db,
	q[BEGIN; SELECT es_append('counter-3', 0, 'Counted', '{"n": 8}'::jsonb); PREPARE TRANSACTION 'later']);
my (undef, $after_prepared) = append('counter-2', 2, 9);
my $hidden = all_events();
unlike($hidden, qr/counter-3/, 'a prepared append is not visible');
my $mark = $node->safe_psql($db, 'SET event_store.mark_wait = 0; SELECT es_high_water_mark()');
cmp_ok($mark, '<', $after_prepared, 'a prepared append holds the mark');

$node->stop('immediate');
$node->start;

$mark = $node->safe_psql($db, 'SET event_store.mark_wait = 0; SELECT es_high_water_mark()');
cmp_ok($mark, '<', $after_prepared, 'and holds it after a crash');
is($node->safe_psql($db,
		qq[SET event_store.mark_wait = 0; SELECT count(*) FROM es_read_all() WHERE position >= $after_prepared]),
	0, 'a reader does not pass it');
$node->safe_psql($db, q[COMMIT PREPARED 'later']);
is($node->safe_psql($db, q[SELECT es_stream_version('counter-3')]), 1, 'it commits after the crash');
# (After a crash a sequence goes on some numbers later: the mark may be above the last event.)
cmp_ok($node->safe_psql($db, 'SELECT es_high_water_mark()'), '>=', highest_position(), 'then the mark passes');
is($node->safe_psql($db, q[SELECT string_agg(data->>'n', ' ' ORDER BY position) FROM es_read_all()]),
	'1 2 3 4 6 7 8 9', 'a reader sees every event, in the order of positions');

# ---- dump and restore

my $dump = $node->basedir . '/store.sql';
$node->run_log([ 'pg_dump', '--no-sync', '-h', $node->host, '-p', $node->port, '-f', $dump, $db ]) or BAIL_OUT('pg_dump');
$node->safe_psql($db, 'CREATE DATABASE restored TEMPLATE template0');
my ($out, $err) = ('', '');
ok($node->run_log([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-h', $node->host, '-p', $node->port,
		'-f', $dump, 'restored' ], '>', \$out, '2>', \$err),
	'a dump is restored without an error') or diag($err);

is(all_events('restored'), all_events(), 'the restored events are the same');
my $highest = highest_position('restored');
($version, $position) = append('counter-1', 4, 10, 'restored');
is($version, 5, 'the version goes on in the restored database');
cmp_ok($position, '>', $highest, 'the position goes on in the restored database');
($version) = append('counter-new', 0, 11, 'restored');
is($version, 1, 'a new stream can be made there');
is($node->safe_psql('restored', q[SELECT string_agg(data->>'n', ' ' ORDER BY position) FROM es_read_all()]),
	'1 2 3 4 6 7 8 9 10 11', 'a reader sees all there, too');
$node->safe_psql('restored', q[COPY event_store.import (stream, event_type, data) FROM PROGRAM 'printf "counter-1\\tCounted\\t{}\\n"']);
is($node->safe_psql('restored', q[SELECT es_stream_version('counter-1')]), 6, 'the import works there');
is(highest_position(), $highest, 'the first database is as it was');

# What guards the events came along: even the superuser is refused.
my ($rc, undef, $refused) = $node->psql('restored', '\set VERBOSITY sqlstate' . "\nDELETE FROM event_store.log");
like($refused, qr/YE005/, 'restored events are immutable');
is($node->safe_psql('restored', 'SELECT es_create_store(); SELECT count(*) FROM event_store.events'), "\n11",
	'es_create_store() finds nothing to do');
is($node->safe_psql($_, "SELECT * FROM es_check('all')"), '', "es_check finds nothing in $_") for $db, 'restored';

$node->stop;
done_testing();
