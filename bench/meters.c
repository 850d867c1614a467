/*
 * CPU time and load, read from /proc.
 *
 * CPU time an event is the figure that a noisy machine disturbs least. /proc/<pid>/schedstat has it in nanoseconds
 * (/proc/<pid>/stat only in ticks of 10 ms), exact for a process that sleeps, as all of ours do when it is read: before
 * the clients are let go and after the last one has its answer.
 */
#include "bench.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

double
clock_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double) t.tv_sec * 1e6 + (double) t.tv_nsec / 1e3;
}

double
load_average(void)
{
	double		load;

	return getloadavg(&load, 1) == 1 ? load : -1;
}

/* CPU time of a process so far, 0 if it is gone. */
static double
process_us(int pid)
{
	char		path[64];
	FILE	   *f;
	unsigned long long ns = 0;

	snprintf(path, sizeof(path), "/proc/%d/schedstat", pid);
	f = fopen(path, "r");
	if (f == NULL)
		return 0;
	if (fscanf(f, "%llu", &ns) != 1)
		ns = 0;
	fclose(f);
	return (double) ns / 1e3;
}

static int
parent_of(int pid)
{
	char		path[64];
	FILE	   *f;
	int			parent = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	f = fopen(path, "r");
	if (f == NULL)
		return 0;
	/* "pid (name) state ppid": a name could hold blanks, but of the server's processes none does */
	if (fscanf(f, "%*d (%*[^)]) %*c %d", &parent) != 1)
		parent = 0;
	fclose(f);
	return parent;
}

/* CPU time of all children of the postmaster. */
static double
server_us(int postmaster)
{
	DIR		   *dir = opendir("/proc");
	struct dirent *entry;
	double		sum = 0;

	if (dir == NULL)
		die("/proc is needed for the CPU figures");
	while ((entry = readdir(dir)) != NULL)
	{
		int			pid = isdigit((unsigned char) entry->d_name[0]) ? atoi(entry->d_name) : 0;

		if (pid > 0 && parent_of(pid) == postmaster)
			sum += process_us(pid);
	}
	closedir(dir);
	return sum;
}

/* CPU time that anything on this machine used, from the first line of /proc/stat: user nice system idle iowait irq softirq. */
static double
machine_us(void)
{
	FILE	   *f = fopen("/proc/stat", "r");
	double		user = 0,
				nice = 0,
				system = 0,
				irq = 0,
				softirq = 0;

	if (f == NULL || fscanf(f, "cpu %lf %lf %lf %*f %*f %lf %lf", &user, &nice, &system, &irq, &softirq) != 5)
		die("/proc/stat is not readable");
	fclose(f);
	return (user + nice + system + irq + softirq) * 1e6 / (double) sysconf(_SC_CLK_TCK);
}

static double
own_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double) t.tv_sec * 1e6 + (double) t.tv_nsec / 1e3;
}

Meter
meter_read(const int *backend_pids, int count)
{
	Meter		m = {0};

	m.clock_us = clock_us();
	for (int i = 0; i < count; i++)
		m.backends_us += process_us(backend_pids[i]);
	m.others_us = server_us(parent_of(backend_pids[0])) - m.backends_us;
	m.client_us = own_us();
	m.machine_us = machine_us();
	return m;
}

Meter
meter_since(Meter start, Meter end)
{
	Meter		m;

	m.backends_us = end.backends_us - start.backends_us;
	m.others_us = end.others_us - start.others_us;
	m.client_us = end.client_us - start.client_us;
	m.machine_us = end.machine_us - start.machine_us;
	m.clock_us = end.clock_us - start.clock_us;
	return m;
}
