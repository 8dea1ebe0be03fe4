/*
 * What images are stored in: one byte-addressed file behind a small table of operations. The host's
 * files and block devices are one implementation, HTTP another, the tests' recorder a third. Calls
 * block, are safe from several threads, and return 0 or -errno.
 */
#ifndef BLOCK_FILE_H
#define BLOCK_FILE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct file;

struct file_ops {
	/* *got is below the vector's length only where the file ends. At most IOV_CALL_MAX pieces. */
	int (*readv)(struct file *f, uint64_t offset, const struct iovec *iov, int n, uint64_t *got);
	int (*writev)(struct file *f, uint64_t offset, const struct iovec *iov, int n);
	/* What was written before, and the file's size, survive a power cut. */
	int (*sync)(struct file *f);
	/* The range reads as zeros afterwards. `unmap` gives the space back. -EOPNOTSUPP: nothing done. */
	int (*zero)(struct file *f, uint64_t offset, uint64_t len, bool unmap);
	int (*truncate)(struct file *f, uint64_t size);
	/* Bytes, or -errno. */
	int64_t (*size)(struct file *f);
	/* Bytes from offset on that are alike (stored, or a hole that reads as zeros); at most `len`. */
	uint64_t (*extent)(struct file *f, uint64_t offset, uint64_t len, bool *hole);
	void (*close)(struct file *f);
};

struct file {
	const struct file_ops *ops;
	int fd; /* what io_uring may use directly, or -1 */
	char *path;
	bool readonly;
	bool device; /* a host block device: its size is fixed */
	/* The first error of a sync. The kernel tells it once and forgets what it could not write, so no later sync may succeed. */
	_Atomic int sync_error;
};

/* A host file or block device, locked against other users: one writer, or several readers. */
struct file *file_open_host(const char *path, bool readonly, GError **error);
/* A new empty file; fails when it exists, unless `replace`. */
struct file *file_create_host(const char *path, bool replace, GError **error);
/* An unlinked file that lives as long as it is open. */
struct file *file_open_temporary(GError **error);
/* NULL is accepted. */
void file_close(struct file *f);

/* Reads all; bytes past the end of the file are zeros. */
int file_read(struct file *f, uint64_t offset, void *buf, size_t len);
int file_write(struct file *f, uint64_t offset, const void *buf, size_t len);
/* As above, for any number of pieces: [skip, skip + len) of the vector. */
int file_readv(struct file *f, uint64_t offset, const struct iovec *iov, int n, uint64_t skip, uint64_t len, uint64_t *got);
int file_writev(struct file *f, uint64_t offset, const struct iovec *iov, int n, uint64_t skip, uint64_t len);
/* Zeros the range, by writing where nothing better works. */
int file_zero(struct file *f, uint64_t offset, uint64_t len, bool unmap);

/* Takes the image's lock on an open descriptor (file_lock.c); true where the host has none. */
bool file_lock(int fd, const char *path, bool writer, GError **error);

GQuark blk_error_quark(void);
/* Sets a block-layer error. Returns false, for `return blk_fail(...)`. */
bool blk_fail(GError **error, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
