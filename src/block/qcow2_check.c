/*
 * Checking and repairing qcow2: what the tables refer to is counted and compared with the refcounts. Each distinct L2
 * table is walked once, with how often it is referred to, so that time and memory follow the file's real size.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "base/bytes.h"
#include "block/qcow2.h"

#define COUNT_PAGE 8192u

struct check {
	struct qcow2 *q;
	bool fix_leaks, fix_all;
	struct qcow2_check_listener listener;
	struct qcow2_check_result *result;
	GHashTable *pages;   /* page number -> COUNT_PAGE counts */
	GHashTable *l2_refs; /* L2 table's offset -> how often */
	uint64_t file_clusters, highest;
	bool tables_damaged; /* the refcount structure itself: only making it anew helps */
};

static void say(struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct check *c, const char *fmt, ...)
{
	g_autofree char *line = NULL;
	va_list ap;

	if (!c->listener.report)
		return;
	va_start(ap, fmt);
	line = g_strdup_vprintf(fmt, ap);
	va_end(ap);
	c->listener.report(c->listener.opaque, line);
}

/* ---- counting ---- */

static uint32_t *count_of(struct check *c, uint64_t cluster, bool make)
{
	uint64_t page = cluster / COUNT_PAGE;
	uint32_t *counts = g_hash_table_lookup(c->pages, &page);

	if (!counts && make) {
		counts = g_new0(uint32_t, COUNT_PAGE);
		g_hash_table_insert(c->pages, g_memdup2(&page, sizeof(page)), counts);
	}
	return counts ? &counts[cluster % COUNT_PAGE] : NULL;
}

/* False, and a corruption, when the range is not in the file. */
static bool count_range(struct check *c, const char *what, uint64_t offset, uint64_t bytes, uint32_t times)
{
	struct qcow2 *q = c->q;
	uint64_t end;

	if (!bytes)
		return true;
	if (!checked_add(offset, bytes - 1, &end) || cluster_of(q, end) > c->file_clusters) {
		say(c, "%s at %#" PRIx64 " lies past the end of the file", what, offset);
		c->result->corruptions++;
		return false;
	}
	for (uint64_t i = cluster_of(q, offset); i <= cluster_of(q, end); i++) {
		uint32_t *n = count_of(c, i, true);

		*n = *n > UINT32_MAX - times ? UINT32_MAX : *n + times;
		c->highest = MAX(c->highest, i + 1);
	}
	return true;
}

static void count_l1(struct check *c, const char *what, uint64_t offset, const uint64_t *l1, uint32_t count)
{
	struct qcow2 *q = c->q;

	count_range(c, what, offset, (uint64_t)count * 8, 1);
	for (uint32_t i = 0; i < count; i++) {
		uint64_t place = l1[i] & ENTRY_OFFSET, *refs;

		if (!place && !(l1[i] & L1_RESERVED))
			continue;
		if ((l1[i] & L1_RESERVED) || !cluster_aligned(q, place) || cluster_of(q, place) >= c->file_clusters) {
			say(c, "%s: entry %u (%#" PRIx64 ") is no place for an L2 table", what, i, l1[i]);
			c->result->corruptions++;
			continue;
		}
		refs = g_hash_table_lookup(c->l2_refs, &place);
		if (refs) {
			(*refs)++;
		} else {
			uint64_t *key = g_new(uint64_t, 2);

			key[0] = place;
			key[1] = 1;
			g_hash_table_insert(c->l2_refs, key, &key[1]);
		}
	}
}

static void count_l2_entry(struct check *c, uint64_t table, uint32_t index, uint64_t entry, uint32_t refs)
{
	struct qcow2 *q = c->q;
	uint64_t offset = entry & ENTRY_OFFSET, bytes = q->cluster_size;

	if (entry & ENTRY_COMPRESSED) {
		compressed_place(q, entry, &offset, &bytes);
		/* The last sector may be cut by the end of the file. */
		if (count_range(c, "a compressed cluster", offset, bytes, refs))
			c->result->compressed_clusters++;
		return;
	}
	if ((entry & L2_RESERVED) || !cluster_aligned(q, offset) || ((entry & ENTRY_ZERO) && q->h.version < 3)) {
		say(c, "L2 table %#" PRIx64 ": entry %u (%#" PRIx64 ") is invalid", table, index, entry);
		c->result->corruptions++;
		return;
	}
	if (offset && count_range(c, "a data cluster", offset, bytes, refs))
		c->result->data_clusters++;
}

