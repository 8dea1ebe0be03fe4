/* qcow2's two-level tables: where a guest range lies, and reading it. */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "block/iov.h"
#include "block/qcow2.h"

/* Seeking a run reads the whole table at most, so it waits until that costs each look-up next to nothing. */
#define SEEK_AFTER 256u

uint32_t l2_index(const struct qcow2 *q, uint64_t offset)
{
	return (uint32_t)(offset >> q->h.cluster_bits) & (q->l2_entries - 1);
}

/* A table's place must be a cluster of the file: the file was that long before anything referred to it. */
static bool table_place_valid(const struct qcow2 *q, uint64_t offset)
{
	return cluster_aligned(q, offset) && offset && cluster_of(q, offset) < q->virgin;
}

int l2_find(struct qcow2 *q, uint64_t offset, bool load, struct table **t)
{
	uint64_t entry = q->l1.entry[l1_index(q, offset)];

	*t = NULL;
	if (!(entry & ENTRY_OFFSET) && !(entry & L1_RESERVED))
		return 0;
	if ((entry & L1_RESERVED) || !table_place_valid(q, entry & ENTRY_OFFSET))
		return mark_corrupt(q);
	if (load)
		return cache_get(q, &q->l2, entry & ENTRY_OFFSET, t);
	*t = cache_peek(&q->l2, entry & ENTRY_OFFSET);
	return *t ? 0 : -EAGAIN;
}

int l2_entry_kind(struct qcow2 *q, uint64_t entry, enum mapping *kind)
{
	uint64_t place = entry & ENTRY_OFFSET;

	if (entry & ENTRY_COMPRESSED) {
		*kind = MAP_COMPRESSED;
		return 0;
	}
	if ((entry & L2_RESERVED) || !cluster_aligned(q, place) || ((entry & ENTRY_ZERO) && q->h.version < 3))
		return mark_corrupt(q);
	if (entry & ENTRY_ZERO)
		*kind = place ? MAP_ZERO_KEPT : MAP_ZERO;
	else
		*kind = place ? MAP_DATA : MAP_NONE;
	return 0;
}

/* Counts the clusters after the first that go on the same way. */
static int extend_run(struct qcow2 *q, const struct table *t, uint32_t index, uint64_t wanted, struct run *run)
{
	uint64_t have = run->bytes;

	for (uint32_t i = index + 1; i < q->l2_entries && have < wanted; i++) {
		uint64_t entry = ld64be(t->data + (size_t)i * 8);
		enum mapping kind;
		int r = l2_entry_kind(q, entry, &kind);

		if (r < 0)
			return r;
		if (kind != run->kind)
			break;
		if (kind == MAP_DATA && ((entry & ENTRY_OFFSET) != run->host + have || !(entry & ENTRY_COPIED) != !run->copied))
			break;
		have += q->cluster_size;
	}
	run->bytes = MIN(have, wanted);
	return 0;
}

/* Whether entry i is `expected`, and that a data cluster: the same flags as a data cluster's, and a place. */
static bool goes_on(const struct table *t, uint32_t i, uint64_t expected, uint64_t entry)
{
	return (expected & ENTRY_OFFSET) && !((expected ^ entry) & ~ENTRY_OFFSET) && ld64be(t->data + (size_t)i * 8) == expected;
}

/* Finds the run that a data cluster is part of. */
static void seek_run(const struct qcow2 *q, struct table *t, uint32_t index)
{
	const uint64_t entry = ld64be(t->data + (size_t)index * 8);
	uint32_t from = index, to = index + 1;

	while (from && goes_on(t, from - 1, entry - ((uint64_t)(index - from + 1) << q->h.cluster_bits), entry))
		from--;
	while (to < q->l2_entries && goes_on(t, to, entry + ((uint64_t)(to - index) << q->h.cluster_bits), entry))
		to++;
	if (to - from <= t->run_to - t->run_from)
		return;
	t->run_from = from;
	t->run_to = to;
	t->run_entry = entry - ((uint64_t)(index - from) << q->h.cluster_bits);
}

/* Takes a run of data from what is known of the table. */
static bool known_run(const struct qcow2 *q, const struct table *t, uint32_t index, uint64_t within, uint64_t len, struct run *run)
{
	if (index < t->run_from || index >= t->run_to || within + len > (uint64_t)(t->run_to - index) << q->h.cluster_bits)
		return false;
	run->kind = MAP_DATA;
	run->entry = t->run_entry + ((uint64_t)(index - t->run_from) << q->h.cluster_bits);
	run->host = (run->entry & ENTRY_OFFSET) + within;
	run->bytes = len;
	run->copied = run->entry & ENTRY_COPIED;
	return true;
}

int map_run(struct qcow2 *q, uint64_t offset, uint64_t len, bool load, struct run *run)
{
	const uint64_t within = offset & (q->cluster_size - 1), table_span = (uint64_t)q->cluster_size << q->l2_bits;
	const uint32_t index = l2_index(q, offset);
	struct table *t;
	int r = l2_find(q, offset, load, &t);

	if (r < 0)
		return r;
	if (t && known_run(q, t, index, within, len, run))
		return 0;
	*run = (struct run){ .kind = MAP_NONE, .bytes = MIN(len, table_span - (offset & (table_span - 1))) };
	if (!t)
		return 0;
	run->entry = ld64be(t->data + (size_t)index * 8);
	r = l2_entry_kind(q, run->entry, &run->kind);
	if (r < 0)
		return r;
	run->copied = run->entry & ENTRY_COPIED;
	run->bytes = MIN(len, q->cluster_size - within);
	if (run->kind == MAP_COMPRESSED)
		return 0;
	run->host = run->entry & ENTRY_OFFSET;
	if (run->kind == MAP_ZERO_KEPT)
		return 0;
	if (run->kind == MAP_DATA && ++t->outside == SEEK_AFTER) {
		t->outside = 0;
		seek_run(q, t, index);
	}
	/* The run is counted from the cluster's start, then cut. */
	run->bytes = q->cluster_size;
	r = extend_run(q, t, index, within + len, run);
	run->bytes -= within;
	run->bytes = MIN(run->bytes, len);
	run->host += run->kind == MAP_DATA ? within : 0;
	return r;
}

