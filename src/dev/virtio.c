/*
 * The virtio device core: status and feature negotiation, the life of queues, configuration
 * changes, interrupts, state. Virtual I/O Device (VIRTIO) 1.2, chapters 2 and 3.
 */
#include <errno.h>
#include <glib.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "dev/virtio_internal.h"

static void run_left_over(void *opaque)
{
	struct virtio_dev *v = opaque;

	for (unsigned i = 0; i < v->queues; i++)
		if (v->queue[i].left_over)
			virtqueue_run(&v->queue[i]);
}

static void queue_init(struct virtqueue *vq)
{
	*vq = (struct virtqueue){
		.dev = vq->dev, .index = vq->index, .max_size = vq->max_size, .size = vq->max_size,
		.vector = VIRTIO_NO_VECTOR, .avail_wrap = true, .used_wrap = true, .budget = VIRTQ_NO_BUDGET,
	};
}

int virtio_init(struct virtio_dev *v, struct pci_bus *bus, unsigned devfn, struct clock *clock, const struct virtio_init *i)
{
	const struct pci_ids ids = { 0x1af4, (uint16_t)(0x1040 + i->device_type), 0x1af4, 0x1100, i->class_code, 1 };
	int err;

	if (!i->queues || i->queues > VIRTIO_MAX_QUEUES || i->queue_size > VIRTQ_MAX_SIZE)
		return -EINVAL;
	v->pci.device = (struct device){ .ops = i->device_ops, .id = i->id };
	err = pci_dev_init(&v->pci, bus, devfn, &ids, 1);
	if (err)
		return err;
	v->ops = i->ops;
	v->clock = clock;
	v->later = timer_new(clock, run_left_over, v);
	v->offered = i->features | VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC) | VIRTIO_BIT(VIRTIO_F_EVENT_IDX) |
		     VIRTIO_BIT(VIRTIO_F_VERSION_1) | VIRTIO_BIT(VIRTIO_F_RING_PACKED) | VIRTIO_BIT(VIRTIO_F_RING_RESET);
	v->config = i->config;
	v->config_len = i->config_len;
	v->config_vector = VIRTIO_NO_VECTOR;
	v->queues = i->queues;
	v->queue = g_new0(struct virtqueue, i->queues);
	for (unsigned n = 0; n < i->queues; n++) {
		v->queue[n] = (struct virtqueue){ .dev = v, .index = (uint16_t)n, .max_size = i->queue_size };
		queue_init(&v->queue[n]);
	}
	err = virtio_pci_init(v);
	if (err)
		virtio_finish(v);
	return err;
}

void virtio_finish(struct virtio_dev *v)
{
	timer_free(v->later);
	pci_dev_finish(&v->pci);
	g_free(v->queue);
}

bool virtio_running(const struct virtio_dev *v)
{
	return (v->status & (STATUS_DRIVER_OK | STATUS_NEEDS_RESET)) == STATUS_DRIVER_OK;
}

/* ---- interrupts ---- */

void virtio_interrupt(struct virtio_dev *v, uint16_t vector, uint8_t isr)
{
	if (pci_msix_enabled(&v->pci)) {
		/* The configuration bit shows there too (4.1.4.5.1). */
		v->isr |= isr & ISR_CONFIG;
		pci_msix_notify(&v->pci, vector);
		return;
	}
	v->isr |= isr;
	pci_set_intx(&v->pci, true);
}

void virtio_config_changed(struct virtio_dev *v)
{
	v->config_generation++;
	if (virtio_running(v))
		virtio_interrupt(v, v->config_vector, ISR_CONFIG);
}

void virtio_broken(struct virtio_dev *v, const char *fmt, ...)
{
	char text[128];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	device_guest_error(&v->pci.device, "%s", text);
	if (v->status & STATUS_NEEDS_RESET)
		return;
	v->status |= STATUS_NEEDS_RESET;
	if (v->status & STATUS_DRIVER_OK)
		virtio_interrupt(v, v->config_vector, ISR_CONFIG);
}

/* ---- status and features ---- */

/* All that the driver can set; the PCI side stays as it is. */
static void device_reset(struct virtio_dev *v)
{
	/* First of all not running: waiting for requests may let another CPU in. */
	v->status = v->isr = 0;
	v->ops->quiesce(v);
	timer_cancel(v->later);
	v->features = 0;
	v->device_feature_select = v->driver_feature_select = 0;
	v->queue_select = 0;
	v->config_vector = VIRTIO_NO_VECTOR;
	for (unsigned i = 0; i < v->queues; i++)
		queue_init(&v->queue[i]);
	pci_set_intx(&v->pci, false);
	v->ops->reset(v);
}

static bool features_good(struct virtio_dev *v)
{
	if (!(v->features & ~v->offered) && virtio_has(v, VIRTIO_F_VERSION_1))
		return true;
	device_guest_error(&v->pci.device, "features 0x%" PRIx64 " of 0x%" PRIx64 " refused", v->features, v->offered);
	return false;
}

