/*
 * Virtio network card: VIRTIO 1.2, 5.1. Frames go to and come from a packet back end, with what is left
 * to do about checksums and segmentation said in a header of 12 bytes.
 */
#include "dev/virtio_net.h"

#include <glib.h>
#include <string.h>

#include "base/bytes.h"
#include "dev/virtio_net_internal.h"
#include "net/vhost.h"

#define QUEUE_SIZE 256
#define HEADER_SIZE 12u

/* ---- offloads ---- */

static bool takes(const struct virtio_net *n, unsigned feature)
{
	return n->guest_offloads >> feature & 1;
}

void virtio_net_update_offloads(struct virtio_net *n)
{
	netdev_set_accepts(n->nd, (takes(n, VIRTIO_NET_F_GUEST_CSUM) ? NET_ACCEPT_CSUM : 0) |
				  (takes(n, VIRTIO_NET_F_GUEST_TSO4) ? NET_ACCEPT_TSO4 : 0) |
				  (takes(n, VIRTIO_NET_F_GUEST_TSO6) ? NET_ACCEPT_TSO6 : 0) |
				  (takes(n, VIRTIO_NET_F_GUEST_ECN) ? NET_ACCEPT_ECN : 0));
}

static void put_header(uint8_t *h, const struct net_offload *o, unsigned buffers)
{
	h[0] = o->flags;
	h[1] = o->gso;
	st16le(h + 2, o->header_len);
	st16le(h + 4, o->gso_size);
	st16le(h + 6, o->csum_start);
	st16le(h + 8, o->csum_offset);
	st16le(h + 10, (uint16_t)buffers);
}

/* What the driver wants done; false for what was not negotiated. */
static bool get_header(const struct virtio_net *n, const uint8_t *h, struct net_offload *o)
{
	*o = (struct net_offload){
		.flags = h[0] & VIRTIO_NET_HDR_F_NEEDS_CSUM, .gso = h[1], .header_len = ld16le(h + 2),
		.gso_size = ld16le(h + 4), .csum_start = ld16le(h + 6), .csum_offset = ld16le(h + 8),
	};
	if (o->flags && !virtio_has(&n->v, VIRTIO_NET_F_CSUM))
		return false;
	switch (o->gso & ~VIRTIO_NET_HDR_GSO_ECN) {
	case VIRTIO_NET_HDR_GSO_NONE: return !o->gso;
	case VIRTIO_NET_HDR_GSO_TCPV4: return virtio_has(&n->v, VIRTIO_NET_F_HOST_TSO4);
	case VIRTIO_NET_HDR_GSO_TCPV6: return virtio_has(&n->v, VIRTIO_NET_F_HOST_TSO6);
	default: return false;
	}
}

/* ---- flows ---- */

/* The same number for both directions of a flow: addresses and ports are added up. */
static unsigned flow_hash(const uint8_t *frame, size_t len)
{
	uint32_t sum = 0;
	unsigned header, protocol;

	if (len < 54)
		return 0;
	if (ld16be(frame + 12) == 0x0800) {
		sum = ld32be(frame + 26) + ld32be(frame + 30);
		header = 4u * (frame[14] & 15);
		protocol = frame[23];
	} else if (ld16be(frame + 12) == 0x86dd) {
		for (unsigned i = 22; i < 54; i += 4)
			sum += ld32be(frame + i);
		header = 40;
		protocol = frame[20];
	} else {
		return 0;
	}
	if ((protocol == 6 || protocol == 17) && 14 + header + 4 <= len)
		sum += ld16be(frame + 14 + header) + ld16be(frame + 16 + header);
	sum ^= sum >> 16;
	return (sum ^ sum >> 8) % NET_FLOWS;
}

/* ---- sending ---- */

