/*
 * Virtio's registers in a PCI BAR: common configuration, notification, ISR, device configuration,
 * and the window in configuration space. VIRTIO 1.2, 4.1; modern only, as every driver since 2014.
 */
#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/virtio_internal.h"

#define BAR_MSIX 1
#define BAR_REGS 4

#define PART_SIZE 0x1000u
#define NOTIFY_MULTIPLIER 4

/* In the BAR's order; cfg_type 1 to 4 (4.1.4). */
enum part { PART_COMMON, PART_ISR, PART_CONFIG, PART_NOTIFY, PARTS };

enum cfg_type { CFG_COMMON = 1, CFG_NOTIFY, CFG_ISR, CFG_DEVICE, CFG_PCI };

/* struct virtio_pci_common_cfg (4.1.4.3). */
enum common {
	C_DEVICE_FEATURE_SELECT = 0x00,
	C_DEVICE_FEATURE = 0x04,
	C_DRIVER_FEATURE_SELECT = 0x08,
	C_DRIVER_FEATURE = 0x0c,
	C_CONFIG_VECTOR = 0x10,
	C_NUM_QUEUES = 0x12,
	C_STATUS = 0x14,
	C_GENERATION = 0x15,
	C_QUEUE_SELECT = 0x16,
	C_QUEUE_SIZE = 0x18,
	C_QUEUE_VECTOR = 0x1a,
	C_QUEUE_ENABLE = 0x1c,
	C_QUEUE_NOTIFY_OFF = 0x1e,
	C_QUEUE_DESC = 0x20,
	C_QUEUE_DRIVER = 0x28,
	C_QUEUE_DEVICE = 0x30,
	C_QUEUE_NOTIFY_DATA = 0x38,
	C_QUEUE_RESET = 0x3a,
	C_SIZE = 0x3c,
};

/* Offsets in struct virtio_pci_cfg_cap (4.1.4.9). */
#define CAP_LEN 2
#define CAP_TYPE 3
#define CAP_BAR 4
#define CAP_OFFSET 8
#define CAP_LENGTH 12
#define CAP_DATA 16

static struct virtqueue *selected(struct virtio_dev *v)
{
	return v->queue_select < v->queues ? &v->queue[v->queue_select] : NULL;
}

/* ---- common configuration ---- */

static uint64_t queue_register(const struct virtqueue *vq, unsigned reg)
{
	switch (reg) {
	case C_QUEUE_SIZE: return vq->size;
	case C_QUEUE_VECTOR: return vq->vector;
	case C_QUEUE_ENABLE: return vq->enabled;
	case C_QUEUE_NOTIFY_OFF: return vq->index;
	case C_QUEUE_DESC: return (uint32_t)vq->desc;
	case C_QUEUE_DESC + 4: return vq->desc >> 32;
	case C_QUEUE_DRIVER: return (uint32_t)vq->driver;
	case C_QUEUE_DRIVER + 4: return vq->driver >> 32;
	case C_QUEUE_DEVICE: return (uint32_t)vq->device;
	case C_QUEUE_DEVICE + 4: return vq->device >> 32;
	case C_QUEUE_NOTIFY_DATA: return vq->index;
	default: return 0; /* a reset is done when its write returns */
	}
}

static uint32_t features_half(uint64_t features, uint32_t select)
{
	return select > 1 ? 0 : (uint32_t)(features >> 32 * select);
}

static uint64_t common_read(struct virtio_dev *v, unsigned reg)
{
	const struct virtqueue *vq = selected(v);

	switch (reg) {
	case C_DEVICE_FEATURE_SELECT: return v->device_feature_select;
	case C_DEVICE_FEATURE: return features_half(v->offered, v->device_feature_select);
	case C_DRIVER_FEATURE_SELECT: return v->driver_feature_select;
	case C_DRIVER_FEATURE: return features_half(v->features, v->driver_feature_select);
	case C_CONFIG_VECTOR: return v->config_vector;
	case C_NUM_QUEUES: return v->queues;
	case C_STATUS: return v->status;
	case C_GENERATION: return v->config_generation;
	case C_QUEUE_SELECT: return v->queue_select;
	default: return vq ? queue_register(vq, reg) : 0;
	}
}

static uint16_t checked_vector(struct virtio_dev *v, uint64_t vector)
{
	return vector <= v->queues ? (uint16_t)vector : VIRTIO_NO_VECTOR;
}

static void set_half(uint64_t *v, bool high, uint32_t half)
{
	*v = high ? (*v & UINT32_MAX) | (uint64_t)half << 32 : (*v & ~(uint64_t)UINT32_MAX) | half;
}

