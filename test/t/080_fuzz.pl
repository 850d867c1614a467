# Every SQL function, called at random with arguments that make sense and with hostile ones, by a superuser, by a role with
# every right and by one with none. Meanwhile, in turn, DDL is forbidden by event triggers, all tables are published, a role is
# renamed, row-level security hides rows, a partition is detached, or an old snapshot is held. Whatever comes, it must be a
# result or a clean error: the server stays up, no internal error, nothing left behind, and es_check finds nothing.
#
# Functions are those that the extension has, so a new one takes part by itself; an argument of a new type makes the test
# fail until it is taught here. ES_FUZZ_SEED is another seed, ES_LONG=1 draws one and takes minutes,
# ES_FUZZ_SECONDS says how long. The seed is printed.
use strict;
use warnings;

use Dba;
use Fuzz;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Session;
use Test::More;
use Time::HiRes qw(time);

my $seconds = $ENV{ES_FUZZ_SECONDS} || ($ENV{ES_LONG} ? 300 : 25);
my $per_batch = 150;
my $dir = PostgreSQL::Test::Utils::tempdir();

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', q[
shared_preload_libraries = 'event_store'
event_store.poll_interval = 100ms
event_store.as_of_wait = 50ms
max_worker_processes = 16
max_prepared_transactions = 5
log_min_error_statement = panic
log_error_verbosity = terse
]);
$node->start;
begin_with_seed();
$node->safe_psql('postgres', 'CREATE ROLE fuzz_app; CREATE ROLE fuzz_none');

# ---- values: SQL expressions

my @words = ('a', 'Opened', 'acct', 'x' x 63, '', ' ', '-', '-1', 'acct-', '--', '%s%n%d', '$1', "it's", 'say "hi"', "two\nlines", "\t\x01\x7f",
	'\\', '\\x00', 'null', 'NaN', '{}', '[1]', "'; DROP TABLE event_store.log; --", 'pg_catalog', 'state || data', '*', '.', 'a.b', '{a}', '$event.type', '0');

# In this encoding they are all valid; some are more than one byte.
my @wide = ("\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x92\xa9", "e\xcc\x81", "\xef\xbf\xbf");
my $database;		# the one that is being fuzzed: its encoding matters

sub hostile_text
{
	my $what = int rand 12;

	return 'NULL' if $what == 0;
	return "repeat('a', " . pick(511, 512, 513, 8191, 100_000, 300_000) . ')' if $what == 1;
	return "repeat(" . literal(pick(@words)) . ', ' . pick(2, 10, 300) . ')' if $what == 2;
	return literal(pick(@wide)) . "::text" if $what == 3 && $database =~ /utf8|icu/;
	return "chr(" . (1 + int rand 127) . ") || " . literal(pick(@words)) if $what == 4;
	return literal(join('', map { chr(128 + int rand 128) } 1 .. 3)) . '::text' if $what == 5 && $database !~ /utf8|icu/;
	return literal(pick(@words)) . '::text';
}

my @integers = (0, 1, -1, 2, -2, -3, -4, -5, 3, 100, 32767, 32768, 2**31 - 1, -2**31);
my @bigints = (@integers, '281474976710655', '281474976710656', '9223372036854775807', '-9223372036854775808', '9223090561878065152', '4294967296');
my @times = qw(infinity -infinity epoch now 2000-01-01 9999-12-31 294276-12-31 4714-11-24BC);
my @intervals = ('0', '1 us', '1 ms', '-1 day', '178000000 years', '-178000000 years', '1 day', '24 h', '5 min', '1 mon -30 days', '2562047788:00:54');

sub hostile_json
{
	my ($depth) = (@_, 0);
	my $what = int rand 16;

	return 'NULL' if $what == 0 && $depth == 0;
	return "(repeat('[', $_) || repeat(']', $_))::jsonb" for $what == 1 && $depth == 0 ? pick(10, 1000, 3000, 7000) : ();
	return "(repeat('{\"a\":', $_) || '1' || repeat('}', $_))::jsonb" for $what == 2 && $depth == 0 ? pick(10, 1000, 3000, 7000) : ();
	return "to_jsonb(" . pick('1e131071::numeric', '-1e-16383::numeric', '0.1', '9223372036854775808', '1', '-0.0', 'true', 'false') . ')' if $what <= 4;
	return "'null'::jsonb" if $what == 5;
	return "to_jsonb(coalesce(" . hostile_text() . ", ''))" if $what <= 8;
	return "jsonb_build_array(" . join(', ', map { hostile_json($depth + 1) } 1 .. int rand 4) . ')' if $what <= 11 && $depth < 4;
	return "jsonb_build_object(" . join(', ', map { literal(pick(qw(type data metadata id occurred_at schema_version events idempotency_key stream
		expected_version value field default when is set add a), @words)) . ', ' . hostile_json($depth + 1) } 1 .. int rand 4) . ')' if $what <= 14 && $depth < 4;
	return "jsonb_build_object('a', repeat('x', " . pick(10, 3000, 100_000) . '))';
}

