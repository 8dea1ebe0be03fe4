/*
 * One layer of a disk image: a format driver over a file, perhaps with a backing image below. Calls
 * block and are safe from several threads; blk.h is the asynchronous front. Offsets and lengths are
 * bytes and multiples of 512 within the image's size.
 */
#ifndef BLOCK_IMAGE_H
#define BLOCK_IMAGE_H

#include "block/blk.h"
#include "block/file.h"

#define SECTOR 512u
/* Sizes above this are refused: offsets stay clear of overflow everywhere. */
#define IMAGE_MAX_SIZE (UINT64_C(1) << 60)
#define IMAGE_MAX_DEPTH 32

struct image;

/* Where a range lies in a file, for I/O that goes there directly; `token` goes back to map_end. */
struct map {
	struct file *file;
	uint64_t offset;
	unsigned token;
	struct image *owner;
};

enum alloc { ALLOC_BACKING, ALLOC_ZERO, ALLOC_DATA };

struct blk_ops {
	const char *name;
	int (*readv)(struct image *im, uint64_t offset, uint64_t len, const struct iovec *iov, int n, uint64_t skip);
	int (*writev)(struct image *im, uint64_t offset, uint64_t len, const struct iovec *iov, int n, uint64_t skip);
	/* All writes that returned before are on stable storage. */
	int (*flush)(struct image *im);
	/* A hint: the range may read as anything that was there, or as zeros. */
	int (*discard)(struct image *im, uint64_t offset, uint64_t len);
	int (*write_zeroes)(struct image *im, uint64_t offset, uint64_t len, bool unmap);
	/* Without blocking: when the whole range lies in one run of a file and needs no bookkeeping, true and where.
	 * map_end follows when the I/O is over; until then that place is used for nothing else. */
	bool (*map)(struct image *im, uint64_t offset, uint64_t len, bool write, struct map *m);
	void (*map_end)(struct image *im, const struct map *m);
	/* True when a flush is no more than a sync of `file`. */
	bool (*clean)(struct image *im);
	/* How the bytes from offset on are stored in this layer; returns how many are alike, or -errno. */
	int64_t (*status)(struct image *im, uint64_t offset, uint64_t len, enum alloc *alloc);
	int (*resize)(struct image *im, uint64_t size);
	/* Frees the driver's state, after a flush. */
	int (*close)(struct image *im);
};

struct image {
	const struct blk_ops *ops;
	struct file *file;
	struct image *backing; /* or NULL */
	void *state;
	const struct image *above; /* while it is being opened as a backing image */
	uint64_t size; /* bytes, a multiple of 512 */
	bool readonly;
};

struct image_open_options {
	enum blk_format format;
	bool readonly;
	bool snapshot;
	bool no_backing; /* leave the chain closed (info, check) */
	bool unsafe_repair; /* open for checking: accept what a check is there to find */
	bool guessed;       /* nobody named this format, so what the file says of others is not followed */
	const struct image *above; /* the chain that leads here, for backing images */
};

/* By path or URL. Errors name the file, the reason and the next step. */
struct image *image_open(const char *path, const struct image_open_options *opt, GError **error);
/* Over a file that is open already and that the image owns from now on, even on failure. */
struct image *image_open_file(struct file *f, const struct image_open_options *opt, unsigned depth, GError **error);
/* The backing image that `im` names, read-only. `format` is what it recorded, or NULL. */
struct image *image_open_backing(struct image *im, const char *name, const char *format, const struct image_open_options *opt,
				 unsigned depth, GError **error);
/* The path of a backing file, relative names taken from the image's directory. To be freed. */
char *image_backing_path(const struct image *im, const char *name);
/* Closes the chain. Returns what the last flush said. NULL is accepted. */
int image_close(struct image *im);

static inline int image_readv(struct image *im, uint64_t offset, uint64_t len, const struct iovec *iov, int n, uint64_t skip)
{
	return im->ops->readv(im, offset, len, iov, n, skip);
}
int image_pread(struct image *im, uint64_t offset, void *buf, uint64_t len);
int image_pwrite(struct image *im, uint64_t offset, const void *buf, uint64_t len);
/* Reads from a backing image of another size: what lies past its end is zeros. `im` may be NULL. */
int image_read_backing(struct image *im, uint64_t offset, uint64_t len, const struct iovec *iov, int n, uint64_t skip);

/* Drivers. Each takes the file on success only. */
/* `guessed`: nobody named the format. */
bool raw_open(struct image *im, bool guessed, GError **error);
/* Puts a temporary layer for writes over `below`, which it owns from now on, even on failure. */
struct image *overlay_open(struct image *below, GError **error);

/* What the bytes look like: BLK_QCOW2, or BLK_RAW for anything else. */
enum blk_format format_probe(const void *head, size_t len);
/* The format that was recorded for a file when a guest first got to write it, or BLK_AUTO. */
enum blk_format format_recorded(struct file *f);
/* Records it where the host's file system can. */
void format_record(struct file *f, enum blk_format format);
const char *format_name(enum blk_format format);

#endif
