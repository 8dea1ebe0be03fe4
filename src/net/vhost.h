/*
 * vhost-net: the host's kernel moves frames between the rings of a virtio card and a tap interface, without the
 * machine's process. Guest memory is written without marking pages dirty or telling an engine's code listener: only for
 * engines whose guests run on the processor itself. All calls are made with the VM lock held, unless said otherwise.
 */
#ifndef NET_VHOST_H
#define NET_VHOST_H

#include "mem/mem.h"
#include "net/netdev.h"

enum { VHOST_RX, VHOST_TX, VHOST_RINGS };

struct vhost;

/* A split ring: where its parts are in the guest's memory, and the next buffer to be taken. */
struct vhost_ring {
	uint64_t desc, driver, device;
	uint16_t size, next_avail;
};

/* Opens the kernel's device for a tap back end and gives it to that; netdev_stop ends it. The lock need not be held. */
bool vhost_open(struct netdev *nd, struct mem *mem, GError **error);
/* The back end's, or NULL. */
struct vhost *netdev_vhost(const struct netdev *nd);
/* Of `features` of a virtio network card, those that the rings can be driven with. */
uint64_t vhost_features(const struct vhost *v, uint64_t features);

/* The card's side, called with the lock held. */
struct vhost_client {
	void (*used)(void *opaque, unsigned ring);       /* the driver wants to hear of used buffers */
	void (*lost)(void *opaque, const char *why);     /* the kernel does not go on: vhost_stop must follow */
	void *opaque;
};

/* The kernel takes over. On failure nothing has changed. */
bool vhost_start(struct vhost *v, uint64_t features, const struct vhost_ring ring[VHOST_RINGS], const struct vhost_client *client,
		 GError **error);
/* The rings are ours again: every buffer before next_avail has been given back. */
void vhost_stop(struct vhost *v, uint16_t next_avail[VHOST_RINGS]);
/* Nothing is to move while the machine does not run; what was started goes on after. */
void vhost_pause(struct vhost *v, bool paused);
/* The guest's memory is laid out anew, but for slot `leaving`, which is about to go (MEM_MAX_SLOTS: none). */
void vhost_layout(struct vhost *v, unsigned leaving);
/* The driver made buffers available. */
void vhost_kick(struct vhost *v, unsigned ring);
/* An eventfd that does the same. */
int vhost_kick_fd(const struct vhost *v, unsigned ring);
/* The eventfd that the kernel signals for `used`; while somebody else reads it, `used` is not called for that ring. */
int vhost_call_fd(const struct vhost *v, unsigned ring);
void vhost_give_call(struct vhost *v, unsigned ring, bool given);

#endif
