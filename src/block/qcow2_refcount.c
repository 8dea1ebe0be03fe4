/* qcow2 refcounts: reading and changing them, finding free clusters, giving them back. */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "block/qcow2.h"

/* Offsets in L1, L2 and refcount entries have 56 bits. */
#define MAX_OFFSET (UINT64_C(1) << 55)
/* Data that begins on such a boundary lies in the host's page cache in large pieces, which are faster to find. */
#define DATA_ALIGNMENT (256u << 10)

uint64_t refcount_entry(const struct qcow2 *q, const uint8_t *block, uint32_t index)
{
	unsigned order = q->h.refcount_order;

	switch (order) {
	case 3: return block[index];
	case 4: return ld16be(block + index * 2);
	case 5: return ld32be(block + (size_t)index * 4);
	case 6: return ld64be(block + (size_t)index * 8);
	default: {
		/* Several in a byte, the first in its low bits. */
		unsigned bits = 1u << order, per_byte = 8 / bits;

		return block[index / per_byte] >> index % per_byte * bits & ((1u << bits) - 1);
	}
	}
}

void refcount_entry_set(const struct qcow2 *q, uint8_t *block, uint32_t index, uint64_t value)
{
	unsigned order = q->h.refcount_order;

	switch (order) {
	case 3: block[index] = (uint8_t)value; break;
	case 4: st16be(block + index * 2, (uint16_t)value); break;
	case 5: st32be(block + (size_t)index * 4, (uint32_t)value); break;
	case 6: st64be(block + (size_t)index * 8, value); break;
	default: {
		unsigned bits = 1u << order, per_byte = 8 / bits, shift = index % per_byte * bits;
		uint8_t *at = block + index / per_byte, mask = (uint8_t)(((1u << bits) - 1) << shift);

		*at = (uint8_t)((*at & ~mask) | (uint8_t)(value << shift));
		break;
	}
	}
}

static void block_change(struct qcow2 *q, struct table *t, uint32_t index, uint64_t value)
{
	uint32_t byte = (uint32_t)((uint64_t)index << q->h.refcount_order >> 3);

	refcount_entry_set(q, t->data, index, value);
	byte &= ~7u;
	table_dirty(&q->blocks, t, byte, byte + 8);
}

int mark_corrupt(struct qcow2 *q)
{
	if (!q->corrupt && !q->im->readonly) {
		q->corrupt = true;
		/* The flag is a service to other programs; without it this one refuses writes all the same. */
		header_set_incompatible(q, INCOMPAT_CORRUPT, 0);
	}
	return -EIO;
}

static bool ranges_overlap(uint64_t a, uint64_t a_len, uint64_t b, uint64_t b_len)
{
	return b_len && a < b + b_len && b < a + a_len;
}

bool overlaps_tables(struct qcow2 *q, uint64_t offset, uint64_t len)
{
	if (offset < q->cluster_size || ranges_overlap(offset, len, q->l1.offset, (uint64_t)q->l1.count * 8) ||
	    ranges_overlap(offset, len, q->reftable.offset, (uint64_t)q->reftable.count * 8) ||
	    ranges_overlap(offset, len, q->h.snapshots_offset, q->snapshots_bytes))
		return true;
	for (uint32_t i = 0; i < q->reftable_used; i++) {
		if (q->reftable.entry[i] && ranges_overlap(offset, len, q->reftable.entry[i], q->cluster_size))
			return true;
	}
	return false;
}

bool overlaps_metadata(struct qcow2 *q, uint64_t offset, uint64_t len)
{
	if (overlaps_tables(q, offset, len))
		return true;
	for (uint32_t i = 0; i < q->l1.count; i++) {
		uint64_t table = q->l1.entry[i] & ENTRY_OFFSET;

		if (table && ranges_overlap(offset, len, table, q->cluster_size))
			return true;
	}
	return false;
}

/* ---- refcount blocks ---- */

static void reftable_set(struct qcow2 *q, uint32_t index, uint64_t offset)
{
	whole_table_set(&q->reftable, index, offset);
	q->reftable_used = MAX(q->reftable_used, index + 1);
}