static int count_l2_tables(struct check *c)
{
	struct qcow2 *q = c->q;
	g_autofree uint8_t *data = g_malloc(q->cluster_size);
	const uint64_t total = (uint64_t)g_hash_table_size(c->l2_refs) * q->cluster_size;
	uint64_t done = 0;
	GHashTableIter it;
	void *key, *value;

	g_hash_table_iter_init(&it, c->l2_refs);
	while (g_hash_table_iter_next(&it, &key, &value)) {
		uint64_t place = *(uint64_t *)key;
		uint32_t refs = (uint32_t)MIN(*(uint64_t *)value, UINT32_MAX);
		int r;

		if (c->listener.progress)
			c->listener.progress(c->listener.opaque, done, total);
		done += q->cluster_size;
		r = file_read(q->file, place, data, q->cluster_size);
		if (r < 0)
			return r;
		count_range(c, "an L2 table", place, q->cluster_size, refs);
		for (uint32_t i = 0; i < q->l2_entries; i++)
			count_l2_entry(c, place, i, ld64be(data + (size_t)i * 8), refs);
	}
	return 0;
}

static int count_snapshots(struct check *c)
{
	struct qcow2 *q = c->q;
	uint64_t total = 0;

	count_range(c, "the snapshot table", q->h.snapshots_offset, q->snapshots_bytes, 1);
	for (uint32_t i = 0; i < q->h.snapshots; i++) {
		const struct snapshot *s = &q->snapshot[i];
		g_autofree uint64_t *l1 = NULL;
		int r;

		total += s->l1_size;
		/* Tables that lie over each other would make this endless. */
		if (clusters_for(q, total * 8) > c->file_clusters + i) {
			say(c, "snapshot %s: the snapshots' L1 tables overlap", s->name);
			c->result->corruptions++;
			return 0;
		}
		l1 = g_try_malloc0(MAX((gsize)s->l1_size * 8, 8));
		r = l1 ? file_read(q->file, s->l1_offset, l1, (uint64_t)s->l1_size * 8) : -ENOMEM;
		if (r < 0)
			return r;
		for (uint32_t e = 0; e < s->l1_size; e++)
			l1[e] = ld64be(&l1[e]);
		count_l1(c, "a snapshot's L1 table", s->l1_offset, l1, s->l1_size);
	}
	return 0;
}

static int count_references(struct check *c)
{
	struct qcow2 *q = c->q;
	int r;

	count_range(c, "the header", 0, q->cluster_size, 1);
	count_l1(c, "the L1 table", q->l1.offset, q->l1.entry, q->l1.count);
	r = count_snapshots(c);
	if (r == 0)
		r = count_l2_tables(c);
	return r;
}

/* The refcount table and its blocks, as they are. */
static void count_refcounts(struct check *c)
{
	struct qcow2 *q = c->q;

	count_range(c, "the refcount table", q->reftable.offset, (uint64_t)q->reftable.count * 8, 1);
	for (uint32_t i = 0; i < q->reftable.count; i++) {
		uint64_t at = q->reftable.entry[i];

		if (!at)
			continue;
		if (!cluster_aligned(q, at) || cluster_of(q, at) >= c->file_clusters) {
			say(c, "refcount table: entry %u (%#" PRIx64 ") is no place for a refcount block", i, at);
			c->tables_damaged = true;
			continue;
		}
		count_range(c, "a refcount block", at, q->cluster_size, 1);
		if (*count_of(c, cluster_of(q, at), true) != 1) {
			say(c, "refcount block %u at %#" PRIx64 " lies over something else", i, at);
			c->tables_damaged = true;
		}
	}
}

/* ---- comparing ---- */

static void set_refcount(struct qcow2 *q, struct table *t, uint32_t index, uint64_t value)
{
	refcount_entry_set(q, t->data, index, value);
	table_dirty(&q->blocks, t, 0, q->cluster_size);
}

/* One block: differences are reported and, where asked, put right. */
static int compare_block(struct check *c, uint32_t block)
{
	struct qcow2 *q = c->q;
	const uint64_t first = (uint64_t)block << q->block_bits;
	struct table *t = NULL;
	int r = 0;

	if (block < q->reftable.count && q->reftable.entry[block])
		r = cache_get(q, &q->blocks, q->reftable.entry[block], &t);
	for (uint32_t i = 0; i < q->block_entries && r == 0; i++) {
		const uint32_t *n = count_of(c, first + i, false);
		uint64_t refs = n ? *n : 0, stored = t ? refcount_entry(q, t->data, i) : 0;
		bool leak = stored > refs, fix = leak ? c->fix_leaks : c->fix_all;

		if (stored == refs)
			continue;
		say(c, "%s cluster %" PRIu64 ": refcount %" PRIu64 ", referred to %" PRIu64 " times%s", leak ? "leaked" : "corrupt", first + i,
		    stored, refs, fix && t && refs <= q->refcount_max ? " (repaired)" : "");
		if (fix && t && refs <= q->refcount_max) {
			set_refcount(q, t, i, refs);
			c->result->fixed++;
		} else if (leak) {
			c->result->leaks++;
		} else {
			c->result->corruptions++;
			/* Without a block there is no place for the count. */
			c->tables_damaged |= !t;
		}
	}
	return r;
}

