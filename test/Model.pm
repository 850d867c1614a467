# A store in plain Perl data: what appends, reads and loads must answer, in the simplest way that can be right. No
# index, no snapshot that is ever used, no incremental anything: a list of events, filtered, upcast and folded from the
# first one each time. Model::Projection and Model::Subscription go on from here.
#
# An answer is text: lines of columns with | between them, data as jsonb prints it, times in microseconds. An error is the
# SQLSTATE, thrown. What only the store can know (positions, times, ids that it makes) is learned from its answer to the
# append, and must be the same in every other answer from then on.
package Model;

use strict;
use warnings;

use Exporter 'import';
use Storable qw(dclone);

our @EXPORT_OK = qw(says_version jsonb row refuse caught %upcasters %folds);

# ---- values

# As jsonb prints it. What looks like an integer is one: no text in the test does.
sub jsonb
{
	my ($value) = @_;

	return 'null' unless defined $value;
	return '[' . join(', ', map { jsonb($_) } @$value) . ']' if ref $value eq 'ARRAY';
	return '{' . join(', ', map { qq("$_": ) . jsonb($value->{$_}) } sort { length $a <=> length $b || $a cmp $b } keys %$value) . '}'
		if ref $value eq 'HASH';
	return $value if $value =~ /^(-?\d+|true|false)\z/;
	return qq("$value");
}

sub row { return join '|', map { defined $_ ? $_ : '' } @_ }