my %hostile = (
	text => \&hostile_text,
	bigint => sub { return chance(.1) ? 'NULL' : pick(@bigints) . '::bigint' },
	integer => sub { return chance(.1) ? 'NULL' : pick(@integers) . '::integer' },
	boolean => sub { return pick('NULL', 'true', 'false') },
	bytea => sub { return pick('NULL', "''::bytea", "'\\x00'::bytea", "sha256('root')", "repeat('x', 100000)::bytea") },
	jsonb => \&hostile_json,
	uuid => sub { return pick('NULL', "'00000000-0000-0000-0000-000000000000'::uuid", 'gen_random_uuid()', "'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid") },
	'timestamp with time zone' => sub { return chance(.1) ? 'NULL' : literal(pick(@times)) . '::timestamptz' },
	interval => sub { return chance(.1) ? 'NULL' : literal(pick(@intervals)) . '::interval' },
	regclass => sub { return pick('NULL', "'seen'", "'event_store.log'", "'pg_class'", '0', '4294967295', "'event_store.position_seq'", "'event_store.heads_pkey'") . '::regclass' },
);

sub hostile_array
{
	my ($type) = @_;
	my $what = int rand 9;

	return "NULL::${type}[]" if $what == 0;
	return "'{}'::${type}[]" if $what == 1;
	return "ARRAY[NULL]::${type}[]" if $what == 2;
	return "ARRAY[ARRAY[" . $hostile{$type}->() . "], ARRAY[" . $hostile{$type}->() . "]]::${type}[]" if $what == 3;
	return "array_fill((" . $hostile{$type}->() . ")::$type, ARRAY[" . pick(1, 2, 3, 5000) . "])" if $what == 4;
	return "array_fill((" . $hostile{$type}->() . ")::$type, ARRAY[2], ARRAY[" . pick(0, -1, 7, 2147483600) . "])" if $what == 5;
	return "array_fill((" . $hostile{$type}->() . ")::$type, ARRAY[2, 2, 2])" if $what == 6;
	return 'ARRAY[' . join(', ', map { $hostile{$type}->() } 1 .. 1 + int rand 4) . "]::${type}[]";
}

# ---- arguments that make sense, by name

sub stream { return pick('acct', 'acct', 'item', 'other') . '-' . int rand 6 }
sub type { return pick(qw(Opened Deposited Withdrawn)) }
sub data { return sprintf('{"amount": %d, "owner": "%s"}', rand 100, pick(qw(ann bob))) }

sub event
{
	return sprintf('{"type": "%s", "data": %s%s}', type(), data(), pick('', '', ', "metadata": {"correlation_id": "c1"}', ', "schema_version": 2'));
}
sub events { return '[' . join(', ', map { event() } 1 .. 1 + int rand 3) . ']' }
sub key { return 'k' . int rand 20 }

my $length;			# of a call's parallel arrays

sub array
{
	my ($type, $make) = @_;

	return 'ARRAY[' . join(', ', map { literal($make->()) } 1 .. $length) . "]::${type}[]";
}

