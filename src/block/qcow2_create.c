/* Making qcow2 images and changing their size. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "block/qcow2.h"

#define EXT_BACKING_FORMAT 0xe2792acau
#define EXT_FEATURE_NAMES 0x6803f857u

static void extension(GByteArray *out, uint32_t type, const void *data, uint32_t len)
{
	static const uint8_t zeros[8];
	uint8_t head[8];

	st32be(head, type);
	st32be(head + 4, len);
	g_byte_array_append(out, head, sizeof(head));
	g_byte_array_append(out, data, len);
	g_byte_array_append(out, zeros, (8 - len % 8) % 8);
}

/* What other programs say when they meet a bit that they do not know. */
static void feature_names(GByteArray *out)
{
	static const struct {
		uint8_t kind, bit;
		const char *name;
	} names[] = {
		{ 0, 0, "dirty bit" }, { 0, 1, "corrupt bit" }, { 0, 3, "compression type" }, { 1, 0, "lazy refcounts" },
	};
	uint8_t table[ARRAY_LEN(names) * 48] = { 0 };

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		table[i * 48] = names[i].kind;
		table[i * 48 + 1] = names[i].bit;
		memcpy(table + i * 48 + 2, names[i].name, strlen(names[i].name));
	}
	extension(out, EXT_FEATURE_NAMES, table, sizeof(table));
}

/* The first cluster: header, extensions, the backing file's name. */
static bool make_header(const struct qcow2_create *c, struct header *h, GByteArray *out, GError **error)
{
	uint8_t fixed[112] = { 0 };

	g_byte_array_append(out, fixed, h->length);
	if (c->backing)
		extension(out, EXT_BACKING_FORMAT, c->backing_format, (uint32_t)strlen(c->backing_format));
	if (!c->version2)
		feature_names(out);
	extension(out, 0, NULL, 0);
	if (c->backing) {
		h->backing_offset = out->len;
		h->backing_len = (uint32_t)strlen(c->backing);
		g_byte_array_append(out, (const uint8_t *)c->backing, h->backing_len);
		if (h->backing_len > 1023 || out->len > 1u << h->cluster_bits)
			return blk_fail(error, "the backing file's name is too long: %s", c->backing);
	}
	header_encode(h, fixed);
	memcpy(out->data, fixed, h->length);
	return out->len <= 1u << h->cluster_bits || blk_fail(error, "clusters of %u bytes do not hold the header", 1u << h->cluster_bits);
}

static bool choose_geometry(const struct qcow2_create *c, struct header *h, GError **error)
{
	unsigned refcount_bits = c->refcount_bits ? c->refcount_bits : 16;
	uint64_t l1_size;

	*h = (struct header){
		.version = c->version2 ? 2 : 3, .cluster_bits = c->cluster_bits ? c->cluster_bits : 16, .size = c->size,
		.length = c->version2 ? 72 : 112, .compression = c->compression, .compatible = c->lazy ? COMPAT_LAZY : 0,
		.incompatible = c->compression ? INCOMPAT_COMPRESSION : 0,
	};
	if (h->cluster_bits < 9 || h->cluster_bits > 21)
		return blk_fail(error, "a cluster has 512 bytes to 2 MiB, and a power of two of them");
	if (refcount_bits > 64 || (refcount_bits & (refcount_bits - 1)))
		return blk_fail(error, "refcounts have 1, 2, 4, 8, 16, 32 or 64 bits");
	if (c->version2 && (refcount_bits != 16 || c->lazy || c->compression))
		return blk_fail(error, "version 2 has refcounts of 16 bits, no lazy refcounts, and zlib only");
	if (c->size % SECTOR || c->size > IMAGE_MAX_SIZE)
		return blk_fail(error, "a disk's size is a multiple of 512 bytes, 1 EiB at most");
	h->refcount_order = (uint32_t)__builtin_ctz(refcount_bits);
	l1_size = (c->size + (UINT64_C(1) << (2 * h->cluster_bits - 3)) - 1) >> (2 * h->cluster_bits - 3);
	if (l1_size > L1_MAX_BYTES / 8)
		return blk_fail(error, "a disk of that size needs larger clusters: --cluster-size 2M");
	h->l1_size = (uint32_t)l1_size;
	return true;
}

/* Lays out header, refcount table, its blocks and the L1 table, in that order. */
static int write_image(struct file *f, struct header *h, const GByteArray *head, uint64_t l1_clusters, uint64_t blocks)
{
	const uint64_t size = UINT64_C(1) << h->cluster_bits, used = 2 + blocks + l1_clusters;
	struct qcow2 q = { .h = *h, .cluster_size = (uint32_t)size };
	g_autofree uint8_t *cluster = g_malloc0(size);
	uint32_t per_block = 1u << (h->cluster_bits + 3 - h->refcount_order);
	int r = 0;

	for (uint64_t b = 0; b < blocks; b++)
		st64be(cluster + b * 8, (2 + b) << h->cluster_bits);
	r = file_write(f, size, cluster, size);
	for (uint64_t b = 0; b < blocks && r == 0; b++) {
		memset(cluster, 0, size);
		for (uint32_t i = 0; i < per_block && b * per_block + i < used; i++)
			refcount_entry_set(&q, cluster, i, 1);
		r = file_write(f, (2 + b) << h->cluster_bits, cluster, size);
	}
	memset(cluster, 0, size);
	if (r == 0 && l1_clusters)
		r = file_zero(f, h->l1_offset, l1_clusters << h->cluster_bits, true);
	if (r == 0 && !f->device)
		r = f->ops->truncate(f, used << h->cluster_bits);
	if (r == 0)
		r = f->ops->sync(f);
	/* The header comes last: until then the file is no image. */
	if (r == 0)
		r = file_write(f, 0, head->data, head->len);
	return r == 0 ? f->ops->sync(f) : r;
}

