# An append call of t/082_model.pl: events drawn at random, and the SQL of the call in each of its forms.
#
# {form => one, list, multi or batch, elements => [{stream, expected, events, key}], and of a batch batch_key and order: the
# streams in the order of its arrays}
package ModelCall;

use strict;
use warnings;

use Exporter 'import';
use Fuzz;
use Model qw(jsonb says_version);

our @EXPORT = qw(maybe sql number sql_array a_type occurred an_event some_events call_sql new_events);

sub maybe { return chance(.5) ? $_[0] : undef }
sub sql { return defined $_[0] ? literal($_[0]) : 'NULL' }
# What a call without an expectation passes.
sub expected { return $_[0] // pick(-2, 'es_expect_any()') }
sub number { return defined $_[0] ? $_[0] : 'NULL' }
sub sql_array { my ($list) = @_; return $list ? 'ARRAY[' . join(', ', map { literal($_) } @$list) . ']::text[]' : 'NULL' }
sub a_type { return pick(qw(Opened Deposited Withdrawn Tagged Labelled Debug PaidIn Other Unheard)) }

sub uuid { return sprintf '%08x-0000-4000-8000-%012x', rand 2**32, rand 2**32 }

# Microseconds of an hour in January 2024, and as JSON has it.
sub occurred { return 1704067200_000000 + 3600_000000 * int rand 400 }

sub iso
{
	my ($us) = @_;
	my @t = gmtime($us / 1_000_000);

	return sprintf '%04d-%02d-%02dT%02d:%02d:%02dZ', $t[5] + 1900, $t[4] + 1, @t[ 3, 2, 1, 0 ];
}

sub an_event
{
	my @tags = qw(red green blue);
	my ($type, $data, @versions) = @{ pick(
		[ 'Opened', { owner => pick('ann', 'bob') }, 1 ],
		([ 'Deposited', { amount => int rand 100 }, 1, 1, 2, 3 ]) x 4,
		[ 'PaidIn', { sum => int rand 100 }, 1, 1, 2 ],
		[ 'Withdrawn', { amount => int rand 100, chance(.3) ? (void => 'true') : () }, 1, 2 ],
		[ 'Tagged', { tag => pick(@tags) }, 1, 1, 2 ],
		[ 'Labelled', { label => pick(@tags) }, 1 ],
		[ 'Debug', {}, 1, 1, 2 ],
		[ 'Other', { list => [ 1, 'two', undef ], inner => { a => 1 } }, 1 ],
		chance(.6) ? [ 'Poison', { amount => pick('many', 'many', 5) }, 1 ] : [ 'Other', {}, 1 ],
		chance(.15) ? [ 'Broken', { pick('why', 'amount') => 3 }, 1 ] : [ 'Opened', { owner => 'eve' }, 1 ]) };

	return { type => $type, data => $data, sv => pick(@versions), says_version => chance(.9),
		chance(.3) ? (id => uuid()) : (), chance(.5) ? (occurred => occurred()) : (),
		chance(.3) ? (metadata => { user => pick('ann', 'bob'), chance(.5) ? (correlation_id => pick('c-1', 'c-2')) : () }) : () };
}

sub some_events { return map { an_event() } 1 .. 1 + int rand $_[0] }

sub event_json
{
	my ($e) = @_;
	my @members = (qq("type": "$e->{type}"), '"data": ' . jsonb($e->{data}));

	push @members, qq("schema_version": $e->{sv}) if says_version($e);
	push @members, qq("id": "$e->{id}") if defined $e->{id};
	push @members, '"metadata": ' . jsonb($e->{metadata}) if $e->{metadata};
	push @members, '"occurred_at": "' . iso($e->{occurred}) . '"' if defined $e->{occurred};
	return '{' . join(', ', @members) . '}';
}

sub events_json { return '[' . join(', ', map { event_json($_) } @_) . ']' }

sub call_sql
{
	my ($call) = @_;
	my ($first) = @{ $call->{elements} };
	my $form = $call->{form};
	my $columns = 'version, position, m.us(recorded_at), replayed';

	if ($form eq 'one')
	{
		my ($e) = @{ $first->{events} };
		return sprintf "SELECT $columns FROM es_append(%s, %s, %s, %s, metadata => %s, event_id => %s, occurred_at => %s, schema_version => %s, idempotency_key => %s)",
			literal($first->{stream}), expected($first->{expected}), literal($e->{type}), literal(jsonb($e->{data})), sql($e->{metadata} && jsonb($e->{metadata})), sql($e->{id}),
			sql(defined $e->{occurred} ? iso($e->{occurred}) : undef), says_version($e) ? $e->{sv} : 'NULL', sql($first->{key});
	}
	if ($form eq 'list')
	{
		my $events = events_json(@{ $first->{events} });
		$events = qq[{"events": $events, "idempotency_key": "$first->{key}"}] if defined $first->{key};
		return sprintf "SELECT $columns FROM es_append(%s, %s, %s)", literal($first->{stream}), expected($first->{expected}), literal($events) . ($first->{sv} ? '' : '::jsonb');
	}
	if ($form eq 'multi')
	{
		my @appends = map {
			my $e = $_;
			'{' . join(', ', qq("stream": "$e->{stream}"), 
				defined $e->{expected} ? qq("expected_version": $e->{expected}) : @{ $e->{events} } ? '"expected_version": "any"' : (),
				@{ $e->{events} } ? '"events": ' . events_json(@{ $e->{events} }) : (), defined $e->{key} ? qq("idempotency_key": "$e->{key}") : ()) . '}' } @{ $call->{elements} };
		return 'SELECT stream, ' . $columns . ' FROM es_append_multi(' . literal('[' . join(', ', @appends) . ']') . ')';
	}
	my (%next, @events, @expected);
	for my $stream (@{ $call->{order} })
	{
		my ($element) = grep { $_->{stream} eq $stream } @{ $call->{elements} };
		push @expected, expected($next{$stream} ? undef : $element->{expected});
		push @events, $element->{events}[ $next{$stream}++ // 0 ];
	}
	my $list = sub { my ($type, $of) = @_; return 'ARRAY[' . join(', ', map { sql($of->($_)) } @events) . "]::${type}[]" };
	return sprintf 'SELECT events, first_position, last_position, replayed FROM es_append_batch(%s, %s, %s, %s, %s, %s, %s, %s, %s)', sql_array($call->{order}),
		$list->('text', sub { $_[0]{type} }), $list->('jsonb', sub { jsonb($_[0]{data}) }), $list->('jsonb', sub { $_[0]{metadata} && jsonb($_[0]{metadata}) }),
		$list->('uuid', sub { $_[0]{id} }), $list->('timestamptz', sub { defined $_[0]{occurred} ? iso($_[0]{occurred}) : undef }),
		'ARRAY[' . join(', ', @expected) . ']::bigint[]', $list->('int', sub { says_version($_[0]) ? $_[0]{sv} : undef }), sql($call->{batch_key});
}

# The events of a call in the order of their positions, with stream and version.
sub new_events
{
	my ($model, $call) = @_;
	my (%version, %next, @events);
	my @order = $call->{form} eq 'batch' ? @{ $call->{order} } : map { ($_->{stream}) x @{ $_->{events} } } @{ $call->{elements} };
	my %of;

	push @{ $of{ $_->{stream} } }, @{ $_->{events} } for @{ $call->{elements} };
	for my $stream (@order)
	{
		$version{$stream} //= $model->version($stream);
		push @events, { %{ shift @{ $of{$stream} } }, stream => $stream, version => ++$version{$stream} };
	}
	return @events;
}

1;