# A filter: what it says does not depend on order and repetition.
sub names { my ($list) = @_; my %names = map { $_ => 1 } @{ $list // [] }; return $list ? '{' . join(',', sort keys %names) . '}' : 'all' }

# Throws a SQLSTATE, and catches one: (result, undef) or (undef, SQLSTATE).
sub refuse { die { sqlstate => $_[0] } }

sub caught
{
	my ($code) = @_;
	my $result = eval { $code->() };

	return ($result, undef) unless $@;
	die $@ unless ref $@ eq 'HASH';
	return (undef, $@->{sqlstate});
}

# ---- what can be registered: each as SQL and as Perl, by a name (so that the model itself holds no code)

# [type, schema version, SQL, type it becomes, Perl: data -> data, undef to drop the event]
our %upcasters = (
	cents => [ 'Deposited', 1, q[data || jsonb_build_object('amount', (data->'amount')::int * 100)], undef,
		sub { return { %{ $_[0] }, amount => $_[0]{amount} * 100 } } ],
	pence => [ 'Deposited', 1, q[jsonb_build_object('amount', (data->'amount')::int * 240)], undef,
		sub { return { amount => $_[0]{amount} * 240 } } ],
	plus => [ 'Deposited', 2, q[jsonb_build_object('amount', (data->'amount')::int + 7)], undef, sub { return { amount => $_[0]{amount} + 7 } } ],
	paid => [ 'PaidIn', 1, q[jsonb_build_object('amount', data->'sum')], 'Deposited', sub { return { amount => $_[0]{sum} } } ],
	debug => [ 'Debug', 1, 'NULL', undef, sub { return undef } ],
	void => [ 'Withdrawn', 1, q[CASE WHEN data ? 'void' THEN NULL ELSE data END], undef, sub { return exists $_[0]{void} ? undef : $_[0] } ],
	label => [ 'Tagged', 1, q[jsonb_build_object('label', data->'tag')], 'Labelled', sub { return { label => $_[0]{tag} } } ],
	# Poisoned events mended, and made fatal to read.
	mend => [ 'Poison', 1, q['{"amount": 1}'], undef, sub { return { amount => 1 } } ],
	hurt => [ 'Poison', 1, q[jsonb_build_object('amount', (data->>'amount')::int)], undef,
		sub { refuse('YE007') if $_[0]{amount} eq 'many'; return { amount => $_[0]{amount} } } ],
	fix => [ 'Broken', 1, q['{"amount": 5}'], undef, sub { return { amount => 5 } } ]);

# An account, with $k to tell two definitions apart.
sub account
{
	my ($state, $event, $k) = @_;
	my %new = %$state;
	my ($type, $data) = @{$event}{qw(type data)};

	if ($type eq 'Opened') { $new{owner} = $data->{owner} }
	elsif ($type eq 'Deposited')
	{
		$new{balance} = ($new{balance} // 0) + $data->{amount};
		$new{deposits} = ($new{deposits} // 0) + $k;
		$new{last} = $event->{version};
		$new{biggest} = $data->{amount} if !defined $new{biggest} || $data->{amount} > $new{biggest};
	}
	elsif ($type eq 'Withdrawn') { $new{balance} = ($new{balance} // 0) - $data->{amount} }
	elsif ($type eq 'Tagged') { $new{tags} = [ @{ $new{tags} // [] }, $data->{tag} ] }
	elsif ($type eq 'Labelled') { $new{label} = $data->{label} }
	elsif ($type eq 'Broken')
	{
		refuse('YE006') unless exists $data->{amount};
		$new{x} = ($new{x} // 0) + $data->{amount};
	}
	else { $new{others} = ($new{others} // 0) + 1 }
	return \%new;
}

sub account_sql
{
	my ($k) = @_;

	return qq[state || CASE event_type
		WHEN 'Opened' THEN jsonb_build_object('owner', data->'owner')
		WHEN 'Deposited' THEN jsonb_build_object('balance', coalesce((state->'balance')::int, 0) + (data->'amount')::int,
			'deposits', coalesce((state->'deposits')::int, 0) + $k, 'last', version,
			'biggest', greatest((state->'biggest')::int, (data->'amount')::int))
		WHEN 'Withdrawn' THEN jsonb_build_object('balance', coalesce((state->'balance')::int, 0) - (data->'amount')::int)
		WHEN 'Tagged' THEN jsonb_build_object('tags', coalesce(state->'tags', '[]') || (data->'tag'))
		WHEN 'Labelled' THEN jsonb_build_object('label', data->'label')
		WHEN 'Broken' THEN jsonb_build_object('x', coalesce((state->'x')::int, 0)
			+ coalesce((data->'amount')::int, 0) / CASE WHEN data ? 'amount' THEN 1 ELSE 0 END)
		ELSE jsonb_build_object('others', coalesce((state->'others')::int, 0) + 1) END];
}

sub account_rules
{
	my ($k) = @_;

	return qq[{"Opened": {"set": {"owner": "owner"}},
		"Deposited": {"add": {"balance": "amount"}, "count": {"deposits": $k}, "set": {"last": "\$event.version"}, "max": {"biggest": "amount"}},
		"Withdrawn": {"subtract": {"balance": "amount"}},
		"Tagged": {"append": {"tags": "tag"}},
		"Labelled": {"set": {"label": "label"}},
		"Broken": {"add": {"x": "amount"}},
		"*": {"count": "others"}}];
}

# [argument of es_register_aggregate, its text, initial state, Perl: state, event -> state]
our %folds = (
	(map { my $k = $_; (
		"account $k in SQL" => [ 'fold', account_sql($k), { k => $k }, sub { return account(@_, $k) } ],
		"account $k in rules" => [ 'rules', account_rules($k), { k => $k }, sub { return account(@_, $k) } ]) } 1, 3),
	tally => [ 'fold', q[jsonb_build_object('n', coalesce((state->'n')::int, 0) + version,
			'seen', coalesce(state->'seen', '[]') || to_jsonb(event_type || ' ' || schema_version || ' ' || position))], {},
		sub { return { n => ($_[0]{n} // 0) + $_[1]{version}, seen => [ @{ $_[0]{seen} // [] }, "$_[1]{type} $_[1]{sv} $_[1]{position}" ] } } ]);

# ---- the model

sub new
{
	my ($class) = @_;

	# streams: name -> events; a call's own, other than in `streams`, are those with its number.
	return bless { log => [], streams => {}, keys => {}, batch_keys => {}, aggregates => {}, upcasters => {}, registered => {}, snapshots => {},
		application => {}, projections => {}, subscriptions => {}, published => 0, mark => 0 }, $class;
}

# For a savepoint. Events never change, and are shared.
sub copy
{
	my ($self) = @_;
	my %rest = %$self;

	delete @rest{qw(log streams)};
	my $copy = dclone(\%rest);
	$copy->{log} = [ @{ $self->{log} } ];
	$copy->{streams}{$_} = [ @{ $self->{streams}{$_} } ] for keys %{ $self->{streams} };
	return bless $copy, ref $self;
}

sub category { return $_[0] =~ s/(?<=.)-.*//sr }
sub version { my ($self, $stream) = @_; return scalar @{ $self->{streams}{$stream} // [] } }
sub last_event { my ($self, $stream) = @_; return $self->{streams}{$stream} ? $self->{streams}{$stream}[-1] : undef }
sub last_position { my ($self) = @_; return @{ $self->{log} } ? $self->{log}[-1]{position} : 0 }

# Events that a reader by position may see: not what the own open transaction has drawn (`limit`, set by the test).
sub settled
{
	my ($self) = @_;
	my $limit = $self->{limit};

	return defined $limit ? grep { $_->{position} <= $limit } @{ $self->{log} } : @{ $self->{log} };
}

sub settled_position { my ($self) = @_; my @events = $self->settled; return @events ? $events[-1]{position} : 0 }

# Where the mark is: positions that were drawn in vain count (`drawn_to`, set by the test).
sub mark
{
	my ($self) = @_;
	my $mark = $self->{drawn_to} // 0;

	$mark = $self->{limit} if defined $self->{limit} && $self->{limit} < $mark;
	return $mark > $self->settled_position ? $mark : $self->settled_position;
}

# ---- appending

# Whether a call says the schema version of an event.
sub says_version { return $_[0]{sv} != 1 || $_[0]{says_version} }

# What makes two requests with a key the same.
sub request { return join "\n", map { "$_->{type} $_->{sv} " . jsonb($_->{data}) } @_ }

# What a call is answered. elements: [{stream, expected, events, key}], in their order; an event is {type, data, sv, id...}.
# {replayed => rows} or {rows => elements whose events are to be added with add()}, or a SQLSTATE.
sub append
{
	my ($self, @elements) = @_;
	my ($writing, $replayed, $keyed) = (0, 0, 0);
	my (%seen, %key);

	for my $element (@elements)
	{
		my $expected = $element->{expected};
		refuse('22023') if defined $expected && ($expected == -1 || $expected == -3 || $expected < -4);
		# A stream that is named again has no version to expect, and not the same key.
		refuse('22023') if $seen{ $element->{stream} }++ && defined $expected && $expected != -2;
		refuse('22023') if defined $element->{key} && $key{ row($element->{stream}, $element->{key}) }++;
	}
	%seen = ();
	for my $element (@elements)
	{
		my ($stream, $events) = @{$element}{qw(stream events)};
		my $found;
		next unless $events && @$events;
		$writing++;
		if (defined $element->{key})
		{
			my $known = $self->{keys}{ row($stream, $element->{key}) };
			if ($known)
			{
				refuse('YE002') if $known->{request} ne request(@$events);
				$found = $known->{last};
				$keyed = 1;
			}
		}
		else { $found = $self->same_by_ids($element) }
		$replayed++ if $found;
		$element->{found} = $found;
	}
	if ($replayed && $replayed == $writing)
	{
		return { replayed => [ map { $_->{found} // $self->last_event($_->{stream}) } @elements ] };
	}
	refuse('YE002') if $keyed;
	for my $element (@elements)
	{
		next if $seen{ $element->{stream} }++;		# a stream's version is compared where it is first named
		my ($version, $expected) = ($self->version($element->{stream}), $element->{expected} // -2);
		refuse('YE001') if $expected >= 0 ? $version != $expected : $expected == -4 && $version == 0;
	}
	# Where version 1 is an old one, it must be said.
	refuse('22004') if grep { !says_version($_) && $self->{upcasters}{"$_->{type} 1"} } map { @{ $_->{events} // [] } } @elements;
	return {};
}

# The events of an element as they are stored, if all have ids and stand behind the version expected.
sub same_by_ids
{
	my ($self, $element) = @_;
	my ($stream, $expected, $events) = @{$element}{qw(stream expected events)};
	my @stored = @{ $self->{streams}{$stream} // [] };

	return undef if !defined $expected || $expected < 0 || @stored == $expected || @stored - $expected < @$events;
	for my $i (0 .. $#$events)
	{
		my ($new, $old) = ($events->[$i], $stored[ $expected + $i ]);
		return undef unless defined $new->{id} && $new->{id} eq $old->{id} && $new->{type} eq $old->{type} && jsonb($new->{data}) eq jsonb($old->{data});
	}
	return $stored[ $expected + $#$events ];
}

# Adds an event as the store has it; call: a number.
sub add
{
	my ($self, $event, $call) = @_;

	$event->{category} = category($event->{stream});
	$event->{call} = $call;
	push @{ $self->{log} }, $event;
	push @{ $self->{streams}{ $event->{stream} } }, $event;
	return;
}

# ---- reading

# An event as it is read now; undef when it is dropped.
sub upcast
{
	my ($self, $event) = @_;
	my %now = %$event;

	while (my $name = $self->{upcasters}{"$now{type} $now{sv}"})
	{
		my (undef, undef, undef, $to, $apply) = @{ $upcasters{$name} };
		$now{data} = $apply->($now{data});
		return undef unless defined $now{data};
		$now{sv}++;
		$now{type} = $to if defined $to;
	}
	return \%now;
}

# Whether events of a type can come out as one of some others: an upcaster of one that cannot is not even asked.
sub may_become
{
	my ($self, $type, $types) = @_;
	my %reached = ($type => 1);
	my $before = 0;

	while ($before != keys %reached)
	{
		$before = keys %reached;
		for my $upcaster (map { $upcasters{$_} } values %{ $self->{upcasters} })
		{
			$reached{ $upcaster->[3] // $upcaster->[0] } = 1 if $reached{ $upcaster->[0] };
		}
	}
	return scalar grep { $reached{$_} } @$types;
}

sub event_row
{
	my ($e) = @_;

	return row(@{$e}{qw(position stream category version type sv id)}, jsonb($e->{data}), defined $e->{metadata} ? jsonb($e->{metadata}) : '', $e->{occurred}, $e->{recorded});
}

# Those of a list that pass a filter, upcast, at most so many.
sub select
{
	my ($self, $events, $max, $types, $categories) = @_;
	my @found;

	for my $event (@$events)
	{
		last if defined $max && @found >= $max;
		next if $categories && !grep { $_ eq $event->{category} } @$categories;
		next if $types && !$self->may_become($event->{type}, $types);
		my $now = $self->upcast($event) or next;
		next if $types && !grep { $_ eq $now->{type} } @$types;
		push @found, $now;
	}
	return @found;
}

sub read
{
	my ($self, $stream, $from, $max, $backward, $upcast) = @_;
	my @events = @{ $self->{streams}{$stream} // [] };

	if ($backward) { @events = reverse grep { !defined $from || $_->{version} <= $from } @events }
	else { @events = grep { !defined $from || $_->{version} >= $from } @events }
	return join "\n", map { event_row($_) } $upcast ? $self->select(\@events, $max) : grep { !defined $max || $max-- > 0 } @events;
}

sub read_all
{
	my ($self, $after, $max, $types, $categories) = @_;

	return join "\n", map { event_row($_) } $self->select([ grep { $_->{position} > $after } $self->settled ], $max, $types, $categories);
}

# ---- state

sub fold_of
{
	my ($self, $stream) = @_;
	my $aggregate = $self->{aggregates}{ category($stream) } or refuse('YE008');

	return $folds{ $aggregate->{fold} };
}

# The state that some events of a stream make, in this order, and the place of the last recorded one of them.
sub state_of
{
	my ($self, $stream, @events) = @_;
	my $fold = $self->fold_of($stream);
	my $state = $fold->[2];
	my ($last) = sort { $b->{version} <=> $a->{version} } @events;

	for my $event (@events)
	{
		my $now = $self->upcast($event) or next;
		$state = $fold->[3]->($state, $now);
	}
	return ($state, $last);
}

sub load_row
{
	my ($self, $stream, @events) = @_;
	my ($state, $last) = $self->state_of($stream, @events);

	return row(jsonb($state), $last ? @{$last}{qw(version position recorded)} : (0, 0, undef));
}

sub load { my ($self, $stream) = @_; return $self->load_row($stream, @{ $self->{streams}{$stream} // [] }) }

sub load_version
{
	my ($self, $stream, $version) = @_;
	my @events = @{ $self->{streams}{$stream} // [] };

	refuse('22023') if $version < 0 || $version > @events;
	return $self->load_row($stream, @events[ 0 .. $version - 1 ]);
}

sub until_time { my ($self, $stream, $time) = @_; return grep { $_->{recorded} <= $time } @{ $self->{streams}{$stream} // [] } }

sub load_at { my ($self, $stream, $time) = @_; return $self->load_row($stream, $self->until_time($stream, $time)) }

sub load_valid_at
{
	my ($self, $stream, $valid, $known) = @_;
	my @events = sort { $a->{occurred} <=> $b->{occurred} || $a->{version} <=> $b->{version} }
		grep { $_->{occurred} <= $valid && (!defined $known || $_->{recorded} <= $known) } @{ $self->{streams}{$stream} // [] };

	return $self->load_row($stream, @events);
}

sub load_category
{
	my ($self, $category, $time) = @_;
	my @rows;

	$self->fold_of($category);
	for my $stream (sort grep { category($_) eq $category } keys %{ $self->{streams} })
	{
		my @events = defined $time ? $self->until_time($stream, $time) : @{ $self->{streams}{$stream} };
		next unless @events;
		my ($state, $last) = $self->state_of($stream, @events);
		push @rows, row($stream, jsonb($state), $last->{version});
	}
	return join "\n", @rows;
}

sub history
{
	my ($self, $stream, $from, $max) = @_;
	my $fold = $self->fold_of($stream);
	my $state = $fold->[2];
	my @rows;

	return '' if $from > $self->version($stream);
	for my $event (@{ $self->{streams}{$stream} // [] })
	{
		last if defined $max && @rows >= $max;
		my $now = $self->upcast($event) or next;
		$state = $fold->[3]->($state, $now);
		push @rows, row(@{$now}{qw(version type occurred recorded)}, jsonb($state)) if $event->{version} >= $from;
	}
	return join "\n", @rows;
}

# ---- snapshots: which ones there are. What they contain is of no account: loads must answer as without.

sub fingerprint
{
	my ($self, $stream) = @_;
	my $aggregate = $self->{aggregates}{ category($stream) } or refuse('YE008');

	return join ' ', $aggregate->{fold}, $aggregate->{role} // '', map { $self->{upcasters}{$_} } sort keys %{ $self->{upcasters} };
}

sub snapshot
{
	my ($self, $stream) = @_;
	my $fingerprint = $self->fingerprint($stream);
	my $version = $self->version($stream);
	my $stretch = 16 * $self->{aggregates}{ category($stream) }{every};
	my (%first, @kept);

	$self->load($stream);
	return 0 unless $version;
	# Those of another history that are newer than the newest good one were met, and are dropped.
	my @own = sort { $b->[0] <=> $a->[0] } grep { $_->[1] eq $fingerprint } @{ $self->{snapshots}{$stream} // [] };
	shift @own while @own && $own[0][2];
	my %foreign = map { $_->[0] => $_->[2] } @own;
	delete $foreign{$version};
	my @versions = sort { $b <=> $a } $version, grep { $_ != $version } map { $_->[0] } @own;
	$first{ int($_ / $stretch) } = $_ for @versions;	# the lowest comes last
	@kept = grep { $_ >= ($versions[3] // 0) || $first{ int($_ / $stretch) } == $_ } @versions;
	$self->{snapshots}{$stream} = [ map { [ $_, $fingerprint, $foreign{$_} ] } reverse @kept ];
	return $version;
}

# Puts one of another history there, if there is none at that version.
sub add_foreign_snapshot
{
	my ($self, $stream, $version, $fingerprint) = @_;
	my $snapshots = $self->{snapshots}{$stream} //= [];

	return 0 if grep { $_->[0] == $version } @$snapshots;
	@$snapshots = sort { $a->[0] <=> $b->[0] } @$snapshots, [ $version, $fingerprint, 1 ];
	return 1;
}

sub snapshots { my ($self, $stream) = @_; return join ',', map { $_->[0] } @{ $self->{snapshots}{$stream} // [] } }

sub drop_snapshots
{
	my ($self, $category) = @_;
	my $count = 0;

	for my $stream (grep { category($_) eq $category } keys %{ $self->{snapshots} })
	{
		$count += @{ delete $self->{snapshots}{$stream} };
	}
	return $count;
}

# Whether a load up to a version must pass by one of another history.
sub meets_foreign
{
	my ($self, $stream, $version) = @_;
	my $fingerprint = $self->fingerprint($stream);
	my ($newest) = sort { $b->[0] <=> $a->[0] } grep { $_->[1] eq $fingerprint && $_->[0] <= $version } @{ $self->{snapshots}{$stream} // [] };

	return $newest && $newest->[2];
}

# How many events a load of these must fold: those behind the newest snapshot that is good.
sub replayed
{
	my ($self, $stream, @events) = @_;
	my $fingerprint = $self->fingerprint($stream);
	my $last = @events ? $events[-1]{version} : 0;
	my ($base) = sort { $b <=> $a } 0, map { $_->[0] } grep { $_->[1] eq $fingerprint && !$_->[2] && $_->[0] <= $last } @{ $self->{snapshots}{$stream} // [] };

	return scalar grep { $_->{version} > $base && $self->upcast($_) } @events;
}

1;
