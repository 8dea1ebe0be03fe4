/* Compressed qcow2 clusters: raw deflate with a 4 KiB window, or zstd. The last few are kept unpacked for small reads. */
#include <errno.h>
#include <string.h>
#define ZLIB_CONST
#include <zlib.h>
#include <zstd.h>

#include "base/bytes.h"
#include "block/iov.h"
#include "block/qcow2.h"

#define KEPT_BYTES (2u << 20) /* what is kept, but one cluster at least */
#define KEPT_MAX 32u

struct unpacked {
	uint64_t entry;
	struct unpacked *next;
	uint8_t data[];
};

void compressed_place(const struct qcow2 *q, uint64_t entry, uint64_t *offset, uint64_t *bytes)
{
	const unsigned place_bits = 62 - (q->h.cluster_bits - 8);
	uint64_t sectors = (entry & (ENTRY_COMPRESSED - 1)) >> place_bits;

	*offset = entry & ((UINT64_C(1) << place_bits) - 1);
	*bytes = (sectors + 1) * SECTOR - (*offset & (SECTOR - 1));
}

static int inflate_cluster(const struct qcow2 *q, const uint8_t *in, size_t in_len, uint8_t *out)
{
	z_stream z = { .next_in = in, .avail_in = (uInt)in_len, .next_out = out, .avail_out = q->cluster_size };
	int r;

	if (inflateInit2(&z, -12) != Z_OK)
		return -ENOMEM;
	r = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	/* The length is known in sectors only, so what follows the stream is no error. */
	return (r == Z_STREAM_END || r == Z_BUF_ERROR) && z.avail_out == 0 ? 0 : -EIO;
}

static int unzstd_cluster(const struct qcow2 *q, const uint8_t *in, size_t in_len, uint8_t *out)
{
	ZSTD_inBuffer from = { in, in_len, 0 };
	ZSTD_outBuffer to = { out, q->cluster_size, 0 };
	ZSTD_DCtx *d = ZSTD_createDCtx();
	int result = -EIO;

	if (!d)
		return -ENOMEM;
	/* A frame without a length, in perhaps several blocks: go on until the cluster is full. */
	while (to.pos < to.size) {
		size_t before_in = from.pos, before_out = to.pos;
		size_t r = ZSTD_decompressStream(d, &to, &from);

		if (ZSTD_isError(r) || (from.pos == before_in && to.pos == before_out))
			break;
	}
	if (to.pos == to.size)
		result = 0;
	ZSTD_freeDCtx(d);
	return result;
}

static struct unpacked *unpack(struct qcow2 *q, uint64_t entry, int *result)
{
	g_autofree uint8_t *packed = NULL;
	struct unpacked *u;
	uint64_t offset, bytes;

	compressed_place(q, entry, &offset, &bytes);
	packed = g_try_malloc(bytes);
	u = g_try_malloc(sizeof(*u) + q->cluster_size);
	*result = packed && u ? file_read(q->file, offset, packed, bytes) : -ENOMEM;
	if (*result == 0)
		*result = q->h.compression == COMPRESSION_ZSTD ? unzstd_cluster(q, packed, bytes, u->data) :
								 inflate_cluster(q, packed, bytes, u->data);
	if (*result < 0) {
		g_free(u);
		return NULL;
	}
	u->entry = entry;
	return u;
}

/* Puts a cluster first and lets go of the oldest ones. */
static void keep(struct qcow2 *q, struct unpacked *u)
{
	unsigned most = CLAMP(KEPT_BYTES >> q->h.cluster_bits, 1, KEPT_MAX);
	struct unpacked **at = &q->unpacked;

	for (unsigned i = 1; *at && i < most; i++)
		at = &(*at)->next;
	while (*at) {
		struct unpacked *old = *at;

		*at = old->next;
		g_free(old);
	}
	u->next = q->unpacked;
	q->unpacked = u;
}

