/*
 * Virtio memory balloon: VIRTIO 1.2, 5.5. What the guest puts into the balloon, and free pages that it
 * reports, go back to the host at once; the guest gets zeroed memory when it touches them again.
 */
#include "dev/virtio_balloon.h"

#include <glib.h>
#include <linux/virtio_balloon.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "dev/virtio.h"

#define QUEUE_SIZE 128
#define MAX_PAGES 1024 /* in one buffer; Linux sends 256 */
#define STAT_SIZE 10
#define MAX_STATS 64

enum { QUEUE_INFLATE, QUEUE_DEFLATE, QUEUE_STATS, QUEUES = 5 };

struct virtio_balloon {
	struct virtio_dev v; /* must be first */
	struct virtio_balloon_config config;
	struct mem *mem;
	uint64_t ram;
	void (*changed)(void *opaque, uint64_t bytes);
	void *opaque;
	struct virtq_elem *asking; /* the buffer that goes back to ask for statistics */
	struct balloon_stats stats;
	int64_t asked;
	uint64_t inflated, reported;
};

/* ---- giving back ---- */

static int compare_pages(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* Runs of pages are given back as one. */
static uint64_t discard_pages(struct virtio_balloon *b, uint32_t *page, unsigned n)
{
	uint64_t done = 0;

	qsort(page, n, sizeof(*page), compare_pages);
	for (unsigned i = 0, run; i < n; i += run) {
		for (run = 1; i + run < n && page[i + run] - page[i] <= run; run++)
			;
		done += mem_discard(b->mem, (uint64_t)page[i] << VIRTIO_BALLOON_PFN_SHIFT,
				    ((uint64_t)page[i + run - 1] - page[i] + 1) << VIRTIO_BALLOON_PFN_SHIFT);
	}
	return done;
}

static void inflate(struct virtio_balloon *b, struct virtqueue *vq)
{
	struct virtq_elem *e;

	while ((e = virtqueue_pop(vq))) {
		uint32_t page[MAX_PAGES];
		size_t len = virtq_copy_out(e->out, e->out_n, 0, page, sizeof(page));

		if (e->out_len > sizeof(page) || len % sizeof(*page))
			device_guest_error(&b->v.pci.device, "%zu bytes of page numbers", e->out_len);
		b->inflated += discard_pages(b, page, (unsigned)(len / sizeof(*page)));
		virtqueue_push(vq, e, 0);
	}
	virtqueue_notify(vq);
}

/* Pages that come back are there when they are touched. */
static void deflate(struct virtqueue *vq)
{
	struct virtq_elem *e;

	while ((e = virtqueue_pop(vq)))
		virtqueue_push(vq, e, 0);
	virtqueue_notify(vq);
}

/* Free pages hold a poison that the guest wants to find again: then they must stay. */
static void report(struct virtio_balloon *b, struct virtqueue *vq)
{
	bool keep = virtio_has(&b->v, VIRTIO_BALLOON_F_PAGE_POISON) && b->config.poison_val;
	struct virtq_elem *e;

	while ((e = virtqueue_pop(vq))) {
		for (unsigned i = 0; i < e->in_spans && !keep; i++)
			b->reported += mem_discard(b->mem, e->in_span[i].gpa, e->in_span[i].len);
		virtqueue_push(vq, e, 0);
	}
	virtqueue_notify(vq);
}

/* ---- statistics ---- */

static void stats_clear(struct balloon_stats *t)
{
	*t = (struct balloon_stats){ UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX,
				     UINT64_MAX, UINT64_MAX, UINT64_MAX, -1 };
}

static void take_stats(struct virtio_balloon *b, const struct virtq_elem *e)
{
	struct balloon_stats *t = &b->stats;
	uint64_t *const field[] = { &t->swap_in, &t->swap_out, &t->major_faults, &t->minor_faults, &t->free, &t->total,
				    &t->available, &t->caches, &t->huge_allocations, &t->huge_failures };

	stats_clear(t);
	for (unsigned i = 0; i < MAX_STATS; i++) {
		uint8_t s[STAT_SIZE];

		if (virtq_copy_out(e->out, e->out_n, (size_t)i * STAT_SIZE, s, sizeof(s)) < sizeof(s))
			break;
		if (ld16le(s) < G_N_ELEMENTS(field))
			*field[ld16le(s)] = ld64le(s + 2);
	}
	t->when = clock_now(b->v.clock);
}

/* The driver's one buffer comes filled and stays here until it is to be filled again (5.5.6.3). */
static void receive_stats(struct virtio_balloon *b, struct virtqueue *vq)
{
	struct virtq_elem *e;

	while ((e = virtqueue_pop(vq))) {
		take_stats(b, e);
		if (b->asking) {
			device_guest_error(&b->v.pci.device, "a second buffer of statistics");
			virtqueue_push(vq, e, 0);
		} else {
			b->asking = e;
		}
	}
}

const struct balloon_stats *virtio_balloon_stats(struct virtio_balloon *b)
{
	struct virtqueue *vq = &b->v.queue[QUEUE_STATS];
	int64_t now = clock_now(b->v.clock);

	if (b->asking && now - b->asked >= NS_PER_SEC) {
		struct virtq_elem *e = b->asking;

		b->asked = now;
		b->asking = NULL;
		virtqueue_push(vq, e, 0);
		virtqueue_notify(vq);
	}
	return &b->stats;
}

/* ---- size ---- */

void virtio_balloon_set_target(struct virtio_balloon *b, uint64_t bytes)
{
	b->config.num_pages = (uint32_t)((b->ram - MIN(bytes, b->ram)) >> VIRTIO_BALLOON_PFN_SHIFT);
	virtio_config_changed(&b->v);
}

uint64_t virtio_balloon_size(const struct virtio_balloon *b)
{
	return b->ram - ((uint64_t)b->config.actual << VIRTIO_BALLOON_PFN_SHIFT);
}

uint64_t virtio_balloon_inflated(const struct virtio_balloon *b)
{
	return b->inflated;
}

uint64_t virtio_balloon_reported(const struct virtio_balloon *b)
{
	return b->reported;
}

static void balloon_config_write(struct virtio_dev *v, unsigned offset, unsigned len, uint32_t value)
{
	struct virtio_balloon *b = (struct virtio_balloon *)v;

	if (len == 4 && offset == offsetof(struct virtio_balloon_config, poison_val)) {
		b->config.poison_val = value;
		return;
	}
	if (len != 4 || offset != offsetof(struct virtio_balloon_config, actual) || value > b->ram >> VIRTIO_BALLOON_PFN_SHIFT) {
		device_guest_error(&v->pci.device, "configuration 0x%x: 0x%x", offset, value);
		return;
	}
	if (b->config.actual == value)
		return;
	b->config.actual = value;
	if (b->changed)
		b->changed(b->opaque, virtio_balloon_size(b));
}

/* ---- life ---- */

/* Without statistics the reports move up, as Linux numbers the queues; the specification's 4 is theirs, too. */
static void balloon_queue(struct virtio_dev *v, struct virtqueue *vq)
{
	struct virtio_balloon *b = (struct virtio_balloon *)v;

	if (vq->index == QUEUE_INFLATE)
		inflate(b, vq);
	else if (vq->index == QUEUE_DEFLATE)
		deflate(vq);
	else if (vq->index == QUEUE_STATS && virtio_has(v, VIRTIO_BALLOON_F_STATS_VQ))
		receive_stats(b, vq);
	else if (virtio_has(v, VIRTIO_BALLOON_F_REPORTING))
		report(b, vq);
}

static void balloon_quiesce(struct virtio_dev *v)
{
	struct virtio_balloon *b = (struct virtio_balloon *)v;

	if (b->asking)
		virtqueue_unpop(&v->queue[QUEUE_STATS], b->asking);
	b->asking = NULL;
}

/* The balloon is the driver's: a new one begins with none. */
static void balloon_virtio_reset(struct virtio_dev *v)
{
	struct virtio_balloon *b = (struct virtio_balloon *)v;

	b->config.poison_val = 0;
	stats_clear(&b->stats);
	if (!b->config.actual)
		return;
	b->config.actual = 0;
	if (b->changed)
		b->changed(b->opaque, b->ram);
}

static void balloon_start(struct virtio_dev *v)
{
}

static const struct virtio_ops virtio_ops = { balloon_queue, balloon_quiesce, balloon_virtio_reset, balloon_start,
					      balloon_config_write };

static void balloon_reset(struct device *d)
{
	virtio_reset((struct virtio_dev *)d);
}

static int balloon_state(struct device *d, struct state *s)
{
	struct virtio_balloon *b = (struct virtio_balloon *)d;
	uint32_t target = b->config.num_pages, actual = b->config.actual, poison = b->config.poison_val;

	state_u32(s, "target", &target);
	state_u32(s, "actual", &actual);
	state_u32(s, "poison", &poison);
	if (state_loading(s) && !state_error(s) && (target > b->ram >> VIRTIO_BALLOON_PFN_SHIFT || actual > b->ram >> VIRTIO_BALLOON_PFN_SHIFT))
		state_fail(s, "a balloon larger than the memory");
	if (virtio_state(&b->v, s) || !state_loading(s))
		return state_error(s);
	b->config.num_pages = target;
	b->config.actual = actual;
	b->config.poison_val = poison;
	return 0;
}

static void balloon_destroy(struct device *d)
{
	struct virtio_balloon *b = (struct virtio_balloon *)d;

	balloon_quiesce(&b->v);
	virtio_finish(&b->v);
	g_free(b);
}

static const struct device_ops ops = { "virtio-balloon", 1, balloon_reset, balloon_state, balloon_destroy };

struct virtio_balloon *virtio_balloon_create(struct pci_bus *bus, unsigned devfn, struct clock *clock, struct mem *mem,
					     uint64_t ram, void (*changed)(void *opaque, uint64_t bytes), void *opaque)
{
	struct virtio_balloon *b = g_new0(struct virtio_balloon, 1);
	const struct virtio_init init = {
		.device_ops = &ops, .ops = &virtio_ops, .id = "balloon0", .device_type = 5, .class_code = 0x00ff00,
		.config = &b->config, .config_len = sizeof(b->config), .queues = QUEUES, .queue_size = QUEUE_SIZE,
		.features = VIRTIO_BIT(VIRTIO_BALLOON_F_STATS_VQ) | VIRTIO_BIT(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) |
			    VIRTIO_BIT(VIRTIO_BALLOON_F_PAGE_POISON) | VIRTIO_BIT(VIRTIO_BALLOON_F_REPORTING),
	};

	b->mem = mem;
	b->ram = ram;
	b->changed = changed;
	b->opaque = opaque;
	b->asked = -NS_PER_SEC;
	stats_clear(&b->stats);
	if (virtio_init(&b->v, bus, devfn, clock, &init)) {
		g_free(b);
		return NULL;
	}
	return b;
}

struct device *virtio_balloon_device(struct virtio_balloon *b)
{
	return &b->v.pci.device;
}