my $handler = 'INSERT INTO seen SELECT stream, 1 FROM new_events';
my %sensible = (
	above => sub { return 'NULL' },
	after_position => sub { return int rand 50 },
	appends => sub { return literal('[' . join(', ', map { sprintf('{"stream": "%s", "expected_version": "any", "events": %s}', stream(), events()) } 1 .. 1 + int rand 3) . ']') },
	as_of => sub { return pick('now()', "now() - interval '1 s'") },
	backward => sub { return pick('true', 'false') },
	batch_size => sub { return 1 + int rand 100 },
	categories => sub { return pick('NULL', "'{acct}'", "'{acct,item}'") },
	category => sub { return literal(pick(qw(acct item other))) },
	check_expr => sub { return pick('NULL', q['data IS NOT NULL']) },
	consumer => sub { return pick('NULL', q['c1']) },
	correlation_id => sub { return q['c1'] },
	event_id => sub { return pick('NULL', 'gen_random_uuid()') },
	event_ids => sub { return 'NULL' },
	event_type => sub { return literal(type()) },
	expected_version => sub { return pick('NULL', '-2', '-2', '0', '1') },
	expected_versions => sub { return 'NULL' },
	fast => sub { return pick('true', 'false') },
	fingerprint => sub { return q['v1'] },
	fold => sub { return pick('NULL', q['state || data'], q['jsonb_set(state, ''{n}'', to_jsonb(version))']) },
	epoch => sub { return 'es_epoch()' },
	from_position => sub { return int rand 20 },
	from_version => sub { return 1 + int rand 3 },
	handler => sub { return literal($handler) },
	idempotency_key => sub { return pick('NULL', literal(key())) },
	initial_state => sub { return pick("'{}'", q['{"balance": 0}']) },
	known_at => sub { return pick('NULL', 'now()') },
	lease => sub { return literal(pick('1 s', '1 min')) },
	max_batches => sub { return pick('NULL', 1) },
	max_count => sub { return pick(1, 10, 1000) },
	metadata => sub { return 'NULL' },
	mode => sub { return pick(q['async'], q['async'], q['inline']) },
	name => sub { return literal(pick(qw(p1 p2 p3 s1 s2))) },
	new_name => sub { return literal(pick(qw(p1 s1 s2 s3))) },
	old_name => sub { return literal(pick(qw(s1 s2 s3 p1))) },
	node => sub { return 0 },
	occurred_at => sub { return 'NULL' },
	of_type => sub { return pick('NULL', literal(type())) },
	reason => sub { return q['broken'] },
	recorded_at => sub { return 'now()' },
	right => sub { return literal(pick(qw(append read consume import define operate monitor erase))) },
	role => sub { return q['fuzz_app'] },
	rules => sub { return pick('NULL', q['{"Deposited": {"add": {"balance": "amount"}}}']) },
	schema_version => sub { return pick('NULL', 1, 2) },
	schema_versions => sub { return 'NULL' },
	side_effects => sub { return pick('true', 'false', 'false') },
	snapshot_every => sub { return 1 + int rand 10 },
	snapshots => sub { return literal(pick(qw(all sample none))) },
	state => sub { return q['{"balance": 1}'] },
	stream => sub { return literal(stream()) },
	streams => sub { return array('text', \&stream) },
	event_types => sub { return pick('NULL', "'{Deposited}'") },
	subscription => sub { return literal(pick(qw(s1 s2 s3))) },
	tables => sub { return pick('NULL', "'{seen}'") },
	timeout => sub { return q['10 ms'] },
	position => sub { return int rand 50 },
	root => sub { return pick('NULL', "sha256('root')") },
	root_position => sub { return pick('NULL', 10) },
	max_seals => sub { return pick('NULL', 1) },
	to_position => sub { return 20 + int rand 50 },
	to_type => sub { return 'NULL' },
	by_category => sub { return pick('true', 'false') },
	owner => sub { return 'NULL' },
	trace => sub { return pick('true', 'false') },
	transform => sub { return literal(pick('data', q[data || '{"new": 1}'], 'NULL::jsonb')) },
	up_to_position => sub { return int rand 4 },
	until => sub { return pick('NULL', q[now() + '1 ms'], q['infinity']) },
	up_to_version => sub { return 1 + int rand 4 },
	upcast => sub { return pick('true', 'false') },
	valid_at => sub { return 'now()' },
	version => sub { return pick(0, 1, 1) },
	wait => sub { return pick(q['0'], q['1 ms']) },
	data => sub { return literal(data()) },
	events => sub { return literal(events()) },
	'"right"' => sub { return literal(pick(qw(append read consume import define operate monitor erase))) },
);