int compressed_read(struct qcow2 *q, uint64_t entry, uint32_t from, uint32_t len, const struct iovec *iov, int n, uint64_t skip)
{
	struct unpacked **at, *u;
	int r = 0;

	pthread_mutex_lock(&q->unpacked_lock);
	for (at = &q->unpacked; *at && (*at)->entry != entry; at = &(*at)->next)
		;
	u = *at;
	if (u) {
		*at = u->next;
	} else {
		pthread_mutex_unlock(&q->unpacked_lock);
		u = unpack(q, entry, &r);
		pthread_mutex_lock(&q->unpacked_lock);
	}
	if (u) {
		iov_write(iov, n, skip, u->data + from, len);
		keep(q, u);
	}
	pthread_mutex_unlock(&q->unpacked_lock);
	return r;
}

void unpacked_clear(struct qcow2 *q)
{
	pthread_mutex_lock(&q->unpacked_lock);
	while (q->unpacked) {
		struct unpacked *u = q->unpacked;

		q->unpacked = u->next;
		g_free(u);
	}
	pthread_mutex_unlock(&q->unpacked_lock);
}

/* ---- packing ---- */

/* The packed length, or 0 when it would not be smaller. */
static size_t pack(const struct qcow2 *q, const uint8_t *cluster, uint8_t *out)
{
	const size_t room = q->cluster_size - 1;
	z_stream z = { .next_in = cluster, .avail_in = q->cluster_size, .next_out = out, .avail_out = (uInt)room };
	size_t len = 0;

	if (q->h.compression == COMPRESSION_ZSTD) {
		len = ZSTD_compress(out, room, cluster, q->cluster_size, ZSTD_CLEVEL_DEFAULT);
		return ZSTD_isError(len) ? 0 : len;
	}
	if (deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) != Z_OK)
		return 0;
	if (deflate(&z, Z_FINISH) == Z_STREAM_END)
		len = room - z.avail_out;
	deflateEnd(&z);
	return len;
}

/* A place for `len` bytes: behind the last ones where they fit and the cluster's refcount can grow. */
static int place_packed(struct qcow2 *q, uint32_t len, uint64_t *offset)
{
	uint64_t at = q->compress_at, room = at ? q->cluster_size - (at & (q->cluster_size - 1)) : 0, place, got;
	int r;

	if (room >= len && refcount_add(q, cluster_of(q, at), 1, 1) == 0) {
		*offset = at;
	} else {
		r = cluster_alloc(q, 1, &place, &got);
		if (r < 0)
			return r;
		*offset = place;
		/* Straight behind: go on over the boundary. */
		if (room && at + room == place) {
			r = refcount_add(q, cluster_of(q, at), 1, 1);
			if (r == 0)
				*offset = at;
			else if (r != -E2BIG)
				return r;
		}
	}
	at = *offset + len;
	q->compress_at = at & (q->cluster_size - 1) ? at : 0;
	return 0;
}

static int link_packed(struct qcow2 *q, uint64_t guest, uint64_t offset, uint32_t len)
{
	const unsigned place_bits = 62 - (q->h.cluster_bits - 8);
	uint64_t sectors = ((offset + len - 1) / SECTOR) - offset / SECTOR;
	struct table *t;
	uint32_t index = l2_index(q, guest);
	int r = l2_for_write(q, guest, &t);

	if (r < 0)
		return r;
	entry_free_later(q, ld64be(t->data + (size_t)index * 8), false);
	st64be(t->data + (size_t)index * 8, offset | ENTRY_COMPRESSED | sectors << place_bits);
	table_dirty(&q->l2, t, index * 8, index * 8 + 8);
	return 0;
}

int qcow2_write_compressed(struct image *im, uint64_t offset, const void *data, uint32_t len)
{
	struct qcow2 *q = im->state;
	g_autofree uint8_t *cluster = g_malloc0(q->cluster_size), *packed = g_malloc(q->cluster_size);
	uint64_t place;
	size_t size;
	int r;

	memcpy(cluster, data, len);
	size = pack(q, cluster, packed);
	if (!size)
		return -ENOSPC;
	pthread_mutex_lock(&q->lock);
	r = q->corrupt ? -EIO : commit_if_full(q);
	if (r == 0)
		r = place_packed(q, (uint32_t)size, &place);
	if (r == 0 && (r = file_write(q->file, place, packed, size)) == 0)
		r = link_packed(q, offset, place, (uint32_t)size);
	pthread_mutex_unlock(&q->lock);
	return r;
}
