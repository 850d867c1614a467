# A session: psql in the background, by plain pipes, which is quick enough for a client of a stress test. What
# PostgreSQL::Test::BackgroundPsql does not do: a query may be sent and not waited for, an error is its SQLSTATE, and that
# the connection is lost is an answer like any other.
package Session;

use strict;
use warnings;

use IPC::Open3;
use IO::Select;
use Time::HiRes qw(time);

# connection: as for psql -d; timeout: in seconds, after which a test hangs.
sub new
{
	my ($class, $connection, %o) = @_;
	my $self = bless { timeout => 60, %o, n => 0, buffer => '', lost => 0 }, $class;

	local $ENV{PGAPPNAME} = $o{name} // 'session';
	$self->{pid} = open3($self->{in}, $self->{out}, undef, 'psql', '-XAtq', '-v', 'VERBOSITY=sqlstate', '-d', $connection);
	$self->{select} = IO::Select->new($self->{out});
	return $self;
}

# A session that has been answered once; tries again while the server is away.
sub connect
{
	my ($class, $connection, %o) = @_;
	my $end = time + 60;

	while (time < $end)
	{
		my $self = $class->new($connection, %o);
		my ($out) = $self->query('SELECT 1;');

		return $self if ($out // '') eq '1';
		$self->quit;
		select undef, undef, undef, 0.02;
	}
	die "no server\n";
}

# Sends statements; each must end with a semicolon.
sub send
{
	my ($self, $sql) = @_;
	local $SIG{PIPE} = 'IGNORE';

	$self->{n}++;
	syswrite $self->{in}, "$sql\n\\echo end of answer $self->{n}\n";
	return;
}

# Waits for the answer: (rows, SQLSTATE of the last error or ''). The connection was lost: (undef, 'lost').
sub receive
{
	my ($self) = @_;
	my $limit = time + $self->{timeout};

	until ($self->{lost} || $self->{buffer} =~ /^end of answer $self->{n}\n/m)
	{
		my $wait = $limit - time;
		die "no answer\n" if $wait <= 0;
		# A signal ends the wait too.
		next if !$self->{select}->can_read($wait);
		my $read = sysread $self->{out}, $self->{buffer}, 65536, length $self->{buffer};
		$self->{lost} = 1 if !$read;
	}
	# psql may take one more command before it notices.
	$self->{lost} = 1 if $self->{buffer} =~ /^(?:FATAL|PANIC|.*server closed the connection|.*connection to server was lost|.*could not (?:send|receive) data)/m;
	return (undef, 'lost') if $self->{lost};
	my $said = $self->{buffer} =~ s/^end of answer $self->{n}\n.*//msr;
	$self->{buffer} = '';
	my @errors = $said =~ /^ERROR:\s+(\w+)/mg;
	$said =~ s/^(?:ERROR|WARNING|NOTICE|LOG|DETAIL|HINT|CONTEXT):.*\n//mg;
	chomp $said;
	return ($said, @errors ? $errors[-1] : '');
}

sub query
{
	my ($self, $sql) = @_;

	$self->send($sql);
	return $self->receive;
}

# The rows; dies of an error.
sub ask
{
	my ($self, $sql) = @_;
	my ($out, $error) = $self->query("$sql;");

	die "$sql: $error\n" if $error ne '';
	return $out;
}

sub quit
{
	my ($self) = @_;

	return if !defined $self->{pid};
	close $self->{$_} for qw(in out);
	kill 'TERM', $self->{pid};
	waitpid $self->{pid}, 0;
	undef $self->{pid};
	$self->{lost} = 1;
	return;
}

1;
