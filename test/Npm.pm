# Packages of npm for tests: those of NODE_PATH, else installed once for all tests of a run.
package Npm;

use strict;
use warnings;

use Fcntl qw(:flock);
use IPC::Run;
use PostgreSQL::Test::Utils;

sub found
{
	my $out = '';
	return IPC::Run::run([@_], '<', \undef, '>&', \$out);
}

# Sets NODE_PATH so that the packages can be required. Returns why it cannot, or nothing.
sub need
{
	my (@packages) = @_;
	my $require = join '; ', map { /^([^@]+)/ && "require('$1')" } @packages;

	return 'no node' if system('command -v node >/dev/null 2>&1') != 0;
	$ENV{NODE_PATH} //= '';
	return if found('node', '-e', $require);
	return 'no npm' if system('command -v npm >/dev/null 2>&1') != 0;

	# Tests that run at the same time share what the first one has installed.
	my $dir = ($ENV{TMPDIR} // PostgreSQL::Test::Utils::tempdir()) . '/npm';
	mkdir $dir;
	open(my $lock, '>>', "$dir/lock") or return "$dir: $!";
	flock($lock, LOCK_EX) or return "$dir: $!";
	$ENV{NODE_PATH} = "$dir/node_modules";
	return if found('node', '-e', $require);
	return "npm cannot install @packages here"
		if !found('timeout', '60', 'npm', 'install', '--prefix', $dir, '--cache', "$dir/cache", '--no-audit', '--no-fund',
		'--no-update-notifier', '--fetch-retries=0', '--fetch-timeout=20000', @packages);
	return if found('node', '-e', $require);
	return "@packages were installed and cannot be loaded";
}

1;