static int commit(struct qcow2 *q)
{
	int r;

	pthread_mutex_unlock(&q->lock);
	r = qcow2_commit(q);
	pthread_mutex_lock(&q->lock);
	return r;
}

static int compare(struct check *c)
{
	struct qcow2 *q = c->q;
	uint64_t blocks = MAX((c->highest + q->block_entries - 1) >> q->block_bits, q->reftable_used);
	int r = 0;

	for (uint64_t i = 0; i < blocks && r == 0; i++) {
		/* Blocks alone are written: in whatever order, each is nearer to the truth than before. */
		if (q->blocks.dirty > q->blocks.limit / 2)
			r = commit(q);
		if (r == 0)
			r = compare_block(c, (uint32_t)i);
	}
	return r;
}

/* ---- a new refcount structure ---- */

/* Builds table and blocks behind everything that is referred to, then switches to them with one sector. */
static int rebuild(struct check *c)
{
	struct qcow2 *q = c->q;
	uint64_t start = MAX(c->highest, c->file_clusters), blocks = 0, table_clusters = 1, total;
	struct whole_table old = q->reftable, now = { 0 };
	int r = 0;

	do {
		total = start + table_clusters + blocks;
		blocks = (total + q->block_entries - 1) >> q->block_bits;
		table_clusters = clusters_for(q, blocks * 8);
	} while (total != start + table_clusters + blocks);
	if (table_clusters << q->h.cluster_bits > REFTABLE_MAX_BYTES)
		return -EFBIG;
	count_range(c, "the new refcount table", 0, 0, 0);
	c->file_clusters = MAX(c->file_clusters, total);
	count_range(c, "the new refcount table", start << q->h.cluster_bits, (table_clusters + blocks) << q->h.cluster_bits, 1);
	now.offset = start << q->h.cluster_bits;
	now.count = (uint32_t)(table_clusters << q->h.cluster_bits >> 3);
	now.entry = g_new0(uint64_t, now.count);
	for (uint64_t b = 0; b < blocks && r == 0; b++) {
		g_autofree uint8_t *data = g_malloc0(q->cluster_size);

		now.entry[b] = (start + table_clusters + b) << q->h.cluster_bits;
		for (uint32_t i = 0; i < q->block_entries; i++) {
			const uint32_t *n = count_of(c, (b << q->block_bits) + i, false);

			if (n && *n > q->refcount_max)
				r = -E2BIG;
			refcount_entry_set(q, data, i, n ? *n : 0);
		}
		if (r == 0)
			r = file_write(q->file, now.entry[b], data, q->cluster_size);
	}
	for (uint32_t i = 0; i < now.count; i++)
		st64be(&now.entry[i], now.entry[i]);
	if (r == 0)
		r = file_write(q->file, now.offset, now.entry, (uint64_t)now.count * 8);
	for (uint32_t i = 0; i < now.count; i++)
		now.entry[i] = ld64be(&now.entry[i]);
	if (r == 0)
		r = q->file->ops->sync(q->file);
	if (r == 0) {
		q->h.reftable_offset = now.offset;
		q->h.reftable_clusters = (uint32_t)table_clusters;
		r = header_switch(q);
	}
	if (r < 0) {
		g_free(now.entry);
		return r;
	}
	for (uint32_t i = 0; i < old.count; i++)
		cache_drop(&q->blocks, old.entry[i]);
	g_free(old.entry);
	q->reftable = now;
	q->reftable_used = (uint32_t)blocks;
	q->virgin = MAX(q->virgin, total);
	q->free_hint = q->data_hint = 0;
	return 0;
}

/* ---- flags ---- */

/* The flag goes by the stored refcount: with a leak that is too high it is off, and that is harmless. */
static int flag_wrong(struct check *c, uint64_t place, uint64_t entry, bool *wrong)
{
	uint64_t stored;
	int r = refcount_get(c->q, cluster_of(c->q, place), &stored);

	*wrong = r == 0 && (stored == 1) != !!(entry & ENTRY_COPIED);
	return r;
}

static void flag_found(struct check *c, const char *what, uint64_t place)
{
	bool fix = c->fix_all || c->fix_leaks;

	say(c, "%s at %#" PRIx64 ": the \"only reference\" flag is wrong%s", what, place, fix ? " (repaired)" : "");
	if (fix)
		c->result->fixed++;
	else
		c->result->corruptions++;
}

