/*
 * What all packet back ends have in common: link state, software offload, frames that wait for the
 * card, capture; and the memory back end of the tests.
 */
#include "net/netdev.h"

#include <gio/gio.h>
#include <string.h>

#include "net/backend.h"
#include "net/pcap.h"

#define WAITING_MAX (512 * 1024)

struct frame {
	struct net_offload offload;
	uint32_t len;
	uint8_t data[];
};

static const struct net_offload plain;

/* ---- from the back end to the card ---- */

static void deliver(struct netdev *nd, const uint8_t *frame, size_t len, const struct net_offload *o)
{
	nd->stats.rx_frames++;
	nd->stats.rx_bytes += len;
	nd->client.receive(nd->client.opaque, frame, len, o);
}

static void keep(struct netdev *nd, const uint8_t *frame, size_t len, const struct net_offload *o)
{
	struct frame *f;

	if (nd->waiting_bytes + len > WAITING_MAX + NETDEV_MAX_FRAME) {
		nd->stats.rx_dropped++;
		return;
	}
	f = g_malloc(sizeof(*f) + len);
	f->offload = *o;
	f->len = (uint32_t)len;
	memcpy(f->data, frame, len);
	nd->waiting_bytes += len;
	g_queue_push_tail(&nd->waiting, f);
}

static void input_ready(struct netdev *nd, const uint8_t *frame, size_t len, const struct net_offload *o)
{
	if (nd->capture)
		capture_frame(nd->capture, frame, len);
	if (!nd->attached || nd->link_down)
		nd->stats.rx_dropped++;
	else if (!nd->delivering && g_queue_is_empty(&nd->waiting) && nd->client.can_receive(nd->client.opaque))
		deliver(nd, frame, len, o);
	else
		keep(nd, frame, len, o);
}

static void input_segment(void *opaque, const uint8_t *segment, size_t len)
{
	const struct net_offload o = { .flags = NET_DATA_VALID };

	input_ready(opaque, segment, len, &o);
}

static bool accepted(const struct netdev *nd, const struct net_offload *o)
{
	unsigned gso = o->gso & ~NET_GSO_ECN;

	return (!(o->flags & NET_NEEDS_CSUM) || (nd->accepts & NET_ACCEPT_CSUM)) &&
	       (gso != NET_GSO_TCP4 || (nd->accepts & NET_ACCEPT_TSO4)) &&
	       (gso != NET_GSO_TCP6 || (nd->accepts & NET_ACCEPT_TSO6)) &&
	       (!(o->gso & NET_GSO_ECN) || (nd->accepts & NET_ACCEPT_ECN));
}

void netdev_input(struct netdev *nd, const uint8_t *frame, size_t len, const struct net_offload *offload)
{
	const struct net_offload *o = offload ? offload : &plain;

	if (len < 14 || len > NETDEV_MAX_FRAME || !net_offload_valid(o, len)) {
		nd->stats.rx_dropped++;
	} else if (accepted(nd, o)) {
		input_ready(nd, frame, len, o);
	} else if (o->gso) {
		g_autofree uint8_t *room = g_malloc(NETDEV_MAX_FRAME);

		if (!net_segment(frame, len, o, room, input_segment, nd))
			nd->stats.rx_dropped++;
	} else {
		g_autofree uint8_t *copy = g_memdup2(frame, len);

		net_checksum_fill(copy, len, o);
		input_segment(nd, copy, len);
	}
}

bool netdev_room(const struct netdev *nd)
{
	return nd->waiting_bytes < WAITING_MAX;
}

