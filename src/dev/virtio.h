/*
 * Virtio 1.2 devices over PCI: what a device model (virtio_blk, virtio_rng ...) builds on. The core
 * keeps status, features and queues; virtio_pci.c shows them as registers; virtqueue*.c walk the
 * rings. All calls are made with the VM lock held.
 */
#ifndef DEV_VIRTIO_H
#define DEV_VIRTIO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "bus/pci.h"
#include "host/clock.h"

#define VIRTIO_MAX_QUEUES 64
#define VIRTQ_MAX_SIZE 1024
/* Descriptors in one buffer, and host pieces in one element: what does not fit is refused. */
#define VIRTQ_MAX_CHAIN 1024

#define VIRTIO_BIT(n) (UINT64_C(1) << (n))

struct virtio_dev;

struct virtqueue {
	struct virtio_dev *dev;
	uint16_t index;
	uint16_t max_size, size;
	uint16_t vector;
	bool enabled;
	uint64_t desc, driver, device; /* guest addresses of the three parts */
	uint16_t next_avail, next_used; /* split: running counts; packed: ring positions */
	bool avail_wrap, used_wrap;     /* packed: wrap counters */
	uint16_t signalled;             /* next_used at the last interrupt */
	bool signalled_valid;
	bool pushed;                    /* since the last look at the driver's wishes */
	uint16_t in_flight;             /* popped and not pushed */
	unsigned budget;                /* elements until the rest is put off */
	bool left_over;
};

struct virtq_span {
	uint64_t gpa;
	uint32_t len;
};

/* A guest buffer: reads (out) come before writes (in). The host pieces are good until pushed. */
struct virtq_elem {
	uint16_t id;    /* first descriptor, or the packed ring's buffer id */
	uint16_t slots; /* packed: ring positions taken */
	unsigned out_n, in_n;
	size_t out_len, in_len;
	struct iovec *out, *in;
	struct virtq_span *in_span; /* the guest addresses of `in` */
	unsigned in_spans;
};

struct virtio_ops {
	/* The driver made buffers available (or some were left over): pop until NULL. */
	void (*queue)(struct virtio_dev *v, struct virtqueue *vq);
	/* Push back or drop every element held: the rings are about to go, or to be saved. */
	void (*quiesce)(struct virtio_dev *v);
	/* Back to power-on; queues are quiet already. */
	void (*reset)(struct virtio_dev *v);
	/* The driver said DRIVER_OK; v->features are final. */
	void (*start)(struct virtio_dev *v);
	/* The driver writes `len` bytes of configuration, within config_len. */
	void (*config_write)(struct virtio_dev *v, unsigned offset, unsigned len, uint32_t value);
};

/* Embedded first in each device model. */
struct virtio_dev {
	struct pci_dev pci; /* must be first */
	const struct virtio_ops *ops;
	struct clock *clock;
	struct timer *later; /* runs what exceeded a kick's budget */
	uint64_t offered, features;
	uint8_t status, isr, config_generation;
	uint16_t config_vector, queue_select;
	uint32_t device_feature_select, driver_feature_select;
	void *config; /* the device model's structure */
	unsigned config_len;
	unsigned queues;
	struct virtqueue *queue;
	unsigned pci_cfg; /* where the configuration access capability is */
};

struct virtio_init {
	const struct device_ops *device_ops;
	const struct virtio_ops *ops;
	const char *id;       /* instance name, copied pointer */
	uint16_t device_type; /* virtio device number: PCI device id is 0x1040 + it */
	uint32_t class_code;
	uint64_t features;    /* the device's own; the ring features are added */
	void *config;
	unsigned config_len;
	unsigned queues;
	uint16_t queue_size; /* maximum; a power of two */
};

/* Plugs the device in. -EEXIST when devfn is taken, -EINVAL for too many queues. */
int virtio_init(struct virtio_dev *v, struct pci_bus *bus, unsigned devfn, struct clock *clock, const struct virtio_init *i);
/* Unplugs; the device model's elements must have been dropped. */
void virtio_finish(struct virtio_dev *v);
/* The device_ops parts that every model calls first. virtio_reset also calls ops->reset. */
void virtio_reset(struct virtio_dev *v);
int virtio_state(struct virtio_dev *v, struct state *s);

static inline bool virtio_has(const struct virtio_dev *v, unsigned feature) { return v->features >> feature & 1; }
/* DRIVER_OK is set and nothing is broken. */
bool virtio_running(const struct virtio_dev *v);
/* The model changed its configuration structure: new generation and an interrupt. */
void virtio_config_changed(struct virtio_dev *v);
/* The driver broke the protocol: DEVICE_NEEDS_RESET; nothing moves until it resets the device. */
void virtio_broken(struct virtio_dev *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- queues ---- */

/* Dispatches the queue to ops->queue with a fresh budget; does nothing unless it is live. */
void virtqueue_run(struct virtqueue *vq);
/* The next buffer, or NULL when there is none (the driver will kick), the budget is used up (the
 * queue runs again soon) or the device is broken. */
struct virtq_elem *virtqueue_pop(struct virtqueue *vq);
/* Gives the buffer back with `written` bytes of `in` filled, and frees it. */
void virtqueue_push(struct virtqueue *vq, struct virtq_elem *e, uint32_t written);
/* Gives several back so that the driver sees all or none. */
void virtqueue_push_all(struct virtqueue *vq, struct virtq_elem **e, const uint32_t *written, unsigned n);
/* Puts the buffer popped last back, to be popped again. */
void virtqueue_unpop(struct virtqueue *vq, struct virtq_elem *e);
/* Frees it without giving it back (reset). */
void virtqueue_drop(struct virtqueue *vq, struct virtq_elem *e);
/* Whether a buffer waits; asks for a kick when not. */
bool virtqueue_ready(struct virtqueue *vq);
/* Interrupts the driver if it wants to know of what was pushed since the last time. */
void virtqueue_notify(struct virtqueue *vq);

/* Someone else works on a split ring (vhost-net): a request to interrupt the driver, and the place where it has stopped,
 * having given everything before back. */
void virtqueue_interrupt(struct virtqueue *vq);
void virtqueue_moved(struct virtqueue *vq, uint16_t next_avail);
/* Where the driver kicks the queue; 0 while the registers are nowhere. */
uint64_t virtio_notify_address(const struct virtio_dev *v, unsigned queue);

/* Copies an element's pieces out to a buffer, or a buffer in; returns the bytes there were. */
size_t virtq_copy_out(const struct iovec *iov, unsigned n, size_t offset, void *buf, size_t len);
size_t virtq_copy_in(const struct iovec *iov, unsigned n, size_t offset, const void *buf, size_t len);
/* The pieces of [offset, offset + len) of iov; returns their count, at most n. */
unsigned virtq_slice(const struct iovec *iov, unsigned n, size_t offset, size_t len, struct iovec *to);

#endif
