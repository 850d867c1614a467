# Standbys, failover and recovery to an earlier time: what a standby shows is there; nothing that was shown by one history
# is given a position again in another; cursors outside are told how far to go back.
#
# On every version: the server has its part in it.
use strict;
use warnings;

use Mutant;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'postgres';
my $node = PostgreSQL::Test::Cluster->new('primary');
$node->init(allows_streaming => 1, has_archiving => 1);
$node->append_conf('postgresql.conf', q[
max_prepared_transactions = 5
max_worker_processes = 16
autovacuum = off
wal_writer_delay = 10s
event_store.poll_interval = 50ms
]);
$node->start;
$node->safe_psql($db, q[CREATE EXTENSION event_store; SELECT es_create_store();
	SELECT es_register_aggregate('counter', initial_state => '{"n": 0}', fold => $$state || jsonb_build_object('n', version)$$);
	CREATE TABLE seen (stream text, version bigint, PRIMARY KEY (stream, version));
	SELECT es_create_projection('seen', 'INSERT INTO seen SELECT stream, version FROM new_events');
	SELECT es_create_subscription('mail')]);

sub q1
{
	my ($on, $sql) = @_;
	my @lines = split /\n/, $on->safe_psql($db, "SET event_store.mark_wait = 0; $sql");
	return $lines[-1] // '';
}