# What users register is text that we compile and run.
my @expressions = ('state || data', 'data', 'NULL', '', ' ', ';', '(SELECT 1)', 'now()', 'random()', 'pg_sleep(1)', 'sum(version)', 'row_number() OVER ()', 'state -> data', '1 / 0',
	q[state || '[]'], 'jsonb_build_array(state, state)', q[jsonb_build_object('a', state)], 'generate_series(1, 3)', '$1', 'ARRAY[state]', q[data ->> 'amount'], q[(data ->> 'amount')::numeric > 0],
	'version / (version - 2) > 0', 'to_jsonb(1 / (version - 1))', 'nothing', 'data, data', 'data) || (data', q[(es_load('acct-1')).state], 'es_load', 'state FROM event_store.log', q['x'::regclass::text],
	'/* x', 'data -- x', q[U&'\0000'], 'metadata || data', q[coalesce(data, metadata, '{}')], 'occurred_at > recorded_at', 'stream LIKE event_type', 'to_jsonb(data)', 'true', 'false', 'NULL::boolean',
	q[jsonb_path_query(data, '$.*')], q[to_jsonb(repeat('x', 100000))], 'CASE WHEN true THEN data ELSE state END', q[jsonb_set(data, ARRAY[event_type], '1')], '(' x 2000 . 'data' . ')' x 2000);
my @handlers = ('INSERT INTO seen SELECT stream, 1 FROM new_events', 'INSERT INTO seen SELECT stream, 1 / (version - 2) FROM new_events', 'SELECT 1 / 0',
	'DELETE FROM seen; INSERT INTO seen SELECT stream, count(*) FROM new_events GROUP BY 1', '', ';', ';;', 'SELECT', 'COMMIT', 'ROLLBACK', 'SAVEPOINT s', 'BEGIN', 'CREATE TABLE fuzz_t (a int)',
	'TRUNCATE seen', 'SET ROLE fuzz_app', 'RESET ROLE', 'LISTEN x', 'VACUUM', 'COPY seen FROM STDIN', 'COPY seen TO STDOUT', q[SELECT es_append(stream, -2, 'Copied', data) FROM new_events],
	q[SELECT es_append('other-' || version, -2, 'Copied', data) FROM new_events WHERE event_type <> 'Copied'], q[SELECT es_run_projection('p1')], q[SELECT es_drop_projection('p1')],
	q[SELECT es_pause('p1')], 'INSERT INTO nowhere SELECT * FROM new_events', 'SELECT * FROM new_events a, new_events b', q[UPDATE new_events SET stream = 'x'], 'DELETE FROM event_store.log',
	'WITH x AS (DELETE FROM seen RETURNING *) INSERT INTO seen SELECT * FROM x', 'DO $x$ BEGIN NULL; END $x$', q[SELECT set_config('search_path', 'x', false) FROM new_events],
	'INSERT INTO seen SELECT event_type, schema_version FROM new_events', 'INSERT INTO seen VALUES ($1, 1)', 'SELECT es_create_store()', 'SELECT es_publish_mark()', 'SELECT es_load(stream) FROM new_events',
	'MERGE INTO seen USING new_events e ON seen.stream = e.stream WHEN MATCHED THEN UPDATE SET n = n + 1 WHEN NOT MATCHED THEN INSERT VALUES (e.stream, 1)',
	'DECLARE c CURSOR FOR SELECT 1', 'PREPARE p AS SELECT 1', 'EXPLAIN SELECT 1', 'NOTIFY x', 'LOCK seen', 'ANALYZE seen', 'FETCH ALL FROM c', 'TABLE new_events', 'INSERT INTO seen SELECT data::text, 1 FROM new_events');

# A part of what makes sense, replaced.
sub mutated
{
	my ($json) = @_;

	return "jsonb_set(($json)::jsonb, " . literal(pick('{0}', '{0,type}', '{0,data}', '{0,id}', '{0,occurred_at}', '{0,schema_version}', '{0,metadata}', '{0,stream}', '{0,expected_version}',
		'{0,events}', '{0,events,0}', '{0,events,0,type}', '{0,idempotency_key}', '{0,unknown}')) . ', coalesce(' . hostile_json() . ", 'null'))";
}

my %nasty = (
	(map { $_ => sub { return literal(pick(@expressions)) } } qw(fold transform check_expr)),
	handler => sub { return literal(pick(@handlers)) },
	# One that is allowed leaves no positions to go on with.
	above => sub { return pick('NULL', '0', '-1', "'-9223372036854775808'", "'9223372036854775807'", "'9223090561878065152'") },
	(map { my $name = $_; $name => sub { return mutated($sensible{$name}->()) } } qw(events appends)),
	rules => sub { return 'jsonb_build_object(' . literal(pick('*', 'Deposited', '', 'x' x 600)) . ', ' . hostile_json() . ')' },
);

