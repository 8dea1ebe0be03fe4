/* Raw images: byte n of the disk is byte n of the file. */
#include <errno.h>
#include <inttypes.h>

#include "block/image.h"
#include "block/iov.h"

struct raw {
	uint64_t bytes; /* the file's size when it was opened, perhaps within a sector */
	bool guard;     /* the format was guessed: the guest may not write a header of another one */
};

static int raw_readv(struct image *im, uint64_t offset, uint64_t len, const struct iovec *iov, int n, uint64_t skip)
{
	struct raw *raw = im->state;
	uint64_t got;
	int r = file_readv(im->file, offset, iov, n, skip, len, &got);

	if (r < 0 || got == len)
		return r;
	/* The last sector may be short; anything else means that the file was truncated under us. */
	if (offset + got < raw->bytes)
		return -EIO;
	iov_zero(iov, n, skip + got, len - got);
	return 0;
}

/* A write that would make a guessed raw image look like another format is refused: the next start would
 * follow the guest's header, to any file of the host. */
static bool relabels(const struct raw *raw, uint64_t offset, uint64_t len, const struct iovec *iov, int n, uint64_t skip)
{
	char head[SECTOR];

	if (!raw->guard || offset)
		return false;
	iov_read(iov, n, skip, head, MIN(len, sizeof(head)));
	return format_probe(head, MIN(len, sizeof(head))) != BLK_RAW;
}

static int raw_writev(struct image *im, uint64_t offset, uint64_t len, const struct iovec *iov, int n, uint64_t skip)
{
	if (relabels(im->state, offset, len, iov, n, skip))
		return -EPERM;
	return file_writev(im->file, offset, iov, n, skip, len);
}

static int raw_flush(struct image *im)
{
	return im->file->ops->sync(im->file);
}

static int raw_discard(struct image *im, uint64_t offset, uint64_t len)
{
	int r = im->file->ops->zero(im->file, offset, len, true);

	return r == -EOPNOTSUPP ? 0 : r;
}

static int raw_write_zeroes(struct image *im, uint64_t offset, uint64_t len, bool unmap)
{
	return file_zero(im->file, offset, len, unmap);
}

static bool raw_map(struct image *im, uint64_t offset, uint64_t len, bool write, struct map *m)
{
	struct raw *raw = im->state;

	if (im->file->fd < 0 || offset + len > raw->bytes || (write && raw->guard && offset == 0))
		return false;
	m->file = im->file;
	m->offset = offset;
	m->owner = im;
	return true;
}

static void raw_map_end(struct image *im, const struct map *m)
{
}

static bool raw_clean(struct image *im)
{
	return true;
}

static int64_t raw_status(struct image *im, uint64_t offset, uint64_t len, enum alloc *alloc)
{
	bool hole;
	uint64_t same = im->file->ops->extent(im->file, offset, len, &hole) & ~(uint64_t)(SECTOR - 1);

	/* A hole that ends within a sector leaves that sector as data. */
	*alloc = hole && same ? ALLOC_ZERO : ALLOC_DATA;
	return (int64_t)(same ? same : MIN(len, SECTOR));
}

static int raw_resize(struct image *im, uint64_t size)
{
	struct raw *raw = im->state;
	int r = im->file->ops->truncate(im->file, size);

	if (r == 0)
		im->size = raw->bytes = size;
	return r;
}

static int raw_close(struct image *im)
{
	int r = im->readonly ? 0 : raw_flush(im);

	g_free(im->state);
	return r;
}

static const struct blk_ops raw_ops = {
	.name = "raw",
	.readv = raw_readv,
	.writev = raw_writev,
	.flush = raw_flush,
	.discard = raw_discard,
	.write_zeroes = raw_write_zeroes,
	.map = raw_map,
	.map_end = raw_map_end,
	.clean = raw_clean,
	.status = raw_status,
	.resize = raw_resize,
	.close = raw_close,
};

bool raw_open(struct image *im, bool guessed, GError **error)
{
	int64_t size = im->file->ops->size(im->file);
	struct raw *raw;

	if (size < 0)
		return blk_fail(error, "%s: its size: %s", im->file->path, g_strerror((int)-size));
	if ((uint64_t)size > IMAGE_MAX_SIZE)
		return blk_fail(error, "%s: larger than any disk (%" PRId64 " bytes)", im->file->path, size);
	raw = g_new0(struct raw, 1);
	raw->bytes = (uint64_t)size;
	raw->guard = guessed && !im->readonly;
	im->state = raw;
	im->size = (raw->bytes + SECTOR - 1) & ~(uint64_t)(SECTOR - 1);
	im->ops = &raw_ops;
	return true;
}