static int read_run(struct qcow2 *q, const struct run *run, uint64_t offset, const struct iovec *iov, int n, uint64_t skip)
{
	uint64_t got;
	int r;

	switch (run->kind) {
	case MAP_NONE:
		return image_read_backing(q->im->backing, offset, run->bytes, iov, n, skip);
	case MAP_DATA:
		r = file_readv(q->file, run->host, iov, n, skip, run->bytes, &got);
		if (r == 0 && got < run->bytes)
			iov_zero(iov, n, skip + got, run->bytes - got);
		return r;
	case MAP_COMPRESSED:
		return compressed_read(q, run->entry, (uint32_t)(offset & (q->cluster_size - 1)), (uint32_t)run->bytes, iov, n, skip);
	case MAP_ZERO:
	case MAP_ZERO_KEPT:
		iov_zero(iov, n, skip, run->bytes);
		return 0;
	}
	return -EIO;
}

int qcow2_readv(struct image *im, uint64_t offset, uint64_t len, const struct iovec *iov, int n, uint64_t skip)
{
	struct qcow2 *q = im->state;

	while (len) {
		unsigned token;
		struct run run;
		int r;

		pthread_mutex_lock(&q->lock);
		r = map_run(q, offset, len, true, &run);
		token = r == 0 ? io_begin(q) : 0;
		pthread_mutex_unlock(&q->lock);
		if (r < 0)
			return r;
		r = read_run(q, &run, offset, iov, n, skip);
		pthread_mutex_lock(&q->lock);
		io_end(q, token);
		pthread_mutex_unlock(&q->lock);
		if (r < 0)
			return r;
		offset += run.bytes;
		skip += run.bytes;
		len -= run.bytes;
	}
	return 0;
}

bool qcow2_map(struct image *im, uint64_t offset, uint64_t len, bool write, struct map *m)
{
	struct qcow2 *q = im->state;
	struct run run;
	bool direct;

	if (q->file->fd < 0 || pthread_mutex_trylock(&q->lock))
		return false;
	direct = !(write && q->corrupt) && map_run(q, offset, len, false, &run) == 0 && run.kind == MAP_DATA && run.bytes == len;
	if (direct && write)
		direct = run.copied && !overlaps_metadata(q, run.host, len);
	if (direct)
		*m = (struct map){ .file = q->file, .offset = run.host, .token = io_begin(q), .owner = im };
	pthread_mutex_unlock(&q->lock);
	return direct;
}

void qcow2_map_end(struct image *im, const struct map *m)
{
	struct qcow2 *q = im->state;

	pthread_mutex_lock(&q->lock);
	io_end(q, m->token);
	pthread_mutex_unlock(&q->lock);
}

int64_t qcow2_status(struct image *im, uint64_t offset, uint64_t len, enum alloc *alloc)
{
	struct qcow2 *q = im->state;
	struct run run;
	int r;

	pthread_mutex_lock(&q->lock);
	r = map_run(q, offset, len, true, &run);
	pthread_mutex_unlock(&q->lock);
	if (r < 0)
		return r;
	switch (run.kind) {
	case MAP_NONE: *alloc = im->backing || q->backing_name ? ALLOC_BACKING : ALLOC_ZERO; break;
	case MAP_DATA:
	case MAP_COMPRESSED: *alloc = ALLOC_DATA; break;
	default: *alloc = ALLOC_ZERO; break;
	}
	return (int64_t)run.bytes;
}

/* ---- for writing ---- */

/* Copies a table that snapshots share, so that the new one may be changed. */
static int l2_copy(struct qcow2 *q, uint64_t old, uint64_t place, struct table **t)
{
	g_autofree uint8_t *data = NULL;
	struct table *from;
	int r = cache_get(q, &q->l2, old, &from);

	if (r < 0)
		return r;
	data = g_memdup2(from->data, q->cluster_size);
	*t = cache_new(q, &q->l2, place);
	memcpy((*t)->data, data, q->cluster_size);
	cluster_free_later(q, old, 1, false);
	return 0;
}

int l2_for_write(struct qcow2 *q, uint64_t offset, struct table **t)
{
	const uint64_t index = l1_index(q, offset), entry = q->l1.entry[index];
	uint64_t place, got;
	int r = l2_find(q, offset, true, t);

	if (r < 0)
		return r;
	if (*t && (entry & ENTRY_COPIED))
		return overlaps_tables(q, entry & ENTRY_OFFSET, q->cluster_size) ? mark_corrupt(q) : 0;
	r = cluster_alloc(q, 1, &place, &got);
	if (r < 0)
		return r;
	if (*t)
		r = l2_copy(q, entry & ENTRY_OFFSET, place, t);
	else
		*t = cache_new(q, &q->l2, place);
	if (r < 0) {
		cluster_free_now(q, place, 1);
		return r;
	}
	whole_table_set(&q->l1, (uint32_t)index, place | ENTRY_COPIED);
	return 0;
}
