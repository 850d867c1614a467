# The checker of the crash loop (Checker.pm) sees what it is for: a good history, in which one thing after the other is
# changed. Each change is found under its rule, and under no other.
use strict;
use warnings;

use Checker;
use PostgreSQL::Test::Utils;
use Test::More;

my $dir = PostgreSQL::Test::Utils::tempdir();

# One stream a, one stream b. Calls: 1 and 2 are acknowledged, 3 is refused, 4 and 5 are unknown (4 is there, 5 is not), 6
# has a key, is unknown at first and acknowledged then, 7 is acknowledged as the last one.
sub history
{
	my @events = (
		[ 1, 'a', 1, '1', 0 ], [ 2, 'a', 2, '2', 0 ], [ 3, 'b', 1, '2', 1 ],
		[ 5, 'b', 2, '4', 0 ], [ 6, 'a', 3, '4', 1 ], [ 9, 'a', 4, '6', 0 ], [ 10, 'c', 1, '7', 0 ], [ 11, 'c', 2, '7', 1 ]);
	my @rows = map { join "\t", 0, @$_ } @events;

	return {
		'writer.1' => [
			"intent\t1\t1\ta=0\t-\ta", "ack\t2\t1\tf\ta:1:1",
			"intent\t3\t3\ta=0\t-\ta,b", "refused\t4\t3\tYE001",
			"intent\t5\t4\t-\t-\tb,a", "unknown\t6\t4",
			"intent\t7\t5\t-\t-\ta,a", "unknown\t8\t5",
			"intent\t20\t7\tc=0\t-\tc,c", "ack\t21\t7\tf\t*:10:11" ],
		'writer.2' => [
			"intent\t2.5\t2\ta=1\t-\ta,b", "ack\t4.5\t2\tf\ta:2:2,b:1:3",
			"intent\t7\t6\t-\tk\ta", "unknown\t8\t6", "again\t9\t6", "ack\t10\t6\tt\ta:4:9", "again\t11\t6", "ack\t12\t6\tt\ta:4:9" ],
		'reader.1' => [ "feed\t0", map { "event\t$_" } @rows ],
		'reader.2' => [ "stream\t0\ta", map { "event\t$_" } grep { /^\d+\t\d+\ta\t/ } @rows ],
		'consumer.1' => [ "fetch\t1", (map { "event\t$_" } @rows[ 0 .. 2 ]), "fetch\t2", (map { "event\t$_" } @rows[ 0 .. 4 ]), "ack\t3\t5",
			"fetch\t4", (map { "event\t$_" } @rows[ 4 .. 7 ]), "ack\t5\t11" ],
		'monitor.1' => [ "checkpoint\t1\t3\t3", "mark\t1\t3", "checkpoint\t2\t9\t11", "mark\t2\t11" ],
		dump => [ (map { ("event\t$_", "read\t$_", "projection\t$_") } @rows), "head\t0\ta\t4", "head\t0\tb\t2", "head\t0\tc\t2" ] };
}

sub findings
{
	my ($history) = @_;

	unlink glob "$dir/*";
	for my $name (sort keys %$history)
	{
		open my $out, '>', "$dir/$name" or die "$!";
		print $out map { "$_\n" } @{ $history->{$name} };
		close $out;
	}
	return Checker::check($dir);
}

my ($found, $figure) = findings(history());
is(join(' ', sort keys %$found), '', 'a good history is good') or diag(explain($found));
is(join(' ', map { "$_ $figure->{$_}" } sort keys %$figure),
	'acknowledged 4 checkpoints 2 delivered 12 delivered_again 4 events 8 events_acknowledged 6 found_out 1 lost_answers 3 read 12 refused 1 refused_YE001 1 replayed 2 unknown 2 unknown_there 1',
	'and counted');

# An event of the store that nobody has seen yet, everywhere: to be put where it belongs, or to be taken away from there.
sub everywhere { my ($row) = @_; return map { "$_\t$row" } qw(event read projection) }

sub without
{
	my ($h, $pattern) = @_;

	for my $name (grep { !/writer/ } keys %$h)
	{
		@{ $h->{$name} } = grep { !/$pattern/ } @{ $h->{$name} };
	}
	return;
}

