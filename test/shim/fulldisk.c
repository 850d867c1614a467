/*
 * fulldisk.c
 *	  Makes the disk full for the server's tables, or for its WAL: LD_PRELOAD it.
 *
 * FULLDISK_FILE: while the file says "data" or "wal", writes that would make a file of base/ or of pg_wal/ longer fail with
 * ENOSPC. What is written over what is there goes on, as on a disk that is full.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int
no_room(int fd, off64_t end)
{
	const char *name = getenv("FULLDISK_FILE");
	char		which[16] = "";
	char		link[64];
	char		path[1024];
	struct stat st;
	ssize_t		n;
	int			said;
	FILE	   *file;

	if (!name || !(file = fopen(name, "r")))
		return 0;
	said = fscanf(file, "%15s", which);
	fclose(file);
	if (said != 1)
		return 0;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0)
		return 0;
	path[n] = '\0';
	if (!strstr(path, strcmp(which, "wal") == 0 ? "/pg_wal/" : "/base/"))
		return 0;
	return fstat(fd, &st) == 0 && end > st.st_size;
}

static size_t
total(const struct iovec *iov, int count)
{
	size_t		sum = 0;

	for (int i = 0; i < count; i++)
		sum += iov[i].iov_len;
	return sum;
}

#define REAL(name) \
	static typeof(name) *next; \
	if (!next) \
		next = (typeof(name) *) dlsym(RTLD_NEXT, #name)

#define REFUSE(fd, end) \
	if (no_room(fd, end)) \
	{ \
		errno = ENOSPC; \
		return -1; \
	}

ssize_t
pwrite64(int fd, const void *buf, size_t n, off64_t offset)
{
	REAL(pwrite64);
	REFUSE(fd, offset + (off64_t) n);
	return next(fd, buf, n, offset);
}

ssize_t
pwrite(int fd, const void *buf, size_t n, off_t offset)
{
	REAL(pwrite);
	REFUSE(fd, offset + (off64_t) n);
	return next(fd, buf, n, offset);
}

ssize_t
pwritev64(int fd, const struct iovec *iov, int count, off64_t offset)
{
	REAL(pwritev64);
	REFUSE(fd, offset + (off64_t) total(iov, count));
	return next(fd, iov, count, offset);
}

ssize_t
pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
	REAL(pwritev);
	REFUSE(fd, offset + (off64_t) total(iov, count));
	return next(fd, iov, count, offset);
}

int
posix_fallocate64(int fd, off64_t offset, off64_t n)
{
	REAL(posix_fallocate64);
	return no_room(fd, offset + n) ? ENOSPC : next(fd, offset, n);
}

int
posix_fallocate(int fd, off_t offset, off_t n)
{
	REAL(posix_fallocate);
	return no_room(fd, offset + n) ? ENOSPC : next(fd, offset, n);
}
