/*
 * Checksums (RFC 1071) and TCP segmentation over IPv4 and IPv6. Frames come from guests: every
 * length is checked against the frame before it is used.
 */
#include "net/offload.h"

#include <string.h>

#include "base/bytes.h"

enum { ETH_IP4 = 0x0800, ETH_IP6 = 0x86dd, ETH_VLAN = 0x8100, ETH_QINQ = 0x88a8 };
enum { PROTO_TCP = 6, PROTO_UDP = 17 };
enum { TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_CWR = 0x80 };

uint32_t net_sum(uint32_t sum, const void *data, size_t len)
{
	const uint8_t *p = data;
	uint64_t s = sum;

	for (; len >= 4; len -= 4, p += 4)
		s += ld32be(p);
	if (len >= 2) {
		s += ld16be(p);
		p += 2;
		len -= 2;
	}
	if (len)
		s += (uint32_t)*p << 8;
	s = (s & 0xffffffff) + (s >> 32);
	s = (s & 0xffffffff) + (s >> 32);
	s = (s & 0xffff) + (s >> 16);
	return (uint32_t)((s & 0xffff) + (s >> 16));
}

uint16_t net_sum_finish(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

bool net_offload_valid(const struct net_offload *o, size_t len)
{
	unsigned gso = o->gso & ~NET_GSO_ECN;

	if ((o->flags & NET_NEEDS_CSUM) && (size_t)o->csum_start + o->csum_offset + 2 > len)
		return false;
	if (!gso)
		return !o->gso;
	return (gso == NET_GSO_TCP4 || gso == NET_GSO_TCP6) && o->gso_size && (o->flags & NET_NEEDS_CSUM);
}

void net_checksum_fill(uint8_t *frame, size_t len, const struct net_offload *o)
{
	uint16_t sum = net_sum_finish(net_sum(0, frame + o->csum_start, len - o->csum_start));

	/* 0 means "none" to UDP; the other zero is as good for TCP. */
	st16be(frame + o->csum_start + o->csum_offset, sum ? sum : 0xffff);
}

/* Passes over hop-by-hop, routing and destination options; false on anything cut short. */
static bool skip_extensions(const uint8_t *frame, size_t len, struct net_headers *h, uint8_t next)
{
	h->transport = h->ip + 40;
	for (unsigned i = 0; i < 8; i++) {
		if (next == 44) {
			h->fragment = true;
			return false;
		}
		if (next != 0 && next != 43 && next != 60) {
			h->protocol = next;
			return true;
		}
		if (h->transport + 8 > len)
			return false;
		next = frame[h->transport];
		h->transport += 8 + 8 * (size_t)frame[h->transport + 1];
	}
	return false;
}

bool net_headers_find(const uint8_t *frame, size_t len, struct net_headers *h)
{
	unsigned type;

	*h = (struct net_headers){ .ip = 14 };
	if (len < 14)
		return false;
	type = ld16be(frame + 12);
	for (unsigned tags = 0; tags < 2 && (type == ETH_VLAN || type == ETH_QINQ); tags++) {
		if (len < h->ip + 4)
			return false;
		type = ld16be(frame + h->ip + 2);
		h->ip += 4;
	}
	if (type == ETH_IP4 && len >= h->ip + 20 && frame[h->ip] >> 4 == 4) {
		h->transport = h->ip + 4u * (frame[h->ip] & 15);
		h->protocol = frame[h->ip + 9];
		h->fragment = (ld16be(frame + h->ip + 6) & 0x3fff) != 0;
		if (h->transport < h->ip + 20)
			return false;
	} else if (type == ETH_IP6 && len >= h->ip + 40 && frame[h->ip] >> 4 == 6) {
		h->v6 = true;
		if (!skip_extensions(frame, len, h, frame[h->ip + 6]))
			return false;
	} else {
		return false;
	}
	if (h->fragment)
		return false;
	if (h->protocol == PROTO_TCP && h->transport + 20 <= len) {
		h->payload = h->transport + 4u * (frame[h->transport + 12] >> 4);
		return h->payload >= h->transport + 20 && h->payload <= len;
	}
	h->payload = h->transport + 8;
	return h->protocol == PROTO_UDP && h->payload <= len;
}

/* The sum of the pseudo header for a transport part of `len` bytes. */
static uint32_t pseudo_sum(const uint8_t *frame, const struct net_headers *h, size_t len)
{
	uint32_t sum = h->v6 ? net_sum(0, frame + h->ip + 8, 32) : net_sum(0, frame + h->ip + 12, 8);

	return sum + h->protocol + (uint32_t)(len >> 16) + (uint32_t)(len & 0xffff);
}

/* Lengths and the IPv4 checksum for a frame of `len` bytes. */
static void ip_header_fix(uint8_t *frame, size_t len, const struct net_headers *h)
{
	uint8_t *ip = frame + h->ip;

	if (h->v6) {
		st16be(ip + 4, (uint16_t)(len - h->ip - 40));
		return;
	}
	st16be(ip + 2, (uint16_t)(len - h->ip));
	st16be(ip + 10, 0);
	st16be(ip + 10, net_sum_finish(net_sum(0, ip, h->transport - h->ip)));
}

bool net_ip_sum_fill(uint8_t *frame, size_t len)
{
	struct net_headers h;
	uint8_t *ip;

	/* Fragments and other protocols have a header to sum as well. */
	if (!net_headers_find(frame, len, &h) && (h.v6 || h.transport < h.ip + 20 || h.transport > len))
		return false;
	if (h.v6)
		return false;
	ip = frame + h.ip;
	st16be(ip + 10, 0);
	st16be(ip + 10, net_sum_finish(net_sum(0, ip, h.transport - h.ip)));
	return true;
}

bool net_transport_sum_fill(uint8_t *frame, size_t len)
{
	struct net_headers h;
	struct net_offload o;
	size_t end;

	if (!net_headers_find(frame, len, &h))
		return false;
	/* Padding behind the packet does not count. */
	end = h.v6 ? h.ip + 40 + ld16be(frame + h.ip + 4) : h.ip + ld16be(frame + h.ip + 2);
	if (end > len || end < h.payload || h.transport > UINT16_MAX)
		return false;
	o = (struct net_offload){ .csum_start = (uint16_t)h.transport, .csum_offset = h.protocol == PROTO_TCP ? 16 : 6 };
	st16be(frame + h.transport + o.csum_offset, (uint16_t)~net_sum_finish(pseudo_sum(frame, &h, end - h.transport)));
	net_checksum_fill(frame, end, &o);
	return true;
}

bool net_tso_prepare(uint8_t *frame, size_t len, struct net_offload *o)
{
	struct net_headers h;
	uint16_t gso_size = o->gso_size;

	if (!net_headers_find(frame, len, &h) || h.protocol != PROTO_TCP || len - h.ip > 0xffff + (h.v6 ? 40u : 0u))
		return false;
	ip_header_fix(frame, len, &h);
	st16be(frame + h.transport + 16, (uint16_t)~net_sum_finish(pseudo_sum(frame, &h, len - h.transport)));
	*o = (struct net_offload){
		.flags = NET_NEEDS_CSUM,
		.gso = h.v6 ? NET_GSO_TCP6 : NET_GSO_TCP4,
		.header_len = (uint16_t)h.payload,
		.gso_size = gso_size,
		.csum_start = (uint16_t)h.transport,
		.csum_offset = 16,
	};
	return true;
}

bool net_segment(const uint8_t *frame, size_t len, const struct net_offload *o, uint8_t *room,
		 void (*emit)(void *opaque, const uint8_t *segment, size_t len), void *opaque)
{
	struct net_headers h;
	uint32_t sequence;
	uint16_t id;
	uint8_t flags;

	if (!o->gso_size || !net_headers_find(frame, len, &h) || h.protocol != PROTO_TCP)
		return false;
	sequence = ld32be(frame + h.transport + 4);
	flags = frame[h.transport + 13];
	id = ld16be(frame + h.ip + 4);
	memcpy(room, frame, h.payload);
	for (size_t at = h.payload, n = 0; at < len || !n; n++) {
		size_t part = MIN(o->gso_size, len - at), total = h.payload + part;
		bool last = at + part == len;
		uint8_t *tcp = room + h.transport;

		memcpy(room + h.payload, frame + at, part);
		st32be(tcp + 4, sequence + (uint32_t)(at - h.payload));
		tcp[13] = (uint8_t)(flags & ~(last ? 0 : TCP_FIN | TCP_PSH) & ~(n ? TCP_CWR : 0));
		if (!h.v6)
			st16be(room + h.ip + 4, (uint16_t)(id + n));
		ip_header_fix(room, total, &h);
		st16be(tcp + 16, 0);
		st16be(tcp + 16, net_sum_finish(net_sum(pseudo_sum(room, &h, total - h.transport), tcp, total - h.transport)));
		emit(opaque, room, total);
		at += part;
		if (last)
			break;
	}
	return true;
}
