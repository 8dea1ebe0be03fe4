/* Joining is the exact inverse of cutting: net_segment on the result gives the segments back. */
#include "net/merge.h"

#include <string.h>

#include "base/bytes.h"

enum { TCP_PSH = 0x08, TCP_ACK = 0x10 };
/* So that the IP length of the whole still fits into 16 bits. */
#define JOINED_MAX 65000

static const struct net_offload valid = { .flags = NET_DATA_VALID };

void net_merge_init(struct net_merge *m, void (*emit)(void *opaque, const uint8_t *frame, size_t len, const struct net_offload *o),
		    void *opaque)
{
	*m = (struct net_merge){ .emit = emit, .opaque = opaque, .frame = g_malloc(NETDEV_MAX_FRAME) };
}

void net_merge_finish(struct net_merge *m)
{
	g_free(m->frame);
}

void net_merge_flush(struct net_merge *m)
{
	struct net_offload o = { .gso_size = m->size };

	if (!m->len)
		return;
	if (m->segments > 1 && net_tso_prepare(m->frame, m->len, &o))
		m->emit(m->opaque, m->frame, m->len, &o);
	else
		m->emit(m->opaque, m->frame, m->len, &valid);
	m->len = 0;
}

/* Data with nothing special about it, and no padding behind. */
static bool joinable(const uint8_t *frame, size_t len, struct net_headers *h, unsigned accepts)
{
	size_t end;

	if (!net_headers_find(frame, len, h) || h->protocol != 6 || h->payload >= len || len > JOINED_MAX)
		return false;
	if (!(accepts & NET_ACCEPT_CSUM) || !(accepts & (h->v6 ? NET_ACCEPT_TSO6 : NET_ACCEPT_TSO4)))
		return false;
	if ((frame[h->transport + 13] & ~TCP_PSH) != TCP_ACK || h->transport != h->ip + (h->v6 ? 40 : 20))
		return false;
	end = h->v6 ? h->ip + 40 + ld16be(frame + h->ip + 4) : h->ip + ld16be(frame + h->ip + 2);
	return end == len;
}

/* All but lengths, the IPv4 identification and checksums must agree; the sequence goes on. */
static bool continues(const struct net_merge *m, const uint8_t *frame, size_t len, const struct net_headers *h)
{
	const uint8_t *a = m->frame, *b = frame;
	size_t payload = len - h->payload, ip = h->ip, tcp = h->transport;

	if (!m->len || m->closed || h->ip != m->headers.ip || h->transport != m->headers.transport ||
	    h->payload != m->headers.payload || h->v6 != m->headers.v6 || payload > m->size || m->len + payload > JOINED_MAX)
		return false;
	if (ld32be(b + tcp + 4) != m->next || memcmp(a, b, ip))
		return false;
	if (h->v6 ? memcmp(a + ip, b + ip, 4) || memcmp(a + ip + 6, b + ip + 6, 34)
		  : memcmp(a + ip, b + ip, 2) || memcmp(a + ip + 6, b + ip + 6, 4) || memcmp(a + ip + 12, b + ip + 12, 8))
		return false;
	/* Ports, acknowledgement, data offset, window; options, if there are any. */
	return !memcmp(a + tcp, b + tcp, 4) && !memcmp(a + tcp + 8, b + tcp + 8, 5) && !memcmp(a + tcp + 14, b + tcp + 14, 2) &&
	       !memcmp(a + tcp + 18, b + tcp + 18, h->payload - tcp - 18);
}

void net_merge_add(struct net_merge *m, const uint8_t *frame, size_t len, unsigned accepts)
{
	struct net_headers h;
	size_t payload;

	if (!joinable(frame, len, &h, accepts)) {
		net_merge_flush(m);
		m->emit(m->opaque, frame, len, &valid);
		return;
	}
	payload = len - h.payload;
	if (continues(m, frame, len, &h)) {
		memcpy(m->frame + m->len, frame + h.payload, payload);
		m->len += payload;
		m->frame[h.transport + 13] |= frame[h.transport + 13] & TCP_PSH;
		m->segments++;
	} else {
		net_merge_flush(m);
		memcpy(m->frame, frame, len);
		m->len = len;
		m->headers = h;
		m->size = (uint16_t)payload;
		m->segments = 1;
		m->next = ld32be(frame + h.transport + 4);
		m->closed = false;
	}
	m->next += (uint32_t)payload;
	if (payload < m->size || (frame[h.transport + 13] & TCP_PSH))
		m->closed = true;
}
