# Faults: a library that was built with ES_FAULTS fails at a chosen point of an append, a projection, a seal and so on, by
# an error, a cancel, the end of the session, SIGKILL or PANIC. Each time: either nothing has changed or all of it has, the
# session or the server goes on, the same is done again and is there once, no lock is left, and what is stored is sound.
use strict;
use warnings;

use File::Basename;
use Mutant;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Time::HiRes qw(time usleep);

my $db = 'postgres';
my $library = build_faults();
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
# Workers look for the library by its name.
$node->append_conf('postgresql.conf', qq[
autovacuum = off
restart_after_crash = on
dynamic_library_path = '@{[ dirname($library) ]}:\$libdir'
event_store.mark_wait = 10s
include_if_exists = 'fault.conf'
]);
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE small');
$node->safe_psql('postgres', 'ALTER DATABASE small SET event_store.partition_size = 100');
for my $name ('postgres', 'small')
{
	$node->safe_psql($name, 'CREATE EXTENSION event_store');
	use_library($node, $name, $library);
	$node->safe_psql($name, q[
SELECT es_create_store();
CREATE TABLE seen (position bigint PRIMARY KEY, stream text, version bigint, id text);
SELECT es_create_projection('seen', $$INSERT INTO seen SELECT position, stream, version, data->>'id' FROM new_events$$,
	tables => ARRAY['seen'::regclass]);
SELECT es_register_aggregate('order', 'state || data', snapshot_every => 100);
SELECT es_create_subscription('everything');
SELECT es_append_batch(array_fill('order-1'::text, '{20}'), array_fill('Placed'::text, '{20}'), array_fill('{}'::jsonb, '{20}'));
]);
}

sub session { return Session->connect($node->connstr($db), name => $_[0]) }

my $monitor = session('monitor');
my $log_from = 0;

sub ask { return $monitor->ask($_[0]) }

# Another session: after a crash, or in another database.
sub look_again
{
	my ($crash) = @_;

	# Whoever has crashed is gone before the postmaster has noticed, and ended everybody else.
	$monitor->query('SELECT pg_sleep(30);') if $crash;
	$monitor->quit;
	$monitor = session('monitor');
	return;
}

sub wait_until
{
	my ($what, $condition) = @_;
	my $end = time + 60;

	while (time < $end)
	{
		return 1 if $condition->();
		usleep(5_000);
	}
	die "waited in vain until $what\n";
}

sub mark_log { $log_from = -s $node->logfile; return }

# The processes that a fault has happened to since the last call of mark_log(); in scalar context, how many.
sub faults
{
	my ($point, $action) = @_;
	my $said = slurp_file($node->logfile, $log_from);
	my @pids = $said =~ /\[(\d+)\] .*LOG:  event_store fault at $point: $action$/mg;
	return @pids;
}

# ---- what must always be so

my $invariants = q[SELECT string_agg(what, ', ') FROM (
	SELECT 'es_check: ' || c::text FROM es_check('all') c
	UNION ALL SELECT 'es_verify_log: ' || v::text FROM es_verify_log() v
	UNION ALL SELECT 'versions of ' || stream FROM es_read_all(0, NULL) GROUP BY stream
		HAVING min(version) <> 1 OR max(version) <> count(*) OR max(version) <> es_stream_version(stream)
	UNION ALL SELECT 'order of ' || stream FROM (SELECT stream, version - row_number() OVER (PARTITION BY stream ORDER BY position) AS d
		FROM es_read_all(0, NULL)) o WHERE d <> 0
	UNION ALL SELECT 'the projection at ' || coalesce(s.position, e.position) FROM seen s
		FULL JOIN (SELECT * FROM es_read_all(0, NULL) WHERE position <= (SELECT position FROM event_store.checkpoints WHERE NOT rebuild)) e
			ON (e.position, e.stream, e.version) = (s.position, s.stream, s.version) WHERE s.position IS NULL OR e.position IS NULL
	UNION ALL SELECT 'checkpoint ' || c.position FROM event_store.checkpoints c, es_high_water_mark() m WHERE c.position > m
	UNION ALL SELECT 'lock ' || l.locktype || ' of ' || a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
	) w (what)];

