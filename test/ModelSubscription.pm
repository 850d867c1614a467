# Subscriptions of the model (Model.pm): a frontier, the streams in flight with the first event that is not acknowledged, and
# the consumers. It follows the vocabulary at the top of src/subscription/definition.c; what it does not share is any way to be fast.
package ModelSubscription;

use strict;
use warnings;

use Model qw(row refuse);

sub create
{
	my ($model, $name, %def) = @_;
	my $old = $model->{subscriptions}{$name};
	my $text = sub { return join ' ', $_[0]{from}, map { Model::names($_) } @{ $_[0] }{qw(categories types)} };

	if ($old)
	{
		refuse('42710') if $text->($old) ne $text->(\%def);
		return;
	}
	$model->{subscriptions}{$name} = { %def, position => $def{from}, streams => {}, consumers => {} };
	return;
}

sub find { my ($model, $name) = @_; return $model->{subscriptions}{$name} // refuse('YE008') }
sub drop_it { my ($model, $name) = @_; find($model, $name); delete $model->{subscriptions}{$name}; return }

# The events of a list that it wants, as they are delivered.
sub wanted
{
	my ($model, $s, @events) = @_;

	return $model->select(\@events, undef, $s->{types}, $s->{categories});
}

# short: the lease ends before the next call.
sub fetch
{
	my ($model, $name, $consumer, $max, $short) = @_;
	my $s = find($model, $name);
	my $streams = $s->{streams};
	my (@pending, @all, @got, %known);
	my @settled = $model->settled;

	@pending = map { { stream => $_, mine => 1, %{ $streams->{$_} } } } grep { ($streams->{$_}{consumer} // "\n") eq $consumer } sort keys %$streams;
	if (@pending < $max)
	{
		for my $other (grep { $_ ne $consumer } keys %{ $s->{consumers} })
		{
			next unless $s->{consumers}{$other}{short};
			my @held = grep { ($_->{consumer} // "\n") eq $other } values %$streams;
			$s->{consumers}{$other}{lost} = 1 if @held;
			delete $_->{consumer} for @held;
		}
		my @free = sort { $streams->{$a}{position} <=> $streams->{$b}{position} }
			grep { !defined $streams->{$_}{consumer} && !defined $streams->{$_}{reason} } keys %$streams;
		splice @free, $max if @free > $max;
		push @pending, map { { stream => $_, mine => 0, %{ $streams->{$_} } } } @free;
	}

	# The oldest of what is pending. A stream is left as soon as it cannot have one of them, and what is not looked at cannot
	# fail to be upcast.
	for my $p (sort { $a->{position} <=> $b->{position} } @pending)
	{
		$p->{cut} = 1, next if @all == $max && $p->{position} > $all[-1]{position};
		for my $event (grep { $_->{stream} eq $p->{stream} && $_->{position} >= $p->{position} && $_->{position} <= $s->{position} } @settled)
		{
			my ($now) = wanted($model, $s, $event) or next;
			$p->{found} //= $now->{position};
			$p->{cut} = 1, last if @all == $max && $now->{position} > $all[-1]{position};
			@all = sort { $a->{position} <=> $b->{position} } @all, $now;
			pop @all if @all > $max;
		}
	}
	@got = @all;
	my $last = @got ? $got[-1]{position} : 0;
	for my $p (@pending)
	{
		my $returned = $p->{found} && $p->{found} <= $last;
		if (!$p->{found} && !$p->{cut}) { delete $streams->{ $p->{stream} } }
		elsif ($p->{mine}) { $streams->{ $p->{stream} }{position} = $p->{found} if $p->{found} }
		elsif ($returned) { @{ $streams->{ $p->{stream} } }{qw(position consumer)} = ($p->{found}, $consumer) }
		$known{ $p->{stream} } = $p->{mine} || $returned if $streams->{ $p->{stream} };
	}

	# Then the log.
	my $covered = $last;
	if (@got < $max)
	{
		my $end = $model->settled_position;
		for my $event (grep { $_->{position} > $s->{position} } @settled)
		{
			my ($now) = wanted($model, $s, $event) or next;
			my $stream = $now->{stream};
			next if $streams->{$stream} && !$known{$stream};
			$known{$stream} = 1;
			$streams->{$stream} //= { position => $now->{position}, consumer => $consumer, attempts => 0 };
			push @got, $now;
			if (@got == $max)
			{
				$end = $now->{position};
				last;
			}
		}
		$s->{position} = $end if $end > $s->{position};
		$covered = $s->{position};
	}
	if (@got) { $s->{consumers}{$consumer} = { returned => $got[-1]{position}, covered => $covered, short => $short, lost => 0 } }
	elsif ($s->{consumers}{$consumer} && $s->{consumers}{$consumer}{lost})
	{
		@{ $s->{consumers}{$consumer} }{qw(lost returned covered)} = (0, 0, 0);
	}
	return join "\n", map { Model::event_row($_) } @got;
}

# Whether a consumer may say something of the events up to a position.
sub reply
{
	my ($model, $name, $upto, $consumer) = @_;
	my $s = find($model, $name);
	my $c = $s->{consumers}{$consumer};

	refuse('YE010') if !$c || $c->{lost};
	refuse('22023') if $upto > $c->{returned};
	return ($s, $c, map { $s->{streams}{$_} } grep { ($s->{streams}{$_}{consumer} // "\n") eq $consumer } keys %{ $s->{streams} });
}

sub ack
{
	my ($model, $name, $upto, $consumer) = @_;
	my ($s, $c) = reply($model, $name, $upto, $consumer);
	my $everything = $upto == $c->{returned} && $c->{covered} >= $s->{position};

	for my $stream (keys %{ $s->{streams} })
	{
		my $row = $s->{streams}{$stream};
		next if ($row->{consumer} // "\n") ne $consumer || ($row->{position} > $upto && !$everything);
		# What comes next of the stream; whether an upcaster leaves anything of it is for the next fetch to find out.
		my @next = grep { $_->{stream} eq $stream && $_->{position} > $upto && $_->{position} <= $s->{position} } @{ $model->{log} };
		@next = grep { my $event = $_; !$s->{types} || grep { $_ eq $event->{type} } @{ $s->{types} } } @next unless %{ $model->{upcasters} };
		if (@next && !$everything) { @{$row}{qw(position attempts)} = ($next[0]{position}, 0) }
		else { delete $s->{streams}{$stream} }
	}
	return;
}

sub nack
{
	my ($model, $name, $upto, $reason, $consumer) = @_;
	my ($s, $c, @rows) = reply($model, $name, $upto, $consumer);

	for my $row (grep { $_->{position} <= $upto } @rows)
	{
		delete $row->{consumer};
		$row->{reason} = $reason;
		$row->{attempts}++;
	}
	return;
}

sub retry
{
	my ($model, $name, $stream) = @_;
	my $s = find($model, $name);
	my @rows = grep { defined $_->{reason} } map { $s->{streams}{$_} } grep { !defined $stream || $_ eq $stream } keys %{ $s->{streams} };

	refuse('YE008') if defined $stream && !@rows;
	delete $_->{reason} for @rows;
	return scalar @rows;
}

# Events in quarantine are given up; what is behind them stays.
sub skip
{
	my ($model, $name, $stream, $upto) = @_;
	my $s = find($model, $name);
	my $row = $s->{streams}{$stream};

	refuse('YE008') unless $row && defined $row->{reason};
	# One that cannot be upcast may be skipped too.
	my @events = map { my $event = $_; my ($now, $code) = Model::caught(sub { return wanted($model, $s, $event) }); $code || $now ? $event : () }
		grep { $_->{stream} eq $stream && $_->{position} >= $row->{position} && $_->{position} <= $s->{position} } $model->settled;
	my @rest = grep { $_->{version} > $upto } @events;

	refuse('22023') if @events && ($upto < $events[0]{version} || $upto > $events[-1]{version});
	if (@rest) { @{$row}{qw(position attempts)} = ($rest[0]{position}, 0) }
	else { delete $s->{streams}{$stream} }
	return @events - @rest;
}

# Streams in flight.
sub streams
{
	my ($s) = @_;

	return join "\n", map { my $r = $s->{streams}{$_}; row($_, @{$r}{qw(position consumer reason attempts)}) } sort keys %{ $s->{streams} };
}

1;
