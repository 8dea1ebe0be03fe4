/* The qcow2 header: read with every field checked, written as one sector. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "block/qcow2.h"

#define V2_LENGTH 72u
#define V3_LENGTH 104u
#define EXT_END 0u
#define EXT_BACKING_FORMAT 0xe2792acau
#define EXT_DATA_FILE 0x44415441u

static void header_decode(struct header *h, const uint8_t *in)
{
	*h = (struct header){
		.version = ld32be(in + 4), .backing_offset = ld64be(in + 8), .backing_len = ld32be(in + 16),
		.cluster_bits = ld32be(in + 20), .size = ld64be(in + 24), .crypt = ld32be(in + 32), .l1_size = ld32be(in + 36),
		.l1_offset = ld64be(in + 40), .reftable_offset = ld64be(in + 48), .reftable_clusters = ld32be(in + 56),
		.snapshots = ld32be(in + 60), .snapshots_offset = ld64be(in + 64), .refcount_order = 4, .length = V2_LENGTH,
	};
	if (h->version < 3)
		return;
	h->incompatible = ld64be(in + 72);
	h->compatible = ld64be(in + 80);
	h->autoclear = ld64be(in + 88);
	h->refcount_order = ld32be(in + 96);
	h->length = ld32be(in + 100);
	h->compression = h->length > V3_LENGTH ? in[104] : 0;
}

void header_encode(const struct header *h, uint8_t *out)
{
	st32be(out, QCOW2_MAGIC);
	st32be(out + 4, h->version);
	st64be(out + 8, h->backing_offset);
	st32be(out + 16, h->backing_len);
	st32be(out + 20, h->cluster_bits);
	st64be(out + 24, h->size);
	st32be(out + 32, h->crypt);
	st32be(out + 36, h->l1_size);
	st64be(out + 40, h->l1_offset);
	st64be(out + 48, h->reftable_offset);
	st32be(out + 56, h->reftable_clusters);
	st32be(out + 60, h->snapshots);
	st64be(out + 64, h->snapshots_offset);
	if (h->version < 3)
		return;
	st64be(out + 72, h->incompatible);
	st64be(out + 80, h->compatible);
	st64be(out + 88, h->autoclear);
	st32be(out + 96, h->refcount_order);
	st32be(out + 100, h->length);
	if (h->length > V3_LENGTH)
		out[104] = h->compression;
}

int header_write(struct qcow2 *q)
{
	uint8_t sector[SECTOR];
	int r = file_read(q->file, 0, sector, sizeof(sector));

	/* What follows the fixed part (extensions) stays as it is. */
	if (r < 0)
		return r;
	header_encode(&q->h, sector);
	return file_write(q->file, 0, sector, sizeof(sector));
}

int header_switch(struct qcow2 *q)
{
	int r = header_write(q);

	if (r == 0)
		r = q->file->ops->sync(q->file);
	/* Now the file may say the old or the new. Whatever is written next could be wrong for one of the two. */
	if (r < 0)
		q->corrupt = true;
	return r;
}

int header_set_incompatible(struct qcow2 *q, uint64_t set, uint64_t clear)
{
	uint64_t before = q->h.incompatible;
	int r;

	if (q->h.version < 3 || ((before | set) & ~clear) == before)
		return 0;
	q->h.incompatible = (before | set) & ~clear;
	r = header_switch(q);
	if (r < 0)
		q->h.incompatible = before;
	return r;
}

static bool check_features(const struct qcow2 *q, const struct image_open_options *opt, GError **error)
{
	static const char *const names[] = { "dirty", "corrupt", "external data file", "compression type", "extended L2 entries" };
	const char *path = q->file->path;
	uint64_t unknown = q->h.incompatible & ~(INCOMPAT_DIRTY | INCOMPAT_CORRUPT | INCOMPAT_COMPRESSION);

	for (unsigned bit = 0; unknown && bit < 64; bit++) {
		if (!(unknown >> bit & 1))
			continue;
		return blk_fail(error, "%s: needs incompatible feature bit %u (%s), which guise does not have; "
				"convert it with `qemu-img convert -O qcow2`", path, bit, bit < ARRAY_LEN(names) ? names[bit] : "unknown");
	}
	if ((q->h.incompatible & INCOMPAT_CORRUPT) && !opt->readonly && !opt->unsafe_repair)
		return blk_fail(error, "%s: is marked corrupt; see `guise image check %s`, repair it with --repair=all, "
				"or open it with ,readonly", path, path);
	if (q->h.crypt)
		return blk_fail(error, "%s: is encrypted (%s), which guise does not have; decrypt it with `qemu-img convert`", path,
				q->h.crypt == 1 ? "AES" : q->h.crypt == 2 ? "LUKS" : "by an unknown method");
	return true;
}

static bool check_table(const struct qcow2 *q, const char *what, uint64_t offset, uint64_t bytes, GError **error)
{
	uint64_t end;

	if (offset & (q->cluster_size - 1))
		return blk_fail(error, "%s: the %s is not at a cluster boundary (offset %#" PRIx64 "); the image is damaged",
				q->file->path, what, offset);
	if (!offset && bytes)
		return blk_fail(error, "%s: the %s lies over the header; the image is damaged", q->file->path, what);
	if (!checked_add(offset, bytes, &end) || end > INT64_MAX)
		return blk_fail(error, "%s: the %s lies outside of any file; the image is damaged", q->file->path, what);
	return true;
}