static int compare_flags_of_table(struct check *c, struct table *t)
{
	struct qcow2 *q = c->q;

	for (uint32_t e = 0; e < q->l2_entries; e++) {
		uint64_t entry = ld64be(t->data + (size_t)e * 8), data = entry & ENTRY_OFFSET;
		bool wrong = false;
		int r;

		if ((entry & (ENTRY_COMPRESSED | L2_RESERVED)) || !data || !cluster_aligned(q, data))
			continue;
		r = flag_wrong(c, data, entry, &wrong);
		if (r < 0)
			return r;
		if (!wrong)
			continue;
		flag_found(c, "data cluster", data);
		if (c->fix_all || c->fix_leaks) {
			st64be(t->data + (size_t)e * 8, entry ^ ENTRY_COPIED);
			table_dirty(&q->l2, t, e * 8, e * 8 + 8);
		}
	}
	return 0;
}

/* The active tables' flags against the refcounts. */
static int compare_flags(struct check *c)
{
	struct qcow2 *q = c->q;
	int r = 0;

	for (uint32_t i = 0; i < q->l1.count && r == 0; i++) {
		uint64_t entry = q->l1.entry[i], place = entry & ENTRY_OFFSET;
		struct table *t;
		bool wrong = false;

		if (!place || (entry & L1_RESERVED) || !cluster_aligned(q, place) || cluster_of(q, place) >= c->file_clusters)
			continue;
		if (q->l2.dirty > q->l2.limit / 2)
			r = commit(q);
		if (r == 0)
			r = cache_get(q, &q->l2, place, &t);
		if (r == 0)
			r = flag_wrong(c, place, entry, &wrong);
		if (r < 0)
			break;
		if (wrong) {
			flag_found(c, "L2 table", place);
			if (c->fix_all || c->fix_leaks)
				whole_table_set(&q->l1, i, entry ^ ENTRY_COPIED);
		}
		r = compare_flags_of_table(c, t);
	}
	return r;
}

/* ---- the whole ---- */

static int run(struct check *c)
{
	struct qcow2 *q = c->q;
	uint64_t corruptions;
	int r = count_references(c);

	if (r < 0)
		return r;
	corruptions = c->result->corruptions;
	count_refcounts(c);
	if (c->tables_damaged)
		c->result->corruptions++;
	if (!c->tables_damaged)
		r = compare(c);
	if (r == 0 && c->tables_damaged && c->fix_all) {
		/* Count anew, without the old structure. */
		g_hash_table_remove_all(c->pages);
		g_hash_table_remove_all(c->l2_refs);
		*c->result = (struct qcow2_check_result){ .fixed = c->result->fixed };
		c->listener.report = NULL;
		r = count_references(c);
		corruptions = c->result->corruptions;
		if (r == 0)
			r = rebuild(c);
		if (r == 0)
			c->result->fixed++;
	}
	/* Refcounts that cannot be read say nothing about flags. */
	if (r == 0 && (!c->tables_damaged || c->fix_all))
		r = compare_flags(c);
	if (r == 0 && (c->fix_all || c->fix_leaks))
		r = commit(q);
	if (r == 0 && c->fix_all && c->result->corruptions == corruptions && !corruptions) {
		q->unsettled = q->corrupt = false;
		/* Lazy refcounts are in memory only, so the dirty bit stays until the image is closed. */
		r = header_set_incompatible(q, 0, INCOMPAT_CORRUPT | (q->lazy ? 0 : INCOMPAT_DIRTY));
	}
	return r;
}

int qcow2_check(struct image *im, bool fix_leaks, bool fix_all, const struct qcow2_check_listener *listener,
		struct qcow2_check_result *result)
{
	struct qcow2 *q = im->state;
	struct check c = { .q = q, .fix_leaks = fix_leaks, .fix_all = fix_all, .result = result };
	int r;

	if (listener)
		c.listener = *listener;
	*result = (struct qcow2_check_result){ 0 };
	c.pages = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
	c.l2_refs = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
	pthread_mutex_lock(&q->lock);
	/* L2 tables are read from the file. */
	r = !im->readonly && qcow2_dirty(q) ? commit(q) : 0;
	c.file_clusters = q->virgin;
	q->reftable_used = q->reftable.count;
	while (q->reftable_used && !q->reftable.entry[q->reftable_used - 1])
		q->reftable_used--;
	if (r == 0)
		r = run(&c);
	pthread_mutex_unlock(&q->lock);
	result->clusters = clusters_for(q, q->h.size);
	result->end = c.highest << q->h.cluster_bits;
	g_hash_table_unref(c.pages);
	g_hash_table_unref(c.l2_refs);
	return r;
}
