/* Opening images: which format a file has, and closing what was opened. */
#include <errno.h>
#include <string.h>
#include <sys/xattr.h>

#include "block/image.h"
#include "block/iov.h"

#define FORMAT_XATTR "user.guise.format"

enum blk_format format_probe(const void *head, size_t len)
{
	return len >= 4 && !memcmp(head, "QFI\xfb", 4) ? BLK_QCOW2 : BLK_RAW;
}

const char *format_name(enum blk_format format)
{
	return format == BLK_QCOW2 ? "qcow2" : format == BLK_RAW ? "raw" : "auto";
}

enum blk_format format_recorded(struct file *f)
{
	char value[16];
	ssize_t n = f->fd >= 0 && !f->device ? fgetxattr(f->fd, FORMAT_XATTR, value, sizeof(value) - 1) : -1;

	if (n <= 0)
		return BLK_AUTO;
	value[n] = 0;
	return !strcmp(value, "raw") ? BLK_RAW : !strcmp(value, "qcow2") ? BLK_QCOW2 : BLK_AUTO;
}

void format_record(struct file *f, enum blk_format format)
{
	const char *name = format_name(format);

	/* Where extended attributes are missing, the guard in raw.c still holds. */
	if (f->fd >= 0 && !f->device && fsetxattr(f->fd, FORMAT_XATTR, name, strlen(name), 0) < 0)
		return;
}

/* The format that was asked for, else what the file looks like, unless a guest had the chance to make it look so. */
static bool choose_format(struct file *f, enum blk_format asked, enum blk_format *format, bool *guessed, GError **error)
{
	char head[SECTOR];
	int r;

	enum blk_format recorded = format_recorded(f), looks;

	*guessed = false;
	*format = asked;
	if (asked != BLK_AUTO)
		return true;
	r = file_read(f, 0, head, sizeof(head));
	if (r < 0)
		return blk_fail(error, "%s: reading its first sector: %s", f->path, g_strerror(-r));
	looks = format_probe(head, sizeof(head));
	if (recorded == BLK_RAW && looks != BLK_RAW)
		return blk_fail(error, "%s: a guest used it as a raw disk, and now it looks like %s; a guest may have written that, "
				"so say which it is: format=raw or format=%s", f->path, format_name(looks), format_name(looks));
	*format = looks;
	*guessed = true;
	return true;
}

struct image *image_open_file(struct file *f, const struct image_open_options *opt, unsigned depth, GError **error)
{
	struct image *im = g_new0(struct image, 1);
	enum blk_format format;
	bool guessed, ok;

	im->file = f;
	im->readonly = opt->readonly || opt->snapshot;
	ok = choose_format(f, opt->format, &format, &guessed, error) && raw_open(im, guessed, error);
	if (!ok) {
		file_close(f);
		g_free(im);
		return NULL;
	}
	if (!im->readonly && format == BLK_RAW)
		format_record(f, format);
	return opt->snapshot && !opt->readonly ? overlay_open(im, error) : im;
}

struct image *image_open(const char *path, const struct image_open_options *opt, GError **error)
{
	struct file *f = file_open_host(path, opt->readonly || opt->snapshot, error);

	return f ? image_open_file(f, opt, 0, error) : NULL;
}

int image_close(struct image *im)
{
	int r = 0;

	while (im) {
		struct image *below = im->backing;
		int closed = im->ops->close(im);

		if (r == 0)
			r = closed;
		file_close(im->file);
		g_free(im);
		im = below;
	}
	return r;
}

int image_pread(struct image *im, uint64_t offset, void *buf, uint64_t len)
{
	const struct iovec iov = { buf, len };

	return im->ops->readv(im, offset, len, &iov, 1, 0);
}

int image_pwrite(struct image *im, uint64_t offset, const void *buf, uint64_t len)
{
	const struct iovec iov = { (void *)buf, len };

	return im->ops->writev(im, offset, len, &iov, 1, 0);
}

int image_read_backing(struct image *im, uint64_t offset, uint64_t len, const struct iovec *iov, int n, uint64_t skip)
{
	uint64_t there = im && offset < im->size ? MIN(len, im->size - offset) : 0;
	int r = there ? im->ops->readv(im, offset, there, iov, n, skip) : 0;

	if (r == 0 && there < len)
		iov_zero(iov, n, skip + there, len - there);
	return r;
}
