# A full disk: appends are refused with core's error and nothing of them stays, reads and loads go on, and when there is room
# again everything does, projections too. When the WAL has no room the server stops; nothing that was acknowledged is lost.
#
# The server runs with a library that fails what would make its files longer while a file says so (test/shim).
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $source = $ENV{ES_SRC} // abs_path(dirname(__FILE__) . '/../..');
my $dir = PostgreSQL::Test::Utils::tempdir();
my $shim = "$dir/fulldisk.so";
my $full_file = "$dir/full";
system('gcc', '-shared', '-fPIC', '-O2', '-o', $shim, "$source/test/shim/fulldisk.c", '-ldl') == 0
  or BAIL_OUT('the shim does not build');

my $node = PostgreSQL::Test::Cluster->new('full');
$node->init(extra => ['--wal-segsize=1']);
$node->append_conf('postgresql.conf', q[
shared_preload_libraries = 'event_store'
max_wal_size = 1GB
wal_recycle = off
autovacuum = off
restart_after_crash = off
event_store.poll_interval = 100ms
]);
sub start
{
	local $ENV{LD_PRELOAD} = $shim;
	local $ENV{FULLDISK_FILE} = $full_file;
	return $node->start(@_);
}
start();
my $db = 'postgres';
sub q1 { return $node->safe_psql($db, $_[0]) }

sub full
{
	my ($what) = @_;
	unlink $full_file;
	return if $what eq '';
	open my $file, '>', "$full_file.new" or die;
	print $file $what;
	close $file;
	rename "$full_file.new", $full_file or die;
	return;
}

q1(q[
	CREATE EXTENSION event_store;
	SELECT es_create_store();
	SELECT es_register_aggregate('box', rules => '{"Filled": {"count": "n"}}');
	CREATE TABLE filled (stream text, version bigint, payload text, PRIMARY KEY (stream, version));
	SELECT es_create_projection('filled', $$INSERT INTO filled SELECT stream, version, data->>'s' FROM new_events$$, tables => '{filled}');
	CREATE FUNCTION payload() RETURNS jsonb VOLATILE LANGUAGE sql AS $$
		SELECT jsonb_build_object('s', string_agg(md5(random()::text), '')) FROM generate_series(1, 50) $$;
]);

# Appends one by one until one fails; returns the number of those that were acknowledged, and what was said.
my $streams = 0;
my %acked;
sub fill
{
	my ($most) = @_;
	my $stream = 'box-' . ++$streams;
	my ($out, $err) = ('', '');
	append_to_file("$dir/$stream.sql", "SELECT version FROM es_append('$stream', -2, 'Filled', payload());\n" x $most);
	IPC::Run::run([ 'psql', '-X', '-A', '-t', '-q', '-v', 'ON_ERROR_STOP=1', '-v', 'VERBOSITY=verbose', '-d', $node->connstr($db), '-f', "$dir/$stream.sql" ],
		'>', \$out, '2>', \$err);
	$acked{$stream} = scalar(() = $out =~ /^\d+$/mg);
	return ($acked{$stream}, $err, $stream);
}

sub all_there
{
	my ($when) = @_;
	my @wrong;
	for my $stream (sort keys %acked)
	{
		my $stored = q1("SELECT es_stream_version('$stream')");
		# The last one may have been committed, and its answer lost.
		push @wrong, "$stream: $stored, acknowledged $acked{$stream}" unless $stored == $acked{$stream} || $stored == $acked{$stream} + 1;
	}
	is(join(', ', @wrong), '', "$when: every acknowledged append is there, and no other");
	is(q1('SELECT count(*) FROM es_check($$all$$)'), 0, "$when: es_check finds nothing");
	ok($node->poll_query_until($db, q[SELECT (SELECT count(*) FROM filled) = (SELECT count(*) FROM event_store.events)]),
		"$when: the projection has every event");
	is(q1('SELECT count(*) FROM event_store.quarantine'), 0, "$when: none is quarantined");
	return;
}

# ---- no room for tables

my ($n, $said) = fill(200);
is($n, 200, 'with room, appends are acknowledged');
ok($node->poll_query_until($db, 'SELECT (SELECT count(*) FROM filled) = 200'), 'and projected');
full('data');
($n, $said, my $stream) = fill(3000);
cmp_ok($n, '<', 3000, "without, an append is refused, after $n more");
like($said, qr/ERROR:  53100: could not (extend|write)/, 'with core\'s error');
is(q1("SELECT es_stream_version('$stream')"), $n, 'it has left nothing');
is(q1("SELECT (state->>'n')::int FROM es_load('box-1')"), 200, 'loads go on');
is(q1("SELECT count(*) FROM es_read_all(0, NULL)"), 200 + $n, 'and reads');
($n, $said) = fill(3000);
like($said, qr/ERROR:  53100/, 'the next one is refused too');
full('');
($n) = fill(200);
is($n, 200, 'when there is room again, appends are acknowledged');
all_there('after a full disk');

# ---- no room for a projection's table

q1(q[SELECT es_pause('filled')]);
fill(300);
full('data');
q1(q[SELECT es_resume('filled')]);
ok($node->poll_query_until($db, q[SELECT last_error LIKE '%No space left%' FROM event_store.projection_status WHERE name = 'filled']),
	'a projection that has no room says so');
is(q1(q[SELECT status FROM event_store.projection_status WHERE name = 'filled']), 'running', 'and has not failed for good');
full('');
all_there('after a projection without room');

# ---- no room for WAL

full('wal');
($n, $said) = fill(5000);
cmp_ok($n, '<', 5000, "without room for WAL the server stops, after $n more");
like($said, qr/server closed the connection|terminating connection|connection to server was lost/, 'and says so');
my $deadline = time + 60;
while (-e $node->data_dir . '/postmaster.pid' && time < $deadline) { Time::HiRes::usleep(50_000) }
like(slurp_file($node->logfile), qr/PANIC:  could not write to file "pg_wal/, 'it was for want of room');
ok(!-e $node->data_dir . '/postmaster.pid', 'and is gone');
$node->{_pid} = undef;    # it has ended by itself
full('');
start();
($n) = fill(200);
is($n, 200, 'started again, appends are acknowledged');
all_there('after want of WAL');

$node->stop;
done_testing();
