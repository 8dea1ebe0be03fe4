/* Host files and block devices, and the helpers over every kind of file. */
#include "block/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "block/iov.h"

#define ZERO_CHUNK (1u << 20)

GQuark blk_error_quark(void)
{
	return g_quark_from_static_string("guise-block");
}

bool blk_fail(GError **error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (error)
		*error = g_error_new_valist(blk_error_quark(), 0, fmt, ap);
	va_end(ap);
	return false;
}

/* ---- host files ---- */

static int host_readv(struct file *f, uint64_t offset, const struct iovec *iov, int n, uint64_t *got)
{
	uint64_t want = iov_length(iov, n), have = 0;
	struct iovec rest[IOV_CALL_MAX];

	while (have < want) {
		ssize_t r = preadv(f->fd, iov, n, (off_t)(offset + have));
		uint64_t left;

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -errno;
		if (r == 0)
			break;
		have += (uint64_t)r;
		if (have < want) {
			/* Slicing in place is safe: pieces only move towards the front. */
			n = iov_slice(rest, IOV_CALL_MAX, iov, n, (uint64_t)r, want, &left);
			iov = rest;
		}
	}
	*got = have;
	return 0;
}

static int host_writev(struct file *f, uint64_t offset, const struct iovec *iov, int n)
{
	uint64_t want = iov_length(iov, n), have = 0;
	struct iovec rest[IOV_CALL_MAX];

	while (have < want) {
		ssize_t r = pwritev(f->fd, iov, n, (off_t)(offset + have));
		uint64_t left;

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return r < 0 ? -errno : -EIO;
		have += (uint64_t)r;
		if (have < want) {
			n = iov_slice(rest, IOV_CALL_MAX, iov, n, (uint64_t)r, want, &left);
			iov = rest;
		}
	}
	return 0;
}

static int host_sync(struct file *f)
{
	if (f->readonly)
		return 0;
	if (!atomic_load(&f->sync_error) && fdatasync(f->fd) < 0)
		atomic_store(&f->sync_error, errno);
	return -atomic_load(&f->sync_error);
}

static int host_zero(struct file *f, uint64_t offset, uint64_t len, bool unmap)
{
	uint64_t range[2] = { offset, len };
	int r;

	if (f->device)
		/* BLKDISCARD alone does not promise zeros; BLKZEROOUT unmaps where the device can. */
		r = ioctl(f->fd, BLKZEROOUT, range);
	else
		r = fallocate(f->fd, FALLOC_FL_KEEP_SIZE | (unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE),
			      (off_t)offset, (off_t)len);
	if (r == 0)
		return 0;
	return errno == ENOSYS || errno == ENOTTY || errno == EINVAL || errno == ENOTSUP ? -EOPNOTSUPP : -errno;
}

static int host_truncate(struct file *f, uint64_t size)
{
	if (f->device)
		return -EOPNOTSUPP;
	return ftruncate(f->fd, (off_t)size) == 0 ? 0 : -errno;
}

static int64_t host_size(struct file *f)
{
	struct stat st;
	uint64_t bytes;

	if (f->device)
		return ioctl(f->fd, BLKGETSIZE64, &bytes) == 0 && bytes <= INT64_MAX ? (int64_t)bytes : -EIO;
	return fstat(f->fd, &st) == 0 ? st.st_size : -errno;
}

static uint64_t host_extent(struct file *f, uint64_t offset, uint64_t len, bool *hole)
{
	off_t data, end;

	*hole = false;
	if (f->device)
		return len;
	data = lseek(f->fd, (off_t)offset, SEEK_DATA);
	if (data < 0) {
		/* ENXIO: no data from here to the end. */
		*hole = errno == ENXIO;
		return len;
	}
	if ((uint64_t)data > offset) {
		*hole = true;
		return MIN(len, (uint64_t)data - offset);
	}
	end = lseek(f->fd, (off_t)offset, SEEK_HOLE);
	return end > (off_t)offset ? MIN(len, (uint64_t)(end - (off_t)offset)) : len;
}

static void host_close(struct file *f)
{
	close(f->fd);
	g_free(f->path);
	g_free(f);
}

static const struct file_ops host_ops = {
	.readv = host_readv,
	.writev = host_writev,
	.sync = host_sync,
	.zero = host_zero,
	.truncate = host_truncate,
	.size = host_size,
	.extent = host_extent,
	.close = host_close,
};

static struct file *host_file(int fd, const char *path, bool readonly, bool device)
{
	struct file *f = g_new0(struct file, 1);

	f->ops = &host_ops;
	f->fd = fd;
	f->path = g_strdup(path);
	f->readonly = readonly;
	f->device = device;
	return f;
}

static bool say_why(const char *path, int why, bool readonly, GError **error)
{
	const char *advice = "";

	switch (why) {
	case ENOENT: advice = "; check the name, or make one with `guise image create`"; break;
	case EACCES:
	case EPERM:
		advice = readonly ? "; you may not read it: see `ls -l`" :
				    "; you may not write it: open it with ,readonly or ,snapshot, or see `ls -l`";
		break;
	case EROFS: advice = "; open it with ,readonly or ,snapshot"; break;
	case EBUSY: advice = "; the host uses this device: unmount it first"; break;
	case EISDIR: return blk_fail(error, "%s: is a directory, not a disk image", path);
	default: break;
	}
	return blk_fail(error, "%s: %s%s", path, g_strerror(why), advice);
}

