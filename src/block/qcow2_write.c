/* Writing to qcow2: in place where a cluster is the image's own, else to new clusters; zeros and discards. */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "block/iov.h"
#include "block/qcow2.h"

#define CHUNK_BYTES (4u << 20) /* what one allocation covers at most, but one cluster at least */

bool wait_allocations(struct qcow2 *q, uint64_t first, uint64_t count)
{
	bool waited = false;
	struct allocation *a = q->allocations;

	while (a) {
		if (a->first < first + count && first < a->first + a->count) {
			pthread_cond_wait(&q->changed, &q->lock);
			waited = true;
			a = q->allocations;
		} else {
			a = a->next;
		}
	}
	return waited;
}

static void end_allocation(struct qcow2 *q, struct allocation *a)
{
	struct allocation **at = &q->allocations;

	while (*at != a)
		at = &(*at)->next;
	*at = a->next;
	pthread_cond_broadcast(&q->changed);
}

/* ---- allocating writes ---- */

/* One write to new clusters, while it is under way. */
struct fresh {
	struct allocation allocation;
	uint64_t host;  /* the first cluster */
	bool kept;      /* the cluster was there already, under a zero flag */
	bool all_zero;  /* the clusters read as zeros before */
	bool untouched; /* the new place in the file does too */
};

static bool reads_as_zero(const struct qcow2 *q, const struct run *run)
{
	return run->kind == MAP_ZERO || run->kind == MAP_ZERO_KEPT || (run->kind == MAP_NONE && !q->im->backing);
}

/* How many clusters from the first on need a new place, within one L2 table. */
static int count_to_allocate(struct qcow2 *q, uint64_t offset, uint64_t want, uint64_t *count)
{
	uint32_t index = l2_index(q, offset);
	struct table *t;
	int r = l2_find(q, offset, true, &t);

	if (r < 0)
		return r;
	want = MIN(want, q->l2_entries - index);
	for (*count = 1; t && *count < want; (*count)++) {
		uint64_t entry = ld64be(t->data + (size_t)(index + *count) * 8);
		enum mapping kind;

		r = l2_entry_kind(q, entry, &kind);
		if (r < 0)
			return r;
		if ((kind == MAP_DATA || kind == MAP_ZERO_KEPT) && (entry & ENTRY_COPIED))
			break;
	}
	if (!t)
		*count = want;
	return 0;
}

/* Picks the place for the clusters and enters them as under way. */
static int begin_fresh(struct qcow2 *q, uint64_t offset, uint64_t len, const struct run *run, struct fresh *f)
{
	const uint64_t first = cluster_of(q, offset), virgin = q->virgin;
	uint64_t want = clusters_for(q, (offset & (q->cluster_size - 1)) + len), got = 1;
	int r;

	*f = (struct fresh){ .all_zero = reads_as_zero(q, run) };
	if (run->kind == MAP_ZERO_KEPT && run->copied) {
		f->host = run->host;
		f->kept = true;
		if (overlaps_metadata(q, f->host, q->cluster_size))
			return mark_corrupt(q);
	} else {
		want = MIN(want, MAX(CHUNK_BYTES >> q->h.cluster_bits, 1));
		r = count_to_allocate(q, offset, want, &want);
		if (r == 0)
			r = cluster_alloc_data(q, want, &f->host, &got);
		if (r < 0)
			return r;
		f->untouched = cluster_of(q, f->host) >= virgin && !q->file->device;
	}
	f->allocation = (struct allocation){ first, got, q->allocations };
	q->allocations = &f->allocation;
	return 0;
}

/* Reads what a cluster held before around a write: [offset, offset + len), perhaps past the disk's end. */
static int read_old(struct qcow2 *q, bool zero, uint64_t offset, uint8_t *buf, uint64_t len)
{
	const struct iovec iov = { buf, len };
	uint64_t there = zero || offset >= q->im->size ? 0 : MIN(len, q->im->size - offset);

	memset(buf + there, 0, len - there);
	return there ? qcow2_readv(q->im, offset, there, &iov, 1, 0) : 0;
}

