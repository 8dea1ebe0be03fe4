/* L2 tables and refcount blocks in memory, bounded; the L1 and refcount tables as a whole. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "block/qcow2.h"

static void table_free(void *t)
{
	g_free(((struct table *)t)->data);
	g_free(t);
}

void cache_init(struct cache *c, unsigned limit, unsigned cluster_bits)
{
	c->tables = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, table_free);
	g_queue_init(&c->order);
	c->limit = limit;
	c->cluster_bits = cluster_bits;
}

void cache_finish(struct cache *c)
{
	if (c->tables)
		g_hash_table_unref(c->tables);
}

static void move_to_front(struct cache *c, struct table *t)
{
	g_queue_unlink(&c->order, &t->link);
	g_queue_push_head_link(&c->order, &t->link);
}

static struct table **near_slot(struct cache *c, uint64_t offset)
{
	return &c->near[(offset >> c->cluster_bits) % CACHE_NEAR];
}

struct table *cache_peek(struct cache *c, uint64_t offset)
{
	struct table **near = near_slot(c, offset), *t = *near;

	if (!t || t->offset != offset) {
		t = g_hash_table_lookup(c->tables, &offset);
		if (!t)
			return NULL;
		*near = t;
	}
	t->used = true;
	return t;
}

static void drop(struct cache *c, struct table *t)
{
	struct table **near = near_slot(c, t->offset);

	if (*near == t)
		*near = NULL;
	table_clean(c, t);
	g_queue_unlink(&c->order, &t->link);
	g_hash_table_remove(c->tables, &t->offset);
}

/* What was used since it was last looked at here gets a second chance. Dirty tables stay: commit_if_full keeps them few. */
static void make_room(struct cache *c)
{
	GList *at = c->order.tail;

	while (at && g_hash_table_size(c->tables) >= c->limit) {
		struct table *t = at->data;

		at = at->prev;
		if (t->dirty_from != t->dirty_to || t->pins)
			continue;
		if (t->used) {
			t->used = false;
			move_to_front(c, t);
		} else {
			drop(c, t);
		}
	}
}

static struct table *insert(struct qcow2 *q, struct cache *c, uint64_t offset, uint8_t *data)
{
	struct table *t = g_new0(struct table, 1);

	make_room(c);
	t->offset = offset;
	t->data = data;
	t->link.data = t;
	g_hash_table_insert(c->tables, &t->offset, t);
	g_queue_push_head_link(&c->order, &t->link);
	return t;
}

int cache_get(struct qcow2 *q, struct cache *c, uint64_t offset, struct table **t)
{
	uint8_t *data;
	int r;

	*t = cache_peek(c, offset);
	if (*t)
		return 0;
	data = g_try_malloc(q->cluster_size);
	if (!data)
		return -ENOMEM;
	r = file_read(q->file, offset, data, q->cluster_size);
	if (r < 0) {
		g_free(data);
		return r;
	}
	*t = insert(q, c, offset, data);
	(*t)->linked = true;
	return 0;
}

struct table *cache_new(struct qcow2 *q, struct cache *c, uint64_t offset)
{
	struct table *t;

	/* A table that was freed and whose place is used again may still be here. */
	cache_drop(c, offset);
	t = insert(q, c, offset, g_malloc0(q->cluster_size));
	table_dirty(c, t, 0, q->cluster_size);
	return t;
}

void cache_drop(struct cache *c, uint64_t offset)
{
	struct table *t = g_hash_table_lookup(c->tables, &offset);

	if (t && !t->pins)
		drop(c, t);
}

void table_dirty(struct cache *c, struct table *t, uint32_t from, uint32_t to)
{
	if (from / 8 < t->run_to && to / 8 > t->run_from)
		t->run_from = t->run_to = 0;
	if (t->dirty_from == t->dirty_to) {
		c->dirty++;
		move_to_front(c, t);
		t->dirty_from = from;
		t->dirty_to = to;
	} else {
		t->dirty_from = MIN(t->dirty_from, from);
		t->dirty_to = MAX(t->dirty_to, to);
	}
}

void table_clean(struct cache *c, struct table *t)
{
	if (t->dirty_from != t->dirty_to)
		c->dirty--;
	t->dirty_from = t->dirty_to = 0;
}

bool whole_table_read(struct qcow2 *q, struct whole_table *w, const char *what, GError **error)
{
	uint64_t bytes = (uint64_t)w->count * 8;
	int r;

	w->entry = g_try_malloc0(MAX(bytes, 8));
	r = w->entry ? file_read(q->file, w->offset, w->entry, bytes) : -ENOMEM;
	if (r < 0)
		return blk_fail(error, "%s: reading the %s: %s", q->file->path, what, g_strerror(-r));
	for (uint32_t i = 0; i < w->count; i++)
		w->entry[i] = ld64be(&w->entry[i]);
	return true;
}

void whole_table_set(struct whole_table *w, uint32_t index, uint64_t value)
{
	w->entry[index] = value;
	if (w->dirty_from == w->dirty_to) {
		w->dirty_from = index;
		w->dirty_to = index + 1;
	} else {
		w->dirty_from = MIN(w->dirty_from, index);
		w->dirty_to = MAX(w->dirty_to, index + 1);
	}
}
