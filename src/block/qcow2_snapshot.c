/* Internal snapshots of qcow2: the table in the file, and making, applying and deleting one. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "block/qcow2.h"

#define ENTRY_FIXED 40u
#define EXTRA_KNOWN 16u /* VM state size and disk size; what follows is kept as it is */
#define EXTRA_MAX 1024u

/* ---- the table ---- */

/* Decodes the entry at `in`; its length in the file, or 0 when it is damaged. */
static uint64_t snapshot_decode(const struct qcow2 *q, const uint8_t *in, uint64_t room, struct snapshot *s)
{
	uint32_t extra, id_len, name_len;
	uint64_t len;

	if (room < ENTRY_FIXED)
		return 0;
	*s = (struct snapshot){
		.l1_offset = ld64be(in), .l1_size = ld32be(in + 8), .date_sec = ld32be(in + 16), .date_nsec = ld32be(in + 20),
		.vm_clock = ld64be(in + 24), .vm_state_size = ld32be(in + 32), .disk_size = q->h.size,
	};
	id_len = ld16be(in + 12);
	name_len = ld16be(in + 14);
	extra = ld32be(in + 36);
	len = ENTRY_FIXED + (uint64_t)extra + id_len + name_len;
	if (extra > EXTRA_MAX || len > room)
		return 0;
	if (extra >= 8)
		s->vm_state_size = ld64be(in + ENTRY_FIXED);
	if (extra >= 16)
		s->disk_size = ld64be(in + ENTRY_FIXED + 8);
	if (extra > EXTRA_KNOWN) {
		s->extra_len = extra - EXTRA_KNOWN;
		s->extra = g_memdup2(in + ENTRY_FIXED + EXTRA_KNOWN, s->extra_len);
	}
	s->id = g_strndup((const char *)in + ENTRY_FIXED + extra, id_len);
	s->name = g_strndup((const char *)in + ENTRY_FIXED + extra + id_len, name_len);
	return (len + 7) & ~UINT64_C(7);
}

static bool snapshot_valid(const struct qcow2 *q, const struct snapshot *s)
{
	return s->l1_size <= L1_MAX_BYTES / 8 && cluster_aligned(q, s->l1_offset) && (s->l1_offset || !s->l1_size) &&
	       s->disk_size <= IMAGE_MAX_SIZE && cluster_of(q, s->l1_offset) <= q->virgin;
}

void snapshots_free(struct qcow2 *q)
{
	for (uint32_t i = 0; q->snapshot && i < q->h.snapshots; i++) {
		g_free(q->snapshot[i].id);
		g_free(q->snapshot[i].name);
		g_free(q->snapshot[i].extra);
	}
	g_free(q->snapshot);
	q->snapshot = NULL;
}

bool snapshots_read(struct qcow2 *q, GError **error)
{
	const char *path = q->file->path;
	int64_t size = q->file->ops->size(q->file);
	uint64_t room = size > 0 && (uint64_t)size > q->h.snapshots_offset ? (uint64_t)size - q->h.snapshots_offset : 0, at = 0;
	g_autofree uint8_t *bytes = NULL;
	int r;

	if (!q->h.snapshots)
		return true;
	room = MIN(room, SNAPSHOT_MAX_BYTES);
	room = MIN(room, (uint64_t)q->h.snapshots * (ENTRY_FIXED + EXTRA_MAX + 2 * 65536));
	bytes = g_try_malloc(MAX(room, 1));
	r = bytes ? file_read(q->file, q->h.snapshots_offset, bytes, room) : -ENOMEM;
	if (r < 0)
		return blk_fail(error, "%s: reading the snapshot table: %s", path, g_strerror(-r));
	q->snapshot = g_new0(struct snapshot, q->h.snapshots);
	for (uint32_t i = 0; i < q->h.snapshots; i++) {
		uint64_t len = snapshot_decode(q, bytes + at, room - at, &q->snapshot[i]);

		if (!len || !snapshot_valid(q, &q->snapshot[i]))
			return blk_fail(error, "%s: entry %u of the snapshot table is damaged", path, i);
		/* The last entry's padding may lie past the end of the file. */
		at = MIN(at + len, room);
	}
	q->snapshots_bytes = at;
	return true;
}

