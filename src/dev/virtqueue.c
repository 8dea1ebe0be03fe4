/*
 * Virtqueues: buffers out of descriptor chains, and the split ring (virtio 1.2, 2.6 and 2.7).
 * The driver's memory changes while we look: each descriptor is copied once, each count is checked,
 * and what cannot be makes the device ask for a reset.
 */
#include <glib.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/virtio_internal.h"

#define AVAIL_NO_INTERRUPT 1

/* ---- ring memory ---- */

/* Without bus mastering nothing is reached: the caller has looked before. */
bool virtq_read(struct virtqueue *vq, uint64_t gpa, void *buf, size_t len)
{
	if (pci_dma_read(&vq->dev->pci, gpa, buf, len))
		return true;
	virtio_broken(vq->dev, "queue %u: 0x%" PRIx64 " is not RAM", vq->index, gpa);
	return false;
}

bool virtq_write(struct virtqueue *vq, uint64_t gpa, const void *buf, size_t len)
{
	if (pci_dma_write(&vq->dev->pci, gpa, buf, len))
		return true;
	virtio_broken(vq->dev, "queue %u: 0x%" PRIx64 " is not RAM", vq->index, gpa);
	return false;
}

static bool read16(struct virtqueue *vq, uint64_t gpa, uint16_t *v)
{
	uint8_t b[2];

	if (!virtq_read(vq, gpa, b, sizeof(b)))
		return false;
	*v = ld16le(b);
	return true;
}

static bool write16(struct virtqueue *vq, uint64_t gpa, uint16_t v)
{
	uint8_t b[2];

	st16le(b, v);
	return virtq_write(vq, gpa, b, sizeof(b));
}

/* ---- buffers ---- */

bool walk_add(struct virtq_walk *w, uint64_t gpa, uint32_t len, bool write)
{
	struct virtqueue *vq = w->vq;
	unsigned used = w->out_n + w->in_n;
	int n;

	if (w->in_n && !write) {
		virtio_broken(vq->dev, "queue %u: a buffer to read comes after one to write", vq->index);
		return false;
	}
	if (!len)
		return true;
	n = pci_dma_iovec(&vq->dev->pci, gpa, len, write, w->iov + used, (int)(VIRTQ_MAX_CHAIN - used));
	if (n < 0) {
		virtio_broken(vq->dev, "queue %u: buffer 0x%" PRIx64 "+0x%x is not RAM", vq->index, gpa, len);
		return false;
	}
	if (write) {
		w->span[w->spans++] = (struct virtq_span){ gpa, len };
		w->in_n += (unsigned)n;
		w->in_len += len;
	} else {
		w->out_n += (unsigned)n;
		w->out_len += len;
	}
	return true;
}

struct virtq_elem *walk_finish(struct virtq_walk *w, uint16_t id)
{
	unsigned n = w->out_n + w->in_n;
	size_t iov_size = n * sizeof(struct iovec), span_size = w->spans * sizeof(struct virtq_span);
	struct virtq_elem *e = g_malloc(sizeof(*e) + iov_size + span_size);
	struct iovec *iov = (struct iovec *)(e + 1);

	memcpy(iov, w->iov, iov_size);
	memcpy(iov + n, w->span, span_size);
	*e = (struct virtq_elem){
		.id = id,
		.out_n = w->out_n, .in_n = w->in_n, .out_len = w->out_len, .in_len = w->in_len,
		.out = iov, .in = iov + w->out_n,
		.in_span = (struct virtq_span *)(iov + n), .in_spans = w->spans,
	};
	return e;
}

/* Disk reads and the like filled the pieces long after they were handed out. */
static void mark_written(struct virtqueue *vq, const struct virtq_elem *e, uint32_t written)
{
	for (unsigned i = 0; i < e->in_spans && written; i++) {
		uint32_t n = MIN(e->in_span[i].len, written);

		pci_dma_mark_written(&vq->dev->pci, e->in_span[i].gpa, n);
		written -= n;
	}
}

/* ---- split ring ---- */

