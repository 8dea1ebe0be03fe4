/*
 * The asynchronous front of an image. A request that maps to one run of a file goes to the kernel by the ring's thread, any
 * other to a pool thread, which carries it out with the driver's blocking calls.
 */
#include "block/blk.h"

#include <errno.h>
#include <string.h>

#include "block/iov.h"
#include "block/request.h"

#define POOL_THREADS 8
/* The host writes to a file under a lock of it. More large writes at once wait there, each with a sleep and a wake-up. */
#define BULK_THREADS 2
#define BULK_BYTES (64u << 10)

/* ---- carrying out ---- */

void blk_complete(struct blk *b, struct request *list)
{
	unsigned count = 0;

	if (!list)
		return;
	if (b->vm_lock)
		pthread_mutex_lock(b->vm_lock);
	while (list) {
		struct request *r = list;

		list = r->next;
		if (blk_keep_failed(b, r))
			continue;
		r->done(r->opaque, r->result);
		g_free(r);
		count++;
	}
	if (b->vm_lock)
		pthread_mutex_unlock(b->vm_lock);
	pthread_mutex_lock(&b->lock);
	b->in_flight -= count;
	if (b->in_flight == b->kept)
		pthread_cond_broadcast(&b->idle);
	pthread_mutex_unlock(&b->lock);
}

static int carry_out(struct request *r)
{
	struct image *im = r->blk->image;
	int result;

	switch (r->kind) {
	case REQ_READ: return im->ops->readv(im, r->offset, r->len, r->iov, r->n, 0);
	case REQ_WRITE: return im->ops->writev(im, r->offset, r->len, r->iov, r->n, 0);
	case REQ_WRITE_FUA:
		result = im->ops->writev(im, r->offset, r->len, r->iov, r->n, 0);
		return result < 0 ? result : im->ops->flush(im);
	case REQ_FLUSH: return im->readonly ? 0 : im->ops->flush(im);
	case REQ_DISCARD: return im->ops->discard(im, r->offset, r->len);
	case REQ_ZERO: return im->ops->write_zeroes(im, r->offset, r->len, false);
	case REQ_ZERO_UNMAP: return im->ops->write_zeroes(im, r->offset, r->len, true);
	}
	return -EINVAL;
}

static bool is_bulk(const struct request *r)
{
	return r->kind == REQ_WRITE && r->len >= BULK_BYTES;
}

/* The large write that the thread goes on with, if any waits. */
static struct request *next_bulk(struct blk *b)
{
	struct request *r;

	pthread_mutex_lock(&b->lock);
	r = b->bulk.head;
	if (r)
		b->bulk.head = r->next;
	else
		b->bulk_threads--;
	pthread_mutex_unlock(&b->lock);
	return r;
}

/* Whether a thread is there for it; else one that writes already takes it up. */
static bool begin_bulk(struct blk *b, struct request *r)
{
	bool begins;

	pthread_mutex_lock(&b->lock);
	begins = b->bulk_threads < BULK_THREADS;
	if (begins)
		b->bulk_threads++;
	else
		request_append(&b->bulk, r);
	pthread_mutex_unlock(&b->lock);
	return begins;
}

static void pool_run(void *data, void *opaque)
{
	struct request *r = data;

	while (r) {
		struct blk *b = r->blk;
		const bool bulk = is_bulk(r);

		/* A rejected request comes with its result. */
		if (r->result == 0)
			r->result = carry_out(r);
		r->next = NULL;
		blk_complete(b, r);
		r = bulk ? next_bulk(b) : NULL;
	}
}

void blk_use_pool(struct blk *b, struct request *r)
{
	if (is_bulk(r) && !begin_bulk(b, r))
		return;
	/* Without a thread to spare GLib queues the request for those that run. */
	g_thread_pool_push(b->pool, r, NULL);
}

/* ---- submission ---- */

static int check(const struct blk *b, const struct request *r)
{
	uint64_t size = b->image->size;

	if (r->kind == REQ_FLUSH)
		return 0;
	if (r->offset > size || r->len > size - r->offset || r->len % SECTOR)
		return -EINVAL;
	return r->kind != REQ_READ && b->image->readonly ? -EROFS : 0;
}

void blk_start(struct blk *b, struct request *r)
{
	/* A rejected request goes by the pool, which has nothing to do but to complete it. */
	if (b->ring && r->result == 0 && ring_takes(r))
		ring_submit(b->ring, r);
	else
		blk_use_pool(b, r);
}

static void submit(struct blk *b, enum request_kind kind, uint64_t sector, uint64_t len, const struct iovec *iov, int n,
		   blk_done done, void *opaque)
{
	struct request *r = g_malloc(sizeof(*r) + (size_t)n * sizeof(*iov));

	*r = (struct request){ .blk = b, .kind = kind, .offset = sector * SECTOR, .len = len, .done = done, .opaque = opaque, .n = n };
	if (n)
		memcpy(r->iov, iov, (size_t)n * sizeof(*iov));
	r->result = sector > IMAGE_MAX_SIZE / SECTOR ? -EINVAL : check(b, r);
	pthread_mutex_lock(&b->lock);
	b->in_flight++;
	pthread_mutex_unlock(&b->lock);
	blk_start(b, r);
}

