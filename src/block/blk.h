/*
 * A disk image as a device sees it: sectors of 512 bytes, asynchronous requests with a
 * completion callback. Completion runs with the VM lock held, never inside the submit call.
 */
#ifndef BLOCK_BLK_H
#define BLOCK_BLK_H

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct blk;

enum blk_format { BLK_AUTO, BLK_RAW, BLK_QCOW2 };

struct blk_options {
	enum blk_format format;
	bool readonly;
	bool snapshot; /* writes go to an unlinked temporary overlay */
	bool threads;  /* the thread pool even where the kernel has io_uring (tests) */
};

/*
 * Errors name the file, the reason and the next step. `lock` is taken around completions.
 * BLK_AUTO means qcow2 for a file that is one when it is opened, raw for the rest; a raw image opened that way refuses
 * writes that would make it look like qcow2 (-EPERM), and one that a guest used as raw is never taken for qcow2 later.
 */
struct blk *blk_open(const char *path, const struct blk_options *opt, pthread_mutex_t *lock, GError **error);
/* Waits for what is in flight, flushes, closes. Call without the lock. NULL is accepted. */
void blk_close(struct blk *b);

const char *blk_path(const struct blk *b);
const char *blk_format_name(const struct blk *b);
uint64_t blk_size(const struct blk *b); /* bytes, a multiple of 512 (rounded up, tail reads as 0) */
bool blk_readonly(const struct blk *b);

typedef void (*blk_done)(void *opaque, int result); /* 0 or -errno */

/* iov is copied; the memory it names must stay valid. Lengths are multiples of 512. */
void blk_readv(struct blk *b, uint64_t sector, const struct iovec *iov, int n, blk_done done, void *opaque);
void blk_writev(struct blk *b, uint64_t sector, const struct iovec *iov, int n, blk_done done, void *opaque);
/* Forced unit access: done means on stable storage. */
void blk_writev_fua(struct blk *b, uint64_t sector, const struct iovec *iov, int n, blk_done done, void *opaque);
/* Covers every write that was done before the call. */
void blk_flush(struct blk *b, blk_done done, void *opaque);
/* A hint; the sectors read as before or as zeros. */
void blk_discard(struct blk *b, uint64_t sector, uint64_t count, blk_done done, void *opaque);
/* The sectors read as zeros afterwards; `unmap` gives their space back. */
void blk_write_zeroes(struct blk *b, uint64_t sector, uint64_t count, bool unmap, blk_done done, void *opaque);
/* What becomes of a request that the host's storage fails: the device is told, or the request waits for blk_retry. */
enum blk_on_error {
	BLK_ERROR_DEFAULT, /* reads: report; writes: enospc */
	BLK_ERROR_REPORT,
	BLK_ERROR_STOP,
	BLK_ERROR_ENOSPC, /* waits when the host has no room, reported otherwise */
};

struct blk_failure {
	bool write;
	bool waits;
	int error; /* positive errno */
};

struct blk_error_policy {
	enum blk_on_error read, write;
	void (*failed)(void *opaque, const struct blk_failure *f); /* with the lock held */
	void *opaque;
};

/* Before the first request. Without a policy every error is reported. */
void blk_set_error_policy(struct blk *b, const struct blk_error_policy *p);
/* Waits until each request has ended or is kept. Call with the lock held; it is dropped meanwhile. */
void blk_settle(struct blk *b);
/* Tries anew what waits; what fails again waits again. Call with the lock held. */
void blk_retry(struct blk *b);

/* Another size, in bytes, for what the guest sees as a disk of another size. It never shrinks. Waits until nothing is in
 * flight; call with the lock held and the vCPUs stopped. 0 or -errno: -EINVAL for a size that is too small or no multiple
 * of 512, -EROFS, -EBUSY while a failed request waits, -EOPNOTSUPP where the format or the device cannot. */
int blk_resize(struct blk *b, uint64_t bytes);

/* Waits until nothing is in flight (reset, save); requests that were kept are tried once more, and then end. Call with the lock held; it is dropped meanwhile. */
void blk_drain(struct blk *b);

/* Synchronous, for firmware loading and tests; no lock. */
int blk_pread(struct blk *b, uint64_t offset, void *buf, size_t len);

#endif
