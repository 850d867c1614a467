# A crash loop: clients append in every way, read by position and by stream, load, consume a subscription and rebuild a
# projection, while backends, workers and the server are killed, sessions ended and statements cancelled, also at chosen
# points (ES_FAULTS). Meanwhile a DBA detaches partitions and attaches them again, renames the role of a projection, hides
# its rows, publishes all tables, forbids DDL, restores snapshots of another history, and holds old snapshots. All write down outside of the database what they ask for and what they are told; Checker.pm compares that
# with what is there in the end. It must find what known bugs do.
#
# ES_LONG=1 gives it nine minutes, ES_CRASH_SECONDS any other time.
use strict;
use warnings;

use Checker;
use Crash;
use Dba;
use File::Basename;
use IO::Handle;
use Mutant;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC usleep);

my $db = 'postgres';
my $seconds = $ENV{ES_CRASH_SECONDS} // ($ENV{ES_LONG} ? 540 : 20);
my $seed = $ENV{ES_CRASH_SEED} // int(rand(1e9));
my ($writers, $hot) = (5, 6);
# Microseconds between two calls, at most: what is there in the end is to be checked in memory.
my $pause = 3000 * ($seconds > 20 ? $seconds / 20 : 1);

note("ES_CRASH_SEED=$seed");
srand($seed);

my ($node, $dir);

sub now { return clock_gettime(CLOCK_MONOTONIC) }

sub session { return Session->connect($node->connstr($db), name => $_[0]) }