/* The block for a cluster, or NULL in *t where there is none. */
static int block_get(struct qcow2 *q, uint64_t cluster, struct table **t)
{
	uint64_t index = cluster >> q->block_bits, offset;

	*t = NULL;
	if (index >= q->reftable.count || !q->reftable.entry[index])
		return 0;
	offset = q->reftable.entry[index];
	return cache_get(q, &q->blocks, offset, t);
}

int refcount_get(struct qcow2 *q, uint64_t cluster, uint64_t *count)
{
	struct table *t;
	int r = block_get(q, cluster, &t);

	if (r == 0)
		*count = t ? refcount_entry(q, t->data, (uint32_t)(cluster & (q->block_entries - 1))) : 0;
	return r;
}

/* Writes what blocks are dirty, for a refcount table that is about to refer to all of them. */
static int write_blocks(struct qcow2 *q)
{
	for (GList *at = q->blocks.order.head; at; at = at->next) {
		struct table *t = at->data;
		int r;

		if (t->dirty_from == t->dirty_to && !t->pins)
			continue;
		r = file_write(q->file, t->offset, t->data, q->cluster_size);
		if (r < 0)
			return r;
		/* A commit under way may yet write its older copy over this one: then the next commit writes it again. */
		if (t->pins)
			continue;
		t->linked = true;
		table_clean(&q->blocks, t);
	}
	return 0;
}

static int write_reftable(struct qcow2 *q, const struct whole_table *w)
{
	g_autofree uint64_t *out = g_try_new(uint64_t, w->count);

	if (!out)
		return -ENOMEM;
	for (uint32_t i = 0; i < w->count; i++)
		st64be(&out[i], w->entry[i]);
	return file_write(q->file, w->offset, out, (uint64_t)w->count * 8);
}

/* Makes the table and its blocks, all past the old table's reach, where nothing has a refcount yet. */
static void lay_out_growth(struct qcow2 *q, struct whole_table *w, uint64_t start, uint64_t table_clusters)
{
	uint64_t used = table_clusters, blocks = 0, first = start >> q->block_bits;

	/* The blocks cover themselves too. */
	while (blocks << q->block_bits < used + blocks)
		blocks++;
	for (uint64_t i = 0; i < blocks; i++) {
		uint64_t offset = (start + table_clusters + i) << q->h.cluster_bits;
		struct table *t = cache_new(q, &q->blocks, offset);

		w->entry[first + i] = offset;
		for (uint64_t c = 0; c < q->block_entries && (i << q->block_bits) + c < used + blocks; c++)
			refcount_entry_set(q, t->data, (uint32_t)c, 1);
	}
	q->virgin = MAX(q->virgin, start + used + blocks);
	q->reftable_used = MAX(q->reftable_used, (uint32_t)(first + blocks));
}

/* A refcount table half as large again, behind everything. Rare, so it is written and synced here and now. */
static int reftable_grow(struct qcow2 *q)
{
	const uint64_t start = (uint64_t)q->reftable.count << q->block_bits;
	uint64_t count = (uint64_t)q->reftable.count + q->reftable.count / 2 + 2, clusters = clusters_for(q, count * 8);
	struct whole_table w = { .offset = start << q->h.cluster_bits }, old = q->reftable;
	int r;

	count = clusters << q->h.cluster_bits >> 3;
	if (clusters << q->h.cluster_bits > REFTABLE_MAX_BYTES || w.offset > MAX_OFFSET)
		return -EFBIG;
	if (overlaps_metadata(q, w.offset, (clusters + 2) << q->h.cluster_bits))
		return mark_corrupt(q);
	w.count = (uint32_t)count;
	w.entry = g_try_new0(uint64_t, count);
	if (!w.entry)
		return -ENOMEM;
	memcpy(w.entry, old.entry, (size_t)old.count * 8);
	lay_out_growth(q, &w, start, clusters);
	r = write_blocks(q);
	if (r == 0)
		r = write_reftable(q, &w);
	if (r == 0)
		r = q->file->ops->sync(q->file);
	if (r == 0) {
		q->h.reftable_offset = w.offset;
		q->h.reftable_clusters = (uint32_t)clusters;
		r = header_switch(q);
	}
	if (r < 0) {
		q->h.reftable_offset = old.offset;
		q->h.reftable_clusters = (uint32_t)((uint64_t)old.count * 8 >> q->h.cluster_bits);
		g_free(w.entry);
		return r;
	}
	g_free(old.entry);
	q->reftable = w;
	cluster_free_later(q, old.offset, (uint64_t)old.count * 8 >> q->h.cluster_bits, false);
	return 0;
}