# One of the two ways to fold, and arrays of one length.
my %sensible_calls = (
	es_register_aggregate => sub { my %a = (@_, fold => q['state || data'], rules => q['{"Deposited": {"add": {"balance": "amount"}}}']); $a{ pick('fold', 'rules') } = 'NULL'; return %a; },
	es_append_batch_text => sub { my %a = @_; $a{event_types} = array('text', \&type); $a{data} = array('text', \&data); return %a; },
	es_append_batch => sub { my %a = @_; $a{event_types} = array('text', \&type); $a{data} = array('jsonb', \&data); return %a; },
);

# ---- functions

my @functions;

sub list_functions
{
	for (split /\n/, $node->safe_psql('utf8', q[
		SELECT p.oid::regprocedure, p.proname, p.pronargdefaults, p.proisstrict, p.prorettype::regtype, coalesce(a.args, '')
		FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
		JOIN pg_extension x ON x.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass AND x.extname = 'event_store'
		CROSS JOIN LATERAL (SELECT string_agg(p.proargnames[n] || '=' || format_type(t, NULL), ';' ORDER BY n) AS args
			FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY u (t, n)) a ORDER BY p.oid::regprocedure::text]))
	{
		my ($signature, $name, $defaults, $strict, $returns, $args) = split /\|/;
		my @args = map { my ($arg, $type) = /^(.*)=(.*)$/; { name => $arg, type => $type } } split /;/, $args // '';

		for my $arg (@args)
		{
			(my $element = $arg->{type}) =~ s/\[\]$//;
			BAIL_OUT("$signature has an argument of type $arg->{type}: teach this test hostile values of it") if !exists $hostile{$element};
			note("$signature has an argument $arg->{name}, of which this test knows no sensible values") if !exists $sensible{ $arg->{name} };
		}
		push @functions, { signature => $signature, name => $name, defaults => $defaults, strict => $strict eq 't', args => \@args,
			never => scalar($returns =~ /^(trigger|fdw_handler)$/) };
	}
	# Not a function, but a way in.
	push @functions, { signature => 'event_store.import', name => 'import', import => 1, defaults => 4, args => [
		map { my ($n, $t) = @$_; { name => $n, type => $t } } [ stream => 'text' ], [ event_type => 'text' ], [ data => 'jsonb' ], [ metadata => 'jsonb' ],
		[ occurred_at => 'text' ], [ event_id => 'uuid' ], [ schema_version => 'integer' ] ] };
	return;
}

sub hostile_value
{
	my ($type) = @_;

	return $type =~ s/\[\]$// ? hostile_array($type) : $hostile{$type}->();
}

