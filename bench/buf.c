/* Growing byte strings, PostgreSQL's binary formats and random numbers for the benchmark driver. */
#include "bench.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void
die(const char *format,...)
{
	va_list		args;

	va_start(args, format);
	fputs("driver: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

/* Room for n more bytes and a terminating zero, which libpq wants behind text parameters. */
static void
buf_reserve(Buf *b, size_t n)
{
	if (b->len + n < b->cap)
		return;
	b->cap = (b->len + n + 1) * 2;
	b->data = realloc(b->data, b->cap);
	if (b->data == NULL)
		die("out of memory");
}

void
buf_reset(Buf *b)
{
	buf_reserve(b, 1);
	b->len = 0;
	b->data[0] = '\0';
}

void
buf_bytes(Buf *b, const void *bytes, size_t n)
{
	buf_reserve(b, n);
	memcpy(b->data + b->len, bytes, n);
	b->len += n;
	b->data[b->len] = '\0';
}

void
buf_printf(Buf *b, const char *format,...)
{
	char		text[1024];
	va_list		args;
	int			n;

	va_start(args, format);
	n = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (n < 0 || (size_t) n >= sizeof(text))
		die("text too long for buf_printf");
	buf_bytes(b, text, (size_t) n);
}

static void
buf_int32(Buf *b, uint32_t value)
{
	uint32_t	big_endian = htonl(value);

	buf_bytes(b, &big_endian, sizeof(big_endian));
}

/* Starts a one-dimensional array in the format of array_recv(); exactly count items must follow. */
void
buf_array_begin(Buf *b, uint32_t element_type, int count)
{
	buf_reset(b);
	buf_int32(b, 1);			/* dimensions */
	buf_int32(b, 0);			/* no null bitmap */
	buf_int32(b, element_type);
	buf_int32(b, (uint32_t) count);
	buf_int32(b, 1);			/* lower bound */
}

void
buf_array_item(Buf *b, const void *bytes, size_t n)
{
	buf_int32(b, (uint32_t) n);
	buf_bytes(b, bytes, n);
}

/* The binary format of jsonb is a version byte and the text. */
void
buf_array_jsonb(Buf *b, const char *json, size_t n)
{
	buf_int32(b, (uint32_t) n + 1);
	buf_bytes(b, "\1", 1);
	buf_bytes(b, json, n);
}

/* splitmix64's finalizer */
static uint64_t
mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* Mixed, so that neighbouring seeds do not walk through the same states one step apart. */
Rng
rng_seed(uint64_t seed)
{
	Rng			r = {mix(seed)};

	return r;
}

uint64_t
rng_next(Rng *r)
{
	r->state += UINT64_C(0x9e3779b97f4a7c15);
	return mix(r->state);
}

uint64_t
rng_below(Rng *r, uint64_t bound)
{
	return rng_next(r) % bound;
}

void
rng_uuid_v7(Rng *r, char out[37])
{
	struct timespec now;
	uint64_t	ms;
	uint64_t	a = rng_next(r);
	uint64_t	b = rng_next(r);

	clock_gettime(CLOCK_REALTIME, &now);
	ms = (uint64_t) now.tv_sec * 1000 + (uint64_t) now.tv_nsec / 1000000;
	snprintf(out, 37, "%08x-%04x-7%03x-%04x-%012llx",
			 (unsigned) (ms >> 16) & 0xffffffffu, (unsigned) ms & 0xffffu, (unsigned) a & 0xfffu,
			 0x8000u | ((unsigned) (a >> 16) & 0x3fffu), (unsigned long long) b & 0xffffffffffffULL);
}
