/* Opening images: which format a file has, and closing what was opened. */
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include "block/image.h"
#include "block/file_http.h"
#include "block/iov.h"
#include "block/qcow2.h"

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
	struct image_open_options inner = *opt;
	enum blk_format format;
	bool ok;

	im->file = f;
	im->above = opt->above;
	im->readonly = inner.readonly = opt->readonly || opt->snapshot;
	ok = choose_format(f, opt->format, &format, &inner.guessed, error) &&
	     (format == BLK_QCOW2 ? qcow2_open(im, &inner, depth, error) : raw_open(im, inner.guessed, error));
	if (!ok) {
		file_close(f);
		g_free(im);
		return NULL;
	}
	if (!im->readonly && format == BLK_RAW)
		format_record(f, format);
	return opt->snapshot && !opt->readonly ? overlay_open(im, error) : im;
}

static struct file *open_path(const char *path, bool readonly, GError **error)
{
	if (!path_is_url(path))
		return file_open_host(path, readonly, error);
	if (readonly)
		return file_open_http(path, error);
	blk_fail(error, "%s: is on a web server, where it can only be read; open it with ,readonly or ,snapshot", path);
	return NULL;
}

struct image *image_open(const char *path, const struct image_open_options *opt, GError **error)
{
	struct file *f = open_path(path, opt->readonly || opt->snapshot, error);

	return f ? image_open_file(f, opt, 0, error) : NULL;
}

/* ---- backing images ---- */

char *image_backing_path(const struct image *im, const char *name)
{
	g_autofree char *dir = NULL;

	if (g_str_has_prefix(name, "file:"))
		name += strlen("file:");
	if (g_path_is_absolute(name) || path_is_url(name))
		return g_strdup(name);
	dir = g_path_get_dirname(im->file->path);
	return g_build_filename(dir, name, NULL);
}

static bool backing_format(const struct image *im, const char *name, enum blk_format *format, GError **error)
{
	if (!name)
		*format = BLK_AUTO;
	else if (!strcmp(name, "raw") || !strcmp(name, "host_device") || !strcmp(name, "file"))
		*format = BLK_RAW;
	else if (!strcmp(name, "qcow2"))
		*format = BLK_QCOW2;
	else
		return blk_fail(error, "%s: its backing image has the format %s; guise reads raw and qcow2", im->file->path, name);
	return true;
}

/* True when a file is already part of the chain that leads to it. (Its lock would say only that it is in use.) */
static bool in_chain(const struct image *im, const char *path)
{
	struct stat mine, st;

	if (stat(path, &mine) < 0)
		return false;
	for (; im; im = im->above) {
		if (im->file->fd >= 0 && fstat(im->file->fd, &st) == 0 && st.st_dev == mine.st_dev && st.st_ino == mine.st_ino)
			return true;
	}
	return false;
}

struct image *image_open_backing(struct image *im, const char *name, const char *format, const struct image_open_options *opt,
				 unsigned depth, GError **error)
{
	struct image_open_options below = { .readonly = true, .above = im };
	g_autofree char *path = NULL;
	struct file *f;

	if (depth + 1 >= IMAGE_MAX_DEPTH) {
		blk_fail(error, "%s: more than %u backing images deep", im->file->path, IMAGE_MAX_DEPTH);
		return NULL;
	}
	if (path_is_url(im->file->path)) {
		blk_fail(error, "%s: comes from a web server, so the backing image it names (%s) is not opened", im->file->path, name);
		return NULL;
	}
	if (opt->guessed && opt->above) {
		blk_fail(error, "%s: names the backing image %s, but what leads to it does not say that it is qcow2 at all, and a guest "
			"may have written it; record the format with `qemu-img rebase -u -b FILE -F qcow2 IMAGE`", im->file->path, name);
		return NULL;
	}
	if (!backing_format(im, format, &below.format, error))
		return NULL;
	path = image_backing_path(im, name);
	if (in_chain(im, path)) {
		blk_fail(error, "%s: its backing images lead back to %s itself", im->file->path, path);
		return NULL;
	}
	f = open_path(path, true, error);
	if (!f) {
		g_prefix_error(error, "the backing image of %s: ", im->file->path);
		return NULL;
	}
	return image_open_file(f, &below, depth + 1, error);
}

/* ---- closing, and small helpers ---- */

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