struct file *file_open_host(const char *path, bool readonly, GError **error)
{
	int fd = open(path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;
	int64_t size;
	struct file *f;

	if (fd < 0) {
		say_why(path, errno, readonly, error);
		return NULL;
	}
	if (fstat(fd, &st) < 0) {
		say_why(path, errno, readonly, error);
		close(fd);
		return NULL;
	}
	if (S_ISDIR(st.st_mode)) {
		say_why(path, EISDIR, readonly, error);
	} else if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		blk_fail(error, "%s: neither a file nor a block device, so it can be no disk image", path);
	} else if (file_lock(fd, path, !readonly, error)) {
		f = host_file(fd, path, readonly, S_ISBLK(st.st_mode));
		size = host_size(f);
		if (size > 0)
			return f;
		if (size < 0)
			say_why(path, (int)-size, readonly, error);
		else
			blk_fail(error, "%s: is empty; make an image with `guise image create %s SIZE`", path, path);
		host_close(f);
		return NULL;
	}
	close(fd);
	return NULL;
}

struct file *file_create_host(const char *path, bool replace, GError **error)
{
	/* Truncation waits until the lock says that nobody uses what was there. */
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | (replace ? 0 : O_EXCL), 0644);
	struct stat st;

	if (fd < 0) {
		if (errno == EEXIST)
			blk_fail(error, "%s: is there already; remove it first, or add --force", path);
		else
			say_why(path, errno, false, error);
		return NULL;
	}
	if (fstat(fd, &st) == 0 && file_lock(fd, path, true, error)) {
		if (S_ISBLK(st.st_mode) || (S_ISREG(st.st_mode) && ftruncate(fd, 0) == 0))
			return host_file(fd, path, false, S_ISBLK(st.st_mode));
		blk_fail(error, "%s: cannot be emptied; is it a regular file?", path);
	}
	close(fd);
	return NULL;
}

struct file *file_open_temporary(GError **error)
{
	/* Overlays grow large: /var/tmp is on disk where /tmp often is memory. */
	const char *dir = g_getenv("TMPDIR");
	int fd;

	if (!dir)
		dir = g_file_test("/var/tmp", G_FILE_TEST_IS_DIR) ? "/var/tmp" : "/tmp";
	fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC | O_EXCL, 0600);
	if (fd < 0) {
		g_autofree char *name = g_build_filename(dir, "guise-XXXXXX", NULL);

		fd = g_mkstemp_full(name, O_RDWR | O_CLOEXEC, 0600);
		if (fd >= 0)
			unlink(name);
	}
	if (fd < 0) {
		blk_fail(error, "a temporary file in %s: %s; set TMPDIR to a directory with room", dir, g_strerror(errno));
		return NULL;
	}
	return host_file(fd, dir, false, false);
}

/* ---- every kind of file ---- */

void file_close(struct file *f)
{
	if (f)
		f->ops->close(f);
}

int file_readv(struct file *f, uint64_t offset, const struct iovec *iov, int n, uint64_t skip, uint64_t len, uint64_t *got)
{
	struct iovec piece[IOV_CALL_MAX];
	uint64_t done = 0;

	while (done < len) {
		uint64_t now, have;
		int pieces = iov_slice(piece, IOV_CALL_MAX, iov, n, skip + done, len - done, &now);
		int r = f->ops->readv(f, offset + done, piece, pieces, &have);

		if (r < 0)
			return r;
		done += have;
		if (have < now)
			break;
	}
	*got = done;
	return 0;
}

int file_writev(struct file *f, uint64_t offset, const struct iovec *iov, int n, uint64_t skip, uint64_t len)
{
	struct iovec piece[IOV_CALL_MAX];
	uint64_t done = 0;

	while (done < len) {
		uint64_t now;
		int pieces = iov_slice(piece, IOV_CALL_MAX, iov, n, skip + done, len - done, &now);
		int r = f->ops->writev(f, offset + done, piece, pieces);

		if (r < 0)
			return r;
		done += now;
	}
	return 0;
}

int file_read(struct file *f, uint64_t offset, void *buf, size_t len)
{
	const struct iovec iov = { buf, len };
	uint64_t got;
	int r = file_readv(f, offset, &iov, 1, 0, len, &got);

	if (r == 0 && got < len)
		memset((char *)buf + got, 0, len - got);
	return r;
}

int file_write(struct file *f, uint64_t offset, const void *buf, size_t len)
{
	const struct iovec iov = { (void *)buf, len };

	return file_writev(f, offset, &iov, 1, 0, len);
}

int file_zero(struct file *f, uint64_t offset, uint64_t len, bool unmap)
{
	g_autofree char *zeros = NULL;
	int r = f->ops->zero(f, offset, len, unmap);

	if (r == -EOPNOTSUPP && unmap)
		r = f->ops->zero(f, offset, len, false);
	if (r != -EOPNOTSUPP)
		return r;
	zeros = g_malloc0(MIN(len, ZERO_CHUNK));
	r = 0;
	while (len && r == 0) {
		uint64_t now = MIN(len, ZERO_CHUNK);

		r = file_write(f, offset, zeros, now);
		offset += now;
		len -= now;
	}
	return r;
}