# Has lines written to the file of a process.
sub recorder
{
	my ($name) = @_;

	open my $file, '>', "$dir/$name" or die "$!";
	$file->autoflush(1);
	return sub { print $file join("\t", $_[0], now(), @_[ 1 .. $#_ ]) . "\n"; return };
}

sub spawn
{
	my ($sub, @args) = @_;
	my $pid = fork() // die "fork: $!";

	return $pid if $pid > 0;
	srand($seed + $$);
	my $ok = eval { $sub->(@args); 1 };
	append_to_file("$dir/died", $@) unless $ok;
	POSIX::_exit($ok ? 0 : 1);
}

# ---- who appends

# Events of the given streams, as (types, data): event n of the call is in stream n.
sub batch
{
	my ($call, $key, @streams) = @_;
	my $list = sub { 'ARRAY[' . join(', ', map { "'$_'" } @_) . ']' };

	return "SELECT '*', first_position, last_position, replayed FROM es_append_batch(" . $list->(@streams) . ', '
	  . $list->(map { 'T' . $_ % 5 } 0 .. $#streams) . ', ' . $list->(map { qq({"call": "$call", "n": $_}) } 0 .. $#streams)
	  . '::jsonb[]' . ($key ? ", idempotency_key => '$call'" : '') . ');';
}

sub single
{
	my ($call, $key, $stream, $expected, $n) = @_;

	return "SELECT '$stream', version, position, replayed FROM es_append('$stream', " . ($expected // -2)
	  . ", 'T$n', '{\"call\": \"$call\", \"n\": $n}'" . ($key ? ", idempotency_key => '$call'" : '') . ');';
}

sub multi
{
	my ($call, $key, @streams) = @_;
	my $n = 0;
	my $elements = join ', ', map {
		my $stream = $_;
		qq({"stream": "$stream", "expected_version": "any", ) . ($key ? qq("idempotency_key": "$call", ) : '')
		  . '"events": [' . join(', ', map { qq({"type": "T$n", "data": {"call": "$call", "n": ) . $n++ . '}}' } 1, 2) . ']}' } @streams;

	return "SELECT stream, version, position, replayed FROM es_append_multi('[$elements]');";
}

sub pick_stream
{
	my ($id) = @_;
	my $dice = rand;

	return $dice < .7 ? 'hot-' . int(rand $hot) : $dice < .9 ? "own$id-" . int(rand 50) : 'new' . int(rand 40) . '-' . int(rand 1e6);
}

sub pick_level { my $dice = rand; return $dice < .5 ? '' : $dice < .75 ? ' ISOLATION LEVEL REPEATABLE READ' : ' ISOLATION LEVEL SERIALIZABLE' }

sub writer
{
	my ($id) = @_;
	my $record = recorder("writer.$id");
	my $session = session("writer $id");
	my $n = 0;

	while (!-e "$dir/enough")
	{
		my $call = "$id." . ++$n;
		my $dice = rand;
		my $key = rand() < .4;
		my (%distinct) = map { pick_stream($id) => 1 } 1 .. 3;
		my @streams = sort keys %distinct;
		my @events = ($streams[0]);
		my ($sql, $expected, $rolled_back);

		if ($dice < .25)
		{
			$sql = single($call, $key, $streams[0], undef, 0);
		}
		elsif ($dice < .5)
		{
			my ($version, $error) = $session->query("SELECT es_stream_version('$streams[0]');");
			if ($error ne '')
			{
				$session->quit;
				$session = session("writer $id");
				next;
			}
			usleep(rand 4000);
			$sql = single($call, $key, $streams[0], $version, 0);
			$expected = "$streams[0]=$version";
		}
		elsif ($dice < .65)
		{
			@events = map { ($_, $_) } @streams;
			$sql = multi($call, $key, @streams);
		}
		elsif ($dice < .8)
		{
			@events = map { $streams[ int(rand @streams) ] } 0 .. int(rand 20);
			$sql = batch($call, $key, @events);
		}
		else
		{
			# One message: when BEGIN is cancelled, nothing of what follows is done.
			$key = 0;
			@events = @streams;
			$rolled_back = $dice > .95;
			my $level = pick_level();
			$record->('level', $call, $level) if $level ne '';
			# It stays open for a while, as those do that must not be overlooked.
			my $nap = 'DO $$ BEGIN PERFORM pg_sleep(' . sprintf('%.3f', rand .03) . '); END $$';
			my @calls = map { single($call, 0, $streams[$_], undef, $_) =~ s/;\z//r } 0 .. $#streams;
			$sql = join(' \; ', "BEGIN$level", (map { ($_, $nap) } @calls), $rolled_back ? 'ROLLBACK' : 'COMMIT') . ';';
		}

		$record->('intent', $call, $expected // '-', $key ? 'key' : '-', join(',', @events));
		my ($unknown, $done) = (0, 0);
		for my $attempt (1 .. 20)
		{
			my ($said, $error) = $session->query($sql);

			if ($error eq 'lost')
			{
				$record->('unknown', $call);
				$session->quit;
				$session = session("writer $id");
				$unknown = 1;
			}
			elsif ($error eq '' && !$rolled_back)
			{
				my @rows = map { [ split /\|/ ] } split /\n/, $said;
				$record->('ack', $call, $rows[0][3], join ',', map { join ':', @$_[ 0 .. 2 ] } @rows);
				# Now and then it is sent again all the same.
				last if $done++ || rand() < .9;
				$unknown = 1;
			}
			# What has failed when it is sent again says nothing about the first time, unless it is for the version: a retry
			# is recognised before that.
			elsif (!$unknown || $error eq 'YE001')
			{
				$record->('refused', $call, $error || 'rolled back');
				$session->query('ROLLBACK;') if $sql =~ /^BEGIN/;
				last;
			}
			last if !$key;
			$record->('again', $call);
		}
		usleep(rand $pause);
	}
	$session->quit;
	return;
}

# ---- who reads

my $columns = "position, stream, version, data->>'call', data->>'n'";

# Does something again and again; when writers have stopped, once more until it says that there is nothing left.
sub follow
{
	my ($name, $step) = @_;
	my $session = session($name);
	my $late = 0;
	my $end;

	while (1)
	{
		my $stopped = -e "$dir/stop";
		$end //= now() + 60 if $stopped;
		die "$name does not come to its end\n" if $end && now() > $end;
		my $more = $step->($session);

		if (!defined $more)
		{
			$session->quit;
			$session = session($name);
			next;
		}
		last if $stopped && !$more && $late++ > 2;
		usleep(5_000 + rand 20_000) if !$more;
	}
	$session->quit;
	return;
}

# Reads on and on from where it was: what it follows, as recorded; a sub that makes the call that goes on behind a place;
# which column says the place.
sub reader
{
	my ($id, $follows, $call, $column) = @_;
	my $record = recorder("reader.$id");
	my $cursor = 0;

	$record->(@$follows);
	follow("reader $id", sub {
		my ($session) = @_;
		my ($said, $error) = $session->query("SELECT $columns FROM " . $call->($cursor) . ';');

		return if $error eq 'lost';
		$record->('refused', $error) if $error ne '';
		for (map { [ split /\|/ ] } split /\n/, $error eq '' ? $said : '')
		{
			$record->('event', @$_);
			$cursor = $_->[$column];
		}
		return $error eq '' ? $said ne '' : 1;
	});
	return;
}

sub feed_reader { my ($id) = @_; return reader($id, ['feed'], sub { "es_read_all($_[0], " . (1 + int(rand 300)) . ')' }, 0) }
sub stream_reader { my ($id, $stream) = @_; return reader($id, [ 'stream', $stream ], sub { "es_read('$stream', $_[0] + 1, " . (1 + int(rand 50)) . ')' }, 2) }

sub consumer
{
	my ($id) = @_;
	my $record = recorder("consumer.$id");

	follow("consumer $id", sub {
		my ($session) = @_;
		my ($said, $error) = $session->query("SELECT $columns FROM es_fetch('all', max_count => " . (1 + int(rand 200)) . ", lease => '1 h', wait => '50 ms');");

		return if $error eq 'lost';
		return 1 if $error ne '';
		return 0 if $said eq '';
		my @rows = map { [ split /\|/ ] } split /\n/, $said;
		$record->('fetch');
		$record->('event', @$_) for @rows;
		my $upto = rand() < .8 ? $rows[-1][0] : $rows[ int(rand @rows) ][0];
		(undef, $error) = $session->query("SELECT es_ack('all', $upto);");
		return if $error eq 'lost';
		$record->('ack', $upto) if $error eq '';
		return 1;
	});
	return;
}

# Finds the mark after the checkpoints, and waits for it: it is exact.
sub monitor
{
	my $record = recorder('monitor.1');

	follow('monitor', sub {
		my ($session) = @_;
		my ($said, $error) = $session->query(q[SET event_store.mark_wait = '50s'; SELECT coalesce(max(position), 0) FROM event_store.checkpoints;
			SELECT es_high_water_mark();]);

		return if $error eq 'lost';
		return 1 if $error ne '';
		my ($checkpoint, $mark) = split /\n/, $said;
		$record->('checkpoint', $checkpoint, $mark);
		$record->('mark', $mark);
		usleep(30_000);
		return 0;
	});
	return;
}

sub rebuilder
{
	my $record = recorder('rebuilder.1');
	my $begun = 0;

	follow('rebuilder', sub {
		my ($session) = @_;
		my ($said, $error) = $session->query('SELECT count(*) FROM event_store.rebuilds;');

		return if $error eq 'lost';
		return 0 if $error ne '' || $said ne '0';
		$record->('rebuilt') if $begun;
		$begun = 0;
		return 0 if -e "$dir/stop";
		(undef, $error) = $session->query("SELECT es_rebuild_projection('copy');");
		return if $error eq 'lost';
		$begun = 1 if $error eq '';
		usleep(200_000);
		return 0;
	});
	return;
}

# Loads see the whole stream, whatever snapshots there are: each event counts one.
sub loader
{
	my ($id) = @_;
	my $record = recorder("loader.$id");

	follow("reader load $id", sub {
		my ($session) = @_;
		my $stream = 'hot-' . int rand $hot;
		my ($said, $error) = $session->query("SELECT version, coalesce((state->>'n')::bigint, 0) FROM es_load('$stream');");

		return if $error eq 'lost';
		$record->('refused', $error) if $error ne '';
		die "a load of $stream gives $said\n" if $error eq '' && $said !~ /^(\d+)\|\1\z/;
		usleep(10_000);
		return 0;
	});
	return;
}

# ---- the DBA

# Asks again and again, up to some seconds, until the answer is yes.
sub come_true
{
	my ($ask, $sql, $patience) = @_;
	my $end = now() + ($patience // 5);
	my $said = '';

	while (now() < $end)
	{
		($said) = $ask->($sql);
		return 1 if ($said // '') eq 't';
		usleep(20_000);
	}
	return 0;
}

# What he does. Each says whether it has happened as it should; when the server crashed meanwhile it may not have.
my %deeds = (
	detached => sub {
		my ($ask) = @_;
		my ($name) = $ask->("$Dba::detachable ORDER BY random() LIMIT 1");
		return 0 if !$name;
		# One version of each is known to be there.
		my ($version) = $ask->("SELECT es_stream_version('hot-0')");
		my (undef, $error) = $ask->("ALTER TABLE event_store.log DETACH PARTITION event_store.$name");
		return 0 if $error ne '';
		my ($all, $all_error) = $ask->('SELECT count(*) FROM es_read_all(0, NULL)');
		my ($stream, $stream_error) = $ask->(q[SELECT count(*) FROM es_read('hot-0')]);
		usleep(rand 300_000);
		come_true($ask, "$Dba::attach_all; SELECT true", 60);
		die "es_read_all with $name detached: $all\n" if $all_error eq '';
		die "es_read with $name detached: $stream of $version\n" if $stream_error eq '' && $stream < $version;
		return $all_error eq '55000';
	},
	ddl_forbidden => sub {
		my ($ask) = @_;
		$ask->($Dba::no_event_triggers);
		my ($before) = $ask->('SELECT count(*) FROM event_store.log_partitions');
		my (undef, $error) = $ask->("BEGIN; $Dba::event_triggers; COMMIT");
		my $partition_made = $error eq '' && come_true($ask, "SELECT count(*) > $before FROM event_store.log_partitions");
		come_true($ask, "$Dba::no_event_triggers; SELECT true", 60);
		return $partition_made;
	},
	role_renamed => sub {
		my ($ask) = @_;
		$ask->('ALTER ROLE copier RENAME TO copier_2');
		$ask->('CREATE ROLE copier');
		my $goes_on = come_true($ask, q[SELECT EXISTS (SELECT FROM event_store.checkpoints c WHERE c.projection = 'copy' AND c.position > ] .
			($ask->(q[SELECT position FROM event_store.checkpoints WHERE projection = 'copy']))[0] . ')');
		my (undef, $error) = $ask->('SET ROLE copier; SELECT es_read_all(0, 1)');
		$ask->('RESET ROLE');
		come_true($ask, q[SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'copier_2') \gset
			\if :exists
				DROP ROLE copier;
				ALTER ROLE copier_2 RENAME TO copier;
			\endif
			SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'copier_2')], 60);
		return $goes_on && $error eq '42501';
	},
	rows_hidden => sub {
		my ($ask) = @_;
		$ask->('ALTER TABLE copy ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY');
		my $failed = come_true($ask, q[SELECT count(*) > 0 FROM event_store.projection_status WHERE name = 'copy' AND last_error_code = '42501']);
		come_true($ask, "ALTER TABLE copy DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY; $Dba::attach_all; SELECT true", 60);
		return $failed;
	},
	all_published => sub {
		my ($ask) = @_;
		$ask->($Dba::no_publication);
		usleep(rand 100_000);
		come_true($ask, "$Dba::publication; SELECT true", 1);
		return come_true($ask, q[SELECT EXISTS (SELECT FROM event_store.checkpoints c WHERE c.projection = 'keyless' AND c.position > ] .
			(($ask->(q[SELECT position FROM event_store.checkpoints WHERE projection = 'keyless']))[0] // 0) . ')');
	},
	snapshots_restored => sub {
		my ($ask) = @_;
		my ($before) = $ask->('SELECT snapshots_damaged FROM event_store.status');
		my (undef, $error) = $ask->(q[BEGIN; SELECT es_drop_snapshots('hot');
			ALTER TABLE event_store.snapshots DISABLE TRIGGER USER;
			INSERT INTO event_store.snapshots SELECT DISTINCT ON (f.stream) f.* FROM foreign_snapshots f JOIN event_store.heads h ON h.id = f.stream AND h.version >= f.version
				ORDER BY f.stream, f.version DESC ON CONFLICT DO NOTHING;
			ALTER TABLE event_store.snapshots ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row; COMMIT]);
		return $error eq '' && defined $before && come_true($ask, "SELECT snapshots_damaged > $before FROM event_store.status");
	},
	snapshot_held => sub {
		my ($ask) = @_;
		my ($before, $error) = $ask->('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM es_read_all(0, NULL)');
		usleep(500_000 + rand 500_000);
		my ($after, $error_after) = $ask->('SELECT count(*) FROM es_read_all(0, NULL)');
		my (undef, $error_at_end) = $ask->('COMMIT');
		return 0 if grep { $_ ne '' } $error, $error_after, $error_at_end;
		die "a snapshot that is held shows $before events, and $after\n" if $before != $after;
		return come_true($ask, "SELECT count(*) > $before FROM es_read_all(0, NULL)");
	});

sub dba
{
	my $record = recorder('dba.1');
	my $session = session('dba');
	my %happened;
	# Of a session that was lost, nothing of its transaction is there.
	my $ask = sub {
		my ($said, $error) = $session->query("$_[0];");
		if ($error eq 'lost')
		{
			$session->quit;
			$session = session('dba');
			$session->query("SET lock_timeout = '3s';");
		}
		# The last of its answers; a failed transaction is ended.
		$session->query('ROLLBACK;') if $error ne '' && $error ne 'lost';
		my ($last) = reverse split /\n/, $said // '';
		return ($last // '', $error);
	};

	$ask->("SET lock_timeout = '3s'");
	while (!-e "$dir/enough")
	{
		for my $deed (sort { rand() <=> .5 } sort keys %deeds)
		{
			last if -e "$dir/enough";
			# First of all each of them once.
			next if $happened{$deed} && keys %happened < keys %deeds && rand() < .7;
			if ($deeds{$deed}->($ask))
			{
				$record->('did', $deed);
				$happened{$deed} = 1;
				append_to_file("$dir/all_deeds", '') if keys %happened == keys %deeds;
			}
			usleep(rand 200_000);
		}
	}
	die "the DBA cannot put back what he has done\n" unless come_true($ask, "$Dba::attach_all; SELECT true", 60);
	$session->quit;
	return;
}

# ---- the nemesis

my ($nemesis, %done);

sub configure { return set_faults($node, @_) }

# What there is of faults when nothing else is asked for.
my @quiet = (q[event_store.fault = 'after_insert:error:0.01']);

sub ask
{
	my ($sql) = @_;

	while (1)
	{
		my ($said, $error) = $nemesis->query("$sql;");
		return $said if $error eq '';
		die "$sql: $error" if $error ne 'lost';
		$nemesis->quit;
		$nemesis = session('nemesis');
	}
}

# One of the server has died: all of it begins anew.
sub after_crash
{
	$nemesis->query('SELECT pg_sleep(30);');
	$nemesis->quit;
	$nemesis = session('nemesis');
	return;
}

sub pid_of
{
	my ($where) = @_;
	return ask("SELECT coalesce((SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND $where ORDER BY random() LIMIT 1), 0)");
}

my $client = q[backend_type = 'client backend' AND application_name ~ '^(writer|reader|consumer)'];

sub kill_one
{
	my ($what, $where) = @_;
	my $end = now() + 5;
	my $pid;

	# Clients that have just been terminated come back soon; where this comes once only, it must not miss them.
	usleep(10_000) while !($pid = pid_of($where)) && now() < $end;
	return if !$pid;
	if (kill 'KILL', $pid)
	{
		$done{$what}++;
		after_crash();
	}
	return;
}

# Where, how, and how often when one passes there.
my @faults = (
	(map { [ $_, 'kill', '0.2' ] } qw(after_lock after_allocation after_insert before_commit after_commit before_flush after_checkpoint before_checkpoint)),
	(map { [ $_, 'kill', '0.5' ] } qw(publish seal before_switch partition ack)),
	[ 'before_commit', 'panic', '0.1' ], [ 'after_commit', 'panic', '0.1' ],
	(map { [ $_, 'stop', '0.05' ] } qw(after_allocation after_commit before_flush)));
my @to_come;

sub fault
{
	if (!@to_come)
	{
		# First of all, one of which nobody knows whether it was done.
		my ($first) = grep { $_->[0] eq 'after_commit' } @faults;
		@to_come = ($first, map { $_->[1] } sort { $a->[0] <=> $b->[0] } map { [ rand, $_ ] } grep { $_ != $first } @faults);
	}
	my ($point, $action, $when) = @{ shift @to_come };
	my $from = -s $node->logfile;
	my $end = now() + 2;
	my $pid;

	configure("event_store.fault = '$point:$action:$when'", $point eq 'before_flush' ? 'event_store.early_lock_release = on' : ());
	while (!$pid && now() < $end)
	{
		usleep(5_000);
		($pid) = slurp_file($node->logfile, $from) =~ /\[(\d+)\].*LOG:  event_store fault at $point: $action/;
	}
	configure(@quiet);
	return if !$pid;
	$done{"fault_$action"}++;
	$done{"at_$point"}++;
	if ($action eq 'stop')
	{
		# Others wait, or go on; then so does it, or it is killed.
		usleep(100_000 + rand 300_000);
		my @stopped = slurp_file($node->logfile, $from) =~ /\[(\d+)\].*LOG:  event_store fault at $point: stop/g;
		if (rand() < .5)
		{
			kill 'CONT', @stopped;
			return;
		}
		kill 'KILL', @stopped;
	}
	after_crash();
	return;
}

sub kill_postmaster
{
	# At times the others live on for a while without it, and answer.
	kill_server($node, rand() < .5 ? 0 : 1);
	$done{postmaster}++;
	$quiet[1] = 'event_store.early_lock_release = ' . (rand() < .5 ? 'on' : 'off');
	configure(@quiet);
	$node->start;
	return;
}

my @crashes = (
	sub { kill_one('backend', "$client AND state = 'active'") },
	\&fault,
	sub { kill_one('worker', q[backend_type = 'event_store worker']) },
	\&fault,
	\&kill_postmaster,
	\&fault,
	sub { kill_one('coordinator', q[backend_type IN ('event_store coordinator', 'event_store sealer', 'event_store launcher')]) },
	\&fault,
	sub { $node->stop('immediate'); $node->start; $done{immediate}++ });

sub attack
{
	my ($until) = @_;
	my $turn = 0;

	# Each of them once, on a slow machine too; and all that the DBA does.
	while (now() < $until || $turn < @crashes || !-e "$dir/all_deeds" && now() < $until + 180)
	{
		my $calm = now() + .2 + rand 1;

		while (now() < $calm)
		{
			my $pid = pid_of("$client AND state = 'active'");
			my $how = rand() < .6 ? 'cancel' : 'terminate';

			$done{$how}++ if $pid && ask("SELECT pg_${how}_backend($pid)") eq 't';
			usleep(60_000);
		}
		$crashes[ $turn++ % @crashes ]->();
	}
	return;
}

# ---- a run: what the checker says

sub dump_store
{
	my $session = Session->connect($node->connstr($db), name => 'dump', timeout => 600);
	my $record = recorder('dump');
	my $rows = sub { my ($what, $sql) = @_; $record->($what, split /\|/) for split /\n/, $session->ask($sql) };

	$rows->('event', "SELECT $columns FROM es_read_all(0, NULL)");
	$rows->('read', "SELECT r.position, r.stream, r.version, r.data->>'call', r.data->>'n' FROM event_store.streams s, es_read(s.stream) r");
	$rows->('head', 'SELECT stream, es_stream_version(stream) FROM event_store.streams');
	$rows->('projection', 'SELECT position, stream, version, call, n FROM copy');
	$rows->('finding', q[SELECT replace(c::text, '|', ' ') FROM es_check('all') c UNION ALL SELECT replace(v::text, '|', ' ') FROM es_verify_log() v
		UNION ALL SELECT replace(p::text, '|', ' ') FROM event_store.projection_status p WHERE status <> 'running' OR quarantined_streams > 0
		UNION ALL SELECT format('keyless has %s rows of %s events', count(*), count(DISTINCT position)) FROM keyless
			HAVING count(*) <> (SELECT count(*) FROM copy) OR count(DISTINCT position) <> count(*)]);
	$session->quit;
	return;
}

# What Checker.pm has not counted: the DBA's deeds, reads that were refused, and transactions by isolation level.
sub add_figures
{
	my ($figure) = @_;

	$figure->{"dba_$_"}++ for -e "$dir/dba.1" ? slurp_file("$dir/dba.1") =~ /^did\t\S+\t(\S+)/mg : ();
	$figure->{reads_refused} += () = slurp_file($_) =~ /^refused\t\S+\t55000/mg for glob "$dir/reader.* $dir/loader.*";
	for my $file (glob "$dir/writer.*")
	{
		my $said = slurp_file($file);
		my %level = $said =~ /^level\t\S+\t(\S+)\t ISOLATION LEVEL (\w+)/mg;
		$figure->{ lc $level{$_} }++ for grep { exists $level{$_} } $said =~ /^ack\t\S+\t(\S+)/mg;
	}
	return;
}

# The store, after one of another history, of which the snapshots are kept: the same streams had other events. Their ids are the
# same because they are made in the same order.
sub make_store
{
	my $folds = q[SELECT es_register_aggregate('hot', fold => $$state || jsonb_build_object('n', coalesce((state->'n')::int, 0) + coalesce((data->'k')::int, 1))$$,
		snapshot_every => 25);];
	my $record = recorder('writer.0');
	my $streams = join ', ', map { "('hot-$_')" } 0 .. $hot - 1;

	$node->safe_psql($db, qq[
SELECT es_create_store();
$folds
CREATE TABLE foreign_snapshots (LIKE event_store.snapshots);
DO \$\$ BEGIN
	FOR i IN 1 .. 40 LOOP
		PERFORM es_append_batch(array_fill(s, '{50}'), array_fill('T0'::text, '{50}'), array_fill('{"k": 100}'::jsonb, '{50}')), es_snapshot(s) FROM (VALUES $streams) x(s);
		INSERT INTO foreign_snapshots SELECT * FROM event_store.snapshots s WHERE NOT EXISTS (SELECT FROM foreign_snapshots f WHERE f.stream = s.stream AND f.version = s.version);
	END LOOP;
END \$\$;
DROP SCHEMA event_store CASCADE;
SELECT es_create_store();
$folds]);
	for my $n (0 .. $hot - 1)
	{
		$record->('intent', "0.$n", "hot-$n=0", '-', "hot-$n");
		my @row = split /\|/, $node->safe_psql($db, single("0.$n", 0, "hot-$n", 0, 0));
		$record->('ack', "0.$n", $row[3], join ':', @row[ 0 .. 2 ]);
	}
	# A role of its own, whose name changes; a table without a key, of which only inserts can be published.
	$node->safe_psql($db, q[
CREATE ROLE copier;
GRANT CREATE ON SCHEMA public TO copier;
SELECT es_grant('copier', 'define');
SET ROLE copier;
CREATE TABLE copy (position bigint PRIMARY KEY, stream text, version bigint, call text, n int);
SELECT es_create_projection('copy', $$INSERT INTO copy SELECT position, stream, version, data->>'call', (data->>'n')::int FROM new_events$$,
	tables => ARRAY['copy'::regclass]);
RESET ROLE;
CREATE TABLE keyless (position bigint);
SELECT es_create_projection('keyless', 'INSERT INTO keyless SELECT position FROM new_events');
SELECT es_create_subscription('all');
] . $Dba::publication);
	return;
}

# All events are in the projections; what has failed only because of the DBA goes on.
sub catch_up
{
	my $end = now() + 90;

	for my $projection ('copy', 'keyless')
	{
		while (1)
		{
			my ($said) = $nemesis->query("SELECT es_wait_for_projection('$projection', (SELECT max(position) FROM event_store.log), '2 s');");
			last if ($said // '') =~ /^t\z/m;
			die "projection $projection does not come to its end\n" if now() > $end;
			ask($Dba::attach_all);
		}
	}
	ask(q[SELECT es_drop_snapshots('hot')]);
	return;
}

# run(NAME, LIBRARY, SECONDS, what is to happen meanwhile, configuration, who reads) -> ({ rule => [findings] }, { figures })
sub run
{
	my ($name, $library, $time, $meanwhile, $more, @readers) = @_;

	$dir = PostgreSQL::Test::Utils::tempdir();
	$node = PostgreSQL::Test::Cluster->new($name);
	%done = ();
	$node->init;
	$node->append_conf('postgresql.conf', qq[
dynamic_library_path = '@{[ dirname($library) ]}:\$libdir'
restart_after_crash = on
log_statement = none
max_connections = 40
max_worker_processes = 16
event_store.poll_interval = 100ms
event_store.seal_interval = 1s
event_store.seal_size = 200
event_store.partition_size = 1000
include_if_exists = 'fault.conf'
$more]);
	$node->start;
	$node->safe_psql($db, 'CREATE EXTENSION event_store');
	use_library($node, $db, $library);
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'event_store'");
	$node->restart;
	make_store();
	configure(@quiet);
	$nemesis = session('nemesis');

	my $until = now() + $time;
	my @writers = map { spawn(\&writer, $_) } 1 .. $writers;
	push @writers, spawn(\&dba) if $name eq 'loop';
	my @others = map { spawn(@$_) } @readers;
	$meanwhile->($until);
	configure();
	append_to_file("$dir/enough", '');
	my $failed = 0;
	for my $child (@writers)
	{
		waitpid $child, 0;
		$failed++ if $? != 0;
	}
	$nemesis->quit;
	$nemesis = session('nemesis');
	catch_up();
	append_to_file("$dir/stop", '');
	for my $child (@others)
	{
		waitpid $child, 0;
		$failed++ if $? != 0;
	}
	is($failed, 0, "$name: clients came to their end") or diag(-e "$dir/died" ? slurp_file("$dir/died") : 'without a word');
	dump_store();
	my ($found, $figure) = Checker::check($dir);
	$figure->{rebuilt} = -e "$dir/rebuilder.1" ? () = slurp_file("$dir/rebuilder.1") =~ /^rebuilt/mg : 0;
	add_figures($figure);
	$figure->{"killed_$_"} = $done{$_} for keys %done;
	$figure->{faults} += $done{$_} for grep { /^fault_/ } keys %done;
	diag("$name: " . join(', ', map { "$_ $figure->{$_}" } sort keys %$figure));
	$nemesis->quit;
	my $said = slurp_file($node->logfile);
	unlike($said, qr/TRAP:|was terminated by signal (?!9:|6:)/, "$name: no process failed by itself");
	is(scalar(grep { !/fault at/ } $said =~ /PANIC:.*/g), 0, "$name: nor by a PANIC that was not asked for");
	$node->stop;
	return ($found, $figure);
}

sub show { my ($found) = @_; return join "\n", map { my $rule = $_; map { "$rule: $_" } grep { defined } @{ $found->{$rule} }[ 0 .. 4 ] } sort keys %$found }

my @all = ([ \&feed_reader, 1 ], [ \&feed_reader, 2 ], [ \&stream_reader, 3, 'hot-0' ], [ \&stream_reader, 4, 'hot-1' ], [ \&consumer, 1 ], [ \&loader, 1 ], [ \&monitor ], [ \&rebuilder ]);
my ($found, $figure) = run('loop', build_faults(), $seconds, \&attack, '', @all);
is(show($found), '', 'what clients were told is what is there');

# ---- it was a test

my %least = (
	killed_backend => 1, killed_worker => 1, killed_postmaster => 1, killed_immediate => 1, killed_terminate => 5, killed_cancel => 5,
	faults => 3, killed_fault_kill => 1, acknowledged => 300, events_acknowledged => 600, refused => 50, refused_YE001 => 5, refused_58000 => 1, refused_57014 => 1,
	(map { ("dba_$_" => 1) } keys %deeds), serializable => 3, repeatable => 3,
	unknown => 5, replayed => 1, read => 1000, delivered => 600, checkpoints => 50, rebuilt => 1);
for my $what (sort keys %least)
{
	my $least = $least{$what} * ($seconds > 100 && $what =~ /^killed/ ? 5 : 1);
	cmp_ok($figure->{$what} // 0, '>=', $least, "$what: at least $least");
}

cmp_ok(($figure->{unknown_there} // 0) + ($figure->{found_out} // 0), '>=', 1, 'an answer was lost of what was done');

# ---- known bugs: what must be found

# Nobody flushes what others have written, as readers and workers do.
my $lossy = "wal_writer_delay = 10s\nevent_store.early_lock_release = on\nevent_store.mark_interval = 60s\n";
my @mutants = ([ '05-answer-before-flush', 'lost', $lossy, sub { for (1 .. 6) { usleep(500_000); kill_one('backend', $client) } } ]);
push @mutants, [ '01-mark-does-not-wait', 'feed', '', sub { sleep 5 }, @all ], [ '04-projections-pass-the-mark', 'projection', '', sub { sleep 5 }, @all ]
	if $ENV{ES_LONG};
@quiet = ();
$pause = 3000;
for my $case (@mutants)
{
	my ($mutant, $rule, $conf, $meanwhile, @readers) = @$case;

	my $library = build_mutant($mutant);

	# What it does wrong takes a moment that not every run has.
	for my $try (1 .. 6)
	{
		($found) = run('mutant' . substr($mutant, 0, 2) . "_$try", $library, 0, $meanwhile, $conf, @readers);
		last if $found->{$rule};
	}
	ok($found->{$rule}, "mutant $mutant is found: $Checker::rules{$rule}") or diag(show($found));
	note(show($found));
}

done_testing();
