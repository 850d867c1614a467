# Checks the SQL scripts that are compiled into the library (sql/<wing>/*.sql) against the C code, for "make lint":
#
#   each script is run by a file of its wing or of one above, and each that is run is there;
#   a value (:name) of a script is explained in the comment at its top;
#   in wings that have scripts no C string begins with CREATE, ALTER or COMMENT ON.
#
# That they parse and run is shown by the tests: es_create_store() and es_check() run all of them.
# usage: perl scripts.pl TOP
use strict;
use warnings;

my $top = shift // '.';
my $bad = 0;

sub complain { print "@_\n"; $bad = 1; return }
sub slurp { open(my $f, '<', $_[0]) or die "$_[0]: $!\n"; local $/; my $text = <$f>; return $text }

my %used;
for my $file (glob "$top/src/*/*.c")
{
	next if $file =~ /script_texts\.c$/;
	my $name = $file =~ s{^\Q$top\E/}{}r;
	my $text = slurp($file);
	$text =~ s{/\*.*?\*/}{}gs;
	# Names in arrays are followed by nothing but a comma or a brace.
	while ($text =~ /"([a-z]+\/[a-z_0-9]+)"/g)
	{
		my $script = $1;
		$used{$script} = 1;
		complain("$name: there is no sql/$script.sql") if !-e "$top/sql/$script.sql";
	}
	my ($wing) = $name =~ m{^src/(\w+)/};
	next if $wing !~ /^(?:store|proof)$/;
	complain("$name: \"$1 ...\" belongs into a file in sql/$wing/") while $text =~ /"\s*(CREATE|ALTER|COMMENT ON)\b/g;
}

for my $file (glob "$top/sql/*/*.sql")
{
	my ($name) = $file =~ m{sql/(\w+/\w+)\.sql$};
	my $text = slurp($file);
	my ($head, $body) = $text =~ /\A((?:--[^\n]*\n)+)(.*)\z/s;
	if (!defined $head) { complain("sql/$name.sql: does not begin with a comment"); next }
	complain("sql/$name.sql: nothing runs it") if !$used{$name};
	complain("sql/$name.sql: has a tab") if $text =~ /\t/;
	$body =~ s/^\s*--.*\n//mg;
	my %values = map { $_ => 1 } $body =~ /(?<!:):([a-z_]+)/g;
	for my $value (sort keys %values)
	{
		complain("sql/$name.sql: what is :$value?") if $head !~ /\b\Q$value\E\b/;
	}
}
exit $bad;