/* Writes data and what surrounds it to the new clusters. Without the lock. */
static int write_fresh(struct qcow2 *q, const struct fresh *f, bool tail_zero, uint64_t offset, uint64_t len,
		       const struct iovec *iov, int n, uint64_t skip)
{
	const uint64_t mask = q->cluster_size - 1, head = offset & mask, tail = (q->cluster_size - ((offset + len) & mask)) & mask;
	g_autofree uint8_t *before = NULL, *after = NULL;
	g_autofree struct iovec *all = NULL;
	uint64_t got;
	int r, pieces;

	if (f->untouched && (f->all_zero || !head) && (tail_zero || !tail))
		return file_writev(q->file, f->host + head, iov, n, skip, len);
	before = g_try_malloc(MAX(head, 1));
	after = g_try_malloc(MAX(tail, 1));
	all = g_try_new(struct iovec, (gsize)n + 2);
	if (!before || !after || !all)
		return -ENOMEM;
	r = read_old(q, f->all_zero, offset - head, before, head);
	if (r == 0)
		r = read_old(q, tail_zero, offset + len, after, tail);
	if (r < 0)
		return r;
	all[0] = (struct iovec){ before, head };
	pieces = iov_slice(all + 1, n, iov, n, skip, len, &got);
	all[pieces + 1] = (struct iovec){ after, tail };
	return file_writev(q->file, f->host, all, pieces + 2, 0, head + len + tail);
}

/* Enters the new clusters in the L2 table. */
static int link_fresh(struct qcow2 *q, uint64_t offset, const struct fresh *f)
{
	const uint32_t index = l2_index(q, offset), count = (uint32_t)f->allocation.count;
	struct table *t;
	int r = l2_for_write(q, offset, &t);

	if (r < 0)
		return r;
	for (uint32_t i = 0; i < count; i++) {
		uint8_t *at = t->data + (size_t)(index + i) * 8;

		if (!f->kept)
			entry_free_later(q, ld64be(at), false);
		st64be(at, (f->host + ((uint64_t)i << q->h.cluster_bits)) | ENTRY_COPIED);
	}
	table_dirty(&q->l2, t, index * 8, (index + count) * 8);
	return 0;
}

/* Called with the lock, which it drops meanwhile. *done is how much was written. */
static int write_new(struct qcow2 *q, uint64_t offset, uint64_t len, const struct run *run, const struct iovec *iov, int n,
		     uint64_t skip, uint64_t *done)
{
	struct run last = *run;
	struct fresh f;
	uint64_t end;
	int r = begin_fresh(q, offset, len, run, &f);

	if (r < 0)
		return r;
	end = (f.allocation.first + f.allocation.count) << q->h.cluster_bits;
	len = MIN(len, end - offset);
	if (cluster_of(q, offset + len - 1) != cluster_of(q, offset))
		r = map_run(q, offset + len - 1, 1, true, &last);
	pthread_mutex_unlock(&q->lock);
	if (r == 0)
		r = write_fresh(q, &f, reads_as_zero(q, &last), offset, len, iov, n, skip);
	pthread_mutex_lock(&q->lock);
	if (r == 0 && q->corrupt)
		r = -EIO;
	if (r == 0)
		r = link_fresh(q, offset, &f);
	if (r < 0 && !f.kept)
		cluster_free_now(q, f.host, f.allocation.count);
	end_allocation(q, &f.allocation);
	*done = len;
	return r;
}

static int write_in_place(struct qcow2 *q, const struct run *run, const struct iovec *iov, int n, uint64_t skip)
{
	unsigned token;
	int r;

	if (overlaps_metadata(q, run->host, run->bytes))
		return mark_corrupt(q);
	token = io_begin(q);
	pthread_mutex_unlock(&q->lock);
	r = file_writev(q->file, run->host, iov, n, skip, run->bytes);
	pthread_mutex_lock(&q->lock);
	io_end(q, token);
	return r;
}

int qcow2_writev(struct image *im, uint64_t offset, uint64_t len, const struct iovec *iov, int n, uint64_t skip)
{
	struct qcow2 *q = im->state;
	int r = 0;

	pthread_mutex_lock(&q->lock);
	while (len && r == 0) {
		uint64_t done = 0;
		struct run run;

		r = q->corrupt ? -EIO : commit_if_full(q);
		if (r == 0)
			r = map_run(q, offset, len, true, &run);
		if (r < 0)
			break;
		if (run.kind == MAP_DATA && run.copied) {
			r = write_in_place(q, &run, iov, n, skip);
			done = run.bytes;
		} else if (!wait_allocations(q, cluster_of(q, offset), clusters_for(q, (offset & (q->cluster_size - 1)) + len))) {
			r = write_new(q, offset, len, &run, iov, n, skip, &done);
		}
		offset += done;
		skip += done;
		len -= done;
	}
	pthread_mutex_unlock(&q->lock);
	return r;
}

/* ---- zeros and discards ---- */

enum erase { ERASE_DISCARD, ERASE_ZERO, ERASE_ZERO_KEEP };

