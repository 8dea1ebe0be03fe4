/* Port and MMIO dispatch: regions in mapping order, looked up through a sorted flat view. */
#include "bus/space.h"

#include <glib.h>
#include <string.h>

#include "base/bytes.h"

struct region {
	struct space *space;
	const char *name;
	const struct region_ops *ops;
	void *opaque;
	uint64_t base, size;
	uint64_t order; /* of mapping: the newest wins */
	bool mapped;
};

/* A piece of the flat view: no two overlap. */
struct piece {
	uint64_t start, end; /* end is inclusive */
	struct region *region;
};

struct space {
	char *name;
	uint64_t limit;
	GPtrArray *regions;
	GArray *view; /* struct piece, sorted */
	bool stale;
	uint64_t next_order;
};

struct space *space_create(const char *name, uint64_t limit)
{
	struct space *s = g_new0(struct space, 1);

	s->name = g_strdup(name);
	s->limit = limit;
	s->regions = g_ptr_array_new();
	s->view = g_array_new(FALSE, FALSE, sizeof(struct piece));
	return s;
}

void space_destroy(struct space *s)
{
	if (!s)
		return;
	for (guint i = 0; i < s->regions->len; i++)
		g_free(g_ptr_array_index(s->regions, i));
	g_ptr_array_unref(s->regions);
	g_array_unref(s->view);
	g_free(s->name);
	g_free(s);
}

static gint by_order(gconstpointer a, gconstpointer b)
{
	const struct region *x = *(struct region *const *)a, *y = *(struct region *const *)b;

	return x->order < y->order ? -1 : x->order > y->order;
}

/* Lays one region over the view: what it covers is cut out of older pieces. */
static void view_lay(struct space *s, GArray *from, GArray *to, struct region *r)
{
	uint64_t start = r->base, end = r->base + r->size - 1;
	struct piece mine = { start, end < s->limit ? end : s->limit, r };
	bool placed = false;

	for (guint i = 0; i < from->len; i++) {
		struct piece p = g_array_index(from, struct piece, i);

		if (p.end < mine.start) {
			g_array_append_val(to, p);
			continue;
		}
		if (p.start < mine.start) {
			struct piece left = { p.start, mine.start - 1, p.region };
			g_array_append_val(to, left);
		}
		if (!placed) {
			g_array_append_val(to, mine);
			placed = true;
		}
		if (p.end > mine.end) {
			struct piece right = { p.start > mine.end ? p.start : mine.end + 1, p.end, p.region };
			g_array_append_val(to, right);
		}
	}
	if (!placed)
		g_array_append_val(to, mine);
}

static void view_build(struct space *s)
{
	g_ptr_array_sort(s->regions, by_order);
	g_array_set_size(s->view, 0);
	for (guint i = 0; i < s->regions->len; i++) {
		struct region *r = g_ptr_array_index(s->regions, i);
		GArray *next;

		if (!r->mapped || r->base > s->limit)
			continue;
		next = g_array_new(FALSE, FALSE, sizeof(struct piece));
		view_lay(s, s->view, next, r);
		g_array_unref(s->view);
		s->view = next;
	}
	s->stale = false;
}

static const struct piece *view_find(struct space *s, uint64_t addr)
{
	guint low = 0, high;

	if (s->stale)
		view_build(s);
	high = s->view->len;
	while (low < high) {
		guint mid = (low + high) / 2;
		const struct piece *p = &g_array_index(s->view, struct piece, mid);

		if (addr < p->start)
			high = mid;
		else if (addr > p->end)
			low = mid + 1;
		else
			return p;
	}
	return NULL;
}

struct region *space_add_unmapped(struct space *s, const char *name, uint64_t size, const struct region_ops *ops,
				  void *opaque)
{
	struct region *r = g_new0(struct region, 1);

	r->space = s;
	r->name = name;
	r->ops = ops;
	r->opaque = opaque;
	r->size = size;
	r->order = s->next_order++;
	g_ptr_array_add(s->regions, r);
	return r;
}

