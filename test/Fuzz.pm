# What tests with random input have in common: drawing, SQL literals, and what the server's log must not have in the end.
package Fuzz;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(begin_with_seed pick chance literal log_is_clean);

# ES_FUZZ_SEED, or one that is always the same, so that what fails fails again; or, as long runs look for what is new, any.
# To be called after the servers are made, which draw ports.
sub begin_with_seed
{
	my $seed = $ENV{ES_FUZZ_SEED} || ($ENV{ES_LONG} ? int(rand(1e9)) : 1);

	note("ES_FUZZ_SEED=$seed");
	srand($seed);
	return $seed;
}

sub pick { return $_[ int rand @_ ] }
sub chance { return rand() < $_[0] }

sub literal
{
	my ($text) = @_;

	$text =~ s/'/''/g;
	return "'$text'";
}

sub log_is_clean
{
	my ($node) = @_;
	my $said = slurp_file($node->logfile);

	unlike($said, qr/TRAP:|PANIC:|was terminated by signal/, 'no server process died');
	unlike($said, qr/WARNING: .*(leak|not closed|left non-empty|problem in alloc set|write past chunk end)/, 'and none complains');
	return;
}

1;
