/* Walking and slicing I/O vectors. */
#include "block/iov.h"

#include <glib.h>
#include <string.h>

uint64_t iov_length(const struct iovec *iov, int n)
{
	uint64_t total = 0;

	for (int i = 0; i < n; i++)
		total += iov[i].iov_len;
	return total;
}

int iov_slice(struct iovec *to, int max, const struct iovec *from, int n, uint64_t offset, uint64_t len, uint64_t *got)
{
	int pieces = 0;

	*got = 0;
	for (int i = 0; i < n && len && pieces < max; i++) {
		uint64_t have = from[i].iov_len;

		if (offset >= have) {
			offset -= have;
			continue;
		}
		have = MIN(have - offset, len);
		to[pieces].iov_base = (char *)from[i].iov_base + offset;
		to[pieces++].iov_len = have;
		*got += have;
		len -= have;
		offset = 0;
	}
	return pieces;
}

typedef void (*piece_fn)(void *piece, void *buf, size_t len);

static void for_pieces(const struct iovec *iov, int n, uint64_t offset, uint64_t len, void *buf, piece_fn fn)
{
	char *at = buf;

	for (int i = 0; i < n && len; i++) {
		uint64_t have = iov[i].iov_len;

		if (offset >= have) {
			offset -= have;
			continue;
		}
		have = MIN(have - offset, len);
		fn((char *)iov[i].iov_base + offset, at, have);
		if (at)
			at += have;
		len -= have;
		offset = 0;
	}
}

static void piece_zero(void *piece, void *buf, size_t len) { memset(piece, 0, len); }
static void piece_write(void *piece, void *buf, size_t len) { memcpy(piece, buf, len); }
static void piece_read(void *piece, void *buf, size_t len) { memcpy(buf, piece, len); }

void iov_zero(const struct iovec *iov, int n, uint64_t offset, uint64_t len)
{
	for_pieces(iov, n, offset, len, NULL, piece_zero);
}

void iov_write(const struct iovec *iov, int n, uint64_t offset, const void *buf, uint64_t len)
{
	for_pieces(iov, n, offset, len, (void *)buf, piece_write);
}

void iov_read(const struct iovec *iov, int n, uint64_t offset, void *buf, uint64_t len)
{
	for_pieces(iov, n, offset, len, buf, piece_read);
}
