/* `guise image` commands that move data: convert, commit, compare. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/image.h"
#include "cli/progress.h"

#define CHUNK (2u << 20)
#define ZERO_UNIT 4096u

static bool fail_io(GError **error, const struct image *im, const char *what, int r)
{
	return blk_fail(error, "%s: %s: %s", im->file->path, what, g_strerror(-r));
}

static bool all_zero(const uint8_t *p, uint64_t len)
{
	return !p[0] && !memcmp(p, p + 1, len - 1);
}

/* How the guest sees the bytes: what the top layer does not have is asked of those below. */
static int64_t status(struct image *im, uint64_t offset, uint64_t len, bool *zero)
{
	enum alloc alloc = ALLOC_BACKING;

	while (im && offset < im->size) {
		int64_t same = im->ops->status(im, offset, MIN(len, im->size - offset), &alloc);

		if (same < 0)
			return same;
		len = (uint64_t)same;
		if (alloc != ALLOC_BACKING)
			break;
		im = im->backing;
	}
	*zero = alloc != ALLOC_DATA;
	return (int64_t)len;
}

/* ---- convert ---- */

struct copy {
	struct image *from, *to;
	bool compress;
	uint8_t *buf;
	struct progress progress;
};

/* Writes what of the buffer is not zero; the target is. */
static int write_sparse(struct copy *c, uint64_t offset, uint64_t len)
{
	for (uint64_t at = 0, run; at < len; at += run) {
		uint64_t unit = MIN(ZERO_UNIT, len - at);
		bool zero = all_zero(c->buf + at, unit);
		int r;

		for (run = unit; at + run < len; run += unit) {
			unit = MIN(ZERO_UNIT, len - at - run);
			if (all_zero(c->buf + at + run, unit) != zero)
				break;
		}
		if (zero)
			continue;
		r = image_pwrite(c->to, offset + at, c->buf + at, run);
		if (r < 0)
			return r;
	}
	return 0;
}

static int write_packed(struct copy *c, uint64_t offset, uint64_t len)
{
	const uint32_t size = qcow2_of(c->to)->cluster_size;

	for (uint64_t at = 0; at < len; at += size) {
		uint32_t now = (uint32_t)MIN(size, len - at);
		int r;

		if (all_zero(c->buf + at, now))
			continue;
		r = qcow2_write_compressed(c->to, offset + at, c->buf + at, now);
		if (r == -ENOSPC)
			r = image_pwrite(c->to, offset + at, c->buf + at, now);
		if (r < 0)
			return r;
	}
	return 0;
}

static bool copy_all(struct copy *c, GError **error)
{
	const uint64_t size = c->from->size;

	/* Chunks start at multiples of their size, so that compressed clusters are whole. */
	for (uint64_t at = 0; at < size;) {
		uint64_t len = MIN(CHUNK - at % CHUNK, size - at);
		bool zero;
		int64_t same = status(c->from, at, len, &zero);
		int r;

		progress_update(&c->progress, at, size);
		if (same < 0)
			return fail_io(error, c->from, "reading its tables", (int)same);
		if (zero && (!c->compress || (uint64_t)same == len)) {
			at += (uint64_t)same;
			continue;
		}
		if (!c->compress)
			len = (uint64_t)same;
		r = image_pread(c->from, at, c->buf, len);
		if (r < 0)
			return fail_io(error, c->from, "reading it", r);
		r = c->compress ? write_packed(c, at, len) : write_sparse(c, at, len);
		if (r < 0)
			return fail_io(error, c->to, "writing it", r);
		at += len;
	}
	return true;
}

bool image_make(const char *path, enum blk_format format, const struct qcow2_create *c, bool force, GError **error)
{
	struct file *f = file_create_host(path, force, error);
	int64_t size;
	bool ok;
	int r;

	if (!f)
		return false;
	if (format == BLK_QCOW2) {
		ok = qcow2_create(f, c, error);
	} else if (f->device) {
		size = f->ops->size(f);
		ok = (size >= 0 && (uint64_t)size >= c->size) || blk_fail(error, "%s: the device is smaller than the image", path);
	} else {
		r = f->ops->truncate(f, c->size);
		ok = r == 0 || blk_fail(error, "%s: %s", path, g_strerror(-r));
	}
	if (ok)
		format_record(f, format);
	/* What failed was not there before. */
	if (!ok && !force && !f->device)
		remove(path);
	file_close(f);
	return ok;
}

static bool open_both(const struct image_options *o, struct copy *c, GError **error)
{
	const struct image_open_options from = { .format = o->format, .readonly = true }, to = { .format = o->to };
	struct qcow2_create create = o->create;

	c->from = image_open(o->file[0], &from, error);
	if (!c->from)
		return false;
	create.size = c->from->size;
	if (!image_make(o->file[1], o->to, &create, o->force, error))
		return false;
	c->to = image_open(o->file[1], &to, error);
	return c->to != NULL;
}

int image_convert(const struct image_options *o, GError **error)
{
	struct copy c = { .compress = o->compress, .buf = g_malloc(CHUNK) };
	bool ok = open_both(o, &c, error);
	int r;

	if (ok) {
		progress_begin(&c.progress, "converting");
		ok = copy_all(&c, error);
		progress_end(&c.progress);
	}
	image_close(c.from);
	r = image_close(c.to);
	if (ok && r < 0)
		ok = blk_fail(error, "%s: closing it: %s", o->file[1], g_strerror(-r));
	g_free(c.buf);
	return ok ? 0 : 1;
}

