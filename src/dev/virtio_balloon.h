/* A virtio memory balloon (virtio 1.2, 5.5): memory on request, free pages by themselves, statistics. */
#ifndef DEV_VIRTIO_BALLOON_H
#define DEV_VIRTIO_BALLOON_H

#include "bus/device.h"
#include "bus/pci.h"
#include "host/clock.h"
#include "mem/mem.h"

struct virtio_balloon;

/* What a guest last told about its memory; UINT64_MAX: not told. Bytes, but for the faults. */
struct balloon_stats {
	uint64_t swap_in, swap_out, major_faults, minor_faults, free, total, available, caches, huge_allocations, huge_failures;
	int64_t when; /* virtual time, -1: never */
};

/* `ram` bytes are what the guest has without a balloon. `changed` (may be NULL) hears of the memory it has now.
 * NULL when devfn is taken. */
struct virtio_balloon *virtio_balloon_create(struct pci_bus *bus, unsigned devfn, struct clock *clock, struct mem *mem,
					     uint64_t ram, void (*changed)(void *opaque, uint64_t bytes), void *opaque);
struct device *virtio_balloon_device(struct virtio_balloon *b);

/* Asks the guest to live with this much, at most `ram`. */
void virtio_balloon_set_target(struct virtio_balloon *b, uint64_t bytes);
/* What it has now. */
uint64_t virtio_balloon_size(const struct virtio_balloon *b);
/* The last statistics; asks for new ones, at most every second. */
const struct balloon_stats *virtio_balloon_stats(struct virtio_balloon *b);
/* Bytes given back to the host so far: by the balloon, and by reports of free pages. */
uint64_t virtio_balloon_inflated(const struct virtio_balloon *b);
uint64_t virtio_balloon_reported(const struct virtio_balloon *b);

#endif
