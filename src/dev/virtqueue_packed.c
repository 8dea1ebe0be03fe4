/* The packed ring (virtio 1.2, 2.8): one ring of descriptors that driver and device overwrite in turn. */
#include <glib.h>
#include <stdatomic.h>

#include "base/bytes.h"
#include "dev/virtio_internal.h"

#define DESC_AVAIL (1 << 7)
#define DESC_USED (1 << 15)

/* Event suppression structures: which position, and these flags. */
#define EVENT_DISABLE 1
#define EVENT_POSITION 2
#define EVENT_WRAP 0x8000

static void advance(uint16_t *position, bool *wrap, unsigned slots, unsigned size)
{
	unsigned next = *position + slots;

	if (next >= size) {
		next -= size;
		*wrap = !*wrap;
	}
	*position = (uint16_t)next;
}

static bool is_available(struct virtqueue *vq)
{
	uint8_t b[2];
	uint16_t flags;

	if (!virtq_read(vq, vq->desc + DESC_SIZE * (uint64_t)vq->next_avail + 14, b, sizeof(b)))
		return false;
	flags = ld16le(b);
	/* The rest of the descriptor is read after its flags. */
	atomic_thread_fence(memory_order_acquire);
	return !!(flags & DESC_AVAIL) == vq->avail_wrap && !!(flags & DESC_USED) != vq->avail_wrap;
}

bool packed_ready(struct virtqueue *vq)
{
	uint8_t event[4];

	if (is_available(vq))
		return true;
	if (!virtio_running(vq->dev) || !virtio_has(vq->dev, VIRTIO_F_EVENT_IDX))
		return false;
	st16le(event, vq->next_avail | (vq->avail_wrap ? EVENT_WRAP : 0));
	st16le(event + 2, EVENT_POSITION);
	if (!virtq_write(vq, vq->device, event, sizeof(event)))
		return false;
	atomic_thread_fence(memory_order_seq_cst);
	return is_available(vq);
}

static bool indirect_walk(struct virtq_walk *w, uint64_t table, uint32_t len)
{
	struct virtqueue *vq = w->vq;

	if (!virtio_has(vq->dev, VIRTIO_F_INDIRECT_DESC) || !len || len % DESC_SIZE || len / DESC_SIZE > VIRTQ_MAX_CHAIN) {
		virtio_broken(vq->dev, "queue %u: a bad indirect table of %u bytes", vq->index, len);
		return false;
	}
	for (unsigned i = 0; i < len / DESC_SIZE; i++) {
		uint8_t d[DESC_SIZE];

		if (!virtq_read(vq, table + DESC_SIZE * (uint64_t)i, d, sizeof(d)) ||
		    !walk_add(w, ld64le(d), ld32le(d + 8), ld16le(d + 14) & DESC_WRITE))
			return false;
	}
	return true;
}

/* Walks from next_avail; returns the ring positions taken, or 0. */
static unsigned ring_walk(struct virtq_walk *w, uint16_t *id)
{
	struct virtqueue *vq = w->vq;
	unsigned at = vq->next_avail, slots = 0;
	uint16_t flags;

	do {
		uint8_t d[DESC_SIZE];

		if (slots == vq->size) {
			virtio_broken(vq->dev, "queue %u: a chain longer than the ring", vq->index);
			return 0;
		}
		if (!virtq_read(vq, vq->desc + DESC_SIZE * (uint64_t)at, d, sizeof(d)))
			return 0;
		slots++;
		at = at + 1 == vq->size ? 0 : at + 1;
		*id = ld16le(d + 12);
		flags = ld16le(d + 14);
		if (!(flags & DESC_INDIRECT)) {
			if (!walk_add(w, ld64le(d), ld32le(d + 8), flags & DESC_WRITE))
				return 0;
			continue;
		}
		if (slots > 1 || (flags & DESC_NEXT)) {
			virtio_broken(vq->dev, "queue %u: an indirect table within a chain", vq->index);
			return 0;
		}
		if (!indirect_walk(w, ld64le(d), ld32le(d + 8)))
			return 0;
	} while (flags & DESC_NEXT);
	return slots;
}

struct virtq_elem *packed_pop(struct virtqueue *vq)
{
	struct virtq_walk w;
	struct virtq_elem *e;
	unsigned slots;
	uint16_t id;

	w.vq = vq;
	w.out_n = w.in_n = w.spans = 0;
	w.out_len = w.in_len = 0;
	slots = ring_walk(&w, &id);
	if (!slots)
		return NULL;
	advance(&vq->next_avail, &vq->avail_wrap, slots, vq->size);
	e = walk_finish(&w, id);
	e->slots = (uint16_t)slots;
	return e;
}

void packed_unpop(struct virtqueue *vq, const struct virtq_elem *e)
{
	if (vq->next_avail < e->slots) {
		vq->next_avail += vq->size;
		vq->avail_wrap = !vq->avail_wrap;
	}
	vq->next_avail -= e->slots;
}

static bool write_flags(struct virtqueue *vq, unsigned at, bool wrap, bool written)
{
	uint8_t b[2];

	st16le(b, (wrap ? DESC_AVAIL | DESC_USED : 0) | (written ? DESC_WRITE : 0));
	return virtq_write(vq, vq->desc + DESC_SIZE * (uint64_t)at + 14, b, sizeof(b));
}

/* The first descriptor's flags are written last: the driver then sees all of them. */
void packed_push_all(struct virtqueue *vq, struct virtq_elem **e, const uint32_t *written, unsigned n)
{
	unsigned first = vq->next_used;
	bool first_wrap = vq->used_wrap;

	for (unsigned i = 0; i < n; i++) {
		uint8_t d[6];

		st32le(d, written[i]);
		st16le(d + 4, e[i]->id);
		if (!virtq_write(vq, vq->desc + DESC_SIZE * (uint64_t)vq->next_used + 8, d, sizeof(d)))
			return;
		atomic_thread_fence(memory_order_release);
		if (i && !write_flags(vq, vq->next_used, vq->used_wrap, written[i]))
			return;
		advance(&vq->next_used, &vq->used_wrap, e[i]->slots, vq->size);
	}
	if (vq->used_wrap != first_wrap)
		vq->signalled_valid = false;
	atomic_thread_fence(memory_order_release);
	write_flags(vq, first, first_wrap, written[0]);
}

bool packed_wants_interrupt(struct virtqueue *vq)
{
	uint16_t off_wrap, flags, old = vq->signalled;
	bool valid = vq->signalled_valid;
	uint8_t event[4];
	int position;

	if (!virtq_read(vq, vq->driver, event, sizeof(event)))
		return false;
	off_wrap = ld16le(event);
	flags = ld16le(event + 2);
	vq->signalled = vq->next_used;
	vq->signalled_valid = true;
	if (flags != EVENT_POSITION)
		return flags != EVENT_DISABLE;
	position = off_wrap & ~EVENT_WRAP;
	if (!!(off_wrap & EVENT_WRAP) != vq->used_wrap)
		position -= vq->size;
	return !valid || (uint16_t)(vq->next_used - position - 1) < (uint16_t)(vq->next_used - old);
}