sub call
{
	my ($function) = @_;
	my @args = @{ $function->{args} };
	# Mostly one argument at a time: of several the first is refused, and the others are not looked at.
	my $hostility = pick((0) x 10, .2, .5, 1);
	my $victim = chance(.5) ? int rand(@args || 1) : -1;
	my (%values, @given);

	$length = 1 + int rand 4;
	%values = map { $_->{name} => exists $sensible{ $_->{name} } ? $sensible{ $_->{name} }->() : hostile_value($_->{type}) } @args;
	%values = $sensible_calls{ $function->{name} }->(%values) if exists $sensible_calls{ $function->{name} };
	for my $n (0 .. $#args)
	{
		my $arg = $args[$n];
		my $value = $n != $victim && !chance($hostility) ? $values{ $arg->{name} } : exists $nasty{ $arg->{name} } && ($arg->{name} eq 'above' || chance(.7)) ? $nasty{ $arg->{name} }->() : hostile_value($arg->{type});

		push @given, "($value)::$arg->{type}";
	}
	if ($function->{import})
	{
		return 'INSERT INTO event_store.import SELECT ' . join(', ', @given) . (chance(.2) ? ' FROM generate_series(1, 50)' : '');
	}
	# An argument left out, at times: aggregates need one of two.
	if ($function->{defaults} > 0 && $function->{name} ne 'es_register_aggregate' && chance(.3))
	{
		pop @given for 1 .. 1 + int rand $function->{defaults};
	}
	my $call = "$function->{name}(" . join(', ', @given) . ')';

	return pick("SELECT * FROM $call", "SELECT * FROM $call", "SELECT $call", "SELECT $call LIMIT 1",
		"SELECT ($call) FROM generate_series(1, 2)", "DO \$fuzz\$ BEGIN PERFORM $call; EXCEPTION WHEN OTHERS THEN RAISE; END \$fuzz\$");
}

# ---- running them

my (%succeeded, %failed, %called, %states, @bad, $calls);

# As many more calls as are needed to have called all of them often enough.
my ($min_calls, $min_each) = (25, 2);

sub lacking
{
	return grep {
		my $s = $_->{signature};
		($called{$s} // 0) < $min_calls && $_->{name} !~ /^es_(start|stop)_worker$/ || ($failed{$s} // 0) < $min_each || !$_->{never} && ($succeeded{$s} // 0) < $min_each
	} @functions;
}

my @settings = (
	[ 'event_store.metadata', q['{"tenant_id": "t1"}'], q['[]'], q['{'], q[''] ],
	[ 'event_store.partition_size', 100, 1000 ],
	[ 'event_store.mark_wait', 0, '10ms' ],
	[ 'event_store.as_of_wait', 0, '100ms' ],
	[ 'work_mem', "'64kB'", "'4MB'" ],
	[ 'TimeZone', q['UTC'], q['Asia/Kathmandu'] ],
	[ 'DateStyle', q['SQL, DMY'], q['ISO'] ],
	[ 'default_transaction_isolation', q['repeatable read'], q['serializable'], q['read committed'] ],
	[ 'default_transaction_read_only', 'on', 'off', 'off', 'off' ],
	[ 'lock_timeout', q['50ms'], 0 ],
	[ 'search_path', 'pg_catalog, public', 'public' ],
	[ 'standard_conforming_strings', 'on' ],
);

# What a session does: its statements, and a script for psql that says how each ended.
sub session
{
	my ($number, $who) = @_;
	my (@statements, $script);
	my @wanted = lacking();

	$script = "\\o /dev/null\n\\pset format unaligned\nSET statement_timeout = '2s';\n";
	$script .= "SET client_min_messages = error;\n";
	for (1 .. int rand 4)
	{
		my ($name, @values) = @{ pick(@settings) };
		$script .= "SET $name = " . pick(@values) . ";\n";
	}
	$script .= "SET ROLE $who;\n" if $who ne 'postgres';
	for my $n (1 .. $per_batch)
	{
		# More often one that was not called, did not succeed or fail often enough yet.
		my $function = pick(@wanted > 0 && chance(.3) ? @wanted : @functions);
		# Workers that come and go at every call would leave no time for anything else.
		redo if $function->{name} =~ /^es_(start|stop)_worker$/ && chance(.8);
		my $statement = call($function);
		my $block = chance(.15);

		push @statements, [ $function, $statement ];
		$script .= "BEGIN;\n" . (chance(.3) ? "SAVEPOINT s;\n" : '') if $block;
		$script .= "$statement;\n\\echo RESULT $n :SQLSTATE :LAST_ERROR_MESSAGE\n";
		$script .= pick('COMMIT', 'ROLLBACK', "ROLLBACK TO s;\nCOMMIT", "PREPARE TRANSACTION 'p$number';\n\\echo END $n :SQLSTATE :LAST_ERROR_MESSAGE\n" . pick('COMMIT', 'ROLLBACK') . " PREPARED 'p$number'")
		  . ";\n\\echo END $n :SQLSTATE :LAST_ERROR_MESSAGE\n" if $block;
	}
	# While others may be at it.
	$script .= "ROLLBACK;\n\\o\nSELECT 'FOUND ' || f::text FROM public.es_check('none') f WHERE f.kind NOT IN ('partition', 'role');\n" if $who ne 'fuzz_none';
	my $file = "$dir/session$number";
	open(my $out, '>', $file) or die "$file: $!";
	binmode $out;
	print $out $script;
	close $out;
	return { who => $who, file => $file, statements => \@statements, stdout => '', stderr => '' };
}

# True when it came to its end.
sub look_at
{
	my ($session) = @_;
	my $results = 0;
	my $who = $session->{who};

	while ($session->{stdout} =~ /^(RESULT|END) (\d+) (\w{5}) ?(.*)$/mg)
	{
		my ($what, $n, $state, $message) = ($1, $2, $3, $4);
		my ($function, $statement) = @{ $session->{statements}[ $n - 1 ] };
		my $name = $function->{signature};

		push @bad, "$state $message: in $database, as $who, at the " . ($what eq 'END' ? 'end of a transaction with' : 'call') . ': ' . substr($statement, 0, 2000)
		  if $state =~ /^(XX|58|53)/ || $state eq '26000';
		next if $what eq 'END';
		$results++;
		$calls++;
		$called{$name}++;
		$states{$state}++;
		# Cancelled or aborted before it came to it: says nothing.
		next if $state =~ /^(57014|25P02|55P03|40P01)$/;
		if ($state eq '00000')
		{
			$succeeded{$name}++;
			# A strict function is not called for a NULL, nor is the right to call it looked at.
			push @bad, "$who may do this: $statement" if $who eq 'fuzz_none' && !$function->{strict};
		}
		else
		{
			$failed{$name}++;
		}
	}
	push @bad, "$1: in $database" while $session->{stdout} =~ /^\s*FOUND (.*)/mg;
	# The connection was lost: the one after the last answer has done it.
	push @bad, "the connection was lost in $database, as $who, by: " . ($session->{statements}[$results][1] // 'the end') . "\n$session->{stderr}" if $results != $per_batch;
	return $results == $per_batch;
}

# What a DBA does meanwhile, and takes back: [what, before, after]. After it nothing is left of it but the other name of a role.
my ($app, $app_after) = ('fuzz_app', 'fuzz_app_2');
my $holder;
my @deeds = (
	[ 'nothing', sub { }, sub { } ],
	[ 'DDL is forbidden', sub { return $Dba::event_triggers }, sub { return $Dba::no_event_triggers } ],
	[ 'all is published', sub { return $Dba::publication }, sub { return $Dba::no_publication } ],
	[ 'a role is renamed', sub { my $sql = "ALTER ROLE $app RENAME TO $app_after"; ($app, $app_after) = ($app_after, $app); return $sql }, sub { return 'SELECT es_create_store()' } ],
	[ 'rows are hidden', sub { return 'ALTER TABLE seen ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY' }, sub { return 'ALTER TABLE seen DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY' } ],
	[ 'a partition is detached', sub {
		$node->safe_psql($database, q[SELECT count(*) FROM generate_series(1, 30) i, es_append('filler-' || i, -2, 'T', '{}'::jsonb); SELECT es_publish_mark()]) for 1 .. 5;
		my $name = $node->safe_psql($database, "$Dba::detachable ORDER BY random() LIMIT 1");
		return $name ? "ALTER TABLE event_store.log DETACH PARTITION event_store.$name" : undef }, sub { return $Dba::attach_all } ],
	[ 'an old snapshot is held', sub {
		$holder = Session->connect($node->connstr($database));
		$holder->ask('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM es_read_all(0, NULL)');
		return 'SELECT 1' }, sub { $holder->quit; return } ]);
my %happened;

# Several sessions at once, at times.
sub batch
{
	my $deed = shift @deeds;
	push @deeds, $deed;
	my ($what, $before, $after) = @$deed;
	my $sql = $before->();

	$node->safe_psql($database, $sql) if defined $sql;
	$happened{$what}++ if defined $sql;
	my $passed = run_batch();
	$sql = $after->();
	$node->safe_psql($database, $sql) if defined $sql;
	return $passed;
}

sub run_batch
{
	my @sessions = map { session($_, pick(('postgres') x 5, ($app) x 4, 'fuzz_none')) } 1 .. pick(1, 2, 3);
	my @running = map { IPC::Run::start([ 'psql', '-X', '-q', '-d', $node->connstr($database), '-f', $_->{file} ], '>', \$_->{stdout}, '2>', \$_->{stderr}, IPC::Run::timeout(300)) } @sessions;

	$_->finish for @running;
	return @sessions == grep { look_at($_) } @sessions;
}

sub make_database
{
	my ($name, $options) = @_;

	my ($rc) = $node->psql('postgres', "CREATE DATABASE $name $options");

	return 0 if $rc != 0;
	$node->safe_psql($name, q[
		CREATE EXTENSION event_store;
		SET event_store.partition_size = 100;
		SELECT es_create_store();
		CREATE TABLE seen (stream text, n int);
		GRANT ALL ON seen TO fuzz_app;
		SELECT es_append('acct-1', 0, '[{"type": "Opened"}, {"type": "Deposited", "data": {"amount": 5}}]');
		SELECT es_create_subscription('s1');
	]);
	return 1;
}

my %databases = (
	utf8 => "ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
	latin1 => "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
	ascii => "ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
	# Servers without ICU have no such.
	icu => "ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'de-u-kn-true' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
my @databases = grep { make_database($_, $databases{$_}) } sort keys %databases;
cmp_ok(scalar @databases, '>=', 3, "databases: @databases");
list_functions();
cmp_ok(scalar @functions, '>=', 55, 'there are functions');

# It sees what it looks for.
sub said
{
	my ($who, @answers) = @_;
	my $function = { signature => 'nothing', name => 'nothing', args => [], defaults => 0 };

	@bad = ();
	look_at({ who => $who, statements => [ map { [ $function, "statement $_" ] } 1 .. $per_batch ], stdout => join("\n", @answers) . "\n", stderr => '' });
	return join("\n", splice @bad);
}

$database = 'utf8';
my @clean = map { "RESULT $_ 22023 message" } 1 .. $per_batch;
is(said('postgres', @clean), '', 'clean errors are nothing');
like(said('postgres', @clean[ 0 .. 4 ]), qr/the connection was lost.*statement 6$/m, 'a lost connection is seen');
like(said('postgres', 'RESULT 1 XX000 some text', @clean[ 1 .. $#clean ]), qr/^XX000 some text.*statement 1$/, 'an internal error is seen');
like(said('postgres', @clean, 'END 3 XX000 some text'), qr/^XX000 some text.*statement 3$/, 'also at the end of a transaction');
like(said('fuzz_none', 'RESULT 1 00000 ', @clean[ 1 .. $#clean ]), qr/^fuzz_none may do this: statement 1$/, 'too many rights are seen');
like(said('postgres', @clean, 'FOUND (head,a-1,1,"wrong")'), qr/^\(head,a-1/, 'what es_check finds is seen');
(%called, %succeeded, %failed, %states) = ();
$calls = 0;

my $start = time;
my $batches = 0;
while (time - $start < $seconds || (lacking() || keys %happened < @deeds - 1) && time - $start < 4 * $seconds)
{
	$database = pick(@databases);
	# What earlier calls took away or broke.
	$node->safe_psql($database, qq[
		SET default_transaction_read_only = off;
		SELECT es_grant('$app', r) FROM unnest('{append,read,consume,import,define,operate}'::text[]) r;
		SELECT es_start_worker();
		SELECT es_drop_projection(name) FROM event_store.projections;
		SELECT es_drop_subscription(name) FROM event_store.subscriptions WHERE name LIKE 'p%';
		SELECT es_create_subscription(s) FROM unnest('{s1,s2}'::text[]) s WHERE NOT EXISTS (SELECT FROM event_store.subscriptions WHERE name = s);
		SELECT es_resume(name) FROM event_store.subscriptions;
		SELECT es_create_projection('p1', 'INSERT INTO seen SELECT stream, 1 FROM new_events', tables => '{seen}');
		SELECT es_create_projection('p2', 'INSERT INTO seen SELECT stream, 1 / (version % 3) FROM new_events', categories => '{acct}');
		SELECT es_unregister_upcaster(event_type, from_version) FROM event_store.upcasters;
		SELECT es_register_aggregate('acct', rules => '{"Deposited": {"add": {"balance": {"field": "amount", "default": 0}}}}', snapshot_every => 5);
		SELECT es_register_upcaster('Deposited', 1, 'data'), es_register_event_type('Opened', 1);
		SELECT es_register_aggregate('item', fold => 'state || data', snapshot_every => 5);
		DELETE FROM seen]);
	$batches++;
	last if !batch();
	last if @bad > 20;
}
note(sprintf('%d calls in %d batches, %d s', $calls, $batches, time - $start));
note("$_: $states{$_}") for sort keys %states;
note(sprintf('%-120s called %d, succeeded %d, failed %d', $_->{signature}, map { $_ // 0 } $called{ $_->{signature} }, $succeeded{ $_->{signature} }, $failed{ $_->{signature} })) for @functions;

note("$_: $happened{$_}") for sort keys %happened;

is(keys(%happened), @deeds - 1, 'all that a DBA does has happened: ' . join(', ', sort keys %happened));
is(join("\n", @bad), '', 'nothing but clean results and clean errors');
is(join(', ', map { $_->{signature} } lacking()), '', 'every function was called often, succeeded and failed');
cmp_ok($calls, '>', $seconds * 10, "there were many calls: $calls");
for my $db (@databases)
{
	$node->safe_psql($db, 'SELECT es_create_store()');		# the last name of the role
	is($node->safe_psql($db, "SELECT * FROM es_check('all')"), '', "$db: es_check finds nothing");
	is($node->safe_psql($db, q[SELECT version > 0 FROM es_append('last-1', -2, 'Ended', '{}')]), 't', "$db: the store still works");
}
$node->stop;

log_is_clean($node);
done_testing();