struct region *space_add(struct space *s, const char *name, uint64_t base, uint64_t size,
			 const struct region_ops *ops, void *opaque)
{
	struct region *r = space_add_unmapped(s, name, size, ops, opaque);

	region_map(r, base);
	return r;
}

void region_map(struct region *r, uint64_t base)
{
	r->base = base;
	r->mapped = true;
	r->order = r->space->next_order++;
	r->space->stale = true;
}

void region_unmap(struct region *r)
{
	if (r->mapped)
		r->space->stale = true;
	r->mapped = false;
}

void region_destroy(struct region *r)
{
	if (!r)
		return;
	r->space->stale = true;
	g_ptr_array_remove(r->space->regions, r);
	g_free(r);
}

bool region_mapped(const struct region *r)
{
	return r->mapped;
}

uint64_t region_base(const struct region *r)
{
	return r->base;
}

/* The widest single access from addr within the region and what the device takes. */
static unsigned step_len(const struct region *r, uint64_t offset, unsigned left)
{
	unsigned max = r->ops->max_len ? r->ops->max_len : 8;
	unsigned len = left < max ? left : max;

	while (len & (len - 1))
		len &= len - 1;
	while (len > 1 && offset + len > r->size)
		len /= 2;
	return len;
}

static uint64_t region_read(const struct region *r, uint64_t offset, unsigned len)
{
	unsigned min = r->ops->min_len ? r->ops->min_len : 1;
	uint64_t aligned = offset & ~(uint64_t)(min - 1);

	if (len >= min || aligned + min > r->size)
		return r->ops->read(r->opaque, offset, len);
	return (r->ops->read(r->opaque, aligned, min) >> (8 * (offset - aligned))) & mask_bytes(len);
}

static void region_write(const struct region *r, uint64_t offset, unsigned len, uint64_t value)
{
	unsigned min = r->ops->min_len ? r->ops->min_len : 1;
	uint64_t aligned = offset & ~(uint64_t)(min - 1);
	unsigned shift;
	uint64_t old;

	if (len >= min || aligned + min > r->size) {
		r->ops->write(r->opaque, offset, len, value);
		return;
	}
	/* A narrow write to a wide register changes only its own bytes. */
	shift = 8 * (unsigned)(offset - aligned);
	old = r->ops->read(r->opaque, aligned, min);
	old &= ~(mask_bytes(len) << shift);
	r->ops->write(r->opaque, aligned, min, old | (value & mask_bytes(len)) << shift);
}

uint64_t space_read(struct space *s, uint64_t addr, unsigned len)
{
	uint64_t value = 0;
	unsigned done = 0;

	while (done < len) {
		const struct piece *p = view_find(s, addr + done);
		unsigned step = 1;
		uint64_t part = 0xff;

		if (p) {
			uint64_t offset = addr + done - p->region->base;

			step = step_len(p->region, offset, len - done);
			part = region_read(p->region, offset, step) & mask_bytes(step);
		}
		value |= part << (8 * done);
		done += step;
	}
	return value;
}

void space_write(struct space *s, uint64_t addr, unsigned len, uint64_t value)
{
	unsigned done = 0;

	while (done < len) {
		const struct piece *p = view_find(s, addr + done);
		unsigned step = 1;

		if (p) {
			struct region *r = p->region;
			uint64_t offset = addr + done - r->base;

			step = step_len(r, offset, len - done);
			region_write(r, offset, step, (value >> (8 * done)) & mask_bytes(step));
		}
		done += step;
	}
}

bool space_covers(struct space *s, uint64_t addr)
{
	return view_find(s, addr) != NULL;
}

void space_walk(struct space *s, void (*fn)(void *opaque, const char *name, uint64_t base, uint64_t size), void *opaque)
{
	if (s->stale)
		view_build(s);
	for (guint i = 0; i < s->view->len; i++) {
		const struct piece *p = &g_array_index(s->view, struct piece, i);

		fn(opaque, p->region->name, p->start, p->end - p->start + 1);
	}
}