static void snapshot_encode(GByteArray *out, const struct snapshot *s)
{
	static const uint8_t zeros[8];
	uint8_t fixed[ENTRY_FIXED + EXTRA_KNOWN] = { 0 };

	st64be(fixed, s->l1_offset);
	st32be(fixed + 8, s->l1_size);
	st16be(fixed + 12, (uint16_t)strlen(s->id));
	st16be(fixed + 14, (uint16_t)strlen(s->name));
	st32be(fixed + 16, s->date_sec);
	st32be(fixed + 20, s->date_nsec);
	st64be(fixed + 24, s->vm_clock);
	st32be(fixed + 32, s->vm_state_size > UINT32_MAX ? 0 : (uint32_t)s->vm_state_size);
	st32be(fixed + 36, EXTRA_KNOWN + s->extra_len);
	st64be(fixed + 40, s->vm_state_size);
	st64be(fixed + 48, s->disk_size);
	g_byte_array_append(out, fixed, sizeof(fixed));
	g_byte_array_append(out, s->extra, s->extra_len);
	g_byte_array_append(out, (const uint8_t *)s->id, (guint)strlen(s->id));
	g_byte_array_append(out, (const uint8_t *)s->name, (guint)strlen(s->name));
	g_byte_array_append(out, zeros, (8 - out->len % 8) % 8);
}

/* Everything in memory is in the file; the header follows with `change`, in one sector, and is stable afterwards. */
static int switch_header(struct qcow2 *q, const struct header *now)
{
	struct header before = q->h;
	int r = q->file->ops->sync(q->file);

	if (r < 0)
		return r;
	q->h = *now;
	r = header_switch(q);
	if (r < 0)
		q->h = before;
	return r;
}

/* Writes a table to a new place and makes it the image's. `list` and its strings are the image's from then on. */
static int snapshots_write(struct qcow2 *q, struct header now, struct snapshot *list, uint32_t count)
{
	g_autoptr(GByteArray) bytes = g_byte_array_new();
	uint64_t old_offset = q->h.snapshots_offset, old_bytes = q->snapshots_bytes, place = 0;
	int r = 0;

	for (uint32_t i = 0; i < count; i++)
		snapshot_encode(bytes, &list[i]);
	if (bytes->len > SNAPSHOT_MAX_BYTES)
		return -EFBIG;
	if (count) {
		r = cluster_alloc_run(q, clusters_for(q, bytes->len), &place);
		if (r == 0)
			r = file_write(q->file, place, bytes->data, bytes->len);
	}
	if (r == 0) {
		/* The new table's refcounts have to be there before the header says so. */
		pthread_mutex_unlock(&q->lock);
		r = qcow2_commit(q);
		pthread_mutex_lock(&q->lock);
	}
	if (r < 0)
		return r;
	now.snapshots = count;
	now.snapshots_offset = place;
	now.incompatible = q->h.incompatible;
	now.reftable_offset = q->h.reftable_offset;
	now.reftable_clusters = q->h.reftable_clusters;
	r = switch_header(q, &now);
	if (r < 0)
		return r;
	q->snapshots_bytes = bytes->len;
	q->snapshot = list;
	if (old_bytes)
		cluster_free_later(q, old_offset, clusters_for(q, old_bytes), false);
	return 0;
}

/* ---- references ---- */

static int entry_add(struct qcow2 *q, uint64_t entry, int delta)
{
	enum mapping kind;
	uint64_t offset, bytes;
	int r = l2_entry_kind(q, entry, &kind);

	if (r < 0 || kind == MAP_NONE || kind == MAP_ZERO)
		return r;
	if (delta < 0) {
		entry_free_later(q, entry, false);
		return 0;
	}
	if (kind != MAP_COMPRESSED)
		return refcount_add(q, cluster_of(q, entry & ENTRY_OFFSET), 1, delta);
	compressed_place(q, entry, &offset, &bytes);
	return refcount_add(q, cluster_of(q, offset), cluster_of(q, offset + bytes - 1) - cluster_of(q, offset) + 1, delta);
}

