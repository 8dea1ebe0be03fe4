/* Inside of the packet back ends: what each of them provides, and what netdev.c does for them. */
#ifndef NET_BACKEND_H
#define NET_BACKEND_H

#include "net/netdev.h"
#include "net/offload.h"

/* What a back end's send can take besides plain frames. */
enum netdev_caps {
	NETDEV_CAN_CSUM = 1 << 0, /* NET_NEEDS_CSUM */
	NETDEV_CAN_TSO = 1 << 1,  /* frames to be segmented; their checksums are done here unless it CAN_CSUM */
};

/* All mandatory. send, can_send, resume and set_accepts run with the VM lock held and never block. */
struct netdev_ops {
	const char *kind;
	/* `len` is the sum of iov. The frame is taken (copied or sent) on return. */
	void (*send)(struct netdev *nd, const struct iovec *iov, int count, size_t len, const struct net_offload *offload);
	bool (*can_send)(struct netdev *nd);
	/* netdev_room is true again: go on reading. */
	void (*resume)(struct netdev *nd);
	void (*set_accepts)(struct netdev *nd, unsigned mask);
	/* Ends threads (lock not held), closes and frees what is its own; called once. */
	void (*close)(struct netdev *nd);
};

struct capture;

/* Embedded first in every back end. */
struct netdev {
	const struct netdev_ops *ops;
	unsigned caps;
	pthread_mutex_t *lock;
	struct netdev_client client;
	bool attached, link_down, delivering, starved; /* starved: the client waits for can_send */
	unsigned accepts;
	struct netdev_stats stats;
	GQueue waiting; /* struct frame: what the client could not take yet */
	size_t waiting_bytes;
	uint8_t *scratch; /* NETDEV_MAX_FRAME bytes, on first use */
	struct capture *capture;
	char *description;
	struct vhost *vhost; /* tap: the kernel's way around this process, or NULL */
};

/* The following are for back ends' threads, with the VM lock held. */

/* A frame came in. */
void netdev_input(struct netdev *nd, const uint8_t *frame, size_t len, const struct net_offload *offload);
/* Whether more input will be kept; when false, stop reading until resume. */
bool netdev_room(const struct netdev *nd);
/* can_send is true again: tells the client if it waits for that. */
void netdev_sendable(struct netdev *nd);

/* The interface's descriptor, or -1 when the back end is no tap interface. */
int tap_fd(const struct netdev *nd);
/* The kernel moves the frames: nothing is read here. Lock held. */
void tap_bypass(struct netdev *nd, bool bypass);
/* Ends its thread; the lock is not held. NULL accepted. */
void vhost_close(struct vhost *v);

struct netdev *user_create(const struct net_config *config, pthread_mutex_t *lock, GError **error);
struct netdev *tap_create(const struct net_config *config, pthread_mutex_t *lock, GError **error);
struct netdev *socket_create(const struct net_config *config, pthread_mutex_t *lock, GError **error);

#endif
