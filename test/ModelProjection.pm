# Projections of the model (Model.pm): which rows a handler has made of which calls, and what is parked. The store works in
# batches, halves and subtransactions; here a call is applied after the other, from a list.
package ModelProjection;

use strict;
use warnings;

use Model qw(jsonb row refuse caught);

# [SQL over a table, Perl: (rows as they are, rows as they will be, event)]. A row is k => [n, total, info].
our %handlers = (
	sum => [
		sub { return qq[INSERT INTO $_[0] AS p SELECT stream, count(*), sum(coalesce((data->>'amount')::int, 0)),
			(array_agg(event_type || ' ' || schema_version ORDER BY version DESC))[1] FROM new_events GROUP BY stream
			ON CONFLICT (k) DO UPDATE SET n = p.n + EXCLUDED.n, total = p.total + EXCLUDED.total, info = EXCLUDED.info] },
		sub { return add_up(@_, amount($_[2])) } ],
	# What "sum" chokes on does no harm here.
	triple => [
		sub { return qq[INSERT INTO $_[0] AS p SELECT stream, count(*), sum(CASE WHEN data->>'amount' ~ '^-?[0-9]+\$' THEN (data->>'amount')::int * 3 ELSE -1000 END),
			(array_agg(event_type || ' ' || schema_version ORDER BY version DESC))[1] FROM new_events GROUP BY stream
			ON CONFLICT (k) DO UPDATE SET n = p.n + EXCLUDED.n, total = p.total + EXCLUDED.total, info = EXCLUDED.info] },
		sub { my $amount = $_[2]{data}{amount} // 'none'; return add_up(@_, $amount =~ /^-?\d+\z/ ? $amount * 3 : -1000) } ],
	# An event that comes twice violates the primary key.
	list => [
		sub { return qq[INSERT INTO $_[0] SELECT position::text, version, coalesce((data->>'amount')::int, 0), stream || ' ' || event_type || ' ' || schema_version FROM new_events] },
		sub { my ($old, $new, $e) = @_; $new->{ $e->{position} } = [ $e->{version}, amount($e), "$e->{stream} $e->{type} $e->{sv}" ]; return } ]);

sub amount
{
	my $amount = $_[0]{data}{amount} // 0;

	refuse('22P02') if $amount eq 'many';
	return $amount;
}

sub add_up
{
	my ($old, $new, $e, $amount) = @_;
	my $row = $new->{ $e->{stream} } // $old->{ $e->{stream} } // [ 0, 0, '' ];

	$new->{ $e->{stream} } = [ $row->[0] + 1, $row->[1] + $amount, "$e->{type} $e->{sv}" ];
	return;
}

# The table as the test reads it.
sub table
{
	my ($p) = @_;

	return join "\n", map { row($_, @{ $p->{rows}{$_} }) } sort keys %{ $p->{rows} };
}

# Streams that are parked, those that are tied together under the name of one of them.
sub quarantine
{
	my ($parked) = @_;
	my %name;

	for my $stream (sort keys %$parked) { $name{ $parked->{$stream}{together} } //= $stream }
	return join "\n", map { my $q = $parked->{$_}; row($_, @{$q}{qw(position events code attempts)}, $name{ $q->{together} }) } sort keys %$parked;
}

# Calls of events, each a list of events as the handler sees them; an event that cannot be upcast is a SQLSTATE in `broken`.
sub calls
{
	my ($model, $def, $events) = @_;
	my (@calls, %call);

	for my $event (@$events)
	{
		next if $event->{position} <= $def->{from};
		next if $def->{categories} && !grep { $_ eq $event->{category} } @{ $def->{categories} };
		next if $def->{types} && !$model->may_become($event->{type}, $def->{types});
		my ($now, $code) = caught(sub { return $model->upcast($event) });
		next unless $now || $code;
		next if $now && $def->{types} && !grep { $_ eq $now->{type} } @{ $def->{types} };
		$now //= { %$event, broken => $code };
		push @calls, $call{ $event->{call} } = [] unless $call{ $event->{call} };
		push @{ $call{ $event->{call} } }, $now;
	}
	return @calls;
}

sub park
{
	my ($parked, $call, $code, $attempts) = @_;
	my ($together) = sort { $a <=> $b } $call->[0]{call}, map { $parked->{ $_->{stream} } ? $parked->{ $_->{stream} }{together} : () } @$call;

	for my $event (@$call)
	{
		my $entry = $parked->{ $event->{stream} } //= { position => $event->{position}, events => 0, together => $together, attempts => $attempts };
		my $old = $entry->{together};
		for my $other (values %$parked) { $other->{together} = $together if $other->{together} == $old }
		$entry->{code} //= $code;
		$entry->{events}++;
	}
	return;
}

# Runs a handler on a call: its rows, or a SQLSTATE.
sub handle
{
	my ($p, $handler, $call) = @_;
	my %new;

	for my $event (@$call)
	{
		refuse($event->{broken}) if $event->{broken};
	}
	$handlers{$handler}[1]->($p->{rows}, \%new, $_) for @$call;
	$p->{rows}{$_} = $new{$_} for keys %new;
	return;
}

# Applies calls in order; what fails is parked, with all behind it. The number of events applied.
sub apply
{
	my ($p, $calls, $attempts) = @_;
	my ($events, $failures) = (0, 0);

	for my $call (@$calls)
	{
		my $behind = grep { my $entry = $p->{parked}{ $_->{stream} }; $entry && $_->{position} >= $entry->{position} } @$call;
		my $code;
		(undef, $code) = caught(sub { return handle($p, $p->{handler}, $call) }) unless $behind;
		if ($behind || $code)
		{
			die "the model does not know of handlers that are broken\n" if $code && ++$failures >= 10;
			park($p->{parked}, $call, $code, $attempts);
		}
		else
		{
			$events += @$call;
			$failures = 0;
		}
	}
	$p->{events} += $events;
	return $events;
}

# ---- what the functions do

sub create
{
	my ($model, $name, %def) = @_;
	my $old = $model->{projections}{$name};

	if ($old)
	{
		refuse('42710') if definition($old) ne definition(\%def);
		return;
	}
	my $p = { %def, state => 'running', position => $def{from}, reached => $def{from}, rows => {}, parked => {}, events => 0, stale => 0 };
	if ($p->{mode} eq 'inline')
	{
		catch_up($model, $p);
		refuse('25001') if $model->{drawn};
		refuse('55000') if %{ $p->{parked} };
		passed($model, $p);
	}
	$model->{projections}{$name} = $p;
	return;
}

sub definition
{
	my ($p) = @_;

	return join ' ', @{$p}{qw(handler mode from)}, map { Model::names($_) } @{$p}{qw(categories types)};
}

sub catch_up
{
	my ($model, $p) = @_;
	my $events = apply($p, [ calls($model, $p, [ grep { $_->{position} > $p->{position} } $model->settled ]) ], 1);

	$p->{position} = $model->settled_position if $model->settled_position > $p->{position};
	passed($model, $p) if $model->mark > $p->{reached};
	$p->{reached} = $model->mark if $model->mark > $p->{reached};
	return $events;
}

# The upcasters that have to do with the types that a projection gets.
sub upcasters_of
{
	my ($model, $p) = @_;

	return join ',', sort map { $model->{registered}{$_} } grep { !$p->{types} || $model->may_become((split ' ')[0], $p->{types}) } keys %{ $model->{upcasters} };
}

# Events were passed with the upcasters of now.
sub passed
{
	my ($model, $p) = @_;
	my $now = upcasters_of($model, $p);

	$p->{passed_with} = !defined $p->{passed_with} || $p->{passed_with} eq $now ? $now : 'several';
	return;
}

sub find { my ($model, $name) = @_; return $model->{projections}{$name} // refuse('YE008') }

sub must_run { refuse('55000') if $_[0]{state} ne 'running'; return }

sub run
{
	my ($model, $name) = @_;
	my $p = find($model, $name);
	my $rebuilt = 0;

	if ($p->{rebuild} && $p->{rebuild}{state} eq 'running')
	{
		my $r = $p->{rebuild};
		refuse('25001') if $p->{mode} eq 'inline' && $model->{drawn};
		my $before = { %$r, rows => { %{ $r->{rows} } } };
		$rebuilt = catch_up($model, $r);
		if ($p->{mode} eq 'inline' && %{ $r->{parked} })
		{
			$p->{rebuild} = { %$before, parked => {}, rows => {}, state => 'failed' };
		}
		else
		{
			passed($model, $r) if $p->{mode} eq 'inline';
			@{$p}{qw(handler categories types rows parked position reached stale passed_with)} = @{$r}{qw(handler categories types rows parked position reached stale passed_with)};
			$p->{state} = 'running' if $p->{state} eq 'failed';
			delete $p->{rebuild};
		}
		return $rebuilt if $rebuilt && $p->{state} ne 'running';
	}
	must_run($p);
	return $rebuilt if $p->{mode} eq 'inline';
	return $rebuilt + catch_up($model, $p);
}

sub rebuild
{
	my ($model, $name, $handler, $types) = @_;
	my $p = find($model, $name);

	$p->{rebuild} = { handler => $handler // $p->{handler}, types => $types // $p->{types}, categories => $p->{categories}, from => $p->{from},
		position => $p->{from}, reached => $p->{from}, rows => {}, parked => {}, events => 0, state => 'running', stale => 0 };
	return;
}

sub cancel
{
	my ($model, $name) = @_;

	return delete find($model, $name)->{rebuild} ? 't' : 'f';
}

sub pause
{
	my ($model, $name) = @_;
	my $p = find($model, $name);

	refuse('0A000') if $p->{mode} eq 'inline';
	$p->{state} = 'paused';
	return;
}

sub resume
{
	my ($model, $name) = @_;
	my $p = find($model, $name);

	$p->{state} = 'running';
	$p->{rebuild}{state} = 'running' if $p->{rebuild};
	return;
}

sub drop_it
{
	my ($model, $name) = @_;

	find($model, $name);
	delete $model->{projections}{$name};
	return;
}

sub set_mode
{
	my ($model, $name, $mode) = @_;
	my $p = find($model, $name);

	return if $p->{mode} eq $mode;
	must_run($p) if $mode eq 'inline';
	refuse('25001') if $model->{drawn};
	if ($mode eq 'inline')
	{
		catch_up($model, $p);
		refuse('55000') if %{ $p->{parked} };
		passed($model, $p);
	}
	else
	{
		$p->{position} = $model->last_position;
		$p->{reached} = $model->mark if $model->mark > $p->{reached};
	}
	$p->{mode} = $mode;
	return;
}

# Groups of streams that are tied together are tried together.
sub retry
{
	my ($model, $name, $stream) = @_;
	my $p = find($model, $name);
	my $events = 0;

	must_run($p);
	my %groups = map { $p->{parked}{$_}{together} => 1 } grep { !defined $stream || $_ eq $stream } keys %{ $p->{parked} };
	refuse('YE008') if defined $stream && !%groups;
	for my $together (sort { $a <=> $b } keys %groups)
	{
		my %taken = map { $_ => delete $p->{parked}{$_} } grep { $p->{parked}{$_}{together} == $together } keys %{ $p->{parked} };
		my ($attempts) = sort { $b <=> $a } map { $_->{attempts} } values %taken;
		my @events = grep { $taken{ $_->{stream} } && $_->{position} >= $taken{ $_->{stream} }{position} && $_->{position} <= $p->{position} } $model->settled;
		$events += apply($p, [ calls($model, $p, \@events) ], $attempts + 1);
		passed($model, $p);
	}
	return $events;
}

# Events in quarantine are given up; what is behind them stays. The streams tied to it keep an error.
sub skip
{
	my ($model, $name, $stream, $upto) = @_;
	my $p = find($model, $name);
	my $q = $p->{parked}{$stream} // refuse('YE008');
	my @events = map { @$_ } calls($model, $p, [ grep { $_->{stream} eq $stream && $_->{position} >= $q->{position} && $_->{position} <= $p->{position} } $model->settled ]);
	my @rest = grep { $_->{version} > $upto } @events;

	refuse('22023') if @events && ($upto < $events[0]{version} || $upto > $events[-1]{version});
	if (@rest) { @{$q}{qw(position events)} = ($rest[0]{position}, scalar @rest) }
	else
	{
		delete $p->{parked}{$stream};
		my @tied = grep { $_->{together} == $q->{together} } values %{ $p->{parked} };
		if (!grep { defined $_->{code} } @tied) { $_->{code} = $q->{code} for @tied }
	}
	return @events - @rest;
}

# What an append brings to inline projections. The append fails with them.
sub inline
{
	my ($model, $events) = @_;

	for my $name (sort keys %{ $model->{projections} })
	{
		my $p = $model->{projections}{$name};
		next if $p->{mode} ne 'inline';
		handle($p, $p->{handler}, $_) for calls($model, $p, $events);
	}
	return;
}

# An upcaster was changed: inline projections of such events are marked, as no batch would notice. Others are compared.
sub upcaster_changed
{
	my ($model, @types) = @_;
	for my $p (values %{ $model->{projections} })
	{
		my $hit = sub { my ($def) = @_; return !$def->{types} || grep { $model->may_become($_, $def->{types}) } @types };
		$p->{stale} = 1 if $p->{mode} eq 'inline' && $hit->($p);
	}
	return;
}

sub status
{
	my ($model, $p) = @_;
	my $stale = $p->{stale} || defined $p->{passed_with} && $p->{passed_with} ne upcasters_of($model, $p);
	my $rebuild = $p->{rebuild} ? $p->{rebuild}{state} : '';
	my $status = $p->{state} ne 'running' ? $p->{state} : $rebuild eq 'running' ? 'rebuilding' : $stale ? 'stale' : 'running';

	return row($p->{mode}, $status, scalar keys %{ $p->{parked} }, $rebuild);
}

1;
