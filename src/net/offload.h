/* Checksums and segmentation in software, for what a back end or a card cannot do itself. */
#ifndef NET_OFFLOAD_H
#define NET_OFFLOAD_H

#include "net/netdev.h"

/* Adds to a partial ones' complement sum. Only the last piece may have an odd length. */
uint32_t net_sum(uint32_t sum, const void *data, size_t len);
/* Folds and complements: the value to store big-endian. */
uint16_t net_sum_finish(uint32_t sum);

/* Whether the offsets and sizes lie inside of a frame of `len` bytes. */
bool net_offload_valid(const struct net_offload *o, size_t len);
/* Does what NET_NEEDS_CSUM asks, in place. */
void net_checksum_fill(uint8_t *frame, size_t len, const struct net_offload *o);

/* Where the headers of a TCP or UDP frame over IPv4 or IPv6 begin. */
struct net_headers {
	size_t ip, transport, payload; /* payload: end of the transport header */
	uint8_t protocol;              /* 6 or 17 */
	bool v6, fragment;
};
/* False for anything else, or cut short. VLAN tags and IPv6 extension headers are passed over. */
bool net_headers_find(const uint8_t *frame, size_t len, struct net_headers *h);

/* Makes a big TCP frame as a card gets it from its driver consistent: IP lengths and checksum, the
 * pseudo header's sum in the TCP checksum; fills all of *o but gso_size. False: not TCP. */
bool net_tso_prepare(uint8_t *frame, size_t len, struct net_offload *o);
/* Computes the IPv4 header's checksum, or the whole TCP or UDP checksum, in place. False when the frame
 * holds no such thing. */
bool net_ip_sum_fill(uint8_t *frame, size_t len);
bool net_transport_sum_fill(uint8_t *frame, size_t len);
/* Cuts a TCP frame into segments with complete checksums, each built in `room` (NETDEV_MAX_FRAME
 * bytes, not the frame's own). False, and nothing emitted, when it is not TCP. */
bool net_segment(const uint8_t *frame, size_t len, const struct net_offload *o, uint8_t *room,
		 void (*emit)(void *opaque, const uint8_t *segment, size_t len), void *opaque);

#endif
