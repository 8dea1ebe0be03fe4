/* The virtio network card's control queue and receive filters: VIRTIO 1.2, 5.1.6.5. */
#include <glib.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/virtio_net_internal.h"

#define GUEST_OFFLOADS (VIRTIO_BIT(VIRTIO_NET_F_GUEST_CSUM) | VIRTIO_BIT(VIRTIO_NET_F_GUEST_TSO4) | \
			VIRTIO_BIT(VIRTIO_NET_F_GUEST_TSO6) | VIRTIO_BIT(VIRTIO_NET_F_GUEST_ECN))

/* ---- filters ---- */

/* Everything passes until the driver says what it wants. */
void net_filter_reset(struct net_filter *f, const uint8_t mac[6])
{
	*f = (struct net_filter){ .promiscuous = true };
	memcpy(f->mac, mac, 6);
}

static bool in_table(const struct net_filter *f, const uint8_t *mac, unsigned from, unsigned n)
{
	for (unsigned i = from; i < from + n; i++)
		if (!memcmp(f->table[i], mac, 6))
			return true;
	return false;
}

static bool vlan_accepted(const struct virtio_net *n, const uint8_t *frame, size_t len)
{
	unsigned id;

	if (!virtio_has(&n->v, VIRTIO_NET_F_CTRL_VLAN) || len < 16 || ld16be(frame + 12) != 0x8100)
		return true;
	id = ld16be(frame + 14) & 0xfff;
	return n->filter.vlans[id / 8] >> (id % 8) & 1;
}

bool net_filter_accepts(const struct virtio_net *n, const uint8_t *frame, size_t len)
{
	static const uint8_t broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	const struct net_filter *f = &n->filter;

	if (f->promiscuous)
		return true;
	if (!vlan_accepted(n, frame, len))
		return false;
	if (!memcmp(frame, broadcast, 6))
		return !f->no_broadcast;
	if (frame[0] & 1)
		return !f->no_multicast &&
		       (f->all_multicast || f->multicast_overflow || in_table(f, frame, f->unicasts, f->multicasts));
	if (f->no_unicast)
		return false;
	return f->all_unicast || f->unicast_overflow || !memcmp(frame, f->mac, 6) || in_table(f, frame, 0, f->unicasts);
}

void net_filter_state(struct net_filter *f, struct state *s)
{
	state_bytes(s, "mac", f->mac, sizeof(f->mac));
	state_bool(s, "promiscuous", &f->promiscuous);
	state_bool(s, "all_multicast", &f->all_multicast);
	state_bool(s, "all_unicast", &f->all_unicast);
	state_bool(s, "no_multicast", &f->no_multicast);
	state_bool(s, "no_unicast", &f->no_unicast);
	state_bool(s, "no_broadcast", &f->no_broadcast);
	state_bool(s, "unicast_overflow", &f->unicast_overflow);
	state_bool(s, "multicast_overflow", &f->multicast_overflow);
	state_u16(s, "unicasts", &f->unicasts);
	state_u16(s, "multicasts", &f->multicasts);
	state_bytes(s, "table", f->table, sizeof(f->table));
	state_bytes(s, "vlans", f->vlans, sizeof(f->vlans));
	if (state_loading(s) && !state_error(s) && f->unicasts + f->multicasts > NET_MACS)
		state_fail(s, "more addresses than the table holds");
}

/* ---- commands ---- */

struct command {
	uint8_t class, code;
	const struct virtq_elem *e;
	size_t at; /* of the data that has not been read yet */
};

static bool take(struct command *c, void *buf, size_t len)
{
	bool all = virtq_copy_out(c->e->out, c->e->out_n, c->at, buf, len) == len;

	c->at += len;
	return all;
}

static bool receive_mode(struct virtio_net *n, struct command *c)
{
	struct net_filter *f = &n->filter;
	bool *const modes[] = { &f->promiscuous, &f->all_multicast, &f->all_unicast, &f->no_multicast, &f->no_unicast,
				&f->no_broadcast };
	uint8_t on;

	if (c->code >= G_N_ELEMENTS(modes) || !take(c, &on, 1))
		return false;
	*modes[c->code] = on;
	return true;
}

