/* Between the files of the virtio core: registers, rings, interrupts. */
#ifndef DEV_VIRTIO_INTERNAL_H
#define DEV_VIRTIO_INTERNAL_H

#include <limits.h>

#include "dev/virtio.h"

#define VIRTIO_NO_VECTOR 0xffff

/* Transport features (virtio 1.2, 6); the ring ones are offered by every device. */
#define VIRTIO_F_INDIRECT_DESC 28
#define VIRTIO_F_EVENT_IDX 29
#define VIRTIO_F_VERSION_1 32
#define VIRTIO_F_RING_PACKED 34
#define VIRTIO_F_RING_RESET 40

#define STATUS_ACKNOWLEDGE 0x01
#define STATUS_DRIVER 0x02
#define STATUS_DRIVER_OK 0x04
#define STATUS_FEATURES_OK 0x08
#define STATUS_NEEDS_RESET 0x40
#define STATUS_FAILED 0x80

#define VIRTQ_NO_BUDGET UINT_MAX

#define ISR_QUEUE 1
#define ISR_CONFIG 2

#define DESC_NEXT 1
#define DESC_WRITE 2
#define DESC_INDIRECT 4
#define DESC_SIZE 16

/* Collects one buffer's pieces while its descriptors are walked. */
struct virtq_walk {
	struct virtqueue *vq;
	unsigned descs; /* looked at so far */
	unsigned out_n, in_n, spans;
	size_t out_len, in_len;
	struct iovec iov[VIRTQ_MAX_CHAIN]; /* out, then in */
	struct virtq_span span[VIRTQ_MAX_CHAIN];
};

/* The status byte was written; 0 resets. */
void virtio_set_status(struct virtio_dev *v, uint8_t status);
void virtio_reset_queue(struct virtqueue *vq);
/* Checks the layout and makes the queue live. */
void virtio_enable_queue(struct virtqueue *vq);
/* Sets ISR bits or sends the MSI-X message. */
void virtio_interrupt(struct virtio_dev *v, uint16_t vector, uint8_t isr);

/* Registers (virtio_pci.c). */
int virtio_pci_init(struct virtio_dev *v);
void virtio_pci_reset(struct virtio_dev *v);

/* Walks (virtqueue.c): each returns false after virtio_broken. */
bool walk_add(struct virtq_walk *w, uint64_t gpa, uint32_t len, bool write);
struct virtq_elem *walk_finish(struct virtq_walk *w, uint16_t id);
bool virtq_read(struct virtqueue *vq, uint64_t gpa, void *buf, size_t len);
bool virtq_write(struct virtqueue *vq, uint64_t gpa, const void *buf, size_t len);

/* The packed ring (virtqueue_packed.c), with the same meaning as their virtqueue_ namesakes. */
bool packed_ready(struct virtqueue *vq);
struct virtq_elem *packed_pop(struct virtqueue *vq);
void packed_push_all(struct virtqueue *vq, struct virtq_elem **e, const uint32_t *written, unsigned n);
void packed_unpop(struct virtqueue *vq, const struct virtq_elem *e);
bool packed_wants_interrupt(struct virtqueue *vq);

#endif
