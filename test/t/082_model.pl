# Random operations on a store and on a model of it in plain Perl data (Model.pm): appends of every form, conflicts, retries,
# loads as of versions and times, snapshots, upcasters, folds, projections, rebuilds, subscriptions, transactions and
# savepoints rolled back, crashes. After each operation both say the same of what it touched, and now and then of everything.
#
# There are no background workers, so that what happens is what was asked for, in that order. Two sessions take turns, each
# with caches of its own; one of them may have a transaction open.
#
# Stops at the first difference, with the seed, the last operations and both answers. ES_FUZZ_SEED is another seed,
# ES_LONG=1 draws one and takes 3 minutes, ES_FUZZ_SECONDS says how long.
use strict;
use warnings;

use Dba;
use Fuzz;
use Model qw(jsonb row caught %upcasters %folds);
use ModelCall;
use ModelProjection;
use ModelSubscription;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Storable qw(dclone);
use Test::More;
use Time::HiRes qw(time usleep);

my $seconds = $ENV{ES_FUZZ_SECONDS} || ($ENV{ES_LONG} ? 180 : 20);

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q[
max_worker_processes = 0
event_store.as_of_wait = 0
event_store.mark_wait = 5s
event_store.partition_size = 100
statement_timeout = 60s
autovacuum = off
TimeZone = UTC
]);
$node->start;
my $seed = begin_with_seed();
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\nevent_store.early_lock_release = " . pick('on', 'off'));
$node->restart;

my @categories = ('acct', 'item');
my @streams = ((map { "acct-$_" } 1 .. 6), 'acct', 'item-a', 'item-b', 'item-c-d');
my @unfolded = ('log-1');			# of a category without a fold
my @projections = map { "p$_" } 1 .. 4;
my @subscriptions = ('s1', 's2');
my @consumers = ('', 'one', 'two');

# Times as microseconds, events as lines, and calls of which many are made in one statement.
$node->safe_psql('postgres', q[
	CREATE EXTENSION event_store;
	CREATE SCHEMA m;
	CREATE FUNCTION m.us(timestamptz) RETURNS bigint IMMUTABLE LANGUAGE sql AS $$SELECT (extract(epoch FROM $1) * 1000000)::bigint$$;
	CREATE FUNCTION m.t(bigint) RETURNS timestamptz IMMUTABLE LANGUAGE sql AS $$SELECT '1970-01-01 00:00+00'::timestamptz + $1 * interval '1 us'$$;
	CREATE FUNCTION m.e(e es_recorded_event) RETURNS text STABLE LANGUAGE sql AS $$SELECT array_to_string(ARRAY[e.position::text, e.stream, e.category,
		e.version::text, e.event_type, e.schema_version::text, e.event_id::text, e.data::text, e.metadata::text, m.us(e.occurred_at)::text, m.us(e.recorded_at)::text], '|', '')$$;
	CREATE FUNCTION m.state(s text, v bigint) RETURNS text LANGUAGE plpgsql AS $$
		BEGIN
			RETURN (SELECT array_to_string(ARRAY[s, v::text, l.state::text, l.version::text, l.position::text, m.us(l.recorded_at)::text], '|', '') FROM es_load_version(s, v) l);
		EXCEPTION WHEN OTHERS THEN RETURN concat_ws('|', s, v, SQLSTATE);
		END $$;
	CREATE FUNCTION m.says(statement text) RETURNS text LANGUAGE plpgsql AS $$
		DECLARE d text;
		BEGIN
			EXECUTE statement;
			RETURN 'nothing';
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS d = PG_EXCEPTION_DETAIL;
			RETURN SQLSTATE || ' ' || d;
		END $$;
	CREATE FUNCTION m.events() RETURNS SETOF text LANGUAGE plpgsql AS $$
		BEGIN RETURN QUERY SELECT m.e(e) FROM es_read_all(0, NULL) e;
		EXCEPTION WHEN OTHERS THEN RETURN QUERY SELECT SQLSTATE;
		END $$;
	CREATE TABLE m.keyless (position bigint);
	CREATE ROLE keeper_0;
	] . join ';', map { "CREATE TABLE proj_$_ (k text COLLATE \"C\" PRIMARY KEY, n bigint NOT NULL, total bigint, info text); GRANT ALL ON proj_$_ TO keeper_0" } @projections);

# ---- sessions

