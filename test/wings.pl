#!/usr/bin/env perl
# Whether the source keeps to the order of its wings (src/README.md): perl test/wings.pl [DIRECTORY WITH src]
#
# Prints each place that does not, and then exits with 1:
#   - an include of a wing that is not below, or of a header of another wing that is not its public one;
#   - a use of a function or variable of a wing that is not below, however it was declared;
#   - a call of table_*, index_* or heap_* outside of log/, the one wing that reads and writes tables below SQL;
#   - a file of more than 800 lines; a folder that is no wing.
use strict;
use warnings;

# From bottom to top; those of one line are siblings and know nothing of each other.
my @order = (
	['base'], ['worker'], ['store'], ['log'], ['state'], [ 'append', 'read' ], ['consumer'],
	[ 'projection', 'subscription', 'upstream' ], [ 'proof', 'privacy' ], [ 'moving', 'capture', 'deploy' ]);
my %rank;
for my $i (0 .. $#order)
{
	$rank{$_} = $i for @{ $order[$i] };
}
# These work on a row or row type in memory, and touch no table.
my %harmless = map { $_ => 1 } qw(heap_form_tuple heap_deform_tuple heap_getattr heap_freetuple heap_copytuple es_tuple_desc_finalize);
my $longest = 800;

my $top = shift // '.';
my $bad = 0;

sub complain
{
	print join('', @_), "\n";
	$bad = 1;
}

# The text without what is in comments and strings; lines stay where they are.
sub code
{
	my ($text) = @_;

	$text =~ s{(/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+')}{
		my $what = $1;
		$what =~ m{\A["']} ? '""' : "\n" x ($what =~ tr/\n//)
	}gesx;
	return $text;
}

my (%text, %code);
for my $path (sort glob "$top/src/*.[ch] $top/src/*/*.[ch]")
{
	next if $path =~ /\/script_texts\.c\z/;		# made by make
	open my $in, '<', $path or die "$path: $!\n";
	local $/;
	my $name = $path =~ s{\A\Q$top\E/src/}{}r;
	$text{$name} = <$in>;
	$code{$name} = code($text{$name});
}
die "no source in $top/src\n" unless %text;

# event_store.c is above all wings.
sub wing { return $_[0] =~ m{\A([^/]+)/} ? $1 : '' }
sub below
{
	my ($lower, $upper) = @_;
	return $upper eq '' || $rank{$lower} < $rank{$upper};
}

my %unknown = map { wing($_) => 1 } keys %text;
delete @unknown{ '', keys %rank };
complain("src/$_: is no wing that this check knows") for sort keys %unknown;
delete @text{ grep { $unknown{ wing($_) } } keys %text };

# What each wing exports.
my %home;
for my $file (sort keys %text)
{
	next unless $file =~ m{/.*\.c\z};
	$home{$1} = wing($file) while $code{$file} =~ /^(es_\w+)\(/mg;
	$home{$1} = wing($file) while $code{$file} =~ /^(?!static\b|extern\b|typedef\b|return\b)(?:const\s+)?\w+[ \t*]+(?:const\s+)?(es_\w+)(?:\[[^\]\n]*\])?[ \t]*(?:=|;)/mg;
}

for my $file (sort keys %text)
{
	my $wing = wing($file);
	my $number = 0;
	my @lines = split /\n/, $code{$file};

	complain("src/$file: has more than $longest lines") if ($text{$file} =~ tr/\n//) > $longest && $file ne 'base/script_texts.c';    # made by make
	for my $line (split /\n/, $text{$file})
	{
		$number++;
		if ($line =~ m{\A\s*#\s*include\s+"(\w+)/(\w+)\.h"} && exists $rank{$1})
		{
			my ($other, $header) = ($1, $2);
			next if $other eq $wing;
			complain("src/$file:$number: includes $other/$header.h, and $other/ is not below ", $wing || 'it') unless below($other, $wing);
			complain("src/$file:$number: includes $other/$header.h; the header of $other/ for others is $other/$other.h")
			  unless $header eq $other || "$other/$header" eq 'base/compat';
		}
		my $code = $lines[ $number - 1 ] // '';
		while ($code =~ /\b(es_\w+)\b/g)
		{
			my $other = $home{$1} // next;
			complain("src/$file:$number: uses $1 of $other/, which is not below ", $wing || 'it') unless $other eq $wing || below($other, $wing);
		}
		next if $wing eq 'log' || $file eq 'base/compat.h';
		while ($code =~ /\b((?:table|index|heap)_\w+|es_(?:table_beginscan|index_beginscan|tuple_(?:update|delete)|insert_index_tuples|check_index_constraints))\s*\(/g)
		{
			complain("src/$file:$number: calls $1; only log/ reads and writes tables below SQL") unless $harmless{$1};
		}
	}
}
exit $bad;