/* Adds to or takes from the refcounts of an L1 table's L2 tables and of all that they refer to. */
static int references_add(struct qcow2 *q, const uint64_t *l1, uint32_t count, int delta)
{
	int r = 0;

	for (uint32_t i = 0; i < count && r == 0; i++) {
		uint64_t place = l1[i] & ENTRY_OFFSET;
		struct table *t;

		if (!place)
			continue;
		if (!cluster_aligned(q, place) || cluster_of(q, place) >= q->virgin)
			return mark_corrupt(q);
		r = commit_if_full(q);
		if (r == 0)
			r = cache_get(q, &q->l2, place, &t);
		for (uint32_t e = 0; r == 0 && e < q->l2_entries; e++)
			r = entry_add(q, ld64be(t->data + (size_t)e * 8), delta);
		if (r == 0 && delta < 0)
			cluster_free_later(q, place, 1, false);
		else if (r == 0)
			r = refcount_add(q, cluster_of(q, place), 1, delta);
	}
	return r;
}

static uint64_t with_copied(uint64_t entry, uint64_t refcount)
{
	return refcount == 1 ? entry | ENTRY_COPIED : entry & ~ENTRY_COPIED;
}

/* Makes the "only reference" flags of the active tables agree with the refcounts. */
static int copied_update(struct qcow2 *q)
{
	int r = 0;

	for (uint32_t i = 0; i < q->l1.count && r == 0; i++) {
		uint64_t place = q->l1.entry[i] & ENTRY_OFFSET, refs;
		struct table *t;

		if (!place)
			continue;
		r = commit_if_full(q);
		if (r == 0)
			r = cache_get(q, &q->l2, place, &t);
		for (uint32_t e = 0; r == 0 && e < q->l2_entries; e++) {
			uint64_t entry = ld64be(t->data + (size_t)e * 8), now;

			if ((entry & ENTRY_COMPRESSED) || !(entry & ENTRY_OFFSET))
				continue;
			r = refcount_get(q, cluster_of(q, entry & ENTRY_OFFSET), &refs);
			now = with_copied(entry, refs);
			if (r == 0 && now != entry) {
				st64be(t->data + (size_t)e * 8, now);
				table_dirty(&q->l2, t, e * 8, e * 8 + 8);
			}
		}
		if (r == 0)
			r = refcount_get(q, cluster_of(q, place), &refs);
		if (r == 0 && with_copied(q->l1.entry[i], refs) != q->l1.entry[i])
			whole_table_set(&q->l1, i, with_copied(q->l1.entry[i], refs));
	}
	return r;
}

/* ---- operations ---- */

static int find(const struct qcow2 *q, const char *name)
{
	for (uint32_t i = 0; i < q->h.snapshots; i++) {
		if (!strcmp(q->snapshot[i].name, name) || !strcmp(q->snapshot[i].id, name))
			return (int)i;
	}
	return -1;
}

static int commit_unlocked(struct qcow2 *q)
{
	int r;

	pthread_mutex_unlock(&q->lock);
	r = qcow2_commit(q);
	if (r == 0)
		r = qcow2_commit(q);
	pthread_mutex_lock(&q->lock);
	return r;
}

/* While flags and refcounts disagree the image is marked dirty, so that a power cut leads to a repair. */
static int begin(struct qcow2 *q)
{
	int r = commit_unlocked(q);

	if (r == 0)
		r = header_set_incompatible(q, INCOMPAT_DIRTY, 0);
	q->unsettled |= r == 0;
	return r;
}

static int end(struct qcow2 *q)
{
	int r = copied_update(q);

	if (r == 0)
		r = commit_unlocked(q);
	/* Clusters that were freed change flags once more. */
	if (r == 0)
		r = copied_update(q);
	if (r == 0)
		r = commit_unlocked(q);
	if (r == 0)
		q->unsettled = false;
	return r < 0 || q->lazy ? r : header_set_incompatible(q, 0, INCOMPAT_DIRTY);
}

static int write_l1(struct qcow2 *q, uint64_t offset, const uint64_t *l1, uint32_t count)
{
	g_autofree uint64_t *out = g_new(uint64_t, MAX(count, 1));

	for (uint32_t i = 0; i < count; i++)
		st64be(&out[i], l1[i]);
	return file_write(q->file, offset, out, (uint64_t)count * 8);
}