void netdev_accept_input(struct netdev *nd)
{
	bool was_full = !netdev_room(nd);

	/* The card may call this from inside its own receive. */
	if (nd->delivering)
		return;
	nd->delivering = true;
	while (nd->attached && !g_queue_is_empty(&nd->waiting) && nd->client.can_receive(nd->client.opaque)) {
		struct frame *f = g_queue_pop_head(&nd->waiting);

		nd->waiting_bytes -= f->len;
		/* What was kept may be more than the card takes since it was reset. */
		if (accepted(nd, &f->offload))
			deliver(nd, f->data, f->len, &f->offload);
		else
			nd->stats.rx_dropped++;
		g_free(f);
	}
	nd->delivering = false;
	if (was_full && netdev_room(nd))
		nd->ops->resume(nd);
}

static void waiting_drop(struct netdev *nd)
{
	bool was_full = !netdev_room(nd);

	nd->stats.rx_dropped += nd->waiting.length;
	g_queue_clear_full(&nd->waiting, g_free);
	nd->waiting_bytes = 0;
	if (was_full)
		nd->ops->resume(nd);
}

/* ---- from the card to the back end ---- */

static void send_linear(void *opaque, const uint8_t *frame, size_t len)
{
	struct netdev *nd = opaque;
	const struct iovec iov = { (void *)frame, len };

	nd->ops->send(nd, &iov, 1, len, &plain);
}

