/*
 * The events that are written: about 327 bytes of data and 112 bytes of metadata, counted as jsonb, which is what an
 * order or account event with a few fields, one nested object and a short list comes to.
 *
 * They are made before the clock starts, because the driver shares the machine with the server.
 */
#include "bench.h"

#include <stdlib.h>

static Payload payloads[PAYLOADS];

static const char *const types[] = {
	"AccountOpened", "MoneyDeposited", "MoneyWithdrawn", "TransferReceived", "LimitChanged"
};
static const char *const currencies[] = {"EUR", "USD", "GBP", "JPY", "CHF"};
static const char *const channels[] = {"mobile", "branch", "web", "card terminal", "standing order"};
static const char *const notes[] = {
	"rent", "invoice 2291 from March", "thank you for the tickets", "groceries and fuel", "refund for a returned item"
};

#define PICK(list, r) ((list)[rng_below((r), sizeof(list) / sizeof((list)[0]))])

static void
data_make(Buf *b, Rng *r)
{
	unsigned	cents = (unsigned) rng_below(r, 5000000);

	buf_reset(b);
	buf_printf(b, "{\"account\":\"account-%u\",\"amount\":%u.%02u,\"currency\":\"%s\",\"channel\":\"%s\",",
			   (unsigned) rng_below(r, 1000000), cents / 100, cents % 100, PICK(currencies, r), PICK(channels, r));
	buf_printf(b, "\"balance\":%u,\"reference\":\"%016llx\",\"note\":\"%s\",",
			   (unsigned) rng_below(r, 100000000), (unsigned long long) rng_next(r), PICK(notes, r));
	buf_printf(b, "\"counterparty\":{\"name\":\"Customer %u\",\"iban\":\"DE%020llu\"},\"tags\":[\"t%u\",\"t%u\"],\"final\":%s}",
			   (unsigned) rng_below(r, 100000), (unsigned long long) rng_next(r),
			   (unsigned) rng_below(r, 100), (unsigned) rng_below(r, 100), rng_below(r, 2) ? "true" : "false");
}

static void
metadata_make(Buf *b, Rng *r)
{
	buf_reset(b);
	buf_printf(b, "{\"correlation_id\":\"%016llx%016llx\",\"user_id\":\"user-%u\",\"tenant_id\":\"country-%u\"}",
			   (unsigned long long) rng_next(r), (unsigned long long) rng_next(r),
			   (unsigned) rng_below(r, 100000), (unsigned) rng_below(r, 50));
}

void
payloads_make(uint64_t seed)
{
	Rng			r = rng_seed(seed);

	for (int i = 0; i < PAYLOADS; i++)
	{
		payloads[i].type = PICK(types, &r);
		data_make(&payloads[i].data, &r);
		metadata_make(&payloads[i].metadata, &r);
	}
}

const Payload *
payload_any(Rng *r)
{
	return &payloads[rng_below(r, PAYLOADS)];
}