# What an operation may change, but by the session that looks.
my $state = q[SELECT (SELECT count(*) || '/' || coalesce(max(position), 0) FROM event_store.log),
	(SELECT count(*) || '/' || sum(version) || '/' || sum(last_position) FROM event_store.heads),
	(SELECT count(*) FROM event_store.append_keys), (SELECT count(*) FROM event_store.batch_keys),
	(SELECT count(*) FROM event_store.categories), (SELECT count(*) FROM event_store.event_types),
	(SELECT string_agg(c::text, ' ' ORDER BY rebuild) FROM event_store.checkpoints c), (SELECT count(*) FROM event_store.quarantine),
	(SELECT count(*) || '/' || sum(position) FROM seen),
	(SELECT mark || '/' || floor || '/' || stable_until FROM event_store.mark), (SELECT count(*) FROM event_store.seals),
	(SELECT count(*) || '/' || coalesce(sum(version), 0) FROM event_store.snapshots), (SELECT count(*) FROM event_store.partitions),
	(SELECT string_agg(s::text, ' ' ORDER BY s::text) FROM event_store.subscription_streams s), (SELECT count(*) FROM event_store.rebuilds),
	(SELECT string_agg(s::text, ' ' ORDER BY s::text) FROM event_store.subscriptions s)];

# ---- operations

my $n = 0;
my %acknowledged;

