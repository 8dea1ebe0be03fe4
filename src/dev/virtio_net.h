/* A virtio network card (virtio 1.2, 5.1): several queue pairs, offloads, merged buffers, filters. */
#ifndef DEV_VIRTIO_NET_H
#define DEV_VIRTIO_NET_H

#include "bus/device.h"
#include "bus/pci.h"
#include "host/clock.h"
#include "net/netdev.h"

#define VIRTIO_NET_MAX_PAIRS 8

struct virtio_net;

/* Plugs itself into nd, which must outlive it; with vhost-net (net/vhost.h) it has one queue pair, and the kernel moves its frames. `mac` is copied; `id` is not and names the instance.
 * NULL when devfn is taken or there are too many pairs. */
struct virtio_net *virtio_net_create(struct pci_bus *bus, unsigned devfn, struct clock *clock, struct netdev *nd,
				     const uint8_t mac[6], unsigned pairs, const char *id);
/* Tells why the kernel refused to move the card's frames, once; the card goes on without it. */
void virtio_net_on_refusal(struct virtio_net *n, void (*told)(void *opaque, const char *why), void *opaque);
struct device *virtio_net_device(struct virtio_net *n);
struct pci_dev *virtio_net_pci(struct virtio_net *n);

#endif
