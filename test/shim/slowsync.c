/*
 * slowsync.c
 *	  Makes the server's WAL slow: LD_PRELOAD it.
 *
 * SLOWSYNC_US: before each fdatasync, this many microseconds: a disk across a network.
 * SLOWWRITE_FILE: before each write of WAL, as many as this file says now. What a process has not written yet is lost when
 * it is killed, as what a machine has not flushed is lost when its power fails; what it has written is not.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int
is_wal(int fd)
{
	char		link[64];
	char		path[1024];
	ssize_t		n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0)
		return 0;
	path[n] = '\0';
	return strstr(path, "/pg_wal/") != NULL;
}

static void
delay_write(int fd)
{
	const char *name = getenv("SLOWWRITE_FILE");
	FILE	   *file;
	long		us = 0;

	if (!name || !is_wal(fd) || !(file = fopen(name, "r")))
		return;
	if (fscanf(file, "%ld", &us) == 1 && us > 0)
		usleep(us);
	fclose(file);
}

int
fdatasync(int fd)
{
	static int	(*next) (int);
	const char *us = getenv("SLOWSYNC_US");

	if (!next)
		next = (int (*) (int)) dlsym(RTLD_NEXT, "fdatasync");
	if (us && atol(us) > 0)
		usleep(atol(us));
	return next(fd);
}

ssize_t
pwrite64(int fd, const void *buf, size_t n, off64_t offset)
{
	static ssize_t (*next) (int, const void *, size_t, off64_t);

	if (!next)
		next = (ssize_t (*) (int, const void *, size_t, off64_t)) dlsym(RTLD_NEXT, "pwrite64");
	delay_write(fd);
	return next(fd, buf, n, offset);
}

ssize_t
pwrite(int fd, const void *buf, size_t n, off_t offset)
{
	static ssize_t (*next) (int, const void *, size_t, off_t);

	if (!next)
		next = (ssize_t (*) (int, const void *, size_t, off_t)) dlsym(RTLD_NEXT, "pwrite");
	delay_write(fd);
	return next(fd, buf, n, offset);
}