static void send_frame(struct virtio_net *n, unsigned pair, const struct virtq_elem *e)
{
	struct iovec iov[VIRTQ_MAX_CHAIN];
	struct net_offload o;
	uint8_t h[HEADER_SIZE], start[128];
	unsigned count;

	if (virtq_copy_out(e->out, e->out_n, 0, h, sizeof(h)) < sizeof(h) || !get_header(n, h, &o)) {
		device_guest_error(&n->v.pci.device, "a frame with a bad header dropped");
		return;
	}
	if (n->active > 1) {
		size_t len = virtq_copy_out(e->out, e->out_n, HEADER_SIZE, start, sizeof(start));

		n->flow[flow_hash(start, len)] = (uint8_t)pair;
	}
	count = virtq_slice(e->out, e->out_n, HEADER_SIZE, e->out_len - HEADER_SIZE, iov);
	if (!netdev_send(n->nd, iov, (int)count, &o))
		device_guest_error(&n->v.pci.device, "a frame of %zu bytes refused", e->out_len - HEADER_SIZE);
}

static void transmit(struct virtio_net *n, struct virtqueue *vq)
{
	struct virtq_elem *e;

	while (netdev_can_send(n->nd) && (e = virtqueue_pop(vq))) {
		send_frame(n, vq->index / 2, e);
		virtqueue_push(vq, e, 0);
	}
	virtqueue_notify(vq);
}

static void can_send(void *opaque)
{
	struct virtio_net *n = opaque;

	for (unsigned i = 0; i < n->active && !n->vhost_running; i++)
		virtqueue_run(&n->v.queue[2 * i + 1]);
}

/* ---- receiving ---- */

/* Buffers for `len` bytes: one, or with merging several. When there are not enough, all are put back: 0, or
 * -1 when more would not help. */
static int take_buffers(struct virtio_net *n, struct virtqueue *vq, size_t len, struct virtq_elem **e)
{
	unsigned most = virtio_has(&n->v, VIRTIO_NET_F_MRG_RXBUF) ? vq->size : 1, count = 0;
	size_t room = 0;

	while (room < len && count < most) {
		e[count] = virtqueue_pop(vq);
		if (!e[count])
			break;
		room += e[count]->in_len;
		count++;
	}
	if (room >= len)
		return (int)count;
	for (unsigned i = count; i; i--)
		virtqueue_unpop(vq, e[i - 1]);
	return count == most ? -1 : 0;
}

/* False when the frame must wait for buffers; one that fits none is lost. */
static bool fill_buffers(struct virtio_net *n, struct virtqueue *vq, const uint8_t *frame, size_t len,
			 const struct net_offload *o)
{
	struct virtq_elem *e[QUEUE_SIZE];
	uint32_t written[QUEUE_SIZE];
	int count = take_buffers(n, vq, HEADER_SIZE + len, e);
	uint8_t h[HEADER_SIZE];
	size_t done = 0, at = 0;

	if (count <= 0) {
		if (count < 0)
			device_guest_error(&n->v.pci.device, "no buffers for a frame of %zu bytes", len);
		return count < 0;
	}
	put_header(h, o, (unsigned)count);
	for (int i = 0; i < count; i++) {
		size_t head = 0, body;

		/* The header may be cut as well. */
		if (done < HEADER_SIZE)
			head = virtq_copy_in(e[i]->in, e[i]->in_n, 0, h + done, HEADER_SIZE - done);
		body = virtq_copy_in(e[i]->in, e[i]->in_n, head, frame + at, len - at);
		done += head;
		at += body;
		written[i] = (uint32_t)(head + body);
	}
	virtqueue_push_all(vq, e, written, (unsigned)count);
	virtqueue_notify(vq);
	return true;
}

static struct virtqueue *receive_queue(struct virtio_net *n, const uint8_t *frame, size_t len)
{
	unsigned pair = n->active > 1 ? n->flow[flow_hash(frame, len)] : 0;

	return &n->v.queue[2 * (pair < n->active ? pair : 0)];
}

static bool can_receive(void *opaque)
{
	struct virtio_net *n = opaque;

	return virtio_running(&n->v) && !n->waiting_len && !n->vhost_running;
}