/* The block for a cluster, made where there is none: it takes the cluster itself then (*made). */
static int block_get_or_make(struct qcow2 *q, uint64_t cluster, struct table **t, bool *made)
{
	const uint64_t offset = cluster << q->h.cluster_bits;
	int r;

	*made = false;
	if (offset >= MAX_OFFSET)
		return -EFBIG;
	while (cluster >> q->block_bits >= q->reftable.count) {
		r = reftable_grow(q);
		if (r < 0)
			return r;
	}
	r = block_get(q, cluster, t);
	if (r < 0 || *t)
		return r;
	if (overlaps_metadata(q, offset, q->cluster_size))
		return mark_corrupt(q);
	*t = cache_new(q, &q->blocks, offset);
	refcount_entry_set(q, (*t)->data, (uint32_t)(cluster & (q->block_entries - 1)), 1);
	reftable_set(q, (uint32_t)(cluster >> q->block_bits), offset);
	q->virgin = MAX(q->virgin, cluster + 1);
	*made = true;
	return 0;
}

/* ---- changing ---- */

static int refcount_change(struct qcow2 *q, uint64_t cluster, int delta)
{
	uint32_t index = (uint32_t)(cluster & (q->block_entries - 1));
	struct table *t;
	uint64_t value;
	int r = block_get(q, cluster, &t);

	if (r < 0)
		return r;
	value = t ? refcount_entry(q, t->data, index) : 0;
	/* What is in use has a refcount already: from 0 only an allocation counts up. */
	if (!value)
		return mark_corrupt(q);
	if (delta > 0 && value == q->refcount_max)
		return -E2BIG;
	value = delta > 0 ? value + 1 : value - 1;
	block_change(q, t, index, value);
	if (!value) {
		q->free_hint = MIN(q->free_hint, cluster);
		q->data_hint = MIN(q->data_hint, cluster);
		cache_drop(&q->l2, cluster << q->h.cluster_bits);
		cache_drop(&q->blocks, cluster << q->h.cluster_bits);
	}
	return 0;
}

int refcount_add(struct qcow2 *q, uint64_t cluster, uint64_t count, int delta)
{
	int r = 0;

	for (uint64_t i = 0; i < count && r == 0; i++)
		r = refcount_change(q, cluster + i, delta);
	return r;
}

/* ---- allocation ---- */

/* The first free run from the hint on within one block; the hint follows what it passes. */
static int find_free(struct qcow2 *q, uint64_t *hint, uint64_t want, struct table **t, uint64_t *first, uint64_t *run)
{
	uint64_t at = *hint;

	for (;;) {
		uint32_t index = (uint32_t)(at & (q->block_entries - 1));
		bool made;
		int r = block_get_or_make(q, at, t, &made);

		if (r < 0)
			return r;
		if (made)
			index++;
		while (index < q->block_entries && refcount_entry(q, (*t)->data, index))
			index++;
		at = (at & ~(uint64_t)(q->block_entries - 1)) + index;
		if (index == q->block_entries) {
			*hint = at;
			continue;
		}
		*first = at;
		*run = 1;
		while (*run < want && index + *run < q->block_entries &&
		       !refcount_entry(q, (*t)->data, index + (uint32_t)*run))
			(*run)++;
		return 0;
	}
}

static int take_run(struct qcow2 *q, struct table *t, uint64_t first, uint64_t run)
{
	if (overlaps_metadata(q, first << q->h.cluster_bits, run << q->h.cluster_bits))
		return mark_corrupt(q);
	for (uint64_t i = 0; i < run; i++)
		block_change(q, t, (uint32_t)((first + i) & (q->block_entries - 1)), 1);
	q->virgin = MAX(q->virgin, first + run);
	return 0;
}

