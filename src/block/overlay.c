/*
 * The temporary layer of snapshot mode: an unlinked sparse file of the image's shape takes the writes, and a bitmap says
 * which blocks are in it. The bitmap comes in pages made on the first write to their part of the disk.
 */
#include <errno.h>
#include <string.h>

#include "block/image.h"
#include "block/iov.h"

#define BLOCK 4096u
#define PAGE_BLOCKS 32768u /* 128 MiB of disk */

struct overlay {
	pthread_mutex_t lock; /* the bitmap; partial writes of a block are made whole under it too */
	GHashTable *pages;    /* page number -> bits */
};

static bool in_overlay(struct overlay *o, uint64_t block)
{
	const uint8_t *bits = g_hash_table_lookup(o->pages, &(uint64_t){ block / PAGE_BLOCKS });

	return bits && (bits[block % PAGE_BLOCKS / 8] & 1 << block % 8);
}

static void mark(struct overlay *o, uint64_t block)
{
	uint64_t page = block / PAGE_BLOCKS;
	uint8_t *bits = g_hash_table_lookup(o->pages, &page);

	if (!bits) {
		bits = g_malloc0(PAGE_BLOCKS / 8);
		g_hash_table_insert(o->pages, g_memdup2(&page, sizeof(page)), bits);
	}
	bits[block % PAGE_BLOCKS / 8] |= (uint8_t)(1 << block % 8);
}

/* How many bytes from offset on are in the same layer. Called with the lock. */
static uint64_t run_locked(struct overlay *o, uint64_t offset, uint64_t len, bool *mine)
{
	uint64_t end = offset + len, at = offset;

	*mine = in_overlay(o, offset / BLOCK);
	while (at < end && in_overlay(o, at / BLOCK) == *mine)
		at = (at / BLOCK + 1) * BLOCK;
	return MIN(at, end) - offset;
}

static uint64_t run(struct overlay *o, uint64_t offset, uint64_t len, bool *mine)
{
	uint64_t bytes;

	pthread_mutex_lock(&o->lock);
	bytes = run_locked(o, offset, len, mine);
	pthread_mutex_unlock(&o->lock);
	return bytes;
}

static int overlay_readv(struct image *im, uint64_t offset, uint64_t len, const struct iovec *iov, int n, uint64_t skip)
{
	while (len) {
		bool mine;
		uint64_t now = run(im->state, offset, len, &mine), got = now;
		int r = mine ? file_readv(im->file, offset, iov, n, skip, now, &got) :
			       image_readv(im->backing, offset, now, iov, n, skip);

		if (r < 0)
			return r;
		if (got < now)
			iov_zero(iov, n, skip + got, now - got);
		offset += now;
		skip += now;
		len -= now;
	}
	return 0;
}

/* Brings a block that a write covers in part into the overlay. Called with the lock. */
static int fill_block(struct image *im, uint64_t block)
{
	struct overlay *o = im->state;
	uint8_t buf[BLOCK];
	uint64_t offset = block * BLOCK, len = MIN(BLOCK, im->size - offset);
	int r;

	if (in_overlay(o, block))
		return 0;
	r = image_pread(im->backing, offset, buf, len);
	if (r == 0)
		r = file_write(im->file, offset, buf, len);
	if (r == 0)
		mark(o, block);
	return r;
}

/* Readies the blocks at the ends of a write; those between are marked when it is done. */
static int fill_ends(struct image *im, uint64_t offset, uint64_t len)
{
	struct overlay *o = im->state;
	uint64_t end = offset + len;
	int r = 0;

	if (offset % BLOCK == 0 && (end % BLOCK == 0 || end == im->size))
		return 0;
	pthread_mutex_lock(&o->lock);
	if (offset % BLOCK)
		r = fill_block(im, offset / BLOCK);
	if (r == 0 && end % BLOCK && end != im->size)
		r = fill_block(im, end / BLOCK);
	pthread_mutex_unlock(&o->lock);
	return r;
}

static void mark_range(struct image *im, uint64_t offset, uint64_t len)
{
	struct overlay *o = im->state;

	pthread_mutex_lock(&o->lock);
	for (uint64_t block = offset / BLOCK; block * BLOCK < offset + len; block++)
		mark(o, block);
	pthread_mutex_unlock(&o->lock);
}

static int overlay_writev(struct image *im, uint64_t offset, uint64_t len, const struct iovec *iov, int n, uint64_t skip)
{
	int r = fill_ends(im, offset, len);

	if (r == 0)
		r = file_writev(im->file, offset, iov, n, skip, len);
	if (r == 0)
		mark_range(im, offset, len);
	return r;
}

/* Nothing here outlives the process, so there is nothing to make stable. */
static int overlay_flush(struct image *im)
{
	return 0;
}

static int overlay_write_zeroes(struct image *im, uint64_t offset, uint64_t len, bool unmap)
{
	int r = fill_ends(im, offset, len);

	if (r == 0)
		r = file_zero(im->file, offset, len, true);
	if (r == 0)
		mark_range(im, offset, len);
	return r;
}

static int overlay_discard(struct image *im, uint64_t offset, uint64_t len)
{
	return 0;
}

static bool overlay_map(struct image *im, uint64_t offset, uint64_t len, bool write, struct map *m)
{
	struct overlay *o = im->state;
	uint64_t bytes;
	bool mine;

	/* Whoever holds the lock may be reading from below. */
	if (pthread_mutex_trylock(&o->lock))
		return false;
	bytes = run_locked(o, offset, len, &mine);
	pthread_mutex_unlock(&o->lock);
	if (bytes < len)
		return false;
	if (!mine)
		return !write && im->backing->ops->map(im->backing, offset, len, false, m);
	m->file = im->file;
	m->offset = offset;
	m->owner = im;
	return true;
}

static void overlay_map_end(struct image *im, const struct map *m)
{
}

static bool overlay_clean(struct image *im)
{
	return false;
}

static int64_t overlay_status(struct image *im, uint64_t offset, uint64_t len, enum alloc *alloc)
{
	bool mine;
	uint64_t now = run(im->state, offset, len, &mine);

	*alloc = mine ? ALLOC_DATA : ALLOC_BACKING;
	return (int64_t)now;
}

static int overlay_resize(struct image *im, uint64_t size)
{
	return -EOPNOTSUPP;
}

static int overlay_close(struct image *im)
{
	struct overlay *o = im->state;

	g_hash_table_unref(o->pages);
	pthread_mutex_destroy(&o->lock);
	g_free(o);
	return 0;
}

static const struct blk_ops overlay_ops = {
	.name = "overlay",
	.readv = overlay_readv,
	.writev = overlay_writev,
	.flush = overlay_flush,
	.discard = overlay_discard,
	.write_zeroes = overlay_write_zeroes,
	.map = overlay_map,
	.map_end = overlay_map_end,
	.clean = overlay_clean,
	.status = overlay_status,
	.resize = overlay_resize,
	.close = overlay_close,
};

struct image *overlay_open(struct image *below, GError **error)
{
	struct file *f = file_open_temporary(error);
	struct overlay *o;
	struct image *im;

	if (!f) {
		image_close(below);
		return NULL;
	}
	o = g_new0(struct overlay, 1);
	pthread_mutex_init(&o->lock, NULL);
	o->pages = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
	im = g_new0(struct image, 1);
	im->ops = &overlay_ops;
	im->file = f;
	im->backing = below;
	im->state = o;
	im->size = below->size;
	return im;
}
