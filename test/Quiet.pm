# For tests with sessions in the background: PostgreSQL::Test::BackgroundPsql would print every query and answer.
package Quiet;

use strict;
use warnings;

{
	no warnings qw(once redefine);
	*PostgreSQL::Test::BackgroundPsql::note = sub { };
}

1;
