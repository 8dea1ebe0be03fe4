/* The qcow2 driver: opening (with its backing chain and, if it was not closed properly, repair), flushing, closing. */
#include "block/qcow2.h"

#include <errno.h>
#include <string.h>

#define L2_CACHE_BYTES (32u << 20)
#define BLOCK_CACHE_BYTES (4u << 20)

static int qcow2_flush(struct image *im)
{
	return qcow2_commit(im->state);
}

static bool qcow2_clean(struct image *im)
{
	struct qcow2 *q = im->state;
	bool clean;

	if (pthread_mutex_trylock(&q->lock))
		return false;
	clean = !q->corrupt && !qcow2_dirty(q);
	pthread_mutex_unlock(&q->lock);
	return clean;
}

/* The second commit writes what the first one's freed clusters changed. */
static int settle(struct qcow2 *q)
{
	int r;

	q->lazy = false;
	r = qcow2_commit(q);
	if (r == 0)
		r = qcow2_commit(q);
	if (r == 0 && !q->unsettled)
		r = header_set_incompatible(q, 0, INCOMPAT_DIRTY);
	return r;
}

static void qcow2_free(struct qcow2 *q)
{
	cache_finish(&q->l2);
	cache_finish(&q->blocks);
	unpacked_clear(q);
	snapshots_free(q);
	g_free(q->l1.entry);
	g_free(q->reftable.entry);
	g_array_unref(q->freed);
	g_free(q->backing_name);
	g_free(q->backing_format);
	pthread_mutex_destroy(&q->lock);
	pthread_mutex_destroy(&q->commit_lock);
	pthread_mutex_destroy(&q->unpacked_lock);
	pthread_cond_destroy(&q->changed);
	g_free(q);
}

static int qcow2_close(struct image *im)
{
	struct qcow2 *q = im->state;
	int r = im->readonly ? 0 : settle(q);

	qcow2_free(q);
	return r;
}

static const struct blk_ops qcow2_ops = {
	.name = "qcow2",
	.readv = qcow2_readv,
	.writev = qcow2_writev,
	.flush = qcow2_flush,
	.discard = qcow2_discard,
	.write_zeroes = qcow2_write_zeroes,
	.map = qcow2_map,
	.map_end = qcow2_map_end,
	.clean = qcow2_clean,
	.status = qcow2_status,
	.resize = qcow2_resize,
	.close = qcow2_close,
};

bool image_is_qcow2(const struct image *im)
{
	return im->ops == &qcow2_ops;
}

/* ---- opening ---- */

static bool blocks_misplaced(struct qcow2 *q, GHashTable *seen)
{
	for (uint32_t i = 0; i < q->reftable.count; i++) {
		uint64_t *at = &q->reftable.entry[i];

		if (*at && (!cluster_aligned(q, *at) || cluster_of(q, *at) >= q->virgin || !g_hash_table_add(seen, at)))
			return true;
	}
	return false;
}

/* Writing needs refcount blocks that are whole clusters of the file, each its own, and none of them another table. */
static bool check_reftable(struct qcow2 *q, GError **error)
{
	g_autoptr(GHashTable) seen = g_hash_table_new(g_int64_hash, g_int64_equal);
	bool bad = blocks_misplaced(q, seen);
	uint32_t used = q->reftable.count;

	while (used && !q->reftable.entry[used - 1])
		used--;
	for (uint32_t i = 0; i < used && !bad; i++) {
		uint64_t at = q->reftable.entry[i];

		/* With no block counted as used yet, this compares with the header and the other tables only. */
		bad = at && overlaps_tables(q, at, q->cluster_size);
	}
	for (uint32_t i = 0; i < q->l1.count && !bad; i++) {
		uint64_t at = q->l1.entry[i] & ENTRY_OFFSET;

		bad = at && g_hash_table_contains(seen, &at);
	}
	q->reftable_used = used;
	return !bad || blk_fail(error, "%s: its refcount table is damaged; repair it with `guise image check --repair=all %s`, or open "
				"it with ,readonly", q->file->path, q->file->path);
}

static bool read_tables(struct qcow2 *q, const struct image_open_options *opt, GError **error)
{
	int64_t size = q->file->ops->size(q->file);

	if (size < 0)
		return blk_fail(error, "%s: its size: %s", q->file->path, g_strerror((int)-size));
	q->virgin = clusters_for(q, (uint64_t)size);
	q->l1.offset = q->h.l1_offset;
	q->l1.count = q->h.l1_size;
	q->reftable.offset = q->h.reftable_offset;
	q->reftable.count = (uint32_t)(((uint64_t)q->h.reftable_clusters << q->h.cluster_bits) / 8);
	if (!whole_table_read(q, &q->l1, "L1 table", error) || !whole_table_read(q, &q->reftable, "refcount table", error) ||
	    !snapshots_read(q, error))
		return false;
	return q->im->readonly || opt->unsafe_repair || check_reftable(q, error);
}

/* Bits that a writer which does not know them has to clear. */
static int clear_autoclear(struct qcow2 *q)
{
	if (q->h.version < 3 || !q->h.autoclear)
		return 0;
	q->h.autoclear = 0;
	return header_write(q);
}

static bool make_sound(struct qcow2 *q, const struct image_open_options *opt, GError **error)
{
	struct qcow2_check_result result;
	int r;

	if (q->im->readonly || opt->unsafe_repair)
		return true;
	if (q->h.incompatible & INCOMPAT_DIRTY) {
		r = qcow2_check(q->im, true, true, NULL, &result);
		if (r < 0 || result.corruptions)
			return blk_fail(error, "%s: was not closed properly, and repairing it failed (%s); see `guise image check %s`",
					q->file->path, r < 0 ? g_strerror(-r) : "not all could be repaired", q->file->path);
	}
	r = clear_autoclear(q);
	if (r < 0)
		return blk_fail(error, "%s: writing its header: %s", q->file->path, g_strerror(-r));
	q->lazy = q->h.version >= 3 && (q->h.compatible & COMPAT_LAZY);
	return true;
}

static struct qcow2 *qcow2_new(struct image *im)
{
	struct qcow2 *q = g_new0(struct qcow2, 1);

	q->im = im;
	q->file = im->file;
	pthread_mutex_init(&q->lock, NULL);
	pthread_mutex_init(&q->commit_lock, NULL);
	pthread_mutex_init(&q->unpacked_lock, NULL);
	pthread_cond_init(&q->changed, NULL);
	q->freed = g_array_new(FALSE, FALSE, sizeof(struct freed));
	return q;
}

bool qcow2_open(struct image *im, const struct image_open_options *opt, unsigned depth, GError **error)
{
	struct qcow2 *q = qcow2_new(im);

	im->state = q;
	if (!header_read(q, opt, error))
		goto fail;
	cache_init(&q->l2, CLAMP(L2_CACHE_BYTES / q->cluster_size, 16, 16384), q->h.cluster_bits);
	cache_init(&q->blocks, CLAMP(BLOCK_CACHE_BYTES / q->cluster_size, 16, 4096), q->h.cluster_bits);
	im->size = (q->h.size + SECTOR - 1) & ~(uint64_t)(SECTOR - 1);
	if (!read_tables(q, opt, error))
		goto fail;
	if (q->backing_name && !opt->no_backing) {
		im->backing = image_open_backing(im, q->backing_name, q->backing_format, opt, depth, error);
		if (!im->backing)
			goto fail;
	}
	if (!make_sound(q, opt, error))
		goto fail;
	im->ops = &qcow2_ops;
	return true;
fail:
	image_close(im->backing);
	im->backing = NULL;
	qcow2_free(q);
	return false;
}