/* One of the two lists: what does not fit turns the list into "all". */
static bool take_macs(struct command *c, struct net_filter *f, uint16_t *count, bool *overflow)
{
	unsigned room = NET_MACS - f->unicasts - f->multicasts, at = f->unicasts + f->multicasts;
	uint8_t le[4];
	uint32_t entries;

	if (!take(c, le, sizeof(le)))
		return false;
	entries = ld32le(le);
	if ((uint64_t)entries * 6 > c->e->out_len - MIN(c->at, c->e->out_len))
		return false;
	*overflow = entries > room;
	if (*overflow) {
		c->at += (size_t)entries * 6;
		return true;
	}
	for (uint32_t i = 0; i < entries; i++)
		if (!take(c, f->table[at + i], 6))
			return false;
	*count = (uint16_t)entries;
	return true;
}

static bool set_macs(struct virtio_net *n, struct command *c)
{
	struct net_filter f = n->filter;

	if (c->code == VIRTIO_NET_CTRL_MAC_ADDR_SET) {
		if (!take(c, f.mac, 6))
			return false;
		memcpy(n->config.mac, f.mac, 6);
		n->filter = f;
		return true;
	}
	if (c->code != VIRTIO_NET_CTRL_MAC_TABLE_SET)
		return false;
	f.unicasts = f.multicasts = 0;
	if (!take_macs(c, &f, &f.unicasts, &f.unicast_overflow) || !take_macs(c, &f, &f.multicasts, &f.multicast_overflow))
		return false;
	n->filter = f;
	return true;
}

static bool set_vlan(struct virtio_net *n, struct command *c)
{
	uint8_t le[2];
	unsigned id;

	if (c->code > VIRTIO_NET_CTRL_VLAN_DEL || !take(c, le, sizeof(le)))
		return false;
	id = ld16le(le);
	if (id >= 4096)
		return false;
	if (c->code == VIRTIO_NET_CTRL_VLAN_ADD)
		n->filter.vlans[id / 8] |= (uint8_t)(1 << (id % 8));
	else
		n->filter.vlans[id / 8] &= (uint8_t)~(1 << (id % 8));
	return true;
}

static bool announce(struct virtio_net *n, struct command *c)
{
	if (c->code != VIRTIO_NET_CTRL_ANNOUNCE_ACK || !(n->config.status & VIRTIO_NET_S_ANNOUNCE))
		return false;
	n->config.status &= (uint16_t)~VIRTIO_NET_S_ANNOUNCE;
	return true;
}

static bool set_pairs(struct virtio_net *n, struct command *c)
{
	uint8_t le[2];
	unsigned pairs;

	if (c->code != VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET || !virtio_has(&n->v, VIRTIO_NET_F_MQ) || !take(c, le, sizeof(le)))
		return false;
	pairs = ld16le(le);
	if (!pairs || pairs > n->pairs)
		return false;
	n->active = (uint16_t)pairs;
	return true;
}

static bool set_offloads(struct virtio_net *n, struct command *c)
{
	uint8_t le[8];
	uint64_t wanted;

	if (c->code != VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET || !take(c, le, sizeof(le)))
		return false;
	wanted = ld64le(le);
	if (wanted & ~(n->v.features & GUEST_OFFLOADS))
		return false;
	n->guest_offloads = wanted;
	virtio_net_update_offloads(n);
	return true;
}

static bool carry_out(struct virtio_net *n, const struct virtq_elem *e)
{
	struct command c = { .e = e };
	uint8_t head[2];

	if (!take(&c, head, sizeof(head)))
		return false;
	c.class = head[0];
	c.code = head[1];
	switch (c.class) {
	case VIRTIO_NET_CTRL_RX: return receive_mode(n, &c);
	case VIRTIO_NET_CTRL_MAC: return set_macs(n, &c);
	case VIRTIO_NET_CTRL_VLAN: return set_vlan(n, &c);
	case VIRTIO_NET_CTRL_ANNOUNCE: return announce(n, &c);
	case VIRTIO_NET_CTRL_MQ: return set_pairs(n, &c);
	case VIRTIO_NET_CTRL_GUEST_OFFLOADS: return set_offloads(n, &c);
	default: return false;
	}
}

void virtio_net_control(struct virtio_net *n, struct virtqueue *vq)
{
	struct virtq_elem *e;

	while ((e = virtqueue_pop(vq))) {
		uint8_t ack;

		if (!e->in_len) {
			virtio_broken(&n->v, "a command without room for its answer");
			virtqueue_drop(vq, e);
			return;
		}
		ack = carry_out(n, e) ? VIRTIO_NET_OK : VIRTIO_NET_ERR;
		if (ack == VIRTIO_NET_ERR)
			device_guest_error(&n->v.pci.device, "a command of %zu bytes was refused", e->out_len);
		virtqueue_push(vq, e, (uint32_t)virtq_copy_in(e->in, e->in_n, 0, &ack, 1));
	}
	virtqueue_notify(vq);
}