sub append
{
	my ($id) = @_;
	# Two streams, one of them new, and a new category and type each time.
	return qq[SELECT count(*) FROM es_append_multi('[
		{"stream": "order-1", "expected_version": "any", "events": [{"type": "Placed", "data": {"id": "$id"}}, {"type": "Type$id", "data": {"id": "$id"}}], "idempotency_key": "$id"},
		{"stream": "cat$id-1", "expected_version": 0, "events": [{"type": "Placed", "data": {"id": "$id"}}], "idempotency_key": "$id"}]')];
}

# Each: points; prepare, run before; run, in which it fails; decided: an append, of which it is known what must be there
# afterwards ('none', 'all' or 'either'); config, settings of the server; restart, settings that need a restart; db, another
# database.
my @operations = (
	{ points => [qw(after_lock after_allocation after_insert before_commit)], run => \&append, append => 'none' },
	{ points => ['after_commit'], run => \&append, append => 'all' },
	{ points => [qw(before_checkpoint after_checkpoint)], prepare => sub { $monitor->ask(append("$_[0]a")) }, run => sub { q[SELECT es_run_projection('seen')] } },
	{ points => ['publish'], prepare => sub { $monitor->ask(append("$_[0]a")) }, run => sub { 'SELECT es_publish_mark()' } },
	{ points => ['seal'], prepare => sub { $monitor->ask(append("$_[0]a")) }, run => sub { 'SELECT es_seal_log()' } },
	{ points => ['snapshot'], prepare => sub { $monitor->ask(append("$_[0]a")) }, run => sub { q[SELECT es_snapshot('order-1')] } },
	{ points => ['ack'], prepare => sub { $monitor->ask(append("$_[0]a")); $monitor->ask("SELECT count(*) FROM es_fetch('everything', max_count => 100000, lease => '1 h')") },
		run => sub { q[SELECT es_ack('everything', (SELECT max(position) FROM event_store.log))] } },
	{ points => ['before_switch'], prepare => sub {
			$monitor->ask(append("$_[0]a"));
			$monitor->ask("SELECT es_rebuild_projection('seen', 'INSERT INTO seen SELECT position, stream, version, data->>''id'' FROM new_events -- $_[0]')") },
		run => sub { q[SELECT es_run_projection('seen')] } },
	# Who holds the log makes the partition himself.
	{ points => ['partition'], db => 'small', run => sub { "BEGIN; LOCK TABLE event_store.log IN SHARE UPDATE EXCLUSIVE MODE;
			SELECT count(*) FROM es_append_batch(array_fill('batch-$_[0]'::text, '{300}'), array_fill('Placed'::text, '{300}'), array_fill('{}'::jsonb, '{300}'), idempotency_key => 'partition $_[0]'); COMMIT" } },
	# The library is preloaded, which this needs; and there is no slot for a background process, so none changes anything.
	{ points => ['before_flush'], run => \&append, append => 'either', config => 'event_store.early_lock_release = on',
		restart => "shared_preload_libraries = 'event_store'\nmax_worker_processes = 0" },
);

sub configure { return set_faults($node, @_) }

my %ways = (
	error => { action => 'error', sqlstate => '58000' },
	cancel => { action => 'wait', signal => 'SELECT pg_cancel_backend(pid)', sqlstate => '57014' },
	terminate => { action => 'wait', signal => 'SELECT pg_terminate_backend(pid)', sqlstate => 'lost' },
	kill => { action => 'kill', sqlstate => 'lost', crash => 1 },
	panic => { action => 'panic', sqlstate => 'lost', crash => 1 });
my %fired;

# A session fails at a point in a way. Returns what is wrong, '' for nothing.
sub fail_at
{
	my ($operation, $point, $way) = @_;
	my $w = $ways{$way};
	my $id = 'f' . ++$n;
	my $victim = session('victim');
	my $again;
	my @wrong;
	my $complain = sub { my ($got, $expected, $what) = @_; push @wrong, "$what: $got, not $expected" if $got ne $expected };

	$operation->{prepare}->($id) if $operation->{prepare};
	# Of one crash the rows of an asynchronous commit are not to be lost.
	ask('CHECKPOINT') if $w->{crash};
	my $before = ask($state);
	my $run = $operation->{run}->($id);
	$victim->ask("SET event_store.fault = '$point:$w->{action}'");
	mark_log();
	$victim->send("$run;");
	if ($w->{signal})
	{
		wait_until("a process waits at $point", sub { faults($point, 'wait') });
		ask("$w->{signal} FROM pg_stat_activity WHERE application_name = 'victim'");
	}
	my (undef, $error) = $victim->receive;
	$complain->($error, $w->{sqlstate}, 'SQLSTATE');
	look_again(1) if $w->{crash};
	my $happened = faults($point, $w->{action});
	$complain->($happened, 1, 'faults');
	$fired{$w->{action}} += $happened;
	if ($error eq 'lost')
	{
		$victim->quit;
		wait_until('the session is gone', sub { ask(q[SELECT count(*) FROM pg_stat_activity WHERE application_name = 'victim']) == 0 });
		$victim = session('survivor');
	}
	else
	{
		$victim->query('ROLLBACK;');
		$victim->ask('RESET event_store.fault');
	}

	# Nothing, or all of it.
	my $after = ask($state);
	my $there = ask("SELECT count(*) FROM es_read_all(0, NULL) WHERE data->>'id' = '$id'");
	my $expected = $operation->{append} // 'none';
	if ($expected eq 'none' || ($expected eq 'either' && $there == 0))
	{
		$complain->($after, $before, 'what is there');
		$complain->($there, 0, 'events');
	}
	else
	{
		$complain->($there, 3, 'events');
	}
	$complain->(ask($invariants), '', 'afterwards');

	# The same again succeeds, and is there once.
	($again, $error) = $victim->query("$run;");
	$complain->($error, '', 'the second time');
	$acknowledged{$id} = 1 if $operation->{append};
	$complain->(ask($state) eq $before ? 'nothing' : 'something', 'something', 'done the second time');
	$complain->(ask("SELECT count(*) FROM es_read_all(0, NULL) WHERE data->>'id' = '$id'"), 3, 'events of the second time') if $operation->{append};
	$complain->(ask($invariants), '', 'after the second time');
	$victim->quit;
	return join("\n", @wrong);
}

my $started = time;
for my $operation (@operations)
{
	if ($db ne ($operation->{db} // 'postgres'))
	{
		$db = $operation->{db} // 'postgres';
		look_again();
	}
	if ($operation->{restart})
	{
		$node->append_conf('postgresql.conf', $operation->{restart});
		$monitor->quit;
		$node->restart;
		$monitor = session('monitor');
	}
	if ($operation->{config})
	{
		configure($operation->{config});
		wait_until('it is configured', sub { ask(q[SELECT current_setting('event_store.early_lock_release', true)]) eq 'on' });
	}
	for my $point (@{ $operation->{points} })
	{
		my $committed = defined $operation->{append} && $operation->{append} ne 'none';
		for my $way (grep { !$committed || $ways{$_}{crash} } qw(error cancel terminate kill panic))
		{
			my $wrong = eval { fail_at($operation, $point, $way) } // "died: $@";
			is($wrong, '', "$point, $way");
			look_again() if $monitor->{lost};
		}
	}
}
configure();
is(($monitor->query("SET event_store.fault = '$_';"))[1], '22023', "it is refused: $_") for 'after_lock', 'nowhere:kill', 'after_lock:dance', 'after_commit:error', 'before_flush:wait', 'after_lock:kill:often';

# ---- background processes

$node->append_conf('postgresql.conf', q[
max_worker_processes = 8
event_store.seal_interval = 1s
event_store.poll_interval = 100ms
event_store.max_workers = 1
]);
$monitor->quit;
$node->restart;
$monitor = session('monitor');

my $all_done = q[SELECT (SELECT mark >= newest_position AND stable_until IS NOT NULL FROM event_store.status)
	AND es_wait_for_projection('seen', (SELECT max(position) FROM event_store.log), '1 s')
	AND NOT EXISTS (SELECT FROM event_store.rebuilds) AND NOT EXISTS (SELECT FROM event_store.quarantine)];

# Locks are held by the processes in the background.
my $without_locks = $invariants =~ s/UNION ALL SELECT 'lock.*?\n.*?pg_backend_pid\(\)//sr;

my %background = (
	before_checkpoint => sub { append($_[0]) },
	after_checkpoint => sub { append($_[0]) },
	publish => sub { append($_[0]) },
	seal => sub { append($_[0]) },
	snapshot => sub { "SELECT es_append_batch(array_fill('order-1'::text, '{250}'), array_fill('Placed'::text, '{250}'), array_fill('{}'::jsonb, '{250}'), idempotency_key => '$_[0]'); SELECT pg_sleep(1.1); SELECT version FROM es_load('order-1')" },
	before_switch => sub { "SELECT es_rebuild_projection('seen')" },
	partition => sub { "SELECT es_append_batch(array_fill('batch-1'::text, '{300}'), array_fill('Placed'::text, '{300}'), array_fill('{}'::jsonb, '{300}'), idempotency_key => '$_[0]')" },
);

for my $point (sort keys %background)
{
	$db = $point eq 'partition' ? 'small' : 'postgres';
	look_again();
	for my $way (qw(error terminate kill))
	{
		my $w = $ways{$way};
		my $wrong = eval {
			my $id = 'b' . ++$n;
			my $client = session('client');
			my %ended;
			my $end = sub { $monitor->ask("$w->{signal} FROM pg_stat_activity WHERE pid = $_") for grep { !$ended{$_}++ } faults($point, $w->{action}) };
			wait_until('all is done', sub { ($monitor->query("$all_done;"))[0] eq 't' });
			$client->ask("SET event_store.fault = ''");    # not there
			# From here on it may happen at any time: the coordinator need not be asked.
			mark_log();
			configure("event_store.fault = '$point:$w->{action}'");
			wait_until('it is configured', sub { my ($fault) = $monitor->query('SHOW event_store.fault;'); ($fault // 'lost') ne '' });
			$client->send($background{$point}->($id) . ';');
			wait_until("$point: $w->{action}", sub { faults($point, $w->{action}) });
			configure();
			if ($w->{signal})
			{
				# Its successor, which may be there at once, is not to wait as well. The coordinator does much of what others do.
				wait_until('it is taken back', sub { ask('SHOW event_store.fault') eq '' });
				wait_until('the client is answered', sub { $end->(); $client->{select}->can_read(0.05) });
			}
			my (undef, $error) = $client->receive;
			$fired{$w->{action}}++;
			# A process that began again before the postmaster read that it is over may do it once more.
			for my $try (1 .. ($w->{crash} ? 5 : 0))
			{
				look_again($try == 1);
				$client->quit;
				$client = session('client');
				(undef, $error) = $client->query($background{$point}->($id) . ';');
				last if $error ne 'lost';
			}
			die "$error\n" if $error ne '';
			wait_until('all is done', sub { $end->() if $w->{signal}; my ($done) = $monitor->query("$all_done;"); look_again() if !defined $done; ($done // '') eq 't' });
			my $found = ask($without_locks);
			$client->quit;
			$found;
		} // "died: $@";
		is($wrong, '', "$point in a background process, $way");
		look_again() if $monitor->{lost};
	}
}

$db = 'postgres';
look_again();
my @missing = grep { ask("SELECT count(*) FROM es_read_all(0, NULL) WHERE data->>'id' = '$_'") != 3 } sort keys %acknowledged;
is("@missing", '', 'all that was acknowledged is there once');
is(ask($invariants), '', 'and everything is sound');
cmp_ok($fired{$_} // 0, '>=', 10, "$_: $fired{$_} faults") for qw(error wait kill panic);
note(sprintf('%d faults in %.0f s', $n, time - $started));

my $said = slurp_file($node->logfile);
unlike($said, qr/TRAP:|was terminated by signal (?!9:|6:)/, 'no process failed by itself');
is(scalar(grep { !/fault at/ } $said =~ /PANIC:.*/g), 0, 'nor by a PANIC that was not asked for');
$monitor->quit;
$node->stop;
done_testing();