static uint8_t *linearize(struct netdev *nd, const struct iovec *iov, int count)
{
	size_t at = 0;

	if (!nd->scratch)
		nd->scratch = g_malloc(2 * NETDEV_MAX_FRAME);
	for (int i = 0; i < count; i++) {
		memcpy(nd->scratch + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	return nd->scratch;
}

bool netdev_send(struct netdev *nd, const struct iovec *iov, int count, const struct net_offload *offload)
{
	const struct net_offload *o = offload ? offload : &plain;
	bool by_hand;
	uint8_t *frame = NULL;
	size_t len = 0;

	for (int i = 0; i < count; i++) {
		len += iov[i].iov_len;
		if (len > NETDEV_MAX_FRAME)
			return false;
	}
	if (len < 14 || !net_offload_valid(o, len))
		return false;
	if (nd->link_down || !nd->ops->can_send(nd)) {
		nd->stats.tx_dropped++;
		return true;
	}
	nd->stats.tx_frames++;
	nd->stats.tx_bytes += len;
	by_hand = (o->flags & NET_NEEDS_CSUM) && !(nd->caps & NETDEV_CAN_CSUM);
	by_hand |= o->gso && !(nd->caps & NETDEV_CAN_TSO);
	if (by_hand || nd->capture)
		frame = linearize(nd, iov, count);
	if (nd->capture)
		capture_frame(nd->capture, frame, len);
	if (!by_hand) {
		nd->ops->send(nd, iov, count, len, o);
		return true;
	}
	if (o->gso && !(nd->caps & NETDEV_CAN_TSO))
		return net_segment(frame, len, o, frame + NETDEV_MAX_FRAME, send_linear, nd);
	net_checksum_fill(frame, len, o);
	send_linear(nd, frame, len);
	return true;
}

bool netdev_can_send(struct netdev *nd)
{
	bool can = nd->link_down || nd->ops->can_send(nd);

	nd->starved = !can;
	return can;
}

void netdev_sendable(struct netdev *nd)
{
	if (!nd->starved || !nd->attached)
		return;
	nd->starved = false;
	nd->client.can_send(nd->client.opaque);
}

/* ---- the rest of the contract ---- */

void netdev_attach(struct netdev *nd, const struct netdev_client *client)
{
	nd->attached = client != NULL;
	nd->client = client ? *client : (struct netdev_client){ 0 };
	nd->starved = false;
	netdev_set_accepts(nd, 0);
	waiting_drop(nd);
}

void netdev_set_accepts(struct netdev *nd, unsigned mask)
{
	if (nd->accepts == mask)
		return;
	nd->accepts = mask;
	nd->ops->set_accepts(nd, mask);
}

bool netdev_link(const struct netdev *nd)
{
	return !nd->link_down;
}

void netdev_set_link(struct netdev *nd, bool up)
{
	if (nd->link_down != up)
		return;
	nd->link_down = !up;
	if (!up)
		waiting_drop(nd);
	if (nd->attached)
		nd->client.link_changed(nd->client.opaque, up);
	netdev_sendable(nd);
}

const struct netdev_stats *netdev_stats(const struct netdev *nd)
{
	return &nd->stats;
}

const char *netdev_describe(const struct netdev *nd)
{
	return nd->description;
}

bool netdev_capture(struct netdev *nd, const char *path, GError **error)
{
	struct capture *c = capture_open(path, error);

	if (!c)
		return false;
	capture_close(nd->capture);
	nd->capture = c;
	return true;
}

struct netdev *netdev_open(const struct net_config *config, pthread_mutex_t *lock, GError **error)
{
	switch (config->kind) {
	case NET_USER: return user_create(config, lock, error);
	case NET_TAP: return tap_create(config, lock, error);
	case NET_SOCKET: return socket_create(config, lock, error);
	}
	g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED, "no such kind of network");
	return NULL;
}

static void nowhere_send(struct netdev *nd, const struct iovec *iov, int count, size_t len, const struct net_offload *o) { }
static bool nowhere_can_send(struct netdev *nd) { return true; }
static void nowhere_resume(struct netdev *nd) { }
static void nowhere_set_accepts(struct netdev *nd, unsigned mask) { }
static void nowhere_close(struct netdev *nd) { }

void netdev_stop(struct netdev *nd)
{
	static const struct netdev_ops nowhere = {
		"stopped", nowhere_send, nowhere_can_send, nowhere_resume, nowhere_set_accepts, nowhere_close,
	};

	vhost_close(nd->vhost);
	nd->vhost = NULL;
	nd->ops->close(nd);
	nd->ops = &nowhere;
}

void net_config_finish(struct net_config *c)
{
	g_free(c->target);
	g_strfreev(c->forwards);
	g_free(c->tftp);
	g_free(c->bootfile);
	g_free(c->hostname);
	*c = (struct net_config){ 0 };
}

void netdev_destroy(struct netdev *nd)
{
	if (!nd)
		return;
	netdev_stop(nd);
	g_queue_clear_full(&nd->waiting, g_free);
	capture_close(nd->capture);
	g_free(nd->scratch);
	g_free(nd->description);
	g_free(nd);
}

/* ---- memory ---- */

struct memory {
	struct netdev nd; /* must be first */
	void (*sent)(void *opaque, const uint8_t *frame, size_t len);
	void *opaque;
	bool blocked;
};

static void memory_send(struct netdev *nd, const struct iovec *iov, int count, size_t len, const struct net_offload *o)
{
	struct memory *m = (struct memory *)nd;
	g_autofree uint8_t *frame = g_malloc(len);
	size_t at = 0;

	for (int i = 0; i < count; i++) {
		memcpy(frame + at, iov[i].iov_base, iov[i].iov_len);
		at += iov[i].iov_len;
	}
	m->sent(m->opaque, frame, len);
}

static bool memory_can_send(struct netdev *nd) { return !((struct memory *)nd)->blocked; }
static const struct netdev_ops memory_ops = {
	"memory", memory_send, memory_can_send, nowhere_resume, nowhere_set_accepts, nowhere_close,
};

struct netdev *netdev_memory_new(void (*sent)(void *opaque, const uint8_t *frame, size_t len), void *opaque)
{
	struct memory *m = g_new0(struct memory, 1);

	m->nd.ops = &memory_ops;
	m->sent = sent;
	m->opaque = opaque;
	m->nd.description = g_strdup("memory");
	return &m->nd;
}

void netdev_memory_input(struct netdev *nd, const uint8_t *frame, size_t len)
{
	netdev_input(nd, frame, len, NULL);
}

void netdev_memory_block(struct netdev *nd, bool block)
{
	((struct memory *)nd)->blocked = block;
	if (!block)
		netdev_sendable(nd);
}