void virtio_set_status(struct virtio_dev *v, uint8_t status)
{
	uint8_t set = status & ~v->status;

	if (!status) {
		device_reset(v);
		return;
	}
	/* Bits are only ever added (2.1.1); NEEDS_RESET is ours. */
	set &= ~STATUS_NEEDS_RESET;
	if ((set & STATUS_FEATURES_OK) && !features_good(v))
		set &= ~STATUS_FEATURES_OK;
	if ((set & STATUS_DRIVER_OK) && !((v->status | set) & STATUS_FEATURES_OK)) {
		device_guest_error(&v->pci.device, "DRIVER_OK without FEATURES_OK");
		set &= ~STATUS_DRIVER_OK;
	}
	v->status |= set;
	if (!(set & STATUS_DRIVER_OK))
		return;
	v->ops->start(v);
	/* Buffers may have been made available before (3.1.1 allows it; no kick follows). */
	for (unsigned i = 0; i < v->queues; i++)
		virtqueue_run(&v->queue[i]);
}

/* ---- queues ---- */

/* Size and addresses: what a driver may have got wrong, and what a saved state may not hold. */
static bool queue_layout_good(const struct virtqueue *vq)
{
	bool packed = virtio_has(vq->dev, VIRTIO_F_RING_PACKED);
	unsigned parts_align = packed ? 4 : 2;

	if (!vq->size || vq->size > vq->max_size || (!packed && (vq->size & (vq->size - 1))))
		return false;
	return !(vq->desc % DESC_SIZE) && !(vq->driver % parts_align) && !(vq->device % 4) &&
	       vq->desc < UINT64_MAX - (1 << 20) && vq->driver < UINT64_MAX - (1 << 20) && vq->device < UINT64_MAX - (1 << 20);
}

void virtio_enable_queue(struct virtqueue *vq)
{
	struct virtio_dev *v = vq->dev;

	if (vq->enabled)
		return;
	if (!(v->status & STATUS_FEATURES_OK) ||
	    ((v->status & STATUS_DRIVER_OK) && !virtio_has(v, VIRTIO_F_RING_RESET))) {
		device_guest_error(&v->pci.device, "queue %u enabled with status 0x%02x", vq->index, v->status);
		return;
	}
	if (!queue_layout_good(vq)) {
		virtio_broken(v, "queue %u: %u entries at 0x%" PRIx64 ", 0x%" PRIx64 ", 0x%" PRIx64, vq->index, vq->size,
			      vq->desc, vq->driver, vq->device);
		return;
	}
	vq->enabled = true;
}

void virtio_reset_queue(struct virtqueue *vq)
{
	struct virtio_dev *v = vq->dev;

	if (!virtio_has(v, VIRTIO_F_RING_RESET) || !vq->enabled) {
		device_guest_error(&v->pci.device, "queue %u: reset of a queue that is not enabled", vq->index);
		return;
	}
	vq->enabled = false;
	v->ops->quiesce(v);
	queue_init(vq);
}

/* ---- the machine's side ---- */

void virtio_reset(struct virtio_dev *v)
{
	device_reset(v);
	v->config_generation = 0;
	pci_dev_reset(&v->pci);
	virtio_pci_reset(v);
}

static void queue_state(struct virtqueue *vq, struct state *s)
{
	state_u16(s, "size", &vq->size);
	state_u16(s, "vector", &vq->vector);
	state_bool(s, "enabled", &vq->enabled);
	state_u64(s, "desc", &vq->desc);
	state_u64(s, "driver", &vq->driver);
	state_u64(s, "device", &vq->device);
	state_u16(s, "next_avail", &vq->next_avail);
	state_u16(s, "next_used", &vq->next_used);
	state_bool(s, "avail_wrap", &vq->avail_wrap);
	state_bool(s, "used_wrap", &vq->used_wrap);
	if (!state_loading(s) || state_error(s))
		return;
	vq->signalled_valid = vq->pushed = false;
	vq->in_flight = 0;
	vq->budget = VIRTQ_NO_BUDGET;
	/* Buffers that were being worked on, or left over, are looked for again. */
	vq->left_over = vq->enabled;
	if (!vq->size || vq->size > vq->max_size || (vq->enabled && !queue_layout_good(vq)))
		state_fail(s, "queue %u: impossible layout", vq->index);
	if (virtio_has(vq->dev, VIRTIO_F_RING_PACKED) && (vq->next_avail >= vq->size || vq->next_used >= vq->size))
		state_fail(s, "queue %u: position beyond the ring", vq->index);
}

int virtio_state(struct virtio_dev *v, struct state *s)
{
	v->ops->quiesce(v);
	pci_dev_state(&v->pci, s);
	state_u64(s, "features", &v->features);
	state_u8(s, "status", &v->status);
	state_u8(s, "isr", &v->isr);
	state_u8(s, "generation", &v->config_generation);
	state_u16(s, "config_vector", &v->config_vector);
	state_u16(s, "queue_select", &v->queue_select);
	state_u32(s, "device_feature_select", &v->device_feature_select);
	state_u32(s, "driver_feature_select", &v->driver_feature_select);
	if (state_loading(s) && !state_error(s) && (v->status & STATUS_FEATURES_OK) && (v->features & ~v->offered))
		state_fail(s, "features 0x%" PRIx64 " are not offered here", v->features & ~v->offered);
	for (unsigned i = 0; i < v->queues; i++)
		queue_state(&v->queue[i], s);
	if (!state_loading(s))
		return state_error(s);
	if (state_error(s))
		device_reset(v);
	else if (v->status & STATUS_DRIVER_OK)
		timer_arm(v->later, clock_now(v->clock));
	return state_error(s);
}