/* ---- commit ---- */

static bool commit_data(struct image *top, struct image *base, uint8_t *buf, GError **error)
{
	struct progress p;
	bool ok = true;

	progress_begin(&p, "committing");
	for (uint64_t at = 0; ok && at < top->size;) {
		enum alloc alloc;
		int64_t same = top->ops->status(top, at, MIN(CHUNK, top->size - at), &alloc);
		int r = 0;

		progress_update(&p, at, top->size);
		if (same < 0) {
			ok = fail_io(error, top, "reading its tables", (int)same);
			break;
		}
		if (alloc == ALLOC_DATA) {
			r = image_pread(top, at, buf, (uint64_t)same);
			if (r < 0)
				ok = fail_io(error, top, "reading it", r);
			else
				r = image_pwrite(base, at, buf, (uint64_t)same);
		} else if (alloc == ALLOC_ZERO) {
			r = base->ops->write_zeroes(base, at, (uint64_t)same, true);
		}
		if (ok && r < 0)
			ok = fail_io(error, base, "writing it", r);
		at += (uint64_t)same;
	}
	progress_end(&p);
	return ok;
}

/* The order matters: only what the base holds for good is taken out of the top. */
static bool commit_into(struct image *top, struct image *base, GError **error)
{
	g_autofree uint8_t *buf = g_malloc(CHUNK);
	int r = 0;

	if (base->size < top->size)
		r = base->ops->resize(base, top->size);
	if (r < 0)
		return fail_io(error, base, "making it as large as the image above", r);
	if (!commit_data(top, base, buf, error))
		return false;
	r = base->ops->flush(base);
	if (r < 0)
		return fail_io(error, base, "flushing it", r);
	r = top->ops->discard(top, 0, top->size);
	if (r == 0)
		r = top->ops->flush(top);
	return r == 0 || fail_io(error, top, "emptying it", r);
}

int image_commit(const struct image_options *o, GError **error)
{
	const struct image_open_options top_options = { .format = o->format, .no_backing = true };
	struct image_open_options base_options = { .format = BLK_AUTO };
	struct image *top = image_open(o->file[0], &top_options, error), *base = NULL;
	g_autofree char *path = NULL;
	bool ok = top != NULL;
	struct qcow2 *q;

	if (ok && (!image_is_qcow2(top) || !qcow2_of(top)->backing_name))
		ok = blk_fail(error, "%s: has no backing image to commit to", o->file[0]);
	if (ok) {
		q = qcow2_of(top);
		path = image_backing_path(top, q->backing_name);
		if (q->backing_format)
			base_options.format = !strcmp(q->backing_format, "qcow2") ? BLK_QCOW2 : BLK_RAW;
		base = image_open(path, &base_options, error);
		ok = base && commit_into(top, base, error);
	}
	if (image_close(base) < 0 && ok)
		ok = blk_fail(error, "%s: closing it failed", path);
	if (image_close(top) < 0 && ok)
		ok = blk_fail(error, "%s: closing it failed", o->file[0]);
	return ok ? 0 : 1;
}

/* ---- compare ---- */

static bool read_or_zero(struct image *im, uint64_t at, uint8_t *buf, uint64_t len, GError **error)
{
	const struct iovec iov = { buf, len };
	int r = image_read_backing(im, at, len, &iov, 1, 0);

	return r == 0 || fail_io(error, im, "reading it", r);
}

/* The first byte that differs, or -1; -2 with an error. */
static int64_t first_difference(struct image *a, struct image *b, GError **error)
{
	const uint64_t size = MAX(a->size, b->size);
	g_autofree uint8_t *x = g_malloc(CHUNK), *y = g_malloc(CHUNK);
	struct progress p;
	int64_t found = -1;

	progress_begin(&p, "comparing");
	for (uint64_t at = 0, len; at < size && found == -1; at += len) {
		bool x_zero = true, y_zero = true;
		int64_t same = status(a, at, MIN(CHUNK, size - at), &x_zero);

		if (same > 0)
			same = status(b, at, (uint64_t)same, &y_zero);
		progress_update(&p, at, size);
		if (same < 0) {
			fail_io(error, a, "reading its tables", (int)same);
			found = -2;
			break;
		}
		len = (uint64_t)same;
		if (x_zero && y_zero)
			continue;
		if (!read_or_zero(a, at, x, len, error) || !read_or_zero(b, at, y, len, error)) {
			found = -2;
			break;
		}
		for (uint64_t i = 0; memcmp(x, y, len) && i < len; i++) {
			if (x[i] != y[i]) {
				found = (int64_t)(at + i);
				break;
			}
		}
	}
	progress_end(&p);
	return found;
}

int image_compare(const struct image_options *o, GError **error)
{
	const struct image_open_options first = { .format = o->format, .readonly = true }, second = { .format = o->to, .readonly = true };
	struct image *a = image_open(o->file[0], &first, error);
	struct image *b = a ? image_open(o->file[1], &second, error) : NULL;
	int64_t at = b ? first_difference(a, b, error) : -2;
	bool sizes = b && a->size != b->size;

	image_close(a);
	image_close(b);
	if (at == -2)
		return 1;
	if (at >= 0) {
		if (!o->quiet)
			printf("The disks differ at byte %" PRId64 ".\n", at);
		return 3;
	}
	if (!o->quiet)
		puts(sizes ? "The disks are the same, but for zeros at the end of the longer one." : "The disks are the same.");
	return sizes && o->strict ? 3 : 0;
}