static char *free_id(const struct qcow2 *q)
{
	unsigned long most = 0;

	for (uint32_t i = 0; i < q->h.snapshots; i++)
		most = MAX(most, strtoul(q->snapshot[i].id, NULL, 10));
	return g_strdup_printf("%lu", most + 1);
}

/* The header goes over to a list with one entry more. The entry's strings are the image's then, or freed. */
static int append(struct qcow2 *q, struct snapshot s)
{
	struct snapshot *old = q->snapshot, *list = g_new0(struct snapshot, q->h.snapshots + 1);
	int r;

	if (q->h.snapshots)
		memcpy(list, old, q->h.snapshots * sizeof(*list));
	list[q->h.snapshots] = s;
	r = snapshots_write(q, q->h, list, q->h.snapshots + 1);
	if (r == 0) {
		g_free(old);
		return 0;
	}
	g_free(s.id);
	g_free(s.name);
	g_free(list);
	return r;
}

static int create(struct qcow2 *q, const char *name)
{
	struct snapshot s = { .l1_size = q->l1.count, .disk_size = q->h.size };
	g_autofree uint64_t *l1 = g_memdup2(q->l1.entry, MAX((gsize)q->l1.count * 8, 8));
	struct timespec now;
	int r = begin(q);

	if (r == 0)
		r = references_add(q, q->l1.entry, q->l1.count, 1);
	if (r == 0)
		r = copied_update(q);
	if (r == 0)
		r = cluster_alloc_run(q, MAX(clusters_for(q, (uint64_t)s.l1_size * 8), 1), &s.l1_offset);
	/* The copy refers to the same tables, none of which is its own. */
	for (uint32_t i = 0; r == 0 && i < s.l1_size; i++)
		l1[i] &= ~ENTRY_COPIED;
	if (r == 0)
		r = write_l1(q, s.l1_offset, l1, s.l1_size);
	if (r < 0)
		return r;
	clock_gettime(CLOCK_REALTIME, &now);
	s.date_sec = (uint32_t)now.tv_sec;
	s.date_nsec = (uint32_t)now.tv_nsec;
	s.id = free_id(q);
	s.name = g_strdup(name);
	r = append(q, s);
	return r < 0 ? r : end(q);
}

static int read_snapshot_l1(struct qcow2 *q, const struct snapshot *s, uint64_t **l1)
{
	int r;

	*l1 = g_try_malloc0(MAX((gsize)s->l1_size * 8, 8));
	if (!*l1)
		return -ENOMEM;
	r = file_read(q->file, s->l1_offset, *l1, (uint64_t)s->l1_size * 8);
	for (uint32_t i = 0; r == 0 && i < s->l1_size; i++)
		(*l1)[i] = ld64be(&(*l1)[i]);
	return r;
}

static int delete(struct qcow2 *q, uint32_t index)
{
	struct snapshot gone = q->snapshot[index], *list = g_new0(struct snapshot, MAX(q->h.snapshots, 1)), *old = q->snapshot;
	g_autofree uint64_t *l1 = NULL;
	uint32_t count = 0;
	int r = read_snapshot_l1(q, &gone, &l1);

	if (r == 0)
		r = begin(q);
	for (uint32_t i = 0; i < q->h.snapshots; i++) {
		if (i != index)
			list[count++] = old[i];
	}
	if (r == 0)
		r = snapshots_write(q, q->h, list, count);
	if (r < 0) {
		g_free(list);
		return r;
	}
	g_free(old);
	g_free(gone.id);
	g_free(gone.name);
	g_free(gone.extra);
	r = references_add(q, l1, gone.l1_size, -1);
	if (r == 0 && gone.l1_offset)
		cluster_free_later(q, gone.l1_offset, MAX(clusters_for(q, (uint64_t)gone.l1_size * 8), 1), false);
	if (r == 0)
		r = commit_unlocked(q);
	return r < 0 ? r : end(q);
}

