/* A virtio disk (virtio 1.2, 5.2) on an image: flush, discard, write zeroes, several queues. */
#ifndef DEV_VIRTIO_BLK_H
#define DEV_VIRTIO_BLK_H

#include "block/blk.h"
#include "bus/device.h"
#include "bus/pci.h"
#include "host/clock.h"

struct virtio_blk;

/* `id` names the instance and is the serial number the guest reads (20 bytes at most); it must
 * outlive the device, as must blk. NULL when devfn is taken. */
struct virtio_blk *virtio_blk_create(struct pci_bus *bus, unsigned devfn, struct clock *clock, struct blk *blk,
				     const char *id, unsigned queues);
struct device *virtio_blk_device(struct virtio_blk *b);
/* The image's size has changed: tells the driver. */
void virtio_blk_resized(struct virtio_blk *b);

#endif