void blk_readv(struct blk *b, uint64_t sector, const struct iovec *iov, int n, blk_done done, void *opaque)
{
	submit(b, REQ_READ, sector, iov_length(iov, n), iov, n, done, opaque);
}

void blk_writev(struct blk *b, uint64_t sector, const struct iovec *iov, int n, blk_done done, void *opaque)
{
	submit(b, REQ_WRITE, sector, iov_length(iov, n), iov, n, done, opaque);
}

void blk_writev_fua(struct blk *b, uint64_t sector, const struct iovec *iov, int n, blk_done done, void *opaque)
{
	submit(b, REQ_WRITE_FUA, sector, iov_length(iov, n), iov, n, done, opaque);
}

void blk_flush(struct blk *b, blk_done done, void *opaque)
{
	submit(b, REQ_FLUSH, 0, 0, NULL, 0, done, opaque);
}

void blk_discard(struct blk *b, uint64_t sector, uint64_t count, blk_done done, void *opaque)
{
	submit(b, REQ_DISCARD, sector, MIN(count, IMAGE_MAX_SIZE / SECTOR + 1) * SECTOR, NULL, 0, done, opaque);
}

void blk_write_zeroes(struct blk *b, uint64_t sector, uint64_t count, bool unmap, blk_done done, void *opaque)
{
	submit(b, unmap ? REQ_ZERO_UNMAP : REQ_ZERO, sector, MIN(count, IMAGE_MAX_SIZE / SECTOR + 1) * SECTOR, NULL, 0, done, opaque);
}

static void wait_idle(struct blk *b)
{
	pthread_mutex_lock(&b->lock);
	b->draining++;
	pthread_mutex_unlock(&b->lock);
	blk_retry(b);
	pthread_mutex_lock(&b->lock);
	while (b->in_flight)
		pthread_cond_wait(&b->idle, &b->lock);
	b->draining--;
	pthread_mutex_unlock(&b->lock);
}

void blk_drain(struct blk *b)
{
	if (b->vm_lock)
		pthread_mutex_unlock(b->vm_lock);
	wait_idle(b);
	if (b->vm_lock)
		pthread_mutex_lock(b->vm_lock);
}

int blk_resize(struct blk *b, uint64_t bytes)
{
	if (b->image->readonly)
		return -EROFS;
	if (bytes % SECTOR || bytes < b->image->size || bytes > IMAGE_MAX_SIZE)
		return -EINVAL;
	if (b->failed)
		return -EBUSY;
	blk_drain(b);
	return b->image->ops->resize(b->image, bytes);
}

int blk_pread(struct blk *b, uint64_t offset, void *buf, size_t len)
{
	const uint64_t start = offset & ~(uint64_t)(SECTOR - 1), end = (offset + len + SECTOR - 1) & ~(uint64_t)(SECTOR - 1);
	g_autofree char *sectors = NULL;
	int r;

	if (offset > b->image->size || len > b->image->size - offset)
		return -EINVAL;
	if (start == offset && end == offset + len)
		return image_pread(b->image, offset, buf, len);
	sectors = g_malloc(end - start);
	r = image_pread(b->image, start, sectors, end - start);
	if (r == 0)
		memcpy(buf, sectors + (offset - start), len);
	return r;
}

/* ---- opening and closing ---- */

struct blk *blk_open(const char *path, const struct blk_options *opt, pthread_mutex_t *lock, GError **error)
{
	const struct image_open_options io = { .format = opt->format, .readonly = opt->readonly, .snapshot = opt->snapshot };
	struct image *im = image_open(path, &io, error);
	struct blk *b;

	if (!im)
		return NULL;
	b = g_new0(struct blk, 1);
	b->path = g_strdup(path);
	b->image = im;
	b->snapshot = opt->snapshot && !opt->readonly;
	b->vm_lock = lock;
	pthread_mutex_init(&b->lock, NULL);
	pthread_cond_init(&b->idle, NULL);
	b->failed_end = &b->failed;
	b->pool = g_thread_pool_new(pool_run, NULL, POOL_THREADS, FALSE, NULL);
	b->ring = opt->threads ? NULL : ring_create(b);
	return b;
}

void blk_close(struct blk *b)
{
	if (!b)
		return;
	wait_idle(b);
	ring_destroy(b->ring);
	g_thread_pool_free(b->pool, FALSE, TRUE);
	image_close(b->image);
	pthread_cond_destroy(&b->idle);
	pthread_mutex_destroy(&b->lock);
	g_free(b->path);
	g_free(b);
}

const char *blk_path(const struct blk *b)
{
	return b->path;
}

const char *blk_format_name(const struct blk *b)
{
	/* A snapshot's temporary layer is nothing that the user named. */
	return (b->snapshot ? b->image->backing : b->image)->ops->name;
}

uint64_t blk_size(const struct blk *b)
{
	return b->image->size;
}

bool blk_readonly(const struct blk *b)
{
	return b->image->readonly;
}
