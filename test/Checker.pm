# Says what is wrong with a history: what clients of a store wrote down while things were killed, against what the store has
# in the end. It reads files only.
#
# A line has fields separated by tabs; the second one is the time, by a clock that all of them share.
#
# writer.*		intent T CALL EXPECTED KEY STREAM,STREAM,...	one stream an event; EXPECTED is STREAM=VERSION,... or -
#				again T CALL									it is sent once more, by its KEY
#				ack T CALL REPLAYED STREAM:VERSION:POSITION,...	of each stream's last event; or *:FIRST:LAST, positions
#				refused T CALL SQLSTATE							it is certain that nothing was done
#				unknown T CALL									the connection was lost
# reader.*		feed T											what follows was read by position
#				stream T STREAM									what follows was read of a stream, by version
#				event T POSITION STREAM VERSION CALL N
# consumer.*	fetch T											of a subscription to everything, by one consumer
#				event T POSITION STREAM VERSION CALL N
#				ack T UPTO										it was said that it was acknowledged
# monitor.*		mark T MARK
#				checkpoint T POSITION MARK						the mark was found after the checkpoint was read
# dump			event T POSITION STREAM VERSION CALL N			by es_read_all
#				read T POSITION STREAM VERSION CALL N			by es_read, of each stream
#				head T STREAM VERSION							by es_stream_version
#				projection T POSITION STREAM VERSION CALL N		the rows of a projection that copies events
#				finding T TEXT									of es_check, es_verify_log
package Checker;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT_OK = qw(check);

# What can be found, and what it means.
our %rules = (
	lost => 'an acknowledged call is not there, or not all of it',
	doubled => 'an event is there twice',
	refused => 'a refused call is there',
	split => 'a part of a call is there',
	invented => 'an event that nobody has appended there',
	answer => 'a call was answered with other versions or positions than its events have',
	replay => 'a call was answered in two ways',
	expected => 'a call expected another version than the one before its first event',
	versions => 'the versions of a stream are not 1, 2, 3, ...',
	order => 'a stream has another order by position than by version',
	realtime => 'a call that began after another was acknowledged has a lower position',
	reading => 'es_read, es_stream_version and es_read_all differ',
	feed => 'a reader by position did not get what is there, in its order',
	stream => 'a reader of a stream did not get what is there, in its order',
	reported => 'a reader or consumer got an event that is not there',
	delivery => 'a subscription has not delivered an event, or not in the order of its stream',
	redelivery => 'a subscription has delivered again what was acknowledged',
	projection => 'a projection is not equal to the log',
	checkpoint => 'a checkpoint is ahead of the mark',
	mark => 'the mark went back',
	finding => 'the store says itself that something is wrong');

my (%findings, %figure);

sub complain
{
	my ($rule, $text) = @_;

	die "no rule $rule" unless exists $rules{$rule};
	push @{ $findings{$rule} }, $text;
	return;
}

sub lines
{
	my ($file) = @_;

	open my $in, '<', $file or die "$file: $!";
	my $text = do { local $/; <$in> } // '';
	# Of a writer that was killed the last line may be half of one.
	$text =~ s/[^\n]*\z//;
	return map { [ split /\t/ ] } split /\n/, $text;
}

# ---- reading

# The calls: { CALL => { events => [STREAM], expected => {}, begin, end, fate, answers => [[STREAM, VERSION, POSITION]] } }
sub read_calls
{
	my ($dir) = @_;
	my %calls;

	for my $line (map { lines($_) } glob "$dir/writer.*")
	{
		my ($what, $time, $call, @rest) = @$line;
		my $c = $calls{$call} //= {};

		if ($what eq 'intent')
		{
			%$c = (begin => $time, fate => 'unknown', key => $rest[1], events => [ split /,/, $rest[2] ],
				expected => { $rest[0] eq '-' ? () : map { split /=/ } split /,/, $rest[0] });
		}
		elsif ($what eq 'ack')
		{
			my @answers = map { [ split /:/ ] } split /,/, $rest[1] // '';

			complain('replay', "$call: $rest[1], and " . join(',', map { join ':', @$_ } @{ $c->{answers} }))
			  if $c->{answers} && join(',', sort map { "@$_" } @answers) ne join(',', sort map { "@$_" } @{ $c->{answers} });
			$c->{answers} //= \@answers;
			$figure{found_out}++ if $rest[0] eq 't' && $c->{fate} eq 'unknown';
			$c->{end} //= $time;
			$c->{fate} = 'acknowledged';
			$figure{replayed}++ if $rest[0] eq 't';
		}
		elsif ($what eq 'refused')
		{
			complain('replay', "$call: acknowledged, and refused") if $c->{fate} eq 'acknowledged';
			$c->{fate} = 'refused';
			$figure{"refused_$rest[0]"}++;
		}
		elsif ($what eq 'unknown')
		{
			$figure{lost_answers}++;
		}
	}
	return \%calls;
}

