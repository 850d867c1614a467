# Interrupts: an append (or a read, or an import) that is cancelled, terminated or timed out wherever
# it can wait, and in the middle of its work. Each time: nothing changed, the session is usable (where
# it lives), other sessions go on, and no lock is left.
use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "autovacuum = off\nmax_wal_size = 2GB");
$node->start;
$node->safe_psql('postgres', 'CREATE DATABASE small');
$node->safe_psql('postgres', 'ALTER DATABASE small SET event_store.partition_size = 100');

# What the victims find: streams to append to, a category and a type that are known.
for my $db ('postgres', 'small')
{
	$node->safe_psql($db, q[
		CREATE EXTENSION event_store;
		SELECT es_create_store();
		SELECT es_append('known-1', 0, 'Known', '{}'::jsonb);
		SELECT es_append('known-2', 0, 'Known', '{}'::jsonb);
		SELECT es_append('other-1', 0, 'Known', '{}'::jsonb)]);
}

my $seconds = 30;

# A psql in the background that runs the script; more can be sent later. (PostgreSQL's BackgroundPsql
# waits for each query's end, and notes it.)
sub start_psql
{
	my ($db, $script) = @_;
	my %psql = (in => $script, out => '', err => '');
	$psql{handle} = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'VERBOSITY=sqlstate', '-d', $node->connstr($db) ],
		'<', \$psql{in}, '>', \$psql{out}, '2>', \$psql{err}, IPC::Run::timer(20 * $seconds));
	send_to(\%psql, '');
	return \%psql;
}

sub send_to
{
	my ($psql, $more) = @_;
	$psql->{in} .= $more;
	$psql->{handle}->pump_nb while length $psql->{in};
	return;
}