# append(ON, STREAM, COUNT) -> the last position
sub append
{
	my ($on, $stream, $count) = @_;
	return q1($on, "SELECT max(position) FROM generate_series(1, " . ($count // 1) . ") i, LATERAL es_append('$stream', -2, 'Counted', jsonb_build_object('n', i))");
}

sub publish { return q1($_[0], 'SELECT es_publish_mark()') }
sub epoch { return q1($_[0], 'SELECT es_epoch()') }

# check(ON, EPOCH, POSITION) -> (epoch, position, rewind)
sub check
{
	my ($on, $epoch, $position) = @_;
	return [ split /\|/, q1($on, "SELECT * FROM es_check_cursor($epoch, $position)") ];
}

# What it has is right: versions, projections, no position twice.
sub whole
{
	my ($on, $what) = @_;

	q1($on, q[SELECT es_run_projection('seen')]);
	is(q1($on, q[SELECT count(*) FROM seen s FULL JOIN event_store.events e USING (stream, version) WHERE s.stream IS NULL OR e.stream IS NULL]),
		0, "$what: a projection has every event once");
	is(q1($on, q[SELECT count(*) FROM (SELECT version, row_number() OVER (PARTITION BY stream ORDER BY position) AS n
			FROM event_store.events) e WHERE version <> n]), 0, '... and versions are dense and in order');
	is(q1($on, 'SELECT count(*) FROM es_read_all(0, NULL)'), q1($on, 'SELECT count(*) FROM event_store.events'), '... and readers see all');
	is(q1($on, q[SELECT state->>'n' FROM es_load('counter-1')]), q1($on, q[SELECT es_stream_version('counter-1')]), '... and loads');
	return;
}

sub new_standby
{
	my ($from, $name) = @_;
	my $standby = PostgreSQL::Test::Cluster->new($name);

	$from->backup($name);
	$standby->init_from_backup($from, $name, has_streaming => 1);
	$standby->start;
	return $standby;
}

# ---- a standby reads

append($node, 'counter-1', 50);
my $mark = publish($node);
publish($node);    # now the events' times are final
my $standby = new_standby($node, 'standby');
my $first = epoch($node);

is(q1($standby, $_), q1($node, $_), "a standby answers like the primary: $_")
	for q[SELECT state, version FROM es_load('counter-1')], q[SELECT count(*), max(position) FROM es_read_all(0, NULL)],
	q[SELECT count(*) FROM es_read('counter-1', 10, 20)], q[SELECT count(*) FROM es_read_category('counter', 0, NULL)],
	q[SELECT state, version FROM es_load_version('counter-1', 7)], q[SELECT es_high_water_mark()], q[SELECT es_epoch()],
	q[SELECT name, lag_events FROM event_store.projection_status], q[SELECT mark FROM event_store.status],
	q[SELECT state, version FROM es_load_at('counter-1', (SELECT recorded_at FROM event_store.events WHERE position = 30))];
is_deeply(check($standby, $first, $mark), [ $first, $mark, 'f' ], 'a cursor is good there');
is_deeply(check($standby, $first, $mark + 1000), [ $first, $mark + 1000, 'f' ], '... also one that it has not come to');
append($node, 'counter-1');
$node->wait_for_catchup($standby);
is(q1($standby, 'SELECT max(position) FROM es_read_all(0, NULL)'), $mark, 'reads by position end at the published mark');
is(q1($standby, 'SELECT version FROM es_load(\'counter-1\')'), 51, '... loads do not');
my (undef, undef, $error) = $standby->psql($db, "\\set VERBOSITY verbose\nSELECT es_begin_epoch()");
like($error, qr/25006: cannot execute es_begin_epoch\(\) (during recovery|in a read-only transaction)/, 'no epoch begins on a standby');
cmp_ok(q1($standby, 'SELECT newest_position FROM event_store.status'), '>', q1($node, 'SELECT newest_position FROM event_store.status'),
	'the sequence of a standby is ahead of what was drawn');

# ---- nothing was lost: promotion

$mark = publish($node);
$node->wait_for_catchup($standby);
my $session = $standby->background_psql($db);
$session->query_safe('SELECT es_high_water_mark()');
$standby->promote;
my $old = $node;
my $new = $standby;

# The session that was there before: a position that it is given is of the new epoch.
my $position = $session->query_safe(q[SELECT position FROM es_append('counter-1', -2, 'Counted', '{}')]);
cmp_ok($position, '>', $mark + 1_000_000_000, 'positions go on far ahead on a new timeline, in an old session too');
$session->quit;
is_deeply(check($new, $first, $mark), [ epoch($new), $mark, 'f' ], 'nothing was lost: a cursor at the mark goes on');
whole($new, 'promoted');

# ---- something was lost

# The old primary goes on for a while, and shows what it has. Nobody else will ever hear of it.
my $lost = append($old, 'counter-1', 100);
publish($old);
is_deeply(check($old, $first, $lost), [ $first, $lost, 'f' ], 'the old primary knows what it has shown');
my $both = q1($new, "SELECT count(*) FROM event_store.events WHERE position BETWEEN $mark + 1 AND $lost");
is($both, 0, 'none of its positions means something else in the other history');
is_deeply(check($new, $first, $lost), [ epoch($new), $mark, 't' ], 'a cursor from there has to go back');
append($new, 'counter-2', 10);
is(q1($new, "SELECT count(*) FROM event_store.events WHERE position BETWEEN $mark + 1 AND $lost"), 0, '... and nothing is behind it that it would miss');
is_deeply(check($old, epoch($new), $position), [ $first, 0, 't' ], 'the old primary sends a cursor of the new one back to its beginning');
$old->stop;

# One that is in progress where the histories part: committed in the lost one, gone in the other.
my $second = epoch($new);
publish($new);
my $certain = q1($new, 'SELECT mark FROM event_store.mark');
my $late = $new->background_psql($db);
$late->query_safe('BEGIN');
my $torn = $late->query_safe(q[SELECT position FROM es_append('counter-3', 0, 'Counted', '{}')]);
my $after = append($new, 'counter-4');
publish($new);
my $third = new_standby($new, 'third');
$new->wait_for_catchup($third);
$third->promote;
# All at once: one of them begins the epoch.
my $script = $third->basedir . '/append.sql';
append_to_file($script, q[SELECT es_append('busy-' || :client_id, -2, 'Counted', '{}');]);
command_ok([ 'pgbench', '-n', '-c', 8, '-j', 2, '-t', 20, '-f', $script, '-h', $third->host, '-p', $third->port, $db ],
	'many append right after the promotion');
$late->query_safe('COMMIT');
$late->quit;
is(q1($new, 'SELECT max(position) FROM es_read_all(0, NULL)'), $after, 'a reader of the lost history sees an event that committed late');
is(q1($third, qq[SELECT count(*) FROM event_store.events WHERE position = $torn]), 0, '... which the other history does not have');
is(q1($third, qq[SELECT count(*) FROM event_store.events WHERE position = $after]), 1, '... though it has a later one');
is_deeply(check($third, $second, $after), [ epoch($third), $certain, 't' ], 'its cursor has to go back behind the one that is gone');
is_deeply(check($third, $first, $lost), [ epoch($third), $mark, 't' ], 'a cursor of the first epoch goes back to the end of that');
is(q1($third, 'SELECT count(*) FROM event_store.epochs'), 3, 'one epoch was begun');
is(q1($third, q[SELECT count(*) FROM event_store.events WHERE category = 'busy' AND position > (SELECT max(start_position) FROM event_store.epochs)]),
	160, '... and all that was appended is in it');
whole($third, 'promoted again');
$third->stop;

# ---- a crash, a restart: the same epoch

is(epoch($new), $second, 'the epoch of a server');
$new->stop('immediate');
$new->start;
is(epoch($new), $second, '... is that after a crash');
is_deeply(check($new, $second, $after), [ $second, $after, 'f' ], '... and a cursor goes on');

# ---- prepared appends and promotion

q1($new, 'SELECT es_publish_mark()');
$new->safe_psql($db, q[BEGIN; SELECT es_append('counter-5', 0, 'Counted', '{}'); PREPARE TRANSACTION 'append']);
my $prepared_mark = q1($new, 'SELECT es_high_water_mark()');
append($new, 'counter-6');
publish($new);
my $fourth = new_standby($new, 'fourth');
$new->wait_for_catchup($fourth);
$new->stop('immediate');
$fourth->promote;
$position = append($fourth, 'counter-6');
is(q1($fourth, 'SELECT es_high_water_mark()'), $prepared_mark, 'a prepared append holds the mark after a promotion');
is_deeply(check($fourth, $second, $prepared_mark), [ epoch($fourth), $prepared_mark, 'f' ], '... and a cursor that waits for it is good');
$fourth->stop('immediate');
$fourth->start;
is(q1($fourth, 'SELECT es_high_water_mark()'), $prepared_mark, '... and after a crash');
$fourth->safe_psql($db, q[COMMIT PREPARED 'append']);
cmp_ok(q1($fourth, 'SELECT es_high_water_mark()'), '>=', $position, '... until it commits');
is(q1($fourth, qq[SELECT string_agg(stream, ' ' ORDER BY position) FROM es_read_all($prepared_mark, NULL)]), 'counter-5 counter-6 counter-6',
	'... in its place');
whole($fourth, 'with a prepared append');

# ---- a synchronous standby that is missing, then back

my $sync = new_standby($fourth, 'sync');
$fourth->safe_psql($db, q[ALTER SYSTEM SET synchronous_standby_names = 'sync'; SELECT pg_reload_conf()]);
$fourth->poll_query_until($db, "SELECT sync_state = 'sync' FROM pg_stat_replication") or die;
publish($fourth);
$sync->stop;
my $writer = $fourth->background_psql($db);
$writer->query_until(qr/sent/, qq[\\echo sent\nSELECT position FROM es_append('counter-7', 0, 'Counted', '{}');\n]);
$fourth->poll_query_until($db, "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'SyncRep'") or die;
is(q1($fourth, q[SET synchronous_commit = local; SELECT count(*) FROM es_read_all(0, NULL) WHERE stream = 'counter-7']), 0,
	'an append that the missing standby does not have is not shown');
$sync->start;
$writer->query_safe('SELECT 1');
$writer->quit;
publish($fourth);
$fourth->wait_for_catchup($sync);
is(q1($sync, q[SELECT count(*) FROM es_read_all(0, NULL) WHERE stream = 'counter-7']), 1, '... and is on both when it is back');
$fourth->safe_psql($db, q[ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf()]);

# ---- recovery to an earlier time

my $base = epoch($fourth);
$sync->stop;
$fourth->append_conf('postgresql.conf', "archive_mode = on\narchive_command = 'cp %p \"" . $fourth->archive_dir . "/%f\"'\n");
$fourth->restart;
$fourth->backup('earlier');
publish($fourth);
my $here = append($fourth, 'counter-1');
my $until = publish($fourth);
append($fourth, 'counter-1', 3);
my $name = $fourth->safe_psql($db, q[SELECT pg_create_restore_point('here'), pg_walfile_name(pg_current_wal_lsn())]);
$name =~ s/.*\|//;
my $regretted = append($fourth, 'counter-1', 40);
publish($fourth);
$fourth->safe_psql($db, 'SELECT pg_switch_wal()');
$fourth->poll_query_until($db, "SELECT last_archived_wal >= '$name' FROM pg_stat_archiver") or die;

my @restored;
for my $n (1, 2)
{
	my $restored = PostgreSQL::Test::Cluster->new("restored$n");
	$restored->init_from_backup($fourth, 'earlier', has_restoring => 1);
	$restored->append_conf('postgresql.conf', q[
recovery_target_name = 'here'
recovery_target_action = 'promote'
archive_mode = off
]);
	$restored->append_conf('postgresql.conf', "shared_preload_libraries = 'event_store'\n") if $n == 2;
	$restored->start;
	$restored->poll_query_until($db, 'SELECT NOT pg_is_in_recovery()') or die;
	push @restored, $restored;
}
my ($one, $two) = @restored;

# Where no worker can be started an append begins the epoch itself; others wait, and do it when it is rolled back.
$one->append_conf('postgresql.conf', "max_worker_processes = 0\n");
$one->restart;
my @epochs = map { $_->background_psql($db) } $one, $one;
$epochs[0]->query_safe('BEGIN');
my $in_vain = $epochs[0]->query_safe(q[SELECT position FROM es_append('own-1', 0, 'Counted', '{}')]);
$epochs[1]->query_until(qr/sent/, qq[\\echo sent\nSELECT position FROM es_append('own-2', 0, 'Counted', '{}');\n]);
ok($one->poll_query_until($db, q[SELECT count(*) = 1 FROM pg_locks WHERE relation = 'event_store.epochs'::regclass AND NOT granted]),
	'an append waits for one that begins an epoch in its own transaction');
$epochs[0]->query_safe('ROLLBACK');
my $in_turn = (split /\n/, $epochs[1]->query_safe('SELECT 1'))[0];
cmp_ok($in_turn, '>', $in_vain + 1_000_000_000, '... and begins it itself when that was rolled back');
is(q1($one, "SELECT start_position < $in_turn AND start_position > $in_vain FROM event_store.epochs ORDER BY epoch DESC LIMIT 1"), 't', '... behind it');
$_->quit for @epochs;

is_deeply(check($one, $base, $until), [ epoch($one), $until, 'f' ], 'recovered to an earlier time: a cursor up to there goes on');
is_deeply(check($one, $base, $regretted), [ epoch($one), $until, 't' ], '... one from later goes back');
cmp_ok($position = append($one, 'counter-1'), '>', $regretted, '... and its position is not given again');
whole($one, 'recovered');

# Restored once more: its epoch is another one, be the timeline of the same number or not.
isnt(epoch($one), epoch($two), 'two recoveries have different epochs');
is_deeply(check($two, epoch($one), $position), [ epoch($two), $until, 't' ], '... and one tells a cursor of the other to go back to where they part');

cmp_ok(q1($two, 'SELECT max(start_position) FROM event_store.epochs'), '!=', q1($one, 'SELECT max(start_position) FROM event_store.epochs'),
	'... and draw other positions');

# Where a coordinator runs nobody has to append first.
ok($two->poll_query_until($db, "SELECT mark > $regretted + 1000000000 FROM event_store.mark"), 'a coordinator begins the epoch by itself');
ok($two->poll_query_until($db, 'SELECT count(*) < 12 AND max(to_position) > ' . $regretted . ' + 1000000000 FROM event_store.partitions'),
	'... with some partitions, not thousands');
append($two, 'counter-1', 5);
ok($two->poll_query_until($db, q[SELECT lag_events = 0 FROM event_store.projection_status]), '... and its workers step over the gap');
whole($two, 'with a coordinator');

$_->stop for $one, $two, $fourth;

# ---- the same with a known bug

my $mutant = PostgreSQL::Test::Cluster->new('mutant');
$mutant->init(allows_streaming => 1);
$mutant->start;
$mutant->safe_psql($db, 'CREATE EXTENSION event_store');
use_library($mutant, $db, build_mutant('07-no-epoch-after-promotion'));
$mutant->safe_psql($db, 'SELECT es_create_store()');
append($mutant, 'counter-1', 10);
my $heir = new_standby($mutant, 'heir');
$mutant->wait_for_catchup($heir);
$heir->promote;
$lost = append($mutant, 'counter-1', 100);
cmp_ok(append($heir, 'counter-1'), '<=', $lost, 'the mutant gives a position again');
$_->stop for $mutant, $heir;
done_testing();