# ---- rules

sub check_calls
{
	my ($calls, $events) = @_;
	my %there;    # CALL => [event]

	for my $e (@$events)
	{
		my $c = $calls->{ $e->{call} };

		if (!$c || $e->{n} !~ /^\d+$/ || ($c->{events}[ $e->{n} ] // '') ne $e->{stream})
		{
			complain('invented', "$e->{text}");
			next;
		}
		push @{ $there{ $e->{call} } }, $e;
	}
	for my $call (sort keys %$calls)
	{
		my $c = $calls->{$call};
		my @all = sort { $a->{position} <=> $b->{position} } @{ $there{$call} // [] };
		my (%n, %last, %first);

		$figure{$c->{fate}}++;
		$figure{unknown_there}++ if $c->{fate} eq 'unknown' && @all;
		$figure{events_acknowledged} += @{ $c->{events} } if $c->{fate} eq 'acknowledged';
		$n{ $_->{n} }++ for @all;
		complain('doubled', "$call: event $_ is there $n{$_} times") for grep { $n{$_} > 1 } sort keys %n;
		complain('refused', "$call") if $c->{fate} eq 'refused' && @all;
		complain('lost', "$call: " . keys(%n) . ' of ' . @{ $c->{events} } . ' events')
		  if $c->{fate} eq 'acknowledged' && keys %n < @{ $c->{events} };
		complain('split', "$call: " . keys(%n) . ' of ' . @{ $c->{events} } . ' events')
		  if $c->{fate} eq 'unknown' && %n && keys %n < @{ $c->{events} };
		next if $c->{fate} eq 'refused' || keys %n < @{ $c->{events} };

		for my $e (@all)
		{
			$first{ $e->{stream} } //= $e;
			$last{ $e->{stream} } = $e;
		}
		for my $answer (@{ $c->{answers} // [] })
		{
			my ($stream, $version, $position) = @$answer;
			my @has = $stream eq '*' ? ($all[0]{position}, $all[-1]{position}) :
			  map { defined $_ ? ($_->{version}, $_->{position}) : (0, 0) } $last{$stream};

			complain('answer', "$call: " . join(':', @$answer) . ", and it has @has") if "@has" ne "$version $position";
		}
		for my $stream (sort keys %{ $c->{expected} })
		{
			my $version = $first{$stream} ? $first{$stream}{version} - 1 : 'nothing';
			complain('expected', "$call: $stream at $c->{expected}{$stream}, and it was at $version")
			  if $version ne $c->{expected}{$stream};
		}
		@{$c}{qw(lowest highest)} = ($all[0]{position}, $all[-1]{position});
	}
	return;
}

# Whoever begins after an acknowledgement is behind it.
sub check_real_time
{
	my ($calls) = @_;
	my @begun = sort { $a->{begin} <=> $b->{begin} } grep { defined $_->{lowest} } values %$calls;
	my @ended = sort { $a->{end} <=> $b->{end} } grep { defined $_->{end} } @begun;
	my $highest = 0;

	for my $c (@begun)
	{
		while (@ended && $ended[0]{end} < $c->{begin})
		{
			my $done = shift @ended;
			$highest = $done->{highest} if $done->{highest} > $highest;
		}
		complain('realtime', "position $c->{lowest} began after $highest was acknowledged") if $c->{lowest} < $highest;
	}
	return;
}

sub check_streams
{
	my ($streams) = @_;

	for my $stream (sort keys %$streams)
	{
		my @versions = sort { $a->{version} <=> $b->{version} } @{ $streams->{$stream} };

		for my $i (0 .. $#versions)
		{
			if ($versions[$i]{version} != $i + 1)
			{
				complain('versions', "$stream: version $versions[$i]{version} where " . ($i + 1) . ' should be');
				last;
			}
			complain('order', "$stream: version " . ($i + 1)) if $i > 0 && $versions[$i]{position} <= $versions[ $i - 1 ]{position};
		}
	}
	return;
}

# What one reader got, in the order in which it got it: a prefix of what is there.
sub check_reader
{
	my ($rule, $who, $got, $there, $known) = @_;

	if (my @gone = grep { !$known->{$_} } @$got)
	{
		complain('reported', "$who: $gone[0]");
		return;
	}
	for my $i (0 .. $#$got)
	{
		next if $i < @$there && $got->[$i] eq $there->[$i]{text};
		complain($rule, "$who: $got->[$i] where " . ($i < @$there ? $there->[$i]{text} : 'nothing') . ' should be');
		return;
	}
	complain($rule, "$who: the end is not there, " . @$got . ' of ' . @$there) if @$got < @$there;
	return;
}

sub check_consumer
{
	my ($who, $lines, $events, $known) = @_;
	my (%upto, %acknowledged, %fetched, %delivered);
	my $last = 0;

	for my $line (@$lines)
	{
		my ($what, undef, @rest) = @$line;

		if ($what eq 'fetch')
		{
			$last = 0;
		}
		elsif ($what eq 'ack')
		{
			for my $e (values %fetched)
			{
				$acknowledged{ $e->{text} } = 1 if $e->{position} <= $rest[0];
			}
			%fetched = ();
		}
		elsif ($what eq 'event')
		{
			my $e = event($line);

			complain('reported', "$who: $e->{text}") unless $known->{ $e->{text} };
			complain('redelivery', "$who: $e->{text}") if $acknowledged{ $e->{text} };
			complain('delivery', "$who: $e->{text} after position $last") if $e->{position} <= $last;
			complain('delivery', "$who: $e->{text} after version " . ($upto{ $e->{stream} } // 0))
			  if $e->{version} > ($upto{ $e->{stream} } // 0) + 1;
			$upto{ $e->{stream} } = $e->{version} if $e->{version} > ($upto{ $e->{stream} } // 0);
			$last = $e->{position};
			$fetched{ $e->{text} } = $e;
			$figure{delivered}++;
			$figure{delivered_again}++ if $delivered{ $e->{text} }++;
		}
	}
	my @never = grep { !$delivered{ $_->{text} } } @$events;
	complain('delivery', "$who: $never[0]{text} was never delivered") if @never;
	return;
}

# There are many of them: where it is only compared, an event is its text.
sub text { my ($line) = @_; return join ' ', map { $_ // '' } @$line[ 2 .. 6 ] }

sub event
{
	my ($line) = @_;
	my ($position, $stream, $version, $call, $n) = @$line[ 2 .. 6 ];

	return { position => $position, stream => $stream, version => $version, call => $call, n => $n, text => text($line) };
}

# check(DIR) -> ({ RULE => [text] }, { figure => number })
sub check
{
	my ($dir) = @_;

	%findings = %figure = ();
	my $calls = read_calls($dir);
	my (@events, @read, %head, @projection, %streams);

	for my $line (lines("$dir/dump"))
	{
		my ($what, undef, @rest) = @$line;

		if ($what eq 'event') { push @events, event($line) }
		elsif ($what eq 'read') { push @read, text($line) }
		elsif ($what eq 'head') { $head{ $rest[0] } = $rest[1] }
		elsif ($what eq 'projection') { push @projection, text($line) }
		elsif ($what eq 'finding') { complain('finding', $rest[0]) }
	}
	push @{ $streams{ $_->{stream} } }, $_ for @events;
	my %known = map { $_->{text} => 1 } @events;
	$figure{events} = @events;

	check_calls($calls, \@events);
	check_real_time($calls);
	check_streams(\%streams);

	# The ways to read, and the copy.
	my $in_order = join "\n", sort map { $_->{text} } @events;
	complain('reading', 'es_read') if $in_order ne join "\n", sort @read;
	for my $stream (sort keys %{ { %head, %streams } })
	{
		my ($newest) = sort { $b <=> $a } map { $_->{version} } @{ $streams{$stream} // [] };
		complain('reading', "$stream: es_stream_version is " . ($head{$stream} // 'not there')) if ($newest // 0) != ($head{$stream} // -1);
	}
	complain('projection', @projection . ' rows, ' . @events . ' events') if $in_order ne join "\n", sort @projection;

	for my $file (glob "$dir/reader.*")
	{
		my ($first, @lines) = lines($file);
		my ($what, undef, $stream) = @{ $first // [] };
		my @got = map { text($_) } grep { $_->[0] eq 'event' } @lines;
		my ($who) = $file =~ m{([^/]*)\z};

		$figure{read} += @got;
		if ($what eq 'feed')
		{
			check_reader('feed', $who, \@got, [ sort { $a->{position} <=> $b->{position} } @events ], \%known);
		}
		else
		{
			check_reader('stream', $who, \@got, [ sort { $a->{version} <=> $b->{version} } @{ $streams{$stream} // [] } ], \%known);
		}
	}
	for my $file (glob "$dir/consumer.*")
	{
		my ($who) = $file =~ m{([^/]*)\z};
		check_consumer($who, [ lines($file) ], \@events, \%known);
	}
	for my $file (glob "$dir/monitor.*")
	{
		my $mark = 0;

		for my $line (lines($file))
		{
			my ($what, undef, @rest) = @$line;

			if ($what eq 'checkpoint')
			{
				$figure{checkpoints}++;
				complain('checkpoint', "$rest[0], and the mark is $rest[1]") if $rest[0] > $rest[1];
			}
			elsif ($what eq 'mark')
			{
				complain('mark', "$rest[0] after $mark") if $rest[0] < $mark;
				$mark = $rest[0];
			}
		}
	}
	return ({%findings}, {%figure});
}

1;
