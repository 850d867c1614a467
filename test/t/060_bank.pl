# A bank: clients move money between accounts in every way there is, while backends, workers and the server die. Three
# projections follow: balances (set-based), a journal (one row an event: a second delivery would violate its primary key)
# and an auditor (a process manager that appends one event for each transfer). Readers compare all the time, and in the end
# everything must agree with the log, and the log with what the clients were told.
#
# ES_LONG=1 gives it minutes, ES_BANK_SECONDS any other time. It goes on for longer where not everything that belongs to it has
# happened yet, as on a slow machine.
use strict;
use warnings;

use IPC::Run ();
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $db = 'postgres';
my $seconds = $ENV{ES_BANK_SECONDS} // ($ENV{ES_LONG} ? 180 : 12);
my $accounts = 20;
my $clients = 8;
my $seed = $ENV{ES_BANK_SEED} // int(rand(1e9));
my $dir = PostgreSQL::Test::Utils::tempdir();
my $enough = "$dir/enough";

note("ES_BANK_SEED=$seed");
srand($seed);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q[
shared_preload_libraries = 'event_store'
event_store.poll_interval = 100ms
max_worker_processes = 16
max_prepared_transactions = 30
max_connections = 60
restart_after_crash = on
log_statement = none
deadlock_timeout = 100ms
]);
$node->start;
$node->safe_psql($db, 'CREATE EXTENSION event_store; SELECT es_create_store()');
$node->safe_psql($db, q[
CREATE TABLE balances (account text PRIMARY KEY, balance bigint NOT NULL, events bigint NOT NULL);
CREATE TABLE journal (position bigint PRIMARY KEY, account text NOT NULL, version bigint NOT NULL, amount bigint NOT NULL);
CREATE TABLE auditing (transfer text PRIMARY KEY);
SELECT es_create_projection('balances', $$
	INSERT INTO balances AS b SELECT stream, sum((data->>'amount')::bigint), count(*) FROM new_events GROUP BY stream ORDER BY stream
	ON CONFLICT (account) DO UPDATE SET balance = b.balance + EXCLUDED.balance, events = b.events + EXCLUDED.events$$,
	ARRAY['account'], tables => ARRAY['balances'::regclass], batch_size => 50);
SELECT es_create_projection('journal', $$INSERT INTO journal SELECT position, stream, version, (data->>'amount')::bigint FROM new_events$$,
	ARRAY['account'], batch_size => 7);
SELECT es_create_projection('auditor', $$
	SELECT es_append('audit-' || (data->>'transfer'), 0, 'Audited', jsonb_build_object('of', position)) FROM new_events
	WHERE event_type = 'Withdrawn' ORDER BY position$$, ARRAY['account'], side_effects => true);
]);