my (@sessions, $session);
my @journal;		# the last of what was done; all of it is in a file
open my $record, '>', ($ENV{TESTLOGDIR} // PostgreSQL::Test::Utils::tempdir()) . '/082_model_statements.log' or die $!;

sub record
{
	print $record "$_[0]\n";
	push @journal, $_[0];
	shift @journal if @journal > 25;
	return;
}

sub open_session
{
	my $opened = Session->connect($node->connstr('postgres'), timeout => 120);

	ask($opened, 'SET client_min_messages = error');
	$opened->{backend} = ask($opened, 'SELECT pg_backend_pid()');
	return $opened;
}

# What a session answers to statements: their rows, or "ERROR" and a SQLSTATE.
sub ask
{
	my ($asked, $sql) = @_;
	my ($answer, $error) = $asked->query("$sql;");

	$answer = "ERROR $error" if $error ne '';
	record(($asked == ($sessions[0] // 0) ? '1> ' : '2> ') . $sql =~ s/\n\s*/ /gr . "\n      " . substr($answer, 0, 300));
	return $answer;
}

# ---- agreement

my $model = Model->new;
my @saved;				# of the open transaction: the model at BEGIN, and at each savepoint
my $level = '';			# its isolation level, if it is a higher one
my $stale = 0;			# whether the mark may be older than what it sees: then projections do as much as they can, or nothing
my ($operations, $compared, $failed) = (0, 0, 0);
my %done;

sub differ
{
	my ($what, $got, $expected) = @_;

	$failed++;
	fail($what);
	diag("seed $seed, operation $operations\nthe store says\n$got\nthe model says\n$expected\nwhat was done last:\n" . join("\n", @journal));
	die "differ\n";
}

sub same
{
	my ($what, $got, $expected) = @_;

	$compared++;
	differ($what, $got, $expected) if $got ne $expected;
	return;
}

# Asks the store, and the model by a piece of code that may change it; an error changes nothing in either.
sub agree
{
	my ($what, $sql, $code) = @_;
	my $before = $model->copy;
	$model->{drawn_to} = ask($session, 'SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM event_store.position_seq') if $what =~ /projection|^to |quarantined/;
	my ($result, $sqlstate) = caught($code);
	$model = $before if $sqlstate;
	my $expected = defined $sqlstate ? "ERROR $sqlstate" : $result // '';
	my $answer = ask($session, $sql);

	$done{$what}++;
	$done{"$what: $sqlstate"}++ if $sqlstate;
	same($what, $answer, $expected);
	aborted() if $sqlstate;
	return $sqlstate;
}

# The same for what changes nothing, where the store may also refuse with one of these codes. Whether it has refused.
sub look
{
	my ($what, $sql, $code, @or) = @_;
	my ($result, $sqlstate) = caught($code);
	my $expected = defined $sqlstate ? "ERROR $sqlstate" : $result // '';
	my $answer = ask($session, $sql);

	$done{$what}++;
	$done{"$what: $sqlstate"}++ if $sqlstate;
	same($what, $answer, $expected) unless grep { $answer eq "ERROR $_" } @or;
	aborted() if $answer =~ /^ERROR/;
	return $answer =~ /^ERROR/;
}

# ---- transactions

# Drawing positions hides what was drawn from readers by position, to the end of the transaction, savepoints or not.
sub drew
{
	my ($before) = @_;

	return unless @saved;
	$model->{drawn} = 1;
	$model->{limit} //= $before;
	return;
}

sub restore
{
	my ($to) = @_;
	my ($drawn, $limit) = @{$model}{qw(drawn limit)};

	$model = $to->copy;
	@{$model}{qw(drawn limit)} = ($drawn, $limit);
	return;
}

sub end_transaction
{
	my ($commit) = @_;

	$model = $saved[0] unless $commit;
	delete @{$model}{qw(drawn limit)};
	@saved = ();
	($level, $stale) = ('', 0);
	return;
}

# After an error in a transaction: psql has gone back to before the statement, or the whole is lost.
sub aborted
{
	return unless @saved && !$session->{rollback};
	same('the end of a failed transaction', ask($session, 'ROLLBACK'), '');
	end_transaction(0);
	$done{'failed transaction'}++;
	return;
}

sub begin
{
	$session = pick(@sessions);
	$session->{rollback} = chance(.7);
	$level = chance(.5) ? '' : pick('REPEATABLE READ', 'SERIALIZABLE');
	$stale = $level && chance(.4);
	publish() if $level && !$stale;
	ask($session, '\set ON_ERROR_ROLLBACK ' . ($session->{rollback} ? 'on' : 'off') . "\nBEGIN" . ($level ? " ISOLATION LEVEL $level" : ''));
	@saved = ($model->copy);
	# Its snapshot does not change, so it reads by position up to the mark that is published.
	$model->{limit} = $model->{mark} if $level;
	$done{ $level ? "begin $level" : 'begin' }++;
	return;
}

sub end
{
	my $commit = chance(.6);

	ask($session, $commit ? 'COMMIT' : 'ROLLBACK');
	end_transaction($commit);
	$done{ $commit ? 'commit' : 'rollback' }++;
	return;
}

sub savepoint
{
	if (@saved == 1 || chance(.4))
	{
		return if @saved > 3;
		ask($session, 'SAVEPOINT s' . @saved);
		push @saved, $model->copy;
	}
	elsif (chance(.3))
	{
		ask($session, 'RELEASE s' . $#saved);
		pop @saved;
	}
	else
	{
		ask($session, 'ROLLBACK TO s' . $#saved);
		restore($saved[-1]);
		$done{'rollback to savepoint'}++;
	}
	return;
}

# ---- what a DBA does beside the store: nothing of it may be noticed

my ($ddl_forbidden, $published) = (0, 0);
my $renamed = 0;		# how often the role that keeps some definitions was
my %kept = map { $_ => 1 } qw(p3 p4);	# projections of that role

sub keeper { return "keeper_$renamed" }
sub as_keeper { my ($sql) = @_; return 'SET ROLE ' . keeper() . "; $sql; RESET ROLE" }

sub allow_ddl
{
	ask($session, $Dba::no_event_triggers) if $ddl_forbidden;
	$ddl_forbidden = 0;
	return;
}

sub forbid_ddl
{
	return if @saved;
	return allow_ddl() if $ddl_forbidden;
	same('event triggers', ask($session, $Dba::event_triggers), '');
	$done{'DDL forbidden'}++;
	$ddl_forbidden = 1;
	return;
}

sub publish_all
{
	return if @saved;
	allow_ddl();
	ask($session, $published ? $Dba::no_publication : $Dba::publication);
	$published = !$published;
	return if agree('a projection of a table without a key', q[SELECT es_create_projection('keyless', 'INSERT INTO m.keyless SELECT position FROM new_events', tables => '{m.keyless}')],
		sub { Model::refuse('55000') if $published; return });
	same('it is dropped', ask($session, q[SELECT es_drop_projection('keyless')]), '');
	return;
}

# A role of the old name gets nothing.
sub rename_role
{
	return if @saved;
	my $old = keeper();

	$renamed++;
	same('a role is renamed', ask($session, "ALTER ROLE $old RENAME TO " . keeper() . "; CREATE ROLE $old"), '');
	for my $sql (q[SELECT es_append('acct-1', -2, 'A', '{}'::jsonb)], 'SELECT es_read_all(0, 1)', q[SELECT es_register_aggregate('acct', 'state')])
	{
		same("$sql as a role of the old name", ask($session, "SET ROLE $old; $sql; RESET ROLE"), 'ERROR 42501');
	}
	same('it is dropped', ask($session, "DROP ROLE $old"), '');
	# The name is only what is shown, and what a copy elsewhere would go by.
	same('what es_check finds', ask($session, q[SELECT DISTINCT kind FROM es_check('none') WHERE kind <> 'snapshot']), 'role');
	allow_ddl();
	same('the new name is noted', ask($session, 'SELECT es_create_store()'), '');
	# It is a part of what snapshots go by.
	$_->{role} &&= keeper() for values %{ $model->{aggregates} };
	$done{'role renamed'}++;
	return;
}

# A projection of a role that policies apply to fails, and goes on when they are gone.
sub hide_rows
{
	return if @saved || grep { $_ eq 'hurt' } values %{ $model->{upcasters} };
	my ($name) = grep { my $p = $model->{projections}{$_}; $p && $p->{mode} eq 'async' && $p->{state} eq 'running' && !$p->{rebuild} && !%{ $p->{parked} }
		&& ModelProjection::calls($model, $p, [ grep { $_->{position} > $p->{position} } $model->settled ]) } sort keys %kept;
	return unless $name;

	allow_ddl();
	ask($session, "ALTER TABLE proj_$name ENABLE ROW LEVEL SECURITY");
	same("run of $name, of which rows are hidden", ask($session, "SELECT es_run_projection('$name')"), '0');
	same("status of $name, of which rows are hidden", ask($session, "SELECT status, last_error_code FROM event_store.projection_status WHERE name = '$name'"), 'failed|42501');
	same("table of projection $name", ask($session, table_sql($name)), ModelProjection::table($model->{projections}{$name}));
	ask($session, "ALTER TABLE proj_$name DISABLE ROW LEVEL SECURITY");
	$model->{projections}{$name}{state} = 'failed';
	agree('es_resume', "SELECT es_resume('$name')", sub { return ModelProjection::resume($model, $name) });
	agree('es_run_projection', "SELECT es_run_projection('$name')", sub { return ModelProjection::run($model, $name) });
	$done{'rows hidden'}++;
	return compare_projection($name);
}

# ---- a snapshot that is held elsewhere

my $holder;				# {session, model: as it was then, appended}

# Begins a transaction in a session of its own, which sees this moment for as long as it is open.
sub hold
{
	return if @saved || $holder;
	$holder = { session => open_session(), model => $model->copy, appended => $done{appended} // 0 };
	ask($holder->{session}, 'BEGIN ISOLATION LEVEL REPEATABLE READ');
	same('versions in a snapshot to be held', ask($holder->{session}, 'SELECT count(*) FROM event_store.heads'), scalar grep { @$_ } values %{ $model->{streams} });
	return;
}

# What it still sees must be what it saw.
sub let_go
{
	return if @saved || !$holder;
	my ($asked, $m) = @{$holder}{qw(session model)};
	my @names = sort grep { @{ $m->{streams}{$_} } } keys %{ $m->{streams} };

	same('streams in a snapshot that is held', ask($asked, 'SELECT stream, version FROM event_store.streams ORDER BY stream COLLATE "C"'),
		join "\n", map { row($_, scalar @{ $m->{streams}{$_} }) } @names);
	same('events in a snapshot that is held', ask($asked, 'SELECT m.e(e) FROM event_store.streams s, LATERAL es_read(s.stream, upcast => false) e ORDER BY e.position'),
		join "\n", map { Model::event_row($_) } @{ $m->{log} });
	same('events by position in it', ask($asked, 'SELECT count(*) FROM es_read_all(0, NULL) WHERE ' . (%{ $m->{upcasters} } || %{ $model->{upcasters} } ? 'false' : 'true')),
		%{ $m->{upcasters} } || %{ $model->{upcasters} } ? 0 : scalar grep { $_->{position} <= $m->{mark} } @{ $m->{log} });
	ask($asked, 'COMMIT');
	$done{'held snapshot'}++;
	$done{'appended under a held snapshot'} += ($done{appended} // 0) - $holder->{appended};
	forget_holder();
	return;
}

sub forget_holder
{
	$holder->{session}->quit if $holder;
	undef $holder;
	return;
}

# ---- what is drawn at random

sub a_stream { return chance(.05) ? pick(@unfolded) : pick(@streams) }
sub a_category { return chance(.05) ? 'log' : pick(@categories) }
# One that there is, mostly.
sub one_of { my ($there, @names) = @_; my @known = grep { $there->{$_} } @names; return @known && chance(.85) ? pick(@known) : pick(@names) }
sub a_projection { return one_of($model->{projections}, @projections) }
sub a_subscription { return one_of($model->{subscriptions}, @subscriptions) }
sub some_types { return chance(.6) ? undef : [ map { a_type() } 1 .. 1 + rand 3 ] }
sub some_categories { return chance(.6) ? undef : [ map { a_category() } 1 .. 1 + rand 2 ] }

sub an_expectation
{
	my ($stream) = @_;
	my $version = $model->version($stream);
	my $what = rand;

	return undef if $what < .35;
	return -2 if $what < .45;
	return $version if $what < .78;
	return -4 if $what < .85;
	return 0 if $what < .89;
	return pick(-1, -3, -5) if $what < .905;
	return $version + pick(1, 1, 2, 100) if $what < .94;
	return $version > 0 ? int rand $version : 1;
}

# ---- appending

# The calls that were made, to be repeated: {form, elements, key}.
my @calls;

sub element { my ($stream, @events) = @_; return { stream => $stream, expected => an_expectation($stream), events => \@events } }

sub a_call
{
	my $form = pick(qw(one one one list list list multi multi batch));
	my $key = chance(.25) ? 'k' . int rand 40 : undef;
	my $call = { form => $form };

	if ($form eq 'one') { $call->{elements} = [ { %{ element(a_stream(), an_event()) }, key => $key } ] }
	elsif ($form eq 'list') { $call->{elements} = [ { %{ element(a_stream(), some_events(5)) }, key => $key } ] }
	elsif ($form eq 'multi')
	{
		my %seen;
		for my $stream (map { a_stream() } 1 .. 1 + int rand 4)
		{
			my $element = element($stream, chance(.15) ? () : some_events(3));
			# A stream that is named again has no version, and not the same key.
			if ($seen{$stream}++)
			{
				$element->{expected} = undef;
				next if defined $key || !@{ $element->{events} };
			}
			$element->{key} = $key if @{ $element->{events} };
			push @{ $call->{elements} }, $element;
		}
	}
	else
	{
		my %element;
		$call->{batch_key} = $key;
		$call->{order} = [ map { pick(@streams) } 1 .. 1 + int rand 12 ];
		for my $stream (@{ $call->{order} })
		{
			push @{ $call->{elements} }, $element{$stream} = element($stream) unless $element{$stream};
			push @{ $element{$stream}{events} }, an_event();
		}
	}
	return $call;
}

# An earlier call, as it was or with something changed.
sub a_repeated_call
{
	my $call = dclone(pick(@calls));
	my $element = pick(@{ $call->{elements} });

	if (chance(.3) && @{ $element->{events} })
	{
		my $event = pick(@{ $element->{events} });
		if (chance(.5)) { $event->{data} = { %{ $event->{data} }, other => 1 } }
		elsif (chance(.5)) { $event->{sv}++ }
		else { $event->{type} = 'Unheard' }
	}
	$element->{expected} = an_expectation($element->{stream}) if chance(.3);
	# A retry may have other metadata and times.
	for my $event (map { @{ $_->{events} } } @{ $call->{elements} }) { $event->{metadata} = { user => 'again' } if chance(.2) }
	return $call;
}

# What the model expects: (answer or undef, SQLSTATE or undef).
sub answer_to
{
	my ($call) = @_;

	return caught(sub {
		my $key = $call->{batch_key};
		my @elements = @{ $call->{elements} };
		if (my $known = defined $key && $model->{batch_keys}{$key})
		{
			# What is wrong with an argument is said first.
			for (@elements) { my $x = $_->{expected} // 0; Model::refuse('22023') if $x == -1 || $x < -4 || $x == -3 }
			Model::refuse('YE002') if $known->{request} ne batch_request($call);
			return row(@{$known}{qw(events first last)}, 't');
		}
		my $answer = $model->append(@elements);
		if ($answer->{replayed})
		{
			my @rows = @{ $answer->{replayed} };
			if ($call->{form} eq 'batch')
			{
				my ($first) = sort { $a <=> $b } map { $model->{streams}{ $_->{stream} }[ $_->{expected} ]{position} } @elements;
				my ($last) = sort { $b <=> $a } map { $_->{position} } @rows;
				return row(scalar @{ $call->{order} }, $first, $last, 't');
			}
			return join "\n", map { my $e = shift @rows; row($call->{form} eq 'multi' ? $_->{stream} : (), $e ? @{$e}{qw(version position recorded)} : (0, undef, undef), 't') } @elements;
		}
		# Inline projections have their say. What positions there will be makes no difference to that.
		my $before = $model->copy;
		my @events = new_events($model, $call);
		if (@events)
		{
			my $position = $model->last_position;
			$_->{position} = ++$position, $_->{recorded} = 0, $_->{occurred} //= 0, $model->add($_, 0) for @events;
			my (undef, $code) = caught(sub { return ModelProjection::inline($model, \@events) });
			$model = $before;
			if ($code)
			{
				drew($model->last_position);
				Model::refuse($code);
			}
		}
		return undef;
	});
}

sub batch_request { my ($call) = @_; return join "\n", map { "$_->{stream} " . Model::request($_) } new_events($model, $call) }

sub append
{
	my ($call) = @_;
	my ($answer, $sqlstate) = answer_to($call);
	my $got = ask($session, call_sql($call));
	my $form = "append $call->{form}";

	push @calls, dclone($call);
	shift @calls if @calls > 60;
	$done{$form}++;
	$done{"append: $sqlstate"}++ if $sqlstate;
	if ($sqlstate)
	{
		same($form, $got, "ERROR $sqlstate");
		return aborted();
	}
	if (defined $answer)
	{
		$done{'append: replayed'}++;
		return same("$form, again", $got, $answer);
	}
	differ($form, $got, 'that it is appended') if $got =~ /^ERROR/;
	learn($call, $got);
	return;
}

# Adds to the model what was appended, with what only the store could know; all the rest must be as it was asked for.
sub learn
{
	my ($call, $got) = @_;
	my $form = "append $call->{form}";
	my @events = new_events($model, $call);
	my $before = $model->last_position;
	my @rows = map { [ split /\|/, $_, -1 ] } split /\n/, $got;
	my (@expected, @last, $first);

	my $last_position = $call->{form} eq 'batch' ? $rows[0][2] : (sort { $b <=> $a } map { $_->[-3] } @rows)[0];
	$first = $last_position - @events + 1;
	differ($form, $got, "positions after $before") if @events && $first <= $before;
	drew($before) if @events;

	# Recorded at: one time of the call, later than whatever its streams have.
	my %touched = map { $_->{stream} => $model->version($_->{stream}) } @events;
	my $recorded = $call->{form} eq 'batch' && @events ? ask($session, "SELECT m.us(recorded_at) FROM event_store.events WHERE position = $first") : undef;
	if ($call->{form} ne 'batch')
	{
		for my $i (0 .. $#rows) { $recorded = $rows[$i][-2] if @{ $call->{elements}[$i]{events} } }
	}
	if (@events)
	{
		for my $stream (keys %touched)
		{
			my $e = $model->last_event($stream);
			differ($form, $recorded, "a time after $e->{recorded}") if $e && $recorded <= $e->{recorded};
		}
		differ($form, $recorded, "a time after $model->{published}") if $recorded <= $model->{published};
	}
	for my $i (0 .. $#events)
	{
		my $e = $events[$i];
		@{$e}{qw(position recorded)} = ($first + $i, $recorded);
		$e->{occurred} //= $recorded;
		$model->add($e, $last_position);
	}
	for my $stream (sort keys %touched)
	{
		my $from = $touched{$stream} + 1;
		my $answer = ask($session, 'SELECT m.e(e) FROM es_read(' . literal($stream) . ", $from, upcast => false) e");
		my @lines = split /\n/, $answer;
		for my $e (grep { !defined $_->{id} } @{ $model->{streams}{$stream} }[ $touched{$stream} .. $model->version($stream) - 1 ])
		{
			($e->{id}) = ($lines[ $e->{version} - $from ] // '') =~ /([0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12})/;
			$e->{id} //= 'none';
		}
		same("$form: what is stored", $answer, $model->read($stream, $from, undef, 0, 0));
	}

	# The answer itself.
	if ($call->{form} eq 'batch')
	{
		@expected = row(scalar @events, $first, $last_position, 'f');
		$model->{batch_keys}{ $call->{batch_key} } = { request => join("\n", map { "$_->{stream} " . Model::request($_) } @events), events => scalar @events, first => $first, last => $last_position }
			if defined $call->{batch_key};
	}
	else
	{
		my @left = @events;
		for my $element (@{ $call->{elements} })
		{
			my @own = splice @left, 0, scalar @{ $element->{events} };
			my $e = @own ? $own[-1] : $model->last_event($element->{stream});
			push @expected, row($call->{form} eq 'multi' ? $element->{stream} : (), $e ? @{$e}{qw(version position recorded)} : (0, undef, undef), 'f');
			$model->{keys}{ row($element->{stream}, $element->{key}) } = { request => Model::request(@{ $element->{events} }), last => $e } if defined $element->{key};
		}
	}
	same($form, $got, join "\n", @expected);
	ModelProjection::inline($model, \@events);
	$done{appended} += @events;
	return;
}

# ---- reading

sub read_stream
{
	my $stream = a_stream();
	my ($from, $max) = (maybe(1 + int rand 30), maybe(int rand 10));
	my ($backward, $upcast) = (chance(.3) ? 1 : 0, chance(.8) ? 1 : 0);

	return look('es_read', sprintf('SELECT m.e(e) FROM es_read(%s, %s, %s, %s, %s) e', literal($stream), number($from), number($max),
		map { $_ ? 'true' : 'false' } $backward, $upcast), sub { return $model->read($stream, $from, $max, $backward, $upcast) });
}

sub some_position { my @log = @{ $model->{log} }; return @log ? pick(@log)->{position} + pick(0, 0, -1, 1) : 0 }

sub read_all
{
	my ($after, $max, $types) = (pick(0, some_position(), some_position()), pick(undef, 1, 5, 50), some_types());

	if (chance(.5))
	{
		my $category = a_category();
		return look('es_read_category', sprintf('SELECT m.e(e) FROM es_read_category(%s, %s, %s, %s) e', literal($category), $after, number($max), sql_array($types)),
			sub { return $model->read_all($after, $max, $types, [$category]) });
	}
	my $categories = some_categories();
	return look('es_read_all', sprintf('SELECT m.e(e) FROM es_read_all(%s, %s, %s, %s) e', $after, number($max), sql_array($types), sql_array($categories)),
		sub { return $model->read_all($after, $max, $types, $categories) });
}

sub small_answers
{
	my $stream = a_stream();
	my $key = 'k' . int rand 40;
	my $time = some_time();

	look('es_stream_version', 'SELECT es_stream_version(' . literal($stream) . ')', sub { return $model->version($stream) });
	look('es_find_append', sprintf('SELECT version, position, m.us(recorded_at), replayed FROM es_find_append(%s, %s)', literal($stream), literal($key)), sub {
		my $known = $model->{keys}{ row($stream, $key) } or return '';
		return row(@{ $known->{last} }{qw(version position recorded)}, 't') });
	look('es_position_at', "SELECT es_position_at(m.t($time))", sub { my ($last) = sort { $b <=> $a } 0, map { $_->{position} } grep { $_->{recorded} <= $time } $model->settled; return $last });
	my $id = pick('c-1', 'c-2');
	look('es_trace', "SELECT m.e(e) FROM es_trace('$id') e", sub {
		return join "\n", map { Model::event_row($_) } $model->select([ grep { $_->{metadata} && ($_->{metadata}{correlation_id} // '') eq $id } @{ $model->{log} } ]) }) unless @saved;
	return;
}

# ---- state

sub some_time
{
	my @log = @{ $model->{log} };

	return @log ? pick(@log)->{recorded} + pick(0, 0, 0, 1, -1) : 1;
}

# Whether the state as of a time must be final, or must not; undef: who knows.
sub is_final
{
	my ($time) = @_;
	my ($next) = grep { $_->{recorded} > $model->{published} } @{ $model->{log} };

	return undef if $level;		# what is published for all streams may be older
	return 1 if $time <= $model->{published};
	return 0 if $next && $time >= $next->{recorded} && !@saved;
	return undef;
}

sub publish
{
	return if @saved;
	my ($mark, $last) = (ask($session, 'SELECT es_publish_mark()'), $model->last_position);
	differ('es_publish_mark', $mark, "$last or more") if $mark =~ /ERROR/ || $mark < $last;
	$model->{published} = (sort { $b <=> $a } 0, map { $_->{recorded} } @{ $model->{log} })[0];
	$model->{mark} = $mark;
	$done{publish}++;
	return;
}

# A load as of a time. In a transaction that has appended, its own appends may stand in the way.
sub look_at
{
	my ($what, $sql, $time, $code) = @_;
	my $final = is_final($time);

	return look($what, $sql, sub { Model::refuse('YE004') }) if defined $final && !$final;
	return look($what, $sql, $code, !defined $final || $model->{drawn} ? 'YE004' : ());
}

my $loaded = 'state, version, position, m.us(recorded_at)';

# Loads, and how much of the stream was folded for it: a snapshot is used where there is a good one, and only there.
sub load
{
	my $stream = a_stream();
	my $name = literal($stream);
	my @events = @{ $model->{streams}{$stream} // [] };
	my $what = rand;
	my $before = ask($session, 'SELECT es_replayed_events()');
	my $refused;

	if ($what < .4) { $refused = look('es_load', "SELECT $loaded FROM es_load($name)", sub { return $model->load($stream) }) }
	elsif ($what < .75)
	{
		return load_version_of($stream, chance(.03) ? pick(-1, @events + 1) : int rand(@events + 1));
	}
	else
	{
		publish() if chance(.6);
		my $time = some_time();
		$refused = look_at('es_load_at', "SELECT $loaded FROM es_load_at($name, m.t($time))", $time, sub { return $model->load_at($stream, $time) });
		@events = $model->until_time($stream, $time);
	}
	return if $refused;
	return compare_folded($stream, $before, @events);
}

sub compare_folded
{
	my ($stream, $before, @events) = @_;

	$done{'load past a foreign snapshot'}++ if @events && $model->meets_foreign($stream, $events[-1]{version});
	my $folded = ask($session, 'SELECT es_replayed_events()') - $before;
	same('events folded by a load', $folded, $model->replayed($stream, @events));
	return;
}

sub load_version_of
{
	my ($stream, $version) = @_;
	my $before = ask($session, 'SELECT es_replayed_events()');

	return if look('es_load_version', "SELECT $loaded FROM es_load_version(" . literal($stream) . ", $version)", sub { return $model->load_version($stream, $version) });
	return compare_folded($stream, $before, @{ $model->{streams}{$stream} }[ 0 .. $version - 1 ]);
}

sub load_valid_at
{
	my $stream = a_stream();
	my $valid = chance(.2) ? some_time() : occurred();
	my $known = maybe(some_time());
	my $sql = sprintf "SELECT $loaded FROM es_load_valid_at(%s, m.t(%s)%s)", literal($stream), $valid, defined $known ? ", m.t($known)" : '';
	my $code = sub { return $model->load_valid_at($stream, $valid, $known) };

	return look('es_load_valid_at', $sql, $code) unless defined $known;
	publish();
	return look_at('es_load_valid_at', $sql, $known, $code);
}

sub load_category
{
	my $category = a_category();

	if (chance(.5) && !@saved)
	{
		my $time = some_time();
		publish() for 1, 2;
		return look_at('es_load_category as of a time', "SELECT stream, state, version FROM es_load_category('$category', m.t($time))", $time, sub { return $model->load_category($category, $time) });
	}
	return look('es_load_category', "SELECT stream, state, version FROM es_load_category('$category')", sub { return $model->load_category($category) });
}

sub history
{
	my ($stream, $from, $max) = (a_stream(), 1 + int rand 20, maybe(1 + int rand 10));

	return look('es_history', sprintf('SELECT version, event_type, m.us(occurred_at), m.us(recorded_at), state FROM es_history(%s, %s, %s)', literal($stream), $from, number($max)),
		sub { return $model->history($stream, $from, $max) });
}

sub snapshots_sql { return sprintf q[SELECT string_agg(s.version::text, ',' ORDER BY s.version) FROM event_store.snapshots s JOIN event_store.heads h ON h.id = s.stream WHERE h.name = %s], literal($_[0]) }

sub snapshot
{
	my $stream = a_stream();

	return if agree('es_snapshot', 'SELECT es_snapshot(' . literal($stream) . ')', sub { return $model->snapshot($stream) });
	same('snapshots kept', ask($session, snapshots_sql($stream)), $model->snapshots($stream));
	return;
}

# Snapshots of another history, as a table that is restored from another moment has them: made in a transaction that is rolled
# back, and put back later, when the stream has other events at those versions.
my @foreign;			# {stream, version, fingerprint, row}

sub make_foreign_snapshot
{
	my @known = grep { $model->version($_) > 0 } @streams;
	return if @saved || !@known;
	my $stream = pick(@known);
	my $name = literal($stream);
	my $events = 1 + int rand 8;
	my ($fingerprint) = caught(sub { return $model->fingerprint($stream) });

	ask($session, 'BEGIN');
	ask($session, "SELECT count(*) FROM es_append_batch(array_fill($name\::text, '{$events}'), array_fill('Other'::text, '{$events}'), array_fill('{}'::jsonb, '{$events}')), es_snapshot($name)");
	my $row = ask($session, "SELECT s::text FROM event_store.snapshots s JOIN event_store.heads h ON h.id = s.stream AND h.version = s.version WHERE h.name = $name");
	ask($session, 'ROLLBACK');
	# A stream that cannot be folded has none.
	return unless defined $fingerprint && $row =~ /^\(/;
	push @foreign, { stream => $stream, version => $model->version($stream) + $events, fingerprint => $fingerprint, row => $row };
	shift @foreign if @foreign > 8;
	# Often it comes at once: later its fold is another one.
	return if chance(.4);
	append({ form => 'list', elements => [ { stream => $stream, events => [ map { an_event() } 0 .. $events ] } ] });
	return put_foreign_snapshot($foreign[-1]);
}

sub put_foreign_snapshot
{
	my @fit = grep { $model->version($_->{stream}) >= $_->{version} } @_ ? @_ : @foreign;
	return if @saved || !@fit;
	my $one = pick(@fit);

	allow_ddl();
	return unless $model->add_foreign_snapshot(@{$one}{qw(stream version fingerprint)});
	same('a foreign snapshot is put there', ask($session, 'BEGIN; ALTER TABLE event_store.snapshots DISABLE TRIGGER USER; '
		. 'INSERT INTO event_store.snapshots SELECT (' . literal($one->{row}) . '::event_store.snapshots).*; '
		. 'ALTER TABLE event_store.snapshots ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row; COMMIT'), '');
	$done{'foreign snapshot'}++;
	return load_version_of($one->{stream}, $one->{version});
}

sub drop_snapshots
{
	my $category = a_category();

	agree('es_drop_snapshots', "SELECT es_drop_snapshots('$category')", sub { return $model->drop_snapshots($category) });
	return;
}

# ---- definitions

sub register_aggregate
{
	my ($category) = @_;
	my ($name, $every) = (pick(sort keys %folds), pick(1, 1, 2, 5, 100));
	my ($argument, $text, $initial) = @{ $folds{$name} };

	my $sql = sprintf('SELECT es_register_aggregate(%s, %s => %s, initial_state => %s, snapshot_every => %s)', literal($category), $argument, literal($text), literal(jsonb($initial)), $every);
	my $kept = !@saved && chance(.4);
	$done{"$category folded by a role"}++ if $kept;
	agree('es_register_aggregate', $kept ? as_keeper($sql) : $sql, sub { $model->{aggregates}{$category} = { fold => $name, every => $every, role => $kept ? keeper() : '' }; return });
	return;
}

sub unregister_aggregate
{
	my $category = pick(@categories);

	agree('es_unregister_aggregate', "SELECT es_unregister_aggregate('$category')", sub { delete $model->{aggregates}{$category} or Model::refuse('YE008'); return });
	register_aggregate($category) if chance(.8);
	return;
}

my $registrations = 0;		# of upcasters: another one is another one, with the same text too

sub upcaster
{
	# Those that make reads fail do not stay long.
	my $hurts = $model->{upcasters}{'Poison 1'} && $model->{upcasters}{'Poison 1'} eq 'hurt';
	my $name = $hurts && chance(.6) ? 'mend' : pick(sort keys %upcasters);
	my ($type, $version, $transform, $to) = @{ $upcasters{$name} };

	if (!chance($hurts ? .1 : .45))
	{
		agree('es_register_upcaster', sprintf('SELECT es_register_upcaster(%s, %s, %s, %s)', literal($type), $version, literal($transform), sql($to)), sub {
			# What the type has become until now counts too.
			ModelProjection::upcaster_changed($model, $type);
			$model->{upcasters}{"$type $version"} = $name;
			$model->{registered}{"$type $version"} = ++$registrations;
			ModelProjection::upcaster_changed($model, $type, $to // $type);
			return });
		return;
	}
	agree('es_unregister_upcaster', sprintf('SELECT es_unregister_upcaster(%s, %s)', literal($type), $version), sub {
		ModelProjection::upcaster_changed($model, $type);
		delete $model->{upcasters}{"$type $version"} or Model::refuse('YE008');
		ModelProjection::upcaster_changed($model, $type, $type);
		return });
	return;
}

# ---- projections

sub table_sql { return "SELECT k, n, total, info FROM proj_$_[0] ORDER BY k" }
sub quarantine_sql
{
	my ($name, $rebuild) = @_;

	return sprintf q[SELECT stream, position, events, error_code, attempts, min(stream COLLATE "C") OVER (PARTITION BY together) FROM event_store.quarantine
		WHERE name = %s AND %s rebuild ORDER BY stream COLLATE "C"], literal($name), $rebuild ? '' : 'NOT';
}

# The tables, the quarantine and the status of a projection.
sub compare_projection
{
	my ($name) = @_;
	my $p = $model->{projections}{$name} or return;

	same("table of projection $name", ask($session, table_sql($name)), ModelProjection::table($p));
	same("quarantine of projection $name", ask($session, quarantine_sql($name, 0)), ModelProjection::quarantine($p->{parked}));
	same("status of projection $name", ask($session, "SELECT mode, status, quarantined_streams, rebuild FROM event_store.projection_status WHERE name = '$name'"), ModelProjection::status($model, $p));
	return;
}

sub create_projection
{
	return if $stale;
	my $name = pick(@projections);
	my $p = $model->{projections}{$name};
	my %def = (handler => pick(sort keys %ModelProjection::handlers), mode => pick('async', 'async', 'inline'), types => some_types(), categories => some_categories(), from => chance(.8) ? 0 : some_position());

	%def = (%def, map { $_ => $p->{$_} } qw(handler types categories from mode)) if $p && chance(.6);
	$def{from} = 0 if $def{from} < 0;
	$def{batch} = $p ? $p->{batch} : pick(1, 3, 20, 1000);
	return if @saved && $kept{$name};
	my $sql = sprintf('SELECT es_create_projection(%s, %s, categories => %s, event_types => %s, tables => %s, mode => %s, batch_size => %s, from_position => %s)',
		literal($name), literal($ModelProjection::handlers{ $def{handler} }[0]->("proj_$name")), sql_array($def{categories}), sql_array($def{types}), literal("{proj_$name}"), literal($def{mode}),
		$def{batch}, $def{from});
	return if agree('es_create_projection', $kept{$name} ? as_keeper($sql) : $sql, sub { return ModelProjection::create($model, $name, %def) });
	return compare_projection($name);
}

sub run_projection
{
	return if $stale;
	my $name = a_projection();

	return if agree('es_run_projection', "SELECT es_run_projection('$name')", sub {
		my $rebuilding = $model->{projections}{$name} && ($model->{projections}{$name}{rebuild}{state} // '') eq 'running';
		delete $model->{projections}{$name}{rebuild} if $model->{projections}{$name} && !%{ $model->{projections}{$name}{rebuild} // { a => 1 } };
		my $events = ModelProjection::run($model, $name);
		$done{'rebuild done'}++ if $rebuilding;
		$done{'rebuild done where DDL is forbidden'}++ if $rebuilding && $ddl_forbidden;
		return $events });
	return compare_projection($name);
}

sub pause_or_resume
{
	my $name = a_projection();
	my $what = $model->{projections}{$name} && $model->{projections}{$name}{state} eq 'paused' || chance(.3) ? 'resume' : 'pause';

	return if agree("es_$what", "SELECT es_$what('$name')", sub { return ModelProjection->can($what)->($model, $name) });
	return compare_projection($name);
}

sub rebuild
{
	my $name = a_projection();
	my ($handler, $types) = (maybe(pick(sort keys %ModelProjection::handlers)), chance(.3) ? some_types() : undef);

	if (chance(.1))
	{
		agree('es_cancel_rebuild', "SELECT es_cancel_rebuild('$name')", sub { return ModelProjection::cancel($model, $name) });
	}
	else
	{
		return if @saved && $kept{$name};
		my $sql = sprintf('SELECT es_rebuild_projection(%s, %s, event_types => %s, fast => %s)', literal($name),
			sql(defined $handler ? $ModelProjection::handlers{$handler}[0]->("proj_$name") : undef), sql_array($types), pick('true', 'false'));
		agree('es_rebuild_projection', $kept{$name} ? as_keeper($sql) : $sql, sub { return ModelProjection::rebuild($model, $name, $handler, $types) });
	}
	return compare_projection($name);
}

sub set_mode
{
	return if $stale;
	my ($name, $mode) = (a_projection(), pick('inline', 'async'));

	return if agree("to $mode", "SELECT es_set_projection_mode('$name', '$mode')", sub { return ModelProjection::set_mode($model, $name, $mode) });
	return compare_projection($name);
}

sub retry_quarantined
{
	return if $stale;
	my @parked = grep { %{ $model->{projections}{$_}{parked} } } sort keys %{ $model->{projections} };
	my $name = @parked && chance(.8) ? pick(@parked) : a_projection();
	my $parked = $model->{projections}{$name} ? $model->{projections}{$name}{parked} : {};
	my $something = %$parked;
	my $stream = chance(.4) ? %$parked && chance(.9) ? pick(sort keys %$parked) : a_stream() : undef;

	return if agree('es_retry_quarantined', sprintf('SELECT es_retry_quarantined(%s, %s)', literal($name), sql($stream)), sub { return ModelProjection::retry($model, $name, $stream) });
	$done{'retry of something'}++ if $something;
	return compare_projection($name);
}

sub skip_quarantined
{
	my @parked = grep { %{ $model->{projections}{$_}{parked} } } sort keys %{ $model->{projections} };
	my $name = @parked && chance(.9) ? pick(@parked) : a_projection();
	my $parked = $model->{projections}{$name} ? $model->{projections}{$name}{parked} : {};
	my $stream = %$parked && chance(.9) ? pick(sort keys %$parked) : a_stream();

	my $upto = a_version_in($stream, $parked->{$stream});
	return if agree('es_skip_quarantined', skip_sql($name, $stream, $upto), sub { return ModelProjection::skip($model, $name, $stream, $upto) });
	$done{'skip of something'}++ if $parked->{$stream};
	return compare_projection($name);
}

# Often the version of an event at or behind a place in the stream.
sub a_version_in
{
	my ($stream, $place) = @_;
	my @versions = map { $_->{version} } grep { $_->{stream} eq $stream && (!$place || $_->{position} >= $place->{position}) } @{ $model->{log} };

	return @versions && chance(.9) ? pick(@versions[ 0 .. ($#versions < 2 ? $#versions : 2) ]) : pick(-1, 0, 1, 1000);
}

sub skip_sql { my ($name, $stream, $upto) = @_; return sprintf q[SELECT es_skip_quarantined(%s, %s, %d, 'a test')], literal($name), literal($stream), $upto }

sub drop_projection
{
	my $name = a_projection();

	return if agree('es_drop_projection', "SELECT es_drop_projection('$name')", sub { return ModelProjection::drop_it($model, $name) });
	ask($session, "DELETE FROM proj_$name");
	return;
}

# ---- subscriptions

sub streams_sql
{
	return sprintf q[SELECT h.name, s.position, s.consumer, s.reason, s.attempts FROM event_store.subscription_streams s JOIN event_store.heads h ON h.id = s.stream
		JOIN event_store.subscriptions b ON b.id = s.subscription WHERE b.name = %s ORDER BY h.name COLLATE "C"], literal($_[0]);
}

sub compare_subscription
{
	my ($name) = @_;
	my $s = $model->{subscriptions}{$name} or return;

	same("streams in flight of $name", ask($session, streams_sql($name)), ModelSubscription::streams($s));
	return;
}

sub create_subscription
{
	my $name = pick(@subscriptions);
	my $s = $model->{subscriptions}{$name};
	my %def = (types => some_types(), categories => some_categories(), from => chance(.8) ? 0 : some_position());

	%def = map { $_ => $s->{$_} } qw(types categories from) if $s && chance(.6);
	$def{from} = 0 if $def{from} < 0;
	agree('es_create_subscription', sprintf('SELECT es_create_subscription(%s, %s, %s, %s)', literal($name), sql_array($def{categories}), sql_array($def{types}), $def{from}),
		sub { return ModelSubscription::create($model, $name, %def) });
	return;
}

# Consumers compete by what others have just committed.
sub refuse_level { Model::refuse('0A000') if $level; return }

sub fetch
{
	my ($name, $consumer, $max, $short) = (a_subscription(), pick(@consumers), pick(1, 2, 5, 20, 1000), chance(.25) ? 1 : 0);

	return if agree('es_fetch', sprintf("SELECT m.e(e) FROM es_fetch(%s, %s, %s, %s) e", literal($name), literal($consumer), $max, $short ? q['1 ms'] : q['1 day']),
		sub { refuse_level(); return ModelSubscription::fetch($model, $name, $consumer, $max, $short) });
	usleep(2000) if $short;
	# It has come to the mark, where positions that were drawn in vain count; for the model that is the last event.
	my $s = $model->{subscriptions}{$name};
	my $position = ask($session, "SELECT position FROM event_store.subscriptions WHERE name = '$name'");
	differ("position of $name", $position, "$s->{position}, or more up to the next event")
		if $position < $s->{position} || grep { $_->{position} > $s->{position} && $_->{position} <= $position } $model->settled;
	my $c = $s->{consumers}{$consumer};
	$c->{covered} = $position if $c && $c->{covered} == $s->{position};
	$s->{position} = $position;
	return compare_subscription($name);
}

sub ack_or_nack
{
	my ($name, $consumer, $ack) = (a_subscription(), pick(@consumers), chance(.7));
	my $c = $model->{subscriptions}{$name} && $model->{subscriptions}{$name}{consumers}{$consumer};
	my $upto = $c && chance(.6) ? $c->{returned} : some_position();

	$upto = 0 if $upto < 0;
	return if agree($ack ? 'es_ack' : 'es_nack', $ack ? "SELECT es_ack('$name', $upto, '$consumer')" : "SELECT es_nack('$name', $upto, 'no', '$consumer')",
		sub { refuse_level(); return $ack ? ModelSubscription::ack($model, $name, $upto, $consumer) : ModelSubscription::nack($model, $name, $upto, 'no', $consumer) });
	return compare_subscription($name);
}

sub retry_subscription
{
	my ($name, $stream) = (a_subscription(), maybe(a_stream()));

	return if agree('es_retry_quarantined', sprintf('SELECT es_retry_quarantined(%s, %s)', literal($name), sql($stream)), sub { ModelSubscription::find($model, $name); refuse_level(); return ModelSubscription::retry($model, $name, $stream) });
	return compare_subscription($name);
}

sub skip_subscription
{
	my $name = a_subscription();
	my $streams = $model->{subscriptions}{$name} ? $model->{subscriptions}{$name}{streams} : {};
	my @quarantined = grep { defined $streams->{$_}{reason} } sort keys %$streams;
	my $stream = @quarantined && chance(.9) ? pick(@quarantined) : a_stream();

	my $upto = a_version_in($stream, $streams->{$stream});
	return if agree('es_skip_quarantined', skip_sql($name, $stream, $upto), sub { ModelSubscription::find($model, $name); refuse_level(); return ModelSubscription::skip($model, $name, $stream, $upto) });
	$done{'skip in a subscription'}++ if @quarantined;
	return compare_subscription($name);
}

sub drop_subscription
{
	my $name = a_subscription();

	agree('es_drop_subscription', "SELECT es_drop_subscription('$name')", sub { return ModelSubscription::drop_it($model, $name) });
	return;
}

# ---- partitions that are away

# Detaches a partition that is full, asks for what is in it and what is not, and attaches it again: the answer is an error that
# names the partition, or right.
sub detached
{
	return if @saved || $holder;
	my $size = 100;
	my ($last) = map { int($_ / $size) } $model->last_position;
	my @full = grep { $_ < $last } map { int($_->{position} / $size) } @{ $model->{log} };
	return unless @full;
	# Often the newest of them, which projections have not read.
	my $low = (chance(.6) ? $full[-1] : pick(@full)) * $size;
	my $high = $low + $size - 1;
	my $away = sub { return scalar grep { $_->{position} >= $low && $_->{position} <= $high } @_ };

	allow_ddl();
	publish();
	# Where there are snapshots, loads may not need what is away.
	for my $category (chance(.6) ? @categories : ()) { agree('es_drop_snapshots', "SELECT es_drop_snapshots('$category')", sub { return $model->drop_snapshots($category) }) }
	same('DETACH', ask($session, "ALTER TABLE event_store.log DETACH PARTITION event_store.log_$low"), '');
	$done{detached}++;
	for (1 .. 5)
	{
		my $what = rand;

		$session = pick(@sessions);
		if ($what < .3)
		{
			my $after = pick(0, some_position(), $high, $high - 1);
			my ($max, $types, $categories) = (pick(undef, 1, 50), some_types(), some_categories());
			$after = 0 if $after < 0;
			look('read all of a log with a hole', sprintf('SELECT m.e(e) FROM es_read_all(%s, %s, %s, %s) e', $after, number($max), sql_array($types), sql_array($categories)), sub {
				Model::refuse('55000') if $after < $high;
				return $model->read_all($after, $max, $types, $categories) });
		}
		elsif ($what < .5)
		{
			my $stream = a_stream();
			my ($from, $max, $backward) = (maybe(1 + int rand 30), maybe(1 + int rand 10), chance(.3) ? 1 : 0);
			look('read a stream with a hole', sprintf('SELECT m.e(e) FROM es_read(%s, %s, %s, %s, false) e', literal($stream), number($from), number($max), $backward ? 'true' : 'false'), sub {
				my @events = @{ $model->{streams}{$stream} // [] };
				@events = $backward ? reverse grep { !defined $from || $_->{version} <= $from } @events : grep { !defined $from || $_->{version} >= $from } @events;
				splice @events, $max if defined $max && @events > $max;
				Model::refuse('55000') if $away->(@events);
				return $model->read($stream, $from, $max, $backward, 0) });
		}
		elsif ($what < .7)
		{
			my $stream = a_stream();
			my @events = @{ $model->{streams}{$stream} // [] };
			my $version = int rand(@events + 1);
			my $name = literal($stream);
			# Where there are snapshots, it may be that none can be compared with its event: then it is an error as well.
			my $may = $away->(@events) && @{ $model->{snapshots}{$stream} // [] } ? 1 : 0;
			my $must = !$may && $away->(@events[ 0 .. $version - 1 ]);
			look('load a stream with a hole', "SELECT $loaded FROM es_load_version($name, $version)", sub {
				$model->fold_of($stream);
				if ($must)
				{
					# What comes before the hole is folded first, and may fail.
					my @before = @events;
					pop @before while $away->(@before);
					$model->load_row($stream, @before);
					Model::refuse('55000');
				}
				return $model->load_version($stream, $version) }, $may ? '55000' : ());
		}
		elsif ($what < .8)
		{
			append({ form => 'one', elements => [ { stream => a_stream(), events => [ { type => 'Other', data => {}, sv => 1 } ] } ] });
		}
		elsif ($what < .9)
		{
			same('what is said of the partition', ask($session, "SELECT m.says('SELECT count(*) FROM es_read_all(0, NULL)') LIKE '55000 %\"event_store.log_$low\"%'"), 't');
			same('what es_check finds', ask($session, q[SELECT DISTINCT kind FROM es_check('none') WHERE kind <> 'snapshot']), 'partition');
		}
		else
		{
			my ($name) = grep { my $s = $model->{subscriptions}{$_}; $s->{position} < $high && !%{ $s->{streams} } } sort keys %{ $model->{subscriptions} };
			agree('es_fetch over a hole', "SELECT m.e(e) FROM es_fetch('$name', '', 10) e", sub { Model::refuse('55000') }) if $name;
		}
	}
	# A projection that comes to it stands still, and goes on later.
	my ($name) = grep { my $p = $model->{projections}{$_}; $p && $p->{mode} eq 'async' && $p->{state} eq 'running' && !$p->{rebuild} && $p->{position} < $high } @projections;
	if ($name)
	{
		my $position = ask($session, "SELECT position FROM event_store.checkpoints WHERE projection = '$name' AND NOT rebuild");
		ask($session, "SELECT es_run_projection('$name')");
		same("status of $name at a hole", ask($session, "SELECT status, last_error_code FROM event_store.projection_status WHERE name = '$name'"), 'failed|55000');
		same("position of $name at a hole", ask($session, "SELECT position FROM event_store.checkpoints WHERE projection = '$name' AND NOT rebuild"), $position);
		$model->{projections}{$name}{state} = 'failed';
		$done{'projection at a hole'}++;
	}
	same('ATTACH', ask($session, "ALTER TABLE event_store.log ATTACH PARTITION event_store.log_$low FOR VALUES FROM ($low) TO ($low + $size)"), '');
	agree('es_resume', "SELECT es_resume('$name')", sub { return ModelProjection::resume($model, $name) }) if $name;
	return compare_everything();
}

# ---- bad calls

my @bad = (
	[ q[SELECT es_append('', -2, 'A', '{}'::jsonb)], '22023' ], [ q[SELECT es_append('-1', -2, 'A', '{}'::jsonb)], '22023' ],
	[ q[SELECT es_append(NULL, -2, 'A', '{}'::jsonb)], '22004' ], [ q[SELECT es_append('acct-1', NULL, 'A', '{}'::jsonb)], '22004' ],
	[ q[SELECT es_append('acct-1', -2, 'A', NULL)], '22004' ], [ q[SELECT es_append_multi('[{"stream": "acct-1", "events": {"type": "A"}}]')], '22004' ], [ q[SELECT es_append('acct-1', -2, '[]'::jsonb)], '22023' ],
	[ q[SELECT es_append('acct-1', -2, '[{"typ": "A"}]'::jsonb)], '22023' ], [ q[SELECT es_append('acct-1', -2, 'A', '{}'::jsonb, metadata => '[]')], '22023' ],
	[ q[SELECT es_append_multi('[{"stream": "acct-1", "expected_version": 1, "events": {"type": "A"}}, {"stream": "acct-1", "expected_version": 1, "events": {"type": "A"}}]')], '22023' ],
	[ q[SELECT es_append_batch(ARRAY['acct-1'], ARRAY['A', 'B'], '{"{}","{}"}')], '2202E' ], [ q[SELECT es_append_batch(ARRAY['acct-1', NULL], ARRAY['A', 'B'], '{"{}","{}"}')], '22004' ],
	[ q[SELECT es_append('acct-1', -2, '[{"type": "A", "id": "00000000-0000-4000-8000-000000000001"}, {"type": "A", "id": "00000000-0000-4000-8000-000000000001"}]'::jsonb)], '22023' ],
	[ q[SELECT es_load_at('acct-1', now() + interval '1 hour')], '22023' ], [ q[SELECT es_read_category('a-b')], '22023' ],
	[ q[SELECT es_register_aggregate('acct', fold => 'state || now()::text')], 'ANY' ], [ q[SELECT es_register_aggregate('acct')], '22023' ],
	[ q[SELECT es_register_aggregate('acct', rules => '{"A": {"plus": {"a": "b"}}}')], '22023' ], [ q[SELECT es_register_upcaster('A', 1, 'nothing')], '42703' ],
	[ q[DELETE FROM event_store.log], 'YE005' ], [ q[UPDATE event_store.log SET data = '{}'], 'YE005' ], [ q[TRUNCATE event_store.log], 'YE005' ],
	[ q[SELECT es_run_projection('nobody')], 'YE008' ], [ q[SELECT es_fetch('nobody')], 'YE008', '0A000' ], [ q[SELECT es_create_projection('bad', 'INSERT INTO nowhere SELECT 1')], '42P01' ]);

sub bad_call
{
	my ($sql, $sqlstate, $above) = @{ pick(@bad) };
	my $answer = ask($session, $sql);

	$done{'bad call'}++;
	# That it is above READ COMMITTED comes first.
	$sqlstate = $above if $level && defined $above;
	$sqlstate = $answer =~ s/^ERROR //r if $sqlstate eq 'ANY' && $answer =~ /^ERROR 42/;
	same($sql, $answer, "ERROR $sqlstate");
	return aborted();
}

# ---- the server

sub reopen
{
	$_->quit for @sessions;
	@sessions = ();
	push @sessions, open_session() for 1, 2;
	$session = pick(@sessions);
	return;
}

# What was committed is there, what was not is gone.
sub restart
{
	my $crash = chance(.6);

	end_transaction(0) if @saved;
	forget_holder();
	$crash ? $node->stop('immediate') : $node->stop('fast');
	$node->start;
	reopen();
	$done{ $crash ? 'crash' : 'restart' }++;
	record($crash ? '-- crash' : '-- restart');
	return compare_everything();
}

sub terminate
{
	my ($other) = grep { $_ != $session } @sessions;

	end_transaction(0) if @saved;
	ask($other, "SELECT pg_terminate_backend($session->{backend}, 10000)");
	reopen();
	$done{terminated}++;
	return;
}

# ---- everything

# What the store and a model say of everything: pairs of answers that differ, by name. Not in a transaction.
sub differences
{
	my ($m) = @_;
	my @found;
	my $pair = sub { my ($what, $got, $expected) = @_; $compared++; push @found, [ $what, $got, $expected ] if $got ne $expected; return };
	my @names = sort grep { @{ $m->{streams}{$_} } } keys %{ $m->{streams} };
	my $read = sub { my ($code) = @_; my ($result, $sqlstate) = caught($code); return $result // $sqlstate };

	$pair->('streams', ask($session, 'SELECT stream, version, last_position FROM event_store.streams ORDER BY stream COLLATE "C"'),
		join "\n", map { row($_, scalar @{ $m->{streams}{$_} }, $m->{streams}{$_}[-1]{position}) } @names);
	$pair->('events as stored', ask($session, 'SELECT m.e(e) FROM event_store.streams s, LATERAL es_read(s.stream, upcast => false) e ORDER BY e.position'),
		join "\n", map { Model::event_row($_) } @{ $m->{log} });
	$pair->('events as read', ask($session, 'SELECT * FROM m.events()'), $read->(sub { return $m->read_all(0) }));
	my @states = map { my $name = $_; my $n = @{ $m->{streams}{$name} }; map { [ $name, $_ ] } 0, $n, map { int rand $n } 1 .. 3 } @names;
	if (@states)
	{
		$pair->('states', ask($session, 'SELECT m.state(s, v) FROM (VALUES ' . join(', ', map { "('$_->[0]', $_->[1])" } @states) . ') x(s, v)'), join "\n", map {
			my ($stream, $version) = @$_;
			my ($result, $sqlstate) = caught(sub { return $m->load_version($stream, $version) });
			row($stream, $version, $result // $sqlstate) } @states);
	}
	for my $name (sort keys %{ $m->{projections} })
	{
		my $p = $m->{projections}{$name};
		$pair->("table of projection $name", ask($session, table_sql($name)), ModelProjection::table($p));
		$pair->("quarantine of projection $name", ask($session, quarantine_sql($name, 0)), ModelProjection::quarantine($p->{parked}));
		$pair->("status of projection $name", ask($session, "SELECT mode, status, quarantined_streams, rebuild FROM event_store.projection_status WHERE name = '$name'"), ModelProjection::status($model, $p));
	}
	$pair->('projections', ask($session, 'SELECT string_agg(name, \',\' ORDER BY name) FROM event_store.projection_status'), join ',', sort keys %{ $m->{projections} });
	for my $name (sort keys %{ $m->{subscriptions} })
	{
		my $s = $m->{subscriptions}{$name};
		$pair->("streams in flight of $name", ask($session, streams_sql($name)), ModelSubscription::streams($s));
	}
	$pair->('subscriptions', ask($session, 'SELECT string_agg(name, \',\' ORDER BY name) FROM event_store.subscriptions'), join ',', sort keys %{ $m->{subscriptions} });
	$pair->("snapshots of $_", ask($session, snapshots_sql($_)), $m->snapshots($_)) for @names;
	$pair->('es_check', ask($session, q[SELECT * FROM es_check('all') WHERE kind <> 'snapshot']), '');
	# Those of another history are found, and no others.
	my @foreign_there = map { my $name = $_; map { "$name $_->[0]" } grep { $_->[2] } @{ $m->{snapshots}{$name} } } keys %{ $m->{snapshots} };
	$pair->('snapshots that es_check finds', ask($session, q[SELECT DISTINCT (stream || ' ' || substring(detail FROM 'version (\d+)')) COLLATE "C" FROM es_check('all') WHERE kind = 'snapshot' ORDER BY 1]),
		join "\n", sort @foreign_there);
	ask($session, 'SELECT es_seal_log()') if chance(.5);
	$pair->('es_verify_log', ask($session, 'SELECT * FROM es_verify_log()'), '');
	return @found;
}

sub compare_everything
{
	return if @saved;
	my @found = differences($model);

	differ(@{ $found[0] }) if @found;
	$done{everything}++;
	return;
}

# ---- the run

my @things = (
	(sub { append(a_call()) }) x 60,
	(sub { append(a_repeated_call()) if @calls }) x 12,
	(\&read_stream) x 10, (\&read_all) x 12, (\&small_answers) x 4,
	(\&load) x 30, (\&load_valid_at) x 6, (\&load_category) x 5, (\&history) x 8,
	(\&make_foreign_snapshot) x 5, (sub { put_foreign_snapshot() }) x 3, (\&snapshot) x 14, (\&drop_snapshots) x 2, (sub { register_aggregate(pick(@categories)) }) x 4, \&unregister_aggregate, (\&upcaster) x 7,
	(\&create_projection) x 8, (\&run_projection) x 22, (\&pause_or_resume) x 4, (\&rebuild) x 8, (\&set_mode) x 5, (\&retry_quarantined) x 7, (\&skip_quarantined) x 4, \&drop_projection,
	(\&create_subscription) x 3, (\&fetch) x 20, (\&ack_or_nack) x 16, (\&retry_subscription) x 2, (\&skip_subscription) x 2, \&drop_subscription,
	(\&hold) x 2, \&let_go, (\&forbid_ddl) x 3, \&publish_all, \&rename_role, (\&hide_rows) x 3, (\&detached) x 2, (\&bad_call) x 4, \&publish);

# A run without these has not tested what it should.
my %least = (
	'append one' => 50, 'append list' => 50, 'append multi' => 30, 'append batch' => 15, 'append: YE001' => 15, 'append: YE002' => 2, 'append: replayed' => 5,
	begin => 10, 'begin REPEATABLE READ' => 3, 'begin SERIALIZABLE' => 3, commit => 5, rollback => 5, 'rollback to savepoint' => 2, 'failed transaction' => 1, 'bad call' => 5, es_read => 10, es_read_all => 10, es_read_category => 10,
	es_load => 10, es_load_version => 10, es_load_at => 5, es_load_valid_at => 5, 'es_load_category' => 3, 'es_load_category as of a time' => 2, es_history => 5,
	'foreign snapshot' => 3, 'load past a foreign snapshot' => 3, es_snapshot => 10, es_drop_snapshots => 2, es_register_aggregate => 4, es_register_upcaster => 5, es_unregister_upcaster => 2,
	es_create_projection => 5, es_run_projection => 20, es_rebuild_projection => 4, 'rebuild done' => 3, 'retry of something' => 2, 'skip of something' => 1, 'skip in a subscription' => 1, 'to inline' => 1, 'to async' => 1,
	es_fetch => 20, es_ack => 10, es_nack => 3, es_retry_quarantined => 2, 'es_ack: YE010' => 1, 	'DDL forbidden' => 2, 'rebuild done where DDL is forbidden' => 1, 'a projection of a table without a key: 55000' => 1, 'role renamed' => 2, 'acct folded by a role' => 1, 'rows hidden' => 1,
	detached => 2, 'read all of a log with a hole: 55000' => 1, 'read a stream with a hole: 55000' => 1, 'load a stream with a hole: 55000' => 1, 'projection at a hole' => 1,
	'held snapshot' => 2, 'appended under a held snapshot' => 20, crash => 1, restart => 1, terminated => 1, everything => 5);

sub enough { return !grep { ($done{$_} // 0) < $least{$_} } keys %least }

# A store from nothing.
sub history_begin
{
	end_transaction(0) if @saved;
	let_go();
	reopen();
	allow_ddl();
	# A rebuild that was under way has a schema of its own.
	ask($session, q[DO $$DECLARE name text; BEGIN FOR name IN SELECT nspname FROM pg_namespace WHERE nspname LIKE 'event%' LOOP EXECUTE format('DROP SCHEMA %I CASCADE', name); END LOOP; END$$]);
	same('a new store', ask($session, 'SELECT es_create_store()'), '');
	ask($session, "SELECT es_grant('" . keeper() . "', r) FROM unnest('{define,operate}'::text[]) r");
	ask($session, "DELETE FROM proj_$_") for @projections;
	$model = Model->new;
	@calls = @foreign = ();
	$done{history}++;
	register_aggregate($_) for @categories;
	return;
}

my $start = time;
eval {
	history_begin();
	while (time < $start + $seconds || (!enough() && time < $start + 4 * $seconds + 60))
	{
		$operations++;
		history_begin() if @{ $model->{log} } > 900;
		if (@saved)
		{
			my $what = rand;
			if ($what < .12) { end(); next }
			if ($what < .22) { savepoint(); next }
		}
		elsif (chance(.06)) { begin(); next }
		else { $session = pick(@sessions) }
		if (chance(.004)) { restart() }
		elsif (chance(.003)) { terminate() }
		elsif (chance(.006)) { compare_everything() }
		else { pick(@things)->() }
	}
	end() if @saved;
	compare_everything();
	1;
} or do
{
	unless ($@ eq "differ\n")
	{
		fail("seed $seed, operation $operations: " . (ref $@ ? "the model ends with $@->{sqlstate}" : $@));
		diag("what was done last:\n" . join("\n", @journal));
		$failed++;
	}
};

my $run = sprintf('seed %s: %d operations, %d events in %d stores, %d comparisons in %.0f s', $seed, $operations, $done{appended} // 0, $done{history} // 0, $compared, time - $start);
is($failed, 0, $run);
note(join ', ', map { "$_ $done{$_}" } sort keys %done);
unless ($failed)
{
	cmp_ok($done{$_} // 0, q(>=), $least{$_}, "enough of: $_") for sort keys %least;
}

# ---- the comparison can fail

# A store with one of everything, and models of it with one mistake each.
sub last_of { my ($m, $stream) = @_; return $m->{streams}{$stream}[-1] }

sub replace_event
{
	my ($m, $old, $new) = @_;

	$_ = $_ == $old ? $new : $_ for @{ $m->{log} }, @{ $m->{streams}{ $old->{stream} } };
	return;
}

my %mistakes = (
	'other data' => sub { my $e = last_of($_[0], 'acct-1'); replace_event($_[0], $e, { %$e, data => { %{ $e->{data} }, amount => 43 } }) },
	'another time of recording' => sub { my $e = last_of($_[0], 'acct-1'); replace_event($_[0], $e, { %$e, recorded => $e->{recorded} + 1 }) },
	'an event that is not there' => sub { my $e = last_of($_[0], 'acct-1'); $_[0]->add({ %$e, version => $e->{version} + 1, position => $e->{position} + 5 }, 0) },
	'an event that is missing' => sub { pop @{ $_[0]{log} }; pop @{ $_[0]{streams}{'acct-1'} } },
	'an upcaster less' => sub { delete $_[0]{upcasters}{'Tagged 1'} },
	'another fold' => sub { $_[0]{aggregates}{acct}{fold} = 'account 3 in SQL' },
	'a snapshot less' => sub { delete $_[0]{snapshots}{'acct-1'} },
	'a row of a projection' => sub { $_[0]{projections}{p1}{rows}{'acct-1'}[1]++ },
	'an event applied twice' => sub { my $p = $_[0]{projections}{p1}; ModelProjection::apply($p, [ [ last_of($_[0], 'acct-1') ] ], 1) },
	'a parked stream less' => sub { $_[0]{projections}{p1}{parked} = {} },
	'a projection that is paused' => sub { $_[0]{projections}{p1}{state} = 'paused' },
	'an event acknowledged' => sub { delete $_[0]{subscriptions}{s1}{streams}{'acct-1'} });

sub sample
{
	my @events = map { { type => $_->[0], data => $_->[1], sv => 1, says_version => 1 } } [ 'Deposited', { amount => 7 } ], [ 'Tagged', { tag => 'red' } ], [ 'Deposited', { amount => 42 } ];

	history_begin();
	$session = $sessions[0];
	agree('es_register_aggregate', q[SELECT es_register_aggregate('acct', fold => ] . literal($folds{'account 1 in SQL'}[1]) . q[, initial_state => '{"k": 1}')],
		sub { $model->{aggregates}{acct} = { fold => 'account 1 in SQL', every => 100 }; return });
	agree('es_register_upcaster', q[SELECT es_register_upcaster('Tagged', 1, 'jsonb_build_object(''label'', data->''tag'')', 'Labelled')], sub { $model->{upcasters}{'Tagged 1'} = 'label'; $model->{registered}{'Tagged 1'} = ++$registrations; return });
	append({ form => 'one', elements => [ { stream => 'item-a', events => [ { type => 'Poison', data => { amount => 'many' }, sv => 1 } ] } ] });
	append({ form => 'list', elements => [ { stream => 'acct-1', expected => 0, events => [ @events[ 0, 1 ] ] } ] });
	append({ form => 'one', elements => [ { stream => 'acct-1', expected => 2, events => [ $events[2] ] } ] });
	agree('es_snapshot', q[SELECT es_snapshot('acct-1')], sub { return $model->snapshot('acct-1') });
	agree('es_create_projection', q[SELECT es_create_projection('p1', ] . literal($ModelProjection::handlers{sum}[0]->('proj_p1')) . q[, tables => '{proj_p1}')],
		sub { return ModelProjection::create($model, 'p1', handler => 'sum', mode => 'async', from => 0) });
	agree('es_run_projection', q[SELECT es_run_projection('p1')], sub { return ModelProjection::run($model, 'p1') });
	# An inline one refuses what it cannot apply.
	agree('es_create_projection', q[SELECT es_create_projection('p2', ] . literal($ModelProjection::handlers{list}[0]->('proj_p2')) . q[, tables => '{proj_p2}', mode => 'inline', event_types => '{Poison}', categories => '{log}')],
		sub { return ModelProjection::create($model, 'p2', handler => 'list', mode => 'inline', from => 0, types => ['Poison'], categories => ['log']) });
	append({ form => 'one', elements => [ { stream => 'log-1', events => [ { type => 'Poison', data => { amount => $_ }, sv => 1 } ] } ] }) for 5, 'many';
	agree('es_create_subscription', q[SELECT es_create_subscription('s1')], sub { return ModelSubscription::create($model, 's1', from => 0) });
	agree('es_fetch', q[SELECT m.e(e) FROM es_fetch('s1', 'one', 100, '1 day') e], sub { return ModelSubscription::fetch($model, 's1', 'one', 100, 0) });
	return;
}

if (!$failed)
{
	sample();
	is(join(', ', map { $_->[0] } differences($model)), '', 'a store with one of everything agrees with its model');
	for my $mistake (sort keys %mistakes)
	{
		my $wrong = $model->copy;
		$mistakes{$mistake}->($wrong);
		my @found = map { $_->[0] } differences($wrong);
		cmp_ok(scalar @found, '>', 0, "a model with a mistake ($mistake) differs: " . join(', ', @found));
	}
	# As of a time off by one.
	publish();
	my $e = last_of($model, 'acct-1');
	my $as_of = ask($session, "SELECT $loaded FROM es_load_at('acct-1', m.t($e->{recorded}))");
	is($as_of, $model->load_at('acct-1', $e->{recorded}), 'a load as of the time of an event has it');
	isnt($as_of, $model->load_at('acct-1', $e->{recorded} - 1), 'one of just before has not');

	# And a store with one.
	allow_ddl();
	my $leaf = ask($session, q[SELECT relid::regclass FROM pg_partition_tree('event_store.log') WHERE isleaf ORDER BY 1 LIMIT 1]);
	ask($session, "ALTER TABLE $leaf DISABLE TRIGGER ALL");
	ask($session, "UPDATE $leaf SET data = jsonb_set(data, '{amount}', '43') WHERE position = $e->{position}");
	ask($session, "ALTER TABLE $leaf ENABLE TRIGGER ALL");
	ask($session, "ALTER TABLE $leaf ENABLE ALWAYS TRIGGER es_immutable, ENABLE ALWAYS TRIGGER es_immutable_row");
	my %found = map { $_->[0] => 1 } differences($model);
	# (Its states come from the snapshot, of which es_check says that it is not what a replay gives.)
	ok($found{'events as stored'} && $found{'events as read'} && ($found{es_check} || $found{'snapshots that es_check finds'}) && $found{es_verify_log}, 'an event that was changed in the store is seen: ' . join(', ', sort keys %found));

	# Positions that were drawn in vain, together with the partition for them, are nothing that is missing.
	history_begin();
	append({ form => 'list', elements => [ { stream => 'acct-1', events => [ an_event() ] } ] });
	ask($session, q[BEGIN; SELECT events FROM es_append_batch(array_fill('acct-1'::text, '{1500}'), array_fill('A'::text, '{1500}'), array_fill('{}'::jsonb, '{1500}')); ROLLBACK]);
	for my $when ('', ', sealed')
	{
		is(ask($session, q[SELECT * FROM es_check('all'); SELECT * FROM es_verify_log()]), '', "positions drawn in vain behind the last partition are no finding$when");
		ask($session, 'SELECT es_publish_mark(); SELECT es_seal_log()');
	}
}

forget_holder();
$_->quit for @sessions;
$node->stop;
log_is_clean($node);
done_testing();
