/* Between the virtio network card's files: the card, and what it lets through. */
#ifndef DEV_VIRTIO_NET_INTERNAL_H
#define DEV_VIRTIO_NET_INTERNAL_H

#include <linux/virtio_net.h>

#include "dev/virtio.h"
#include "dev/virtio_net.h"

#define NET_MACS 64
#define NET_FLOWS 256

/* What the driver wants to receive. */
struct net_filter {
	uint8_t mac[6];
	bool promiscuous, all_multicast, all_unicast, no_multicast, no_unicast, no_broadcast;
	bool unicast_overflow, multicast_overflow; /* more addresses than fit: all of the kind */
	uint16_t unicasts, multicasts;
	uint8_t table[NET_MACS][6]; /* unicast, then multicast addresses */
	uint8_t vlans[4096 / 8];
};

struct virtio_net {
	struct virtio_dev v; /* must be first */
	struct virtio_net_config config;
	struct netdev *nd;
	uint8_t mac[6]; /* at power-on; config.mac is what the driver made of it */
	struct net_filter filter;
	uint64_t guest_offloads; /* of those negotiated, what the driver takes now */
	uint16_t pairs, active;  /* queue pairs there are, and in use */
	uint8_t flow[NET_FLOWS]; /* the pair that last sent for a hash: answers go there */
	/* A frame that found too few buffers waits here. */
	uint8_t *waiting;
	size_t waiting_len;
	struct net_offload waiting_offload;
	/* vhost-net (virtio_net_vhost.c): the kernel works on the first pair's rings. */
	bool vhost_running, vhost_refused;
	uint64_t doorbell[2]; /* where kicks go to the kernel at once; 0: nowhere */
	struct pci_message message[2]; /* what the kernel's calls are by themselves, if so */
	bool message_sent[2];
	void (*told_refusal)(void *opaque, const char *why);
	void *told_opaque;
	void (*core_config_written)(struct pci_dev *p, unsigned offset, unsigned len);
};

void net_filter_reset(struct net_filter *f, const uint8_t mac[6]);
bool net_filter_accepts(const struct virtio_net *n, const uint8_t *frame, size_t len);
void net_filter_state(struct net_filter *f, struct state *s);

/* Carries out what waits on the control queue. */
void virtio_net_control(struct virtio_net *n, struct virtqueue *vq);
/* Once the card is plugged in. */
void virtio_net_vhost_init(struct virtio_net *n);
/* Starts or stops the kernel's work, by the driver's and the link's doings. */
void virtio_net_vhost_sync(struct virtio_net *n);
/* The rings are ours until the next sync. */
void virtio_net_vhost_stop(struct virtio_net *n);
/* A kick that came by us. */
void virtio_net_vhost_kick(struct virtio_net *n, unsigned ring);
/* The back end learns what the driver takes. */
void virtio_net_update_offloads(struct virtio_net *n);

#endif