static void receive(void *opaque, const uint8_t *frame, size_t len, const struct net_offload *offload)
{
	struct virtio_net *n = opaque;
	struct net_offload o = *offload;

	if (!takes(n, VIRTIO_NET_F_GUEST_CSUM))
		o.flags &= (uint8_t)~NET_DATA_VALID;
	if (!net_filter_accepts(n, frame, len) || fill_buffers(n, receive_queue(n, frame, len), frame, len, &o))
		return;
	memcpy(n->waiting, frame, len);
	n->waiting_len = len;
	n->waiting_offload = o;
}

/* The driver gave buffers. */
static void receive_more(struct virtio_net *n)
{
	if (n->waiting_len) {
		struct virtqueue *vq = receive_queue(n, n->waiting, n->waiting_len);

		if (!fill_buffers(n, vq, n->waiting, n->waiting_len, &n->waiting_offload))
			return;
		n->waiting_len = 0;
	}
	netdev_accept_input(n->nd);
}

/* ---- life ---- */

/* Receive and transmit queues take turns; control comes last, and that depends on what was agreed (5.1.2). */
static void net_queue(struct virtio_dev *v, struct virtqueue *vq)
{
	struct virtio_net *n = (struct virtio_net *)v;
	unsigned control = virtio_has(v, VIRTIO_NET_F_MQ) ? 2u * n->pairs : 2;

	virtio_net_vhost_sync(n);
	if (vq->index == control)
		virtio_net_control(n, vq);
	else if (vq->index > control || vq->index / 2 >= n->active)
		return;
	else if (n->vhost_running)
		virtio_net_vhost_kick(n, vq->index);
	else if (vq->index & 1)
		transmit(n, vq);
	else
		receive_more(n);
}

static void net_quiesce(struct virtio_dev *v)
{
	virtio_net_vhost_stop((struct virtio_net *)v);
}

static void net_virtio_reset(struct virtio_dev *v)
{
	struct virtio_net *n = (struct virtio_net *)v;

	memcpy(n->config.mac, n->mac, 6);
	net_filter_reset(&n->filter, n->mac);
	n->config.status &= (uint16_t)~VIRTIO_NET_S_ANNOUNCE;
	n->active = 1;
	n->guest_offloads = 0;
	n->waiting_len = 0;
	memset(n->flow, 0, sizeof(n->flow));
	virtio_net_update_offloads(n);
}

static void net_start(struct virtio_dev *v)
{
	struct virtio_net *n = (struct virtio_net *)v;

	n->guest_offloads = v->features & (VIRTIO_BIT(VIRTIO_NET_F_GUEST_CSUM) | VIRTIO_BIT(VIRTIO_NET_F_GUEST_TSO4) |
					   VIRTIO_BIT(VIRTIO_NET_F_GUEST_TSO6) | VIRTIO_BIT(VIRTIO_NET_F_GUEST_ECN));
	virtio_net_update_offloads(n);
}

static void net_config_write(struct virtio_dev *v, unsigned offset, unsigned len, uint32_t value)
{
	device_guest_error(&v->pci.device, "configuration 0x%x written", offset);
}

static const struct virtio_ops virtio_ops = { net_queue, net_quiesce, net_virtio_reset, net_start, net_config_write };

static void link_changed(void *opaque, bool up)
{
	struct virtio_net *n = opaque;

	if (up)
		n->config.status |= VIRTIO_NET_S_LINK_UP;
	else
		n->config.status &= (uint16_t)~VIRTIO_NET_S_LINK_UP;
	virtio_net_vhost_sync(n);
	virtio_config_changed(&n->v);
}

static void net_reset(struct device *d)
{
	virtio_reset((struct virtio_dev *)d);
}

