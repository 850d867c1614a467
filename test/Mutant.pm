# The library built in another way, with a known bug or with faults (see "Mutants" and "Faults" in README.md), and having
# a database use it.
package Mutant;

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter 'import';
use File::Basename;
use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(find_pg_config make build_mutant build_faults set_faults use_library);

my $source = $ENV{ES_SRC} // abs_path(dirname(__FILE__) . '/..');
my $mutants = abs_path(dirname(__FILE__) . '/mutants');

# The first in the path may be a copy, which "make check" makes to install into; the headers are with
# the original.
sub find_pg_config
{
	my $version = `pg_config --version`;

	for (grep { defined } $ENV{PG_CONFIG}, (map { "$_/pg_config" } split /:/, $ENV{PATH}), glob '/usr/lib/postgresql/*/bin/pg_config')
	{
		chomp(my ($this, $includedir, $pgxs) = map { scalar `$_ 2>/dev/null` } "$_ --version", "$_ --includedir", "$_ --pgxs");
		return $_ if "$this\n" eq $version && -f "$includedir/libpq-fe.h" && -f $pgxs;
	}
	BAIL_OUT('no pg_config with headers');
}

sub make
{
	my (@command) = @_;
	my ($out, $err) = ('', '');

	local $ENV{MAKEFLAGS} = '';
	return 1 if IPC::Run::run([ 'make', @command ], '>', \$out, '2>', \$err);
	diag($out, $err);
	return 0;
}

# Applies a known bug to a copy of the source; the files that it changes. A patch that no longer applies is to be made anew:
# without it nothing shows that the test sees the bug.
sub apply
{
	my ($mutant, $dir) = @_;
	my $patch = "$mutants/$mutant.patch";
	my $said = '';

	my $applied = IPC::Run::run([ 'patch', '-p1', '--force', '--fuzz=0', "--directory=$dir", "--input=$patch" ], '>', \$said, '2>&1');
	ok($applied, "mutant $mutant is applied") or diag($said);
	die "$patch does not apply" unless $applied;
	return slurp_file($patch) =~ m{^\+\+\+ b/(\S+)}mg;
}

# Builds the library in a directory of its own, with the bug of a patch if one is given; its path. Of an ordinary build what
# would not differ is taken as it is: most of the source has neither a fault nor the bug in it.
sub build
{
	my ($name, $mutant, @options) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir() . "/$name";

	mkdir $dir or die "$dir: $!";
	for (qw(Makefile event_store.control src sql))
	{
		PostgreSQL::Test::Utils::system_or_bail('cp', '-R', '-p', "$source/$_", "$dir/");
	}
	my %changed = defined $mutant ? map { ("$dir/$_" => 1) } apply($mutant, $dir) : ();
	unlink "$dir/event_store.so",
		map { s/c\z/o/r } grep { $ENV{ES_COVERAGE} || $ENV{ES_UBSAN} || $changed{$_} || slurp_file($_) =~ /ES_FAULT|es_fault/ } glob "$dir/src/*.c $dir/src/*/*.c";
	ok(make('-s', '-C', $dir, 'PG_CONFIG=' . find_pg_config(), 'with_llvm=no', @options, '-j2', 'event_store.so'),
		"$name is built");
	return "$dir/event_store.so";
}

# Builds the library with a known bug, a patch in test/mutants; its path.
sub build_mutant
{
	my ($mutant) = @_;
	return build("mutant-$mutant", $mutant);
}

# Builds the library with faults; its path.
sub build_faults
{
	return build('faults', undef, 'ES_FAULTS=1');
}

# Has a server, whose configuration includes fault.conf, read these lines from it: all at once, and without a session, as there
# may be none.
sub set_faults
{
	my ($node, @lines) = @_;
	my $file = $node->data_dir . '/fault.conf';

	open my $out, '>', "$file.new" or die "$!";
	print $out map { "$_\n" } @lines;
	close $out;
	rename "$file.new", $file or die "$!";
	open my $pid_file, '<', $node->data_dir . '/postmaster.pid' or return;
	my $postmaster = <$pid_file>;
	kill 'HUP', $postmaster if $postmaster;
	return;
}

# Has a database that has the extension use another library, before any session of it loads the ordinary one.
sub use_library
{
	my ($node, $db, $library) = @_;
	my $others = $node->safe_psql($db, qq[
		UPDATE pg_proc SET probin = '$library' WHERE oid IN
			(SELECT objid FROM pg_depend d JOIN pg_extension e ON d.refobjid = e.oid
			 WHERE e.extname = 'event_store' AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e') AND probin IS NOT NULL;
		SELECT count(*) FROM pg_proc WHERE probin LIKE '%event_store%' AND probin <> '$library']);
	is($others, 0, "$db: every function is the other library's");
	return;
}

1;
