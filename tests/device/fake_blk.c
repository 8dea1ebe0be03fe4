#include "fake_blk.h"

#include <errno.h>
#include <string.h>

enum kind { READ, WRITE, FLUSH, DISCARD };

struct request {
	enum kind kind;
	uint64_t sector, bytes;
	struct iovec *iov;
	int n;
	blk_done done;
	void *opaque;
};

struct blk {
	uint64_t sectors, bad;
	uint8_t *data;
	bool readonly;
	unsigned flushes;
	GQueue waiting;
};

struct blk *fake_blk_new(uint64_t sectors, uint8_t tag)
{
	struct blk *b = g_new0(struct blk, 1);

	b->sectors = sectors;
	b->bad = UINT64_MAX;
	b->data = g_malloc(sectors * 512);
	for (uint64_t s = 0; s < sectors; s++)
		for (unsigned i = 0; i < 512; i++)
			b->data[s * 512 + i] = (uint8_t)(tag ^ s * 7 ^ s >> 8 ^ i);
	g_queue_init(&b->waiting);
	return b;
}

uint8_t *fake_blk_data(struct blk *b) { return b->data; }
void fake_blk_set_sectors(struct blk *b, uint64_t sectors) { b->sectors = sectors; }
void fake_blk_set_readonly(struct blk *b, bool readonly) { b->readonly = readonly; }
void fake_blk_set_bad(struct blk *b, uint64_t sector) { b->bad = sector; }
unsigned fake_blk_waiting(struct blk *b) { return b->waiting.length; }
unsigned fake_blk_flushes(struct blk *b) { return b->flushes; }

static int carry_out(struct blk *b, struct request *r)
{
	uint8_t *at = b->data + r->sector * 512;

	if (b->bad >= r->sector && b->bad < r->sector + r->bytes / 512)
		return -EIO;
	if (r->kind == DISCARD)
		memset(at, 0, r->bytes);
	if (r->kind == FLUSH)
		b->flushes++;
	for (int i = 0; i < r->n; i++) {
		if (r->kind == READ)
			memcpy(r->iov[i].iov_base, at, r->iov[i].iov_len);
		else
			memcpy(at, r->iov[i].iov_base, r->iov[i].iov_len);
		at += r->iov[i].iov_len;
	}
	return 0;
}

void fake_blk_run(struct blk *b)
{
	struct request *r;

	while ((r = g_queue_pop_head(&b->waiting))) {
		r->done(r->opaque, carry_out(b, r));
		g_free(r->iov);
		g_free(r);
	}
}

static void submit(struct blk *b, enum kind kind, uint64_t sector, const struct iovec *iov, int n, uint64_t bytes,
		   blk_done done, void *opaque)
{
	struct request *r = g_new0(struct request, 1);

	*r = (struct request){ .kind = kind, .sector = sector, .n = n, .done = done, .opaque = opaque };
	r->iov = g_new(struct iovec, n);
	for (int i = 0; i < n; i++) {
		r->iov[i] = iov[i];
		bytes += iov[i].iov_len;
	}
	r->bytes = bytes;
	g_assert_cmpuint(bytes % 512, ==, 0);
	g_assert_cmpuint(sector + bytes / 512, <=, b->sectors);
	g_queue_push_tail(&b->waiting, r);
}

void blk_readv(struct blk *b, uint64_t sector, const struct iovec *iov, int n, blk_done done, void *opaque)
{
	submit(b, READ, sector, iov, n, 0, done, opaque);
}

void blk_writev(struct blk *b, uint64_t sector, const struct iovec *iov, int n, blk_done done, void *opaque)
{
	g_assert_false(b->readonly);
	submit(b, WRITE, sector, iov, n, 0, done, opaque);
}

void blk_writev_fua(struct blk *b, uint64_t sector, const struct iovec *iov, int n, blk_done done, void *opaque)
{
	b->flushes++;
	blk_writev(b, sector, iov, n, done, opaque);
}

void blk_flush(struct blk *b, blk_done done, void *opaque)
{
	submit(b, FLUSH, 0, NULL, 0, 0, done, opaque);
}

void blk_discard(struct blk *b, uint64_t sector, uint64_t count, blk_done done, void *opaque)
{
	submit(b, DISCARD, sector, NULL, 0, count * 512, done, opaque);
}

void blk_write_zeroes(struct blk *b, uint64_t sector, uint64_t count, bool unmap, blk_done done, void *opaque)
{
	submit(b, DISCARD, sector, NULL, 0, count * 512, done, opaque);
}

void blk_drain(struct blk *b) { fake_blk_run(b); }
uint64_t blk_size(const struct blk *b) { return b->sectors * 512; }
bool blk_readonly(const struct blk *b) { return b->readonly; }

void blk_close(struct blk *b)
{
	if (!b)
		return;
	fake_blk_run(b);
	g_free(b->data);
	g_free(b);
}