/* A table of `count` descriptors at gpa, entered at `at`, or false. */
static bool split_walk(struct virtq_walk *w, uint64_t table, unsigned count, unsigned at, bool indirect)
{
	struct virtqueue *vq = w->vq;
	unsigned flags;

	do {
		uint8_t d[DESC_SIZE];
		uint64_t gpa;
		uint32_t len;

		if (at >= count || w->descs++ == VIRTQ_MAX_CHAIN) {
			virtio_broken(vq->dev, "queue %u: descriptor %u of %u, a loop or a chain without end", vq->index, at, count);
			return false;
		}
		if (!virtq_read(vq, table + DESC_SIZE * (uint64_t)at, d, sizeof(d)))
			return false;
		gpa = ld64le(d);
		len = ld32le(d + 8);
		flags = ld16le(d + 12);
		at = ld16le(d + 14);
		if (flags & DESC_INDIRECT) {
			if (indirect || (flags & DESC_NEXT) || !virtio_has(vq->dev, VIRTIO_F_INDIRECT_DESC) ||
			    !len || len % DESC_SIZE || len / DESC_SIZE > VIRTQ_MAX_CHAIN) {
				virtio_broken(vq->dev, "queue %u: a bad indirect table of %u bytes", vq->index, len);
				return false;
			}
			return split_walk(w, gpa, len / DESC_SIZE, 0, true);
		}
		if (!walk_add(w, gpa, len, flags & DESC_WRITE))
			return false;
	} while (flags & DESC_NEXT);
	return true;
}

/* How many buffers wait, or -1 when the driver's index is nonsense. */
static int split_waiting(struct virtqueue *vq)
{
	uint16_t idx;

	if (!read16(vq, vq->driver + 2, &idx))
		return -1;
	if ((uint16_t)(idx - vq->next_avail) > vq->size) {
		virtio_broken(vq->dev, "queue %u: available index %u, %u taken", vq->index, idx, vq->next_avail);
		return -1;
	}
	/* Ring entries and descriptors are read after the index. */
	atomic_thread_fence(memory_order_acquire);
	return (uint16_t)(idx - vq->next_avail);
}

static bool split_ready(struct virtqueue *vq)
{
	int n = split_waiting(vq);

	if (n || !virtio_has(vq->dev, VIRTIO_F_EVENT_IDX))
		return n > 0;
	/* Ask for a kick at the next one, then look again: it may have come meanwhile. */
	if (!write16(vq, vq->device + 4 + 8 * (uint64_t)vq->size, vq->next_avail))
		return false;
	atomic_thread_fence(memory_order_seq_cst);
	return split_waiting(vq) > 0;
}

static struct virtq_elem *split_pop(struct virtqueue *vq)
{
	struct virtq_walk w;
	uint16_t head;

	w.vq = vq;
	w.descs = w.out_n = w.in_n = w.spans = 0;
	w.out_len = w.in_len = 0;
	if (!read16(vq, vq->driver + 4 + 2 * (uint64_t)(vq->next_avail & (vq->size - 1)), &head))
		return NULL;
	if (!split_walk(&w, vq->desc, vq->size, head, false))
		return NULL;
	vq->next_avail++;
	return walk_finish(&w, head);
}

static void split_push_all(struct virtqueue *vq, struct virtq_elem **e, const uint32_t *written, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		unsigned at = (uint16_t)(vq->next_used + i) & (vq->size - 1);
		uint8_t entry[8];

		st32le(entry, e[i]->id);
		st32le(entry + 4, written[i]);
		if (!virtq_write(vq, vq->device + 4 + 8 * (uint64_t)at, entry, sizeof(entry)))
			return;
	}
	vq->next_used += n;
	atomic_thread_fence(memory_order_release);
	write16(vq, vq->device + 2, vq->next_used);
}

static bool split_wants_interrupt(struct virtqueue *vq)
{
	uint16_t event, flags, old = vq->signalled;
	bool valid = vq->signalled_valid;

	if (!virtio_has(vq->dev, VIRTIO_F_EVENT_IDX))
		return read16(vq, vq->driver, &flags) && !(flags & AVAIL_NO_INTERRUPT);
	if (!read16(vq, vq->driver + 4 + 2 * (uint64_t)vq->size, &event))
		return false;
	vq->signalled = vq->next_used;
	vq->signalled_valid = true;
	/* Has next_used passed the event since the last interrupt? (2.7.7.2) */
	return !valid || (uint16_t)(vq->next_used - event - 1) < (uint16_t)(vq->next_used - old);
}

/* ---- both rings ---- */

static bool packed(const struct virtqueue *vq) { return virtio_has(vq->dev, VIRTIO_F_RING_PACKED); }

static bool live(const struct virtqueue *vq)
{
	return vq->enabled && virtio_running(vq->dev) && pci_bus_master(&vq->dev->pci);
}

bool virtqueue_ready(struct virtqueue *vq)
{
	return live(vq) && (packed(vq) ? packed_ready(vq) : split_ready(vq));
}