bool qcow2_create(struct file *f, const struct qcow2_create *c, GError **error)
{
	g_autoptr(GByteArray) head = g_byte_array_new();
	uint64_t l1_clusters, blocks = 1, per_block;
	struct header h;
	int r;

	if (!choose_geometry(c, &h, error))
		return false;
	l1_clusters = ((uint64_t)h.l1_size * 8 + (1u << h.cluster_bits) - 1) >> h.cluster_bits;
	per_block = UINT64_C(1) << (h.cluster_bits + 3 - h.refcount_order);
	while (blocks * per_block < 2 + blocks + l1_clusters)
		blocks++;
	if (blocks * 8 > 1u << h.cluster_bits)
		return blk_fail(error, "a disk of that size needs larger clusters: --cluster-size 64K");
	h.reftable_offset = UINT64_C(1) << h.cluster_bits;
	h.reftable_clusters = 1;
	h.l1_offset = (2 + blocks) << h.cluster_bits;
	if (!make_header(c, &h, head, error))
		return false;
	r = write_image(f, &h, head, l1_clusters, blocks);
	return r == 0 || blk_fail(error, "%s: writing the new image: %s", f->path, g_strerror(-r));
}

/* ---- size ---- */

/* A longer L1 table in a new place. Called with the lock. */
static int grow_l1(struct qcow2 *q, uint32_t count)
{
	struct whole_table now = { .count = count }, old = q->l1;
	g_autofree uint64_t *out = g_try_new0(uint64_t, count);
	struct header before = q->h;
	int r;

	now.entry = g_try_new0(uint64_t, count);
	if (!now.entry || !out) {
		g_free(now.entry);
		return -ENOMEM;
	}
	memcpy(now.entry, old.entry, (size_t)old.count * 8);
	for (uint32_t i = 0; i < count; i++)
		st64be(&out[i], now.entry[i]);
	r = cluster_alloc_run(q, clusters_for(q, (uint64_t)count * 8), &now.offset);
	if (r == 0)
		r = file_write(q->file, now.offset, out, (uint64_t)count * 8);
	if (r == 0) {
		pthread_mutex_unlock(&q->lock);
		r = qcow2_commit(q);
		pthread_mutex_lock(&q->lock);
	}
	if (r == 0) {
		q->h.l1_offset = now.offset;
		q->h.l1_size = count;
		r = header_switch(q);
	}
	if (r < 0) {
		q->h.l1_offset = before.l1_offset;
		q->h.l1_size = before.l1_size;
		g_free(now.entry);
		return r;
	}
	q->l1 = now;
	g_free(old.entry);
	if (old.count)
		cluster_free_later(q, old.offset, clusters_for(q, (uint64_t)old.count * 8), false);
	return 0;
}

static int set_size(struct qcow2 *q, uint64_t size)
{
	uint64_t before = q->h.size;
	int r;

	q->h.size = size;
	r = header_switch(q);
	if (r < 0)
		q->h.size = before;
	else
		q->im->size = size;
	return r;
}

static int grow(struct qcow2 *q, uint64_t size)
{
	const uint64_t old = q->im->size, per_table = (uint64_t)q->cluster_size << q->l2_bits;
	uint64_t count = (size + per_table - 1) / per_table;
	int r = 0;

	if (count > L1_MAX_BYTES / 8)
		return -EFBIG;
	pthread_mutex_lock(&q->lock);
	if (count > q->l1.count)
		r = grow_l1(q, (uint32_t)count);
	if (r == 0)
		r = set_size(q, size);
	pthread_mutex_unlock(&q->lock);
	/* What the backing image holds there was never part of this disk. */
	if (r == 0 && q->im->backing && q->im->backing->size > old) {
		r = qcow2_write_zeroes(q->im, old, MIN(size, q->im->backing->size) - old, true);
		if (r == 0)
			r = qcow2_commit(q);
	}
	return r;
}

int qcow2_resize(struct image *im, uint64_t size)
{
	struct qcow2 *q = im->state;
	uint64_t gone;
	int r = 0;

	if (q->h.snapshots && q->h.version < 3)
		return -ENOTSUP;
	if (size >= im->size)
		return size == im->size ? 0 : grow(q, size);
	/* The part that stays of the last cluster is zeroed behind, so that growing again shows zeros. */
	gone = MIN((uint64_t)clusters_for(q, size) << q->h.cluster_bits, im->size);
	if (gone > size)
		r = qcow2_write_zeroes(im, size, gone - size, true);
	/* Without zero flags a discard would let the backing image show again. */
	if (r == 0 && gone < im->size)
		r = q->h.version < 3 && im->backing ? qcow2_write_zeroes(im, gone, im->size - gone, true) :
						       qcow2_discard(im, gone, im->size - gone);
	if (r == 0)
		r = qcow2_commit(q);
	if (r < 0)
		return r;
	pthread_mutex_lock(&q->lock);
	r = set_size(q, size);
	pthread_mutex_unlock(&q->lock);
	return r;
}
