/* A virtio entropy source (virtio 1.2, 5.4) fed by the host's getrandom, at a bounded rate. */
#ifndef DEV_VIRTIO_RNG_H
#define DEV_VIRTIO_RNG_H

#include "bus/device.h"
#include "bus/pci.h"
#include "host/clock.h"

struct virtio_rng;

/* NULL when devfn is taken. */
struct virtio_rng *virtio_rng_create(struct pci_bus *bus, unsigned devfn, struct clock *clock);
struct device *virtio_rng_device(struct virtio_rng *r);

#endif