sub change
{
	my ($h, $files, $from, $to) = @_;
	my $n = 0;

	for my $name (grep { /^(?:$files)/ } keys %$h)
	{
		$n += s/$from/eval qq{"$to"}/e for @{ $h->{$name} };
	}
	die "nothing has $from" unless $n;
	return;
}

my @store = 'dump|reader|consumer';

my @cases = (
	# An acknowledged call is gone, with all that was seen of it.
	[ lost => 'all of a call', sub { without($_[0], qr/\t7\t[01]$/); change($_[0], 'dump', qr/^head\t0\tc\t2/, "head\t0\tc\t0") } ],
	[ lost => 'its last event', sub { without($_[0], qr/\t7\t1$/); change($_[0], 'dump', qr/^head\t0\tc\t2/, "head\t0\tc\t1") } ],
	[ doubled => 'a retry was done again', sub { my ($h) = @_;
			my $row = "0\t12\ta\t5\t6\t0";
			push @{ $h->{dump} }, everywhere($row);
			push @{ $h->{$_} }, "event\t$row" for qw(reader.1 reader.2 consumer.1);
			change($h, 'dump', qr/^head\t0\ta\t4/, "head\t0\ta\t5");
			change($h, 'writer.2', qr/a:4:9/, 'a:5:12');
			change($h, 'writer.1', qr/^intent\t20\t7/, "intent\\t7\\t7") } ],
	[ refused => 'a refused call', sub { my ($h) = @_;
			for my $row ("0\t12\ta\t5\t3\t0", "0\t13\tb\t3\t3\t1")
			{
				push @{ $h->{dump} }, everywhere($row);
				push @{ $h->{$_} }, "event\t$row" for $row =~ /\ta\t/ ? qw(reader.1 reader.2 consumer.1) : qw(reader.1 consumer.1);
			}
			change($h, 'dump', qr/^head\t0\ta\t4/, "head\t0\ta\t5");
			change($h, 'dump', qr/^head\t0\tb\t2/, "head\t0\tb\t3") } ],
	[ split => 'a part of an unknown call', sub { my ($h) = @_;
			my $row = "0\t12\ta\t5\t5\t0";
			push @{ $h->{dump} }, everywhere($row);
			push @{ $h->{$_} }, "event\t$row" for qw(reader.1 reader.2 consumer.1);
			change($h, 'dump', qr/^head\t0\ta\t4/, "head\t0\ta\t5") } ],
	[ invented => 'an event of no call', sub { my ($h) = @_;
			my $row = "0\t12\tb\t3\t99\t0";
			push @{ $h->{dump} }, everywhere($row);
			push @{ $h->{$_} }, "event\t$row" for qw(reader.1 consumer.1);
			change($h, 'dump', qr/^head\t0\tb\t2/, "head\t0\tb\t3") } ],
	[ answer => 'another version', sub { change($_[0], 'writer', qr/f\ta:1:1/, "f\\ta:2:1") } ],
	[ answer => 'another position', sub { change($_[0], 'writer', qr/b:1:3/, 'b:1:4') } ],
	[ answer => 'other positions of a batch', sub { change($_[0], 'writer', qr/\*:10:11/, '*:10:12') } ],
	[ replay => 'the retry has another answer', sub { push @{ $_[0]{'writer.2'} }, "again\t13\t6", "ack\t14\t6\tt\ta:4:10" } ],
	[ replay => 'the retry is refused', sub { push @{ $_[0]{'writer.2'} }, "again\t13\t6", "refused\t14\t6\tYE001" }, 'refused' ],
	[ expected => 'it was at another version', sub { change($_[0], 'writer', qr/a=1/, 'a=2') } ],
	[ versions => 'a version is missing', sub { my ($h) = @_;
			change($h, 'dump|reader.1', qr/\tc\t2\t/, "\\tc\\t3\\t");
			change($h, 'dump', qr/^head\t0\tc\t2/, "head\\t0\\tc\\t3");
			# A consumer would see the gap too; it is shown the event of the version in between as well.
			change($h, 'consumer', qr/\tc\t2\t/, "\\tc\\t3\\t") }, 'delivery' ],
	[ order => 'positions go down', sub { my ($h) = @_;
			change($h, 'dump|reader.1|consumer', qr/\tc\t1\t7/, "\\tc\\tX\\t7");
			change($h, 'dump|reader.1|consumer', qr/\tc\t2\t7/, "\\tc\\t1\\t7");
			change($h, 'dump|reader.1|consumer', qr/\tc\tX\t7/, "\\tc\\t2\\t7");
			change($h, 'writer', qr/c=0\t/, "-\\t") }, 'delivery' ],
	[ realtime => 'it began later and is before', sub { change($_[0], 'writer', qr/^intent\t7\t6/, "intent\\t22\\t6") } ],
	[ reading => 'es_read has less', sub { my ($h) = @_; @{ $h->{dump} } = grep { !/^read\t0\t9/ } @{ $h->{dump} } } ],
	[ reading => 'es_stream_version is behind', sub { change($_[0], 'dump', qr/^head\t0\tc\t2/, "head\\t0\\tc\\t1") } ],
	[ feed => 'a gap', sub { my ($h) = @_; @{ $h->{'reader.1'} } = grep { !/^event\t0\t5\t/ } @{ $h->{'reader.1'} } } ],
	[ feed => 'another order', sub { my ($h) = @_; @{ $h->{'reader.1'} }[ 3, 4 ] = @{ $h->{'reader.1'} }[ 4, 3 ] } ],
	[ feed => 'an event twice', sub { my ($h) = @_; splice @{ $h->{'reader.1'} }, 3, 0, $h->{'reader.1'}[3] } ],
	[ feed => 'not to the end', sub { pop @{ $_[0]{'reader.1'} } } ],
	[ stream => 'a gap', sub { splice @{ $_[0]{'reader.2'} }, 2, 1 } ],
	[ stream => 'another order', sub { my ($h) = @_; @{ $h->{'reader.2'} }[ 1, 2 ] = @{ $h->{'reader.2'} }[ 2, 1 ] } ],
	[ reported => 'a reader saw what is not there', sub { push @{ $_[0]{'reader.1'} }, "event\t0\t12\ta\t5\t5\t0" } ],
	[ reported => 'a reader of a stream did', sub { push @{ $_[0]{'reader.2'} }, "event\t0\t12\ta\t5\t5\t0" } ],
	[ reported => 'a consumer did', sub { push @{ $_[0]{'consumer.1'} }, "event\t0\t12\ta\t5\t5\t0" } ],
	[ reported => 'a position was given to another event', sub { change($_[0], 'reader.1', qr/^event\t0\t9\ta\t4\t6/, "event\\t0\\t9\\ta\\t4\\t5") } ],
	[ delivery => 'never', sub { my ($h) = @_; @{ $h->{'consumer.1'} } = grep { !/^event\t0\t11\t/ } @{ $h->{'consumer.1'} } } ],
	[ delivery => 'a later version first', sub { my ($h) = @_; @{ $h->{'consumer.1'} } = ("fetch\t0", "event\t0\t2\ta\t2\t2\t0", @{ $h->{'consumer.1'} }) } ],
	[ delivery => 'not in order of position', sub { my ($h) = @_; @{ $h->{'consumer.1'} }[ 2, 3 ] = @{ $h->{'consumer.1'} }[ 3, 2 ] } ],
	[ redelivery => 'after it was acknowledged', sub { change($_[0], 'consumer', qr/^ack\t3\t5/, "ack\\t3\\t6") } ],
	[ projection => 'a row is missing', sub { my ($h) = @_; @{ $h->{dump} } = grep { !/^projection\t0\t3/ } @{ $h->{dump} } } ],
	[ projection => 'a row is there twice', sub { push @{ $_[0]{dump} }, "projection\t0\t3\tb\t1\t2\t1" } ],
	[ checkpoint => 'ahead', sub { push @{ $_[0]{'monitor.1'} }, "checkpoint\t3\t12\t11" } ],
	[ mark => 'back', sub { push @{ $_[0]{'monitor.1'} }, "mark\t3\t10" } ],
	[ finding => 'of es_check', sub { push @{ $_[0]{dump} }, "finding\t0\tversion a 3" } ],
);

my %covered;
for my $case (@cases)
{
	my ($rule, $what, $do, @also) = @$case;
	my $history = history();

	$do->($history);
	($found) = findings($history);
	is(join(' ', sort keys %$found), join(' ', sort $rule, @also), "$rule: $what") or diag(explain($found));
	$covered{$rule} = 1;
}
is(join(' ', grep { !$covered{$_} } sort keys %Checker::rules), '', 'every rule has a change that it sees');

done_testing();