/* The snapshot's tables become the active ones too; what was active loses its references. */
static int apply(struct qcow2 *q, const struct snapshot *s)
{
	const uint32_t count = MAX(q->l1.count, s->l1_size);
	struct whole_table old = q->l1, now = { .count = count };
	g_autofree uint64_t *l1 = NULL;
	struct header h;
	int r = read_snapshot_l1(q, s, &l1);

	if (r == 0)
		r = begin(q);
	if (r == 0)
		r = references_add(q, l1, s->l1_size, 1);
	if (r == 0)
		r = cluster_alloc_run(q, MAX(clusters_for(q, (uint64_t)count * 8), 1), &now.offset);
	if (r < 0)
		return r;
	now.entry = g_new0(uint64_t, MAX(count, 1));
	for (uint32_t i = 0; i < s->l1_size; i++)
		now.entry[i] = l1[i] & ~ENTRY_COPIED;
	r = write_l1(q, now.offset, now.entry, count);
	if (r == 0)
		r = commit_unlocked(q);
	h = q->h;
	h.l1_offset = now.offset;
	h.l1_size = count;
	h.size = s->disk_size;
	if (r == 0)
		r = switch_header(q, &h);
	if (r < 0) {
		g_free(now.entry);
		return r;
	}
	q->l1 = now;
	q->im->size = (h.size + SECTOR - 1) & ~(uint64_t)(SECTOR - 1);
	r = references_add(q, old.entry, old.count, -1);
	if (r == 0 && old.offset)
		cluster_free_later(q, old.offset, clusters_for(q, (uint64_t)old.count * 8), false);
	g_free(old.entry);
	if (r == 0)
		r = commit_unlocked(q);
	return r < 0 ? r : end(q);
}

/* What an operation that failed had begun is undone by a repair: now, before the next one, or when the image is opened next. */
static int repair(struct qcow2 *q)
{
	struct qcow2_check_result result;
	int r = q->unsettled ? qcow2_check(q->im, true, true, NULL, &result) : 0;

	return r == 0 && q->unsettled ? -EIO : r;
}

static bool say(struct qcow2 *q, int r, const char *what, const char *name, GError **error)
{
	if (r < 0)
		repair(q);
	if (r == -E2BIG)
		return blk_fail(error, "%s: %s the snapshot %s: the image's refcounts of %u bits cannot count one more reference; "
				"convert it to one with refcounts of 16 bits", q->file->path, what, name, 1u << q->h.refcount_order);
	return r == 0 || blk_fail(error, "%s: %s the snapshot %s: %s", q->file->path, what, name, g_strerror(-r));
}

bool qcow2_snapshot_create(struct image *im, const char *name, GError **error)
{
	struct qcow2 *q = im->state;
	int r;

	if (!*name || strlen(name) > 255)
		return blk_fail(error, "a snapshot's name has 1 to 255 characters");
	if (find(q, name) >= 0)
		return blk_fail(error, "%s: has a snapshot %s already", q->file->path, name);
	if (q->h.snapshots == MAX_SNAPSHOTS)
		return blk_fail(error, "%s: has %u snapshots, which is the limit", q->file->path, MAX_SNAPSHOTS);
	r = repair(q);
	pthread_mutex_lock(&q->lock);
	if (r == 0)
		r = create(q, name);
	pthread_mutex_unlock(&q->lock);
	return say(q, r, "making", name, error);
}

static bool find_or_fail(struct qcow2 *q, const char *name, int *index, GError **error)
{
	*index = find(q, name);
	return *index >= 0 || blk_fail(error, "%s: has no snapshot %s; `guise image snapshot list %s` names them", q->file->path, name,
				       q->file->path);
}

bool qcow2_snapshot_apply(struct image *im, const char *name, GError **error)
{
	struct qcow2 *q = im->state;
	int index, r;

	if (!find_or_fail(q, name, &index, error))
		return false;
	r = repair(q);
	pthread_mutex_lock(&q->lock);
	if (r == 0)
		r = apply(q, &q->snapshot[index]);
	pthread_mutex_unlock(&q->lock);
	return say(q, r, "going back to", name, error);
}

bool qcow2_snapshot_delete(struct image *im, const char *name, GError **error)
{
	struct qcow2 *q = im->state;
	int index, r;

	if (!find_or_fail(q, name, &index, error))
		return false;
	r = repair(q);
	pthread_mutex_lock(&q->lock);
	if (r == 0)
		r = delete(q, (uint32_t)index);
	pthread_mutex_unlock(&q->lock);
	return say(q, r, "deleting", name, error);
}
