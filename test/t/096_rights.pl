# Who may call what: the table in docs/reference.md against the privileges that es_grant gives, function by function.
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $source = $ENV{ES_SRC} // abs_path(dirname(__FILE__) . '/../..');
my $page = slurp_file("$source/docs/reference.md");
my ($section) = $page =~ /^## Rights\n(.*?)^## /ms;
my %table = $section =~ /^\| `(es_\w+)` \| (.*?) \|$/mg;
# The rights, of which a line may have several; their views are those of the last column.
my (@rights, %views);
while ($section =~ /^\| ((?:`[a-z_]+`(?:, )?)+) \| [^|]+ \| ([^|]*) \|$/mg)
{
	my ($names, $views) = ($1, $2);
	next if $names =~ /es_/;
	for my $right ($names =~ /`([a-z_]+)`/g)
	{
		push @rights, $right;
		$views{$right} = $views;
	}
}
is(scalar @rights, 9, 'the page has nine rights');

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->start;
my $db = 'postgres';
$node->safe_psql($db, 'CREATE EXTENSION event_store; SELECT es_create_store()');
$node->safe_psql($db, "CREATE ROLE has_$_; SELECT es_grant('has_$_', '$_')") for @rights;
$node->safe_psql($db, 'CREATE ROLE has_nothing');

my @functions = split /\n/, $node->safe_psql($db, q[
	SELECT DISTINCT p.proname FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
		AND d.refclassid = 'pg_extension'::regclass
	JOIN pg_extension x ON x.oid = d.refobjid AND x.extname = 'event_store' ORDER BY 1]);
is_deeply([ sort keys %table ], [ sort @functions ], 'the page has each function of the extension');

for my $name (@functions)
{
	# Of all overloads alike.
	my $may = $node->safe_psql($db, qq[
		SELECT coalesce(string_agg(r, ', ' ORDER BY array_position('{@{[ join ',', @rights ]}}'::text[], r)) FILTER (WHERE all_of_them), ''),
			bool_or(all_of_them <> any_of_them)
		FROM (SELECT r, bool_and(has_function_privilege('has_' || r, p.oid, 'EXECUTE')) AS all_of_them, bool_or(has_function_privilege('has_' || r, p.oid, 'EXECUTE')) AS any_of_them
			FROM unnest('{@{[ join ',', @rights ]},nothing}'::text[]) r, pg_proc p WHERE p.proname = '$name' GROUP BY r) x
		WHERE r <> 'nothing' OR any_of_them]);
	my @shown = ($table{$name} // '') =~ /`([a-z_]+)`/g;
	my $shown = join ', ', sort @shown;
	my ($is, $differ) = split /\|/, $may;
	my @is = grep { $_ ne 'nothing' } split /, /, $is;
	$is = join ', ', sort @is;
	my $everybody = $node->safe_psql($db, qq[SELECT bool_and(has_function_privilege('has_nothing', oid, 'EXECUTE')) FROM pg_proc WHERE proname = '$name']);
	if (($table{$name} // '') eq 'everybody')
	{
		is($everybody, 't', "$name: everybody may call it");
		next;
	}
	is("$is|" . ($differ // ''), "$shown|f", "$name: " . ($shown || 'nobody but the owner of the extension'));
	is($table{$name}, 'the owner of the extension', "... and the page says so") if $shown eq '';
	is($everybody, 'f', '... nobody else');
}

for my $right (@rights)
{
	my $is = $node->safe_psql($db, qq[
		SELECT coalesce(string_agg(c.relname, ', ' ORDER BY c.relname), '') FROM pg_class c
		WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'f') AND has_table_privilege('has_$right', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE')]);
	my $shown = $views{$right} =~ /as `(\w+)`/ ? $views{$1} : $views{$right};
	is($is, $shown eq 'none' ? '' : join(', ', sort split /, /, $shown =~ s/^(?:SELECT|INSERT) on //r), "$right: its tables and views");
}
is($node->safe_psql($db, q[SELECT count(*) FROM pg_class c, pg_roles r WHERE c.relnamespace = 'event_store'::regnamespace AND r.rolname ~ '^has_'
		AND c.relkind IN ('r', 'p', 'v') AND has_table_privilege(r.oid, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE')]), 0, 'nobody may write to a table');
is($node->safe_psql($db, q[SELECT count(*) FROM pg_class c, pg_roles r WHERE c.relnamespace = 'event_store'::regnamespace AND r.rolname ~ '^has_'
		AND c.relkind = 'S' AND has_sequence_privilege(r.oid, c.oid, 'USAGE, SELECT, UPDATE')]), 0, '... nor use a sequence');

# Taken back, in any order: what another right gives stays, and nothing else.
$node->safe_psql($db, "SELECT es_grant('has_nothing', '$_')") for @rights;
for my $right (sort @rights)
{
	$node->safe_psql($db, "SELECT es_revoke('has_nothing', '$right')");
	is($node->safe_psql($db, q[
		SELECT string_agg(p.oid::regprocedure::text, ', ') FROM pg_proc p
		WHERE p.proname ~ '^es_' AND has_function_privilege('has_nothing', p.oid, 'EXECUTE') <> (p.proname = 'es_refuse_change' OR EXISTS (
			SELECT FROM event_store.grants g WHERE g.role = 'has_nothing' AND has_function_privilege('has_' || g."right", p.oid, 'EXECUTE')))]),
		'', "without $right: what the others give");
}

$node->stop;
done_testing();
