# The source keeps to the order of its wings, and the check that says so sees what does not: each rule of it is broken in a
# copy of the source.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

my $source = $ENV{ES_SRC} or plan skip_all => 'ES_SRC is not set';
my $number = 0;

sub check
{
	my ($dir) = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ $^X, "$source/test/wings.pl", $dir ], '>', \$out, '2>', \$err);
	return $out . $err;
}

# What the check says of the source with some more lines in a file.
sub check_with
{
	my ($file, $lines) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir() . '/broken' . ++$number;

	mkdir $dir or die "$dir: $!";
	PostgreSQL::Test::Utils::system_or_bail('cp', '-R', "$source/src", "$dir/");
	my $path = "$dir/src/$file";
	PostgreSQL::Test::Utils::system_or_bail('mkdir', '-p', $path =~ s{/[^/]+\z}{}r);
	append_to_file($path, $lines);
	return check($dir);
}

is(check($source), '', 'the source keeps to the order of its wings');

my @broken = (
	[ 'an include of a wing above', 'log/mark.c', qq[#include "state/state.h"\n], qr/^src\/log\/mark\.c:\d+: includes state\/state\.h, and state\/ is not below log$/m ],
	[ 'an include of a sibling', 'read/functions.c', qq[#include "append/append.h"\n], qr/includes append\/append\.h, and append\/ is not below read$/m ],
	[ 'an include of an inner header', 'proof/check.c', qq[#include "append/key.h"\n], qr/the header of append\/ for others is append\/append\.h$/m ],
	[ 'a call of a wing above without its header', 'base/sql.c', "extern void es_partition_prepare(long);\n", qr/^src\/base\/sql\.c:\d+: uses es_partition_prepare of log\/, which is not below base$/m ],
	[ 'a read of a table below SQL', 'state/load.c', "static void f(void) { table_open(1, 1); }\n", qr/^src\/state\/load\.c:\d+: calls table_open; only log\//m ],
	[ 'the same by a wrapper', 'proof/seal.c', "static void f(void) { es_index_beginscan(0, 0, 0, 0); }\n", qr/^src\/proof\/seal\.c:\d+: calls es_index_beginscan; only log\//m ],
	[ 'a long file', 'base/long.c', "int x;\n" x 801, qr/^src\/base\/long\.c: has more than 800 lines$/m ],
	[ 'a folder that is no wing', 'misc/x.c', "int x;\n", qr/^src\/misc: is no wing/m ]);
like(check_with($_->[1], $_->[2]), $_->[3], "$_->[0] is seen") for @broken;

# What only looks like it.
is(check_with('base/sql.c', "/* es_partition_prepare() and table_open() */\nstatic const char *x = \"table_open(\";\n"), '',
	'comments and strings are not');

done_testing();