/* What an entry becomes; true when that is a change. */
static bool erased_entry(const struct qcow2 *q, enum erase how, uint64_t entry, enum mapping kind, uint64_t *out)
{
	bool below = q->im->backing != NULL, flag = q->h.version >= 3;

	switch (kind) {
	case MAP_NONE:
		*out = ENTRY_ZERO;
		return how != ERASE_DISCARD && below;
	case MAP_ZERO:
		return false;
	case MAP_ZERO_KEPT:
		*out = ENTRY_ZERO;
		return how != ERASE_ZERO_KEEP;
	case MAP_DATA:
		if (how == ERASE_ZERO_KEEP && flag && (entry & ENTRY_COPIED)) {
			*out = entry | ENTRY_ZERO;
			return true;
		}
		break;
	case MAP_COMPRESSED:
		break;
	}
	/* Without the flag the backing image would show again: a discard is let be then, and zeros never get here. */
	*out = flag && (below || how != ERASE_DISCARD) ? ENTRY_ZERO : 0;
	return flag || !below;
}

/* Erases clusters within one L2 table. */
static int erase_in_table(struct qcow2 *q, enum erase how, uint64_t offset, uint32_t count)
{
	const uint32_t index = l2_index(q, offset);
	struct table *t;
	bool writable = false;
	int r = l2_find(q, offset, true, &t);

	if (r < 0 || (!t && (how == ERASE_DISCARD || !q->im->backing)))
		return r;
	for (uint32_t i = 0; i < count; i++) {
		uint64_t entry = t ? ld64be(t->data + (size_t)(index + i) * 8) : 0, now;
		enum mapping kind;

		r = l2_entry_kind(q, entry, &kind);
		if (r < 0)
			return r;
		if (!erased_entry(q, how, entry, kind, &now))
			continue;
		if (!writable && (r = l2_for_write(q, offset, &t)) < 0)
			return r;
		writable = true;
		if ((now & ENTRY_OFFSET) == 0)
			entry_free_later(q, entry, true);
		st64be(t->data + (size_t)(index + i) * 8, now);
		table_dirty(&q->l2, t, (index + i) * 8, (index + i + 1) * 8);
	}
	return 0;
}

/* Whole clusters. */
static int erase_clusters(struct qcow2 *q, enum erase how, uint64_t first, uint64_t end)
{
	int r = 0;

	while (first < end && r == 0) {
		uint64_t offset = first << q->h.cluster_bits, count = MIN(end - first, q->l2_entries - l2_index(q, offset));

		/* Between tables others get a turn. */
		pthread_mutex_lock(&q->lock);
		r = q->corrupt ? -EIO : commit_if_full(q);
		if (r == 0 && !wait_allocations(q, first, count)) {
			r = erase_in_table(q, how, offset, (uint32_t)count);
			first += count;
		}
		pthread_mutex_unlock(&q->lock);
	}
	return r;
}

int qcow2_discard(struct image *im, uint64_t offset, uint64_t len)
{
	struct qcow2 *q = im->state;
	uint64_t first = clusters_for(q, offset), end = cluster_of(q, offset + len);

	/* The disk's last cluster may be a part only. */
	if (offset + len == im->size)
		end = clusters_for(q, im->size);
	return first < end ? erase_clusters(q, ERASE_DISCARD, first, end) : 0;
}

/* Zeros by writing them, unless they are there. */
static int write_zero_bytes(struct qcow2 *q, uint64_t offset, uint64_t len)
{
	g_autofree uint8_t *zeros = NULL;

	while (len) {
		uint64_t now;
		struct run run;
		int r;

		pthread_mutex_lock(&q->lock);
		r = map_run(q, offset, len, true, &run);
		pthread_mutex_unlock(&q->lock);
		if (r < 0)
			return r;
		now = run.bytes;
		if (!reads_as_zero(q, &run)) {
			struct iovec iov;

			now = MIN(now, MAX(q->cluster_size, 1u << 20));
			if (!zeros)
				zeros = g_malloc0(MAX(q->cluster_size, 1u << 20));
			iov = (struct iovec){ zeros, now };
			r = qcow2_writev(q->im, offset, now, &iov, 1, 0);
			if (r < 0)
				return r;
		}
		offset += now;
		len -= now;
	}
	return 0;
}

int qcow2_write_zeroes(struct image *im, uint64_t offset, uint64_t len, bool unmap)
{
	struct qcow2 *q = im->state;
	uint64_t first = clusters_for(q, offset), end = cluster_of(q, offset + len), head, from, to;
	int r;

	if (offset + len == im->size)
		end = clusters_for(q, im->size);
	if (first >= end || (q->h.version < 3 && im->backing))
		return write_zero_bytes(q, offset, len);
	from = first << q->h.cluster_bits;
	to = MIN(end << q->h.cluster_bits, im->size);
	head = from - offset;
	r = head ? write_zero_bytes(q, offset, head) : 0;
	if (r == 0)
		r = erase_clusters(q, unmap ? ERASE_ZERO : ERASE_ZERO_KEEP, first, end);
	if (r == 0 && to < offset + len)
		r = write_zero_bytes(q, to, offset + len - to);
	return r;
}
