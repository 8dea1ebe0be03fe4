/*
 * Packet back ends: what a network card is plugged into. A card sends Ethernet frames (without
 * FCS) with netdev_send and gets frames through its client's receive, always with the VM lock held.
 * Nothing here blocks: back ends do their system calls on their own threads or without waiting.
 */
#ifndef NET_NETDEV_H
#define NET_NETDEV_H

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* The largest frame in either direction: a 64 KiB segmentation offload with its headers. */
#define NETDEV_MAX_FRAME (65536 + 256)
#define NETDEV_MAX_IOV 64

struct netdev;

/* What is left to do, or known, about a frame; the meaning of virtio's header, in host order. */
enum net_flags {
	NET_NEEDS_CSUM = 1 << 0, /* sum from csum_start to the end, store at csum_start + csum_offset */
	NET_DATA_VALID = 1 << 1, /* the transport checksum is known to be right */
};

enum net_gso { NET_GSO_NONE = 0, NET_GSO_TCP4 = 1, NET_GSO_TCP6 = 4, NET_GSO_ECN = 0x80 };

struct net_offload {
	uint8_t flags; /* enum net_flags */
	uint8_t gso;   /* enum net_gso */
	uint16_t header_len, gso_size; /* bytes before the payload; payload bytes in each segment */
	uint16_t csum_start, csum_offset;
};

/* What a client takes in received frames. */
enum net_accepts {
	NET_ACCEPT_CSUM = 1 << 0, /* NET_NEEDS_CSUM */
	NET_ACCEPT_TSO4 = 1 << 1,
	NET_ACCEPT_TSO6 = 1 << 2,
	NET_ACCEPT_ECN = 1 << 3,
};

/* The card's side: every callback is mandatory and runs with the VM lock held. */
struct netdev_client {
	/* Whether it can take a frame now. When not, frames wait (and then get lost) until it calls
	 * netdev_accept_input. */
	bool (*can_receive)(void *opaque);
	/* One frame. `offload` is never NULL and holds nothing the client did not accept, but for NET_DATA_VALID. */
	void (*receive)(void *opaque, const uint8_t *frame, size_t len, const struct net_offload *offload);
	/* There is room for frames again after netdev_can_send said no. */
	void (*can_send)(void *opaque);
	void (*link_changed)(void *opaque, bool up);
	void *opaque;
};

/* Plugs the card in (client copied), or out with NULL. */
void netdev_attach(struct netdev *nd, const struct netdev_client *client);
/* Sends a frame gathered from iov. Any offload may be asked of any back end (NULL: none): what it
 * cannot do itself is done here. Longer than NETDEV_MAX_FRAME, or with offsets outside of the frame:
 * dropped, and false. Frames sent while the link is down or netdev_can_send is false get lost. */
bool netdev_send(struct netdev *nd, const struct iovec *iov, int count, const struct net_offload *offload);
/* Back pressure: when false, stop and go on in the client's can_send. */
bool netdev_can_send(struct netdev *nd);
/* The client can receive again: gives it what waits. */
void netdev_accept_input(struct netdev *nd);
/* `mask` of enum net_accepts; 0 at first. */
void netdev_set_accepts(struct netdev *nd, unsigned mask);

bool netdev_link(const struct netdev *nd);
void netdev_set_link(struct netdev *nd, bool up);

struct netdev_stats {
	uint64_t tx_frames, tx_bytes, rx_frames, rx_bytes;
	uint64_t tx_dropped, rx_dropped;
};
const struct netdev_stats *netdev_stats(const struct netdev *nd);
/* "user: 127.0.0.1:2222 -> guest port 22 (tcp)", "tap0", "socket /run/x (listening)": one line for people. */
const char *netdev_describe(const struct netdev *nd);

/* Writes every frame that passes to a pcap file (LINKTYPE_ETHERNET, nanoseconds). */
bool netdev_capture(struct netdev *nd, const char *path, GError **error);

enum net_kind { NET_USER, NET_TAP, NET_SOCKET };

/* Whether the kernel moves a tap interface's frames (net/vhost.h): AUTO where that is possible. */
enum net_vhost { NET_VHOST_AUTO, NET_VHOST_ON, NET_VHOST_OFF };

/* As the user asks for it; all strings are the owner's. */
struct net_config {
	enum net_kind kind;
	char *target;       /* tap: the interface; socket: the path */
	enum net_vhost vhost; /* tap */
	char **forwards;    /* user: "tcp:[ADDR:]PORT:GUESTPORT", NULL-terminated; may be NULL */
	bool restricted;    /* user: the guest reaches nothing but the forwards */
	char *tftp, *bootfile; /* user: served folder, and the file DHCP names */
	char *hostname;     /* user: what DHCP tells the guest it is called */
};

/* `lock` is the VM lock. */
struct netdev *netdev_open(const struct net_config *config, pthread_mutex_t *lock, GError **error);
/* Ends the back end's threads; after that frames go nowhere. The lock must not be held. */
void netdev_stop(struct netdev *nd);
/* Stops and frees; no card may be plugged in any more. NULL accepted. */
void netdev_destroy(struct netdev *nd);
/* Frees what it points to, not itself. */
void net_config_finish(struct net_config *c);
/* For tests: frames sent are handed to `sent`; what netdev_memory_input is given arrives. */
struct netdev *netdev_memory_new(void (*sent)(void *opaque, const uint8_t *frame, size_t len), void *opaque);
void netdev_memory_input(struct netdev *nd, const uint8_t *frame, size_t len);
/* A memory back end that takes no frames until told otherwise. */
void netdev_memory_block(struct netdev *nd, bool block);

/* Whether "tcp:2222:22" and the like is well-formed; says what is wrong. */
bool net_forward_check(const char *spec, GError **error);

#endif