/* Size and addresses do not move under a live queue. */
static void queue_write(struct virtio_dev *v, struct virtqueue *vq, unsigned reg, uint32_t value)
{
	switch (reg) {
	case C_QUEUE_VECTOR:
		vq->vector = checked_vector(v, value);
		if (v->pci.vectors_changed)
			v->pci.vectors_changed(&v->pci);
		return;
	case C_QUEUE_RESET:
		if (value == 1)
			virtio_reset_queue(vq);
		return;
	case C_QUEUE_ENABLE:
		if (value == 1)
			virtio_enable_queue(vq);
		return;
	default:
		break;
	}
	if (vq->enabled) {
		device_guest_error(&v->pci.device, "queue %u: register 0x%02x written while enabled", vq->index, reg);
		return;
	}
	switch (reg) {
	case C_QUEUE_SIZE:
		if (value && value <= vq->max_size)
			vq->size = (uint16_t)value;
		else
			device_guest_error(&v->pci.device, "queue %u: %u entries asked for", vq->index, value);
		break;
	case C_QUEUE_DESC:
	case C_QUEUE_DESC + 4:
		set_half(&vq->desc, reg & 4, value);
		break;
	case C_QUEUE_DRIVER:
	case C_QUEUE_DRIVER + 4:
		set_half(&vq->driver, reg & 4, value);
		break;
	case C_QUEUE_DEVICE:
	case C_QUEUE_DEVICE + 4:
		set_half(&vq->device, reg & 4, value);
		break;
	}
}

static void common_write(struct virtio_dev *v, unsigned reg, uint32_t value)
{
	struct virtqueue *vq = selected(v);

	switch (reg) {
	case C_DEVICE_FEATURE_SELECT:
		v->device_feature_select = value;
		break;
	case C_DRIVER_FEATURE_SELECT:
		v->driver_feature_select = value;
		break;
	case C_DRIVER_FEATURE:
		if (v->status & STATUS_FEATURES_OK)
			device_guest_error(&v->pci.device, "features written after FEATURES_OK");
		else if (v->driver_feature_select <= 1)
			set_half(&v->features, v->driver_feature_select, value);
		break;
	case C_CONFIG_VECTOR:
		v->config_vector = checked_vector(v, value);
		break;
	case C_STATUS:
		virtio_set_status(v, (uint8_t)value);
		break;
	case C_QUEUE_SELECT:
		v->queue_select = (uint16_t)value;
		break;
	default:
		if (vq)
			queue_write(v, vq, reg, value);
		break;
	}
}

/* How wide the register at this offset is, or 0 where none begins. */
static unsigned common_width(unsigned reg)
{
	static const uint8_t width[C_SIZE] = {
		[C_DEVICE_FEATURE_SELECT] = 4, [C_DEVICE_FEATURE] = 4, [C_DRIVER_FEATURE_SELECT] = 4,
		[C_DRIVER_FEATURE] = 4, [C_CONFIG_VECTOR] = 2, [C_NUM_QUEUES] = 2, [C_STATUS] = 1,
		[C_GENERATION] = 1, [C_QUEUE_SELECT] = 2, [C_QUEUE_SIZE] = 2, [C_QUEUE_VECTOR] = 2,
		[C_QUEUE_ENABLE] = 2, [C_QUEUE_NOTIFY_OFF] = 2, [C_QUEUE_DESC] = 4, [C_QUEUE_DESC + 4] = 4,
		[C_QUEUE_DRIVER] = 4, [C_QUEUE_DRIVER + 4] = 4, [C_QUEUE_DEVICE] = 4, [C_QUEUE_DEVICE + 4] = 4,
		[C_QUEUE_NOTIFY_DATA] = 2, [C_QUEUE_RESET] = 2,
	};

	return reg < C_SIZE ? width[reg] : 0;
}

/* ---- the other parts ---- */

static uint64_t isr_read(struct virtio_dev *v)
{
	uint8_t isr = v->isr;

	v->isr = 0;
	pci_set_intx(&v->pci, false);
	return isr;
}

static uint64_t config_read(const struct virtio_dev *v, unsigned offset, unsigned len)
{
	uint8_t b[8] = { 0 };

	if (offset < v->config_len)
		memcpy(b, (const uint8_t *)v->config + offset, len < v->config_len - offset ? len : v->config_len - offset);
	return ld_le(b, len);
}

static uint64_t regs_read(void *opaque, uint64_t offset, unsigned len)
{
	struct virtio_dev *v = opaque;
	unsigned at = offset % PART_SIZE;

	switch (offset / PART_SIZE) {
	case PART_COMMON:
		/* A wider read than the register shows its neighbours too; a narrower one its low bytes. */
		if (len > common_width(at) && common_width(at))
			return common_read(v, at) | regs_read(v, at + common_width(at), len - common_width(at)) << 8 * common_width(at);
		return common_read(v, at) & mask_bytes(len);
	case PART_ISR:
		return at ? 0 : isr_read(v);
	case PART_CONFIG:
		return config_read(v, at, len);
	default:
		return 0;
	}
}

