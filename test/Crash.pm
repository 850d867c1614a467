# A server that is gone at once.
package Crash;

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter 'import';
use Time::HiRes qw(time usleep);

our @EXPORT = qw(server_processes kill_server);

# All processes of a server work in its data directory.
sub server_processes
{
	my ($node) = @_;
	my $dir = abs_path($node->data_dir);
	return grep { (readlink("/proc/$_/cwd") // '') eq $dir } map { m{/proc/(\d+)$} } glob '/proc/[0-9]*';
}

# SIGKILL to the postmaster, and after so many seconds to what is left of the others; it can be started again then.
sub kill_server
{
	my ($node, $patience) = @_;
	my $end = time + ($patience // 0);

	open my $pid_file, '<', $node->data_dir . '/postmaster.pid' or die;
	chomp(my $postmaster = <$pid_file>);
	close $pid_file;
	# The postmaster first, so that there are no new ones.
	kill 'KILL', $postmaster;
	while (my @processes = server_processes($node))
	{
		kill 'KILL', @processes if time >= $end;
		usleep(5_000);
	}
	usleep(5_000) while kill 0, $postmaster;    # until somebody has taken note of its end
	$node->{_pid} = undef;
	return;
}

1;