int cluster_alloc(struct qcow2 *q, uint64_t want, uint64_t *offset, uint64_t *got)
{
	struct table *t;
	uint64_t first, run;
	int r = find_free(q, &q->free_hint, want, &t, &first, &run);

	if (r == 0)
		r = take_run(q, t, first, run);
	if (r < 0)
		return r;
	q->free_hint = first + run;
	*offset = first << q->h.cluster_bits;
	*got = run;
	return 0;
}

/* Where data goes on that would make the file longer: behind the data before, or else on a boundary. What is skipped for
 * that is the next tables' place. Clusters so small that blocks of refcounts would come between all the time go as they come. */
static uint64_t data_start(const struct qcow2 *q, uint64_t first)
{
	const uint64_t unit = DATA_ALIGNMENT >> q->h.cluster_bits;

	if (first < q->virgin || first == q->data_end || unit <= 1 || q->block_entries < unit * 16)
		return first;
	return (first + unit - 1) & ~(unit - 1);
}

int cluster_alloc_data(struct qcow2 *q, uint64_t want, uint64_t *offset, uint64_t *got)
{
	struct table *t;
	uint64_t first, run, start, before = q->virgin;
	int r = find_free(q, &q->data_hint, want, &t, &first, &run);

	start = r == 0 ? data_start(q, first) : 0;
	if (r == 0 && start != first) {
		q->data_hint = start;
		r = find_free(q, &q->data_hint, want, &t, &first, &run);
	}
	if (r == 0)
		r = take_run(q, t, first, run);
	if (r < 0)
		return r;
	if (q->free_hint == first)
		q->free_hint = first + run;
	q->data_hint = first + run;
	if (first >= before)
		q->data_end = first + run;
	*offset = first << q->h.cluster_bits;
	*got = run;
	return 0;
}

int cluster_alloc_run(struct qcow2 *q, uint64_t want, uint64_t *offset)
{
	uint64_t start = MAX(q->virgin, 1), run = 0;

	/* Behind everything: there the refcounts are 0, but for blocks that have to be made on the way. */
	while (run < want) {
		struct table *t;
		bool made;
		int r = block_get_or_make(q, start + run, &t, &made);

		if (r < 0)
			return r;
		if (made || refcount_entry(q, t->data, (uint32_t)((start + run) & (q->block_entries - 1)))) {
			start += run + 1;
			run = 0;
		} else {
			run++;
		}
	}
	for (uint64_t i = 0; i < want; i++) {
		struct table *t;
		int r = block_get(q, start + i, &t);

		if (r == 0)
			r = take_run(q, t, start + i, 1);
		if (r < 0)
			return r;
	}
	*offset = start << q->h.cluster_bits;
	return 0;
}

void cluster_free_later(struct qcow2 *q, uint64_t offset, uint64_t clusters, bool punch)
{
	const struct freed f = { offset, clusters, punch };
	struct freed *last = q->freed->len ? &g_array_index(q->freed, struct freed, q->freed->len - 1) : NULL;

	if (last && last->punch == punch && last->offset + (last->clusters << q->h.cluster_bits) == offset)
		last->clusters += clusters;
	else
		g_array_append_val(q->freed, f);
}

void cluster_free_now(struct qcow2 *q, uint64_t offset, uint64_t clusters)
{
	/* A failure here leaks clusters, or has marked the image corrupt. */
	refcount_add(q, cluster_of(q, offset), clusters, -1);
}

void entry_free_later(struct qcow2 *q, uint64_t entry, bool punch)
{
	uint64_t offset, bytes;

	if (entry & ENTRY_COMPRESSED) {
		compressed_place(q, entry, &offset, &bytes);
		for (uint64_t c = cluster_of(q, offset); c <= cluster_of(q, offset + bytes - 1); c++)
			cluster_free_later(q, c << q->h.cluster_bits, 1, false);
	} else if (entry & ENTRY_OFFSET) {
		cluster_free_later(q, entry & ENTRY_OFFSET, 1, punch);
	}
}
