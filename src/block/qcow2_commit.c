/* Bringing qcow2 metadata to the file in an order that a power cut cannot harm (qcow2.h has the stages). */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "block/qcow2.h"

#define FREED_LIMIT 65536u

/* A copy of a dirty range, taken under the lock and written without it. */
struct piece {
	uint64_t offset;
	uint32_t len;
	uint8_t *bytes;
	struct cache *cache; /* NULL: of a whole table */
	struct table *table;
};

struct whole_piece {
	struct piece piece;
	uint32_t from, to;
};

struct commit {
	GArray *first, *last; /* stages 1 and 3 */
	struct whole_piece reftable, l1;
	GArray *freed;
	unsigned generation; /* I/O that may be on freed clusters began in it */
	bool first_stable;
};

bool qcow2_dirty(const struct qcow2 *q)
{
	return q->l2.dirty || q->blocks.dirty || q->l1.dirty_from != q->l1.dirty_to ||
	       q->reftable.dirty_from != q->reftable.dirty_to || q->freed->len;
}

unsigned io_begin(struct qcow2 *q)
{
	q->busy[q->generation]++;
	return q->generation;
}

void io_end(struct qcow2 *q, unsigned token)
{
	if (!--q->busy[token])
		pthread_cond_broadcast(&q->changed);
}

/* ---- what is to be written ---- */

static void take_table(GArray *stage, struct cache *c, struct table *t)
{
	struct piece p = { t->offset + t->dirty_from, t->dirty_to - t->dirty_from, NULL, c, t };

	p.bytes = g_memdup2(t->data + t->dirty_from, p.len);
	g_array_append_val(stage, p);
	table_clean(c, t);
	t->pins++;
}

static void take_cache(struct cache *c, GArray *linked, GArray *unlinked)
{
	for (GList *at = c->order.head; at && c->dirty; at = at->next) {
		struct table *t = at->data;

		if (t->dirty_from != t->dirty_to)
			take_table(t->linked ? linked : unlinked, c, t);
	}
}

static void take_whole(struct whole_piece *p, struct whole_table *w)
{
	uint32_t count = w->dirty_to - w->dirty_from;

	*p = (struct whole_piece){ .from = w->dirty_from, .to = w->dirty_to };
	if (!count)
		return;
	p->piece.offset = w->offset + (uint64_t)w->dirty_from * 8;
	p->piece.len = count * 8;
	p->piece.bytes = g_malloc(p->piece.len);
	for (uint32_t i = 0; i < count; i++)
		st64be(p->piece.bytes + (size_t)i * 8, w->entry[w->dirty_from + i]);
	w->dirty_from = w->dirty_to = 0;
}

static void take(struct qcow2 *q, struct commit *c)
{
	c->first = g_array_new(FALSE, FALSE, sizeof(struct piece));
	c->last = g_array_new(FALSE, FALSE, sizeof(struct piece));
	c->reftable = (struct whole_piece){ 0 };
	/* With lazy refcounts blocks wait for the end, as long as there is room for them. */
	if (!q->lazy || q->blocks.dirty > q->blocks.limit / 2) {
		take_cache(&q->blocks, c->first, c->first);
		take_whole(&c->reftable, &q->reftable);
	}
	take_cache(&q->l2, c->last, c->first);
	take_whole(&c->l1, &q->l1);
	c->freed = q->freed;
	q->freed = g_array_new(FALSE, FALSE, sizeof(struct freed));
	c->generation = q->generation;
	/* The other generation is empty: the last commit that left it waited for that. */
	if (c->freed->len)
		q->generation ^= 1;
}

/* ---- writing ---- */

static int write_stage(struct qcow2 *q, GArray *stage)
{
	int r = 0;

	for (guint i = 0; i < stage->len && r == 0; i++) {
		const struct piece *p = &g_array_index(stage, struct piece, i);

		r = file_write(q->file, p->offset, p->bytes, p->len);
	}
	return r;
}

static int write_whole(struct qcow2 *q, const struct whole_piece *p)
{
	return p->piece.len ? file_write(q->file, p->piece.offset, p->piece.bytes, p->piece.len) : 0;
}

static int write_all(struct qcow2 *q, struct commit *c)
{
	int r = write_stage(q, c->first);

	if (r == 0)
		r = q->file->ops->sync(q->file);
	c->first_stable = r == 0;
	if (r == 0 && c->reftable.piece.len) {
		r = write_whole(q, &c->reftable);
		if (r == 0)
			r = q->file->ops->sync(q->file);
	}
	if (r == 0 && (c->last->len || c->l1.piece.len)) {
		r = write_stage(q, c->last);
		if (r == 0)
			r = write_whole(q, &c->l1);
		if (r == 0)
			r = q->file->ops->sync(q->file);
	}
	return r;
}