struct virtq_elem *virtqueue_pop(struct virtqueue *vq)
{
	struct virtq_elem *e;

	if (!virtqueue_ready(vq))
		return NULL;
	if (!vq->budget) {
		vq->left_over = true;
		timer_arm(vq->dev->later, clock_now(vq->dev->clock));
		return NULL;
	}
	/* An honest driver cannot have more out than it has descriptors. */
	if (vq->in_flight >= vq->size) {
		virtio_broken(vq->dev, "queue %u: the same descriptors made available again", vq->index);
		return NULL;
	}
	e = packed(vq) ? packed_pop(vq) : split_pop(vq);
	if (!e)
		return NULL;
	vq->in_flight++;
	if (vq->budget != VIRTQ_NO_BUDGET)
		vq->budget--;
	return e;
}

void virtqueue_push_all(struct virtqueue *vq, struct virtq_elem **e, const uint32_t *written, unsigned n)
{
	if (!n)
		return;
	for (unsigned i = 0; i < n; i++)
		mark_written(vq, e[i], written[i]);
	if (live(vq)) {
		vq->pushed = true;
		if (packed(vq))
			packed_push_all(vq, e, written, n);
		else
			split_push_all(vq, e, written, n);
	}
	for (unsigned i = 0; i < n; i++)
		virtqueue_drop(vq, e[i]);
}

void virtqueue_push(struct virtqueue *vq, struct virtq_elem *e, uint32_t written)
{
	virtqueue_push_all(vq, &e, &written, 1);
}

void virtqueue_unpop(struct virtqueue *vq, struct virtq_elem *e)
{
	if (packed(vq))
		packed_unpop(vq, e);
	else
		vq->next_avail--;
	virtqueue_drop(vq, e);
}

void virtqueue_drop(struct virtqueue *vq, struct virtq_elem *e)
{
	if (vq->in_flight)
		vq->in_flight--;
	g_free(e);
}

void virtqueue_notify(struct virtqueue *vq)
{
	if (!live(vq) || !vq->pushed)
		return;
	vq->pushed = false;
	/* What was pushed is seen before the driver's wishes are looked at. */
	atomic_thread_fence(memory_order_seq_cst);
	if (packed(vq) ? packed_wants_interrupt(vq) : split_wants_interrupt(vq))
		virtio_interrupt(vq->dev, vq->vector, ISR_QUEUE);
}

void virtqueue_run(struct virtqueue *vq)
{
	if (!live(vq))
		return;
	vq->left_over = false;
	vq->budget = vq->size;
	vq->dev->ops->queue(vq->dev, vq);
	vq->budget = VIRTQ_NO_BUDGET;
}

void virtqueue_interrupt(struct virtqueue *vq)
{
	if (live(vq))
		virtio_interrupt(vq->dev, vq->vector, ISR_QUEUE);
}

void virtqueue_moved(struct virtqueue *vq, uint16_t next_avail)
{
	vq->next_avail = vq->next_used = next_avail;
	vq->signalled_valid = false;
}

/* ---- vectors ---- */

static size_t iov_copy(const struct iovec *iov, unsigned n, size_t offset, uint8_t *in, const uint8_t *out, size_t len)
{
	size_t done = 0;

	for (unsigned i = 0; i < n && done < len; i++) {
		size_t chunk;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		chunk = MIN(iov[i].iov_len - offset, len - done);
		if (in)
			memcpy(in + done, (uint8_t *)iov[i].iov_base + offset, chunk);
		else
			memcpy((uint8_t *)iov[i].iov_base + offset, out + done, chunk);
		done += chunk;
		offset = 0;
	}
	return done;
}

size_t virtq_copy_out(const struct iovec *iov, unsigned n, size_t offset, void *buf, size_t len)
{
	return iov_copy(iov, n, offset, buf, NULL, len);
}

size_t virtq_copy_in(const struct iovec *iov, unsigned n, size_t offset, const void *buf, size_t len)
{
	return iov_copy(iov, n, offset, NULL, buf, len);
}

unsigned virtq_slice(const struct iovec *iov, unsigned n, size_t offset, size_t len, struct iovec *to)
{
	unsigned count = 0;

	for (unsigned i = 0; i < n && len; i++) {
		size_t chunk;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		chunk = MIN(iov[i].iov_len - offset, len);
		to[count++] = (struct iovec){ (uint8_t *)iov[i].iov_base + offset, chunk };
		len -= chunk;
		offset = 0;
	}
	return count;
}