static bool check_geometry(struct qcow2 *q, GError **error)
{
	const char *path = q->file->path;
	struct header *h = &q->h;
	uint64_t l1_needed;

	if (h->cluster_bits < 9 || h->cluster_bits > 21)
		return blk_fail(error, "%s: clusters of 2^%u bytes (512 bytes to 2 MiB are possible)", path, h->cluster_bits);
	if (h->refcount_order > 6)
		return blk_fail(error, "%s: refcounts of 2^%u bits (64 are possible)", path, h->refcount_order);
	if (h->version >= 3 && (h->length < V3_LENGTH || h->length % 8 || h->length > 1u << h->cluster_bits))
		return blk_fail(error, "%s: a header of %u bytes; the image is damaged", path, h->length);
	q->cluster_size = 1u << h->cluster_bits;
	q->l2_bits = h->cluster_bits - 3;
	q->l2_entries = 1u << q->l2_bits;
	q->block_bits = h->cluster_bits + 3 - h->refcount_order;
	q->block_entries = 1u << q->block_bits;
	q->refcount_max = h->refcount_order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << h->refcount_order)) - 1;
	if (h->size > IMAGE_MAX_SIZE)
		return blk_fail(error, "%s: a disk of %" PRIu64 " bytes is more than guise takes (1 EiB)", path, h->size);
	/* A size within a sector comes from old tools: the guest sees whole sectors. */
	l1_needed = ((h->size + SECTOR - 1) / SECTOR * SECTOR + ((uint64_t)q->cluster_size << q->l2_bits) - 1) >> (h->cluster_bits + q->l2_bits);
	if (h->l1_size > L1_MAX_BYTES / 8 || l1_needed > h->l1_size)
		return blk_fail(error, "%s: an L1 table of %u entries (the disk needs %" PRIu64 ", the limit is %u)", path, h->l1_size,
				l1_needed, L1_MAX_BYTES / 8);
	if ((uint64_t)h->reftable_clusters << h->cluster_bits > REFTABLE_MAX_BYTES || !h->reftable_clusters)
		return blk_fail(error, "%s: a refcount table of %u clusters; the image is damaged", path, h->reftable_clusters);
	if (h->snapshots > MAX_SNAPSHOTS)
		return blk_fail(error, "%s: %u snapshots (the limit is %u)", path, h->snapshots, MAX_SNAPSHOTS);
	if (h->compression > COMPRESSION_ZSTD || (h->compression && !(h->incompatible & INCOMPAT_COMPRESSION)))
		return blk_fail(error, "%s: unknown compression type %u", path, h->compression);
	return check_table(q, "L1 table", h->l1_offset, (uint64_t)h->l1_size * 8, error) &&
	       check_table(q, "refcount table", h->reftable_offset, (uint64_t)h->reftable_clusters << h->cluster_bits, error) &&
	       check_table(q, "snapshot table", h->snapshots_offset, h->snapshots, error);
}

/* Extensions lie between the header and the first cluster's end (or the backing file's name). */
static bool read_extensions(struct qcow2 *q, const uint8_t *cluster, GError **error)
{
	const char *path = q->file->path;
	uint64_t end = q->h.backing_offset ? q->h.backing_offset : q->cluster_size, at = q->h.length;

	while (at + 8 <= end) {
		uint32_t type = ld32be(cluster + at), len = ld32be(cluster + at + 4);

		at += 8;
		if (type == EXT_END)
			return true;
		if (len > end - at)
			return blk_fail(error, "%s: header extension %#x is longer than the header; the image is damaged", path, type);
		if (type == EXT_BACKING_FORMAT) {
			if (len > 15)
				return blk_fail(error, "%s: the backing format's name has %u characters", path, len);
			g_free(q->backing_format);
			q->backing_format = g_strndup((const char *)cluster + at, len);
		} else if (type == EXT_DATA_FILE) {
			return blk_fail(error, "%s: keeps its data in another file, which guise does not have", path);
		}
		at += (len + 7) & ~7u;
	}
	return true;
}

static bool read_backing_name(struct qcow2 *q, const uint8_t *cluster, GError **error)
{
	const struct header *h = &q->h;

	if (!h->backing_offset)
		return true;
	if (h->backing_len > 1023 || h->backing_offset < h->length || h->backing_offset > q->cluster_size ||
	    h->backing_len > q->cluster_size - h->backing_offset)
		return blk_fail(error, "%s: the backing file's name lies outside of the header; the image is damaged", q->file->path);
	if (memchr(cluster + h->backing_offset, 0, h->backing_len))
		return blk_fail(error, "%s: the backing file's name has a zero byte; the image is damaged", q->file->path);
	if (h->backing_len)
		q->backing_name = g_strndup((const char *)cluster + h->backing_offset, h->backing_len);
	return true;
}

bool header_read(struct qcow2 *q, const struct image_open_options *opt, GError **error)
{
	const char *path = q->file->path;
	g_autofree uint8_t *cluster = NULL;
	uint8_t fixed[SECTOR];
	int r = file_read(q->file, 0, fixed, sizeof(fixed));

	if (r < 0)
		return blk_fail(error, "%s: reading its header: %s", path, g_strerror(-r));
	if (ld32be(fixed) != QCOW2_MAGIC)
		return blk_fail(error, "%s: is no qcow2 image; if it is a raw one, say format=raw", path);
	header_decode(&q->h, fixed);
	if (q->h.version != 2 && q->h.version != 3)
		return blk_fail(error, "%s: qcow version %u; guise reads 2 and 3", path, q->h.version);
	if (!check_features(q, opt, error) || !check_geometry(q, error))
		return false;
	cluster = g_malloc(q->cluster_size);
	r = file_read(q->file, 0, cluster, q->cluster_size);
	if (r < 0)
		return blk_fail(error, "%s: reading its header: %s", path, g_strerror(-r));
	return read_backing_name(q, cluster, error) && read_extensions(q, cluster, error);
}