/* ---- afterwards ---- */

static void end_stage(GArray *stage, int result)
{
	for (guint i = 0; i < stage->len; i++) {
		struct piece *p = &g_array_index(stage, struct piece, i);
		uint32_t from = (uint32_t)(p->offset - p->table->offset);

		p->table->pins--;
		if (result == 0)
			p->table->linked = true;
		else
			table_dirty(p->cache, p->table, from, from + p->len);
		g_free(p->bytes);
	}
	g_array_unref(stage);
}

static void end_whole(struct whole_piece *p, struct whole_table *w, int result)
{
	if (result < 0 && p->from != p->to) {
		bool clean = w->dirty_from == w->dirty_to;

		w->dirty_from = clean ? p->from : MIN(w->dirty_from, p->from);
		w->dirty_to = clean ? p->to : MAX(w->dirty_to, p->to);
	}
	g_free(p->piece.bytes);
}

/* A failure costs the host some space, nothing else. */
static void punch(struct qcow2 *q, const struct freed *f)
{
	uint64_t count;

	for (uint64_t i = 0; i < f->clusters; i++) {
		if (refcount_get(q, cluster_of(q, f->offset) + i, &count) < 0 || count)
			return;
	}
	q->file->ops->zero(q->file, f->offset, f->clusters << q->h.cluster_bits, true);
}

/* Takes the references away that are now gone from the file. Written without a sync: too high a count is safe. */
static void release(struct qcow2 *q, GArray *freed, unsigned generation)
{
	while (q->busy[generation])
		pthread_cond_wait(&q->changed, &q->lock);
	for (guint i = 0; i < freed->len; i++) {
		const struct freed *f = &g_array_index(freed, struct freed, i);

		refcount_add(q, cluster_of(q, f->offset), f->clusters, -1);
		if (f->punch)
			punch(q, f);
	}
	unpacked_clear(q);
	for (GList *at = q->blocks.order.head; at && !q->lazy; at = at->next) {
		struct table *t = at->data;

		/* Only blocks that the file knows; the others wait for their turn. */
		if (t->dirty_from != t->dirty_to && t->linked && !t->pins &&
		    file_write(q->file, t->offset + t->dirty_from, t->data + t->dirty_from, t->dirty_to - t->dirty_from) == 0)
			table_clean(&q->blocks, t);
	}
}

static void finish(struct qcow2 *q, struct commit *c, int result)
{
	end_stage(c->first, c->first_stable ? 0 : result);
	end_stage(c->last, result);
	end_whole(&c->reftable, &q->reftable, result);
	end_whole(&c->l1, &q->l1, result);
	if (c->freed->len) {
		if (result == 0) {
			release(q, c->freed, c->generation);
		} else {
			while (q->busy[c->generation])
				pthread_cond_wait(&q->changed, &q->lock);
			g_array_append_vals(q->freed, c->freed->data, c->freed->len);
		}
	}
	g_array_unref(c->freed);
}

int qcow2_commit(struct qcow2 *q)
{
	struct commit c;
	int r = 0;

	pthread_mutex_lock(&q->commit_lock);
	pthread_mutex_lock(&q->lock);
	if (q->corrupt || !qcow2_dirty(q)) {
		bool corrupt = q->corrupt;

		pthread_mutex_unlock(&q->lock);
		pthread_mutex_unlock(&q->commit_lock);
		r = q->file->ops->sync(q->file);
		return corrupt ? -EIO : r;
	}
	if (q->lazy)
		r = header_set_incompatible(q, INCOMPAT_DIRTY, 0);
	if (r == 0) {
		c = (struct commit){ 0 };
		take(q, &c);
		pthread_mutex_unlock(&q->lock);
		r = write_all(q, &c);
		pthread_mutex_lock(&q->lock);
		finish(q, &c, r);
	}
	pthread_mutex_unlock(&q->lock);
	pthread_mutex_unlock(&q->commit_lock);
	return r;
}

int commit_if_full(struct qcow2 *q)
{
	int r;

	if (q->l2.dirty <= q->l2.limit / 2 && (q->lazy || q->blocks.dirty <= q->blocks.limit / 2) && q->freed->len < FREED_LIMIT &&
	    q->blocks.dirty < q->blocks.limit)
		return 0;
	pthread_mutex_unlock(&q->lock);
	r = qcow2_commit(q);
	pthread_mutex_lock(&q->lock);
	return r;
}
