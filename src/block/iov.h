/* Walking and slicing I/O vectors. All take whole vectors whose total length the caller knows. */
#ifndef BLOCK_IOV_H
#define BLOCK_IOV_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* What preadv and io_uring take at most in one call. */
#define IOV_CALL_MAX 1024

uint64_t iov_length(const struct iovec *iov, int n);
/* Makes `to` describe [offset, offset + len) of `from`, at most `max` pieces; returns the pieces, and the bytes in *got. */
int iov_slice(struct iovec *to, int max, const struct iovec *from, int n, uint64_t offset, uint64_t len, uint64_t *got);
void iov_zero(const struct iovec *iov, int n, uint64_t offset, uint64_t len);
void iov_write(const struct iovec *iov, int n, uint64_t offset, const void *buf, uint64_t len);
void iov_read(const struct iovec *iov, int n, uint64_t offset, void *buf, uint64_t len);

#endif