static void regs_write(void *opaque, uint64_t offset, unsigned len, uint64_t value)
{
	struct virtio_dev *v = opaque;
	unsigned at = offset % PART_SIZE;

	switch (offset / PART_SIZE) {
	case PART_COMMON:
		if (common_width(at) == len)
			common_write(v, at, (uint32_t)value);
		else
			device_guest_error(&v->pci.device, "common configuration 0x%02x written as %u bytes", at, len);
		break;
	case PART_CONFIG:
		if (at < v->config_len && len <= v->config_len - at)
			v->ops->config_write(v, at, len, (uint32_t)value);
		break;
	case PART_NOTIFY:
		if (at / NOTIFY_MULTIPLIER < v->queues)
			virtqueue_run(&v->queue[at / NOTIFY_MULTIPLIER]);
		break;
	}
}

static const struct region_ops regs_ops = { regs_read, regs_write, 1, 4 };

/* ---- the window in configuration space ---- */

/* Where and how wide the window looks, or a length of 0. */
static unsigned window(const struct virtio_dev *v, uint32_t *offset)
{
	const uint8_t *cap = &v->pci.config[v->pci_cfg];
	uint32_t len = ld32le(cap + CAP_LENGTH);

	*offset = ld32le(cap + CAP_OFFSET);
	if (cap[CAP_BAR] != BAR_REGS || (len != 1 && len != 2 && len != 4) || *offset % len ||
	    *offset >= PARTS * PART_SIZE)
		return 0;
	return len;
}

/* How many bytes at *at the access moves through the window; 0 where it moves none. */
static unsigned through_window(const struct virtio_dev *v, unsigned offset, unsigned len, uint32_t *at)
{
	bool touched = offset < v->pci_cfg + CAP_DATA + 4 && offset + len > v->pci_cfg + CAP_DATA;

	return touched ? window(v, at) : 0;
}

static void config_reading(struct pci_dev *p, unsigned offset, unsigned len)
{
	struct virtio_dev *v = (struct virtio_dev *)p;
	uint32_t at;
	unsigned width = through_window(v, offset, len, &at);

	if (width)
		st_le(&p->config[v->pci_cfg + CAP_DATA], width, regs_read(v, at, width));
}

static void config_written(struct pci_dev *p, unsigned offset, unsigned len)
{
	struct virtio_dev *v = (struct virtio_dev *)p;
	uint32_t at;
	unsigned width = through_window(v, offset, len, &at);

	if (width)
		regs_write(v, at, width, ld_le(&p->config[v->pci_cfg + CAP_DATA], width));
}

static int add_part(struct virtio_dev *v, enum cfg_type type, enum part part, uint32_t length, unsigned extra)
{
	int at = pci_add_capability(&v->pci, 0x09, (uint8_t)(16 + extra));
	uint8_t *cap;

	if (at < 0)
		return at;
	cap = &v->pci.config[at];
	cap[CAP_LEN] = (uint8_t)(16 + extra);
	cap[CAP_TYPE] = type;
	cap[CAP_BAR] = BAR_REGS;
	st32le(cap + CAP_OFFSET, part * PART_SIZE);
	st32le(cap + CAP_LENGTH, length);
	return at;
}

uint64_t virtio_notify_address(const struct virtio_dev *v, unsigned queue)
{
	const struct region *r = v->pci.bar[BAR_REGS].region;

	return region_mapped(r) ? region_base(r) + PART_NOTIFY * PART_SIZE + NOTIFY_MULTIPLIER * queue : 0;
}

int virtio_pci_init(struct virtio_dev *v)
{
	int at;

	if (pci_msix_init(&v->pci, BAR_MSIX, v->queues + 1) ||
	    add_part(v, CFG_COMMON, PART_COMMON, C_SIZE, 0) < 0 ||
	    add_part(v, CFG_ISR, PART_ISR, 1, 0) < 0 ||
	    add_part(v, CFG_DEVICE, PART_CONFIG, v->config_len ? v->config_len : 4, 0) < 0)
		return -ENOSPC;
	at = add_part(v, CFG_NOTIFY, PART_NOTIFY, v->queues * NOTIFY_MULTIPLIER, 4);
	if (at < 0)
		return at;
	st32le(&v->pci.config[at + 16], NOTIFY_MULTIPLIER);
	at = add_part(v, CFG_PCI, 0, 0, 4);
	if (at < 0)
		return at;
	v->pci_cfg = (unsigned)at;
	v->pci.config[at + CAP_BAR] = 0;
	v->pci.wmask[at + CAP_BAR] = 0xff;
	memset(&v->pci.wmask[at + CAP_OFFSET], 0xff, 12);
	v->pci.config_reading = config_reading;
	v->pci.config_written = config_written;
	pci_bar_mmio(&v->pci, BAR_REGS, "virtio", PARTS * PART_SIZE, false, false, &regs_ops, v);
	return 0;
}

void virtio_pci_reset(struct virtio_dev *v)
{
	uint8_t *cap = &v->pci.config[v->pci_cfg];

	cap[CAP_BAR] = 0;
	memset(cap + CAP_OFFSET, 0, 12);
}