# Runs a query there and returns its rows; dies of an error.
sub ask
{
	my ($psql, $sql) = @_;
	my $end = time + $seconds;

	$psql->{out} = $psql->{err} = '';
	send_to($psql, "$sql;\n\\echo end of answer\n");
	until ($psql->{out} =~ s/^end of answer\n\z//m)
	{
		die "no answer to: $sql" if time > $end;
		$psql->{handle}->pump_nb;
		usleep(500);
	}
	die "$sql: $psql->{err}" if $psql->{err} =~ /ERROR|FATAL/;
	return $psql->{out} =~ s/\n\z//r;
}

my %monitors = map { $_ => start_psql($_, '') } 'postgres', 'small';
my %blockers = map { $_ => start_psql($_, '') } 'postgres', 'small';

# Everything but stream other-1, to which the bystanders append.
my $state = q[SELECT
	(SELECT count(*) FROM event_store.log WHERE stream <> o.id),
	(SELECT count(*) || '/' || sum(version) || '/' || sum(last_position) || '/' || max(xmin::text::bigint) FROM event_store.heads WHERE id <> o.id),
	(SELECT count(*) FROM event_store.append_keys), (SELECT count(*) FROM event_store.batch_keys),
	(SELECT count(*) FROM event_store.categories), (SELECT count(*) FROM event_store.event_types),
	(SELECT count(*) FROM event_store.partitions), (SELECT mark FROM event_store.mark)
	FROM event_store.heads o WHERE o.name = 'other-1'];

# Waits until a query of the monitor says "t"; meanwhile what was sent to $psql goes on its way.
sub wait_until
{
	my ($db, $query, $psql) = @_;
	my $end = time + $seconds;
	while (time < $end)
	{
		return 1 if ask($monitors{$db}, $query) eq 't';
		$psql->{handle}->pump_nb if $psql;
		usleep(5_000);
	}
	die "waited in vain for: $query\n" . $node->safe_psql('postgres', 'SELECT * FROM pg_stat_activity');
}

my $victim = q[(SELECT pid FROM pg_stat_activity WHERE application_name = 'victim')];
# The state is "active" first, then it waits; an idle victim would not do.
my $active = q[FROM pg_stat_activity WHERE application_name = 'victim' AND state = 'active'];

# The ways to interrupt: what the victim sets before, what the killer does, SQLSTATE.
my %ways = (
	cancel => { kill => "SELECT pg_cancel_backend($victim)", sqlstate => '57014' },
	terminate => { kill => "SELECT pg_terminate_backend($victim)", sqlstate => '57P01', dies => 1 },
	lock_timeout => { set => q[SET lock_timeout = '150ms';], sqlstate => '55P03' },
	statement_timeout => { set => q[SET statement_timeout = '150ms';], sqlstate => '57014' });

# interrupt(NAME, OPTIONS): one victim in every way.
#   db		database
#   block	what the blocker runs in an open transaction: SQL, or a sub that returns it
#   sql		what the victim runs: SQL, or a sub
#   waits	condition of the monitor for "now"; default: it waits for a lock
#   ways	which of them; default all
#   timeout	of statement_timeout and lock_timeout
#   alone	no append gets past the blocker: neither bystander nor survivor tries
sub interrupt
{
	my ($name, %o) = @_;
	my $db = $o{db} // 'postgres';

	for my $way (@{ $o{ways} // [ 'cancel', 'terminate', 'lock_timeout', 'statement_timeout' ] })
	{
		my $w = $ways{$way};
		my $what = "$name, $way";
		my $ok = eval {
			if ($o{block})
			{
				ask($blockers{$db}, 'BEGIN');
				ask($blockers{$db}, ref $o{block} ? $o{block}->() : $o{block});
			}
			my $before = ask($monitors{$db}, $state);
			my $sql = ref $o{sql} ? $o{sql}->() : $o{sql};
			my $set = $w->{set} // '';
			$set =~ s/150ms/$o{timeout}/ if $o{timeout};
			my $start = time;
			my $psql = start_psql($db, "SET application_name = 'victim';\n$set\n$sql;\n\\echo :SQLSTATE\n"
					. "RESET lock_timeout; RESET statement_timeout; SET application_name = 'survivor';\n");

			if ($w->{kill})
			{
				wait_until($db, $o{waits} // "SELECT count(*) = 1 $active AND wait_event_type = 'Lock'");
				is(ask($monitors{$db}, q[SELECT es_append('other-1', -2, 'Known', '{}'::jsonb) IS NOT NULL]), 't',
					"$what: others go on while it waits") if $o{block} && !$o{alone};
				$start = time;
				ask($monitors{$db}, $w->{kill});
			}
			if ($w->{dies})
			{
				wait_until($db, q[SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'victim']);
			}
			else
			{
				wait_until($db, q[SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'survivor' AND state = 'idle']);
			}
			cmp_ok(time - $start, '<', 8, "$what: at once");
			is(ask($monitors{$db}, q[
					SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
					WHERE a.application_name IN ('victim', 'survivor')]), 0, "$what: it leaves no lock");
			is(ask($monitors{$db}, $state), $before, "$what: nothing changed");

			if (!$w->{dies})
			{
				# In the blocker's shadow a survivor can append elsewhere.
				send_to($psql, ($o{alone} ? "BEGIN; SELECT true;\n" : "BEGIN; SELECT version > 1 FROM es_append('known-2', -2, 'Known', '{}'::jsonb);\n")
						. "SELECT count(*) >= 1 FROM es_read('known-1'); ROLLBACK;\n");
			}
			$psql->{handle}->finish;
			my $said = $psql->{out} . $psql->{err};
			if ($w->{dies})
			{
				like($psql->{err}, qr/FATAL:\s+$w->{sqlstate}/, "$what: the connection ends");
			}
			else
			{
				like($psql->{err}, qr/ERROR:\s+$w->{sqlstate}/, "$what: $w->{sqlstate}");
				like($psql->{out}, qr/^$w->{sqlstate}\nt\nt$/m, "$what: the session is usable") or diag($said);
			}

			if ($o{block})
			{
				ask($blockers{$db}, 'ROLLBACK');
			}
			wait_until($db, q[SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'event_store%']);
			is(ask($monitors{$db}, q[
					SELECT count(*) FROM pg_locks WHERE pid <> pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database())]),
				0, "$what: no lock is left");
			is(ask($monitors{$db}, $state), $before, "$what: nothing changed in the end");
			1;
		};
		if (!$ok)
		{
			fail($what);
			diag($@);
			# Leave a clean table to the next.
			ask($monitors{$db}, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name IN ('victim', 'survivor')");
			ask($blockers{$db}, 'ROLLBACK') if $o{block};
		}
	}
	return;
}

# ---- waits in the order of the locks

interrupt('at a category that another makes',
	block => q[SELECT es_append('fresh-1', 0, 'Known', '{}'::jsonb)],
	sql => q[SELECT es_append('fresh-2', 0, 'Known', '{}'::jsonb)]);

interrupt('at an event type that another makes',
	block => q[SELECT es_append('known-1', -2, 'Fresh', '{}'::jsonb)],
	sql => q[SELECT es_append('known-2', -2, 'Fresh', '{}'::jsonb)]);

interrupt('at the key of a batch',
	block => q[SELECT es_append_batch('{known-1}', '{Known}', '{"{}"}', idempotency_key => 'same')],
	sql => q[SELECT es_append_batch('{known-2}', '{Known}', '{"{}"}', idempotency_key => 'same')],
	waits => "SELECT count(*) = 1 $active AND wait_event = 'advisory'");

interrupt('at the head of a stream that another appends to',
	block => q[SELECT es_append('known-1', -2, 'Known', '{}'::jsonb)],
	sql => q[SELECT es_append('known-1', -2, 'Known', '{}'::jsonb, idempotency_key => 'mine')]);

interrupt('at the head of a stream that another makes',
	block => q[SELECT es_append('known-new', 0, 'Known', '{}'::jsonb)],
	sql => q[SELECT es_append('known-new', 0, 'Known', '{}'::jsonb)]);

# known-0 and the type New are made, the lock of known-1 is waited for, known-3 is not reached.
interrupt('at the second of three streams',
	block => q[SELECT es_append('known-1', -2, 'Known', '{}'::jsonb)],
	sql => q[SELECT es_append_multi('[{"stream": "known-3", "expected_version": "any", "events": {"type": "New"}},
		{"stream": "known-1", "expected_version": "any", "events": {"type": "Known"}}, {"stream": "known-0", "expected_version": "any", "events": {"type": "Known"}}]')]);

interrupt('at a stream that is only checked',
	block => q[SELECT es_append('known-1', -2, 'Known', '{}'::jsonb)],
	sql => q[SELECT es_append_multi('[{"stream": "known-0", "expected_version": "any", "events": {"type": "Known"}}, {"stream": "known-1", "expected_version": -4}]')]);

interrupt('in an import, at the head of a stream',
	block => q[SELECT es_append('known-1', -2, 'Known', '{}'::jsonb)],
	sql => q[INSERT INTO event_store.import (stream, event_type) SELECT CASE g WHEN 6000 THEN 'known-1' ELSE 'known-i' || g END, 'Known' FROM generate_series(1, 6000) g]);

interrupt('in es_publish_mark, at the published mark',
	block => q[SELECT es_publish_mark()],
	sql => q[SELECT es_publish_mark()]);

# ---- es_read_all and its like wait for open appends, which is no lock

my $open = q[SELECT es_append('known-1', -2, 'Known', '{}'::jsonb)];
my $long_enough = "SELECT count(*) = 1 $active AND clock_timestamp() - query_start > '100ms'";
for my $read (
	'SELECT count(*) FROM es_read_all()',
	'SELECT es_read_all()',
	q[SELECT count(*) FROM es_read_category('known')],
	'SELECT es_high_water_mark()',
	q[SELECT es_position_at(now())],
	'SELECT es_publish_mark()')
{
	interrupt("in the wait of $read",
		block => $open,
		sql => "SET event_store.mark_wait = '60s';\n$read",
		waits => $long_enough,
		ways => [ 'cancel', 'terminate', 'statement_timeout' ]);
}
# The wait is bounded by mark_wait, and no matter of lock_timeout.
ask($blockers{postgres}, "BEGIN; $open");
my $start = time;
is($node->safe_psql('postgres', q[SET lock_timeout = '20ms'; SET event_store.mark_wait = '300ms'; SELECT count(*) >= 2 FROM es_read_all()]),
	'f', 'a reader waits for mark_wait, then answers with the published mark');
cmp_ok(time - $start, '>=', 0.3, 'it did wait');
ask($blockers{postgres}, 'ROLLBACK');

# ---- inside the work

my $million = q[SELECT es_append_batch(array_agg('known-long' || g % 1000), array_agg('Known'::text), array_agg('{"n": 1}'::jsonb), idempotency_key => 'million') FROM generate_series(1, 1000000) g];
my $drawing = q[SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'event_store.position_seq'::regclass AND mode = 'RowExclusiveLock')];
# The million is drawn: rows are being written.
my $writing_from = sub {
	my $from = ask($monitors{postgres}, 'SELECT last_value FROM event_store.position_seq');
	return "SELECT last_value >= $from + 1000000 FROM event_store.position_seq";
};
interrupt('in a batch of a million events that draws its positions', sql => $million, waits => $drawing, ways => ['cancel']);
interrupt('in a batch of a million events that writes', sql => $million, waits => $writing_from->(), ways => ['terminate']);
interrupt('in a batch of a million events', sql => $million, ways => ['statement_timeout'], timeout => '2s');
interrupt('in an import of a million rows', sql => q[INSERT INTO event_store.import (stream, event_type) SELECT 'known-long' || g % 1000, 'Known' FROM generate_series(1, 1000000) g],
	waits => $drawing, ways => [ 'cancel', 'terminate' ]);

# A large log to read, with the events of the interrupted calls among it.
$node->safe_psql('postgres', q[INSERT INTO event_store.import (stream, event_type) SELECT 'known-' || g % 10, 'Known' FROM generate_series(1, 100000) g]);
for my $read (q[SELECT sum(length(e::text)) FROM (SELECT es_read_all(0, NULL) AS e FROM generate_series(1, 100)) x],
	q[SELECT count(*) FROM generate_series(1, 1000), LATERAL es_read_all(generate_series * 0, NULL)],
	q[SELECT count(*) FROM generate_series(1, 10000), LATERAL es_read('known-' || generate_series % 10)],
	q[SELECT count(es_position_at('2000-01-01'::timestamptz + g * interval '1 s')) FROM generate_series(1, 1000) g],
	q[SELECT count(*) FROM generate_series(1, 10000) g, LATERAL es_read_all(g * 0, NULL, NULL, '{other}')])
{
	interrupt("in $read", sql => $read, waits => $long_enough, ways => [ 'cancel', 'terminate', 'statement_timeout' ]);
}

# ---- a slow client's COPY: core acts on a cancel when the next row comes, on a termination at once

for my $way ('cancel', 'terminate', 'hang up', 'give up')
{
	my $what = "COPY from a slow client, $way";
	my $before = ask($monitors{postgres}, $state);
	my $rows = join '', map { "known-copy$_\tKnown\t{\"n\": $_}\n" } 1 .. 20000;
	my $psql = start_psql('postgres', "SET application_name = 'victim';\nCOPY event_store.import (stream, event_type, data) FROM STDIN;\n$rows");

	# Nothing is appended before the last row has come.
	wait_until('postgres', "SELECT EXISTS (SELECT 1 $active AND wait_event = 'ClientRead')
		AND EXISTS (SELECT FROM pg_stat_progress_copy WHERE tuples_processed >= 19000)", $psql);
	is(ask($monitors{postgres}, q[SELECT es_append('other-1', -2, 'Known', '{}'::jsonb) IS NOT NULL]), 't', "$what: others go on");
	is(ask($monitors{postgres}, $state), $before, "$what: nobody sees rows of it");
	if ($way eq 'cancel')
	{
		ask($monitors{postgres}, "SELECT pg_cancel_backend($victim)");
		# psql sends what it has buffered when there is enough of it.
		send_to($psql, $rows . "\\.\nSELECT count(*) >= 1 FROM es_read('known-1');\n");
		$psql->{handle}->finish;
		like($psql->{err}, qr/ERROR:\s+57014/, "$what: 57014");
		like($psql->{out}, qr/^t$/m, "$what: the session is usable") or diag($psql->{err});
	}
	elsif ($way eq 'terminate')
	{
		ask($monitors{postgres}, "SELECT pg_terminate_backend($victim)");
		wait_until('postgres', q[SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'victim']);
		eval { send_to($psql, "\\.\n"); $psql->{handle}->finish };
		like($psql->{err}, qr/57P01|connection/, "$what: the connection ends");
	}
	elsif ($way eq 'hang up')
	{
		$psql->{handle}->kill_kill;
		wait_until('postgres', q[SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'victim']);
	}
	else
	{
		send_to($psql, "known-copy1\tKnown\n\\.\n");
		$psql->{handle}->finish;
		like($psql->{err}, qr/ERROR:\s+22P04/, "$what: core refuses the last row");
	}
	wait_until('postgres', q[SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'victim']);
	is(ask($monitors{postgres}, $state), $before, "$what: nothing changed");
	is(ask($monitors{postgres}, q[
			SELECT count(*) FROM pg_locks WHERE pid <> pg_backend_pid() AND database = (SELECT oid FROM pg_database WHERE datname = current_database())]),
		0, "$what: no lock is left");
}

# ---- after all that

is($node->safe_psql('postgres', q[
		SELECT count(*) FROM event_store.heads h WHERE version <> (SELECT count(*) FROM event_store.log l WHERE l.stream = h.id)]),
	0, 'every head says how many events its stream has');
is($node->safe_psql('postgres', q[
		SELECT count(*) FROM event_store.heads h JOIN event_store.log l ON l.stream = h.id AND l.version = h.version WHERE l.position <> h.last_position]),
	0, 'and where the last one is');
is($node->safe_psql('postgres', q[SELECT string_agg(name, ' ' ORDER BY name) FROM event_store.categories]), 'known other', 'no category was left');
is($node->safe_psql('postgres', q[SELECT string_agg(name, ' ') FROM event_store.event_types]), 'Known', 'no event type was left');
is($node->safe_psql('postgres', q[SELECT version FROM es_append('known-new', 0, 'Known', '{}'::jsonb); SELECT es_high_water_mark() = max(position) FROM event_store.log]),
	"1\nt", 'appends go on, and the mark passes');

# ---- partitions: a call that does not fit into the newest one has the next one made, by a worker whose
# transaction is its own (so a partition may outlive its maker's failure), or where a worker cannot,
# makes it itself. This comes last because it restarts the server.

my $room = q[SELECT (SELECT max(to_position) FROM event_store.partitions) - last_value - 1 FROM event_store.position_seq];
sub fill
{
	my ($n, $stream) = @_;
	$stream //= 'known-fill';
	return qq[SELECT es_append_batch(array_fill('$stream'::text, ARRAY[$n]), array_fill('Known'::text, ARRAY[$n]), array_fill('{}'::jsonb, ARRAY[$n]))];
}

# As if rolled-back calls had drawn all but the last $n positions of the partition. New sessions,
# because a session goes by the last position that it knows of.
sub leave_room
{
	my ($n) = @_;
	$_->{handle}->finish for $monitors{small}, $blockers{small};
	$node->safe_psql('small', "SELECT setval('event_store.position_seq', last_value + ($room) - $n) FROM event_store.position_seq");
	is($node->safe_psql('small', $room), $n, "the partition has room for $n events");
	$monitors{small} = start_psql('small', '');
	$blockers{small} = start_psql('small', '');
	return;
}

my $whole_state = $state;
$state =~ s/\(SELECT count\(\*\) FROM event_store.partitions\), // or die;
# How many events do not fit any more.
my $too_many = sub { my $n = ask($monitors{small}, $room); return $n < 0 ? 1 : $n + 1 };

leave_room(15);
# Nobody can attach a partition under this lock.
my $no_partitions = 'LOCK TABLE event_store.log IN SHARE UPDATE EXCLUSIVE MODE';
interrupt('while a worker makes a partition',
	db => 'small',
	block => $no_partitions,
	sql => sub { fill($too_many->()) },
	waits => "SELECT count(*) = 1 $active AND lower(wait_event) = 'bgworkershutdown'",
	ways => [ 'cancel', 'terminate', 'statement_timeout' ],
	alone => 1);
# The worker gives up after a second; then the append queues for the lock, and until it is gone there is no
# place for anyone's event.
interrupt('making a partition that a worker could not make',
	db => 'small',
	block => $no_partitions,
	sql => sub { fill($too_many->()) },
	ways => [ 'cancel', 'terminate', 'lock_timeout' ],
	alone => 1);
wait_until('small', q[SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type LIKE 'event_store%']);
like($node->safe_psql('small', fill(40)), qr/^\(40,/, 'then one is made');

$state = $whole_state;
$_->{handle}->finish for values %monitors, values %blockers;
$node->append_conf('postgresql.conf', 'max_worker_processes = 0');
$node->restart;
%monitors = map { $_ => start_psql($_, '') } 'postgres', 'small';
%blockers = map { $_ => start_psql($_, '') } 'postgres', 'small';
# The blocker has made the next partition, the victim's event has no other place.
leave_room(15);
interrupt('at the lock of those who make partitions',
	db => 'small',
	block => sub { fill($too_many->(), 'known-1') },
	sql => sub { fill($too_many->()) },
	waits => "SELECT count(*) = 1 $active AND wait_event = 'advisory'",
	alone => 1);
like($node->safe_psql('small', fill(40)), qr/^\(40,/, 'then one is made');
is($node->safe_psql($_, "SELECT * FROM es_check('all')"), '', "es_check finds nothing in $_") for 'postgres', 'small';

$_->{handle}->finish for values %monitors, values %blockers;
$node->stop;
unlike(slurp_file($node->logfile), qr/was terminated by signal|PANIC:|TRAP:|WARNING: .*(leak|not closed|left non-empty|you don't own a lock)/,
	'the server log has no crash and no leak');
done_testing();
