# The SQL scripts fit the C code that runs them, and the check that says so sees what does not.
use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

my $source = $ENV{ES_SRC} or plan skip_all => 'ES_SRC is not set';
my $number = 0;

# What the check says of a copy of the source with some more lines in a file.
sub check_with
{
	my ($file, $lines) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir() . '/broken' . ++$number;
	my ($out, $err) = ('', '');

	mkdir $dir or die "$dir: $!";
	PostgreSQL::Test::Utils::system_or_bail('cp', '-R', "$source/src", "$source/sql", "$dir/");
	append_to_file("$dir/$file", $lines) if defined $file;
	IPC::Run::run([ $^X, "$source/test/scripts.pl", $dir ], '>', \$out, '2>', \$err);
	return $out . $err;
}

is(check_with(), '', 'the scripts fit the code');
like(check_with('src/store/create.c', qq[const char *x = "CREATE TABLE event_store.x (y int)";\n]),
	qr/^src\/store\/create\.c: "CREATE \.\.\." belongs into a file/m, 'a statement in C is seen');
like(check_with('src/log/mark.c', qq[static void f(void) { es_script_run("log/nothing", 0, 0); }\n]),
	qr/^src\/log\/mark\.c: there is no sql\/log\/nothing\.sql$/m, 'a script that is not there is seen');
like(check_with('sql/log/nothing.sql', "-- Nothing.\n\nSELECT 1;\n"), qr/^sql\/log\/nothing\.sql: nothing runs it$/m,
	'one that nothing runs is seen');
like(check_with('sql/store/rows.sql', "SELECT :surprise;\n"), qr/^sql\/store\/rows\.sql: what is :surprise\?$/m,
	'a value that is not explained is seen');

done_testing();
