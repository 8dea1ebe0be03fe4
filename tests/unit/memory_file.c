/* A file in memory for image tests. */
#include "memory_file.h"

#include <errno.h>
#include <string.h>

#include "block/iov.h"

#define MEMORY_SECTOR 512u

static bool grow(struct memory_file *m, uint64_t size)
{
	if (size > m->limit)
		return false;
	if (size > m->room) {
		m->room = size + size / 2 + 65536;
		m->bytes = g_realloc(m->bytes, m->room);
	}
	if (size > m->size) {
		memset(m->bytes + m->size, 0, size - m->size);
		m->size = size;
	}
	return true;
}

/* Counts a call; true when this one is to fail. */
static bool fails(struct memory_file *m)
{
	m->calls++;
	return m->fail_at && (m->calls == m->fail_at || (m->fail_on && m->calls > m->fail_at));
}

static void note(struct memory_file *m, struct change c)
{
	if (m->log)
		g_array_append_val(m->log, c);
	else
		g_free(c.bytes);
}

static int memory_readv(struct file *f, uint64_t offset, const struct iovec *iov, int n, uint64_t *got)
{
	struct memory_file *m = (struct memory_file *)f;

	*got = offset < m->size ? MIN(iov_length(iov, n), m->size - offset) : 0;
	if (*got)
		iov_write(iov, n, 0, m->bytes + offset, *got);
	return 0;
}

static int memory_writev(struct file *f, uint64_t offset, const struct iovec *iov, int n)
{
	struct memory_file *m = (struct memory_file *)f;
	uint64_t len = iov_length(iov, n);
	bool fail = fails(m);
	struct change c = { CHANGE_WRITE, offset };

	/* A write that fails has done a part. */
	if (fail)
		len = len / 2 & ~(uint64_t)(MEMORY_SECTOR - 1);
	if (offset > m->limit || len > m->limit - offset)
		return -EFBIG;
	c.len = len;
	c.bytes = g_malloc(MAX(len, 1));
	iov_read(iov, n, 0, c.bytes, len);
	grow(m, offset + len);
	memcpy(m->bytes + offset, c.bytes, len);
	note(m, c);
	return fail ? m->error : 0;
}

static int memory_sync(struct file *f)
{
	struct memory_file *m = (struct memory_file *)f;

	if (fails(m))
		return m->error;
	note(m, (struct change){ CHANGE_SYNC });
	return 0;
}

static int memory_zero(struct file *f, uint64_t offset, uint64_t len, bool unmap)
{
	struct memory_file *m = (struct memory_file *)f;

	if (fails(m))
		return m->error;
	if (offset < m->size)
		memset(m->bytes + offset, 0, MIN(len, m->size - offset));
	note(m, (struct change){ CHANGE_ZERO, offset, len });
	return 0;
}

static int memory_truncate(struct file *f, uint64_t size)
{
	struct memory_file *m = (struct memory_file *)f;

	if (fails(m))
		return m->error;
	if (size > m->size && !grow(m, size))
		return -EFBIG;
	m->size = size;
	note(m, (struct change){ CHANGE_TRUNCATE, size });
	return 0;
}

static int64_t memory_size(struct file *f)
{
	return (int64_t)((struct memory_file *)f)->size;
}

static uint64_t memory_extent(struct file *f, uint64_t offset, uint64_t len, bool *hole)
{
	*hole = false;
	return len;
}

static void memory_close(struct file *f)
{
	struct memory_file *m = (struct memory_file *)f;

	if (m->log)
		change_log_free(m->log);
	g_free(m->bytes);
	g_free(f->path);
	g_free(m);
}

static const struct file_ops memory_ops = {
	.readv = memory_readv,
	.writev = memory_writev,
	.sync = memory_sync,
	.zero = memory_zero,
	.truncate = memory_truncate,
	.size = memory_size,
	.extent = memory_extent,
	.close = memory_close,
};

struct memory_file *memory_file_new(const char *path, const void *bytes, uint64_t size)
{
	struct memory_file *m = g_new0(struct memory_file, 1);

	m->file.ops = &memory_ops;
	m->file.fd = -1;
	m->file.path = g_strdup(path);
	m->limit = UINT64_C(64) << 20;
	grow(m, size);
	if (size)
		memcpy(m->bytes, bytes, size);
	return m;
}

void memory_file_log(struct memory_file *m)
{
	m->log = g_array_new(FALSE, FALSE, sizeof(struct change));
}

GArray *memory_file_take_log(struct memory_file *m)
{
	GArray *log = m->log;

	m->log = NULL;
	return log;
}

void change_log_free(GArray *log)
{
	for (guint i = 0; i < log->len; i++)
		g_free(g_array_index(log, struct change, i).bytes);
	g_array_unref(log);
}

void memory_file_apply(struct memory_file *m, const struct change *c, bool (*keep_sector)(void *opaque), void *opaque)
{
	if (c->kind == CHANGE_TRUNCATE) {
		if (!keep_sector || keep_sector(opaque)) {
			grow(m, c->offset);
			m->size = c->offset;
		}
		return;
	}
	for (uint64_t done = 0, now; done < c->len; done += now) {
		uint64_t at = c->offset + done;

		now = MIN(c->len - done, MEMORY_SECTOR - at % MEMORY_SECTOR);
		if (keep_sector && !keep_sector(opaque))
			continue;
		if (c->kind == CHANGE_WRITE) {
			grow(m, at + now);
			memcpy(m->bytes + at, c->bytes + done, now);
		} else if (c->kind == CHANGE_ZERO && at < m->size) {
			memset(m->bytes + at, 0, MIN(now, m->size - at));
		}
	}
}