static int net_state(struct device *d, struct state *s)
{
	struct virtio_net *n = (struct virtio_net *)d;
	bool up = n->config.status & VIRTIO_NET_S_LINK_UP;

	state_bytes(s, "config_mac", n->config.mac, sizeof(n->config.mac));
	state_u16(s, "active", &n->active);
	state_u64(s, "guest_offloads", &n->guest_offloads);
	state_bytes(s, "flow", n->flow, sizeof(n->flow));
	net_filter_state(&n->filter, s);
	if (state_loading(s) && !state_error(s) && (!n->active || n->active > n->pairs))
		state_fail(s, "%u queue pairs in use of %u", n->active, n->pairs);
	if (virtio_state(&n->v, s) || !state_loading(s)) {
		/* The rings were put right for saving. */
		virtio_net_vhost_sync(n);
		return state_error(s);
	}
	n->waiting_len = 0;
	virtio_net_update_offloads(n);
	/* The network must learn where the address is now (5.1.6.5.4). */
	if (virtio_has(&n->v, VIRTIO_NET_F_GUEST_ANNOUNCE) && up) {
		n->config.status |= VIRTIO_NET_S_ANNOUNCE;
		virtio_config_changed(&n->v);
	}
	return 0;
}

static void net_destroy(struct device *d)
{
	struct virtio_net *n = (struct virtio_net *)d;

	/* A machine that ends has stopped its back ends by now. */
	if (netdev_vhost(n->nd))
		virtio_net_vhost_stop(n);
	netdev_attach(n->nd, NULL);
	virtio_finish(&n->v);
	g_free(n->waiting);
	g_free(n);
}

static const struct device_ops ops = { "virtio-net", 1, net_reset, net_state, net_destroy };

static void nobody(void *opaque, const char *why)
{
}

static void set_config(struct virtio_net *n, const uint8_t mac[6], unsigned pairs)
{
	memcpy(n->mac, mac, 6);
	memcpy(n->config.mac, mac, 6);
	n->config.status = netdev_link(n->nd) ? VIRTIO_NET_S_LINK_UP : 0;
	n->config.max_virtqueue_pairs = (uint16_t)pairs;
	n->config.mtu = 1500;
	n->config.speed = 10000;
	n->config.duplex = 1;
	n->pairs = (uint16_t)pairs;
	n->active = 1;
	net_filter_reset(&n->filter, mac);
}

struct virtio_net *virtio_net_create(struct pci_bus *bus, unsigned devfn, struct clock *clock, struct netdev *nd,
				     const uint8_t mac[6], unsigned pairs, const char *id)
{
	static const uint8_t bits[] = {
		VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_MAC,
		VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_HOST_TSO4,
		VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS,
		VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_CTRL_RX, VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_RX_EXTRA,
		VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_SPEED_DUPLEX,
	};
	struct virtio_net *n;
	struct virtio_init init = {
		.device_ops = &ops, .ops = &virtio_ops, .id = id, .device_type = 1, .class_code = 0x020000,
		.queues = 2 * pairs + 1, .queue_size = QUEUE_SIZE,
	};
	const struct netdev_client client = { can_receive, receive, can_send, link_changed, NULL };
	struct netdev_client mine = client;

	if (!pairs || pairs > VIRTIO_NET_MAX_PAIRS)
		return NULL;
	n = g_new0(struct virtio_net, 1);
	n->nd = nd;
	set_config(n, mac, pairs);
	for (unsigned i = 0; i < sizeof(bits); i++)
		init.features |= VIRTIO_BIT(bits[i]);
	if (pairs > 1)
		init.features |= VIRTIO_BIT(VIRTIO_NET_F_MQ);
	init.config = &n->config;
	init.config_len = offsetof(struct virtio_net_config, rss_max_key_size);
	if (virtio_init(&n->v, bus, devfn, clock, &init)) {
		g_free(n);
		return NULL;
	}
	n->told_refusal = nobody;
	n->waiting = g_malloc(NETDEV_MAX_FRAME);
	mine.opaque = n;
	netdev_attach(nd, &mine);
	virtio_net_vhost_init(n);
	return n;
}

void virtio_net_on_refusal(struct virtio_net *n, void (*told)(void *opaque, const char *why), void *opaque)
{
	n->told_refusal = told;
	n->told_opaque = opaque;
}

struct device *virtio_net_device(struct virtio_net *n)
{
	return &n->v.pci.device;
}

struct pci_dev *virtio_net_pci(struct virtio_net *n)
{
	return &n->v.pci;
}
