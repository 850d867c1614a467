# Rules documents by a grammar, with mistakes in them at times, on events with data of every shape: a document is
# refused, or loads with it end in a state or a clean error. A state is the same whether it comes from a snapshot, from a
# replay, or from es_history.
#
# ES_FUZZ_SEED is another seed, ES_LONG=1 draws one and takes minutes, ES_FUZZ_SECONDS says how long.
use strict;
use warnings;

use Fuzz;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $seconds = $ENV{ES_FUZZ_SECONDS} || ($ENV{ES_LONG} ? 150 : 12);
my $per_batch = 50;
my $streams = 20;
my $dir = PostgreSQL::Test::Utils::tempdir();

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "log_min_error_statement = panic\nlog_error_verbosity = terse");
$node->start;
begin_with_seed();
$node->safe_psql('postgres', 'CREATE EXTENSION event_store; SELECT es_create_store()');

# ---- JSON, as text

my @keys = ('a', 'b', 'c', 'd', 'n', 's', 'sku', 'list', 'o', '', 'a.b', '$state', '{a}', '\\', '0', 'x' x 300, 'value', 'field');

sub string
{
	my ($text) = @_;

	$text =~ s/([\\"])/\\$1/g;
	return "\"$text\"";
}

sub number { return pick('0', '1', '-1', '2', '7', '0.1', '-0.0', '10.00', '1e2', '1e-20', '9223372036854775807', '9223372036854775808', '-9223372036854775808', '12345678901234567890.123456789', '1e131071', '1e-16383', '3') }
sub list { my ($make, $max) = @_; return '[' . join(', ', map { $make->() } 1 .. int rand(($max // 4) + 1)) . ']' }

sub json
{
	my ($depth) = (@_, 0);
	my $what = int rand($depth > 3 ? 6 : 10);

	return number() if $what <= 2;
	return string(pick(@keys, 'text', "it's", 'y' x 3000)) if $what <= 4;
	return pick('null', 'true', 'false') if $what == 5;
	return list(sub { json($depth + 1) }) if $what <= 7;
	return '{' . join(', ', map { string(pick(@keys)) . ': ' . json($depth + 1) } 1 .. int rand 4) . '}';
}

# An event's data: numbers where numbers are mostly wanted.
sub data
{
	return json() if chance(.1);
	return '{' . join(', ', (map { "\"$_\": " . (chance(.9) ? number() : json()) } qw(a n b)), (map { "\"$_\": " . json() } qw(c d o)),
		'"s": ' . string(pick(@keys, 'text')), '"sku": ' . pick('"a"', '"b"', '7', '1.50', 'null', '{}'), '"list": ' . list(\&json), '"deep": ' . nested()) . '}';
}

sub nested { my $depth = pick(1, 2, 50); return '{"a": ' x $depth . '1' . '}' x $depth }

# ---- the language (state/rules.c has it at the top)

sub segment
{
	my ($depth) = @_;

	return '{' . text_source($depth + 1) . '}' if $depth < 3 && chance(.15);
	return pick(qw(a b c d n s sku list o deep), 'a', 'b', 'n', '0', '\\.', 'x\\.y', '\\{', '\\}', '\\\\', '\\$state', 'k' x 200, 'unknown');
}
sub path { my ($depth) = (@_, 0); return join('.', map { segment($depth) } 1 .. pick(1, 1, 1, 2, 2, 3, 8)) }
sub target { return chance(.05) ? '' : path() }

sub text_source
{
	my ($depth) = (@_, 0);

	return '' if chance(.05);
	return '$metadata' . (chance(.7) ? '.' . path($depth) : '') if chance(.1);
	return '$event.' . pick(qw(type version position occurred_at recorded_at stream schema_version id), 'nothing') if chance(.2);
	return '$state' . (chance(.8) ? '.' . path($depth) : '') if chance(.2);
	return path($depth);
}

sub source
{
	my ($numeric) = @_;

	return '{"value": ' . ($numeric && chance(.8) ? number() : json()) . '}' if chance(.15);
	return '{"field": ' . string(text_source()) . ', "default": ' . ($numeric ? number() : json()) . '}' if chance($numeric ? .5 : .2);
	return string(chance(.6) && $numeric ? pick(qw(a n b)) : text_source());
}

sub pairs
{
	my ($value) = @_;

	return '{' . join(', ', map { string(target()) . ': ' . $value->() } 1 .. pick(1, 1, 1, 2, 3)) . '}';
}

my %operations = (
	(map { $_ => sub { return pairs(sub { source(1) }) } } qw(add subtract min max)),
	(map { $_ => sub { return pairs(sub { source(0) }) } } qw(set append merge)),
	count => sub { return pick(string(target()), list(sub { string(target()) }, 3), pairs(sub { number() })) },
	remove => sub { return pairs(sub { chance(.4) ? '{"key": ' . string(path()) . ', "equals": ' . source(0) . '}' : source(0) }) },
	unset => sub { return pick(string(target()), list(sub { string(target()) }, 3)) },
);

sub condition
{
	my $test = pick(qw(is not in above below at_least at_most exists));
	my $value = $test eq 'in' ? list(\&json) : $test eq 'exists' ? pick('true', 'false') : $test =~ /^(is|not)$/ ? json() : number();

	return '{"field": ' . source(0) . ", \"$test\": $value}";
}

sub operations
{
	my @members = map { "\"$_\": " . $operations{$_}->() } map { pick(sort keys %operations) } 1 .. pick(1, 1, 1, 2, 3);

	push @members, '"when": ' . (chance(.6) ? condition() : list(\&condition, 3)) if chance(.3);
	return '{' . join(', ', @members) . '}';
}

sub rule { return chance(.7) ? operations() : list(\&operations, 4) }

sub document
{
	return json() if chance(.03);
	return '{"A": ' . '[' x 2000 . ']' x 2000 . '}' if chance(.005);
	my $document = '{' . join(', ', map { string(pick('A', 'B', 'C', '*', 'none')) . ': ' . rule() } 1 .. pick(1, 2, 3)) . '}';

	# A mistake: something is missing, there twice, or another thing.
	if (chance(.2))
	{
		my @tokens = $document =~ /("(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s"\[\]{}:,]+)/g;
		my $at = int rand @tokens;

		$tokens[$at] = pick('{}', '[]', 'null', json(), string(pick(@keys)), string(target()), string('when'), $tokens[ int rand @tokens ]);
		$document = join(' ', @tokens);
	}
	return $document;
}

# ---- events

my $script = '';
for my $n (1 .. $streams)
{
	my @events = map { sprintf('{"type": "%s", "data": %s, "metadata": {"a": %s, "s": "m"}}', pick(qw(A B C)), data(), json()) } 1 .. pick(1, 3, 10, 40);
	$script .= "SELECT es_append('f-$n', 0, " . literal('[' . join(', ', @events) . ']') . "::jsonb);\n";
}
$node->safe_psql('postgres', $script);

# ---- documents

my (%states, @bad, %count);

sub batch
{
	my ($stdout, $stderr) = ('', '');
	my @documents = map { document() } 1 .. $per_batch;

	open(my $out, '>', "$dir/batch") or die $!;
	print $out "SET statement_timeout = '1s';\nSET client_min_messages = error;\n";
	for my $n (0 .. $#documents)
	{
		my $stream = 'f-' . (1 + int rand $streams);
		my $initial = chance(.8) ? "'{}'" : literal(json());

		print $out "SELECT es_register_aggregate('f', rules => " . literal($documents[$n]) . ", initial_state => $initial, snapshot_every => 1000);\n";
		print $out "\\echo REGISTER $n :SQLSTATE :LAST_ERROR_MESSAGE\n";
		for my $statement ("SELECT 'MD5 $n ' || md5(state::text) FROM es_load('$stream')",
			"SELECT 'MD5 $n ' || md5(state::text) FROM es_history('$stream') ORDER BY version DESC LIMIT 1",
			"SELECT 'VERSION ' || es_snapshot('$stream')",
			"SELECT 'MD5 $n ' || md5(state::text) FROM es_load('$stream')",
			"SELECT 'VALID ' || count(*) FROM es_load_valid_at('$stream', now())",
			"SELECT 'CATEGORY ' || count(state) FROM es_load_category('f')")
		{
			# What was refused leaves the earlier document in place, which has been tried.
			print $out "$statement;\n\\echo LOAD $n :SQLSTATE :LAST_ERROR_MESSAGE\n" if $statement !~ /category/ || chance(.1);
		}
		print $out "\\echo END $n\n";
	}
	close $out;
	IPC::Run::run([ 'psql', '-X', '-q', '-A', '-t', '-d', $node->connstr('postgres'), '-f', "$dir/batch" ], '>', \$stdout, '2>', \$stderr, IPC::Run::timeout(600));

	my %md5;
	my $ended = 0;
	my %registered;
	for (split /\n/, $stdout)
	{
		if (/^(REGISTER|LOAD) (\d+) (\w{5}) ?(.*)/)
		{
			my ($what, $n, $state, $message) = ($1, $2, $3, $4);

			$count{"$what " . ($state eq '00000' ? 'succeeded' : 'failed')}++ if $what eq 'REGISTER' || $registered{$n};
			$registered{$n} = 1 if $what eq 'REGISTER' && $state eq '00000';
			$states{"$what $state"}++;
			push @bad, "$state $message: $documents[$n]" if $what eq 'REGISTER' && $state !~ /^(00000|22023|54001|22P02|22003)$/;
			# 54000: numbers such as 1e131071 are short in a state, but its text is too long for the query to show.
			push @bad, "$state $message: $documents[$n]" if $what eq 'LOAD' && $state !~ /^(00000|YE006|YE008|54000|57014)$/;
		}
		elsif (/^MD5 (\d+) (\w+)/) { $md5{$1}{$2} = 1 }
		elsif (/^END/) { $ended++ }
	}
	push @bad, map { "states differ: $documents[$_]" } grep { keys %{ $md5{$_} } > 1 } sort keys %md5;
	push @bad, "the connection was lost: $documents[$ended]\n$stderr" if $ended != $per_batch;
	return $ended == $per_batch;
}

my $start = time;
while (time - $start < $seconds && @bad < 10)
{
	last if !batch();
	is($node->safe_psql('postgres', "SELECT * FROM es_check('all')"), '', 'es_check finds nothing') if chance(.1);
}
note("$_: $states{$_}") for sort keys %states;
note("$_: $count{$_}") for sort keys %count;
is(join("\n", map { substr($_, 0, 3000) } @bad), '', 'every document is refused, or gives states that agree, or clean errors');
cmp_ok($count{$_} // 0, '>', 100, "$_ > 100") for 'REGISTER succeeded', 'REGISTER failed', 'LOAD succeeded', 'LOAD failed';
is($node->safe_psql('postgres', "SELECT * FROM es_check('all')"), '', 'es_check finds nothing');
$node->stop;
log_is_clean($node);
done_testing();