# A connection of its own in a process of its own: psql, so that no driver is needed.
package Client
{
	sub new
	{
		my ($class, $connstr) = @_;
		my $self = bless { connstr => $connstr, in => '', out => '', err => '', n => 0 }, $class;
		return $self;
	}

	sub connected { my ($self) = @_; return defined $self->{psql} && $self->{psql}->pumpable; }

	sub connect
	{
		my ($self) = @_;
		$self->{in} = $self->{out} = $self->{err} = '';
		eval { $self->{psql}->kill_kill } if defined $self->{psql};
		$self->{psql} = IPC::Run::start([ 'psql', '-XAtq', '-v', 'VERBOSITY=sqlstate', '-d', $self->{connstr} ],
			'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err});
		return;
	}

	# query(SQL) -> (what it answers, what it complains about); undef: the connection was lost, nobody knows how far it came.
	sub query
	{
		my ($self, $sql) = @_;
		my $end = 'end ' . ++$self->{n};
		my $answer;

		$self->connect unless $self->connected;
		$self->{out} = $self->{err} = '';
		# Longer than this nobody waits for anything here.
		local $SIG{ALRM} = sub { die "timeout\n" };
		alarm 60;
		eval {
			$self->{in} .= "$sql\n\\echo $end\n\\warn $end\n";
			$self->{psql}->pump while $self->{psql}->pumpable && !($self->{out} =~ /^$end$/m && $self->{err} =~ /^$end$/m);
		};
		alarm 0;
		die "no answer to $sql" if $@ =~ /^timeout/;
		if ($self->{out} =~ s/^$end\n.*//ms && $self->{err} !~ /connection to server was lost|terminating connection|server closed the connection/)
		{
			$self->{err} =~ s/^$end\n//m;
			return ($self->{out}, $self->{err});
		}
		eval { $self->{psql}->kill_kill };
		undef $self->{psql};
		return (undef, $self->{err});
	}

	sub quit { my ($self) = @_; eval { $self->{psql}->kill_kill } if defined $self->{psql}; return; }
}

# ---- what a client does until it is enough; its file says what it was told

my @client_counts = qw(acked rolled_back retried lost prepared savepoints errors);
my @reader_counts = qw(reads middle checks);

# Leaves the counts of a child where the nemesis looks for them.
sub keep_counts
{
	my ($name, %count) = @_;

	open(my $file, '>', "$dir/count.$name.new") or die $!;
	print $file map { "$_ $count{$_}\n" } sort keys %count;
	close $file;
	rename "$dir/count.$name.new", "$dir/count.$name" or die $!;
	return;
}

# The counts of all children.
sub all_counts
{
	my %sum = map { $_ => 0 } @client_counts, @reader_counts;

	for my $name (glob "$dir/count.*")
	{
		next if $name =~ /\.new$/;
		/^(\w+) (\d+)$/ and $sum{$1} += $2 for split /\n/, slurp_file($name);
	}
	return %sum;
}

my @kinds = (('plain') x 10, ('expected') x 5, ('savepoint') x 3, ('two') x 3, ('rollback') x 2, ('error') x 1, ('prepared') x 2, ('batch') x 2);

sub transfer
{
	my ($transfer, $from, $to, $amount, $versions) = @_;
	my ($v, $w) = map { defined $_ ? $_ : '"any"' } @{ $versions // [] }[ 0, 1 ];

	return qq[SELECT count(*) FROM es_append_multi('[
		{"stream": "account-$from", "expected_version": $v, "events": [{"type": "Withdrawn", "data": {"amount": -$amount, "transfer": "$transfer"}}]},
		{"stream": "account-$to", "expected_version": $w, "events": [{"type": "Deposited", "data": {"amount": @{[ $amount - 1 ]}, "transfer": "$transfer"}}, {"type": "Deposited", "data": {"amount": 1, "transfer": "$transfer"}}]}]');];
}

# The answers of a transaction: the transfers that are certain, those that are certain not to be, those nobody knows of.
sub client
{
	my ($id) = @_;
	my $client = Client->new($node->connstr($db));
	my %count = map { $_ => 0 } @client_counts;
	my $n = 0;

	open(my $file, '>', "$dir/client.$id") or die $!;
	$file->autoflush(1);
	while (!-e $enough)
	{
		keep_counts("client.$id", %count);
		my $kind = $kinds[ int(rand @kinds) ];
		my ($from, $to) = (int(rand $accounts), int(rand($accounts - 1)));
		my $amount = 2 + int(rand 100);
		my @transfers = ("$id." . ++$n);
		my @not;
		my $sql;

		$to = $accounts - 1 if $to == $from;
		($from, $to) = sort { $a <=> $b } $from, $to;
		if ($kind eq 'expected')
		{
			my ($said) = $client->query(qq[SELECT es_stream_version('account-$from'), es_stream_version('account-$to');]);
			next unless defined $said && $said =~ /^(\d+)\|(\d+)$/;
			$sql = transfer($transfers[0], $from, $to, $amount, [ $1, $2 ]);
		}
		elsif ($kind eq 'savepoint')
		{
			@not = ("$id." . ++$n);
			$sql = 'BEGIN; ' . ($n % 3 ? transfer($transfers[0], $from, $to, $amount) : '')
				. ' SAVEPOINT s; ' . transfer($not[0], $from, $to, $amount) . ' ROLLBACK TO s; '
				. ($n % 3 ? '' : transfer($transfers[0], $from, $to, $amount)) . ' COMMIT;';
		}
		elsif ($kind eq 'two')
		{
			push @transfers, "$id." . ++$n;
			$sql = 'BEGIN; ' . transfer($transfers[0], $from, $to, $amount) . transfer($transfers[1], $from, $to, $amount) . ' COMMIT;';
		}
		elsif ($kind eq 'rollback')
		{
			@not = splice @transfers;
			$sql = 'BEGIN; ' . transfer($not[0], $from, $to, $amount) . ' ROLLBACK;';
		}
		elsif ($kind eq 'error')
		{
			@not = splice @transfers;
			$sql = 'BEGIN; ' . transfer($not[0], $from, $to, $amount) . ' SELECT 1 / 0; COMMIT;';
		}
		elsif ($kind eq 'prepared')
		{
			my $end = $n % 4 ? 'COMMIT' : 'ROLLBACK';
			$sql = 'BEGIN; ' . transfer($transfers[0], $from, $to, $amount) . " PREPARE TRANSACTION '$end-$transfers[0]'; $end PREPARED '$end-$transfers[0]';";
			@not = splice @transfers if $end eq 'ROLLBACK';
		}
		elsif ($kind eq 'batch')
		{
			$sql = qq[SELECT events FROM es_append_batch(ARRAY['account-$from', 'account-$to'], ARRAY['Withdrawn', 'Deposited'],
				ARRAY['{"amount": -$amount, "transfer": "$transfers[0]"}', '{"amount": $amount, "transfer": "$transfers[0]"}']::jsonb[]);];
		}
		else
		{
			$sql = transfer($transfers[0], $from, $to, $amount);
		}
		print $file "maybe $_\n" for @transfers;
		print $file "not $_\n" for @not;

		my ($said, $complaint) = $client->query($sql);
		if (!defined $said)
		{
			$count{lost}++;
			usleep(20_000);
		}
		elsif ($kind eq 'error')
		{
			$count{errors}++ if $complaint =~ /22012/;
		}
		elsif ($complaint =~ /ERROR|FATAL|could not connect/)
		{
			# Whatever it was, its transaction is over; if it was refused it may be tried again.
			$count{retried}++ if $complaint =~ /YE001|40P01|40001/;
			print $file "complaint $1\n" if $complaint =~ /(?:ERROR|FATAL):\s++(?!YE001|40P01|57P0)(.*)/;
			$client->query('ROLLBACK;');
			usleep(20_000) if $complaint =~ /FATAL|could not connect/;
		}
		else
		{
			print $file "ack $_\n" for @transfers;
			$count{acked} += @transfers;
			$count{rolled_back}++ if $kind eq 'rollback';
			$count{savepoints}++ if $kind eq 'savepoint';
			$count{prepared}++ if $kind eq 'prepared';
		}
	}
	close $file;
	$client->quit;
	return;
}

# In one statement all the time: whole transfers, and a sum that goes with the number of events.
sub reader
{
	my ($id) = @_;
	my $client = Client->new($node->connstr($db));
	my %count = map { $_ => 0 } @reader_counts;

	open(my $file, '>', "$dir/reader.$id") or die $!;
	$file->autoflush(1);
	while (!-e $enough)
	{
		keep_counts("reader.$id", %count);
		my ($said) = $client->query(q[SELECT sum(balance), sum(events) FROM balances;]);
		if (!defined $said || $said !~ /^(-?\d+)\|(\d+)$/)
		{
			usleep(20_000);
			next;
		}
		$count{reads}++;
		print $file "WRONG: a sum of $1 after $2 events\n" if $1 != 0;

		# What looks at the log takes longer, the more there is.
		next if $count{reads} % 20;
		($said) = $client->query(q[SELECT sum(balance), sum(events), (SELECT count(*) FROM event_store.events WHERE category = 'account'),
			(SELECT position FROM event_store.checkpoints WHERE projection = 'balances'),
			(SELECT count(*) FROM event_store.log l JOIN event_store.categories c ON c.id = l.category AND c.name = 'account'
				WHERE l.position + l.rest <= (SELECT position FROM event_store.checkpoints WHERE projection = 'balances')) FROM balances;]);
		next if !defined $said || $said !~ /^(-?\d+)\|(\d+)\|(\d+)\|(\d+)\|(\d+)$/;
		$count{middle}++ if $2 > 0 && $2 < $3;
		print $file "WRONG: a sum of $1 after $2 events\n" if $1 != 0;
		print $file "WRONG: $2 events at $4, where $5 are\n" if $2 != $5;
		# Each time: of a few, a slow machine's are all cut short by the nemesis.
		my ($found) = $client->query(q[SELECT 'found ' || coalesce(string_agg(f::text, ' '), 'nothing') FROM es_check() f;]);
		$count{checks}++ if defined $found && $found =~ /^found nothing/;
		print $file "WRONG: es_check $found" if defined $found && $found =~ /^found \(/;
		($said) = $client->query(q[SELECT count(*), coalesce(sum(amount), 0), count(DISTINCT (account, version)) FROM journal;]);
		next if !defined $said || $said !~ /^(\d+)\|(-?\d+)\|(\d+)$/;
		print $file "WRONG: the journal has a sum of $2\n" if $2 != 0;
		print $file "WRONG: the journal has $1 events, of which $3 are different\n" if $1 != $3;
	}
	close $file;
	$client->quit;
	return;
}

sub spawn
{
	my ($sub, @args) = @_;
	my $pid = fork() // die "fork: $!";

	return $pid if $pid > 0;
	# Not ours to stop: the node belongs to the parent.
	srand($seed + $$);
	my $ok = eval { $sub->(@args); 1 };
	print STDERR $@ unless $ok;
	close STDOUT;
	close STDERR;
	POSIX::_exit($ok ? 0 : 1);
}

# ---- the nemesis

my %victims = (
	terminated_clients => q[backend_type = 'client backend' AND query LIKE '%es_append%'],
	terminated_workers => q[backend_type = 'event_store worker'],
	terminated_coordinators => q[backend_type = 'event_store coordinator']);
# How often, one to another.
my %often = (terminated_clients => 6, terminated_workers => 3, terminated_coordinators => 1);
my @must_happen = (qw(killed restarts), sort keys %victims);
my %done = map { $_ => 0 } @must_happen;

sub ask
{
	my ($sql) = @_;
	my ($ret, $out) = $node->psql($db, $sql, connstr => $node->connstr($db) . ' connect_timeout=5');

	return defined $ret && $ret == 0 ? $out : '';
}

sub up { return $node->poll_query_until('template1', 'SELECT true') }

sub pick
{
	my ($where) = @_;
	return ask("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND $where ORDER BY random() LIMIT 1");
}

sub terminate
{
	my ($what, $where) = @_;
	my $pid = pick($where);

	$done{$what}++ if $pid ne '' && ask("SELECT pg_terminate_backend($pid)") eq 't';
	return;
}

sub kill_one
{
	my ($where) = @_;
	my $pid = pick($where);

	return 0 if $pid eq '';
	my $offset = -s $node->logfile;
	return 0 unless kill 'KILL', $pid;
	$done{killed}++;
	$node->wait_for_log(qr/all server processes terminated; reinitializing/, $offset);
	up();
	return 1;
}

# Ends transactions whose client is gone: nobody else would give back their locks. Their names say how.
sub decide
{
	my ($old) = @_;

	for (split /\n/, ask("SELECT gid FROM pg_prepared_xacts WHERE prepared < clock_timestamp() - interval '$old' ORDER BY 1"))
	{
		my ($end) = /^(\w+)-/;
		$done{decided}++ if $node->psql($db, "$end PREPARED '$_'") == 0;
	}
	return;
}

sub restart
{
	$node->stop('immediate');
	$node->start;
	$done{restarts}++;
	return 1;
}

sub all_happened
{
	my %sum = (all_counts(), %done);

	return $sum{reads} > $seconds * 5 && !grep { $sum{$_} == 0 } @client_counts, @reader_counts, @must_happen;
}

sub nemesis
{
	my ($start) = @_;
	# What is rare, and when: as shares of the time.
	my @rare = ([ .2, sub { kill_one("backend_type = 'event_store worker'") } ], [ .45, \&restart ],
		[ .7, sub { kill_one("backend_type = 'client backend' AND query LIKE '%es_append%'") } ]);
	my $long = $seconds / 60;

	# Until time is up and everything has happened; on a machine on which that never comes the counts say what is missing.
	while (1)
	{
		my $share = (time - $start) / $seconds;

		last if $share >= 10 || ($share >= 1 && all_happened());
		# Where there was nobody to kill, it is tried again.
		if (@rare && $share > $rare[0][0] && $rare[0][1]->())
		{
			shift @rare;
			push @rare, [ $share + 1 / (3 * $long), (\&restart, sub { kill_one("backend_type LIKE 'event_store%'") })[ int rand 2 ] ]
				if $long > 1 && @rare < 3;
		}
		decide('500ms');
		# The one that is furthest behind its share, so that a slow machine with few of them has each.
		my ($next) = sort { $done{$a} / $often{$a} <=> $done{$b} / $often{$b} || $a cmp $b } keys %often;
		terminate($next, $victims{$next});
		usleep(150_000);
	}
	return;
}

# ---- all of them

my $start = time;
my @children = ((map { spawn(\&client, $_) } 1 .. $clients), (map { spawn(\&reader, $_) } 1 .. 2));
nemesis($start);
append_to_file($enough, '');
my $failed = 0;
for my $child (@children)
{
	while (waitpid($child, POSIX::WNOHANG()) == 0)
	{
		decide('500ms');
		usleep(50_000);
	}
	$failed++ if $? != 0;
}
is($failed, 0, 'clients and readers came to their end');
up();
decide('0');

sub q1 { return $node->safe_psql($db, $_[0]) }

my (%acked, %maybe, %not, @wrong, %complaints);
my %count = all_counts();
for my $name (glob "$dir/client.* $dir/reader.*")
{
	for (split /\n/, slurp_file($name))
	{
		if (/^ack (.*)/) { $acked{$1} = 1 }
		elsif (/^maybe (.*)/) { $maybe{$1} = 1 }
		elsif (/^not (.*)/) { $not{$1} = 1 }
		elsif (/^complaint (.*)/) { $complaints{$1}++ }
		else { push @wrong, $_ }
	}
}
note("$_: $count{$_}") for sort keys %count;
note("$_: $done{$_}") for sort keys %done;
note("complaint $_: $complaints{$_}") for sort keys %complaints;

# ---- it was a test

cmp_ok($count{$_}, '>', 0, "$_ > 0") for @client_counts, @reader_counts;
cmp_ok($done{$_}, '>', 0, "$_ > 0") for @must_happen;
cmp_ok($count{reads}, '>', $seconds * 5, 'readers read a lot');

# ---- and this is what it says

is(join("\n", @wrong[ 0 .. ($#wrong > 9 ? 9 : $#wrong) ]), '', 'readers saw nothing but whole transfers');
for my $name (qw(balances journal auditor))
{
	is(q1("SELECT es_wait_for_projection('$name', es_high_water_mark(), '1min')"), 't', "$name has caught up");
	is(q1("SELECT status, quarantined_streams, coalesce(last_error, '') FROM event_store.projection_status WHERE name = '$name'"), 'running|0|', 'without parking anything');
}
my $log = q[SELECT data->>'transfer', count(*), sum((data->>'amount')::bigint), count(DISTINCT stream) FROM es_read_all(0, NULL) WHERE category = 'account' GROUP BY 1];
my %log = map { my ($transfer, @rest) = split /\|/; $transfer => \@rest } split /\n/, q1($log);
my @missing = grep { !exists $log{$_} } sort keys %acked;
is("@missing", '', 'every transfer that was acknowledged is in the log');
my @partial = grep { $log{$_}[0] < 2 || $log{$_}[0] > 3 || $log{$_}[1] != 0 || $log{$_}[2] != 2 } sort keys %log;
is("@partial", '', 'every transfer is there as a whole, and once');
my @impossible = grep { exists $not{$_} || !exists $maybe{$_} } sort keys %log;
is("@impossible", '', 'and no other is');
note(scalar(keys %acked) . ' acknowledged, ' . scalar(keys %log) . ' in the log');

my $events = q1(q[SELECT count(*) FROM event_store.events WHERE category = 'account']);
is(q1('SELECT sum(balance), sum(events) FROM balances'), "0|$events", 'balances: every event is counted once');
is(q1(q[SELECT count(*) FROM balances b FULL JOIN (SELECT stream, sum((data->>'amount')::bigint) AS balance, count(*) AS events, max(version) AS version
	FROM es_read_category('account', 0, NULL) GROUP BY 1) s ON s.stream = b.account
	WHERE b.balance IS DISTINCT FROM s.balance OR b.events IS DISTINCT FROM s.events OR b.events IS DISTINCT FROM s.version
	OR b.events IS DISTINCT FROM es_stream_version(s.stream)]), 0, 'and each balance is the fold of its stream');
is(q1(q[SELECT count(*), count(*) FILTER (WHERE j.account = e.stream AND j.version = e.version) FROM journal j FULL JOIN event_store.events e USING (position)
	WHERE e.category = 'account' OR j.position IS NOT NULL]), "$events|$events", 'journal: every event is there once');
my $transfers = keys %log;
is(q1(q[SELECT count(*), count(DISTINCT stream), max(version) FROM event_store.events WHERE category = 'audit']), "$transfers|$transfers|1", 'auditor: one event for each transfer');
is(q1(q[SELECT count(*) FROM event_store.events a JOIN event_store.events e ON e.position = (a.data->>'of')::bigint
	WHERE a.category = 'audit' AND e.event_type = 'Withdrawn' AND a.stream = 'audit-' || (e.data->>'transfer')]), $transfers, 'and the right one');

is(q1(q[SELECT * FROM es_check('all')]), '', 'es_check finds nothing');

my $said = slurp_file($node->logfile);
unlike($said, qr/TRAP:|PANIC:|was terminated by signal (?!9:)/, 'no server process died by itself');
unlike($said, qr/WARNING: .*(leak|not closed|left non-empty|problem in alloc set)/, 'and none complains');
$node->stop;
done_testing();
