/* Joins consecutive TCP segments of one connection into one big frame: what TCP segmentation offload
 * is to a sender, for a card that accepts such frames. */
#ifndef NET_MERGE_H
#define NET_MERGE_H

#include "net/netdev.h"
#include "net/offload.h"

struct net_merge {
	/* What comes out, in order: frames as they came, or joined ones with their offload. */
	void (*emit)(void *opaque, const uint8_t *frame, size_t len, const struct net_offload *offload);
	void *opaque;
	uint8_t *frame; /* being joined: NETDEV_MAX_FRAME bytes */
	size_t len;     /* 0: none */
	struct net_headers headers;
	uint32_t next;  /* sequence number that would continue it */
	uint16_t size;  /* payload of each segment but the last */
	unsigned segments;
	bool closed;    /* pushed, or shorter than `size`: nothing may follow */
};

void net_merge_init(struct net_merge *m, void (*emit)(void *opaque, const uint8_t *frame, size_t len, const struct net_offload *o),
		    void *opaque);
void net_merge_finish(struct net_merge *m);
/* A frame whose checksums are known to be right. `accepts` is the card's enum net_accepts. */
void net_merge_add(struct net_merge *m, const uint8_t *frame, size_t len, unsigned accepts);
/* The end of a batch: what is held goes out. */
void net_merge_flush(struct net_merge *m);

#endif
